# SPDX-License-Identifier: GPL-2.0-or-later
"""Molecular dynamics of an engine's crystal; afterwards the engine evaluates energies as before."""

import math
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine import describe
from lammps_bg.engine.ensembles import PREFIX, Ensemble, Facts
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.library import lammps_message
from lammps_bg.errors import CrystalError, StateError

_PRESSURE = f"{PREFIX}pressure"
_MAX_SEED = 900_000_000  # of LAMMPS' Marsaglia generator
_REMOVE = (("fix", "unfix {}"), ("compute", "uncompute {}"), ("variable", "variable {} delete"), ("group", "group {} delete"))


@dataclass(frozen=True)
class State:
    """Where a run can go on from.

    Attributes:
        positions: Unwrapped positions ordered by id, shape [N, 3], length units.
        velocities: Velocities, shape [N, 3], length per time units.
        cell: Cell vectors as rows, shape [3, 3], length units.
        origin: Lower corner of the cell, shape [3], length units.
    """

    positions: Array
    velocities: Array
    cell: Array
    origin: Array


@dataclass(frozen=True)
class Snapshot:
    """One configuration of a run.

    Attributes:
        positions: Positions ordered by id, continuous over the run, shape [N, 3], length units; displacements are relative to
            the sites in this cell, `fractional sites @ cell + origin`.
        energy: Total potential energy of the script's potential, energy units.
        virial_pressure: Pressure without its kinetic part, pressure units.
        temperature: Kinetic temperature, temperature units.
        cell: Cell vectors as rows, shape [3, 3], length units.
        origin: Lower corner of the cell, shape [3], length units.
        steps: Steps done so far.
    """

    positions: Array
    energy: float
    virial_pressure: float
    temperature: float
    cell: Array
    origin: Array
    steps: int


class Dynamics:
    """A run of molecular dynamics, as a context: inside it the engine does nothing else, after it all is as it was before.

    Args:
        engine: The engine; its present cell and sites are the start.
        ensemble: What is held constant.
        timestep: Time step, time units.
        seed: Seed of the noise and of the velocities at the start; going on from a state takes another one.
        start: State to go on from; without it the atoms start on the sites.
    """

    def __init__(self, engine: Engine, ensemble: Ensemble, *, timestep: float, seed: int, start: State | None = None) -> None:
        if not timestep > 0:
            raise StateError(f"expected a positive time step, got {timestep}")
        self._engine, self._ensemble, self._timestep, self._start = engine, ensemble, float(timestep), start
        self._random = np.random.default_rng(seed)
        self._steps = 0
        self._is_set_up = self._failed = False

    def __enter__(self) -> "Dynamics":
        engine = self._engine
        self._before = engine.cell, engine.origin, engine.triclinic
        self._old_timestep = float(engine.lammps.extract_global("dt"))
        self._old_velocities = engine._gather("v")
        self._masses = _masses(engine)
        try:
            self._install()
        except BaseException:
            self._failed = True
            self._restore()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    # ---- start and end

    def _install(self) -> None:
        """Put the atoms on the sites, where springs are fixed, define the ensemble, then go to the start."""
        engine, start = self._engine, self._start
        if start is not None:
            engine.set_cell(start.cell, start.origin)
        if self._ensemble.triclinic:
            engine._make_triclinic()
        engine._hold()
        # LAMMPS' box vectors are these combinations of the engine's: the same lattice with small tilts
        self._combination = np.rint(engine.cell @ np.linalg.inv(describe.box(engine.lammps)[0]))
        facts = Facts(
            n_types=len(engine.structure.masses),
            seed=int(self._random.integers(1, _MAX_SEED)),
            has_gjf=engine.lammps.has_style("fix", "gjf"),
        )
        for command in (
            f"timestep {self._timestep!r}",
            f"compute {_PRESSURE} all pressure NULL virial",
            *self._ensemble.commands(facts),
        ):
            engine._instance.command(command)
        engine._thermo(f"step pe c_{_PRESSURE}")  # what thermo output needs is tallied on the last step of a run
        if start is None:
            self._write_velocities(self._drawn_velocities())
        else:
            self._write_positions(start.positions)
            self._write_velocities(start.velocities)

    def _drawn_velocities(self) -> Array:
        """Velocities without total momentum at twice the temperature: half goes into the potential energy of the sites."""
        units, mass = self._engine.units, self._masses[:, None]
        deviation = np.sqrt(2.0 * units.boltzmann * self._ensemble.temperature / (mass * units.mvv2e))
        velocities = deviation * self._random.standard_normal((len(mass), 3))
        return np.asarray(velocities - (mass * velocities).sum(axis=0) / mass.sum())

    def _write_velocities(self, velocities: Array) -> None:
        self._engine._instance.atoms.write({"v": velocities})

    def _write_positions(self, positions: Array) -> None:
        """Write unwrapped positions as positions in the box, since LAMMPS moves them by one box length only, and images."""
        engine = self._engine
        cell, origin = describe.box(engine.lammps)
        total = positions + engine._offsets @ engine.cell
        images = np.floor((total - origin) @ np.linalg.inv(cell))
        flags = describe.encoded_images(engine._instance, images.astype(np.int64))
        engine._instance.atoms.write({"x": total - images @ cell}, flags)

    def _restore(self) -> None:
        """Remove everything that was installed and bring the engine's cell and settings back."""
        engine = self._engine
        cell, origin, triclinic = self._before
        engine._use_cell(cell, origin)
        try:
            engine._thermo("step pe")
            for category, command in _REMOVE:
                for name in engine.lammps.available_ids(category):
                    if name.startswith(PREFIX):
                        engine._instance.command(command.format(name))
            engine._instance.command(f"timestep {self._old_timestep!r}")
            self._write_velocities(self._old_velocities)
            engine._change_box()
            if not triclinic:
                engine._make_orthogonal()
            if self._failed:
                engine._hold()
        except Exception:  # LAMMPS is beyond repair
            engine._restart()

    # ---- the run

    def run(self, steps: int) -> Snapshot:
        """Go on for a number of steps.

        Args:
            steps: Number of time steps.

        Raises:
            CrystalError: The run became unstable.
        """
        if self._failed:
            raise CrystalError("expected a stable run of molecular dynamics, but this one failed before; start another one")
        command = f"run {steps} pre no post no" if self._is_set_up else f"run {steps} post no"
        try:
            self._engine.lammps.command(command)
        except Exception as error:  # LAMMPS raises plain Exception
            raise self._failure(steps, f"LAMMPS says '{lammps_message(error)}'") from None
        self._is_set_up = True
        self._steps += steps
        snapshot = self._snapshot()
        if not (math.isfinite(snapshot.energy) and np.isfinite(snapshot.positions).all()):
            raise self._failure(0, "the energy or the positions are not finite")
        return snapshot

    def _failure(self, steps: int, reason: str) -> CrystalError:
        self._failed = True
        return CrystalError(
            f"molecular dynamics failed by step {self._steps + steps}: {reason}; try a time step smaller than "
            f"{self._timestep:g}, and check that the crystal is stable at temperature {self._ensemble.temperature:g}"
        )

    def state(self) -> State:
        """The present state; everything but the noise to come and, of `fix npt`, its thermostat and barostat."""
        cell, origin = self._cell()
        return State(self._positions(cell), self._engine._gather("v"), cell, origin)

    def _snapshot(self) -> Snapshot:
        instance = self._engine._instance
        cell, origin = self._cell()
        pressure = float(self._engine.lammps.extract_compute(_PRESSURE, 0, 0))
        energy = instance.potential_energy()
        return Snapshot(self._positions(cell), energy, pressure, self._temperature(), cell, origin, self._steps)

    def _cell(self) -> tuple[Array, Array]:
        cell, origin = describe.box(self._engine.lammps)
        return self._combination @ cell, origin

    def _positions(self, cell: Array) -> Array:
        """Unwrapped positions, without the image flags that the script left."""
        return describe.unwrapped(self._engine._instance) - self._engine._offsets @ cell

    def _temperature(self) -> float:
        """Kinetic temperature.

        With noise, all 3 N degrees of freedom are at the temperature, and of the discrete scheme it is the velocities half a step
        before and after, v -+ dt f / 2 m, that have it exactly (in harmonic wells); their mean square is taken.
        """
        engine, mass = self._engine, self._masses[:, None]
        squares = mass * engine._gather("v") ** 2 * engine.units.mvv2e
        freedom = squares.size - 3
        if self._ensemble.stochastic:
            squares += (0.5 * self._timestep * engine._gather("f")) ** 2 / (mass * engine.units.mvv2e)
            freedom += 3
        return float(squares.sum() / (freedom * engine.units.boltzmann))


def _masses(engine: Engine) -> Array:
    """Mass of each atom ordered by id, shape [N], mass units."""
    if engine.lammps.extract_setting("rmass_flag"):
        return engine._gather("rmass")
    return np.asarray(engine.lammps.per_type("mass")[engine._gather("type")])
