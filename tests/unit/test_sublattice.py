# SPDX-License-Identifier: GPL-2.0-or-later
"""Sublattice flow: bijective, exact log-determinant without centre of mass, one set of weights for every replicate."""

import inspect

import pytest
import torch
from lattices import NAMES, crystal

from lammps_bg.config import FlowConfig
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.symmetry import match_sites
from lammps_bg.flow.augmented import AugmentedFlow, Coupling
from lammps_bg.flow.bases.einstein import EinsteinBase
from lammps_bg.flow.conditioners import AttentionConditioner, GraphConditioner
from lammps_bg.flow.graph import LatticeGraph
from lammps_bg.flow.model import build_generator
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
    amplitude = AMPLITUDE * torch.linspace(0.8, 1.2, graph.n_orbits) if amplitude is None else amplitude
    flow = SublatticeFlow(graph, colour, amplitude, n_sweeps=2, width=8).double()
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
        assert log_det.abs().mean() > 1e-2
        torch.testing.assert_close(again, state, atol=1e-8 * AMPLITUDE, rtol=0)
        torch.testing.assert_close(log_back, -log_det, atol=1e-7, rtol=0)
        assert new.mean(2).abs().max() < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_log_determinant_is_that_of_autograd(name):
    """The statement that the Jacobian is triangular and that the centre of mass drops out of it; the round trip has the inverse's."""
    flow = flow_of(name, SMALL[name])
    state = draw_state(n_sites(flow), n=1)
    log_det = flow.forward(state)[1].item()
    assert log_determinant_by_autograd(flow.forward, state) == pytest.approx(log_det, abs=1e-6)
    assert abs(log_det) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_finite_differences(name):
    """The flow's backward is written by hand: against central differences along random directions, of the state and of the weights."""
    flow = flow_of(name, SMALL[name])
    rng = torch.Generator().manual_seed(4)
    state, step = draw_state(n_sites(flow), n=4), 1e-6
    parameters = list(flow.parameters())
    cotangent = torch.randn(state.shape, generator=rng, dtype=torch.float64)
    weight = torch.randn(4, generator=rng, dtype=torch.float64)

    def value(sign, along):
        with torch.no_grad():
            for p, d in zip(parameters, along[1:], strict=True):
                p.add_(sign * step * d)
            new, log_det = flow.forward(state + sign * step * along[0])
            for p, d in zip(parameters, along[1:], strict=True):
                p.sub_(sign * step * d)
        return (cotangent * new).sum() + (weight * log_det).sum()

    leaf = state.clone().requires_grad_()
    new, log_det = flow.forward(leaf)
    gradients = torch.autograd.grad((cotangent * new).sum() + (weight * log_det).sum(), [leaf, *parameters])
    for only in range(len(gradients)):
        sizes = [AMPLITUDE if i == 0 else 1.0 for i in range(len(gradients))]
        along = [
            (i == only) * size * torch.randn(g.shape, generator=rng, dtype=torch.float64)
            for i, (g, size) in enumerate(zip(gradients, sizes, strict=True))
        ]
        expected = float((gradients[only] * along[only]).sum())
        found = float(value(1, along) - value(-1, along)) / (2 * step)
        assert found == pytest.approx(expected, rel=2e-6, abs=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_pushed_score_is_that_of_the_density(name):
    """log q(f(z)) = log q0(z) - log|det|: pulled back through the map, the new score and the determinant's gradient give the old one."""
    flow = flow_of(name, SMALL[name])
    state = draw_state(n_sites(flow), n=4).requires_grad_()
    score = draw_state(n_sites(flow), n=4, seed=8, scale=1 / AMPLITUDE)
    new, log_det, pushed = flow.push_score(state, score)
    assert not pushed.requires_grad
    assert (pushed - score).abs().max() > 0.1 / AMPLITUDE
    (pulled,) = torch.autograd.grad((new * pushed).sum() + log_det.sum(), state)
    torch.testing.assert_close(pulled, score, atol=1e-9 / AMPLITUDE, rtol=0)
    again, log_again = flow.forward(state)
    assert torch.equal(again, new)
    assert torch.equal(log_again, log_det)


@pytest.mark.parametrize(("name", "replicate"), [("hcp", (3, 1, 1)), ("diamond", (1, 1, 1)), ("fcc", (1, 1, 3))])
def test_log_determinant_of_other_neighbourhoods(name, replicate):
    """One cut shell (lopsided reading), and more neighbours than the box has room for once."""
    for count in (4, 9):
        flow = flow_of(name, replicate, count=count)
        state = draw_state(n_sites(flow), n=1)
        assert log_determinant_by_autograd(flow.forward, state) == pytest.approx(flow.forward(state)[1].item(), abs=1e-6)


def test_far_out_too():
    """Displacements of many amplitudes, where the features and the products of the shears level off."""
    flow = flow_of("diamond", (1, 1, 1))
    state = draw_state(8, n=1, scale=4 * AMPLITUDE)
    new, log_det = flow.forward(state)
    assert log_determinant_by_autograd(flow.forward, state) == pytest.approx(log_det.item(), abs=1e-6)
    torch.testing.assert_close(flow.inverse(new)[0], state, atol=1e-7 * AMPLITUDE, rtol=0)


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
    flow = flow_of(name, replicate, colour=colour, randomise=0.2)
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
        torch.testing.assert_close(log_det, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


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
    new, log_det = flow.forward(state)
    ((new**3).sum() + log_det.sum()).backward()
    for key, parameter in flow.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        # each orbit has weights of its own, and each gets a gradient; bits only where a site has seen others move
        live = [any(g.moved.any() for c in flow._colours for g in c if g.orbit == k) for k in range(len(parameter))]
        expected = torch.tensor(live) if "moved" in key else True
        assert ((parameter.grad.flatten(1).abs().amax(1) > 0) == expected).all(), key
    assert torch.isfinite(state.grad).all()


def test_a_reflected_crystal_maps_alike():
    """Diamond's two classes are mirror images: the mirrored state maps to the mirror image, site by site."""
    lattice = crystal("diamond", (2, 2, 2))
    assert set(lattice.orbit) == {0}
    colour = torch.from_numpy(colour_sites(lattice, neighbour_graph(lattice)))
    sites, second = lattice.sites - lattice.origin, int((lattice.site_class == 1).argmax())
    signs = lattice.signs[second]
    assert signs.min() == -1
    # the reflection that takes the first site to one of the other class
    partner = match_sites(lattice.supercell, sites, sites[second] + signs * (sites - sites[0]), 1e-6)
    assert sorted(partner.tolist()) == list(range(64))
    flow = flow_of("diamond", (2, 2, 2), colour=colour)
    mirrored = flow_of("diamond", (2, 2, 2), colour=colour[partner])
    mirrored.load_state_dict(flow.state_dict())
    state, turn = draw_state(64), torch.from_numpy(signs)
    new, log_det = flow.forward(state)
    there, log_det_there = mirrored.forward(state[:, :, partner] * turn)
    torch.testing.assert_close(there, new[:, :, partner] * turn, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det_there, log_det, atol=1e-10, rtol=0)


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
def test_colours_may_hold_several_orbits(name):
    """Each site's map is that of its own orbit, whatever shares its colour."""
    lattice = crystal(name, (3, 3, 3))
    graph = neighbour_graph(lattice, count=4)
    colour = colour_sites(lattice, graph)
    orbits = [len(set(lattice.orbit[colour == c])) for c in set(colour.tolist())]
    flow = flow_of(name, (3, 3, 3), count=4)
    groups = [group for colours in flow._colours for group in colours]
    assert len(groups) == sum(orbits)
    covered = torch.cat([flow._order[group.sites] for group in groups])
    assert sorted(covered.tolist()) == list(range(lattice.n_sites))
    for group in groups:
        assert set(lattice.orbit[flow._order[group.sites]].tolist()) == {group.orbit}
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


def test_the_amplitude_comes_with_the_weights():
    """A flow built on another base has another amplitude until the trained weights are loaded: then it is the trained flow."""
    flow, other = flow_of("zincblende", (1, 1, 1)), flow_of("zincblende", (1, 1, 1), amplitude=torch.tensor([0.07, 0.02]))
    state = draw_state(8)
    assert (other.forward(state)[0] - flow.forward(state)[0]).abs().max() > 1e-3
    other.load_state_dict(flow.state_dict())
    for one, two in ((flow.forward, other.forward), (flow.inverse, other.inverse)):
        torch.testing.assert_close(two(state), one(state), atol=1e-14, rtol=0)


def test_nothing_is_kept_where_no_gradient_is_wanted():
    flow = flow_of("diamond", (1, 1, 1))
    with torch.no_grad():
        new, _ = flow.forward(draw_state(8))
    assert new.grad_fn is None
    assert flow.forward(draw_state(8))[0].grad_fn is not None


def test_the_configuration_is_the_one_source_of_sizes():
    """No constructor has a default of its own for what a key decides."""
    for made in (SublatticeFlow, AugmentedFlow, Coupling, GraphConditioner, AttentionConditioner):
        given = inspect.signature(made).parameters
        assert [
            name for name in FlowConfig.model_fields if name in given and given[name].default is not inspect.Parameter.empty
        ] == []
    lattice, config = crystal("diamond", (1, 1, 1)), FlowConfig()
    base = EinsteinBase(torch.full((8,), AMPLITUDE))
    assert len(build_generator(config, lattice, base, seed=0).flow.networks) == config.n_sweeps
    flow = build_generator(config.model_copy(update={"kind": "augmented"}), lattice, base, seed=0).flow
    assert len(flow.couplings) == 2 * config.n_layers
    assert {(c.n_bins, c.spline_range) for c in flow.couplings} == {(config.n_bins, config.spline_range)}
