# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw from a trained model: energies and log-weights of all samples, and the states of the first ones."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.flow.generator import Generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.streams import stream
from lammps_bg.study.energies import Judge
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import say_shares
from lammps_bg.study.threads import FasterThreads
from lammps_bg.thermo.sampler import Chunk, chunks_of, draw_together, redraw, states_again
from lammps_bg.thermo.weights import effective_sample_size, systematic_indices

Array = NDArray[np.float64]
_TYPICAL = 32  # configurations that show LAMMPS how far atoms move


@dataclass
class Samples:
    """All samples' numbers, and the states of the first ones.

    Attributes:
        energies: Total potential energies, shape [n].
        log_q: Log-densities, shape [n].
        log_w: Log-weights, shape [n].
        states: States of the first samples, length units, shape [m, channels, N, 3]; with the first rank.
        draw_ms: Milliseconds for each sample in base and flow, if known.
        energy_ms: Milliseconds for each sample in the potential, if known.
        judged: What LAMMPS as the judge found, if it was asked.
    """

    energies: Array
    log_q: Array
    log_w: Array
    states: Array
    draw_ms: float | None
    energy_ms: float | None
    judged: dict[str, object] | None = None

    @property
    def displacements(self) -> Array:
        """Physical displacements of the first samples, length units, shape [m, N, 3]."""
        return self.states[:, 0]


class SamplingRecord(Protocol):
    """Keeps samples while they are drawn; all ranks call it together, the first one writes.

    Attributes:
        rows: Energy, log q and log w of the samples that an earlier start has kept, shape [m, 3].
        n_states: So many samples, from the first one on, it wants with their states.
    """

    rows: Array
    n_states: int

    def add(self, chunk: Chunk, *, new: bool) -> None:
        """Take the next samples; those that are not `new` are among its rows."""
        ...


class Unrecorded:
    """Keeps nothing: a sampling in a notebook."""

    def __init__(self) -> None:
        self.rows, self.n_states = np.empty((0, 3)), 0

    def add(self, chunk: Chunk, *, new: bool) -> None:
        """Forget it."""


def sample(
    problem: Problem,
    generator: Generator,
    config: Config,
    reporter: Reporter = SILENT,
    *,
    stop: StopFlag | None = None,
    keep: int | None = None,
    record: SamplingRecord | None = None,
) -> Samples:
    """Draw config.sample.n_samples samples, on all ranks.

    Args:
        problem: Crystal and temperature.
        generator: Prior and trained flow.
        config: The configuration.
        reporter: Told how far it is.
        stop: Set by signals.
        keep: Samples whose states are kept; None: as many as the estimates look at.
        record: Keeps the samples as they come; None keeps nothing.

    Raises:
        Interrupted: A signal came; the record holds the samples so far.
    """
    stop, record = StopFlag() if stop is None else stop, record or Unrecorded()  # a flag is false before a signal
    wanted = config.sample.n_samples
    chunks = chunks_of(wanted, problem.crystal.n_sites, config.sample.batch_size)
    done = [some for some in chunks if some.stop <= len(record.rows)]
    left = chunks[len(done) :]
    if done:
        reporter.say(f"sampling   continues after {done[-1].stop} samples")
    say_shares(reporter, "the sampling", "chunks", len(left))
    problem.surface.settle(generator.prior.base.sample(_TYPICAL, stream(config.seed, "skin", 0)).numpy())
    judge = Judge(problem, generator.prior) if config.energy.judge == "lammps" else None
    collected = _Collected(
        min(wanted, max(config.estimate.rdf_samples, config.estimate.marginal_samples) if keep is None else keep)
    )
    n_states = max(collected.keep, record.n_states)

    def finish(chunk: Chunk) -> Chunk:
        threads.record(chunk.draw_seconds / len(chunk.energies))
        chunk = judge.weigh(chunk) if judge else chunk
        return replace(chunk, states=chunk.states[: max(0, n_states - chunk.first)])

    with reporter.stage("sampling") as bar, FasterThreads() as threads:
        for chunk in _again(generator, config, done, record.rows, n_states):
            record.add(chunk, new=False)
            collected.add(chunk)
        draws = [(config.seed, some) for some in left]
        drawn = draw_together(generator, problem.exact_target(), draws, batch_size=config.sample.batch_size, finish=finish)
        for count, chunk in enumerate(drawn, 1):
            record.add(chunk, new=True)
            n = collected.add(chunk)
            bar.update(n / wanted, f"{n} of {wanted}", step=n)
            if count % parallel.size() == 0 and stop.on_any_rank():  # the chunks of a round come together
                stop.check(f"{n} samples are in samples.csv; continue with --resume")
    if judge:
        judge.join_ranks()
    samples = collected.samples(judge)
    _announce(problem, samples, judge, reporter)
    return samples


def _again(generator: Generator, config: Config, done: list[slice], rows: Array, n_states: int) -> Iterator[Chunk]:
    """Samples that are drawn already, on the first rank with the states of the first `n_states`, pushed once more."""
    nothing = np.empty((0, generator.prior.channels, len(generator.prior.base.amplitude), 3))
    for some in done:
        states = nothing
        if parallel.first() and some.start < n_states:
            states = states_again(generator, [some], seed=config.seed, batch_size=config.sample.batch_size)
        energies, log_q, log_w = rows[some].T
        yield Chunk(some.start, states, energies, log_q, log_w, 0.0, 0.0)


class _Collected:
    """The numbers of all samples, and the states of the first `keep`."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._rows, self._kept, self._seconds, self._n_new = list[Array](), list[Array](), np.zeros(2), 0

    def add(self, chunk: Chunk) -> int:
        """Take the next samples; returns how many there are now."""
        rows = np.stack((chunk.energies, chunk.log_q, chunk.log_w), 1)
        if chunk.draw_seconds:  # else it was drawn by an earlier start
            self._seconds += (chunk.draw_seconds, chunk.energy_seconds)
            self._n_new += len(rows)
        self._kept.append(chunk.states[: max(0, self.keep - chunk.first)])
        self._rows.append(rows)
        return chunk.first + len(rows)

    def samples(self, judge: Judge | None) -> Samples:
        """All of them."""
        energies, log_q, log_w = np.concatenate(self._rows).T
        draw_ms, energy_ms = (1e3 * self._seconds / self._n_new).tolist() if self._n_new else (None, None)
        judged = judge.entry() if judge else None
        return Samples(energies, log_q, log_w, np.concatenate(self._kept), draw_ms, energy_ms, judged)


def _announce(problem: Problem, samples: Samples, judge: Judge | None, reporter: Reporter) -> None:
    """The summary of the sampling."""
    log_w, n = samples.log_w, len(samples.log_w)
    usable = int(np.isfinite(log_w).sum())
    ess = effective_sample_size(log_w) / n if usable else 0.0
    where = "LAMMPS" if problem.potential is problem.surface else "the potential"
    each = ""
    if samples.draw_ms is not None and samples.energy_ms is not None:
        each = f", {samples.draw_ms + samples.energy_ms:.2f} ms each ({samples.energy_ms:.2f} in {where})"
    on = f" on each of {parallel.size()} ranks" if each and parallel.size() > 1 else ""
    reporter.say(f"sampling   {n} samples{each}{on}, ESS {ess:.1%}")
    if judge:
        reporter.say(judge.sentence())
    if usable < n:
        reporter.say(f"           {n - usable} samples without finite energy have weight zero")


def resampled(samples: Samples, generator: Generator, n: int, *, seed: int) -> Iterator[tuple[int, Array]]:
    """Equal-weight configurations, picked from all samples in proportion to their weights: how often, and displacements [N, 3].

    Args:
        samples: The samples to pick from.
        generator: The generator that drew them; picked ones are drawn again from their index.
        n: How many.
        seed: The seed they were drawn with.
    """
    picked = systematic_indices(samples.log_w, n, np.random.default_rng(seed))
    times = dict(zip(*np.unique(picked, return_counts=True), strict=True))
    for index, displacement in redraw(generator, times, seed=seed):
        yield int(times[index]), displacement
