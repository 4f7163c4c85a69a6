# SPDX-License-Identifier: GPL-2.0-or-later
"""Drawing from a trained flow: states with log q, exact energies and log-weights, in chunks."""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg.flow.model import Generator
from lammps_bg.flow.prior import AugmentedPrior
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
        energies: Total potential energy as LAMMPS gives it, shape [n]; +inf where it is not finite.
        log_q: Log-density of the samples in the density that the flow draws in, shape [n].
        log_w: Log-weights -beta U + log N(a; u) - log q, shape [n]; -inf where the energy is not finite.
        draw_seconds: Time in the base and the flow.
        energy_seconds: Time in LAMMPS.
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
    blocks = max(1, math.ceil((batch_size or min(512, _SITES_AT_ONCE // n_sites)) / _BLOCK))
    total = math.ceil(n / _BLOCK)
    for lead in range(0, total, blocks):
        start_time = time.perf_counter()
        parts = [generator.prior.sample(_BLOCK, stream(seed, "sample", b)) for b in range(lead, min(lead + blocks, total))]
        start = torch.cat(parts)[: n - lead * _BLOCK]
        states, log_q = push(generator, start)
        drawn = time.perf_counter()
        log_p = target.log_prob(states[:, 0])
        log_w = log_p + generator.prior.log_auxiliary(states) - log_q
        # a sample outside the reach of the numbers has no weight: it is counted, never repaired
        log_w = torch.where(torch.isnan(log_w), -torch.inf, log_w)
        done = time.perf_counter()
        yield Chunk(
            lead * _BLOCK,
            states.numpy(),
            (-log_p / target.beta).numpy(),
            log_q.numpy(),
            log_w.numpy(),
            drawn - start_time,
            done - drawn,
        )


@torch.no_grad()
def push(generator: Generator, start: Tensor) -> tuple[Tensor, Tensor]:
    """Send prior states [n, channels, N, 3] through the flow; the new states (float64) and their log q [n]."""
    states, log_det = generator.flow.forward(start)
    return states.double(), generator.prior.log_prob(start) - log_det


@torch.no_grad()
def marginal_log_density(generator: Generator, states: Array, draws: int, *, seed: int) -> Array:
    """Log-density of the displacements of samples under an augmented flow, by auxiliary draws (Schebek et al. 2026), shape [m].

    The auxiliary variables that were drawn together with the displacements are one of the draws: only then is the mean of
    p / q over samples of the flow exact at any number of draws; with fresh ones alone it is too large by about 1 / draws.

    Args:
        generator: A generator with an augmented prior.
        states: Samples of the flow, length units, shape [m, 2, N, 3].
        draws: Auxiliary draws M for each sample.
        seed: Seed of the draws.
    """
    prior = generator.prior
    if not isinstance(prior, AugmentedPrior):
        raise TypeError("a marginal density needs an augmented flow")
    result = []
    for index, state in enumerate(torch.from_numpy(states)):
        repeated = state[0].expand(draws - 1, -1, -1)
        fresh = torch.stack((repeated, prior.draw_auxiliary(repeated, stream(seed, "marginal", index))), 1)
        every = torch.cat((state[None], fresh))
        size = max(1, _SITES_AT_ONCE // (2 * state.shape[1]))
        log_q = torch.cat([_log_density(generator, part) for part in every.split(size)])
        result.append(marginal_log_q(log_q[None].numpy(), prior.log_auxiliary(every)[None].numpy())[0])
    return np.array(result)


def _log_density(generator: Generator, states: Tensor) -> Tensor:
    """Joint log q of states by the inverse flow, shape [n]."""
    start, log_det = generator.flow.inverse(states)
    return generator.prior.log_prob(start) + log_det
