# SPDX-License-Identifier: GPL-2.0-or-later
"""From the pair style of a script to the same potential in torch, where there is one."""

from itertools import product
from typing import Protocol

import numpy as np
from torch import Tensor

from lammps_bg.engine.describe import PairStyle
from lammps_bg.potentials.lennard_jones import LennardJones
from lammps_bg.potentials.stillinger_weber import StillingerWeber
from lammps_bg.potentials.sw_file import read_sw_file

_PLAIN_MODIFIERS = ("mix", "shift")  # of pair_modify: the others change the energy in ways that are not followed here


class Potential(Protocol):
    """An energy that is a function of the separations of near atoms."""

    @property
    def stacked(self) -> bool:
        """Whether each configuration belongs to a member with parameters of its own."""
        ...

    @property
    def cutoff(self) -> float:
        """Largest distance of two atoms that interact, length units."""
        ...

    def gradient(
        self, separations: Tensor, types: Tensor, far_types: Tensor, member: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy [n] and its gradient with respect to the separations [n, N, K, 3]."""
        ...


def recognise(pair: PairStyle, units: str) -> Potential | None:
    """The potential of a script, or None where LAMMPS alone knows it.

    Args:
        pair: What the script says of its potential.
        units: The script's unit style.
    """
    if pair.others:
        return None
    if pair.style == "lj/cut":
        return _lennard_jones(pair)
    if pair.style == "sw" and not pair.args:
        return _stillinger_weber(pair, units)
    return None


def _lennard_jones(pair: PairStyle) -> LennardJones | None:
    options = dict(zip(pair.modifiers[::2], pair.modifiers[1::2], strict=False))
    if len(pair.args) != 1 or len(pair.modifiers) % 2 or not set(options) <= set(_PLAIN_MODIFIERS):
        return None
    if pair.epsilon is None or pair.sigma is None or not (pair.epsilon > 0).all():
        return None
    n, cutoffs = len(pair.epsilon), np.full(pair.epsilon.shape, float(pair.args[0]))
    given = np.zeros_like(cutoffs, dtype=bool)
    for first, second, *values in pair.coefficients:
        rows, columns = _type_range(first, n), _type_range(second, n)
        if len(values) > 3 or rows is None or columns is None:
            return None
        for i, j in product(rows, columns):
            if i <= j:  # as LAMMPS reads it
                cutoffs[[i, j], [j, i]] = float(values[2]) if len(values) == 3 else float(pair.args[0])
                given[[i, j], [j, i]] = True
    if not given.all() and np.ptp(cutoffs) > 0:
        return None  # LAMMPS mixes the cutoffs of pairs without a pair_coeff of their own
    return LennardJones(pair.epsilon, pair.sigma, cutoffs, options.get("shift") in ("yes", "on", "true"))


def _type_range(text: str, n_types: int) -> range | None:
    """Types, from 0, that a word such as `2`, `*`, `2*` or `1*3` of pair_coeff stands for; None for a type label."""
    low, star, high = text.partition("*")
    if not (low + high).isdigit() and (low + high or not star):
        return None
    if not star:
        return range(int(low) - 1, int(low))
    return range(int(low) - 1 if low else 0, int(high) if high else n_types)


def _stillinger_weber(pair: PairStyle, units: str) -> StillingerWeber | None:
    if len(pair.coefficients) != 1 or pair.modifiers:
        return None
    first, second, file, *names = pair.coefficients[0]
    path = pair.files.get(file)
    if (first, second) != ("*", "*") or path is None or "NULL" in names:
        return None
    return read_sw_file(path, names, units)
