# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies from samples of both the flow and the target: reverse perturbation, Bennett's acceptance ratio, overlap.

Both kinds of samples carry log w = -beta U - log q. The estimates are -ln Z_u. For Bennett's ratio (BAR) of n0 samples of the flow
and n1 of the target, the probability that a configuration came from the target is

    P(x) = 1 / (1 + exp(-log w(x) - c)),    c = -ln Z_u + ln(n1 / n0),

and c is the root of sum P(x) = n1 over all samples. A sample of the flow without a finite energy has log w = -inf: it adds nothing
to the sum and still counts in n0. The root is that of `pymbar.other_estimators.bar`, as the tests check; it is found here because
pymbar returns 0 where a log-weight is infinite, fails where all are equal, and solves one replica at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp

from lammps_bg.thermo.free_energy import CONFIDENCE, EstimateResult, one_sided, tfep
from lammps_bg.thermo.verdict import paired_z
from lammps_bg.thermo.weights import CHUNK, N_BOOTSTRAPS, EstimateError, as_log_weights, bootstrap_counts

Array = NDArray[np.float64]
SMALLEST_OVERLAP = 1e-6
"""Below this the two sets of samples have nothing in common, and BAR has no answer at all."""
_SPAN = 1e4  # log-weights this far below all those of the target count as this far: exp(-5000) is zero as well


@dataclass(frozen=True)
class TwoSided:
    """Estimates of -ln Z_u that share samples, with joint bootstrap replicas: each replica resamples both sides once.

    Attributes:
        tfep: From samples of the flow alone.
        tfep_reverse: From samples of the target alone.
        bar: From both.
        overlap: See the function `overlap`.
        replicas: The three estimates in each replica, shape [n_bootstraps], by name.
    """

    tfep: EstimateResult
    tfep_reverse: EstimateResult
    bar: EstimateResult
    overlap: float
    replicas: dict[str, Array]

    def z(self, first: str, second: str) -> float:
        """Difference of two of the estimates in units of its own standard error, the shared samples taken into account."""
        return paired_z(getattr(self, first), getattr(self, second), self.replicas[first], self.replicas[second])


def reverse_tfep(log_w_target: ArrayLike, rng: np.random.Generator, *, n_bootstraps: int = N_BOOTSTRAPS) -> EstimateResult:
    """Targeted perturbation from the target's side, -ln Z_u = log <exp(-log w)>, with bootstrap error and 95 % interval.

    Args:
        log_w_target: Log-weights of independent samples of the target, shape [n].
        rng: Source of the bootstrap replicas.
        n_bootstraps: Number of replicas.
    """
    return tfep(-_target_log_weights(log_w_target), rng, n_bootstraps=n_bootstraps).scaled(-1.0)


def overlap(log_w_flow: ArrayLike, log_w_target: ArrayLike) -> float:
    """Overlap of two densities, the integral of q p / (a q + (1 - a) p) with a = n0 / (n0 + n1): 1 if they are equal, 0 if apart.

    It is one minus the second eigenvalue of the two-state MBAR overlap matrix (pymbar's `bar_overlap`), estimated by
    (1/n0 + 1/n1) sum P (1 - P) over all samples. The variance of BAR is close to (1/n0 + 1/n1) (1/overlap - 1).

    Args:
        log_w_flow: Log-weights of independent samples of the flow, -inf where the energy is not finite, shape [n0].
        log_w_target: Log-weights of independent samples of the target, shape [n1].
    """
    flow, target = as_log_weights(log_w_flow, minimum=2), _target_log_weights(log_w_target)
    return _overlap_at(flow, target, _full_root(flow, target))


def two_sided(
    log_w_flow: ArrayLike,
    log_w_target: ArrayLike,
    rngs: tuple[np.random.Generator, np.random.Generator],
    *,
    n_bootstraps: int = N_BOOTSTRAPS,
) -> TwoSided:
    """-ln Z_u by perturbation from either side and by BAR, with errors from a joint bootstrap of both sides.

    Args:
        log_w_flow: Log-weights of independent samples of the flow, -inf where the energy is not finite, shape [n0].
        log_w_target: Log-weights of independent samples of the target, shape [n1].
        rngs: Sources of the bootstrap replicas of flow and target. With an equally seeded source for the same frames in
            `multistate.mbar`, the replicas of both are joint.
        n_bootstraps: Number of replicas.

    Raises:
        EstimateError: Log-weights that are not usable, or no overlap.
    """
    flow, target = as_log_weights(log_w_flow, minimum=2), _target_log_weights(log_w_target)
    root = _full_root(flow, target)
    shared = _overlap_at(flow, target, root)
    if shared < SMALLEST_OVERLAP:
        raise EstimateError(
            f"expected samples of flow and MD that overlap, got an overlap of {shared:.1g}; train longer or check that both are "
            "of the same crystal and state"
        )
    replicas = _replicas(flow, target, root, rngs, n_bootstraps)
    rounding = float(np.finfo(np.float64).eps * max(1.0, np.abs(target).max()))
    results = {
        "tfep": one_sided(flow, replicas["tfep"]),
        "tfep_reverse": one_sided(-target, -replicas["tfep_reverse"]).scaled(-1.0),
        "bar": _result(root - math.log(len(target) / len(flow)), replicas["bar"], len(flow) + len(target), rounding),
    }
    return TwoSided(**results, overlap=shared, replicas=replicas)


def _target_log_weights(log_w: ArrayLike) -> Array:
    """The log-weights of the target's samples as a checked float64 array."""
    checked = np.asarray(log_w, dtype=np.float64)
    if checked.ndim != 1 or len(checked) < 2:
        raise EstimateError(f"expected a row of at least 2 log-weights of MD frames, got shape {checked.shape}; run longer")
    if not np.isfinite(checked).all():
        bad = ~np.isfinite(checked)
        raise EstimateError(
            f"expected finite log-weights of MD frames, got {checked[bad][0]} at frame {int(bad.argmax())} ({int(bad.sum())} of "
            f"{len(checked)}): the flow gives it no density or LAMMPS no energy; check that the frames are of this crystal"
        )
    return checked


def _result(value: float, replicas: Array, n: int, rounding: float) -> EstimateResult:
    low, high = np.percentile(replicas, CONFIDENCE)
    return EstimateResult(value, max(float(replicas.std(ddof=1)), rounding), (float(low), float(high)), n)


def _full_root(flow: Array, target: Array) -> float:
    """The root c of all samples."""
    counts = np.ones((1, len(flow))), np.ones((1, len(target)))
    return float(_roots(_bounded(flow, target), target, counts, -float(np.median(target)))[0])


def _bounded(flow: Array, target: Array) -> Array:
    """Log-weights of the flow without -inf and numbers so low that a bracket could not be halved down from them."""
    return np.maximum(flow, target.min() - _SPAN)


def _roots(flow: Array, target: Array, counts: tuple[Array, Array], start: float) -> Array:
    """Roots c in each replica, shape [b].

    Sum P over the flow equals the sum of 1 - P over the target; Newton steps on the logarithms of the two sums, which are nearly
    linear in c where the overlap is small, are kept inside a shrinking bracket.

    Args:
        flow: Finite log-weights of the flow, shape [n0].
        target: Log-weights of the target, shape [n1].
        counts: How often each sample occurs in each replica, shapes [b, n0] and [b, n1].
        start: First guess.
    """
    share = math.log(len(target) / len(flow))
    low = np.full(len(counts[0]), share - max(flow.max(), target.max()))
    high = np.full(len(counts[0]), share - min(flow.min(), target.min()))
    root = np.clip(start, low, high)
    for _ in range(200):
        given, given_slope = _sums(expit(flow + root[:, None]), counts[0])
        taken, taken_slope = _sums(expit(-target - root[:, None]), counts[1])
        low, high = np.where(given <= taken, root, low), np.where(given >= taken, root, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = root - np.log(given / taken) / (given_slope / given + taken_slope / taken)
        step = np.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        if (np.abs(step - root) <= 1e-12 * (1.0 + np.abs(step))).all():
            return step
        root = step
    raise EstimateError("expected the acceptance ratio to settle in 200 steps, got none; look at the log-weights")


def _sums(chance: Array, counts: Array) -> tuple[Array, Array]:
    """Sums of P and of P (1 - P) over the samples of each replica, shapes [b]."""
    total = np.einsum("bn,bn->b", counts, chance)
    return total, total - np.einsum("bn,bn,bn->b", counts, chance, chance)


def _overlap_at(flow: Array, target: Array, root: float) -> float:
    chance = expit(np.concatenate((flow, target)) + root)
    return float(np.sum(chance * (1.0 - chance)) * (1.0 / len(flow) + 1.0 / len(target)))


def _replicas(
    flow: Array, target: Array, root: float, rngs: tuple[np.random.Generator, np.random.Generator], n_bootstraps: int
) -> dict[str, Array]:
    """The three estimates in every bootstrap replica, shape [n_bootstraps] each."""
    finite, blocks = np.isfinite(flow), []
    bounded, log_ratio = _bounded(flow, target), math.log(len(target) / len(flow))
    for counts in _joint_counts(len(flow), len(target), rngs, n_bootstraps):
        if not counts[0][:, finite].any(1).all():
            raise EstimateError(
                f"expected weights above zero in every bootstrap replica, got {int(finite.sum())} such weights in "
                f"{len(flow)} samples; train longer or draw more samples"
            )
        bar = _roots(bounded, target, counts, root) - log_ratio
        blocks.append((-_log_means(flow, counts[0]), _log_means(-target, counts[1]), bar))
    names = ("tfep", "tfep_reverse", "bar")
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*blocks, strict=True), strict=True)}


def _log_means(log_w: Array, counts: Array) -> Array:
    """Log of the mean weight in each replica, also where it lacks the largest weights, shape [b]."""
    return np.asarray(logsumexp(np.broadcast_to(log_w, counts.shape), b=counts, axis=1)) - math.log(len(log_w))


def _joint_counts(
    n_flow: int, n_target: int, rngs: tuple[np.random.Generator, np.random.Generator], n_bootstraps: int
) -> Iterator[tuple[Array, Array]]:
    """How often each sample occurs in each replica, blocks of shapes [b, n0] and [b, n1]."""
    of_flow, of_target = (
        (row for block in bootstrap_counts(n, rng, n_bootstraps) for row in block)
        for n, rng in zip((n_flow, n_target), rngs, strict=True)
    )
    size = max(1, CHUNK // (4 * (n_flow + n_target)))
    while rows := list(islice(of_flow, size)):
        yield np.array(rows), np.array(list(islice(of_target, size)))
