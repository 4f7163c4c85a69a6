# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a cell differs from a reference cell: logarithms of the volume and of ratios of its lengths, and changes of its tilts."""

import math
from collections.abc import Mapping

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.errors import CrystalError

SHEARS = ("yz", "xz", "xy")
CELL_VARIABLES = ("volume", "c/a", "b/a", *SHEARS)
"""ln V/V0; changes of ln c/a and of ln b/a, at constant volume; changes of the tilts yz/lz, xz/lz and xy/ly."""

FREE = {"iso": ("volume",), "xy": ("volume", "c/a"), "aniso": ("volume", "c/a", "b/a"), "tri": CELL_VARIABLES}
"""Which of them are free where a cell may change as LAMMPS' iso, couple xy, aniso and tri say."""

_PLACE = {"yz": (2, 1), "xz": (2, 0), "xy": (1, 0)}
_TINY = 1e-9


def deformation(variables: Mapping[str, float]) -> Array:
    """The matrix D with which cell = reference @ D, lower triangular, rows are cell vectors; shape [3, 3].

    Args:
        variables: Values by name; those that are left out are zero.
    """
    mean, c, b = variables.get("volume", 0.0) / 3, variables.get("c/a", 0.0), variables.get("b/a", 0.0)
    # c/a changes with a and b together, b/a with c as it is
    stretch = np.exp([mean - c / 3 - b / 2, mean - c / 3 + b / 2, mean + 2 * c / 3])
    shear = np.eye(3)
    for name in SHEARS:
        shear[_PLACE[name]] = variables.get(name, 0.0)
    return np.asarray(shear * stretch)


def cell_variables(deformed: Array) -> dict[str, float]:
    """The variables of a deformation D, those of `deformation(variables)`.

    Args:
        deformed: D, shape [3, 3].

    Raises:
        CrystalError: It is no change of a cell in LAMMPS' orientation.
    """
    diagonal = np.diag(deformed)
    if not np.isfinite(deformed).all() or diagonal.min() <= 0 or np.abs(np.triu(deformed, 1)).max() > 1e-6 * diagonal.max():
        raise CrystalError(
            f"expected a cell that is the reference cell stretched and sheared, got a change of {np.round(deformed, 6).tolist()}; "
            "keep the cell vectors in LAMMPS' orientation (a along x, b in the xy plane)"
        )
    ex, ey, ez = np.log(diagonal)
    found = {"volume": ex + ey + ez, "c/a": ez - (ex + ey) / 2, "b/a": ey - ex}
    found |= {name: deformed[_PLACE[name]] / diagonal[_PLACE[name][1]] for name in SHEARS}
    return {name: 0.0 if abs(value) < _TINY else float(value) for name, value in found.items()}


def require_no_flip(cell: Array) -> None:
    """Refuse a cell with so much shear that another choice of its vectors is the shorter one.

    Args:
        cell: Cell vectors as rows, lower triangular, shape [3, 3], length units.

    Raises:
        CrystalError: A tilt is larger than half a length by more than LAMMPS' own tolerance.
    """
    for name, (row, column) in _PLACE.items():
        ratio = cell[row, column] / cell[column, column]
        if not math.isfinite(ratio) or abs(ratio) > 0.55:
            raise CrystalError(
                f"expected a cell with tilts of at most half its lengths, got {name} = {cell[row, column]:.4g} "
                f"for a length of {cell[column, column]:.4g}, where it flips; use a smaller range of {name}"
            )
