# SPDX-License-Identifier: GPL-2.0-or-later
"""How the operations of the space group permute the sites of a supercell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import match_sites
from lammps_bg.crystal.system import Crystal

_RIGID = 2e-3  # change of a length or an angle by an operation that is still one of a cell with noise


@dataclass(frozen=True)
class SiteOperation:
    """An operation that maps the supercell onto itself: basis site b of cell R goes to basis site image[b] of another cell.

    Attributes:
        turn: Its rotation or reflection, Cartesian, on columns, shape [3, 3].
        image: Basis site that each basis site goes to, shape [n_basis].
        shifts: Cell that each basis site of cell 0 goes to, shape [n_basis, 3].
        cells: Cell that each site goes to, not taken modulo the replicate, shape [n_cells, n_basis, 3].
    """

    turn: Array
    image: NDArray[np.int64]
    shifts: NDArray[np.int64]
    cells: NDArray[np.int64]


def site_operations(crystal: Crystal) -> list[SiteOperation]:
    """The operations of a crystal's space group that its supercell has, too.

    Args:
        crystal: The crystal at its replicate.
    """
    unit, counts = crystal.unit, np.array(crystal.replicate)
    inverse = np.linalg.inv(unit.cell)
    found = []
    for rotation, translation in zip(unit.rotations, unit.translations, strict=True):
        if (rotation * counts % counts[:, None]).any():
            continue  # an edge of the supercell would not end on a lattice vector of it
        turn = unit.cell.T @ rotation @ inverse.T
        if np.abs(turn.T @ turn - np.eye(3)).max() > _RIGID:
            continue  # the cell has been deformed, and has lost this symmetry
        turned = (unit.basis @ inverse) @ rotation.T + translation
        image = match_sites(unit.cell, unit.basis, turned @ unit.cell, 0.05 * crystal.nearest_distance)
        if (image < 0).any():
            continue
        shifts = np.rint(turned - (unit.basis @ inverse)[image]).astype(np.int64)
        cells = (crystal.cell_grid @ rotation.T)[:, None] + shifts
        found.append(SiteOperation(_orthogonal(turn), image, shifts, cells))
    return found


def _orthogonal(matrix: Array) -> Array:
    """The nearest orthogonal matrix: a cell with noise turns almost rigidly."""
    left, _, right = np.linalg.svd(matrix)
    return np.asarray(left @ right)
