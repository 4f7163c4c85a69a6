# SPDX-License-Identifier: GPL-2.0-or-later
"""A minimiser that looks at forces only and knows no unit, for where LAMMPS' own ones stall.

LAMMPS' line searches compare energies, and stop at a change of 1e-8 energy units: in `units si` that is more than a crystal has, and
where the energy is a little rough (grids of long-range solvers, unshifted cutoffs) no step is ever good enough for them.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lammps_bg.crystal.structure import Array

_MEMORY = 20
_PROGRESS = 0.9  # of the smallest residual so far
_FIRST = 0.01  # of the longest step: the first one, whose right length nobody knows
_UPHILL = 10.0  # times the smallest residual: there it starts anew from the best point


@dataclass(frozen=True)
class Point:
    """Where a descent has got to.

    Attributes:
        x: Coordinates, shape [d].
        residual: What remains there, of whatever has to vanish.
        n_evaluations: Evaluations that it took.
    """

    x: Array
    residual: float
    n_evaluations: int


def descend(
    gradient: Callable[[Array], tuple[Array, float]],
    start: Array,
    *,
    enough: float,
    longest: float,
    most: int = 3000,
    patience: int = 60,
) -> Point:
    """Limited-memory BFGS without a line search: steps of bounded length to where the gradient vanishes.

    Args:
        gradient: Gradient at coordinates [d], and the residual there; not finite where there is no energy.
        start: Coordinates to start from, of comparable stiffness, shape [d].
        enough: Residual at which it ends.
        longest: Largest change of a coordinate in one step.
        most: Largest number of evaluations.
        patience: Evaluations without progress after which it will not get any better.

    Returns:
        The best point found, good enough or not.
    """
    slope, residual = gradient(start)
    best, best_slope, last_progress = Point(start, residual, 1), slope, 1
    x, pairs = start, deque[tuple[Array, Array]](maxlen=_MEMORY)
    for n in range(2, most + 1):
        if best.residual < enough or n - last_progress > patience or not np.isfinite(slope).all():
            break
        step = _step(slope, pairs, longest)
        new_slope, residual = gradient(x + step)
        if not residual < _UPHILL * best.residual:
            longest, x, slope = 0.5 * longest, best.x, best_slope
            pairs.clear()
            continue
        change = new_slope - slope
        if step @ change > 0:
            pairs.append((step, change))
        x, slope = x + step, new_slope
        if residual < best.residual:
            last_progress = n if residual < _PROGRESS * best.residual else last_progress
            best, best_slope = Point(x, residual, n), slope
    return Point(best.x, best.residual, n)


def _step(slope: Array, pairs: deque[tuple[Array, Array]], longest: float) -> Array:
    """The quasi-Newton step of the two-loop recursion, no longer than allowed, shape [d]."""
    direction, weights = -slope, []
    for step, change in reversed(pairs):
        weight = (step @ direction) / (step @ change)
        direction = direction - weight * change
        weights.append(weight)
    if pairs:
        step, change = pairs[-1]
        direction = direction * ((step @ change) / (change @ change))
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        direction = direction + (weight - (change @ direction) / (step @ change)) * step
    size = float(np.abs(direction).max())
    largest = longest if pairs else _FIRST * longest
    return direction * (largest / size) if size > largest or not pairs else direction
