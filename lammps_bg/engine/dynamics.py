# SPDX-License-Identifier: GPL-2.0-or-later
"""Molecular dynamics of an engine's crystal; afterwards the engine evaluates energies as before."""

import contextlib
import math
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine.ensembles import PREFIX, Ensemble, Facts
from lammps_bg.engine.evaluator import Loan
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.library import lammps_message
from lammps_bg.errors import CrystalError, StateError

_PRESSURE = f"{PREFIX}pressure"
_MAX_SEED = 900_000_000  # of LAMMPS' Marsaglia generator


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
        with contextlib.ExitStack() as stack:
            self._lammps = stack.enter_context(self._engine.borrowed())
            self._install()
            self._loan = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loan.close()

    # ---- the start

    def _install(self) -> None:
        """Put the atoms on the sites, where springs are fixed, define the ensemble, then go to the start."""
        lammps, start = self._lammps, self._start
        if start is not None:
            lammps.set_cell(start.cell, start.origin)
        if self._ensemble.triclinic:
            lammps.make_triclinic()
        lammps.hold()
        self._masses = _masses(lammps)
        facts = Facts(
            n_types=len(self._engine.structure.masses),
            seed=int(self._random.integers(1, _MAX_SEED)),
            has_gjf=lammps.library.has_style("fix", "gjf"),
        )
        for command in (
            f"timestep {self._timestep!r}",
            f"compute {_PRESSURE} all pressure NULL virial",
            *self._ensemble.commands(facts),
        ):
            lammps.command(command)
        lammps.tally(f"c_{_PRESSURE}")
        if start is None:
            lammps.write_velocities(self._drawn_velocities())
        else:
            lammps.write_positions(start.positions)
            lammps.write_velocities(start.velocities)

    def _drawn_velocities(self) -> Array:
        """Velocities without total momentum at twice the temperature: half goes into the potential energy of the sites."""
        units, mass = self._engine.units, self._masses[:, None]
        deviation = np.sqrt(2.0 * units.boltzmann * self._ensemble.temperature / (mass * units.mvv2e))
        velocities = deviation * self._random.standard_normal((len(mass), 3))
        return np.asarray(velocities - (mass * velocities).sum(axis=0) / mass.sum())

    # ---- the run

    def run(self, steps: int) -> Snapshot:
        """Go on for a number of steps.

        Raises:
            CrystalError: The run became unstable.
        """
        if self._failed:
            raise CrystalError("expected a stable run of molecular dynamics, but this one failed before; start another one")
        command = f"run {steps} pre no post no" if self._is_set_up else f"run {steps} post no"
        try:
            self._lammps.library.command(command)
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
        cell, origin = self._lammps.cell()
        return State(self._lammps.positions(cell), self._lammps.gather("v"), cell, origin)

    def _snapshot(self) -> Snapshot:
        lammps = self._lammps
        cell, origin = lammps.cell()
        pressure = float(lammps.library.extract_compute(_PRESSURE, 0, 0))
        return Snapshot(lammps.positions(cell), lammps.energy(), pressure, self._temperature(), cell, origin, self._steps)

    def _temperature(self) -> float:
        """Kinetic temperature.

        With noise, all 3 N degrees of freedom are at the temperature, and of the discrete scheme it is the velocities half a step
        before and after, v -+ dt f / 2 m, that have it exactly (in harmonic wells); their mean square is taken.
        """
        units, mass = self._engine.units, self._masses[:, None]
        squares = mass * self._lammps.gather("v") ** 2 * units.mvv2e
        freedom = squares.size - 3
        if self._ensemble.stochastic:
            squares += (0.5 * self._timestep * self._lammps.gather("f")) ** 2 / (mass * units.mvv2e)
            freedom += 3
        return float(squares.sum() / (freedom * units.boltzmann))


def _masses(lammps: Loan) -> Array:
    """Mass of each atom ordered by id, shape [N], mass units."""
    if lammps.library.extract_setting("rmass_flag"):
        return lammps.gather("rmass")
    return np.asarray(lammps.library.per_type("mass")[lammps.gather("type")])
