# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's script with a few lines more that bring the crystal into its relaxed cell, for plain LAMMPS, too."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import Relaxed
from lammps_bg.engine.script import rules
from lammps_bg.engine.script.text import quoted, read_lines

_MOVED = 1e-8  # in nearest-neighbour distances: less is rounding, and the script's own place is kept
_SQUARE = 1e-9  # tilts below this part of a box length are rounding
# commands of a script that come after structure and potential
_ACTS = rules.DYNAMICS | frozenset(
    (
        "dump",
        "velocity",
        "write_data",
        "write_dump",
        "write_restart",
        "write_coeff",
        "neb/spin",
        "temper/grem",
        "temper/npt",
        "quit",
    )
)


@dataclass(frozen=True)
class Place:
    """Where lines can be put into a script.

    Attributes:
        line: Number of lines before them.
        after_run: Whether the script may have moved atoms before, so that all positions have to be given.
    """

    line: int
    after_run: bool


def settled(relaxed: Relaxed, engine: Engine) -> Relaxed:
    """The relaxed crystal without rounding noise: tilts of zero, and the script's coordinates where atoms have not moved."""
    cell = np.tril(relaxed.cell)
    small = np.abs(cell) < _SQUARE * np.diag(cell).max()
    cell[small & ~np.eye(3, dtype=bool)] = 0.0
    old = engine.structure.fractional
    moved = relaxed.fractional - old
    moved = moved - moved.mean(0)
    distance = np.linalg.norm(moved @ cell, axis=1)
    still = distance < _MOVED * nearest_distance(cell, old @ cell)
    return replace(relaxed, cell=cell, fractional=np.where(still[:, None], old, old + moved))


def commands(relaxed: Relaxed, engine: Engine, *, every_atom: bool = False) -> list[str]:
    """LAMMPS commands that bring the script's crystal into its relaxed cell and positions.

    Args:
        relaxed: The relaxed crystal.
        engine: The engine of the unrelaxed script.
        every_atom: Give the positions of all atoms, not only of those that moved within the cell.
    """
    cell, low = relaxed.cell, relaxed.origin
    bounds = zip("xyz", low.tolist(), (low + np.diag(cell)).tolist(), strict=True)
    box = " ".join(f"{axis} final {lo!r} {hi!r}" for axis, lo, hi in bounds)
    tilts = (float(cell[1, 0]), float(cell[2, 0]), float(cell[2, 1]))
    lines = []
    if any(tilts) and not engine.triclinic:
        lines += ["change_box all triclinic", *engine.reader.kspace]  # LAMMPS wants the solver again after this
    if any(tilts) or engine.triclinic:
        box += " xy final {!r} xz final {!r} yz final {!r}".format(*tilts)
    lines.append(f"change_box all {box} remap units box")
    moved = (relaxed.fractional != engine.structure.fractional).any(1) | every_atom
    return lines + [_set_atom(index + 1, relaxed.positions[index]) for index in np.flatnonzero(moved)]


def _set_atom(number: int | np.integer, position: Array) -> str:
    return "set atom {} x {!r} y {!r} z {!r}".format(number, *position.tolist())


def places(engine: Engine) -> list[Place]:
    """Where the lines may go, the best first: before anything acts or integrates, before it acts, at the end."""
    script = engine.script_files[0]
    lines = read_lines(script)
    acting, fixing = [], []
    for line in lines:
        words = line.text.split()
        if words and words[0] in _ACTS:
            acting.append(line.number - 1)
        elif len(words) > 3 and words[0] == "fix" and not rules.fix_is_kept(words[3]):
            fixing.append(line.number - 1)
    acting += [c.line - 1 for c in engine.skipped if c.file == script and c.command.split()[0] in _ACTS]
    quits = [line.number - 1 for line in lines if line.text.split()[:1] == ["quit"]]
    end = script_text(script).removesuffix("\n").count("\n") + 1
    found = [
        Place(min([*acting, *fixing, end]), False),
        Place(min([*acting, end]), False),
        *(Place(at, True) for at in quits),
        Place(end, True),
    ]
    return list(dict.fromkeys(found))


def script_text(path: Path) -> str:
    """Text of a script with every byte of it kept."""
    return path.read_bytes().decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")


def edited(
    text: str, place: Place, *, variables: Mapping[str, Sequence[str]], comments: Sequence[str], lines: Sequence[str]
) -> str:
    """The script with the values that -var gave at its top and the relaxed crystal at its place.

    Args:
        text: The script.
        place: Where the crystal goes.
        variables: Values by -var; LAMMPS passes over the script's own values of these index variables.
        comments: What made the lines, without `#`.
        lines: Commands of the relaxed crystal.
    """
    physical = text.split("\n")
    if not physical[-1]:
        physical.pop()
    head = [f"variable {name} index " + " ".join(map(quoted, values)) for name, values in variables.items()]
    if head:
        head = ["# values given to lammps-bg relax; -var still goes before them", *head, ""]
    body = [*(f"# {comment}" for comment in comments), *lines]
    before, after = physical[: place.line], physical[place.line :]
    return (
        "\n".join([*head, *before, *([""] if before and before[-1].strip() else []), *body, *([""] if after else []), *after])
        + "\n"
    )


def renamed(text: str, old: str, new: str) -> tuple[str, int]:
    """The script with another name of a file, and how often it was there."""
    return re.subn(rf"(?<![^\s\"']){re.escape(old)}(?![^\s\"'])", lambda _: new, text)
