# SPDX-License-Identifier: GPL-2.0-or-later
"""Recognition of the crystal: unit cell, replicate, sites of the atoms, translation classes."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from lattices import CELLS, NAMES, crystal, supercell

from lammps_bg.crystal.structure import Structure
from lammps_bg.crystal.symmetry import find_unit_cell, match_sites, nearest_distance
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import CrystalError

REPLICATES = [(1, 1, 1), (2, 2, 2), (5, 3, 3), (1, 4, 2)]


def distance_modulo(cell, a, b):
    delta = (a - b) @ np.linalg.inv(cell)
    return np.linalg.norm((delta - np.round(delta)) @ cell, axis=-1)


@pytest.mark.parametrize("noise", [0.0, 1e-5])
@pytest.mark.parametrize("replicate", REPLICATES)
@pytest.mark.parametrize("name", NAMES)
def test_a_shuffled_supercell_is_reduced_to_its_cell(name, replicate, noise):
    cell, basis, _, n_classes, n_primitive, _ = CELLS[name]
    structure = supercell(name, replicate, seed=3, noise=noise, origin=(0.3, -2.0, 11.0))
    found = Crystal.from_structure(structure)
    assert found.replicate == replicate
    assert found.n_basis == len(basis)
    np.testing.assert_allclose(found.unit.cell, cell, atol=1e-12)
    np.testing.assert_allclose(found.supercell, structure.cell, atol=1e-12)
    assert found.n_primitive == n_primitive
    assert len(set(found.unit.site_class)) == n_classes
    assert set(found.site_class) == set(range(n_classes))
    assert found.volume == pytest.approx(structure.volume)
    assert found.nearest_distance == pytest.approx(crystal(name).nearest_distance, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_atom_id_stands_on_its_site(name):
    structure = supercell(name, (3, 2, 2), seed=5, noise=1e-6, origin=(-1.0, 0.5, 0.0))
    found = Crystal.from_structure(structure)
    assert sorted(found.atom_ids) == list(range(1, structure.n_atoms + 1))
    atoms = found.atom_ids - 1
    assert distance_modulo(structure.cell, structure.positions[atoms], found.sites).max() < 1e-5
    np.testing.assert_array_equal(found.types, structure.types[atoms])
    assert found.species == [structure.labels[t - 1] for t in structure.types[atoms]]


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_those_of_translations(name):
    """Two sites share a class exactly if the vector between them maps the whole crystal onto itself, checked by brute force."""
    unit = crystal(name).unit
    for i in range(len(unit.basis)):
        for j in range(len(unit.basis)):
            image = match_sites(unit.cell, unit.basis, unit.basis + unit.basis[j] - unit.basis[i], 1e-4)
            maps = bool((image >= 0).all() and (unit.types[image] == unit.types).all())
            assert maps == (unit.site_class[i] == unit.site_class[j])


def test_two_species_are_two_classes_although_the_lattice_is_one():
    assert crystal("bcc").unit.site_class.tolist() == [0, 0]
    assert crystal("caesium").unit.site_class.tolist() == [0, 1]
    assert "229" in crystal("bcc").unit.space_group
    assert "221" in crystal("caesium").unit.space_group
    assert "227" in crystal("diamond").unit.space_group
    assert "216" in crystal("zincblende").unit.space_group


@pytest.mark.parametrize(
    ("atoms", "n_basis", "n_primitive"),
    [
        (bulk("Cu", cubic=True), 4, 1),
        (bulk("Fe", cubic=True), 2, 1),
        (bulk("Si", cubic=True), 8, 2),
        (bulk("Mg", orthorhombic=True), 4, 2),
        (bulk("ZnS", "zincblende", a=5.4, cubic=True), 8, 2),
        (bulk("NaCl", "rocksalt", a=5.6, cubic=True), 8, 2),
        (bulk("Cu"), 1, 1),
        (bulk("Si"), 2, 2),
    ],
)
def test_cells_of_ase(atoms, n_basis, n_primitive):
    many = atoms.repeat((3, 2, 1))
    numbers = sorted(set(many.numbers))
    types = np.array([numbers.index(z) + 1 for z in many.numbers])
    # LAMMPS holds cells in lower triangular form
    cell = np.linalg.cholesky(many.cell.array @ many.cell.array.T)
    structure = Structure(
        cell, np.zeros(3), many.get_scaled_positions() @ cell, types, np.ones(len(numbers)), ("A", "B")[: len(numbers)]
    )
    found = Crystal.from_structure(structure)
    assert (found.replicate, found.n_basis, found.n_primitive) == ((3, 2, 1), n_basis, n_primitive)


@pytest.mark.parametrize("name", NAMES)
def test_replicating_a_recognised_supercell(name):
    once = Crystal.from_structure(supercell(name, (2, 1, 1), seed=0))
    twice = once.replicated((2, 3, 1), supercell(name, (4, 3, 1), seed=1))
    assert twice.replicate == (4, 3, 1)
    assert twice.n_sites == 12 * once.n_basis
    np.testing.assert_array_equal(twice.basis_index, np.tile(np.arange(once.n_basis), 12))


def test_grid_order():
    """Site ((ix ny + iy) nz + iz) n_basis + b is basis site b of cell (ix, iy, iz), and cells wrap around."""
    lattice = crystal("triclinic", (2, 3, 4))
    index = ((1 * 3 + 2) * 4 + 3) * 2 + 1
    np.testing.assert_allclose(lattice.sites[index], np.array([1, 2, 3]) @ lattice.unit.cell + lattice.unit.basis[1])
    assert lattice.site_index(np.array([3, -1, 7]), np.array(1)) == index
    np.testing.assert_array_equal(lattice.cell_grid[index // 2], [1, 2, 3])


def test_a_random_structure_is_its_own_cell():
    rng = np.random.default_rng(0)
    structure = Structure(5 * np.eye(3), np.zeros(3), 5 * rng.random((16, 3)), np.ones(16, dtype=int), np.ones(1), ("A",))
    unit, counts = find_unit_cell(structure)
    assert counts == (1, 1, 1)
    assert unit.n_primitive == 16
    assert unit.site_class.tolist() == list(range(16))


def test_one_displaced_or_changed_atom_undoes_the_reduction():
    structure = supercell("fcc", (2, 2, 2))
    moved = structure.positions.copy()
    moved[5, 0] += 0.02
    types = structure.types.copy()
    types[5] = 2
    for changed in (replace(structure, positions=moved), replace(structure, types=types, masses=np.ones(2), labels=("A", "B"))):
        unit, counts = find_unit_cell(changed)
        assert counts == (1, 1, 1)
        assert unit.n_primitive == 32


@pytest.mark.parametrize("noise", [2e-4, 4e-4, 5e-4, 1e-3, 3e-3])
def test_noise_near_the_tolerance_reduces_the_crystal_or_leaves_it(noise):
    """Whatever the noise, every atom has a site and every site an atom; pair by pair the images agree better than end to end."""
    for seed in range(10):
        found = Crystal.from_structure(supercell("fcc", (10, 1, 2), seed=seed, noise=noise * crystal("fcc").nearest_distance))
        assert found.n_sites == 80
        assert sorted(found.atom_ids) == list(range(1, 81))
        assert noise > 3e-4 or found.replicate == (10, 1, 2)
        assert noise < 1e-3 or found.replicate == (1, 1, 1)


def test_overlapping_atoms_are_refused():
    structure = supercell("fcc", (2, 2, 2))
    positions = structure.positions.copy()
    positions[3] = positions[7] + structure.cell[1]
    with pytest.raises(CrystalError, match="on the same place"):
        Crystal.from_structure(replace(structure, positions=positions))


def test_atoms_off_their_sites_are_refused():
    lattice, structure = crystal("fcc"), supercell("fcc", (2, 1, 1))
    positions = structure.positions.copy()
    positions[0] += 0.1
    with pytest.raises(CrystalError, match="one atom on each of the 8 sites"):
        lattice.replicated((2, 1, 1), replace(structure, positions=positions))
    with pytest.raises(CrystalError, match="one atom on each of the 16 sites"):
        lattice.replicated((2, 2, 1), structure)


def test_nearest_distance_sees_periodic_images():
    assert nearest_distance(np.diag([1.0, 2.0, 3.0]), np.zeros((1, 3))) == pytest.approx(1.0)
    assert nearest_distance(np.diag([5.0, 5.0, 5.0]), np.array([[0.1, 0, 0], [4.9, 0, 0]])) == pytest.approx(0.2)
    assert nearest_distance(np.eye(3) * 5, np.array([[0.1, 0, 0], [5.4, 0, 0]])) == pytest.approx(0.3)


@pytest.mark.parametrize("name", NAMES)
def test_displacements_ignore_drift_images_and_the_cell(name):
    """A rigid shift, whole box vectors on single atoms, and a strained cell leave the displacements from the sites alone."""
    rng = np.random.default_rng(5)
    found = Crystal.from_structure(supercell(name, (3, 2, 2), seed=5, origin=(-1.0, 0.5, 0.0)))
    cell = found.supercell * 1.03 + np.tril(0.05 * rng.standard_normal((3, 3)), -1)
    u = 0.05 * found.nearest_distance * rng.standard_normal((4, found.n_sites, 3))
    u -= u.mean(1, keepdims=True)
    moved = found.sites_in(cell) + u + rng.integers(-2, 3, u.shape) @ cell + [7.1, -3.3, 0.4]
    np.testing.assert_allclose(found.displacements(moved, cell), u, atol=1e-10)
    np.testing.assert_allclose(found.sites_in(found.supercell), found.sites, atol=1e-12)
