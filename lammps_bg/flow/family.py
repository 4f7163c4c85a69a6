# SPDX-License-Identifier: GPL-2.0-or-later
"""A conditional model: one flow and a family of bases, that give an ordinary generator under any conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lammps_bg.flow.augmented import AugmentedFlow
from lammps_bg.flow.base_family import BaseFamily, Context
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.prior import AugmentedPrior, Prior
from lammps_bg.flow.sublattice import SublatticeFlow


@dataclass
class GeneratorFamily:
    """Generators that share one flow.

    Attributes:
        flow: The bijection, which takes a context.
        bases: The base of every context.
        eta: Width of the auxiliary variables, length units; None for a flow without.
    """

    flow: SublatticeFlow | AugmentedFlow
    bases: BaseFamily
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


def mixed(generators: Sequence[Generator], counts: Sequence[int]) -> Generator:
    """Generators of one family as one for a batch, in which each has so many samples in a row.

    Args:
        generators: Each of one context.
        counts: Samples of each.
    """
    if len(generators) == 1:
        return generators[0]
    contexts = [g.context.expand(n, -1) for g, n in zip(generators, counts, strict=True) if g.context is not None]
    prior = MixedPrior([g.prior for g in generators], counts)
    return Generator(prior, generators[0].flow, torch.cat(contexts))


class MixedPrior(Prior):
    """Priors of several contexts as one, for batches in which each has so many samples in a row.

    Args:
        priors: The priors.
        counts: Samples of each.
    """

    def __init__(self, priors: Sequence[Prior], counts: Sequence[int]) -> None:
        super().__init__(priors[0].base)
        self.channels = priors[0].channels
        self._priors, self._counts = list(priors), list(counts)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw a batch, length units, shape [n, channels, N, 3], float64; n is the sum of the counts."""
        if n != sum(self._counts):
            raise ValueError(f"a batch of these contexts has {sum(self._counts)} samples, not {n}")
        return torch.cat([prior.sample(k, generator) for prior, k in zip(self._priors, self._counts, strict=True)])

    def colour(self, x: Tensor) -> Tensor:
        """States of white noise, each under its own prior, shape [n, channels, N, 3]; differentiable."""
        return torch.cat([p.colour(s) for p, s in zip(self._priors, x.split(self._counts), strict=True)])

    def whiten(self, state: Tensor) -> Tensor:
        """White noise of states, each under its own prior, shape [n, channels, N, 3]; differentiable."""
        return torch.cat([p.whiten(s) for p, s in zip(self._priors, state.split(self._counts), strict=True)])

    def log_prob(self, state: Tensor) -> Tensor:
        """Normalised log-density of each under its own prior, shape [n], float64."""
        return torch.cat([p.log_prob(s) for p, s in zip(self._priors, state.split(self._counts), strict=True)])

    def log_auxiliary(self, state: Tensor) -> Tensor:
        """Log-density of the auxiliary variables, shape [n], which is the same under all conditions."""
        return self._priors[0].log_auxiliary(state)
