# SPDX-License-Identifier: GPL-2.0-or-later
"""A prior and a flow that belong together: the generator of a crystal."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lammps_bg.config import FlowConfig
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import ConfigError
from lammps_bg.flow.attention import AttentionConditioner
from lammps_bg.flow.augmented import AugmentedFlow, MakeConditioner
from lammps_bg.flow.base import Base
from lammps_bg.flow.gnn import GraphConditioner
from lammps_bg.flow.graph import LatticeGraph
from lammps_bg.flow.prior import AugmentedPrior, Prior
from lammps_bg.flow.sublattice import SublatticeFlow

_MESSAGE_LAYERS = 2  # rounds of messages, as published
_ATTENTION_BLOCKS = 2


@dataclass
class Generator:
    """Prior density and bijection.

    The flow runs on its own device; states come from and go to the CPU, where the base is and where random numbers are drawn: so a sample
    is the same on every device, to rounding.

    Attributes:
        prior: Density of the states that enter the flow.
        flow: The bijection, an nn.Module with `forward` and `inverse` on states [n, channels, N, 3].
    """

    prior: Prior
    flow: SublatticeFlow | AugmentedFlow

    @property
    def device(self) -> torch.device:
        """Where the flow runs."""
        return next(self.flow.parameters()).device

    def transform(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Send states [n, channels, N, 3] through the flow; the new ones, and the log-determinants [n] in float64."""
        state, log_det = self.flow.forward(start.to(self.device))
        return state.cpu(), log_det.cpu()

    def push(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Send prior states [n, channels, N, 3] through the flow; the new states, and their log-density q [n] in float64."""
        state, log_det = self.transform(start)
        return state, self.prior.log_prob(start) - log_det

    def push_score(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`push`, and the gradient of log q by the state at the new states, shape [n, channels, N, 3]; log q and score detached."""
        begin = start.detach().requires_grad_()
        log_base = self.prior.log_prob(begin)
        (score,) = torch.autograd.grad(log_base.sum(), begin)
        state, log_det, score = self.flow.push_score(start.to(self.device), score.to(self.device))
        return state.cpu(), log_base.detach() - log_det.detach().cpu(), score.cpu()

    def log_density(self, state: Tensor) -> Tensor:
        """Log-density q of states [n, channels, N, 3] by the inverse flow, shape [n], float64."""
        start, log_det = self.flow.inverse(state.to(self.device))
        return self.prior.log_prob(start.cpu()) + log_det.cpu()


def torch_device(wanted: str) -> torch.device:
    """The device that a configuration means.

    Args:
        wanted: auto, cpu or cuda.

    Raises:
        ConfigError: There is no GPU that torch can use.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"expected a GPU for device=cuda, got none that torch {torch.__version__} can use; install torch for CUDA, or leave device out"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def build_generator(
    config: FlowConfig, crystal: Crystal, base: Base, *, seed: int, eta: float | None = None, device: str = "cpu"
) -> Generator:
    """The generator a configuration asks for, with the identity as its bijection.

    Args:
        config: Architecture and its size.
        crystal: The reference crystal.
        base: Fitted base at this crystal's replicate.
        seed: Seed of the weights.
        eta: Width of the auxiliary variables that a model was trained with, length units; None: from the base.
        device: Where the flow runs: auto, cpu or cuda.
    """
    graph = LatticeGraph.from_crystal(crystal, config.n_neighbours)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = _BUILDERS[config.kind](config, crystal, base, graph, eta)
    generator.flow.to(torch_device(device))
    return generator


def _sublattice(config: FlowConfig, crystal: Crystal, base: Base, graph: LatticeGraph, eta: float | None) -> Generator:
    colour = torch.from_numpy(colour_sites(crystal, neighbour_graph(crystal, count=config.n_neighbours)))
    flow = SublatticeFlow(
        graph,
        colour,
        _relative_amplitude(base, graph),
        n_sweeps=config.n_sweeps,
        width=config.width or 64,
    )
    return Generator(Prior(base), flow)


def _augmented(config: FlowConfig, crystal: Crystal, base: Base, graph: LatticeGraph, eta: float | None) -> Generator:
    def conditioner(n_out: int) -> GraphConditioner:
        return GraphConditioner(
            graph.n_basis,
            n_out,
            width=config.width or 32,
            n_frequencies=config.n_frequencies,
            n_message_layers=_MESSAGE_LAYERS,
            period=2 * config.spline_range,
        )

    return _with_auxiliaries(config, base, graph, eta, conditioner)


def _global(config: FlowConfig, crystal: Crystal, base: Base, graph: LatticeGraph, eta: float | None) -> Generator:
    def conditioner(n_out: int) -> AttentionConditioner:
        return AttentionConditioner(
            n_out,
            width=config.width or 32,
            n_frequencies=config.n_frequencies,
            n_blocks=_ATTENTION_BLOCKS,
            period=2 * config.spline_range,
        )

    return _with_auxiliaries(config, base, graph, eta, conditioner)


def _with_auxiliaries(
    config: FlowConfig, base: Base, graph: LatticeGraph, eta: float | None, conditioner: MakeConditioner
) -> Generator:
    # the amplitude grows with the supercell: a trained model keeps that of its own
    amplitude = base.amplitude.mean() if eta is None else torch.tensor(eta, dtype=torch.float64)
    flow = AugmentedFlow(
        graph,
        conditioner,
        amplitude=amplitude,
        n_layers=config.n_layers,
        n_bins=config.n_bins,
        spline_range=config.spline_range,
    )
    return Generator(AugmentedPrior(base, float(amplitude)), flow)


_BUILDERS = {"sublattice": _sublattice, "augmented": _augmented, "global": _global}


def _relative_amplitude(base: Base, graph: LatticeGraph) -> Tensor:
    """Root-mean-square displacement relative to the first shell for each orbit of sites, from draws of the base, shape [n_orbits]."""
    n = max(8, min(256, 2**16 // len(base.amplitude)))  # every site counts, so large crystals need few samples
    u = base.sample(n, torch.Generator().manual_seed(0))
    first = (graph.shells == 0).double()
    mean = (u[:, graph.neighbours] * first[..., None]).sum(2) / first.sum(1)[:, None]
    variance = (u - mean).square().mean((0, 2))
    return torch.stack([variance[graph.orbit == orbit].mean().sqrt() for orbit in range(graph.n_orbits)])
