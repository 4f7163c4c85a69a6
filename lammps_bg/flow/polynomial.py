# SPDX-License-Identifier: GPL-2.0-or-later
"""Smooth functions of the conditions: monomials of a context, and the polynomial through numbers known at some contexts."""

from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.errors import StateError

Context = tuple[float, ...]
"""Coordinates of a state in the box of conditions, each in [-1, 1]."""


def degree_for(n_context: int) -> int:
    """Degree of the expansion for which `Conditions.design` has points enough: four for one condition, two for more."""
    return 4 if n_context == 1 else 2


def monomials(context: Tensor) -> Tensor:
    """All products of up to `degree_for` coordinates of a context, without the constant, shape [n_terms, n].

    Args:
        context: Coordinates in [-1, 1], shape [C, n].
    """
    c = len(context)
    powers = [p for d in range(1, degree_for(c) + 1) for p in combinations_with_replacement(range(c), d)]
    if not powers:
        return context.new_zeros(0, context.shape[-1])
    return torch.stack([context[list(p)].prod(0) for p in powers])


class PolynomialFit:
    """Least-squares expansion of numbers in the monomials of the context.

    Args:
        nodes: Contexts at which they are known, shape [g, C].
        values: Real or complex, shape [g, ...].

    Attributes:
        constant: Its value at the origin, shape [...].
        terms: Coefficients of `monomials`, shape [n_terms, ...].

    Raises:
        StateError: There are fewer nodes than coefficients.
    """

    def __init__(self, nodes: Array, values: np.ndarray) -> None:
        design = _design(nodes)
        if len(nodes) < design.shape[1]:
            raise StateError(
                f"expected a base at {design.shape[1]} points or more of the conditions, got {len(nodes)}; fit it at all points of the design"
            )
        found, *_ = np.linalg.lstsq(design.astype(values.dtype), values.reshape(len(nodes), -1), rcond=None)
        self.constant, self.terms = found[0].reshape(values.shape[1:]), found[1:].reshape(-1, *values.shape[1:])

    def at(self, context: Context) -> np.ndarray:
        """The values at a context, shape [...]."""
        row = _design(np.array([context]))[0, 1:]
        return np.asarray(self.constant + np.tensordot(row, self.terms, 1))


def _design(nodes: Array) -> Array:
    """One and the monomials of each context, shape [g, 1 + n_terms]."""
    columns = monomials(torch.from_numpy(np.ascontiguousarray(nodes.T))).numpy()
    return np.concatenate([np.ones((1, len(nodes))), columns]).T
