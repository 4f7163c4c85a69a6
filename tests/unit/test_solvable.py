# SPDX-License-Identifier: GPL-2.0-or-later
"""Solvable crystals: forces, densities and exact values against independent arithmetic."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from lammps_bg.errors import CrystalError, StateError
from lammps_bg.thermo.free_energy import einstein_reference
from lammps_bg.thermo.solvable import AnharmonicCrystal, EinsteinCrystal, HarmonicCrystal, spring_stiffness

FCC = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) * 0.75
CELL = 1.5 * np.eye(3)
BETA = 8.0


def generator(seed=0):
    return np.random.default_rng(seed)


def harmonic(beta=BETA, static_energy=1.5):
    return HarmonicCrystal(spring_stiffness(FCC, CELL, 1.2), beta=beta, static_energy=static_energy)


CRYSTALS = {
    "einstein": lambda beta: EinsteinCrystal(4, 0.1 * math.sqrt(BETA / beta), beta=beta),
    "harmonic": harmonic,
    "soft": lambda beta: AnharmonicCrystal(harmonic(beta), strength=1.5, width=0.3),
    "stiff": lambda beta: AnharmonicCrystal(harmonic(beta), strength=-0.6, width=0.3),
}


@pytest.fixture(params=CRYSTALS.values(), ids=CRYSTALS.keys())
def make(request):
    return request.param


def test_forces_are_minus_the_gradient(make):
    crystal, rng = make(BETA), generator()
    u = crystal.sample(3, rng) + 0.2
    forces, step = crystal.energies_forces(u)[1], 1e-5
    for _ in range(5):
        direction = rng.normal(size=u.shape)
        up, down = (crystal.energies_forces(u + sign * step * direction)[0] for sign in (1, -1))
        np.testing.assert_allclose(-(up - down) / (2 * step), (forces * direction).sum((1, 2)), rtol=1e-6, atol=1e-7)


def test_a_shift_changes_nothing_and_forces_add_to_zero(make):
    crystal = make(BETA)
    u = crystal.sample(4, generator())
    energies, forces = crystal.energies_forces(u)
    shifted = crystal.energies_forces(u + [3.0, -1.0, 0.5])
    np.testing.assert_allclose(shifted[0], energies, atol=1e-10)
    np.testing.assert_allclose(shifted[1], forces, atol=1e-10)
    np.testing.assert_allclose(forces.sum(1), 0.0, atol=1e-12)
    np.testing.assert_allclose(u.mean(1), 0.0, atol=1e-14)


def test_mean_energy_and_variance_of_samples(make):
    """40000 samples; the variance of the sample variance is estimated from four moments; z <= 4: false alarm 1.3e-4 each."""
    crystal, n = make(BETA), 40_000
    energies = crystal.energies_forces(crystal.sample(n, generator(1)))[0]
    deviations = energies - crystal.mean_energy
    assert abs(deviations.mean()) < 4 * math.sqrt(crystal.energy_variance / n)
    assert abs((deviations**2).mean() - crystal.energy_variance) < 4 * (deviations**2).std() / math.sqrt(n)


def test_mean_energy_is_the_temperature_derivative_of_the_partition_function(make):
    """<U> = -d ln Z / d beta and Var U = d^2 ln Z / d beta^2 for one potential at three temperatures."""
    step = 1e-3
    low, middle, high = (make(BETA + sign * step).log_partition for sign in (-1, 0, 1))
    assert -(high - low) / (2 * step) == pytest.approx(make(BETA).mean_energy, rel=1e-6)
    assert (high - 2 * middle + low) / step**2 == pytest.approx(make(BETA).energy_variance, rel=1e-4)


def test_samples_have_the_stated_density():
    """Reweighting exact samples of one crystal to the density of another gives a mean weight of one, z <= 4: 1.3e-4 in all."""
    soft, rng = CRYSTALS["soft"](BETA), generator(2)
    reference = harmonic()
    for source, target in [(soft, reference), (reference, CRYSTALS["stiff"](BETA))]:
        u = source.sample(20_000, rng)
        w = np.exp(target.log_prob(u) - source.log_prob(u))
        assert w.std() < 20.0
        assert abs(w.mean() - 1.0) < 4 * w.std() / math.sqrt(len(w))


def test_free_energy_of_springs_of_one_strength_is_the_einstein_crystal():
    n, k = 5, 30.0
    stiffness = k * (np.eye(3 * n) - np.kron(np.full((n, n), 1 / n), np.eye(3)))
    crystal = HarmonicCrystal(stiffness, beta=2.0, static_energy=0.7)
    exact = einstein_reference(n, 9.0, 1 / math.sqrt(2.0 * k), 1.3) + 2.0 * 0.7 / n
    assert crystal.free_energy_per_atom(9.0, 1.3) == pytest.approx(exact, abs=1e-12)
    same = EinsteinCrystal(n, 1 / math.sqrt(2.0 * k), beta=2.0)
    u = crystal.sample(10, generator())
    np.testing.assert_allclose(crystal.log_prob(u), same.log_prob(u), atol=1e-11)
    assert same.free_energy_per_atom(9.0, 1.3) == pytest.approx(exact - 2.0 * 0.7 / n, abs=1e-12)


def test_log_integral_is_the_determinant_on_the_subspace():
    stiffness = BETA * spring_stiffness(FCC, CELL, 1.2)
    basis = np.linalg.qr(np.kron(np.array([[1, 1, 1], [-1, 1, 1], [0, -2, 1], [0, 0, -3.0]]), np.eye(3)))[0]
    log_det = np.linalg.slogdet(basis.T @ stiffness @ basis)[1]
    assert harmonic().log_integral == pytest.approx(0.5 * (9 * math.log(2 * math.pi) - log_det), abs=1e-12)


@pytest.mark.parametrize("name", ["soft", "stiff"])
def test_anharmonic_partition_function_by_direct_integration(name):
    """One mode integrated over its own coordinate q, with no use of the map."""
    crystal = CRYSTALS[name](BETA)
    scale = 1 / math.sqrt(BETA * crystal.harmonic.curvatures[0])

    def boltzmann(q):
        coordinates = np.zeros((1, 9))
        coordinates[0, 0] = q * scale
        energy = crystal.energies_forces(crystal.harmonic.from_modes(coordinates))[0][0]
        return math.exp(-BETA * (energy - crystal.harmonic.static_energy))

    one_mode = math.log(quad(boltzmann, -12, 12, limit=200)[0] / math.sqrt(2 * math.pi))
    assert crystal.log_partition == pytest.approx(crystal.harmonic.log_partition + 9 * one_mode, abs=1e-7)
    assert abs(9 * one_mode) > 1.0


@pytest.mark.parametrize("strength", [-0.99, -0.5, 0.3, 10.0])
def test_map_and_its_inverse_agree(strength):
    crystal = AnharmonicCrystal(harmonic(), strength=strength, width=0.2)
    z = 3.0 * harmonic().sample(50, generator())
    u, log_det = crystal.map(z)
    np.testing.assert_allclose(crystal.energies_forces(u)[0], harmonic().energies_forces(z)[0], rtol=1e-9)
    t = harmonic().to_modes(z) / crystal.lengths
    np.testing.assert_allclose(log_det, np.log1p(strength / np.cosh(t) ** 2).sum(1), rtol=1e-9, atol=1e-9)


def test_spring_constants_are_those_of_explicit_springs():
    """A 2 x 2 x 2 simple cubic cell joins each pair of neighbours twice, once across the boundary."""
    sites = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], float)
    stiffness = spring_stiffness(sites, 2 * np.eye(3), 1.1, longitudinal=3.0, transverse=0.5)
    block = stiffness.reshape(8, 3, 8, 3)[0, :, 4]
    np.testing.assert_allclose(block, -2 * np.diag([3.0, 0.5, 0.5]), atol=1e-14)
    np.testing.assert_allclose(stiffness.reshape(8, 3, 8, 3)[0, :, 0], 8.0 * np.eye(3), atol=1e-14)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: HarmonicCrystal(np.eye(6)), "acoustic sum rule"),
        (lambda: HarmonicCrystal(np.zeros((7, 7))), "shape"),
        (lambda: HarmonicCrystal(np.full((6, 6), np.nan)), "symmetric"),
        (lambda: HarmonicCrystal(-spring_stiffness(FCC, CELL, 1.2)), "mechanically stable"),
        (lambda: HarmonicCrystal(spring_stiffness(FCC, CELL, 0.1)), "mechanically stable"),
        (lambda: EinsteinCrystal(1, 0.1), "at least 2 atoms"),
        (lambda: AnharmonicCrystal(harmonic(), strength=-1.0, width=1.0), "above -1"),
    ],
)
def test_unusable_crystals_are_refused(build, sentence):
    with pytest.raises(CrystalError, match=sentence):
        build()


def test_unusable_temperature_is_refused():
    with pytest.raises(StateError, match="positive inverse temperature"):
        EinsteinCrystal(4, 0.1, beta=0.0)
