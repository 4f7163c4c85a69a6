# SPDX-License-Identifier: GPL-2.0-or-later
"""The energy surface that a base sees through a flow, on which it can be fitted again: at another supercell, or late in training."""

import numpy as np
import torch

from lammps_bg.crystal.structure import Array
from lammps_bg.flow.generator import Generator
from lammps_bg.memory import Pieces
from lammps_bg.training.target import SoftenedTarget

_SITES_AT_ONCE = 1 << 16  # more gain nothing


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
