# SPDX-License-Identifier: GPL-2.0-or-later
"""The pairs of sites within a cutoff and a skin: a fixed table for all configurations whose atoms stay near their sites."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lammps_bg.crystal.scale import periodic_pairs
from lammps_bg.crystal.system import Crystal

_FAR = 4.0  # reaches: where the entries that fill up short rows stand


@dataclass(frozen=True)
class PairTable:
    """Each pair twice, once from either end; images of one site are entries of their own, so any supercell is exact.

    Attributes:
        neighbours: Site index of the far end, shape [N, K].
        vectors: From a site to the far end in the ideal crystal, length units, shape [N, K, 3]; rows are filled up far outside.
        mirror: Index into [N * K] of the same pair seen from its far end, shape [N, K].
        skin: Change of any pair's distance up to which the table holds, length units.
    """

    neighbours: Tensor
    vectors: Tensor
    mirror: Tensor
    skin: float

    @classmethod
    def from_crystal(cls, crystal: Crystal, cutoff: float, skin: float, device: torch.device | str = "cpu") -> "PairTable":
        """The table of a crystal; linear in the number of sites.

        Args:
            crystal: The reference crystal.
            cutoff: Largest distance of two atoms that interact, length units.
            skin: How much farther apart two sites may be, length units.
            device: Where the tensors live.
        """
        unit, reach = crystal.unit, cutoff + skin
        i, j, vector, offset = periodic_pairs("ijDS", unit.cell, unit.basis, reach)
        count = np.bincount(i, minlength=crystal.n_basis)
        width = int(count.max(initial=1))
        column = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)  # ase lists the pairs by their first site
        other = np.tile(np.arange(crystal.n_basis)[:, None], (1, width))
        cells = np.zeros((crystal.n_basis, width, 3), dtype=np.int64)
        vectors = np.full((crystal.n_basis, width, 3), _FAR * reach)
        mirror = np.tile(np.arange(width), (crystal.n_basis, 1))  # a filling entry is its own mirror image
        other[i, column], cells[i, column], vectors[i, column] = j, offset, vector
        place = {(a, b, *o): c for a, b, o, c in zip(i.tolist(), j.tolist(), offset.tolist(), column.tolist(), strict=True)}
        mirror[i, column] = [
            place[b, a, -x, -y, -z] for a, b, (x, y, z) in zip(i.tolist(), j.tolist(), offset.tolist(), strict=True)
        ]
        target = crystal.site_index(
            crystal.cell_grid[:, None, None] + cells, np.broadcast_to(other, (crystal.n_cells, *other.shape))
        )
        neighbours = torch.from_numpy(target.reshape(-1, width))
        tiled = torch.from_numpy(np.tile(mirror, (crystal.n_cells, 1)))
        far = torch.from_numpy(np.tile(vectors, (crystal.n_cells, 1, 1)))
        return cls(neighbours.to(device), far.to(device), (neighbours * width + tiled).to(device), skin)

    def separations(self, u: Tensor, deformation: Tensor | None = None) -> Tensor:
        """Vectors from each atom to the far ends, length units, shape [n, N, K, 3].

        Args:
            u: Displacements from the sites, which move with the cell, length units, shape [n, N, 3].
            deformation: Of each configuration, the matrix D that makes vectors v of the ideal crystal v D, shape [n, 3, 3].
        """
        far = u.index_select(1, self.neighbours.flatten()).unflatten(1, self.neighbours.shape)
        far = far.sub_(u[:, :, None])
        if deformation is None:
            return far.add_(self.vectors)
        return far.add_((self.vectors.flatten(0, 1) @ deformation).view_as(far))

    def forces(self, gradient: Tensor) -> Tensor:
        """Forces on the atoms, shape [n, N, 3], from the energy's gradient with respect to the separations [n, N, K, 3]."""
        mirrored = gradient.flatten(1, 2).index_select(1, self.mirror.flatten()).view_as(gradient)
        return (gradient - mirrored).sum(2)
