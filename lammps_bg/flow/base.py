# SPDX-License-Identifier: GPL-2.0-or-later
"""What a base distribution must offer, and the Einstein crystal."""

import math
from typing import Protocol

import torch
from torch import Tensor


class Base(Protocol):
    """A Gaussian on the displacements of a crystal with the centre of mass removed (3N - 3 dimensions).

    Attributes:
        log_integral: Logarithm of the integral of exp(-u C^-1 u / 2) over the subspace, in (length units)^(3N - 3).
        amplitude: Root-mean-square displacement of each site per component, length units, shape [N].
    """

    log_integral: float
    amplitude: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw displacements, length units, shape [n, N, 3], float64."""
        ...

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        ...


class EinsteinBase:
    """Independent atoms on springs, their centre of mass removed.

    Args:
        widths: Standard deviation of each site per component, length units, shape [N].
    """

    def __init__(self, widths: Tensor) -> None:
        self.widths = widths.double()
        variance = self.widths.square()
        # the full Gaussian divided by the density of its centre-of-mass coordinate sum(u) / sqrt(N) at zero, for each component
        per_component = 0.5 * (2 * math.pi * variance).log().sum() - 0.5 * (2 * math.pi * variance.mean()).log()
        self.log_integral = 3.0 * float(per_component)
        self.amplitude = (variance - variance.square() / variance.sum()).sqrt()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw displacements, length units, shape [n, N, 3], float64."""
        free = self.widths[:, None] * torch.randn(n, len(self.widths), 3, dtype=torch.float64, generator=generator)
        variance = self.widths.square()[:, None]
        return free - variance / variance.sum() * free.sum(1, keepdim=True)

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        return -0.5 * (u.double() / self.widths[:, None]).square().sum((1, 2)) - self.log_integral
