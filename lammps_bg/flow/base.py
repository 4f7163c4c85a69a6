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
        softest: Unit vector of the displacements that vary most, shape [N, 3]: what a chain forgets last.
    """

    log_integral: float
    amplitude: Tensor

    @property
    def softest(self) -> Tensor: ...  # noqa: D102

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw displacements, length units, shape [n, N, 3], float64."""
        ...

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        ...

    def colour(self, x: Tensor) -> Tensor:
        """Displacements C^(1/2) x [n, N, 3], length units, of white noise x [n, N, 3]: standard normal x give samples; differentiable.

        x has three dimensions more than the displacements: they have no effect.
        """
        ...

    def whiten(self, u: Tensor) -> Tensor:
        """The shortest x [n, N, 3] that `colour` takes to displacements u [n, N, 3] without centre of mass; differentiable."""
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
        return self.colour(torch.randn(n, len(self.widths), 3, dtype=torch.float64, generator=generator))

    def colour(self, x: Tensor) -> Tensor:
        """Displacements of white noise x [n, N, 3], see `Base.colour`: those of free atoms, given that the centre of mass is at rest."""
        free = self.widths[:, None] * x
        variance = self.widths.square()[:, None]
        return free - variance / variance.sum() * free.sum(1, keepdim=True)

    def whiten(self, u: Tensor) -> Tensor:
        """White noise of displacements u [n, N, 3], see `Base.whiten`."""
        return u.double() / self.widths[:, None]

    @property
    def softest(self) -> Tensor:
        """The atom on the weakest spring against all others, shape [N, 3]."""
        loose = int(self.widths.argmax())
        pattern = torch.full((len(self.widths), 3), 0.0, dtype=torch.float64)
        pattern[:, 0] = -1.0 / len(self.widths)
        pattern[loose, 0] += 1.0
        return pattern / pattern.norm()

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        return -0.5 * (u.double() / self.widths[:, None]).square().sum((1, 2)) - self.log_integral
