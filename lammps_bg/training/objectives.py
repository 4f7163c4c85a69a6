# SPDX-License-Identifier: GPL-2.0-or-later
"""Objectives: each turns a batch of base samples into a loss whose gradient trains the flow; and what a base is fitted to through a flow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.flow.generator import Generator
from lammps_bg.memory import Pieces
from lammps_bg.training.target import SoftenedTarget, TrainingTarget

_SITES_AT_ONCE = 1 << 16  # sent through a flow together: more gain nothing


@dataclass
class Batch:
    """What one batch gave.

    Attributes:
        loss: Scalar with the gradient to follow, per atom.
        log_w: Softened log-weights of the samples with finite energy, with the target's shift, shape [<= n], detached.
        n: Samples drawn.
    """

    loss: Tensor
    log_w: Tensor
    n: int

    @property
    def n_bad(self) -> int:
        """Samples without finite energy or density, left out of the loss."""
        return self.n - len(self.log_w)


def merge(parts: Sequence[Batch]) -> Batch:
    """Several batches as one, or none as an empty one; its loss is the mean over all samples that count, detached."""
    if not parts:
        return Batch(torch.zeros((), dtype=torch.float64), torch.empty(0, dtype=torch.float64), 0)
    log_w = torch.cat([part.log_w for part in parts])
    total = torch.stack([part.loss.detach() * len(part.log_w) for part in parts]).sum()
    return Batch(total / max(1, len(log_w)), log_w, sum(part.n for part in parts))


class Objective(Protocol):
    """Anything that makes a `Batch`."""

    def __call__(self, generator: Generator, target: TrainingTarget, start: Tensor) -> Batch:
        """Send samples of the prior [n, channels, N, 3] through the flow and return their loss."""
        ...


class ReverseKL:
    """Reverse Kullback-Leibler divergence, -<log w> / N, with the reparametrised gradient: that of the loss itself."""

    def __call__(self, generator: Generator, target: TrainingTarget, start: Tensor) -> Batch:
        """Send samples of the prior [n, channels, N, 3] through the flow and return their loss."""
        state, log_q = generator.push(start)
        log_w = generator.prior.log_weights(target.log_prob(state[:, 0]) + target.shift, state, log_q)
        finite = torch.isfinite(log_w.detach())
        # where() before the mean: a non-finite sample must not reach the backward pass
        loss = -torch.where(finite, log_w, 0.0).sum() / finite.sum().clamp(min=1) / state.shape[2]
        return Batch(loss, log_w.detach()[finite], len(start))


class PathGradient:
    """Reverse Kullback-Leibler divergence with the path gradient (Roeder et al. 2017; Vaitl et al. 2022).

    The gradient of log q - log p at the fixed end point is pulled back through the sampling map. It vanishes where q = p, sample by
    sample.
    """

    def __call__(self, generator: Generator, target: TrainingTarget, start: Tensor) -> Batch:
        """Send samples of the prior [n, channels, N, 3] through the flow and return their loss."""
        state, log_q, score = generator.push_score(start)
        end = state.detach().requires_grad_()
        log_w = generator.prior.log_weights(target.log_prob(end[:, 0]) + target.shift, end, log_q)
        finite = torch.isfinite(log_w.detach())
        (slope,) = torch.autograd.grad(torch.where(finite, log_w, 0.0).sum(), end)
        difference = score - slope
        finite &= torch.isfinite(difference).flatten(1).all(1)
        difference = torch.where(finite[:, None, None, None], difference, 0.0)
        loss = (difference * state).sum() / finite.sum().clamp(min=1) / state.shape[2]
        return Batch(loss, log_w.detach()[finite], len(start))


OBJECTIVES: dict[str, type[ReverseKL] | type[PathGradient]] = {"reparametrised": ReverseKL, "path": PathGradient}


class ThroughFlow:
    """U(f(u)) - kT log|det f'(u)|: with it as its energy, the best Gaussian is the best base of the flow f.

    Args:
        generator: A generator without auxiliary variables.
        target: Energies and forces at the flow's end.
    """

    def __init__(self, generator: Generator, target: SoftenedTarget) -> None:
        self._generator, self._target = generator, target

    def __call__(self, displacements: Array) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3] before the flow; +inf and nan where there is no finite energy."""
        pieces = Pieces(_SITES_AT_ONCE // displacements.shape[1], "configurations sent through the flow")
        parts = pieces.over(range(len(displacements)), lambda some: self._piece(displacements[some[0] : some[-1] + 1]))
        energies, forces = (np.concatenate(column) for column in zip(*parts, strict=True))
        return energies, forces

    def _piece(self, displacements: Array) -> tuple[Array, Array]:
        start = torch.from_numpy(np.ascontiguousarray(displacements))[:, None].requires_grad_()
        state, log_det = self._generator.transform(start)
        log_p = self._target.log_prob(state[:, 0]) + log_det
        finite = torch.isfinite(log_p.detach())
        (gradient,) = torch.autograd.grad(torch.where(finite, log_p, 0.0).sum(), start)
        energies = -log_p.detach().numpy() / self._target.beta
        forces = gradient[:, 0].numpy() / self._target.beta
        forces[~finite.numpy()] = np.nan
        return np.where(finite.numpy(), energies, np.inf), forces
