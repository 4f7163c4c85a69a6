# SPDX-License-Identifier: GPL-2.0-or-later
"""Sublattice flow: all sites of one colour move at once, given the sites around them, without auxiliary variables."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lammps_bg.flow.graph import LatticeGraph
from lammps_bg.flow.transforms import affine, rational_quadratic, unit_triangular

_SCALE, _SHIFT = 0.2, 0.5  # a unit output of the network changes a log-width or a slope by 0.2, a position by half an amplitude
_FEATURES = 5  # of each neighbour: three components, and the squares along and across the bond
_LARGEST = 25.0  # squares level off there: the tails of a large crystal must not leave what the network knows
_SQUARE, _SKIP = 0.3, 0.3  # bring squares, and the direct linear path, to the size of the other inputs


class SiteNetwork(nn.Module):
    """A residual network of two hidden layers and a direct linear path, with its own weights for each site class.

    The output is zero at the start.

    Args:
        n_classes: Number of site classes.
        n_neighbours: Neighbours of a site, K; each gives five features and one bit.
        width: Hidden width.
        n_out: Outputs for each site.
    """

    def __init__(self, n_classes: int, n_neighbours: int, width: int, n_out: int) -> None:
        super().__init__()
        n_in = (_FEATURES + 1) * n_neighbours

        def weight(fan_in: int, fan_out: int, *, of: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n_classes, fan_in, fan_out) / math.sqrt(of))

        self.bonds = weight(_FEATURES * n_neighbours, width, of=n_in)
        self.moved = weight(n_neighbours, width, of=n_in)
        self.hidden = weight(width, width, of=width)
        self.direct = nn.Parameter(torch.zeros(n_classes, _FEATURES * n_neighbours, n_out))
        self.out = nn.Parameter(torch.zeros(n_classes, width, n_out))
        self.bias = nn.Parameter(torch.zeros(n_classes, width))
        self.hidden_bias = nn.Parameter(torch.zeros(n_classes, width))
        self.out_bias = nn.Parameter(torch.zeros(n_classes, n_out))

    def forward(self, site_class: int, bonds: Tensor, moved: Tensor) -> Tensor:
        """Outputs [n, S, n_out] for S sites of one class.

        Args:
            site_class: Class of the sites.
            bonds: Features of the neighbours, shape [n, S, 5K].
            moved: Which neighbours have already moved in this sweep (1 or 0), shape [S, K].
        """
        n, sites = bonds.shape[:2]
        flat = bonds.flatten(0, 1)
        # the bits are the same for every sample: their part of the first layer is a bias for each site
        offset = torch.addmm(self.bias[site_class], moved, self.moved[site_class])
        h = F.silu((flat @ self.bonds[site_class]).view(n, sites, -1) + offset).flatten(0, 1)
        h = h + F.silu(torch.addmm(self.hidden_bias[site_class], h, self.hidden[site_class]))
        out = torch.addmm(self.out_bias[site_class], h, self.out[site_class])
        return torch.addmm(out, flat, self.direct[site_class], alpha=_SKIP).view(n, sites, -1)


@dataclass
class _Group:
    """Sites of one colour and one class, in the flow's internal order (sorted by colour, then class).

    Attributes:
        site_class: Their class.
        sites: Where they stand in the internal order, S of them.
        neighbours: Internal positions of their neighbours, shape [S, K].
        moved: Which neighbours move before them in a sweep (1 or 0), shape [S, K].
        directions: Unit vectors to the neighbours, the same for all sites of a class, shape [K, 3].
        n_first: Neighbours in the first shell.
    """

    site_class: int
    sites: slice
    neighbours: Tensor
    moved: Tensor
    directions: Tensor
    n_first: int


class SublatticeFlow(nn.Module):
    """Sweeps over the colours of the crystal's sites.

    A site's displacement relative to the mean of its first shell passes through monotone splines between two unit triangular 3 x 3 maps, and
    an affine map. All parameters come from its neighbours' displacements relative to that mean: the flow commutes with
    translations, so the centre of mass drops out and the log-determinant is that on the (3N - 3)-dimensional space.
    The triangular maps couple the three components: elementwise maps alone cannot tilt the ellipsoid in which a site moves.

    Args:
        graph: The lattice.
        colour: Colour of each site, shape [N]; no site has a neighbour of its own colour.
        amplitude: Root-mean-square relative displacement of each site class per component, length units, shape [n_classes].
        n_sweeps: Sweeps over all colours.
        width: Hidden width of the site networks.
        n_bins: Bins of the splines.
        spline_range: Half range of the splines, in amplitudes.
    """

    channels = 1
    amplitude: Tensor
    _order: Tensor
    _place: Tensor

    def __init__(
        self,
        graph: LatticeGraph,
        colour: Tensor,
        amplitude: Tensor,
        *,
        n_sweeps: int = 2,
        width: int = 64,
        n_bins: int = 8,
        spline_range: float = 6.0,
    ) -> None:
        super().__init__()
        self._n_bins, self._range = n_bins, spline_range
        self.register_buffer("amplitude", amplitude.float())
        n_out = 3 * (3 * n_bins + 3)
        self.networks = nn.ModuleList(
            SiteNetwork(graph.n_classes, graph.neighbours.shape[1], width, n_out) for _ in range(n_sweeps)
        )
        order = sorted(range(len(colour)), key=lambda i: (int(colour[i]), int(graph.site_class[i]), i))
        self._set_lattice(graph, colour, torch.tensor(order))

    def _set_lattice(self, graph: LatticeGraph, colour: Tensor, order: Tensor) -> None:
        """Tables of this replicate; they are rebuilt for another one and never saved with the weights."""
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_place", place, persistent=False)
        self._colours: list[list[_Group]] = []
        keys = torch.stack((colour, graph.site_class), 1)[order]
        start = 0
        for key, count in zip(*(t.tolist() for t in torch.unique_consecutive(keys, dim=0, return_counts=True)), strict=True):
            sites = order[start : start + count]
            neighbours = graph.neighbours[sites]
            moved = (colour[neighbours] < colour[sites][:, None]).float()
            directions = F.normalize(graph.vectors[sites[0]], dim=-1).float()
            n_first = int((graph.shells[sites[0]] == 0).sum())
            group = _Group(key[1], slice(start, start + count), place[neighbours], moved, directions, n_first)
            if key[0] == len(self._colours):
                self._colours.append([])
            self._colours[-1].append(group)
            start += count

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map base to target; state [n, 1, N, 3] in length units, log-determinant [n] float64."""
        return self._sweep(state, inverse=False)

    def inverse(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Map target to base; state [n, 1, N, 3] in length units, log-determinant [n] float64."""
        return self._sweep(state, inverse=True)

    def _sweep(self, state: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        x = state[:, 0].to(self.amplitude.dtype).index_select(1, self._order)
        steps = [(network, colour) for network in self.networks for colour in self._colours]
        log_det = torch.zeros(len(x), dtype=torch.float64)
        for network, groups in reversed(steps) if inverse else steps:
            new, parts = [], []
            for group in groups:
                y, log_slope = self._move(network, group, x, inverse)
                new.append(y)
                parts.append(log_slope.sum((1, 2), dtype=torch.float64))
            x = torch.cat([x[:, : groups[0].sites.start], *new, x[:, groups[-1].sites.stop :]], 1)
            log_det = log_det + torch.stack(parts).sum(0)
        x = x.index_select(1, self._place)
        return (x - x.mean(1, keepdim=True))[:, None], log_det

    def _move(self, network: nn.Module, group: _Group, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """New displacements of one group, and their log-slopes, both [n, S, 3]."""
        k, amplitude = self._n_bins, self.amplitude[group.site_class]
        near = x.index_select(1, group.neighbours.flatten()).unflatten(1, group.neighbours.shape)
        mean = near[:, :, : group.n_first].mean(2)
        bonds = _bond_features((near - mean[:, :, None]) / amplitude, group.directions.to(x.dtype))
        raw = network(group.site_class, bonds, group.moved.to(x.dtype)).unflatten(-1, (3, 3 * k + 3))
        spline = raw[..., : 3 * k - 1]
        # bounded, so that a rare far neighbour cannot blow up a site
        log_scale, lower, upper = torch.tanh(_SCALE * raw[..., 3 * k :]).unbind(-1)
        shift = _SHIFT * raw[..., 3 * k - 1]
        y = (x[:, group.sites] - mean) / amplitude
        if inverse:
            y = unit_triangular(y, upper, upper=True, inverse=True)
            y, outer = affine(y, log_scale, shift, inverse=True)
            y, inner = rational_quadratic(y, spline, self._range, inverse=True)
            y = unit_triangular(y, lower, inverse=True)
        else:
            y = unit_triangular(y, lower)
            y, inner = rational_quadratic(y, spline, self._range)
            y, outer = affine(y, log_scale, shift)
            y = unit_triangular(y, upper, upper=True)
        return torch.addcmul(mean, y, amplitude), inner + outer


def _bond_features(relative: Tensor, directions: Tensor) -> Tensor:
    """Components of the neighbours' relative displacements, and their squares along and across the bond.

    To second order in these the neighbours' pair forces change position and stiffness of a site.

    Args:
        relative: In amplitudes, shape [n, S, K, 3].
        directions: Unit bond vectors, shape [K, 3].

    Returns:
        Features, shape [n, S, 5K].
    """
    along = (relative * directions).sum(-1).square()
    squares = torch.cat((along - 1, 0.5 * (relative.square().sum(-1) - along) - 1), -1)
    return torch.cat((relative.flatten(2), _SQUARE * squares / (1 + squares.abs() / _LARGEST)), -1)
