# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors from few independent repeats of one whole estimate, the only honest ones where all numbers of a repeat share samples."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from lammps_bg.thermo.free_energy import CONFIDENCE, EstimateResult
from lammps_bg.thermo.weights import N_BOOTSTRAPS, EstimateError

Array = NDArray[np.float64]


def as_repeats(values: ArrayLike, n_points: int) -> Array:
    """The values as a checked float64 table, a row per repeat.

    Args:
        values: One number per repeat and point, shape [R, m].
        n_points: m, the number of points they belong to.

    Raises:
        EstimateError: Wrong shape, fewer than two repeats, or a number that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != n_points:
        raise EstimateError(f"expected values of shape [repeats, {n_points}], got {table.shape}; pass a row per repeat")
    if len(table) < 2:
        raise EstimateError(f"expected at least 2 independent repeats, got {len(table)}; without repeats there is no error")
    bad = ~np.isfinite(table)
    if bad.any():
        repeat, point = np.argwhere(bad)[0]
        raise EstimateError(
            f"expected finite values, got {int(bad.sum())} nan or inf among {table.size} (first in repeat {repeat} at point {point}); "
            "estimate these points again or leave them out"
        )
    return table


def t_factor(n_repeats: int) -> float:
    """Half width of the 95 % interval in standard errors, by Student's distribution of R - 1 degrees of freedom."""
    return float(stdtrit(n_repeats - 1, CONFIDENCE[1] / 100.0))


def with_error(value: float, error: float, n_repeats: int) -> EstimateResult:
    """An estimate with its standard error and Student's 95 % interval; the error is at least that of rounding.

    Args:
        value: The estimate, any unit.
        error: Its standard error from the repeats, the same unit.
        n_repeats: Number of repeats R.
    """
    floored = max(float(error), 16.0 * float(np.finfo(np.float64).eps) * max(1.0, abs(float(value))))
    half = t_factor(n_repeats) * floored
    return EstimateResult(float(value), floored, (float(value) - half, float(value) + half), n_repeats)


def mean_of(values: Array) -> EstimateResult:
    """Mean of the repeats with its standard error.

    Args:
        values: One number per repeat, shape [R].
    """
    return with_error(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values))


def leave_one_out(repeats: Array) -> Array:
    """Means over all repeats but one, a row for each left out, shape [R, m].

    Args:
        repeats: Shape [R, m].
    """
    return np.asarray((repeats.sum(0) - repeats) / (len(repeats) - 1))


def pseudo_values(value: Array, without: Array) -> Array:
    """One number per repeat whose mean is the estimate and whose std / sqrt(R) is its jackknife error, shape [R, ...].

    For an estimate linear in the data they are the estimates of the single repeats. Unlike those, they need no repeat to be good
    enough on its own: a minimum that one noisy repeat alone does not have exists for the mean of the others.

    Args:
        value: The estimate from all repeats, shape [...].
        without: The estimates without one repeat, shape [R, ...].
    """
    return np.asarray(value + (len(without) - 1) * (without.mean(0) - without))


def jackknife(value: float, without: Array) -> EstimateResult:
    """An estimate with its jackknife error.

    Args:
        value: The estimate from all repeats.
        without: The estimates without one repeat, shape [R].
    """
    error = pseudo_values(np.asarray(value), without).std(ddof=1) / math.sqrt(len(without))
    return with_error(value, error, len(without))


def mean_replicas(repeats: Array, rng: np.random.Generator, n_bootstraps: int = N_BOOTSTRAPS) -> Array:
    """Replicas of the mean over the repeats by the multiplier bootstrap, shape [n_bootstraps, m].

    Each is mean + sum_r g_r (x_r - mean) / sqrt(R (R - 1)) with standard normal g_r: given the data, its covariance is that of the mean,
    S / R with the unbiased S. Drawing repeats with replacement would give (R - 1) / R of it, and for five repeats few different
    replicas. Equally seeded sources give joint replicas of tables with equally many repeats.

    Args:
        repeats: Shape [R, m].
        rng: Source of the replicas.
        n_bootstraps: Number of replicas.
    """
    if n_bootstraps < 2:
        raise EstimateError(f"expected at least 2 bootstrap replicas, got {n_bootstraps}; use some hundred or more")
    n = len(repeats)
    mean = repeats.mean(0)
    return np.asarray(mean + rng.standard_normal((n_bootstraps, n)) @ (repeats - mean) / math.sqrt(n * (n - 1)))
