# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference crystal: unit cell x replicate, its sites in grid order."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array, Structure
from lammps_bg.crystal.symmetry import UnitCell, find_unit_cell, match_sites, nearest_distance
from lammps_bg.errors import CrystalError

Counts = tuple[int, int, int]


@dataclass(frozen=True)
class Crystal:
    """A perfect crystal with every site known by cell and basis index.

    Sites are in grid order: site ((ix * ny + iy) * nz + iz) * n_basis + b is basis site b of cell (ix, iy, iz).

    Attributes:
        unit: The unit cell with its basis and symmetry.
        replicate: Number of unit cells along each cell vector.
        origin: Lower corner of the supercell, length units, shape [3].
        masses: Mass of each LAMMPS type.
        labels: Written name of each LAMMPS type.
        atom_ids: LAMMPS atom id on each site, shape [N].
    """

    unit: UnitCell
    replicate: Counts
    origin: Array
    masses: Array
    labels: tuple[str, ...]
    atom_ids: NDArray[np.int64]

    @classmethod
    def from_structure(cls, structure: Structure) -> "Crystal":
        """Recognise the unit cell and the replicate of a structure, and say which atom sits on which site."""
        unit, counts = find_unit_cell(structure)
        crystal = cls(unit, counts, structure.origin, structure.masses, structure.labels, np.empty(0, dtype=np.int64))
        return crystal.assigned(structure)

    def replicated(self, counts: Counts, structure: Structure) -> "Crystal":
        """This crystal repeated `counts` times, with the atom ids of `structure`, the same supercell as LAMMPS holds it."""
        (a, b, c), (x, y, z) = self.replicate, counts
        return replace(self, replicate=(a * x, b * y, c * z)).assigned(structure)

    def deformed(self, deformation: Array) -> "Crystal":
        """This crystal in another cell, its sites at the same fractional coordinates, with the same names for all of them.

        Args:
            deformation: D of cell = this cell @ D, lower triangular, shape [3, 3].
        """
        unit = replace(self.unit, cell=self.unit.cell @ deformation, basis=self.unit.basis @ deformation)
        if np.abs(np.tril(deformation, -1)).max() > 0:  # a sheared cell has lost the reflections
            unit = replace(unit, orbit=unit.site_class.copy(), signs=np.ones_like(unit.signs))
        return replace(self, unit=unit)

    def assigned(self, structure: Structure) -> "Crystal":
        """This crystal with atom ids taken from the atoms nearest to the sites.

        Raises:
            CrystalError: An atom lies off its site, or the atoms do not cover the sites.
        """
        tolerance = 0.05 * self.nearest_distance
        atom = match_sites(self.supercell, structure.positions - self.origin, self.sites - self.origin, tolerance)
        if len(structure.positions) != self.n_sites or (atom < 0).any() or len(set(atom)) != self.n_sites:
            raise CrystalError(
                f"expected one atom on each of the {self.n_sites} sites of the replicated unit cell, "
                f"got {structure.n_atoms} atoms of which {int((atom >= 0).sum())} sites found one; check the script's structure"
            )
        return replace(self, atom_ids=atom + 1)

    @property
    def n_basis(self) -> int:
        """Sites per unit cell."""
        return len(self.unit.basis)

    @property
    def n_cells(self) -> int:
        """Unit cells in the supercell."""
        return int(np.prod(self.replicate))

    @property
    def n_sites(self) -> int:
        """Number of atoms N."""
        return self.n_basis * self.n_cells

    @property
    def n_primitive(self) -> int:
        """Atoms per primitive cell."""
        return self.unit.n_primitive

    @cached_property
    def supercell(self) -> Array:
        """Supercell vectors as rows, shape [3, 3]."""
        return self.unit.cell * np.array(self.replicate)[:, None]

    @cached_property
    def cell_grid(self) -> NDArray[np.int64]:
        """Integer coordinates of every unit cell in grid order, shape [n_cells, 3]."""
        return np.stack(np.meshgrid(*map(np.arange, self.replicate), indexing="ij"), -1).reshape(-1, 3)

    @cached_property
    def sites(self) -> Array:
        """Cartesian positions of the sites, shape [N, 3]."""
        return (self.origin + self.cell_grid[:, None] @ self.unit.cell + self.unit.basis).reshape(-1, 3)

    @cached_property
    def basis_index(self) -> NDArray[np.int64]:
        """Basis index of every site, shape [N]."""
        return np.tile(np.arange(self.n_basis), self.n_cells)

    @property
    def site_class(self) -> NDArray[np.int64]:
        """Class of every site under the crystal's pure translations, shape [N]."""
        return self.unit.site_class[self.basis_index]

    @property
    def orbit(self) -> NDArray[np.int64]:
        """Orbit of every site under translations and reflections of the axes, shape [N]."""
        return self.unit.orbit[self.basis_index]

    @property
    def signs(self) -> Array:
        """How the axes turn from an orbit's first site to every site, 1 or -1, shape [N, 3]."""
        return self.unit.signs[self.basis_index]

    @property
    def types(self) -> NDArray[np.int64]:
        """LAMMPS type of every site, shape [N]."""
        return self.unit.types[self.basis_index]

    @property
    def kinds(self) -> NDArray[np.int64]:
        """Equal numbers mark sites whose atoms nothing tells apart: type, charge and the like, shape [N]."""
        return self.unit.kinds[self.basis_index]

    @property
    def species(self) -> list[str]:
        """Written name of every site's type."""
        return [self.labels[t - 1] for t in self.types]

    @property
    def volume(self) -> float:
        """Volume of the supercell, length units cubed."""
        return float(abs(np.linalg.det(self.supercell)))

    @cached_property
    def nearest_distance(self) -> float:
        """Shortest distance between two sites, length units."""
        return nearest_distance(self.unit.cell, self.unit.basis)

    def sites_in(self, cell: Array) -> Array:
        """The sites scaled into another cell of the supercell, Cartesian, shape [N, 3].

        Args:
            cell: Cell vectors as rows, with the lower corner where it is, shape [3, 3], length units.
        """
        return np.asarray(self.origin + (self.sites - self.origin) @ np.linalg.inv(self.supercell) @ cell)

    def displacements(self, positions: Array, cell: Array | None = None) -> Array:
        """Displacements from the sites without their mean: how far the atoms are from a lattice that moves along, shape [..., N, 3].

        Args:
            positions: Cartesian, in site order, any image of the whole crystal or of single atoms, shape [..., N, 3], length units.
            cell: Cell of these positions as rows; None for the supercell.
        """
        box = self.supercell if cell is None else cell
        moved = positions - self.sites_in(box)
        # relative to one atom the crystal's own drift is gone, and what is left is far shorter than half the cell
        moved = moved - moved[..., :1, :]
        moved = moved - np.rint(moved @ np.linalg.inv(box)) @ box
        return np.asarray(moved - moved.mean(-2, keepdims=True))

    def site_index(self, cells: NDArray[np.int64], basis: NDArray[np.int64]) -> NDArray[np.int64]:
        """Site index of (cell coordinates [..., 3], basis index [...]), cells taken modulo the replicate."""
        x, y, z = np.moveaxis(cells % np.array(self.replicate), -1, 0)
        return ((x * self.replicate[1] + y) * self.replicate[2] + z) * self.n_basis + basis
