# SPDX-License-Identifier: GPL-2.0-or-later
"""Stillinger-Weber, as LAMMPS' pair_style sw, at a cost linear in the number of neighbours."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.potentials.members import of_batch, of_pairs


@dataclass(frozen=True)
class StillingerWeber:
    """Two-body terms of pairs ij, and three-body terms lambda epsilon (cos - cos0)^2 g_ij g_ik of triplets with i in the middle.

    With n_j the unit vector to neighbour j and g_j = exp(gamma sigma / (r_j - a sigma)), the sum over pairs of neighbours is

        sum_jk g_j g_k (n_j . n_k - c)^2 = Q : Q - 2 c P . P + c^2 S^2,   Q = sum_j g_j n_j n_j,  P = sum_j g_j n_j,  S = sum_j g_j,

    from which the terms j = k are taken off: no loop over triplets. Stacked, every table has an axis of members in front.

    Attributes:
        epsilon, sigma, a, gamma, big_a, big_b, p, q: Of each pair of types (the entry i j j), shape [n_types, n_types].
        three_body: lambda epsilon of each triplet of types, the middle one first, energy units, shape [n_types, n_types, n_types].
        cosine: cos0 of each triplet, same shape.
        reach: Cutoff of each pair, length units, shape [n_types, n_types]: a sigma, or less where the file gives a tolerance.
    """

    epsilon: Array
    sigma: Array
    a: Array
    gamma: Array
    big_a: Array
    big_b: Array
    p: Array
    q: Array
    reach: Array
    three_body: Array
    cosine: Array

    @property
    def stacked(self) -> bool:
        """Whether the tables have an axis of members."""
        return self.epsilon.ndim == 3

    @property
    def cutoff(self) -> float:
        """Largest distance of two atoms that interact, length units."""
        return float(self.reach.max())

    def gradient(
        self, separations: Tensor, types: Tensor, far_types: Tensor, member: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy [n] and its gradient with respect to the separations, shape [n, N, K, 3].

        Args:
            separations: Vectors to the neighbours, each pair from both ends, length units, shape [n, N, K, 3].
            types: Type of each atom, from 0, shape [N].
            far_types: Type of each neighbour, from 0, shape [N, K].
            member: Of a stacked potential, the member of each configuration, shape [n].
        """
        rank = {f.name: 3 if f.name in ("three_body", "cosine") else 2 for f in fields(self)}
        table = {name: of_batch(getattr(self, name), axes, member, far_types.device) for name, axes in rank.items()}
        pair = {name: of_pairs(value, types, far_types) for name, value in table.items() if rank[name] == 2}
        r = separations.square().sum(-1).sqrt_()
        near = r < pair["reach"]
        direction = separations / r[..., None]
        # beyond the cutoff the exponents would overflow: such pairs stand just inside it, and count nothing
        distance = torch.where(near, r, 0.9 * pair["reach"])
        inner = 1 / (distance - pair["a"] * pair["sigma"])
        energy, slope = _two_body(distance, inner, near, pair)
        g = torch.where(near, torch.exp(pair["gamma"] * pair["sigma"] * inner), 0.0)
        g_slope = -g * pair["gamma"] * pair["sigma"] * inner.square()
        bent, along, across = _three_body(direction, g, types, far_types, table["three_body"], table["cosine"])
        slope = slope + along * g_slope
        # the unit vectors turn only across themselves
        across = across - (across * direction).sum(-1, keepdim=True) * direction
        return energy + bent, slope[..., None] * direction + across / r[..., None]


def _two_body(r: Tensor, inner: Tensor, near: Tensor, pair: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Energy [n] and slope [n, N, K] of A epsilon (B (sigma/r)^p - (sigma/r)^q) exp(sigma / (r - a sigma)), half at either end."""
    ratio = pair["sigma"] / r
    decay = torch.where(near, 0.5 * pair["big_a"] * pair["epsilon"] * torch.exp(pair["sigma"] * inner), 0.0)
    repulsion, attraction = pair["big_b"] * ratio ** pair["p"], ratio ** pair["q"]
    inside = repulsion - attraction
    change = (pair["q"] * attraction - pair["p"] * repulsion) / r - inside * pair["sigma"] * inner.square()
    return (decay * inside).sum((1, 2)), decay * change


def _three_body(
    direction: Tensor, g: Tensor, types: Tensor, far_types: Tensor, strength: Tensor, cosine: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy [n], and its derivatives by each g [n, N, K] and by each unit vector [n, N, K, 3]."""
    energy = g.new_zeros(len(g))
    by_g, by_direction = torch.zeros_like(g), torch.zeros_like(direction)
    species = range(strength.shape[-1])
    moments = {s: _moments(direction, torch.where(far_types == s, g, 0.0)) for s in species}
    for first in species:
        member = (far_types == first).to(g.dtype)
        for second in species:
            k = 0.5 * strength[..., types, first, second]
            c = cosine[..., types, first, second]
            (s1, p1, q1), (s2, p2, q2) = moments[first], moments[second]
            pairs = (q1 * q2).sum((-2, -1)) - 2 * c * (p1 * p2).sum(-1) + c**2 * s1 * s2
            energy = energy + (k * pairs).sum(-1)
            turned = (q2[:, :, None] @ direction[..., None])[..., 0]
            towards = (p2[:, :, None] * direction).sum(-1)
            whole = (turned * direction).sum(-1) - 2 * c[..., None] * towards + (c**2 * s2)[..., None]
            by_g = by_g + 2 * member * k[..., None] * whole
            weight = (4 * member * k[..., None] * g)[..., None]
            by_direction = by_direction + weight * (turned - c[..., None, None] * p2[:, :, None])
        alone = 0.5 * strength[..., types, first, first] * (1 - cosine[..., types, first, first]) ** 2
        energy = energy - (alone[..., None] * member * g.square()).sum((1, 2))
        by_g = by_g - 2 * member * alone[..., None] * g
    return energy, by_g, by_direction


def _moments(direction: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S [n, N], P [n, N, 3] and Q [n, N, 3, 3] of neighbours with weights g [n, N, K]."""
    weighted = g[..., None] * direction
    return g.sum(-1), weighted.sum(-2), weighted.mT @ direction
