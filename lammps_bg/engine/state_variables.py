# SPDX-License-Identifier: GPL-2.0-or-later
"""The variables T, P and Lambda of a script: which of them say what state is wanted, and which only have such a name.

`variable T equal temp` is a result of the user's dynamics and says nothing of the state. The script keeps a variable of its own, and
what -var gives under this name is read beside the script.
"""

import math
import os
from typing import TYPE_CHECKING, Any

from lammps_bg.engine import rules
from lammps_bg.engine.script_trace import TracedCommand
from lammps_bg.engine.stale_reads import Definition, StaleReads
from lammps_bg.errors import ScriptError

if TYPE_CHECKING:
    from lammps_bg.engine.guard import ScriptReader

NAMES = ("T", "P", "Lambda")
# a -var variable outlives these styles; the others clash with it
OVERRIDABLE = frozenset(("index", "loop", "universe", "uloop", "world"))


def own(stale: StaleReads, name: str, value: str | None) -> str | None:
    """The value that a script itself gives to one of these variables, or nothing where it gives none.

    Args:
        stale: What is known of the script's variables.
        name: The variable.
        value: Its present value.
    """
    definition = stale.definition(name)
    if value is None or definition is None:
        return value
    if stale.state_word(name):
        return None
    if definition.style in OVERRIDABLE or definition.style == "file":
        return value
    return value if value.strip()[:1] in tuple("+-.0123456789") else None


def number(definition: Definition, lammps: Any) -> str:  # noqa: ANN401
    """The number that a variable has by its definition, as a word for `variable NAME index`; `VALUE` where that is none.

    Args:
        definition: The definition.
        lammps: The library object, which evaluates formulas.
    """
    text = os.environ.get(definition.text, "") if definition.style == "getenv" else definition.text
    if not _is_number(text) and definition.style == "equal":
        try:
            text = f"{float(lammps.expand(f'$({text})')):.15g}"
        except Exception:  # LAMMPS raises plain Exception: it has no value here
            text = ""
    return text if _is_number(text) else "VALUE"


def clash(definition: Definition, name: str, lammps: Any) -> str:  # noqa: ANN401
    """Why a value by -var cannot replace the script's own, and what to do.

    Args:
        definition: The script's definition.
        name: The variable.
        lammps: The library object.
    """
    return (
        f"-var {name} cannot override `variable {name} {definition.style}`; write `variable {name} index {number(definition, lammps)}` "
        "in the script"
    )


def require_free(reader: "ScriptReader") -> None:
    """Refuse values by -var where the script's own variable of that name is a plain number, or makes the crystal.

    Args:
        reader: The guard that read the script.

    Raises:
        ScriptError: There is one.
    """
    for name in sorted(reader.set_aside):
        first, *others = reader.stale.history(name)
        place = f"{first.file.name} line {first.line}"
        if not others and _is_number(first.text) and first.style in ("equal", "string", "internal"):
            raise ScriptError(f"{place}: {clash(first, name, reader.lammps)}")
        if (user := _user(reader, name)) is None:
            continue
        if reader.stale.state_word(name):
            raise ScriptError(
                f"{place}: expected -var {name} for a variable that the script leaves free, got {user}, which depends on its own {first}; "
                f"rename that variable in the script"
            )
        raise ScriptError(f"{place}: {clash(first, name, reader.lammps)}, since {user} depends on it")


def _user(reader: "ScriptReader", name: str) -> TracedCommand | None:
    """The first command that makes the crystal or its energy with a variable."""
    names = reader.trace.dependent([name])
    return next((command for command in reader.trace.commands if command.uses & names and _defines(reader, command)), None)


def _defines(reader: "ScriptReader", command: TracedCommand) -> bool:
    if command.name == "if":
        return any(reader.defines_crystal(part.split()) for part in reader.commands_of_if(command.raw))
    return command.kind in ("potential", "crystal") and command.name not in rules.FOLLOWING


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
