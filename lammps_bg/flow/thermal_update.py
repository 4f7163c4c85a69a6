# SPDX-License-Identifier: GPL-2.0-or-later
"""One step of the self-consistent phonon crystal: its Gaussian's force constants from the forces on its own displacements."""

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.flow.force_constants import ForceConstants, newton_move
from lammps_bg.flow.group_average import Complex, GroupAverage
from lammps_bg.flow.thermal_sample import Step, ThermalSample, worth


class ThermalUpdate:
    """K <- K - <R u^T> <u u^T>^-1 with R = F + K u, the anharmonic rest of the force (Hooton 1955), wave vector by wave vector.

    Both correlations are averaged over the space group before the inversion, so that a configuration counts as often as the group has
    operations. In units of the Gaussian's own widths, <u u^T> is 1 but for noise, and the more of it the less of it is used.

    Args:
        crystal: The reference crystal.
        beta: 1 / (k_B T), inverse energy.
        symmetric: Whether the forces have the crystal's symmetry.
    """

    def __init__(self, crystal: Crystal, beta: float, *, symmetric: bool) -> None:
        self.crystal, self.beta = crystal, beta
        self._mean = GroupAverage(crystal) if symmetric else None

    def __call__(self, constants: ForceConstants, mixed: float, sample: ThermalSample) -> Step[ForceConstants]:
        """The next force constants, mixed with the old ones, and the next mean positions.

        Args:
            constants: Those of the Gaussian that the sample comes from, stable.
            mixed: Share of the new force constants.
            sample: Its configurations.
        """
        crosses, square, pushes = self._correlations(constants, sample)
        values, vectors = constants.modes()
        live = values > 0.0
        width = np.where(live, 1.0 / np.sqrt(self.beta * np.where(live, values, 1.0)), 0.0)
        inverse = np.where(live, 1.0 / np.where(live, width, 1.0), 0.0)
        adjoint = np.conj(np.swapaxes(vectors, -1, -2))
        slopes = -self.beta * width[..., None] * (adjoint @ crosses @ vectors) * inverse[..., None, :]
        change = _regressed(slopes.mean(0), inverse[..., None] * (adjoint @ square @ vectors) * inverse[..., None, :], live)
        stiffness = constants.stiffness + mixed * _in_basis(vectors, inverse, change) / self.beta
        moves = np.stack([newton_move(constants, push) for push in pushes])
        # the bound is 1/4 tr S^2 lower with a symmetric change S, and n_cells beta/2 f d with a move d along a mean force f
        symmetric = 0.5 * (slopes + np.conj(np.swapaxes(slopes, -1, -2)))
        stiffer, shifted = worth(0.25 * symmetric, symmetric), worth(0.5 * self.beta * self.crystal.n_cells * pushes, moves)
        new = ForceConstants(stiffness, constants.offset + moves.mean(0)).symmetrised()
        return Step(new, stiffer[0] + shifted[0], stiffer[1] + shifted[1])

    def _correlations(self, constants: ForceConstants, sample: ThermalSample) -> tuple[Complex, Complex, Array]:
        """<R u^T> of every part, shape [J, nx, ny, nz, m, m], <u u^T> of all, and every part's mean force, shape [J, n_basis, 3]."""
        shape = (-1, *self.crystal.replicate, 3 * self.crystal.n_basis)
        mean = np.tile(constants.offset - constants.offset.mean(0), (self.crystal.n_cells, 1))
        uk, fk = (np.fft.fftn(a.reshape(shape), axes=(1, 2, 3)) for a in (sample.displacements - mean, sample.forces))
        rest = fk + np.einsum("...ab,s...b->s...a", constants.stiffness, uk, optimize=True)
        parts, finite = sample.parts, sample.finite
        pushes = np.stack([rest[part].mean(0)[0, 0, 0].real.reshape(-1, 3) for part in parts]) / self.crystal.n_cells
        pushes -= pushes.mean(1, keepdims=True)
        rest, uk = rest - rest[finite].mean(0), uk - uk[finite].mean(0)
        sums = [np.einsum("s...a,s...b->...ab", p[part], uk[part].conj(), optimize=True) / part.sum() / self.crystal.n_cells
                for p, part in (*((rest, part) for part in parts), (uk, finite))]  # fmt: skip
        blocks: Complex = np.stack(sums)
        if self._mean:
            blocks, pushes = self._mean.blocks(blocks), self._mean.vectors(pushes)
        return blocks[:-1], blocks[-1], pushes


def _regressed(slope: Complex, square: Complex, live: NDArray[np.bool_]) -> Complex:
    """The regression slope S^-1, with S between `square` and the identity that it is on average: the noisier, the closer to that."""
    identity = np.eye(slope.shape[-1])
    deviation = square - identity * live[..., None]
    noise = np.square(np.abs(deviation)).sum((-2, -1))[..., None, None] / slope.shape[-1]
    shrunk = (square + identity * ~live[..., None] + noise * identity) / (1.0 + noise)
    # S is Hermitian, and the slope stands on its left
    solved: Complex = np.conj(np.swapaxes(np.linalg.solve(shrunk, np.conj(np.swapaxes(slope, -1, -2))), -1, -2))
    return solved


def _in_basis(vectors: Complex, scale: Array, change: Complex) -> Complex:
    """A matrix for each wave vector from the modes, in units of their widths, to the displacements of the basis."""
    scaled = scale[..., None] * change * scale[..., None, :]
    result: Complex = vectors @ scaled @ np.conj(np.swapaxes(vectors, -1, -2))
    return result
