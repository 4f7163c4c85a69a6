# SPDX-License-Identifier: GPL-2.0-or-later
"""--dry-run: the cost of a run, from a few steps of the real thing."""

import time
from collections.abc import Callable
from pathlib import Path

from lammps_bg.config import Config
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import EinsteinFit, PhononFit
from lammps_bg.thermo.sampler import draw, stream
from lammps_bg.training.objectives import OBJECTIVES
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.workflow.problem import Problem

_FILES = (
    "config.toml provenance.json rerun.sh inputs/ status.json checkpoint.pt model.pt train.csv samples.csv samples.dump.gz "
    "samples.png rdf.csv results.json"
)


def forecast(problem: Problem, config: Config, out: Path) -> list[str]:
    """Expected time, disk and files of a run, one line each; evaluates a few configurations and writes nothing.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
        out: Where the run would write.
    """
    start = time.perf_counter()
    if config.base.kind == "einstein":
        fitted = EinsteinFit(problem.surface, problem.crystal, problem.beta, seed=config.seed).run(iterations=0, n_samples=100)
    else:
        fitted = PhononFit(problem.surface, problem.crystal, problem.units, problem.beta, seed=config.seed).run(
            iterations=1, n_samples=100
        )
    base_seconds = (time.perf_counter() - start) / 200 * config.base.n_samples * (config.base.iterations + 1)
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed)
    target = SoftenedTarget(problem.surface, problem.beta, problem.crystal.n_sites, config.train.softening)
    objective, random = OBJECTIVES[config.train.objective](), stream(config.seed, "rehearsal", 0)
    step_seconds = min(
        _timed(lambda: objective(generator, target, config.train.batch_size, random).loss.backward()) for _ in range(3)
    )
    train_seconds = min(step_seconds * config.train.steps, config.train.max_seconds or float("inf"))
    exact = ExactTarget(problem.surface, problem.beta)
    n = min(64, config.sample.n_samples)
    draw_seconds = _timed(lambda: list(draw(generator, exact, n, seed=config.seed))) / n * config.sample.n_samples
    parameters = sum(p.numel() for p in generator.flow.parameters())
    frames = config.sample.n_dump + config.sample.n_resample
    disk = 40 * problem.crystal.n_sites * frames + 80 * config.sample.n_samples + 200 * config.train.steps + 24 * parameters
    return [
        f"flow           {config.flow.kind}, {parameters} parameters",
        f"time           about {base_seconds:.0f} s base, {train_seconds:.0f} s training, {draw_seconds:.0f} s sampling",
        f"disk           about {disk / 1e6:.1f} MB in {out}",
        f"would write    {_FILES}",
        "dry run        nothing was written",
    ]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
