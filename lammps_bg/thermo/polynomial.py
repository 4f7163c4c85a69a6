# SPDX-License-Identifier: GPL-2.0-or-later
"""Polynomials in several cell variables, least squares, and their derivatives.

Every term is a product of powers of t_a = (x_a - centre_a) / half_a, which runs from -1 to 1 over the box: powers of x itself, all close
to a constant, would make the least-squares problem ill-conditioned.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import perm

from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PolynomialTerms:
    """Which powers a polynomial has, and where.

    Attributes:
        exponents: Power of each variable in each term, shape [K, d].
        box: Lowest and highest value of each variable, shape [d, 2].
    """

    exponents: NDArray[np.int64]
    box: Array

    @property
    def n_terms(self) -> int:
        """K."""
        return len(self.exponents)

    @property
    def n_variables(self) -> int:
        """The number of variables, d."""
        return len(self.box)

    def design(self, x: Array, orders: tuple[int, ...] | None = None) -> Array:
        """The terms, or their derivatives with respect to x, at some points, shape [n, K].

        Args:
            x: Points, shape [n, d].
            orders: How often to differentiate with respect to each variable; not at all where it is left out.
        """
        half = 0.5 * (self.box[:, 1] - self.box[:, 0])
        t = (x - self.box.mean(1)) / half
        order = np.zeros(self.n_variables, dtype=np.int64) if orders is None else np.asarray(orders)
        # perm(e, o) = e (e - 1) ... (e - o + 1), zero where the derivative of the power vanishes
        factors = (perm(self.exponents, order) / half**order).prod(1)
        return np.asarray(factors * np.prod(t[:, None, :] ** np.maximum(self.exponents - order, 0), axis=2))

    def fitted(self, x: Array, values: Array) -> Array:
        """Least-squares coefficients of each row of values, shape [R, K].

        Args:
            x: Points, shape [m, d].
            values: Shape [R, m].

        Raises:
            EstimateError: The points do not determine the coefficients.
        """
        design = self.design(x)
        coefficients, _, rank, _ = np.linalg.lstsq(design, values.T, rcond=1e-10)
        if rank < self.n_terms:
            raise EstimateError(
                f"expected design points that determine the {self.n_terms} terms of the polynomial, got {rank} independent ones from "
                f"{len(x)} points; spread the points over all cell variables or lower the degree"
            )
        return np.asarray(coefficients.T)

    def gradient(self, coefficients: Array, x: Array) -> Array:
        """First derivatives at one point, shape [d].

        Args:
            coefficients: Shape [K].
            x: The point, shape [d].
        """
        unit = np.eye(self.n_variables, dtype=np.int64)
        return np.array([self.design(x[None], tuple(row))[0] @ coefficients for row in unit])

    def hessian(self, coefficients: Array, x: Array) -> Array:
        """Second derivatives at one point, shape [d, d].

        Args:
            coefficients: Shape [K].
            x: The point, shape [d].
        """
        unit = np.eye(self.n_variables, dtype=np.int64)
        second = np.empty((self.n_variables, self.n_variables))
        for a, b in product(range(self.n_variables), repeat=2):
            second[a, b] = self.design(x[None], tuple(unit[a] + unit[b]))[0] @ coefficients
        return second


@dataclass(frozen=True)
class Degree:
    """How high the powers go.

    Attributes:
        total: Highest sum of the powers in one term.
        first: Highest power of the first variable alone, at least `total`.
        mixed: Highest sum of the powers in a term with the first variable and at most two powers of the others: how the stiffness of
            the shape changes with the volume.
    """

    total: int
    first: int
    mixed: int = 0

    @staticmethod
    def count(n_variables: int, total: int) -> int:
        """Number of terms of a total degree."""
        return int(round(perm(n_variables + total, total) / perm(total, total)))

    @classmethod
    def fitting(cls, n_points: int, n_variables: int) -> "Degree":
        """Quadratic, with the third and fourth power of the first variable where one point at least is left over.

        With several variables the mixed terms of third degree come in where there are points for all of them.

        Raises:
            EstimateError: Too few points for a quadratic polynomial.
        """
        spare = n_points - cls.count(n_variables, 2) - 1
        if spare < 0:
            raise EstimateError(
                f"expected at least {n_points - spare} design points for {n_variables} cell variables, got {n_points}; add points"
            )
        full = cls(2, 4, 3)
        if n_variables > 1 and n_points > len(full.exponents(n_variables)):
            return full
        return cls(2, min(4, 2 + spare))

    def exponents(self, n_variables: int) -> list[tuple[int, ...]]:
        """Powers of every term."""
        most = max(self.total, self.first, self.mixed)

        def kept(power: tuple[int, ...]) -> bool:
            shape = sum(power[1:])
            alone = shape == 0 and power[0] <= self.first
            return alone or sum(power) <= self.total or (shape <= 2 and sum(power) <= self.mixed)

        shapes = [s for s in product(range(self.total + 1), repeat=n_variables - 1) if sum(s) <= max(self.total, 2)]
        return sorted(p for first in range(most + 1) for s in shapes if kept(p := (first, *s)))

    def terms(self, box: Array) -> PolynomialTerms:
        """The terms of this degree over a box.

        Args:
            box: Lowest and highest value of each variable, shape [d, 2].
        """
        return PolynomialTerms(np.array(self.exponents(len(box)), dtype=np.int64), box)

    def lowered(self) -> "Degree | None":
        """One degree less, or None where that would have no minimum."""
        if self.mixed:
            return Degree(self.total, self.first)
        if self.first > self.total:
            return Degree(self.total, self.first - 1)
        return Degree(self.total - 1, self.total - 1) if self.total > 2 else None
