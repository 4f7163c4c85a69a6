# SPDX-License-Identifier: GPL-2.0-or-later
"""The lattice as the networks see it: torch tensors of neighbours, directions and orbits of sites."""

from dataclasses import dataclass

import numpy as np
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
        orbit: Orbit of each site under translations and reflections, shape [N].
        signs: How the axes turn from an orbit's first site to each site, 1 or -1, shape [N, 3].
        n_basis: Sites per unit cell.
        n_orbits: Number of orbits.
        places: Position of each site in the supercell, in units of its edges, shape [N, 3].
    """

    neighbours: Tensor
    vectors: Tensor
    shells: Tensor
    basis_index: Tensor
    orbit: Tensor
    signs: Tensor
    n_basis: int
    n_orbits: int
    places: Tensor

    @classmethod
    def from_crystal(cls, crystal: Crystal, n_neighbours: int | None = None, *, reflections: bool = True) -> "LatticeGraph":
        """The graph of a crystal.

        Args:
            crystal: The crystal.
            n_neighbours: How many of the nearest lattice sites; None takes the smallest whole shells that hold 12.
            reflections: Whether sites that only a reflection relates share an orbit.
        """
        orbit, signs = (crystal.orbit, crystal.signs) if reflections else (crystal.site_class, np.ones((crystal.n_sites, 3)))
        graph = neighbour_graph(crystal, count=n_neighbours)
        return cls(
            torch.from_numpy(graph.neighbours),
            torch.from_numpy(graph.vectors),
            torch.from_numpy(graph.shells),
            torch.from_numpy(crystal.basis_index),
            torch.from_numpy(orbit),
            torch.from_numpy(signs),
            crystal.n_basis,
            int(orbit.max()) + 1,
            torch.from_numpy((crystal.sites - crystal.origin) @ np.linalg.inv(crystal.supercell)),
        )
