# SPDX-License-Identifier: GPL-2.0-or-later
"""Weights: sums, effective sample size, tail index, resampling, bootstrap, verdict."""

import json
import math
import re

import numpy as np
import pytest

from lammps_bg.thermo import weights
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.verdict import Verdict, combine, judge, judge_agreement, reported
from lammps_bg.thermo.weights import EstimateError, WeightSummary, summarise


def generator(seed=0):
    return np.random.default_rng(seed)


def test_sums_agree_with_plain_arithmetic_and_survive_huge_exponents():
    w = np.array([0.5, 2.0, 0.0, 1.5])
    with np.errstate(divide="ignore"):
        log_w = np.log(w)
    for shift in (0.0, 1e5, -1e5):
        assert weights.log_mean_exp(log_w + shift) == pytest.approx(math.log(1.0) + shift, rel=1e-14, abs=1e-14)
        assert weights.effective_sample_size(log_w + shift) == pytest.approx(16.0 / 6.5, rel=1e-9)
        np.testing.assert_allclose(weights.normalised_weights(log_w + shift), w / 4.0, rtol=1e-9)


def test_summary_counts_zero_weights_and_writes_json_without_inf():
    log_w = np.concatenate([generator().normal(size=9), [-np.inf]])
    summary = summarise(log_w)
    assert (summary.n, summary.n_zero, summary.zero_fraction) == (10, 1, 0.1)
    assert summary.mean_log_w == pytest.approx(log_w[:9].mean())
    assert summary.std_log_w == pytest.approx(log_w[:9].std())
    assert summary.ess_fraction == pytest.approx(summary.ess / 10)
    assert summary.pareto_k == math.inf
    assert json.loads(json.dumps(summary.to_dict(), allow_nan=False))["pareto_k"] is None


@pytest.mark.parametrize(
    ("log_w", "sentence"),
    [
        ([0.0, math.nan], "1 nan or"),
        ([0.0, math.inf], r"first at sample 1\)"),
        ([-math.inf, -math.inf], "2 samples of weight zero"),
        ([], "at least 1"),
        ([[0.0]], r"shape \(1, 1\)"),
    ],
)
def test_unusable_weights_are_refused(log_w, sentence):
    with pytest.raises(EstimateError, match=sentence):
        summarise(log_w)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.2])
def test_tail_index_of_pareto_weights(k):
    """Mean of 40 fits of 3 sqrt(4000) = 190 tail points; sigma of one is (1 + k)/sqrt(190), z <= 4: false alarm 6e-5 each.

    0.03 is allowed for the bias of the prior and of the finite tail.
    """
    rng = generator(int(10 * k))
    fits = [weights.pareto_tail_index(np.log1p(rng.pareto(1.0 / k, size=4000))) for _ in range(40)]
    assert abs(np.mean(fits) - k) < 4.0 * (1.0 + k) / math.sqrt(190 * 40) + 0.03


def test_tail_index_without_a_tail():
    rng = generator()
    assert weights.pareto_tail_index(rng.random(5000)) < 0.0
    assert weights.pareto_tail_index(np.full(100, 3.0)) == -1.0
    assert weights.pareto_tail_index(1e-13 * rng.normal(size=1000)) == -1.0
    ties = np.repeat(rng.normal(size=50), 20)
    assert math.isfinite(weights.pareto_tail_index(ties))


def test_tail_index_is_independent_of_the_scale():
    log_w = generator().normal(size=2000)
    assert weights.pareto_tail_index(log_w + 3000.0) == pytest.approx(weights.pareto_tail_index(log_w), abs=1e-6)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8])
def test_hill_index_of_pareto_weights_and_its_limit(k):
    """400 draws of 1000: mean k to z <= 4 (false alarm 6e-5), and the limit lies above k in 95 % (z <= 4 and 1 % for its skewness)."""
    rng = generator(int(10 * k))
    found = [summarise(rng.exponential(k, size=1000)) for _ in range(400)]
    assert abs(np.mean([summary.hill for summary in found]) - k) < 4.0 * k / math.sqrt(100 * 400) + 1e-12
    above = np.mean([summary.hill_limit > k for summary in found])
    assert abs(above - 0.95) < 4.0 * math.sqrt(0.95 * 0.05 / 400) + 0.01


def test_hill_index_without_a_tail():
    rng = generator()
    # Mean excess of the normal density over its upper decile: phi(1.2816) / 0.1 - 1.2816
    assert weights.hill_index(0.5 * rng.normal(size=200_000)) == pytest.approx(0.5 * 0.4735, rel=0.02)
    assert weights.hill_index(np.full(100, 3.0)) == 0.0
    assert weights.hill_index(rng.normal(size=40)) == math.inf
    assert weights.hill_index(np.where(np.arange(1000) < 60, rng.normal(size=1000), -np.inf)) == math.inf


def test_error_margin_is_four_times_the_spread_of_the_error():
    """2 sqrt((kurtosis - 1) / n): of a normal density for small widths, and the spread of the error itself in repeats."""
    rng = generator(3)
    assert weights.error_margin(1e-3 * rng.normal(size=20_000)) == pytest.approx(1 + 2 * math.sqrt(2 / 20_000), abs=1e-3)
    assert weights.error_margin(np.full(50, 2.0)) == 1.0
    assert weights.error_margin(np.append(np.full(9999, -40.0), 0.0)) == pytest.approx(3.0, abs=1e-3)
    draws = 0.3 * rng.normal(size=(2000, 1000))
    errors = np.exp(draws).std(1)
    # 2000 errors know their spread to 1.6 %, z <= 4; the kurtosis of a sample of 1000 is 5 % too low
    margins = [weights.error_margin(row) - 1 for row in draws]
    assert np.mean(margins) == pytest.approx(4 * errors.std() / errors.mean(), rel=0.12)


def test_error_margin_is_independent_of_the_scale():
    log_w = 2.0 * generator().normal(size=500)
    assert weights.error_margin(log_w - 9000.0) == pytest.approx(weights.error_margin(log_w), rel=1e-9)


def test_systematic_indices_repeat_each_sample_floor_or_ceil_times():
    rng = generator()
    log_w = rng.normal(size=200)
    log_w[[0, 50, 199]] = -np.inf
    for size in (1, 37, 200, 5000):
        counts = np.bincount(weights.systematic_indices(log_w, size, rng), minlength=200)
        expected = size * weights.normalised_weights(log_w)
        assert counts.sum() == size
        assert np.all(np.abs(counts - expected) < 1.0 + 1e-9)
        assert not counts[[0, 50, 199]].any()


def test_a_point_on_the_border_belongs_to_the_next_sample_of_non_zero_weight():
    class Zero:
        def random(self):
            return 0.0

    np.testing.assert_array_equal(weights.systematic_indices([-np.inf, 0.0, -np.inf, 0.0], 2, Zero()), [1, 3])


def test_resampling_to_nothing_is_refused():
    with pytest.raises(EstimateError, match="at least 1 resampled"):
        weights.systematic_indices([0.0], 0, generator())


def test_bootstrap_in_blocks_counts_all_samples(monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 1000)
    blocks = list(weights.bootstrap_counts(300, generator(), 50))
    assert [len(block) for block in blocks] == [3] * 16 + [2]
    assert np.all(np.concatenate(blocks).sum(1) == 300)


def test_bootstrap_of_a_mean_has_its_textbook_spread():
    """The spread of B = 2000 replicas has a relative sigma of 1/sqrt(2B) = 1.6 %, the mean one of 1/sqrt(B); z <= 4: 2e-4."""
    rng = generator(2)
    columns = np.stack([rng.normal(size=500), rng.exponential(size=500)], 1)
    means = weights.bootstrap_means(columns, rng, 2000)
    sigma = columns.std(0) / math.sqrt(500)
    np.testing.assert_allclose(means.std(0), sigma, rtol=4 / math.sqrt(4000))
    assert np.all(np.abs(means.mean(0) - columns.mean(0)) < 4 * sigma / math.sqrt(2000))


def test_bootstrap_repeats_with_its_seed():
    columns = np.arange(10.0)[:, None]
    first, second = (weights.bootstrap_means(columns, generator(7), 20) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(EstimateError, match="at least 2 bootstrap"):
        weights.bootstrap_means(columns, generator(), 1)


def verdict_of(**changes):
    fields = {"n": 10_000, "n_zero": 0, "ess": 5000.0, "max_share": 1e-3, "pareto_k": 0.3} | changes
    return judge(WeightSummary(ess_fraction=fields["ess"] / fields["n"], mean_log_w=0.0, std_log_w=0.8, **fields))


@pytest.mark.parametrize(
    ("changes", "colour", "reliable", "words"),
    [
        ({}, "green", True, "5000 effective samples"),
        ({"ess": 99.0}, "red", False, "below 1%"),
        ({"n": 400, "ess": 49.0}, "red", False, "fewer than 50"),
        ({"n": 400, "ess": 199.0}, "amber", True, "fewer than 200"),
        ({"n": 400, "ess": 201.0}, "green", True, ""),
        ({"ess": 999.0}, "amber", True, "below 10%"),
        ({"pareto_k": 0.49}, "green", True, ""),
        ({"pareto_k": 0.51}, "amber", True, "may be 0.51, above 0.5"),
        ({"pareto_k": 0.61}, "red", False, "may be 0.61, above 0.6"),
        ({"pareto_k": math.inf}, "red", False, "cannot be told from 10000 samples"),
        ({"hill": 0.47}, "green", True, ""),
        ({"hill": 0.48}, "amber", True, "may be 0.50, above 0.5"),
        ({"hill": 0.48, "n": 1000, "ess": 500.0}, "amber", True, "may be 0.56"),
        ({"hill": 0.60}, "red", False, "may be 0.63, above 0.6"),
        ({"hill": math.inf}, "red", False, "tail index"),
        ({"max_share": 0.051}, "amber", True, "5.1%"),
        ({"n_zero": 101}, "amber", True, "101 of 10000"),
        ({"n_zero": 100}, "green", True, ""),
    ],
)
def test_thresholds_of_the_traffic_light(changes, colour, reliable, words):
    verdict = verdict_of(**changes)
    assert (verdict.colour, verdict.reliable) == (colour, reliable)
    assert words in " ".join(verdict.reasons)
    assert verdict.next_step.endswith(".")
    assert json.loads(json.dumps(verdict.to_dict()))["colour"] == colour


def test_red_findings_decide_the_next_step():
    verdict = verdict_of(n=100, ess=10.0, max_share=0.3, pareto_k=1.0)
    assert verdict.colour == "red"
    assert len(verdict.reasons) == 3
    # A tail of infinite variance comes first: no number of samples mends it
    assert verdict.next_step.startswith("Use --exact auto: chains")
    assert "Draw at least 2400 samples, or use --exact auto" in verdict_of(n=100, ess=10.0, pareto_k=0.2).next_step


def test_the_advice_to_draw_more_works():
    """Normal weights of width 0.8, that 150 samples cannot judge: as many as the verdict asks for are green in 19 of 20 draws."""
    rng = generator(5)
    asked = [judge(summarise(0.8 * rng.normal(size=150))) for _ in range(20)]
    numbers = [
        int(re.search(r"Draw at least (\d+) samples", verdict.next_step)[1]) for verdict in asked if "Draw" in verdict.next_step
    ]
    assert len(numbers) >= 5
    colours = [judge(summarise(0.8 * rng.normal(size=int(np.median(numbers))))).colour for _ in range(20)]
    assert colours.count("green") >= 15
    assert "Draw" not in judge(summarise(rng.exponential(1 / 1.5, size=5000))).next_step


def test_disagreement_is_red_and_wins():
    def estimate(value):
        return EstimateResult(value, 0.3, (value - 0.6, value + 0.6), 100)

    split = judge_agreement(estimate(0.0), estimate(2.0), ("TFEP", "BAR"))
    assert (split.colour, split.reliable) == ("red", False)
    assert "TFEP and BAR differ by 4.7" in split.reasons[0]
    fine = judge_agreement(estimate(0.0), estimate(1.0), ("TFEP", "BAR"))
    assert fine.colour == "green"
    both = combine([fine, split])
    assert (both.colour, both.reliable, both.reasons) == ("red", False, split.reasons)
    assert combine([fine]) == Verdict("green", fine.reasons, True, fine.next_step)


def test_an_unreliable_number_is_withheld():
    result = EstimateResult(-25.1, 0.01, (-25.12, -25.08), 100, {"base": -1.0})
    assert reported(result, verdict_of())["value"] == -25.1
    withheld = reported(result, verdict_of(ess=5.0))
    assert withheld["note"] == "not reliable"
    assert "25" not in json.dumps(withheld)


def test_hopeless_weights_are_red_and_have_a_heavy_tail():
    summary = summarise(100.0 * generator().normal(size=5000))
    assert summary.pareto_k > 0.7
    assert math.isfinite(summary.pareto_k)
    assert judge(summary).colour == "red"
