# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies from Helmholtz free energies at some cells: a polynomial through them, G(P) = min over the cell of F + P V.

All free energies are those of the whole crystal in one energy unit, pressures are energy per volume. The repeats of the estimates
give the errors: within a repeat all cells share their random numbers, so that noise common to them is no error of the slope.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.errors import StateError
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.legendre import EnthalpySurface, minimum, on_edge, relaxed_path
from lammps_bg.thermo.polynomial import Degree, PolynomialTerms
from lammps_bg.thermo.repeats import as_repeats, jackknife, leave_one_out, pseudo_values
from lammps_bg.thermo.volume_fluctuation import volume_moments
from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]
QUANTITIES = ("free_energy", "volume", "compressibility", "mean_volume", "volume_variance", "edge_probability")


@dataclass(frozen=True)
class PressureUnit:
    """How pressures are written in sentences.

    Attributes:
        name: Of the unit.
        factor: A pressure in this unit is `factor` times that in energy per volume (`nktv2p` of LAMMPS).
    """

    name: str = "energy/volume"
    factor: float = 1.0

    def written(self, pressure: float) -> str:
        """A pressure with its unit.

        Args:
            pressure: Energy per volume.
        """
        return f"{pressure * self.factor:.4g} {self.name}"


@dataclass(frozen=True)
class GibbsPoint:
    """The crystal at one pressure.

    Attributes:
        pressure: P, energy per volume.
        free_energy: G, the minimum of F + P V over the cell, energy.
        cell: The cell variables at the minimum, ln(V / V_ref) first.
        volume: V at the minimum.
        compressibility: -d ln V / dP with relaxing shape, volume per energy.
        mean_volume: <V> at constant pressure: an integral over the box for one cell variable, V at the minimum for several.
        volume_variance: Var V at constant pressure, in the same way; the shape relaxes.
        edge_probability: Probability of a volume in the outer 5 % of the trained range at either end or, for several
            variables, beyond it; if it is not small, mean and variance are cut off there.
        systematic: Size of the change of these with a polynomial of one degree less, by name; none where there is no such
            polynomial, or where it has no minimum here.
    """

    pressure: float
    free_energy: EstimateResult
    cell: tuple[EstimateResult, ...]
    volume: EstimateResult
    compressibility: EstimateResult
    mean_volume: EstimateResult
    volume_variance: EstimateResult
    edge_probability: float
    systematic: dict[str, float] | None

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class FreeEnergySurface:
    """F(x) at one temperature, a polynomial in the cell variables with one set of coefficients per repeat. Made by `fit`.

    Attributes:
        terms: Of the polynomial.
        coefficients: Energy, shape [R, K].
        reference_volume: V_ref, length units cubed.
        kt: kT, energy.
        rms_residual: Root mean square of mean F minus polynomial per degree of freedom, energy.
        rms_noise: What the scatter of the repeats alone would leave of it, energy; a residual far above is a polynomial too stiff.
        lowered: Terms and mean coefficients of one degree less, or none.
        names: Of the cell variables, for sentences.
        pressure_unit: For sentences.
    """

    terms: PolynomialTerms
    coefficients: Array
    reference_volume: float
    kt: float
    rms_residual: float
    rms_noise: float
    lowered: tuple[PolynomialTerms, Array] | None
    names: tuple[str, ...]
    pressure_unit: PressureUnit

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        values: ArrayLike,
        *,
        reference_volume: float,
        kt: float,
        box: ArrayLike,
        degree: int | None = None,
        names: Sequence[str] | None = None,
        pressure_unit: PressureUnit | None = None,
    ) -> "FreeEnergySurface":
        """Least-squares polynomial through the mean of the repeats and through each repeat.

        Args:
            x: Cell variables of the design points, ln(V / V_ref) first, the others without influence on V, shape [m, d].
            values: F of the whole crystal, energy, shape [R, m].
            reference_volume: V_ref, length units cubed.
            kt: kT, energy.
            box: Lowest and highest trained value of each variable, shape [d, 2].
            degree: Total degree, at least 2; where left out, quadratic with ln V to the third and fourth power as the number
                of points allows.
            names: Of the cell variables; where left out, "ln V", "shape 1" and so on.
            pressure_unit: For the sentences of errors; where left out, energy/volume.

        Raises:
            EstimateError: Values that are not finite, too few points or repeats, points outside the box.
        """
        points, limits = _checked_design(x, box)
        table = as_repeats(values, len(points))
        _check_positive(reference_volume, kt)
        order = Degree.fitting(*points.shape) if degree is None else _checked_degree(degree, *points.shape)
        terms = order.terms(limits)
        coefficients = terms.fitted(points, table)
        residuals = table - coefficients @ terms.design(points).T
        below = order.lowered()
        lowered = None if below is None else (below.terms(limits), below.terms(limits).fitted(points, table).mean(0))
        free = len(points) - terms.n_terms
        return cls(
            terms=terms,
            coefficients=coefficients,
            reference_volume=reference_volume,
            kt=kt,
            rms_residual=math.sqrt(np.square(residuals.mean(0)).sum() / free),
            rms_noise=math.sqrt(residuals.var(0, ddof=1).sum() / len(table) / free),
            lowered=lowered,
            names=tuple(names) if names else ("ln V", *(f"shape {a}" for a in range(1, points.shape[1]))),
            pressure_unit=pressure_unit or PressureUnit(),
        )

    @property
    def n_repeats(self) -> int:
        """The number of repeats, R."""
        return len(self.coefficients)

    def helmholtz(self, x: ArrayLike) -> tuple[Array, Array]:
        """F and its standard error at some cells, energy, shapes [n] and [n].

        Args:
            x: Cell variables, shape [n, d].
        """
        each = self.coefficients @ self.terms.design(np.asarray(x, dtype=np.float64)).T
        return each.mean(0), each.std(0, ddof=1) / math.sqrt(self.n_repeats)

    def pressure_range(self) -> tuple[float, float]:
        """The pressures whose minimum of F + P V lies inside the box, for all repeats and without any of them, energy per volume.

        Returns:
            Lowest and highest.

        Raises:
            StateError: There are none.
        """
        surface = self._at(0.0)
        subsets = [surface.with_coefficients(c) for c in leave_one_out(self.coefficients)]
        lows, highs = zip(*(self._covered(s) for s in (surface, *subsets)), strict=True)
        if not max(lows) < min(highs):
            raise StateError(
                "expected repeats that cover common pressures, got errors of F as large as its change over the trained cells; "
                "draw more samples, or train a wider range"
            )
        return max(lows), min(highs)

    def _covered(self, surface: EnthalpySurface) -> tuple[float, float]:
        path = relaxed_path(surface)
        covered = path.covered()
        if covered is not None:
            return covered
        if not path.inside.any():
            self._refuse_shape(path.cells[len(path.cells) // 2], "any volume")
        low, high = self.terms.box[0]
        raise StateError(
            f"expected a free energy that is convex in V inside the trained range ln V in [{low:.4g}, {high:.4g}], got one without a "
            "minimum of F + PV at any pressure; the crystal is mechanically unstable here, use other volumes or another temperature"
        )

    def gibbs(self, pressure: float) -> GibbsPoint:
        """The crystal at one pressure, with jackknife errors from the repeats.

        Args:
            pressure: P, energy per volume.

        Raises:
            StateError: No minimum of F + P V inside the box, for all repeats or without one of them.
        """
        surface = self._at(pressure)
        x = self._minimum(surface, surface.start())
        value = _quantities(surface, x, self.kt)
        subsets = [surface.with_coefficients(c) for c in leave_one_out(self.coefficients)]
        without = np.array([_quantities(s, self._minimum(s, x), self.kt) for s in subsets])
        estimates = [jackknife(float(v), column) for v, column in zip(value, without.T, strict=True)]
        named = dict(zip(QUANTITIES, estimates, strict=False))
        edge = named.pop("edge_probability").value
        cell = tuple(estimates[len(QUANTITIES) :])
        return GibbsPoint(
            pressure=float(pressure), cell=cell, edge_probability=edge, systematic=self._systematic(surface, x, value), **named
        )

    def gibbs_repeats(self, pressures: ArrayLike) -> Array:
        """G as one number per repeat (jackknife pseudo-values, whose mean is G of all repeats), energy, shape [R, k].

        Args:
            pressures: Energy per volume, shape [k].

        Raises:
            StateError: See `gibbs`.
        """
        columns = []
        for pressure in np.atleast_1d(np.asarray(pressures, dtype=np.float64)):
            surface = self._at(float(pressure))
            x = self._minimum(surface, surface.start())
            subsets = [surface.with_coefficients(c) for c in leave_one_out(self.coefficients)]
            without = np.array([s.values(self._minimum(s, x)[None])[0] for s in subsets])
            columns.append(pseudo_values(surface.values(x[None])[0], without))
        return np.stack(columns, axis=1)

    def _at(self, pressure: float) -> EnthalpySurface:
        if not math.isfinite(pressure):
            raise StateError(f"expected a finite pressure, got {pressure}; give one in energy per volume")
        return EnthalpySurface(self.terms, self.coefficients.mean(0), self.reference_volume, float(pressure))

    def _minimum(self, surface: EnthalpySurface, start: Array) -> Array:
        """The minimum of F + P V, refused where it is on the edge or none at all."""
        x = minimum(surface, start)
        edge = on_edge(x, self.terms.box)
        if edge[0]:
            self._refuse_volume(surface)
        if edge.any():
            self._refuse_shape(x, f"P = {self.pressure_unit.written(surface.pressure)}")
        if not surface.is_stable(x):
            raise StateError(
                f"expected a minimum of F + PV at P = {self.pressure_unit.written(surface.pressure)}, got a free energy that is not "
                "convex there; the crystal is mechanically unstable here, use another pressure or temperature"
            )
        return x

    def _refuse_volume(self, surface: EnthalpySurface) -> None:
        """The error of a volume on the edge, with the pressures that this surface covers, if any."""
        first, last = (self.pressure_unit.written(p) for p in self._covered(surface))
        low, high = self.terms.box[0]
        raise StateError(
            f"expected the cell at P = {self.pressure_unit.written(surface.pressure)} inside the trained range {self.names[0]} in "
            f"[{low:.4g}, {high:.4g}], got its edge; train a wider range or use a pressure between {first} and {last}"
        )

    def _refuse_shape(self, x: Array, where: str) -> None:
        """The error of a shape on the edge; if F curves downwards there, no wider range would help."""
        axis = int(np.argmax(on_edge(x, self.terms.box)[1:])) + 1
        (low, high), name = self.terms.box[axis], self.names[axis]
        curved = self.terms.hessian(self.coefficients.mean(0), x)[axis, axis] > 0.0
        advice = f"train a wider range of {name}" if curved else "the crystal is mechanically unstable here, use another state"
        raise StateError(
            f"expected the cell at {where} inside the trained range {name} in [{low:.4g}, {high:.4g}], got its edge; {advice}"
        )

    def _systematic(self, surface: EnthalpySurface, x: Array, value: Array) -> dict[str, float] | None:
        """Changes with one degree less, where that polynomial exists and has a minimum here."""
        if self.lowered is None:
            return None
        below = EnthalpySurface(self.lowered[0], self.lowered[1], self.reference_volume, surface.pressure)
        lower = minimum(below, x)
        if on_edge(lower, self.terms.box).any() or not below.is_stable(lower):
            return None
        change = np.abs(_quantities(below, lower, self.kt) - value)
        return dict(zip((*QUANTITIES, *self.names), change.tolist(), strict=True))


def _quantities(surface: EnthalpySurface, x: Array, kt: float) -> Array:
    """The numbers named in `QUANTITIES`, then the cell variables, shape [6 + d].

    The cell follows the pressure as dx/dP = -H^-1 dV/dx with dV/dx = V in the first variable: kappa = V (H^-1)_00.
    """
    volume = surface.volume(x)
    compressibility = volume * np.linalg.inv(surface.hessian(x))[0, 0]
    return np.array([surface.values(x[None])[0], volume, compressibility, *volume_moments(surface, x, kt), *x])


def _checked_design(x: ArrayLike, box: ArrayLike) -> tuple[Array, Array]:
    """Design points and box as float64 arrays."""
    points, limits = np.asarray(x, dtype=np.float64), np.asarray(box, dtype=np.float64)
    if points.ndim != 2 or limits.shape != (points.shape[1], 2):
        raise EstimateError(
            f"expected design points of shape [m, d] and a box of shape [d, 2], got {points.shape} and {limits.shape}; reshape them"
        )
    if not (np.isfinite(limits).all() and (limits[:, 0] < limits[:, 1]).all()):
        raise EstimateError(f"expected a box with its lowest below its highest values, got {limits.tolist()}; correct it")
    slack = 1e-9 * (limits[:, 1] - limits[:, 0])
    outside = ~((points >= limits[:, 0] - slack) & (points <= limits[:, 1] + slack)).all(1)
    if outside.any():
        raise EstimateError(
            f"expected design points inside the box, got {int(outside.sum())} outside (first: point {int(outside.argmax())}); widen the box"
        )
    return points, limits


def _checked_degree(degree: int, n_points: int, n_variables: int) -> Degree:
    """A given total degree, refused where it has no minimum or more terms than the points determine."""
    if degree < 2:
        raise EstimateError(f"expected a polynomial of degree 2 or higher, got {degree}; a lower one has no minimum")
    needed = Degree.count(n_variables, degree) + 1
    if n_points < needed:
        raise EstimateError(
            f"expected at least {needed} design points for degree {degree} in {n_variables} cell variables, got {n_points}; add points "
            "or lower the degree"
        )
    return Degree(degree, degree)


def _check_positive(reference_volume: float, kt: float) -> None:
    if not (math.isfinite(reference_volume) and reference_volume > 0.0 and math.isfinite(kt) and kt > 0.0):
        raise EstimateError(f"expected a positive reference volume and kT, got {reference_volume} and {kt}; check their units")
