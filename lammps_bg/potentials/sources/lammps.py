# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS' energies and forces as functions of displacements from the sites, in the order of the sites."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import closest_pair
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.potentials.surface import Batched, EnergySurface

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
NEEDS = "any script"
Order = slice | NDArray[np.int64]
_MANY = 0.01  # share of a batch without finite energy that is worth a warning


class LammpsSurface:
    """Energies and forces of displacements from the sites of a crystal, by LAMMPS: right for any configuration.

    Several surfaces may share one LAMMPS instance: each brings it to its own cell and parameters before it uses it.

    Attributes:
        engine: The LAMMPS instance that evaluates them.
        crystal: The reference crystal, with the atom ids of that instance, in the cell of this surface.
        parameters: Values of the potential's parameters on this surface, those that differ from the script's.
        static_energy: Energy of the undisplaced crystal, energy units.
        static_forces: Forces on the undisplaced sites, shape [N, 3].
    """

    def __init__(self, engine: Engine, crystal: Crystal, parameters: Mapping[str, float] | None = None) -> None:
        self.engine, self.crystal, self.parameters = engine, crystal, dict(parameters or {})
        in_order = np.array_equal(crystal.atom_ids, np.arange(1, crystal.n_sites + 1))
        self._site_of_atom: Order = slice(None) if in_order else np.argsort(crystal.atom_ids)
        self._atom_of_site: Order = slice(None) if in_order else crystal.atom_ids - 1
        self._warned = False
        energies, forces = self(np.zeros((1, crystal.n_sites, 3)))
        self.static_energy, self.static_forces = float(energies[0]), forces[0]

    def enter(self) -> None:
        """Bring the LAMMPS instance to this surface's cell and parameters; nothing to do where it is there already."""
        self.engine.set_parameters(self.parameters)
        if not np.array_equal(self.engine.cell, self.crystal.supercell):
            self.engine.set_cell(self.crystal.supercell)

    def __call__(self, displacements: Array) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3]; +inf and nan where LAMMPS gives no finite energy."""
        self.enter()
        energies, forces = self.engine.energies_forces(*self._by_id(displacements))
        self._warn_of_infinite(energies, displacements)
        return energies, forces[:, self._atom_of_site]

    def energies(self, displacements: Array) -> Array:
        """Energies [n] of displacements [n, N, 3]; +inf where LAMMPS gives no finite energy."""
        self.enter()
        energies = self.engine.energies(*self._by_id(displacements))
        self._warn_of_infinite(energies, displacements)
        return energies

    def in_cells(self, displacements: Array, deformations: Array) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3], each from the sites in a cell of its own; +inf and nan as above."""
        cells = self.crystal.supercell @ deformations
        self.engine.set_parameters(self.parameters)
        energies, forces = np.empty(len(displacements)), np.empty(np.shape(displacements))
        for index, (u, cell) in enumerate(zip(displacements, cells, strict=True)):
            self.engine.set_cell(cell)
            sites = self.crystal.sites_in(cell)[self._site_of_atom]
            energies[index : index + 1], of_atoms = self.engine.energies_forces(u[None, self._site_of_atom], sites)
            forces[index] = of_atoms[0, self._atom_of_site]
        self._warn_of_infinite(energies, displacements)
        return energies, forces

    def in_state(self, crystal: Crystal, parameters: Mapping[str, float]) -> "LammpsSurface":
        """Another state on the same LAMMPS instance.

        Args:
            crystal: The same crystal in its cell there.
            parameters: New values of the potential's parameters, by name; the others stay.

        Raises:
            PotentialError: LAMMPS refuses a value.
        """
        return LammpsSurface(self.engine, crystal, {**self.parameters, **parameters})

    def at(self, reference: "LammpsSurface") -> "LammpsSurface":
        """That surface: it has the state already."""
        return reference

    def batched(self, corners: Iterable[EnergySurface]) -> Batched | None:
        """None: LAMMPS has one cell and one potential at a time."""
        return None

    def cost(self) -> dict[str, int]:
        """Nothing beside its evaluations."""
        return {}

    def close(self) -> None:
        """Free the LAMMPS instance."""
        self.engine.close()

    def settle(self, displacements: Array) -> None:
        """Prepare LAMMPS for displacements like these [n, N, 3], in the same way whatever it has evaluated before."""
        self.enter()
        self.engine.keep_neighbour_skin(*self._by_id(displacements))

    def virial_pressures(self, displacements: Array) -> Array:
        """Configurational pressures [n] of displacements [n, N, 3], pressure units, without the kinetic part; nan where there is none."""
        self.enter()
        return self.engine.virial_pressure(*self._by_id(displacements))

    def _by_id(self, displacements: Array) -> tuple[Array, Array]:
        """Displacements and the sites that they count from, in the order of LAMMPS' ids."""
        return displacements[:, self._site_of_atom], self.crystal.sites[self._site_of_atom]

    def positions(self, displacements: Array) -> Array:
        """Cartesian positions, not wrapped, shape [n, N, 3]."""
        return self.crystal.sites + np.asarray(displacements, dtype=np.float64)

    def _warn_of_infinite(self, energies: Array, displacements: Array) -> None:
        """Say once that more than one in a hundred configurations of a batch has no finite energy, and which atoms are too close."""
        bad = np.flatnonzero(~np.isfinite(energies))
        if self._warned or len(bad) <= _MANY * len(energies):
            return
        self._warned = True
        positions = self.positions(displacements[bad[0]])
        where = "its coordinates are not finite"
        if np.isfinite(positions).all():
            first, second, distance = closest_pair(self.crystal.supercell, positions - self.crystal.origin)
            ids = self.crystal.atom_ids
            where = (
                f"its closest atoms are {ids[first]} and {ids[second]}, {distance:.3g} {self.engine.units.labels.length} apart"
            )
        log.warning(
            "%d of %d configurations have no finite energy and get weight zero; in one of them, %s",
            len(bad),
            len(energies),
            where,
        )

    @property
    def n_evaluations(self) -> int:
        """Configurations evaluated so far."""
        return self.engine.n_evaluations

    @property
    def files(self) -> list[Path]:
        """Script, includes and potential files."""
        return [*self.engine.script_files, *self.engine.potential_files]


def surface(reference: LammpsSurface, device: "torch.device | str") -> LammpsSurface:
    """LAMMPS itself.

    Args:
        reference: LAMMPS, with the script.
        device: Of no account.
    """
    return reference
