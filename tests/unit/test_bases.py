# SPDX-License-Identifier: GPL-2.0-or-later
"""Bases against dense linear algebra on the space without centre of mass, and the fits that make them."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lattices import crystal, springs
from scipy.linalg import null_space

from lammps_bg.config import load_config
from lammps_bg.crystal.operations import site_operations
from lammps_bg.crystal.units import Units
from lammps_bg.errors import ConfigError, UnstableCrystalError
from lammps_bg.flow import bases
from lammps_bg.flow.base import FitTask, base_kind
from lammps_bg.flow.bases.einstein import EinsteinBase, EinsteinFit
from lammps_bg.flow.bases.phonon import PhononBase, PhononFit, ThermalUpdate
from lammps_bg.flow.force_constants import ForceConstants, GroupAverage, finite_differences, harmonic
from lammps_bg.flow.self_consistent import Step, ThermalSample, measured, step_of, worth
from lammps_bg.thermo.solvable import AnharmonicCrystal
from lammps_bg.training.model_file import SavedModel, load_model, save_model

BETA = 30.0
UNITS = Units("metal", 8.617e-5, 1.0, 1.0, 1.0, 0.001)
# triclinic, two species, odd and unequal counts among them; springs of each stay shorter than half of the box
LATTICES = [("fcc", (2, 2, 2)), ("diamond", (2, 2, 2)), ("zincblende", (2, 1, 1)), ("triclinic", (3, 4, 3)), ("hcp", (3, 2, 2))]
REACH = {"triclinic": 1.6}


def spring_crystal(name, replicate, **options):
    lattice = crystal(name, replicate)
    return lattice, springs(lattice, beta=BETA, reach=REACH.get(name, 1.15), **options)


@pytest.fixture(params=LATTICES, ids=lambda p: p[0])
def solved(request):
    return spring_crystal(*request.param)


def dense(stiffness, grid):
    """The matrix [3N, 3N] in grid order that a block-circulant K(k) stands for, from its Fourier sum."""
    cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    waves, blocks = 2 * np.pi * cells / np.array(grid), stiffness.reshape(-1, *stiffness.shape[-2:])
    phase = np.exp(1j * np.einsum("kd,ijd->kij", waves, cells[:, None] - cells[None])) / len(cells)
    matrix = np.einsum("kij,kab->iajb", phase, blocks).reshape((len(cells) * blocks.shape[-1],) * 2)
    assert np.abs(matrix.imag).max() < 1e-9 * np.abs(matrix).max()
    return matrix.real


def true_stiffness(solvable):
    return (solvable.modes * solvable.curvatures) @ solvable.modes.T


def constants_of(lattice, solvable):
    return finite_differences(solvable.energies_forces, lattice, np.zeros((lattice.n_basis, 3)), 1e-3)


def test_finite_differences_recover_the_force_constants(solved):
    lattice, solvable = solved
    constants = constants_of(lattice, solvable)
    expected = true_stiffness(solvable)
    np.testing.assert_allclose(dense(constants.stiffness, constants.grid), expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(constants.symmetrised().stiffness, constants.stiffness, atol=1e-11 * np.abs(expected).max())
    cell_zero = expected.reshape(lattice.n_cells, 3 * lattice.n_basis, lattice.n_cells, -1)[0].transpose(1, 0, 2)
    np.testing.assert_allclose(constants.real_space.reshape(cell_zero.shape), cell_zero, atol=1e-9 * np.abs(expected).max())
    values = np.sort(constants.modes()[0].ravel())
    np.testing.assert_allclose(values[3:], solvable.curvatures, rtol=1e-8)
    assert (values[:3] == 0).all()


def test_finite_differences_cost_six_evaluations_for_each_basis_site(solved):
    lattice, solvable = solved
    counted = []

    def field(u):
        counted.append(len(u))
        return solvable.energies_forces(u)

    finite_differences(field, lattice, np.zeros((lattice.n_basis, 3)), 1e-3)
    assert sum(counted) == 6 * lattice.n_basis


def test_phonon_density_is_that_of_the_dense_gaussian(solved):
    lattice, solvable = solved
    base = PhononBase(constants_of(lattice, solvable), BETA)
    assert base.log_integral == pytest.approx(solvable.log_integral, abs=1e-9 * lattice.n_sites)
    u = 2 * solvable.sample(6, np.random.default_rng(0))
    np.testing.assert_allclose(base.log_prob(torch.from_numpy(u)).numpy(), solvable.log_prob(u), rtol=1e-9, atol=1e-8)
    covariance = np.linalg.pinv(BETA * true_stiffness(solvable), rcond=1e-10, hermitian=True)
    variance = covariance.diagonal().reshape(-1, 3).mean(1)
    np.testing.assert_allclose(base.amplitude.numpy(), np.sqrt(variance), rtol=1e-8)


def test_a_harmonic_crystal_has_equal_weights_and_its_exact_free_energy(solved):
    """Importance sampling with q = p: every log-weight is ln Z, ESS = 100 %."""
    lattice, solvable = solved
    base = PhononBase(constants_of(lattice, solvable), BETA)
    u = base.sample(50, torch.Generator().manual_seed(1))
    log_w = -BETA * solvable.energies_forces(u.numpy())[0] - base.log_prob(u).numpy()
    np.testing.assert_allclose(log_w, solvable.log_partition, atol=1e-8 * lattice.n_sites)
    assert abs(u.sum(1)).max() < 1e-12


@pytest.mark.parametrize("name", ["fcc", "triclinic"])
def test_covariance_of_phonon_samples(name):
    """20000 samples in 200 fixed random directions: the variances' z-scores stay below 5, false alarm 1.2e-4 in all."""
    lattice, solvable = spring_crystal(name, (2, 1, 3))
    base = PhononBase(constants_of(lattice, solvable), BETA)
    u = base.sample(20_000, torch.Generator().manual_seed(2)).flatten(1).numpy()
    directions = np.random.default_rng(3).normal(size=(u.shape[1], 200))
    covariance = np.linalg.pinv(BETA * true_stiffness(solvable), rcond=1e-10, hermitian=True)
    expected = (directions * (covariance @ directions)).sum(0)
    z = ((u @ directions) ** 2).mean(0) / expected - 1
    assert np.abs(z).max() < 5 * math.sqrt(2 / len(u))


def test_covariance_of_einstein_samples():
    """As above, for atoms with two widths."""
    widths = torch.tensor([0.1, 0.3, 0.1, 0.2], dtype=torch.float64)
    base = EinsteinBase(widths)
    u = base.sample(20_000, torch.Generator().manual_seed(4))
    assert abs(u.sum(1)).max() < 1e-13
    free = np.kron(np.diag(widths.numpy() ** -2.0), np.eye(3))
    space = null_space(np.kron(np.ones((1, 4)), np.eye(3)))
    covariance = space @ np.linalg.inv(space.T @ free @ space) @ space.T
    directions = np.random.default_rng(5).normal(size=(12, 200))
    z = ((u.flatten(1).numpy() @ directions) ** 2).mean(0) / (directions * (covariance @ directions)).sum(0) - 1
    assert np.abs(z).max() < 5 * math.sqrt(2 / len(u))
    np.testing.assert_allclose(base.amplitude.numpy() ** 2, covariance.diagonal().reshape(4, 3).mean(1), rtol=1e-12)


def test_einstein_density_is_that_of_the_dense_gaussian():
    rng = np.random.default_rng(6)
    for n in (2, 5, 31):
        widths = rng.uniform(0.05, 0.4, n)
        base = EinsteinBase(torch.from_numpy(widths))
        space = null_space(np.kron(np.ones((1, n)), np.eye(3)))
        precision = space.T @ np.kron(np.diag(widths**-2.0), np.eye(3)) @ space
        log_integral = 0.5 * (3 * n - 3) * math.log(2 * math.pi) - 0.5 * np.linalg.slogdet(precision)[1]
        assert base.log_integral == pytest.approx(log_integral, abs=1e-9)
        z = rng.normal(size=(4, 3 * n - 3))
        u = torch.from_numpy((z @ space.T).reshape(4, n, 3))
        expected = -0.5 * np.einsum("sa,ab,sb->s", z, precision, z) - log_integral
        np.testing.assert_allclose(base.log_prob(u).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 8, 1000])
def test_einstein_crystal_is_exact_at_any_size(n):
    base = EinsteinBase(torch.full((n,), 0.3, dtype=torch.float64))
    assert base.log_integral == pytest.approx(1.5 * (n - 1) * math.log(2 * math.pi * 0.09), rel=1e-12)
    torch.testing.assert_close(base.amplitude, torch.full((n,), 0.3 * math.sqrt(1 - 1 / n), dtype=torch.float64))


@pytest.mark.parametrize("kind", ["phonon", "einstein"])
def test_gradient_of_the_density(kind):
    lattice, solvable = spring_crystal("triclinic", (2, 1, 1))
    if kind == "phonon":
        constants = constants_of(lattice, solvable)
        base = PhononBase(ForceConstants(constants.stiffness, np.array([[0.01, 0.02, -0.01], [0.0, 0.03, 0.05]])), BETA)
    else:
        base = EinsteinBase(torch.tensor([0.1, 0.2, 0.1, 0.2]))
    u = base.sample(2, torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(base.log_prob, (u,), rtol=1e-6)


def test_the_mean_of_a_shifted_base_is_its_offset():
    """The density is even about the offset, whose own centre of mass is removed."""
    lattice, solvable = spring_crystal("triclinic", (2, 1, 2))
    offset = np.array([[0.3, 0.1, 0.0], [-0.1, 0.2, 0.4]])
    base = PhononBase(ForceConstants(constants_of(lattice, solvable).stiffness, offset), BETA)
    mean = torch.from_numpy(np.tile(offset - offset.mean(0), (lattice.n_cells, 1)))
    u = base.sample(5, torch.Generator().manual_seed(0))
    assert abs(u.sum(1)).max() < 1e-12
    torch.testing.assert_close(base.log_prob(2 * mean - u), base.log_prob(u))
    assert float(base.log_prob(mean[None])) == pytest.approx(-base.log_integral)


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [("fcc", (2, 2, 2), (3, 4, 5)), ("triclinic", (3, 4, 3), (5, 3, 6)), ("hcp", (3, 2, 2), (2, 3, 5))],
)
def test_short_ranged_constants_reach_another_replicate(name, small, large):
    lattice, solvable = spring_crystal(name, small)
    other, solved_there = spring_crystal(name, large)
    moved = constants_of(lattice, solvable).interpolated(lattice, other)
    there = constants_of(other, solved_there)
    np.testing.assert_allclose(moved.stiffness, there.stiffness, atol=1e-8 * np.abs(there.stiffness).max())
    assert PhononBase(moved, BETA).log_integral == pytest.approx(solved_there.log_integral, rel=1e-9)


def test_interpolation_to_the_same_replicate_changes_nothing():
    """Also for force constants without any short range, such as those of a fit with noise."""
    lattice, solvable = spring_crystal("triclinic", (2, 3, 2))
    constants = constants_of(lattice, solvable)
    noise = np.random.default_rng(0).normal(size=constants.stiffness.shape)
    rough = ForceConstants(constants.stiffness + noise, constants.offset).symmetrised()
    again = rough.interpolated(lattice, lattice)
    np.testing.assert_allclose(again.stiffness, rough.stiffness, atol=1e-9 * np.abs(rough.stiffness).max())


def fit(solvable, lattice, seed=1, **options):
    return PhononFit(FitTask(solvable.energies_forces, lattice, UNITS, BETA, seed)).run(
        **{"iterations": 5, "n_samples": 400, **options}
    )


def test_the_iteration_leaves_a_harmonic_crystal_alone(solved):
    lattice, solvable = solved
    fitted = fit(solvable, lattice, iterations=3, n_samples=60)
    expected = constants_of(lattice, solvable).stiffness
    np.testing.assert_allclose(fitted.parameters.constants.stiffness, expected, atol=1e-6 * np.abs(expected).max())
    for step in fitted.history:
        assert step.bound == pytest.approx(-solvable.log_partition / lattice.n_sites, abs=1e-6)
        assert step.error < 1e-6


def bound_of(solvable, base, n=2000):
    """The bound from configurations of its own."""
    return measured(solvable.energies_forces, base, BETA, n_samples=n, seed=99)


@pytest.mark.parametrize("strength", [1.0, -0.6])
def test_the_iteration_lowers_the_bound_of_an_anharmonic_crystal(strength):
    """The gain is many standard errors (over 20 here), and the bound stays above the exact value (z > -5: false alarm 3e-7)."""
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))
    anharmonic = AnharmonicCrystal(solvable, strength=strength, width=0.25)
    fitted, harmonic_base = fit(anharmonic, lattice), PhononBase(constants_of(lattice, anharmonic), BETA)
    first, best = (bound_of(anharmonic, base) for base in (harmonic_base, fitted.base))
    assert first.bound - best.bound > 10 * math.hypot(first.error, best.error)
    assert best.bound > -anharmonic.log_partition / lattice.n_sites - 5 * best.error
    reported = fitted.history[-1]
    assert abs(reported.bound - best.bound) < 5 * math.hypot(reported.error, best.error)


def shifted(solvable, lattice, offset):
    """The crystal with its minimum moved away from the reference sites."""
    move = np.tile(offset, (lattice.n_cells, 1))
    return lambda u: solvable.energies_forces(u - move)


def test_the_minimum_is_found_when_the_sites_are_off():
    lattice, solvable = spring_crystal("zincblende", (2, 2, 2))
    offset = np.random.default_rng(0).uniform(-1, 1, (8, 3)) * 0.02
    offset -= offset.mean(0)
    np.testing.assert_allclose(harmonic(shifted(solvable, lattice, offset), lattice).offset, offset, atol=1e-7)
    evaluated, away = [], shifted(AnharmonicCrystal(solvable, strength=0.8, width=2.0), lattice, offset)

    def counting(u):
        evaluated.append(len(u))
        return away(u)

    np.testing.assert_allclose(harmonic(counting, lattice).offset, offset, atol=1e-6)
    assert sum(evaluated) <= 2 * 6 * lattice.n_basis + 10  # force constants at the sites and at the minimum
    fitted = PhononFit(FitTask(shifted(solvable, lattice, offset), lattice, UNITS, BETA, 0)).run(iterations=2, n_samples=60)
    assert fitted.history[-1].bound == pytest.approx(-solvable.log_partition / lattice.n_sites, abs=1e-6)


def boundary_well(lattice, solvable, curvature, quartic=0.0):
    """Give displacements that alternate along x another curvature and a quartic term, the same in every cell but for the sign."""
    pattern = np.zeros((*lattice.replicate, lattice.n_basis, 3))
    pattern[::2, :, :, 0, 2], pattern[1::2, :, :, 0, 2] = 1.0, -1.0
    direction = pattern.ravel() / np.linalg.norm(pattern)
    change = curvature - direction @ true_stiffness(solvable) @ direction

    def field(u):
        energies, forces = solvable.energies_forces(u)
        z = u.reshape(len(u), -1) @ direction
        slope = change * z + 4 * quartic * z**3
        return energies + 0.5 * change * z**2 + quartic * z**4, forces - (slope[:, None] * direction).reshape(u.shape)

    return field


@pytest.mark.parametrize("iterations", [0, 5])
def test_an_unstable_crystal_is_refused_with_its_modes_named(iterations, caplog):
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))
    field = boundary_well(lattice, solvable, -60.0)
    fitting = PhononFit(FitTask(field, lattice, UNITS, BETA, 0))
    with caplog.at_level(logging.WARNING), pytest.raises(UnstableCrystalError, match=r"k = \(1/2, 0, 0\) branch 1 stiffness -\d"):
        fitting.run(iterations=iterations, n_samples=200)
    assert ("unstable at the minimum" in caplog.text) == (iterations > 0)


def test_modes_that_temperature_stabilises_pass(caplog):
    """A double well with a shallow barrier: unstable at the saddle between the wells, stable for the thermal average."""
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))
    bounded = boundary_well(lattice, solvable, 26.0, quartic=2000.0)
    with pytest.raises(UnstableCrystalError):
        PhononFit(FitTask(bounded, lattice, UNITS, BETA, 0)).run(iterations=0, n_samples=200)
    fitted = PhononFit(FitTask(bounded, lattice, UNITS, BETA, 0)).run(iterations=8, n_samples=400)
    assert "unstable at the minimum" in caplog.text
    assert fitted.parameters.constants.unstable_modes() == []
    assert np.isfinite(fitted.base.log_integral)


def test_an_einstein_fit_finds_the_springs():
    """Atoms on springs of their own, by species: the widths are known; for others, the bound falls to its lowest."""
    lattice = crystal("caesium", (2, 2, 2))
    stiffness = np.where(lattice.types == 1, 20.0, 50.0)[:, None]
    fitted = EinsteinFit(FitTask(lambda u: (0.5 * (stiffness * u**2).sum((1, 2)), -stiffness * u), lattice, UNITS, BETA, 0)).run(
        iterations=2, n_samples=500
    )
    np.testing.assert_allclose(fitted.base.widths.numpy(), 1 / np.sqrt(BETA * stiffness[:, 0]), rtol=0.1)


def test_an_einstein_fit_lowers_the_bound_of_an_anharmonic_crystal():
    """Quartic springs on the sites of fcc: much stiffer for thermal displacements than at the minimum."""
    lattice = crystal("fcc", (2, 2, 2))

    def quartic(u):
        centred = u - u.mean(1, keepdims=True)
        force = -(5.0 * centred + 400.0 * centred**3)
        return (2.5 * centred**2 + 100.0 * centred**4).sum((1, 2)), force - force.mean(1, keepdims=True)

    for fitting in (EinsteinFit(FitTask(quartic, lattice, UNITS, BETA, 0)), PhononFit(FitTask(quartic, lattice, UNITS, BETA, 0))):
        start, fitted = (fitting.run(iterations=iterations, n_samples=400) for iterations in (0, 4))
        first, best = (measured(quartic, entry.base, BETA, n_samples=2000, seed=99) for entry in (start, fitted))
        assert first.bound - best.bound > 20 * math.hypot(first.error, best.error)


def test_unbound_atoms_are_refused():
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))
    with pytest.raises(UnstableCrystalError, match="bound to their sites"):
        EinsteinFit(
            FitTask(lambda u: (-solvable.energies_forces(u)[0], 0 - solvable.energies_forces(u)[1]), lattice, UNITS, BETA, 0)
        ).run(iterations=1, n_samples=100)


def test_a_few_infinite_energies_are_left_out_and_many_are_refused():
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))

    def field(share):
        def spoiled(u):
            energies, forces = solvable.energies_forces(u)
            if len(u) >= 32:
                bad = np.arange(len(u)) < share * len(u)
                energies, forces = np.where(bad, np.inf, energies), np.where(bad[:, None, None], np.nan, forces)
            return energies, forces

        return spoiled

    fitted = PhononFit(FitTask(field(0.2), lattice, UNITS, BETA, 0)).run(iterations=2, n_samples=200)
    assert [(step.n, step.n_drawn) for step in fitted.history] == [(25, 32), (51, 64), (51, 64)]
    assert not any(step.holds for step in fitted.history)
    assert fitted.history[-1].bound == pytest.approx(-solvable.log_partition / lattice.n_sites, abs=1e-6)
    for fitting in (
        PhononFit(FitTask(field(0.6), lattice, UNITS, BETA, 0)),
        EinsteinFit(FitTask(field(0.6), lattice, UNITS, BETA, 0)),
    ):
        with pytest.raises(UnstableCrystalError, match="20 infinite ones of 32"):
            fitting.run(iterations=2, n_samples=200)


def test_infinite_forces_at_the_sites_are_refused():
    lattice, _ = spring_crystal("fcc", (2, 2, 2))
    with pytest.raises(UnstableCrystalError, match="finite forces close to the reference sites"):
        harmonic(lambda u: (np.full(len(u), np.inf), np.full(u.shape, np.nan)), lattice)


def test_a_fit_is_reproducible():
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))
    anharmonic = AnharmonicCrystal(solvable, strength=1.0, width=0.25)
    one, two, other = (fit(anharmonic, lattice, seed=seed, iterations=2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.parameters.constants.stiffness, two.parameters.constants.stiffness)
    assert (one.parameters.constants.stiffness != other.parameters.constants.stiffness).any()


@pytest.mark.parametrize("name", ["fcc", "hcp", "diamond", "tin", "zincblende", "triclinic"])
def test_averages_over_the_space_group_leave_exact_force_constants_alone(name):
    lattice, solvable = spring_crystal(name, (2, 2, 2))
    exact = constants_of(lattice, solvable)
    assert len(site_operations(lattice)) >= lattice.n_basis // lattice.n_primitive
    np.testing.assert_allclose(exact.averaged(lattice).stiffness, exact.stiffness, atol=1e-7 * np.abs(exact.stiffness).max())


@pytest.mark.parametrize(("name", "at_least"), [("fcc", 96), ("diamond", 96), ("hcp", 8)])
def test_averages_over_the_space_group_take_noise_away(name, at_least):
    """Independent noise on Phi falls by about the root of the number of operations; the average has their symmetry, to rounding."""
    lattice, solvable = spring_crystal(name, (2, 2, 2))
    exact = constants_of(lattice, solvable)
    rng = np.random.default_rng(0)
    rough = replace(exact, stiffness=exact.stiffness + 0.1 * rng.standard_normal(exact.stiffness.shape)).symmetrised()
    averaged = rough.averaged(lattice)
    before, after = (np.linalg.norm(found.stiffness - exact.stiffness) for found in (rough, averaged))
    assert len(site_operations(lattice)) >= at_least
    assert after < 3 * before / np.sqrt(at_least)
    again = averaged.averaged(lattice)
    np.testing.assert_allclose(again.stiffness, averaged.stiffness, atol=1e-10 * np.abs(exact.stiffness).max())


def test_only_operations_that_the_supercell_has_are_used():
    """Two cells along one axis, three along the others: a fourfold axis maps the cell onto itself, but not the supercell."""
    cube, brick = (len(site_operations(spring_crystal("fcc", counts)[0])) for counts in ((2, 2, 2), (2, 3, 3)))
    assert cube == 192
    assert brick == 64


def site_matrix(lattice, operation):
    """What an operation does to displacements in grid order, shape [3N, 3N]."""
    cells = operation.cells % np.array(lattice.replicate)
    target = np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), lattice.replicate) * lattice.n_basis + operation.image
    matrix = np.zeros((lattice.n_sites, 3, lattice.n_sites, 3))
    matrix[target.ravel(), :, np.arange(lattice.n_sites), :] = operation.turn
    return matrix.reshape(3 * lattice.n_sites, -1)


@pytest.mark.parametrize(
    ("name", "counts"), [("fcc", (2, 2, 2)), ("hcp", (2, 1, 3)), ("tin", (2, 2, 1)), ("triclinic", (2, 3, 1))]
)
def test_group_averages_are_those_of_the_dense_matrices(name, counts):
    """Matrices without any symmetry, several at a time, against the sum over permutations and turns of all sites."""
    lattice = crystal(name, counts)
    rng, m = np.random.default_rng(3), 3 * lattice.n_basis
    real = rng.normal(size=(2, *counts, m, m))
    blocks = np.conj(np.fft.fftn(real, axes=(1, 2, 3)))
    averaged = GroupAverage(lattice).blocks(blocks)
    matrices = [site_matrix(lattice, operation) for operation in site_operations(lattice)]
    for before, after in zip(blocks, averaged, strict=True):
        expected = np.mean([g.T @ dense(before, counts) @ g for g in matrices], 0)
        np.testing.assert_allclose(dense(after, counts), expected, atol=1e-12)
    vectors = rng.normal(size=(3, lattice.n_basis, 3))
    everywhere = np.tile(vectors, (1, lattice.n_cells, 1)).reshape(3, -1)
    expected = np.mean([everywhere @ g for g in matrices], 0).reshape(3, lattice.n_cells, -1, 3)
    np.testing.assert_allclose(GroupAverage(lattice).vectors(vectors), expected[:, 0], atol=1e-12)


# ---- how many configurations a fit takes


class Counted:
    """A force field that counts its evaluations."""

    def __init__(self, solvable):
        self.solvable, self.n = solvable, 0

    def __call__(self, u):
        self.n += len(u)
        return self.solvable.energies_forces(u)


def test_gain_and_noise_of_a_step_are_unbiased():
    """Parts s + noise of variance 4 in 50 dimensions, |s|^2 = 2: means over 4000 trials within 5 standard errors, false alarm 1e-6."""
    rng = np.random.default_rng(0)
    signal = np.full(50, 0.2)
    found = np.array([worth(parts, parts) for parts in signal + 2 * rng.normal(size=(4000, 8, 50))])
    expected = np.array([2.0, 50 * 4 / 8])
    assert (np.abs(found.mean(0) - expected) < 5 * found.std(0) / math.sqrt(4000)).all()


def test_configurations_are_drawn_until_the_noise_does_not_count():
    base = EinsteinBase(torch.full((4,), 0.3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return ThermalSample.draw(base, lambda u: (2.0 * u[:, 0, 0], u), 1.0, n, generator)

    def steps(gain, noise):
        return lambda sample: Step(None, gain, noise * sample.tolerance * 32 / len(sample))

    sample, _ = step_of(draw, steps(0.0, 0.9), 1000)
    assert len(sample) == 32
    assert len(step_of(draw, steps(0.0, 2.5), 1000)[0]) == 80
    assert len(step_of(draw, steps(1e3, 2.5), 1000)[0]) == 32  # the gain is worth it
    assert len(step_of(draw, steps(0.0, 1e6), 200)[0]) == 200
    u = sample.displacements
    np.testing.assert_allclose(u[1::2], -u[::2], atol=1e-12)
    assert sum(part.sum() for part in sample.parts) == 32


@pytest.mark.parametrize(
    ("name", "replicate", "most"),
    [
        pytest.param("fcc", (3, 3, 3), 350, marks=pytest.mark.slow),
        pytest.param("diamond", (2, 2, 2), 450, marks=pytest.mark.slow),
        ("triclinic", (3, 4, 3), 1200),
    ],
)
def test_tens_of_configurations_make_as_good_a_crystal_as_thousands(name, replicate, most):
    """The bound is that of a fit to eight times 4000 configurations to 0.05 kT for the whole crystal; it gains over 2 kT.

    The difference is taken over the same white noise for both: its standard error is below 0.005 kT.
    """
    lattice, solvable = spring_crystal(name, replicate)
    anharmonic = AnharmonicCrystal(solvable, strength=0.3, width=0.25)
    counted = Counted(anharmonic)
    fitted = PhononFit(FitTask(counted, lattice, UNITS, BETA, 1)).run(iterations=10, n_samples=1000)
    assert counted.n <= most
    update, known = ThermalUpdate(lattice, BETA, symmetric=True), constants_of(lattice, anharmonic)
    generator = torch.Generator().manual_seed(5)
    for _ in range(8):
        known = update(
            known, 0.7, ThermalSample.draw(PhononBase(known, BETA), anharmonic.energies_forces, BETA, 4000, generator)
        ).to
    first, best, own = (
        lattice.n_sites * bound_of(anharmonic, base).bound
        for base in (PhononBase(constants_of(lattice, anharmonic), BETA), PhononBase(known, BETA), fitted.base)
    )
    assert own - best < 0.05
    assert first - best > 2


def test_a_crystal_without_symmetry_takes_more_configurations():
    """As many force constants as the symmetry leaves have to be found."""
    drawn = []
    for name, replicate in (("fcc", (2, 2, 2)), ("triclinic", (3, 4, 3))):
        lattice, solvable = spring_crystal(name, replicate)
        counted = Counted(AnharmonicCrystal(solvable, strength=0.3, width=0.25))
        PhononFit(FitTask(counted, lattice, UNITS, BETA, 1)).run(iterations=10, n_samples=1000)
        drawn.append(counted.n)
    assert drawn[0] < 0.7 * drawn[1]


# ---- what every kind of base must do: a new file of flow/bases is tested by its name alone


KINDS = sorted(file.stem for file in Path(bases.__file__).parent.glob("*.py") if file.stem != "__init__")


def fitted_of(kind, lattice, solvable, **options):
    task = FitTask(solvable.energies_forces, lattice, UNITS, BETA, 1)
    return base_kind(kind).fit(task, **{"iterations": 0, "n_samples": 50, **options})


def bases_of(lattice, solvable):
    """Every kind fitted to a crystal, and atoms of which no two have the same width."""
    widths = torch.linspace(0.03, 0.09, lattice.n_sites, dtype=torch.float64)
    return [EinsteinBase(widths), *(fitted_of(kind, lattice, solvable).base for kind in KINDS)]


def test_the_configuration_knows_the_kinds():
    """Those that there are files for, and no others."""
    assert {"einstein", "phonon"} <= set(KINDS)
    assert [load_config(overrides=(f"base.kind={kind}",)).base.kind for kind in KINDS] == KINDS
    with pytest.raises(ConfigError, match="expected a valid value for 'base.kind', got 'phonons' .*'einstein' or 'phonon'"):
        load_config(overrides=("base.kind=phonons",))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_come_back_from_a_model_file_and_from_their_coordinates(kind, tmp_path):
    lattice, solvable = spring_crystal("zincblende", (2, 1, 1))
    fitted = fitted_of(kind, lattice, AnharmonicCrystal(solvable, strength=0.5, width=0.25), iterations=2)
    assert fitted.iterations > 0
    assert len(fitted.history) == fitted.iterations + 2
    u = fitted.base.sample(4, torch.Generator().manual_seed(1))
    config = load_config(overrides=(f"base.kind={kind}",))
    save_model(tmp_path / "model.pt", SavedModel({}, config, fitted, lattice.replicate, {}), lattice)
    loaded = load_model(tmp_path / "model.pt", lattice, BETA).fitted
    assert torch.equal(loaded.base.log_prob(u), fitted.base.log_prob(u))
    assert torch.equal(loaded.base.sample(4, torch.Generator().manual_seed(1)), u)
    assert loaded.history == fitted.history
    again = type(fitted.parameters).from_coordinates(fitted.parameters.coordinates()).base(BETA)
    torch.testing.assert_close(again.log_prob(u), fitted.base.log_prob(u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_at_another_size_is_that_of_a_fit_there(kind):
    """Or the kind says that it has to be fitted there; a fit from given parameters starts at these, where the kind can."""
    lattice, solvable = spring_crystal("fcc", (2, 2, 2))
    other, solved_there = spring_crystal("fcc", (3, 4, 5))
    fitted, there = fitted_of(kind, lattice, solvable), fitted_of(kind, other, solved_there)
    moved = fitted.parameters.at(lattice, other)
    if moved is not None:
        assert moved.base(BETA).log_integral == pytest.approx(there.base.log_integral, rel=1e-7)
        torch.testing.assert_close(moved.base(BETA).amplitude, there.base.amplitude, rtol=1e-6, atol=0)
    if fitted.parameters.restarts:
        evaluated = Counted(solvable)
        task = FitTask(evaluated, lattice, UNITS, BETA, 1)
        fitted.parameters.fit(task, iterations=0, n_samples=50, start=fitted.parameters)
        assert evaluated.n == 2 * 50  # nothing but the two bounds


def test_colour_gives_the_density_and_whiten_its_inverse(solved):
    """White noise through colour has log q0 up to what the three idle dimensions carry, and comes back by whiten; both differentiable."""
    for base in bases_of(*solved):
        x = torch.randn(5, solved[0].n_sites, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        u = base.colour(x)
        back = base.whiten(u)
        assert u.sum(1).abs().max() < 1e-12
        torch.testing.assert_close(base.colour(back), u, rtol=0, atol=1e-12)
        torch.testing.assert_close(base.log_prob(u), -0.5 * back.square().sum((1, 2)) - base.log_integral)
        assert (back.square().sum((1, 2)) < x.square().sum((1, 2))).all()
        assert torch.equal(base.sample(5, torch.Generator().manual_seed(2)), u)
        x.requires_grad_()
        (slope,) = torch.autograd.grad((base.colour(x) * u).sum(), x)
        step = 1e-6 * torch.randn(slope.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        change = ((base.colour(x + step) - base.colour(x - step)) * u).sum().item() / 2
        assert change == pytest.approx((slope * step).sum().item(), rel=1e-6)


def test_the_softest_displacements_vary_most(solved):
    for base in bases_of(*solved):
        u, soft = base.sample(4000, torch.Generator().manual_seed(4)), base.softest
        assert soft.norm().item() == pytest.approx(1.0)
        assert soft.sum(0).abs().max() < 1e-10
        along = (u * soft).sum((1, 2)).var().item()
        random = torch.randn(20, *soft.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        random = random - random.mean(1, keepdim=True)
        others = torch.einsum("nid,mid->nm", u, random / random.norm(dim=(1, 2), keepdim=True)).var(0)
        assert (
            along > (1 - 5 * math.sqrt(2 / len(u))) * others.max().item()
        )  # equal widths: the same but for noise, false alarm 6e-6
