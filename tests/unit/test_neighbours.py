# SPDX-License-Identifier: GPL-2.0-or-later
"""The neighbour graph against brute force, and its order, which must be the same in every cell."""

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from lattices import CELLS, NAMES, crystal, supercell

from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import ConfigError


def brute_force(lattice, site, count):
    """Site indices and vectors of the `count` nearest images of sites, and all distances up to the last."""
    images = np.array(list(product(range(-4, 5), repeat=3))) @ lattice.supercell
    vectors = (lattice.sites[None] + images[:, None] - lattice.sites[site]).reshape(-1, 3)
    index = np.tile(np.arange(lattice.n_sites), len(images))
    distance = np.linalg.norm(vectors, axis=1)
    order = np.argsort(distance)[1:]
    return index[order], vectors[order], distance[order]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("replicate", [(1, 1, 1), (2, 3, 1)])
def test_the_graph_is_that_of_brute_force(name, replicate):
    lattice = crystal(name, replicate)
    graph = neighbour_graph(lattice)
    assert graph.neighbours.shape == graph.shells.shape == graph.vectors.shape[:2] == (lattice.n_sites, graph.count)
    for site in range(lattice.n_sites):
        index, vectors, distance = brute_force(lattice, site, graph.count)
        ours = np.linalg.norm(graph.vectors[site], axis=1)
        np.testing.assert_allclose(np.sort(ours), distance[: graph.count], rtol=1e-9)
        # each bond leads to the site that it names
        for neighbour, vector in zip(graph.neighbours[site], graph.vectors[site], strict=True):
            match = np.flatnonzero(np.linalg.norm(vectors[: 4 * graph.count] - vector, axis=1) < 1e-6)
            assert index[match].tolist() == [neighbour]
        assert len(np.unique(graph.vectors[site].round(6), axis=0)) == graph.count


@pytest.mark.parametrize("name", NAMES)
def test_shells_are_distances(name):
    lattice = crystal(name, (2, 2, 2))
    graph = neighbour_graph(lattice)
    length = np.linalg.norm(graph.vectors, axis=-1)
    assert (graph.shells[:, 0] == 0).all()
    assert (np.diff(graph.shells, axis=1) >= 0).all()
    assert (np.diff(graph.shells, axis=1) <= 1).all()
    grown = np.diff(length, axis=1) > 1e-6
    np.testing.assert_array_equal(grown, np.diff(graph.shells, axis=1) == 1)


@pytest.mark.parametrize("name", NAMES)
def test_default_count_is_whole_shells_of_at_least_twelve(name, caplog):
    with caplog.at_level(logging.WARNING):
        graph = neighbour_graph(crystal(name, (2, 2, 2)))
    expected = CELLS[name][5]
    if expected is None:  # the triclinic crystal has no common end of shells of both sites but by its inversion
        expected = graph.count
        assert 12 <= expected <= 26
    assert graph.count == expected
    assert caplog.text == ""


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("name", NAMES)
def test_sites_of_a_class_see_the_same_neighbours_in_the_same_order(name, noise):
    structure = supercell(name, (3, 2, 2), seed=1, noise=noise * crystal(name).nearest_distance)
    lattice = Crystal.from_structure(structure)
    graph = neighbour_graph(lattice)
    for site_class in set(lattice.site_class):
        vectors = graph.vectors[lattice.site_class == site_class]
        np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=1e-3 * lattice.nearest_distance)
        shells = graph.shells[lattice.site_class == site_class]
        assert (shells == shells[0]).all()
        species = lattice.types[graph.neighbours[lattice.site_class == site_class]]
        assert (species == species[0]).all()


@pytest.mark.parametrize("name", ["fcc", "hcp", "ice", "tin"])
def test_the_order_survives_noise_that_the_crystal_survives(name, monkeypatch):
    """Strained cells written with few digits: some bonds lie within the noise of a shell's end or of a rounding edge."""
    rng, entry = np.random.default_rng(7), CELLS[name]
    for seed in range(25):
        cell = entry[0] * (1 + rng.uniform(-0.08, 0.08, (3, 1)))
        cell[1, 0] = 0.05 * cell[1, 1] * rng.uniform(-1, 1)
        monkeypatch.setitem(CELLS, name, (cell, *entry[1:]))
        noise = 2e-4 * crystal(name).nearest_distance
        lattice = Crystal.from_structure(supercell(name, (2, 1, 1), seed=seed, noise=noise))
        graph = neighbour_graph(lattice)
        for site_class in set(lattice.site_class):
            of_class = lattice.site_class == site_class
            vectors, shells = graph.vectors[of_class], graph.shells[of_class]
            np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=10 * noise)
            assert (shells == shells[0]).all()


def test_bonds_are_the_same_at_every_replicate():
    small, large = (neighbour_graph(crystal("ice", replicate)) for replicate in ((1, 1, 1), (2, 1, 3)))
    np.testing.assert_allclose(large.vectors[:8], small.vectors, atol=1e-9)
    np.testing.assert_array_equal(large.neighbours[:8] % 8, small.neighbours)


def test_a_cut_through_a_shell_is_told_once(caplog):
    with caplog.at_level(logging.WARNING):
        lattice = crystal("diamond", (2, 2, 2))
        graphs = [neighbour_graph(cells, count=10) for cells in (lattice, lattice, replace(lattice, replicate=(4, 4, 4)))]
    assert [graph.count for graph in graphs] == [10, 10, 10]
    assert caplog.text.count("10 neighbours cut through") == 1  # of flows on any supercell
    assert "whole shells: 4, 16, 28" in caplog.text


def test_many_neighbours():
    """More than the default search radius is sized for."""
    assert neighbour_graph(crystal("fcc"), count=200).count == 200


@pytest.mark.parametrize("request_", [{"count": 0}, {"count": -3}])
def test_unusable_requests_are_refused(request_):
    with pytest.raises(ConfigError, match="^expected"):
        neighbour_graph(crystal("fcc"), **request_)
