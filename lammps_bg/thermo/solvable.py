# SPDX-License-Identifier: GPL-2.0-or-later
"""Crystals whose free energy is known: for tests, for the manual, and for whoever wants to check an estimator.

Energies are in any unit, with `beta` in its inverse. No energy changes under a shift of the whole crystal: integrals run over
the 3N-3 orthonormal coordinates without centre of mass.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.crystal.scale import periodic_pairs
from lammps_bg.errors import CrystalError, StateError
from lammps_bg.thermo.free_energy import absolute_constant
from lammps_bg.thermo.springs import SpringCrystal

Array = NDArray[np.float64]
ZERO_MODE = 1e-9
"""Curvatures below this share of the largest one count as zero."""
QUADRATURE_POINTS = 200


def spring_stiffness(
    sites: ArrayLike, cell: ArrayLike, cutoff: float, *, longitudinal: float = 1.0, transverse: float = 0.1
) -> Array:
    """Force constants of a crystal whose atoms within `cutoff` are joined by springs, shape [3N, 3N], energy / length^2.

    Args:
        sites: Cartesian positions of the sites, length units, shape [N, 3].
        cell: Cell vectors as rows, shape [3, 3].
        cutoff: Longest spring, length units; springs to periodic images count.
        longitudinal: Stiffness along the spring, energy / length^2.
        transverse: Stiffness across it; above zero it keeps every lattice stable.
    """
    n = len(np.asarray(sites))
    i, j, vector = periodic_pairs("ijD", np.asarray(cell), np.asarray(sites), cutoff)
    along = np.einsum("pa,pb->pab", vector, vector) / np.square(vector).sum(1)[:, None, None]
    blocks = longitudinal * along + transverse * (np.eye(3) - along)
    stiffness = np.zeros((n, n, 3, 3))
    np.add.at(stiffness, (i, j), -blocks)
    np.add.at(stiffness, (i, i), blocks)
    matrix = stiffness.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    return 0.5 * (matrix + matrix.T)


def _centred(displacements: ArrayLike) -> Array:
    """Displacements without their centre of mass, shape [n, N, 3]."""
    u = np.asarray(displacements, dtype=np.float64)
    return u - u.mean(1, keepdims=True)


def _check_beta(beta: float) -> float:
    if not (math.isfinite(beta) and beta > 0.0):
        raise StateError(f"expected a positive inverse temperature beta, got {beta}; give 1 / kT in inverse energy units")
    return beta


class SolvableCrystal(ABC):
    """What all crystals here know of themselves.

    Attributes:
        n_atoms: Number of atoms N.
        beta: Inverse temperature, inverse energy.
    """

    n_atoms: int
    beta: float

    @property
    def n_modes(self) -> int:
        """3N - 3."""
        return 3 * self.n_atoms - 3

    @property
    @abstractmethod
    def log_partition(self) -> float:
        """Exact ln Z_u, u in length units."""

    @property
    @abstractmethod
    def mean_energy(self) -> float:
        """Exact <U> of the whole crystal, energy units."""

    @property
    @abstractmethod
    def energy_variance(self) -> float:
        """Exact Var U of the whole crystal, energy units squared."""

    @abstractmethod
    def energies_forces(self, displacements: ArrayLike) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3].

        Args:
            displacements: Length units, shape [n, N, 3].
        """

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent configurations at equilibrium, shape [n, N, 3]."""

    def log_prob(self, displacements: ArrayLike) -> Array:
        """Normalised log-density on the coordinates without centre of mass, shape [n].

        Args:
            displacements: Length units, shape [n, N, 3].
        """
        return -self.beta * self.energies_forces(displacements)[0] - self.log_partition

    def free_energy_per_atom(self, volume: float, length_scale: float) -> float:
        """Exact beta F / N in the convention of `lammps_bg.thermo.free_energy`.

        Args:
            volume: Volume of the cell, length units cubed.
            length_scale: Lambda, length units.
        """
        return -self.log_partition / self.n_atoms + absolute_constant(self.n_atoms, volume, length_scale)


class EinsteinCrystal(SpringCrystal, SolvableCrystal):
    """Every atom on its own spring, U = sum of u^2 / (2 beta s^2), with the centre of mass removed.

    Args:
        n_atoms: Number of atoms N.
        amplitude: Standard deviation s of each component before the centre of mass is removed, length units.
        beta: Inverse temperature, inverse energy.
    """

    def __init__(self, n_atoms: int, amplitude: float, *, beta: float = 1.0) -> None:
        if n_atoms < 2 or not amplitude > 0.0:
            raise CrystalError(f"expected at least 2 atoms and a positive amplitude, got {n_atoms} and {amplitude}; change them")
        super().__init__(np.full(n_atoms, 1.0 / (_check_beta(beta) * amplitude**2)), beta)

    @property
    def log_partition(self) -> float:
        """Exact ln Z_u; also the log of the Gaussian's integral, length units."""
        return self.log_integral

    @property
    def mean_energy(self) -> float:
        """Mean energy of the whole crystal, kT / 2 per mode."""
        return 0.5 * self.n_modes / self.beta

    @property
    def energy_variance(self) -> float:
        """Energy variance of the whole crystal, (kT)^2 / 2 per mode."""
        return 0.5 * self.n_modes / self.beta**2

    def energies_forces(self, displacements: ArrayLike) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3]."""
        return self.energies(displacements), -self.stiffness[:, None] * _centred(displacements)


class HarmonicCrystal(SolvableCrystal):
    """U = E0 + u K u / 2.

    Args:
        stiffness: Force constants K, energy / length^2, shape [3N, 3N] in the order (atom, component); symmetric, zero for
            a shift of all atoms, positive otherwise.
        beta: Inverse temperature, inverse energy.
        static_energy: E0, energy units.
    """

    def __init__(self, stiffness: ArrayLike, *, beta: float = 1.0, static_energy: float = 0.0) -> None:
        matrix = _checked_stiffness(stiffness)
        self.n_atoms = len(matrix) // 3
        self.beta = _check_beta(beta)
        self.static_energy = static_energy
        # The shifts are made the stiffest modes, so that the eigenvectors of all others are free of them
        shift = np.kron(np.full((self.n_atoms, self.n_atoms), 1.0 / self.n_atoms), np.eye(3))
        curvatures, modes = np.linalg.eigh(matrix + 10.0 * np.abs(matrix).sum(1).max() * shift)
        self.curvatures: Array = curvatures[:-3]
        self.modes: Array = modes[:, :-3]
        if self.curvatures[0] <= ZERO_MODE * self.curvatures[-1]:
            raise CrystalError(
                f"expected curvatures above zero for all modes but the three shifts, got {self.curvatures[0]:.3g}; "
                "use a mechanically stable crystal"
            )

    @property
    def log_partition(self) -> float:
        """Exact ln Z_u, the static energy included, length units."""
        return self.log_integral - self.beta * self.static_energy

    @property
    def log_integral(self) -> float:
        """Log of the integral of the Gaussian exp(-beta u K u / 2), length units."""
        return float(0.5 * np.log(2.0 * math.pi / (self.beta * self.curvatures)).sum())

    @property
    def mean_energy(self) -> float:
        """Mean energy of the whole crystal, E0 and kT / 2 per mode."""
        return self.static_energy + 0.5 * self.n_modes / self.beta

    @property
    def energy_variance(self) -> float:
        """Energy variance of the whole crystal, (kT)^2 / 2 per mode."""
        return 0.5 * self.n_modes / self.beta**2

    def to_modes(self, displacements: ArrayLike) -> Array:
        """Normal coordinates, length units, shape [n, 3N - 3].

        Args:
            displacements: Length units, shape [n, N, 3].
        """
        u = np.asarray(displacements, dtype=np.float64)
        return u.reshape(len(u), -1) @ self.modes

    def from_modes(self, coordinates: Array) -> Array:
        """Displacements, shape [n, N, 3].

        Args:
            coordinates: Normal coordinates, length units, shape [n, 3N - 3].
        """
        return (coordinates @ self.modes.T).reshape(len(coordinates), self.n_atoms, 3)

    def energies_forces(self, displacements: ArrayLike) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3]."""
        z = self.to_modes(displacements)
        return self.static_energy + 0.5 * z**2 @ self.curvatures, self.from_modes(-z * self.curvatures)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent configurations at equilibrium, shape [n, N, 3]."""
        return self.from_modes(rng.standard_normal((n, self.n_modes)) / np.sqrt(self.beta * self.curvatures))


def _checked_stiffness(stiffness: ArrayLike) -> Array:
    """Force constants, refused unless square, symmetric and free of force under a shift of all atoms."""
    matrix = np.asarray(stiffness, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) % 3 or len(matrix) < 6:
        raise CrystalError(f"expected force constants of shape [3N, 3N] with N above 1, got shape {matrix.shape}; reshape them")
    scale = np.abs(matrix).max()
    drift = np.abs(matrix.reshape(len(matrix), -1, 3).sum(1)).max()
    if not (np.abs(matrix - matrix.T).max() <= 1e-8 * scale and drift <= 1e-8 * scale * len(matrix)):
        raise CrystalError(
            f"expected symmetric force constants with rows that sum to zero, got {drift:.3g}; apply the acoustic sum rule"
        )
    return matrix


class AnharmonicCrystal(SolvableCrystal):
    """A harmonic crystal seen through a smooth map of its normal coordinates, which changes volume.

    Each normal coordinate z of curvature h becomes q = z + c l tanh(z / l), l = width / sqrt(h), and keeps its energy,
    U(q) = h z(q)^2 / 2. Hence Z = Z_harmonic times, for each mode, the Gaussian mean of dq/dz = 1 + c / cosh(z / l)^2: one
    integral over one variable. Near its minimum the well is softer for a positive c and stiffer for a negative one; U does
    not depend on the temperature.

    Args:
        harmonic: The crystal behind the map.
        strength: c, above -1.
        width: Size of the mapped region, square root of energy units.
    """

    def __init__(self, harmonic: HarmonicCrystal, *, strength: float, width: float) -> None:
        if not (strength > -1.0 and width > 0.0):
            raise CrystalError(f"expected a strength above -1 and a positive width, got {strength} and {width}; change them")
        self.harmonic = harmonic
        self.n_atoms = harmonic.n_atoms
        self.beta = harmonic.beta
        self.strength = strength
        self.lengths: Array = width / np.sqrt(harmonic.curvatures)
        # Normal coordinates in units of their thermal amplitude are mapped on this scale, the same for all modes
        self.reduced_width = width * math.sqrt(harmonic.beta)

    @property
    def log_partition(self) -> float:
        """Exact ln Z_u, the static energy included, length units."""
        return self.harmonic.log_partition + self.n_modes * math.log(self._gaussian_mean(np.ones_like))

    @property
    def mean_energy(self) -> float:
        """Mean energy of the whole crystal."""
        return self.harmonic.static_energy + self.n_modes * self._mode_moment(1) / self.beta

    @property
    def energy_variance(self) -> float:
        """Energy variance of the whole crystal."""
        return self.n_modes * (self._mode_moment(2) - self._mode_moment(1) ** 2) / self.beta**2

    def _gaussian_mean(self, function: Callable[[Array], Array]) -> float:
        """Mean of `function(x)` dq/dz over a standard normal x, by the trapezoidal rule (exponentially accurate here)."""
        x = np.linspace(-12.0, 12.0, 24 * QUADRATURE_POINTS + 1)
        density = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi) / QUADRATURE_POINTS
        return float(np.sum(density * function(x) * self._slope(x / self.reduced_width)))

    def _mode_moment(self, power: int) -> float:
        """Mean of (beta h z^2 / 2)^power of one mode."""
        return self._gaussian_mean(lambda x: (0.5 * x**2) ** power) / self._gaussian_mean(np.ones_like)

    def _slope(self, t: Array) -> Array:
        """dq/dz at t = z / l."""
        return 1.0 + self.strength * (1.0 - np.tanh(t) ** 2)

    def map(self, displacements: ArrayLike) -> tuple[Array, Array]:
        """From the harmonic crystal to this one: displacements [n, N, 3] and log-determinant [n].

        Args:
            displacements: Of the harmonic crystal, length units, shape [n, N, 3].
        """
        t = self.harmonic.to_modes(displacements) / self.lengths
        mapped = self.harmonic.from_modes(self.lengths * (t + self.strength * np.tanh(t)))
        return mapped, np.log(self._slope(t)).sum(1)

    def _reduced_modes(self, displacements: ArrayLike) -> Array:
        """The t = z / l behind the map, shape [n, 3N - 3], by Newton steps kept inside a shrinking bracket."""
        y = self.harmonic.to_modes(displacements) / self.lengths
        low, high = y - abs(self.strength), y + abs(self.strength)
        t = y / (1.0 + self.strength)
        t = np.where((t < low) | (t > high), y, t)
        for _ in range(100):
            excess = t + self.strength * np.tanh(t) - y
            low, high = np.where(excess < 0.0, t, low), np.where(excess > 0.0, t, high)
            step = t - excess / self._slope(t)
            step = np.where((step < low) | (step > high), 0.5 * (low + high), step)
            if np.abs(step - t).max() < 1e-15 * (1.0 + np.abs(y).max()):
                break
            t = step
        return t

    def energies_forces(self, displacements: ArrayLike) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3] of displacements [n, N, 3]."""
        t = self._reduced_modes(displacements)
        z = t * self.lengths
        energies = self.harmonic.static_energy + 0.5 * z**2 @ self.harmonic.curvatures
        return energies, self.harmonic.from_modes(-z * self.harmonic.curvatures / self._slope(t))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent configurations at equilibrium, shape [n, N, 3]."""
        x = rng.standard_normal((n, self.n_modes))
        # z has the density Gaussian times dq/dz: draw Gaussian numbers until each is accepted with probability ~ dq/dz
        open_entries = np.ones(x.shape, dtype=bool)
        while open_entries.any():
            drawn = rng.standard_normal(int(open_entries.sum()))
            x[open_entries] = drawn
            chance = self._slope(drawn / self.reduced_width) / max(1.0, 1.0 + self.strength)
            open_entries[open_entries] = rng.random(len(drawn)) >= chance
        return self.map(self.harmonic.from_modes(x / np.sqrt(self.beta * self.harmonic.curvatures)))[0]
