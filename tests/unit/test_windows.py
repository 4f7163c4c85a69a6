# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows between springs and potential: nothing to add where they overlap, and an end of adding everywhere."""

import math

import numpy as np
import pytest

from lammps_bg.thermo import windows
from lammps_bg.thermo.two_sided import overlap
from lammps_bg.thermo.weights import EstimateError


def gaussian_windows(springs, modes):
    """du of independent oscillators that stiffen from `springs` to `modes` (beta = 1)."""

    def sample(coupling, n, rng):
        x = rng.normal(size=(n, len(modes))) / np.sqrt((1.0 - coupling) * springs + coupling * modes)
        return 0.5 * x**2 @ (modes - springs)

    return sample


def walls(coupling, n, rng):
    """100 atoms in wells whose potential has a core at 3.5 amplitudes: du has a heavy tail and is infinite beyond the core."""
    return cores(3.5, coupling, n, rng)


def cores(reach, coupling, n, rng):
    grid = np.linspace(-6.0, 0.999 * reach, 4000)
    du = 1.0 / (1.0 - grid / reach) ** 12 - 1.0
    p = np.exp(-0.5 * grid**2 - coupling * du)
    outside = math.sqrt(0.5 * math.pi) * math.erfc(grid[-1] / math.sqrt(2.0)) / (grid[1] - grid[0]) if coupling == 0.0 else 0.0
    p, du = np.append(p, outside), np.append(du, np.inf)
    return du[rng.choice(len(p), size=(n, 100), p=p / p.sum())].sum(1)


def soft_end(coupling, n, rng):
    """Width of du a hundred times larger at the potential's end: modes that the springs hold and the potential hardly does."""
    return gaussian_windows(np.full(300, 1.0), np.full(300, 1e-2))(coupling, n, rng)


SYSTEMS = {
    "equal": gaussian_windows(np.ones(50), np.ones(50)),
    "mild": gaussian_windows(np.ones(300), np.full(300, 1.5)),
    "broad": gaussian_windows(np.ones(300), np.geomspace(0.2, 20.0, 300)),
    "soft end": soft_end,
    "cores": walls,
}


def placed(sample, lambdas, rounds=15):
    rng, sets = np.random.default_rng(1), {}
    for _ in range(rounds):
        for coupling in set(lambdas) - set(sets):
            sets[coupling] = sample(coupling, 400, rng)
        new = windows.to_insert(lambdas, [sets[x] for x in lambdas])
        if not new:
            return lambdas, [sets[x] for x in lambdas]
        assert new == sorted(set(new) - set(lambdas))
        assert lambdas[0] < new[0] <= new[-1] < lambdas[-1]
        lambdas = sorted([*lambdas, *new])
    raise AssertionError(f"no end after {rounds} rounds: {lambdas}")


@pytest.mark.parametrize(("name", "most"), [("equal", 2), ("mild", 12), ("broad", 30), ("soft end", 60), ("cores", 60)])
def test_adding_windows_ends_with_neighbours_that_overlap(name, most):
    for start in ([0.0, 1.0], windows.initial_windows()):
        lambdas, sets = placed(SYSTEMS[name], start)
        assert windows.neighbour_overlaps(lambdas, sets).min() >= windows.HEALTHY_OVERLAP
        assert len(lambdas) <= max(most, len(start))


def test_springs_too_soft_for_the_potential_end_as_well():
    """All frames of the springs have atoms in each other's cores: no number of windows helps, and the overlap stays zero."""
    lambdas, sets = placed(lambda *args: cores(0.5, *args), [0.0, 1.0])
    overlaps = windows.neighbour_overlaps(lambdas, sets)
    assert overlaps[0] == 0.0
    assert overlaps[1:].min() >= windows.HEALTHY_OVERLAP


def test_overlap_of_neighbours_is_that_of_their_weights():
    """Reduced potentials of windows differ by (lambda' - lambda) du."""
    rng = np.random.default_rng(0)
    du = [rng.normal(3.0, 2.0, 500), rng.normal(1.0, 2.0, 400)]
    expected = overlap(-0.5 * du[0], -0.5 * du[1])
    assert windows.neighbour_overlaps([0.2, 0.7], du)[0] == expected


def test_pieces_of_equal_length():
    """Overlap missing: constant width gives equal pieces; a width that grows gives windows closer to where it is large."""
    rng = np.random.default_rng(0)

    def gap(low, high):
        return windows.to_insert([0.0, 1.0], [rng.normal(5e3, low, 2000), rng.normal(-5e3, high, 2000)])

    np.testing.assert_allclose(gap(3.0, 3.0), np.arange(1, 3) / 3, atol=0.02)
    np.testing.assert_allclose(gap(20.0, 20.0), np.arange(1, 5) / 5, atol=0.02)
    towards_one, towards_zero = gap(1.0, 100.0), gap(100.0, 1.0)
    assert towards_one[0] > 0.5 > towards_zero[-1]
    np.testing.assert_allclose(towards_one, 1.0 - np.array(towards_zero[::-1]), atol=0.03)


def test_only_the_gaps_that_need_it():
    rng = np.random.default_rng(0)
    du = [rng.normal(m, 1.0, 500) for m in (40.0, 0.3, 0.0, -0.3)]
    new = windows.to_insert([0.0, 0.4, 0.7, 1.0], du)
    assert new
    assert all(0.0 < x < 0.4 for x in new)


def test_samples_without_a_finite_energy_at_the_springs():
    new = windows.to_insert([0.0, 1.0], [np.full(100, np.inf), np.random.default_rng(0).normal(size=100)])
    assert new
    assert 0.0 < new[0] < 0.2


def test_gaps_that_are_too_narrow_are_left():
    low = 0.5
    high = low + 1.5 * windows.SMALLEST_GAP
    assert windows.to_insert([low, high], [np.linspace(1e7, 2e7, 50), np.linspace(-2e7, -1e7, 50)]) == []


def test_initial_windows():
    lambdas = windows.initial_windows(5)
    assert lambdas == [0.0, 0.0625, 0.25, 0.5625, 1.0]
    with pytest.raises(EstimateError, match="at least 2 windows"):
        windows.initial_windows(1)


@pytest.mark.parametrize(
    ("lambdas", "du"),
    [
        ([0.0], [[1.0, 2.0]]),
        ([0.0, 0.0], [[1.0, 2.0]] * 2),
        ([1.0, 0.0], [[1.0, 2.0]] * 2),
        ([0.0, 1.0], [[1.0, 2.0]]),
        ([0.0, 1.0], [[1.0, 2.0], [1.0, np.inf]]),
        ([0.0, 1.0], [[1.0, np.nan], [1.0, 2.0]]),
        ([0.0, 1.0], [[1.0], [1.0, 2.0]]),
    ],
)
def test_what_is_refused(lambdas, du):
    with pytest.raises(EstimateError, match="expected .* (lambdas|finite energy differences)"):
        windows.to_insert(lambdas, du)
