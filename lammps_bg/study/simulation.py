# SPDX-License-Identifier: GPL-2.0-or-later
"""One trajectory of molecular dynamics that can be made longer, in chunks between which signals act."""

import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lammps_bg.config import MdConfig
from lammps_bg.engine.dynamics import Dynamics, Snapshot
from lammps_bg.engine.ensembles import Ensemble
from lammps_bg.errors import CrystalError
from lammps_bg.interrupt import StopFlag
from lammps_bg.store.trajectory import Trajectory, TrajectoryFiles
from lammps_bg.study.problem import Problem

log = logging.getLogger(__name__)
_BLOCK_SECONDS = 30.0
_DAMP, _PRESSURE_DAMP = 100, 1000  # time steps, as LAMMPS' documentation recommends
# LAMMPS' default time steps that no atom stands, time units of the style; and what replaces them, over the highest frequency
_FOR_LARGE_PARTICLES = {"si": 1e-8, "cgs": 1e-8, "micro": 2.0}
_STEP, _ITERATIONS = 0.1, 12
_EXPLODED = 0.5  # root-mean-square displacement in nearest-neighbour distances that no crystal has


@dataclass(frozen=True)
class MdSettings:
    """Time step, damping and sampling interval with every default filled in.

    Attributes:
        timestep: Time units.
        damp: Of the thermostat, time units.
        pressure_damp: Of the barostat, time units.
        sample_every: Steps between frames.
    """

    timestep: float
    damp: float
    pressure_damp: float
    sample_every: int

    @classmethod
    def resolved(cls, config: MdConfig, problem: Problem) -> "MdSettings":
        """The settings a configuration asks for.

        Args:
            config: The configuration.
            problem: The crystal, with the script's time step.
        """
        timestep = config.timestep or _script_timestep(problem)
        damp = config.damp or _DAMP * timestep
        every = config.sample_every or max(1, round(0.5 * damp / timestep))
        return cls(timestep, damp, config.pressure_damp or _PRESSURE_DAMP * timestep, every)


def _script_timestep(problem: Problem) -> float:
    """The script's time step; where it sets none and LAMMPS' own is one for large particles, one for this crystal, time units."""
    units = problem.units
    if units.timestep != _FOR_LARGE_PARTICLES.get(units.name):
        return units.timestep
    timestep = _STEP / _fastest(problem)
    log.warning(
        "the script sets no timestep, and LAMMPS' default of `units %s`, %g %s, is made for large particles; %.3g %s is used, %g over the "
        "highest angular frequency; `timestep` in the script or --set md.timestep sets another",
        units.name, units.timestep, units.labels.time, timestep, units.labels.time, _STEP,
    )  # fmt: skip
    return timestep


def _fastest(problem: Problem) -> float:
    """Highest angular frequency of the crystal, by power iteration on finite differences of the forces, per time unit."""
    crystal, step = problem.crystal, 1e-3 * problem.crystal.nearest_distance
    mass = (crystal.masses[crystal.types - 1] * problem.units.mvv2e)[:, None]
    mode, square = np.random.default_rng(0).standard_normal((crystal.n_sites, 3)), 0.0
    for _ in range(_ITERATIONS):
        mode = mode / np.linalg.norm(mode)
        u = mode / np.sqrt(mass / mass.mean())
        u = step * u / np.abs(u).max()
        plus, minus = problem.surface(np.stack([u, -u]))[1]
        change = (minus - plus) / 2 / np.sqrt(mass)
        square = float(np.linalg.norm(change) / np.linalg.norm(u * np.sqrt(mass)))
        mode = change
    if not 0 < square < math.inf:
        raise CrystalError("expected forces that bring displaced atoms back, got none; check potential, density and units")
    return math.sqrt(square)


class Simulation:
    """A trajectory in a run directory.

    Attributes:
        files: Its blocks on disk.

    Args:
        problem: Crystal and temperature.
        ensemble: What LAMMPS samples.
        settings: Time step and sampling interval.
        folder: Where the blocks go.
        name: Name of the trajectory.
        seed: With the name and the step that it is continued from it decides the random numbers.
    """

    def __init__(self, problem: Problem, ensemble: Ensemble, settings: MdSettings, folder: Path, *, name: str, seed: int) -> None:
        self.files = TrajectoryFiles(folder, name)
        self._problem, self._ensemble, self._settings, self._seed = problem, ensemble, settings, seed

    def extend(self, n_frames: int, stop: StopFlag, tick: Callable[[], None]) -> None:
        """Make the trajectory longer.

        Args:
            n_frames: Frames to add.
            stop: Set by signals; what was made until then is on disk.
            tick: Called after each frame.

        Raises:
            Interrupted: A signal came.
            CrystalError: The crystal melted, or LAMMPS lost it.
        """
        every, first, started = self._settings.sample_every, self.files.last_step, time.monotonic()
        snapshots: list[Snapshot] = []
        engine, timestep, start = self._problem.engine, self._settings.timestep, self.files.state()
        with Dynamics(engine, self._ensemble, timestep=timestep, seed=self._seed_from(first), start=start) as dynamics:
            for _ in range(n_frames):
                snapshots.append(dynamics.run(every))
                tick()
                stopped = bool(stop)
                if stopped or time.monotonic() - started > _BLOCK_SECONDS:
                    self.files.append(self._frames(snapshots, first), dynamics.state())
                    first, started, snapshots = first + every * len(snapshots), time.monotonic(), []
                if stopped:
                    stop.check("the trajectory so far is saved; continue with --resume")
            if snapshots:
                self.files.append(self._frames(snapshots, first), dynamics.state())

    def _seed_from(self, step: int) -> int:
        """A LAMMPS seed of its own for each trajectory and continuation."""
        digest = hashlib.sha256(f"{self._seed}/{self.files.name}/{step}".encode()).digest()
        return int.from_bytes(digest[:4], "little") % 900_000_000 + 1

    def _frames(self, snapshots: list[Snapshot], first: int) -> Trajectory:
        crystal, every = self._problem.crystal, self._settings.sample_every
        steps = first + every * np.arange(1, len(snapshots) + 1)
        displacements = np.stack([crystal.displacements(shot.positions[crystal.atom_ids - 1], shot.cell) for shot in snapshots])
        rms = float(np.sqrt(np.square(displacements[-1]).sum(1).mean()))
        if not rms < _EXPLODED * crystal.nearest_distance:
            raise CrystalError(
                f"expected atoms that stay on their sites, got a root-mean-square displacement of {rms:.3g} "
                f"{self._problem.units.labels.length} ({rms / crystal.nearest_distance:.2f} nearest-neighbour distances) in the MD: "
                "the crystal has melted or the time step is too long; lower T or --set md.timestep"
            )
        columns = [[getattr(shot, name) for shot in snapshots] for name in ("energy", "virial_pressure", "temperature", "cell")]
        return Trajectory(steps, displacements, *(np.array(column, dtype=np.float64) for column in columns))
