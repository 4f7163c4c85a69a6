# SPDX-License-Identifier: GPL-2.0-or-later
"""What a script says of its pair style: enough to compute the same energy without LAMMPS, where the style is a simple one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine import rules
from lammps_bg.engine.instance import Instance


@dataclass(frozen=True)
class PairStyle:
    """A pair style with its parameters.

    Attributes:
        style: Its name, without an accelerator suffix.
        args: Words after the name.
        coefficients: Words of each pair_coeff command.
        modifiers: Words of all pair_modify commands, in order.
        files: What the file names among the words stand for.
        epsilon: Energy of each pair of types as LAMMPS mixes it, energy units, shape [n_types, n_types]; None where there is none.
        sigma: Length of each pair of types, length units, same shape; None where there is none.
        others: What else contributes to the energy.
    """

    style: str
    args: tuple[str, ...]
    coefficients: tuple[tuple[str, ...], ...]
    modifiers: tuple[str, ...]
    files: Mapping[str, Path]
    epsilon: Array | None
    sigma: Array | None
    others: tuple[str, ...]

    @classmethod
    def of(cls, instance: Instance) -> "PairStyle":
        """What the script of an instance says.

        Args:
            instance: The instance.
        """
        reader, lammps = instance.reader, instance.lammps
        style = rules.base_style(instance.pair_style)
        others = [f"fix {name}" for name in reader.kept_fixes] + reader.kspace
        others += [kind for kind in ("bond", "angle", "dihedral", "improper") if lammps.extract_setting(f"n{kind}types") > 0]
        described = reader.pair_style[:1] and rules.base_style(reader.pair_style[0]) == style
        args = tuple(reader.pair_style[1:]) if described else ()
        mixed = style.startswith("lj/cut")
        return cls(
            style,
            args,
            tuple(map(tuple, reader.pair_coeffs)),
            tuple(reader.pair_modify),
            dict(reader.files.names),
            _table(instance, "epsilon") if mixed else None,
            _table(instance, "sigma") if mixed else None,
            tuple(others),
        )


def _table(instance: Instance, name: str) -> Array | None:
    """A parameter of each pair of types, as LAMMPS mixes it."""
    values = instance.lammps.extract_pair(name)
    if values is None:
        return None
    upper = np.triu(np.array(values, dtype=np.float64)[1:, 1:])  # LAMMPS sets no more of it
    return upper + np.triu(upper, 1).T
