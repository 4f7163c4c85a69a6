# SPDX-License-Identifier: GPL-2.0-or-later
"""Energies and forces of batches of displacements by a potential in torch, with LAMMPS for what its pair table cannot hold."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.errors import PotentialError
from lammps_bg.potentials.pair_styles import PairPotential, recognised, styles, with_members
from lammps_bg.potentials.pair_table import PairTable
from lammps_bg.potentials.sources.lammps import LammpsSurface
from lammps_bg.potentials.surface import Batched, EnergiesForces, EnergyFunction, EnergySurface

log = logging.getLogger(__name__)
NEEDS = f"pair_style {' or '.join(styles())} with nothing added"
Indices = NDArray[np.intp]
Members = NDArray[np.int64]
_PAIRS_AT_ONCE = 1 << 19  # separations held at a time: about 100 MB with all that is made from them
_SKIN = 0.35  # first skin, in nearest-neighbour distances
_GROWTH, _MOST_SKIN = 1.4, 2.0  # the skin grows while many leave it, up to so many nearest-neighbour distances
_MANY_OUTSIDE = 0.1


class _Evaluated(NamedTuple):
    """Some configurations of a batch: their energies [n], the gradient by the separations and the separations [n, N, K, 3]."""

    indices: Indices
    table: PairTable
    energies: Tensor
    gradient: Tensor
    separations: Tensor


@dataclass
class Counts:
    """What was evaluated.

    Attributes:
        evaluated: Configurations evaluated in torch.
        outside: Of those asked for, the ones that left the skin.
    """

    evaluated: int = 0
    outside: int = 0


@dataclass(frozen=True)
class _Batch:
    """Displacements with the cell and the potential of each configuration."""

    displacements: Array
    deformation: Array | None
    member: Members | None

    @property
    def is_reference(self) -> bool:
        """Whether all are in the reference cell, with the one potential there is: only those does LAMMPS in this state know."""
        return self.deformation is None and self.member is None

    @classmethod
    def of(cls, displacements: Array, deformation: Array | None, member: Members | None) -> "_Batch":
        """A batch with shapes that fit together."""
        u = np.asarray(displacements, dtype=np.float64)
        cells = None if deformation is None else np.asarray(deformation, dtype=np.float64)
        members = None if member is None else np.asarray(member, dtype=np.int64)
        if (cells is not None and cells.shape != (len(u), 3, 3)) or (members is not None and members.shape != (len(u),)):
            raise ValueError(f"expected a matrix and a member for each of {len(u)} configurations, got other shapes")
        return cls(u, cells, members)

    def tensors(self, at: Indices, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Displacements, deformations and members of some."""

        def of(values: Array | Members | None) -> Tensor | None:
            return None if values is None else torch.from_numpy(values[at]).to(device)

        return torch.from_numpy(self.displacements[at]).to(device), of(self.deformation), of(self.member)


class TorchSurface:
    """Energies and forces of displacements from the sites of a crystal, in float64 whatever the device.

    Each configuration may have a cell of its own: D deforms the vectors v of the ideal crystal to v D, and displacements are
    relative to the sites in that cell. Of a potential with members, each may have a member of its own.

    A configuration in which two atoms may have come closer by more than the skin goes to LAMMPS, if it is one of the crystal in the cell
    of this state; if not, a table with a wider skin evaluates it. Beyond that one it has no energy: its atoms are several sites away from
    their own.

    Attributes:
        static_energy: Energy of the undisplaced crystal in the reference cell, by the first member, energy units.
        counts: What was evaluated, which the surfaces of one crystal in several states share.

    Args:
        potential: The potential.
        crystal: The reference crystal.
        units: The script's units.
        reference: LAMMPS in the same state; None where nothing leaves the skin or the widest table will do.
        device: Where to compute.
        counts: Where to count; None: a count of its own.
    """

    def __init__(
        self,
        potential: PairPotential,
        crystal: Crystal,
        units: Units,
        reference: LammpsSurface | None = None,
        *,
        device: torch.device | str = "cpu",
        counts: Counts | None = None,
    ) -> None:
        self.potential, self.crystal, self.units, self.reference = potential, crystal, units, reference
        self.device, self.counts, self._cutoff = torch.device(device), counts or Counts(), potential.cutoff
        self._types = torch.from_numpy(crystal.types - 1).to(device)
        self._wide: PairTable | None = None
        self._told = False
        self.table = self._table(_SKIN * crystal.nearest_distance)
        first = np.zeros(1, dtype=np.int64) if potential.has_members else None
        self.static_energy = float(self.energies(np.zeros((1, crystal.n_sites, 3)), member=first)[0])

    @property
    def n_evaluations(self) -> int:
        """Configurations evaluated in torch, other states included."""
        return self.counts.evaluated

    def cost(self) -> dict[str, int]:
        """How many configurations were evaluated in torch, and how many left the skin."""
        return {"native_evaluations": self.counts.evaluated, "outside_the_skin": self.counts.outside}

    def close(self) -> None:
        """Free the LAMMPS instance beside it."""
        if self.reference is not None:
            self.reference.close()

    # ---- other states

    def at(self, reference: LammpsSurface) -> "TorchSurface":
        """The same potential in the state of a surface of LAMMPS, whose parameters are read from it."""
        known = recognised(reference.engine.pair, self.units.name)
        if known is None:
            raise PotentialError(
                f"expected the potential in torch at {reference.parameters}, got one that only LAMMPS has; use energy.source=lammps"
            )
        return TorchSurface(known, reference.crystal, self.units, reference, device=self.device, counts=self.counts)

    def batched(self, corners: Iterable[EnergySurface]) -> Batched:
        """One call for configurations of several states: each in its cell, with its parameters."""
        # a table that holds every pair within the longest cutoff of all
        potential = with_members([_torch(corner).potential for corner in corners])
        shared = TorchSurface(potential, self.crystal, self.units, device=self.device, counts=self.counts)
        cell = self.crystal.unit.cell

        def together(states: Sequence[EnergyFunction], counts: Sequence[int]) -> EnergiesForces:
            potential = with_members([_torch(state).potential for state in states])
            deformations = [np.linalg.solve(cell, _torch(state).crystal.unit.cell) for state in states]
            deformation, member = np.repeat(deformations, counts, axis=0), np.repeat(np.arange(len(counts)), counts)

            def energies_forces(displacements: Array) -> tuple[Array, Array]:
                shared.potential = potential
                return shared(displacements, deformation, member)

            return energies_forces

        return together

    def in_cells(self, displacements: Array, deformations: Array) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3], each from the sites in a cell of its own."""
        return self(displacements, deformations)

    # ---- evaluation

    def _table(self, skin: float) -> PairTable:
        return PairTable.from_crystal(self.crystal, self._cutoff, skin, self.device)

    def __call__(
        self, displacements: Array, deformation: Array | None = None, member: Members | None = None
    ) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3]; +inf and nan where there is no finite energy.

        Args:
            displacements: Shape [n, N, 3], length units.
            deformation: Of each configuration, the matrix D of its cell, shape [n, 3, 3].
            member: Of each configuration, its member of the potential, shape [n].
        """
        batch = _Batch.of(displacements, deformation, member)
        energies, forces = np.full(len(displacements), np.inf), np.full(np.shape(displacements), np.nan)
        groups, outside = self._sorted(batch)
        for at, table, e, gradient, _ in self._evaluate(batch, groups):
            energies[at], forces[at] = e.cpu().numpy(), table.forces(gradient).cpu().numpy()
        if len(outside) and self.reference is not None:
            energies[outside], forces[outside] = self.reference(batch.displacements[outside])
        bad = ~(np.isfinite(energies) & np.isfinite(forces).all((1, 2)))
        energies[bad], forces[bad] = np.inf, np.nan
        return energies, forces

    def energies(self, displacements: Array, deformation: Array | None = None, member: Members | None = None) -> Array:
        """Energies [n]; +inf where there is no finite energy; arguments as of a call."""
        batch = _Batch.of(displacements, deformation, member)
        energies = np.full(len(displacements), np.inf)
        groups, outside = self._sorted(batch)
        for found in self._evaluate(batch, groups):
            energies[found.indices] = found.energies.cpu().numpy()
        if len(outside) and self.reference is not None:
            energies[outside] = self.reference.energies(batch.displacements[outside])
        return np.where(np.isfinite(energies), energies, np.inf)

    def virial_pressures(self, displacements: Array, deformation: Array | None = None, member: Members | None = None) -> Array:
        """Pressures [n] sum r f / 3V, pressure units; nan where there is none; arguments as of a call."""
        batch = _Batch.of(displacements, deformation, member)
        volume = self.crystal.volume * (1.0 if deformation is None else np.abs(np.linalg.det(deformation)))
        traces = np.full(len(displacements), np.nan)
        groups, outside = self._sorted(batch)
        for found in self._evaluate(batch, groups):
            traces[found.indices] = -torch.einsum("nijk,nijk->n", found.separations, found.gradient).cpu().numpy()
        pressures = np.asarray(traces / (3 * volume) * self.units.nktv2p)
        if len(outside) and self.reference is not None:
            pressures[outside] = self.reference.virial_pressures(batch.displacements[outside])
        return np.where(np.isfinite(pressures), pressures, np.nan)

    def _evaluate(self, batch: _Batch, groups: list[tuple[PairTable, Indices]]) -> Iterator[_Evaluated]:
        """Evaluate what the tables hold, in pieces whose separations fit into memory."""
        for table, indices in groups:
            far_types = self._types[table.neighbours]
            size = max(1, _PAIRS_AT_ONCE // table.neighbours.numel())
            for at in (indices[start : start + size] for start in range(0, len(indices), size)):
                self.counts.evaluated += len(at)
                u, deformation, member = batch.tensors(at, self.device)
                separations = table.separations(u, deformation)
                energies, gradient = self.potential.gradient(separations, self._types, far_types, member)
                yield _Evaluated(at, table, energies, gradient, separations)

    # ---- which table holds a configuration

    def _sorted(self, batch: _Batch) -> tuple[list[tuple[PairTable, Indices]], Indices]:
        """Pair tables with the indices of the configurations they hold, and the finite ones that are for the other surface."""
        needed = self._needed_skin(batch)
        finite = np.isfinite(needed)
        outside = finite & ~(needed < self.table.skin)
        if outside.any() and outside.mean() > _MANY_OUTSIDE and self._can_grow():
            self.table = self._table(_GROWTH * self.table.skin)
            return self._sorted(batch)
        self.counts.outside += int(outside.sum())
        groups = [(self.table, np.flatnonzero(finite & ~outside))]
        if not outside.any() or (batch.is_reference and self.reference is not None):
            return groups, np.flatnonzero(outside)
        return [*groups, self._held_widely(needed, outside)], np.empty(0, dtype=np.intp)

    def _held_widely(self, needed: Array, outside: NDArray[np.bool_]) -> tuple[PairTable, Indices]:
        """The table with the widest skin, and which of the others it holds."""
        self._wide = self._wide or self._table(_MOST_SKIN * self.crystal.nearest_distance)
        held = outside & (needed < self._wide.skin)
        if lost := int((outside & ~held).sum()):
            level = logging.DEBUG if self._told else logging.WARNING
            sentence = "%d of %d configurations have atoms several sites away from their own, and count as infinite"
            log.log(level, sentence, lost, len(held))
            self._told = True
        return self._wide, np.flatnonzero(held)

    def _needed_skin(self, batch: _Batch) -> Array:
        """Skin that holds each configuration, shape [n]; nan where it is not finite.

        With the largest displacement d off the mean, and s the smallest factor by which D changes a length, two atoms that are R
        apart in the ideal crystal keep a distance of s R - 2 d at least. R = cutoff + skin must not fall below the cutoff.
        """
        u, cutoff = batch.displacements, self.potential.cutoff
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            centred = u - u.mean(1, keepdims=True)
            reach = 2 * np.sqrt(np.square(centred).sum(-1).max(1, initial=0.0))
            if batch.deformation is not None:
                reach = (cutoff + reach) / _smallest_stretch(batch.deformation) - cutoff
        return np.where(np.isfinite(u).all((1, 2)), reach, np.nan)

    def _can_grow(self) -> bool:
        return self.table.skin * _GROWTH <= _MOST_SKIN * self.crystal.nearest_distance


def _smallest_stretch(deformation: Array) -> Array:
    """Smallest factor by which each matrix changes a length, shape [n]; nan for a matrix that is not finite."""
    finite = np.isfinite(deformation).all((1, 2))
    stretch = np.full(len(deformation), np.nan)
    stretch[finite] = np.linalg.svd(deformation[finite], compute_uv=False)[:, -1]
    return stretch


def _torch(surface: EnergyFunction) -> TorchSurface:
    """A state of a potential in torch."""
    if not isinstance(surface, TorchSurface):
        raise TypeError("a state of a potential in torch has lost it")
    return surface


def surface(reference: LammpsSurface, device: torch.device | str) -> TorchSurface | None:
    """The script's potential in torch, where there is one.

    Args:
        reference: LAMMPS, with the script.
        device: Where to compute.
    """
    known = recognised(reference.engine.pair, reference.engine.units.name)
    if known is None:
        return None
    return TorchSurface(known, reference.crystal, reference.engine.units, reference, device=device)
