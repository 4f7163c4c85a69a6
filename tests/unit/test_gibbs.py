# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies from a fitted free energy surface, against crystals whose equation of state is known."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.differentiate import hessian as numerical_hessian
from scipy.differentiate import jacobian
from scipy.optimize import minimize
from scipy.stats import t as student

from lammps_bg.errors import StateError
from lammps_bg.thermo.gibbs import FreeEnergySurface, PressureUnit
from lammps_bg.thermo.polynomial import Degree
from lammps_bg.thermo.repeats import as_repeats, jackknife, leave_one_out, mean_replicas, pseudo_values, t_factor
from lammps_bg.thermo.solvable_volume import VolumeCrystal
from lammps_bg.thermo.weights import EstimateError

BOX = (-0.10, 0.18)
CRYSTAL = VolumeCrystal()


def nodes(m, box=BOX):
    """Chebyshev's points, shape [m, 1]."""
    return (np.mean(box) + 0.5 * np.ptp(box) * np.cos(np.pi * (np.arange(m) + 0.5) / m))[:, None]


def noise(x, n_repeats, rng):
    """Errors of F, shape [R, m]: one number and one slope per repeat, and little that differs from point to point."""
    smooth = 0.6 * rng.standard_normal((n_repeats, 1)) + 3.0 * rng.standard_normal((n_repeats, 1)) * x[:, 0]
    return smooth + 0.02 * rng.standard_normal((n_repeats, len(x)))


def surface_of(crystal=CRYSTAL, m=7, n_repeats=3, seed=None, **keywords):
    x = nodes(m)
    values = np.tile([crystal.free_energy(v) for v in x[:, 0]], (n_repeats, 1))
    if seed is not None:
        values = values + noise(x, n_repeats, np.random.default_rng(seed))
    return FreeEnergySurface.fit(x, values, reference_volume=crystal.reference_volume, kt=crystal.kt, box=[BOX], **keywords)


def plane_energy(x):
    """Two variables: anharmonic in ln V, with a shape whose best value moves with the volume; no polynomial of low degree."""
    v, s = x[..., 0], x[..., 1]
    return 2000.0 * (np.cosh(v) - 1.0) + 900.0 * (s - 0.4 * v - 0.02) ** 2 * np.exp(-0.3 * v) - 250.0 * v - 30.0 * v**3


def plane_surface(n_points=40, energy=plane_energy, box=((-0.1, 0.25), (-0.1, 0.2)), **keywords):
    low, high = np.array(box).T
    x = low + (high - low) * np.random.default_rng(1).random((n_points, 2))
    values = np.tile(energy(x), (2, 1))
    return FreeEnergySurface.fit(x, values, reference_volume=50.0, kt=1.0, box=box, names=("ln V", "ln c/a"), **keywords)


@pytest.mark.parametrize("pressure", [-1.0, 0.0, 2.0, 6.0])
def test_exact_values_give_the_exact_equation_of_state(pressure):
    """Without noise only the polynomial errs; F is 300 kT deep over the box, and no polynomial."""
    point = surface_of(m=9, degree=6).gibbs(pressure)
    mean, variance = CRYSTAL.volume_moments(pressure, BOX)
    assert point.free_energy.value == pytest.approx(CRYSTAL.gibbs(pressure), abs=2e-4)
    assert point.cell[0].value == pytest.approx(CRYSTAL.log_volume(pressure), abs=1e-6)
    assert point.volume.value == pytest.approx(CRYSTAL.volume(CRYSTAL.log_volume(pressure)), rel=1e-6)
    assert point.compressibility.value == pytest.approx(CRYSTAL.compressibility(pressure), rel=1e-4)
    assert point.mean_volume.value == pytest.approx(mean, rel=1e-6)
    assert point.volume_variance.value == pytest.approx(variance, rel=1e-4)
    # <V> is not V*: the measure dV = V dx and the anharmonicity move it by an amount that this test sees
    assert abs(mean - point.volume.value) > 100 * abs(mean - point.mean_volume.value)
    assert point.edge_probability < 1e-3


@pytest.mark.parametrize("m", [6, 9])
def test_one_degree_less_bounds_the_error_of_the_polynomial(m):
    point = surface_of(m=m).gibbs(1.0)
    exact = {
        "free_energy": CRYSTAL.gibbs(1.0),
        "volume": CRYSTAL.volume(CRYSTAL.log_volume(1.0)),
        "ln V": CRYSTAL.log_volume(1.0),
    }
    given = {"free_energy": point.free_energy.value, "volume": point.volume.value, "ln V": point.cell[0].value}
    for name, value in exact.items():
        assert 0.0 < abs(given[name] - value) < point.systematic[name], name


def test_a_polynomial_is_recovered_to_rounding_and_its_residual_is_zero():
    x = nodes(5)
    values = np.tile(3.0 - 40.0 * x[:, 0] + 700.0 * x[:, 0] ** 2, (2, 1))
    surface = FreeEnergySurface.fit(x, values, reference_volume=10.0, kt=1.0, box=[BOX], degree=2)
    assert surface.rms_residual < 1e-12
    assert surface.gibbs(0.0).cell[0].value == pytest.approx(1.0 / 35.0, abs=1e-14)
    assert surface.gibbs(0.0).systematic is None  # a polynomial of degree 1 has no minimum
    assert surface.gibbs(0.0).free_energy.n == 2
    assert surface.helmholtz([[0.0]])[0] == pytest.approx([3.0], abs=1e-12)


def test_residual_and_noise_tell_a_stiff_polynomial():
    noisy = surface_of(m=12, n_repeats=6, seed=3)
    assert noisy.rms_residual < 2.5 * noisy.rms_noise
    stiff = surface_of(m=12, n_repeats=6, seed=3, degree=2)
    assert stiff.rms_residual > 50 * stiff.rms_noise


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_noise_stays_within_the_errors(seed):
    """R = 8 repeats, |t| below its 99.865 % point (three normal sigmas): false alarm 0.27 % for each of the 5 numbers."""
    crystal, pressure = CRYSTAL, 1.0
    point = surface_of(n_repeats=8, seed=seed).gibbs(pressure)
    limit = student.isf(0.00135, 7)
    mean, variance = crystal.volume_moments(pressure, BOX)
    exact = (
        crystal.gibbs(pressure),
        crystal.volume(crystal.log_volume(pressure)),
        crystal.compressibility(pressure),
        mean,
        variance,
    )
    found = (point.free_energy, point.volume, point.compressibility, point.mean_volume, point.volume_variance)
    for value, estimate, name in zip(
        exact, found, ("free_energy", "volume", "compressibility", "mean_volume", "volume_variance"), strict=True
    ):
        assert abs(estimate.value - value) < limit * estimate.error + point.systematic[name], name
    assert 0.05 < point.free_energy.error < 1.0
    # The common random numbers cancel from the volume: far from the error of G over that of the points
    assert point.volume.error < 0.1


def test_g_of_single_repeats_carries_value_and_error():
    surface = surface_of(n_repeats=5, seed=2)
    table = surface.gibbs_repeats([0.0, 1.0, 2.0])
    for column, pressure in zip(table.T, (0.0, 1.0, 2.0), strict=True):
        point = surface.gibbs(pressure).free_energy
        assert column.mean() == pytest.approx(point.value, abs=1e-9)
        assert column.std(ddof=1) / np.sqrt(5) == pytest.approx(point.error, rel=1e-9)


@pytest.mark.parametrize("pressure", [-2.0, 0.0, 4.0])
def test_two_variables_relax_together(pressure):
    def enthalpy(x):
        return plane_energy(np.asarray(x)) + pressure * 50.0 * np.exp(x[0])

    exact = minimize(enthalpy, [0.05, 0.04], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    point = plane_surface(degree=5).gibbs(pressure)
    assert point.free_energy.value == pytest.approx(exact.fun, abs=1e-4)
    assert [e.value for e in point.cell] == pytest.approx(exact.x, abs=1e-5)
    second = numerical_hessian(lambda x: plane_energy(np.moveaxis(x, 0, -1)) + pressure * 50.0 * np.exp(x[0]), exact.x).ddf
    volume = 50.0 * np.exp(exact.x[0])
    kappa = volume * np.linalg.inv(second)[0, 0]
    assert point.compressibility.value == pytest.approx(kappa, rel=1e-3)
    assert point.volume_variance.value == pytest.approx(volume * kappa, rel=1e-3)
    # The relaxing shape makes the crystal softer: the test can tell
    assert abs(volume / second[0, 0] - kappa) > 0.02 * kappa


def test_compressibility_is_the_slope_of_the_relaxed_volume():
    surface, h = plane_surface(degree=5), 1e-3
    logs = [surface.gibbs(1.0 + sign * h).cell[0].value for sign in (-1, 1)]
    assert surface.gibbs(1.0).compressibility.value == pytest.approx((logs[0] - logs[1]) / (2 * h), rel=1e-5)


def test_six_variables_of_a_harmonic_crystal():
    """Quadratic in all strains: minimum and compressibility in closed form at P = 0."""
    rng = np.random.default_rng(4)
    root = rng.normal(size=(6, 6))
    stiffness = 800.0 * (np.eye(6) + 0.1 * root @ root.T)
    centre = rng.uniform(-0.02, 0.02, 6)
    box = np.tile([-0.1, 0.1], (6, 1))
    x = rng.uniform(-0.1, 0.1, (40, 6))
    values = np.tile(0.5 * np.einsum("ni,ij,nj->n", x - centre, stiffness, x - centre) - 7.0, (2, 1))
    point = FreeEnergySurface.fit(x, values, reference_volume=20.0, kt=1.0, box=box).gibbs(0.0)
    assert [e.value for e in point.cell] == pytest.approx(centre, abs=1e-9)
    assert point.free_energy.value == pytest.approx(-7.0, abs=1e-8)
    assert point.compressibility.value == pytest.approx(20.0 * np.exp(centre[0]) * np.linalg.inv(stiffness)[0, 0], rel=1e-6)


def test_pressure_range_is_that_of_the_ends_of_the_box():
    surface = surface_of(m=9, degree=6)
    assert surface.pressure_range() == pytest.approx((CRYSTAL.pressure(BOX[1]), CRYSTAL.pressure(BOX[0])), rel=1e-3)
    low, high = surface.pressure_range()
    for pressure in (low + 0.01, high - 0.01):
        surface.gibbs(pressure)
    for pressure in (low - 0.01, high + 0.01):
        with pytest.raises(StateError, match="got its edge"):
            surface.gibbs(pressure)


def test_a_pressure_outside_names_the_range_in_the_unit_of_the_user():
    surface = replace(surface_of(m=9), pressure_unit=PressureUnit("bar", 1000.0))
    low, high = surface.pressure_range()
    sentence = (
        r"expected the cell at P = 2e\+04 bar inside the trained range ln V in \[-0.1, 0.18\], got its edge; train a wider range or use a "
        f"pressure between {low * 1000:.4g} bar and {re.escape(f'{high * 1000:.4g}')} bar"
    )
    with pytest.raises(StateError, match=sentence):
        surface.gibbs(20.0)
    with pytest.raises(StateError, match="expected a finite pressure, got nan"):
        surface.gibbs(float("nan"))


def test_a_concave_surface_is_unstable():
    x = nodes(6)
    surface = FreeEnergySurface.fit(x, np.tile(-90.0 * x[:, 0] ** 2, (2, 1)), reference_volume=1.0, kt=1.0, box=[BOX])
    for call in (surface.pressure_range, lambda: surface.gibbs(0.0)):
        with pytest.raises(
            StateError, match="expected a free energy that is convex in V .* the crystal is mechanically unstable here"
        ):
            call()


def test_a_flat_minimum_is_unstable():
    """A quartic bottom: a minimum without curvature, hence without compressibility."""
    x = nodes(7, (-0.1, 0.1))
    surface = FreeEnergySurface.fit(x, np.tile(1e4 * x[:, 0] ** 4, (2, 1)), reference_volume=1.0, kt=1.0, box=[(-0.1, 0.1)])
    with pytest.raises(StateError, match="not convex there; the crystal is mechanically unstable here"):
        surface.gibbs(0.0)


@pytest.mark.parametrize(("sign", "advice"), [(1.0, "train a wider range of ln c/a"), (-1.0, "mechanically unstable here")])
def test_a_shape_on_the_edge_is_told_from_an_unstable_one(sign, advice):
    def energy(x):
        return 2000.0 * x[..., 0] ** 2 + sign * 300.0 * (x[..., 1] - 0.4) ** 2

    surface = plane_surface(energy=energy)
    for call, where in ((lambda: surface.gibbs(0.0), "P = 0 energy/volume"), (surface.pressure_range, "any volume")):
        with pytest.raises(
            StateError, match=rf"expected the cell at {where} inside the trained range ln c/a in .* got its edge; .*{advice}"
        ):
            call()


def test_shapes_on_the_edge_shrink_the_covered_pressures():
    def energy(x):
        return 2000.0 * x[..., 0] ** 2 + 900.0 * (x[..., 1] - 2.0 * x[..., 0]) ** 2

    low, _ = plane_surface(energy=energy, box=((-0.1, 0.1), (-0.25, 0.1))).pressure_range()
    # The shape reaches its edge at ln V = 0.05, up to one of the 41 steps of the path
    assert low == pytest.approx(-4000.0 * 0.05 / (50.0 * np.exp(0.05)), rel=0.12)


def fit_with(**changes):
    x = nodes(6)
    given = {"x": x, "values": np.tile(100.0 * x[:, 0] ** 2, (3, 1)), "reference_volume": 1.0, "kt": 1.0, "box": [BOX], **changes}
    return FreeEnergySurface.fit(given.pop("x"), given.pop("values"), **given)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"values": np.ones(6)}, r"expected values of shape \[repeats, 6\], got \(6,\)"),
        ({"values": np.ones((1, 6))}, "expected at least 2 independent repeats, got 1"),
        (
            {"values": np.array([[1, 2, 3, 4, 5, 6], [1, 2, np.nan, 4, 5, np.inf]])},
            "got 2 nan or inf among 12 .first in repeat 1 at point 2",
        ),
        ({"x": nodes(6)[:, 0]}, r"expected design points of shape \[m, d\]"),
        ({"box": [(0.1, 0.1)]}, "expected a box with its lowest below its highest values"),
        ({"box": [(-0.08, 0.18)]}, r"expected design points inside the box, got 1 outside \(first: point 5\)"),
        ({"kt": 0.0}, "expected a positive reference volume and kT, got 1.0 and 0.0"),
        ({"degree": 1}, "expected a polynomial of degree 2 or higher, got 1"),
        ({"degree": 5}, "expected at least 7 design points for degree 5 in 1 cell variables, got 6"),
        ({"x": nodes(3), "values": np.ones((2, 3))}, "expected at least 4 design points for 1 cell variables, got 3"),
        ({"x": np.zeros((6, 1))}, "expected design points that determine the 5 terms of the polynomial, got 1 independent"),
    ],
)
def test_unusable_data_are_refused(changes, sentence):
    with pytest.raises(EstimateError, match=sentence):
        fit_with(**changes)


def test_default_degrees_leave_one_point_at_least():
    assert [Degree.fitting(m, 1) for m in (4, 5, 6, 9)] == [Degree(2, 2), Degree(2, 3), Degree(2, 4), Degree(2, 4)]
    assert [Degree.fitting(m, 2) for m in (7, 8, 9)] == [Degree(2, 2), Degree(2, 3), Degree(2, 4)]
    for degree, d, n_terms in ((Degree(2, 4), 1, 5), (Degree(2, 4), 3, 12), (Degree(3, 3), 2, 10)):
        assert degree.terms(np.tile([0.0, 1.0], (d, 1))).n_terms == n_terms
    assert Degree.count(6, 2) == 28
    assert (Degree(2, 4).lowered(), Degree(4, 4).lowered(), Degree(2, 2).lowered()) == (Degree(2, 3), Degree(3, 3), None)


def test_derivatives_are_those_of_differences():
    rng = np.random.default_rng(0)
    terms = Degree(3, 5).terms(np.array([[-0.2, 0.1], [1.0, 3.0]]))
    coefficients, x = rng.normal(size=terms.n_terms), np.array([0.03, 1.7])

    def value(points):
        flat = points.reshape(2, -1).T
        return (terms.design(flat) @ coefficients).reshape(points.shape[1:])

    assert terms.gradient(coefficients, x) == pytest.approx(jacobian(value, x, initial_step=0.01).df, rel=1e-7)
    assert terms.hessian(coefficients, x) == pytest.approx(numerical_hessian(value, x, initial_step=0.01).ddf, rel=1e-5)


def test_jackknife_of_the_mean_is_the_standard_error():
    data = np.random.default_rng(0).normal(size=(6, 3))
    without = leave_one_out(data)
    estimate = jackknife(float(data.mean(0)[1]), without[:, 1])
    assert estimate.error == pytest.approx(data[:, 1].std(ddof=1) / np.sqrt(6), rel=1e-12)
    assert estimate.interval[1] - estimate.value == pytest.approx(t_factor(6) * estimate.error)
    assert pseudo_values(data.mean(0), without) == pytest.approx(data)
    assert t_factor(6) == pytest.approx(2.570582, abs=1e-6)
    assert jackknife(1.0, np.ones(4)).error > 0.0


def test_replicas_of_the_mean_have_its_covariance():
    """20 000 replicas of R = 3 repeats: 6 standard errors of a variance, false alarm below 1e-8 for each entry."""
    data = as_repeats(np.random.default_rng(1).normal(size=(3, 2)), 2)
    replicas = mean_replicas(data, np.random.default_rng(2), 20_000)
    expected = np.cov(data.T) / 3
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(np.cov(replicas.T) - expected).max() < 6 * np.sqrt(2 / 20_000) * scale.max()
    assert replicas.mean(0) == pytest.approx(data.mean(0), abs=6 * np.sqrt(scale.max() / 20_000))
    with pytest.raises(EstimateError, match="expected at least 2 bootstrap replicas, got 1"):
        mean_replicas(data, np.random.default_rng(0), 1)


def test_mixed_terms_follow_the_points_and_take_up_what_changes_with_the_volume():
    """F = a v^2 + (b + c v) s^2 + e v^2 s is exact with them: their sum of powers is three, and s has two at most."""
    assert Degree.fitting(15, 2) == Degree(2, 4, 3)
    assert Degree.fitting(10, 2) == Degree(2, 4)
    assert Degree(2, 4, 3).lowered() == Degree(2, 4)
    assert len(Degree(2, 4, 3).exponents(2)) == 10
    assert len(Degree(2, 4, 3).exponents(6)) == 50
    x = np.array([[v, s] for v in np.linspace(-0.1, 0.1, 5) for s in (-0.05, 0.0, 0.05)])
    v, s = x.T
    exact = 400 * v**2 + (300 - 900 * v) * (s - 0.01) ** 2 + 200 * v**2 * s
    noise = np.random.default_rng(0).normal(scale=1e-9, size=(4, 1))
    box = [(-0.1, 0.1), (-0.05, 0.05)]
    surface = FreeEnergySurface.fit(x, exact + noise, reference_volume=10.0, kt=1.0, box=box)
    found, _ = surface.helmholtz([[0.07, 0.03]])
    assert found[0] == pytest.approx(400 * 0.07**2 + (300 - 63) * 0.02**2 + 200 * 0.07**2 * 0.03, abs=1e-6)
