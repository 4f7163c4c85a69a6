# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair styles in torch, one file each; a file names its LAMMPS style and reads its parameters from what a script says."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.engine.describe import PairStyle
from lammps_bg.errors import PotentialError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class PairPotential(Protocol):
    """An energy that is a function of the separations of near atoms: a frozen dataclass whose fields are tables of its parameters.

    With an axis in front of every table, each configuration of a batch belongs to a member with parameters of its own.

    Attributes:
        __dataclass_fields__: Of the dataclass.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def n_types(self) -> int:
        """Atom types."""
        ...

    @property
    def has_members(self) -> bool:
        """Whether each configuration belongs to a member."""
        ...

    @property
    def cutoff(self) -> float:
        """Largest distance of two atoms that interact, length units."""
        ...

    def gradient(
        self, separations: Tensor, types: Tensor, far_types: Tensor, member: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy [n] and its gradient with respect to the separations [n, N, K, 3].

        Args:
            separations: Vectors to the neighbours, each pair from both ends, length units, shape [n, N, K, 3].
            types: Type of each atom, from 0, shape [N].
            far_types: Type of each neighbour, from 0, shape [N, K].
            member: Member of each configuration, shape [n]; None where there are none.
        """
        ...


class PairStyleFile(Protocol):
    """What a file of this folder has.

    Attributes:
        STYLE: Name of the style in LAMMPS, without an accelerator suffix.
    """

    STYLE: str

    def read(self, pair: PairStyle, units: str) -> PairPotential | None:
        """The potential of a script of this style, None where more is said of it than is understood.

        Args:
            pair: What the script says.
            units: Its unit style.
        """
        ...

    def length(self, pair: PairStyle) -> tuple[float, str] | None:
        """The potential's own length, length units, and how it is known; None where there is no single one."""
        ...


def _files() -> list[PairStyleFile]:
    return [cast(PairStyleFile, import_module(f"{__name__}.{module.name}")) for module in pkgutil.iter_modules(__path__)]


def styles() -> list[str]:
    """LAMMPS' names of the styles that there are in torch."""
    return [file.STYLE for file in _files()]


def recognised(pair: PairStyle, units: str) -> PairPotential | None:
    """The potential of a script, or None where LAMMPS alone knows it.

    Args:
        pair: What the script says of its potential.
        units: The script's unit style.
    """
    if pair.others:
        return None
    return next((file.read(pair, units) for file in _files() if pair.style == file.STYLE), None)


def own_length(pair: PairStyle) -> tuple[float, str] | None:
    """The potential's own length, length units, and how it is known; None where there is no single one.

    Args:
        pair: What the script says of its potential; of a style that there is in torch or one of its family, such as lj/cut/coul/long.
    """
    family = (file for file in _files() if pair.style == file.STYLE or pair.style.startswith(f"{file.STYLE}/"))
    return next((file.length(pair) for file in family), None)


def with_members(potentials: Sequence[PairPotential]) -> PairPotential:
    """One potential whose tables have an axis in front, along which it is each of these.

    Args:
        potentials: Of one style and with the same atom types.

    Raises:
        PotentialError: They are of different styles or have different types.
    """
    first = potentials[0]
    for other in potentials[1:]:
        if type(other) is not type(first) or other.n_types != first.n_types:
            raise PotentialError(
                f"expected potentials of one kind and of the same atom types, got {type(first).__name__} of "
                f"{first.n_types} and {type(other).__name__} of {other.n_types}; use energy.source=lammps"
            )
    tables = {f.name: np.stack([np.asarray(getattr(p, f.name)) for p in potentials]) for f in fields(first)}
    return type(first)(**tables)


# ---- tables of parameters for a batch: the same for all configurations, or of the member each one belongs to


def of_batch(table: Array, rank: int, member: Tensor | None, device: torch.device) -> Tensor:
    """A table for a batch, shape [..., *types], with an axis [n] in front where its members differ.

    Args:
        table: A parameter, shape [*types], or of each member, shape [m, *types].
        rank: Number of axes of types.
        member: Member of each configuration, shape [n]; none for a potential without members.
        device: Where the batch lives.
    """
    import torch  # what a script says of its potential is read without

    if table.ndim == rank:
        return torch.from_numpy(table).to(device)
    if member is None:
        raise ValueError("expected the member of each configuration for a potential with members, got none")
    if (table == table[:1]).all():
        return torch.from_numpy(table[0]).to(device)  # smaller tables of pairs, and faster
    return torch.from_numpy(table).to(device)[member]


def of_pairs(values: Tensor, types: Tensor, far_types: Tensor) -> Tensor:
    """Parameters of pairs, shape [..., N, K], or one for all pairs where there is one type, shape [..., 1, 1].

    Args:
        values: Of each pair of types, shape [..., n_types, n_types].
        types: Type of each atom, from 0, shape [N].
        far_types: Type of each neighbour, from 0, shape [N, K].
    """
    if values.shape[-1] == 1:
        return values
    return values[..., types[:, None], far_types]


def alike(table: Array) -> bool:
    """Whether a parameter, shape [..., n_types, n_types], is the same for all pairs of types."""
    return bool(np.all(table == table[..., :1, :1]))
