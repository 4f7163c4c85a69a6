# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of Gibbs free energies and of a coexistence pressure over many synthetic data sets."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from lammps_bg.thermo.coexistence import crossing
from lammps_bg.thermo.gibbs import FreeEnergySurface
from lammps_bg.thermo.solvable_volume import VolumeCrystal

pytestmark = pytest.mark.physics
BOX = (-0.14, 0.18)
OPEN = VolumeCrystal(stiffness=60.0)
DENSE = VolumeCrystal(n_atoms=48, volume_per_atom=0.93, bulk_modulus=75.0, stiffness=90.0, offset=-0.1)
NODES = (np.mean(BOX) + 0.5 * np.ptp(BOX) * np.cos(np.pi * (np.arange(9) + 0.5) / 9))[:, None]
N_SETS = 200


def surface_of(crystal, rng, n_repeats):
    """Data whose errors are common to all points of a repeat, but for little that differs from point to point."""
    common = 0.6 * rng.standard_normal((n_repeats, 1)) + 3.0 * rng.standard_normal((n_repeats, 1)) * NODES[:, 0]
    own = 0.05 * rng.standard_normal((n_repeats, len(NODES)))
    values = np.array([crystal.free_energy(v) for v in NODES[:, 0]]) + common + own
    # Degree 6: its own error is far below that of the noise
    return FreeEnergySurface.fit(NODES, values, reference_volume=crystal.reference_volume, kt=crystal.kt, box=[BOX], degree=6)


def assert_covers(inside, n):
    """The number of 95 % intervals that hold the exact value, in its binomial range of probability 1 - 2e-5."""
    low, high = binom.ppf(1e-5, n, 0.95), binom.isf(1e-5, n, 0.95)
    assert low <= inside <= high, f"{inside} of {n}, expected {low:.0f} to {high:.0f}"


@pytest.mark.parametrize("n_repeats", [4, 10])
def test_intervals_of_one_crystal_cover(n_repeats):
    """Five quantities at two numbers of repeats: false alarm below 2e-4 in all, also for intervals that are too wide."""
    rng, pressure = np.random.default_rng(100 + n_repeats), 1.0
    volume = OPEN.volume(OPEN.log_volume(pressure))
    mean, variance = OPEN.volume_moments(pressure, BOX)
    exact = (OPEN.gibbs(pressure), volume, OPEN.compressibility(pressure), mean, variance)
    inside = np.zeros(5, dtype=int)
    for _ in range(N_SETS):
        point = surface_of(OPEN, rng, n_repeats).gibbs(pressure)
        found = (point.free_energy, point.volume, point.compressibility, point.mean_volume, point.volume_variance)
        inside += [low < value < high for value, (low, high) in zip(exact, (e.interval for e in found), strict=True)]
    for count in inside:
        assert_covers(count, N_SETS)


@pytest.mark.parametrize("n_repeats", [4, 10])
def test_intervals_of_a_coexistence_pressure_cover(n_repeats):
    """From free energies of two crystals to the pressure of equal Gibbs free energy per atom: false alarm 2e-5 for each case."""
    rng = np.random.default_rng(200 + n_repeats)
    exact = brentq(lambda p: OPEN.gibbs(p) / OPEN.n_atoms - DENSE.gibbs(p) / DENSE.n_atoms, -1.0, 10.0, xtol=1e-13)
    pressures = np.linspace(exact - 2.0, exact + 2.0, 6)
    inside = 0
    for _ in range(N_SETS):
        first, second = surface_of(OPEN, rng, n_repeats), surface_of(DENSE, rng, n_repeats)
        table = first.gibbs_repeats(pressures) / OPEN.n_atoms - second.gibbs_repeats(pressures) / DENSE.n_atoms
        (root,) = crossing(pressures, table, rng, n_bootstraps=400).roots
        low, high = root.estimate.interval
        inside += low < exact < high
    assert_covers(inside, N_SETS)
