# SPDX-License-Identifier: GPL-2.0-or-later
"""A crystal at its minimum of energy plus pressure times volume, and what has changed on the way.

with Engine(Path("in.si_diamond")) as engine:
result = relax_crystal(engine, "iso")
result.after.lengths, result.after.space_group
"""

from dataclasses import dataclass, replace

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import Free, Relaxed, StaticState, relax, static_state
from lammps_bg.engine.relaxed_script import settled
from lammps_bg.errors import ConfigError, CrystalError
from lammps_bg.study.pressure import script_pressure

_OFF_SITE = 0.1  # largest move within the cell, in nearest-neighbour distances, of an atom that keeps its site


@dataclass(frozen=True)
class RestingCrystal:
    """A crystal with its atoms at rest.

    Attributes:
        state: Energy, pressure and largest force.
        cell: Cell vectors of the script's box as rows, shape [3, 3], length units.
        n_atoms: Atoms in it.
        space_group: International symbol and number.
    """

    state: StaticState
    cell: Array
    n_atoms: int
    space_group: str

    @classmethod
    def of(cls, engine: Engine) -> "RestingCrystal":
        """Measure an engine's crystal."""
        crystal = Crystal.from_structure(engine.structure)
        return cls(static_state(engine), engine.cell, engine.structure.n_atoms, crystal.unit.space_group)

    @property
    def lengths(self) -> Array:
        """Lengths of the cell vectors, shape [3], length units."""
        return np.asarray(np.linalg.norm(self.cell, axis=1))

    @property
    def angles(self) -> Array:
        """Angles between b and c, a and c, a and b, degrees, shape [3]."""
        unit = self.cell / self.lengths[:, None]
        return np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)))

    @property
    def volume(self) -> float:
        """Volume of the cell, length units cubed."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def energy_per_atom(self) -> float:
        """Potential energy per atom, energy units."""
        return self.state.energy / self.n_atoms

    def enthalpy(self, pressure: float, units: Units) -> float:
        """(E + P V) / N, energy units; `pressure` in the units of the script."""
        return (self.state.energy + pressure * self.volume / units.nktv2p) / self.n_atoms

    def pressure(self, units: Units) -> float:
        """The pressure, or zero where it is rounding of what the cohesive energy amounts to, pressure units."""
        size = abs(self.state.energy) / self.volume * units.nktv2p
        return self.state.pressure if abs(self.state.pressure) > 1e-12 * size else 0.0


@dataclass(frozen=True)
class RelaxResult:
    """A relaxed crystal beside what it was.

    Attributes:
        before: The crystal of the script.
        after: The same at its minimum.
        relaxed: Cell and positions there.
        free: What of the cell was free.
        pressure: Target, pressure units.
        units: Of the script.
    """

    before: RestingCrystal
    after: RestingCrystal
    relaxed: Relaxed
    free: Free
    pressure: float
    units: Units

    @property
    def warnings(self) -> list[str]:
        """What is to be looked at: another space group, or forces that did not vanish."""
        found, labels = list[str](), self.units.labels
        if self.after.space_group != self.before.space_group:
            found.append(
                f"the space group changed from {self.before.space_group} to {self.after.space_group}: the crystal transformed, or the start "
                "was a noisy copy of a symmetric one; check that the relaxed crystal is the one you want"
            )
        if not self.relaxed.converged:
            found.append(
                f"pressure and forces are left at {self.relaxed.residual:.1e} of the cohesive energy's scale (largest force "
                f"{self.after.state.largest_force:.2g} {labels.energy}/{labels.length}), as with a cutoff where the forces jump; the relaxed "
                "crystal has no more digits than that"
            )
        return found


def relax_crystal(engine: Engine, free: Free | None = None, pressure: float | None = None) -> RelaxResult:
    """Minimise energy plus pressure times volume; the engine keeps the cell that it has.

    Args:
        engine: The crystal; its present cell and sites are the start.
        free: What of the cell may change; None: its three lengths, and the tilts of a box that has some.
        pressure: Target, pressure units; None: the script's variable P, or zero.

    Raises:
        ConfigError: The cell cannot change in this way.
        CrystalError: The minimisation fails, or an atom leaves its site.
    """
    pressure = (script_pressure(engine) or 0.0) if pressure is None else pressure
    free = _free(engine, free)
    before = RestingCrystal.of(engine)
    relaxed = settled(relax(engine, free, pressure), engine)
    _require_same_sites(relaxed, engine)
    structure = replace(engine.structure, cell=relaxed.cell, origin=relaxed.origin, positions=relaxed.positions)
    group = Crystal.from_structure(structure).unit.space_group
    after = RestingCrystal(relaxed.state, relaxed.cell, before.n_atoms, group)
    return RelaxResult(before, after, relaxed, free, pressure, engine.units)


def _free(engine: Engine, free: Free | None) -> Free:
    """What of the cell may change.

    Raises:
        ConfigError: LAMMPS' minimiser cannot change the lengths of a tilted box alone: the tilts would change with them.
    """
    tilted = bool(np.tril(engine.cell, -1).any())
    if free is None:
        return "tri" if tilted else "aniso"
    if tilted and free in ("xy", "aniso"):
        raise ConfigError(
            f"expected an orthogonal box for --cell {free}, got one with tilts; use --cell tri, which keeps the symmetry that the "
            "crystal has, or --cell iso"
        )
    return free


def _require_same_sites(relaxed: Relaxed, engine: Engine) -> None:
    """Refuse a crystal that turned into another one.

    Raises:
        CrystalError: An atom left its site.
    """
    moved = (relaxed.fractional - engine.structure.fractional) @ relaxed.cell
    furthest = float(np.linalg.norm(moved - moved.mean(0), axis=1).max())
    near = nearest_distance(relaxed.cell, relaxed.fractional @ relaxed.cell)
    if furthest > _OFF_SITE * near:
        raise CrystalError(
            f"expected every atom to keep its site, got atoms that move by up to {furthest:.3g} {engine.units.labels.length} within the "
            f"cell ({furthest / near:.2f} nearest-neighbour distances): the crystal transforms or is no crystal; start from the "
            "structure that you want, or let less of the cell relax (--cell)"
        )
