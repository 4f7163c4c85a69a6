# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes in numbers of order one: what other libraries hold against fixed lengths must work in metres as in Angstrom."""

import math
from typing import Any

import numpy as np
from ase.neighborlist import primitive_neighbor_list

from lammps_bg.crystal.structure import Array


def natural_unit(size: float, octaves: int = 4) -> float:
    """A power of two near half a size, by which numbers are divided and multiplied without rounding.

    It moves in steps of `octaves` powers of two and is 1 for sizes around 2, as distances in Angstrom and in reduced units
    are: there nothing changes, to the last bit.

    Args:
        size: A typical size, positive.
        octaves: Powers of two from one step to the next; with 4 the size is 0.5 to 8 units, with 16 it is 0.008 to 512.
    """
    return 2.0 ** (octaves * round((math.log2(size) - 1) / octaves))


def periodic_pairs(quantities: str, cell: Array, positions: Array, cutoff: float) -> tuple[Any, ...]:
    """ASE's neighbour list of a periodic cell in any unit of length; ASE itself sorts atoms into bins of at least 3 length units.

    Args:
        quantities: What to return for each pair, as for ASE: `i`, `j`, `d`, `D`, `S`.
        cell: Cell vectors as rows, shape [3, 3], length units.
        positions: Cartesian positions, shape [N, 3], length units.
        cutoff: Largest distance of a pair, length units.
    """
    unit = natural_unit(float(abs(np.linalg.det(cell)) / len(positions)) ** (1 / 3))
    found = primitive_neighbor_list(quantities, (True,) * 3, cell / unit, positions / unit, cutoff / unit)
    columns = found if isinstance(found, tuple) else (found,)  # one quantity alone comes bare
    return tuple(column * unit if name in "dD" else column for name, column in zip(quantities, columns, strict=True))
