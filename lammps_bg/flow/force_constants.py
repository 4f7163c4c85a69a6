# SPDX-License-Identifier: GPL-2.0-or-later
"""Force constants of a crystal: block-circulant on the grid of unit cells, Hermitian at every wave vector; at the minimum of the energy."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.operations import SiteOperation, site_operations
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.potentials.surface import EnergiesForces

Complex = NDArray[np.complex128]

_RELATIVE_FLOOR = 1e-6  # modes softer than this fraction of the stiffest one count as unstable
_RELINEARISED = 6  # most times that force constants are taken on the way to the minimum
_BROKEN = 1e-3  # relative change of force constants by averaging over the space group: beyond it the forces lack that symmetry
_MOVED = 1e-4  # likewise, of the mean positions, as a share of the nearest distance


class GroupAverage:
    """The mean over all g of A(i, j) <- W^T A(g i, g j) W and v(i) <- W^T v(g i), with g an operation that turns by W.

    Args:
        crystal: The crystal at its replicate.
    """

    def __init__(self, crystal: Crystal) -> None:
        self._grid, self._n_basis = crystal.replicate, crystal.n_basis
        self._operations = site_operations(crystal)
        # the sum over a group is that over a subgroup, here the translations, followed by one over what tells its cosets apart
        translations = [found for found in self._operations if np.abs(found.turn - np.eye(3)).max() < 1e-6]
        self._stages = (translations, list({found.turn.tobytes(): found for found in self._operations}.values()))

    def vectors(self, vectors: Array) -> Array:
        """Averages of vectors on every basis site that are the same in all cells, shape [..., n_basis, 3]."""
        total = sum(vectors[..., operation.image, :] @ operation.turn for operation in self._operations)
        return np.asarray(total / len(self._operations))

    def blocks(self, blocks: Complex) -> Complex:
        """Averages of real block-circulant matrices, which need not be symmetric.

        Args:
            blocks: Fourier components A(k) of matrices that couple the displacements of sites, such as K, <u u^T> or <F u^T>, shape
                [a, nx, ny, nz, 3 n_basis, 3 n_basis].
        """
        b = self._n_basis
        real = np.fft.fftn(blocks, axes=(1, 2, 3)).real / np.prod(self._grid)
        rows = np.moveaxis(real.reshape(len(blocks), -1, b, 3, b, 3), (0, 3), (3, 4)).reshape(-1, 9)  # [cell, b, b', a; 3, 3]
        for operations in self._stages:
            total = np.zeros_like(rows)
            for operation in operations:
                there = rows.reshape(-1, 9 * len(blocks))[self._pairs(operation)]
                total += there.reshape(-1, 9) @ np.kron(operation.turn, operation.turn)
            rows = total / len(operations)
        real = np.moveaxis(rows.reshape(*self._grid, b, b, -1, 3, 3), (5, 6), (0, 5)).reshape(blocks.shape)
        mean: Complex = np.conj(np.fft.fftn(real, axes=(1, 2, 3)))
        return mean

    def _pairs(self, operation: SiteOperation) -> NDArray[np.int64]:
        """Where the operation takes the pairs of sites (b in cell 0, b' in cell R), counted as [R, b, b'], shape [n_cells n_basis^2]."""
        # row b of cell 0 goes to basis site image[b], the pair's far end to (cell, other) relative to that one's cell
        cells = (operation.cells - operation.shifts[:, None, None]) % np.array(self._grid)
        cell = np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), self._grid)  # [b, cell, b']
        pairs = (cell * self._n_basis + operation.image[:, None, None]) * self._n_basis + operation.image
        return np.swapaxes(pairs, 0, 1).ravel()


@dataclass(frozen=True)
class ForceConstants:
    """Second-order force constants around a mean configuration.

    The energy of displacements u about `offset` is sum_k u(k)^* K(k) u(k) / (2 n_cells), with u(k) the discrete Fourier
    transform over the cells. Convention: u(k) = sum_R u(R) exp(-ikR), as numpy.fft.

    Attributes:
        stiffness: K(k), energy per length^2, shape [nx, ny, nz, 3 n_basis, 3 n_basis], complex.
        offset: Mean displacement of every basis site from the reference site, length units, shape [n_basis, 3].
    """

    stiffness: Complex
    offset: Array

    @property
    def grid(self) -> tuple[int, int, int]:
        """Number of wave vectors along each reciprocal vector (the replicate)."""
        return self.stiffness.shape[0], self.stiffness.shape[1], self.stiffness.shape[2]

    @property
    def real_space(self) -> Array:
        """Phi(R), the force constants between cell 0 and cell R, shape [nx, ny, nz, 3 n_basis, 3 n_basis]."""
        return np.ascontiguousarray(np.fft.fftn(self.stiffness, axes=(0, 1, 2)).real / np.prod(self.grid))

    def symmetrised(self) -> "ForceConstants":
        """Impose K(-k) = K(k)^*, hermiticity and the acoustic sum rule."""
        stiffness: Complex = np.conj(np.fft.fftn(self.real_space, axes=(0, 1, 2)))
        stiffness = 0.5 * (stiffness + np.conj(np.swapaxes(stiffness, -1, -2)))
        m = stiffness.shape[-1]
        keep = np.eye(m) - np.tile(np.eye(3), (m // 3, m // 3)) * 3 / m
        stiffness[0, 0, 0] = keep @ stiffness[0, 0, 0] @ keep
        return replace(self, stiffness=stiffness)

    def averaged(self, crystal: Crystal) -> "ForceConstants":
        """The mean over the crystal's space group: what a fit to noisy forces should have, and has only on average."""
        mean = GroupAverage(crystal)
        return ForceConstants(mean.blocks(self.stiffness[None])[0], mean.vectors(self.offset)).symmetrised()

    def has_symmetry(self, crystal: Crystal) -> bool:
        """Whether force constants and mean positions have the symmetry of the crystal's sites, which an external field can break."""
        averaged = self.averaged(crystal)
        same = np.abs(averaged.stiffness - self.stiffness).max() < _BROKEN * np.abs(self.stiffness).max()
        return bool(same and np.abs(averaged.offset - self.offset).max() < _MOVED * crystal.nearest_distance)

    def modes(self) -> tuple[Array, Complex]:
        """Stiffness of every mode, shape [nx, ny, nz, 3 n_basis] (the three acoustic ones at k = 0 come out as 0), and eigenvectors."""
        values, vectors = np.linalg.eigh(self.stiffness)
        acoustic = np.argsort(np.abs(values[0, 0, 0]))[:3]
        values[0, 0, 0, acoustic] = 0.0
        return values, vectors

    def rectified(self) -> "ForceConstants":
        """The same with the sign of unstable modes turned: a start for the self-consistent iteration."""
        values, vectors = self.modes()
        values = np.maximum(np.abs(values), 1e-3 * np.median(values))
        values[0, 0, 0, np.argsort(np.abs(self.modes()[0][0, 0, 0]))[:3]] = 0.0
        return replace(self, stiffness=(vectors * values[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2)))

    def unstable_modes(self) -> list[str]:
        """A description of every mode without positive stiffness."""
        values, _ = self.modes()
        soft = values < _RELATIVE_FLOOR * values.max()
        soft[0, 0, 0, np.argsort(np.abs(values[0, 0, 0]))[:3]] = False
        grid = np.array(self.grid)
        names = []
        for index in np.argwhere(soft):
            k = ", ".join(f"{i}/{n}" if i else "0" for i, n in zip(index[:3], grid, strict=True))
            names.append(f"k = ({k}) branch {index[3] + 1} stiffness {values[tuple(index)]:.3g}")
        return names

    def require_stable(self, energy_unit: str, length_unit: str) -> None:
        """Refuse a crystal with unstable modes.

        Raises:
            UnstableCrystalError: A mode has no positive stiffness.
        """
        names = self.unstable_modes()
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UnstableCrystalError(
                f"expected a stable crystal, got {len(names)} modes without positive stiffness (in {energy_unit}/{length_unit}^2): "
                f"{'; '.join(names[:3])}{more}; check density, temperature and potential, or that this phase is stable here"
            )

    def interpolated(self, crystal: Crystal, target: Crystal) -> "ForceConstants":
        """Fourier-interpolate to another replicate of the same unit cell; Phi goes to the nearest images, ties shared equally."""
        weights, cells = _nearest_images(crystal)
        m = 3 * crystal.n_basis
        phi = self.real_space.reshape(-1, crystal.n_basis, 3, crystal.n_basis, 3)
        new = np.zeros((*target.replicate, crystal.n_basis, 3, crystal.n_basis, 3))
        for cell, weight in zip(np.moveaxis(cells, 1, 0), np.moveaxis(weights, 3, 0), strict=True):
            x, y, z = (cell % np.array(target.replicate)).T
            np.add.at(new, (x, y, z), phi * weight[:, :, None, :, None])
        stiffness = np.conj(np.fft.fftn(new.reshape(*target.replicate, m, m), axes=(0, 1, 2)))
        return replace(self, stiffness=stiffness).symmetrised()


def _nearest_images(crystal: Crystal) -> tuple[Array, NDArray[np.int64]]:
    """Weights [n_cells, n_basis, n_basis, 125] of the supercell images of each pair, and their cells [n_cells, 125, 3]."""
    shifts = np.array(list(product((-2, -1, 0, 1, 2), repeat=3))) * np.array(crystal.replicate)
    cells = crystal.cell_grid[:, None] + shifts[None]
    between = crystal.unit.basis[None, :] - crystal.unit.basis[:, None]
    distance = np.linalg.norm((cells @ crystal.unit.cell)[:, None, None] + between[None, :, :, None], axis=-1)
    nearest = distance < distance.min(-1, keepdims=True) + 1e-4 * crystal.nearest_distance
    return nearest / nearest.sum(-1, keepdims=True), cells


def finite_differences(force_field: EnergiesForces, crystal: Crystal, offset: Array, step: float) -> ForceConstants:
    """Force constants from central differences of one unit cell's displacements: 6 n_basis evaluations at any supercell size.

    Args:
        force_field: Energies and forces of displacements.
        crystal: The reference crystal.
        offset: Configuration to expand about: displacement of every basis site, length units, shape [n_basis, 3].
        step: Size of the displacements, length units.

    Raises:
        UnstableCrystalError: LAMMPS gives no finite forces close to the reference sites.
    """
    m = 3 * crystal.n_basis
    at = np.tile(offset, (crystal.n_cells, 1))
    u = np.zeros((m, crystal.n_sites, 3))
    u.reshape(m, -1)[np.arange(m), np.arange(m)] = step  # the first n_basis sites are those of cell 0
    phi = -(force_field(at + u)[1] - force_field(at - u)[1]) / (2 * step)
    if not np.isfinite(phi).all():
        raise UnstableCrystalError(
            "expected finite forces close to the reference sites, got infinite ones; check for overlapping atoms"
        )
    # row: displaced (b, alpha) in cell 0; columns: (cell R, b', beta)
    phi = np.moveaxis(phi.reshape(m, *crystal.replicate, m), 0, 3)
    stiffness = np.conj(np.fft.fftn(phi, axes=(0, 1, 2)))
    return ForceConstants(stiffness, offset).symmetrised()


def newton_move(constants: ForceConstants, force: Array) -> Array:
    """Displacement of the basis sites, the same in all cells, that balances a mean force, length units, shape [n_basis, 3].

    Args:
        constants: The force constants.
        force: Mean force on every basis site, without net force, energy / length, shape [n_basis, 3].
    """
    move = np.linalg.pinv(constants.stiffness[0, 0, 0].real, rcond=1e-8) @ force.ravel()
    return np.asarray(move.reshape(-1, 3) - move.reshape(-1, 3).mean(0))


def harmonic(force_field: EnergiesForces, crystal: Crystal) -> ForceConstants:
    """Force constants at the minimum closest to the reference sites (Newton steps on the cell's internal coordinates)."""
    offset = np.zeros((crystal.n_basis, 3))
    for _ in range(_RELINEARISED):
        constants = finite_differences(force_field, crystal, offset, 4e-4 * crystal.nearest_distance)
        balanced = _balanced(force_field, crystal, constants)
        if (balanced == offset).all():
            break
        offset = balanced
    return constants


def _balanced(force_field: EnergiesForces, crystal: Crystal, constants: ForceConstants) -> Array:
    """Offset at which the mean forces vanish, by steps with the same force constants, as long as each is well below the one before."""
    offset, limit = constants.offset, 0.1 * crystal.nearest_distance
    while True:
        force = _mean_force(force_field(np.tile(offset, (crystal.n_cells, 1))[None])[1], crystal)
        move = newton_move(constants, force)
        size = np.abs(move).max()
        if not 1e-6 * crystal.nearest_distance <= size <= limit:
            return offset
        offset, limit = offset + move, 0.3 * size


def _mean_force(forces: Array, crystal: Crystal) -> Array:
    """Force on each basis site, averaged over samples and cells, without net force, shape [n_basis, 3]."""
    mean = forces.reshape(-1, crystal.n_basis, 3).mean(0)
    return mean - mean.mean(0)
