# SPDX-License-Identifier: GPL-2.0-or-later
"""Trajectories of one `lammps-bg md`: made longer until they hold the independent frames asked for, shared out among MPI ranks."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.engine.ensembles import Ensemble
from lammps_bg.errors import Interrupted
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.trajectory import Trajectory
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import say_shares
from lammps_bg.study.simulation import MdSettings, Simulation
from lammps_bg.thermo.timeseries import Decorrelated, decorrelate
from lammps_bg.thermo.weights import EstimateError

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
Series = Callable[[Trajectory], Sequence[Array]]
_SPARE = 1.1  # frames made for each frame expected to be needed
_FIRST = 20  # frames more in the first round, for equilibration
_GROWTH = 4  # a round makes a trajectory at most so many times longer: early inefficiencies are uncertain


@dataclass(frozen=True)
class Goal:
    """A trajectory and how many independent frames it shall have.

    Attributes:
        simulation: The trajectory.
        n_frames: Independent frames wanted.
        series: Its time series that have to decorrelate, each of shape [n]; the slowest decides.
    """

    simulation: Simulation
    n_frames: int
    series: Series


@dataclass
class Job:
    """What all trajectories of one command share.

    Attributes:
        problem: Crystal and temperature.
        config: The configuration.
        settings: Time step, damping, sampling interval.
        run: The run directory.
        console: Where to report.
        stop: Set by signals.
    """

    problem: Problem
    config: Config
    settings: MdSettings
    run: RunDirectory
    console: Console
    stop: StopFlag

    @property
    def folder(self) -> Path:
        """Where the trajectories are."""
        return self.run.file("trajectories")

    def simulation(self, name: str, ensemble: Ensemble) -> Simulation:
        """The trajectory of a name, new or as far as it got.

        Args:
            name: Name of its files.
            ensemble: What LAMMPS samples.
        """
        return Simulation(self.problem, ensemble, self.settings, self.folder, name=name, seed=self.config.seed)

    def reach(self, goals: Sequence[Goal], stage: str) -> None:
        """Make trajectories longer until each has its independent frames or md.max_steps are done.

        Args:
            goals: What is wanted, the same on every rank.
            stage: Name of the work, for the progress line.
        """
        # file systems of other nodes may lag behind, and all ranks have to share out the same work
        while any(missing := parallel.agreed([self._missing(goal) for goal in goals])):
            mine = parallel.share([(goal, n) for goal, n in zip(goals, missing, strict=True) if n])
            say_shares(self.console, f"{stage} of molecular dynamics", "trajectories", sum(n > 0 for n in missing))
            total, done = sum(n for _, n in mine), 0
            with self.console.stage(stage) as bar:

                def tick() -> None:
                    nonlocal done
                    done += 1
                    eta = bar.update(done / total, f"{done} of {total} frames")  # noqa: B023
                    if done % 50 == 0:
                        self.run.write_status(stage, step=done, percent=100 * done / total, eta_seconds=eta)  # noqa: B023

                self._extend(mine, tick)

    def _extend(self, mine: Sequence[tuple[Goal, int]], tick: Callable[[], None]) -> None:
        """This rank's share of a round; where a signal stops one rank, all stop when all have saved their frames."""
        stopped = None
        try:
            for goal, n in mine:
                goal.simulation.extend(n, self.stop, tick)
        except Interrupted as error:
            stopped = error
        code = parallel.meet(stopped.exit_code if stopped else 0, lambda: bool(self.stop))
        if stopped:
            raise stopped
        self.stop.check("the trajectories so far are saved; continue with --resume")  # also where the others stayed away
        if code:
            raise Interrupted("stopped with another MPI rank; the trajectories so far are saved; continue with --resume", code)

    def _missing(self, goal: Goal) -> int:
        """Frames to add in this round."""
        frames = goal.simulation.files.load()
        if frames is None:
            return min(math.ceil(_SPARE * goal.n_frames) + _FIRST, self.config.md.max_steps // self.settings.sample_every)
        left = (self.config.md.max_steps - int(frames.steps[-1])) // self.settings.sample_every
        try:
            found = slowest(goal.series(frames))
            wanted = math.ceil(_SPARE * (goal.n_frames - found.n_independent) * found.inefficiency)
        except EstimateError:
            wanted = len(frames)
        if wanted > 0 and left <= 0:
            log.warning(
                "%s ends at md.max_steps = %d with fewer than %d independent frames",
                goal.simulation.files.name, self.config.md.max_steps, goal.n_frames,
            )  # fmt: skip
        return max(0, min(wanted, (_GROWTH - 1) * len(frames), left))


def slowest(series: Sequence[Array]) -> Decorrelated:
    """The decorrelation of the series that leaves the fewest independent frames.

    Args:
        series: Of one trajectory, each of shape [n].

    Raises:
        EstimateError: One of them is too short, constant or not finite.
    """
    return min((decorrelate(values, minimum=1) for values in series), key=lambda found: found.n_independent)
