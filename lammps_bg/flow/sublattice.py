# SPDX-License-Identifier: GPL-2.0-or-later
"""Sublattice flow: all sites of one colour move at once, given the sites around them, without auxiliary variables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lammps_bg.flow import site_map
from lammps_bg.flow.bijection import Flow
from lammps_bg.flow.graph import LatticeGraph
from lammps_bg.flow.polynomial import monomials
from lammps_bg.flow.site_map import SiteMap
from lammps_bg.flow.site_network import BondFeatures, Evaluation, SiteNetwork

_Context = Any  # what torch carries from forward to backward


@dataclass
class _Group:
    """Sites of one colour and one orbit, S of them, in the flow's internal order (sorted by colour, then orbit).

    Attributes:
        orbit: Their orbit, which has weights of its own.
        sites: Where they stand in the internal order.
        signs: How the axes of each site are reflected, 1 or -1, shape [3, S, 1].
        neighbours: Internal positions of their neighbours, shape [K * S].
        readers: For each site of the crystal, which of these K * S entries read it; K * S where there are no more, shape [N, C].
        moved: Which neighbours move before them in a sweep (1 or 0), shape [K, S].
        directions: Unit vectors to the neighbours, reflected alike for all sites, shape [3, K].
        n_first: Neighbours in the first shell.
    """

    orbit: int
    sites: slice
    signs: Tensor
    neighbours: Tensor
    readers: Tensor
    moved: Tensor
    directions: Tensor
    n_first: int


@dataclass
class _Shared:
    """What all moves of a batch use of its context.

    Attributes:
        context: Conditions of each sample, shape [C, n]; None for a flow without.
        amplitude: Amplitude of each orbit under them, shape [n_orbits, n], or [n_orbits, 1].
    """

    context: Tensor | None
    amplitude: Tensor


@dataclass
class _Step:
    """One group's move, with what its derivatives need; `scale` is one over the amplitude, with the signs, shape [3, S, 1 or n]."""

    network: SiteNetwork
    group: _Group
    scale: Tensor
    features: BondFeatures
    evaluation: Evaluation
    moved: SiteMap
    context: Tensor | None

    def push_score(self, score: Tensor) -> None:
        """Turn the score [3, N, n] of the density before the move, in place, into that after it."""
        own = self.moved.push_score(score[:, self.group.sites] / self.scale)
        pulled, outputs = self.moved.vjp(own, 1.0)
        own, pulled = own * self.scale, pulled * self.scale
        score[:, self.group.sites] = own
        score -= self._to_neighbours(outputs, own - pulled, None)

    def vjp(self, gradient: Tensor, weight: Tensor, grads: dict[str, Tensor] | None) -> None:
        """Turn the gradient [3, N, n] by the positions after the move, in place, into that by those before it.

        Args:
            gradient: Shape [3, N, n].
            weight: Gradient by the logarithm of the determinant, shape [n].
            grads: Gradients of the network's weights by name, to which those of this move are added; None where nobody wants them.
        """
        own = gradient[:, self.group.sites]
        pulled, outputs = self.moved.vjp(own / self.scale, weight)
        pulled = pulled * self.scale
        around = self._to_neighbours(outputs, own - pulled, grads)
        gradient[:, self.group.sites] = pulled
        gradient += around

    def _to_neighbours(self, outputs: Tensor, mean: Tensor, grads: dict[str, Tensor] | None) -> Tensor:
        """Gradient by the positions of all sites, [3, N, n], from those by the network's outputs and by the first shell's mean."""
        group = self.group
        features = self.network.vjp(group.orbit, self.evaluation, outputs, group.moved, grads, self.context)
        near = self.features.vjp(features).mul_(self.scale[:, None])
        mean = mean - near.sum(1)
        near[:, : group.n_first] += (mean / group.n_first)[:, None]
        padded = torch.cat((near.flatten(1, 2), near.new_zeros(3, 1, near.shape[-1])), 1)
        # every site collects from those that read it: no scatter
        return padded.index_select(1, group.readers.flatten()).unflatten(1, group.readers.shape).sum(2)


class SublatticeFlow(Flow):
    """Sweeps over the colours of the crystal's sites.

    A site's displacement relative to the mean of its first shell passes through a `SiteMap`. Its parameters come from the neighbours'
    displacements relative to that mean: the flow commutes with translations, so the centre of mass drops out and the
    log-determinant is that on the (3N - 3)-dimensional space. Sites that a translation or a reflection of the crystal relates share
    their weights, in coordinates that are reflected with the site.

    Args:
        graph: The lattice.
        colour: Colour of each site, shape [N]; no site has a neighbour of its own colour.
        amplitude: Root-mean-square relative displacement of each orbit per component, length units, shape [n_orbits].
        n_sweeps: Sweeps over all colours.
        width: Hidden width of the site networks.
        n_context: Conditions of a sample that the maps depend on, C.
        amplitude_terms: How the logarithm of the amplitudes changes with the context: coefficients of `monomials` of it, shape
            [n_orbits, n_terms]; None where it does not.
    """

    channels = 1
    amplitude: Tensor
    amplitude_terms: Tensor
    _order: Tensor
    _place: Tensor

    def __init__(
        self,
        graph: LatticeGraph,
        colour: Tensor,
        amplitude: Tensor,
        *,
        n_sweeps: int,
        width: int,
        n_context: int = 0,
        amplitude_terms: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("amplitude", amplitude.float())
        if amplitude_terms is None:
            amplitude_terms = torch.zeros(len(amplitude), len(monomials(torch.zeros(n_context, 1))))
        if n_context:
            self.register_buffer("amplitude_terms", amplitude_terms.float())
        self.n_context = n_context
        size = graph.n_orbits, graph.neighbours.shape[1], width, site_map.N_PARAMETERS, n_context
        self.networks: Sequence[SiteNetwork] = nn.ModuleList(SiteNetwork(*size) for _ in range(n_sweeps))  # type: ignore[assignment]
        order = sorted(range(len(colour)), key=lambda i: (int(colour[i]), int(graph.orbit[i]), i))
        self._set_lattice(graph, colour, torch.tensor(order))

    def _set_lattice(self, graph: LatticeGraph, colour: Tensor, order: Tensor) -> None:
        """Tables of this replicate; they are rebuilt for another one and never saved with the weights."""
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_place", place, persistent=False)
        self._colours: list[list[_Group]] = []
        keys = torch.stack((colour, graph.orbit), 1)[order]
        start = 0
        for key, count in zip(*(t.tolist() for t in torch.unique_consecutive(keys, dim=0, return_counts=True)), strict=True):
            if key[0] == len(self._colours):
                self._colours.append([])
            self._colours[-1].append(self._group(graph, colour, key[1], slice(start, start + count)))
            start += count

    def _group(self, graph: LatticeGraph, colour: Tensor, orbit: int, where: slice) -> _Group:
        sites = self._order[where]
        neighbours = graph.neighbours[sites]
        moved = (colour[neighbours] < colour[sites][:, None]).to(self.amplitude).t().contiguous()
        signs = graph.signs[sites].t().to(self.amplitude)
        directions = F.normalize(graph.vectors[sites[0]], dim=-1).t().to(self.amplitude) * signs[:, :1]
        n_first = int((graph.shells[sites[0]] == 0).sum())
        flat = self._place[neighbours.t().flatten()]
        return _Group(orbit, where, signs[..., None], flat, _readers(flat, len(colour)), moved, directions, n_first)

    def forward(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map base to target, see `Flow.forward`."""
        state, log_det, _ = _Push.apply(state, None, self, torch.is_grad_enabled(), context, *self.parameters())
        return state, log_det

    def push_score(self, state: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` with the score, see `Flow.push_score`; no inverse is needed.

        Layer by layer (Vaitl, Winkler, Richter and Kessel, ICLR 2024): after a map with Jacobian J the score is
        J^-T (score - grad log|det J|), and a triangular J with small blocks is solved at once.
        """
        return _Push.apply(state, score, self, torch.is_grad_enabled(), context, *self.parameters())

    @torch.no_grad()
    def inverse(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map target to base, see `Flow.inverse`; takes no gradient."""
        x, shared = self._inside(state), self._shared(context)
        log_det = torch.zeros(len(state), dtype=torch.float64, device=x.device)
        for network, group in reversed(list(self._moves())):
            scale = self._scale(group, shared)
            mean, features = self._surroundings(group, scale, x)
            raw = network.evaluate(group.orbit, features.values, group.moved, shared.context).out
            y, log_slope = site_map.inverse((x[:, group.sites] - mean) * scale, raw)
            x[:, group.sites] = torch.addcdiv(mean, y, scale)
            log_det += log_slope.sum((0, 1), dtype=torch.float64)
        return self._outside(x - x.mean(1, keepdim=True)), log_det

    def _apply(self, fn: Any, recurse: bool = True) -> "SublatticeFlow":  # noqa: ANN401
        """Move the tables of the lattice with the weights, as `to`, `double` and so on do."""
        super()._apply(fn, recurse)
        for group in (group for colour in self._colours for group in colour):
            for name in ("signs", "neighbours", "readers", "moved", "directions"):
                setattr(group, name, fn(getattr(group, name)))
        return self

    def _moves(self) -> Iterator[tuple[SiteNetwork, _Group]]:
        """All moves in order."""
        return ((network, group) for network in self.networks for colour in self._colours for group in colour)

    def _inside(self, state: Tensor) -> Tensor:
        """States [n, 1, N, 3] as [3, N, n] in the internal order and precision: neighbours' samples lie together."""
        return state[:, 0].to(self.amplitude.dtype).index_select(1, self._order).permute(2, 1, 0).contiguous()

    def _outside(self, x: Tensor) -> Tensor:
        return x.permute(2, 1, 0).index_select(1, self._place)[:, None]

    def _shared(self, context: Tensor | None) -> _Shared:
        """The context [n, C] as the moves use it.

        Raises:
            ValueError: The flow has no context, or lacks it.
        """
        if (context is None) != (self.n_context == 0):
            raise ValueError(f"a flow of {self.n_context} conditions needs the values of as many")
        if context is None:
            return _Shared(None, self.amplitude[:, None])
        inside = context.to(self.amplitude).t().contiguous()
        return _Shared(inside, self.amplitude[:, None] * (self.amplitude_terms @ monomials(inside)).exp())

    def _scale(self, group: _Group, shared: _Shared) -> Tensor:
        """One over the amplitude that the weights belong to, which may have come with them, with the signs of each site, [3, S, 1 or n]."""
        return group.signs / shared.amplitude[group.orbit]

    def _surroundings(self, group: _Group, scale: Tensor, x: Tensor) -> tuple[Tensor, BondFeatures]:
        """Mean of the first shell [3, S, n], and the features of all neighbours, of one group."""
        near = x.index_select(1, group.neighbours).unflatten(1, group.moved.shape)
        mean = near[:, : group.n_first].mean(1)
        return mean, BondFeatures(near.sub_(mean[:, None]).mul_(scale[:, None]), group.directions)

    def _move(self, network: SiteNetwork, group: _Group, x: Tensor, shared: _Shared) -> _Step:
        """Move one group, in place."""
        scale, context = self._scale(group, shared), shared.context
        mean, features = self._surroundings(group, scale, x)
        evaluation = network.evaluate(group.orbit, features.values, group.moved, context)
        moved = SiteMap.forward((x[:, group.sites] - mean) * scale, evaluation.out)
        x[:, group.sites] = torch.addcdiv(mean, moved.value, scale)
        return _Step(network, group, scale, features, evaluation, moved, context)


class _Push(torch.autograd.Function):
    """All moves at once for torch, which need not record what is inside them."""

    @staticmethod
    def forward(
        ctx: _Context,
        state: Tensor,
        score: Tensor | None,
        flow: SublatticeFlow,
        record: bool,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x, shared = flow._inside(state), flow._shared(context)
        s = None if score is None else flow._inside(score)
        if s is not None:  # a base of unequal widths has a score along the centre of mass, in which nothing moves
            s = s - s.mean(1, keepdim=True)
        log_det = torch.zeros(len(state), dtype=torch.float64, device=x.device)
        ctx.flow, ctx.dtype, ctx.steps = flow, state.dtype, []
        for network, group in flow._moves():
            step = flow._move(network, group, x, shared)
            log_det += step.moved.log_slope.sum((0, 1), dtype=torch.float64)
            if s is not None:
                step.push_score(s)
            if record:
                ctx.steps.append(step)
        pushed = None if s is None else flow._outside(s)
        if pushed is not None:
            ctx.mark_non_differentiable(pushed)
        return flow._outside(x - x.mean(1, keepdim=True)), log_det, pushed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, g_state: Tensor, g_log_det: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        flow: SublatticeFlow = ctx.flow
        gradient = flow._inside(g_state)
        gradient = gradient - gradient.mean(1, keepdim=True)
        weight = g_log_det.to(gradient.dtype)
        named = [(network, name, p) for network in flow.networks for name, p in network.named_parameters()]
        wanted = any(ctx.needs_input_grad[-len(named) :])  # not where the latent variables alone move
        grads: dict[int, dict[str, Tensor]] = {id(network): {} for network in flow.networks}
        for network, name, parameter in named if wanted else []:
            grads[id(network)][name] = torch.zeros_like(parameter)
        for step in reversed(ctx.steps):
            step.vjp(gradient, weight, grads[id(step.network)] if wanted else None)
        gradients = [grads[id(network)][name] if wanted else None for network, name, _ in named]
        return (flow._outside(gradient).to(ctx.dtype), None, None, None, None, *gradients)


def _readers(neighbours: Tensor, n_sites: int) -> Tensor:
    """For each site the places in `neighbours` [M] where it stands, filled up with M, shape [N, most of them]."""
    count = torch.bincount(neighbours, minlength=n_sites)
    order = torch.argsort(neighbours, stable=True)
    column = torch.arange(len(order)) - (count.cumsum(0) - count)[neighbours[order]]
    table = torch.full((n_sites, int(count.max())), len(neighbours))
    table[neighbours[order], column] = order
    return table
