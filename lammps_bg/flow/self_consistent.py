# SPDX-License-Identifier: GPL-2.0-or-later
"""Self-consistent fits: configurations drawn from a Gaussian crystal, how many of them a step needs, and which one is kept.

Displacements come in pairs, x and -x about the mean: the odd orders of the potential then cancel in <F u^T>, the even ones in the mean
force. Every step is estimated from several parts of the sample, A_1 ... A_J, whose mean is taken. Where the bound falls by g(A, A) with an
update A, g bilinear, the mean of g(A_i, A_j) over i != j is what it gains, without the bias of its own noise; and what that noise costs is
the mean of g(A_i, A_i) less that, divided by J.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.flow.base import Base, BoundStep
from lammps_bg.potentials.surface import EnergiesForces

T = TypeVar("T")
FEWEST = 32
"""Configurations of a step, before its noise is known."""
REPORTED = 64
"""Configurations behind a bound that is reported."""
_TOLERATED = 0.005  # of half the variance of the log-weights, which no fit takes away: gains and noise below it do not count
_NOISE = 0.25  # of the gain: what the noise of a step may cost
_PARTS = 8  # of a sample, from which its noise is found: two would be off by a factor where few modes are anharmonic
_FLOOR = 0.02  # kT for the whole crystal: less makes no difference to any weight
_QUARTILES = 1.349  # between the quartiles of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Step(Generic[T]):
    """An update of a Gaussian.

    Attributes:
        to: What the Gaussian becomes.
        gain: How much the bound of the whole crystal falls, kT, to second order and without bias: it can be negative.
        noise: How much of it the noise of the update costs on average, kT.
    """

    to: T
    gain: float
    noise: float


@dataclass(frozen=True)
class ThermalSample:
    """Configurations of one Gaussian, each followed by its mirror image about the mean.

    Attributes:
        displacements: Shape [n, N, 3], length units.
        forces: Shape [n, N, 3], energy / length.
        works: beta U + log q0, shape [n]; its negative is the log-weight.
    """

    displacements: Array
    forces: Array
    works: Array

    @classmethod
    def draw(cls, base: Base, force_field: EnergiesForces, beta: float, n: int, generator: torch.Generator) -> "ThermalSample":
        """Draw and evaluate n configurations at 1 / (k_B T) = beta, inverse energy; one more where n is odd."""
        x = torch.randn((n + 1) // 2, len(base.amplitude), 3, dtype=torch.float64, generator=generator)
        u = base.colour(torch.stack([x, -x], 1).flatten(0, 1))
        energies, forces = force_field(u.numpy())
        return cls(u.numpy(), forces, beta * energies + base.log_prob(u).numpy())

    def __len__(self) -> int:
        return len(self.works)

    def __add__(self, other: "ThermalSample") -> "ThermalSample":
        pairs = ((self.displacements, other.displacements), (self.forces, other.forces), (self.works, other.works))
        return ThermalSample(*(np.concatenate(pair) for pair in pairs))

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which configurations have a finite energy, shape [n]."""
        return np.isfinite(self.works)

    @property
    def parts(self) -> list[NDArray[np.bool_]]:
        """Up to eight shares of the pairs, those without a finite energy left out, shape [n] each."""
        share = np.arange(len(self)) // 2 % _PARTS
        parts = [(share == part) & self.finite for part in range(_PARTS)]
        return [part for part in parts if part.any()]

    def require_finite(self) -> None:
        """Refuse a crystal of which hardly anything is left.

        Raises:
            UnstableCrystalError: More than half of the configurations have no finite energy.
        """
        infinite = len(self) - int(self.finite.sum())
        if infinite > 0.5 * len(self):
            raise UnstableCrystalError(
                f"expected finite energies of thermal displacements, got {infinite} infinite ones of {len(self)}; "
                "lower the temperature or check the density"
            )

    @property
    def bound(self) -> BoundStep:
        """The bound, the configurations without a finite energy left out of mean and error.

        Raises:
            UnstableCrystalError: More than half of them have none.
        """
        self.require_finite()
        finite = self.finite
        n_sites, kept = self.displacements.shape[1], np.where(finite, self.works, 0.0).reshape(-1, 2)
        counts = finite.reshape(-1, 2).sum(1)
        pairs = kept.sum(1)[counts > 0] / counts[counts > 0]  # the two of a pair are not independent
        error = float(pairs.std(ddof=1)) / math.sqrt(len(pairs)) / n_sites
        return BoundStep(float(self.works[finite].mean()) / n_sites, error, int(finite.sum()), len(self))

    @property
    def tolerance(self) -> float:
        """Gains and noise that do not count, kT for the whole crystal; from quartiles, since log-weights have outliers."""
        low, high = np.percentile(self.works[self.finite], (25, 75))
        return max(_FLOOR, _TOLERATED * 0.5 * float((high - low) / _QUARTILES) ** 2)


def worth(first: NDArray[np.complex128] | Array, second: NDArray[np.complex128] | Array) -> tuple[float, float]:
    """Mean of <A_i, B_j> over i != j, and how much more <A, B> of their means is on average: the gain of a step and its noise.

    Args:
        first: A, an array for each of J parts, shape [J, ...].
        second: B, likewise.
    """
    n, alone = len(first), float(np.vdot(first, second).real)
    together = float(np.vdot(first.sum(0), second.sum(0)).real)
    gain = (together - alone) / max(1, n * (n - 1))
    return gain, (alone / n - gain) / n


def step_of(
    draw: Callable[[int], ThermalSample], update: Callable[[ThermalSample], Step[T]], limit: int, fewest: int = FEWEST
) -> tuple[ThermalSample, Step[T]]:
    """A step from as many configurations as it takes: more are drawn while its noise costs more than it gains, and counts.

    Args:
        draw: Draws and evaluates configurations of the Gaussian as it is.
        update: Its update from configurations.
        limit: Most configurations.
        fewest: Configurations to begin with.
    """
    sample = draw(min(fewest, limit))
    while True:
        sample.require_finite()
        step = parallel.agreed(update(sample))  # it decides how many more are drawn, on all ranks
        if len(sample) >= limit or step.noise <= max(_NOISE * step.gain, sample.tolerance):
            return sample, step
        wanted = len(sample) * step.noise / max(_NOISE * step.gain, sample.tolerance)
        sample = sample + draw(int(min(max(wanted - len(sample), len(sample)), limit - len(sample))))


def settled(sample: ThermalSample, step: Step[T]) -> bool:
    """Whether a step gained nothing that counts: further ones would not, either."""
    return step.gain <= max(sample.tolerance, step.noise)


def concluded(
    tried: Sequence[tuple[BoundStep, T]], last: T, draw: Callable[[T, int], ThermalSample], n_samples: int
) -> tuple[T, tuple[BoundStep, ...]]:
    """The Gaussian that a fit keeps, and all bounds: the last one, unless the bound of an earlier one is lower beyond their errors.

    Args:
        tried: The Gaussians so far, with their bounds.
        last: The last one.
        draw: Draws and evaluates so many configurations of one.
        n_samples: Most configurations behind a bound that is reported.
    """
    n = min(REPORTED, n_samples)
    tried = [*tried, (draw(last, n).bound, last)]
    final, (lowest, other) = tried[-1][0], min(tried, key=lambda entry: entry[0].bound)
    kept = other if final.bound - lowest.bound > 4 * math.hypot(final.error, lowest.error) else last
    # the lowest of several noisy bounds is biased: the one that is reported comes from fresh samples
    return kept, (*(bound for bound, _ in tried), draw(kept, n).bound)


def measured(force_field: EnergiesForces, base: Base, beta: float, *, n_samples: int, seed: int) -> BoundStep:
    """The Gibbs-Bogoliubov bound of a base as it is at 1 / (k_B T) = beta, inverse energy, from `n_samples` fresh configurations."""
    return ThermalSample.draw(base, force_field, beta, n_samples, torch.Generator().manual_seed(seed)).bound
