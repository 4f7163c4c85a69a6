# SPDX-License-Identifier: GPL-2.0-or-later
"""Relaxing a crystal with its cell by LAMMPS' minimiser; afterwards the engine evaluates energies as before."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine import describe
from lammps_bg.engine.descent import descend
from lammps_bg.engine.ensembles import PREFIX
from lammps_bg.engine.evaluator import UNSUITED
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.library import lammps_message
from lammps_bg.errors import CrystalError

Free = Literal["none", "iso", "xy", "aniso", "tri"]
FREE: tuple[Free, ...] = get_args(Free)
_KEYWORDS = {"iso": "iso {}", "xy": "aniso {} couple xy", "aniso": "aniso {}", "tri": "tri {}"}
# rows: what is a mean of which components xx, yy, zz, xy, xz, yz of the pressure, and has to reach the target
_MEANS: dict[str, Array] = {
    "none": np.empty((0, 6)),
    "iso": np.array([[1, 1, 1, 0, 0, 0]]) / 3,
    "xy": np.array([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]),
    "aniso": np.eye(6)[:3],
    "tri": np.eye(6),
}
# changes of a lower triangular cell, orthonormal: of lengths, and of tilts
_TILTS = np.zeros((3, 3, 3))
_TILTS[[0, 1, 2], [1, 2, 2], [0, 0, 1]] = 1.0
_LENGTHS = np.einsum("ka,ab->kab", np.eye(3), np.eye(3))
_STRAINS: dict[str, Array] = {
    "none": np.empty((0, 3, 3)),
    "iso": np.eye(3)[None] / math.sqrt(3),
    "xy": np.array([np.diag([1.0, 1.0, 0.0]) / math.sqrt(2), np.diag([0.0, 0.0, 1.0])]),
    "aniso": _LENGTHS,
    "tri": np.concatenate([_LENGTHS, _TILTS]),
}
_FIX, _COMPUTE = f"{PREFIX}relax", f"{PREFIX}relax_pressure"
_ROUNDS = 30  # of minimisation: the strain of `fix box/relax` refers to the cell at its start
_MINIMISE = "0.0 1e-12 500 5000"
_CONVERGED = 1e-9  # of energy per volume (pressure) and of energy per nearest distance (force), both per atom
_USABLE = 1e-4  # the same where cutoffs without a shift leave small steps in the energy
_LONGEST = 0.05  # step of a descent, in spacings or as a strain
_VOLUMES = (0.4, 2.5)  # of the start's volume: beyond, it is no longer the same crystal


@dataclass(frozen=True)
class StaticState:
    """What LAMMPS says of atoms at rest on the engine's sites.

    Attributes:
        energy: Total potential energy, energy units.
        stress: Pressure tensor xx, yy, zz, xy, xz, yz without kinetic part, pressure units, shape [6].
        largest_force: Largest force component, energy per length.
    """

    energy: float
    stress: Array
    largest_force: float

    @property
    def pressure(self) -> float:
        """Mean of the diagonal, pressure units."""
        return float(self.stress[:3].mean())


@dataclass(frozen=True)
class Relaxed:
    """A relaxed crystal.

    Attributes:
        cell: Cell vectors as rows, the combination of box vectors the script has, shape [3, 3], length units.
        origin: Lower corner, that of the script, shape [3], length units.
        fractional: Positions in units of the cell vectors, ordered by id, not wrapped, shape [N, 3].
        state: Energy, pressure and largest force, as the minimiser left them.
        residual: Largest deviation of pressure and force from their targets, as a fraction of the cohesive energy's scale.
    """

    cell: Array
    origin: Array
    fractional: Array
    state: StaticState
    residual: float

    @property
    def positions(self) -> Array:
        """Cartesian positions ordered by id, shape [N, 3], length units."""
        return np.asarray(self.fractional @ self.cell + self.origin)

    @property
    def converged(self) -> bool:
        """Whether pressure and forces are at their targets to all the digits that matter."""
        return self.residual < 10 * _CONVERGED


def static_state(engine: Engine) -> StaticState:
    """Energy, pressure tensor and largest force of the atoms at rest on their sites.

    Args:
        engine: The engine; its state stays as it is.
    """
    _install(engine)
    try:
        engine._hold()
        return _measured(engine)
    finally:
        _remove(engine)


def relax(engine: Engine, free: Free, pressure: float) -> Relaxed:
    """Minimise energy plus pressure times volume; the engine's cell and settings are as before afterwards.

    Only the minimiser's own settings (`min_style cg`, quadratic line search) stay: `fix box/relax` works with no other.

    Args:
        engine: The engine; its present cell and sites are the start.
        free: What of the cell may change: nothing, its volume, a = b and c, its three lengths, or lengths and tilts.
        pressure: Target pressure, pressure units.

    Raises:
        CrystalError: The minimisation fails or does not end.
    """
    before = engine.cell, engine.origin, engine.triclinic
    _install(engine)
    try:
        if free == "tri":
            engine._make_triclinic()
        engine._hold()
        found, stopped = _rounds(engine, free, pressure) if engine.suits_minimize else (None, UNSUITED)
        if found is None or not found.residual < _USABLE:
            found = _descended(engine, free, pressure, found, stopped)
        return found
    except CrystalError:
        raise
    except Exception as error:  # LAMMPS raises plain Exception
        raise CrystalError(
            f"LAMMPS cannot relax the script's structure: '{lammps_message(error)}'; check that it is near an energy minimum"
        ) from None
    finally:
        _restore(engine, *before)


def _rounds(engine: Engine, free: Free, pressure: float) -> tuple[Relaxed, str]:
    """Minimise again and again until pressure and forces are at their targets, or get no closer; and why LAMMPS stopped at last."""
    instance = engine._instance
    # LAMMPS' box vectors are these combinations of the engine's: the same lattice with small tilts
    combination = np.rint(engine.cell @ np.linalg.inv(describe.box(engine.lammps)[0]))
    for command in ("min_style cg", "min_modify dmax 0.1 line quadratic"):
        instance.command(command)
    volume, best = abs(np.linalg.det(engine.cell)), math.inf
    for _ in range(_ROUNDS):
        if free != "none":
            target = _KEYWORDS[free].format(repr(float(pressure)))
            instance.command(f"fix {_FIX} all box/relax {target} vmax 0.01 nreset 20")
        stopped = instance.minimise(_MINIMISE)
        if free != "none":
            instance.command(f"unfix {_FIX}")
        engine.lammps.command("run 0 post no")
        cell, low = describe.box(engine.lammps)
        _require_same_density(abs(np.linalg.det(cell)) / volume)
        state = _measured(engine)
        residual = _residual(engine, state, free, pressure)
        if residual < _CONVERGED or best < 10 * _CONVERGED:
            break
        best = min(best, residual)
    cell = combination @ cell
    positions = describe.unwrapped(instance) - engine._offsets @ cell
    return Relaxed(cell, engine.origin, (positions - low) @ np.linalg.inv(cell), state, residual), stopped


def _descended(engine: Engine, free: Free, pressure: float, found: Relaxed | None, stopped: str) -> Relaxed:
    """Go on without LAMMPS' minimiser: the strain of the cell follows the pressure, and at each strain the atoms their forces.

    Raises:
        CrystalError: It stalls, too.
    """
    path = _Descent(engine, free, pressure)
    rest = path.from_start() if found is None else path.from_relaxed(found)
    if not rest.residual < _USABLE:
        raise CrystalError(
            f"expected pressure and forces to vanish in the minimisation, got a rest of {rest.residual:.1e} of the cohesive energy's "
            f"scale: LAMMPS' minimiser stopped with '{stopped}', and steps along the forces stalled after {path.n_evaluations} evaluations; "
            "start from a structure nearer to the minimum, with a smooth cutoff (pair_modify shift yes), or with a more accurate kspace_style"
        )
    return rest


class _Descent:
    """Minimisation of energy plus pressure times volume by forces and pressure alone.

    Coordinates are the strain of the start's cell, which the atoms follow, and displacements of the atoms in it.

    Attributes:
        n_evaluations: Evaluations so far.

    Args:
        engine: The engine; its present cell and sites are the start.
        free: What of the cell may change.
        pressure: Target pressure, pressure units.
    """

    def __init__(self, engine: Engine, free: Free, pressure: float) -> None:
        self._engine, self._free, self._pressure = engine, free, pressure
        self._cell, self._origin, self._sites = engine.cell, engine.origin, engine.sites - engine.origin
        self._volume = abs(float(np.linalg.det(self._cell)))
        self._spacing = (self._volume / len(self._sites)) ** (1 / 3)
        self._energy = engine._atom_energy or 1.0
        self._moved = np.zeros_like(self._sites)
        self._modes = _STRAINS[free]
        self._best: Relaxed | None = None
        self.n_evaluations = 0

    def from_start(self) -> Relaxed:
        """The relaxed crystal, or what comes next to it, from the sites."""
        return self._from(np.zeros(len(self._modes)))

    def from_relaxed(self, found: Relaxed) -> Relaxed:
        """The same from what LAMMPS' minimiser came to."""
        self._moved = found.fractional @ self._cell - self._sites
        return self._from(np.tensordot(self._modes, np.linalg.solve(self._cell, found.cell) - np.eye(3), 2))

    def _from(self, strain: Array) -> Relaxed:
        if len(strain):
            descend(self._slope, strain, enough=_CONVERGED, longest=_LONGEST, most=60, patience=6)
        else:
            self._slope(strain)
        if self._best is None:
            raise CrystalError("expected forces that lead to the nearest energy minimum, got none; check for overlapping atoms")
        return self._best

    def _slope(self, strain: Array) -> tuple[Array, float]:
        """Derivative with respect to the strain with the atoms at rest in it, per atom and in cohesive energies, and the residual."""
        deformation = np.eye(3) + np.tensordot(strain, self._modes, 1)
        if np.diag(deformation).min() <= 0:
            return np.full(strain.shape, np.nan), math.inf
        cell, engine = self._cell @ deformation, self._engine
        volume = abs(float(np.linalg.det(cell)))
        _require_same_density(volume / self._volume)
        engine._use_cell(cell, self._origin)
        engine._change_box()
        point = descend(
            lambda x: self._force(x, deformation), self._moved.ravel() / self._spacing, enough=0.1 * _CONVERGED, longest=_LONGEST
        )
        if not math.isfinite(self._force(point.x, deformation)[1]):
            return np.full(strain.shape, np.nan), math.inf
        self._moved = self._spacing * point.x.reshape(-1, 3)
        state = _measured(engine)
        residual = _residual(engine, state, self._free, self._pressure)
        if self._best is None or residual < self._best.residual:
            fractional = (self._sites + self._moved) @ np.linalg.inv(self._cell)
            self._best = Relaxed(cell, self._origin, fractional, state, residual)
        xx, yy, zz, xy, xz, yz = state.stress
        excess = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) - self._pressure * np.eye(3)
        work = -volume / engine.units.nktv2p * np.linalg.solve(deformation.T, excess)
        return np.tensordot(self._modes, work, 2) / (len(self._sites) * self._energy), residual

    def _force(self, x: Array, deformation: Array) -> tuple[Array, float]:
        """Derivative with respect to displacements in spacings, in cohesive energies, and its largest component."""
        self.n_evaluations += 1
        moved, forces = self._spacing * x.reshape(-1, 3), np.full((1, *self._sites.shape), np.nan)
        if not math.isfinite(self._engine._several((moved @ deformation)[None], False, forces)[0]):
            return np.full(x.shape, np.nan), math.inf
        slope = -(forces[0] - forces[0].mean(0)) @ deformation.T * (self._spacing / self._energy)
        return slope.ravel(), float(np.abs(slope).max())


def _require_same_density(ratio: float) -> None:
    if not _VOLUMES[0] < ratio < _VOLUMES[1]:
        raise CrystalError(
            f"expected a crystal near its equilibrium volume, got one that {'swells' if ratio > 1 else 'shrinks'} to {ratio:.3g} times "
            "it in the minimisation; check the lattice constant, the pressure with its unit, and the potential"
        )


def _residual(engine: Engine, state: StaticState, free: Free, pressure: float) -> float:
    """Deviation from the targets relative to what the cohesive energy amounts to per volume, and per spacing of the atoms."""
    volume, n = abs(np.linalg.det(engine.cell)), engine.structure.n_atoms
    energy = max(abs(state.energy), abs(pressure) * volume / engine.units.nktv2p) / n
    if energy == 0:
        raise CrystalError(
            "expected atoms that hold each other on their sites, got no energy; check lattice constant, units and cutoff"
        )
    spacing = (volume / n) ** (1 / 3)
    target = pressure * np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    off = np.abs(_MEANS[free] @ (state.stress - target)).max(initial=0.0)
    return float(max(off / (engine.units.nktv2p * energy / spacing**3), state.largest_force / (energy / spacing)))


def _install(engine: Engine) -> None:
    engine._instance.command(f"compute {_COMPUTE} all pressure NULL virial")
    engine._thermo(f"step pe c_{_COMPUTE}")  # what thermo output needs is tallied on the last step of a run


def _measured(engine: Engine) -> StaticState:
    """What LAMMPS has just computed."""
    tensor = engine.lammps.extract_compute(_COMPUTE, 0, 1)
    stress = np.array([tensor[index] for index in range(6)])
    return StaticState(engine._instance.potential_energy(), stress, float(np.abs(engine._gather("f")).max()))


def _remove(engine: Engine) -> None:
    engine._thermo("step pe")
    if engine.lammps.has_id("fix", _FIX):
        engine._instance.command(f"unfix {_FIX}")
    engine._instance.command(f"uncompute {_COMPUTE}")
    engine._held = False


def _restore(engine: Engine, cell: Array, origin: Array, triclinic: bool) -> None:
    """Bring the engine's cell and settings back."""
    engine._use_cell(cell, origin)
    try:
        _remove(engine)
        engine._change_box()
        if not triclinic:
            engine._make_orthogonal()
        engine._hold()
    except Exception:  # LAMMPS is beyond repair
        engine._restart()
