# SPDX-License-Identifier: GPL-2.0-or-later
"""Fitting a base to the potential: harmonic force constants and the self-consistent finite-temperature iteration."""

import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TypeVar

import numpy as np
import torch

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.flow.base import Base, EinsteinBase
from lammps_bg.flow.force_constants import ForceConstants, ForceField, finite_differences, newton_move
from lammps_bg.flow.phonon import PhononBase
from lammps_bg.flow.thermal_sample import FEWEST, REPORTED, BoundStep, Step, ThermalSample, settled, step_of, worth
from lammps_bg.flow.thermal_update import ThermalUpdate

T = TypeVar("T")
log = logging.getLogger(__name__)
_BROKEN = 1e-3  # relative change of the first force constants by averaging over the space group: beyond it the forces lack that symmetry
_RELINEARISED = 6  # most times that force constants are taken on the way to the minimum
_MOVED = 1e-4  # likewise, of the mean positions, as a share of the nearest distance
_MIXED = 0.7  # share of the new force constants: a wider Gaussian mostly sees a stiffer crystal, and the full step overshoots
_MOST_OVERSHOOTS = 4  # updates in a row with unstable modes: fewer may still be on the way to the width that stabilises them


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
    for _ in range(_RELINEARISED):
        constants = finite_differences(force_field, crystal, offset, 4e-4 * crystal.nearest_distance)
        balanced = _balanced(force_field, crystal, constants)
        if (balanced == offset).all():
            break
        offset = balanced
    return constants


def _balanced(force_field: ForceField, crystal: Crystal, constants: ForceConstants) -> Array:
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


def _stable_part(old: ForceConstants, new: ForceConstants) -> ForceConstants:
    """The new constants or, if they have unstable modes, half as far towards them as there are none."""
    if not new.unstable_modes():
        return new
    halves = (replace(new, stiffness=old.stiffness + (new.stiffness - old.stiffness) / 2**i) for i in count(1))
    stable = next(constants for constants in halves if not constants.unstable_modes())
    return replace(stable, stiffness=0.5 * (old.stiffness + stable.stiffness))


def _has_symmetry(constants: ForceConstants, crystal: Crystal) -> bool:
    """Whether force constants and mean positions have the symmetry of the sites, which an external field can break."""
    averaged = constants.averaged(crystal)
    same = np.abs(averaged.stiffness - constants.stiffness).max() < _BROKEN * np.abs(constants.stiffness).max()
    return bool(same and np.abs(averaged.offset - constants.offset).max() < _MOVED * crystal.nearest_distance)


class PhononFit:
    """Self-consistent phonons: the Gaussian whose force constants are the mean curvatures over itself (Hooton 1955), see `ThermalUpdate`.

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

    def run(self, *, iterations: int, n_samples: int, start: ForceConstants | None = None) -> FittedBase:
        """Iterate until a step gains nothing that counts.

        Args:
            iterations: Largest number of self-consistent updates; 0 keeps the harmonic crystal.
            n_samples: Most configurations that are evaluated for each update.
            start: Force constants to start from, instead of those at the minimum.

        Raises:
            UnstableCrystalError: Modes of negative stiffness remain.
        """
        constants = start or harmonic(self.force_field, self.crystal)
        symmetric = _has_symmetry(constants, self.crystal)
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
        reported = min(REPORTED, n_samples)
        tried.append((self._draw(constants, reported).bound, constants))
        best = _lowest(tried)
        # the lowest of several noisy bounds is biased: the one that is reported comes from fresh samples
        history = (*(bound for bound, _ in tried), self._draw(best, reported).bound)
        return FittedBase(PhononBase(best, self.beta), best, history)

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


def _lowest(tried: list[tuple[BoundStep, T]]) -> T:
    """The last of the Gaussians, unless the bound of an earlier one is lower beyond their errors."""
    (last, found), (lowest, other) = tried[-1], min(tried, key=lambda entry: entry[0].bound)
    return other if last.bound - lowest.bound > 4 * math.hypot(last.error, lowest.error) else found


def measured(force_field: ForceField, base: Base, beta: float, *, n_samples: int, seed: int) -> BoundStep:
    """The Gibbs-Bogoliubov bound of a base as it is, from fresh samples.

    Args:
        force_field: Energies and forces of displacements in grid order.
        base: The base.
        beta: 1 / (k_B T), inverse energy.
        n_samples: Configurations that are evaluated.
        seed: Seed of the displacements.
    """
    return ThermalSample.draw(base, force_field, beta, n_samples, torch.Generator().manual_seed(seed)).bound


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
        """Iterate from the harmonic widths, at most `iterations` times with at most `n_samples` configurations each.

        Raises:
            UnstableCrystalError: An atom is not bound to its site.
        """
        widths, tried = self._harmonic_widths(), list[tuple[BoundStep, Array]]()
        for _ in range(iterations):
            sample, step = step_of(partial(self._draw, widths), partial(self._update, widths), n_samples)
            tried.append((sample.bound, widths))
            widths = step.to
            if settled(sample, step):
                break
        reported = min(REPORTED, n_samples)
        tried.append((self._draw(widths, reported).bound, widths))
        best = _lowest(tried)
        history = (*(bound for bound, _ in tried), self._draw(best, reported).bound)
        return FittedBase(EinsteinBase(torch.from_numpy(best)), None, history)

    def _draw(self, widths: Array, n: int) -> ThermalSample:
        """Configurations of the crystal with these widths."""
        return ThermalSample.draw(EinsteinBase(torch.from_numpy(widths)), self.force_field, self.beta, n, self._generator)

    def _update(self, widths: Array, sample: ThermalSample) -> Step[Array]:
        """The widths that the forces suggest. With d the relative change of a spring, the bound falls by 3 d^2 / 4 for each atom."""
        u, forces = sample.displacements, sample.forces
        works = np.stack([self._by_kind(-(forces * u)[part].sum(-1).mean(0)) for part in sample.parts])
        springs = works / self._by_kind(np.square(u[sample.finite]).sum(-1).mean(0))
        gain, noise = worth(0.75 * (self.beta * springs * widths**2 - 1.0), self.beta * springs * widths**2 - 1.0)
        return Step(self._widths(springs.mean(0)), gain, noise)

    def _harmonic_widths(self) -> Array:
        """Widths from the curvature felt by one atom while the others rest."""
        own = harmonic(self.force_field, self.crystal).real_space[0, 0, 0].diagonal()
        return self._widths(np.tile(own.reshape(-1, 3).mean(1), self.crystal.n_cells))

    def _by_kind(self, springs: Array) -> Array:
        """The mean over the atoms of each kind, shape [N]."""
        kinds = self.crystal.kinds
        return np.array([springs[kinds == kind].mean() for kind in kinds])

    def _widths(self, springs: Array) -> Array:
        """sqrt(kT / k) with k [N] averaged over the atoms of each kind."""
        mean = self._by_kind(springs)
        if (mean <= 0).any():
            raise UnstableCrystalError(
                f"expected atoms bound to their sites, got a spring constant of {mean.min():.3g} for one species; "
                "check density, temperature and potential"
            )
        return 1.0 / np.sqrt(self.beta * mean)
