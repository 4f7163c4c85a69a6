# SPDX-License-Identifier: GPL-2.0-or-later
"""Sublattice flow: bijective, exact log-determinant without centre of mass, one set of weights for every replicate."""

import pytest
import torch
from lattices import NAMES, crystal

from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.flow.graph import LatticeGraph
from lammps_bg.flow.sublattice import SublatticeFlow

AMPLITUDE = 0.05
# the smallest supercells in which no site is its own neighbour, odd counts among them
SMALL = {
    "fcc": (1, 1, 1), "bcc": (2, 2, 2), "hcp": (3, 1, 1), "diamond": (1, 1, 1), "ice": (2, 1, 1),
    "tin": (2, 2, 3), "zincblende": (1, 1, 1), "caesium": (2, 2, 2), "triclinic": (2, 2, 3),
}  # fmt: skip
NEIGHBOURS = {"tin": 6, "bcc": 8, "caesium": 8}


def flow_of(name, replicate, *, seed=0, randomise=0.05, colour=None, count=None, amplitude=None):
    """A small flow in double precision; `randomise` is the size of the weights of the last layers."""
    torch.manual_seed(seed)
    lattice = crystal(name, replicate)
    count = count or NEIGHBOURS.get(name)
    graph = LatticeGraph.from_crystal(lattice, count)
    if colour is None:
        colour = torch.from_numpy(colour_sites(lattice, neighbour_graph(lattice, count=count)))
    amplitude = AMPLITUDE * torch.linspace(0.8, 1.2, graph.n_classes) if amplitude is None else amplitude
    flow = SublatticeFlow(graph, colour, amplitude, n_sweeps=2, width=8, n_bins=4, spline_range=4.0).double()
    for key, parameter in flow.named_parameters() if randomise else ():
        if "out" in key or "bias" in key:
            torch.nn.init.normal_(parameter, std=randomise)
    return flow


def draw_state(n_sites, n=3, seed=1, scale=AMPLITUDE):
    u = scale * torch.randn(n, n_sites, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (u - u.mean(1, keepdim=True))[:, None]


def n_sites(flow):
    return len(flow._order)


def log_determinant_by_autograd(map_, state):
    """log |det| of the map between orthonormal coordinates of the mean-zero space, for a single state."""
    n = state.shape[2]
    basis, _ = torch.linalg.qr(torch.cat((torch.ones(n, 1), torch.eye(n)[:, 1:]), 1).double())
    space = torch.kron(basis[:, 1:].contiguous(), torch.eye(3).double())
    origin = space.T @ state.flatten()
    jacobian = torch.autograd.functional.jacobian(lambda z: space.T @ map_((space @ z).view(state.shape))[0].flatten(), origin)
    return float(torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_both_ways(name):
    flow = flow_of(name, SMALL[name])
    state = draw_state(n_sites(flow), n=20)
    for there, back in ((flow.forward, flow.inverse), (flow.inverse, flow.forward)):
        new, log_det = there(state)
        again, log_back = back(new)
        assert (new - state).abs().max() > 0.1 * AMPLITUDE
        assert log_det.abs().min() > 1e-3
        torch.testing.assert_close(again, state, atol=1e-8 * AMPLITUDE, rtol=0)
        torch.testing.assert_close(log_back, -log_det, atol=1e-7, rtol=0)
        assert new.mean(2).abs().max() < 1e-14


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("name", NAMES)
def test_log_determinant_is_that_of_autograd(name, direction):
    """The statement that the Jacobian is triangular and that the centre of mass drops out of it."""
    flow = flow_of(name, SMALL[name])
    state = draw_state(n_sites(flow), n=1)
    map_ = getattr(flow, direction)
    log_det = map_(state)[1].item()
    assert log_determinant_by_autograd(map_, state) == pytest.approx(log_det, abs=1e-6)
    assert abs(log_det) > 1e-2


@pytest.mark.parametrize(("name", "replicate"), [("hcp", (3, 1, 1)), ("diamond", (1, 1, 1)), ("fcc", (1, 1, 3))])
def test_log_determinant_of_other_neighbourhoods(name, replicate):
    """One cut shell (lopsided reading), and more neighbours than the box has room for once."""
    for count in (4, 9):
        flow = flow_of(name, replicate, count=count)
        state = draw_state(n_sites(flow), n=1)
        assert log_determinant_by_autograd(flow.forward, state) == pytest.approx(flow.forward(state)[1].item(), abs=1e-6)


def test_outside_the_splines_too():
    """Displacements of many amplitudes leave the splines' range, where they are the identity."""
    flow = flow_of("diamond", (1, 1, 1))
    state = draw_state(8, n=1, scale=8 * AMPLITUDE)
    assert log_determinant_by_autograd(flow.forward, state) == pytest.approx(flow.forward(state)[1].item(), abs=1e-6)


@pytest.mark.parametrize(("name", "replicate"), [("fcc", (1, 1, 1)), ("ice", (2, 1, 1)), ("hcp", (3, 1, 1))])
def test_a_wrong_colouring_is_seen_by_the_test_of_the_determinant(name, replicate):
    """Two neighbouring sites of one colour: the same test must then fail, by far."""
    lattice = crystal(name, replicate)
    graph = neighbour_graph(lattice)
    colour = torch.from_numpy(colour_sites(lattice, graph)).clone()
    last = int(colour.max())
    victim = int((colour == last).nonzero()[0])
    neighbour = next(int(j) for j in graph.neighbours[victim] if colour[j] != last)
    if int((colour == last).sum()) == 1:
        colour[neighbour] = last
        colour = torch.unique(colour, return_inverse=True)[1]
    else:
        colour[victim] = colour[neighbour]
    flow = flow_of(name, replicate, colour=colour)
    state = draw_state(lattice.n_sites, n=1)
    assert abs(log_determinant_by_autograd(flow.forward, state) - flow.forward(state)[1].item()) > 1e-4
    again, _ = flow.inverse(flow.forward(state)[0])
    assert (again - state).abs().max() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_identity_at_start(name):
    flow = flow_of(name, SMALL[name], randomise=0)
    state = draw_state(n_sites(flow))
    for map_ in (flow.forward, flow.inverse):
        new, log_det = map_(state)
        torch.testing.assert_close(new, state, atol=1e-15, rtol=0)
        assert torch.equal(log_det, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_by_blocks_moves_the_result_along(name):
    """By whole blocks of the colouring, which breaks the symmetry of single cells."""
    replicate = tuple(2 * r for r in SMALL[name])
    lattice = crystal(name, replicate)
    # one block of the colouring, copied: the smaller crystal's colours
    small = crystal(name, SMALL[name])
    block = colour_sites(small, neighbour_graph(small, count=NEIGHBOURS.get(name)))
    index = small.site_index(lattice.cell_grid[:, None], torch.arange(lattice.n_basis).numpy()[None]).ravel()
    flow = flow_of(name, replicate, colour=torch.from_numpy(block[index]))
    cells = lattice.cell_grid + [SMALL[name][0], 0, SMALL[name][2]]
    moved = lattice.site_index(cells[:, None], torch.arange(lattice.n_basis).numpy()[None]).ravel()
    state = draw_state(lattice.n_sites)
    new, log_det = flow.forward(state)
    shifted, log_det_shifted = flow.forward(state[:, :, moved])
    torch.testing.assert_close(shifted, new[:, :, moved], atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det_shifted, log_det)


@pytest.mark.parametrize("name", ["fcc", "tin", "triclinic"])
def test_a_uniform_displacement_passes_through(name):
    """The map commutes with shifts of the whole crystal before its centre of mass is taken out; nothing else may depend on it."""
    flow = flow_of(name, SMALL[name])
    state = draw_state(n_sites(flow))
    shift = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    for map_ in (flow.forward, flow.inverse):
        (new, log_det), (shifted, log_det_shifted) = map_(state), map_(state + shift)
        torch.testing.assert_close(shifted, new, atol=1e-12, rtol=0)
        torch.testing.assert_close(log_det_shifted, log_det, atol=1e-10, rtol=0)
        assert new.mean(2).abs().max() < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    flow = flow_of(name, SMALL[name])
    state = draw_state(n_sites(flow)).requires_grad_()
    for map_ in (flow.forward, flow.inverse):
        flow.zero_grad()
        new, log_det = map_(state)
        ((new**3).sum() + log_det.sum()).backward()
        for key, parameter in flow.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            # each site class has weights of its own, and each gets a gradient; bits only where a site has seen others move
            live = [any(g.moved.any() for c in flow._colours for g in c if g.site_class == k) for k in range(len(parameter))]
            expected = torch.tensor(live) if "moved" in key else True
            assert ((parameter.grad.flatten(1).abs().amax(1) > 0) == expected).all(), key
        assert torch.isfinite(state.grad).all()


def test_at_the_start_the_last_layer_learns():
    """Zero weights of the last layer stop gradients of the layers before it, not its own."""
    flow = flow_of("diamond", (1, 1, 1), randomise=0)
    new, log_det = flow.forward(draw_state(8))
    ((new**3).sum() + log_det.sum()).backward()
    assert all(network.out.grad.abs().max() > 0 for network in flow.networks)


@pytest.mark.parametrize(
    ("name", "other"), [("fcc", (5, 3, 3)), ("ice", (3, 1, 1)), ("tin", (3, 3, 3)), ("triclinic", (3, 4, 2))]
)
def test_weights_serve_another_replicate(name, other):
    """Also odd counts, where the colouring is another one: the map is that of the weights, exact in density again."""
    flow = flow_of(name, SMALL[name])
    there = flow_of(name, other, seed=5)
    assert there.load_state_dict(flow.state_dict()).missing_keys == []
    state = draw_state(n_sites(there))
    new, log_det = there.forward(state)
    again, log_back = there.inverse(new)
    torch.testing.assert_close(again, state, atol=1e-8 * AMPLITUDE, rtol=0)
    torch.testing.assert_close(log_back, -log_det, atol=1e-7, rtol=0)
    for one, two in zip(flow.parameters(), there.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("name", "replicate"), [("fcc", (1, 1, 1)), ("diamond", (1, 1, 1)), ("bcc", (2, 2, 2))])
def test_periodic_states_map_alike_at_every_replicate(name, replicate):
    """A state repeated in a crystal twice as large: the same displacements, and the log-determinant twice as often."""
    double = (2 * replicate[0], *replicate[1:])
    small, large = crystal(name, replicate), crystal(name, double)
    block = colour_sites(small, neighbour_graph(small, count=NEIGHBOURS.get(name)))
    index = small.site_index(large.cell_grid[:, None], torch.arange(large.n_basis).numpy()[None]).ravel()
    flow, flow_large = flow_of(name, replicate), flow_of(name, double, colour=torch.from_numpy(block[index]))
    flow_large.load_state_dict(flow.state_dict())
    state = draw_state(small.n_sites)
    (new, log_det), (new_large, log_det_large) = flow.forward(state), flow_large.forward(state[:, :, index])
    torch.testing.assert_close(new_large, new[:, :, index], atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det_large, 2 * log_det, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["hcp", "ice", "caesium", "zincblende"])
def test_colours_may_hold_several_classes(name):
    """Each site's map is that of its own class, whatever shares its colour."""
    lattice = crystal(name, (3, 3, 3))
    graph = neighbour_graph(lattice, count=4)
    colour = colour_sites(lattice, graph)
    classes = [len(set(lattice.site_class[colour == c])) for c in set(colour.tolist())]
    flow = flow_of(name, (3, 3, 3), count=4)
    groups = [group for colours in flow._colours for group in colours]
    assert len(groups) == sum(classes)
    covered = torch.cat([flow._order[group.sites] for group in groups])
    assert sorted(covered.tolist()) == list(range(lattice.n_sites))
    for group in groups:
        assert set(lattice.site_class[flow._order[group.sites]].tolist()) == {group.site_class}
    state = draw_state(lattice.n_sites, n=2)
    new, log_det = flow.forward(state)
    again, log_back = flow.inverse(new)
    torch.testing.assert_close(again, state, atol=1e-8 * AMPLITUDE, rtol=0)
    torch.testing.assert_close(log_back, -log_det, atol=1e-7, rtol=0)


def test_single_precision_is_close_to_double():
    """The default precision: errors of the map stay near 1e-6 amplitudes, those of the log-determinant below 1e-4 in all."""
    flow = flow_of("diamond", (2, 2, 2))
    state = draw_state(64, n=8)
    exact, log_det = flow.forward(state)
    rough, log_det_rough = flow.float().forward(state)
    assert rough.dtype == torch.float32
    assert log_det_rough.dtype == torch.float64
    torch.testing.assert_close(rough.double(), exact, atol=3e-5 * AMPLITUDE, rtol=0)
    torch.testing.assert_close(log_det_rough, log_det, atol=1e-4, rtol=0)
