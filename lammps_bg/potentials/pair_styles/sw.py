# SPDX-License-Identifier: GPL-2.0-or-later
"""Stillinger-Weber, as LAMMPS' pair_style sw, at a cost linear in the number of neighbours; and the one reader of its files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine.describe import PairStyle
from lammps_bg.potentials.pair_styles import of_batch, of_pairs

if TYPE_CHECKING:
    from torch import Tensor

STYLE = "sw"
_WORDS = 14  # element 1, 2, 3, epsilon, sigma, a, lambda, gamma, cos0, A, B, p, q, tol
_PAIR_COLUMNS = {"epsilon": 0, "sigma": 1, "a": 2, "gamma": 4, "big_a": 6, "big_b": 7, "p": 8, "q": 9}
_KCAL_PER_EV = 23.060549  # as LAMMPS has it
_LARGEST_TOLERANCE = 0.01  # as in LAMMPS

Entries = dict[tuple[str, str, str], list[float]]


@dataclass(frozen=True)
class StillingerWeber:
    """Two-body terms of pairs ij, and three-body terms lambda epsilon (cos - cos0)^2 g_ij g_ik of triplets with i in the middle.

    With n_j the unit vector to neighbour j and g_j = exp(gamma sigma / (r_j - a sigma)), the sum over pairs of neighbours is

        sum_jk g_j g_k (n_j . n_k - c)^2 = Q : Q - 2 c P . P + c^2 S^2,   Q = sum_j g_j n_j n_j,  P = sum_j g_j n_j,  S = sum_j g_j,

    from which the terms j = k are taken off: no loop over triplets. With members, every table has an axis of them in front.

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
    def n_types(self) -> int:
        """Atom types."""
        return self.epsilon.shape[-1]

    @property
    def has_members(self) -> bool:
        """Whether the tables have an axis of members."""
        return self.epsilon.ndim == 3

    @property
    def cutoff(self) -> float:
        """Largest distance of two atoms that interact, length units."""
        return float(self.reach.max())

    def gradient(
        self, separations: Tensor, types: Tensor, far_types: Tensor, member: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy [n] and its gradient with respect to the separations [n, N, K, 3]; see `PairPotential`."""
        rank = {f.name: 3 if f.name in ("three_body", "cosine") else 2 for f in fields(self)}
        table = {name: of_batch(getattr(self, name), axes, member, far_types.device) for name, axes in rank.items()}
        pair = {name: of_pairs(value, types, far_types) for name, value in table.items() if rank[name] == 2}
        r = separations.square().sum(-1).sqrt_()
        near = r < pair["reach"]
        direction = separations / r[..., None]
        # beyond the cutoff the exponents would overflow: such pairs stand just inside it, and count nothing
        distance = r.where(near, 0.9 * pair["reach"])
        inner = 1 / (distance - pair["a"] * pair["sigma"])
        energy, slope = _two_body(distance, inner, near, pair)
        g = (pair["gamma"] * pair["sigma"] * inner).exp().where(near, 0.0)
        g_slope = -g * pair["gamma"] * pair["sigma"] * inner.square()
        bent, along, across = _three_body(direction, g, types, far_types, table["three_body"], table["cosine"])
        slope = slope + along * g_slope
        # the unit vectors turn only across themselves
        across = across - (across * direction).sum(-1, keepdim=True) * direction
        return energy + bent, slope[..., None] * direction + across / r[..., None]


def _two_body(r: Tensor, inner: Tensor, near: Tensor, pair: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Energy [n] and slope [n, N, K] of A epsilon (B (sigma/r)^p - (sigma/r)^q) exp(sigma / (r - a sigma)), half at either end."""
    ratio = pair["sigma"] / r
    decay = (0.5 * pair["big_a"] * pair["epsilon"] * (pair["sigma"] * inner).exp()).where(near, 0.0)
    repulsion, attraction = pair["big_b"] * ratio ** pair["p"], ratio ** pair["q"]
    inside = repulsion - attraction
    change = (pair["q"] * attraction - pair["p"] * repulsion) / r - inside * pair["sigma"] * inner.square()
    return (decay * inside).sum((1, 2)), decay * change


def _three_body(
    direction: Tensor, g: Tensor, types: Tensor, far_types: Tensor, strength: Tensor, cosine: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy [n], and its derivatives by each g [n, N, K] and by each unit vector [n, N, K, 3]."""
    energy = g.new_zeros(len(g))
    by_g, by_direction = g.new_zeros(g.shape), direction.new_zeros(direction.shape)
    species = range(strength.shape[-1])
    moments = {s: _moments(direction, g.where(far_types == s, 0.0)) for s in species}
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


def read(pair: PairStyle, units: str) -> StillingerWeber | None:
    """The potential of a script; None where it has more than one file for all types.

    Args:
        pair: What the script says.
        units: Its unit style.
    """
    if pair.args or len(pair.coefficients) != 1 or pair.modifiers:
        return None
    first, second, file, *names = pair.coefficients[0]
    path = pair.files.get(file)
    if (first, second) != ("*", "*") or path is None or "NULL" in names:
        return None
    return read_file(path, names, units)


def length(pair: PairStyle) -> tuple[float, str] | None:
    """Sigma of the entry `El El El`, where there is one element."""
    if len(pair.coefficients) != 1:
        return None
    _, _, file, *names = pair.coefficients[0]
    path, elements = pair.files.get(file), set(names) - {"NULL"}
    if path is None or len(elements) != 1:
        return None
    (name,) = elements
    entry = (_entries(_text(path)) or {}).get((name, name, name))
    return (entry[1], f"sigma of {name} in {path.name}") if entry else None


def read_file(path: Path, names: Sequence[str], units: str) -> StillingerWeber | None:
    """The potential of some elements, or None where the file lacks an entry or holds more than a symmetric potential.

    Args:
        path: File with 14 words an entry, comments after #.
        names: Element of each atom type.
        units: The script's unit style, to which LAMMPS converts files tagged as real or metal.
    """
    text = _text(path)
    entries = _entries(text)
    factor = _energy_factor(text, units)
    n = len(names)
    if entries is None or factor is None or any((a, b, c) not in entries for a in names for b in names for c in names):
        return None
    pairs = np.array([[entries[a, b, b] for b in names] for a in names])
    table = {name: pairs[..., column].copy() for name, column in _PAIR_COLUMNS.items()}
    table["epsilon"] *= factor
    table["reach"] = np.array([[_reach(pairs[a, b]) for b in range(n)] for a in range(n)])
    triplets = np.array([[[entries[a, b, c] for c in names] for b in names] for a in names])
    three_body, cosine = triplets[..., 3] * triplets[..., 0] * factor, triplets[..., 5].copy()
    symmetric = all(np.array_equal(value, value.T) for value in table.values())
    if not symmetric or any(np.abs(t - t.swapaxes(1, 2)).max() > 0 for t in (three_body, cosine)):
        return None
    return StillingerWeber(**table, three_body=three_body, cosine=cosine)


def _text(path: Path) -> str:
    return path.read_text(errors="replace")  # comments in any encoding


def _entries(text: str) -> Entries | None:
    words = " ".join(line.split("#")[0] for line in text.splitlines()).split()
    if len(words) % _WORDS:
        return None
    rows = [words[at : at + _WORDS] for at in range(0, len(words), _WORDS)]
    try:
        return {(row[0], row[1], row[2]): [float(word) for word in row[3:]] for row in rows}
    except ValueError:
        return None


def _energy_factor(text: str, units: str) -> float | None:
    """What LAMMPS multiplies the energies of a file with: it converts between real and metal where the first line has a tag."""
    tag = re.search(r"UNITS:\s*(\w+)", (text.splitlines() or [""])[0])
    given = tag.group(1) if tag else units
    return {(units, units): 1.0, ("metal", "real"): _KCAL_PER_EV, ("real", "metal"): 1 / _KCAL_PER_EV}.get((given, units))


def _reach(entry: np.ndarray) -> float:
    """The cutoff a sigma, less where the tolerance is above zero: there the three-body factor has fallen to it."""
    sigma, a, gamma, tolerance = entry[1], entry[2], entry[4], min(entry[10], _LARGEST_TOLERANCE)
    reach = sigma * a
    if tolerance > 0:
        reach += sigma * (gamma if gamma < 1 else 1.0) / math.log(tolerance)
    return float(reach)
