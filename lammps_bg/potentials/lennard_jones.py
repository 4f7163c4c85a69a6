# SPDX-License-Identifier: GPL-2.0-or-later
"""Lennard-Jones with a cutoff, as LAMMPS' pair_style lj/cut."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.potentials.members import alike, of_batch, of_pairs


@dataclass(frozen=True)
class LennardJones:
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6) for r below the cutoff, less its value there if shifted.

    Stacked, every table has an axis of members in front, `shifted` too.

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
    def stacked(self) -> bool:
        """Whether the tables have an axis of members."""
        return self.epsilon.ndim == 3

    @property
    def cutoff(self) -> float:
        """Largest distance of two atoms that interact, length units."""
        return float(self.cutoffs.max())

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
        epsilon, sigma2, cut2, shift = self._tables(types, far_types, member)
        r2 = separations.square().sum(-1)
        near = r2 < cut2
        inverse = torch.where(near, 1 / r2, 0.0)
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
