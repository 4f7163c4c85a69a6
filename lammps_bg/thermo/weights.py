# SPDX-License-Identifier: GPL-2.0-or-later
"""Importance weights: their mean, how many samples they are worth, how heavy their tail is, and how to resample by them.

Log-weights are natural logarithms, dimensionless, one per independent sample; -inf is a weight of zero (a configuration whose
energy was not finite).
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from lammps_bg.errors import LammpsBGError

Array = NDArray[np.float64]
N_BOOTSTRAPS = 1000
CHUNK = 4_000_000
"""Largest number of bootstrap counts held at once (32 MB)."""
SMALLEST_TAIL = 5
"""Fewer tail points than this do not determine a tail index."""
HILL_SHARE = 0.1
"""Share of the largest weights from which Hill's tail index is taken: few enough for the tail, enough to know it to 1/sqrt(n / 10)."""
ONE_SIDED_95 = 1.645
"""Upper 95 % point of the standard normal distribution."""


class EstimateError(LammpsBGError):
    """Samples or weights from which no number can be made."""

    exit_code = 1


@dataclass(frozen=True)
class WeightSummary:
    """What a set of log-weights is worth.

    Attributes:
        n: Number of samples.
        n_zero: Samples of weight zero.
        ess: Effective number of samples, (sum w)^2 / sum w^2.
        ess_fraction: `ess / n`.
        max_share: Share of the largest weight in the sum of weights.
        pareto_k: Tail index of the weights; from 0.5 on their variance is infinite and errors are not to be trusted, inf where
            the tail has too few samples to tell, -1 where the weights are equal to rounding.
        mean_log_w: Mean log-weight of the samples with non-zero weight.
        std_log_w: Standard deviation of the same.
        hill: Hill's tail index of the largest tenth of the weights; inf where these are too few to tell, nan where not measured.
    """

    n: int
    n_zero: int
    ess: float
    ess_fraction: float
    max_share: float
    pareto_k: float
    mean_log_w: float
    std_log_w: float
    hill: float = math.nan

    @property
    def hill_limit(self) -> float:
        """Upper 95 % limit of Hill's tail index, whose relative standard error is 1/sqrt(m) with m weights in the tail."""
        return self.hill * (1.0 + ONE_SIDED_95 / math.sqrt(math.ceil(HILL_SHARE * self.n)))

    @property
    def zero_fraction(self) -> float:
        """Share of the samples with weight zero."""
        return self.n_zero / self.n

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields for a JSON file; numbers that are not finite become null."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


def as_log_weights(log_w: ArrayLike, *, minimum: int = 1) -> Array:
    """The log-weights as a checked float64 array.

    Args:
        log_w: Log-weights, shape [n].
        minimum: Fewest samples that make sense to the caller.

    Raises:
        EstimateError: Wrong shape, too few samples, nan or +inf, or no weight above zero.
    """
    checked = np.asarray(log_w, dtype=np.float64)
    if checked.ndim != 1 or len(checked) < minimum:
        raise EstimateError(f"expected a row of at least {minimum} log-weights, got shape {checked.shape}; draw more samples")
    bad = np.isnan(checked) | (checked == np.inf)
    if bad.any():
        raise EstimateError(
            f"expected log-weights that are finite or -inf, got {int(bad.sum())} nan or +inf among {len(checked)} "
            f"(first at sample {int(bad.argmax())}); set the weight of a configuration without a finite energy to -inf"
        )
    if np.isneginf(checked).all():
        raise EstimateError(
            f"expected a weight above zero, got {len(checked)} samples of weight zero; train longer or narrow the base"
        )
    return checked


def log_mean_exp(log_w: ArrayLike) -> float:
    """Log of the mean weight, log((1/n) sum exp(log_w)).

    Args:
        log_w: Log-weights, shape [n].
    """
    checked = as_log_weights(log_w)
    return float(logsumexp(checked)) - math.log(len(checked))


def normalised_weights(log_w: ArrayLike) -> Array:
    """Weights that sum to one, shape [n].

    Args:
        log_w: Log-weights, shape [n].
    """
    checked = as_log_weights(log_w)
    weights = np.exp(checked - checked.max())
    return weights / weights.sum()


def effective_sample_size(log_w: ArrayLike) -> float:
    """(sum w)^2 / sum w^2, between 1 and n.

    Args:
        log_w: Log-weights, shape [n].
    """
    weights = normalised_weights(log_w)
    return float(1.0 / np.sum(weights**2))


def pareto_tail_index(log_w: ArrayLike) -> float:
    """Shape k of the generalised Pareto distribution of the largest weights (PSIS, Vehtari et al., JMLR 25, 72, 2024).

    The weights have a finite variance where k < 1/2 and a finite mean where k < 1. The tail is the largest
    min(n / 5, 3 sqrt(n)) weights.

    Args:
        log_w: Log-weights, shape [n].
    """
    checked = np.sort(as_log_weights(log_w))
    size = int(math.ceil(min(0.2 * len(checked), 3.0 * math.sqrt(len(checked)))))
    if size < SMALLEST_TAIL or not np.isfinite(checked[-size - 1]):
        return math.inf
    tail = np.exp(checked[-size:] - checked[-1])
    excess = tail - np.exp(checked[-size - 1] - checked[-1])
    # Below this the tail is the rounding error of log-weights that are all the same
    if excess[-1] < 1e-10:
        return -1.0
    return _generalised_pareto_shape(excess)


def hill_index(log_w: ArrayLike) -> float:
    """Hill's tail index: the mean excess of the largest tenth of the log-weights over the largest below them.

    For weights whose tail falls off as w^(-1/k) it is k, as `pareto_tail_index`, and known several times better, but it takes
    everything for such a tail: for log-weights that are normal with width s it is 0.47 s, where the true index is zero.

    Args:
        log_w: Log-weights, shape [n].
    """
    checked = np.sort(as_log_weights(log_w))
    size = math.ceil(HILL_SHARE * len(checked))
    if size < SMALLEST_TAIL or not np.isfinite(checked[-size - 1]):
        return math.inf
    return float((checked[-size:] - checked[-size - 1]).mean())


def error_margin(log_w: ArrayLike) -> float:
    """Factor on the standard error of the mean weight that allows for how badly the samples know it.

    The variance of a mean, m2 / n with the central moments m of the weights, is itself estimated with the relative standard error
    sqrt((m4 / m2^2 - 1) / n). Samples that lack their largest weights have too small a variance, and too small an error of it as well,
    so twice this is added to the error, where once would be its upper limit of two sigma. The factor is near 1 for weights that are
    nearly even (1.04 for n = 4096), and at most 3, where one weight makes up the variance.

    Args:
        log_w: Log-weights of independent samples, shape [n].
    """
    checked = as_log_weights(log_w)
    weights = np.exp(checked - checked.max())
    squares = np.square(weights - weights.mean())
    variance = squares.mean()
    if variance == 0.0:
        return 1.0
    return 1.0 + 2.0 * math.sqrt(max(float(np.square(squares / variance).mean()) - 1.0, 0.0) / len(weights))


def _generalised_pareto_shape(excess: Array) -> float:
    """Shape k by the empirical-Bayes estimator of Zhang and Stephens (Technometrics 51, 316, 2009).

    Args:
        excess: Distances above the threshold, ascending, shape [m].
    """
    m = len(excess)
    # Ties with the threshold and underflow must not make the quartile zero; hopeless weights do span hundreds of decades
    quartile = max(excess[int(m / 4 + 0.5) - 1], 1e-300)
    n_grid = 30 + int(math.sqrt(m))
    grid = 1.0 / excess[-1] + (1.0 - np.sqrt(n_grid / (np.arange(1, n_grid + 1) - 0.5))) / (3.0 * quartile)
    shape = np.log1p(-grid[:, None] * excess).mean(1)
    log_likelihood = m * (np.log(-grid / shape) - shape - 1.0)
    posterior = np.exp(log_likelihood - logsumexp(log_likelihood))
    theta = float(np.sum(grid * posterior))
    k = float(np.log1p(-theta * excess).mean())
    # Weak prior of PSIS: ten points of shape 1/2, so that short tails are not judged by noise
    return (m * k + 5.0) / (m + 10.0)


def summarise(log_w: ArrayLike) -> WeightSummary:
    """Judge a set of log-weights.

    Args:
        log_w: Log-weights, shape [n].
    """
    checked = as_log_weights(log_w)
    weights = normalised_weights(checked)
    finite = checked[np.isfinite(checked)]
    ess = float(1.0 / np.sum(weights**2))
    return WeightSummary(
        n=len(checked),
        n_zero=len(checked) - len(finite),
        ess=ess,
        ess_fraction=ess / len(checked),
        max_share=float(weights.max()),
        pareto_k=pareto_tail_index(checked),
        mean_log_w=float(finite.mean()),
        std_log_w=float(finite.std()),
        hill=hill_index(checked),
    )


def systematic_indices(log_w: ArrayLike, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of an equal-weight set: one random offset, then equal steps through the cumulative weights.

    Each sample appears floor or ceil of `size` times its share; the order of the samples is kept.

    Args:
        log_w: Log-weights, shape [n].
        size: Number of indices.
        rng: Source of the offset.
    """
    if size < 1:
        raise EstimateError(f"expected at least 1 resampled configuration, got {size}; ask for a positive number")
    cumulative = np.cumsum(normalised_weights(log_w))
    # Rounding must neither run past the end nor reach a trailing sample of weight zero
    points = np.minimum((np.arange(size) + rng.random()) / size, np.nextafter(1.0, 0.0))
    return np.searchsorted(cumulative / cumulative[-1], points, side="right").astype(np.int64)


def bootstrap_counts(n: int, rng: np.random.Generator, n_bootstraps: int = N_BOOTSTRAPS) -> Iterator[Array]:
    """How often each sample occurs in each bootstrap replica, in blocks of shape [b, n] whose b add to `n_bootstraps`."""
    if n_bootstraps < 2:
        raise EstimateError(f"expected at least 2 bootstrap replicas, got {n_bootstraps}; use some hundred or more")
    block = max(1, CHUNK // n)
    for start in range(0, n_bootstraps, block):
        rows = min(block, n_bootstraps - start)
        picks = rng.integers(0, n, size=(rows, n))
        picks += n * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def bootstrap_means(columns: Array, rng: np.random.Generator, n_bootstraps: int = N_BOOTSTRAPS) -> Array:
    """Column means of the bootstrap replicas, shape [n_bootstraps, k]; every estimator here is a function of such means.

    Args:
        columns: One row per sample, finite, shape [n, k].
        rng: Source of the replicas.
        n_bootstraps: Number of replicas.
    """
    blocks = [counts @ columns for counts in bootstrap_counts(len(columns), rng, n_bootstraps)]
    return np.concatenate(blocks) / len(columns)
