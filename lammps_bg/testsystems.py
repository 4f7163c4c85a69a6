# SPDX-License-Identifier: GPL-2.0-or-later
"""Crystals whose free energy is known exactly: to check an estimator, a base or a flow of one's own."""

from lammps_bg.thermo.solvable import AnharmonicCrystal, EinsteinCrystal, HarmonicCrystal, SolvableCrystal, spring_stiffness
from lammps_bg.thermo.solvable_volume import VolumeCrystal

__all__ = ["AnharmonicCrystal", "EinsteinCrystal", "HarmonicCrystal", "SolvableCrystal", "VolumeCrystal", "spring_stiffness"]
