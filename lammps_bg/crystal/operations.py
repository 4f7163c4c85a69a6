# SPDX-License-Identifier: GPL-2.0-or-later
"""How the operations of the space group permute the sites of a supercell."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import match_sites
from lammps_bg.crystal.system import Crystal

_TRIED = 0.02  # size of the displacements on which operations are tried, in nearest-neighbour distances
_FELT, _CLEAR = (
    1e-3,
    0.1,
)  # change of forces that is a field and no noise, relative to the forces; and relative to that of the field itself
_RIGID = 2e-3  # change of a length or an angle by an operation that is still one of a cell with noise


@dataclass(frozen=True)
class SiteOperation:
    """An operation that maps the supercell onto itself: basis site b of cell R goes to basis site image[b] of another cell.

    Attributes:
        number: Which of the unit cell's operations it is.
        turn: Its rotation or reflection, Cartesian, on columns, shape [3, 3].
        image: Basis site that each basis site goes to, shape [n_basis].
        shifts: Cell that each basis site of cell 0 goes to, shape [n_basis, 3].
        cells: Cell that each site goes to, not taken modulo the replicate, shape [n_cells, n_basis, 3].
    """

    number: int
    turn: Array
    image: NDArray[np.int64]
    shifts: NDArray[np.int64]
    cells: NDArray[np.int64]


def site_operations(crystal: Crystal) -> list[SiteOperation]:
    """The operations of a crystal's space group that its supercell has, too."""
    unit, counts = crystal.unit, np.array(crystal.replicate)
    inverse = np.linalg.inv(unit.cell)
    found = []
    for number, (rotation, translation) in enumerate(zip(unit.rotations, unit.translations, strict=True)):
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
        found.append(SiteOperation(number, _orthogonal(turn), image, shifts, cells))
    return found


def kept_by_forces(forces: Callable[[Array], tuple[Array, Array]], crystal: Crystal) -> NDArray[np.bool_]:
    """Which operations of a crystal's space group leave its energy alone, shape [m]: a field can break what positions and types have.

    Where any is broken, those that the supercell does not have, and so cannot be tried on it, do not count as kept.

    Args:
        forces: Energies and forces of displacements [n, N, 3].
        crystal: The crystal at its replicate.
    """
    operations, n = site_operations(crystal), crystal.n_sites
    u = _TRIED * crystal.nearest_distance * np.random.default_rng(0).uniform(-1, 1, (n, 3))
    targets = [crystal.site_index(o.cells, np.broadcast_to(o.image, o.cells.shape[:-1])).ravel() for o in operations]
    tried = np.empty((1 + len(operations), n, 3))
    tried[0] = u
    for index, (operation, target) in enumerate(zip(operations, targets, strict=True), 1):
        tried[index, target] = u @ operation.turn.T
    first, *others = forces(tried)[1]
    changes = np.array([np.abs(f[t] - first @ o.turn.T).max() for o, t, f in zip(operations, targets, others, strict=True)])
    if changes.max() < _FELT * np.abs(first).max():
        return np.ones(len(crystal.unit.rotations), dtype=bool)
    kept = np.zeros(len(crystal.unit.rotations), dtype=bool)
    kept[[o.number for o in operations]] = changes < _CLEAR * changes.max()
    return kept


def _orthogonal(matrix: Array) -> Array:
    """The nearest orthogonal matrix: a cell with noise turns almost rigidly."""
    left, _, right = np.linalg.svd(matrix)
    return np.asarray(left @ right)
