# SPDX-License-Identifier: GPL-2.0-or-later
"""The lattice as the networks see it: torch tensors of neighbours, directions and site classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.system import Crystal


@dataclass(frozen=True)
class LatticeGraph:
    """Fixed neighbours of every site of a crystal at one replicate.

    Attributes:
        neighbours: Site index of each neighbour, shape [N, K].
        vectors: Ideal bond vectors, length units, shape [N, K, 3].
        shells: Shell number of each neighbour, shape [N, K].
        basis_index: Basis index of each site, shape [N].
        site_class: Class of each site under the crystal's translations, shape [N].
        n_basis: Sites per unit cell.
        n_classes: Number of classes.
    """

    neighbours: Tensor
    vectors: Tensor
    shells: Tensor
    basis_index: Tensor
    site_class: Tensor
    n_basis: int
    n_classes: int

    @classmethod
    def from_crystal(cls, crystal: Crystal, n_neighbours: int | None = None) -> "LatticeGraph":
        """The graph of the `n_neighbours` nearest lattice sites; None takes the smallest whole shells that hold 12."""
        graph = neighbour_graph(crystal, count=n_neighbours)
        return cls(
            torch.from_numpy(graph.neighbours),
            torch.from_numpy(graph.vectors),
            torch.from_numpy(graph.shells),
            torch.from_numpy(crystal.basis_index),
            torch.from_numpy(crystal.site_class),
            crystal.n_basis,
            int(crystal.unit.site_class.max()) + 1,
        )
