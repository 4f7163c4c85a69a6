# SPDX-License-Identifier: GPL-2.0-or-later
"""Which base serves the flow better is found by trying: a short training on each candidate."""

import math
from collections.abc import Sequence

from lammps_bg.config import Config
from lammps_bg.errors import TrainingError
from lammps_bg.interrupt import StopFlag
from lammps_bg.training.task import Task
from lammps_bg.training.trainer import Trainer


def better_task(tasks: Sequence[Task], config: Config, stop: StopFlag) -> tuple[int, list[float]]:
    """Which of several trainings, on other bases, gets furthest in a few steps; and their bounds, in kT per atom.

    The bound of the base alone does not tell: the self-consistent crystal always has the lower one, but in strongly anharmonic crystals
    (Lennard-Jones at T* = 2) the flow gets further from the harmonic one.

    Args:
        tasks: At least one task, with a flow that may be thrown away.
        config: The configuration; `base.pilot_steps` training steps are spent on each.
        stop: Set by signals.
    """
    if len(tasks) == 1 or not config.base.pilot_steps:
        return len(tasks) - 1, []
    bounds = [_trial(task, config, stop) for task in tasks]
    return min(range(len(bounds)), key=bounds.__getitem__), bounds


def _trial(task: Task, config: Config, stop: StopFlag) -> float:
    """Mean bound over the last third of a short training."""
    steps = config.base.pilot_steps
    budget = config.train.model_copy(update={"steps": steps, "max_seconds": None, "evaluate_every": steps + 1})
    trainer = Trainer(task, budget, seed=config.seed)
    bounds: list[float] = []
    try:
        trainer.run(stop, report=lambda record: bounds.append(record.bound), save=lambda state: None)
    except TrainingError:
        return math.inf
    last = bounds[-max(1, steps // 3) :]
    return sum(last) / len(last) if last else math.inf
