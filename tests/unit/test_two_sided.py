# SPDX-License-Identifier: GPL-2.0-or-later
"""Two-sided estimates against pymbar, against brute force and against Gaussians of known overlap."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from lammps_bg.thermo import two_sided as ts
from lammps_bg.thermo.free_energy import tfep
from lammps_bg.thermo.quiet_pymbar import quiet_pymbar
from lammps_bg.thermo.verdict import judge_agreement, judge_overlap, paired_z, z_score
from lammps_bg.thermo.weights import EstimateError

LOG_Z = 3.0


def gaussians(distance, n_flow=400, n_target=300, seed=0):
    """Log-weights of q = N(0, 1) and p = Z N(distance, 1) on samples of both."""
    rng = np.random.default_rng(seed)

    def log_w(x):
        return LOG_Z + norm.logpdf(x, distance) - norm.logpdf(x)

    return log_w(rng.normal(size=n_flow)), log_w(rng.normal(distance, size=n_target))


def sources(seed=0):
    return tuple(np.random.default_rng([seed, side]) for side in range(2))


def pymbar_bar(flow, target):
    with quiet_pymbar() as pymbar:
        return pymbar.other_estimators.bar(-flow, target, relative_tolerance=1e-13)["Delta_f"]


@pytest.mark.parametrize("distance", [0.5, 2.0, 4.0])
def test_value_and_overlap_are_those_of_pymbar(distance):
    flow, target = gaussians(distance)
    result = ts.two_sided(flow, target, sources(), n_bootstraps=50)
    assert result.bar.value == pytest.approx(pymbar_bar(flow, target), abs=1e-9)
    with quiet_pymbar() as pymbar:
        expected = pymbar.other_estimators.bar_overlap(-flow, target)
    assert result.overlap == pytest.approx(expected, rel=1e-5)
    assert ts.overlap(flow, target) == result.overlap


def test_replicas_are_those_of_pymbar():
    """Each replica of the vectorised root against pymbar on the resampled arrays, with the same random numbers."""
    flow, target = gaussians(1.5, 60, 40)
    result = ts.two_sided(flow, target, sources(5), n_bootstraps=20)
    picks = [rng.integers(0, n, size=(20, n)) for rng, n in zip(sources(5), (60, 40), strict=True)]
    for index in range(20):
        f, t = flow[picks[0][index]], target[picks[1][index]]
        assert result.replicas["bar"][index] == pytest.approx(pymbar_bar(f, t), abs=1e-9)
        assert result.replicas["tfep"][index] == pytest.approx(-math.log(np.exp(f).mean()), abs=1e-10)
        assert result.replicas["tfep_reverse"][index] == pytest.approx(math.log(np.exp(-t).mean()), abs=1e-10)


def test_one_sided_parts_are_those_of_tfep():
    flow, target = gaussians(1.0)
    result = ts.two_sided(flow, target, sources(3), n_bootstraps=100)
    for found, alone in [
        (result.tfep, tfep(flow, sources(3)[0], n_bootstraps=100)),
        (result.tfep_reverse, ts.reverse_tfep(target, sources(3)[1], n_bootstraps=100)),
    ]:
        assert found.value == pytest.approx(alone.value, abs=1e-12)
        assert found.error == pytest.approx(alone.error, rel=1e-9)
        np.testing.assert_allclose(found.interval, alone.interval, atol=1e-10)
        assert found.n == alone.n


def test_all_three_find_the_exact_value():
    """Each |z| <= 4.5 with the bootstrap error: false alarm below 1e-5 each; the sign of the reverse one shows here."""
    flow, target = gaussians(1.0, 4000, 3000)
    result = ts.two_sided(flow, target, sources(), n_bootstraps=300)
    for name in ("tfep", "tfep_reverse", "bar"):
        estimate = getattr(result, name)
        assert abs(estimate.value + LOG_Z) < 4.5 * estimate.error < 0.2, name
    assert result.bar.error < min(result.tfep.error, result.tfep_reverse.error)


@pytest.mark.parametrize("distance", [0.7, 2.0, 3.5])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_overlap_is_the_integral(distance, share):
    """5 standard errors of a binomial-like sum."""
    flow, target = gaussians(distance, int(40_000 * share), int(40_000 * (1.0 - share)))
    exact = quad(
        lambda x: norm.pdf(x) * norm.pdf(x, distance) / (share * norm.pdf(x) + (1.0 - share) * norm.pdf(x, distance)), -10, 15
    )[0]
    assert ts.overlap(flow, target) == pytest.approx(exact, abs=5.0 * math.sqrt(exact / 8000))


def test_samples_of_infinite_energy_count():
    """Against the defining equation over all samples; leaving them out would be wrong by ln(n0 / n0')."""
    flow, target = gaussians(1.0, 300, 200)
    padded = np.concatenate(([-np.inf] * 100, flow))
    result = ts.two_sided(padded, target, sources(), n_bootstraps=50)
    log_ratio = math.log(len(target) / len(padded))

    def excess(difference):
        return expit(padded + difference + log_ratio).sum() - expit(-target - difference - log_ratio).sum()

    assert result.bar.value == pytest.approx(brentq(excess, -20.0, 20.0, xtol=1e-12), abs=1e-9)
    assert result.bar.value == pytest.approx(pymbar_bar(np.concatenate(([-500.0] * 100, flow)), target), abs=1e-9)
    assert result.bar.value - ts.two_sided(flow, target, sources(), n_bootstraps=2).bar.value > 0.1
    assert result.tfep.value == pytest.approx(-math.log(np.exp(flow).sum() / 400), abs=1e-12)
    assert result.bar.n == 600
    assert ts.overlap(padded, target) < ts.overlap(flow, target)


@pytest.mark.parametrize("shift", [1e5, -1e5])
def test_a_shift_of_the_energy_shifts_the_result(shift):
    flow, target = gaussians(1.0)
    plain = ts.two_sided(flow, target, sources(), n_bootstraps=100)
    moved = ts.two_sided(flow + shift, target + shift, sources(), n_bootstraps=100)
    for name in ("tfep", "tfep_reverse", "bar"):
        assert getattr(moved, name).value + shift == pytest.approx(getattr(plain, name).value, abs=1e-8)
        assert getattr(moved, name).error == pytest.approx(getattr(plain, name).error, rel=1e-6)
    assert moved.overlap == pytest.approx(plain.overlap, rel=1e-8)


def test_exchange_of_the_sides_changes_the_sign():
    flow, target = gaussians(1.5)
    plain = ts.two_sided(flow, target, sources(), n_bootstraps=2).bar.value
    assert ts.two_sided(-target, -flow, sources(), n_bootstraps=2).bar.value == pytest.approx(-plain, abs=1e-9)


def test_a_perfect_flow():
    result = ts.two_sided(np.full(50, 7.0), np.full(30, 7.0), sources(), n_bootstraps=20)
    assert result.overlap == pytest.approx(1.0, abs=1e-12)
    for name in ("tfep", "tfep_reverse", "bar"):
        assert getattr(result, name).value == pytest.approx(-7.0, abs=1e-12)
        assert 0.0 < getattr(result, name).error < 1e-12
    assert abs(result.z("tfep", "bar")) < 3.0


@pytest.mark.parametrize("gap", [60.0, 1e5, 1e10])
def test_no_overlap_is_no_number(gap):
    flow, target = gaussians(0.5)
    assert ts.overlap(flow - gap, target + gap) < 1e-20
    with pytest.raises(EstimateError, match="samples of flow and MD that overlap, got an overlap of"):
        ts.two_sided(flow - gap, target + gap, sources(), n_bootstraps=10)


def test_hopeless_flow_samples_do_not_stop_the_ratio():
    """Weights that span 1e6 kT, and one finite energy of 1e300: no overflow, and the rest as with weight zero."""
    flow, target = gaussians(1.0, 300, 200)
    spread = np.concatenate((flow, np.linspace(-1e6, -50.0, 99), [-1e300]))
    zeros = np.concatenate((flow, np.full(100, -np.inf)))
    found, expected = (ts.two_sided(x, target, sources(), n_bootstraps=50).bar for x in (spread, zeros))
    assert found.value == pytest.approx(expected.value, abs=1e-9)
    assert found.error == pytest.approx(expected.error, rel=1e-6)


@pytest.mark.parametrize(
    ("flow", "target", "sentence"),
    [
        ([0.0, np.nan], [0.0, 0.0], "finite or -inf"),
        ([0.0, np.inf], [0.0, 0.0], "finite or -inf"),
        ([-np.inf, -np.inf], [0.0, 0.0], "weight above zero"),
        ([0.0, 0.0], [0.0, np.inf], "got inf at frame 1"),
        ([0.0, 0.0], [np.nan, 0.0], "got nan at frame 0"),
        ([0.0, 0.0], [0.0, -np.inf], "got -inf at frame 1"),
        ([0.0, 0.0], [0.0], "at least 2 log-weights of MD frames"),
        ([0.0] + [-np.inf] * 50, [0.0] * 50, "every bootstrap replica, got 1"),
    ],
)
def test_what_is_refused(flow, target, sentence):
    with pytest.raises(EstimateError, match=sentence):
        ts.two_sided(flow, target, sources(), n_bootstraps=50)


def test_z_of_estimates_that_share_samples():
    """The joint bootstrap sees the correlation of BAR and perturbation; adding squared errors would hide a difference."""
    flow, target = gaussians(1.0, 2000, 300)
    result = ts.two_sided(flow, target, sources(), n_bootstraps=500)
    joint, independent = result.z("tfep", "bar"), z_score(result.tfep, result.bar)
    assert joint == -result.z("bar", "tfep")
    assert abs(joint) > 1.1 * abs(independent)
    spread = (result.replicas["tfep"] - result.replicas["bar"]).std(ddof=1)
    assert joint == pytest.approx((result.tfep.value - result.bar.value) / spread)
    assert paired_z(result.bar, result.bar, result.replicas["bar"], result.replicas["bar"]) == 0.0


def test_verdicts():
    assert judge_overlap(0.5, ("flow", "MD")).reliable
    for bad in (0.02, float("nan")):
        verdict = judge_overlap(bad, ("flow", "MD"))
        assert (verdict.colour, verdict.reliable) == ("red", False)
    first, second = (ts.reverse_tfep([0.0, 0.1, x], np.random.default_rng(0), n_bootstraps=50) for x in (0.2, 0.3))
    assert judge_agreement(first, second, ("a", "b")).reliable
    assert not judge_agreement(first, second, ("a", "b"), z=-3.1).reliable
