# SPDX-License-Identifier: GPL-2.0-or-later
"""Potentials of one kind with different parameters, stacked into one: each configuration of a batch names the one it belongs to."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

import numpy as np

from lammps_bg.errors import PotentialError
from lammps_bg.potentials.lennard_jones import LennardJones
from lammps_bg.potentials.stillinger_weber import StillingerWeber

Kind = TypeVar("Kind", LennardJones, StillingerWeber)


def stack(potentials: Sequence[Kind]) -> Kind:
    """One potential whose tables have an axis more, in front: the members.

    Args:
        potentials: Potentials of one kind with the same atom types.

    Raises:
        PotentialError: They are of different kinds or have different types.
    """
    first = potentials[0]
    for other in potentials[1:]:
        if type(other) is not type(first) or other.epsilon.shape != first.epsilon.shape:
            raise PotentialError(
                f"expected potentials of one kind and of the same atom types, got {type(first).__name__} of "
                f"{len(first.epsilon)} and {type(other).__name__} of {len(other.epsilon)}; use energy.source=lammps"
            )
    tables = {f.name: np.stack([np.asarray(getattr(p, f.name)) for p in potentials]) for f in fields(first)}
    return type(first)(**tables)
