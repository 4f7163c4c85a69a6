# SPDX-License-Identifier: GPL-2.0-or-later
"""Phonon crystal: the Gaussian of a crystal's force constants, by fast Fourier transforms over the unit cells, and its fit."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.flow.base import BaseParameters, BoundStep, FitTask, FittedBase
from lammps_bg.flow.force_constants import Complex, ForceConstants, GroupAverage, harmonic, newton_move
from lammps_bg.flow.self_consistent import FEWEST, Step, ThermalSample, concluded, settled, step_of, worth

log = logging.getLogger(__name__)
_MIXED = 0.7  # share of the new force constants: a wider Gaussian mostly sees a stiffer crystal, and the full step overshoots
_MOST_OVERSHOOTS = 4  # updates in a row with unstable modes: fewer may still be on the way to the width that stabilises them


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


@dataclass(frozen=True)
class PhononParameters(BaseParameters):
    """Stable force constants.

    Attributes:
        constants: The force constants, energy per length^2.
    """

    constants: ForceConstants
    restarts: ClassVar[bool] = True

    @classmethod
    def fit(cls, task: FitTask, *, iterations: int, n_samples: int, start: BaseParameters | None = None) -> FittedBase:
        """Fit by the self-consistent iteration; see `BaseParameters.fit`."""
        first = start.constants if isinstance(start, PhononParameters) else None
        return PhononFit(task).run(iterations=iterations, n_samples=n_samples, start=first)

    def base(self, beta: float) -> PhononBase:
        """The distribution at 1 / (k_B T), inverse energy."""
        return PhononBase(self.constants, beta)

    def at(self, crystal: Crystal, target: Crystal) -> "PhononParameters":
        """Fourier-interpolated force constants; see `BaseParameters.at`."""
        constants = self.constants.interpolated(crystal, target)
        if soft := constants.unstable_modes():
            log.warning(
                "%d modes of the interpolated base have no positive stiffness; it starts from their absolute value", len(soft)
            )
            constants = constants.rectified()
        return PhononParameters(constants)

    def coordinates(self) -> tuple[np.ndarray, ...]:
        """Log K(k), a matrix at every wave vector, with the acoustic modes at k = 0 at one; and the offset."""
        stiffness = self.constants.stiffness.copy()
        stiffness[0, 0, 0] += _acoustic(stiffness.shape[-1])
        values, vectors = np.linalg.eigh(stiffness)
        logarithm = np.asarray((vectors * np.log(values)[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2)))
        return logarithm, self.constants.offset

    @classmethod
    def from_coordinates(cls, coordinates: Sequence[np.ndarray]) -> "PhononParameters":
        """The force constants, stable whatever the coordinates are."""
        values, vectors = np.linalg.eigh(coordinates[0])
        stiffness = (vectors * np.exp(values)[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2))
        stiffness[0, 0, 0] -= _acoustic(len(stiffness[0, 0, 0]))
        return cls(ForceConstants(stiffness, coordinates[1]).symmetrised())

    def state_dict(self, crystal: Crystal) -> dict[str, Tensor]:
        """What a model file keeps."""
        return {"stiffness": torch.from_numpy(self.constants.stiffness), "offset": torch.from_numpy(self.constants.offset)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], crystal: Crystal) -> "PhononParameters":
        """What a model file has kept, at the replicate of the fit."""
        return cls(ForceConstants(state["stiffness"].numpy(), state["offset"].numpy()))


PARAMETERS = PhononParameters


def _acoustic(m: int) -> Array:
    """Projection on the rigid translations of the sites of a cell, shape [m, m]."""
    return np.tile(np.eye(3), (m // 3, m // 3)) * 3 / m


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


def _stable_part(old: ForceConstants, new: ForceConstants) -> ForceConstants:
    """The new constants or, if they have unstable modes, half as far towards them as there are none."""
    if not new.unstable_modes():
        return new
    halves = (replace(new, stiffness=old.stiffness + (new.stiffness - old.stiffness) / 2**i) for i in count(1))
    stable = next(constants for constants in halves if not constants.unstable_modes())
    return replace(stable, stiffness=0.5 * (old.stiffness + stable.stiffness))


class PhononFit:
    """Self-consistent phonons: the Gaussian whose force constants are the mean curvatures over itself (Hooton 1955), see `ThermalUpdate`.

    Args:
        task: Crystal, state, energies and forces.
    """

    def __init__(self, task: FitTask) -> None:
        self.force_field, self.crystal, self.units, self.beta = task.force_field, task.crystal, task.units, task.beta
        self._generator = torch.Generator().manual_seed(task.seed)

    def run(self, *, iterations: int, n_samples: int, start: ForceConstants | None = None) -> FittedBase:
        """Iterate until a step gains nothing that counts; see `BaseParameters.fit`."""
        constants = start or harmonic(self.force_field, self.crystal)
        symmetric = constants.has_symmetry(self.crystal)
        update = ThermalUpdate(self.crystal, self.beta, symmetric=symmetric)
        constants = self._start(constants, symmetric=symmetric) if iterations else self._required_stable(constants)
        tried, overshoots, fewest = list[tuple[BoundStep, ForceConstants]](), 0, FEWEST
        mixed, left = _MIXED, math.inf
        for iteration in range(iterations):
            sample, step = step_of(partial(self._draw, constants), partial(update, constants, mixed), n_samples, fewest)
            tried.append((sample.bound, constants))
            overshoots = overshoots + 1 if step.to.unstable_modes() else 0
            if overshoots == _MOST_OVERSHOOTS or (overshoots == iteration + 1 == iterations):
                self._required_stable(step.to)
            if step.gain > left and not overshoots:  # further from the fixed point than before
                mixed /= 2
            fewest *= 2 if overshoots or step.gain > left else 1  # noise does both, too
            left = step.gain
            constants = _stable_part(constants, step.to)
            if settled(sample, step) and not overshoots:
                break
        best, history = concluded(tried, constants, self._draw, n_samples)
        return FittedBase(PhononBase(best, self.beta), PhononParameters(best), history)

    def _start(self, constants: ForceConstants, *, symmetric: bool) -> ForceConstants:
        """Stable force constants for the first sample, with the symmetry of the crystal if its forces have it."""
        if n_unstable := len(constants.unstable_modes()):
            log.warning("%d modes are unstable at the minimum; the self-consistent iteration starts from their absolute value",
                        n_unstable)  # fmt: skip
            constants = constants.rectified()
        return constants.averaged(self.crystal) if symmetric else constants

    def _required_stable(self, constants: ForceConstants) -> ForceConstants:
        """The same force constants, refused if a mode has no positive stiffness."""
        constants.require_stable(self.units.labels.energy, self.units.labels.length)
        return constants

    def _draw(self, constants: ForceConstants, n: int) -> ThermalSample:
        """Configurations of the Gaussian of these constants."""
        return ThermalSample.draw(PhononBase(constants, self.beta), self.force_field, self.beta, n, self._generator)
