# SPDX-License-Identifier: GPL-2.0-or-later
"""Optimisers of the flow's weights: Adam, and Adam in the eigenbasis of the gradient's covariances."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lammps_bg.config import TrainConfig

_BETAS = (0.9, 0.99)
_EPSILON = 1e-8
_SETTLING = 1e-6  # of the mean variance
_RATES = {"soap": 1e-2, "adam": 4e-3}


class Soap(torch.optim.Optimizer):
    """Adam in the slowly turning eigenbasis of Shampoo's two covariances (Vyas et al., "SOAP", ICLR 2025).

    A weight is a batch of matrices: its last two axes are the rows and columns, others count independent ones. Vectors take plain Adam.

    Args:
        parameters: The weights.
        lr: Learning rate.
        betas: Decay of the first moment, and of the second moment and the covariances.
        turn_every: Steps between updates of the eigenbasis.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.95), turn_every: int = 10
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "turn_every": turn_every})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (keep, keep_square) = self.state[parameter], group["betas"]
        if not state:
            self._begin(state, gradient)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - keep)
        turned = self._to_basis(gradient, state)
        state["square"].mul_(keep_square).addcmul_(turned, turned, value=1 - keep_square)
        root = (state["square"] / (1 - keep_square ** state["step"])).sqrt_().add_(_EPSILON)
        move = self._to_basis(state["mean"], state) / root
        parameter.add_(self._from_basis(move, state), alpha=-group["lr"] / (1 - keep ** state["step"]))
        if "rows" in state:
            state["row_covariance"].lerp_(gradient @ gradient.mT, 1 - keep_square)
            state["column_covariance"].lerp_(gradient.mT @ gradient, 1 - keep_square)
            if state["step"] % group["turn_every"] == 0:
                self._turn(state)

    @staticmethod
    def _begin(state: dict[str, Any], gradient: Tensor) -> None:
        state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        if gradient.dim() > 1:
            for name, covariance in (("row", gradient @ gradient.mT), ("column", gradient.mT @ gradient)):
                axes = torch.linalg.eigh(_settled(covariance))[1].to(gradient)
                state |= {f"{name}_covariance": covariance, f"{name}s": axes}

    @staticmethod
    def _to_basis(value: Tensor, state: dict[str, Any]) -> Tensor:
        return state["rows"].mT @ value @ state["columns"] if "rows" in state else value

    @staticmethod
    def _from_basis(value: Tensor, state: dict[str, Any]) -> Tensor:
        return state["rows"] @ value @ state["columns"].mT if "rows" in state else value

    @staticmethod
    def _turn(state: dict[str, Any]) -> None:
        """One step of the power iteration: the second moments go along with their axes, sorted by size."""
        for name, axis in (("row", -2), ("column", -1)):
            basis, covariance = state[f"{name}s"].double(), _settled(state[f"{name}_covariance"])
            sizes = torch.diagonal(basis.mT @ covariance @ basis, dim1=-2, dim2=-1)
            order = sizes.argsort(-1, descending=True)
            basis = torch.gather(basis, -1, order[..., None, :].expand_as(basis))
            state[f"{name}s"] = torch.linalg.qr(covariance @ basis)[0].to(state["square"])
            index = order[..., :, None] if axis == -2 else order[..., None, :]
            state["square"] = torch.gather(state["square"], axis, index.expand_as(state["square"]))


def _settled(covariance: Tensor) -> Tensor:
    """The covariance, float64, with so little added to its diagonal that only axes along which no gradient was seen are told apart.

    Their choice is free, but it must not be left to rounding: ranks that add up the same gradients in another order shall train alike.
    """
    n = covariance.shape[-1]
    size = torch.diagonal(covariance, dim1=-2, dim2=-1).mean(-1).double()[..., None, None]
    ramp = torch.arange(1, n + 1, dtype=torch.float64, device=covariance.device) / n
    return covariance.double() + _SETTLING * size * torch.diag(ramp)


def _adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, betas=_BETAS, eps=_EPSILON)


_OPTIMISERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {"soap": Soap, "adam": _adam}


def build_optimiser(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a configuration asks for, of these weights."""
    return _OPTIMISERS[config.optimiser](parameters, largest_rate(config))


def largest_rate(config: TrainConfig) -> float:
    """The learning rate after the warm-up."""
    return config.learning_rate or _RATES[config.optimiser]
