# SPDX-License-Identifier: GPL-2.0-or-later
"""Where to put the windows between springs (lambda = 0) and the potential (lambda = 1), from the overlaps of those there are.

In window lambda the reduced potential is beta [(1 - lambda) U_s + lambda U]; windows differ by (lambda' - lambda) du with
du = beta (U - U_s). The standard deviation of du is the density of thermodynamic length along lambda: windows one unit of length
apart overlap well, whatever the system.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.thermo.two_sided import overlap
from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]
HEALTHY_OVERLAP = 0.3
"""Neighbouring windows with at least this overlap (`two_sided.overlap`) need none in between; about 2.3 apart in length."""
PIECE_LENGTH = 1.2
"""Thermodynamic length of the pieces that a gap is divided into."""
MOST_INSERTED = 4
"""New windows in one gap and one round: the widths in a gap are guessed from its ends, and better known in the next round."""
SMALLEST_GAP = 1e-6
"""Gaps narrower than twice this are not divided further; where an overlap is still missing, MBAR refuses the windows."""
_TINY = 1e-12
_LARGEST_RATIO = 1e6  # of the widths of du at the ends of a gap; they may be infinite where atoms overlap


def initial_windows(n: int = 6) -> list[float]:
    """Windows to begin with, closer towards the springs, where atoms may overlap and U varies most."""
    if n < 2:
        raise EstimateError(f"expected at least 2 windows, got {n}; the ends are windows themselves")
    return [float(x) for x in np.linspace(0.0, 1.0, n) ** 2]


def neighbour_overlaps(lambdas: Sequence[float], du_samples: Sequence[ArrayLike]) -> Array:
    """Overlap of each window with the next, shape [len(lambdas) - 1].

    Args:
        lambdas: Ascending.
        du_samples: beta (U - U_s) of independent frames of each window, shapes [n]; +inf where U is not finite.
    """
    samples = _checked(lambdas, du_samples)
    return np.array([_gap_overlap(b - a, x, y) for a, b, x, y in zip(lambdas, lambdas[1:], samples, samples[1:], strict=False)])


def to_insert(lambdas: Sequence[float], du_samples: Sequence[ArrayLike]) -> list[float]:
    """Windows to add, ascending; none where all neighbours overlap."""
    overlaps = neighbour_overlaps(lambdas, du_samples)
    widths = [_width(np.asarray(samples, dtype=np.float64)) for samples in du_samples]
    new: list[float] = []
    for index in np.flatnonzero(overlaps < HEALTHY_OVERLAP).tolist():
        low, high = lambdas[index], lambdas[index + 1]
        if high - low >= 2.0 * SMALLEST_GAP:
            new.extend(_divided(low, high, widths[index], widths[index + 1]))
    return new


def _checked(lambdas: Sequence[float], du_samples: Sequence[ArrayLike]) -> list[Array]:
    steps = np.diff(np.asarray(lambdas, dtype=np.float64))
    if len(lambdas) < 2 or len(lambdas) != len(du_samples) or not (steps > 0.0).all():
        raise EstimateError(
            f"expected 2 or more ascending lambdas with samples each, got {list(lambdas)} and {len(du_samples)} sets of samples; "
            "sort the windows"
        )
    samples = [np.asarray(values, dtype=np.float64) for values in du_samples]
    for value, row in zip(lambdas, samples, strict=True):
        bad = np.isnan(row) | (row == -np.inf) | (np.isinf(row) & (value > 0.0))
        if row.ndim != 1 or len(row) < 2 or bad.any():
            raise EstimateError(
                f"expected at least 2 finite energy differences in window {value:g}, got {int(bad.sum())} that are not among "
                f"shape {row.shape}; run the window again"
            )
    return samples


def _gap_overlap(gap: float, lower: Array, upper: Array) -> float:
    """Overlap of two windows; zero where no frame of the lower one has a finite energy in the upper."""
    return overlap(-gap * lower, -gap * upper) if np.isfinite(lower).any() else 0.0


def _width(samples: Array) -> float:
    """Standard deviation of du from its lower half: the tail that overlaps with the next window, and finite where any is."""
    low, centre = np.quantile(samples, (0.16, 0.5), method="lower")
    if np.isfinite(centre):
        return float(centre - low)
    finite = samples[np.isfinite(samples)]
    return float(np.ptp(finite)) if len(finite) > 1 else np.inf


def _divided(low: float, high: float, width_low: float, width_high: float) -> list[float]:
    """Places that divide a gap into pieces of equal thermodynamic length, for a density that is exponential in between."""
    ratio = np.clip(max(width_high, _TINY) / max(width_low, _TINY), 1.0 / _LARGEST_RATIO, _LARGEST_RATIO)
    rate = float(np.log(ratio))
    if abs(rate) < 1e-6:
        mean_width, rate = width_low, 1e-6
    else:
        # From the smaller width, which the limit on the ratio leaves as it is
        mean_width = min(width_low, width_high) * float(max(ratio, 1.0 / ratio) - 1.0) / abs(rate)
    pieces = int(np.clip(np.ceil((high - low) * mean_width / PIECE_LENGTH), 2, MOST_INSERTED + 1))
    places = np.log1p(np.arange(1, pieces) / pieces * np.expm1(rate)) / rate
    # Windows closer than SMALLEST_GAP would go on for ever
    inside = np.clip(low + (high - low) * places, low + SMALLEST_GAP, high - SMALLEST_GAP)
    return [float(x) for x in np.unique(np.round(inside, 9))]
