# SPDX-License-Identifier: GPL-2.0-or-later
"""The density a flow starts from: a base on the displacements, with auxiliary variables where the architecture has them."""

import math

import torch
from torch import Tensor

from lammps_bg.flow.base import Base


class Prior:
    """The base itself: state [n, 1, N, 3] (sublattice flow)."""

    channels = 1

    def __init__(self, base: Base) -> None:
        self.base = base

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw states, length units, shape [n, channels, N, 3], float64."""
        return self.base.sample(n, generator)[:, None]

    def colour(self, x: Tensor) -> Tensor:
        """States [n, channels, N, 3] of white noise of the same shape, see `Base.colour`; differentiable."""
        return self.base.colour(x[:, 0])[:, None]

    def whiten(self, state: Tensor) -> Tensor:
        """White noise of states [n, channels, N, 3], see `Base.whiten`; differentiable."""
        return self.base.whiten(state[:, 0])[:, None]

    def log_prob(self, state: Tensor) -> Tensor:
        """Normalised log-density, shape [n], float64."""
        return self.base.log_prob(state[:, 0])

    def log_auxiliary(self, state: Tensor) -> Tensor:
        """Log-density of the target's auxiliary variables given the displacements, shape [n]: none, so zero."""
        return torch.zeros(len(state), dtype=torch.float64)


class AugmentedPrior(Prior):
    """Base and auxiliary variables a ~ N(u, eta^2): state [n, 2, N, 3] (augmented flow; Schebek et al. 2026).

    Args:
        base: Base on the displacements.
        eta: Standard deviation of the auxiliary variables per component, length units; the same for base and target.
    """

    channels = 2

    def __init__(self, base: Base, eta: float) -> None:
        super().__init__(base)
        self.eta = eta

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw states, length units, shape [n, channels, N, 3], float64."""
        u = self.base.sample(n, generator)
        return torch.stack((u, self.draw_auxiliary(u, generator)), 1)

    def colour(self, x: Tensor) -> Tensor:
        """States [n, 2, N, 3] of white noise of the same shape, see `Base.colour`; differentiable."""
        u = self.base.colour(x[:, 0])
        return torch.stack((u, u + self.eta * x[:, 1]), 1)

    def whiten(self, state: Tensor) -> Tensor:
        """White noise of states [n, 2, N, 3], see `Base.whiten`; differentiable."""
        u, a = state.double().unbind(1)
        return torch.stack((self.base.whiten(u), (a - u) / self.eta), 1)

    def draw_auxiliary(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Auxiliary variables of displacements u [..., N, 3]."""
        return u + self.eta * torch.randn(u.shape, dtype=torch.float64, generator=generator)

    def log_prob(self, state: Tensor) -> Tensor:
        """Normalised log-density, shape [n], float64."""
        return self.base.log_prob(state[:, 0]) + self.log_auxiliary(state)

    def log_auxiliary(self, state: Tensor) -> Tensor:
        """Log N(a; u, eta^2), shape [n], float64."""
        u, a = state.double().unbind(1)
        norm = 0.5 * u[0].numel() * math.log(2 * math.pi * self.eta**2)
        return -0.5 * ((a - u) / self.eta).square().sum((1, 2)) - norm
