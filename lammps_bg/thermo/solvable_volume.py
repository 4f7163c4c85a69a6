# SPDX-License-Identifier: GPL-2.0-or-later
"""A crystal whose free energy is known at every volume, hence its Gibbs free energy, equation of state and volume fluctuations."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

from lammps_bg.thermo.solvable import EinsteinCrystal

_STEP = 1e-5
_WIDEST = 0.4


@dataclass(frozen=True)
class VolumeCrystal:
    """An Einstein crystal with springs k ~ (V / V0)^(-2 gamma) and a static energy that depends on the volume.

    Per atom the static energy is of Birch's form of second order, (9/8) B v0 [(V0 / V)^(2/3) - 1]^2 plus a constant.

    Attributes:
        n_atoms: Number of atoms N.
        bulk_modulus: B, of the static energy at V0, energy / volume.
        grueneisen: gamma.
        offset: Static energy per atom at V0, energy.
        volume_per_atom: v0 = V0 / N.
        kt: kT, energy.
        stiffness: k per atom at V0, energy / length^2.
    """

    n_atoms: int = 64
    bulk_modulus: float = 60.0
    grueneisen: float = 1.4
    offset: float = 0.0
    volume_per_atom: float = 1.0
    kt: float = 1.0
    stiffness: float = 100.0

    @property
    def reference_volume(self) -> float:
        """V0, of all atoms."""
        return self.n_atoms * self.volume_per_atom

    def volume(self, log_volume: float) -> float:
        """V, of all atoms.

        Args:
            log_volume: ln(V / V0).
        """
        return self.reference_volume * math.exp(log_volume)

    def static_energy(self, log_volume: float) -> float:
        """Energy of all atoms on their sites.

        Args:
            log_volume: ln(V / V0).
        """
        strain = math.exp(-2.0 * log_volume / 3.0) - 1.0
        return self.n_atoms * (self.offset + 1.125 * self.bulk_modulus * self.volume_per_atom * strain**2)

    def free_energy(self, log_volume: float) -> float:
        """F of all atoms, energy, with Lambda = 1.

        Args:
            log_volume: ln(V / V0).
        """
        amplitude = math.sqrt(self.kt / self.stiffness) * math.exp(self.grueneisen * log_volume)
        vibrating = EinsteinCrystal(self.n_atoms, amplitude, beta=1.0 / self.kt)
        reduced = vibrating.free_energy_per_atom(self.volume(log_volume), 1.0)
        return self.static_energy(log_volume) + self.n_atoms * self.kt * reduced

    def pressure(self, log_volume: float) -> float:
        """-dF/dV: of the static energy, and kT / V times the power of V in the partition function.

        Args:
            log_volume: ln(V / V0).
        """
        squeezed = math.exp(-2.0 * log_volume / 3.0)
        slope = -1.5 * self.n_atoms * self.bulk_modulus * self.volume_per_atom * (squeezed - 1.0) * squeezed
        return (self.kt * (3.0 * (self.n_atoms - 1) * self.grueneisen + 1.0) - slope) / self.volume(log_volume)

    def log_volume(self, pressure: float) -> float:
        """ln(V / V0) at a pressure.

        Args:
            pressure: Energy / volume.
        """
        return float(brentq(lambda x: self.pressure(x) - pressure, -_WIDEST, _WIDEST, xtol=1e-14))

    def gibbs(self, pressure: float) -> float:
        """G of all atoms, the minimum of F + P V, energy.

        Args:
            pressure: Energy / volume.
        """
        x = self.log_volume(pressure)
        return self.free_energy(x) + pressure * self.volume(x)

    def enthalpy(self, pressure: float) -> float:
        """Mean potential energy plus P V of all atoms, energy.

        Args:
            pressure: Energy / volume.
        """
        x = self.log_volume(pressure)
        return self.static_energy(x) + 1.5 * (self.n_atoms - 1) * self.kt + pressure * self.volume(x)

    def compressibility(self, pressure: float) -> float:
        """-d ln V / dP, volume / energy.

        Args:
            pressure: Energy / volume.
        """
        x = self.log_volume(pressure)
        return -2.0 * _STEP / (self.pressure(x + _STEP) - self.pressure(x - _STEP))

    def volume_moments(self, pressure: float, box: tuple[float, float]) -> tuple[float, float]:
        """Mean and variance of V at constant pressure, with p(V) dV ~ exp(-(F + P V) / kT) dV cut off at the ends of a box.

        Args:
            pressure: Energy / volume.
            box: Lowest and highest ln(V / V0).
        """
        peak, base = self.volume(self.log_volume(pressure)), self.gibbs(pressure)

        def moment(power: int) -> float:
            def integrand(v: float) -> float:
                energy = self.free_energy(math.log(v / self.reference_volume)) + pressure * v - base
                return float((v - peak) ** power * np.exp(-energy / self.kt))

            ends = (self.volume(box[0]), self.volume(box[1]))
            return float(quad(integrand, *ends, points=[peak], limit=200, epsabs=1e-10, epsrel=1e-10)[0])

        zeroth, first, second = (moment(power) for power in range(3))
        return peak + first / zeroth, second / zeroth - (first / zeroth) ** 2
