# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw from a trained model and write samples.csv and the dump files."""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_bg.config import Config
from lammps_bg.engine.dump import DumpWriter
from lammps_bg.flow.generator import Generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.report.run_directory import RunDirectory
from lammps_bg.thermo.sampler import draw, redraw
from lammps_bg.thermo.weights import effective_sample_size, systematic_indices
from lammps_bg.workflow.energies import Judge
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.threads import FasterThreads

Array = NDArray[np.float64]


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
    problem: Problem, generator: Generator, config: Config, run: RunDirectory, console: Console, stop: StopFlag
) -> Samples:
    """Draw config.sample.n_samples samples into the run directory.

    Raises:
        Interrupted: A signal came; samples.csv holds the samples so far.
    """
    wanted, target = config.sample, problem.exact_target()
    keep = min(wanted.n_samples, max(config.estimate.rdf_samples, config.estimate.marginal_samples))
    judge = Judge(problem, generator.prior) if config.energy.judge == "lammps" else None
    chunks, kept, seconds = [], [], np.zeros(2)
    frames = _dump(run, "samples.dump.gz", problem) if wanted.n_dump else nullcontext()
    with frames as dump, run.sample_table() as table, console.progress("sampling  ") as bar, FasterThreads() as threads:
        for chunk in draw(generator, target, wanted.n_samples, seed=config.seed, batch_size=wanted.batch_size):
            chunk = judge.weigh(chunk) if judge else chunk
            rows = np.stack((chunk.energies, chunk.log_q, chunk.log_w), 1)
            for index, row in enumerate(rows.tolist(), chunk.first):
                table.write(index, *row)
            if dump is not None:
                _write_frames(dump, problem, chunk.first, chunk.displacements[: max(0, wanted.n_dump - chunk.first)], chunk.log_w)
            kept.append(chunk.states[: max(0, keep - chunk.first)])
            chunks.append(rows)
            seconds += (chunk.draw_seconds, chunk.energy_seconds)
            done = chunk.first + len(rows)
            threads.record(chunk.draw_seconds / len(rows))
            eta = bar.update(done / wanted.n_samples, f"{done} of {wanted.n_samples}")
            run.write_status("sampling", step=done, percent=100 * done / wanted.n_samples, eta_seconds=eta)
            stop.check(f"{done} samples are in samples.csv; continue with --resume")
    energies, log_q, log_w = np.concatenate(chunks).T
    per_sample = 1e3 * seconds / len(energies)
    samples = Samples(
        energies, log_q, log_w, np.concatenate(kept), per_sample[0], per_sample[1], judge.entry() if judge else None
    )
    usable = int(np.isfinite(log_w).sum())
    ess = effective_sample_size(log_w) / len(log_w) if usable else 0.0
    where = "LAMMPS" if problem.potential is problem.surface else "the potential"
    console.say(
        f"sampling   {len(energies)} samples, {per_sample.sum():.2f} ms each ({per_sample[1]:.2f} in {where}), ESS {ess:.1%}"
    )
    if judge:
        console.say(judge.sentence())
    if usable < len(log_w):
        console.say(f"           {len(log_w) - usable} samples without finite energy have weight zero")
    return samples


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
