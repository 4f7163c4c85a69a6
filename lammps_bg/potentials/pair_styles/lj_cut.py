# SPDX-License-Identifier: GPL-2.0-or-later
"""Lennard-Jones with a cutoff, as LAMMPS' pair_style lj/cut."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array
from lammps_bg.engine.describe import PairStyle
from lammps_bg.potentials.pair_styles import alike, of_batch, of_pairs

if TYPE_CHECKING:
    from torch import Tensor

STYLE = "lj/cut"
_PLAIN_MODIFIERS = ("mix", "shift")  # of pair_modify: the others change the energy in ways that are not followed here


@dataclass(frozen=True)
class LennardJones:
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6) for r below the cutoff, less its value there if shifted.

    With members, every table has an axis of them in front, `shifted` too.

    Attributes:
        epsilon: Well depth of each pair of types, energy units, shape [n_types, n_types].
        sigma: Length of each pair of types, length units, shape [n_types, n_types].
        cutoffs: Cutoff of each pair of types, length units, shape [n_types, n_types].
        shifted: Whether the energy is zero at the cutoff (pair_modify shift yes).
    """

    epsilon: Array
    sigma: Array
    cutoffs: Array
    shifted: bool | NDArray[np.bool_]

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
        return float(self.cutoffs.max())

    def gradient(
        self, separations: Tensor, types: Tensor, far_types: Tensor, member: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy [n] and its gradient with respect to the separations [n, N, K, 3]; see `PairPotential`."""
        epsilon, sigma2, cut2, shift = self._tables(types, far_types, member)
        r2 = separations.square().sum(-1)
        near = r2 < cut2
        inverse = (1 / r2).where(near, 0.0)
        s6 = (sigma2 * inverse) ** 3
        # half of each pair at either end
        energy = (2 * epsilon * (s6 * s6 - s6) - 0.5 * shift * near).sum((1, 2))
        slope = 12 * epsilon * (s6 - 2 * s6 * s6) * inverse
        return energy, separations * slope[..., None]

    def _tables(self, types: Tensor, far_types: Tensor, member: Tensor | None) -> tuple[Tensor, ...]:
        """Epsilon, sigma^2, cutoff^2 and the energy at the cutoff for each pair, or one number if all pairs are alike."""
        s6 = (self.sigma / self.cutoffs) ** 6
        shift = 4 * self.epsilon * (s6 * s6 - s6) * np.asarray(self.shifted)[..., None, None]
        found = []
        for values in (self.epsilon, self.sigma**2, self.cutoffs**2, shift):
            table = of_batch(values[..., :1, :1] if alike(values) else values, 2, member, far_types.device)
            found.append(table[0, 0] if table.shape == (1, 1) else of_pairs(table, types, far_types))
        return tuple(found)


def read(pair: PairStyle, units: str) -> LennardJones | None:
    """The potential of a script; None where it has more than plain pairs."""
    options = dict(zip(pair.modifiers[::2], pair.modifiers[1::2], strict=False))
    if len(pair.args) != 1 or len(pair.modifiers) % 2 or not set(options) <= set(_PLAIN_MODIFIERS):
        return None
    if pair.epsilon is None or pair.sigma is None or not (pair.epsilon > 0).all():
        return None
    n, cutoffs = len(pair.epsilon), np.full(pair.epsilon.shape, float(pair.args[0]))
    given = np.zeros_like(cutoffs, dtype=bool)
    for first, second, *values in pair.coefficients:
        rows, columns = _type_range(first, n), _type_range(second, n)
        if len(values) > 3 or rows is None or columns is None:
            return None
        for i, j in product(rows, columns):
            if i <= j:  # as LAMMPS reads it
                cutoffs[[i, j], [j, i]] = float(values[2]) if len(values) == 3 else float(pair.args[0])
                given[[i, j], [j, i]] = True
    if not given.all() and np.ptp(cutoffs) > 0:
        return None  # LAMMPS mixes the cutoffs of pairs without a pair_coeff of their own
    return LennardJones(pair.epsilon, pair.sigma, cutoffs, options.get("shift") in ("yes", "on", "true"))


def length(pair: PairStyle) -> tuple[float, str] | None:
    """Sigma, where all types have the same; not every style of the family tells it."""
    if pair.sigma is None:
        return None
    diagonal = np.diag(pair.sigma)
    return (float(diagonal[0]), f"sigma of pair_style {pair.style}") if np.ptp(diagonal) == 0 and diagonal[0] > 0 else None


def _type_range(text: str, n_types: int) -> range | None:
    """Types, from 0, that a word such as `2`, `*`, `2*` or `1*3` of pair_coeff stands for; None for a type label."""
    low, star, high = text.partition("*")
    if not (low + high).isdigit() and (low + high or not star):
        return None
    if not star:
        return range(int(low) - 1, int(low))
    return range(int(low) - 1 if low else 0, int(high) if high else n_types)
