# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies: the convention against published tables, errors against repetition, terms against their sum."""

import math

import numpy as np
import pytest

from lammps_bg.thermo import free_energy as fe
from lammps_bg.thermo.solvable import AnharmonicCrystal, EinsteinCrystal, HarmonicCrystal, spring_stiffness
from lammps_bg.thermo.weights import EstimateError, error_margin

CUBE = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], float)
VOLUME, SCALE = 8.0, 0.9


def generator(seed=0):
    return np.random.default_rng(seed)


def anharmonic(beta=20.0, strength=0.5, static_energy=-3.0):
    stiffness = spring_stiffness(CUBE, 2.0 * np.eye(3), 1.2, longitudinal=1.0, transverse=0.4)
    harmonic = HarmonicCrystal(stiffness, beta=beta, static_energy=static_energy)
    return AnharmonicCrystal(harmonic, strength=strength, width=0.5)


# mW water, s = 0.2 A, Lambda = 2.3925 A, L = 6.2 A per unit cell; Lennard-Jones, s = 0.05, density 1.28, Lambda = 1
WATER = [(8, 3.615406), (64, 4.505639), (216, 4.625882), (512, 4.659563), (1000, 4.672687), (1728, 4.678881)]
LENNARD_JONES = [(32, 5.880940), (108, 6.109949), (180, 6.153865), (256, 6.174517), (500, 6.199770)]
LENNARD_JONES += [(864, 6.211717), (1080, 6.215140), (1372, 6.218122)]


@pytest.mark.parametrize(("n", "value"), WATER)
def test_einstein_reference_of_water(n, value):
    assert fe.einstein_reference(n, n * 6.2**3 / 8, 0.2, 2.3925) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("n", "value"), LENNARD_JONES)
def test_einstein_reference_of_lennard_jones(n, value):
    assert fe.einstein_reference(n, n / 1.28, 0.05, 1.0) == pytest.approx(value, abs=1e-6)


def test_einstein_crystal_sampled_from_itself_is_exact():
    crystal = EinsteinCrystal(27, 0.1, beta=2.0)
    u = crystal.sample(50, generator())
    log_w = -crystal.beta * crystal.energies_forces(u)[0] - crystal.log_prob(u)
    reference = fe.CrystalReference(0.0, crystal.log_partition, 27, 30.0, 0.8)
    result = fe.absolute_from_difference(fe.tfep(log_w, generator()), reference)
    assert result.value == pytest.approx(fe.einstein_reference(27, 30.0, 0.1, 0.8), abs=1e-12)
    assert 0.0 < result.error < 1e-12
    assert result.terms["flow"] == pytest.approx(0.0, abs=1e-12)


def test_terms_sum_to_the_value_and_do_not_depend_on_the_length_unit():
    log_w = generator().normal(size=100) - 40.0
    values = []
    for unit in (1.0, 10.0):
        n, modes = 16, 45
        reference = fe.CrystalReference(-321.0, -70.0 + modes * math.log(unit), n, 123.0 * unit**3, 2.4 * unit)
        result = fe.absolute_from_difference(fe.tfep(log_w + modes * math.log(unit), generator(1)), reference)
        assert math.fsum(result.terms.values()) == pytest.approx(result.value, abs=1e-12)
        values.append([result.value, *result.terms.values()])
    np.testing.assert_allclose(values[0], values[1], atol=1e-12)
    assert list(result.terms) == ["static_lattice", "base", "flow", "centre_of_mass", "labelling"]
    assert result.terms["static_lattice"] == -321.0 / 16
    assert result.terms["labelling"] == math.log(16) / 16


def test_shift_of_the_energy_moves_only_the_static_term():
    rng = generator()
    u = anharmonic().harmonic.sample(200, rng)

    def terms(static_energy):
        crystal = anharmonic(static_energy=static_energy)
        log_w = -crystal.beta * crystal.energies_forces(u)[0] - crystal.harmonic.log_prob(u)
        reference = fe.CrystalReference(crystal.beta * static_energy, crystal.harmonic.log_integral, 8, VOLUME, SCALE)
        return fe.absolute_from_difference(fe.tfep(log_w, generator(1)), reference).terms

    low, high = terms(-3.0), terms(5.0)
    for name in low:
        assert high[name] - low[name] == pytest.approx(20.0 * 8.0 / 8 if name == "static_lattice" else 0.0, abs=1e-10)


@pytest.mark.parametrize(("mapped", "strength"), [(False, 0.2), (False, -0.15), (True, 0.5), (True, -0.4)])
def test_absolute_value_of_an_anharmonic_crystal(mapped, strength):
    """z <= 4 against the exact value with the bootstrap error: false alarm 6e-5 each; `mapped`: drawn through a flow."""
    crystal, rng = anharmonic(strength=strength), generator(3)
    z = crystal.harmonic.sample(20_000, rng)
    u, log_det = crystal.map(z) if mapped else (z, np.zeros(len(z)))
    log_w = -crystal.beta * crystal.energies_forces(u)[0] - (crystal.harmonic.log_prob(z) - log_det)
    static, integral = crystal.beta * crystal.harmonic.static_energy, crystal.harmonic.log_integral
    reference = fe.CrystalReference(static, integral, 8, VOLUME, SCALE)
    result = fe.absolute_from_difference(fe.tfep(log_w, rng, n_bootstraps=300), reference)
    assert result.error < 3e-3
    assert log_w.std() > 0.2
    assert abs(result.value - crystal.free_energy_per_atom(VOLUME, SCALE)) < 4.0 * result.error
    assert abs(crystal.free_energy_per_atom(VOLUME, SCALE) - crystal.harmonic.free_energy_per_atom(VOLUME, SCALE)) > 0.2


def test_errors_and_intervals_mean_what_they_say():
    """400 repetitions with 400 Gaussian log-weights: cover 68 % and 95 %, and no bias; z <= 4 four times: false alarm 3e-4.

    This holds for the bootstrap within the error; the margin on it, that this is not too small by chance, is taken off. The known
    bias Var(w)/(2 n mean^2) is taken off as well; 2 % are granted to the percentile interval, which is a little too short.
    """
    rng, runs, n, sigma = generator(4), 400, 400, 0.5
    draws = sigma * rng.normal(size=(runs, n))
    results, margins = [fe.tfep(log_w, rng, n_bootstraps=200) for log_w in draws], [error_margin(log_w) for log_w in draws]
    exact, bias = -0.5 * sigma**2, (math.exp(sigma**2) - 1.0) / (2 * n)
    pulls = np.array([m * (result.value - exact - bias) / result.error for result, m in zip(results, margins, strict=True)])
    covered = np.mean(
        [
            (result.interval[0] - result.value) / m < exact - result.value < (result.interval[1] - result.value) / m
            for result, m in zip(results, margins, strict=True)
        ]
    )
    assert 1.1 < np.mean(margins) < 1.4
    assert abs(np.mean(np.abs(pulls) < 1.0) - 0.6827) < 4 * math.sqrt(0.6827 * 0.3173 / runs)
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs) + 0.02
    assert abs(pulls.mean()) < 4 / math.sqrt(runs)
    assert abs(pulls.std() - 1.0) < 4 / math.sqrt(2 * runs)


def test_bound_lies_above_the_estimate_and_is_none_with_a_zero_weight():
    log_w = generator().normal(size=2000)
    bound, estimate = fe.upper_bound(log_w), fe.tfep(log_w, generator(), n_bootstraps=100)
    assert bound.value == pytest.approx(-log_w.mean(), abs=1e-15)
    assert bound.error == pytest.approx(log_w.std(ddof=1) / math.sqrt(2000))
    assert bound.value > estimate.value + 5 * estimate.error
    assert fe.upper_bound(np.append(log_w, -np.inf)) is None


def test_zero_weights_count_in_the_mean():
    log_w = np.full(1000, 0.3)
    log_w[:500] = -np.inf
    result = fe.tfep(log_w, generator(), n_bootstraps=500)
    assert result.value == pytest.approx(math.log(2.0) - 0.3, abs=1e-12)
    # Binomial: relative error of the share 1/2 is 1/sqrt(n); 500 replicas know their spread to 3 %
    assert result.error == pytest.approx(1 / math.sqrt(1000), rel=0.15)


@pytest.mark.parametrize("log_w", [[0.0], [0.0, math.nan], [0.0] + [-math.inf] * 20], ids=["one", "nan", "almost all zero"])
def test_no_number_without_statistics(log_w):
    with pytest.raises(EstimateError):
        fe.tfep(log_w, generator())


@pytest.mark.parametrize(("value", "error"), [(0.0, 0.0), (1.0, math.nan), (math.nan, 1.0), (math.inf, 1.0)])
def test_zero_and_nan_errors_are_no_result(value, error):
    with pytest.raises(EstimateError, match="finite estimate"):
        fe.EstimateResult(value, error, (value, value), 10)


def test_scaling_a_result():
    result = fe.EstimateResult(2.0, 0.5, (1.0, 3.5), 10).scaled(-2.0, 1.0)
    assert (result.value, result.error, result.interval) == (-3.0, 1.0, (-6.0, -1.0))
    assert result.to_dict()["interval"] == [-6.0, -1.0]


def test_reference_refuses_nonsense():
    with pytest.raises(EstimateError, match="at least 2 atoms"):
        fe.CrystalReference(0.0, 0.0, 1, 1.0, 1.0)


def test_site_multiplicity_is_in_no_term():
    assert fe.site_multiplicity(2, 64) == pytest.approx(0.010830, abs=1e-6)
    assert fe.site_multiplicity(1, 64) == 0.0


def test_marginal_density_of_a_correlated_gaussian():
    """Joint N(x; 0, 1) N(a; c x, s^2), proposals N(a; x, t^2): exact marginal N(x; 0, 1), z <= 4 on 20 values: 1e-3."""
    rng, m, draws = generator(5), 20, 4000
    x = rng.normal(size=(m, 1))
    c, s, t = 0.8, 0.5, 0.7
    a = x + t * rng.normal(size=(m, draws))

    def log_normal(y, width):
        return -0.5 * (y / width) ** 2 - math.log(width) - 0.5 * math.log(2 * math.pi)

    joint, aux = log_normal(x, 1.0) + log_normal(a - c * x, s), log_normal(a - x, t)
    marginal = fe.marginal_log_q(joint - aux)
    ratio = np.exp(joint - aux)
    sigma = ratio.std(1) / ratio.mean(1) / math.sqrt(draws)
    assert np.all(np.abs(marginal - log_normal(x, 1.0)[:, 0]) < 4 * sigma + 1e-3)


def test_weights_are_exact_at_any_number_of_auxiliaries_if_the_drawn_one_is_among_them():
    """Mean of p(x) / q(x) is one with only two auxiliaries, z <= 4: false alarm 6e-5; two fresh ones miss it by over 8 sigma."""
    rng, n, c, s, t = generator(6), 20_000, 0.7, 0.8, 0.7
    x = rng.normal(size=(n, 1))
    drawn, fresh = c * x + s * rng.normal(size=(n, 1)), x + t * rng.normal(size=(n, 2))

    def z_of_mean_weight(a):
        joint = -0.5 * x**2 - 0.5 * ((a - c * x) / s) ** 2 - math.log(s)
        log_q = fe.marginal_log_q(joint + 0.5 * ((a - x) / t) ** 2 + math.log(t))
        w = np.exp(-0.5 * (x[:, 0] / 0.7) ** 2 - math.log(0.7) - log_q)
        return (w.mean() - 1.0) / (w.std() / math.sqrt(n))

    assert abs(z_of_mean_weight(np.concatenate([drawn, fresh[:, :1]], 1))) < 4.0
    assert z_of_mean_weight(fresh) > 8.0


def test_marginal_density_of_two_auxiliaries_by_hand():
    joint, aux = np.log([[0.2, 0.6], [0.1, 0.3]]), np.log([[0.5, 2.0], [0.1, 0.6]])
    np.testing.assert_allclose(np.exp(fe.marginal_log_q(joint - aux)), [0.35, 0.75], rtol=1e-14)


def test_marginal_density_refuses_other_shapes_and_nan():
    with pytest.raises(EstimateError, match=r"shape \[m, M\]"):
        fe.marginal_log_q(np.zeros(3))
    with pytest.raises(EstimateError, match="finite log-densities"):
        fe.marginal_log_q(np.array([[math.nan]]))


def test_convergence_ends_at_the_estimate_and_starts_at_either_end():
    log_w = generator().normal(size=1000) - 5000.0
    log_w[:30] = -np.inf
    partial = fe.convergence(log_w, 40)
    full = fe.tfep(log_w, generator(), n_bootstraps=1000)
    assert partial.counts[-1] == 1000
    assert partial.forward[-1] == pytest.approx(full.value, abs=1e-10)
    assert partial.backward[-1] == pytest.approx(full.value, abs=1e-10)
    assert partial.backward_error[-1] == pytest.approx(full.error / error_margin(log_w), rel=0.15)
    assert np.isnan(partial.forward[0])
    assert partial.backward[0] == pytest.approx(-np.log(np.mean(np.exp(log_w[-25:] + 5000))) + 5000, abs=1e-9)
