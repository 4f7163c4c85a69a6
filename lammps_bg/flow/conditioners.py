# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditioners of the published flow: from displacements to the parameters of a coupling.

Local, a graph neural network over the fixed lattice neighbours; and global, self-attention over the whole supercell, as in Wirnsberger
et al. 2022 (arXiv 2111.08696): the baseline against which local ones are compared. Its cost grows with the square of the number of atoms, and its
sites are told apart by their place in the supercell, so that it serves the one supercell it was trained on.

Inside, tensors are site-first ([N, n, ...], n the batch): a gather along sites then moves long contiguous blocks.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lammps_bg.flow.graph import Lattice

_Context = Any  # what torch carries from forward to backward
_CACHED = 2**17  # numbers that stay in a core's cache between two elementwise passes
_HEADS = 4


class GraphConditioner(nn.Module):
    """Message passing on displacements in units of the thermal amplitude; its last layer starts at zero.

    Args:
        n_basis: Number of basis sites, each with a learned embedding.
        n_out: Numbers returned per site.
        width: Width of the hidden layers.
        n_frequencies: Fourier frequencies of displacements and of differences of displacements.
        n_message_layers: Number of rounds of messages.
        period: Longest period of the Fourier features, in amplitudes.
        n_context: Conditions that all sites of a sample share, C.
    """

    def __init__(
        self,
        n_basis: int,
        n_out: int,
        *,
        width: int,
        n_frequencies: int,
        n_message_layers: int,
        period: float,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        n_features = 3 * (2 * n_frequencies + 1)
        self.n_frequencies, self.period = n_frequencies, period
        self.embedding = nn.Embedding(n_basis, width)
        self.node = nn.Linear(n_features, width)
        self.context = nn.Linear(n_context, width, bias=False) if n_context else None
        self.direction = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(MessageLayer(width, n_features) for _ in range(n_message_layers))
        self.out = nn.Linear(width, n_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, lattice: Lattice, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return [N, n, n_out].

        Args:
            lattice: Tables of the crystal.
            x: Displacements in mean amplitudes and with a centre of mass of zero, shape [N, n, 3].
            context: Conditions of each sample, shape [n, C].
        """
        across = (x / lattice.amplitude).flatten(0, 1).t()
        near = _Neighbours.apply(x, lattice)
        bond = (near.view(lattice.n_sites, -1, *x.shape[1:]) - x[:, None]).flatten(0, 2).t()
        edges = fourier(bond, self.n_frequencies, self.period)
        h = self.node(fourier(across, self.n_frequencies, self.period).t())
        h = h.view(*x.shape[:2], -1) + self.embedding(lattice.basis_index)[:, None]
        if self.context is not None and context is not None:
            h = h + self.context(context.to(h))
        direction = self.direction(lattice.directions)
        for layer in self.layers:
            h = layer(lattice, h, edges, direction)
        return self.out(h)


class MessageLayer(nn.Module):
    """One round: a sum over neighbours of a two-layer edge network, then a residual update of the site.

    The first linear map of the edge network acts on sites before the gather, the last one after the sum.

    Args:
        width: Width of the hidden layers.
        n_features: Number of features of an edge.
    """

    def __init__(self, width: int, n_features: int) -> None:
        super().__init__()
        self.source = nn.Linear(width, width, bias=False)
        self.target = nn.Linear(width, width)
        self.direction = nn.Linear(width, width, bias=False)
        self.edge = nn.Linear(n_features, width, bias=False)
        self.gathered = nn.Linear(width, width)
        self.update = nn.Linear(width, width)

    def forward(self, lattice: Lattice, h: Tensor, edges: Tensor, direction: Tensor) -> Tensor:
        """Return the new site features [N, n, width].

        Args:
            lattice: Tables of the crystal.
            h: Site features, shape [N, n, width].
            edges: Features of the edges, shape [n_features, N*K*n].
            direction: Features of the ideal bonds, shape [N, K, width].
        """
        fixed = self.direction(direction)
        message = _Message.apply(self.source(h), self.target(h), fixed, edges, self.edge.weight, lattice)
        message = self.gathered(message / lattice.n_neighbours**0.5)
        return h + self.update(functional.silu(h + message))


def fourier(x: Tensor, n_frequencies: int, period: float) -> Tensor:
    """Return x itself and sin, cos of its multiples 2 pi m / period, shape [(2 n_frequencies + 1) * C, M], of `x` [C, M]."""
    return _Fourier.apply(x, n_frequencies, 2 * torch.pi / period)


class _Fourier(torch.autograd.Function):
    """Multiples by the addition theorem: one sine and one cosine whatever the number of frequencies."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, n_frequencies: int, wave: float) -> Tensor:
        out = x.new_empty(2 * n_frequencies + 1, *x.shape)
        out[0] = x
        phase = out[0] * wave
        torch.sin(phase, out=out[1])
        torch.cos(phase, out=out[2])
        for m in range(3, 2 * n_frequencies + 1, 2):
            torch.mul(out[m - 2], out[2], out=out[m]).addcmul_(out[m - 1], out[1])
            torch.mul(out[m - 1], out[2], out=out[m + 1]).addcmul_(out[m - 2], out[1], value=-1)
        ctx.save_for_backward(out)
        ctx.wave = wave
        return out.flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
        (out,) = ctx.saved_tensors
        grad = grad.view_as(out)
        g_x = grad[0].clone()
        for m in range(1, len(out), 2):
            wave = ctx.wave * (m + 1) / 2
            g_x.addcmul_(grad[m], out[m + 1], value=wave).addcmul_(grad[m + 1], out[m], value=-wave)
        return g_x, None, None


class _Neighbours(torch.autograd.Function):
    """Gather along the neighbour table, [N, ...] -> [N*K, ...]."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, lattice: Lattice) -> Tensor:
        ctx.lattice = lattice
        return lattice.gather(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice.collect(grad), None


class _Message(torch.autograd.Function):
    """Sum over neighbours of silu(source_j + target_i + fixed_ij + weight edge_ij), [N, n, width].

    One buffer over the edges, kept for the backward; the parts are added in place.
    """

    @staticmethod
    def forward(
        ctx: _Context, source: Tensor, target: Tensor, fixed: Tensor, edges: Tensor, weight: Tensor, lattice: Lattice
    ) -> Tensor:
        n_sites, batch, width = source.shape
        total = lattice.gather(source)
        total.view(-1, width).addmm_(edges.t(), weight.t())
        total = total.view(n_sites, -1, batch, width).add_(target[:, None]).add_(fixed[:, :, None])
        ctx.save_for_backward(total, edges, weight)
        ctx.lattice = lattice
        rows = max(1, _CACHED * n_sites // total.numel())
        return torch.cat([functional.silu(part).sum(1) for part in total.split(rows)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, edges, weight = ctx.saved_tensors
        g = torch.ops.aten.silu_backward(grad[:, None].expand_as(total), total)
        flat = g.view(-1, total.shape[-1])
        g_weight = (edges @ flat).t() if ctx.needs_input_grad[4] else None
        return ctx.lattice.collect(g.flatten(0, 1)), g.sum(1), g.sum(2), weight.t() @ flat.t(), g_weight, None


class AttentionBlock(nn.Module):
    """Multi-head self-attention and a two-layer network, each added to its input, which is normalised first.

    Args:
        width: Width of the features, a multiple of the number of heads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return the new features [n, N, width]."""
        q, k, v = self.queries_keys_values(self.first(h)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        h = h + self.mixed(seen.transpose(1, 2).flatten(2))
        return h + self.down(functional.gelu(self.up(self.second(h))))


class AttentionConditioner(nn.Module):
    """Transformer on displacements in units of the thermal amplitude; its last layer starts at zero.

    Args:
        n_out: Numbers returned per site.
        width: Width of the features, a multiple of 4.
        n_frequencies: Fourier frequencies of displacements and of places in the supercell.
        n_blocks: Number of attention blocks.
        period: Longest period of the displacements' Fourier features, in amplitudes.
        n_context: Conditions that all sites of a sample share, C.
    """

    def __init__(self, n_out: int, *, width: int, n_frequencies: int, n_blocks: int, period: float, n_context: int = 0) -> None:
        super().__init__()
        n_features = 3 * (2 * n_frequencies + 1)
        self.n_frequencies, self.period = n_frequencies, period
        self.displacement, self.place = nn.Linear(n_features, width), nn.Linear(n_features, width)
        self.context = nn.Linear(n_context, width, bias=False) if n_context else None
        self.blocks = nn.ModuleList(AttentionBlock(width) for _ in range(n_blocks))
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, lattice: Lattice, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return [N, n, n_out].

        Args:
            lattice: Tables of the crystal.
            x: Displacements in mean amplitudes and with a centre of mass of zero, shape [N, n, 3].
            context: Conditions of each sample, shape [n, C].
        """
        across = (x / lattice.amplitude).flatten(0, 1).t()
        h = self.displacement(fourier(across, self.n_frequencies, self.period).t()).view(*x.shape[:2], -1)
        h = h + self.place(fourier(lattice.places.t(), self.n_frequencies, 1.0).t())[:, None]
        if self.context is not None and context is not None:
            h = h + self.context(context.to(h))
        h = h.transpose(0, 1)
        for block in self.blocks:
            h = block(h)
        return self.out(self.last(h)).transpose(0, 1)
