# SPDX-License-Identifier: GPL-2.0-or-later
"""Structure identification: which lattices are known, in cells of any size, with noise and without a crystal."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.report.identification import IdentificationError, StructureIdentifier
from lammps_bg.report.ovito_package import OvitoError

A, C = 3.8, 3.8 * np.sqrt(8 / 3)
CRYSTALS = {
    "fcc": (bulk("Cu", cubic=True), "FCC"),
    "hcp": (bulk("Mg"), "HCP"),
    "zinc, hcp with c/a = 1.86": (bulk("Zn"), "HCP"),
    "bcc": (bulk("Fe", cubic=True), "BCC"),
    "caesium chloride": (bulk("CsCl", "cesiumchloride", a=4.1), "BCC"),
    "rock salt": (bulk("NaCl", "rocksalt", a=5.6, cubic=True), "Simple cubic"),
    "diamond": (bulk("Si", cubic=True), "Cubic diamond"),
    "zincblende": (bulk("SiC", "zincblende", a=4.32), "Cubic diamond"),
    "lonsdaleite": (
        Atoms(
            "C4",
            cell=[[A, 0, 0], [-A / 2, A * np.sqrt(3) / 2, 0], [0, 0, C]],
            scaled_positions=[(1 / 3, 2 / 3, 1 / 16), (2 / 3, 1 / 3, 9 / 16), (1 / 3, 2 / 3, 7 / 16), (2 / 3, 1 / 3, 15 / 16)],
            pbc=True,
        ),
        "Hexagonal diamond",
    ),
}


def lattice(atoms):
    return atoms.get_positions(), np.array(atoms.cell)


def noisy(sites, amplitude, n_frames=4):
    """Frames whose atoms are displaced by this much (root mean square)."""
    noise = np.random.default_rng(5).standard_normal((n_frames, *sites.shape))
    return sites + amplitude / np.sqrt(3) * noise


@pytest.fixture(autouse=True)
def _installed():
    import ovito  # noqa: F401  (part of the tested installation: missing is a failure, not a skip)


@pytest.mark.parametrize("repeat", [1, 2, 4])
@pytest.mark.parametrize("name", CRYSTALS)
def test_a_crystal_is_known_in_any_cell(name, repeat):
    """Also in cells of a few atoms, shorter than any cut-off, and with displacements of 6 % of the nearest distance."""
    atoms, expected = CRYSTALS[name]
    sites, cell = lattice(atoms.repeat(repeat))
    identifier = StructureIdentifier(sites, cell)
    assert identifier.recognises
    assert {identifier.types[index] for index in identifier.reference_types} == {expected}
    frames = noisy(sites, 0.06 * nearest_distance(cell, sites))
    names, fractions = identifier.fractions(frames, cell)
    np.testing.assert_allclose(fractions.sum(axis=1), 1)
    assert fractions[:, names.index(expected)].min() > 0.97
    np.testing.assert_array_equal(identifier.reference_fraction(frames, cell), fractions[:, names.index(expected)])


@pytest.mark.parametrize("name", ["fcc", "diamond"])
def test_a_small_cell_counts_as_its_replicas(name):
    """Eight copies of one strongly disturbed cell have the types of that cell."""
    atoms, _ = CRYSTALS[name]
    sites, cell = lattice(atoms)
    disturbed = noisy(sites, 0.17 * nearest_distance(cell, sites), n_frames=20)
    identifier = StructureIdentifier(sites, cell)
    small = identifier.type_indices(disturbed, cell)
    shifts = np.array(list(np.ndindex(3, 3, 3))) @ cell
    copies = (disturbed[:, None] + shifts[:, None]).reshape(len(disturbed), -1, 3)
    large = StructureIdentifier((sites + shifts[:, None]).reshape(-1, 3), 3 * cell).type_indices(copies, 3 * cell)
    np.testing.assert_array_equal(large, np.tile(small, len(shifts)))
    assert len(np.unique(small)) > (name == "fcc")  # something was lost


def test_images_do_not_matter():
    sites, cell = lattice(bulk("Si").repeat(3))
    identifier = StructureIdentifier(sites, cell)
    images = np.random.default_rng(0).integers(-2, 3, sites.shape) @ cell
    assert identifier.reference_fraction((sites + images)[None], cell) == [1.0]


@pytest.mark.parametrize("name", ["fcc", "diamond"])
def test_a_gas_has_no_structure(name):
    atoms, _ = CRYSTALS[name]
    sites, cell = lattice(atoms.repeat(3))
    gas = np.random.default_rng(2).uniform(size=(3, *sites.shape)) @ cell
    assert StructureIdentifier(sites, cell).reference_fraction(gas, cell).max() < 0.05


def test_another_crystal_is_not_the_reference():
    """fcc stretched along the Bain path is bcc: recognised, but not as what it was."""
    sites, cell = lattice(bulk("Cu", cubic=True).repeat((3, 3, 4)))
    identifier = StructureIdentifier(sites, cell)
    bain = np.diag([2 ** (1 / 6), 2 ** (1 / 6), 2 ** (-1 / 3)])
    names, fractions = identifier.fractions((sites @ bain)[None], cell @ bain)
    assert fractions[0, names.index("BCC")] == 1
    assert identifier.reference_fraction((sites @ bain)[None], cell @ bain) == [0.0]


def test_means_of_frames_are_seen_through_the_noise():
    """Displacements of 15 % of the nearest distance hide most of a single frame, none of a mean of ten."""
    sites, cell = lattice(bulk("Cu", cubic=True).repeat(4))
    identifier = StructureIdentifier(sites, cell)
    frames = noisy(sites, 0.15 * nearest_distance(cell, sites), n_frames=20)
    assert identifier.reference_fraction(frames[:5], cell).mean() < 0.5
    assert identifier.reference_fraction(frames.reshape(2, 10, -1, 3).mean(axis=1), cell).tolist() == [1.0, 1.0]


def test_a_crystal_with_a_vacancy_is_judged_by_its_other_sites():
    sites, cell = lattice(bulk("Cu", cubic=True).repeat(3))
    identifier = StructureIdentifier(sites[1:], cell)
    other = identifier.types.index("Other")
    assert (identifier.reference_types == other).sum() == 12
    assert identifier.reference_fraction(sites[None, 1:], cell) == [1.0]
    gas = np.random.default_rng(2).uniform(size=(1, len(sites) - 1, 3)) @ cell
    assert identifier.reference_fraction(gas, cell) < 0.05  # the sites beside the vacancy had no type and have none now


def test_a_lattice_that_ovito_does_not_know_says_so():
    a, c = 4.97, 2.787
    tin = Atoms("Si4", cell=[a, a, c], scaled_positions=[(0, 0, 0), (0, 0.5, 0.25), (0.5, 0.5, 0.5), (0.5, 0, 0.75)], pbc=True)
    sites, cell = lattice(tin.repeat(2))
    identifier = StructureIdentifier(sites, cell)
    assert not identifier.recognises
    assert identifier.types == ()
    for question in (identifier.fractions, identifier.reference_fraction):
        with pytest.raises(IdentificationError, match="the reference lattice is none of these"):
            question(sites[None], cell)


def test_other_positions_are_refused():
    sites, cell = lattice(bulk("Si").repeat(2))
    identifier = StructureIdentifier(sites, cell)
    with pytest.raises(IdentificationError, match=r"shape \[n, 16, 3\], got shape \[1, 15, 3\]"):
        identifier.fractions(sites[None, 1:], cell)
    with pytest.raises(IdentificationError, match="finite positions"):
        identifier.fractions(np.full((1, 16, 3), np.nan), cell)
    with pytest.raises(IdentificationError, match=r"got shape \[2, 3, 3\]"):
        identifier.fractions(sites[None], np.stack([cell, cell]))


def test_without_ovito_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ovito.modifiers", None)
    with pytest.raises(OvitoError, match=r"pip install 'lammps-bg\[ovito\]'"):
        StructureIdentifier(*lattice(bulk("Si")))
