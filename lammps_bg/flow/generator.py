# SPDX-License-Identifier: GPL-2.0-or-later
"""A prior and a flow that belong together: the generator of a crystal; and several of them as one for a batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lammps_bg.flow.base import Base
from lammps_bg.flow.bijection import Flow


class Prior:
    """The density a flow starts from. Without auxiliary variables it is the base itself: state [n, 1, N, 3] (sublattice flow)."""

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

    def log_weights(self, log_p: Tensor, state: Tensor, log_q: Tensor) -> Tensor:
        """Log-weights -beta U(u) + log N(a; u) - log q of states after the flow, shape [n], float64.

        Args:
            log_p: Unnormalised log-density -beta U of the displacements, shape [n].
            state: The states, length units, shape [n, channels, N, 3].
            log_q: Their log-density under the flow, shape [n].
        """
        return log_p + self.log_auxiliary(state) - log_q


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


@dataclass
class Generator:
    """Prior density and bijection.

    The flow runs on its own device; states come from and go to the CPU, where the base is and where random numbers are drawn: so a sample
    is the same on every device, to rounding.

    Attributes:
        prior: Density of the states that enter the flow.
        flow: The bijection.
        context: Conditions of the flow, shape [1, C], or of each sample of the batches that it takes, [n, C]; None for a flow without.
    """

    prior: Prior
    flow: Flow
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


def mixed(generators: Sequence[Generator], counts: Sequence[int]) -> Generator:
    """Generators of one flow as one for a batch, in which each has so many samples in a row."""
    if len(generators) == 1:
        return generators[0]
    contexts = [g.context.expand(n, -1) for g, n in zip(generators, counts, strict=True) if g.context is not None]
    prior = MixedPrior([g.prior for g in generators], counts)
    return Generator(prior, generators[0].flow, torch.cat(contexts))
