# SPDX-License-Identifier: GPL-2.0-or-later
"""Correlated series: where equilibrium begins, how many independent frames there are, and means with honest errors.

The equilibrated part is the one with the most independent frames (Chodera, J. Chem. Theory Comput. 12, 1799, 2016).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from lammps_bg.thermo.free_energy import CONFIDENCE, EstimateResult
from lammps_bg.thermo.quiet_pymbar import quiet_pymbar
from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]
SHORTEST = 10
"""Fewest frames of a series in which a correlation time can be looked for."""
FEWEST_INDEPENDENT = 10
"""Fewest independent frames that an estimate with an error may rest on."""
SPACING = 1.5
"""Distance of the frames called independent, in statistical inefficiencies: exponentially decaying correlations are then 5 %.

At the usual distance of one inefficiency they are still 14 %, and errors that take the frames as independent 14 % too small."""
WILD = 8.0
"""Leading frames further than this many standard deviations from the second half are dropped unseen."""
_ORIGINS = 50  # candidate starts of equilibrium


@dataclass(frozen=True)
class Decorrelated:
    """The equilibrated, effectively independent frames of one series.

    Attributes:
        start: First equilibrated frame.
        inefficiency: Statistical inefficiency g = 1 + 2 tau of the frames from there on, in frames.
        n_independent: Number of independent frames, `len(indices)`.
        indices: Their places in the series, ascending, shape [n_independent].
    """

    start: int
    inefficiency: float
    n_independent: int
    indices: NDArray[np.int64]


def decorrelate(series: ArrayLike, *, minimum: int = FEWEST_INDEPENDENT) -> Decorrelated:
    """Find equilibrium and independent frames in one series.

    Args:
        series: One number per frame, such as the potential energy, shape [n].
        minimum: Fewest independent frames the caller can use.

    Raises:
        EstimateError: Too short, constant or non-finite series, or fewer than `minimum` independent frames.
    """
    return decorrelate_replicas([series], minimum=minimum)[0]


def decorrelate_replicas(replicas: Sequence[ArrayLike], *, minimum: int = FEWEST_INDEPENDENT) -> list[Decorrelated]:
    """Find equilibrium in each replica, and one statistical inefficiency for all.

    Replicas that settled around different values make the inefficiency large: correlations are those around the common mean.

    Args:
        replicas: Series of the same quantity in independent runs, each of shape [n].
        minimum: Fewest independent frames, of all replicas together, that the caller can use.

    Raises:
        EstimateError: Too short, constant or non-finite series, or fewer than `minimum` independent frames.
    """
    checked = [_checked(series) for series in replicas]
    if not checked:
        raise EstimateError("expected at least 1 series, got none; pass the series of one run")
    starts = [_equilibration(series) for series in checked]
    inefficiency = _cautious_inefficiency([series[start:] for series, start in zip(checked, starts, strict=True)])
    result = []
    for series, start in zip(checked, starts, strict=True):
        spacing = SPACING * inefficiency if inefficiency > 1.0 else 1.0
        indices = start + np.arange(0.0, len(series) - start, spacing).astype(np.int64)
        result.append(Decorrelated(start, inefficiency, len(indices), indices))
    total = sum(entry.n_independent for entry in result)
    if total < minimum:
        raise EstimateError(
            f"expected at least {minimum} independent frames, but the trajectory has N_eff = {total} of "
            f"{sum(map(len, checked))} frames (correlated over {inefficiency:.1f}); run longer"
        )
    return result


def slowest(series: Sequence[ArrayLike]) -> Decorrelated:
    """The decorrelation of the series that leaves the fewest independent frames: those are independent in all of them.

    Raises:
        EstimateError: One of them is too short, constant or not finite.
    """
    return min((decorrelate(values, minimum=1) for values in series), key=lambda found: found.n_independent)


def evenly_spaced(n: int, most: int) -> NDArray[np.int64]:
    """Places of at most `most` frames spread over a series of `n`, its ends included, ascending."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(np.int64))


def correlated_mean(*replicas: ArrayLike, minimum: int = FEWEST_INDEPENDENT) -> EstimateResult:
    """Mean over the equilibrated frames, with an error that counts only N / g of them; 95 % interval of Student's t.

    Args:
        replicas: The series, or one for each independent run, each of shape [n]; any unit, also of the result.
        minimum: Fewest independent frames the caller can use.

    Raises:
        EstimateError: See `decorrelate_replicas`.
    """
    parts = decorrelate_replicas(replicas, minimum=minimum)
    values = np.concatenate([np.asarray(row, dtype=np.float64)[part.start :] for row, part in zip(replicas, parts, strict=True)])
    n_effective = len(values) / parts[0].inefficiency
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n_effective)
    reach = float(stdtrit(max(n_effective - 1.0, 1.0), CONFIDENCE[1] / 100.0)) * error
    return EstimateResult(mean, error, (mean - reach, mean + reach), sum(part.n_independent for part in parts))


@dataclass(frozen=True)
class Fixed:
    """Mean of a quantity that does not move.

    Attributes:
        value: Its value.
        n: Number of frames.
        error: Zero.
    """

    value: float
    n: int
    error: float = 0.0

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        return {"value": self.value, "error": self.error, "n": self.n}


def equilibrated_mean(parts: Sequence[Array]) -> EstimateResult | Fixed:
    """Mean of a quantity over the equilibrated frames of each replica, with an error for correlated data where it moves at all."""
    every = np.concatenate(parts)
    if np.ptp(every) <= 1e-12 * abs(every.mean()):
        return Fixed(float(every.mean()), len(every))
    return correlated_mean(*parts, minimum=1)


def _checked(series: ArrayLike) -> Array:
    """The series as a float64 array, refused where no correlation time can be found in it."""
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1:
        raise EstimateError(f"expected one number for each frame, got shape {values.shape}; pass a row")
    if len(values) < SHORTEST:
        raise EstimateError(
            f"expected at least {SHORTEST} frames, but the trajectory has N_eff <= {len(values)}; run longer or write more frames"
        )
    if not np.isfinite(values).all():
        raise EstimateError(
            f"expected finite values, but the trajectory has {int((~np.isfinite(values)).sum())} nan or inf among {len(values)} "
            f"frames (first at frame {int((~np.isfinite(values)).argmax())}); look for lost atoms or a time step too long"
        )
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        raise EstimateError(
            f"expected a fluctuating series, but the trajectory has N_eff = 1: all {len(values)} frames are {values[0]:g}; "
            "check that the atoms move"
        )
    return values


def _equilibration(series: Array) -> int:
    """First equilibrated frame."""
    # One wild first frame hides all correlation, and then nothing is cut (choderalab/pymbar#283)
    second_half = series[len(series) // 2 :]
    low, centre, high = np.percentile(second_half, (16.0, 50.0, 84.0))
    tame = np.abs(series - centre) <= WILD * max(0.5 * (high - low), 1e-12 * abs(centre))
    first = int(tame.argmax())
    if len(series) - first < SHORTEST:
        return first
    with quiet_pymbar() as pymbar:
        nskip = max(1, (len(series) - first) // _ORIGINS)
        start, _, _ = pymbar.timeseries.detect_equilibration(series[first:], fast=True, nskip=nskip)
    return first + int(start)


def _cautious_inefficiency(parts: Sequence[Array]) -> float:
    """The larger statistical inefficiency of the parts and of their last two thirds.

    The start of equilibrium is where the inefficiency came out small, so that alone it is too small by some 10 %.
    """
    return max(inefficiency(parts), inefficiency([part[len(part) // 3 :] for part in parts]))


def inefficiency(parts: Sequence[Array]) -> float:
    """Statistical inefficiency of series of one quantity around their common mean, in frames; their length where they are constant."""
    if sum(map(len, parts)) < 3 or np.ptp(np.concatenate(parts)) == 0.0:
        return float(sum(map(len, parts)))
    with quiet_pymbar() as pymbar:
        if len(parts) == 1:
            return float(pymbar.timeseries.statistical_inefficiency(parts[0]))
        return float(pymbar.timeseries.statistical_inefficiency_multiple(list(parts)))
