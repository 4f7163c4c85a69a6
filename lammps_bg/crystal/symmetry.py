# SPDX-License-Identifier: GPL-2.0-or-later
"""Symmetry of a structure: unit cell x replicate, and which sites of the cell are equivalent by a translation or a reflection."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import spglib
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lammps_bg.crystal.scale import natural_unit
from lammps_bg.crystal.structure import Array, Structure
from lammps_bg.errors import CrystalError

_TOLERANCE = 1e-3  # largest deviation of an atom from its image, in nearest-neighbour distances


@dataclass(frozen=True, eq=False)
class UnitCell:
    """The part of a structure that repeats along its own box vectors.

    Attributes:
        cell: Cell vectors as rows, lower triangular, shape [3, 3].
        basis: Cartesian site positions relative to the cell's corner, shape [n_basis, 3].
        types: LAMMPS type of each basis site, shape [n_basis].
        kinds: Equal numbers mark basis sites whose atoms nothing tells apart: type, charge and the like, shape [n_basis].
        site_class: Equal numbers mark sites that a translation of the crystal maps onto each other, shape [n_basis].
        orbit: Equal numbers mark sites that an operation of the space group which keeps or reverses each Cartesian axis maps onto
            each other, shape [n_basis].
        signs: 1 or -1 for each axis: how the surroundings of an orbit's first site turn into those of a site, shape [n_basis, 3].
        rotations: Rotations of the space group's operations, in units of the cell vectors, on columns, shape [m, 3, 3].
        translations: Translations that go with them, in units of the cell vectors, shape [m, 3].
        n_primitive: Atoms per primitive cell.
        space_group: International symbol and number as given by spglib.
    """

    cell: Array
    basis: Array
    types: NDArray[np.int64]
    kinds: NDArray[np.int64]
    site_class: NDArray[np.int64]
    orbit: NDArray[np.int64]
    signs: Array
    rotations: NDArray[np.int64]
    translations: Array
    n_primitive: int
    space_group: str

    def keeping(self, kept: NDArray[np.bool_]) -> "UnitCell":
        """The same cell with some operations of its space group only.

        Args:
            kept: Whether each operation is one, shape [m]; those kept are a group.
        """
        if kept.all():
            return self
        rotations, translations = self.rotations[kept], self.translations[kept]
        tolerance = 10 * _TOLERANCE * nearest_distance(self.cell, self.basis)
        site_class, orbit, signs, n_primitive = _equivalent(self.cell, self.basis, rotations, translations, tolerance)
        return replace(
            self, site_class=site_class, orbit=orbit, signs=signs, rotations=rotations, translations=translations,
            n_primitive=n_primitive, space_group=_group_of(rotations, translations, self.cell, self.basis),
        )  # fmt: skip


def nearest_distance(cell: Array, positions: Array) -> float:
    """Shortest distance between two atoms, images included; `cell` rows and `positions` in length units."""
    return closest_pair(cell, positions)[2]


def typical_distance(cell: Array, positions: Array) -> float:
    """Median of the atoms' distances to their nearest neighbours, which two atoms that are too close leave alone, length units."""
    return float(np.median(_nearest(cell, positions)[0][:, 1]))


def closest_pair(cell: Array, positions: Array) -> tuple[int, int, float]:
    """Indices of the two atoms closest to each other, images included, and their distance in length units."""
    distance, index = _nearest(cell, positions)
    first = int(distance[:, 1].argmin())
    return first, int(index[first, 1]) % len(positions), float(distance[first, 1])


def _nearest(cell: Array, positions: Array) -> tuple[Array, NDArray[np.int64]]:
    """Distance and index of each atom itself and of its nearest neighbour among all images, shape [N, 2] each."""
    images = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]) @ cell
    wrapped = positions - np.floor(positions @ np.linalg.inv(cell) + 1e-9) @ cell
    tree = cKDTree((wrapped[None] + images[:, None]).reshape(-1, 3))
    distance, index = tree.query(wrapped, k=2)
    return distance, index


def match_sites(cell: Array, sites: Array, positions: Array, tolerance: float) -> NDArray[np.int64]:
    """Index of the site nearest to each position in the periodic cell, -1 where none lies within `tolerance` (length units)."""
    inverse = np.linalg.inv(cell)
    # adding 1 before the second modulo keeps values of -1e-17 from becoming exactly 1, which cKDTree refuses
    tree = cKDTree(((sites @ inverse) % 1.0) % 1.0, boxsize=1.0)
    _, index = tree.query(((positions @ inverse) % 1.0) % 1.0)
    delta = (positions - sites[index]) @ inverse
    distance = np.linalg.norm((delta - np.round(delta)) @ cell, axis=1)
    return np.where(distance < tolerance, index, -1)


def find_unit_cell(structure: Structure, tolerance: float = _TOLERANCE) -> tuple[UnitCell, tuple[int, int, int]]:
    """Reduce a structure to the smallest cell along its own box vectors, and count how often it repeats.

    Args:
        structure: Atoms in a periodic cell.
        tolerance: Largest deviation of an atom from its image, in units of the nearest-neighbour distance.

    Raises:
        CrystalError: Two atoms lie on the same place.
    """
    length = nearest_distance(structure.cell, structure.positions)
    if length < 1e-6 * structure.volume ** (1 / 3):
        raise CrystalError(
            "expected atoms on distinct sites, got two atoms on the same place; check create_atoms or the data file"
        )
    positions = structure.positions - structure.origin
    counts = tuple(_repeats(structure, positions, axis, tolerance * length) for axis in range(3))
    cell = structure.cell / np.array(counts)[:, None]
    # noise adds up from image to image, while other sites are a whole `length` away
    basis, first = _fold(positions, cell, counts, 0.25 * length)
    bonds = _Bonds(structure.bond_centres - structure.origin, structure.bonds[:, 2]).folded(cell)
    unit = _describe(cell, basis, (structure.types[first], structure.kinds[first]), bonds, tolerance * length)
    return unit, (counts[0], counts[1], counts[2])


@dataclass(frozen=True)
class _Bonds:
    """Listed bonds, which symmetry must map onto bonds of their type.

    Attributes:
        centres: Middle of each, relative to the cell's corner, shape [m, 3].
        types: Type of each, shape [m].
    """

    centres: Array
    types: NDArray[np.int64]

    def folded(self, cell: Array) -> "_Bonds":
        """Those of one cell; of images that rounding keeps apart more than one may stay."""
        places = np.round(self.centres @ np.linalg.inv(cell) % 1.0, 3) % 1.0
        _, first = np.unique(np.column_stack([self.types, places]), axis=0, return_index=True)
        return _Bonds(self.centres[first], self.types[first])

    def kept_by(self, cell: Array, images: Array, tolerance: float) -> bool:
        """Whether bonds lie where an operation takes them: `images` [m, 3] of their centres, in a periodic cell."""
        for kind in np.unique(self.types):
            mine = self.types == kind
            if (match_sites(cell, self.centres[mine], images[mine], tolerance) < 0).any():
                return False
        return True


def _repeats(structure: Structure, positions: Array, axis: int, tolerance: float) -> int:
    """How many times the structure repeats along one of its box vectors."""
    n = structure.n_atoms
    bonds = _Bonds(structure.bond_centres - structure.origin, structure.bonds[:, 2])
    for count in range(n, 1, -1):
        if n % count:
            continue
        shift = structure.cell[axis] / count
        image = match_sites(structure.cell, positions, positions + shift, tolerance)
        if not ((image >= 0).all() and (structure.kinds[image] == structure.kinds).all() and len(set(image)) == n):
            continue
        if bonds.kept_by(structure.cell, bonds.centres + shift, tolerance):
            return count
    return 1


def _fold(positions: Array, cell: Array, counts: tuple[int, ...], tolerance: float) -> tuple[Array, NDArray[np.int64]]:
    """Average the images of each atom onto one cell, with the index of the first of them; atoms keep the order of their lowest id."""
    if counts == (1, 1, 1):
        return positions.copy(), np.arange(len(positions))
    first: list[int] = []
    left = np.ones(len(positions), dtype=bool)
    basis = []
    while left.any():
        lead = int(np.argmax(left))
        member = left & (match_sites(cell, positions[lead : lead + 1], positions, tolerance) == 0)
        delta = (positions[member] - positions[lead]) @ np.linalg.inv(cell)
        basis.append(positions[lead] + ((delta - np.round(delta)) @ cell).mean(0))
        first.append(lead)
        left &= ~member
    return np.array(basis), np.array(first)


def _describe(
    cell: Array, basis: Array, species: tuple[NDArray[np.int64], NDArray[np.int64]], bonds: _Bonds, tolerance: float
) -> UnitCell:
    """Ask spglib for the space group and the pure translations inside the cell; `species` are types and kinds of the basis."""
    n, inverse = len(basis), np.linalg.inv(cell)
    fractional = basis @ inverse
    # spglib compares with fixed numbers, and was made for lengths in Angstrom
    unit = natural_unit(nearest_distance(cell, basis))
    with warnings.catch_warnings():
        # spglib 2.8 warns at every call that a failure will one day raise instead of giving None
        warnings.simplefilter("ignore", DeprecationWarning)
        data = spglib.get_symmetry_dataset(
            ((cell / unit).tolist(), fractional.tolist(), species[1].tolist()), symprec=max(tolerance / unit, 1e-5)
        )
    if data is None:
        alone = np.arange(n)
        identity = np.eye(3, dtype=np.int64)[None], np.zeros((1, 3))
        return UnitCell(cell, basis, *species, alone, alone.copy(), np.ones((n, 3)), *identity, n, "P1 (1)")
    centres = bonds.centres @ inverse
    operations = zip(data.rotations, data.translations, strict=True)
    kept = np.array([bonds.kept_by(cell, (centres @ r.T + t) @ cell, 10 * tolerance) for r, t in operations])
    rotations, translations = data.rotations[kept].astype(np.int64), data.translations[kept]
    group = f"{data.international} ({data.number})" if kept.all() else _group_of(rotations, translations, cell, basis)
    site_class, orbit, signs, n_primitive = _equivalent(cell, basis, rotations, translations, 10 * tolerance)
    return UnitCell(cell, basis, *species, site_class, orbit, signs, rotations, translations, n_primitive, group)


def _group_of(rotations: NDArray[np.int64], translations: Array, cell: Array, basis: Array) -> str:
    """Symbol and number of the space group of some operations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lattice = cell / natural_unit(nearest_distance(cell, basis))
        group = spglib.get_spacegroup_type_from_symmetry(rotations, translations, lattice=lattice, symprec=1e-5)
    return f"{group.international_short} ({group.number})" if group is not None else "P1 (1)"


def _equivalent(
    cell: Array, basis: Array, rotations: NDArray[np.int64], translations: Array, tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array, int]:
    """Classes, orbits and signs of the sites under some operations, and the atoms of a primitive cell."""
    n = len(basis)
    reflections = _reflections(rotations, translations, cell)
    pure = np.array([shift for signs, shift in reflections if (signs == 1).all()])
    images = [match_sites(cell, basis, basis * signs + shift, tolerance) for signs, shift in reflections]
    site_class, orbit, turned = np.full(n, -1), np.full(n, -1), np.ones((n, 3))
    for site in range(n):
        if site_class[site] < 0:
            image = match_sites(cell, basis, basis[site] + pure, tolerance)
            site_class[image[image >= 0]] = site_class.max() + 1
        if orbit[site] < 0:
            number = orbit.max() + 1
            for (signs, _), image in zip(reflections, images, strict=True):
                if image[site] >= 0 and orbit[image[site]] < 0:
                    orbit[image[site]], turned[image[site]] = number, signs
    return site_class, orbit, turned, n // len(pure)


def _reflections(rotations: NDArray[np.int64], translations: Array, cell: Array) -> list[tuple[Array, Array]]:
    """Signs of the axes and shifts, length units, of the operations that keep or reverse each Cartesian axis; translations first."""
    turns = cell.T @ rotations @ np.linalg.inv(cell.T)
    signs = np.diagonal(turns, axis1=1, axis2=2)
    plain = np.abs(turns - signs[:, None] * np.eye(3)).max((1, 2)) < 1e-6
    found = [(np.rint(signs[i]), translations[i] @ cell) for i in np.flatnonzero(plain)]
    # those of equal signs together: then the sites of a class turn alike
    return sorted(found, key=lambda entry: tuple(-entry[0]))
