# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditional models: bases fitted at some points of the box of conditions and smooth in between, and one flow for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lammps_bg.crystal.conditions import Conditions
from lammps_bg.crystal.structure import Array
from lammps_bg.flow.base import Base, BaseParameters
from lammps_bg.flow.bijection import Flow
from lammps_bg.flow.generator import AugmentedPrior, Generator, Prior
from lammps_bg.flow.polynomial import Context, PolynomialFit


class ConditionalBases:
    """A base for every context: the coordinates of its parameters are polynomials of the context.

    Args:
        nodes: Contexts at which parameters were fitted, shape [g, C].
        parameters: Those of each, all of one kind and at one replicate.

    Raises:
        StateError: There are fewer nodes than coefficients.
    """

    def __init__(self, nodes: Array, parameters: Sequence[BaseParameters]) -> None:
        self.nodes, self.parameters = nodes, tuple(parameters)
        known = zip(*(entry.coordinates() for entry in self.parameters), strict=True)
        self._fits = [PolynomialFit(nodes, np.stack(column)) for column in known]

    def parameters_at(self, context: Context) -> BaseParameters:
        """The parameters of a context."""
        return type(self.parameters[0]).from_coordinates([fit.at(context) for fit in self._fits])

    def at(self, context: Context, beta: float) -> Base:
        """The base of a context at 1 / (k_B T), inverse energy."""
        return self.parameters_at(context).base(beta)


@dataclass(frozen=True)
class FittedBases:
    """Conditional bases with what they were made from.

    Attributes:
        conditions: The axes of the contexts.
        bases: The bases.
        iterated: Whether they are self-consistent ones, rather than those at the energy minimum.
    """

    conditions: Conditions
    bases: ConditionalBases
    iterated: bool


@dataclass
class ConditionalGenerator:
    """Generators that share one flow.

    Attributes:
        flow: The bijection, which takes a context.
        bases: The base of every context.
        eta: Width of the auxiliary variables, length units; None for a flow without.
    """

    flow: Flow
    bases: ConditionalBases
    eta: float | None

    def at(self, context: Context, beta: float) -> Generator:
        """The generator of a context: from here on nothing knows of conditions.

        Args:
            context: Coordinates in [-1, 1].
            beta: 1 / (k_B T) there, inverse energy.
        """
        base = self.bases.at(context, beta)
        prior = Prior(base) if self.eta is None else AugmentedPrior(base, self.eta)
        return Generator(prior, self.flow, torch.tensor([context], dtype=torch.float64))
