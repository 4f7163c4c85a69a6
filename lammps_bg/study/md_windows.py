# SPDX-License-Identifier: GPL-2.0-or-later
"""Absolute free energy by molecular dynamics: lambda windows from springs to the crystal, joined by MBAR.

H(lambda) = (1 - lambda) U_springs + lambda U. Every frame keeps U_springs and U, so that all windows' energies of all frames follow
without another evaluation (Frenkel and Ladd, J. Chem. Phys. 81, 3188, 1984; Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.engine.ensembles import Canonical, Ensemble, Mixed
from lammps_bg.errors import RunDirectoryError
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.trajectory import Trajectory, TrajectoryFiles
from lammps_bg.study.md_job import Goal, Job, slowest
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.multistate import N_BOOTSTRAPS, Multistate, mbar
from lammps_bg.thermo.springs import SpringCrystal, stiffness_from_displacements
from lammps_bg.thermo.timeseries import evenly_spaced
from lammps_bg.thermo.windows import initial_windows, to_insert

Array = NDArray[np.float64]
_PILOT_FRAMES = 50  # independent frames that tell the width of a window
_FEW_BOOTSTRAPS = 100  # enough to see whether the windows are long enough
_SPARE = 1.2  # frames made for each frame that the error asks for: it is uncertain itself
_GROWTH = 4.0  # a round makes the windows at most so many times longer
_SPRINGS = "springs.json"


@dataclass(frozen=True)
class Window:
    """Independent frames of one lambda.

    Attributes:
        coupling: lambda, 0 for the springs and 1 for the crystal.
        springs: Energies of the springs, energy units, shape [n].
        energies: Potential energies, energy units, shape [n].
        displacements: Length units, shape [n, N, 3].
        n_sampled: Frames before decorrelation.
        inefficiency: Statistical inefficiency of the frames, in frames.
    """

    coupling: float
    springs: Array
    energies: Array
    displacements: Array
    n_sampled: int
    inefficiency: float

    def thinned(self, most: int) -> "Window":
        """This window with evenly spaced frames, at most so many.

        Args:
            most: Frames to keep.
        """
        kept = evenly_spaced(len(self.energies), most)
        arrays = {name: getattr(self, name)[kept] for name in ("springs", "energies", "displacements")}
        return replace(self, **arrays)


@dataclass(frozen=True)
class Windows:
    """All windows and what MBAR makes of them.

    Attributes:
        springs: The reference.
        windows: By rising lambda.
        joined: Free energies relative to the springs, the first state; the crystal is the last, without its static energy.
    """

    springs: SpringCrystal
    windows: list[Window]
    joined: Multistate


def crystal_goal(job: Job, n_frames: int) -> Goal:
    """The trajectory of the crystal itself, the window lambda = 1."""
    ensemble = Canonical(job.problem.temperature, job.settings.damp)
    return Goal(job.simulation(window_name(1.0), ensemble), n_frames, lambda frames: [frames.energies])


def sample_windows(job: Job) -> Windows:
    """Place the windows, sample them, and add more until neighbours overlap.

    Args:
        job: Settings and run directory.
    """
    crystal = crystal_goal(job, _PILOT_FRAMES)
    job.reach([crystal], "pilot")
    springs = _springs(job, crystal)
    couplings = sorted(initial_windows())
    for frames in (_PILOT_FRAMES, job.config.md.window_frames):
        couplings = _placed(job, springs, couplings, frames)
    job.console.say(f"windows    {len(couplings)} windows overlap with their neighbours")
    job.reach([crystal_goal(job, job.config.md.n_frames)], "crystal")
    return _precise(job, springs, couplings)


def _placed(job: Job, springs: SpringCrystal, couplings: list[float], n_frames: int) -> list[float]:
    """Windows added until neighbours overlap, each with so many independent frames."""
    while True:
        job.reach([_goal(job, springs, coupling, n_frames) for coupling in couplings if coupling > 0], "windows")
        found = [_window(job, springs, coupling, n_frames) for coupling in couplings]
        more = to_insert(couplings, [_work(job.problem, window) for window in found])
        if not more:
            return couplings
        couplings = sorted([*couplings, *more])


def _precise(job: Job, springs: SpringCrystal, couplings: list[float]) -> Windows:
    """Windows made longer until the free energy has its target error, or md.max_steps end them."""
    settings, n_frames, before = job.config.md, job.config.md.window_frames, 0
    while True:
        windows = [_window(job, springs, coupling, n_frames) for coupling in couplings]
        joined = join_windows(job.problem, springs, windows, seed=job.config.seed, n_bootstraps=_FEW_BOOTSTRAPS)
        error = joined.difference(0, -1).error / job.problem.crystal.n_sites
        total = sum(len(window.energies) for window in windows)
        job.console.say(f"windows    error {error:.2g} kT per atom with {total} independent frames in {len(windows)} windows")
        if error <= settings.target_error or total <= before:
            return Windows(springs, windows, join_windows(job.problem, springs, windows, seed=job.config.seed))
        before = total
        n_frames = math.ceil(n_frames * min(_GROWTH, _SPARE * (error / settings.target_error) ** 2))
        job.reach([_goal(job, springs, coupling, n_frames) for coupling in couplings if coupling > 0], "windows")


def reduced_energies(problem: Problem, springs: SpringCrystal, couplings: Array, windows: Sequence[Window]) -> Array:
    """Reduced energies of all frames in all windows, without lambda times the static energy, shape [K, n].

    Args:
        problem: Crystal and temperature.
        springs: The reference.
        couplings: lambda of each state, shape [K].
        windows: Where the frames come from.
    """
    spring = problem.beta * np.concatenate([window.springs for window in windows])
    crystal = problem.beta * (np.concatenate([window.energies for window in windows]) - problem.surface.static_energy)
    with np.errstate(invalid="ignore"):
        return np.stack([spring if c == 0 else (1 - c) * spring + c * crystal for c in couplings])


def join_windows(
    problem: Problem, springs: SpringCrystal, windows: Sequence[Window], *, seed: int, n_bootstraps: int = N_BOOTSTRAPS
) -> Multistate:
    """MBAR of all windows: free energies relative to the first, the springs; the last is the crystal without its static energy.

    Args:
        problem: Crystal and temperature.
        springs: The reference.
        windows: By rising lambda.
        seed: Seed of the bootstrap.
        n_bootstraps: Bootstrap resamplings.
    """
    u_kn = reduced_energies(problem, springs, np.array([window.coupling for window in windows]), windows)
    rngs = np.random.default_rng(seed).spawn(len(windows))
    return mbar(u_kn, [len(window.energies) for window in windows], rngs, n_bootstraps=n_bootstraps)


def crystal_integral(problem: Problem, springs: SpringCrystal, joined: Multistate) -> EstimateResult:
    """-ln Z_u of the crystal, from the exactly known integral of the springs and the windows between them.

    Args:
        problem: Crystal and temperature.
        springs: The reference.
        joined: From `join_windows`.
    """
    return joined.difference(0, -1).scaled(1.0, problem.beta * problem.surface.static_energy - springs.log_integral)


def window_name(coupling: float) -> str:
    """Name of a window's trajectory."""
    return f"lambda-{coupling:.6f}"


def _springs(job: Job, crystal: Goal) -> SpringCrystal:
    """Springs as soft as the crystal, one stiffness for each type; once chosen they stay."""
    sites = job.problem.crystal
    if parallel.first() and not job.run.file(_SPRINGS).exists():
        frames = _loaded(crystal)
        picked = frames.displacements[slowest(crystal.series(frames)).start :]
        squares = np.square(picked).sum(2).mean(0)
        values = {int(kind): float(squares[sites.types == kind].mean()) for kind in np.unique(sites.types)}
        stiff = {
            kind: float(stiffness_from_displacements(value, sites.n_sites, job.problem.beta)) for kind, value in values.items()
        }
        job.run.write_json(_SPRINGS, {"stiffness": {str(kind): value for kind, value in stiff.items()}})
    found = parallel.agreed(stored_springs(job.problem, job.run) if parallel.first() else None)
    if found is None:  # the first rank has made them
        raise RuntimeError("no springs")
    return found


def _goal(job: Job, springs: SpringCrystal, coupling: float, n_frames: int) -> Goal:
    if coupling == 1.0:
        return crystal_goal(job, n_frames)
    kinds = job.problem.crystal.types
    # types without atoms need a number, too
    stiffness = [
        float(springs.stiffness[kinds == kind].max(initial=1e-300)) for kind in range(1, len(job.problem.crystal.labels) + 1)
    ]
    ensemble: Ensemble = Mixed(job.problem.temperature, job.settings.damp, coupling, stiffness)

    def series(frames: Trajectory) -> list[Array]:
        return [frames.energies - springs.energies(frames.displacements)]

    return Goal(job.simulation(window_name(coupling), ensemble), n_frames, series)


def _window(job: Job, springs: SpringCrystal, coupling: float, n_frames: int) -> Window:
    return load_window(job.problem, job.folder, springs, coupling, n_exact=n_frames, seed=job.config.seed)


def load_window(problem: Problem, folder: Path, springs: SpringCrystal, coupling: float, *, n_exact: int, seed: int) -> Window:
    """The independent frames of a window; those of the springs alone are drawn exactly.

    Args:
        problem: Crystal and temperature.
        folder: Where the trajectories are.
        springs: The reference.
        coupling: lambda of the window.
        n_exact: Number of frames drawn where lambda is 0.
        seed: Seed of these.
    """
    if coupling == 0.0:
        drawn = springs.sample(n_exact, np.random.default_rng(seed))
        return Window(0.0, springs.energies(drawn), problem.surface.energies(drawn), drawn, n_exact, 1.0)
    frames = TrajectoryFiles(folder, window_name(coupling)).load()
    if frames is None:
        raise RunDirectoryError(
            f"expected frames of the window lambda = {coupling:g} in {folder}, got none; run `lammps-bg md --resume`"
        )
    found = slowest([frames.energies - springs.energies(frames.displacements)])
    picked = frames[found.indices]
    spring = springs.energies(picked.displacements)
    return Window(coupling, spring, picked.energies, picked.displacements, len(frames), found.inefficiency)


def stored_springs(problem: Problem, run: RunDirectory) -> SpringCrystal:
    """The springs that a run chose.

    Args:
        problem: Crystal and temperature.
        run: The run.
    """
    stiffness = {int(kind): value for kind, value in run.read_json(_SPRINGS)["stiffness"].items()}
    return SpringCrystal([stiffness[int(kind)] for kind in problem.crystal.types], problem.beta)


def _work(problem: Problem, window: Window) -> Array:
    """Work beta (U - U_springs) of a window's frames, without the static energy, shape [n]."""
    return np.asarray(problem.beta * (window.energies - problem.surface.static_energy - window.springs))


def _loaded(goal: Goal) -> Trajectory:
    frames = goal.simulation.files.load()
    if frames is None:  # reach() has been called before
        raise RuntimeError(f"no frames of {goal.simulation.files.name}")
    return frames
