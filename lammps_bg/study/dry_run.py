# SPDX-License-Identifier: GPL-2.0-or-later
"""--dry-run: the cost of a run, from a few steps of the real thing."""

import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_bg.config import Config
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import FEWEST, REPORTED
from lammps_bg.results import duration
from lammps_bg.study.conditional import build_model, conditions_of, fit_bases, task_of
from lammps_bg.study.fitting import fit_base
from lammps_bg.study.problem import Problem
from lammps_bg.study.training import Trained
from lammps_bg.thermo.chains import Latent, block_size
from lammps_bg.thermo.sampler import draw, stream
from lammps_bg.training.objectives import OBJECTIVES
from lammps_bg.training.task import SingleState, Task
from lammps_bg.training.trainer import samples_at_once

_FILES = (
    "config.toml provenance.json rerun.sh inputs/ status.json model.pt samples.csv sampling.json samples.dump.gz samples.png samples.ovito "
    "rdf.csv observables.json results.json report.html figures/"
)
_TRAINING_FILES = "base.pt checkpoint.pt train.csv"
_CHAIN_FILES = "exact.csv exact.dump.gz exact.pt exact.ovito"
_ENERGIES_A_SAMPLE = 8  # for an independent sample of chains: 5 to 12 were measured for most crystals
_FEWEST_SAMPLES = 50  # independent ones of each window, however loose the error
_WARMING_UP = 30  # energies of each chain of each window before its samples count, at least
_WIDTH_OF_A_WINDOW = 2.4  # of log w, in standard deviations


def forecast(problem: Problem, config: Config, out: Path, loaded: Trained | None = None) -> list[str]:
    """Expected time, memory, disk and files of a run, one line each; evaluates a few configurations and writes nothing.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
        out: Where the run would write.
        loaded: A model that is there already, so that nothing is fitted or trained.
    """
    stages, files = "", _FILES
    if loaded is None:
        base_seconds, task = _trial(problem, config)
        generator = next(task.evaluated()).generator
        train_seconds = _train_seconds(task, config)
        stages, files = f"{base_seconds:.0f} s base, {train_seconds:.0f} s training, ", f"{_FILES} {_TRAINING_FILES}"
    else:
        generator = loaded.generator
    exact = problem.exact_target()
    n = min(64, config.sample.n_samples)
    start = time.perf_counter()
    drawn = np.concatenate([chunk.log_w for chunk in draw(generator, exact, n, seed=config.seed)])
    draw_seconds = (time.perf_counter() - start) / n * config.sample.n_samples
    chains = [] if config.exact.mode == "never" else [_chains(problem, generator, drawn, config, trained=loaded is not None)]
    files += f", with chains {_CHAIN_FILES}" if chains else ""
    parameters = sum(p.numel() for p in generator.flow.parameters())
    return [
        f"flow           {config.flow.kind}, {parameters} parameters",
        f"time           about {stages}{draw_seconds:.0f} s sampling",
        *chains,
        f"memory         {_peak_bytes() / 1e6:.0f} MB at the peak of these trials, with Python and LAMMPS",
        f"disk           about {disk_bytes(problem, config, parameters) / 1e6:.1f} MB in {out}",
        f"would write    {files}",
        "dry run        nothing was written",
    ]


def disk_bytes(problem: Problem, config: Config, parameters: int = 800_000) -> int:
    """Bytes a run will write, about."""
    frames = config.sample.n_dump + config.sample.n_resample
    return 40 * problem.crystal.n_sites * frames + 80 * config.sample.n_samples + 200 * config.train.steps + 24 * parameters


def _trial(problem: Problem, config: Config) -> tuple[float, Task]:
    """Expected time of the base without the trial of candidates, and a task on a base from few samples."""
    conditions = conditions_of(config.condition, problem)
    start = time.perf_counter()
    fitted = fit_base(problem, config.base.model_copy(update={"iterations": 1, "n_samples": 100}), config.seed)
    drawn = sum(step.n_drawn for step in fitted.history)
    seconds = (time.perf_counter() - start) / drawn * (config.base.iterations * FEWEST + 2 * REPORTED)
    if conditions is None:
        generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
        state = generator, problem.softened_target(config.train.softening), problem.exact_target()
        return seconds, SingleState(*state)
    quick = config.base.model_copy(update={"iterations": 0, "n_samples": 50})
    bases = fit_bases(problem, quick, conditions, config.seed, check=lambda: None)
    seconds *= len(conditions.design())
    return seconds, task_of(build_model(problem, config, bases), config)


def _train_seconds(task: Task, config: Config) -> float:
    """Expected time of the training, from the fastest of three steps after one that makes what the others use again."""
    objective, size = OBJECTIVES[config.train.objective](), min(samples_at_once(config.train, task), config.train.batch_size)
    contexts = task.draw(size, stream(config.seed, "rehearsal", 1))
    generator, target = task.at(contexts)
    start = generator.prior.sample(size, stream(config.seed, "rehearsal", 0))
    step = min(_timed(lambda: objective(generator, target, start).loss.backward()) for _ in range(4))
    return min(step * config.train.batch_size / size * config.train.steps, config.train.max_seconds or float("inf"))


def _chains(problem: Problem, generator: Generator, log_w: NDArray[np.float64], config: Config, *, trained: bool) -> str:
    """What chains would cost: a measured time for an energy with its forces through the flow, and an estimate of how many it takes.

    If log w has the width s, an error of e in -ln Z_u takes about (s / e)^2 independent samples over all windows, of which there are about s / 2.4.
    """
    exact, n_sites = config.exact, problem.crystal.n_sites
    latent, size = Latent(generator, problem.exact_target()), block_size(n_sites)
    x = torch.randn(size, *latent.shape, dtype=torch.float64, generator=stream(config.seed, "rehearsal", 2))
    latent.at(x)  # the first one makes what the others use again
    seconds = _timed(lambda: latent.at(x)) / size
    when = "" if exact.mode == "always" else "if the weights of the draws are in doubt, "
    bound = f"stopped after {duration(exact.max_seconds)} (exact.max_seconds)"
    if exact.max_evaluations:
        bound += f" or {exact.max_evaluations} energies (exact.max_evaluations)"
    each = f"{1e3 * seconds:.2g} ms for an energy with its forces through the flow"
    finite = log_w[np.isfinite(log_w)]
    if len(finite) < 2:
        return f"chains         {when}{bound}; {each}; no draw of this trial had a finite energy, so how many it takes is unknown"
    low, high = np.percentile(finite, (16.0, 84.0))
    width = 0.5 * float(high - low)
    windows, chains = max(1, math.ceil(width / _WIDTH_OF_A_WINDOW)), size * -(-exact.chains // size)
    samples = max((width / (n_sites * config.estimate.target_error)) ** 2, windows * _FEWEST_SAMPLES)
    energies = _ENERGIES_A_SAMPLE * samples + _WARMING_UP * windows * chains
    flow = "" if trained or not config.train.steps else ", before any training: fewer after it"
    return (
        f"chains         {when}about {float(f'{energies:.1g}'):.0f} energies for an error of {config.estimate.target_error:.1g} kT per atom"
        f"{flow}; {each}, "
        f"{duration(energies * seconds)} in all, {bound}"
    )


def _peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
