# SPDX-License-Identifier: GPL-2.0-or-later
"""Fit the base, build the flow, train it, and write model.pt."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.conditions import Conditions
from lammps_bg.errors import RunDirectoryError, UnstableCrystalError
from lammps_bg.flow.base import FittedBase, base_kind
from lammps_bg.flow.conditional import FittedBases
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.model import build_generator, torch_device
from lammps_bg.flow.self_consistent import measured
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.conditional import ConditionalModel, build_model, conditions_of, fit_bases, task_of
from lammps_bg.study.fitting import announce, fit_base, reference
from lammps_bg.study.pilot import better_task
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import say_shares
from lammps_bg.study.threads import threads_for
from lammps_bg.thermo.free_energy import CrystalReference
from lammps_bg.training import checkpoint
from lammps_bg.training.model_file import SavedModel, load_model, save_model
from lammps_bg.training.ranks import ranks_for
from lammps_bg.training.task import SingleState, Task
from lammps_bg.training.trainer import StepRecord, Trainer

_MEASURED = 256  # configurations for the bound of a base
_BASE = "base.pt"
_STATUS_SECONDS = 1.0  # between two entries in status.json, apart from evaluations


@dataclass
class Trained:
    """A generator that is ready to draw from.

    Attributes:
        generator: Prior and flow.
        fitted: The base with its history.
        ms_per_sample: Training time for each sample and step, milliseconds; None if nothing was trained.
        n_undone: Diverging steps that were undone.
        adapted: The model as it is used at another supercell or state than it was trained for: what a run that samples it stores.
        model: The conditional model that the generator is one state of.
    """

    generator: Generator
    fitted: FittedBase
    ms_per_sample: float | None
    n_undone: int
    adapted: SavedModel | None = None
    model: ConditionalModel | None = None


@dataclass
class Prepared:
    """A task with the base it was made from.

    Attributes:
        task: What the training loop trains on.
        fitted: The base; of a conditional model that in the middle of its conditions.
        known: The exactly known numbers of that state.
        model: The conditional model; None for one state.
        stored: Whether an earlier start had fitted the base.
    """

    task: Task
    fitted: FittedBase
    known: CrystalReference
    model: ConditionalModel | None = None
    stored: bool = False


def train(problem: Problem, config: Config, run: RunDirectory, console: Console, stop: StopFlag, *, resume: bool) -> Trained:
    """Train from the start or from checkpoint.pt, on all ranks; model.pt is the result, and a generator for the (middle) state.

    base.pt holds the base as it was fitted and the flow before its first step, so that a resumed training does not fit again.

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
    run.write_status("base")
    with threads_for(problem.crystal.n_sites * config.train.batch_size // parallel.size()):
        prepared = _prepared(problem, config, run, console, stop, resume=resume)
    say_shares(console, "a training step", "samples", config.train.batch_size)
    trainer = Trainer(prepared.task, config.train, seed=config.seed, ranks=ranks_for(torch_device(config.device)))
    path = run.file("checkpoint.pt")
    if prepared.stored and parallel.agreed(path.exists()):
        _restore(trainer, path)
        console.say(f"training   continues at step {trainer.step}")
    elif resume and path.exists():
        console.say(f"training   starts again: {_BASE}, to which checkpoint.pt belongs, is not there")
    with threads_for(problem.crystal.n_sites * config.train.batch_size // parallel.size()):
        loop(trainer, run, console, stop, prepared.known)
    if stop.on_any_rank():
        stop.check(f"step {trainer.step} is saved; continue with --resume")
    _save(run, "model.pt", problem, config, prepared)
    model, generator = prepared.model, next(prepared.task.evaluated()).generator
    samples = trainer.step * config.train.batch_size
    per_sample = 1e3 * trainer.elapsed / samples if samples else None
    return Trained(generator, prepared.fitted, per_sample, trainer.undone, model=model)


def _prepared(problem: Problem, config: Config, run: RunDirectory, console: Console, stop: StopFlag, *, resume: bool) -> Prepared:
    """The base fitted and the flow built, or both as an earlier start has left them."""
    conditions, stored = conditions_of(config.condition, problem), run.file(_BASE)
    if resume and parallel.agreed(stored.exists()):
        saved = load_model(stored, problem.crystal, problem.beta)
        console.say(f"base       {config.base.kind}, as it was fitted before")
        if saved.conditional is None:
            return replace(_on_base(problem, config, saved.fitted), stored=True)
        return replace(_on_bases(problem, config, saved.conditional), stored=True)
    if conditions is None:
        prepared = _on_base(problem, config, parallel.agreed(_chosen_base(problem, config, console, stop)))
    else:
        bases = parallel.agreed(_chosen_bases(problem, conditions, config, console, stop))
        prepared = _on_bases(problem, config, bases)
    _save(run, _BASE, problem, config, prepared)
    return prepared


def _save(run: RunDirectory, name: str, problem: Problem, config: Config, prepared: Prepared) -> None:
    """Write a model file, on the first rank."""
    if not parallel.first():
        return
    generator = next(prepared.task.evaluated()).generator
    state = {**problem_state(problem), "eta": getattr(generator.prior, "eta", None)}
    bases = prepared.model.fitted if prepared.model else None
    saved = SavedModel(prepared.task.flow.state_dict(), config, prepared.fitted, problem.crystal.replicate, state, bases)
    save_model(run.file(name), saved, problem.crystal)


def in_state_of(problem: Problem, model: ConditionalModel, *, ms_per_sample: float | None = None, n_undone: int = 0) -> Trained:
    """A conditional model as an ordinary generator in the state of a problem.

    Args:
        problem: The crystal in its state.
        model: The model.
        ms_per_sample: Training time for each sample and step, milliseconds; None if nothing was trained.
        n_undone: Diverging steps that were undone.

    Raises:
        StateError: The state is outside the trained range.
    """
    context = model.conditions.context(model.own_values(problem))
    generator, parameters = model.generators.at(context, problem.beta), model.fitted.bases.parameters_at(context)
    base = generator.prior.base
    own = measured(parallel.split(problem.potential), base, problem.beta, n_samples=_MEASURED, seed=0)
    return Trained(generator, FittedBase(base, parameters, (own,)), ms_per_sample, n_undone, model=model)


def _on_base(problem: Problem, config: Config, fitted: FittedBase) -> Prepared:
    """Training in one state."""
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
    softened = problem.softened_target(config.train.softening)
    return Prepared(SingleState(generator, softened, problem.exact_target()), fitted, reference(problem, fitted))


def _on_bases(problem: Problem, config: Config, bases: FittedBases) -> Prepared:
    """Training over conditions; what is said of the base is that in the middle of them."""
    model = build_model(problem, config, bases)
    centre = (0.0,) * len(bases.conditions)
    middle, generator = model.at(bases.conditions.values(centre))
    own = measured(parallel.split(middle.potential), generator.prior.base, middle.beta, n_samples=_MEASURED, seed=config.seed)
    fitted = FittedBase(generator.prior.base, bases.bases.parameters_at(centre), (own,))
    return Prepared(task_of(model, config), fitted, reference(middle, fitted), model)


def _chosen_bases(problem: Problem, conditions: Conditions, config: Config, console: Console, stop: StopFlag) -> FittedBases:
    """Bases over the conditions, harmonic or self-consistent ones: those on which a short training gets further."""
    check = _stopping(stop)
    for axis in conditions.axes:
        console.say(f"condition  {axis.name} from {axis.low:g} to {axis.high:g} {axis.unit}".rstrip())
    base = config.base.model_copy(update={"n_samples": config.condition.base_samples})
    efforts = [base]
    if base_kind(base.kind).restarts and base.iterations and base.pilot_steps and config.train.steps:
        efforts.insert(0, base.model_copy(update={"iterations": 0}))
    candidates = list[FittedBases]()
    for effort in efforts:
        try:
            start = candidates[0] if candidates else None
            candidates.append(fit_bases(problem, effort, conditions, config.seed, check=check, start=start))
        except UnstableCrystalError as error:
            if effort is not efforts[-1]:
                continue  # temperature may stabilise it: then the self-consistent crystals are the only ones
            hint = "; the harmonic crystals are stable at all points, and base.iterations=0 uses them" if candidates else ""
            raise UnstableCrystalError(f"{error}{hint}") from None
    console.say(f"base       {base.kind}, at {len(conditions.design())} points of the conditions")
    tasks = [task_of(build_model(problem, config, entry), config, known=candidates[-1]) for entry in candidates]
    best, bounds = better_task(tasks, config, stop)
    check()
    if bounds:
        known = _on_bases(problem, config, candidates[best]).known
        shown = [known.value(bound * known.n_atoms + known.beta_static_energy) for bound in bounds]
        _say_choice(console, config, shown, iterated=candidates[best].iterated)
    return candidates[best]


def _stopping(stop: StopFlag) -> Callable[[], None]:
    """Stops the fit of a base where a signal came to any rank."""

    def check() -> None:
        if stop.on_any_rank():
            stop.check("nothing was trained yet; continue with --resume")

    return check


def _chosen_base(problem: Problem, config: Config, console: Console, stop: StopFlag) -> FittedBase:
    """The base the configuration asks for; of the phonon bases the one on which a short training gets further."""
    check, candidates = _stopping(stop), []
    if base_kind(config.base.kind).restarts and config.base.iterations and config.base.pilot_steps and config.train.steps:
        with suppress(UnstableCrystalError):  # temperature may stabilise it: then the self-consistent crystal is the only one
            candidates.append(fit_base(problem, config.base.model_copy(update={"iterations": 0}), config.seed, check=check))
    candidates.append(
        fit_base(problem, config.base, config.seed, start=candidates[0].parameters if candidates else None, check=check)
    )
    announce(problem, config.base, candidates[-1], console)

    def task(fitted: FittedBase) -> Task:
        generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
        return SingleState(generator, problem.softened_target(config.train.softening), problem.exact_target())

    best, bounds = better_task([task(fitted) for fitted in candidates], config, stop)
    check()
    chosen, known = candidates[best], reference(problem, candidates[best])
    shown = [known.value(bound * known.n_atoms + known.beta_static_energy) for bound in bounds]
    _say_choice(console, config, shown, iterated=bool(chosen.iterations))
    return chosen


def _say_choice(console: Console, config: Config, bounds: Sequence[float], *, iterated: bool) -> None:
    """Which of two bases serves the flow better, if there was a choice."""
    if bounds:
        tried = ", ".join(f"{name} {bound:.4f}" for name, bound in zip(("harmonic", "self-consistent"), bounds, strict=True))
        kept = "self-consistent" if iterated else "harmonic"
        console.say(f"pilot      bound after {config.base.pilot_steps} steps: {tried}; the {kept} base is used")


def require_checkpoint(path: Path) -> None:
    """Refuse a checkpoint, or a stored base, that cannot be continued from, before any work; there may be none.

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
    if ("base" if path.name == _BASE else "optimiser") not in state:
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
    last: dict[str, Any] = {"text": "", "ess": None, "F": None, "told": -math.inf}
    with run.training_table(columns, keep_until=trainer.step) as table, console.stage("training") as bar:

        def report(record: StepRecord) -> None:
            table.write(*dataclasses.astuple(record))
            if record.ess is not None and record.free_energy is not None and record.exact_bound is not None:
                bound = record.exact_bound + offset
                last.update(ess=record.ess, F=record.free_energy + offset)
                last["text"] = f"step {record.step}  bound {bound:.5f}  std(log w) {record.std_log_w:.2f}  ESS {record.ess:.0%}"
            eta = bar.update(trainer.progress, last["text"])
            if record.ess is not None or time.monotonic() - last["told"] > _STATUS_SECONDS:
                last["told"] = time.monotonic()
                run.write_status(
                    "training", step=record.step, percent=100 * trainer.progress, loss=record.bound + offset, ess=last["ess"],
                    free_energy=last["F"], eta_seconds=eta,
                )  # fmt: skip

        trainer.run(stop, report=report, save=lambda state: checkpoint.save(run.file("checkpoint.pt"), state))
    undone = f", {trainer.undone} diverging steps undone" if trainer.undone else ""
    console.say(f"training   {trainer.step} steps in {trainer.elapsed:.0f} s{undone}; {last['text'] or 'not evaluated'}")


def problem_state(problem: Problem) -> dict[str, Any]:
    """What a model must agree with to be used again."""
    length = {"length_scale": problem.length_scale, "length_source": problem.length_source}
    return {
        "temperature": problem.temperature, "units": problem.units.name, "pair_style": problem.engine.pair_style, **length,
    }  # fmt: skip
