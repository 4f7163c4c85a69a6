# SPDX-License-Identifier: GPL-2.0-or-later
"""Crossings of two free energies and coexistence lines, against crystals whose coexistence is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from lammps_bg.results import written
from lammps_bg.thermo.coexistence import CoexistenceLine, crossing
from lammps_bg.thermo.gibbs import FreeEnergySurface
from lammps_bg.thermo.repeats import with_error
from lammps_bg.thermo.solvable_volume import VolumeCrystal
from lammps_bg.thermo.weights import EstimateError

OPEN = VolumeCrystal(stiffness=60.0)
DENSE = VolumeCrystal(n_atoms=48, volume_per_atom=0.93, bulk_modulus=75.0, stiffness=90.0, offset=-0.1)
BOX = (-0.14, 0.18)
AXIS = np.linspace(0.0, 4.0, 9)


def rng(seed=0):
    return np.random.default_rng(seed)


def repeats(values, n=6, common=0.1, own=0.0, seed=0):
    """Rows of a table that share one error each, and little that differs from point to point."""
    source = rng(seed)
    values = np.asarray(values, dtype=float)
    return values + common * source.standard_normal((n, 1)) + own * source.standard_normal((n, len(values)))


def coexistence_pressure(kt=1.0):
    first, second = (replace(crystal, kt=kt) for crystal in (OPEN, DENSE))
    return brentq(lambda p: first.gibbs(p) / first.n_atoms - second.gibbs(p) / second.n_atoms, -1.0, 10.0, xtol=1e-13)


def surface_of(crystal, seed, n_repeats=8):
    x = (np.mean(BOX) + 0.5 * np.ptp(BOX) * np.cos(np.pi * (np.arange(8) + 0.5) / 8))[:, None]
    source = rng(seed)
    common = 0.6 * source.standard_normal((n_repeats, 1)) + 3.0 * source.standard_normal((n_repeats, 1)) * x[:, 0]
    values = np.array([crystal.free_energy(v) for v in x[:, 0]]) + common + 0.02 * source.standard_normal((n_repeats, 8))
    return FreeEnergySurface.fit(x, values, reference_volume=crystal.reference_volume, kt=crystal.kt, box=[BOX], degree=5)


def test_without_noise_the_place_is_exact():
    found = crossing(AXIS, np.tile(np.exp(0.3 * AXIS) - 2.0, (3, 1)), rng())
    (root,) = found.roots
    assert root.estimate.value == pytest.approx(np.log(2.0) / 0.3, abs=1e-4)
    assert root.slope == pytest.approx(0.6, rel=1e-2)
    assert root.found == 1.0
    low, high = root.estimate.interval
    assert low < root.estimate.value < high < low + 1e-9


def test_a_straight_line_has_the_error_of_its_values_over_its_slope():
    """Common noise on Delta g = 2 (a - 1.3): the replicas must give s / sqrt(R) / 2, up to 5 sigma of 2000 replicas (6e-7)."""
    table = repeats(2.0 * (AXIS - 1.3), n=5)
    (root,) = crossing(AXIS, table, rng(), n_bootstraps=2000).roots
    offset = table[:, 0] - 2.0 * (AXIS[0] - 1.3)
    expected = offset.std(ddof=1) / np.sqrt(5) / 2.0
    assert root.estimate.value == pytest.approx(1.3 - offset.mean() / 2.0, abs=1e-10)
    assert root.estimate.error == pytest.approx(expected, rel=5 / np.sqrt(2 * 2000))
    half = 0.5 * np.diff(root.estimate.interval)[0]
    assert half == pytest.approx(student.ppf(0.975, 4) * expected, rel=0.15)


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_coexistence_of_two_crystals(seed):
    """From noisy free energies of both to the pressure; |t| of 7 degrees of freedom beyond three normal sigmas: 0.27 %."""
    exact = coexistence_pressure()
    pressures = np.linspace(exact - 1.5, exact + 1.5, 7)
    first, second = surface_of(OPEN, seed), surface_of(DENSE, seed + 1000)
    table = first.gibbs_repeats(pressures) / OPEN.n_atoms - second.gibbs_repeats(pressures) / DENSE.n_atoms
    (root,) = crossing(pressures, table, rng(seed)).roots
    assert abs(root.estimate.value - exact) < student.isf(0.00135, 7) * root.estimate.error
    assert root.established
    # An error of 0.2 kT per 64 atoms over 0.06 volumes per atom
    assert 0.01 < root.estimate.error < 0.3


def test_a_crossing_of_smooth_curves_is_that_of_their_mean():
    offsets = rng(3).normal(scale=0.05, size=5)
    axis = np.linspace(2.0, 5.0, 33)
    (root,) = crossing(axis, np.sin(axis) + offsets[:, None], rng(1)).roots
    exact = np.pi + np.arcsin(offsets.mean())
    assert root.estimate.value == pytest.approx(exact, abs=1e-7)
    assert root.slope < 0.0
    assert root.estimate.error == pytest.approx(offsets.std(ddof=1) / np.sqrt(5), rel=0.15)


def test_all_crossings_are_returned_with_their_slopes():
    axis = np.linspace(0.2, 8.0, 30)
    found = crossing(axis, repeats(np.sin(axis), common=0.02), rng())
    assert [root.estimate.value for root in found.roots] == pytest.approx([np.pi, 2 * np.pi], abs=0.05)
    assert [np.sign(root.slope) for root in found.roots] == [-1, 1]
    # One shift of Delta g moves the two apart: replicas belong to their own crossing
    assert np.corrcoef(*(root.replicas for root in found.roots))[0, 1] < -0.99
    assert found.sentence.startswith("2 crossings in [0.2, 8] at 3.1")


def test_a_zero_at_a_point_of_the_axis_is_found_once():
    found = crossing(AXIS, np.tile(AXIS - AXIS[4], (2, 1)), rng())
    assert [root.estimate.value for root in found.roots] == pytest.approx([AXIS[4]], abs=1e-12)


def test_no_crossing_is_a_result():
    found = crossing(AXIS, repeats(2.0 + 0.1 * AXIS, n=5), rng())
    assert found.roots == ()
    assert found.sign_known
    assert found.at_upper.value - found.at_lower.value == pytest.approx(0.4)
    assert found.sentence == (
        f"No crossing in [0, 4]: Delta g is {written(vars(found.at_lower))} at the lower end "
        f"and {written(vars(found.at_upper))} at the upper end."
    )
    assert json.loads(json.dumps(found.to_dict()))["roots"] == []


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_an_unknown_sign_is_said(level):
    """Errors of 1 on values below 0.5: whether or not the mean crosses zero, nothing is established."""
    column = np.array([-2.0, -1.0, 0.2, 1.0, 2.0])[:, None]
    found = crossing(AXIS, column + level + 0.05 * (AXIS - 2.0), rng())
    assert not found.sign_known
    assert all(not root.established for root in found.roots)
    assert found.sentence.startswith("The sign of Delta g is uncertain everywhere in [0, 4]: Delta g is")
    assert found.sentence.endswith("draw more samples.")


def test_a_doubtful_crossing_near_an_end_is_marked_and_its_error_is_not_cut_off():
    table = repeats(AXIS - 3.95, n=5, common=0.5)
    table += 3.95 - AXIS[-1] + 0.05 - table.mean(0)[-1]
    (root,) = crossing(AXIS, table, rng()).roots
    assert 0.4 < root.found < 0.7
    assert not root.established
    assert root.estimate.error == pytest.approx(table[:, 0].std(ddof=1) / np.sqrt(5), rel=0.05)
    assert "1 of them not established, Delta g is" in crossing(AXIS, table, rng()).sentence


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: crossing([1.0, 1.0], np.ones((2, 2)), rng()), "expected at least 2 rising points on the axis"),
        (lambda: crossing([1.0, 2.0], np.ones((1, 2)), rng()), "expected at least 2 independent repeats, got 1"),
        (lambda: crossing([1.0, 2.0], np.full((2, 2), np.nan), rng()), "expected finite values, got 4 nan or inf"),
        (lambda: crossing([1.0, 2.0], np.zeros((2, 2)), rng()), "got zero everywhere; compare two different ones"),
        (lambda: CoexistenceLine.of([1, 2], [with_error(1, 1, 3)] * 2), "at least 3 rising points, got 2 crossings"),
        (
            lambda: CoexistenceLine.of([1, 2, 3], [with_error(1, 1, 3)] * 3).slopes(3),
            "expected a degree from 1 to 2 for 3 points",
        ),
        (
            lambda: CoexistenceLine.of([1, 2, 3], [with_error(1, 1, 3)] * 3, replicas=np.full((3, 200), np.nan)),
            "expected 100 joint replicas or more, got 0",
        ),
        (
            lambda: CoexistenceLine.of([1, 2, 3], [with_error(1, 1, 3)] * 3).clausius_clapeyron([1], [], []),
            "expected T, Delta H and Delta V at each of 3 points, got 1, 0 and 0",
        ),
    ],
)
def test_unusable_data_are_refused(call, sentence):
    with pytest.raises(EstimateError, match=sentence):
        call()


def exact_line(n=9):
    """T (with kB = 1), the exact pressures, and Delta H and Delta V per atom, second minus first crystal."""
    temperatures = np.linspace(0.8, 1.2, n)
    pressures = np.array([coexistence_pressure(t) for t in temperatures])
    h, v = [], []
    for t, p in zip(temperatures, pressures, strict=True):
        pair = [replace(crystal, kt=t) for crystal in (OPEN, DENSE)]
        enthalpies = [c.enthalpy(p) / c.n_atoms for c in pair]
        volumes = [c.volume(c.log_volume(p)) / c.n_atoms for c in pair]
        h.append(enthalpies[1] - enthalpies[0])
        v.append(volumes[1] - volumes[0])
    return temperatures, pressures, np.array(h), np.array(v)


def noisy(values, error, source):
    return [with_error(v + error * source.standard_normal(), error, 50) for v in values]


@pytest.mark.parametrize("outer_axis", ["temperature", "pressure"])
def test_exact_line_obeys_clausius_and_clapeyron(outer_axis):
    """F holds Lambda = 1 at all T: G/T has the derivative -H/T^2 with the potential part of H, as `enthalpy` gives it."""
    temperatures, pressures, h, v = exact_line()
    outer, values = (temperatures, pressures) if outer_axis == "temperature" else (pressures, temperatures)
    order = np.argsort(outer)
    exact = [[with_error(x, 1e-6, 50) for x in column[order]] for column in (values, h, v)]
    line = CoexistenceLine.of(outer[order], exact[0])
    check = line.clausius_clapeyron(temperatures[order], exact[1], exact[2], outer_axis=outer_axis, degree=6)
    assert check.slopes == pytest.approx(check.expected, rel=2e-4)
    assert json.loads(json.dumps(check.to_dict()))["outer"] == outer[order].tolist()


def test_noisy_line_agrees_and_a_wrong_enthalpy_is_seen():
    """Nine |z| below 4.5: false alarm below 6e-5; an enthalpy three per cent too large must be seen (24 errors)."""
    temperatures, pressures, h, v = exact_line()
    source = rng(8)
    line = CoexistenceLine.of(temperatures, noisy(pressures, 0.002, source))
    volumes = noisy(v, 1e-5, source)
    check = line.clausius_clapeyron(temperatures, noisy(h, 1e-4, source), volumes)
    assert np.abs(check.z).max() < 4.5
    wrong = line.clausius_clapeyron(temperatures, noisy(1.03 * h, 1e-4, source), volumes)
    assert wrong.verdict.colour == "red"
    assert wrong.verdict.reasons[0].startswith("The slope of the line disagrees with Clausius and Clapeyron by up to")
    flat = line.clausius_clapeyron(temperatures, noisy(h, 1e-4, source), noisy(0.0 * v, 1e-5, source))
    assert flat.verdict.colour == "red"


def test_slope_and_its_error_are_those_of_a_weighted_fit():
    outer, errors = np.linspace(0.0, 3.0, 7), np.array([0.1, 0.3, 0.1, 0.2, 0.1, 0.4, 0.1])
    values = 1.0 + 2.0 * outer - 0.5 * outer**2 + errors * rng(1).standard_normal(7)
    line = CoexistenceLine.of(outer, [with_error(v, e, 9) for v, e in zip(values, errors, strict=True)])
    coefficients, covariance = np.polyfit(outer, values, 2, w=1 / errors, cov="unscaled")
    slopes, slope_errors = line.slopes(2)
    assert slopes == pytest.approx(np.polyval(np.polyder(coefficients), outer), abs=1e-10)
    jacobian = np.stack([2 * outer, np.ones(7), np.zeros(7)], axis=1)
    assert slope_errors == pytest.approx(np.sqrt(np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian)), rel=1e-8)


def test_errors_common_to_all_points_cancel_from_the_slope():
    outer = np.linspace(0.0, 3.0, 5)
    shared = rng(0).standard_normal((1, 1000))
    replicas = 0.2 * shared + 0.01 * rng(1).standard_normal((5, 1000))
    points = [with_error(x, row.std(), 9) for x, row in zip(outer, replicas, strict=True)]
    apart = CoexistenceLine.of(outer, points).slopes(1)[1]
    joint = CoexistenceLine.of(outer, points, replicas=outer[:, None] + replicas).slopes(1)[1]
    assert (joint < 0.1 * apart).all()


def test_replicas_scatter_about_the_value():
    """Also where the noise is smaller than the error of the straight lines by which replicas are searched."""
    table = repeats(np.exp(0.3 * AXIS) - 2.0, n=5, common=1e-9)
    (root,) = crossing(AXIS, table, rng()).roots
    assert np.abs(root.replicas - root.estimate.value).max() < 10 * root.estimate.error
    low, high = root.estimate.interval
    assert root.estimate.value - low == pytest.approx(high - root.estimate.value, rel=0.3)


@pytest.mark.parametrize("outer_axis", ["temperature", "pressure"])
@pytest.mark.parametrize("source", ["h", "v", "line"])
def test_each_error_enters_the_disagreement(outer_axis, source):
    """A straight line with exact Delta H = s T Delta V; then one of the three is wrong by two of its errors, which dominate."""
    outer, slope = np.array([1.0, 2.0, 3.0]), 1.7
    t = outer if outer_axis == "temperature" else 5.0 + slope * outer
    v = np.full(3, 0.4)
    h = slope * t * v if outer_axis == "temperature" else t * v / slope
    errors = {"h": 1e-7, "v": 1e-7, "line": 1e-7, source: 1e-3}
    wrong = {name: 2 * error * (name == source) for name, error in errors.items()}
    # The slope of a line through three points with equal errors e has the error e / sqrt(2)
    values = 5.0 + (slope + wrong["line"] / np.sqrt(2)) * outer
    line = CoexistenceLine.of(outer, [with_error(x, errors["line"], 9) for x in values])
    deltas = [[with_error(x + wrong[name], errors[name], 9) for x in exact] for name, exact in (("h", h), ("v", v))]
    check = line.clausius_clapeyron(t, *deltas, outer_axis=outer_axis, degree=1)
    assert np.abs(check.z) == pytest.approx(np.full(3, 2.0), rel=0.01)
    assert check.verdict.colour == "green"
