# SPDX-License-Identifier: GPL-2.0-or-later
"""Fit the base, build the flow, train it, and write model.pt."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lammps_bg.config import Config
from lammps_bg.errors import RunDirectoryError
from lammps_bg.flow.model import Generator, build_generator
from lammps_bg.flow.self_consistent import EinsteinFit, FittedBase, PhononFit
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.report.run_directory import RunDirectory
from lammps_bg.thermo.free_energy import CrystalReference
from lammps_bg.training import checkpoint
from lammps_bg.training.model_file import SavedModel, save_model
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.trainer import StepRecord, Trainer
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.threads import threads_for


@dataclass
class Trained:
    """A generator that is ready to draw from.

    Attributes:
        generator: Prior and flow.
        fitted: The base with its history.
        ms_per_sample: Training time for each sample and step, milliseconds; None if nothing was trained.
        n_undone: Diverging steps that were undone.
    """

    generator: Generator
    fitted: FittedBase
    ms_per_sample: float | None
    n_undone: int


def fit_base(problem: Problem, config: Config, console: Console, *, start: FittedBase | None = None) -> FittedBase:
    """Fit the base to the potential and say what it alone tells about the free energy.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
        console: Where to report.
        start: A base of the same kind to start from.
    """
    if config.base.kind == "einstein":
        einstein = EinsteinFit(problem.surface, problem.crystal, problem.beta, seed=config.seed)
        fitted = einstein.run(iterations=config.base.iterations, n_samples=config.base.n_samples)
    else:
        phonon = PhononFit(problem.surface, problem.crystal, problem.units, problem.beta, seed=config.seed)
        constants = start.constants if start else None
        fitted = phonon.run(iterations=config.base.iterations, n_samples=config.base.n_samples, start=constants)
    bound = fitted.history[-1]
    value = reference(problem, fitted).value(bound.bound * problem.crystal.n_sites)
    console.say(
        f"base       {config.base.kind}, {len(fitted.history) - 2} iterations: beta F/N <= {value:.5f} +- {bound.error:.5f} (Gibbs-Bogoliubov bound)"
    )
    return fitted


def reference(problem: Problem, fitted: FittedBase) -> CrystalReference:
    """The exactly known numbers that make free energies absolute."""
    crystal = problem.crystal
    return CrystalReference(
        problem.beta * problem.surface.static_energy,
        fitted.base.log_integral,
        crystal.n_sites,
        crystal.volume,
        problem.length_scale,
    )


def train(problem: Problem, config: Config, run: RunDirectory, console: Console, stop: StopFlag, *, resume: bool) -> Trained:
    """Train from the start or from checkpoint.pt; model.pt is the result.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
        run: Where checkpoints, tables and the model go.
        console: Where to report.
        stop: Set by signals.
        resume: Continue from checkpoint.pt if there is one.

    Raises:
        Interrupted: A signal came; the checkpoint holds the last step.
        TrainingError: Diverging steps keep happening.
    """
    fitted = fit_base(problem, config, console)
    stop.check("nothing was trained yet; continue with --resume")
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed)
    exact = ExactTarget(problem.surface, problem.beta)
    softened = SoftenedTarget(problem.surface, problem.beta, problem.crystal.n_sites, config.train.softening)
    trainer = Trainer(generator, softened, exact, config.train, seed=config.seed)
    path = run.file("checkpoint.pt")
    if resume and path.exists():
        _restore(trainer, path)
        console.say(f"training   continues at step {trainer.step}")
    with threads_for(problem.crystal.n_sites * config.train.batch_size):
        loop(trainer, run, console, stop, reference(problem, fitted))
    stop.check(f"step {trainer.step} is saved; continue with --resume")
    state = {**problem_state(problem), "eta": getattr(generator.prior, "eta", None)}
    saved = SavedModel(generator.flow.state_dict(), config, fitted, problem.crystal.replicate, state)
    save_model(run.file("model.pt"), saved, problem.crystal)
    samples = trainer.step * config.train.batch_size
    return Trained(generator, fitted, 1e3 * trainer.elapsed / samples if samples else None, trainer.undone)


def require_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that cannot be continued from, before any work; there may be none.

    Args:
        path: The file.

    Raises:
        RunDirectoryError: It is damaged or foreign.
    """
    if not path.exists():
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign files, which are refused in our own words
            state = checkpoint.load(path)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}; remove it to train from the start") from None
    if "optimiser" not in state:
        raise RunDirectoryError(
            f"expected a checkpoint in {path}, got another file of lammps-bg; remove it to train from the start"
        )


def _restore(trainer: Trainer, path: Path) -> None:
    """Continue from a checkpoint.

    Raises:
        RunDirectoryError: It is damaged, or of another flow.
    """
    state = checkpoint.load(path)
    try:
        trainer.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[-1].strip()
        raise RunDirectoryError(
            f"expected a checkpoint of this flow in {path}, got another file ({reason}); remove it to train from the start"
        ) from None


def loop(trainer: Trainer, run: RunDirectory, console: Console, stop: StopFlag, constants: CrystalReference) -> None:
    """Run the trainer with its table, status file and progress line."""
    columns = [field.name for field in dataclasses.fields(StepRecord)]
    offset = constants.value(constants.beta_static_energy)
    last: dict[str, Any] = {"text": "", "ess": None, "F": None}
    with run.training_table(columns, keep_until=trainer.step) as table, console.progress("training  ") as bar:

        def report(record: StepRecord) -> None:
            table.write(*dataclasses.astuple(record))
            if record.ess is not None and record.free_energy is not None and record.exact_bound is not None:
                bound = record.exact_bound + offset
                last.update(ess=record.ess, F=record.free_energy + offset)
                last["text"] = f"step {record.step}  bound {bound:.5f}  std(log w) {record.std_log_w:.2f}  ESS {record.ess:.0%}"
            eta = bar.update(trainer.progress, last["text"])
            if record.ess is not None:
                run.write_status(
                    "training", step=record.step, percent=100 * trainer.progress, loss=record.bound + offset, ess=last["ess"],
                    free_energy=last["F"], eta_seconds=eta,
                )  # fmt: skip

        trainer.run(stop, report=report, save=lambda state: checkpoint.save(run.file("checkpoint.pt"), state))
    undone = f", {trainer.undone} diverging steps undone" if trainer.undone else ""
    console.say(f"training   {trainer.step} steps in {trainer.elapsed:.0f} s{undone}; {last['text'] or 'no step taken'}")


def problem_state(problem: Problem) -> dict[str, Any]:
    """What a model must agree with to be used again."""
    return {"temperature": problem.temperature, "units": problem.units.name, "pair_style": problem.engine.pair_style}
