# SPDX-License-Identifier: GPL-2.0-or-later
"""Phonon crystal: the Gaussian of a crystal's force constants, by fast Fourier transforms over the unit cells."""

import math

import numpy as np
import torch
from torch import Tensor

from lammps_bg.flow.force_constants import ForceConstants


class PhononBase:
    """N(offset, (beta K)^-1) on the displacements with the centre of mass removed; O(N log N) in the number of atoms.

    Args:
        constants: Stable force constants, energy per length^2.
        beta: 1 / (k_B T), inverse energy.
    """

    def __init__(self, constants: ForceConstants, beta: float) -> None:
        values, vectors = constants.modes()
        m, cells = values.shape[-1], math.prod(constants.grid)
        self._shape = (*constants.grid, m)
        live = values != 0.0
        root = np.where(live, np.sqrt(beta * np.where(live, values, 1.0)), 0.0)
        adjoint = np.conj(np.swapaxes(vectors, -1, -2))
        inverse = np.where(live, 1.0 / np.where(live, root, 1.0), 0.0)
        colour = (vectors * inverse[..., None, :]) @ adjoint
        self._whiten = torch.from_numpy((vectors * root[..., None, :]) @ adjoint).reshape(cells, m, m)
        self._colour = torch.from_numpy(colour).reshape(cells, m, m)
        self._offset = torch.from_numpy(np.tile(constants.offset - constants.offset.mean(0), (cells, 1)))
        self.log_integral = float(0.5 * live.sum() * math.log(2 * math.pi) - np.log(root[live]).sum())
        variance = (np.abs(colour) ** 2).sum(-1).mean((0, 1, 2)).reshape(-1, 3).mean(1)
        self.amplitude = torch.from_numpy(np.tile(np.sqrt(variance), cells))

    def _apply(self, matrix: Tensor, field: Tensor) -> Tensor:
        """Multiply the Fourier components of a field [n, N, 3] with one matrix for each wave vector."""
        waves = torch.fft.fftn(field.reshape(-1, *self._shape), dim=(1, 2, 3), norm="ortho")
        waves = waves.reshape(len(field), -1, self._shape[-1]).transpose(0, 1)
        return torch.bmm(waves, matrix.transpose(1, 2)).transpose(0, 1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw displacements, length units, shape [n, N, 3], float64."""
        return self.colour(torch.randn(n, *self._offset.shape, dtype=torch.float64, generator=generator))

    def colour(self, x: Tensor) -> Tensor:
        """Displacements of white noise x [n, N, 3], see `Base.colour`."""
        return self._multiplied(self._colour, x) + self._offset

    def whiten(self, u: Tensor) -> Tensor:
        """White noise of displacements u [n, N, 3], see `Base.whiten`."""
        return self._multiplied(self._whiten, u.double() - self._offset)

    @property
    def softest(self) -> Tensor:
        """The displacements of the softest mode, its real part, shape [N, 3]."""
        values, vectors = np.linalg.eigh(self._colour.numpy())
        wave = int(values[:, -1].argmax())
        pattern = torch.zeros(len(self._colour), self._shape[-1], dtype=torch.complex128)
        pattern[wave] = torch.from_numpy(vectors[wave, :, -1])
        both = torch.fft.ifftn(pattern.reshape(*self._shape), dim=(0, 1, 2), norm="ortho").reshape(self._offset.shape)
        real = both.real if both.real.norm() > both.imag.norm() else both.imag
        return real / real.norm()

    def _multiplied(self, matrix: Tensor, field: Tensor) -> Tensor:
        """A matrix for each wave vector times a real field [n, N, 3]."""
        waves = self._apply(matrix, field).reshape(len(field), *self._shape)
        return torch.fft.ifftn(waves, dim=(1, 2, 3), norm="ortho").real.reshape(field.shape)

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        white = self._apply(self._whiten, u.double() - self._offset)
        return -0.5 * torch.view_as_real(white).square().sum((1, 2, 3)) - self.log_integral
