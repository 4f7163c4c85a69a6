# SPDX-License-Identifier: GPL-2.0-or-later
"""Which base serves the flow better is found by trying: a short training on each candidate."""

import math
from collections.abc import Sequence

from lammps_bg.config import Config
from lammps_bg.errors import TrainingError
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import FittedBase
from lammps_bg.interrupt import StopFlag
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import Trainer
from lammps_bg.workflow.problem import Problem


def better_base(
    problem: Problem, config: Config, candidates: Sequence[FittedBase], stop: StopFlag
) -> tuple[FittedBase, list[float]]:
    """The candidate on which a short training reaches the lowest bound, and the bounds, relative to beta E_0, in kT per atom.

    The bound of the base alone does not tell: the self-consistent crystal always has the lower one, but in strongly anharmonic crystals
    (Lennard-Jones at T* = 2) the flow gets further from the harmonic one.

    Args:
        problem: Crystal and temperature.
        config: The configuration; `base.pilot_steps` training steps are spent on each candidate.
        candidates: At least one base.
        stop: Set by signals.
    """
    if len(candidates) == 1 or not config.base.pilot_steps:
        return candidates[-1], []
    bounds = [_trial(problem, config, candidate, stop) for candidate in candidates]
    return candidates[min(range(len(bounds)), key=bounds.__getitem__)], bounds


def _trial(problem: Problem, config: Config, fitted: FittedBase, stop: StopFlag) -> float:
    """Mean bound over the last third of a short training."""
    steps = config.base.pilot_steps
    budget = config.train.model_copy(update={"steps": steps, "max_seconds": None, "evaluate_every": steps + 1})
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
    softened = problem.softened_target(config.train.softening)
    trainer = Trainer(SingleState(generator, softened, problem.exact_target()), budget, seed=config.seed)
    bounds: list[float] = []
    try:
        trainer.run(stop, report=lambda record: bounds.append(record.bound), save=lambda state: None)
    except TrainingError:
        return math.inf
    last = bounds[-max(1, steps // 3) :]
    return sum(last) / len(last) if last else math.inf
