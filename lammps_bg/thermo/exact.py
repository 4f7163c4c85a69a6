# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact ensembles and free energies: chains at couplings between the flow and the crystal, joined by MBAR.

All windows are densities of the same white noise (`chains`), pi_k ~ exp(-|x|^2 / 2 + lambda_k log w), so that the log-weights alone
are their reduced potentials, u_k(x) = -lambda_k log w(x), and -ln Z_u = f(1) - f(0). The window lambda = 0 is the flow: independent draws.
The others are placed one after the other where the width of log w says that neighbours overlap, and only as many as are needed.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.thermo.chains import Chains, Latent, StepRecord, block_size
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.multistate import Multistate, mbar
from lammps_bg.thermo.quiet_pymbar import quiet_pymbar
from lammps_bg.thermo.repeats import t_factor
from lammps_bg.thermo.timeseries import inefficiency
from lammps_bg.thermo.two_sided import overlap
from lammps_bg.thermo.verdict import RED_OVERLAP, RELIABLE, Colour, Verdict
from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]
LEAST_OVERLAP = 0.3
"""Neighbouring windows overlap by so much, or get another one between them."""
_WIDEST_GAP = 2.4  # between two normal densities of equal width, in their widths: an overlap of 0.33
_TUNING, _RETUNING, _FIRST_STEPS = (
    8,
    4,
    8,
)  # steps: of the first window, of further ones, and those that count before anything is decided
_GROWTH = (1.3, 3.0)  # least and largest factor by which the steps grow at a time
_MOST_WINDOWS = 64
_MIXED, _UNMIXED = 1.1, 1.3  # split-R-hat of long chains: up to here they agree, and from here on they do not
_FORGETFUL = 4.0  # steps after which a chain may have forgotten where it was, for short chains to count as agreeing
_FEWEST = 50.0  # independent samples of the crystal that a number rests on
_HOP, _HOPS = 0.5, 0.01  # nearest-neighbour distances that are a hop, and the share of samples with one that is too much
_SAFETY = 1.05  # the error aimed at is smaller by this factor


@dataclass(frozen=True)
class ExactBudget:
    """When to stop.

    Attributes:
        target_error: Standard error of beta F / N, kT per atom.
        max_seconds: Wall-clock time; inf: no limit.
        max_evaluations: Energies of the chains on all ranks; inf: no limit.
        n_independent: Independent samples of the crystal that are wanted, too.
    """

    target_error: float
    max_seconds: float = math.inf
    max_evaluations: float = math.inf
    n_independent: int = 0


@dataclass
class Window:
    """One coupling with what its chains gave.

    Attributes:
        chains: The chains.
        wanted: Steps that count, to be made.
        records: Steps that count, in order.
        tuning: Steps of the tuning left.
        n_infinite: Proposals without a finite energy.
    """

    chains: Chains
    wanted: int
    tuning: int
    records: list[StepRecord] = field(default_factory=list)
    n_infinite: int = 0

    @property
    def coupling(self) -> float:
        """Lambda."""
        return self.chains.coupling

    def step(self) -> bool:
        """One step of its chains; whether it counts, and is not one of the tuning."""
        if self.tuning:
            self.chains.tune()
            self.tuning -= 1
            if not self.tuning:
                self.chains.end_tuning()
            return False
        self.records.append(self.chains.advance())
        self.n_infinite += int(self.records[-1].infinite.sum())
        return True

    def series(self, name: str) -> Array:
        """A quantity of the steps that count, shape [steps, chains]."""
        return np.array([getattr(record, name) for record in self.records])


@dataclass(frozen=True)
class WindowSummary:
    """What is told of a window.

    Attributes:
        coupling: lambda.
        n_samples: Samples, of all chains.
        n_steps: Steps of each chain that count; 1 for draws.
        step: Angle of one rotation; 0 for draws.
        leaps: Energies of one step; 1 for draws.
        acceptance: Mean; 1 for draws.
        inefficiency: Statistical inefficiency, the largest of log w, energy and softest mode, in steps; 1 for draws.
        r_hat: Split-R-hat over the chains, the largest of the three; None for draws.
        std_log_w: Standard deviation of log w.
        n_infinite: Proposals, or draws, without a finite energy.
    """

    coupling: float
    n_samples: int
    n_steps: int
    step: float
    leaps: int
    acceptance: float
    inefficiency: float
    r_hat: float | None
    std_log_w: float
    n_infinite: int

    @property
    def disagreement(self) -> float:
        """Split-R-hat over what short chains of independent starts may have, at least 1.1: above one the chains do not agree.

        Halves of n steps that forget in g of them have R-hat^2 = 1 + (g - 1) / n, however well they mix.
        """
        allowed = max(_MIXED, math.sqrt(1.0 + (_FORGETFUL - 1.0) / max(1, self.n_steps // 2)))
        return (self.r_hat or 1.0) / allowed


@dataclass(frozen=True)
class ExactResult:
    """What the chains say of a crystal.

    Attributes:
        difference: -ln Z_u with its error.
        joined: MBAR over all windows, draws first.
        windows: Their summaries, draws first.
        log_w: Log-weights of the samples of the crystal, shape [steps, chains].
        energies: Their potential energies, shape [steps, chains].
        analytic_error: Error of -ln Z_u that MBAR's covariance gives for decorrelated samples; `difference` has the larger of this and the
            bootstrap's over chains.
        evaluations: Energies spent by the chains, on all ranks.
        verdict: What to think of it.
    """

    difference: EstimateResult
    joined: Multistate
    windows: tuple[WindowSummary, ...]
    log_w: Array
    energies: Array
    analytic_error: float
    evaluations: int
    verdict: Verdict

    @property
    def mixed(self) -> bool:
        """Whether the chains of every window agree, and there are enough independent samples of the crystal."""
        return are_mixed(self.windows)

    @property
    def top(self) -> WindowSummary:
        """The window of the crystal itself."""
        return self.windows[-1]

    @property
    def n_independent(self) -> float:
        """Independent samples of the crystal."""
        return self.top.n_samples / self.top.inefficiency

    @property
    def evaluations_per_sample(self) -> float:
        """Energies for an independent sample of the crystal, after the tuning."""
        return self.top.leaps * self.top.inefficiency


Frames = Callable[[int, Array | None], None]


class Ladder:
    """Chains on a ladder of couplings, until the error that is wanted, or the budget, is reached.

    Everything that decides what is done next follows from the numbers of all chains, which every MPI rank knows.

    Attributes:
        windows: Those of the chains, lambda rising.
        evaluations: Energies spent, on all ranks.

    Args:
        latent: The density.
        draws: Log-weights of independent draws of the flow, shape [n].
        n_chains: Chains of a window; rounded up to whole blocks.
        nearest_distance: Of two atoms, length units.
        seed: Seed of all random numbers.
    """

    def __init__(self, latent: Latent, draws: Array, *, n_chains: int, nearest_distance: float, seed: int) -> None:
        size = block_size(latent.n_sites)
        self._latent, self._draws, self._seed = latent, np.asarray(draws, dtype=np.float64), seed
        self.n_chains = size * -(-n_chains // size)
        self.windows: list[Window] = []
        self.evaluations = 0
        self._nearest = nearest_distance
        self._seconds = 0.0
        self._joined: tuple[int, ExactResult] | None = None

    # ---- running

    def run(
        self,
        budget: ExactBudget,
        *,
        tick: Callable[["Ladder", float], bool] = lambda ladder, progress: False,
        frames: Frames | None = None,
    ) -> None:
        """Make steps until the error is reached, the budget is spent, or `tick` says stop.

        Args:
            budget: When to stop.
            tick: Called after each step with this ladder and the progress from 0 to 1; true stops it, on all ranks.
            frames: Given the index of each step of the crystal that counts and, on the first rank, the displacements of all chains,
                length units, shape [n, N, 3].
        """
        began, earlier = time.monotonic(), self._seconds
        while True:
            window = self._next(budget)
            if window is None:
                return
            self._advance(window, frames)
            self._seconds = earlier + time.monotonic() - began
            if tick(self, self._progress(budget)) or self._spent(budget):
                return

    def _advance(self, window: Window, frames: Frames | None) -> None:
        self.evaluations += window.chains.leaps * self.n_chains
        if window.step() and frames is not None and window.coupling == 1.0:
            frames(len(window.records) - 1, window.chains.displacements())

    def _next(self, budget: ExactBudget) -> Window | None:
        """The window that makes the next step; None where the error is reached."""
        while True:
            for window in self.windows:
                if window.tuning or len(window.records) < window.wanted:
                    return window
            if not self._extended(budget):
                return None

    def _extended(self, budget: ExactBudget) -> bool:
        """Ask for another window or more steps; false where nothing is left to do."""
        if not self.windows or self.windows[-1].coupling < 1.0:
            self._add(len(self.windows), self._next_coupling())
            return True
        if len(self.windows) < _MOST_WINDOWS and (gap := self._widest_gap()) is not None:
            couplings = [0.0, *(window.coupling for window in self.windows)]
            self._add(gap, 0.5 * (couplings[gap] + couplings[gap + 1]))
            return True
        found = self.result()
        error = found.difference.error / self._latent.n_sites * _SAFETY
        lacking = budget.n_independent / self._spaced(found.top) if budget.n_independent else 0.0
        if error <= budget.target_error and found.mixed and lacking <= 1.0:
            return False
        growth = min(max((error / budget.target_error) ** 2, lacking, _GROWTH[0]), _GROWTH[1])
        for window in self.windows:
            window.wanted = math.ceil(growth * window.wanted)
        return True

    def _spaced(self, top: WindowSummary) -> int:
        """Samples of the crystal whose steps are a whole number of inefficiencies apart, which may be a power of two."""
        apart = 2 ** max(0, math.ceil(math.log2(top.inefficiency)))
        return self.n_chains * max(1, top.n_steps // apart)

    def _add(self, place: int, coupling: float) -> None:
        """A new window, whose chains start where those of the next lower one stand."""
        if place:
            chains, tuning = self.windows[place - 1].chains.at(coupling), _RETUNING
        else:
            chains, tuning = Chains.from_draws(self._latent, coupling, self.n_chains, seed=self._seed), _TUNING
            self.evaluations += self.n_chains
        wanted = max((window.wanted for window in self.windows), default=_FIRST_STEPS)
        self.windows.insert(place, Window(chains, wanted, tuning))

    def _next_coupling(self) -> float:
        """The next coupling above the last: as far as the width of log w there lets neighbours overlap."""
        last = self.windows[-1].coupling if self.windows else 0.0
        log_w = self.windows[-1].series("log_w").ravel() if self.windows else self._draws
        log_w = log_w[np.isfinite(log_w)]
        if len(log_w) < 2:
            raise EstimateError(
                f"expected chains and draws with finite energies, got {len(log_w)} at lambda = {last:.3g}; use base.kind=phonon, a lower "
                "temperature, or another density"
            )
        left = (1.0 - last) * _width(log_w) / _WIDEST_GAP
        return 1.0 if left <= 1.0 else last + (1.0 - last) / math.ceil(left)

    def _widest_gap(self) -> int | None:
        """Place of the two neighbours that overlap least, if by too little."""
        overlaps = [overlap(*pair) for pair in self._neighbours()]
        least = int(np.argmin(overlaps))
        return least if overlaps[least] < LEAST_OVERLAP else None

    def _neighbours(self) -> list[tuple[Array, Array]]:
        """Differences of the reduced potentials of neighbours, of the samples of the lower and of the upper one."""
        couplings = [0.0, *(window.coupling for window in self.windows)]
        samples = [self._draws, *(window.series("log_w").ravel() for window in self.windows)]
        widths = np.diff(couplings)
        return [(width * low, width * high) for width, low, high in zip(widths, samples[:-1], samples[1:], strict=True)]

    def _spent(self, budget: ExactBudget) -> bool:
        over = self._seconds >= budget.max_seconds or self.evaluations >= budget.max_evaluations
        return bool(parallel.agreed(over))

    def _progress(self, budget: ExactBudget) -> float:
        """Share of the work that is done, from 0 to 1: of the steps asked for so far, or of the budget."""
        wanted = sum(window.wanted + window.tuning for window in self.windows)
        done = sum(len(window.records) for window in self.windows)
        top = self.windows[-1].coupling if self.windows else 0.0
        spent = max(self._seconds / budget.max_seconds, self.evaluations / budget.max_evaluations)
        return min(1.0, max(done / max(wanted, 1) * (0.5 if top < 1.0 else 1.0), spent))

    # ---- what was found

    @property
    def latest(self) -> ExactResult | None:
        """The last result, which later steps are not in; None before there was one."""
        return self._joined[1] if self._joined else None

    def result(self) -> ExactResult:
        """The free energy from everything so far.

        Raises:
            EstimateError: The windows do not reach the crystal yet, or do not overlap.
        """
        n_steps = tuple(len(window.records) for window in self.windows)
        key = hash((n_steps, tuple(window.coupling for window in self.windows)))
        if self._joined is None or self._joined[0] != key:
            self._joined = key, self._result()
        return self._joined[1]

    def _result(self) -> ExactResult:
        used = [window for window in self.windows if len(window.records) > 1]
        if not used or used[-1].coupling < 1.0:
            reached = used[-1].coupling if used else 0.0
            raise EstimateError(
                f"expected chains of the crystal itself (lambda = 1), got to lambda = {reached:.3g} within the budget of "
                f"{self.evaluations} energies; raise exact.max_seconds and exact.max_evaluations, or train longer"
            )
        windows = (summary_of_draws(self._draws), *(summary_of(window, self.n_chains) for window in used))
        couplings = np.array([window.coupling for window in windows])
        samples = [self._draws, *(window.series("log_w").T.ravel() for window in used)]
        joined = _joined(couplings, samples, [1, *(len(window.records) for window in used)], self._seed)
        boot = joined.difference(0, -1)
        kept = [self._draws, *(_thinned(w.series("log_w"), s.inefficiency) for w, s in zip(used, windows[1:], strict=True))]
        analytic = _analytic_error(couplings, kept)
        error = max(boot.error, analytic)
        half = t_factor(self.n_chains) * error
        difference = EstimateResult(boot.value, error, (boot.value - half, boot.value + half), boot.n)
        top = used[-1]
        return ExactResult(
            difference, joined, windows, top.series("log_w"), top.series("energies"), analytic, self.evaluations,
            judge(windows, joined.neighbour_overlaps, self._share_of_hops(top)),
        )  # fmt: skip

    def _share_of_hops(self, top: Window) -> float:
        """Share of the samples in which an atom is more than half the nearest distance away from its site."""
        return float((top.series("furthest") > _HOP * self._nearest).mean())

    # ---- stopping and going on

    def state(self) -> dict[str, Any] | None:
        """Everything that the next step depends on, on the first rank; None elsewhere."""
        windows = []
        for window in self.windows:
            chains = window.chains.state()
            table = np.array(
                [[getattr(record, f.name) for f in fields(StepRecord)] for record in window.records], dtype=np.float64
            )
            numbers = {name: getattr(window, name) for name in ("wanted", "tuning", "n_infinite")}
            windows.append({**numbers, "chains": chains, "records": torch.from_numpy(table)})
        if not parallel.first():
            return None
        return {"windows": windows, "evaluations": self.evaluations, "seconds": self._seconds, "n_chains": self.n_chains}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, on any number of ranks.

        Args:
            state: What `state` gave on the first rank.
        """
        self.n_chains, self.evaluations, self._seconds = state["n_chains"], state["evaluations"], state["seconds"]
        self.windows = []
        for entry in state["windows"]:
            chains = Chains.restored(self._latent, entry["chains"], seed=self._seed)
            records = [StepRecord(*row) for row in entry["records"].numpy()]
            self.windows.append(Window(chains, entry["wanted"], entry["tuning"], records, entry["n_infinite"]))


def judge(windows: Sequence[WindowSummary], overlaps: Array, hops: float) -> Verdict:
    """Verdict on a free energy by chains: red is left for chains that do not mix, do not connect, or leave the crystal.

    Args:
        windows: All windows, draws first.
        overlaps: Of neighbours.
        hops: Share of the samples of the crystal with an atom off its site.
    """
    top, worst = windows[-1], max(windows, key=lambda window: window.disagreement)
    independent = top.n_samples / top.inefficiency
    findings: list[tuple[Colour, str, str]] = []
    if not overlaps.min() >= RED_OVERLAP:
        findings.append(
            ("red", f"Neighbouring windows overlap by {overlaps.min():.2g}, below {RED_OVERLAP}.", "Raise exact.max_seconds.")
        )
    if hops > _HOPS:
        reason = f"In {hops:.1%} of the samples an atom is more than half the nearest-neighbour distance away from its site."
        findings.append(
            ("red", reason, "Check whether the crystal melts or transforms in this state: look at exact.dump.gz in OVITO.")
        )
    if worst.disagreement > 1.0:
        limit = (worst.r_hat or 1.0) / worst.disagreement
        colour: Colour = "red" if worst.disagreement > _UNMIXED / _MIXED else "amber"
        reason = f"The chains do not agree yet: split-R-hat is {worst.r_hat:.2f}, above {limit:.2f}."
        findings.append(
            (colour, reason, "Raise exact.max_seconds, train longer, or look for a second structure in exact.dump.gz.")
        )
    if independent < _FEWEST:
        reason = f"There are {independent:.0f} independent samples of the crystal, fewer than {_FEWEST:.0f}."
        findings.append(("amber" if independent > 0.4 * _FEWEST else "red", reason, "Raise exact.max_seconds."))
    if not findings:
        reason = (
            f"Chains: {independent:.0f} independent samples of the crystal, least overlap of {len(windows)} windows "
            f"{overlaps.min():.2f}, split-R-hat {worst.r_hat or 1.0:.2f}."
        )
        return Verdict("green", (reason,), True, RELIABLE)
    colours = [colour for colour, _, _ in findings]
    first = colours.index("red") if "red" in colours else 0
    return Verdict(colours[first], tuple(reason for _, reason, _ in findings), "red" not in colours, findings[first][2])


def summary_of_draws(log_w: Array) -> WindowSummary:
    """What is told of the window lambda = 0, the flow.

    Args:
        log_w: Log-weights of its draws, -inf without a finite energy, shape [n].
    """
    finite = np.isfinite(log_w)
    return WindowSummary(0.0, len(log_w), 1, 0.0, 1, 1.0, 1.0, None, float(log_w[finite].std()), int((~finite).sum()))


def are_mixed(windows: Sequence[WindowSummary]) -> bool:
    """Whether the chains of every window agree, and there are enough independent samples of each crystal."""
    independent = [w.n_samples / w.inefficiency for w in windows if w.coupling == 1.0]
    return max(window.disagreement for window in windows) <= 1.0 and min(independent) >= _FEWEST


def split_r_hat(series: Array) -> float:
    """Spread of half chains against the spread within them: 1 where they agree (Gelman et al., Bayesian Data Analysis, 2013, ch. 11.4).

    Args:
        series: One quantity, shape [steps, chains].
    """
    n = len(series) // 2
    if n < 2:
        return math.inf
    halves = np.concatenate((series[:n], series[-n:]), 1)
    within = float(halves.var(0, ddof=1).mean())
    if within <= 0.0:
        return 1.0 if np.ptp(halves) == 0.0 else math.inf
    between = float(halves.mean(0).var(ddof=1))
    return math.sqrt((n - 1) / n + between / within)


def summary_of(window: Window, n_chains: int) -> WindowSummary:
    """What is told of a window with steps that count."""
    looked_at = [window.series(name) for name in ("log_w", "energies", "soft")]
    usable = [table for table in looked_at if np.isfinite(table).all()]
    slowest = max((inefficiency(list(table.T)) for table in usable), default=float(len(window.records)))
    log_w = looked_at[0][np.isfinite(looked_at[0])]
    return WindowSummary(
        window.coupling, len(window.records) * n_chains, len(window.records), window.chains.step, window.chains.leaps,
        float(window.series("acceptance").mean()), max(1.0, slowest), max((split_r_hat(table) for table in usable), default=math.inf),
        float(log_w.std()), window.n_infinite,
    )  # fmt: skip


def _joined(couplings: Array, samples: Sequence[Array], blocks: Sequence[int], seed: int) -> Multistate:
    """MBAR over the windows, its bootstrap over whole chains."""
    u_kn = _reduced(couplings, samples)
    counts = [len(values) for values in samples]
    return mbar(u_kn, counts, np.random.default_rng(seed).spawn(len(counts)), blocks=blocks)


def _reduced(couplings: Array, samples: Sequence[Array]) -> Array:
    """u_k = -lambda_k log w of all samples, shape [K, n]; a weight of zero has no place but among the draws."""
    log_w = np.concatenate(samples)
    with np.errstate(invalid="ignore"):
        u = -np.outer(couplings, log_w)
    u[couplings == 0.0] = 0.0
    return u


def _thinned(series: Array, inefficiency_: float) -> Array:
    """Steps so far apart that they are independent, of all chains, shape [n]."""
    return np.asarray(series[:: max(1, math.ceil(inefficiency_ - 0.25))].T.ravel())


def _analytic_error(couplings: Array, samples: Sequence[Array]) -> float:
    """Standard error of f(1) - f(0) by MBAR's covariance, for decorrelated samples."""
    counts = [len(values) for values in samples]
    with quiet_pymbar() as pymbar:
        state = np.random.get_state()  # noqa: NPY002
        try:
            solved = pymbar.MBAR(_reduced(couplings, samples), counts, solver_protocol="robust")
            found = solved.compute_free_energy_differences()["dDelta_f"][0, -1]
        except (ArithmeticError, ValueError, np.linalg.LinAlgError, pymbar.utils.ParameterError):
            return 0.0
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return float(found) if math.isfinite(found) else 0.0


def _width(log_w: Array) -> float:
    """Standard deviation of the bulk of the log-weights: their lower tail is gone at the next coupling."""
    low, middle, high = np.percentile(log_w, (16.0, 50.0, 84.0))
    return float(min(max(0.5 * (high - low), high - middle), log_w.std()))
