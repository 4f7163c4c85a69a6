# SPDX-License-Identifier: GPL-2.0-or-later
"""From a configuration to a generator, or to a conditional one: architecture, sizes and units of length."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lammps_bg import parallel
from lammps_bg.config import FlowConfig
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import ConfigError
from lammps_bg.flow.augmented import AugmentedFlow, MakeConditioner
from lammps_bg.flow.base import Base
from lammps_bg.flow.bijection import Flow
from lammps_bg.flow.conditional import ConditionalBases, ConditionalGenerator
from lammps_bg.flow.conditioners import AttentionConditioner, GraphConditioner
from lammps_bg.flow.generator import AugmentedPrior, Generator, Prior
from lammps_bg.flow.graph import LatticeGraph
from lammps_bg.flow.polynomial import PolynomialFit
from lammps_bg.flow.sublattice import SublatticeFlow

log = logging.getLogger(__name__)
_MESSAGE_LAYERS = 2  # rounds of messages, as published
_ATTENTION_BLOCKS = 2


def torch_device(wanted: str) -> torch.device:
    """The device that a configuration means; the GPUs of a node go round among its ranks.

    Args:
        wanted: auto, cpu or cuda.

    Raises:
        ConfigError: There is no GPU that torch can use.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"expected a GPU for device=cuda, got none that torch {torch.__version__} can use; install torch for CUDA, or leave device out"
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    place, n_ranks = parallel.place_on_node()
    n_devices = max(1, torch.cuda.device_count())
    if n_ranks > n_devices and place == 0:
        log.warning(
            "%d MPI ranks share %d GPU(s) of %s, which is slower than a rank for each; start as many ranks as there are GPUs",
            n_ranks, n_devices, parallel.node_name(),
        )  # fmt: skip
    return torch.device("cuda", place % n_devices)


@dataclass(frozen=True)
class _Scale:
    """Units of length of a flow.

    Attributes:
        site: Root-mean-square displacement of a site per component.
        relative: The same relative to the first shell, for each orbit, shape [n_orbits]: what a sublattice flow works in.
        terms: How the logarithm of `relative` changes with the context, shape [n_orbits, n_terms]; None without a context.
        n_context: Conditions of the flow.
    """

    site: float
    relative: Tensor
    terms: Tensor | None = None
    n_context: int = 0


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
    # the amplitude grows with the supercell: a trained model keeps that of its own
    scale = _Scale(float(base.amplitude.mean()) if eta is None else eta, _relative_amplitude(base, graph))
    flow = _build_flow(config, crystal, graph, scale, seed).to(torch_device(device))
    return Generator(Prior(base) if flow.channels == 1 else AugmentedPrior(base, scale.site), flow)


def build_conditional(
    config: FlowConfig,
    crystal: Crystal,
    bases: ConditionalBases,
    betas: Sequence[float],
    *,
    seed: int,
    eta: float | None = None,
    reflections: bool = True,
) -> ConditionalGenerator:
    """The conditional model a configuration asks for, with the identity as its bijection, on the CPU.

    Args:
        config: Architecture and its size.
        crystal: The reference crystal.
        bases: The base of every context, at this crystal's replicate.
        betas: 1 / (k_B T) at each of `bases.nodes`, inverse energy.
        seed: Seed of the weights.
        eta: Width of the auxiliary variables that a model was trained with, length units; None: from the first node.
        reflections: Whether reflections are symmetries under all conditions.
    """
    graph = LatticeGraph.from_crystal(crystal, config.n_neighbours, reflections=reflections)
    nodes = [bases.at(tuple(context), beta) for context, beta in zip(bases.nodes.tolist(), betas, strict=True)]
    logarithms = np.stack([_relative_amplitude(base, graph).log().numpy() for base in nodes])
    fit = PolynomialFit(bases.nodes, logarithms)
    site = float(nodes[0].amplitude.mean()) if eta is None else eta
    terms = torch.from_numpy(np.ascontiguousarray(fit.terms.T))
    scale = _Scale(site, torch.from_numpy(fit.constant).exp(), terms, bases.nodes.shape[1])
    flow = _build_flow(config, crystal, graph, scale, seed)
    return ConditionalGenerator(flow, bases, None if flow.channels == 1 else site)


def _build_flow(config: FlowConfig, crystal: Crystal, graph: LatticeGraph, scale: _Scale, seed: int) -> Flow:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _BUILDERS[config.kind](config, crystal, graph, scale)


def _sublattice(config: FlowConfig, crystal: Crystal, graph: LatticeGraph, scale: _Scale) -> SublatticeFlow:
    return SublatticeFlow(
        graph,
        torch.from_numpy(colour_sites(crystal, neighbour_graph(crystal, count=config.n_neighbours))),
        scale.relative,
        n_sweeps=config.n_sweeps,
        width=config.width or 64,
        n_context=scale.n_context,
        amplitude_terms=scale.terms,
    )


def _augmented(config: FlowConfig, crystal: Crystal, graph: LatticeGraph, scale: _Scale) -> AugmentedFlow:
    def conditioner(n_out: int) -> GraphConditioner:
        return GraphConditioner(graph.n_basis, n_out, n_message_layers=_MESSAGE_LAYERS, **_sizes(config, scale))

    return _with_auxiliaries(config, graph, scale, conditioner)


def _global(config: FlowConfig, crystal: Crystal, graph: LatticeGraph, scale: _Scale) -> AugmentedFlow:
    def conditioner(n_out: int) -> AttentionConditioner:
        return AttentionConditioner(n_out, n_blocks=_ATTENTION_BLOCKS, **_sizes(config, scale))

    return _with_auxiliaries(config, graph, scale, conditioner)


def _sizes(config: FlowConfig, scale: _Scale) -> dict[str, Any]:
    """What both conditioners of the published flow share."""
    return {
        "width": config.width or 32,
        "n_frequencies": config.n_frequencies,
        "period": 2 * config.spline_range,
        "n_context": scale.n_context,
    }


def _with_auxiliaries(config: FlowConfig, graph: LatticeGraph, scale: _Scale, conditioner: MakeConditioner) -> AugmentedFlow:
    return AugmentedFlow(
        graph,
        conditioner,
        amplitude=torch.tensor(scale.site, dtype=torch.float64),
        n_layers=config.n_layers,
        n_bins=config.n_bins,
        spline_range=config.spline_range,
    )


_BUILDERS: dict[str, Callable[..., Flow]] = {
    "sublattice": _sublattice,
    "augmented": _augmented,
    "global": _global,
}


def _relative_amplitude(base: Base, graph: LatticeGraph) -> Tensor:
    """Root-mean-square displacement relative to the first shell for each orbit of sites, from draws of the base, shape [n_orbits]."""
    n = max(8, min(256, 2**16 // len(base.amplitude)))  # every site counts, so large crystals need few samples
    u = base.sample(n, torch.Generator().manual_seed(0))
    first = (graph.shells == 0).double()
    mean = (u[:, graph.neighbours] * first[..., None]).sum(2) / first.sum(1)[:, None]
    variance = (u - mean).square().mean((0, 2))
    return torch.stack([variance[graph.orbit == orbit].mean().sqrt() for orbit in range(graph.n_orbits)])
