# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site makes of its neighbours' displacements: bond features, and a small network with its own weights for each orbit of sites.

Feature-first: inputs are [features, S, n] for S sites and n samples, so that each feature is one contiguous row. Derivatives are
written out, since two different cotangents go back through one evaluation: one for the score of the density, one for the weights.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_FEATURES = 5  # of each neighbour: three components, and the squares along and across the bond
_LARGEST = 25.0  # squares level off there: the tails of a large crystal must not leave what the network knows
_SQUARE, _SKIP = 0.3, 0.3  # bring squares, and the direct linear path, to the size of the other inputs
_silu_backward = torch.ops.aten.silu_backward


class BondFeatures:
    """Components of the neighbours' relative displacements, and their squares along and across the bond.

    To second order in these the neighbours' pair forces change position and stiffness of a site.

    Attributes:
        values: The features, shape [5K, S, n].

    Args:
        relative: In amplitudes, shape [3, K, S, n].
        directions: Unit bond vectors, shape [3, K].
    """

    def __init__(self, relative: Tensor, directions: Tensor) -> None:
        self._relative, self._directions = relative, directions[:, :, None, None]
        self._along = (relative * self._directions).sum(0)
        along = self._along.square()
        across = relative.square().sum(0).sub_(along).mul_(0.5)
        squares = torch.stack((along, across)).sub_(1)
        self._level = squares.abs().div_(_LARGEST).add_(1).reciprocal_()
        squares.mul_(self._level).mul_(_SQUARE)
        self.values = torch.cat((relative.flatten(0, 1), squares.flatten(0, 1)))

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Gradient with respect to the relative displacements, shape [3, K, S, n].

        Args:
            cotangent: Of the features, shape [5K, S, n].
        """
        count = 3 * self._relative.shape[1]
        linear = cotangent[:count].view_as(self._relative)
        g_along, g_across = cotangent[count:].view_as(self._level) * self._level.square() * _SQUARE
        stretch = (2 * g_along - g_across) * self._along
        return torch.addcmul(linear, self._directions, stretch).addcmul_(self._relative, g_across)


@dataclass
class Evaluation:
    """A network's outputs, with what its derivatives need.

    Attributes:
        out: Shape [n_out, S, n].
    """

    out: Tensor
    _plain: Tensor
    _inputs: Tensor
    _first: Tensor
    _hidden: Tensor
    _second: Tensor
    _last: Tensor


class SiteNetwork(nn.Module):
    """A residual network of two hidden layers and a direct linear path; its outputs are zero at the start.

    A context, of conditions that all sites of a sample share, enters the first layer, and it scales and shifts the outputs.

    Args:
        n_orbits: Orbits of sites, each with weights of its own.
        n_neighbours: Neighbours of a site, K; each gives five features and one bit.
        width: Hidden width.
        n_out: Outputs for each site.
        n_context: Numbers of the context, C.
    """

    def __init__(self, n_orbits: int, n_neighbours: int, width: int, n_out: int, n_context: int = 0) -> None:
        super().__init__()
        n_in = (N_FEATURES + 1) * n_neighbours
        self.n_context = n_context

        def weight(fan_in: int, fan_out: int, *, of: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n_orbits, fan_out, fan_in) / math.sqrt(of))

        self.bonds = weight(N_FEATURES * n_neighbours, width, of=n_in)
        self.moved = weight(n_neighbours, width, of=n_in)
        self.hidden = weight(width, width, of=width)
        self.direct = nn.Parameter(torch.zeros(n_orbits, n_out, N_FEATURES * n_neighbours))
        self.out = nn.Parameter(torch.zeros(n_orbits, n_out, width))
        self.bias = nn.Parameter(torch.zeros(n_orbits, width, 1))
        self.hidden_bias = nn.Parameter(torch.zeros(n_orbits, width, 1))
        self.out_bias = nn.Parameter(torch.zeros(n_orbits, n_out, 1))
        if n_context:
            self.context = weight(n_context, width, of=max(4, n_context))
            self.gate = nn.Parameter(torch.zeros(n_orbits, n_out, n_context))
            self.shift = nn.Parameter(torch.zeros(n_orbits, n_out, n_context))

    def evaluate(self, orbit: int, features: Tensor, moved: Tensor, context: Tensor | None = None) -> Evaluation:
        """Outputs for S sites of one orbit.

        Args:
            orbit: Which weights.
            features: Of the neighbours, shape [5K, S, n].
            moved: Which neighbours have already moved in this sweep (1 or 0), shape [K, S].
            context: Conditions of each sample, shape [C, n]; None where the network has no context.
        """
        inputs = features.flatten(1)
        # the bits are the same for every sample: their part of the first layer is a bias for each site
        offset = torch.addmm(self.bias[orbit], self.moved[orbit], moved)[..., None]
        if context is not None:
            offset = offset + (self.context[orbit] @ context)[:, None]
        first = torch.mm(self.bonds[orbit], inputs).view(len(offset), *features.shape[1:]).add_(offset).flatten(1)
        hidden = F.silu(first)
        second = torch.addmm(self.hidden_bias[orbit], self.hidden[orbit], hidden)
        last = F.silu(second).add_(hidden)
        out = torch.addmm(self.out_bias[orbit], self.out[orbit], last).addmm_(self.direct[orbit], inputs, alpha=_SKIP)
        plain = out.view(-1, *features.shape[1:])
        if context is None:
            return Evaluation(plain, plain, inputs, first, hidden, second, last)
        scaled = torch.addcmul((self.shift[orbit] @ context)[:, None], plain, self._gate(orbit, context))
        return Evaluation(scaled, plain, inputs, first, hidden, second, last)

    def _gate(self, orbit: int, context: Tensor) -> Tensor:
        """What the context multiplies the outputs with, shape [n_out, 1, n]."""
        return 1 + (self.gate[orbit] @ context)[:, None]

    def vjp(
        self,
        orbit: int,
        at: Evaluation,
        cotangent: Tensor,
        moved: Tensor,
        grads: dict[str, Tensor] | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Gradient with respect to the features, shape [5K, S, n].

        Args:
            orbit: Which weights.
            at: The evaluation.
            cotangent: Of the outputs, shape [n_out, S, n].
            moved: The bits it was evaluated with, shape [K, S].
            grads: Gradients of the weights by name, to which those of this evaluation are added; None: they are not wanted.
            context: The context it was evaluated with, shape [C, n].
        """
        if context is not None:
            if grads is not None:
                grads["gate"][orbit].addmm_((cotangent * at._plain).sum(1), context.t())
                grads["shift"][orbit].addmm_(cotangent.sum(1), context.t())
            cotangent = cotangent * self._gate(orbit, context)
        g_out = cotangent.flatten(1)
        g_last = self.out[orbit].t() @ g_out
        g_second = _silu_backward(g_last, at._second)
        g_first = _silu_backward(torch.addmm(g_last, self.hidden[orbit].t(), g_second), at._first)
        if grads is not None:
            grads["out"][orbit].addmm_(g_out, at._last.t())
            grads["direct"][orbit].addmm_(g_out, at._inputs.t(), alpha=_SKIP)
            grads["out_bias"][orbit] += g_out.sum(1, keepdim=True)
            grads["hidden"][orbit].addmm_(g_second, at._hidden.t())
            grads["hidden_bias"][orbit] += g_second.sum(1, keepdim=True)
            grads["bonds"][orbit].addmm_(g_first, at._inputs.t())
            g_offset = g_first.view(len(g_first), *cotangent.shape[1:])
            if context is not None:
                grads["context"][orbit].addmm_(g_offset.sum(1), context.t())
            by_site = g_offset.sum(-1)
            grads["moved"][orbit].addmm_(by_site, moved.t())
            grads["bias"][orbit] += by_site.sum(1, keepdim=True)
        inputs = torch.mm(self.bonds[orbit].t(), g_first).addmm_(self.direct[orbit].t(), g_out, alpha=_SKIP)
        return inputs.view(-1, *cotangent.shape[1:])
