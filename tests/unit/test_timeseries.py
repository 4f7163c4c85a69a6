# SPDX-License-Identifier: GPL-2.0-or-later
"""Correlated series: known correlation times, transients, wild frames, and what is refused."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.signal import lfilter

from lammps_bg.thermo import timeseries as ts
from lammps_bg.thermo.weights import EstimateError


def series(n, tau, seed=0):
    """Gaussian noise of unit variance whose correlations decay as exp(-t / tau)."""
    rng, decay = np.random.default_rng(seed), math.exp(-1.0 / tau)
    noise = rng.normal(size=n) * math.sqrt(1.0 - decay**2)
    noise[0] = rng.normal()
    return lfilter([1.0], [1.0, -decay], noise)


@pytest.mark.parametrize("tau", [2.0, 10.0])
def test_inefficiency_of_exponential_correlations(tau):
    found = ts.decorrelate(series(20_000, tau))
    exact = 1.0 / math.tanh(0.5 / tau)
    assert found.inefficiency == pytest.approx(exact, rel=0.2)
    assert found.n_independent == len(found.indices)
    assert found.n_independent == pytest.approx((20_000 - found.start) / (ts.SPACING * found.inefficiency), abs=1.0)
    assert found.indices[0] == found.start
    assert (np.diff(found.indices) > 0).all()
    assert found.indices[-1] < 20_000


def test_uncorrelated_frames_are_all_kept():
    alternating = np.resize([1.0, -1.0], 400) + 0.01 * series(400, 0.1)
    found = ts.decorrelate(alternating)
    assert found.inefficiency == 1.0
    np.testing.assert_array_equal(found.indices, np.arange(found.start, 400))


def test_a_transient_is_cut():
    relaxing = series(3000, 3.0) + 20.0 * np.exp(-np.arange(3000) / 60.0)
    assert 100 < ts.decorrelate(relaxing).start < 800
    assert abs(ts.correlated_mean(relaxing).value) < 0.2 < relaxing.mean()


@pytest.mark.parametrize("wild", [1e3, -1e12])
def test_a_wild_first_frame_hides_nothing(wild):
    """choderalab/pymbar#283: the outlier hides the correlations, the series counts as uncorrelated and is kept from frame 0."""
    values = series(3000, 5.0)
    values[0] = wild
    found = ts.decorrelate(values)
    assert found.start >= 1
    assert found.inefficiency == pytest.approx(1.0 / math.tanh(0.1), rel=0.3)


def test_mean_of_uncorrelated_frames():
    values = np.random.default_rng(4).normal(3.0, 2.0, 2000)
    result = ts.correlated_mean(values)
    start = ts.decorrelate(values).start
    assert result.value == pytest.approx(values[start:].mean(), abs=1e-12)
    assert result.error == pytest.approx(2.0 / math.sqrt(2000 - start), rel=0.25)
    assert result.interval[1] - result.value == pytest.approx(1.96 * result.error, rel=0.01)


def test_few_frames_widen_the_interval():
    result = ts.correlated_mean(np.random.default_rng(1).normal(size=12), minimum=5)
    assert result.interval[1] - result.value > 2.1 * result.error


def test_error_of_a_correlated_mean_counts_independent_frames():
    result = ts.correlated_mean(series(20_000, 10.0))
    assert result.error == pytest.approx(math.sqrt(2.0 * 10.0 / 20_000), rel=0.2)
    assert abs(result.value) < 4.0 * result.error


def test_replicas_share_one_inefficiency():
    parts = ts.decorrelate_replicas([series(3000, 4.0, seed) for seed in range(4)])
    assert len({part.inefficiency for part in parts}) == 1
    assert parts[0].inefficiency == pytest.approx(1.0 / math.tanh(0.125), rel=0.2)


def test_replicas_that_disagree_say_so():
    runs = [series(3000, 4.0, 1), series(3000, 4.0, 2) + 3.0]
    apart, alone = ts.decorrelate_replicas(runs, minimum=2)[0], ts.decorrelate(runs[0])
    assert apart.inefficiency > 20.0 * alone.inefficiency
    assert ts.correlated_mean(*runs, minimum=2).error > 0.5


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.arange(3.0), "N_eff <= 3"),
        (np.full(500, -7.5), "N_eff = 1: all 500 frames"),
        (np.append(np.arange(50.0), np.nan), "first at frame 50"),
        (np.append(np.inf, np.arange(50.0)), "1 nan or inf among 51"),
        (np.arange(200.0) + 0.1 * series(200, 1.0), "N_eff = . of 200 frames"),
        (np.zeros((20, 2)), "shape"),
    ],
    ids=["short", "constant", "nan", "inf", "drifting", "shape"],
)
def test_what_is_refused(values, sentence):
    with pytest.raises(EstimateError, match=sentence) as caught:
        ts.decorrelate(values)
    assert "\n" not in str(caught.value)


def test_no_series_is_refused():
    with pytest.raises(EstimateError, match="got none"):
        ts.decorrelate_replicas([])


def test_constant_after_a_transient_is_not_many_frames():
    with pytest.raises(EstimateError, match="N_eff"):
        ts.decorrelate(np.append(np.linspace(5.0, 1.0, 20), np.full(200, 1.0)))


def test_pymbar_is_silent_and_not_loaded_before_it_is_needed():
    """In a process of its own: importing the estimators does not load pymbar, using it prints nothing and keeps numpy's settings."""
    code = """
import sys
import numpy as np
from lammps_bg.thermo import multistate, timeseries
assert "pymbar" not in sys.modules
before, state = np.geterr(), np.random.get_state()[1].copy()
timeseries.decorrelate(np.random.default_rng(0).normal(size=100))
multistate.mbar(np.random.default_rng(0).normal(size=(2, 20)), [10, 10], np.random.default_rng(0).spawn(2), n_bootstraps=2)
assert "pymbar" in sys.modules
assert np.geterr() == before
assert (np.random.get_state()[1] == state).all()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
