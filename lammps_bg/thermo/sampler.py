# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawing from a trained flow: states with log q, exact energies and log-weights, in chunks."""

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.flow.generator import Generator
from lammps_bg.flow.prior import AugmentedPrior
from lammps_bg.memory import Pieces
from lammps_bg.thermo.free_energy import marginal_log_q
from lammps_bg.training.target import ExactTarget

Array = NDArray[np.float64]
_BLOCK = 16  # samples that share one random stream: the sample set depends on seed and index alone
_SITES_AT_ONCE = 1 << 16  # about 200 MB of activations


@dataclass
class Chunk:
    """Consecutive samples.

    Attributes:
        first: Index of the first sample.
        states: States after the flow, length units, shape [n, channels, N, 3], float64.
        energies: Total potential energy as the target gives it, shape [n]; +inf where it is not finite.
        log_q: Log-density of the samples in the density that the flow draws in, shape [n].
        log_w: Log-weights -beta U + log N(a; u) - log q, shape [n]; -inf where the energy is not finite.
        draw_seconds: Time in the base and the flow.
        energy_seconds: Time in the potential.
    """

    first: int
    states: Array
    energies: Array
    log_q: Array
    log_w: Array
    draw_seconds: float
    energy_seconds: float

    @property
    def displacements(self) -> Array:
        """Physical displacements, length units, shape [n, N, 3]."""
        return self.states[:, 0]


def stream(seed: int, stage: str, index: int) -> torch.Generator:
    """A random stream of its own for each seed, stage and index."""
    digest = hashlib.sha256(f"{seed}/{stage}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def draw(generator: Generator, target: ExactTarget, n: int, *, seed: int, batch_size: int | None = None) -> Iterator[Chunk]:
    """Draw `n` samples in chunks.

    Args:
        generator: Prior and trained flow.
        target: The exact target.
        n: Number of samples.
        seed: With the sample's index, it decides the sample.
        batch_size: Samples in a chunk, rounded up to a multiple of 16; None bounds the memory.
    """
    n_sites = len(generator.prior.base.amplitude)
    size = batch_size or min(512, _SITES_AT_ONCE // n_sites)
    blocks, total = max(1, math.ceil(size / _BLOCK)), math.ceil(n / _BLOCK)
    pieces = Pieces(blocks * _BLOCK, "samples")
    for lead in range(0, total, blocks):
        start_time, first = time.perf_counter(), lead * _BLOCK
        states, log_q = _push_blocks(generator, range(lead, min(lead + blocks, total)), seed, pieces)
        states, log_q = states[: n - first], log_q[: n - first]
        pushed = time.perf_counter()
        log_p = target.log_prob(states[:, 0])
        log_w = log_p + generator.prior.log_auxiliary(states) - log_q
        # a sample outside the reach of the numbers has no weight: it is counted, never repaired
        log_w = torch.where(torch.isnan(log_w), -torch.inf, log_w)
        times = (pushed - start_time, time.perf_counter() - pushed)
        yield Chunk(first, states.numpy(), (-log_p / target.beta).numpy(), log_q.numpy(), log_w.numpy(), *times)


@torch.no_grad()
def redraw(generator: Generator, indices: Iterable[int], *, seed: int) -> Iterator[tuple[int, Array]]:
    """Draw some samples again, without their energies: index and displacements [N, 3], length units, by rising index.

    Args:
        generator: Prior and trained flow.
        indices: Indices of the samples.
        seed: The seed they were drawn with.
    """
    pieces = Pieces(_BLOCK, "samples")
    for block, members in groupby(sorted(set(indices)), key=lambda index: index // _BLOCK):
        states, _ = _push_blocks(generator, [block], seed, pieces)
        for index in members:
            yield index, states[index - block * _BLOCK, 0].numpy()


def _push_blocks(generator: Generator, blocks: Sequence[int], seed: int, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """States (float64) and log q of all samples of these blocks, so many at a time as fit into memory."""
    start = torch.cat([generator.prior.sample(_BLOCK, stream(seed, "sample", block)) for block in blocks])
    pushed = pieces.over(range(len(start)), lambda some: generator.push(start[some[0] : some[-1] + 1]))
    states, log_q = zip(*pushed, strict=True)
    return torch.cat(states).double(), torch.cat(log_q)


@torch.no_grad()
def weigh_frames(
    generator: Generator, target: ExactTarget, displacements: Array, energies: Array, *, seed: int
) -> tuple[Array, Array]:
    """States and log-weights of configurations of the target, such as frames of molecular dynamics, under the flow's density.

    Auxiliary variables are drawn from the target's N(a; u, eta^2), so that the states are samples of the joint target.

    Args:
        generator: Prior and trained flow.
        target: The exact target.
        displacements: Without centre of mass, length units, shape [n, N, 3].
        energies: Their total potential energies, shape [n].
        seed: Seed of the auxiliary variables.

    Returns:
        States, length units, shape [n, channels, N, 3], and log-weights -beta U + log N(a; u) - log q, shape [n].
    """
    prior, u = generator.prior, torch.from_numpy(np.ascontiguousarray(displacements))
    states = u[:, None]
    if isinstance(prior, AugmentedPrior):
        states = torch.stack((u, prior.draw_auxiliary(u, stream(seed, "frames", 0))), 1)
    log_q = _log_density(generator, states, _SITES_AT_ONCE // (4 * u.shape[1]))
    log_w = -target.beta * torch.from_numpy(np.asarray(energies)) + prior.log_auxiliary(states) - log_q
    return states.numpy(), log_w.numpy()


@torch.no_grad()
def marginal_ratios(generator: Generator, states: Array, draws: int, *, seed: int) -> Array:
    """Ratios log q(u, a) - log N(a; u) of samples with M auxiliary draws each (Schebek et al. 2026), shape [m, M].

    Their mean exponential over the draws is the density of u alone, see `marginal_log_q`. The auxiliary variables that were drawn
    together with the displacements come first: with them the mean of p / q over samples of the flow is exact at any number of draws,
    with fresh ones alone it is too large by about 1 / draws. For frames of the target from `weigh_frames` these are fresh ones, as they
    have to be there. The draws of a sample depend on the seed and its index alone.

    Args:
        generator: A generator with an augmented prior.
        states: Samples of the flow, or frames of the target, length units, shape [m, 2, N, 3].
        draws: Auxiliary draws M for each sample.
        seed: Seed of the draws.
    """
    prior = generator.prior
    if not isinstance(prior, AugmentedPrior):
        raise TypeError("a marginal density needs an augmented flow")

    def ratios(some: Sequence[int]) -> Tensor:
        every = torch.stack([_auxiliary_draw(prior, torch.from_numpy(states[i // draws]), i, draws, seed) for i in some])
        return generator.log_density(every) - prior.log_auxiliary(every)

    pieces = Pieces(_SITES_AT_ONCE // (2 * states.shape[2]), "auxiliary draws")
    found = list(pieces.over(range(len(states) * draws), ratios))
    return torch.cat(found).view(len(states), draws).numpy() if found else np.empty((0, draws))


def _auxiliary_draw(prior: AugmentedPrior, state: Tensor, place: int, draws: int, seed: int) -> Tensor:
    """The state itself for the first draw of a sample, else its displacements with fresh auxiliary variables; shape [2, N, 3]."""
    sample, draw = divmod(place, draws)
    if draw == 0:
        return state
    return torch.stack((state[0], prior.draw_auxiliary(state[0], stream(seed, f"marginal {sample}", draw))))


def marginal_log_density(generator: Generator, states: Array, draws: int, *, seed: int) -> Array:
    """Log-density of the displacements of samples under an augmented flow, by auxiliary draws, shape [m]; see `marginal_ratios`.

    Args:
        generator: A generator with an augmented prior.
        states: Samples of the flow, or frames of the target, length units, shape [m, 2, N, 3].
        draws: Auxiliary draws M for each sample.
        seed: Seed of the draws.
    """
    return marginal_log_q(marginal_ratios(generator, states, draws, seed=seed))


def _log_density(generator: Generator, states: Tensor, size: int) -> Tensor:
    """Log-densities of states, a piece of them at a time."""
    pieces = Pieces(size, "states").over(range(len(states)), lambda some: generator.log_density(states[some[0] : some[-1] + 1]))
    return torch.cat(list(pieces))
