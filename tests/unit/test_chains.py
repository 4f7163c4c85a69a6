# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains in the white noise of a flow: derivatives, reversibility, and exact ensembles of crystals whose free energy is known."""

import math

import numpy as np
import pytest
import torch
from lattices import SolvableSurface, crystal, springs

from lammps_bg.config import FlowConfig
from lammps_bg.flow.bases.einstein import EinsteinBase
from lammps_bg.flow.bases.phonon import PhononBase
from lammps_bg.flow.force_constants import finite_differences
from lammps_bg.flow.model import build_generator
from lammps_bg.thermo.chains import (
    Chains,
    Latent,
    StepTuner,
    acceptance,
    block_size,
    hamiltonian,
    leaps_of,
    trajectory,
)
from lammps_bg.thermo.exact import LEAST_OVERLAP, ExactBudget, Ladder, WindowSummary, judge, split_r_hat
from lammps_bg.thermo.multistate import mbar
from lammps_bg.thermo.sampler import draw
from lammps_bg.thermo.solvable import AnharmonicCrystal
from lammps_bg.thermo.weights import EstimateError
from lammps_bg.training.target import ExactTarget

BETA = 20.0
LATTICE = crystal("diamond", (1, 1, 1))
HARMONIC = springs(LATTICE, beta=BETA, static_energy=-3.0)
ANHARMONIC = AnharmonicCrystal(HARMONIC, strength=0.8, width=0.3)
KINDS = ("sublattice", "augmented", "global")


def phonons():
    return PhononBase(finite_differences(HARMONIC.energies_forces, LATTICE, np.zeros((8, 3)), 1e-3), BETA)


def generator_of(kind="sublattice", *, randomise=0.03, base=None):
    config = FlowConfig(kind=kind, width=8, n_bins=4, n_sweeps=1, n_layers=1, n_frequencies=2)
    generator = build_generator(config, LATTICE, base or phonons(), seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.flow.parameters():
            parameter.add_(randomise * torch.randn_like(parameter))
    generator.flow.double()
    return generator


def latent_of(kind="sublattice", solvable=ANHARMONIC, *, fails=None, **options):
    return Latent(generator_of(kind, **options), ExactTarget(SolvableSurface(solvable, fails=fails), BETA))


def noise(latent, n, seed):
    return torch.randn(n, *latent.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draws_of(latent, n=1000, seed=5):
    return np.concatenate([chunk.log_w for chunk in draw(latent.generator, latent._target, n, seed=seed)])


# ---- the kernel


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_is_the_gradient_of_the_log_weight(kind):
    """Against central differences along random directions; and the log-weight is that of the draws, whatever the idle dimensions are."""
    latent = latent_of(kind)
    x, direction = noise(latent, 4, 1), noise(latent, 4, 2)
    point, step = latent.at(x), 1e-4
    change = (latent.at(x + step * direction).log_w - latent.at(x - step * direction).log_w) / (2 * step)
    torch.testing.assert_close((point.slope * direction).sum((1, 2, 3)), change, rtol=1e-5, atol=1e-5)
    start = latent.generator.prior.colour(x)
    state, log_q = latent.generator.push(start)
    expected = latent._target.log_prob(state[:, 0]) + latent.generator.prior.log_auxiliary(state) - log_q
    torch.testing.assert_close(point.log_w, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(point.energies, -latent._target.log_prob(state[:, 0]) / BETA)
    assert all(parameter.requires_grad for parameter in latent.generator.flow.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_trajectories_are_reversible_and_nearly_conserve(kind):
    """Back with the opposite momenta. Of a smooth flow halving the step divides the error by about four: it is of second order.

    Splines have a jump in the second derivative of their logarithmic slope at every knot.
    """
    latent = latent_of(kind)
    start, p = latent.at(noise(latent, 3, 3)), noise(latent, 3, 4)
    end, q = trajectory(latent, start, p, 0.7, step=0.2, leaps=4)
    back, r = trajectory(latent, end, -q, 0.7, step=0.2, leaps=4)
    torch.testing.assert_close(back.x, start.x, rtol=0, atol=1e-9)
    torch.testing.assert_close(r, -p, rtol=0, atol=1e-9)
    if kind != "sublattice":
        return
    before, errors = hamiltonian(start, p, 1.0), []
    for leaps in (8, 16):
        end, q = trajectory(latent, start, p, 1.0, step=0.8 / leaps, leaps=leaps)
        errors.append((hamiltonian(end, q, 1.0) - before).abs().mean().item())
    assert errors[1] < 0.4 * errors[0]


def test_without_weights_to_follow_a_trajectory_is_a_rotation():
    """lambda = 0: a quarter of a turn makes momenta of the noise, and every proposal is accepted."""
    latent = latent_of(randomise=0.0)
    start, p = latent.at(noise(latent, 3, 5)), noise(latent, 3, 6)
    end, q = trajectory(latent, start, p, 0.0, step=math.pi / 4, leaps=2)
    torch.testing.assert_close(end.x, p, rtol=0, atol=1e-12)
    torch.testing.assert_close(q, -start.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(acceptance(hamiltonian(start, p, 0.0), hamiltonian(end, q, 0.0)), torch.ones(3).double())


def test_no_chain_enters_an_infinite_energy_and_every_chain_leaves_one():
    inf = torch.inf
    before, after = torch.tensor([1.0, inf, inf, 1.0]), torch.tensor([inf, 1.0, inf, torch.nan])
    assert acceptance(before, after).tolist() == [0.0, 1.0, 0.0, 0.0]
    latent = latent_of(fails=lambda call, u: (np.arange(len(u)) % 4 == 1) & (call > 1))
    chains = Chains.from_draws(latent, 1.0, 16, seed=1)
    records = [chains.advance() for _ in range(3)]
    assert all(record.infinite.reshape(4, 4)[:, 1].all() for record in records)
    assert all(np.isfinite(record.log_w).all() for record in records)
    assert (records[-1].log_w[1::4] == records[0].log_w[1::4]).all()


def test_the_step_is_tuned_to_the_acceptance():
    chains = Chains.from_draws(latent_of(randomise=0.15), 1.0, 16, seed=2)
    for _ in range(25):
        chains.tune()
    chains.end_tuning()
    accepted = np.mean([chains.advance().acceptance.mean() for _ in range(15)])
    assert 0.65 < accepted < 0.97
    assert chains.leaps == leaps_of(chains.step)
    tuner = StepTuner(0.4)
    assert tuner.next_step(0.1) < 0.4 < StepTuner(0.4).next_step(1.0) <= math.pi / 2


def test_blocks_of_chains_are_whole_and_bounded():
    assert [block_size(n) for n in (8, 256, 864, 1372, 4096, 100_000)] == [16, 16, 16, 8, 4, 4]
    assert [leaps_of(step) for step in (2.0, 1.57, 0.5, 1e-9)] == [1, 1, 3, 64]


# ---- exact ensembles


@pytest.mark.parametrize(
    ("kind", "solvable", "einstein"),
    [
        ("sublattice", ANHARMONIC, False),
        *(pytest.param(kind, ANHARMONIC, False, marks=pytest.mark.slow) for kind in ("augmented", "global")),
        ("sublattice", HARMONIC, True),
        pytest.param("sublattice", ANHARMONIC, True, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(type(value), "__name__", value) if not isinstance(value, str | bool) else str(value),
)
def test_the_ladder_gives_the_exact_free_energy_and_energy(kind, solvable, einstein):
    """|z| <= 4 for ln Z and for the mean energy of each of five crystals: false alarm below 1e-3 in all."""
    base = EinsteinBase(phonons().amplitude) if einstein else None
    latent = latent_of(kind, solvable, base=base, randomise=0.0 if einstein else 0.02)
    draws = draws_of(latent)
    ladder = Ladder(latent, draws, n_chains=16, nearest_distance=LATTICE.nearest_distance, seed=7)
    ladder.run(ExactBudget(1.5e-2, max_evaluations=20_000))
    found = ladder.result()
    assert abs(found.difference.value + solvable.log_partition) < 4 * found.difference.error
    assert found.difference.error < 1.5e-2 * 8
    assert found.verdict.reliable
    assert found.joined.neighbour_overlaps.min() > 0.9 * LEAST_OVERLAP
    error = found.energies.std() / math.sqrt(found.n_independent)
    assert abs(found.energies.mean() - solvable.mean_energy) < 4 * error
    assert found.evaluations == latent.n_evaluations


def test_a_budget_is_kept_and_what_was_reached_stays():
    latent = latent_of(randomise=0.1)
    ladder = Ladder(latent, draws_of(latent, 200), n_chains=16, nearest_distance=LATTICE.nearest_distance, seed=1)
    with pytest.raises(EstimateError, match="expected chains of the crystal itself"):
        ladder.result()
    ladder.run(ExactBudget(1e-9, max_evaluations=1500))
    assert 1500 <= ladder.evaluations < 1500 + 16 * 64
    first = ladder.result().difference
    ladder.run(ExactBudget(1e-9, max_evaluations=4500))
    assert ladder.result().difference.error < first.error


def test_a_ladder_goes_on_to_the_last_bit():
    latent = latent_of(randomise=0.1)
    draws = draws_of(latent, 200)

    def ladder():
        return Ladder(latent, draws, n_chains=16, nearest_distance=LATTICE.nearest_distance, seed=3)

    whole = ladder()
    whole.run(ExactBudget(1e-9, max_evaluations=2000))
    stopped, left = ladder(), [17]

    def tick(_ladder, _progress):
        left[0] -= 1
        return left[0] == 0

    stopped.run(ExactBudget(1e-9, max_evaluations=2000), tick=tick)
    again = ladder()
    again.restore(stopped.state())
    again.run(ExactBudget(1e-9, max_evaluations=2000))
    assert [w.coupling for w in again.windows] == [w.coupling for w in whole.windows]
    for one, other in zip(again.windows, whole.windows, strict=True):
        np.testing.assert_array_equal(one.series("log_w"), other.series("log_w"))
    assert again.evaluations == whole.evaluations


def test_draws_without_weight_are_refused():
    latent = latent_of()
    ladder = Ladder(latent, np.full(20, -np.inf), n_chains=16, nearest_distance=1.0, seed=1)
    with pytest.raises(EstimateError, match="expected chains and draws with finite energies, got 0"):
        ladder.run(ExactBudget(1e-3))


# ---- errors and verdicts


def test_frames_of_a_chain_are_resampled_together():
    """Every frame twice, in blocks of two, has the error of the frames alone, and not that of twice as many."""
    rng = np.random.default_rng(3)
    samples = [rng.normal(0.0, 1.0, 400), rng.normal(1.0, 1.0, 400)]

    def error(copies, blocks):
        log_w = np.concatenate([np.repeat(values, copies) for values in samples])
        u_kn = -np.outer([0.0, 1.0], log_w)
        found = mbar(u_kn, [400 * copies] * 2, np.random.default_rng(1).spawn(2), blocks=blocks)
        return found.difference(0, 1).error

    assert error(2, [2, 2]) == pytest.approx(error(1, None), rel=1e-6)
    assert error(2, None) == pytest.approx(error(1, None) / math.sqrt(2), rel=0.15)


def test_split_r_hat():
    rng = np.random.default_rng(4)
    series = rng.normal(size=(200, 16))
    assert split_r_hat(series) == pytest.approx(1.0, abs=0.02)
    assert split_r_hat(series + 2.0 * (np.arange(16) % 2)) > 1.3
    assert split_r_hat(series + np.linspace(0, 6, 200)[:, None]) > 1.3
    assert split_r_hat(series[:2]) == math.inf
    assert split_r_hat(np.ones((50, 4))) == 1.0


def window(**changes):
    numbers = {
        "coupling": 1.0, "n_samples": 1600, "n_steps": 100, "step": 0.4, "leaps": 4, "acceptance": 0.8, "inefficiency": 2.0, "r_hat": 1.01,
        "std_log_w": 1.0, "n_infinite": 0,
    }  # fmt: skip
    return WindowSummary(**(numbers | changes))


@pytest.mark.parametrize(
    ("changes", "overlap", "hops", "colour", "words"),
    [
        ({}, 0.5, 0.0, "green", "800 independent samples"),
        ({"r_hat": 1.2}, 0.5, 0.0, "amber", "split-R-hat is 1.20"),
        ({"r_hat": 1.5}, 0.5, 0.0, "red", "do not agree"),
        ({"r_hat": 1.2, "n_steps": 8}, 0.5, 0.0, "green", "800 independent samples"),
        ({"r_hat": 1.4, "n_steps": 8}, 0.5, 0.0, "amber", "above 1.32"),
        ({"inefficiency": 40.0}, 0.5, 0.0, "amber", "40 independent samples"),
        ({"inefficiency": 400.0}, 0.5, 0.0, "red", "4 independent samples"),
        ({}, 0.01, 0.0, "red", "overlap by 0.01"),
        ({}, math.nan, 0.0, "red", "overlap by nan"),
        ({}, 0.5, 0.2, "red", "more than half the nearest-neighbour distance"),
    ],
)
def test_verdicts_of_chains(changes, overlap, hops, colour, words):
    verdict = judge([window(coupling=0.0, r_hat=None), window(**changes)], np.array([overlap]), hops)
    assert verdict.colour == colour
    assert any(words in reason for reason in verdict.reasons)
    assert verdict.reliable == (colour != "red")
