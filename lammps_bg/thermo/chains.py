# SPDX-License-Identifier: GPL-2.0-or-later
"""Hamiltonian Monte Carlo in the white noise behind a flow: exact samples of a crystal at any size.

A generator makes displacements u = f(C^(1/2) x) of standard normal x: C^(1/2) is the base's own colouring, f the flow, which may be the
identity. Every coupling lambda between the flow (0) and the crystal (1) is a density of the same x,

    pi_lambda(x) ~ exp(-|x|^2 / 2 + lambda log w(x)),    log w = -beta U(u) + log N(a; u) - log q(u, a),

with auxiliary variables a where the flow has some. A chain draws momenta p ~ N(0, 1), follows the Hamiltonian
|x|^2 / 2 + |p|^2 / 2 - lambda log w(x) for a quarter of a turn, and accepts by its exact change. The Gaussian part is integrated exactly, as
a rotation of (x, p), with half kicks (step / 2) lambda grad log w around it (a splitting of Shahbaba, Lan, Johnson and Neal, Stat. Comput.
24, 339, 2014): the kicks are small where the flow is good, so steps are long at any number of atoms, and a quarter of a turn replaces
x by p where the density is normal. One such leap costs one energy with its forces.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg import parallel
from lammps_bg.flow.bijection import weights_at_rest
from lammps_bg.flow.generator import Generator
from lammps_bg.memory import Pieces
from lammps_bg.streams import BLOCK, stream
from lammps_bg.training.target import ExactTarget

Array = NDArray[np.float64]
ACCEPTANCE = 0.8
"""The mean acceptance that a step is tuned to: between this and 0.65 the cost of an independent sample hardly depends on it."""
QUARTER = math.pi / 2
FIRST_STEP = 0.45
_MOST_LEAPS = 64
_BLOCK_SITES = 16384  # of the chains that move together: at N = 1372 blocks of 8 take 0.67 of the time of blocks of 2
_SMALLEST_BLOCK = 4  # which leaves something to share out among ranks
_SITES_AT_ONCE = {1: 1 << 16, 2: 1 << 12}  # by channels: what autograd holds is 6 kB a site without auxiliaries, 130 kB with them
# gamma, kappa and t0 of the dual averaging: means over many chains are less noisy than the single chains of its authors (0.05, 0.75, 10)
_SHRINKAGE, _FORGET, _DELAY = 0.25, 0.75, 2.0


@dataclass(frozen=True)
class Point:
    """Where some chains stand.

    Attributes:
        x: White noise, shape [n, channels, N, 3], float64.
        log_w: Log-weights, shape [n]; -inf where the energy is not finite.
        slope: Gradient of log w by x, same shape as x.
        energies: Total potential energies as the target gives them, shape [n].
        displacements: Length units, shape [n, N, 3].
    """

    x: Tensor
    log_w: Tensor
    slope: Tensor
    energies: Tensor
    displacements: Tensor

    def where(self, taken: Tensor, other: "Point") -> "Point":
        """The other point for the chains that take it, this one for the rest.

        Args:
            taken: Shape [n], bool.
            other: Where they go.
        """

        def pick(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(taken.reshape(-1, *[1] * (new.dim() - 1)), new, old)

        return Point(*(pick(getattr(other, field.name), getattr(self, field.name)) for field in fields(self)))


class Latent:
    """A crystal as a density over the white noise of a generator.

    Attributes:
        generator: Prior and flow.
        n_evaluations: Energies with forces asked for by this rank so far.

    Args:
        generator: Prior and flow, in one state.
        target: The exact target.
    """

    def __init__(self, generator: Generator, target: ExactTarget) -> None:
        self.generator, self._target, self.n_evaluations = generator, target, 0
        self._pieces = pieces_of_chains(generator.prior.channels, self.n_sites)

    @property
    def n_sites(self) -> int:
        """Number of atoms N."""
        return len(self.generator.prior.base.amplitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the white noise of one chain."""
        return self.generator.prior.channels, self.n_sites, 3

    def at(self, x: Tensor) -> Point:
        """Log-weights and their gradients at white noise x, shape [n, channels, N, 3]."""
        with weights_at_rest(self.generator.flow):
            parts = list(self._pieces.over(range(len(x)), lambda some: self._point(x[some[0] : some[-1] + 1])))
        self.n_evaluations += len(x)
        return joined_points(parts)

    @torch.no_grad()
    def weighed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights [n], energies [n] and displacements [n, N, 3] at white noise x, shape [n, channels, N, 3], without forces."""
        parts = list(self._pieces.over(range(len(x)), lambda some: self._weighed(x[some[0] : some[-1] + 1])))
        log_w, energies, displacements = (torch.cat(column) for column in zip(*parts, strict=True))
        return log_w, energies, displacements

    def _weighed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prior, start = self.generator.prior, self.generator.prior.colour(x)
        state, log_det = self.generator.transform(start)
        log_p = self._target.log_prob(state[:, 0])
        log_w = log_p + prior.log_auxiliary(state) - prior.log_prob(start) + log_det
        return torch.where(torch.isnan(log_w), -torch.inf, log_w), -log_p / self._target.beta, state[:, 0].double()

    def _point(self, x: Tensor) -> Point:
        return point_at(self.generator, self._target, x)


def pieces_of_chains(channels: int, n_sites: int) -> Pieces:
    """How many chains are evaluated at a time."""
    return Pieces(_SITES_AT_ONCE[channels] // n_sites, "chains")


def joined_points(parts: Sequence[Point]) -> Point:
    """Points of some chains and of others as one."""
    return Point(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Point)))


def point_at(generator: Generator, target: ExactTarget, x: Tensor) -> Point:
    """Log-weights and their gradients at white noise, all in one piece.

    Args:
        generator: Prior and flow.
        target: The exact target.
        x: Shape [n, channels, N, 3].
    """
    prior, x = generator.prior, x.detach().requires_grad_()
    with torch.enable_grad():
        start = prior.colour(x)
        state, log_det = generator.transform(start)
        log_p = target.log_prob(state[:, 0])
        log_w = log_p + prior.log_auxiliary(state) - prior.log_prob(start) + log_det
        (slope,) = torch.autograd.grad(log_w.sum(), x)
    log_w, energies = log_w.detach(), -log_p.detach() / target.beta
    # beyond the reach of the numbers there is no weight, and no slope to follow: such a proposal is rejected
    log_w = torch.where(torch.isnan(log_w), -torch.inf, log_w)
    return Point(x.detach(), log_w, slope.nan_to_num(0.0, 0.0, 0.0), energies, state.detach()[:, 0].double())


class Density(Protocol):
    """What a trajectory follows."""

    def at(self, x: Tensor) -> Point:
        """Log-weights and their gradients at white noise x, shape [n, channels, N, 3]."""
        ...


def trajectory(
    latent: Density, start: Point, momentum: Tensor, coupling: float, *, step: float, leaps: int
) -> tuple[Point, Tensor]:
    """Follow the Hamiltonian of a coupling; reversible, and volume-preserving. The new point and momenta.

    Args:
        latent: The density.
        start: Where the chains stand.
        momentum: Shape [n, channels, N, 3].
        coupling: lambda.
        step: Angle of one rotation.
        leaps: Rotations, each with one energy.
    """
    point, p = start, momentum
    cosine, sine, kick = math.cos(step), math.sin(step), 0.5 * step * coupling
    for _ in range(leaps):
        p = p + kick * point.slope
        point, p = latent.at(cosine * point.x + sine * p), cosine * p - sine * point.x
        p = p + kick * point.slope
    return point, p


def hamiltonian(point: Point, momentum: Tensor, coupling: float) -> Tensor:
    """|x|^2 / 2 + |p|^2 / 2 - lambda log w, shape [n]; +inf where the energy is not finite.

    Args:
        point: Where the chains stand.
        momentum: Shape [n, channels, N, 3].
        coupling: lambda.
    """
    return 0.5 * (point.x.square() + momentum.square()).sum((1, 2, 3)) - coupling * point.log_w


@dataclass
class StepTuner:
    """Dual averaging of the step towards `ACCEPTANCE` (Hoffman and Gelman, J. Mach. Learn. Res. 15, 1593, 2014).

    Attributes:
        start: The first step.
        n: Acceptances seen so far.
        shortfall: Mean of what the acceptance lacked, with fading memory.
        log_mean: Averaged logarithm of the step.
        wanted: The mean acceptance that is aimed at.
    """

    start: float
    n: int = 0
    shortfall: float = 0.0
    log_mean: float = 0.0
    wanted: float = ACCEPTANCE

    def next_step(self, acceptance: float) -> float:
        """The step to try next.

        Args:
            acceptance: Mean over the chains with the last one.
        """
        self.n += 1
        share = 1.0 / (self.n + _DELAY)
        self.shortfall += share * (self.wanted - acceptance - self.shortfall)
        log_step = min(math.log(self.start) - math.sqrt(self.n) / _SHRINKAGE * self.shortfall, math.log(QUARTER))
        weight = self.n**-_FORGET
        self.log_mean += weight * (log_step - self.log_mean)
        return math.exp(log_step)

    @property
    def step(self) -> float:
        """The step that was found."""
        return math.exp(self.log_mean) if self.n else self.start


def leaps_of(step: float) -> int:
    """Leaps of a trajectory of about a quarter of a turn."""
    return min(_MOST_LEAPS, max(1, round(QUARTER / step)))


@dataclass(frozen=True)
class StepRecord:
    """What one step of all chains gave, in the order of the chains.

    Attributes:
        log_w: Log-weights, shape [n].
        energies: Total potential energies, shape [n].
        soft: Along the base's softest displacements, length units, shape [n].
        furthest: Largest displacement of an atom, length units, shape [n].
        acceptance: Probability with which each proposal was accepted, shape [n].
        infinite: Whether the proposal had no finite energy, shape [n].
    """

    log_w: Array
    energies: Array
    soft: Array
    furthest: Array
    acceptance: Array
    infinite: Array


def block_size(n_sites: int) -> int:
    """Chains that move together in one batch: the same for any number of ranks, so that all numbers are."""
    return max(_SMALLEST_BLOCK, min(BLOCK, 1 << max(0, (_BLOCK_SITES // n_sites).bit_length() - 1)))


class Chains:
    """Chains at one coupling; every MPI rank holds and moves blocks of them, and knows the numbers of all.

    Attributes:
        coupling: lambda.
        step: Angle of one rotation.
        leaps: Rotations of a trajectory.
        n_done: Steps made, those of the tuning included.
        tuner: What tunes the step.

    Args:
        latent: The density.
        coupling: lambda.
        points: Where the chains of each of this rank's blocks stand.
        seed: With coupling, block and step it decides the random numbers.
        step: The first step.
    """

    def __init__(
        self, latent: Latent, coupling: float, points: Mapping[int, Point], *, seed: int, step: float = FIRST_STEP
    ) -> None:
        self.coupling, self.step, self.leaps, self.n_done = coupling, step, leaps_of(step), 0
        self.tuner = StepTuner(step)
        self.points = dict(points)
        self._latent, self._seed = latent, seed
        self._softest = latent.generator.prior.base.softest

    @classmethod
    def from_draws(cls, latent: Latent, coupling: float, n_chains: int, *, seed: int) -> "Chains":
        """Chains that start from draws of the flow.

        Args:
            latent: The density.
            coupling: lambda.
            n_chains: Number of chains, a multiple of `block_size`.
            seed: Seed of all random numbers.
        """
        size, points = block_size(latent.n_sites), {}
        for block in own_blocks(n_chains, latent.n_sites):
            x = torch.randn(size, *latent.shape, dtype=torch.float64, generator=stream(seed, "chain start", block))
            points[block] = latent.at(x)
        return cls(latent, coupling, points, seed=seed)

    def at(self, coupling: float) -> "Chains":
        """New chains at another coupling that start where these stand."""
        return Chains(self._latent, coupling, self.points, seed=self._seed, step=self.step)

    def tune(self) -> StepRecord:
        """One step of all chains, after which the step is another."""
        record = self.advance()
        self.step = self.tuner.next_step(float(record.acceptance.mean()))
        self.leaps = leaps_of(self.step)
        return record

    def end_tuning(self) -> None:
        """From here on the step stays."""
        self.step = self.tuner.step
        self.leaps = leaps_of(self.step)

    def advance(self) -> StepRecord:
        """One step of all chains: a trajectory each, accepted or not."""
        rows = {block: self._move(block) for block in self.points}
        self.n_done += 1
        every: dict[int, list[Array]] = {}
        for part in parallel.gathered(rows):
            every |= part
        return StepRecord(*(np.concatenate(column) for column in zip(*(every[block] for block in sorted(every)), strict=True)))

    def displacements(self) -> Array | None:
        """Where all chains stand, on the first rank, length units, shape [n, N, 3]; None elsewhere."""
        own = {block: point.displacements.numpy() for block, point in self.points.items()}
        parts = parallel.gathered_by_first(own)
        return _joined(parts) if parts else None

    def state(self) -> dict[str, object] | None:
        """Everything that the next step depends on, on the first rank; None elsewhere."""
        parts = parallel.gathered_by_first({block: point.x.numpy() for block, point in self.points.items()})
        if not parts:
            return None
        numbers = {name: getattr(self, name) for name in ("coupling", "step", "leaps", "n_done")}
        tuner = {field.name: getattr(self.tuner, field.name) for field in fields(StepTuner)}
        return {**numbers, "tuner": tuner, "x": torch.from_numpy(_joined(parts))}

    @classmethod
    def restored(cls, latent: Latent, state: Mapping[str, object], *, seed: int) -> "Chains":
        """Chains from their `state`, on any number of ranks.

        Args:
            latent: The density.
            state: What `state` gave on the first rank.
            seed: Seed of all random numbers.
        """
        x = state["x"]
        if not isinstance(x, Tensor) or x.shape[1:] != latent.shape:
            raise ValueError("white noise of another crystal")
        size = block_size(latent.n_sites)
        points = {block: latent.at(x[block * size : (block + 1) * size]) for block in own_blocks(len(x), latent.n_sites)}
        chains = cls(latent, float(state["coupling"]), points, seed=seed)  # type: ignore[arg-type]
        chains.step, chains.leaps, chains.n_done = float(state["step"]), int(state["leaps"]), int(state["n_done"])  # type: ignore[call-overload, arg-type]
        chains.tuner = StepTuner(**state["tuner"])  # type: ignore[arg-type]
        return chains

    def _move(self, block: int) -> list[Array]:
        """One step of a block; the numbers of its `StepRecord`."""
        point = self.points[block]
        random = stream(self._seed, f"chain {self.coupling!r} {block}", self.n_done)
        p = torch.randn(point.x.shape, dtype=torch.float64, generator=random)
        uniform = torch.rand(len(p), dtype=torch.float64, generator=random)
        end, q = trajectory(self._latent, point, p, self.coupling, step=self.step, leaps=self.leaps)
        odds = acceptance(hamiltonian(point, p, self.coupling), hamiltonian(end, q, self.coupling))
        moved = point.where(uniform < odds, end)
        self.points[block] = moved
        u = moved.displacements
        soft, furthest = (u * self._softest).sum((1, 2)), u.square().sum(-1).amax(-1).sqrt()
        columns = (moved.log_w, moved.energies, soft, furthest, odds, torch.isneginf(end.log_w).double())
        return [column.numpy() for column in columns]


def acceptance(before: Tensor, after: Tensor) -> Tensor:
    """Probability to accept, min(1, exp(before - after)), shape [n]: one where a chain leaves an infinite energy, zero where it would enter one."""
    odds = (before - after).clamp(max=0.0).exp()
    return torch.where(torch.isfinite(after), odds, 0.0)


def own_blocks(n_chains: int, n_sites: int) -> list[int]:
    """Blocks of this rank."""
    return parallel.share(range(n_chains // block_size(n_sites)))


def _joined(parts: Sequence[Mapping[int, Array]]) -> Array:
    """Rows of all blocks in order."""
    every: dict[int, Array] = {}
    for part in parts:
        every |= part
    return np.concatenate([every[block] for block in sorted(every)])
