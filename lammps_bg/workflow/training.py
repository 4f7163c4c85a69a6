# SPDX-License-Identifier: GPL-2.0-or-later
"""Fit the base, build the flow, train it, and write model.pt."""

import dataclasses
import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lammps_bg.config import BaseConfig, Config
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import RunDirectoryError, UnstableCrystalError
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import EinsteinFit, FittedBase, PhononFit, measured
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.report.run_directory import RunDirectory
from lammps_bg.thermo.free_energy import CrystalReference
from lammps_bg.training import checkpoint
from lammps_bg.training.model_file import SavedModel, save_model
from lammps_bg.training.task import SingleState
from lammps_bg.training.through_flow import ThroughFlow
from lammps_bg.training.trainer import StepRecord, Trainer
from lammps_bg.workflow.pilot import better_base
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.threads import threads_for

log = logging.getLogger(__name__)
# of a base that is fitted through a flow: sites x samples of an update, fewest samples, and most updates
_REFINED_SITES, _FEWEST, _REFINEMENTS = 250_000, 16, 3
_FULL_EFFORT = 1000  # atoms up to which a fit evaluates base.n_samples configurations for each iteration


@dataclass
class Trained:
    """A generator that is ready to draw from.

    Attributes:
        generator: Prior and flow.
        fitted: The base with its history.
        ms_per_sample: Training time for each sample and step, milliseconds; None if nothing was trained.
        n_undone: Diverging steps that were undone.
        adapted: The model as it is used at another supercell or state than it was trained for: what a run that samples it stores.
    """

    generator: Generator
    fitted: FittedBase
    ms_per_sample: float | None
    n_undone: int
    adapted: SavedModel | None = None


def fit_base(
    problem: Problem,
    config: BaseConfig,
    seed: int,
    *,
    start: FittedBase | None = None,
    check: Callable[[], None] = lambda: None,
) -> FittedBase:
    """Fit the base to the potential.

    Args:
        problem: Crystal and temperature.
        config: Kind of the base and effort.
        seed: Seed of the displacements.
        start: A base of the same kind to start from.
        check: Called before every batch of energies; may raise to stop the fit.
    """

    def force_field(displacements: Array) -> tuple[Array, Array]:
        check()
        return problem.potential(displacements)

    crystal = problem.crystal
    # every cell of a configuration counts, so that a large crystal needs fewer of them
    n_samples = max(min(100, config.n_samples), round(config.n_samples * min(1.0, _FULL_EFFORT / crystal.n_sites)))
    if config.kind == "einstein":
        return EinsteinFit(force_field, crystal, problem.beta, seed=seed).run(iterations=config.iterations, n_samples=n_samples)
    phonon = PhononFit(force_field, crystal, problem.units, problem.beta, seed=seed)
    return phonon.run(iterations=config.iterations, n_samples=n_samples, start=start.constants if start else None)


def refine_base(problem: Problem, config: Config, generator: Generator, fitted: FittedBase) -> FittedBase:
    """Fit a phonon base to the energies that it sees through a trained flow; the generator gets the best one found.

    Args:
        problem: Crystal and temperature.
        config: `base.iterations` is the largest number of updates.
        generator: The flow, on a base with which it makes good samples.
        fitted: That base.

    Returns:
        The base, with its own bound at this size and state as its history: without the flow.
    """
    n_samples = max(_FEWEST, min(config.base.n_samples, _REFINED_SITES // problem.crystal.n_sites))
    iterations = min(config.base.iterations, _REFINEMENTS)
    if fitted.constants is not None and generator.flow.channels == 1 and iterations:
        surface = ThroughFlow(generator, problem.softened_target(config.train.softening))
        fit = PhononFit(surface, problem.crystal, problem.units, problem.beta, seed=config.seed)
        try:
            fitted = fit.run(iterations=iterations, n_samples=n_samples, start=fitted.constants)
        except UnstableCrystalError as error:
            log.warning("the base of this supercell is not refined through the flow (%s)", error)
        generator.prior.base = fitted.base
    own = measured(problem.potential, fitted.base, problem.beta, n_samples=n_samples, seed=config.seed + 1)
    return replace(fitted, history=(own,))


def announce(problem: Problem, config: BaseConfig, fitted: FittedBase, console: Console, *, adapted: bool = False) -> None:
    """Say what the base alone tells about the free energy: a first answer after seconds; `adapted` is one of a model used elsewhere."""
    step = fitted.history[-1]
    value = reference(problem, fitted).value(step.bound * problem.crystal.n_sites)
    text = f"beta F/N <= {value:.5f} +- {step.error:.5f} (Gibbs-Bogoliubov bound)"
    if not step.holds:
        text = f"no bound, {step.n_drawn - step.n} of {step.n_drawn} samples have no finite energy"
    how = "adapted to this supercell and state" if adapted else f"{fitted.iterations} iterations"
    console.say(f"base       {config.kind}, {how}: {text}")


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
    with threads_for(problem.crystal.n_sites * config.train.batch_size):
        fitted = _chosen_base(problem, config, console, stop)
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
    softened = problem.softened_target(config.train.softening)
    trainer = Trainer(SingleState(generator, softened, problem.exact_target()), config.train, seed=config.seed)
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


def _chosen_base(problem: Problem, config: Config, console: Console, stop: StopFlag) -> FittedBase:
    """The base the configuration asks for; of the phonon bases the one on which a short training gets further."""

    def check() -> None:
        stop.check("nothing was trained yet; continue with --resume")

    candidates = []
    if config.base.kind == "phonon" and config.base.iterations and config.base.pilot_steps and config.train.steps:
        with suppress(UnstableCrystalError):  # temperature may stabilise it: then the self-consistent crystal is the only one
            candidates.append(fit_base(problem, config.base.model_copy(update={"iterations": 0}), config.seed, check=check))
    candidates.append(fit_base(problem, config.base, config.seed, start=candidates[0] if candidates else None, check=check))
    announce(problem, config.base, candidates[-1], console)
    chosen, bounds = better_base(problem, config, candidates, stop)
    check()
    if bounds:
        known = reference(problem, chosen)
        tried = ", ".join(
            f"{name} {known.value(bound * known.n_atoms + known.beta_static_energy):.4f}"
            for name, bound in zip(("harmonic", "self-consistent"), bounds, strict=True)
        )
        kept = "self-consistent" if chosen.iterations else "harmonic"
        console.say(f"pilot      bound after {config.base.pilot_steps} steps: {tried}; the {kept} base is used")
    return chosen


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
