# SPDX-License-Identifier: GPL-2.0-or-later
"""--dry-run: the cost of a run, from a few steps of the real thing."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lammps_bg.config import Config
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.thermal_sample import FEWEST, REPORTED
from lammps_bg.thermo.sampler import draw, stream
from lammps_bg.training.objectives import OBJECTIVES
from lammps_bg.training.task import SingleState, Task
from lammps_bg.training.trainer import samples_at_once
from lammps_bg.workflow.conditional import build_model, conditions_of, fit_family, task_of
from lammps_bg.workflow.fitting import fit_base
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.training import Trained

_FILES = (
    "config.toml provenance.json rerun.sh inputs/ status.json model.pt samples.csv sampling.json samples.dump.gz samples.png samples.ovito "
    "rdf.csv observables.json results.json report.html figures/"
)
_TRAINING_FILES = "base.pt checkpoint.pt train.csv"


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
    family = fit_family(problem, quick, conditions, config.seed, check=lambda: None)
    seconds *= len(conditions.design())
    return seconds, task_of(build_model(problem, config, family), config)


def _train_seconds(task: Task, config: Config) -> float:
    """Expected time of the training, from the fastest of three steps after one that makes what the others use again."""
    objective, size = OBJECTIVES[config.train.objective](), min(samples_at_once(config.train, task), config.train.batch_size)
    contexts = task.draw(size, stream(config.seed, "rehearsal", 1))
    generator, target = task.at(contexts)
    start = generator.prior.sample(size, stream(config.seed, "rehearsal", 0))
    step = min(_timed(lambda: objective(generator, target, start).loss.backward()) for _ in range(4))
    return min(step * config.train.batch_size / size * config.train.steps, config.train.max_seconds or float("inf"))


def _peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
