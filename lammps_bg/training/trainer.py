# SPDX-License-Identifier: GPL-2.0-or-later
"""The one training loop: steps, schedule, evaluation, recovery from diverging steps, and its resumable state."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lammps_bg import parallel
from lammps_bg.config import TrainConfig
from lammps_bg.errors import TrainingError
from lammps_bg.interrupt import StopFlag
from lammps_bg.memory import Pieces
from lammps_bg.streams import blocks, stream
from lammps_bg.training.objectives import OBJECTIVES, Batch, merge
from lammps_bg.training.optimisers import build_optimiser, largest_rate
from lammps_bg.training.ranks import MpiRanks, Ranks
from lammps_bg.training.task import State, Task

_SITES_AT_ONCE = {1: 65536, 2: 4096}  # by channels: without and with auxiliary variables, 0.4 and 0.5 GB of activations
_SNAPSHOT_EVERY = 20  # steps between the states a diverging step falls back to
_MOST_UNDONE = 12  # undone steps after which training gives up
_JUMP = 0.5  # rise of -<log w> / N over its recent median that counts as diverging, if it is also ten times the spread


def samples_at_once(config: TrainConfig, task: Task) -> int:
    """Samples of a training step whose activations are held together."""
    sites = config.sites_at_once or _SITES_AT_ONCE[task.flow.channels]
    return max(1, sites // task.n_sites)


@dataclass
class StepRecord:
    """One row of train.csv; `ess`, `exact_bound` and `free_energy` are None between evaluations, and means over the states of one.

    `bound` is -<log w> / N of the softened batch and `exact_bound` that of the evaluation; both are beta F / N up to the constants
    of the absolute convention, relative to beta E_0 / N, as `free_energy` is. Over many states they are, moreover, relative to the
    Gaussian base of each, and absolute for the state in the middle of the conditions.
    """

    step: int
    seconds: float
    bound: float
    std_log_w: float
    learning_rate: float
    grad_norm: float
    n_bad: int
    n_undone: int
    ess: float | None = None
    exact_bound: float | None = None
    free_energy: float | None = None


class Trainer:
    """An optimiser on an objective, with warm-up, cosine decay and clipping.

    Args:
        task: The states to train on; their flow is trained in place.
        config: Training configuration.
        seed: Seed of the base samples.
        ranks: How ranks that share the batches add up their gradients.
    """

    def __init__(self, task: Task, config: TrainConfig, *, seed: int, ranks: Ranks | None = None) -> None:
        self.task, self.config = task, config
        self.objective = OBJECTIVES[config.objective]()
        self.ranks = ranks or MpiRanks()
        self.optimiser = build_optimiser(config, task.flow.parameters())
        self.seed = seed
        self.step, self.elapsed, self.damping, self.undone = 0, 0.0, 1.0, 0
        self.recent: list[float] = []
        self._pieces = Pieces(samples_at_once(config, task), "samples of a training step")
        self._snapshot = self._weights()

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, by steps or wall-clock, whichever is further."""
        budget = self.config.max_seconds
        by_steps = self.step / self.config.steps if self.config.steps else 1.0
        return min(1.0, max(by_steps, self.elapsed / budget if budget else 0.0))

    def run(self, stop: StopFlag, *, report: Callable[[StepRecord], None], save: Callable[[dict[str, Any]], None]) -> None:
        """Train until the budget is spent or a signal comes.

        Args:
            stop: Looked at after every step; all ranks stop after the same one.
            report: Called with every step's record.
            save: Called with the resumable state now and then, and at the end; on the first rank only.

        Raises:
            TrainingError: Diverging steps keep happening.
        """
        saved = time.monotonic()
        start = saved - self.elapsed
        while self.progress < 1.0 and not stop.on_any_rank():
            record = self._advance()
            (self.elapsed,) = parallel.largest(time.monotonic() - start)
            record.seconds = self.elapsed
            if self.step % self.config.evaluate_every == 0 or self.progress >= 1.0:
                self._evaluate(record)
            report(record)
            if parallel.first() and time.monotonic() - saved > self.config.checkpoint_seconds:
                save(self.state_dict())
                saved = time.monotonic()
        if parallel.first():
            save(self.state_dict())

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        return largest_rate(self.config) * self.damping * warm * (0.5 * (1 + math.cos(math.pi * self.progress)) + 1e-3)

    def _advance(self) -> StepRecord:
        """One step, or the undoing of one."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        batch = self._batch()
        norm = math.inf
        if not self._diverges(batch):
            norm = float(nn.utils.clip_grad_norm_(self.task.flow.parameters(), self.config.clip_norm))
        bound = self._bound(batch.log_w)
        if math.isfinite(norm):
            # before the step: the batch has just shown that these weights are good, of the next ones nothing is known
            if self.step % _SNAPSHOT_EVERY == 0:
                self._snapshot = self._weights()
                if parallel.size() > 1:  # processors of other nodes may round differently
                    self._snapshot = parallel.agreed(self._snapshot)
                    self._restore(self._snapshot)
            self.recent = [*self.recent[-49:], bound]
            self.optimiser.step()
        else:
            self._undo(batch)
        self.step += 1
        spread = float(batch.log_w.std()) if len(batch.log_w) > 1 else math.nan
        rate = self.optimiser.param_groups[0]["lr"]
        return StepRecord(self.step, self.elapsed, bound, spread, rate, norm, batch.n_bad, self.undone)

    def _batch(self) -> Batch:
        """The batch of a step, piece by piece, on all ranks; the gradient of its mean loss is left with the weights."""
        n = self.config.batch_size
        contexts, mine = self.task.draw(n, stream(self.seed, "contexts", self.step)), parallel.portion(n)
        start = self._start(contexts, mine)
        parameters = list(self.task.flow.parameters())

        def piece(items: Sequence[int]) -> Batch:
            some = slice(items[0], items[-1] + 1)
            part = self.objective(*self.task.at(contexts[some]), start[some.start - mine.start : some.stop - mine.start])
            if torch.isfinite(part.loss):
                # not backward(): a piece that runs out of memory on the way must leave no gradient behind
                found = torch.autograd.grad(part.loss * len(part.log_w), parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            return part

        parts = list(self._pieces.over(range(mine.start, mine.stop), piece))
        whole = self.ranks.joined(merge(parts), parameters)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= max(1, len(whole.log_w))
        return whole

    def _start(self, contexts: Tensor, mine: slice) -> Tensor:
        """Base samples of this rank's part of a batch, shape [m, channels, N, 3]: drawn in whole blocks, so that ranks change nothing."""
        drawn = [
            (some.start, self.task.at(contexts[some])[0].prior.sample(some.stop - some.start, self._stream("step", block)))
            for block, some in blocks(mine, len(contexts))
        ]
        first = drawn[0][0] if drawn else 0
        return torch.cat([part for _, part in drawn])[mine.start - first : mine.stop - first] if drawn else torch.empty(0)

    def _stream(self, stage: str, block: int) -> torch.Generator:
        return stream(self.seed, f"{stage} {self.step}", block)

    def _bound(self, log_w: Tensor) -> float:
        """-<log w> / N relative to beta E_0 / N, which the log-weights of a batch are already."""
        return -float(log_w.mean()) / self.task.n_sites if len(log_w) else math.inf

    def _diverges(self, batch: Batch) -> bool:
        """Whether a batch shows that the last steps went wrong: lost samples, a non-finite loss, or a jump of the bound."""
        if batch.n_bad > 0.25 * batch.n or not torch.isfinite(batch.loss):
            return True
        if len(self.recent) < 10:
            return False
        recent = torch.tensor(self.recent, dtype=torch.float64)
        median = recent.median()
        spread = 1.4826 * (recent - median).abs().median()
        return self._bound(batch.log_w) > float(median) + max(_JUMP, 10 * float(spread))

    def _undo(self, batch: Batch) -> None:
        """Go back to the last snapshot with half the learning rate."""
        self.undone += 1
        self.damping *= 0.5
        if self.undone > _MOST_UNDONE:
            raise TrainingError(
                f"expected training to settle, got {self.undone} diverging steps, the last at step {self.step} with {batch.n_bad} of {batch.n} "
                f"samples without finite energy; lower train.learning_rate (now {largest_rate(self.config):g}) or use a larger train.batch_size"
            )
        self._restore(self._snapshot)

    def _evaluate(self, record: StepRecord) -> None:
        """Exact energies of fresh samples: ESS, bound and free energy, the mean over the states."""
        states = list(self.task.evaluated())
        n = self.config.evaluate_samples // len(states)
        found = [self._evaluated(state, n, f"evaluation {index}") for index, state in enumerate(states)]
        known = [state.known / self.task.n_sites for state in states]
        record.ess = statistics.fmean(ess for ess, _, _ in found)
        relative = [(b + k - known[0], f + k - known[0]) for (_, b, f), k in zip(found, known, strict=True)]
        record.exact_bound, record.free_energy = (statistics.fmean(column) for column in zip(*relative, strict=True))

    def _evaluated(self, state: State, n: int, stage: str) -> tuple[float, float, float]:
        """ESS, bound and free energy of `n` samples of a state, the last two per atom and relative to beta E_0."""
        exact, mine = state.exact, parallel.portion(n)
        own = [self._log_weights(state, some, mine, self._stream(stage, block)) for block, some in blocks(mine, n)]
        log_w = torch.cat([part for rank in parallel.gathered(own) for part in rank])
        log_w = torch.where(torch.isnan(log_w), -torch.inf, log_w)
        if not torch.isfinite(log_w).any():
            return 0.0, math.inf, math.inf
        shift = exact.beta * exact.surface.static_energy
        total = torch.logsumexp(log_w, 0)
        ess = float(torch.exp(2 * total - torch.logsumexp(2 * log_w, 0)) / len(log_w))
        bound, free_energy = -(log_w.mean() + shift), -(total - math.log(len(log_w)) + shift)
        return ess, float(bound) / self.task.n_sites, float(free_energy) / self.task.n_sites

    @torch.no_grad()
    def _log_weights(self, state: State, block: slice, mine: slice, random: torch.Generator) -> Tensor:
        """Log-weights of the samples of a block that are this rank's, shape [m]."""
        generator = state.generator
        drawn = generator.prior.sample(block.stop - block.start, random)
        start = drawn[max(0, mine.start - block.start) : mine.stop - block.start]

        def weights(items: Sequence[int]) -> Tensor:
            pushed, log_q = generator.push(start[items[0] : items[-1] + 1])
            return generator.prior.log_weights(state.exact.log_prob(pushed[:, 0]), pushed, log_q)

        return torch.cat(list(self._pieces.over(range(len(start)), weights)))

    def _weights(self) -> dict[str, Any]:
        return copy.deepcopy({"flow": self.task.flow.state_dict(), "optimiser": self.optimiser.state_dict()})

    def _restore(self, weights: dict[str, Any]) -> None:
        self.task.flow.load_state_dict(weights["flow"])
        self.optimiser.load_state_dict(copy.deepcopy(weights["optimiser"]))

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors and numbers."""
        counters = {
            "step": self.step,
            "elapsed": self.elapsed,
            "damping": self.damping,
            "undone": self.undone,
            "recent": self.recent,
        }
        return {**self._weights(), **counters, "snapshot": self._snapshot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._restore(state)
        self.step, self.elapsed, self.damping = state["step"], state["elapsed"], state["damping"]
        self.undone, self.recent, self._snapshot = state["undone"], list(state["recent"]), state["snapshot"]
