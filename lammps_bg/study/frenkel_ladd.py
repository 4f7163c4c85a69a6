# SPDX-License-Identifier: GPL-2.0-or-later
"""Absolute free energy by molecular dynamics: lambda windows from springs to the crystal, joined by MBAR.

H(lambda) = (1 - lambda) U_springs + lambda U. Every frame keeps U_springs and U, so that all windows' energies of all frames follow
without another evaluation (Frenkel and Ladd, J. Chem. Phys. 81, 3188, 1984; Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008).

    found = frenkel_ladd(MDSetup.of(problem, "mbar", MdConfig(target_error=1e-3)))
    found.free_energy, found.verdict
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lammps_bg.engine.ensembles import FrenkelLadd
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.study.md import MDJob, MDRecorder, MDResult, MDSetup, Simulation
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult, absolute_from_difference
from lammps_bg.thermo.multistate import N_BOOTSTRAPS, Multistate, mbar
from lammps_bg.thermo.springs import SpringCrystal, stiffness_from_displacements
from lammps_bg.thermo.timeseries import evenly_spaced, slowest
from lammps_bg.thermo.trajectory import Trajectory
from lammps_bg.thermo.verdict import Verdict
from lammps_bg.thermo.windows import initial_windows, to_insert

Array = NDArray[np.float64]
_PILOT_FRAMES = 50  # independent frames that tell the width of a window
_FEW_BOOTSTRAPS = 100  # enough to see whether the windows are long enough
_SPARE = 1.2  # frames made for each frame that the error asks for: it is uncertain itself
_GROWTH = 4.0  # a round makes the windows at most so many times longer


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

    @classmethod
    def of(cls, springs: SpringCrystal, coupling: float, frames: Trajectory) -> "Window":
        """The independent frames of a window's trajectory."""
        found = slowest([frames.energies - springs.energies(frames.displacements)])
        picked = frames[found.indices]
        spring = springs.energies(picked.displacements)
        return cls(coupling, spring, picked.energies, picked.displacements, len(frames), found.inefficiency)

    @classmethod
    def of_springs(cls, problem: Problem, springs: SpringCrystal, n: int, seed: int) -> "Window":
        """Frames of the springs alone, lambda = 0, drawn exactly."""
        drawn = springs.sample(n, np.random.default_rng(seed))
        return cls(0.0, springs.energies(drawn), problem.surface.energies(drawn), drawn, n, 1.0)

    def thinned(self, most: int) -> "Window":
        """This window with evenly spaced frames, at most so many."""
        kept = evenly_spaced(len(self.energies), most)
        arrays = {name: getattr(self, name)[kept] for name in ("springs", "energies", "displacements")}
        return replace(self, **arrays)


@dataclass(frozen=True, repr=False)
class FrenkelLaddResult:
    """All windows and what MBAR makes of them.

    Attributes:
        md: Of the crystal itself.
        springs: The reference.
        windows: By rising lambda.
        joined: Free energies relative to the springs, the first state; the crystal is the last, without its static energy.
    """

    md: MDResult
    springs: SpringCrystal
    windows: tuple[Window, ...]
    joined: Multistate

    @cached_property
    def free_energy(self) -> EstimateResult:
        """Beta F / N with the terms of the convention, the work of the windows in place of the flow's."""
        problem = self.md.setup.problem
        crystal, static = problem.crystal, problem.beta * problem.surface.static_energy
        known = CrystalReference(static, self.springs.log_integral, crystal.n_sites, crystal.volume, problem.length_scale)
        found = absolute_from_difference(crystal_integral(problem, self.springs, self.joined), known)
        return replace(found, terms={"lambda_windows" if name == "flow" else name: term for name, term in found.terms.items()})

    @cached_property
    def verdict(self) -> Verdict:
        """What to think of it."""
        return self.md.judged(float(self.joined.neighbour_overlaps.min()))

    def __repr__(self) -> str:
        free, verdict = self.free_energy, self.verdict
        return f"beta F/N = {free.value:.5f} +- {free.error:.5f}; {verdict.colour}: {' '.join(verdict.reasons)}"


def frenkel_ladd(
    setup: MDSetup,
    *,
    recorder: MDRecorder | None = None,
    reporter: Reporter = SILENT,
    stop: StopFlag | None = None,
) -> FrenkelLaddResult:
    """Place the windows, sample them, add more until neighbours overlap, and go on until the free energy has its target error.

    Args:
        setup: What is simulated, in the mode mbar.
        recorder: Where trajectories are kept; None: in memory.
        reporter: Told how far it is.
        stop: Set by signals; None: nothing stops it.

    Raises:
        CrystalError: The crystal melted or transformed, or its atoms hop.
        Interrupted: A signal came; the recorder has the frames.
    """
    return _Windows(MDJob(setup, recorder, reporter, stop)).result()


class _Windows:
    """The windows of one crystal while they are made."""

    def __init__(self, job: MDJob) -> None:
        self._job, self._problem, self._seed, self._options = job, job.setup.problem, job.setup.seed, job.setup.options
        self._crystal = job.simulation(window_name(1.0))
        job.reach([self._crystal], _PILOT_FRAMES, "pilot")
        self._springs = springs_of(job.recorder.springs(self._measured), self._problem)

    def result(self) -> FrenkelLaddResult:
        """All windows, long enough."""
        couplings = sorted(initial_windows())
        for frames in (_PILOT_FRAMES, self._options.window_frames):
            couplings = self._placed(couplings, frames)
        self._job.reporter.say(f"windows    {len(couplings)} windows overlap with their neighbours")
        self._job.reach([self._crystal], self._options.n_frames, "crystal")
        windows = self._precise(couplings)
        joined = join_windows(self._problem, self._springs, windows, seed=self._seed)
        md = MDResult.of(self._job.setup, [self._crystal.frames])
        return FrenkelLaddResult(md, self._springs, tuple(windows), joined)

    def _simulation(self, coupling: float) -> Simulation:
        """The trajectory of a window."""
        if coupling == 1.0:
            return self._crystal
        crystal, springs = self._problem.crystal, self._springs
        # types without atoms need a number, too
        stiffness = [
            float(springs.stiffness[crystal.types == kind].max(initial=1e-300)) for kind in range(1, len(crystal.labels) + 1)
        ]
        ensemble = FrenkelLadd(self._problem.temperature, self._job.setup.settings.damp, coupling, stiffness)

        def series(frames: Trajectory) -> list[Array]:
            return [frames.energies - springs.energies(frames.displacements)]

        return self._job.simulation(window_name(coupling), ensemble, series)

    def _measured(self) -> dict[int, float]:
        """Spring constants of each atom type, under which its atoms move as far as in the crystal."""
        frames, sites = self._crystal.frames, self._problem.crystal
        picked = frames.displacements[slowest(self._job.setup.series(frames)).start :]
        squares = np.square(picked).sum(2).mean(0)
        values = {int(kind): float(squares[sites.types == kind].mean()) for kind in np.unique(sites.types)}
        return {
            kind: float(stiffness_from_displacements(value, sites.n_sites, self._problem.beta)) for kind, value in values.items()
        }

    def _sampled(self, couplings: Sequence[float], n_frames: int) -> list[Window]:
        """The windows with so many independent frames each."""
        self._job.reach([self._simulation(coupling) for coupling in couplings if coupling > 0], n_frames, "windows")
        return self._loaded(couplings, n_frames)

    def _loaded(self, couplings: Sequence[float], n_frames: int) -> list[Window]:
        """The windows as far as they got."""
        return [
            Window.of(self._springs, coupling, self._simulation(coupling).frames)
            if coupling
            else Window.of_springs(self._problem, self._springs, n_frames, self._seed)
            for coupling in couplings
        ]

    def _placed(self, couplings: list[float], n_frames: int) -> list[float]:
        """Windows added until neighbours overlap, each with so many independent frames."""
        while True:
            found = self._sampled(couplings, n_frames)
            more = to_insert(couplings, [_work(self._problem, window) for window in found])
            if not more:
                return couplings
            couplings = sorted([*couplings, *more])

    def _precise(self, couplings: list[float]) -> list[Window]:
        """Windows made longer until the free energy has its target error, or md.max_steps end them."""
        target, n_frames, before = self._options.target_error, self._options.window_frames, 0
        windows = self._loaded(couplings, n_frames)
        while True:
            joined = join_windows(self._problem, self._springs, windows, seed=self._seed, n_bootstraps=_FEW_BOOTSTRAPS)
            error = joined.difference(0, -1).error / self._problem.crystal.n_sites
            total = sum(len(window.energies) for window in windows)
            self._job.reporter.say(
                f"windows    error {error:.2g} kT per atom with {total} independent frames in {len(windows)} windows"
            )
            if error <= target or total <= before:
                return windows
            before = total
            n_frames = math.ceil(n_frames * min(_GROWTH, _SPARE * (error / target) ** 2))
            windows = self._sampled(couplings, n_frames)


def springs_of(stiffness: Mapping[int, float], problem: Problem) -> SpringCrystal:
    """The crystal on springs."""
    return SpringCrystal([stiffness[int(kind)] for kind in problem.crystal.types], problem.beta)


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
    """MBAR of all windows: free energies relative to the first, the springs; the last is the crystal without its static energy."""
    u_kn = reduced_energies(problem, springs, np.array([window.coupling for window in windows]), windows)
    rngs = np.random.default_rng(seed).spawn(len(windows))
    return mbar(u_kn, [len(window.energies) for window in windows], rngs, n_bootstraps=n_bootstraps)


def crystal_integral(problem: Problem, springs: SpringCrystal, joined: Multistate) -> EstimateResult:
    """-ln Z_u of the crystal, from the exactly known integral of the springs and the windows between them (`join_windows`)."""
    return joined.difference(0, -1).scaled(1.0, problem.beta * problem.surface.static_energy - springs.log_integral)


def window_name(coupling: float) -> str:
    """Name of a window's trajectory."""
    return f"lambda-{coupling:.6f}"


def _work(problem: Problem, window: Window) -> Array:
    """Work beta (U - U_springs) of a window's frames, without the static energy, shape [n]."""
    return np.asarray(problem.beta * (window.energies - problem.surface.static_energy - window.springs))
