# SPDX-License-Identifier: GPL-2.0-or-later
"""What a flow must offer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor, nn


class Flow(nn.Module, ABC):
    """A bijection of states, the identity before training; what it was made for (the lattice) is never saved with its weights.

    Attributes:
        channels: 1 for states of displacements, 2 where auxiliary variables stand beside them.
    """

    channels: ClassVar[int]

    @abstractmethod
    def forward(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map base to target; differentiable, once.

        Args:
            state: Samples of the prior, length units, shape [n, channels, N, 3]; channel 0 has its centre of mass at zero.
            context: Conditions of each sample, shape [n, C]; None for a flow without.

        Returns:
            The mapped states, in the precision of the network, and the log-determinants [n], float64.
        """

    @abstractmethod
    def inverse(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo `forward`; the states, and the log-determinants [n] of the inverse map, float64."""

    @abstractmethod
    def push_score(self, state: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` that takes the score of the base along.

        Args:
            state: Samples of the prior, as for `forward`.
            score: Gradient of the prior's log-density there, 1 / length units, same shape.
            context: Conditions of each sample, shape [n, C]; None for a flow without.

        Returns:
            Mapped states and log-determinants, as `forward`; and the gradient of the flow's log-density at the mapped states, detached.
        """


@contextmanager
def weights_at_rest(flow: nn.Module) -> Iterator[None]:
    """Gradients pass through a flow without reaching its weights, which would cost a third of the time."""
    moving = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    try:
        for parameter in moving:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
