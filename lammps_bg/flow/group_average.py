# SPDX-License-Identifier: GPL-2.0-or-later
"""Averages over the space group of a crystal: what an estimate from noisy forces should have, and has only on average."""

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.operations import SiteOperation, site_operations
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal

Complex = NDArray[np.complex128]


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
