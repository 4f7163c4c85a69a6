# SPDX-License-Identifier: GPL-2.0-or-later
"""A coexistence line traced over a second axis, and whether its slope is that of Clausius and Clapeyron, dP/dT = Delta H / (T Delta V)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.verdict import RED_Z, RELIABLE, Verdict
from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]


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
