# SPDX-License-Identifier: GPL-2.0-or-later
"""In how many directions a structure hangs together: a crystal in three, a slab in two, a wire in one, a molecule in none."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from lammps_bg.crystal.scale import periodic_pairs
from lammps_bg.crystal.structure import Array

PIECES = ("a molecule or cluster", "a wire or chain", "a slab or sheet", "a crystal")
"""What hangs together in 0, 1, 2 and 3 directions."""


@dataclass(frozen=True)
class Connection:
    """The piece of a structure that leads on in most directions.

    Attributes:
        directions: How many independent ones, 0 to 3.
        thickness: Extent of a slab across its plane, length units; not a number for anything else.
    """

    directions: int
    thickness: float


def connection(cell: Array, positions: Array, reach: float) -> Connection:
    """What atoms no further apart than `reach` make of a periodic structure.

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
    best = Connection(0, math.nan)
    for number in np.unique(piece[first]):
        found = np.unique(loops[piece[first] == number], axis=0)
        directions = int(np.linalg.matrix_rank(found))
        if directions > best.directions:
            mine = piece == number
            unwrapped = positions[mine] + cells[mine] @ cell
            best = Connection(directions, _thickness(found @ cell, unwrapped) if directions == 2 else math.nan)
    return best


def _thickness(vectors: Array, positions: Array) -> float:
    """Extent of positions across the plane that vectors span."""
    normal = np.linalg.svd(vectors)[2][2]
    return float(np.ptp(positions @ normal))


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
