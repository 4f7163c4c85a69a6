# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditional models: from ranges in the configuration to states of one crystal, and back from a stored model to any state."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lammps_bg.config import BaseConfig, ConditionConfig, Config
from lammps_bg.crystal.cell_variables import CELL_VARIABLES, SHEARS, cell_variables, deformation, require_no_flip
from lammps_bg.crystal.conditions import TEMPERATURE, Axis, Conditions
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import ConfigError, StateError, UnstableCrystalError
from lammps_bg.flow.base import BaseParameters
from lammps_bg.flow.conditional import ConditionalBases, ConditionalGenerator, FittedBases
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.model import build_conditional, torch_device
from lammps_bg.flow.polynomial import Context
from lammps_bg.study.fitting import fit_base
from lammps_bg.study.problem import Problem
from lammps_bg.training.target import BatchedTarget, MixedTarget, SoftenedTarget, TrainingTarget
from lammps_bg.training.task import Join, ManyStates, State

SAME_CELL = 1e-6  # of a cell variable that is no condition


def conditions_of(config: ConditionConfig, problem: Problem) -> Conditions | None:
    """The axes that a configuration asks for, checked against the crystal; None where it asks for none.

    Args:
        config: The ranges.
        problem: The crystal, in the cell and with the script's potential to which they refer.

    Raises:
        ConfigError: A variable is no parameter of the script's potential, or a temperature is not positive.
        CrystalError: A cell of the ranges flips.
    """
    names = ["volume", "c_over_a", "b_over_a"]
    ranges = [(cell, getattr(config, name)) for cell, name in zip(CELL_VARIABLES, names, strict=False)]
    ranges += [(name, config.shear) for name in SHEARS]
    axes = [Axis(name, ends[0], ends[1], "") for name, ends in ranges if ends]
    for axis in axes:
        for value in (axis.low, axis.high):
            require_no_flip(problem.crystal.supercell @ deformation({axis.name: value}))
    if config.temperature:
        unit = problem.units.labels.temperature
        if config.temperature[0] <= 0:
            raise ConfigError(
                f"expected condition.temperature above 0 {unit}, got {list(config.temperature)}; give [low, high] with positive numbers"
            )
        axes.append(Axis(TEMPERATURE, *config.temperature, unit))
    for name, ends in config.parameters.items():
        if name in (*CELL_VARIABLES, TEMPERATURE, "P"):
            raise ConfigError(
                f"expected a name of its own for a parameter of the potential, got {name}, which is the name of another condition; "
                "rename the variable in the script"
            )
        problem.engine.parameter_use(name)
        axes.append(Axis(name, *ends, ""))
    if not axes:
        return None
    conditions = Conditions(tuple(axes))
    pin_parameters(problem, conditions)
    for context in conditions.design():  # what LAMMPS refuses, or flips, it shall refuse before anything is written
        problem.at(conditions.values(tuple(context)))
    problem.surface.enter()
    return conditions


def pin_parameters(problem: Problem, conditions: Conditions) -> None:
    """Let a problem name its own values of the parameters, which other states on the same LAMMPS instance will change.

    Args:
        problem: The crystal with the potential of the script.
        conditions: The axes.

    Raises:
        StateError: The script gives a parameter no number.
    """
    for axis in conditions.axes:
        if axis.is_parameter:
            value = problem.engine.variable(axis.name)
            if value is None or not math.isfinite(value):
                text = problem.engine.variable_text(axis.name)
                raise StateError(f"expected a number in the variable {axis.name}, got '{text}'; give -var {axis.name} with one")
            problem.surface.parameters[axis.name] = value


def values_of(problem: Problem, conditions: Conditions, cell: Array) -> dict[str, float]:
    """Where a problem stands: values of all cell variables, of T, and of the parameters.

    Args:
        problem: The crystal in some state.
        conditions: The axes.
        cell: Unit cell that the cell variables are relative to, shape [3, 3], length units.

    Raises:
        StateError: The cell differs in what is no condition.
    """
    own = cell_variables(np.asarray(np.linalg.solve(cell, problem.crystal.unit.cell)))
    for name, value in own.items():
        if abs(value) > SAME_CELL and name not in conditions.names:
            raise StateError(
                f"expected the cell that the model was trained with in {name}, got one that differs by {value:.3g}; train with a range of "
                f"it in [condition]"
            )
    return {**own, TEMPERATURE: problem.temperature, **problem.surface.parameters}


def require_inside(problem: Problem, conditions: Conditions) -> None:
    """Refuse a state that a model is not going to be trained for.

    Args:
        problem: The crystal in that state, in the cell that the conditions are relative to.
        conditions: The axes.

    Raises:
        StateError: It is outside the ranges.
    """
    conditions.context(values_of(problem, conditions, problem.crystal.unit.cell))


@dataclass
class ConditionalModel:
    """A conditional generator with the crystal that it belongs to.

    Attributes:
        generators: Flow and bases.
        fitted: The bases with their conditions.
        reference: The crystal in the cell that the conditions are relative to.
    """

    generators: ConditionalGenerator
    fitted: FittedBases
    reference: Problem

    @property
    def conditions(self) -> Conditions:
        """The axes."""
        return self.fitted.conditions

    def at(self, values: Mapping[str, float]) -> tuple[Problem, Generator]:
        """The crystal and its generator in a state.

        Args:
            values: Value of every axis, by name.

        Raises:
            StateError: One is outside the trained range.
        """
        context = self.conditions.context(values)
        problem = self.reference.at({name: values[name] for name in self.conditions.names})
        return problem, self.generators.at(context, problem.beta)

    def crystal_at(self, values: Mapping[str, float]) -> Crystal:
        """The crystal in the cell of a state, without an evaluation of its energy.

        Args:
            values: Cell variables by name; one that is left out is that of the reference cell.
        """
        cell = {name: values[name] for name in CELL_VARIABLES if values.get(name)}
        return self.reference.crystal.deformed(deformation(cell)) if cell else self.reference.crystal

    def own_values(self, problem: Problem) -> dict[str, float]:
        """Where a problem of the same crystal stands."""
        return values_of(problem, self.conditions, self.reference.crystal.unit.cell)


def fit_bases(
    problem: Problem,
    config: BaseConfig,
    conditions: Conditions,
    seed: int,
    *,
    check: Callable[[], None],
    start: FittedBases | None = None,
) -> FittedBases:
    """Fit a base at every point of the design.

    Args:
        problem: The crystal in its reference cell.
        config: Kind of the base and effort.
        conditions: The axes.
        seed: Seed of the displacements.
        check: Called before every batch of energies; may raise to stop the fit.
        start: Bases of the same points to start from, where their kind can.

    Raises:
        UnstableCrystalError: The crystal is unstable at a point, which is named.
    """
    nodes, fitted = conditions.design(), list[BaseParameters]()
    known = start.bases.parameters if start else [None] * len(nodes)
    for context, first in zip(nodes, known, strict=True):
        values = conditions.values(tuple(context))
        try:
            fitted.append(fit_base(problem.at(values), config, seed, start=first, check=check).parameters)
        except UnstableCrystalError as error:
            raise UnstableCrystalError(f"at {conditions.describe(values)}: {error}") from None
    return FittedBases(conditions, ConditionalBases(nodes, fitted), config.iterations > 0)


def build_model(problem: Problem, config: Config, fitted: FittedBases, *, eta: float | None = None) -> ConditionalModel:
    """The conditional model on fitted bases, its flow the identity.

    Args:
        problem: The crystal in its reference cell.
        config: The configuration.
        fitted: The bases.
        eta: Width of the auxiliary variables that a model was trained with, length units.
    """
    conditions, nodes = fitted.conditions, fitted.bases.nodes
    states = [{TEMPERATURE: problem.temperature, **conditions.values(tuple(context))} for context in nodes]
    betas = [problem.units.beta(values[TEMPERATURE]) for values in states]
    generators = build_conditional(
        config.flow, problem.crystal, fitted.bases, betas, seed=config.seed, eta=eta, reflections=not conditions.sheared
    )
    generators.flow.to(torch_device(config.device))
    return ConditionalModel(generators, fitted, problem)


def task_of(model: ConditionalModel, config: Config, *, known: FittedBases | None = None) -> ManyStates:
    """Training of a conditional model over all of its conditions.

    Args:
        model: The model.
        config: The configuration.
        known: The bases whose integrals the states are compared relative to; None: the model's own.
    """
    compared = (known or model.fitted).bases

    def make(context: Context) -> State:
        problem, generator = model.at(model.conditions.values(context))
        integral = compared.at(context, problem.beta).log_integral
        return State(generator, problem.softened_target(config.train.softening), problem.exact_target(), integral)

    pool = model.conditions.pool(config.condition.pool, config.seed)
    return ManyStates(pool, make, states_per_batch=config.condition.states_per_batch, join=_join(model))


def _join(model: ConditionalModel) -> Join:
    """How the targets of a batch are joined: all samples in one call where the energy source has such a one, else one after the other."""
    conditions, reference = model.conditions, model.reference
    batched = reference.potential.batched(
        reference.at(conditions.values(tuple(context))).potential for context in conditions.design()
    )
    if batched is None:
        return MixedTarget

    def join(targets: Sequence[SoftenedTarget], counts: Sequence[int], offsets: Sequence[float]) -> TrainingTarget:
        return BatchedTarget(batched([target.surface for target in targets], counts), targets, counts, offsets)

    return join


def at_another_size(fitted: FittedBases, replicate: tuple[int, int, int], reference: Problem, config: Config) -> FittedBases:
    """Stored bases at another replicate: moved there, or fitted again where they cannot be, or are harmonic.

    Args:
        fitted: The bases.
        replicate: That they were fitted on, in unit cells.
        reference: The crystal in its reference cell at the new replicate.
        config: The configuration.
    """
    target, known = reference.crystal, fitted.bases.parameters
    if fitted.iterated:
        source = replace(target, replicate=replicate, atom_ids=np.empty(0, dtype=np.int64))
        moved = [there for entry in known if (there := entry.at(source, target)) is not None]
        if moved:
            return replace(fitted, bases=ConditionalBases(fitted.bases.nodes, moved))
    base = config.base.model_copy(update={"n_samples": config.condition.base_samples})
    if known[0].restarts and not fitted.iterated:
        base = base.model_copy(update={"iterations": 0})
    return fit_bases(reference, base, fitted.conditions, config.seed, check=lambda: None)
