# SPDX-License-Identifier: GPL-2.0-or-later
"""A structure as LAMMPS holds it: cell, positions, types."""

from dataclasses import dataclass, field

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
        sorts: Equal numbers mark atoms that no property tells apart, their type included, shape [N]; None: the types alone.
        bonds: Indices of two atoms and type of each listed bond, shape [m, 3].
    """

    cell: Array
    origin: Array
    positions: Array
    types: NDArray[np.int64]
    masses: Array
    labels: tuple[str, ...]
    sorts: NDArray[np.int64] | None = None
    bonds: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 3), dtype=np.int64))

    @property
    def kinds(self) -> NDArray[np.int64]:
        """What symmetry compares: `sorts`, or the types where these say it all, shape [N]."""
        return self.types if self.sorts is None else self.sorts

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

    @property
    def bond_centres(self) -> Array:
        """Middle of each listed bond, between nearest images, Cartesian, shape [m, 3]."""
        first, second = self.bonds[:, 0], self.bonds[:, 1]
        delta = self.positions[second] - self.positions[first]
        delta = delta - np.round(delta @ np.linalg.inv(self.cell)) @ self.cell
        return np.asarray(self.positions[first] + 0.5 * delta, dtype=np.float64)


def told_apart(types: NDArray[np.int64], properties: list[Array], tolerance: float = 1e-4) -> NDArray[np.int64] | None:
    """Numbers for atoms that differ in type or in a property; None where the types say it all.

    Args:
        types: LAMMPS type of each atom, shape [N].
        properties: Numbers of each atom, such as its charge, shape [N] each.
        tolerance: Difference that is noise, as a share of the property's largest value.
    """
    columns = [types]
    for values in properties:
        order = np.argsort(values, kind="stable")
        step = np.diff(values[order], prepend=values[order][:1]) > tolerance * np.abs(values).max()
        group = np.empty(len(values), dtype=np.int64)
        group[order] = np.cumsum(step)
        columns.append(group)
    _, sorts = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    sorts = sorts.reshape(-1).astype(np.int64) + 1
    return None if len(np.unique(sorts)) == len(np.unique(types)) else sorts
