# SPDX-License-Identifier: GPL-2.0-or-later
"""Sampling: the sample set depends on seed and index alone, weights are exact, marginal densities tend to the exact ones."""

import math

import numpy as np
import pytest
import torch
from lattices import SolvableSurface, crystal, springs

from lammps_bg.config import FlowConfig
from lammps_bg.flow.bases.phonon import PhononBase
from lammps_bg.flow.force_constants import finite_differences
from lammps_bg.flow.model import build_generator
from lammps_bg.thermo.sampler import draw, marginal_log_density
from lammps_bg.training.target import ExactTarget

BETA = 20.0
LATTICE = crystal("diamond", (1, 1, 1))
HARMONIC = springs(LATTICE, beta=BETA, static_energy=-3.0)
FIELDS = ("states", "energies", "log_q", "log_w")


def generator_of(kind="sublattice", randomise=0.03):
    base = PhononBase(finite_differences(HARMONIC.energies_forces, LATTICE, np.zeros((8, 3)), 1e-3), BETA)
    config = FlowConfig(kind=kind, width=8, n_bins=4, n_sweeps=1, n_layers=1, n_frequencies=2)
    generator = build_generator(config, LATTICE, base, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.flow.parameters():
            parameter.add_(randomise * torch.randn_like(parameter))
    return generator


def sampled(generator, n, *, seed=1, fails=None, batch_size=None):
    target = ExactTarget(SolvableSurface(HARMONIC, fails=fails), BETA)
    chunks = list(draw(generator, target, n, seed=seed, batch_size=batch_size))
    assert [chunk.first for chunk in chunks] == np.cumsum([0, *(len(chunk.log_w) for chunk in chunks[:-1])]).tolist()
    return {name: np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in FIELDS}


@pytest.mark.parametrize("kind", ["sublattice", "augmented"])
def test_samples_do_not_depend_on_the_batch_size(kind):
    generator = generator_of(kind)
    reference = sampled(generator, 100)
    assert len(reference["log_w"]) == 100
    for batch_size in (1, 16, 40, 64, 1000):
        other = sampled(generator, 100, batch_size=batch_size)
        np.testing.assert_allclose(other["states"], reference["states"], atol=1e-6 * np.abs(reference["states"]).max())
        np.testing.assert_allclose(other["energies"], reference["energies"], rtol=1e-6)
        np.testing.assert_allclose(other["log_w"], reference["log_w"], atol=1e-4)


def test_fewer_samples_are_the_first_ones_and_seeds_differ():
    generator = generator_of()
    many, few, other = sampled(generator, 100), sampled(generator, 21), sampled(generator, 100, seed=2)
    np.testing.assert_allclose(few["log_q"], many["log_q"][:21], atol=1e-4)
    assert len(np.unique(many["log_q"])) == 100
    assert not np.isclose(many["log_q"], other["log_q"]).any()


@pytest.mark.parametrize("kind", ["sublattice", "augmented"])
def test_weights_are_those_of_their_definition(kind):
    """log q by the inverse, energies by the crystal itself; the displacements have no centre of mass."""
    generator = generator_of(kind)
    generator.flow.double()
    got = sampled(generator, 30)
    states = torch.from_numpy(got["states"])
    with torch.no_grad():
        start, log_det = generator.flow.inverse(states)
        log_q = generator.prior.log_prob(start) + log_det
    np.testing.assert_allclose(got["log_q"], log_q.numpy(), atol=1e-6)
    energies = HARMONIC.energies_forces(got["states"][:, 0])[0]
    np.testing.assert_allclose(got["energies"], energies, rtol=1e-12)
    expected = -BETA * energies + generator.prior.log_auxiliary(states).numpy() - got["log_q"]
    np.testing.assert_allclose(got["log_w"], expected, atol=1e-9)
    assert np.abs(got["states"][:, 0].sum(1)).max() < 1e-12


def test_a_perfect_generator_gives_the_exact_free_energy_with_every_sample():
    got = sampled(generator_of(randomise=0.0), 40)
    np.testing.assert_allclose(got["log_w"], HARMONIC.log_partition, atol=1e-4)


def test_infinite_energies_have_no_weight():
    got = sampled(generator_of(), 50, fails=lambda call, u: np.arange(len(u)) % 5 == 2, batch_size=1000)
    bad = np.arange(50) % 5 == 2
    assert (got["energies"][bad] == np.inf).all()
    assert (got["log_w"][bad] == -np.inf).all()
    assert np.isfinite(got["log_w"][~bad]).all()
    assert np.isfinite(got["energies"][~bad]).all()


def test_a_density_that_is_no_number_has_no_weight():
    generator = generator_of()
    with torch.no_grad():
        for parameter in generator.flow.parameters():
            parameter.fill_(math.nan)
    target = ExactTarget(SolvableSurface(HARMONIC, fails=lambda call, u: ~np.isfinite(u).all((1, 2))), BETA)
    (chunk,) = draw(generator, target, 10, seed=1)
    assert (chunk.log_w == -np.inf).all()


def test_marginal_density_of_the_identity_is_that_of_the_base():
    """Every auxiliary draw gives log q(u) exactly, since the joint density is q(u) N(a; u)."""
    generator = generator_of("augmented", randomise=0.0)
    states = sampled(generator, 5)["states"]
    marginal = marginal_log_density(generator, states, 7, seed=0)
    np.testing.assert_allclose(marginal, generator.prior.base.log_prob(torch.from_numpy(states[:, 0])).numpy(), atol=1e-3)


def test_marginal_density_tends_to_a_known_integral():
    """A flow whose auxiliaries are drawn wider than the marginal's: the integral over them is a Gaussian one.

    With the joint density q(u) N(a; u, eta^2) and draws from N(u, eta'^2), the mean ratio is q(u) whatever eta'. 2000 draws in
    24 dimensions at eta'/eta = 1.1: relative standard deviation of a ratio 0.5, so 5 standard errors are 0.06; false alarm 6e-7.
    """
    generator = generator_of("augmented", randomise=0.0)
    states = sampled(generator, 4)["states"]
    exact = generator.prior.base.log_prob(torch.from_numpy(states[:, 0])).numpy()
    prior = generator.prior
    wide = 1.1 * prior.eta
    original = prior.log_prob

    def log_joint(state):
        narrow, prior.eta = prior.eta, wide / 1.1
        try:
            return original(state)
        finally:
            prior.eta = narrow

    prior.log_prob, prior.eta = log_joint, wide
    marginal = marginal_log_density(generator, states, 2000, seed=0)
    np.testing.assert_allclose(marginal, exact, atol=0.06)
    assert np.abs(marginal - exact).max() > 1e-4


def test_a_marginal_density_needs_auxiliaries():
    generator = generator_of()
    with pytest.raises(TypeError, match="augmented"):
        marginal_log_density(generator, sampled(generator, 2)["states"], 3, seed=0)
