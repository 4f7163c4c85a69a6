# SPDX-License-Identifier: GPL-2.0-or-later
"""In how many directions a structure hangs together: a crystal in three, a slab in two, a wire in one, a molecule in none."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from lammps_bg.crystal.scale import periodic_pairs
from lammps_bg.crystal.structure import Array

PIECES = ("a molecule or cluster", "a wire or chain", "a slab or sheet", "a crystal")
"""What hangs together in 0, 1, 2 and 3 directions."""


def connected_directions(cell: Array, positions: Array, reach: float) -> int:
    """Independent directions in which atoms no further apart than `reach` lead on for ever, of the piece that has most.

    Args:
        cell: Cell vectors as rows, shape [3, 3], length units.
        positions: Cartesian positions, shape [N, 3], length units.
        reach: Longest step from atom to atom, length units.
    """
    first, second, images = periodic_pairs("ijS", cell, positions, reach)
    n = len(positions)
    joined = coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n)).tocsr()
    count, piece = connected_components(joined, directed=False)
    cells = _cells(joined, first, second, images, piece, count)
    # where a walk around a loop ends in another cell than it began in
    loops = images + cells[first] - cells[second]
    ranks = [np.linalg.matrix_rank(np.unique(loops[piece[first] == number], axis=0)) for number in np.unique(piece[first])]
    return int(max(ranks, default=0))


def _cells(
    joined: coo_matrix, first: Array, second: Array, images: Array, piece: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Cell of each atom's image that is reached from the first atom of its piece without leaving the piece, shape [N, 3]."""
    cells = np.zeros((len(piece), 3), dtype=np.int64)
    step = {(a, b): image for a, b, image in zip(first.tolist(), second.tolist(), images, strict=True)}
    for number in range(count):
        order, before = breadth_first_order(joined, int(np.argmax(piece == number)), directed=False)
        for atom in order[1:].tolist():
            cells[atom] = cells[before[atom]] + step[int(before[atom]), atom]
    return cells


def flat(cell: Array, positions: Array, tolerance: float) -> bool:
    """Whether all atoms lie in one layer that is thinner than `tolerance` along a face of the cell (length units)."""
    normals = np.linalg.inv(cell)
    heights = 1.0 / np.linalg.norm(normals, axis=0)
    fractional = np.sort(positions @ normals % 1.0 % 1.0, axis=0)
    gaps = np.diff(fractional, axis=0, append=fractional[:1] + 1.0).max(0)
    return bool(((1.0 - gaps) * heights < tolerance).any())
