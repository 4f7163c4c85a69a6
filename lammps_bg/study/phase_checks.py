# SPDX-License-Identifier: GPL-2.0-or-later
"""One crystal of a phase diagram, and what keeps several of them from being compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lammps_bg.config import Config
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.errors import ConfigError, CrystalError
from lammps_bg.store.provenance import sha256
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.problem import Problem


@dataclass(frozen=True)
class Phase:
    """One crystal of a comparison.

    Attributes:
        name: Name of its run.
        model: Its conditional model.
        names: Its free cell variables.
        config: Its configuration.
    """

    name: str
    model: ConditionalModel
    names: tuple[str, ...]
    config: Config

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.model.reference.crystal.n_sites

    def own(self) -> dict[str, float]:
        """T and the parameters of its script that are conditions of the model."""
        problem = self.model.reference
        return {TEMPERATURE: problem.temperature, **problem.surface.parameters}


def require_comparable(phases: Sequence[Phase], *, other_sizes: bool) -> None:
    """Refuse crystals whose free energies per atom do not compare.

    Args:
        phases: The crystals.
        other_sizes: Accept unequal numbers of atoms.

    Raises:
        CrystalError: Unequal numbers of atoms, units or lengths Lambda.
    """
    first = phases[0].model.reference
    for phase in phases[1:]:
        other = phase.model.reference
        if phase.n_atoms != phases[0].n_atoms and not other_sizes:
            raise CrystalError(
                f"expected crystals of equally many atoms, {phases[0].n_atoms} in {phases[0].name}, got {phase.n_atoms} in {phase.name}; give "
                "each its -rep, or accept an error of the order ln(N)/N per atom with --other-sizes"
            )
        for what, one, two in (
            ("units", first.units.name, other.units.name),
            ("Lambda of the absolute free energy", _lambda(first), _lambda(other, first)),
        ):
            if one != two:
                raise _unlike(what, phases[0], phase)


def _lambda(problem: Problem, like: Problem | None = None) -> tuple[str, float | None]:
    """Whether Lambda is the thermal wavelength, and its value where it is not; equal but for rounding to that of another problem, it is that one."""
    if problem.thermal_length:
        return "thermal", None
    same = like is not None and math.isclose(problem.length_scale, like.length_scale, rel_tol=1e-9)
    return ("", like.length_scale) if same and like else ("", problem.length_scale)


def _unlike(what: str, first: Phase, other: Phase) -> CrystalError:
    return CrystalError(
        f"expected the {what} of {first.name} in {other.name}, got another; their free energies do not compare, so use one "
        "potential and one set of units in both scripts"
    )


def require_states(phases: Sequence[Phase], states: Sequence[Mapping[str, float]]) -> None:
    """Refuse states that a model does not know, before anything is evaluated.

    Args:
        phases: The crystals.
        states: T, parameters and P of all points off the axis.

    Raises:
        ConfigError: A model was trained at another value of what is no condition of it.
        StateError: A value is outside a trained range.
    """
    for entry in phases:
        conditions = entry.model.conditions
        middle = conditions.values((0.0,) * len(conditions))
        for state in states:
            conditions.context({**middle, **state})
            for name, value in state.items():
                if name != "P" and name not in conditions.names and value != (own := _own_value(entry, name)):
                    known = f"which knows {name} = {own:g} alone" if own is not None else f"whose script has no variable {name}"
                    raise ConfigError(
                        f"expected models that were trained over {name}, got {name} = {value:g} for {entry.name}, {known}; train it with a "
                        "range of it in [condition]"
                    )


def _own_value(entry: Phase, name: str) -> float | None:
    """T or a variable of a crystal's script."""
    problem = entry.model.reference
    return problem.temperature if name == TEMPERATURE else problem.engine.variable(name)


def require_same_potential(phases: Sequence[Phase], state: Mapping[str, float]) -> None:
    """Refuse crystals of unequal potentials; their parameters are compared at one state, as far as they are conditions.

    Args:
        phases: The crystals.
        state: T and parameters; an axis that is left out is where the first model has its middle.

    Raises:
        CrystalError: The potentials differ.
    """
    middles = [entry.model.conditions.values((0.0,) * len(entry.model.conditions)) for entry in phases]
    values = {name: value for middle in reversed(middles) for name, value in middle.items()} | dict(state)
    first = _potential(phases[0], values)
    for entry in phases[1:]:
        if _potential(entry, values) != first:
            raise _unlike("potential", phases[0], entry)


def _potential(entry: Phase, values: Mapping[str, float]) -> tuple[Any, ...]:
    """What defines the potential in a state, with the contents of its files in place of their names."""
    names = [axis.name for axis in entry.model.conditions.axes if axis.is_parameter]
    problem = entry.model.reference
    # the instance may stand at the last state that was evaluated
    problem.at({name: values[name] for name in names}).surface.enter()
    return _described(problem)


def _described(problem: Problem) -> tuple[Any, ...]:
    pair = problem.engine.pair

    def known(word: str) -> str:
        path = pair.files.get(word)
        return sha256(path) if path is not None and path.is_file() else word

    coefficients = [tuple(map(known, words)) for words in pair.coefficients]
    return pair.style, pair.args, tuple(coefficients), pair.modifiers, pair.others
