# SPDX-License-Identifier: GPL-2.0-or-later
"""The target density exp(-beta U): exact, and softened for training; the forces of the potential are its gradient."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.potentials.surface import EnergiesForces, EnergyFunction

Numbers = float | NDArray[np.float64]


class _ReducedEnergy(torch.autograd.Function):
    """beta U(u) with the forces saved for the backward pass; above the ceiling it grows only logarithmically.

    beta and ceiling are one number or one for each sample, shape [n].
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, surface: EnergiesForces, beta: Numbers, ceiling: Numbers) -> Tensor:  # noqa: ANN401, D102
        energies, forces = surface(u.detach().double().numpy())
        beta = np.broadcast_to(beta, energies.shape)
        reduced, gradient = torch.from_numpy(beta * energies), torch.from_numpy(-beta[:, None, None] * forces)
        top = torch.from_numpy(np.broadcast_to(ceiling, energies.shape).astype(np.float64))
        over = (reduced - top).clamp(min=0)
        # a configuration without finite energy keeps +inf: whoever averages leaves it out and counts it, so its gradient is never used
        gradient = torch.where(torch.isfinite(reduced)[:, None, None], gradient / (1 + over)[:, None, None], 0.0)
        ctx.save_for_backward(gradient.to(u.dtype))
        return torch.where(over > 0, top + torch.log1p(over), reduced)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401, D102
        (gradient,) = ctx.saved_tensors
        return grads[0][:, None, None].to(gradient.dtype) * gradient, None, None, None


class TrainingTarget(Protocol):
    """What an objective follows.

    Attributes:
        shift: Added to the log-weights for comparison, one number or one for each sample, shape [n]: beta E_0, so that what is left is
            relative to the static crystal.
    """

    @property
    def shift(self) -> float | Tensor: ...  # noqa: D102

    def log_prob(self, u: Tensor) -> Tensor:
        """Unnormalised log-density of displacements u [n, N, 3], shape [n], float64; -inf without finite energy."""
        ...


class SoftenedTarget:
    """-beta U with energies above E_0 + softening N kT growing only as their logarithm: for training alone.

    Args:
        surface: The potential energy surface.
        beta: 1 / (k_B T), inverse energy.
        n_sites: Number of atoms N.
        softening: Excess energy per atom, in kT, above which the energy is softened.
    """

    def __init__(self, surface: EnergyFunction, beta: float, n_sites: int, softening: float) -> None:
        self.surface, self.beta = surface, beta
        self.shift = beta * surface.static_energy
        self.ceiling = self.shift + softening * n_sites

    def log_prob(self, u: Tensor) -> Tensor:
        """Unnormalised log-density of displacements u [n, N, 3], shape [n], float64; -inf without finite energy."""
        return -_ReducedEnergy.apply(u, self.surface, self.beta, self.ceiling)


class ExactTarget:
    """-beta U as it is: for weights and free energies.

    Args:
        surface: The potential energy surface.
        beta: 1 / (k_B T), inverse energy.
    """

    def __init__(self, surface: EnergyFunction, beta: float) -> None:
        self.surface, self.beta = surface, beta

    def log_prob(self, u: Tensor) -> Tensor:
        """Unnormalised log-density of displacements u [n, N, 3], shape [n], float64; -inf without finite energy; differentiable."""
        if torch.is_grad_enabled() and u.requires_grad:
            return -_ReducedEnergy.apply(u, self.surface, self.beta, np.inf)
        return torch.from_numpy(-self.beta * self.surface.energies(u.detach().double().numpy()))


class MixedTarget:
    """Targets of several conditions as one, for batches in which each has so many samples in a row.

    Args:
        targets: The targets.
        counts: Samples of each.
        offsets: Added to the shift of each: what is known of the free energies, so that log-weights of different conditions compare.
    """

    def __init__(self, targets: Sequence[SoftenedTarget], counts: Sequence[int], offsets: Sequence[float]) -> None:
        self._targets, self._counts = list(targets), list(counts)
        self.shift = torch.from_numpy(repeated([t.shift + o for t, o in zip(targets, offsets, strict=True)], counts))

    def log_prob(self, u: Tensor) -> Tensor:
        """Unnormalised log-density of each under its own target, shape [n], float64."""
        return torch.cat([t.log_prob(some) for t, some in zip(self._targets, u.split(self._counts), strict=True)])


class BatchedTarget:
    """The same where one call gives the energies of all conditions: a potential in torch with its cell and parameters per sample.

    Args:
        surface: Energies and forces of the whole batch, each sample in its cell and with its potential.
        targets: The targets, for beta, shift and ceiling.
        counts: Samples of each, in a row.
        offsets: Added to the shift of each, as for `MixedTarget`.
    """

    def __init__(
        self, surface: EnergiesForces, targets: Sequence[SoftenedTarget], counts: Sequence[int], offsets: Sequence[float]
    ) -> None:
        self._surface = surface
        self._beta, self._ceiling = (repeated([getattr(t, name) for t in targets], counts) for name in ("beta", "ceiling"))
        self.shift = torch.from_numpy(repeated([t.shift + o for t, o in zip(targets, offsets, strict=True)], counts))

    def log_prob(self, u: Tensor) -> Tensor:
        """Unnormalised log-density of each under its own target, shape [n], float64."""
        return -_ReducedEnergy.apply(u, self._surface, self._beta, self._ceiling)


def repeated(values: Sequence[float], counts: Sequence[int]) -> NDArray[np.float64]:
    """Each value as often as its count says, shape [n]."""
    return np.repeat(np.array(values, dtype=np.float64), counts)
