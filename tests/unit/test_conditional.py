# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditional models: a bijection with the right determinant under any context, and bases that follow their conditions."""

import numpy as np
import pytest
import torch
from lattices import crystal, springs
from test_sublattice import draw_state, log_determinant_by_autograd

from lammps_bg.config import FlowConfig
from lammps_bg.crystal.cell_variables import CELL_VARIABLES, cell_variables, deformation, require_no_flip
from lammps_bg.crystal.conditions import Axis, Conditions
from lammps_bg.crystal.operations import site_operations
from lammps_bg.errors import CrystalError, StateError
from lammps_bg.flow.bases.einstein import EinsteinParameters
from lammps_bg.flow.bases.phonon import PhononBase, PhononParameters
from lammps_bg.flow.conditional import ConditionalBases
from lammps_bg.flow.force_constants import ForceConstants, finite_differences
from lammps_bg.flow.generator import MixedPrior, Prior, mixed
from lammps_bg.flow.model import build_conditional
from lammps_bg.flow.polynomial import PolynomialFit

BETA = 20.0
CONDITIONS = Conditions((Axis("volume", -0.1, 0.06, ""), Axis("T", 100.0, 300.0, "K")))
CONTEXTS = [(0.0, 0.0), (-1.0, 0.7), (0.4, -0.9)]


def conditional_of(kind="sublattice", name="diamond", *, seed=0):
    """A small conditional generator in double precision with random weights in every layer."""
    lattice = crystal(name, (1, 1, 1))
    nodes = CONDITIONS.design()
    widths = 0.05 * np.exp(0.3 * nodes[:, :1] + 0.1 * nodes[:, 1:]) * np.ones((1, lattice.n_sites))
    config = FlowConfig(kind=kind, width=8, n_bins=4, n_sweeps=2, n_layers=1, n_frequencies=2)
    model = build_conditional(
        config, lattice, ConditionalBases(nodes, [EinsteinParameters(own) for own in widths]), [BETA] * len(nodes), seed=seed
    )
    model.flow.double()
    torch.manual_seed(seed)
    for parameter in model.flow.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def rows(n):
    return torch.tensor(CONTEXTS, dtype=torch.float64)[torch.arange(n) % len(CONTEXTS)]


@pytest.mark.parametrize("kind", ["sublattice", "augmented", "global"])
def test_round_trip_and_batches_of_many_contexts(kind):
    """Each sample of a mixed batch goes the way it goes alone, and comes back; another context is another map."""
    flow = conditional_of(kind).flow
    state = draw_state(8, n=6).repeat(1, flow.channels, 1, 1)
    if flow.channels == 2:
        state[:, 1] += 0.02 * torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    contexts = rows(6)
    mapped, log_det = flow.forward(state, contexts)
    back, log_back = flow.inverse(mapped, contexts)
    torch.testing.assert_close(back, state, atol=1e-8, rtol=0)
    torch.testing.assert_close(log_back, -log_det, atol=1e-6, rtol=0)
    for i in range(6):
        alone, log_alone = flow.forward(state[i : i + 1], contexts[i : i + 1])
        torch.testing.assert_close(alone[0], mapped[i], atol=1e-12, rtol=0)
        assert log_alone.item() == pytest.approx(log_det[i].item(), abs=1e-9)
    other, _ = flow.forward(state, contexts.flip(0))
    assert (other - mapped)[0].abs().max() > 1e-4


def test_log_determinant_by_autograd_under_each_context():
    flow, state = conditional_of().flow, draw_state(8, n=1)
    for context in CONTEXTS:
        row = torch.tensor([context], dtype=torch.float64)
        expected = log_determinant_by_autograd(lambda s, row=row: flow.forward(s, row), state)
        assert expected == pytest.approx(flow.forward(state, row)[1].item(), abs=1e-6)


def test_the_pushed_score_is_that_of_the_density():
    flow, contexts = conditional_of().flow, rows(6)
    state = draw_state(8, n=6).requires_grad_()
    score = draw_state(8, n=6, seed=8, scale=20.0)
    new, log_det, pushed = flow.push_score(state, score, contexts)
    (pulled,) = torch.autograd.grad((new * pushed).sum() + log_det.sum(), state)
    torch.testing.assert_close(pulled, score, atol=1e-7, rtol=0)


def test_gradients_of_the_weights_by_finite_differences():
    """Along a random direction in the weights of each layer, those of the context among them."""
    flow, contexts, state = conditional_of().flow, rows(6), draw_state(8, n=6)
    g_state = draw_state(8, n=6, seed=5, scale=1.0)
    weight = torch.linspace(-1, 1, 6, dtype=torch.float64)

    def value():
        mapped, log_det = flow.forward(state, contexts)
        return (mapped * g_state).sum() + (weight * log_det).sum()

    names = dict(flow.named_parameters())
    assert {"networks.0.context", "networks.0.gate", "networks.1.shift"} <= set(names)
    gradients = torch.autograd.grad(value(), list(names.values()))
    rng = torch.Generator().manual_seed(2)
    for parameter, gradient in zip(names.values(), gradients, strict=True):
        along = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-5 * along)
                values.append(float(value()))
                parameter.sub_(sign * 1e-5 * along)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * along).sum()), rel=1e-5, abs=1e-7)


def test_a_flow_without_its_conditions_is_refused():
    flow = conditional_of().flow
    with pytest.raises(ValueError, match="2 conditions"):
        flow.forward(draw_state(8))


def test_a_mixed_batch_is_made_of_the_generators():
    family = conditional_of()
    generators = [family.at(context, BETA) for context in CONTEXTS]
    batch = mixed(generators, [2, 1, 3])
    start = batch.prior.sample(6, torch.Generator().manual_seed(1))
    state, log_q = batch.push(start)
    for generator, some in zip(generators, (slice(0, 2), slice(2, 3), slice(3, 6)), strict=True):
        alone, log_alone = generator.push(start[some])
        torch.testing.assert_close(alone, state[some], atol=1e-12, rtol=0)
        torch.testing.assert_close(log_alone, log_q[some], atol=1e-9, rtol=0)
    torch.testing.assert_close(batch.log_density(state), log_q, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="6 samples"):
        batch.prior.sample(5, torch.Generator())
    assert isinstance(batch.prior, MixedPrior)
    assert isinstance(mixed(generators[:1], [4]).prior, Prior)


def stiffness_of(scale, lattice):
    field = springs(lattice, beta=BETA)
    constants = finite_differences(field.energies_forces, lattice, np.zeros((lattice.n_basis, 3)), 1e-4)
    return ForceConstants(constants.stiffness * scale, constants.offset)


def test_conditional_phonons_meet_their_nodes_and_stay_stable_between():
    """K = K0 exp(a volume + b T + c volume^2) is in the space of the fit: then it is exact everywhere, whatever the noise of its size."""
    lattice = crystal("fcc", (2, 1, 2))
    nodes = CONDITIONS.design()

    def scale(x, y):
        return float(np.exp(-1.5 * x + 0.2 * y + 0.4 * x * x))

    bases = ConditionalBases(nodes, [PhononParameters(stiffness_of(scale(*node), lattice)) for node in nodes])
    for context in [*CONTEXTS, (0.3, 0.3)]:
        expected = stiffness_of(scale(*context), lattice)
        found = bases.parameters_at(context).constants
        np.testing.assert_allclose(found.stiffness, expected.stiffness, atol=1e-8 * np.abs(expected.stiffness).max())
        base, exact = bases.at(context, BETA), PhononBase(expected, BETA)
        assert base.log_integral == pytest.approx(exact.log_integral, abs=1e-6)
    factors = np.linspace(0.2, 3, 9)
    noisy = [PhononParameters(stiffness_of(scale(*node) * f, lattice)) for node, f in zip(nodes, factors, strict=True)]
    assert not ConditionalBases(nodes, noisy).parameters_at((0.9, 0.9)).constants.unstable_modes()


def test_too_few_nodes_are_refused():
    with pytest.raises(StateError, match="6 points"):
        PolynomialFit(CONDITIONS.design()[:5], np.ones((5, 4)))


@pytest.mark.parametrize("seed", range(3))
def test_cell_variables_are_the_inverse_of_the_deformation(seed):
    rng = np.random.default_rng(seed)
    values = dict(zip(CELL_VARIABLES, rng.uniform(-0.2, 0.2, 6), strict=True))
    matrix = deformation(values)
    assert cell_variables(matrix) == pytest.approx(values, abs=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(np.exp(values["volume"]), rel=1e-12)
    a, b, c = np.diag(deformation({"c/a": 0.1, "b/a": -0.2}))
    assert (np.log(c / np.sqrt(a * b)), np.log(b / a), np.log(a * b * c)) == pytest.approx((0.1, -0.2, 0.0), abs=1e-12)


def test_rotated_and_flipped_cells_are_refused():
    with pytest.raises(CrystalError, match="LAMMPS' orientation"):
        cell_variables(np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1.0]]))
    with pytest.raises(CrystalError, match="xz = 0.6"):
        require_no_flip(np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 1.0]]))


def test_a_deformed_crystal_keeps_its_sites_and_loses_symmetries():
    lattice = crystal("diamond", (2, 1, 1))
    moved = lattice.deformed(deformation({"volume": 0.1}))
    assert moved.volume == pytest.approx(lattice.volume * np.exp(0.1))
    np.testing.assert_allclose(moved.sites - moved.origin, (lattice.sites - lattice.origin) * np.exp(0.1 / 3), atol=1e-12)
    sheared = lattice.deformed(deformation({"xy": 0.02}))
    assert (sheared.signs == 1).all()
    assert (sheared.orbit == sheared.site_class).all()
    assert len(set(lattice.orbit)) < len(set(lattice.site_class))
    whole = crystal("diamond", (1, 1, 1))
    everything = len(site_operations(whole))
    assert len(site_operations(whole.deformed(deformation({"volume": -0.1})))) == everything
    assert len(site_operations(whole.deformed(deformation({"c/a": 0.05})))) == everything / 3
    assert len(site_operations(whole.deformed(deformation({"xy": 0.03, "xz": 0.02, "yz": 0.05})))) == everything / 24


def test_conditions_and_their_contexts():
    point = {"volume": -0.06, "T": 150.0, "other": 3.0}
    context = CONDITIONS.context(point)
    assert context == pytest.approx((-0.5, -0.5))
    assert CONDITIONS.values(context) == pytest.approx({"volume": -0.06, "T": 150.0})
    with pytest.raises(StateError, match=r"expected T in the trained range \[100, 300\] K, got 301; train"):
        CONDITIONS.context({**point, "T": 301.0})
    assert CONDITIONS.context({**point, "T": 300.0 + 1e-9})[1] == 1.0


@pytest.mark.parametrize(
    ("d", "points", "coefficients"), [(1, 5, 5), (2, 9, 6), (3, 15, 10), (4, 25, 15), (5, 27, 21), (6, 45, 28)]
)
def test_designs_determine_a_quadratic(d, points, coefficients):
    conditions = Conditions(tuple(Axis(f"p{i}", 0.0, 1.0, "") for i in range(d)))
    design = conditions.design()
    assert len(np.unique(design, axis=0)) == points
    assert PolynomialFit(design, np.ones((points, 1))).terms.shape[0] == coefficients - 1
    pool = conditions.pool(16, 0)
    assert pool.shape == (16, d)
    assert np.abs(pool).max() <= 1
