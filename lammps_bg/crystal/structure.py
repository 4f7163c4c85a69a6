# SPDX-License-Identifier: GPL-2.0-or-later
"""A structure as LAMMPS holds it: cell, positions, types."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """Atoms in a periodic cell, ordered by atom id.

    Attributes:
        cell: Cell vectors as rows, restricted triclinic (lower triangular) as in LAMMPS, shape [3, 3], length units.
        origin: Lower corner of the cell (xlo, ylo, zlo), shape [3].
        positions: Cartesian positions inside the cell, shape [N, 3].
        types: LAMMPS atom types, 1-based, shape [N].
        masses: Mass of each type, shape [n_types].
        labels: Written name of each type (element symbol where known, else `X1`, `X2`, ...).
    """

    cell: Array
    origin: Array
    positions: Array
    types: NDArray[np.int64]
    masses: Array
    labels: tuple[str, ...]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.positions)

    @property
    def volume(self) -> float:
        """Volume of the cell, length units cubed."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def fractional(self) -> Array:
        """Positions in units of the cell vectors, not wrapped, shape [N, 3]."""
        return np.asarray(np.linalg.solve(self.cell.T, (self.positions - self.origin).T).T, dtype=np.float64)
