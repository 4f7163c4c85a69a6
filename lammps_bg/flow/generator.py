# SPDX-License-Identifier: GPL-2.0-or-later
"""A prior and a flow that belong together: the generator of a crystal."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lammps_bg.flow.augmented import AugmentedFlow
from lammps_bg.flow.prior import Prior
from lammps_bg.flow.sublattice import SublatticeFlow


@dataclass
class Generator:
    """Prior density and bijection.

    The flow runs on its own device; states come from and go to the CPU, where the base is and where random numbers are drawn: so a sample
    is the same on every device, to rounding.

    Attributes:
        prior: Density of the states that enter the flow.
        flow: The bijection, an nn.Module with `forward` and `inverse` on states [n, channels, N, 3].
        context: Conditions of the flow, shape [1, C], or of each sample of the batches that it takes, [n, C]; None for a flow without.
    """

    prior: Prior
    flow: SublatticeFlow | AugmentedFlow
    context: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the flow runs."""
        return next(self.flow.parameters()).device

    def transform(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Send states [n, channels, N, 3] through the flow; the new ones, and the log-determinants [n] in float64."""
        state, log_det = self.flow.forward(start.to(self.device), self._contexts(len(start)))
        return state.cpu(), log_det.cpu()

    def _contexts(self, n: int) -> Tensor | None:
        """The context of each of n samples, on the flow's device."""
        return None if self.context is None else self.context.expand(n, -1).to(self.device)

    def push(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Send prior states [n, channels, N, 3] through the flow; the new states, and their log-density q [n] in float64."""
        state, log_det = self.transform(start)
        return state, self.prior.log_prob(start) - log_det

    def push_score(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`push`, and the gradient of log q by the state at the new states, shape [n, channels, N, 3]; log q and score detached."""
        begin = start.detach().requires_grad_()
        log_base = self.prior.log_prob(begin)
        (score,) = torch.autograd.grad(log_base.sum(), begin)
        state, log_det, score = self.flow.push_score(start.to(self.device), score.to(self.device), self._contexts(len(start)))
        return state.cpu(), log_base.detach() - log_det.detach().cpu(), score.cpu()

    def log_density(self, state: Tensor) -> Tensor:
        """Log-density q of states [n, channels, N, 3] by the inverse flow, shape [n], float64."""
        start, log_det = self.flow.inverse(state.to(self.device), self._contexts(len(state)))
        return self.prior.log_prob(start.cpu()) + log_det.cpu()
