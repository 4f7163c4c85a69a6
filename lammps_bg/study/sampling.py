# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw from a trained model and write samples.csv and the dump files."""

from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.engine.dump import DumpWriter
from lammps_bg.flow.generator import Generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.streams import stream
from lammps_bg.study.energies import Judge
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import say_shares
from lammps_bg.study.sampling_start import SamplingStart
from lammps_bg.study.threads import FasterThreads
from lammps_bg.thermo.sampler import Chunk, draw_together, redraw
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
        states: States of the first samples, length units, shape [m, channels, N, 3].
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


def sample(
    problem: Problem,
    generator: Generator,
    config: Config,
    run: RunDirectory,
    console: Console,
    stop: StopFlag,
    *,
    start: SamplingStart,
) -> Samples:
    """Draw config.sample.n_samples samples into the run directory, on all ranks; the first one writes.

    Args:
        problem: Crystal and temperature.
        generator: Prior and trained flow.
        config: The configuration.
        run: The run directory.
        console: Where to report.
        stop: Set by signals.
        start: What an interrupted sampling has left.

    Raises:
        Interrupted: A signal came; samples.csv holds the samples so far.
    """
    say_shares(console, "the sampling", "chunks", len(start.left))
    base = generator.prior.base
    problem.surface.settle(base.sample(_TYPICAL, stream(config.seed, "skin", 0)).numpy())
    judge = Judge(problem, generator.prior) if config.energy.judge == "lammps" else None
    collected = _Collected(problem, config, run, start.n_done)
    with collected, console.stage("sampling") as bar, FasterThreads() as threads:
        for chunk in start.chunks(generator, config, collected.n_states):
            collected.add(chunk, new=False)

        def finish(chunk: Chunk) -> Chunk:
            threads.record(chunk.draw_seconds / len(chunk.energies))
            chunk = judge.weigh(chunk) if judge else chunk
            return replace(chunk, states=chunk.states[: max(0, collected.n_states - chunk.first)])

        draws = [(config.seed, some) for some in start.left]
        drawn = draw_together(generator, problem.exact_target(), draws, batch_size=config.sample.batch_size, finish=finish)
        for count, chunk in enumerate(drawn, 1):
            done, wanted = collected.add(chunk), config.sample.n_samples
            eta = bar.update(done / wanted, f"{done} of {wanted}")
            run.write_status("sampling", step=done, percent=100 * done / wanted, eta_seconds=eta)
            if count % parallel.size() == 0 and stop.on_any_rank():  # the chunks of a round come together
                stop.check(f"{done} samples are in samples.csv; continue with --resume")
    if judge:
        judge.join_ranks()
    samples = collected.samples(judge)
    _announce(problem, samples, judge, console)
    return samples


class _Collected:
    """Where the samples go: the table, the dump file, and the states of the first ones for what is made of them later.

    Args:
        problem: Crystal and units.
        config: The configuration.
        run: The run directory.
        n_done: Samples that are in the table already.
    """

    def __init__(self, problem: Problem, config: Config, run: RunDirectory, n_done: int) -> None:
        wanted = config.sample
        self._problem, self._n_dump = problem, wanted.n_dump
        self._keep = min(wanted.n_samples, max(config.estimate.rdf_samples, config.estimate.marginal_samples))
        self.n_states = max(self._keep, wanted.n_dump)
        self._table = run.sample_table(keep_until=n_done - 1)
        self._dump = _dump(run, "samples.dump.gz", problem) if wanted.n_dump and parallel.first() else None
        self._rows, self._kept, self._seconds, self._n_new = list[Array](), list[Array](), np.zeros(2), 0

    def __enter__(self) -> "_Collected":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._table.close()
        if self._dump is not None:
            self._dump.__exit__(kind, error, trace)

    def add(self, chunk: Chunk, *, new: bool = True) -> int:
        """Take the next samples; returns how many there are now."""
        rows = np.stack((chunk.energies, chunk.log_q, chunk.log_w), 1)
        if new:
            self._table.write_rows([(index, *row) for index, row in enumerate(rows.tolist(), chunk.first)])
            self._seconds += (chunk.draw_seconds, chunk.energy_seconds)
            self._n_new += len(rows)
        if self._dump is not None:
            _write_frames(
                self._dump, self._problem, chunk.first, chunk.displacements[: max(0, self._n_dump - chunk.first)], chunk.log_w
            )
        self._kept.append(chunk.states[: max(0, self._keep - chunk.first)])
        self._rows.append(rows)
        return chunk.first + len(rows)

    def samples(self, judge: Judge | None) -> Samples:
        """All of them."""
        energies, log_q, log_w = np.concatenate(self._rows).T
        draw_ms, energy_ms = (1e3 * self._seconds / self._n_new).tolist() if self._n_new else (None, None)
        judged = judge.entry() if judge else None
        return Samples(energies, log_q, log_w, np.concatenate(self._kept), draw_ms, energy_ms, judged)


def _announce(problem: Problem, samples: Samples, judge: Judge | None, console: Console) -> None:
    """The summary of the sampling."""
    log_w, n = samples.log_w, len(samples.log_w)
    usable = int(np.isfinite(log_w).sum())
    ess = effective_sample_size(log_w) / n if usable else 0.0
    where = "LAMMPS" if problem.potential is problem.surface else "the potential"
    each = ""
    if samples.draw_ms is not None and samples.energy_ms is not None:
        each = f", {samples.draw_ms + samples.energy_ms:.2f} ms each ({samples.energy_ms:.2f} in {where})"
    on = f" on each of {parallel.size()} ranks" if each and parallel.size() > 1 else ""
    console.say(f"sampling   {n} samples{each}{on}, ESS {ess:.1%}")
    if judge:
        console.say(judge.sentence())
    if usable < n:
        console.say(f"           {n - usable} samples without finite energy have weight zero")


def resampled_trajectory(problem: Problem, generator: Generator, config: Config, run: RunDirectory, samples: Samples) -> None:
    """Write resampled.dump.gz: equal-weight frames, picked from all samples in proportion to their weights.

    Args:
        problem: Crystal and temperature.
        generator: The generator that drew the samples; picked ones are drawn again from their index.
        config: The configuration.
        run: The run directory.
        samples: The samples to pick from.
    """
    picked = systematic_indices(samples.log_w, config.sample.n_resample, np.random.default_rng(config.seed))
    times = dict(zip(*np.unique(picked, return_counts=True), strict=True))
    frame = 0
    with _dump(run, "resampled.dump.gz", problem) as dump:
        for index, displacement in redraw(generator, times, seed=config.seed):
            for _ in range(times[index]):
                dump.write(frame, problem.surface.positions(displacement), 0.0)
                frame += 1


def _dump(run: RunDirectory, name: str, problem: Problem) -> DumpWriter:
    return DumpWriter(run.file(name), problem.crystal, units=problem.units.name, triclinic=problem.engine.triclinic)


def _write_frames(dump: DumpWriter, problem: Problem, first: int, displacements: Array, log_w: Array) -> None:
    """Frames of the samples that have finite positions; the time step is the sample's index."""
    for index, (displacement, weight) in enumerate(zip(displacements, log_w, strict=False), first):
        if np.isfinite(displacement).all():
            dump.write(index, problem.surface.positions(displacement), weight)
