# SPDX-License-Identifier: GPL-2.0-or-later
"""Springs with their centre integrated out: the integral, the density, and the split that makes the lambda windows exact."""

import math

import numpy as np
import pytest
from scipy.integrate import dblquad, quad

from lammps_bg.thermo.free_energy import absolute_constant, einstein_reference
from lammps_bg.thermo.solvable import HarmonicCrystal, spring_stiffness
from lammps_bg.thermo.springs import SpringCrystal, stiffness_from_displacements
from lammps_bg.thermo.weights import EstimateError

BETA = 3.0
UNEQUAL = np.array([2.0, 5.0, 0.7])


def rng(seed=0):
    return np.random.default_rng(seed)


def test_equal_springs_are_the_einstein_crystal():
    n, stiffness, volume, scale = 32, 40.0, 25.0, 0.8
    crystal = SpringCrystal(np.full(n, stiffness), BETA)
    expected = einstein_reference(n, volume, 1.0 / math.sqrt(BETA * stiffness), scale)
    assert -crystal.log_integral / n + absolute_constant(n, volume, scale) == pytest.approx(expected, abs=1e-12)
    assert crystal.log_integral == pytest.approx(0.5 * (3 * n - 3) * math.log(2.0 * math.pi / (BETA * stiffness)), abs=1e-10)


def test_integral_of_two_atoms():
    """By quadrature over the one orthonormal coordinate y of each direction, u = (y, -y) / sqrt 2."""
    crystal = SpringCrystal([1.3, 6.0], BETA)

    def boltzmann(y):
        u = np.zeros((1, 2, 3))
        u[0, :, 0] = np.array([y, -y]) / math.sqrt(2.0)
        return math.exp(-BETA * crystal.energies(u)[0])

    assert 3.0 * math.log(quad(boltzmann, -12.0, 12.0)[0]) == pytest.approx(crystal.log_integral, abs=1e-9)


def test_integral_of_three_atoms():
    """By quadrature over the two orthonormal coordinates of each direction."""
    crystal = SpringCrystal(UNEQUAL, BETA)
    basis = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]])

    def boltzmann(y, z):
        u = np.zeros((1, 3, 3))
        u[0, :, 1] = np.array([y, z]) @ basis
        return math.exp(-BETA * crystal.energies(u)[0])

    area = dblquad(boltzmann, -9.0, 9.0, -9.0, 9.0, epsabs=1e-9)[0]
    assert 3.0 * math.log(area) == pytest.approx(crystal.log_integral, abs=1e-6)


def test_energies_know_no_shift_and_take_the_weighted_centre():
    crystal = SpringCrystal(UNEQUAL, BETA)
    u = rng().normal(size=(4, 3, 3))
    np.testing.assert_allclose(crystal.energies(u + [3.0, -2.0, 0.4]), crystal.energies(u), rtol=1e-12)
    centre = (UNEQUAL[:, None] * u[0]).sum(0) / UNEQUAL.sum()
    fixed = 0.5 * (UNEQUAL[:, None] * u[0] ** 2).sum()
    assert crystal.energies(u)[0] == pytest.approx(fixed - 0.5 * UNEQUAL.sum() * centre @ centre, rel=1e-12)


def stiffness_matrix(stiffness):
    """U_s as force constants, [3N, 3N]."""
    return np.kron(np.diag(stiffness) - np.outer(stiffness, stiffness) / np.sum(stiffness), np.eye(3))


def test_samples_have_the_density_of_the_springs():
    """Covariance against that of the harmonic crystal of the same energy, 6 standard errors of the largest variance."""
    crystal, n = SpringCrystal(UNEQUAL, BETA), 40_000
    harmonic = HarmonicCrystal(stiffness_matrix(UNEQUAL), beta=BETA)
    u = crystal.sample(n, rng())
    np.testing.assert_allclose(u.mean(1), 0.0, atol=1e-13)
    np.testing.assert_allclose(crystal.energies(u), harmonic.energies_forces(u)[0], rtol=1e-9)
    assert harmonic.log_integral == pytest.approx(crystal.log_integral, abs=1e-10)
    exact = harmonic.from_modes(np.eye(6) / np.sqrt(BETA * harmonic.curvatures)).reshape(6, 9)
    covariance = exact.T @ exact
    found = u.reshape(n, 9).T @ u.reshape(n, 9) / n
    assert np.abs(found - covariance).max() < 6.0 * math.sqrt(2.0 / n) * covariance.max()
    assert crystal.energies(u).mean() == pytest.approx(6 / (2.0 * BETA), rel=6.0 * math.sqrt(2.0 / 6 / n))


@pytest.mark.parametrize("coupling", [0.0, 0.3, 0.9])
def test_a_window_of_fixed_springs_has_the_density_without_centre(coupling):
    """Fixed springs + potential over all 3N displacements: projected without centre of mass it is the Gaussian of U_s and U."""
    sites = np.array([[0.0, 0.0, 0.0], [1.1, 0.0, 0.1], [0.2, 1.0, 0.0]])
    potential = spring_stiffness(sites, 20.0 * np.eye(3), 3.0, longitudinal=4.0, transverse=1.0)
    fixed = (1.0 - coupling) * np.kron(np.diag(UNEQUAL), np.eye(3)) + coupling * potential
    project = np.eye(9) - np.kron(np.full((3, 3), 1.0 / 3.0), np.eye(3))
    covariance = project @ np.linalg.inv(fixed) @ project
    free = (1.0 - coupling) * stiffness_matrix(UNEQUAL) + coupling * potential
    np.testing.assert_allclose(covariance, np.linalg.pinv(free, hermitian=True), atol=1e-12)
    # and the integral over the centre is the same in every window but for the factor (1 - lambda)
    free_modes = np.linalg.eigvalsh(free)[3:]
    centre = 3.0 * math.log((1.0 - coupling) * UNEQUAL.sum() / 3.0)
    assert np.linalg.slogdet(fixed)[1] == pytest.approx(np.log(free_modes).sum() + centre, abs=1e-9)


def test_stiffness_reproduces_the_displacements():
    """6 standard errors of the mean square."""
    u = SpringCrystal(np.full(10, 7.0), BETA).sample(20_000, rng())
    measured = np.square(u).sum(2).mean()
    assert stiffness_from_displacements(measured, 10, BETA) == pytest.approx(7.0, rel=6.0 * math.sqrt(2.0 / 27 / 20_000))


def test_stiffness_of_types_comes_in_their_order():
    found = stiffness_from_displacements([0.01, 0.04], 1000, BETA)
    assert found[0] == pytest.approx(4.0 * found[1])


@pytest.mark.parametrize("stiffness", [[1.0], [1.0, 0.0], [1.0, -2.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_springs_that_are_refused(stiffness):
    with pytest.raises(EstimateError, match="2 positive spring constants"):
        SpringCrystal(stiffness, BETA)


@pytest.mark.parametrize(
    ("mean_square", "n_atoms", "beta"), [([0.0, 1.0], 4, 1.0), ([np.inf], 4, 1.0), ([1.0], 1, 1.0), ([1.0], 4, 0.0)]
)
def test_displacements_that_are_refused(mean_square, n_atoms, beta):
    with pytest.raises(EstimateError, match="positive mean square displacements"):
        stiffness_from_displacements(mean_square, n_atoms, beta)
