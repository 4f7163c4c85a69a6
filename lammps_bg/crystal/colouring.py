# SPDX-License-Identifier: GPL-2.0-or-later
"""Site colouring: sites of one colour never read each other, so that they can move together with a triangular Jacobian."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.neighbours import NeighbourGraph
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import CrystalError

_DSATUR_LIMIT = 2000  # networkx' saturation strategy costs O(n^2)


def colour_sites(crystal: Crystal, graph: NeighbourGraph) -> NDArray[np.int64]:
    """A colour for every site, such that no site has a neighbour of its own colour; shape [N].

    The basis index is used where it is such a colouring, since it is one at every replicate. Otherwise the smallest
    block of cells that tiles the supercell without a site being its own neighbour is coloured, and repeated.

    Raises:
        CrystalError: The supercell is so small that a site is a neighbour of itself.
    """
    if is_colouring(crystal.basis_index, graph):
        return crystal.basis_index
    for block in _blocks(crystal.replicate):
        colour = _colour_block(crystal, graph, block)
        if colour is not None:
            return colour
    raise CrystalError(
        f"expected a supercell in which no atom is among its own {graph.count} neighbours, got -rep giving "
        f"{crystal.replicate[0]} x {crystal.replicate[1]} x {crystal.replicate[2]} unit cells; use a larger -rep or fewer flow.n_neighbours"
    )


def is_colouring(colour: NDArray[np.int64], graph: NeighbourGraph) -> bool:
    """Whether no site has a neighbour of its own colour."""
    return not (colour[graph.neighbours] == colour[:, None]).any()


def _blocks(replicate: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Blocks of cells that tile the supercell, smallest first."""
    divisors = [[d for d in range(1, n + 1) if n % d == 0] for n in replicate]
    return sorted(product(*divisors), key=lambda b: (np.prod(b), b))


def _colour_block(crystal: Crystal, graph: NeighbourGraph, block: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Colour the sites of one block and tile it over the supercell; None if a site would be its own neighbour."""
    cell = np.repeat(crystal.cell_grid % np.array(block), crystal.n_basis, axis=0)
    label = ((cell[:, 0] * block[1] + cell[:, 1]) * block[2] + cell[:, 2]) * crystal.n_basis + crystal.basis_index
    conflicts = np.unique(np.stack([np.repeat(label, graph.count), label[graph.neighbours].ravel()], 1), axis=0)
    if (conflicts[:, 0] == conflicts[:, 1]).any():
        return None
    import networkx as nx  # a tenth of the time of `check`, and needed for few crystals

    conflict_graph = nx.Graph()
    conflict_graph.add_nodes_from(range(int(label.max()) + 1))
    conflict_graph.add_edges_from(conflicts.tolist())
    small = conflict_graph.number_of_nodes() <= _DSATUR_LIMIT
    colour = nx.greedy_color(conflict_graph, strategy="saturation_largest_first" if small else "smallest_last")
    return np.array([colour[node] for node in range(len(colour))])[label]
