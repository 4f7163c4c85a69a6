# SPDX-License-Identifier: GPL-2.0-or-later
"""Monomials of a context: what a smooth function of the conditions is expanded in."""

from itertools import combinations_with_replacement

import torch
from torch import Tensor


def degree_for(n_context: int) -> int:
    """Degree of the expansion for which `Conditions.design` has points enough: four for one condition, two for more.

    Args:
        n_context: Number of conditions.
    """
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
