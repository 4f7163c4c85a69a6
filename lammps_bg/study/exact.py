# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples in a run: when chains are needed, how they are run and continued, and what they leave in the folder."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.engine.dump import DumpWriter
from lammps_bg.errors import RunDirectoryError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.streams import stream
from lammps_bg.study.entries import estimate_entry
from lammps_bg.study.fitting import reference
from lammps_bg.study.observing import Source
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
from lammps_bg.training import checkpoint
from lammps_bg.training.target import ExactTarget

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
_STATE, _TABLE, _DUMP = "exact.pt", "exact.csv", "exact.dump.gz"
_COLUMNS = ("sample", "chain", "step", "pe", "log_w")
_TYPICAL = 32  # configurations that show LAMMPS how far atoms move
_TOLD = 1.0  # seconds between two entries in status.json
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
        frames: Configurations of the crystal, with the first rank, length units, shape [m, N, 3].
        indices: Their sample indices, shape [m].
        seconds: Time of the chains in this command.
        evaluations: Energies of all chains.
    """

    result: ExactResult | None
    note: str
    target_error: float
    reason: str
    frames: Array
    indices: NDArray[np.int64]
    seconds: float
    evaluations: int

    def verdict(self, n_atoms: int) -> Verdict:
        """What to think of the number.

        Args:
            n_atoms: Number of atoms N.
        """
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


def sample_exact(
    problem: Problem,
    trained: Trained,
    log_w: Array,
    config: Config,
    run: RunDirectory,
    console: Console,
    *,
    stop: StopFlag,
    model: RunDirectory | None = None,
) -> ExactSamples | None:
    """Run chains where they are needed, on all ranks, or continue those of the run; None where there is no need.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        log_w: Log-weights of the draws, shape [n].
        config: The configuration.
        run: The run directory; exact.pt holds the chains.
        console: Where to report.
        stop: Set by signals.
        model: The run of the model, whose chains are continued; None: `run`.

    Raises:
        Interrupted: A signal came; exact.pt holds the chains.
    """
    draws = np.where(np.isfinite(log_w), log_w, -np.inf)
    reason = parallel.agreed(why_exact(config, draws))
    if reason is None:
        return None
    target = config.estimate.target_error
    console.say(f"chains     {reason}: until an error of {target:.1g} kT per atom, at most {_limits(config)}")
    job = _Job(problem, trained, draws, config, run, model or run)
    problem.surface.settle(trained.generator.prior.base.sample(_TYPICAL, stream(config.seed, "skin", 0)).numpy())
    job.restore(console)
    began = time.monotonic()
    moved_at_once = problem.crystal.n_sites * block_size(problem.crystal.n_sites)
    with console.stage("chains") as bar, threads_for(moved_at_once):
        stopped = job.run(bar.update, stop)
    if stopped:
        job.save()
        stop.check(f"{job.n_steps} steps of the chains are in {_STATE}; continue with --resume")
    job.save()
    found = job.found(reason, time.monotonic() - began)
    if parallel.first():
        job.write(found)
        console.say(_sentence(found, problem.crystal.n_sites))
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


class _Job:
    """The chains of a run with their file."""

    def __init__(
        self, problem: Problem, trained: Trained, draws: Array, config: Config, run: RunDirectory, model: RunDirectory
    ) -> None:
        judged = config.energy.judge == "lammps"
        target = ExactTarget(problem.surface, problem.beta) if judged else problem.exact_target()
        self._problem, self._trained, self._config, self._run, self._model = problem, trained, config, run, model
        self._frames = KeptFrames(config.exact.n_dump)
        self._ladder = Ladder(
            Latent(trained.generator, target), draws, n_chains=config.exact.chains,
            nearest_distance=problem.crystal.nearest_distance, seed=config.seed,
        )  # fmt: skip
        self._saved = self._told = time.monotonic()
        self._note = ""

    @property
    def n_steps(self) -> int:
        """Steps of all windows that count."""
        return sum(len(window.records) for window in self._ladder.windows)

    def run(self, show: Any, stop: StopFlag) -> bool:  # noqa: ANN401  (the update of a progress line)
        """Make the steps; whether a signal stopped them."""
        exact, stopped = self._config.exact, False

        def tick(ladder: Ladder, progress: float) -> bool:
            nonlocal stopped
            eta = show(progress, self._where(ladder))
            self._tell(progress, eta)
            stopped = stop.on_any_rank()
            if not stopped and parallel.agreed(time.monotonic() - self._saved > self._config.train.checkpoint_seconds):
                self.save()
            return stopped

        budget = ExactBudget(self._config.estimate.target_error, exact.max_seconds, exact.max_evaluations or math.inf)
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

    def _tell(self, progress: float, eta: float | None) -> None:
        """status.json, once in a while."""
        if time.monotonic() - self._told < _TOLD:
            return
        self._told = time.monotonic()
        numbers: dict[str, float] = {}
        if (latest := self._ladder.latest) is not None:
            value = absolute_from_difference(latest.difference, reference(self._problem, self._trained.fitted))
            numbers = {"free_energy": value.value, "error": value.error}
        self._run.write_status("exact", step=self.n_steps, percent=100 * progress, eta_seconds=eta, **numbers)

    def save(self) -> None:
        """Write exact.pt; all ranks come here together."""
        state = self._ladder.state()
        self._saved = time.monotonic()
        if state is None:
            return
        content = {"of": self._identity(), "ladder": state, "frames": self._frames.state()}
        checkpoint.save(self._run.file(_STATE), content)

    def restore(self, console: Console) -> None:
        """Go on with the chains of the run, if they are of this model and these settings."""
        path = self._model.file(_STATE)
        saved: dict[str, Any] | None = None
        if parallel.first() and path.exists():
            with suppress(RunDirectoryError, KeyError):
                saved = checkpoint.load(path)
                saved = saved if saved["of"] == self._identity() else None
        saved = parallel.agreed(saved)
        if saved is None:
            return
        self._ladder.restore(saved["ladder"])
        self._frames.restore(saved["frames"])
        console.say(f"chains     continue after {self.n_steps} steps")

    def _identity(self) -> dict[str, Any]:
        """What the chains depend on, beside the number of their steps."""
        config = self._config
        return {
            "model": sha256(self._model.file("model.pt")),
            "seed": config.seed,
            "chains": config.exact.chains,
            "n_dump": config.exact.n_dump,
            "n_samples": config.sample.n_samples,
            "energies": self._problem.source,
            "judge": config.energy.judge,
            "device": config.device,
        }

    def found(self, reason: str, seconds: float) -> ExactSamples:
        """What the chains came to."""
        result = None
        try:
            result = self._ladder.result()
        except EstimateError as error:
            self._note = self._note or str(error)
        frames, indices = self._frames.independent(result.top.inefficiency if result else 1.0, self._ladder.n_chains)
        target = self._config.estimate.target_error
        return ExactSamples(result, self._note, target, reason, frames, indices, seconds, self._ladder.evaluations)

    def write(self, found: ExactSamples) -> None:
        """exact.csv and exact.dump.gz."""
        windows = self._ladder.windows
        top = windows[-1] if windows and windows[-1].coupling == 1.0 else None
        rows = [",".join(_COLUMNS)]
        energies = np.empty((0, self._ladder.n_chains))
        if top is not None and top.records:
            energies, log_w = top.series("energies"), top.series("log_w")
            for step, (pe, weight) in enumerate(zip(energies.tolist(), log_w.tolist(), strict=True)):
                first = step * len(pe)
                rows += [
                    f"{first + chain},{chain},{step},{e!r},{w!r}" for chain, (e, w) in enumerate(zip(pe, weight, strict=True))
                ]
        run, problem = self._run, self._problem
        run.write_text(_TABLE, "\n".join(rows) + "\n")
        path = run.file(_DUMP)
        path.unlink(missing_ok=True)
        if not len(found.frames):
            return
        flat = energies.ravel()
        with DumpWriter(path, problem.crystal, units=problem.units.name, triclinic=problem.engine.triclinic) as dump:
            for index, u in zip(found.indices.tolist(), found.frames, strict=True):
                dump.write(index, problem.surface.positions(u), None, energy=float(flat[index]))


def source_of(found: ExactSamples) -> Source | None:
    """The exact samples as a source of observables; None where there are none.

    Args:
        found: The samples.
    """
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


def judge_structure(observables: Mapping[str, Any]) -> list[Verdict]:
    """Red where the chains went on to another crystal: OVITO finds far fewer atoms in the structure that most atoms of the base have.

    Args:
        observables: Those of results.json.
    """
    fractions = observables.get("structure", {}).get("fractions", {})
    if not {"base", "exact"} <= fractions.keys():
        return []
    shares = {name: np.array(entry["value"], dtype=np.float64) for name, entry in fractions.items()}
    kind = int(shares["base"].argmax())
    before, after = float(shares["base"][kind]), float(shares["exact"][kind])
    if after >= _KEPT * before:
        return []
    name = observables["structure"]["types"][kind]
    reason = f"OVITO finds {name} around {after:.0%} of the atoms of the chains and {before:.0%} of those of the base: the crystal transforms."
    return [Verdict("red", (reason,), False, "Look at exact.dump.gz in OVITO: this phase may not be stable in this state.")]


def exact_entries(found: ExactSamples, problem: Problem, trained: Trained) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries `estimates` and `exact` of results.json.

    Args:
        found: The samples.
        problem: Crystal and temperature.
        trained: The generator, for the integral of its base.
    """
    n_atoms, result = problem.crystal.n_sites, found.result
    entry: dict[str, Any] = {
        "reason": found.reason, "target_error": found.target_error, "evaluations": found.evaluations, "seconds": found.seconds,
        "note": found.note,
    }  # fmt: skip
    if result is None:
        return {}, entry
    top = result.top
    entry |= {
        "n_samples": top.n_samples,
        "n_independent": result.n_independent,
        "evaluations_per_sample": result.evaluations_per_sample,
        "acceptance": top.acceptance,
        "step": top.step,
        "leaps": top.leaps,
        "inefficiency": top.inefficiency,
        "r_hat": max(window.r_hat or 1.0 for window in result.windows),
        "windows": [asdict(window) for window in result.windows],
        "overlaps": result.joined.neighbour_overlaps.tolist(),
        "overlap_matrix": result.joined.overlap_matrix.tolist(),
        "analytic_error": result.analytic_error / n_atoms,
        "files": {"frames": _DUMP, "table": _TABLE},
    }
    value = absolute_from_difference(result.difference, reference(problem, trained.fitted))
    return {"exact": estimate_entry(value, found.verdict(n_atoms), problem)}, entry
