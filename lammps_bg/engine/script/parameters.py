# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters of a potential: index variables of a script whose value changes its potential and nothing else.

The commands that depend on a parameter are found in the trace of the script, and sent again with another value: the definitions
of variables made from it, the files printed with it, and all commands of the potential, in the order of the script.
"""

import math
import re
from collections.abc import Iterable, Mapping

from lammps_bg.engine.script.reader import ScriptReader
from lammps_bg.engine.script.text import quoted, split_words
from lammps_bg.engine.script.trace import Trace, TracedCommand, Value, value_of
from lammps_bg.engine.script.variables import REDEFINABLE
from lammps_bg.errors import ConfigError

_COEFFICIENTS = re.compile(r"^\s*\w[\w ]* Coeffs\b", re.MULTILINE)


def same(first: str, second: str) -> bool:
    """Whether two values of an index variable mean the same."""
    try:
        return float(first) == float(second)
    except ValueError:
        return first == second


def uses(trace: Trace, name: str) -> list[TracedCommand]:
    """The commands of the potential that depend on a variable, with what leads from it to them.

    Raises:
        ConfigError: It is no index variable, or not used in the potential alone.
    """
    styles = {_style(command) for command in trace.commands if command.target == name} - {"delete"}
    if other := sorted(styles - {"index"}):
        raise ConfigError(
            f"expected `{name}` to be a variable of style index, got `variable {name} {other[0]}`; write `variable {name} index VALUE`"
        )
    dependent = trace.dependent({name})
    found = [command for command in trace.commands if command.uses & dependent]
    for command in found:
        if command.kind in ("crystal", "control"):
            effect = "the crystal" if command.kind == "crystal" else "which commands of the script run"
            raise ConfigError(
                f"expected `{name}` to be a parameter of the potential alone, got {command}: it changes {effect}; "
                "use another variable there"
            )
    if not any(command.kind == "potential" for command in found):
        state = "the script never uses it in its potential" if styles else "the script has no such variable"
        raise ConfigError(
            f"expected `{name}` to be a parameter of the potential, but {state}; "
            f"write `variable {name} index VALUE` and use ${{{name}}} in pair_style or pair_coeff"
        )
    return found


def check_value(name: str, text: str) -> None:
    """Refuse what cannot be the value of any parameter.

    Raises:
        ConfigError: It is empty or not finite.
    """
    if not text.strip() or not _finite(text):
        raise ConfigError(f"expected a finite value of `{name}`, got '{text}'; give a number or one word")


def check(reader: ScriptReader, names: Iterable[str]) -> None:
    """Refuse variables that cannot be set after the script was read.

    Raises:
        ConfigError: One is no parameter of the potential alone, or the potential cannot be sent again.
    """
    names = set(names)
    for name in names:
        uses(reader.trace, name)
    _require_coefficients(reader)
    dependent = reader.trace.dependent(names)
    for command in _affected(reader.trace, dependent):
        for name, value in _context(command, dependent).items():
            present = value_of(reader.lammps, name)
            if command.uses & dependent and present is not None and present != value:
                raise ConfigError(
                    f"expected `{name}` to keep its value while the potential is defined, got {value} in {command} and {present} "
                    "after it; use two variables"
                )


def send(reader: ScriptReader, values: Mapping[str, str]) -> None:
    """Send what depends on some variables, and the whole potential, with new values of them."""
    lammps, trace = reader.lammps, reader.trace
    dependent, helpers = trace.dependent(values), set[str]()
    with reader.replaying():
        try:
            for name in _to_delete(trace, dependent):
                if lammps.has_id("variable", name):
                    lammps.command(f"variable {name} delete")
            for name, text in values.items():
                lammps.command(f"variable {name} index {quoted(text)}")
            for command in _affected(trace, dependent):
                anew = bool(command.uses & dependent) or command.kind != "potential"
                if anew:
                    helpers |= _recall(reader, _context(command, dependent), helpers)
                reader.repeat(command, anew=anew)
        finally:
            for name in helpers:
                lammps.command(f"variable {name} delete")


def _style(command: TracedCommand) -> str:
    return command.text.split()[2]


def _finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return True


def _affected(trace: Trace, dependent: set[str]) -> list[TracedCommand]:
    """What has to be sent again, in order."""
    return [command for command in trace.commands if command.kind == "potential" or command.target in dependent]


def _to_delete(trace: Trace, dependent: set[str]) -> set[str]:
    """Variables that would keep their value when defined again."""
    made = {
        command.target
        for command in trace.commands
        if command.kind == "variable" and _style(command) not in (*REDEFINABLE, "delete")
    }
    return dependent & made


def _context(command: TracedCommand, dependent: set[str]) -> dict[str, Value]:
    """Values of the other variables that a command depends on."""
    return {name: value for name, value in command.values.items() if name not in dependent}


def _recall(reader: ScriptReader, context: Mapping[str, Value], helpers: set[str]) -> set[str]:
    """Define the variables again that the script has deleted since, such as those of its loops; their names."""
    made = set()
    for name, value in context.items():
        if name in helpers or not reader.lammps.has_id("variable", name):
            text = quoted(value) if isinstance(value, str) else repr(value)
            if reader.lammps.has_id("variable", name):
                reader.lammps.command(f"variable {name} delete")
            reader.lammps.command(f"variable {name} {'string' if isinstance(value, str) else 'equal'} {text}")
            made.add(name)
    return made


def _require_coefficients(reader: ScriptReader) -> None:
    """Refuse coefficients that stand in a data or restart file: they would be lost with the pair style."""
    for command in reader.trace.commands:
        if command.name not in ("read_data", "read_restart"):
            continue
        with reader.files.within(command.folder):
            path = reader.files.find(split_words(command.text)[1].text, command.file.parent)
        if command.name == "read_restart" or (path and _COEFFICIENTS.search(path.read_text(errors="replace"))):
            raise ConfigError(
                f"expected the coefficients of the potential in the script, got {command} with coefficients of its own; "
                "write them as pair_coeff commands"
            )
