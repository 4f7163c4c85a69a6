# SPDX-License-Identifier: GPL-2.0-or-later
"""The variables of a script: which read a state that skipped commands would have changed, and what T, P and Lambda say.

`variable T equal temp` is a result of the user's dynamics and says nothing of the state wanted. The script keeps a variable of its own,
and what -var gives under this name is read beside the script.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lammps_bg.engine.library import Lammps
from lammps_bg.engine.script.left_out import SkippedCommand
from lammps_bg.engine.script.trace import file_token, references

Part = Literal["box", "positions", "results"]
"""What of a state a word of a formula reads: the cell, where the atoms are, or anything else that a run computes."""

# evaluated anew wherever they are used; other styles keep the value of their definition
FORMULAS = frozenset(("equal", "atom", "vector"))
# what a script may say of the state that is wanted
STATE_NAMES = ("T", "P", "Lambda")
# a -var variable outlives these styles; the others clash with it
OVERRIDABLE = frozenset(("index", "loop", "universe", "uloop", "world"))
# defined a second time, variables of these styles take the new value
REDEFINABLE = FORMULAS | {"string", "format", "getenv", "internal"}
_BOX_WORDS = """
    vol density lx ly lz xlo xhi ylo yhi zlo zhi xy xz yz avecx avecy avecz bvecx bvecy bvecz cvecx cvecy cvecz
    cella cellb cellc cellalpha cellbeta cellgamma
"""
_POSITION_WORDS = "x y z xu yu zu bound xcm gyration inertia rmask grmask omega"
_CONSTANT_WORDS = """
    atoms bonds angles dihedrals impropers dt xlat ylat zlat id type mol mass q radius diameter PI version yes no
    true false on off
"""
_RESULT_FUNCTION_WORDS = "vcm fcm ke angmom torque ramp stagger logfreq logfreq2 logfreq3 vdisplace swiggle cwiggle"
_BOX, _POSITIONS = frozenset(_BOX_WORDS.split()), frozenset(_POSITION_WORDS.split())
# no run changes them
_CONSTANT, _RESULT_FUNCTIONS = frozenset(_CONSTANT_WORDS.split()), frozenset(_RESULT_FUNCTION_WORDS.split())
# functions of names, not of formulas; no run changes what they tell
_OF_NAMES = re.compile(r"\b(?:count|mass|charge|is_\w+|extract_setting|label2type|next|gmask|py_\w+)\([^()]*\)")
_OF_GROUPS = re.compile(r"\b(bound|xcm|vcm|fcm|gyration|ke|angmom|torque|inertia|omega)\([^()]*\)")
_WORD = re.compile(r"(?<![\w.$])([A-Za-z_]\w*)\s*(\(?)")
_IMMEDIATE = re.compile(r"\$\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)")
_FORMAT = re.compile(r":%[^:]*$")
_SUBSTITUTED = re.compile(r"\$(?:\{(\w+)\}|(\w))")


@dataclass(frozen=True)
class StaleRead:
    """A value that a script takes from a state it never reached.

    Attributes:
        word: What was read, such as `lx` or `f_av`.
        variable: The variable whose formula reads it; empty where a command does so itself.
        style: Style of that variable, or nothing.
        file: Where it stands.
        line: Line number there.
        since: The skipped command that would have changed it.
    """

    word: str
    variable: str
    style: str
    file: Path
    line: int
    since: SkippedCommand


@dataclass(frozen=True)
class Definition:
    """The last definition of a variable.

    Attributes:
        style: Its style, as in the `variable` command.
        text: What follows the style, after substitution.
        command: The whole command as executed.
        file: Where it stands.
        line: Line number there.
        fixed: What a value substituted into it was read from, or nothing.
    """

    style: str
    text: str
    command: str
    file: Path
    line: int
    fixed: StaleRead | None = None

    def __str__(self) -> str:
        return f"`{' '.join(self.command.split())}` at {self.file.name} line {self.line}"


class StaleReads:
    """Knows what skipped commands would have changed, and follows the values that are read from it.

    Attributes:
        reshaped: The last skipped command that would have changed the cell of the present crystal.
    """

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}
        self._history: dict[str, list[Definition]] = {}
        self.crystal_is_new()

    def crystal_is_new(self) -> None:
        """Forget the skipped commands: `clear` undoes what they would have done, but for the variables that were fixed."""
        self.reshaped: SkippedCommand | None = None
        self._moved: SkippedCommand | None = None
        self._ran: SkippedCommand | None = None

    def skipped(self, command: SkippedCommand, *, moves: bool, reshapes: bool) -> None:
        """Take note of a skipped run, minimisation or the like."""
        self._ran = command
        self._moved = command if moves else self._moved
        self.reshaped = command if reshapes else self.reshaped

    @property
    def ran(self) -> bool:
        """Whether the present crystal has had a run, or something like it, that was skipped."""
        return self._ran is not None

    # ---- variables and files

    def definition(self, name: str) -> Definition | None:
        """The last definition of a variable by the script, also one that LAMMPS did not get."""
        return self._definitions.get(name)

    def history(self, name: str) -> list[Definition]:
        """All definitions of a variable by the script so far."""
        return list(self._history.get(name, []))

    def define(self, words: Sequence[str], raw: str, command: str, where: tuple[Path, int]) -> None:
        """Take note of a definition."""
        name, style, args = words[1], words[2], words[3:]
        if style == "delete":
            self._definitions.pop(name, None)
            return
        fixed = self.substituted(raw, where)
        if style in ("file", "atomfile") and fixed is None and args:
            fixed = self.made(file_token(os.path.normpath(args[0])))
        self._definitions[name] = Definition(style, " ".join(args), command, *where, fixed)
        self._history.setdefault(name, []).append(self._definitions[name])

    def restore(self, name: str, definition: Definition) -> None:
        """Take note that a variable has a former definition again."""
        self._definitions[name] = definition

    def make(self, token: str, raw: str, where: tuple[Path, int]) -> None:
        """Take note of a file that the script prints, or of a group of atoms."""
        fixed = self.used(raw, where) or self._of_variables((token,), ())
        if fixed is not None:
            self._definitions[token] = Definition("", "", raw, *where, fixed)

    # ---- questions

    def used(self, raw: str, where: tuple[Path, int]) -> StaleRead | None:
        """What a command takes from a state that was never reached, be it substituted or by `v_name`; nothing where it does not."""
        return self._immediate(raw, where) or self._of_variables(tuple(sorted(references(raw))), ())

    def substituted(self, raw: str, where: tuple[Path, int]) -> StaleRead | None:
        """The same of the values that LAMMPS writes into the command before it reads it."""
        names = [next(name for name in found if name) for found in _SUBSTITUTED.findall(raw)]
        return self._immediate(raw, where) or self._of_variables(names, ())

    def made(self, token: str) -> StaleRead | None:
        """The same of a file or a group that the script has made."""
        return self._of_variables((token,), ())

    def state_word(self, name: str) -> str:
        """A word by which the formula of a variable reads the state of the system, at whatever time; empty where it reads none."""
        return next((word for word, _, _ in self._state_words(name, ())), "")

    def _immediate(self, raw: str, where: tuple[Path, int]) -> StaleRead | None:
        """What the formulas in `$(...)` read."""
        for formula in _IMMEDIATE.findall(raw):
            formula = _FORMAT.sub("", formula)
            for word, part in reads(formula):
                if (since := self._since(part)) is not None:
                    return StaleRead(word, "", "", *where, since)
            if (found := self._of_variables(tuple(sorted(references(formula))), ())) is not None:
                return found
        return None

    def _of_variables(self, names: Sequence[str], seen: tuple[str, ...]) -> StaleRead | None:
        for name in names:
            definition = self._definitions.get(name)
            if definition is not None and definition.fixed is not None:
                return definition.fixed
            for word, part, owner in self._state_words(name, seen):
                source = self._definitions[owner]
                if source.fixed is not None:
                    return source.fixed
                if (since := self._since(part)) is not None:
                    return StaleRead(word, owner, source.style, source.file, source.line, since)
        return None

    def _state_words(self, name: str, seen: tuple[str, ...]) -> Iterator[tuple[str, Part, str]]:
        """Words of the formula of a variable, and of those in it, that read a state: the word, what it reads, whose formula it is."""
        definition = self._definitions.get(name)
        if definition is None or name in seen:
            return
        if definition.fixed is not None:
            yield definition.fixed.word, "results", name
        if definition.style == "format":
            yield from self._state_words(definition.text.split()[0] if definition.text else "", (*seen, name))
        if definition.style not in FORMULAS:
            return
        for word, part in reads(definition.text):
            yield word, part, name
        for inner in sorted(references(definition.text)):
            yield from self._state_words(inner, (*seen, name))

    def _since(self, part: Part) -> SkippedCommand | None:
        """The skipped command that would have changed a part of the state."""
        return {"box": self.reshaped, "positions": self._moved, "results": self._ran}[part]


def group_token(name: str) -> str:
    """What a group of atoms is called among the variables; no variable has a space in its name."""
    return f"group {name}"


def reads(formula: str) -> list[tuple[str, Part]]:
    """Words of a formula of LAMMPS that read a state, each with the part that it reads; variables in it are not followed."""
    found: list[tuple[str, Part]] = []
    for word, call in _WORD.findall(_OF_GROUPS.sub(r"\1()", _OF_NAMES.sub("", formula))):
        if word.startswith(("v_", "i_", "d_", "i2_", "d2_")) or word in _CONSTANT:
            continue
        if word in _BOX:
            found.append((word, "box"))
        elif word in _POSITIONS:
            found.append((word, "positions"))
        elif not call or word in _RESULT_FUNCTIONS or word[:2] in ("c_", "f_", "C_", "F_"):
            found.append((word, "results"))
    return found


# ---- T, P and Lambda


def own_value(stale: StaleReads, name: str, value: str | None) -> str | None:
    """The value that a script itself gives to one of `STATE_NAMES`, whose present value is given; nothing where it gives none."""
    definition = stale.definition(name)
    if value is None or definition is None:
        return value
    if stale.state_word(name):
        return None
    if definition.style in OVERRIDABLE or definition.style == "file":
        return value
    return value if value.strip()[:1] in tuple("+-.0123456789") else None


def clash(definition: Definition, name: str, lammps: Lammps) -> str:
    """Why a value by -var cannot replace the script's own definition of a variable, and what to do; LAMMPS evaluates formulas."""
    number = _number(definition, lammps)
    return (
        f"-var {name} cannot override `variable {name} {definition.style}`; write `variable {name} index {number}` in the script"
    )


def _number(definition: Definition, lammps: Lammps) -> str:
    """The number that a variable has by its definition, as a word for `variable NAME index`; `VALUE` where that is none."""
    text = os.environ.get(definition.text, "") if definition.style == "getenv" else definition.text
    if not is_number(text) and definition.style == "equal":
        try:
            text = f"{float(lammps.expand(f'$({text})')):.15g}"
        except Exception:  # LAMMPS raises plain Exception: it has no value here
            text = ""
    return text if is_number(text) else "VALUE"


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
