# SPDX-License-Identifier: GPL-2.0-or-later
"""Relaxing a crystal, in its cell or with it: by LAMMPS' minimiser, and where that stalls by forces and pressure alone.

Afterwards the engine evaluates energies as before.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lammps_bg.crystal.scale import natural_unit
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.engine.ensembles import PREFIX
from lammps_bg.engine.evaluator import Evaluator, Loan
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
_LONGEST = 0.05  # step of a descent, in distances of neighbours or as a strain
_UNSUITED = "not used: in these units atoms are too small for it"
# of a descent
_MEMORY = 20
_PROGRESS = 0.9  # of the smallest residual so far
_FIRST = 0.01  # of the longest step: the first one, whose right length nobody knows
_UPHILL = 10.0  # times the smallest residual: there it starts anew from the best point
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


def suits_minimiser(engine: Evaluator) -> bool:
    """Whether lengths and energies have the size that LAMMPS' minimisers take for granted: steps of 0.1, changes above 1e-8."""
    energy, spacing = engine.energy_per_atom, float(abs(np.linalg.det(engine.cell)) / len(engine.sites)) ** (1 / 3)
    return natural_unit(spacing, 12) == 1 and (energy == 0 or natural_unit(energy, 24) == 1)


def static_state(engine: Engine) -> StaticState:
    """Energy, pressure tensor and largest force of the atoms at rest on their sites; the engine stays as it is."""
    with engine.borrowed() as lammps:
        _install(lammps)
        lammps.hold()
        return _measured(lammps)


# ---- the atoms in their cell


@dataclass(frozen=True)
class AtRest:
    """Where a minimisation of the atoms at constant cell ended.

    Attributes:
        positions: Cartesian positions ordered by id, shape [N, 3], length units.
        largest_force: Largest force component left, energy per length.
        stopped: Why LAMMPS' own minimiser stopped, in its words.
    """

    positions: Array
    largest_force: float
    stopped: str


def at_rest(engine: Evaluator, small: float) -> AtRest:
    """The energy minimum at the present cell that is downhill from the sites; the engine stays as it is.

    LAMMPS' minimiser goes first; where it stalls, a descent by forces alone goes on from there.

    Args:
        engine: The engine; its present cell and sites are the start.
        small: Largest force component with which atoms count as at rest, energy per length.

    Raises:
        CrystalError: There are no forces to follow.
    """
    start, stopped = _minimised(engine) if suits_minimiser(engine) else (np.zeros_like(engine.sites), _UNSUITED)
    with engine.borrowed() as lammps:
        force = lammps.forces_at(start)
        if force is not None and np.abs(force).max() < small:
            return AtRest(engine.sites + start, float(np.abs(force).max()), stopped)
        return _descended_at_rest(engine, lammps, start, small, stopped)


def _minimised(engine: Evaluator) -> tuple[Array, str]:
    """Displacements that LAMMPS' minimiser comes to, shape [N, 3], and why it stopped there."""
    still = np.zeros_like(engine.sites)
    try:
        with engine.borrowed() as lammps:
            lammps.hold()
            stopped = lammps.minimise("1e-12 1e-8 2000 20000")
            found = lammps.gather("x")
    except Exception as error:  # LAMMPS raises plain Exception
        return still, lammps_message(error)
    displacements, reach = engine.displacements(found[None])
    return (displacements[0] if math.isfinite(reach[0]) else still), stopped


def _descended_at_rest(engine: Evaluator, lammps: Loan, start: Array, small: float, stopped: str) -> AtRest:
    """Go on by forces alone from displacements where LAMMPS stopped."""
    size = nearest_distance(engine.cell, engine.sites - engine.origin)
    first = lammps.forces_at(start)
    if first is None or not np.isfinite(first).all():
        raise CrystalError(
            f"expected forces that lead to the nearest energy minimum, got none (LAMMPS' minimiser: '{stopped}'); check for overlapping atoms"
        )
    scale = float(np.abs(first).max())

    def slope(x: Array) -> tuple[Array, float]:
        force = lammps.forces_at(size * x.reshape(-1, 3))
        if force is None:
            return np.full(x.shape, np.nan), math.inf
        force = force - force.mean(0)
        return -force.ravel() / scale, float(np.abs(force).max())

    found = descend(slope, start.ravel() / size, enough=0.1 * min(small, scale), longest=_LONGEST)
    return AtRest(engine.sites + size * found.x.reshape(-1, 3), found.residual, stopped)


# ---- the atoms and the cell


def relax(engine: Engine, free: Free, pressure: float) -> Relaxed:
    """Minimise energy plus pressure times volume; the engine stays as it is.

    Args:
        engine: The engine; its present cell and sites are the start.
        free: What of the cell may change: nothing, its volume, a = b and c, its three lengths, or lengths and tilts.
        pressure: Target pressure, pressure units.

    Raises:
        CrystalError: The minimisation fails or does not end.
    """
    suited = suits_minimiser(engine)
    try:
        with engine.borrowed() as lammps:
            _install(lammps)
            if free == "tri":
                lammps.make_triclinic()
            lammps.hold()
            found, stopped = _rounds(engine, lammps, free, pressure) if suited else (None, _UNSUITED)
            if found is None or not found.residual < _USABLE:
                found = _descended(engine, lammps, (free, pressure), found, stopped)
            return found
    except CrystalError:
        raise
    except Exception as error:  # LAMMPS raises plain Exception
        raise CrystalError(
            f"LAMMPS cannot relax the script's structure: '{lammps_message(error)}'; check that it is near an energy minimum"
        ) from None


def _rounds(engine: Engine, lammps: Loan, free: Free, pressure: float) -> tuple[Relaxed, str]:
    """Minimise again and again until pressure and forces are at their targets, or get no closer; and why LAMMPS stopped at last."""
    for command in ("min_style cg", "min_modify dmax 0.1 line quadratic"):  # `fix box/relax` works with no other
        lammps.command(command)
    volume, best = abs(np.linalg.det(engine.cell)), math.inf
    for _ in range(_ROUNDS):
        if free != "none":
            target = _KEYWORDS[free].format(repr(float(pressure)))
            lammps.command(f"fix {_FIX} all box/relax {target} vmax 0.01 nreset 20")
        stopped = lammps.minimise(_MINIMISE)
        if free != "none":
            lammps.command(f"unfix {_FIX}")
        lammps.library.command("run 0 post no")
        cell, low = lammps.cell()
        _require_same_density(abs(np.linalg.det(cell)) / volume)
        state = _measured(lammps)
        residual = _residual(engine, volume, state, free, pressure)
        if residual < _CONVERGED or best < 10 * _CONVERGED:
            break
        best = min(best, residual)
    return Relaxed(cell, engine.origin, (lammps.positions(cell) - low) @ np.linalg.inv(cell), state, residual), stopped


def _descended(engine: Engine, lammps: Loan, aim: tuple[Free, float], found: Relaxed | None, stopped: str) -> Relaxed:
    """Go on without LAMMPS' minimiser: the strain of the cell follows the pressure, and at each strain the atoms their forces.

    Raises:
        CrystalError: It stalls, too.
    """
    path = _Descent(engine, lammps, *aim)
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
    """

    def __init__(self, engine: Engine, lammps: Loan, free: Free, pressure: float) -> None:
        self._engine, self._lammps, self._free, self._pressure = engine, lammps, free, pressure
        self._cell, self._origin, self._sites = engine.cell, engine.origin, engine.sites - engine.origin
        self._volume = abs(float(np.linalg.det(self._cell)))
        self._spacing = (self._volume / len(self._sites)) ** (1 / 3)
        self._energy = engine.energy_per_atom or 1.0
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
        cell = self._cell @ deformation
        volume = abs(float(np.linalg.det(cell)))
        _require_same_density(volume / self._volume)
        self._lammps.set_cell(cell, self._origin)
        point = descend(
            lambda x: self._force(x, deformation), self._moved.ravel() / self._spacing, enough=0.1 * _CONVERGED, longest=_LONGEST
        )
        if not math.isfinite(self._force(point.x, deformation)[1]):
            return np.full(strain.shape, np.nan), math.inf
        self._moved = self._spacing * point.x.reshape(-1, 3)
        state = _measured(self._lammps)
        residual = _residual(self._engine, volume, state, self._free, self._pressure)
        if self._best is None or residual < self._best.residual:
            fractional = (self._sites + self._moved) @ np.linalg.inv(self._cell)
            self._best = Relaxed(cell, self._origin, fractional, state, residual)
        xx, yy, zz, xy, xz, yz = state.stress
        excess = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) - self._pressure * np.eye(3)
        work = -volume / self._engine.units.nktv2p * np.linalg.solve(deformation.T, excess)
        return np.tensordot(self._modes, work, 2) / (len(self._sites) * self._energy), residual

    def _force(self, x: Array, deformation: Array) -> tuple[Array, float]:
        """Derivative with respect to displacements in spacings, in cohesive energies, and its largest component."""
        self.n_evaluations += 1
        forces = self._lammps.forces_at(self._spacing * x.reshape(-1, 3) @ deformation)
        if forces is None:
            return np.full(x.shape, np.nan), math.inf
        slope = -(forces - forces.mean(0)) @ deformation.T * (self._spacing / self._energy)
        return slope.ravel(), float(np.abs(slope).max())


def _require_same_density(ratio: float) -> None:
    if not _VOLUMES[0] < ratio < _VOLUMES[1]:
        raise CrystalError(
            f"expected a crystal near its equilibrium volume, got one that {'swells' if ratio > 1 else 'shrinks'} to {ratio:.3g} times "
            "it in the minimisation; check the lattice constant, the pressure with its unit, and the potential"
        )


def _residual(engine: Engine, volume: float, state: StaticState, free: Free, pressure: float) -> float:
    """Deviation from the targets relative to what the cohesive energy amounts to per volume, and per spacing of the atoms."""
    n = engine.structure.n_atoms
    energy = max(abs(state.energy), abs(pressure) * volume / engine.units.nktv2p) / n
    if energy == 0:
        raise CrystalError(
            "expected atoms that hold each other on their sites, got no energy; check lattice constant, units and cutoff"
        )
    spacing = (volume / n) ** (1 / 3)
    target = pressure * np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    off = np.abs(_MEANS[free] @ (state.stress - target)).max(initial=0.0)
    return float(max(off / (engine.units.nktv2p * energy / spacing**3), state.largest_force / (energy / spacing)))


def _install(lammps: Loan) -> None:
    lammps.command(f"compute {_COMPUTE} all pressure NULL virial")
    lammps.tally(f"c_{_COMPUTE}")


def _measured(lammps: Loan) -> StaticState:
    """What LAMMPS has just computed."""
    tensor = lammps.library.extract_compute(_COMPUTE, 0, 1)
    stress = np.array([tensor[index] for index in range(6)])
    return StaticState(lammps.energy(), stress, float(np.abs(lammps.gather("f")).max()))


# ---- a minimiser that looks at forces only and knows no unit
#
# LAMMPS' line searches compare energies, and stop at a change of 1e-8 energy units: in `units si` that is more than a crystal has, and
# where the energy is a little rough (grids of long-range solvers, unshifted cutoffs) no step is ever good enough for them.


@dataclass(frozen=True)
class Point:
    """Where a descent has got to.

    Attributes:
        x: Coordinates, shape [d].
        residual: What remains there, of whatever has to vanish.
        n_evaluations: Evaluations that it took.
    """

    x: Array
    residual: float
    n_evaluations: int


def descend(
    gradient: Callable[[Array], tuple[Array, float]],
    start: Array,
    *,
    enough: float,
    longest: float,
    most: int = 3000,
    patience: int = 60,
) -> Point:
    """Limited-memory BFGS without a line search: steps of bounded length to where the gradient vanishes.

    Args:
        gradient: Gradient at coordinates [d], and the residual there; not finite where there is no energy.
        start: Coordinates to start from, of comparable stiffness, shape [d].
        enough: Residual at which it ends.
        longest: Largest change of a coordinate in one step.
        most: Largest number of evaluations.
        patience: Evaluations without progress after which it will not get any better.

    Returns:
        The best point found, good enough or not.
    """
    slope, residual = gradient(start)
    best, best_slope, last_progress = Point(start, residual, 1), slope, 1
    x, pairs = start, deque[tuple[Array, Array]](maxlen=_MEMORY)
    for n in range(2, most + 1):
        if best.residual < enough or n - last_progress > patience or not np.isfinite(slope).all():
            break
        step = _step(slope, pairs, longest)
        new_slope, residual = gradient(x + step)
        if not residual < _UPHILL * best.residual:
            longest, x, slope = 0.5 * longest, best.x, best_slope
            pairs.clear()
            continue
        change = new_slope - slope
        if step @ change > 0:
            pairs.append((step, change))
        x, slope = x + step, new_slope
        if residual < best.residual:
            last_progress = n if residual < _PROGRESS * best.residual else last_progress
            best, best_slope = Point(x, residual, n), slope
    return Point(best.x, best.residual, n)


def _step(slope: Array, pairs: deque[tuple[Array, Array]], longest: float) -> Array:
    """The quasi-Newton step of the two-loop recursion, no longer than allowed, shape [d]."""
    direction, weights = -slope, []
    for step, change in reversed(pairs):
        weight = (step @ direction) / (step @ change)
        direction = direction - weight * change
        weights.append(weight)
    if pairs:
        step, change = pairs[-1]
        direction = direction * ((step @ change) / (change @ change))
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + (weight - (change @ direction) / (step @ change)) * step
    size = float(np.abs(direction).max())
    largest = longest if pairs else _FIRST * longest
    return direction * (largest / size) if size > largest or not pairs else direction
