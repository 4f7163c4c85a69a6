# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples: when chains are needed, how they are run and continued, and what they come to."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter, Stage
from lammps_bg.streams import stream
from lammps_bg.study.fitting import reference
from lammps_bg.study.observing import Source, Structure
from lammps_bg.study.problem import Problem
from lammps_bg.study.threads import threads_for
from lammps_bg.study.training import Trained
from lammps_bg.thermo.chains import Latent, block_size
from lammps_bg.thermo.exact import ExactBudget, ExactResult, Ladder
from lammps_bg.thermo.free_energy import EstimateResult, absolute_from_difference
from lammps_bg.thermo.repeats import t_factor
from lammps_bg.thermo.timeseries import evenly_spaced
from lammps_bg.thermo.verdict import Verdict, combine, judge
from lammps_bg.thermo.weights import EstimateError, summarise
from lammps_bg.training.target import ExactTarget

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
_TYPICAL = 32  # configurations that show LAMMPS how far atoms move
_KEPT = 0.6  # of the atoms in the structure of the base that have to be in it still; heat alone takes some
_REACHED = 1.2  # times the error asked for that counts as reached: errors have errors


@dataclass
class ExactSamples:
    """What the chains of a run came to.

    Attributes:
        result: The free energy with its windows; None where the chains came to none.
        note: Why there is none.
        target_error: The error asked for, kT per atom.
        reason: Why chains were run.
        energies: Total potential energies of the crystal's samples, step by step, shape [steps, chains].
        log_w: Their log-weights, same shape.
        frames: Independent ones of these configurations, with the first rank, length units, shape [m, N, 3].
        indices: Which of the samples these are, shape [m].
        seconds: Time that the chains took now.
        evaluations: Energies of all chains.
    """

    result: ExactResult | None
    note: str
    target_error: float
    reason: str
    energies: Array
    log_w: Array
    frames: Array
    indices: NDArray[np.int64]
    seconds: float
    evaluations: int

    @property
    def frame_energies(self) -> Array:
        """Total potential energies of the frames, shape [m]."""
        return np.asarray(self.energies.ravel()[self.indices])

    def verdict(self, n_atoms: int) -> Verdict:
        """What to think of the number."""
        if self.result is None:
            return Verdict(
                "red",
                (f"{self.note[:1].upper()}{self.note[1:]}.",),
                False,
                "Look at exact.csv, train longer, or raise the budget.",
            )
        reached = self.result.difference.error / n_atoms
        if reached <= _REACHED * self.target_error:
            return self.result.verdict
        short = Verdict(
            "amber",
            (
                f"The chains came to an error of {reached:.1e} kT per atom within their budget, {self.target_error:.1e} was asked for.",
            ),
            True,
            "Use it with its error, or go on with `lammps-bg estimate -model RUN`, where wanted with a larger exact.max_seconds.",
        )
        return combine([self.result.verdict, short])


def why_exact(config: Config, log_w: Array) -> str | None:
    """Why chains are run after the draws; None where they are not.

    Args:
        config: `exact.mode`.
        log_w: Log-weights of the draws, -inf without a finite energy, shape [n].
    """
    if config.exact.mode == "never":
        return None
    if config.exact.mode == "always":
        return "asked for"
    if not np.isfinite(log_w).any():
        return "no draw of the flow has a weight"
    summary = summarise(log_w)
    if judge(summary).colour == "green":
        return None
    return f"the weights of the draws are not beyond doubt (ESS {summary.ess_fraction:.2%} of {summary.n})"


class ChainRecord(Protocol):
    """Keeps chains so that they can be continued; all ranks call it together, the first one reads and writes."""

    def stored(self) -> dict[str, Any] | None:
        """What was kept by chains of the same model and settings, on all ranks; None where there is nothing."""
        ...

    def keep(self, state: dict[str, Any]) -> None:
        """Keep their state."""
        ...


def sample_exact(
    problem: Problem,
    trained: Trained,
    log_w: Array,
    config: Config,
    reporter: Reporter = SILENT,
    *,
    stop: StopFlag | None = None,
    record: ChainRecord | None = None,
) -> ExactSamples | None:
    """Run chains where they are needed, on all ranks, or continue those of a record; None where there is no need.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        log_w: Log-weights of the draws, shape [n].
        config: The configuration.
        reporter: Told how far it is.
        stop: Set by signals.
        record: Keeps the chains; None keeps nothing.

    Raises:
        Interrupted: A signal came; the record holds the chains.
    """
    stop, draws = StopFlag() if stop is None else stop, np.where(np.isfinite(log_w), log_w, -np.inf)
    reason = parallel.agreed(why_exact(config, draws))
    if reason is None:
        return None
    target = config.estimate.target_error
    reporter.say(f"chains     {reason}: until an error of {target:.1g} kT per atom, at most {_limits(config)}")
    chains = _Chains(problem, trained, draws, config, record)
    problem.surface.settle(trained.generator.prior.base.sample(_TYPICAL, stream(config.seed, "skin", 0)).numpy())
    if chains.restored():
        reporter.say(f"chains     continue after {chains.n_steps} steps")
    began = time.monotonic()
    moved_at_once = problem.crystal.n_sites * block_size(problem.crystal.n_sites)
    with reporter.stage("chains") as bar, threads_for(moved_at_once):
        stopped = chains.run(bar, stop)
    chains.save()
    if stopped:
        stop.check(f"{chains.n_steps} steps of the chains are in exact.pt; continue with --resume")
    found = chains.found(reason, time.monotonic() - began)
    reporter.say(_sentence(found, problem.crystal.n_sites))
    return found


def _limits(config: Config) -> str:
    """The budget in words."""
    exact = config.exact
    evaluations = f" and {exact.max_evaluations} energies" if exact.max_evaluations else ""
    return f"{exact.max_seconds:.0f} s{evaluations}"


def _sentence(found: ExactSamples, n_atoms: int) -> str:
    """The summary for the console."""
    if found.result is None:
        return f"chains     no number: {found.note}"
    result = found.result
    return (
        f"chains     {result.top.n_samples} samples of the crystal ({result.n_independent:.0f} independent, one for "
        f"{result.evaluations_per_sample:.1f} energies), {len(result.windows)} windows, {found.evaluations} energies in {found.seconds:.0f} s, "
        f"error {result.difference.error / n_atoms:.1g} kT per atom"
    )


@dataclass
class KeptFrames:
    """Configurations of some steps, evenly spread: where there are too many, every other step is dropped."""

    most: int
    every: int = 1
    steps: list[int] = field(default_factory=list)
    kept: list[Array] = field(default_factory=list)

    def add(self, step: int, displacements: Array | None) -> None:
        """Take the configurations of a step, shape [n, N, 3]; None on the ranks that have none."""
        if displacements is None or not self.most or step % self.every:
            return
        self.steps.append(step)
        self.kept.append(displacements)
        while len(self.kept) > 1 and sum(map(len, self.kept)) > 2 * self.most:
            self.every *= 2
            keep = [place for place, one in enumerate(self.steps) if one % self.every == 0]
            self.steps, self.kept = [self.steps[place] for place in keep], [self.kept[place] for place in keep]

    def independent(self, inefficiency: float, n_chains: int) -> tuple[Array, NDArray[np.int64]]:
        """Configurations of steps that are independent, as many as are wanted, shape [m, N, 3], and their sample indices, shape [m].

        Args:
            inefficiency: Statistical inefficiency of the chains, in steps.
            n_chains: Chains of a step.
        """
        if not self.kept:
            return np.empty((0, 0, 3)), np.empty(0, dtype=np.int64)
        apart = max(1, math.ceil(inefficiency / self.every))
        indices = (np.array(self.steps[::apart])[:, None] * n_chains + np.arange(n_chains)).ravel()
        chosen = evenly_spaced(len(indices), self.most)
        return np.concatenate(self.kept[::apart])[chosen], indices[chosen]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"every": self.every, "steps": self.steps, "kept": [torch.from_numpy(kept) for kept in self.kept]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; the first rank alone has the configurations."""
        self.every, self.steps = state["every"], list(state["steps"])
        self.kept = [kept.numpy() for kept in state["kept"]] if parallel.first() else []


class _Chains:
    """The chains with what is kept of them."""

    def __init__(self, problem: Problem, trained: Trained, draws: Array, config: Config, record: ChainRecord | None) -> None:
        judged = config.energy.judge == "lammps"
        target = ExactTarget(problem.surface, problem.beta) if judged else problem.exact_target()
        self._problem, self._trained, self._config, self._record = problem, trained, config, record
        self._frames = KeptFrames(config.exact.n_dump)
        self._ladder = Ladder(
            Latent(trained.generator, target), draws, n_chains=config.exact.chains,
            nearest_distance=problem.crystal.nearest_distance, seed=config.seed,
        )  # fmt: skip
        self._saved = time.monotonic()
        self._note = ""

    @property
    def n_steps(self) -> int:
        """Steps of all windows that count."""
        return sum(len(window.records) for window in self._ladder.windows)

    def run(self, bar: Stage, stop: StopFlag) -> bool:
        """Make the steps; whether a signal stopped them."""
        exact, stopped = self._config.exact, False

        def tick(ladder: Ladder, progress: float) -> bool:
            nonlocal stopped
            bar.update(progress, self._where(ladder), step=self.n_steps, **self._reached())
            stopped = stop.on_any_rank()
            if not stopped and parallel.agreed(time.monotonic() - self._saved > self._config.train.checkpoint_seconds):
                self.save()
            return stopped

        budget = ExactBudget(
            self._config.estimate.target_error, exact.max_seconds, exact.max_evaluations or math.inf, exact.n_independent
        )
        try:
            self._ladder.run(budget, tick=tick, frames=self._frames.add)
        except EstimateError as error:
            self._note = str(error)
        return stopped

    def _where(self, ladder: Ladder) -> str:
        """The progress in words."""
        error = "" if ladder.latest is None else f", error {ladder.latest.difference.error / self._problem.crystal.n_sites:.1e}"
        top = ladder.windows[-1] if ladder.windows else None
        at = "" if top is None or top.coupling == 1.0 else f" up to lambda {top.coupling:.2f}"
        return f"{len(ladder.windows)} windows{at}, {ladder.evaluations} energies{error}"

    def _reached(self) -> dict[str, float]:
        """Beta F/N with its error, as far as they are known."""
        if (latest := self._ladder.latest) is None:
            return {}
        value = absolute_from_difference(latest.difference, reference(self._problem, self._trained.fitted))
        return {"free_energy": value.value, "error": value.error}

    def save(self) -> None:
        """Keep the chains; all ranks come here together."""
        self._saved = time.monotonic()
        if self._record is not None and (state := self._ladder.state()) is not None:
            self._record.keep({"ladder": state, "frames": self._frames.state()})

    def restored(self) -> bool:
        """Go on with chains that were kept; whether there are any."""
        saved = self._record.stored() if self._record else None
        if saved is not None:
            self._ladder.restore(saved["ladder"])
            self._frames.restore(saved["frames"])
        return saved is not None

    def found(self, reason: str, seconds: float) -> ExactSamples:
        """What the chains came to."""
        result, ladder = None, self._ladder
        try:
            result = ladder.result()
        except EstimateError as error:
            self._note = self._note or str(error)
        top = ladder.windows[-1] if ladder.windows else None
        energies = log_w = np.empty((0, ladder.n_chains))
        if top is not None and top.coupling == 1.0 and top.records:
            energies, log_w = top.series("energies"), top.series("log_w")
        frames, indices = self._frames.independent(result.top.inefficiency if result else 1.0, ladder.n_chains)
        target = self._config.estimate.target_error
        return ExactSamples(result, self._note, target, reason, energies, log_w, frames, indices, seconds, ladder.evaluations)


def source_of(found: ExactSamples) -> Source | None:
    """The exact samples as a source of observables; None where there are none."""
    result = found.result
    if result is None or not len(found.frames):
        return None
    flat = result.energies.ravel()
    error = float(flat.std(ddof=1)) / math.sqrt(result.n_independent)
    half = t_factor(result.energies.shape[1]) * error
    mean = EstimateResult(
        float(flat.mean()), error, (float(flat.mean()) - half, float(flat.mean()) + half), int(result.n_independent)
    )
    return Source("exact", flat[found.indices], found.frames, mean_energy=mean)


def judge_structure(structure: Structure | None) -> list[Verdict]:
    """Red where the chains went on to another crystal: OVITO finds far fewer atoms in the structure that most atoms of the base have.

    Args:
        structure: The observable; None where OVITO knows no structure like it.
    """
    if structure is None or not {"base", "exact"} <= structure.shares.keys():
        return []
    shares = {name: value for name, (value, _) in structure.shares.items()}
    kind = int(shares["base"].argmax())
    before, after = float(shares["base"][kind]), float(shares["exact"][kind])
    if after >= _KEPT * before:
        return []
    name = structure.types[kind]
    reason = f"OVITO finds {name} around {after:.0%} of the atoms of the chains and {before:.0%} of those of the base: the crystal transforms."
    return [Verdict("red", (reason,), False, "Look at exact.dump.gz in OVITO: this phase may not be stable in this state.")]
