# SPDX-License-Identifier: GPL-2.0-or-later
"""Where two crystals have the same free energy along one axis, and the line of such places over a second one.

Delta g is known at some points of the axis in R repeats. Between them it is a curve linear in these values, w(a) . Delta g, hence the
mean of the curves of the repeats is the curve of their mean, and the replicas of the multiplier bootstrap are curves as well.

Two free energy surfaces along the pressure: crossing(p, first.gibbs_repeats(p) / n_first - second.gibbs_repeats(p) / n_second, rng).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import make_interp_spline
from scipy.optimize import brentq

from lammps_bg.results import written
from lammps_bg.thermo.free_energy import CONFIDENCE, EstimateResult
from lammps_bg.thermo.repeats import as_repeats, mean_of, mean_replicas, t_factor, with_error
from lammps_bg.thermo.verdict import RED_Z, RELIABLE, Verdict
from lammps_bg.thermo.weights import N_BOOTSTRAPS, EstimateError

Array = NDArray[np.float64]
ESTABLISHED = 0.95
"""A crossing that fewer replicas than this have is not established."""
SCAN_POINTS = 401
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Root:
    """One crossing.

    Attributes:
        estimate: Its place on the axis, with error and 95 % interval.
        slope: d(Delta g)/da there; Delta g rises through zero where it is positive.
        found: Share of the replicas that have this crossing; its error rests on these.
        replicas: Its place in each replica, nan where there is none, shape [b].
    """

    estimate: EstimateResult
    slope: float
    found: float
    replicas: Array

    @property
    def established(self) -> bool:
        """Whether nearly all replicas have it."""
        return self.found >= ESTABLISHED


@dataclass(frozen=True)
class Crossings:
    """What is known of the zeros of Delta g between two ends of the axis; none is a result, not an error.

    Attributes:
        roots: In rising order.
        lower: Lower end of the axis.
        upper: Upper end.
        at_lower: Delta g at the lower end.
        at_upper: Delta g at the upper end.
        sign_known: Whether the 95 % interval of Delta g leaves out zero at any given point at all.
    """

    roots: tuple[Root, ...]
    lower: float
    upper: float
    at_lower: EstimateResult
    at_upper: EstimateResult
    sign_known: bool

    @property
    def sentence(self) -> str:
        """The result in words."""
        span = f"in [{self.lower:.6g}, {self.upper:.6g}]"
        ends = f"Delta g is {_written(self.at_lower)} at the lower end and {_written(self.at_upper)} at the upper end"
        if not self.sign_known:
            return f"The sign of Delta g is uncertain everywhere {span}: {ends}; draw more samples."
        if not self.roots:
            return f"No crossing {span}: {ends}."
        places = ", ".join(_written(root.estimate) for root in self.roots)
        weak = sum(not root.established for root in self.roots)
        doubt = f"; {weak} of them not established, {ends}" if weak else ""
        return f"{'Crossing' if len(self.roots) == 1 else f'{len(self.roots)} crossings'} {span} at {places}{doubt}."

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file, without replicas."""
        roots = [{"slope": r.slope, "found": r.found, "established": r.established, **r.estimate.to_dict()} for r in self.roots]
        ends = {"lower": self.lower, "upper": self.upper, "at_lower": asdict(self.at_lower), "at_upper": asdict(self.at_upper)}
        return {"roots": roots, **ends, "sign_known": self.sign_known, "sentence": self.sentence}


def _written(estimate: EstimateResult) -> str:
    return written(vars(estimate))


def _weights(points: Array, places: Array) -> Array:
    """w(a) of the spline through values at the points, cubic where there are four or more, at some places, shape [n, k]."""
    return np.asarray(make_interp_spline(points, np.eye(len(points)), k=min(3, len(points) - 1))(places))


def crossing(
    axis: ArrayLike,
    difference: ArrayLike,
    rng: np.random.Generator,
    *,
    n_bootstraps: int = N_BOOTSTRAPS,
) -> Crossings:
    """All zeros of Delta g along an axis, from its values at some points.

    Args:
        axis: Places of the points, rising, shape [k].
        difference: Delta g at the points in each repeat, the same repeat sharing random numbers, any unit, shape [R, k].
        rng: Source of the replicas; equally seeded sources give joint replicas for equally many repeats.
        n_bootstraps: Number of replicas.

    Raises:
        EstimateError: Points that do not rise, values that are not finite, fewer than two repeats.
    """
    points = _checked_axis(axis)
    table = as_repeats(difference, len(points))
    scan = np.linspace(points[0], points[-1], SCAN_POINTS)
    on_scan = table @ _weights(points, scan).T
    replicas = mean_replicas(on_scan, rng, n_bootstraps)
    mean = table.mean(0)
    straight = _zeros(scan, on_scan.mean(0))
    places = np.array([_refined(zero, scan, lambda a: float(_weights(points, np.array([a]))[0] @ mean)) for zero in straight])
    each = [_zeros(scan, row) for row in replicas]
    roots = tuple(
        _root(place, _matched(zero, straight, each) + (place - zero), on_scan, scan)
        for zero, place in zip(straight, places, strict=True)
    )
    nodes = [mean_of(column) for column in (table @ _weights(points, points).T).T]
    known = any(low > 0.0 or high < 0.0 for low, high in (node.interval for node in nodes))
    return Crossings(roots, float(points[0]), float(points[-1]), nodes[0], nodes[-1], known)


def _zeros(scan: Array, values: Array) -> Array:
    """The zeros of a curve on a fine scan by straight lines, shape [z]."""
    if not values.any():
        raise EstimateError("expected the difference of two crystals, got zero everywhere; compare two different ones")
    # A value of zero counts as positive, so that it is found once
    at = np.flatnonzero(np.diff(values >= 0.0))
    return np.asarray(scan[at] - values[at] * (scan[at + 1] - scan[at]) / (values[at + 1] - values[at]))


def _refined(zero: float, scan: Array, function: Callable[[float], float]) -> float:
    """The zero of the curve itself between the two points of the scan; unchanged where rounding hides the change of sign."""
    low, high = scan[_interval_of(zero, scan)], scan[_interval_of(zero, scan) + 1]
    if function(low) * function(high) > 0.0:
        return float(zero)
    return float(brentq(function, low, high, xtol=1e-14 * (scan[-1] - scan[0]), rtol=1e-14))


def _interval_of(place: float, scan: Array) -> int:
    return int(np.clip(np.searchsorted(scan, place, side="right") - 1, 0, len(scan) - 2))


def _matched(zero: float, zeros: Array, each: list[Array]) -> Array:
    """In each replica the zero nearest to this one among those nearer to no other zero of the mean, nan where none, shape [b]."""
    found = []
    for candidates in each:
        own = [c for c in candidates if zeros[np.argmin(np.abs(zeros - c))] == zero]
        found.append(min(own, key=lambda c: abs(c - zero)) if own else math.nan)
    return np.array(found)


def _root(place: float, replicas: Array, curves: Array, scan: Array) -> Root:
    """One zero with its error from the replicas that have it."""
    n, at = len(curves), _interval_of(place, scan)
    slopes = np.diff(curves[:, at : at + 2]).ravel() / (scan[1] - scan[0])
    have = replicas[np.isfinite(replicas)]
    found, slope = len(have) / len(replicas), float(slopes.mean())
    spread = float(have.std(ddof=1)) if len(have) > 1 else 0.0
    if found < ESTABLISHED:
        # The spread of those that have it is too small: take that of Delta g over the slope, at most the whole axis
        by_slope = float(curves[:, at].std(ddof=1)) / math.sqrt(n) / max(abs(slope), float(np.finfo(np.float64).tiny))
        return Root(with_error(place, max(spread, min(by_slope, float(scan[-1] - scan[0]))), n), slope, found, replicas)
    symmetric = with_error(place, spread, n)
    low, high = np.percentile(have, CONFIDENCE) - place
    if not low < 0.0 < high or symmetric.error > spread:
        return Root(symmetric, slope, found, replicas)
    # Few repeats know their own scatter badly: percentiles of normal replicas are widened to Student's
    wider = t_factor(n) / _NORMAL_95
    interval = (place + wider * float(low), place + wider * float(high))
    return Root(EstimateResult(place, symmetric.error, interval, n), slope, found, replicas)


def _checked_axis(axis: ArrayLike) -> Array:
    points = np.asarray(axis, dtype=np.float64)
    if points.ndim != 1 or len(points) < 2 or not (np.isfinite(points).all() and (np.diff(points) > 0.0).all()):
        raise EstimateError(
            f"expected at least 2 rising points on the axis, got {points.tolist()}; sort them and drop equal ones"
        )
    return points


# ---- the line of crossings over a second axis, dP/dT = Delta H / (T Delta V)


@dataclass(frozen=True)
class CoexistenceLine:
    """Crossings over an outer axis.

    Attributes:
        outer: Places on the outer axis, rising, shape [k].
        values: The crossing at each, shape [k].
        covariance: Of the crossings, shape [k, k]: diagonal for independent ones.
    """

    outer: Array
    values: Array
    covariance: Array

    @classmethod
    def of(cls, outer: ArrayLike, crossings: Sequence[EstimateResult], *, replicas: ArrayLike | None = None) -> "CoexistenceLine":
        """A line through crossings with errors.

        Args:
            outer: Places on the outer axis, rising, shape [k].
            crossings: The crossing at each, length k.
            replicas: Joint bootstrap replicas of them, shape [k, b]; a replica that lacks one (nan) is left out. Where left
                out, the errors are independent of each other.

        Raises:
            EstimateError: Fewer than three points, points that do not rise, or too few joint replicas.
        """
        places = np.asarray(outer, dtype=np.float64)
        if len(places) != len(crossings) or len(places) < 3 or not (np.diff(places) > 0.0).all():
            raise EstimateError(
                f"expected a crossing at each of at least 3 rising points, got {len(crossings)} crossings at {places.tolist()}; add points"
            )
        errors = np.array([crossing.error for crossing in crossings])
        covariance = np.diag(errors**2)
        if replicas is not None:
            table = np.asarray(replicas, dtype=np.float64)
            joint = table[:, np.isfinite(table).all(0)]
            if joint.shape[1] < 100:
                raise EstimateError(f"expected 100 joint replicas or more, got {joint.shape[1]}; drop crossings not established")
            covariance = np.corrcoef(joint) * np.outer(errors, errors)
        return cls(places, np.array([crossing.value for crossing in crossings]), covariance)

    @property
    def errors(self) -> Array:
        """Standard errors of the crossings, shape [k]."""
        return np.sqrt(np.diag(self.covariance))

    def slopes(self, degree: int | None = None) -> tuple[Array, Array]:
        """Derivative of the line at its points and the standard errors of that, shapes [k] and [k].

        The line is the polynomial of least squares with weights 1 / error; the error does not contain that of the polynomial's form.

        Args:
            degree: Of the polynomial; where left out, 2, or 3 from six points on.
        """
        k = len(self.outer)
        order = (2 if k < 6 else 3) if degree is None else degree
        if not 1 <= order < k:
            raise EstimateError(f"expected a degree from 1 to {k - 1} for {k} points, got {order}; change it")
        middle, half = 0.5 * (self.outer[0] + self.outer[-1]), 0.5 * (self.outer[-1] - self.outer[0])
        t = (self.outer - middle) / half
        powers = np.arange(order + 1)
        # Equal weights where all errors are of rounding only would do as well; ratios of errors are what matters
        weight = self.errors.min() / self.errors
        fit = np.linalg.pinv(t[:, None] ** powers * weight[:, None]) * weight
        derivative = (powers * t[:, None] ** np.maximum(powers - 1, 0) / half) @ fit
        return derivative @ self.values, np.sqrt(np.einsum("ij,jk,ik->i", derivative, self.covariance, derivative))

    def clausius_clapeyron(
        self,
        temperatures: ArrayLike,
        delta_h: Sequence[EstimateResult],
        delta_v: Sequence[EstimateResult],
        *,
        outer_axis: Literal["temperature", "pressure"] = "temperature",
        degree: int | None = None,
    ) -> "ClausiusClapeyron":
        """Compare the slope of the line with that of Clausius and Clapeyron.

        Args:
            temperatures: T at the points, shape [k].
            delta_h: Enthalpy of the second minus that of the first crystal at the points, per atom or in all, length k.
            delta_v: The same difference of volume, in units that make pressure times volume the energy of `delta_h`, length k.
            outer_axis: What the outer axis is; the crossing is the other of the two.
            degree: See `slopes`.
        """
        t = np.asarray(temperatures, dtype=np.float64)
        if not len(t) == len(delta_h) == len(delta_v) == len(self.outer):
            raise EstimateError(
                f"expected T, Delta H and Delta V at each of {len(self.outer)} points, got {len(t)}, {len(delta_h)} and {len(delta_v)}; "
                "give one of each per point"
            )
        slope, error = self.slopes(degree)
        h, v = (np.array([e.value for e in each]) for each in (delta_h, delta_v))
        dh, dv = (np.array([e.error for e in each]) for each in (delta_h, delta_v))
        # Multiplied out, s T dV - dH or s dH - T dV: a Delta of zero needs no division
        if outer_axis == "temperature":
            gap, spread = slope * t * v - h, np.sqrt((t * v * error) ** 2 + (slope * t * dv) ** 2 + dh**2)
            above, below = h, t * v
        else:
            gap, spread = slope * h - t * v, np.sqrt((h * error) ** 2 + (slope * dh) ** 2 + (t * dv) ** 2)
            above, below = t * v, h
        expected = np.divide(above, below, out=np.full(len(t), math.nan), where=below != 0.0)
        return ClausiusClapeyron(self.outer, slope, error, expected, gap / spread)


@dataclass(frozen=True)
class ClausiusClapeyron:
    """The slope of a coexistence line, traced and predicted.

    Attributes:
        outer: Places on the outer axis, shape [k].
        slopes: Of the traced line, shape [k].
        slope_errors: Their standard errors, shape [k].
        expected: Of Clausius and Clapeyron, nan where Delta V (or Delta H) is zero, shape [k].
        z: The disagreement in its standard errors, those of the line, of Delta H and of Delta V taken as independent, shape [k].
    """

    outer: Array
    slopes: Array
    slope_errors: Array
    expected: Array
    z: Array

    @property
    def verdict(self) -> Verdict:
        """Red where the largest of the k disagreements exceeds three standard errors (false alarm below 0.27 % times k)."""
        worst = int(np.argmax(np.abs(self.z)))
        size = f"{abs(self.z[worst]):.1f} standard errors at {self.outer[worst]:.6g}"
        if not np.abs(self.z).max() <= RED_Z:
            reason = f"The slope of the line disagrees with Clausius and Clapeyron by up to {size}."
            return Verdict("red", (reason,), False, "Add points, or look at the crossings, Delta H and Delta V there.")
        return Verdict("green", (f"The slope of the line agrees with Clausius and Clapeyron within {size}.",), True, RELIABLE)

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        names = ("outer", "slopes", "slope_errors", "expected", "z")
        lists = {name: [x if math.isfinite(x) else None for x in getattr(self, name).tolist()] for name in names}
        return {**lists, "verdict": self.verdict.to_dict()}
