# SPDX-License-Identifier: GPL-2.0-or-later
"""MBAR against pymbar, against BAR, and against Gaussians whose free energies are known."""

import numpy as np
import pytest

from lammps_bg.thermo.multistate import grouped, mbar
from lammps_bg.thermo.quiet_pymbar import quiet_pymbar
from lammps_bg.thermo.repeats import pseudo_values
from lammps_bg.thermo.two_sided import overlap, two_sided
from lammps_bg.thermo.weights import EstimateError

CENTRES = np.array([0.0, 1.0, 2.2, 3.0])
OFFSETS = np.array([0.0, 5.0, -2.0, 1.0])


def oscillators(n_k, seed=0, centres=CENTRES):
    """Reduced potentials (x - centre)^2 / 2 + offset; the free energies differ by the offsets."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(centre, size=n) for centre, n in zip(centres, n_k, strict=True)])
    return 0.5 * (x - centres[:, None]) ** 2 + OFFSETS[:, None]


def sources(n=4, seed=0):
    return [np.random.default_rng([seed, state]) for state in range(n)]


def solved(u, n_k):
    with quiet_pymbar() as pymbar:
        return pymbar.MBAR(u, n_k, relative_tolerance=1e-12).f_k


def test_free_energies_are_right():
    """Each |z| <= 4.5 with the bootstrap error: false alarm below 1e-5 each."""
    result = mbar(oscillators([2000, 1500, 1000, 2000]), [2000, 1500, 1000, 2000], sources())
    assert result.free_energies[0] == result.errors[0] == 0.0
    z = (result.free_energies - OFFSETS)[1:] / result.errors[1:]
    assert np.abs(z).max() < 4.5
    assert result.errors.max() < 0.1
    np.testing.assert_allclose(result.weights.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(result.overlap_matrix.sum(1), 1.0, atol=1e-4)
    last = result.difference(0, -1)
    assert last.value == result.free_energies[3]
    assert last.error == pytest.approx(result.errors[3])
    assert last.interval[0] < last.value < last.interval[1]
    assert last.n == 6500
    assert result.difference(3, 1).value == pytest.approx(result.free_energies[1] - result.free_energies[3])


@pytest.mark.parametrize("n_k", [[40, 30, 20, 40], [40, 0, 20, 40], [0, 40, 40, 0]])
def test_value_and_replicas_are_those_of_pymbar(n_k):
    u = oscillators(n_k)
    result = mbar(u, n_k, sources(), n_bootstraps=8)
    np.testing.assert_allclose(result.free_energies, solved(u, n_k) - solved(u, n_k)[0], atol=1e-5)
    picks = [rng.integers(0, n, size=(8, n)) if n else np.zeros((8, 0), int) for rng, n in zip(sources(), n_k, strict=True)]
    starts = np.cumsum([0, *n_k[:-1]])
    for index in range(8):
        frames = np.concatenate([start + pick[index] for start, pick in zip(starts, picks, strict=True)])
        expected = solved(u[:, frames], n_k)
        np.testing.assert_allclose(result.replicas[index], expected - expected[0], atol=1e-5)


def test_two_states_are_bar_replica_by_replica():
    """Flow and target as two states, u_0 = -log q and u_1 = beta U; with the same sources the replicas are joint."""
    rng = np.random.default_rng(2)
    x = np.concatenate((rng.normal(size=300), rng.normal(1.0, 1.3, size=200)))
    u = np.stack((0.5 * x**2, 0.5 * ((x - 1.0) / 1.3) ** 2 + 4.0))
    log_w = u[0] - u[1]
    both = two_sided(log_w[:300], log_w[300:], tuple(sources(2)), n_bootstraps=50)
    result = mbar(u, [300, 200], sources(2), n_bootstraps=50)
    assert result.free_energies[1] == pytest.approx(both.bar.value, abs=1e-6)
    np.testing.assert_allclose(result.replicas[:, 1], both.replicas["bar"], atol=1e-6)
    assert result.neighbour_overlaps[0] == pytest.approx(both.overlap, rel=1e-5)
    eigenvalues = np.linalg.eigvals(result.overlap_matrix)
    assert 1.0 - eigenvalues.real.min() == pytest.approx(both.overlap, rel=1e-5)


def test_neighbour_overlaps_are_those_of_pairs():
    n_k = [3000, 0, 3000, 3000]
    u = oscillators(n_k)
    result = mbar(u, n_k, sources(), n_bootstraps=2)
    pairs = [((0, 2), slice(0, 3000), slice(3000, 6000)), ((2, 3), slice(3000, 6000), slice(6000, 9000))]
    for found, ((low, high), first, second) in zip(result.neighbour_overlaps, pairs, strict=True):
        log_w = u[low] - u[high]
        assert found == pytest.approx(overlap(log_w[first], log_w[second]), rel=0.05)


def test_infinite_potentials_are_weights_of_zero():
    u = oscillators([200, 200, 200, 200])
    high = u.copy()
    walls = u[0] > 3.0
    walls[:200] = False
    u[0, walls], high[0, walls] = np.inf, 1e4
    found, expected = (mbar(values, [200] * 4, sources(), n_bootstraps=20) for values in (u, high))
    np.testing.assert_allclose(found.free_energies, expected.free_energies, atol=1e-6)
    np.testing.assert_allclose(found.errors, expected.errors, rtol=1e-4)
    assert (found.weights[0, walls] == 0.0).all()


def test_a_shift_of_all_states_changes_nothing():
    u = oscillators([100] * 4)
    found, expected = (mbar(values, [100] * 4, sources(), n_bootstraps=10) for values in (u - 1e5, u))
    np.testing.assert_allclose(found.free_energies, expected.free_energies, atol=1e-6)


@pytest.mark.parametrize("distance", [20.0, 200.0])
def test_states_apart_are_no_number(distance):
    """pymbar says 0.0 +- nan here."""
    u = oscillators([100] * 4, centres=np.array([0.0, 1.0, distance, distance + 1.0]))
    with pytest.raises(EstimateError, match=r"between states 1 and 2; add states|add states between those that do not overlap"):
        mbar(u, [100] * 4, sources(), n_bootstraps=10)


def test_what_is_refused():
    u, n_k = oscillators([20] * 4), [20] * 4
    bad = u.copy()
    bad[2, 7] = np.nan
    own = u.copy()
    own[0, 3] = np.inf
    for values, numbers, rngs, sentence in [
        (bad, n_k, sources(), "first in state 2, frame 7"),
        (own, n_k, sources(), r"\+inf at frame 3"),
        (u, [20, 20, 20, 19], sources(), "n the sum of n_k"),
        (u, [39, 1, 20, 20], sources(), "0 or at least 2"),
        (u[:1, :20], [20], sources(1), "K above 1"),
        (u, n_k, sources(3), "for each of 4 states, got 3"),
    ]:
        with pytest.raises(EstimateError, match=sentence):
            mbar(values, numbers, rngs, n_bootstraps=10)


# ---- groups of frames


def left_out(u, n_k, groups, group):
    """MBAR without a group of frames."""
    left, ends = groups != group, np.cumsum([0, *n_k])
    fewer = [int(left[low:high].sum()) for low, high in zip(ends[:-1], ends[1:], strict=True)]
    return left, grouped(u[:, left], fewer, np.arange(left.sum()) % 2)


def test_a_group_left_out_is_as_if_it_never_was():
    """Free energies and means, of a state that is not sampled, too, against MBAR without those frames."""
    n_k, n_groups = [400, 0, 300, 400], 5
    u = oscillators(n_k)
    groups = np.concatenate([np.arange(n) % n_groups for n in n_k])
    found, values = grouped(u, n_k, groups), np.sin(np.arange(u.shape[1]))
    np.testing.assert_allclose(found.free_energies, solved(u, n_k), atol=1e-6)
    np.testing.assert_allclose(found.weights.sum(1), 1.0, atol=1e-12)
    without = [left_out(u, n_k, groups, group) for group in range(n_groups)]
    expected = pseudo_values(found.free_energies, np.array([alone.free_energies for _, alone in without]))
    np.testing.assert_allclose(found.free_energy_repeats(), expected, atol=1e-5)
    means = np.array([alone.weights[1] @ values[left] for left, alone in without])
    expected = pseudo_values(np.asarray(found.weights[1] @ values), means)
    np.testing.assert_allclose(found.mean_repeats(1, values), expected, atol=1e-6)


def test_the_error_from_groups_is_that_of_the_bootstrap():
    """Forty groups know their error to 11 %: apart by less than four of these."""
    n_k = [1000, 800, 800, 1000]
    u = oscillators(n_k)
    groups = np.concatenate([np.arange(n) % 40 for n in n_k])
    errors = grouped(u, n_k, groups).free_energy_repeats().std(0, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(errors[1:], mbar(u, n_k, sources()).errors[1:], rtol=0.45)


def test_overlaps_of_states_that_are_not_sampled():
    """From frames of others, those of two normal densities at a distance of one; and of a state with itself."""
    n_k = [4000, 0, 4000, 4000]
    found = grouped(oscillators(n_k), n_k, np.concatenate([np.arange(n) % 4 for n in n_k]))
    x = np.linspace(-12.0, 12.0, 20001)
    p, q = np.exp(-0.5 * x**2), np.exp(-0.5 * (x - 1.0) ** 2)
    exact = np.sum(2 * p * q / (p + q)) / np.sum(p)
    assert found.overlap(0, 1) == pytest.approx(exact, abs=0.02)
    assert found.overlap(1, 1) == pytest.approx(1.0)


def test_values_without_a_number_have_no_weight():
    u, n_k = oscillators([50] * 4), [50] * 4
    found, values = grouped(u, n_k, np.arange(200) % 5), np.ones(200)
    values[:7] = np.nan
    np.testing.assert_allclose(found.mean_repeats(2, values), 1.0)
    assert np.isnan(found.mean_repeats(2, np.full(200, np.nan))).all()
