# SPDX-License-Identifier: GPL-2.0-or-later
"""Augmented flow: bijective, exact log-determinant on (mean-zero u, free a), one set of weights for every replicate."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lammps_bg.flow.augmented import AugmentedFlow
from lammps_bg.flow.conditioners import AttentionConditioner, GraphConditioner, _Message, _Neighbours, fourier

DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [3, 3, 3], [3, 1, 1], [1, 3, 1], [1, 1, 3]]) / 4
AMPLITUDE = 0.03
REPLICATES = [(1, 1, 1), (2, 1, 1)]


def diamond(replicate, n_neighbours=4):
    """A diamond crystal of edge 1 by brute force; neighbours may repeat in small cells, as periodic images do."""
    cells = np.stack(np.meshgrid(*[np.arange(n) for n in replicate], indexing="ij"), -1).reshape(-1, 1, 3)
    sites = (cells + DIAMOND).reshape(-1, 3)
    images = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), -1).reshape(-1, 1, 3) * np.array(replicate)
    others = (images + sites).reshape(-1, 3)
    bonds = others[None] - sites[:, None]
    distance = np.linalg.norm(bonds, axis=-1)
    distance[distance < 1e-6] = np.inf
    nearest = np.argsort(distance.round(6), axis=1, kind="stable")[:, :n_neighbours]
    return SimpleNamespace(
        neighbours=torch.tensor(nearest % len(sites)),
        vectors=torch.tensor(np.take_along_axis(bonds, nearest[..., None], 1)),
        basis_index=torch.arange(len(sites)) % 8,
        n_basis=8,
        places=torch.tensor(sites / np.array(replicate)),
    )


def make_flow(replicate, *, randomise=True, amplitude=AMPLITUDE, kind="local"):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "n_bins": 4, "spline_range": 4.0}

    def local(n_out):
        return GraphConditioner(8, n_out, width=8, n_frequencies=2, n_message_layers=2, period=8.0)

    def everywhere(n_out):
        return AttentionConditioner(n_out, width=8, n_frequencies=2, n_blocks=2, period=8.0)

    conditioner = {"local": local, "global": everywhere}[kind]
    flow = AugmentedFlow(diamond(replicate), conditioner, amplitude=torch.as_tensor(amplitude), **sizes).double()
    for coupling in flow.couplings if randomise else ():
        torch.nn.init.normal_(coupling.conditioner.out.weight, std=0.1)
    return flow


def draw_state(replicate, n=3, seed=1):
    u, a = AMPLITUDE * torch.randn(
        2, n, 8 * int(np.prod(replicate)), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return torch.stack((u - u.mean(1, keepdim=True), u + a), 1)


def reduced_coordinates(n_sites):
    """Orthonormal basis of the 6N numbers of a state with a mean-zero channel 0, shape [6N, 6N-3]."""
    q, _ = torch.linalg.qr(torch.cat((torch.ones(n_sites, 1), torch.eye(n_sites)[:, 1:]), 1).double())
    return torch.block_diag(torch.kron(q[:, 1:].contiguous(), torch.eye(3).double()), torch.eye(3 * n_sites).double())


@pytest.mark.parametrize("kind", ["local", "global"])
@pytest.mark.parametrize("replicate", REPLICATES)
def test_identity_at_start(replicate, kind):
    state = draw_state(replicate)
    new, log_det = make_flow(replicate, randomise=False, kind=kind)(state)
    torch.testing.assert_close(new, state, atol=1e-14, rtol=0)
    assert torch.equal(log_det, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["local", "global"])
@pytest.mark.parametrize("amplitude", [AMPLITUDE, AMPLITUDE * torch.linspace(0.5, 1.5, 16, dtype=torch.float64)])
def test_round_trip_both_ways(amplitude, kind):
    state, flow = draw_state((2, 1, 1), n=20), make_flow((2, 1, 1), amplitude=amplitude, kind=kind)
    for there, back in ((flow.forward, flow.inverse), (flow.inverse, flow.forward)):
        new, log_det = there(state)
        again, log_back = back(new)
        assert (new - state).abs().max() > 0.1 * AMPLITUDE
        torch.testing.assert_close(again, state, atol=1e-9 * AMPLITUDE, rtol=0)
        torch.testing.assert_close(log_back, -log_det, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", ["local", "global"])
@pytest.mark.parametrize("replicate", REPLICATES)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_determinant_is_that_of_autograd(replicate, direction, kind):
    flow, state = make_flow(replicate, kind=kind), draw_state(replicate, n=1)
    span = reduced_coordinates(state.shape[2])

    def reduced(z):
        new, _ = getattr(flow, direction)((span @ z).view_as(state))
        return span.T @ new.flatten()

    jacobian = torch.autograd.functional.jacobian(reduced, span.T @ state.flatten())
    sign, exact = torch.linalg.slogdet(jacobian)
    _, log_det = getattr(flow, direction)(state)
    assert sign > 0
    assert abs(log_det.item()) > 0.05
    assert log_det.dtype == torch.float64
    assert log_det.item() == pytest.approx(exact.item(), abs=1e-6)


def test_physical_centre_of_mass_stays_at_zero():
    flow, state = make_flow((2, 1, 1)), draw_state((2, 1, 1))
    for new, _ in (flow(state), flow.inverse(state)):
        torch.testing.assert_close(new[:, 0].mean(1), torch.zeros(3, 3, dtype=torch.float64), atol=1e-16, rtol=0)


def test_translation_by_a_cell_commutes():
    flow, state = make_flow((2, 1, 1)), draw_state((2, 1, 1))
    new, log_det = flow(state)
    rolled, log_rolled = flow(state.roll(8, dims=2))
    torch.testing.assert_close(rolled, new.roll(8, dims=2), atol=1e-14, rtol=0)
    torch.testing.assert_close(log_rolled, log_det, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["local", "global"])
def test_gradients_reach_every_parameter_and_the_state(kind):
    flow, state = make_flow((2, 1, 1), kind=kind), draw_state((2, 1, 1)).requires_grad_()
    new, log_det = flow(state)
    (new.square().sum() / AMPLITUDE**2 - log_det.sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert state.grad.abs().min() > 0


def test_how_far_a_conditioner_sees():
    """A displaced atom changes the parameters of its neighbours' neighbours at most, or those of all atoms."""
    for kind, everywhere in (("local", False), ("global", True)):
        flow = make_flow((2, 1, 1), kind=kind)
        x = torch.randn(16, 1, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        moved = x.clone()
        moved[0] += 0.3
        first = flow.couplings[0].conditioner
        changed = (first(flow.lattice, moved) - first(flow.lattice, x)).abs().amax((1, 2)) > 1e-9
        assert bool(changed.all()) == everywhere, kind


@pytest.mark.parametrize("kind", ["local", "global"])
def test_the_pushed_score_is_that_of_the_density(kind):
    flow, state = make_flow((2, 1, 1), kind=kind), draw_state((2, 1, 1)).requires_grad_()
    score = draw_state((2, 1, 1), seed=7) / AMPLITUDE**2
    new, log_det, pushed = flow.push_score(state, score)
    assert not pushed.requires_grad
    (pulled,) = torch.autograd.grad((new * pushed).sum() + log_det.sum(), state)
    centred = pulled[:, 0] - pulled[:, 0].mean(1, keepdim=True)
    torch.testing.assert_close(centred, score[:, 0], atol=1e-9 / AMPLITUDE, rtol=0)
    torch.testing.assert_close(pulled[:, 1], score[:, 1], atol=1e-9 / AMPLITUDE, rtol=0)
    assert all(p.requires_grad for p in flow.parameters())


def test_weights_serve_another_replicate(tmp_path):
    """A doubled cell with the state repeated in both halves is the small cell, twice."""
    small, state = make_flow((1, 1, 1)), draw_state((1, 1, 1))
    torch.save(small.state_dict(), tmp_path / "model.pt")
    large = make_flow((2, 1, 1), randomise=False)
    large.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    new, log_det = small(state)
    doubled, log_doubled = large(torch.cat((state, state), 2))
    torch.testing.assert_close(doubled, torch.cat((new, new), 2), atol=1e-13, rtol=0)
    torch.testing.assert_close(log_doubled, 2 * log_det, atol=1e-10, rtol=0)


def test_single_precision_agrees_with_double():
    flow, state = make_flow((2, 1, 1)), draw_state((2, 1, 1))
    new, log_det = flow(state)
    single, log_single = flow.float()(state)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), new, atol=1e-4 * AMPLITUDE, rtol=0)
    torch.testing.assert_close(log_single, log_det, atol=1e-3, rtol=0)


def test_fourier_features_and_their_gradient():
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    multiples = [torch.pi * m * x / 4 for m in (1, 2, 3)]
    expected = torch.cat([x, *[f(p) for p in multiples for f in (torch.sin, torch.cos)]])
    torch.testing.assert_close(fourier(x, 3, 8.0), expected, atol=1e-14, rtol=0)
    assert torch.autograd.gradcheck(lambda y: fourier(y, 3, 8.0), (x,))


def test_hand_written_gradients_of_messages():
    lattice = make_flow((1, 1, 1)).lattice
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 2, 3), (8, 2, 3), (8, 4, 3), (5, 8 * 4 * 2), (3, 5))
    inputs = [torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *args: _Message.apply(*args, lattice), inputs)
    assert torch.autograd.gradcheck(lambda x: _Neighbours.apply(x, lattice), inputs[:1])
