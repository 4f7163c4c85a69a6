# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies of many states from the samples of all of them (MBAR; Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008).

u_kn[k, n] is the reduced potential of frame n in state k, f_k the reduced free energy of state k, W_kn the weight of frame n
in an average over state k: sum_n W_kn = 1. pymbar solves for f_k. Its own bootstrap has one seed (`rseed`, from 4.0.3), while
replicas that are paired with those of another estimate need a random source for each state; so they are solved here, by Newton steps
from its solution.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp

from lammps_bg.thermo.free_energy import CONFIDENCE, EstimateResult
from lammps_bg.thermo.quiet_pymbar import quiet_pymbar
from lammps_bg.thermo.repeats import pseudo_values
from lammps_bg.thermo.two_sided import SMALLEST_OVERLAP
from lammps_bg.thermo.weights import EstimateError, bootstrap_counts

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
N_BOOTSTRAPS = 200
_RESIDUAL = 1e-5  # largest error of sum_n W_kn = 1 that passes as solved; pymbar stops at a relative change of 1e-7
_SMALLEST_SHARE = 1e-30


@dataclass(frozen=True)
class Multistate:
    """MBAR estimates.

    Attributes:
        n_k: Number of frames sampled in each state, shape [K].
        free_energies: Reduced free energies relative to state 0, shape [K].
        errors: Their bootstrap standard errors, zero for state 0, shape [K].
        replicas: `free_energies` in each bootstrap replica, shape [b, K].
        overlap_matrix: Entry [i, j] is the probability that a frame of state i would be found in state j, shape [K, K].
        neighbour_overlaps: Overlap (see `two_sided.overlap`) of each sampled state with the next sampled one.
        weights: W_kn of each frame in each state, rows sum to one, shape [K, n].
    """

    n_k: Counts
    free_energies: Array
    errors: Array
    replicas: Array
    overlap_matrix: Array
    neighbour_overlaps: Array
    weights: Array

    def difference(self, first: int, second: int) -> EstimateResult:
        """Reduced free energy of one state less that of another.

        Args:
            first: The state that is subtracted; negative numbers count from the end.
            second: The other state.
        """
        spread = self.replicas[:, second] - self.replicas[:, first]
        low, high = np.percentile(spread, CONFIDENCE)
        value = float(self.free_energies[second] - self.free_energies[first])
        rounding = float(np.finfo(np.float64).eps * max(1.0, np.abs(self.free_energies).max()))
        error = max(float(spread.std(ddof=1)), rounding)
        return EstimateResult(value, error, (float(low), float(high)), int(self.n_k.sum()))


def mbar(
    u_kn: ArrayLike,
    n_k: ArrayLike,
    rngs: Sequence[np.random.Generator],
    *,
    n_bootstraps: int = N_BOOTSTRAPS,
    blocks: Sequence[int] | None = None,
) -> Multistate:
    """Free energies of K states, with errors from a bootstrap that resamples the frames of each state.

    Args:
        u_kn: Reduced potential of every frame in every state, frames in the order of the states they were sampled in; +inf is a
            weight of zero; shape [K, n].
        n_k: Number of frames sampled in each state, 0 or at least 2, shape [K].
        rngs: A source of bootstrap replicas for each state, such as `rng.spawn(K)`. Sources seeded as in another estimate that
            rests on the same frames make the replicas of both joint.
        n_bootstraps: Number of replicas.
        blocks: Consecutive frames of each state that are resampled together, such as those of a Markov chain; None: one each.

    Raises:
        EstimateError: Reduced potentials that are not usable, states without overlap, or no convergence.
    """
    u, counts = _checked(u_kn, n_k)
    if len(rngs) != len(u):
        raise EstimateError(f"expected a random source for each of {len(u)} states, got {len(rngs)}; pass rng.spawn({len(u)})")
    free = _solve(u, counts)
    weights = _weights(u, counts, free)
    overlaps = _neighbour_overlaps(u, counts, free)
    matrix = counts * (weights @ weights.T)
    _require_connection(weights, counts, overlaps)
    replicas = free + _replicas(weights, counts, rngs, n_bootstraps, blocks or [1] * len(u))
    replicas -= replicas[:, :1]
    return Multistate(counts, free - free[0], replicas.std(0, ddof=1), replicas, matrix, overlaps, weights)


@dataclass(frozen=True)
class Grouped:
    """MBAR estimates from frames in R groups that are independent of each other, and those without each of the groups.

    Attributes:
        free_energies: Reduced free energies relative to state 0, shape [K].
        weights: W_kn of each frame in each state, rows sum to one, shape [K, n].
        factors: What the weights are multiplied with where a group is left out, up to a factor of each state, shape [R, n].
    """

    free_energies: Array
    weights: Array
    factors: Array

    def free_energy_repeats(self) -> Array:
        """One number per group for each state, see `repeats.pseudo_values`, shape [R, K]."""
        without = -np.log(self.weights @ self.factors.T).T
        return pseudo_values(self.free_energies, self.free_energies + without - without[:, :1])

    def mean_repeats(self, state: int, values: Array) -> Array:
        """Mean of an observable over a state, one number per group, shape [R].

        Args:
            state: The state.
            values: The observable of every frame in this state, shape [n]; what is not finite has no weight.
        """
        weights = np.where(np.isfinite(values), self.weights[state], 0.0)
        if not weights.any():
            return np.full(len(self.factors), np.nan)
        weighted = weights * np.where(weights > 0.0, values, 0.0)
        without = (self.factors @ weighted) / (self.factors @ weights)
        return pseudo_values(np.asarray(weighted.sum() / weights.sum()), without)

    def overlap(self, first: int, second: int) -> float:
        """Overlap of two states, sampled or not, the integral of 2 p q / (p + q) (`two_sided.overlap` of equally many frames)."""
        p, q = self.weights[first], self.weights[second]
        both = (p > 0.0) & (q > 0.0)
        return float((2.0 / (1.0 / p[both] + 1.0 / q[both])).sum())


def grouped(u_kn: ArrayLike, n_k: ArrayLike, groups: ArrayLike) -> Grouped:
    """Free energies of K states, with what they are without each group of frames; the chains of one group, say, in all states.

    Args:
        u_kn: As for `mbar`.
        n_k: As for `mbar`; state 0 is a sampled one.
        groups: Group of each frame, 0 to R - 1, each with frames of every sampled state, shape [n].

    Raises:
        EstimateError: As for `mbar`.
    """
    u, counts = _checked(u_kn, n_k)
    member, sampled = np.asarray(groups), counts > 0
    free = np.full(len(u), -np.inf)
    free[sampled] = _solve(u[sampled], counts[sampled])
    log_mixture = logsumexp(free[sampled, None] - u[sampled], b=counts[sampled, None].astype(np.float64), axis=0)
    free = -logsumexp(-u - log_mixture, axis=1)
    weights = np.exp(free[:, None] - u - log_mixture)
    _require_connection(weights, counts, _neighbour_overlaps(u[sampled], counts[sampled], free[sampled]))
    owner = np.repeat(np.flatnonzero(sampled), counts[sampled])
    factors = []
    for group in range(int(member.max()) + 1):
        left = member != group
        fewer = np.bincount(owner[left], minlength=len(u))[sampled]
        shares = fewer[:, None] * weights[sampled]
        shares[shares < _SMALLEST_SHARE] = 0.0
        factors.append(_replica(shares, fewer, left.astype(np.float64)))
    return Grouped(free - free[0], weights, np.array(factors))


def _checked(u_kn: ArrayLike, n_k: ArrayLike) -> tuple[Array, Counts]:
    """Reduced potentials and numbers of frames, refused where MBAR has no answer."""
    u, counts = np.asarray(u_kn, dtype=np.float64), np.asarray(n_k, dtype=np.int64)
    if u.ndim != 2 or len(u) < 2 or counts.shape != (len(u),) or counts.sum() != u.shape[1]:
        raise EstimateError(
            f"expected reduced potentials of shape [K, n] with K above 1 and n the sum of n_k, got {u.shape} and n_k = "
            f"{counts.tolist()}; pass one row per state and one column per frame"
        )
    if ((counts < 0) | (counts == 1)).any() or (counts > 0).sum() < 1:
        raise EstimateError(f"expected 0 or at least 2 frames in each state, got n_k = {counts.tolist()}; run longer")
    if np.isnan(u).any() or (u == -np.inf).any():
        bad = np.isnan(u) | (u == -np.inf)
        state, frame = np.argwhere(bad)[0]
        raise EstimateError(
            f"expected reduced potentials that are finite or +inf, got {int(bad.sum())} nan or -inf (first in state {state}, "
            f"frame {frame}); leave out frames without an energy"
        )
    own = u[np.repeat(np.arange(len(u)), counts), np.arange(u.shape[1])]
    if np.isinf(own).any():
        raise EstimateError(
            f"expected finite reduced potentials in the state that a frame was sampled in, got +inf at frame "
            f"{int(np.isinf(own).argmax())}; check the order of the frames"
        )
    return u, counts


def _solve(u: Array, counts: Counts) -> Array:
    """Reduced free energies by pymbar, shape [K]."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with quiet_pymbar() as pymbar:
            solved = pymbar.MBAR(u, counts, solver_protocol="robust")
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        raise _unsolved(str(error)) from error
    finally:
        # pymbar seeds numpy's global source anew
        np.random.set_state(state)  # noqa: NPY002
    free = np.asarray(solved.f_k, dtype=np.float64)
    sums = _weights(u, counts, free)[counts > 0].sum(1) if np.isfinite(free).all() else np.array(np.nan)
    if not np.abs(sums - 1.0).max() < _RESIDUAL:
        raise _unsolved(f"weights summing to {np.nanmax(sums, initial=-np.inf):.3g}")
    return free


def _unsolved(what: str) -> EstimateError:
    return EstimateError(f"expected MBAR weights that sum to 1, got {what}; add states between those that do not overlap")


def _weights(u: Array, counts: Counts, free: Array) -> Array:
    """W_kn, shape [K, n]."""
    sampled = counts > 0
    log_numerators = free[:, None] - u
    log_mixture = logsumexp(log_numerators[sampled], b=counts[sampled, None].astype(np.float64), axis=0)
    return np.asarray(np.exp(log_numerators - log_mixture))


def _neighbour_overlaps(u: Array, counts: Counts, free: Array) -> Array:
    """Overlaps of the sampled states with the next sampled one."""
    states = np.flatnonzero(counts)
    ends = np.cumsum(counts)
    overlaps = []
    for low, high in zip(states[:-1], states[1:], strict=True):
        # Both have frames, and those of empty states in between do not exist
        frames = slice(ends[low] - counts[low], ends[high])
        gap = (u[low, frames] - free[low]) - (u[high, frames] - free[high])
        chance = expit(gap + np.log(counts[high] / counts[low]))
        overlaps.append(np.sum(chance * (1.0 - chance)) * (1.0 / counts[low] + 1.0 / counts[high]))
    return np.array(overlaps)


def _require_connection(weights: Array, counts: Counts, overlaps: Array) -> None:
    """Refuse states that fall apart into groups without overlap: their free energies are then arbitrary."""
    sampled = counts > 0
    scaled = np.sqrt(counts[sampled])[:, None] * weights[sampled]
    eigenvalues = np.linalg.eigvalsh(scaled @ scaled.T)
    if len(eigenvalues) > 1 and not 1.0 - eigenvalues[-2] > SMALLEST_OVERLAP:
        low = int(overlaps.argmin())
        pair = np.flatnonzero(sampled)[low : low + 2].tolist()
        raise EstimateError(
            f"expected states that overlap, got an overlap of {overlaps[low]:.1g} between states {pair[0]} and {pair[1]}; "
            "add states between them"
        )


def _replicas(
    weights: Array, counts: Counts, rngs: Sequence[np.random.Generator], n_bootstraps: int, blocks: Sequence[int]
) -> Array:
    """Changes of the free energies in every bootstrap replica, up to a constant, shape [b, K]."""
    rows = [_occurrences(int(n), size, rng, n_bootstraps) for n, rng, size in zip(counts, rngs, blocks, strict=True) if n > 0]
    sampled = counts > 0
    shares = counts[sampled, None] * weights[sampled]
    # Products of such shares would be denormal numbers, which processors treat a hundred times slower
    shares[shares < _SMALLEST_SHARE] = 0.0
    changes = (_replica(shares, counts[sampled], np.concatenate(parts)) for parts in zip(*rows, strict=True))
    return np.array([-np.log(weights @ ratios) for ratios in changes])


def _occurrences(n: int, block: int, rng: np.random.Generator, n_bootstraps: int) -> Iterator[Array]:
    """How often each frame of a state occurs, replica by replica, shape [n]; consecutive ones of a block alike."""
    for part in bootstrap_counts(n // block, rng, n_bootstraps):
        yield from np.repeat(part, block, axis=1)


def _replica(shares: Array, counts: Counts, occurrences: Array) -> Array:
    """How much each frame counts, c_n over sum_k N_k exp(d_k) W_kn, where frame n occurs c_n times, shape [n].

    The changes d_k of the free energies minimise sum_n c_n ln(sum_k N_k exp(d_k) W_kn) - sum_k N_k d_k, which is convex.

    Args:
        shares: N_k W_kn of the full data in the sampled states, shape [K, n].
        counts: N_k of these, shape [K].
        occurrences: c_n, shape [n].
    """
    change, last = np.zeros(len(shares)), 0.0
    for _ in range(200):
        scale = np.exp(change)
        ratios = occurrences / (scale @ shares)
        excess = counts - scale * (shares @ ratios)
        size = float(np.abs(excess).max())
        # The curvature hardly changes from one step to the next; a new one is made where the old one does not help
        if not size < 0.3 * last:
            curvature = _curvature(scale[:, None] * shares, ratios, occurrences)
        last = size
        step = np.append(0.0, np.linalg.lstsq(curvature[1:, 1:], excess[1:], rcond=None)[0])
        if np.abs(step).max() < 1e-9:
            return ratios
        # Far from the minimum a Newton step may overshoot
        change += step * min(1.0, 2.0 / np.abs(step).max())
    raise _unsolved("a bootstrap replica without a solution")


def _curvature(scaled: Array, ratios: Array, occurrences: Array) -> Array:
    """Second derivatives of what `_replica` minimises, shape [K, K].

    Args:
        scaled: N_k exp(d_k) W_kn, shape [K, n].
        ratios: c_n over the sum of these over the states, shape [n].
        occurrences: c_n, shape [n].
    """
    present = occurrences > 0.0
    scaled, ratios, occurrences = scaled[:, present], ratios[present], occurrences[present]
    joint = scaled * (ratios / np.sqrt(occurrences))
    return np.asarray(np.diag(scaled @ ratios) - joint @ joint.T)
