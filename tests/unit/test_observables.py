# SPDX-License-Identifier: GPL-2.0-or-later
"""Weighted averages against exact values, pair counts against sums over images."""

import math

import numpy as np
import pytest

from lammps_bg.thermo import observables as ob
from lammps_bg.thermo.solvable import EinsteinCrystal
from lammps_bg.thermo.weights import EstimateError

TRICLINIC = np.array([[3.0, 0.0, 0.0], [1.4, 2.5, 0.0], [-1.2, 0.9, 2.8]])


def generator(seed=0):
    return np.random.default_rng(seed)


def einstein_weights(n, ratio, seed=0):
    """Samples of an Einstein crystal of amplitude 0.1 * ratio, weighted to amplitude 0.1."""
    target, source = EinsteinCrystal(6, 0.1), EinsteinCrystal(6, 0.1 * ratio)
    u = source.sample(n, generator(seed))
    return target, u, target.log_prob(u) - source.log_prob(u)


def test_equal_weights_give_the_textbook_error_of_the_mean():
    values = generator().normal(size=(50, 2, 3))
    mean, error = ob.weighted_mean(values)
    np.testing.assert_allclose(mean, values.mean(0), atol=1e-14)
    np.testing.assert_allclose(error, values.std(0, ddof=1) / math.sqrt(50), rtol=1e-12)


def test_reweighted_energy_is_the_exact_one():
    """z <= 4: false alarm 6e-5; the raw mean is more than 10 errors away."""
    target, u, log_w = einstein_weights(20_000, 1.2)
    energies = target.energies_forces(u)[0]
    result = ob.mean_potential_energy(energies, 6, log_w)
    assert abs(result.value - target.mean_energy / 6) < 4 * result.error
    assert result.error < 0.02
    raw = ob.mean_potential_energy(energies, 6)
    assert abs(raw.value - target.mean_energy / 6) > 10 * raw.error


def test_errors_of_weighted_means_mean_what_they_say():
    """300 repetitions with 500 samples each: spread of the pulls and their mean, z <= 4: false alarm 1.3e-4."""
    pulls = []
    for seed in range(300):
        target, u, log_w = einstein_weights(500, 1.1, seed)
        result = ob.mean_potential_energy(target.energies_forces(u)[0], 6, log_w)
        pulls.append((result.value - target.mean_energy / 6) / result.error)
    assert abs(np.std(pulls) - 1.0) < 4 / math.sqrt(600)
    assert abs(np.mean(pulls)) < 4 / math.sqrt(300)


def test_samples_of_weight_zero_may_hold_anything():
    values = np.array([1.0, 2.0, np.inf, np.nan, 3.0])
    log_w = np.array([0.0, 0.0, -np.inf, -np.inf, 0.0])
    result = ob.mean_observable(values, log_w)
    assert result.value == pytest.approx(2.0)
    assert result.error == pytest.approx(1 / math.sqrt(3))


@pytest.mark.parametrize(
    ("values", "log_w", "sentence"),
    [
        ([1.0], None, "at least 2 samples"),
        ([1.0, 2.0], [0.0, -np.inf], "at least 2 samples"),
        ([1.0, np.nan], None, "finite values"),
        ([1.0, 2.0, 3.0], [0.0, 0.0], "each of 3 samples, got 2"),
        ([2.0, 2.0, 2.0], None, "error above zero"),
    ],
)
def test_no_mean_without_statistics(values, log_w, sentence):
    with pytest.raises(EstimateError, match=sentence):
        ob.mean_observable(values, log_w)


def test_mean_square_displacement_of_the_einstein_crystal():
    """Exact value 3 s^2 (1 - 1/N) for each site; z <= 4 seven times: false alarm 4e-4."""
    _, u, log_w = einstein_weights(20_000, 1.2, seed=1)
    result = ob.mean_square_displacement(u, log_w)
    exact = 3 * 0.01 * 5 / 6
    assert abs(result.mean.value - exact) < 4 * result.mean.error
    assert np.all(np.abs(result.sites - exact) < 4 * result.errors)
    assert np.all(result.errors < 0.05 * exact)
    assert result.sites.mean() == pytest.approx(result.mean.value, rel=1e-12)


def brute_force(frame, cell, edges, first, second):
    """Distances to all images in a block of cells large enough for the last edge and the spread of the atoms."""
    shifts = np.array([[i, j, k] for i in range(-8, 9) for j in range(-8, 9) for k in range(-8, 9)]) @ cell
    counts = np.zeros(len(edges) - 1)
    for i in first:
        for j in second:
            distance = np.linalg.norm(frame[j] + shifts - frame[i], axis=1)
            counts += np.histogram(distance[distance > 1e-9] if i == j else distance, bins=edges)[0]
    return counts


@pytest.mark.parametrize("cell", [TRICLINIC, 3.0 * np.eye(3)], ids=["triclinic", "cubic"])
@pytest.mark.parametrize("reach", [1.0, 5.0], ids=["inside half the cell", "beyond the cell"])
def test_pair_counts_equal_the_sum_over_images(cell, reach):
    rng = generator(3)
    frames = rng.normal(scale=2.0, size=(2, 5, 3))
    edges = np.linspace(0.0, reach, 12)
    counts = ob.pair_counts(frames, cell, edges)
    every = np.arange(5)
    np.testing.assert_array_equal(counts, [brute_force(frame, cell, edges, every, every) for frame in frames])


def test_pair_counts_do_not_change_with_images_and_origin():
    frames = generator(4).random((3, 20, 3)) @ TRICLINIC
    edges = np.linspace(0.1, 3.3, 30)
    moved = frames + generator(5).integers(-3, 4, (3, 20, 3)) @ TRICLINIC + [0.3, -7.0, 1.1]
    np.testing.assert_array_equal(ob.pair_counts(frames, TRICLINIC, edges), ob.pair_counts(moved, TRICLINIC, edges))


def test_shells_of_a_lattice_on_an_exact_cell_boundary():
    fcc = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2
    counts = ob.pair_counts(fcc[None], np.eye(3), np.array([0.0, 0.8, 1.1, 1.3, 1.5]))
    np.testing.assert_array_equal(counts[0] / 4, [12, 6, 24, 12])


def test_ideal_gas_has_a_distribution_of_one():
    """N/V is the reference, so g = 1 - 1/N without images of oneself; z <= 4 on 10 bins: false alarm 6e-4."""
    n, volume = 40, float(np.linalg.det(TRICLINIC))
    frames = generator(6).random((1500, n, 3)) @ TRICLINIC
    edges = np.linspace(0.0, 1.2, 11)
    result = ob.radial_distribution(ob.pair_counts(frames, TRICLINIC, edges), edges, volume, n_atoms=n)
    assert np.all(np.abs(result.g - (1 - 1 / n)) < 4 * result.errors)
    assert np.all(result.errors[3:] < 0.02)
    np.testing.assert_allclose(result.r, edges[:-1] + 0.06)


def test_reweighted_distribution_is_that_of_the_target():
    """Einstein samples of a wider amplitude, reweighted, against direct samples: z <= 4 on 20 bins, false alarm 1.3e-3."""
    target, wide, log_w = einstein_weights(3000, 1.2, seed=7)
    sites = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1]], float)
    cell, edges = 2.0 * np.eye(3), np.linspace(0.7, 1.3, 21)

    def distribution(u, weights=None):
        counts = ob.pair_counts(sites + u, cell, edges)
        return ob.radial_distribution(counts, edges, 8.0, n_atoms=6, log_w=weights)

    exact = distribution(target.sample(3000, generator(8)))

    def largest_z(result):
        return np.max(np.abs(result.g - exact.g) / np.hypot(result.errors, exact.errors))

    assert largest_z(distribution(wide, log_w)) < 4.0
    assert largest_z(distribution(wide)) > 4.0


@pytest.mark.parametrize(
    ("positions", "edges", "sentence"),
    [
        (np.zeros((2, 3)), [0.0, 1.0], "shape"),
        (np.full((1, 2, 3), np.nan), [0.0, 1.0], "finite positions"),
        (np.zeros((1, 2, 3)), [1.0, 1.0], "rising"),
        (np.zeros((1, 2, 3)), [1.0], "at least two"),
    ],
)
def test_bad_input_to_pair_counts_is_refused(positions, edges, sentence):
    with pytest.raises(EstimateError, match=sentence):
        ob.pair_counts(positions, np.eye(3), edges)
