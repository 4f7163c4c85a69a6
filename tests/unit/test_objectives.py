# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets and objectives on solvable crystals: gradients against each other and against exact values."""

import math

import numpy as np
import pytest
import torch
from lattices import SolvableSurface, crystal, springs

from lammps_bg.config import Config, FlowConfig, load_config
from lammps_bg.flow.bases.einstein import EinsteinBase
from lammps_bg.flow.bases.phonon import PhononBase
from lammps_bg.flow.force_constants import finite_differences
from lammps_bg.flow.generator import Prior
from lammps_bg.flow.model import build_generator
from lammps_bg.thermo.solvable import AnharmonicCrystal
from lammps_bg.training.objectives import OBJECTIVES, PathGradient, ReverseKL, ThroughFlow
from lammps_bg.training.target import ExactTarget, SoftenedTarget

BETA = 20.0
LATTICE = crystal("fcc", (1, 1, 1))
SMALL = FlowConfig(width=4, n_bins=3, n_sweeps=1, n_layers=1, n_frequencies=1)
HARMONIC = springs(LATTICE, beta=BETA, static_energy=-3.0)


def phonon_base(solvable=HARMONIC):
    return PhononBase(finite_differences(solvable.energies_forces, LATTICE, np.zeros((4, 3)), 1e-3), BETA)


def generator_of(base, *, kind="sublattice", randomise=0.0):
    generator = build_generator(SMALL.model_copy(update={"kind": kind}), LATTICE, base, seed=3)
    torch.manual_seed(0)
    generator.flow.double()
    for parameter in generator.flow.parameters() if randomise else ():
        with torch.no_grad():
            parameter.add_(randomise * torch.randn_like(parameter))
    return generator


def softened(solvable, softening=1e6):
    return SoftenedTarget(SolvableSurface(solvable), BETA, 4, softening)


def gradient(objective, generator, target, n, seed):
    generator.flow.zero_grad()
    batch = objective(generator, target, generator.prior.sample(n, torch.Generator().manual_seed(seed)))
    batch.loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in generator.flow.parameters()]
    return torch.cat([g.flatten() for g in grads]), batch


@pytest.mark.parametrize("kind", ["sublattice", "augmented"])
def test_path_and_reparametrised_gradient_agree_in_expectation(kind):
    """Batches of 200 at random weights: the mean difference in 20 fixed random directions stays within 5 standard errors.

    False alarm below 1e-4 (t-distribution of 39 degrees of freedom, 20 directions: 2.5e-4 at most for a fresh seed).
    """
    solvable = AnharmonicCrystal(HARMONIC, strength=0.8, width=0.3)
    generator, target = generator_of(phonon_base(), kind=kind, randomise=0.05), softened(solvable)
    pairs = [[gradient(o, generator, target, 200, 100 + s)[0] for o in (PathGradient(), ReverseKL())] for s in range(40)]
    path, plain = (torch.stack(column) for column in zip(*pairs, strict=True))
    directions = torch.randn(path.shape[1], 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = (path - plain) @ directions
    z = difference.mean(0) / (difference.std(0) / math.sqrt(len(difference)))
    assert z.abs().max() < 5
    # the comparison is no empty one: the gradient itself is many standard errors from zero
    along = path @ (path.mean(0) / path.mean(0).norm())
    assert along.mean() > 10 * along.std() / math.sqrt(len(along))
    assert (path.mean(0) - plain.mean(0)).norm() < 0.5 * path.mean(0).norm()


def test_the_reparametrised_gradient_is_the_derivative_of_the_loss():
    """Finite differences of the loss at fixed random numbers."""
    generator, target = generator_of(phonon_base(), randomise=0.1), softened(AnharmonicCrystal(HARMONIC, strength=0.8, width=0.3))
    grads, batch = gradient(ReverseKL(), generator, target, 30, 5)
    assert batch.loss.item() == pytest.approx(-float(batch.log_w.mean()) / 4, rel=1e-12)
    parameters, step = list(generator.flow.parameters()), 1e-5
    rng = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in parameters]
    losses = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * step * d)
            start = generator.prior.sample(30, torch.Generator().manual_seed(5))
        losses.append(ReverseKL()(generator, target, start).loss.item())
    expected = float(torch.cat([d.flatten() for d in direction]) @ grads)
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-5)


def test_path_gradient_vanishes_sample_by_sample_where_q_is_p():
    """The harmonic crystal with its own phonon base and the identity flow; the reparametrised gradient is noise there."""
    generator, target = generator_of(phonon_base()), softened(HARMONIC)
    for seed in range(3):
        for n in (1, 5):
            path, batch = gradient(PathGradient(), generator, target, n, seed)
            assert path.abs().max() < 1e-8
            torch.testing.assert_close(
                batch.log_w, torch.full((n,), HARMONIC.log_partition + target.shift, dtype=torch.float64), atol=1e-8, rtol=0
            )
    noisy, _ = gradient(ReverseKL(), generator, target, 5, 0)
    assert noisy.abs().max() > 1e-3


def test_the_old_name_of_the_reparametrised_gradient_works_with_a_hint(caplog):
    assert load_config(overrides=("train.objective=usual",)).train.objective == "reparametrised"
    assert "train.objective=usual is called reparametrised now" in caplog.text
    assert Config.model_validate({"train": {"objective": "usual"}}) == load_config(overrides=("train.objective=reparametrised",))
    assert set(OBJECTIVES) == {"path", "reparametrised"}


def test_both_report_the_same_weights():
    generator, target = generator_of(phonon_base(), randomise=0.1), softened(AnharmonicCrystal(HARMONIC, strength=0.8, width=0.3))
    one, two = (gradient(objective, generator, target, 20, 7)[1].log_w for objective in (PathGradient(), ReverseKL()))
    torch.testing.assert_close(one, two, atol=1e-8, rtol=0)


def test_the_exact_target_is_minus_beta_u():
    u = HARMONIC.sample(5, np.random.default_rng(0))
    value = ExactTarget(SolvableSurface(HARMONIC), BETA).log_prob(torch.from_numpy(u))
    np.testing.assert_allclose(value.numpy(), -BETA * HARMONIC.energies_forces(u)[0], rtol=1e-14)


def test_softening_leaves_energies_below_the_ceiling_and_bends_those_above():
    """Value and slope are continuous at the ceiling; above, the energy grows as its logarithm."""
    ceiling = 1.5 * 4
    target, direction = softened(HARMONIC, 1.5), HARMONIC.sample(1, np.random.default_rng(1))
    excess = BETA * (HARMONIC.energies_forces(direction)[0][0] - HARMONIC.static_energy)
    at = math.sqrt(ceiling / excess)
    scales = torch.tensor([0.5 * at, at * (1 - 1e-7), at * (1 + 1e-7), 2 * at, 20 * at], dtype=torch.float64, requires_grad=True)
    value = target.log_prob(scales[:, None, None] * torch.from_numpy(direction))
    (slope,) = torch.autograd.grad(value.sum(), scales)
    exact = BETA * HARMONIC.static_energy + excess * scales.detach() ** 2
    over = (exact - BETA * HARMONIC.static_energy - ceiling).clamp(min=0)
    expected = torch.where(over > 0, BETA * HARMONIC.static_energy + ceiling + torch.log1p(over), exact)
    torch.testing.assert_close(-value.detach(), expected, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(-slope, 2 * excess * scales.detach() / (1 + over), rtol=1e-9, atol=0)
    assert abs(float(slope[1] / slope[2]) - 1) < 1e-5


@pytest.mark.parametrize("objective", [PathGradient(), ReverseKL()])
def test_samples_without_finite_energy_are_left_out_and_counted(objective):
    """The gradient is the mean over the others, as if the bad ones had not been drawn."""

    class Fixed(Prior):
        """A prior that gives the samples it is told to."""

        def __init__(self, prior, states):
            super().__init__(prior.base)
            self._states = states

        def sample(self, n, generator):
            return self._states[:n]

    generator = generator_of(phonon_base(), randomise=0.1)
    prior = generator.prior
    states = prior.sample(12, torch.Generator().manual_seed(0))
    solvable = AnharmonicCrystal(HARMONIC, strength=0.8, width=0.3)
    spoiled = SolvableSurface(solvable, fails=lambda call, u: np.arange(len(u)) % 4 == 1)
    generator.prior = Fixed(prior, states)
    got, batch = gradient(objective, generator, SoftenedTarget(spoiled, BETA, 4, 1e6), 12, 0)
    generator.prior = Fixed(prior, states[torch.arange(12) % 4 != 1])
    expected, clean = gradient(objective, generator, softened(solvable), 9, 0)
    assert (batch.n, batch.n_bad, clean.n_bad) == (12, 3, 0)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(batch.log_w, clean.log_w)


def test_parameters_take_gradients_again_after_a_path_gradient():
    generator = generator_of(EinsteinBase(torch.full((4,), 0.05)), randomise=0.1)
    PathGradient()(generator, softened(HARMONIC), generator.prior.sample(3, torch.Generator().manual_seed(0)))
    assert all(parameter.requires_grad for parameter in generator.flow.parameters())


def test_the_energy_seen_through_a_flow():
    """Its forces are its derivative; its Boltzmann weight against the base is that of the samples; the identity shows the energy itself."""
    solvable = AnharmonicCrystal(HARMONIC, strength=0.8, width=0.3)
    target, u = softened(solvable), HARMONIC.sample(4, np.random.default_rng(2))
    plain, forces = ThroughFlow(generator_of(phonon_base()), target)(u)
    exact, exact_forces = solvable.energies_forces(u)
    np.testing.assert_allclose(plain, exact, rtol=1e-10)
    np.testing.assert_allclose(forces, exact_forces, atol=1e-6 * np.abs(exact_forces).max())
    generator = generator_of(phonon_base(), randomise=0.1)
    surface = ThroughFlow(generator, target)
    energies, forces = surface(u)
    direction, step = HARMONIC.sample(4, np.random.default_rng(3)), 1e-4
    slope = (surface(u + step * direction)[0] - surface(u - step * direction)[0]) / (2 * step)
    np.testing.assert_allclose(slope, -(forces * direction).sum((1, 2)), rtol=1e-5, atol=1e-6)
    start = torch.from_numpy(u)[:, None]
    state, log_q = generator.push(start)
    log_w = target.log_prob(state[:, 0]) - log_q
    np.testing.assert_allclose(-BETA * energies - generator.prior.log_prob(start).numpy(), log_w.detach().numpy(), atol=1e-8)


def test_an_infinite_energy_through_a_flow_is_flagged():
    spoiled = SolvableSurface(HARMONIC, fails=lambda call, u: np.arange(len(u)) == 1)
    energies, forces = ThroughFlow(generator_of(phonon_base()), SoftenedTarget(spoiled, BETA, 4, 1e6))(
        HARMONIC.sample(3, np.random.default_rng(0))
    )
    assert np.isfinite(energies).tolist() == [True, False, True]
    assert np.isnan(forces[1]).all()
    assert np.isfinite(forces[[0, 2]]).all()


@pytest.mark.parametrize("widths", [(0.05, 0.05), (0.03, 0.08)])
def test_the_score_of_a_generator_is_the_slope_of_its_density(widths):
    """Also on an Einstein base of two widths, whose own score has a part along the centre of mass, where nothing moves."""
    lattice = crystal("zincblende", (1, 1, 1))
    generator = build_generator(SMALL, lattice, EinsteinBase(torch.tensor(widths).repeat_interleave(4)), seed=3)
    torch.manual_seed(0)
    generator.flow.double()
    with torch.no_grad():
        for parameter in generator.flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state, log_q, score = generator.push_score(generator.prior.sample(3, torch.Generator().manual_seed(5)))
    torch.testing.assert_close(generator.log_density(state.detach()), log_q, atol=1e-9, rtol=0)
    direction = torch.randn(state.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    direction, step = direction - direction.mean(2, keepdim=True), 1e-6
    moved = [generator.log_density(state.detach() + sign * step * direction) for sign in (1, -1)]
    slope = (moved[0] - moved[1]) / (2 * step)
    torch.testing.assert_close((score * direction).sum((1, 2, 3)), slope, rtol=1e-6, atol=1e-5)
