# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of the atoms that do not depend on the number of MPI ranks.

With `create_atoms`, LAMMPS numbers the atoms of its first rank first. Which site is which, and with it everything that is stored of
a crystal, would change with -lammps-ranks; so the numbers of one rank are used throughout.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lammps_bg.crystal.structure import Structure
from lammps_bg.errors import ScriptError

_SAME = 1e-6  # of a cell vector


def rows_as(reference: Structure, structure: Structure) -> NDArray[np.int64]:
    """Row in the reference of each atom of the same crystal, shape [N].

    Args:
        reference: The crystal as one rank makes it.
        structure: As several ranks make it.

    Raises:
        ScriptError: It is another crystal.
    """
    same = structure.n_atoms == reference.n_atoms and np.allclose(structure.cell, reference.cell, rtol=1e-12, atol=0.0)
    if same:
        tree = cKDTree(reference.fractional % 1.0 % 1.0, boxsize=1.0)  # % 1.0 of -1e-17 is 1.0
        distances, rows = tree.query(structure.fractional % 1.0 % 1.0)
        one_to_one = np.array_equal(np.sort(rows), np.arange(len(rows)))
        same = distances.max() < _SAME and one_to_one and np.array_equal(reference.types[rows], structure.types)
    if not same:
        raise ScriptError(
            "expected a script that makes the same crystal on every number of MPI ranks, got another one with -lammps-ranks than without; "
            "name atoms by region or type instead of id, take commands with random numbers out, or leave -lammps-ranks out"
        )
    return np.asarray(rows, dtype=np.int64)
