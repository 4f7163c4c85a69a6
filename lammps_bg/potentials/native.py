# SPDX-License-Identifier: GPL-2.0-or-later
"""Energies and forces of batches of displacements by a potential in torch, with LAMMPS for what its pair table cannot hold."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.potentials.pair_table import PairTable
from lammps_bg.potentials.recognise import Potential

Indices = NDArray[np.intp]
_PAIRS_AT_ONCE = 1 << 19  # separations held at a time: about 100 MB with all that is made from them
_SKIN = 0.35  # first skin, in nearest-neighbour distances
_GROWTH, _MOST_SKIN = 1.4, 2.0  # the skin grows while many leave it, up to so many nearest-neighbour distances
_MANY_OUTSIDE = 0.1


class ExactSurface(Protocol):
    """Energies and forces of displacements, shapes [n] and [n, N, 3]."""

    static_energy: float

    def __call__(self, displacements: Array) -> tuple[Array, Array]: ...  # noqa: D102
    def energies(self, displacements: Array) -> Array: ...  # noqa: D102


class NativeSurface:
    """Energies and forces of displacements from the sites of a crystal, in float64 whatever the device.

    A configuration in which two atoms may have moved against each other by more than the skin goes to the other surface.

    Attributes:
        static_energy: Energy of the undisplaced crystal, energy units.
        n_evaluations: Configurations evaluated here.
        n_outside: Configurations that went to the other surface.

    Args:
        potential: The potential.
        crystal: The reference crystal.
        other: A surface that is right for any configuration: LAMMPS.
        device: Where to compute.
    """

    def __init__(self, potential: Potential, crystal: Crystal, other: ExactSurface, device: torch.device | str = "cpu") -> None:
        self.potential, self.crystal, self.other, self.device = potential, crystal, other, torch.device(device)
        self.n_evaluations = self.n_outside = 0
        self._types = torch.from_numpy(crystal.types - 1).to(device)
        self._use_skin(_SKIN * crystal.nearest_distance)
        self.static_energy = float(self.energies(np.zeros((1, crystal.n_sites, 3)))[0])

    def _use_skin(self, skin: float) -> None:
        self.table = PairTable.from_crystal(self.crystal, self.potential.cutoff, skin, self.device)
        self._far_types = self._types[self.table.neighbours]

    def __call__(self, displacements: Array) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3]; +inf and nan where there is no finite energy."""
        displacements = np.asarray(displacements, dtype=np.float64)
        energies, forces = np.full(len(displacements), np.inf), np.full(displacements.shape, np.nan)
        inside, outside = self._sorted(displacements)
        for piece in self._pieces(inside):
            e, gradient, _ = self._evaluate(displacements[piece])
            energies[piece], forces[piece] = e.cpu().numpy(), self.table.forces(gradient).cpu().numpy()
        if len(outside):
            energies[outside], forces[outside] = self.other(displacements[outside])
        bad = ~(np.isfinite(energies) & np.isfinite(forces).all((1, 2)))
        energies[bad], forces[bad] = np.inf, np.nan
        return energies, forces

    def energies(self, displacements: Array) -> Array:
        """Energies [n] of displacements [n, N, 3]; +inf where there is no finite energy."""
        displacements = np.asarray(displacements, dtype=np.float64)
        energies = np.full(len(displacements), np.inf)
        inside, outside = self._sorted(displacements)
        for piece in self._pieces(inside):
            energies[piece] = self._evaluate(displacements[piece])[0].cpu().numpy()
        if len(outside):
            energies[outside] = self.other.energies(displacements[outside])
        return np.where(np.isfinite(energies), energies, np.inf)

    def virials(self, displacements: Array) -> Array:
        """Virials sum r f, shape [n, 3, 3], energy units, of displacements [n, N, 3] that stay within the skin; nan elsewhere."""
        displacements = np.asarray(displacements, dtype=np.float64)
        virials = np.full((len(displacements), 3, 3), np.nan)
        for piece in self._pieces(self._sorted(displacements)[0]):
            _, gradient, separations = self._evaluate(displacements[piece])
            virials[piece] = -torch.einsum("nijk,nijl->nkl", separations, gradient).cpu().numpy()
        return virials

    def _evaluate(self, displacements: Array) -> tuple[Tensor, Tensor, Tensor]:
        """Energies [n], their gradient by the separations, and the separations, both [n, N, K, 3]."""
        self.n_evaluations += len(displacements)
        separations = self.table.separations(torch.from_numpy(displacements).to(self.device))
        energies, gradient = self.potential.gradient(separations, self._types, self._far_types)
        return energies, gradient, separations

    def _sorted(self, displacements: Array) -> tuple[Indices, Indices]:
        """Indices of the configurations that the pair table holds, and of the finite ones that it does not."""
        finite = np.isfinite(displacements).all((1, 2))
        centred = displacements - displacements.mean(1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):
            reach = 2 * np.sqrt(np.square(centred).sum(-1).max(1, initial=0.0))  # no two atoms move farther against each other
            outside = ~(reach < self.table.skin)
        if finite.any() and (outside & finite).mean() > _MANY_OUTSIDE and self._can_grow():
            self._use_skin(_GROWTH * self.table.skin)
            return self._sorted(displacements)
        self.n_outside += int((outside & finite).sum())
        return np.flatnonzero(finite & ~outside), np.flatnonzero(finite & outside)

    def _can_grow(self) -> bool:
        return self.table.skin * _GROWTH <= _MOST_SKIN * self.crystal.nearest_distance

    def _pieces(self, indices: Indices) -> list[Indices]:
        """Indices in pieces whose separations fit into memory."""
        size = max(1, _PAIRS_AT_ONCE // self.table.neighbours.numel())
        return [indices[at : at + size] for at in range(0, len(indices), size)]
