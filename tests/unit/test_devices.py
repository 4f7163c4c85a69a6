# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing in a flow or a potential in torch is left behind on the CPU: on torch's meta device a mix of devices is an error.

No GPU is needed for this, and no number is computed; what a GPU computes is left to the machines that have one.
"""

import numpy as np
import pytest
import torch
from lattices import crystal

from lammps_bg import parallel
from lammps_bg.config import FlowConfig
from lammps_bg.errors import ConfigError
from lammps_bg.flow.bases.einstein import EinsteinBase
from lammps_bg.flow.model import build_generator, torch_device
from lammps_bg.potentials.pair_styles.lj_cut import LennardJones
from lammps_bg.potentials.pair_styles.sw import StillingerWeber
from lammps_bg.potentials.pair_table import PairTable
from lammps_bg.training.optimisers import Soap

ONE, TWO = np.ones((2, 2)), np.ones((2, 2, 2))
POTENTIALS = {
    "lj": LennardJones(ONE, ONE * [[1, 0.9], [0.9, 1]], 2.5 * ONE, True),
    "sw": StillingerWeber(*(ONE * x for x in (2.0, 2.1, 1.8, 1.2, 7.0, 0.6, 4.0, 0.0, 3.7)), 21 * TWO, -0.3 * TWO),
}


@pytest.mark.parametrize("kind", ["sublattice", "augmented", "global"])
def test_flows(kind):
    config = FlowConfig(kind=kind, width=8, n_layers=1, n_bins=4)
    generator = build_generator(config, crystal("diamond", (2, 2, 2)), EinsteinBase(torch.full((64,), 0.1)), seed=1)
    flow = generator.flow.to("meta")
    optimiser = Soap(flow.parameters(), lr=1e-3)
    state = torch.empty(3, generator.prior.channels, 64, 3, dtype=torch.float64, device="meta", requires_grad=True)
    pushed, log_det = flow.forward(state)
    (pushed.sum() + log_det.sum()).backward()
    pushed, _, score = flow.push_score(state, torch.empty_like(state))
    pushed.sum().backward()
    back, log_back = flow.inverse(state.detach())
    assert {t.device.type for t in (pushed, log_det, score, back, log_back)} == {"meta"}
    assert {p.grad.device.type for p in flow.parameters() if p.grad is not None} == {"meta"}
    assert optimiser.param_groups[0]["params"][0].device.type == "meta"


@pytest.mark.parametrize("name", POTENTIALS)
def test_potentials(name):
    lattice, potential = crystal("zincblende", (2, 2, 2)), POTENTIALS[name]
    table = PairTable.from_crystal(lattice, potential.cutoff, 0.5, "meta")
    types = torch.from_numpy(lattice.types - 1).to("meta")
    separations = table.separations(torch.empty(2, lattice.n_sites, 3, dtype=torch.float64, device="meta"))
    energy, gradient = potential.gradient(separations, types, types[table.neighbours])
    assert {t.device.type for t in (separations, energy, gradient, table.forces(gradient))} == {"meta"}


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto").type == torch_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="expected a GPU for device=cuda, got none that torch .* can use"):
        torch_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto").type == "cuda"
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("place", "ranks", "index", "told"), [(0, 1, 0, False), (3, 4, 1, False), (0, 4, 0, True), (1, 2, 1, False)]
)
def test_ranks_of_a_node_share_its_gpus(monkeypatch, caplog, place, ranks, index, told):
    """By their place on the node, never by their rank in the job; more ranks than GPUs are told once for each node."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(parallel, "place_on_node", lambda: (place, ranks))
    assert torch_device("auto") == torch.device("cuda", index)
    assert ("4 MPI ranks share 2 GPU(s)" in caplog.text) == told
    assert torch_device("cpu") == torch.device("cpu")
