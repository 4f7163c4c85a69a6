# SPDX-License-Identifier: GPL-2.0-or-later
"""Trials, on an instance of their own, of what a script has beside positions: does the energy know of it, and does a fix have its energy?"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine import describe
from lammps_bg.engine.instance import Instance
from lammps_bg.engine.script import rules
from lammps_bg.engine.script.rules import ScriptFix
from lammps_bg.errors import PotentialError, ScriptError

_SAME = 1e-10  # relative difference of energies and forces that is rounding
_MISSING = 0.05  # share of a fix' force by which the slope of its energy may differ; an energy left out gives 1
_ROUNDING = 1e-11  # of an energy, of a sum of differences of it
_DISPLACEMENT, _STEP = 0.02, 1e-3  # of the mean distance of atoms
_DIRECTIONS = 2
_COUNT = "lammps_bg_count"


class Push(NamedTuple):
    """What tells whether forces have their energy.

    Attributes:
        energies: Forth and back along each direction, shape [n, 2], energy units.
        forces: Between them, shape [N, 3].
    """

    energies: Array
    forces: Array


def require_position_energies(instance: Instance, load_alone: Callable[[], Instance]) -> None:
    """Refuse a script whose energies or forces depend on more than the atoms' positions, or whose forces lack their energy.

    What is known by name costs nothing; an instance of its own is made for what has to be tried.

    Raises:
        PotentialError: The energy changes with an attribute of the atoms that is not sampled.
        ScriptError: A fix changes forces and is not known, or adds forces without their energy.
    """
    fixes = list(instance.reader.fixes.values())
    unknown = [fix for fix in fixes if not (fix.kept or rules.fix_is_innocent(fix.style))]
    pushing = [fix for fix in fixes if rules.fix_pushes(fix.style)]
    attributes = [style for style in instance.atom_styles() if style in rules.TRIED_ATOMS]
    if not (unknown or pushing or attributes):
        return
    with contextlib.closing(load_alone()) as scratch:
        trial = _Trial(scratch)
        if not trial.works():  # what is missing is said where the sites are evaluated
            return
        for fix in unknown:
            trial.require_no_effect(fix)
        for style in attributes:
            trial.require_independence(style)
        for fix in pushing:
            _require_energy(trial, fix, load_alone)


def unlike_the_run(instance: Instance) -> list[str]:
    """What the script's own dynamics do otherwise than the samples, one sentence each: atoms without an integrator, fixes gone since."""
    reader = instance.reader
    present = {(fix.group, fix.style) for fix in reader.fixes.values()}
    gone = [fix for fix in reader.run_fixes if (fix.group, fix.style) not in present]
    lines = [
        f"{fix} is in force in the last run of the script, but not at its end: the samples know nothing of it"
        for fix in gone
        if fix.kept or rules.fix_refusal(fix.style)
    ]
    movers = [fix for fix in (*reader.fixes.values(), *gone) if rules.fix_integrates(fix.style)]
    total = int(instance.lammps.get_natoms())
    groups = {fix.group for fix in movers}
    moved = total if "all" in groups or not movers else _count(groups, instance)
    if moved is None or moved < total:
        which = f"the atoms of group {' and '.join(sorted(groups))}" if moved is None else f"{moved} of the {total} atoms"
        lines.append(
            f"only {which} are integrated in the script, by {' and '.join(map(str, movers))}: the samples move all atoms"
        )
    return lines


def _count(groups: set[str], instance: Instance) -> int | None:
    """Atoms in groups that share none; nothing where a group is gone, or empty as a dynamic one before its first run."""
    lammps, total = instance.lammps, 0
    if not groups <= set(lammps.available_ids("group")):
        return None
    for group in sorted(groups):
        instance.command(f"variable {_COUNT} equal count({group})")
        total += int(lammps.extract_variable(_COUNT))
        instance.command(f"variable {_COUNT} delete")
    return total or None


class _Trial:
    """Energies and forces of slightly displaced atoms, with and without what is tried."""

    def __init__(self, scratch: Instance) -> None:
        self._instance = scratch
        positions, self._images = scratch.atoms.gather("x", "image")
        cell, _ = describe.box(scratch.lammps)
        self._spacing = float(np.linalg.det(cell) / len(positions)) ** (1 / 3)
        displacements = np.random.default_rng(0).uniform(-_DISPLACEMENT, _DISPLACEMENT, positions.shape)
        self._positions = positions + self._spacing * displacements

    def works(self) -> bool:
        """Whether LAMMPS evaluates the script's crystal at all."""
        try:
            self._evaluate()
        except PotentialError:
            return False
        return True

    def _evaluate(self, shift: Array | float = 0.0) -> tuple[float, Array]:
        """Energy and forces, shape [N, 3], of the positions with a shift, by a full set-up as plain LAMMPS has it."""
        self._instance.atoms.write({"x": self._positions + shift}, self._images)
        self._instance.command("run 0 post no")
        (forces,) = self._instance.atoms.gather("f")
        return self._instance.potential_energy(), forces

    # ---- a fix that is left out

    def require_no_effect(self, fix: ScriptFix) -> None:
        """Refuse a fix that is left out although it changes energies or forces."""
        without = self._evaluate()
        try:
            with _elsewhere():  # it may open files
                self._instance.command(fix.command)
                present = self._evaluate()
                self._instance.command(f"unfix {fix.name}")
        except PotentialError as error:
            raise ScriptError(f"{fix.file.name} line {fix.line}: {error}; correct this fix, or remove it") from None
        if not _same(without, present):
            energy, forces = present[0] - without[0], np.abs(present[1] - without[1]).max()
            clause = f"changes the energy by {energy:.3g} and forces by up to {forces:.3g}, and is not known to have an energy of the positions"
            raise ScriptError(f"{fix.file.name} line {fix.line}: {rules.refused_fix(fix, clause)}")

    # ---- attributes of atoms

    def require_independence(self, style: str) -> None:
        """Refuse an atom style whose attribute the energy depends on."""
        for fix in self._instance.reader.fixes.values():
            if fix.kept and rules.base_style(fix.style).startswith("efield"):  # else only its torque would tell
                self._instance.command(f"fix_modify {fix.name} energy yes")
        before = self._evaluate()
        getattr(self, f"_change_{style}")()
        if not _same(before, self._evaluate()):
            what = rules.TRIED_ATOMS[style]
            sentence = rules.unsampled_sentence(f"atom_style {style}", what)
            raise PotentialError(f"{self._instance.place_of('atom_style')}: {sentence} (the energy changes with them)")

    def _attribute(self, name: str) -> Array:
        """LAMMPS' own array of a per-atom quantity, one row for each atom."""
        return self._instance.lammps.per_atom(name)

    def _change_sphere(self) -> None:
        self._attribute("radius")[...] *= 1.01

    def _change_dipole(self) -> None:
        """Turn every dipole; those of length zero stay."""
        moments = self._attribute("mu")
        directions = np.random.default_rng(0).standard_normal((len(moments), 3))
        moments[:, :3] = (
            directions / np.linalg.norm(directions, axis=1)[:, None] * np.linalg.norm(moments[:, :3], axis=1)[:, None]
        )

    def _change_spin(self) -> None:
        self._instance.command("set group all spin/atom/random 4711 1.0")

    def _change_ellipsoid(self) -> None:
        """Turn every ellipsoid; atoms without a shape have no orientation."""
        shaped = self._attribute("ellipsoid").ravel() >= 0
        chosen = ["group all"] if shaped.all() else [f"atom {number}" for number in self._attribute("id").ravel()[shaped]]
        for atoms in chosen:
            self._instance.command(f"set {atoms} quat/random 4711")

    # ---- a fix that is kept

    def energies_along(self) -> Array:
        """Energies of the positions moved forth and back along each direction, shape [n, 2], energy units."""
        return np.array([[self._evaluate(sign * step)[0] for sign in (1, -1)] for step in self._steps()])

    def energy_of_shift(self) -> float:
        """Change of the energy by a rigid shift of all atoms, energy units."""
        return self._evaluate(self._spacing * np.array([0.1, 0.07, -0.05]))[0] - self._evaluate()[0]

    def _steps(self) -> list[Array]:
        shape = (_DIRECTIONS, *self._positions.shape)
        return list(_STEP * self._spacing * np.random.default_rng(1).standard_normal(shape))

    def push(self, fix: ScriptFix) -> tuple[Push, Push]:
        """Energies and forces with a fix, and without it: the fix is gone afterwards."""
        present = Push(self.energies_along(), self._evaluate()[1])
        self._instance.command(f"unfix {fix.name}")
        return present, Push(self.energies_along(), self._evaluate()[1])

    def has_energy(self, present: Array, without: Push, forces: Array) -> bool:
        """Whether the forces of a fix are the slope of its energy."""
        work = np.array([((forces - without.forces) * step).sum() for step in self._steps()])
        drop = -np.diff((present - without.energies)[:, ::-1], axis=1)[:, 0] / 2
        rounding = _ROUNDING * np.abs(without.energies).max()
        return bool((np.abs(drop - work) <= _MISSING * np.abs(work) + rounding).all())

    def switch_energy_on(self, fix: ScriptFix) -> bool:
        """Let LAMMPS add the energy of a fix to the potential energy; whether it has one."""
        try:
            self._instance.command(f"fix_modify {fix.name} energy yes")
        except PotentialError:
            return False
        return True


def _require_energy(trial: _Trial, fix: ScriptFix, load_alone: Callable[[], Instance]) -> None:
    """Refuse a fix whose forces are there and whose energy is not."""
    present, without = trial.push(fix)
    if trial.has_energy(present.energies, without, present.forces):
        return
    advice = "remove this fix and the commands that name it"
    with contextlib.closing(load_alone()) as scratch:
        other = _Trial(scratch)
        if other.switch_energy_on(fix) and other.has_energy(other.energies_along(), without, present.forces):
            shift = abs(other.energy_of_shift())
            if shift < _ROUNDING * abs(without.energies).max():  # else it would hold the crystal in place
                advice = f"add `fix_modify {fix.name} energy yes` after it, or {advice}"
    raise ScriptError(
        f"{fix.file.name} line {fix.line}: expected forces with their energy, but `fix {fix.style}` (fix {fix.name}, group {fix.group}) "
        f"adds forces that are not the slope of the energy LAMMPS counts for it; {advice}"
    )


def _same(one: tuple[float, Array], other: tuple[float, Array]) -> bool:
    """Whether energies and forces agree to rounding."""
    energies = abs(one[0] - other[0]) <= _SAME * (abs(one[0]) + abs(other[0]))
    return bool(energies and np.abs(one[1] - other[1]).max() <= _SAME * np.abs(one[1]).max())


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Work in an empty folder meanwhile."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)
