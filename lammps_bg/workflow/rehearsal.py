# SPDX-License-Identifier: GPL-2.0-or-later
"""--dry-run: the cost of a run, from a few steps of the real thing."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lammps_bg.config import Config
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import FittedBase
from lammps_bg.thermo.sampler import draw, stream
from lammps_bg.training.objectives import OBJECTIVES
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import samples_at_once
from lammps_bg.workflow.fitting import fit_base
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.training import Trained

_FILES = (
    "config.toml provenance.json rerun.sh inputs/ status.json model.pt samples.csv samples.dump.gz samples.png samples.ovito rdf.csv "
    "observables.json results.json report.html figures/"
)
_TRAINING_FILES = "checkpoint.pt train.csv"


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
        base_seconds, fitted = _base_seconds(problem, config)
        generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
        train_seconds = _train_seconds(problem, config, generator)
        stages, files = f"{base_seconds:.0f} s base, {train_seconds:.0f} s training, ", f"{_FILES} {_TRAINING_FILES}"
    else:
        generator = loaded.generator
    exact = problem.exact_target()
    n = min(64, config.sample.n_samples)
    draw_seconds = _timed(lambda: list(draw(generator, exact, n, seed=config.seed))) / n * config.sample.n_samples
    parameters = sum(p.numel() for p in generator.flow.parameters())
    return [
        f"flow           {config.flow.kind}, {parameters} parameters",
        f"time           about {stages}{draw_seconds:.0f} s sampling",
        f"memory         {_peak_bytes() / 1e6:.0f} MB at the peak of these trials, with Python and LAMMPS",
        f"disk           about {disk_bytes(problem, config, parameters) / 1e6:.1f} MB in {out}",
        f"would write    {files}",
        "dry run        nothing was written",
    ]


def disk_bytes(problem: Problem, config: Config, parameters: int = 800_000) -> int:
    """Bytes a run will write, about.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
        parameters: Parameters of the flow.
    """
    frames = config.sample.n_dump + config.sample.n_resample
    return 40 * problem.crystal.n_sites * frames + 80 * config.sample.n_samples + 200 * config.train.steps + 24 * parameters


def _base_seconds(problem: Problem, config: Config) -> tuple[float, FittedBase]:
    """Expected time of the base without the trial of candidates, and one from few samples."""
    start = time.perf_counter()
    fitted = fit_base(problem, config.base.model_copy(update={"iterations": 1, "n_samples": 100}), config.seed)
    drawn = sum(step.n_drawn for step in fitted.history)
    return (time.perf_counter() - start) / drawn * config.base.n_samples * (config.base.iterations + 2), fitted


def _train_seconds(problem: Problem, config: Config, generator: Generator) -> float:
    """Expected time of the training, from the fastest of three steps."""
    target = problem.softened_target(config.train.softening)
    objective, size = (
        OBJECTIVES[config.train.objective](),
        samples_at_once(config.train, SingleState(generator, target, problem.exact_target())),
    )
    start = generator.prior.sample(min(size, config.train.batch_size), stream(config.seed, "rehearsal", 0))
    step = min(_timed(lambda: objective(generator, target, start).loss.backward()) for _ in range(3))
    step *= config.train.batch_size / len(start)
    return min(step * config.train.steps, config.train.max_seconds or float("inf"))


def _peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
