# SPDX-License-Identifier: GPL-2.0-or-later
"""Colourings: no site reads a site of its own colour, at any replicate, or the Jacobian of the flow is wrong in silence."""

import numpy as np
import pytest
from lattices import NAMES, crystal

from lammps_bg.crystal.colouring import colour_sites, is_colouring
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.errors import CrystalError

REPLICATES = [(5, 3, 3), (3, 3, 3), (2, 2, 2), (3, 2, 4), (1, 1, 1), (2, 1, 1), (7, 3, 3)]


def reads_its_own_colour(colour, graph):
    """By loops, not by the function under test."""
    return any(colour[i] == colour[j] for i in range(len(colour)) for j in graph.neighbours[i])


@pytest.mark.parametrize("replicate", REPLICATES)
@pytest.mark.parametrize("name", NAMES)
def test_no_site_reads_its_own_colour(name, replicate):
    lattice = crystal(name, replicate)
    graph = neighbour_graph(lattice)
    own_neighbour = any(i in graph.neighbours[i] for i in range(lattice.n_sites))
    if own_neighbour:
        with pytest.raises(CrystalError, match="larger -rep or fewer flow.n_neighbours"):
            colour_sites(lattice, graph)
        return
    colour = colour_sites(lattice, graph)
    assert colour.shape == (lattice.n_sites,)
    assert not reads_its_own_colour(colour, graph)
    assert is_colouring(colour, graph)
    # the flow's order relies on colours that are counted without gaps; greedy needs at most one more than the conflicts of a site
    n_colours = len(set(colour.tolist()))
    assert set(colour.tolist()) == set(range(n_colours))
    assert n_colours <= min(lattice.n_sites, 2 * graph.count + 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_crystal_can_be_coloured_at_three_cells(name):
    lattice = crystal(name, (3, 3, 3))
    assert is_colouring(colour_sites(lattice, neighbour_graph(lattice)), neighbour_graph(lattice))


@pytest.mark.parametrize("replicate", [(1, 1, 1), (2, 2, 2), (5, 3, 3)])
def test_the_basis_index_where_it_is_a_colouring(replicate):
    """Of fcc, the first shell of twelve never leads to the own simple-cubic sublattice; the second shell does."""
    lattice = crystal("fcc", replicate)
    np.testing.assert_array_equal(colour_sites(lattice, neighbour_graph(lattice, count=12)), lattice.basis_index)
    with_second = neighbour_graph(lattice, count=18)
    assert not is_colouring(lattice.basis_index, with_second)
    if replicate == (5, 3, 3):
        assert not reads_its_own_colour(colour_sites(lattice, with_second), with_second)


def test_hexagonal_ice_has_a_neighbour_of_the_own_basis_index():
    """A short axis: where sites of one basis index are neighbours. The colouring avoids it at odd counts too."""
    lattice = crystal("ice", (3, 3, 3))
    graph = neighbour_graph(lattice)
    assert not is_colouring(lattice.basis_index, graph)
    assert reads_its_own_colour(lattice.basis_index, graph)


def test_lopsided_reading_counts_in_both_directions():
    """A cut shell may let i read j and not j read i; both orders are conflicts."""
    lattice = crystal("diamond", (2, 2, 2))
    graph = neighbour_graph(lattice, count=9)
    colour = colour_sites(lattice, graph)
    reads = np.zeros((lattice.n_sites,) * 2, dtype=bool)
    reads[np.arange(lattice.n_sites)[:, None], graph.neighbours] = True
    assert (reads != reads.T).any()
    same = colour[:, None] == colour[None]
    assert not (reads & same).any()
    assert not (reads.T & same).any()


@pytest.mark.parametrize(("name", "most"), [("fcc", 4), ("diamond", 8), ("bcc", 8), ("hcp", 9), ("ice", 12), ("tin", 12)])
def test_even_crystals_need_few_colours(name, most):
    lattice = crystal(name, (4, 4, 4))
    assert len(set(colour_sites(lattice, neighbour_graph(lattice)).tolist())) <= most


def test_a_colouring_takes_little_time_for_a_large_awkward_crystal():
    lattice = crystal("ice", (7, 5, 11))
    graph = neighbour_graph(lattice)
    assert is_colouring(colour_sites(lattice, graph), graph)


def test_is_colouring_can_say_no():
    lattice = crystal("bcc", (3, 3, 3))
    graph = neighbour_graph(lattice)
    colour = colour_sites(lattice, graph).copy()
    colour[graph.neighbours[0, 0]] = colour[0]
    assert not is_colouring(colour, graph)
