# SPDX-License-Identifier: GPL-2.0-or-later
"""Fitting a base to the potential: harmonic force constants and the self-consistent finite-temperature iteration."""

import logging
import math
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.flow.base import Base, EinsteinBase
from lammps_bg.flow.force_constants import ForceConstants, ForceField, finite_differences
from lammps_bg.flow.phonon import PhononBase

log = logging.getLogger(__name__)
_BROKEN = 1e-3  # relative change of the first force constants by averaging over the space group: beyond it the forces lack that symmetry
_MOST_OVERSHOOTS = 4  # updates in a row with unstable modes: fewer may still be on the way to the width that stabilises them


@dataclass(frozen=True)
class BoundStep:
    """One iteration of a fit: <beta U + log q0> per atom, the Gibbs-Bogoliubov bound if all samples have a finite energy.

    Attributes:
        bound: Mean over the samples with finite energy, kT per atom.
        error: Its standard error.
        n: Samples with finite energy.
        n_drawn: Samples drawn.
    """

    bound: float
    error: float
    n: int
    n_drawn: int

    @property
    def holds(self) -> bool:
        """Whether it is a bound: a single infinite energy makes the true mean infinite."""
        return self.n == self.n_drawn


@dataclass(frozen=True)
class FittedBase:
    """A base with what it was made from.

    Attributes:
        base: The distribution.
        constants: Force constants (phonon) or None (Einstein).
        history: The bound of every iteration, and last that of `base` from fresh samples.
    """

    base: Base
    constants: ForceConstants | None
    history: tuple[BoundStep, ...]

    @property
    def iterations(self) -> int:
        """Self-consistent updates that were made."""
        return max(0, len(self.history) - 2)


def harmonic(force_field: ForceField, crystal: Crystal) -> ForceConstants:
    """Force constants at the minimum closest to the reference sites (Newton steps on the cell's internal coordinates)."""
    offset = np.zeros((crystal.n_basis, 3))
    step = 4e-4 * crystal.nearest_distance
    for _ in range(6):
        constants = finite_differences(force_field, crystal, offset, step)
        force = _mean_force(force_field(np.tile(offset, (crystal.n_cells, 1))[None])[1], crystal)
        move = _newton_move(constants, force)
        if np.abs(move).max() < 1e-6 * crystal.nearest_distance or np.abs(move).max() > 0.1 * crystal.nearest_distance:
            break
        offset = offset + move
    return constants


def _mean_force(forces: Array, crystal: Crystal) -> Array:
    """Force on each basis site, averaged over samples and cells, without net force, shape [n_basis, 3]."""
    mean = forces.reshape(-1, crystal.n_basis, 3).mean(0)
    return mean - mean.mean(0)


def _newton_move(constants: ForceConstants, force: Array) -> Array:
    """Displacement of the basis sites that balances a mean force, length units, shape [n_basis, 3]."""
    move = np.linalg.pinv(constants.stiffness[0, 0, 0].real, rcond=1e-8) @ force.ravel()
    return move.reshape(-1, 3) - move.reshape(-1, 3).mean(0)


def _stable_part(old: ForceConstants, new: ForceConstants) -> ForceConstants:
    """The new constants or, if they have unstable modes, half as far towards them as there are none."""
    if not new.unstable_modes():
        return new
    halves = (replace(new, stiffness=old.stiffness + (new.stiffness - old.stiffness) / 2**i) for i in count(1))
    stable = next(constants for constants in halves if not constants.unstable_modes())
    return replace(stable, stiffness=0.5 * (old.stiffness + stable.stiffness))


def _has_symmetry(constants: ForceConstants, crystal: Crystal) -> bool:
    """Whether force constants have the symmetry of the sites, which an external field can break."""
    change = constants.averaged(crystal).stiffness - constants.stiffness
    return bool(np.abs(change).max() < _BROKEN * np.abs(constants.stiffness).max())


class PhononFit:
    """Self-consistent phonons: K <- -<F u^T> <u u^T>^-1 under the current Gaussian, wave vector by wave vector (Hooton 1955).

    Args:
        force_field: Energies and forces of displacements in grid order.
        crystal: The reference crystal.
        units: Unit style, for messages.
        beta: 1 / (k_B T), inverse energy.
        seed: Seed of the random displacements.
    """

    def __init__(self, force_field: ForceField, crystal: Crystal, units: Units, beta: float, *, seed: int) -> None:
        self.force_field, self.crystal, self.units, self.beta = force_field, crystal, units, beta
        self._generator = torch.Generator().manual_seed(seed)
        self._symmetric = False

    def run(self, *, iterations: int, n_samples: int, start: ForceConstants | None = None) -> FittedBase:
        """Iterate until the bound no longer falls by more than its error.

        Args:
            iterations: Largest number of self-consistent updates; 0 keeps the harmonic crystal.
            n_samples: Configurations evaluated for each update.
            start: Force constants to start from, instead of those at the minimum.

        Raises:
            UnstableCrystalError: Modes of negative stiffness remain.
        """
        constants = start or harmonic(self.force_field, self.crystal)
        self._symmetric = _has_symmetry(constants, self.crystal)
        labels = self.units.labels
        if iterations == 0:
            constants.require_stable(labels.energy, labels.length)
        elif constants.unstable_modes():
            log.warning("%d modes are unstable at the minimum; the self-consistent iteration starts from their absolute value",
                        len(constants.unstable_modes()))  # fmt: skip
            constants = constants.rectified()
        best, history, misses, overshoots, update = constants, [self._measure(constants, n_samples)], 0, 0, constants
        settled = iterations == 0
        for _ in range(iterations):
            update = self._update(constants, history[-1][1])
            overshoots = overshoots + 1 if update.unstable_modes() else 0
            settled = settled or not overshoots
            if overshoots == _MOST_OVERSHOOTS:
                update.require_stable(labels.energy, labels.length)
            constants = _stable_part(constants, update)
            history.append(self._measure(constants, n_samples))
            bounds = [step.bound for step, _ in history]
            if bounds[-1] <= min(bounds):
                best = constants
            stalls = bounds[-1] > min(bounds[:-1]) - 0.5 * history[-1][0].error
            misses = misses + 1 if stalls and not overshoots else 0
            if misses == 2:
                break
        if not settled:
            update.require_stable(labels.energy, labels.length)
        # the lowest of several noisy bounds is biased: the one that is reported comes from fresh samples
        final = self._measure(best, n_samples)[0]
        return FittedBase(PhononBase(best, self.beta), best, (*(step for step, _ in history), final))

    def _measure(self, constants: ForceConstants, n: int) -> tuple[BoundStep, tuple[Array, Array]]:
        """Draw from the Gaussian of these constants; its bound, and the displacements and forces with finite energy."""
        base = PhononBase(constants, self.beta)
        u = base.sample(n, self._generator)
        energies, forces = self.force_field(u.numpy())
        step, finite = measured_bound(self.beta * energies + base.log_prob(u).numpy(), self.crystal.n_sites)
        return step, (u.numpy()[finite], forces[finite])

    def _update(self, constants: ForceConstants, data: tuple[Array, Array]) -> ForceConstants:
        """One step of the iteration, mixed with the old constants."""
        u, forces = data
        shape = (-1, *self.crystal.replicate, 3 * self.crystal.n_basis)
        centred = u - np.tile(constants.offset - constants.offset.mean(0), (self.crystal.n_cells, 1))
        uk, fk = (np.fft.fftn(a.reshape(shape), axes=(1, 2, 3)) for a in (centred, forces))
        # use the anharmonic rest only: it is small, and so is then the noise of both estimates
        rest = fk + np.einsum("...ab,s...b->s...a", constants.stiffness, uk, optimize=True)
        force = rest.mean(0)[0, 0, 0].real.reshape(-1, 3) / self.crystal.n_cells
        offset = constants.offset + _newton_move(constants, force - force.mean(0))
        rest, uk = rest - rest.mean(0), uk - uk.mean(0)
        cross, square = (np.einsum("s...a,s...b->...ab", p, uk.conj(), optimize=True) for p in (rest, uk))
        change = -cross @ np.linalg.pinv(square, rcond=1e-8, hermitian=True)
        update = ForceConstants(constants.stiffness + 0.7 * change, offset)
        return update.averaged(self.crystal) if self._symmetric else update.symmetrised()


def measured(force_field: ForceField, base: Base, beta: float, *, n_samples: int, seed: int) -> BoundStep:
    """The Gibbs-Bogoliubov bound of a base as it is, from fresh samples.

    Args:
        force_field: Energies and forces of displacements in grid order.
        base: The base.
        beta: 1 / (k_B T), inverse energy.
        n_samples: Configurations that are evaluated.
        seed: Seed of the displacements.
    """
    u = base.sample(n_samples, torch.Generator().manual_seed(seed))
    energies, _ = force_field(u.numpy())
    return measured_bound(beta * energies + base.log_prob(u).numpy(), u.shape[1])[0]


class EinsteinFit:
    """Self-consistent Einstein crystal: 1 / s^2 = -beta <F u> / <u^2>, one width for each species.

    Args:
        force_field: Energies and forces of displacements in grid order.
        crystal: The reference crystal.
        beta: 1 / (k_B T), inverse energy.
        seed: Seed of the random displacements.
    """

    def __init__(self, force_field: ForceField, crystal: Crystal, beta: float, *, seed: int) -> None:
        self.force_field, self.crystal, self.beta = force_field, crystal, beta
        self._generator = torch.Generator().manual_seed(seed)

    def run(self, *, iterations: int, n_samples: int) -> FittedBase:
        """Iterate from the harmonic widths; `n_samples` configurations are evaluated for each of the `iterations`.

        Raises:
            UnstableCrystalError: An atom is not bound to its site.
        """
        widths = self._harmonic_widths()
        steps = []
        for iteration in range(iterations + 1):
            base = EinsteinBase(torch.from_numpy(widths))
            step, springs = self._measure(base, n_samples)
            steps.append((step, base))
            if iteration < iterations:
                widths = self._widths(springs)
        best = min(steps, key=lambda entry: entry[0].bound)[1]
        return FittedBase(best, None, (*(step for step, _ in steps), self._measure(best, n_samples)[0]))

    def _measure(self, base: EinsteinBase, n: int) -> tuple[BoundStep, Array]:
        """The bound of a base from fresh samples, and the spring constant that each site's finite samples suggest, shape [N]."""
        u = base.sample(n, self._generator).numpy()
        energies, forces = self.force_field(u)
        step, finite = measured_bound(self.beta * energies + base.log_prob(torch.from_numpy(u)).numpy(), self.crystal.n_sites)
        return step, -(forces * u)[finite].mean(0).sum(-1) / np.square(u)[finite].mean(0).sum(-1)

    def _harmonic_widths(self) -> Array:
        """Widths from the curvature felt by one atom while the others rest."""
        own = harmonic(self.force_field, self.crystal).real_space[0, 0, 0].diagonal()
        return self._widths(np.tile(own.reshape(-1, 3).mean(1), self.crystal.n_cells))

    def _widths(self, springs: Array) -> Array:
        """sqrt(kT / k) with k [N] averaged over the atoms of each kind."""
        kinds = self.crystal.kinds
        mean = np.array([springs[kinds == kind].mean() for kind in kinds])
        if (mean <= 0).any():
            raise UnstableCrystalError(
                f"expected atoms bound to their sites, got a spring constant of {mean.min():.3g} for one species; "
                "check density, temperature and potential"
            )
        return 1.0 / np.sqrt(self.beta * mean)


def measured_bound(values: Array, n_sites: int) -> tuple[BoundStep, np.ndarray]:
    """The bound from beta U + log q0 [n] of samples, non-finite ones left out of mean and error; and which are finite.

    Raises:
        UnstableCrystalError: More than half of the samples have no finite energy.
    """
    finite = np.isfinite(values)
    if finite.mean() < 0.5:
        raise UnstableCrystalError(
            f"expected finite energies of thermal displacements, got {len(values) - int(finite.sum())} infinite ones of {len(values)}; "
            "lower the temperature or check the density"
        )
    kept = values[finite]
    error = float(kept.std(ddof=1)) / math.sqrt(len(kept)) / n_sites
    return BoundStep(float(kept.mean()) / n_sites, error, len(kept), len(values)), finite
