# SPDX-License-Identifier: GPL-2.0-or-later
"""The minimum of F(x) + P V over the cell: where it is, whether it is one, and the pressures for which the box has it.

x[0] is ln(V / V_ref); the other variables change the shape at constant volume. V = V_ref exp(x[0]).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lammps_bg.thermo.polynomial import PolynomialTerms

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
        """The same for another F.

        Args:
            coefficients: Energy, shape [K].
        """
        return replace(self, coefficients=coefficients)

    def volume(self, x: Array) -> float:
        """V of a cell, length units cubed.

        Args:
            x: Cell variables, shape [d].
        """
        return self.reference_volume * float(np.exp(x[0]))

    def values(self, x: Array) -> Array:
        """F + P V at some points, energy, shape [n].

        Args:
            x: Cell variables, shape [n, d].
        """
        work = self.pressure * self.reference_volume * np.exp(x[:, 0])
        return np.asarray(self.terms.design(x) @ self.coefficients + work)

    def gradient(self, x: Array) -> Array:
        """First derivatives, energy, shape [d].

        Args:
            x: Cell variables, shape [d].
        """
        gradient = self.terms.gradient(self.coefficients, x)
        gradient[0] += self.pressure * self.volume(x)
        return gradient

    def hessian(self, x: Array) -> Array:
        """Second derivatives, energy, shape [d, d].

        Args:
            x: Cell variables, shape [d].
        """
        hessian = self.terms.hessian(self.coefficients, x)
        hessian[0, 0] += self.pressure * self.volume(x)
        return hessian

    def is_stable(self, x: Array) -> bool:
        """Whether all curvatures are positive, by more than the rounding errors of the fit.

        Args:
            x: Cell variables, shape [d].
        """
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
    """Which variables are at an end of their range or outside it, shape [d].

    Args:
        x: Cell variables, shape [d].
        box: Shape [d, 2].
    """
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
    """The relaxed shapes from the smallest to the largest volume of the box.

    Args:
        surface: The function; its pressure does not matter.
    """
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
