# SPDX-License-Identifier: GPL-2.0-or-later
"""Fit the base, build the flow, and train it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.conditions import Conditions
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.flow.base import FittedBase, base_kind
from lammps_bg.flow.conditional import FittedBases
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.model import build_generator, torch_device
from lammps_bg.flow.self_consistent import measured
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.study.conditional import ConditionalModel, build_model, conditions_of, fit_bases, task_of
from lammps_bg.study.fitting import announce, fit_base, reference
from lammps_bg.study.pilot import better_task
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import say_shares
from lammps_bg.study.threads import threads_for
from lammps_bg.thermo.free_energy import CrystalReference
from lammps_bg.training.model_file import SavedModel
from lammps_bg.training.ranks import ranks_for
from lammps_bg.training.task import SingleState, Task
from lammps_bg.training.trainer import StepRecord, Trainer

_MEASURED = 256  # configurations for the bound of a base


class TrainingRecord(Protocol):
    """Keeps a training so that it can be continued; all ranks call it together, the first one writes."""

    def base(self) -> SavedModel | None:
        """The base as an earlier start has fitted it, with the flow before its first step; None where there is none."""
        ...

    def keep_base(self, model: SavedModel) -> None:
        """Keep the same for a later start."""
        ...

    def restore(self, trainer: Trainer) -> bool:
        """Let a trainer continue where an earlier start was; whether there was one."""
        ...

    def keep(self, state: dict[str, Any]) -> None:
        """Keep the state of the trainer; on the first rank alone."""
        ...

    def table(self, last: int) -> AbstractContextManager[Callable[[StepRecord], None]]:
        """Takes the record of each step after the `last` one."""
        ...


class Unrecorded:
    """Keeps nothing: a training in a notebook."""

    def base(self) -> SavedModel | None:
        """Nothing was kept."""
        return None

    def keep_base(self, model: SavedModel) -> None:
        """Forget it."""

    def restore(self, trainer: Trainer) -> bool:
        """Nothing was kept."""
        return False

    def keep(self, state: dict[str, Any]) -> None:
        """Forget it."""

    @contextmanager
    def table(self, last: int) -> Iterator[Callable[[StepRecord], None]]:
        """Forget them."""
        yield lambda record: None


@dataclass
class Trained:
    """A generator that is ready to draw from.

    Attributes:
        generator: Prior and flow.
        fitted: The base with its history.
        saved: What a model file of it holds.
        ms_per_sample: Training time for each sample and step, milliseconds; None if nothing was trained.
        n_undone: Diverging steps that were undone.
        adapted: Whether it is used at another supercell or state than it was trained for, so that `saved` is not its file any more.
        model: The conditional model that the generator is one state of.
    """

    generator: Generator
    fitted: FittedBase
    saved: SavedModel
    ms_per_sample: float | None = None
    n_undone: int = 0
    adapted: bool = False
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


def train(
    problem: Problem,
    config: Config,
    reporter: Reporter = SILENT,
    *,
    stop: StopFlag | None = None,
    record: TrainingRecord | None = None,
) -> Trained:
    """Train on all ranks, from the start or where a record has come to; returns a generator for the (middle) state.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
        reporter: Told how far it is.
        stop: Set by signals.
        record: Keeps it so that it can be continued; None keeps nothing.

    Raises:
        Interrupted: A signal came; the record holds the last step.
        TrainingError: Diverging steps keep happening.
    """
    stop, record = StopFlag() if stop is None else stop, record or Unrecorded()  # a flag is false before a signal
    moved_at_once = problem.crystal.n_sites * config.train.batch_size // parallel.size()
    with reporter.stage("base"), threads_for(moved_at_once):
        prepared = prepare(problem, config, reporter, stop, record)
    say_shares(reporter, "a training step", "samples", config.train.batch_size)
    trainer = Trainer(prepared.task, config.train, seed=config.seed, ranks=ranks_for(torch_device(config.device)))
    if prepared.stored and record.restore(trainer):
        reporter.say(f"training   continues at step {trainer.step}")
    with threads_for(moved_at_once):
        _loop(trainer, reporter, stop, record, prepared.known)
    if stop.on_any_rank():
        stop.check(f"step {trainer.step} is saved; continue with --resume")
    samples = trainer.step * config.train.batch_size
    per_sample = 1e3 * trainer.elapsed / samples if samples else None
    generator = next(prepared.task.evaluated()).generator
    saved = _as_saved(problem, config, prepared)
    return Trained(generator, prepared.fitted, saved, per_sample, trainer.undone, model=prepared.model)


def prepare(problem: Problem, config: Config, reporter: Reporter, stop: StopFlag, record: TrainingRecord) -> Prepared:
    """The base fitted and the flow built, or both as an earlier start has left them."""
    conditions = conditions_of(config.condition, problem)
    if (saved := record.base()) is not None:
        reporter.say(f"base       {config.base.kind}, as it was fitted before")
        if saved.conditional is None:
            return replace(_on_base(problem, config, saved.fitted), stored=True)
        return replace(_on_bases(problem, config, saved.conditional), stored=True)
    if conditions is None:
        prepared = _on_base(problem, config, parallel.agreed(_chosen_base(problem, config, reporter, stop)))
    else:
        bases = parallel.agreed(_chosen_bases(problem, conditions, config, reporter, stop))
        prepared = _on_bases(problem, config, bases)
    record.keep_base(_as_saved(problem, config, prepared))
    return prepared


def _as_saved(problem: Problem, config: Config, prepared: Prepared) -> SavedModel:
    """The flow as it is now, with all that it takes to use it again."""
    generator = next(prepared.task.evaluated()).generator
    state = {**problem_state(problem), "eta": getattr(generator.prior, "eta", None)}
    bases = prepared.model.fitted if prepared.model else None
    return SavedModel(prepared.task.flow.state_dict(), config, prepared.fitted, problem.crystal.replicate, state, bases)


def in_state_of(problem: Problem, model: ConditionalModel, saved: SavedModel) -> Trained:
    """A conditional model as an ordinary generator in the state of a problem.

    Raises:
        StateError: The state is outside the trained range.
    """
    context = model.conditions.context(model.own_values(problem))
    generator, parameters = model.generators.at(context, problem.beta), model.fitted.bases.parameters_at(context)
    base = generator.prior.base
    own = measured(parallel.split(problem.potential), base, problem.beta, n_samples=_MEASURED, seed=0)
    return Trained(generator, FittedBase(base, parameters, (own,)), saved, model=model)


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


def _chosen_bases(problem: Problem, conditions: Conditions, config: Config, reporter: Reporter, stop: StopFlag) -> FittedBases:
    """Bases over the conditions, harmonic or self-consistent ones: those on which a short training gets further."""
    check = _stopping(stop)
    for axis in conditions.axes:
        reporter.say(f"condition  {axis.name} from {axis.low:g} to {axis.high:g} {axis.unit}".rstrip())
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
    reporter.say(f"base       {base.kind}, at {len(conditions.design())} points of the conditions")
    tasks = [task_of(build_model(problem, config, entry), config, known=candidates[-1]) for entry in candidates]
    best, bounds = better_task(tasks, config, stop)
    check()
    if bounds:
        known = _on_bases(problem, config, candidates[best]).known
        shown = [known.value(bound * known.n_atoms + known.beta_static_energy) for bound in bounds]
        _say_choice(reporter, config, shown, iterated=candidates[best].iterated)
    return candidates[best]


def _stopping(stop: StopFlag) -> Callable[[], None]:
    """Stops the fit of a base where a signal came to any rank."""

    def check() -> None:
        if stop.on_any_rank():
            stop.check("nothing was trained yet; continue with --resume")

    return check


def _chosen_base(problem: Problem, config: Config, reporter: Reporter, stop: StopFlag) -> FittedBase:
    """The base the configuration asks for; of the phonon bases the one on which a short training gets further."""
    check, candidates = _stopping(stop), []
    if base_kind(config.base.kind).restarts and config.base.iterations and config.base.pilot_steps and config.train.steps:
        with suppress(UnstableCrystalError):  # temperature may stabilise it: then the self-consistent crystal is the only one
            candidates.append(fit_base(problem, config.base.model_copy(update={"iterations": 0}), config.seed, check=check))
    candidates.append(
        fit_base(problem, config.base, config.seed, start=candidates[0].parameters if candidates else None, check=check)
    )
    announce(problem, config.base, candidates[-1], reporter)

    def task(fitted: FittedBase) -> Task:
        generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, device=config.device)
        return SingleState(generator, problem.softened_target(config.train.softening), problem.exact_target())

    best, bounds = better_task([task(fitted) for fitted in candidates], config, stop)
    check()
    chosen, known = candidates[best], reference(problem, candidates[best])
    shown = [known.value(bound * known.n_atoms + known.beta_static_energy) for bound in bounds]
    _say_choice(reporter, config, shown, iterated=bool(chosen.iterations))
    return chosen


def _say_choice(reporter: Reporter, config: Config, bounds: Sequence[float], *, iterated: bool) -> None:
    """Which of two bases serves the flow better, if there was a choice."""
    if bounds:
        tried = ", ".join(f"{name} {bound:.4f}" for name, bound in zip(("harmonic", "self-consistent"), bounds, strict=True))
        kept = "self-consistent" if iterated else "harmonic"
        reporter.say(f"pilot      bound after {config.base.pilot_steps} steps: {tried}; the {kept} base is used")


def _loop(trainer: Trainer, reporter: Reporter, stop: StopFlag, record: TrainingRecord, constants: CrystalReference) -> None:
    """Run the trainer with its table and progress."""
    offset = constants.value(constants.beta_static_energy)
    text, ess, free_energy = "", None, None
    with record.table(trainer.step) as write, reporter.stage("training") as bar:

        def report(step: StepRecord) -> None:
            nonlocal text, ess, free_energy
            write(step)
            if step.ess is not None and step.free_energy is not None and step.exact_bound is not None:
                ess, free_energy = step.ess, step.free_energy + offset
                bound = step.exact_bound + offset
                text = f"step {step.step}  bound {bound:.5f}  std(log w) {step.std_log_w:.2f}  ESS {ess:.0%}"
            bar.update(trainer.progress, text, step=step.step, loss=step.bound + offset, ess=ess, free_energy=free_energy)

        trainer.run(stop, report=report, save=record.keep)
    undone = f", {trainer.undone} diverging steps undone" if trainer.undone else ""
    reporter.say(f"training   {trainer.step} steps in {trainer.elapsed:.0f} s{undone}; {text or 'not evaluated'}")


def problem_state(problem: Problem) -> dict[str, Any]:
    """What a model must agree with to be used again."""
    length = {"length_scale": problem.length_scale, "length_source": problem.length_source}
    return {
        "temperature": problem.temperature, "units": problem.units.name, "pair_style": problem.engine.pair_style, **length,
    }  # fmt: skip
