# SPDX-License-Identifier: GPL-2.0-or-later
"""The lattice as the networks see it: torch tensors of neighbours, directions and orbits of sites, and tables made of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

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


class Lattice(nn.Module):
    """The tables of one crystal that all conditioners of a flow share; only the unit of length enters the state_dict.

    Args:
        graph: Neighbour graph of the crystal.
        amplitude: Thermal amplitude of a displacement component, per site [N] or one for all, length units.

    Attributes:
        mean_amplitude: Mean of the amplitudes over the sites: the unit of length of the conditioners.
        amplitude: Amplitude of each site in that unit, shape [N, 1, 1], or [1, 1, 1].
    """

    mean_amplitude: Tensor
    amplitude: Tensor
    neighbours: Tensor
    edges_by_neighbour: Tensor
    edge_offsets: Tensor
    directions: Tensor
    basis_index: Tensor
    places: Tensor

    def __init__(self, graph: LatticeGraph, amplitude: Tensor) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        # a unit the weights were trained in: kept with them, though a larger replicate has a slightly larger amplitude
        self.register_buffer("mean_amplitude", amplitude.mean().to(dtype))
        self.n_sites, self.n_neighbours = graph.neighbours.shape
        flat = graph.neighbours.flatten()
        counts = torch.bincount(flat, minlength=self.n_sites)
        length = graph.vectors.norm(dim=-1, keepdim=True)
        directions = torch.cat((graph.vectors / length, length / length.mean() - 1), -1)
        tables = {
            "amplitude": (amplitude / amplitude.mean()).to(dtype).reshape(-1, 1, 1),
            "neighbours": flat,
            # the edges that end at each site, in the order of the sites: the backward of a gather without a scatter
            "edges_by_neighbour": torch.argsort(flat, stable=True),
            "edge_offsets": counts.cumsum(0) - counts,
            "directions": directions.to(dtype),
            "basis_index": graph.basis_index,
            "places": graph.places.to(dtype),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def gather(self, values: Tensor) -> Tensor:
        """Return the neighbours' values, [N*K, ...], of site values [N, ...]."""
        return values.index_select(0, self.neighbours)

    def collect(self, edge_values: Tensor) -> Tensor:
        """Sum edge values [N*K, ...] over the edges that end at each site, [N, ...]: the transpose of `gather`."""
        rows = edge_values.reshape(len(edge_values), -1)
        summed = functional.embedding_bag(self.edges_by_neighbour, rows, self.edge_offsets, mode="sum")
        return summed.view(self.n_sites, *edge_values.shape[1:])
