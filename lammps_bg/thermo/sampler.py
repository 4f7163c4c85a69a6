# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawing from a trained flow: states with log q, exact energies and log-weights, in chunks that ranks share out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg import parallel
from lammps_bg.flow.generator import AugmentedPrior, Generator
from lammps_bg.memory import Pieces
from lammps_bg.streams import BLOCK, stream
from lammps_bg.thermo.free_energy import marginal_log_q
from lammps_bg.training.target import ExactTarget

Array = NDArray[np.float64]
_SITES_AT_ONCE = 1 << 16  # about 200 MB of activations
_LARGEST = 128  # samples of a chunk: enough for the speed, and few enough to be shared out among ranks


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
        virials: Configurational pressures, pressure units, shape [n]; None where nobody asked for them.
    """

    first: int
    states: Array
    energies: Array
    log_q: Array
    log_w: Array
    draw_seconds: float
    energy_seconds: float
    virials: Array | None = None

    @property
    def displacements(self) -> Array:
        """Physical displacements, length units, shape [n, N, 3]."""
        return self.states[:, 0]


def chunks_of(n: int, n_sites: int, batch_size: int | None = None) -> list[slice]:
    """The samples of each chunk; they depend on neither ranks nor what was drawn before, so that every sample is the same to the last bit.

    Args:
        n: Number of samples.
        n_sites: Number of atoms N.
        batch_size: Samples in a chunk, rounded up to a multiple of 16; None bounds the memory.
    """
    size = _chunk_size(n_sites, batch_size)
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


@torch.no_grad()
def draw(generator: Generator, target: ExactTarget, n: int, *, seed: int, batch_size: int | None = None) -> Iterator[Chunk]:
    """Draw `n` samples in chunks, all on this rank.

    Args:
        generator: Prior and trained flow.
        target: The exact target.
        n: Number of samples.
        seed: With the sample's index, it decides the sample.
        batch_size: Samples in a chunk, rounded up to a multiple of 16; None bounds the memory.
    """
    pieces = _pieces(generator, batch_size)
    for some in chunks_of(n, len(generator.prior.base.amplitude), batch_size):
        yield _weighed(generator, target, some, seed, pieces)


@torch.no_grad()
def draw_together(
    generator: Generator,
    target: ExactTarget,
    draws: Sequence[tuple[int, slice]],
    *,
    batch_size: int | None = None,
    finish: Callable[[Chunk], Chunk] = lambda chunk: chunk,
) -> Iterator[Chunk]:
    """Draw chunks on all ranks; every rank gets all of them in order, but their states are with the first one only.

    Args:
        generator: Prior and trained flow.
        target: The exact target.
        draws: Seed and samples of each chunk; the samples are chunks of `chunks_of`.
        batch_size: As for `chunks_of`.
        finish: Done with each chunk by the rank that drew it, such as dropping the states that nobody needs.
    """
    pieces, rank, n_ranks = _pieces(generator, batch_size), parallel.rank(), parallel.size()
    for lead in range(0, len(draws), n_ranks):
        own, at_once = None, draws[lead : lead + n_ranks]
        if rank < len(at_once):
            seed, some = at_once[rank]
            own = finish(_weighed(generator, target, some, seed, pieces))
        states = parallel.gathered_by_first(own.states if own else None)
        chunks = parallel.gathered(replace(own, states=own.states[:0]) if own else None)
        for place, chunk in enumerate(chunks):
            if chunk is not None:
                part = states[place] if states else None
                yield chunk if part is None else replace(chunk, states=part)


@torch.no_grad()
def redraw(generator: Generator, indices: Iterable[int], *, seed: int) -> Iterator[tuple[int, Array]]:
    """Draw some samples again, without their energies: index and displacements [N, 3], length units, by rising index."""
    pieces = Pieces(BLOCK, "samples")
    for block, members in groupby(sorted(set(indices)), key=lambda index: index // BLOCK):
        states, _ = _push(generator, slice(block * BLOCK, (block + 1) * BLOCK), seed, pieces)
        for index in members:
            yield index, states[index - block * BLOCK, 0].numpy()


@torch.no_grad()
def states_again(generator: Generator, chunks: Sequence[slice], *, seed: int, batch_size: int | None = None) -> Array:
    """States of samples that were drawn before, to the last bit, length units, shape [n, channels, N, 3]."""
    pieces = _pieces(generator, batch_size)
    return np.concatenate([_push(generator, some, seed, pieces)[0].numpy() for some in chunks])


def _pieces(generator: Generator, batch_size: int | None) -> Pieces:
    """Samples that are pushed at once: a chunk, or as much of one as fits into memory."""
    n_sites = len(generator.prior.base.amplitude)
    return Pieces(min(_chunk_size(n_sites, batch_size), max(1, _SITES_AT_ONCE // n_sites)), "samples")


def _chunk_size(n_sites: int, batch_size: int | None) -> int:
    return BLOCK * max(1, -(-(batch_size or min(_LARGEST, _SITES_AT_ONCE // n_sites)) // BLOCK))


def _weighed(generator: Generator, target: ExactTarget, some: slice, seed: int, pieces: Pieces) -> Chunk:
    """The samples of a chunk with energies and weights."""
    start_time = time.perf_counter()
    states, log_q = _push(generator, some, seed, pieces)
    pushed = time.perf_counter()
    log_p = target.log_prob(states[:, 0])
    log_w = generator.prior.log_weights(log_p, states, log_q)
    # a sample outside the reach of the numbers has no weight: it is counted, never repaired
    log_w = torch.where(torch.isnan(log_w), -torch.inf, log_w)
    times = (pushed - start_time, time.perf_counter() - pushed)
    return Chunk(some.start, states.numpy(), (-log_p / target.beta).numpy(), log_q.numpy(), log_w.numpy(), *times)


def _push(generator: Generator, some: slice, seed: int, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """States (float64) and log q of samples that begin with a block, so many at a time as fit into memory."""
    leading = range(some.start // BLOCK, -(-some.stop // BLOCK))
    start = torch.cat([generator.prior.sample(BLOCK, stream(seed, "sample", block)) for block in leading])
    pushed = pieces.over(range(len(start)), lambda part: generator.push(start[part[0] : part[-1] + 1]))
    states, log_q = zip(*pushed, strict=True)
    n = some.stop - some.start
    return torch.cat(states)[:n].double(), torch.cat(log_q)[:n]


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
    log_w = prior.log_weights(-target.beta * torch.from_numpy(np.asarray(energies)), states, log_q)
    return states.numpy(), log_w.numpy()


@torch.no_grad()
def marginal_ratios(generator: Generator, states: Array, draws: int, *, seed: int, first: int = 0) -> Array:
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
        first: Index of the first of these samples, where they are a part of all.
    """
    pieces = Pieces(_SITES_AT_ONCE // (2 * states.shape[2]), "auxiliary draws")
    if not len(states):
        return np.empty((0, draws))
    # sample by sample: in a batch with others, rounding would depend on who these are
    return np.stack([_ratios_of(generator, state, i, draws, seed, pieces) for i, state in enumerate(states, first)])


def _ratios_of(generator: Generator, state: Array, index: int, draws: int, seed: int, pieces: Pieces) -> Array:
    """The ratios of one sample, shape [M]."""
    prior, own = generator.prior, torch.from_numpy(state)
    if not isinstance(prior, AugmentedPrior):
        raise TypeError("a marginal density needs an augmented flow")

    def ratios(some: Sequence[int]) -> Tensor:
        every = torch.stack([_auxiliary_draw(prior, own, index, draw, seed) for draw in some])
        return generator.log_density(every) - prior.log_auxiliary(every)

    return torch.cat(list(pieces.over(range(draws), ratios))).numpy()


def _auxiliary_draw(prior: AugmentedPrior, state: Tensor, index: int, draw: int, seed: int) -> Tensor:
    """The state itself for the first draw of a sample, else its displacements with fresh auxiliary variables; shape [2, N, 3]."""
    if draw == 0:
        return state
    return torch.stack((state[0], prior.draw_auxiliary(state[0], stream(seed, f"marginal {index}", draw))))


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
