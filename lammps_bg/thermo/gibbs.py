# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies from Helmholtz free energies at some cells: a polynomial F(x) through them, G(P) = min over the cell of F + P V.

x[0] is ln(V / V_ref), the other cell variables change the shape at constant volume: V = V_ref exp(x[0]). All free energies are those of the
whole crystal in one energy unit, pressures are energy per volume. The repeats of the estimates give the errors: within a repeat all cells
share their random numbers, so that noise common to them is no error of the slope.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import ndtr

from lammps_bg.errors import StateError
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.polynomial import Degree, PolynomialTerms
from lammps_bg.thermo.repeats import as_repeats, jackknife, leave_one_out, pseudo_values
from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]
EDGE = 1e-6
"""A minimum closer to the edge than this share of the width of the box is on the edge."""
FLAT = 1e-9
"""A curvature below this share of the variation of F over the box, both in units of the box, is rounding."""
PATH_POINTS = 41
_START_POWER = 9  # 2^9 starting points
_NEWTON_STEPS = 20


@dataclass(frozen=True)
class EnthalpySurface:
    """The function F(x) + P V_ref exp(x[0]).

    Attributes:
        terms: Of the polynomial F.
        coefficients: Of the polynomial F, energy, shape [K].
        reference_volume: V_ref, length units cubed.
        pressure: P, energy per volume.
    """

    terms: PolynomialTerms
    coefficients: Array
    reference_volume: float
    pressure: float

    def with_coefficients(self, coefficients: Array) -> "EnthalpySurface":
        """The same for another F, coefficients [K], energy."""
        return replace(self, coefficients=coefficients)

    def volume(self, x: Array) -> float:
        """V of a cell x [d], length units cubed."""
        return self.reference_volume * float(np.exp(x[0]))

    def values(self, x: Array) -> Array:
        """F + P V at some cells x [n, d], energy, shape [n]."""
        work = self.pressure * self.reference_volume * np.exp(x[:, 0])
        return np.asarray(self.terms.design(x) @ self.coefficients + work)

    def gradient(self, x: Array) -> Array:
        """First derivatives at a cell x [d], energy, shape [d]."""
        gradient = self.terms.gradient(self.coefficients, x)
        gradient[0] += self.pressure * self.volume(x)
        return gradient

    def hessian(self, x: Array) -> Array:
        """Second derivatives at a cell x [d], energy, shape [d, d]."""
        hessian = self.terms.hessian(self.coefficients, x)
        hessian[0, 0] += self.pressure * self.volume(x)
        return hessian

    def is_stable(self, x: Array) -> bool:
        """Whether all curvatures at a cell x [d] are positive, by more than the rounding errors of the fit."""
        half = 0.5 * (self.terms.box[:, 1] - self.terms.box[:, 0])
        variation = float(np.abs(self.coefficients[self.terms.exponents.any(1)]).sum())
        return bool(np.linalg.eigvalsh(self.hessian(x) * np.outer(half, half))[0] > FLAT * variation)

    def start(self) -> Array:
        """The lowest of some points that fill the box, shape [d]."""
        box = self.terms.box
        from scipy.stats import qmc  # a fifth of the start of every command if it stood above

        points = qmc.scale(qmc.Sobol(len(box), scramble=False).random_base2(_START_POWER)[1:], box[:, 0], box[:, 1])
        return np.asarray(points[np.argmin(self.values(points))])


def minimum(surface: EnthalpySurface, start: Array, box: Array | None = None) -> Array:
    """Where F + P V is lowest inside the box, shape [d]; a minimum inside is exact to rounding, one on the edge only near it.

    Args:
        surface: The function.
        start: Where to begin, shape [d].
        box: Bounds in place of those of the fit, shape [d, 2]; equal bounds hold a variable.
    """
    bounds = surface.terms.box if box is None else box
    quick, converged = _newton(surface, start, bounds)
    if converged:
        return quick
    half = 0.5 * (surface.terms.box[:, 1] - surface.terms.box[:, 0])
    # In these units the curvatures are about one, as the tolerances of the optimiser expect
    scale = np.abs(np.diag(surface.hessian(start)) * half**2).max() or 1.0
    base = surface.values(start[None])[0]
    found = minimize(
        lambda t: (surface.values((t * half)[None])[0] - base) / scale,
        start / half,
        jac=lambda t: surface.gradient(t * half) * half / scale,
        bounds=bounds / half[:, None],
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    return _newton(surface, np.clip(found.x * half, bounds[:, 0], bounds[:, 1]), bounds)[0]


def _newton(surface: EnthalpySurface, start: Array, box: Array) -> tuple[Array, bool]:
    """A minimum by Newton steps, and whether they converged; where they leave the box or a convex region, the point of before."""
    x, converged = start, False
    free = np.flatnonzero(box[:, 0] < box[:, 1])
    width = (box[:, 1] - box[:, 0])[free]
    for _ in range(_NEWTON_STEPS):
        hessian = surface.hessian(x)[np.ix_(free, free)]
        if on_edge(x, box)[free].any() or np.linalg.eigvalsh(hessian)[0] <= 0.0:
            break
        there = x.copy()
        there[free] -= np.linalg.solve(hessian, surface.gradient(x)[free])
        if on_edge(there, box)[free].any():
            break
        converged = bool((np.abs(there - x)[free] < 1e-13 * width).all())
        x = there
        if converged:
            break
    before, after = surface.values(np.stack([start, x]))
    # Far from a minimum the steps may climb
    return (x, converged) if after <= before + 1e-12 * abs(before) else (start, False)


def on_edge(x: Array, box: Array) -> NDArray[np.bool_]:
    """Which variables of a cell x [d] are at an end of their range, box [d, 2], or outside it, shape [d]."""
    margin = EDGE * (box[:, 1] - box[:, 0])
    return np.asarray((x <= box[:, 0] + margin) | (x >= box[:, 1] - margin))


@dataclass(frozen=True)
class RelaxedPath:
    """The shape of lowest F at each of some volumes.

    Attributes:
        cells: Cell variables with rising volume, shape [n, d].
        volumes: Length units cubed, shape [n].
        energies: F, energy, shape [n].
        pressures: -dF/dV, energy per volume, shape [n].
        inside: Whether the shape is inside its box, shape [n].
    """

    cells: Array
    volumes: Array
    energies: Array
    pressures: Array
    inside: NDArray[np.bool_]

    def covered(self) -> tuple[float, float] | None:
        """The pressures whose lowest F + P V is inside the box, or None where there are none.

        The end of largest volume wins where P is below [F(V) - F(end)] / (end - V) for all V; the end of smallest volume where P
        is above [F(end) - F(V)] / (V - end) for all V. On a convex F the bounds are -dF/dV at the ends; on a concave one they meet.
        """
        run = _longest_run(self.inside)
        v, f, p = self.volumes[run], self.energies[run], self.pressures[run]
        if len(v) < 3:
            return None
        lowest = min(p[-1], float(((f[:-1] - f[-1]) / (v[-1] - v[:-1])).min()))
        highest = max(p[0], float(((f[0] - f[1:]) / (v[1:] - v[0])).max()))
        return (float(lowest), float(highest)) if highest - lowest > 1e-9 * float(np.abs(p).max()) else None


def relaxed_path(surface: EnthalpySurface) -> RelaxedPath:
    """The relaxed shapes from the smallest to the largest volume of the box; the pressure of `surface` does not matter."""
    free = replace(surface, pressure=0.0)
    box = free.terms.box
    cells = np.empty((PATH_POINTS, len(box)))
    inside = np.ones(PATH_POINTS, dtype=bool)
    x = free.start()
    for row, log_volume in enumerate(np.linspace(box[0, 0], box[0, 1], PATH_POINTS)):
        held = np.vstack([[log_volume, log_volume], box[1:]])
        x = np.array([log_volume, *x[1:]])
        if len(box) > 1:
            x = minimum(free, x, held)
            inside[row] = not on_edge(x, box)[1:].any()
        cells[row] = x
    volumes = free.reference_volume * np.exp(cells[:, 0])
    slopes = np.array([free.gradient(x)[0] for x in cells])
    return RelaxedPath(cells, volumes, free.values(cells), -slopes / volumes, inside)


def _longest_run(inside: NDArray[np.bool_]) -> slice:
    """The longest stretch of neighbouring points that are all inside."""
    steps = np.diff(np.concatenate([[0], inside.astype(np.int64), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    if not len(starts):
        return slice(0, 0)
    longest = int(np.argmax(ends - starts))
    return slice(int(starts[longest]), int(ends[longest]))


# ---- fluctuations of the volume at constant pressure
EDGE_SHARE = 0.05
"""The part of the range of ln V at either end that counts as near the edge."""
_NODES, _SPREADS = 200, 12.0


def volume_moments(surface: EnthalpySurface, x: Array, kt: float) -> tuple[float, float, float]:
    """Mean of V, variance of V, and the probability of a volume near an edge of the box or, for several variables, beyond it.

    With the volume as only variable they are integrals over the box. With several they are those of the Gaussian at the minimum,
    relaxed shapes included: mean V*, variance kT V* kappa; what this leaves out is of relative order 1/N.

    Args:
        surface: F + P V.
        x: Its minimum, shape [d].
        kt: kT, energy.
    """
    low, high = surface.terms.box[0]
    spread = float(np.sqrt(kt * np.linalg.inv(surface.hessian(x))[0, 0]))
    margin = EDGE_SHARE * (high - low)
    if len(x) > 1:
        share = ndtr((low + margin - x[0]) / spread) + ndtr((x[0] - high + margin) / spread)
        volume = surface.volume(x)
        return volume, (volume * spread) ** 2, float(share)
    nodes, widths = _quadrature(low, high, x[0], spread)
    exponent = -(surface.values(nodes[:, None]) - surface.values(x[None])[0]) / kt + nodes - x[0]
    weights = widths * np.exp(exponent - exponent.max())
    weights /= weights.sum()
    volumes = surface.reference_volume * np.exp(nodes)
    mean = float(weights @ volumes)
    share = weights[(nodes < low + margin) | (nodes > high - margin)].sum()
    return mean, float(weights @ (volumes - mean) ** 2), float(share)


def _quadrature(low: float, high: float, centre: float, spread: float) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and widths over [low, high], dense where a peak much narrower than that is."""
    ends = np.unique(np.clip([low, centre - _SPREADS * spread, centre + _SPREADS * spread, high], low, high))
    nodes, widths = _legendre()
    half, middle = 0.5 * np.diff(ends)[:, None], 0.5 * (ends[1:] + ends[:-1])[:, None]
    return (middle + half * nodes).ravel(), (half * widths).ravel()


@cache
def _legendre() -> tuple[Array, Array]:
    nodes, widths = np.polynomial.legendre.leggauss(_NODES)
    return nodes, widths


# ---- G at a pressure, with errors
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
        """A pressure, energy per volume, with its unit."""
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
    pressure_unit: PressureUnit = PressureUnit()

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
        )

    @property
    def n_repeats(self) -> int:
        """The number of repeats, R."""
        return len(self.coefficients)

    def helmholtz(self, x: ArrayLike) -> tuple[Array, Array]:
        """F and its standard error at some cells x [n, d], energy, shapes [n] and [n]."""
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
