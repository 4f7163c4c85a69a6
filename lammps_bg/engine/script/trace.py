# SPDX-License-Identifier: GPL-2.0-or-later
"""What a script did, command by command as written: which variables and generated files each one used and made."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lammps_bg.engine.library import Lammps

Kind = Literal["variable", "file", "potential", "crystal", "control"]
Value = str | float

_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w))|\bv_(\w+)")
_QUOTED = re.compile(r'"""(?:.|\n)*?"""|"[^"]*"|\'[^\']*\'')


@dataclass(frozen=True)
class TracedCommand:
    """A command that was executed.

    Attributes:
        name: Its first word.
        raw: As written, before variables were substituted.
        text: As executed.
        file: The script file.
        line: Line number in it.
        kind: What it acts on; `control` decides which commands run.
        target: The variable or generated file it makes, or nothing.
        uses: Variables and generated files that it refers to itself.
        values: Values at that time of all variables that it depends on and that depend on no other.
        folder: The script's working directory at that time, from the one in which it starts.
    """

    name: str
    raw: str
    text: str
    file: Path
    line: int
    kind: Kind
    target: str
    uses: frozenset[str]
    values: Mapping[str, Value]
    folder: str = ""

    def __str__(self) -> str:
        return f"`{' '.join(self.raw.split())}` at {self.file.name} line {self.line}"


def file_token(name: str) -> str:
    """What a generated file is called among the variables; no variable has a space in its name."""
    return f"file {name}"


def references(text: str) -> frozenset[str]:
    """Variables that a command names by `$x`, `${x}` or `v_x`, in quotes or not."""
    return frozenset(next(name for name in found if name) for found in _REFERENCE.findall(text))


def unquoted(text: str) -> str:
    """A command without its quoted parts."""
    return _QUOTED.sub("", text)


def value_of(lammps: Lammps, name: str) -> Value | None:
    """Present value of a variable, or nothing where it has none or one per atom."""
    if not lammps.has_id("variable", name):
        return None
    try:
        value = lammps.extract_variable(name)
    except Exception:  # LAMMPS raises plain Exception: a formula without a value here
        return None
    return value if isinstance(value, str | float) else None


class Trace:
    """The commands of a script in the order in which they were executed, loops unrolled.

    Attributes:
        commands: The commands.
        folder: The script's present working directory, from the one in which it starts.
    """

    def __init__(self, lammps: Lammps) -> None:
        self.commands: list[TracedCommand] = []
        self.folder = ""
        self._lammps = lammps
        self._parts: dict[str, frozenset[str]] = {}  # of each variable, those it was defined from

    def add(
        self,
        kind: Kind,
        raw: str,
        text: str,
        where: tuple[Path, int],
        *,
        uses: Iterable[str] = (),
        target: str = "",
    ) -> None:
        """Remember a command.

        Args:
            kind: What it acts on.
            raw: As written.
            text: As executed.
            where: Its file and line.
            uses: What it uses.
            target: The variable or generated file it makes.
        """
        used = frozenset(uses)
        if kind == "variable":
            self._parts[target] = used
        values = {name: value for name in self._leaves(used) if (value := value_of(self._lammps, name)) is not None}
        self.commands.append(TracedCommand(text.split()[0], raw, text, *where, kind, target, used, values, self.folder))

    def _leaves(self, names: frozenset[str]) -> set[str]:
        """The variables behind these that were defined from no other."""
        leaves, seen, waiting = set[str](), set[str](), set(names)
        while waiting:
            name = waiting.pop()
            seen.add(name)
            parts = self._parts.get(name, frozenset())
            waiting |= parts - seen
            if not parts:
                leaves.add(name)
        return leaves

    def dependent(self, names: Iterable[str]) -> set[str]:
        """Variables and generated files made from some variables, these included."""
        found, size = set(names), 0
        while len(found) > size:
            size = len(found)
            found |= {command.target for command in self.commands if command.target and command.uses & found}
        return found

    def clear(self) -> None:
        """Forget what LAMMPS' `clear` undoes; variables and files outlive it."""
        self.commands = [command for command in self.commands if command.kind not in ("potential", "crystal")]
