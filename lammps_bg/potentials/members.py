# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of a potential's parameters for a batch: the same for all configurations, or of the member each one belongs to."""

import numpy as np
import torch
from torch import Tensor

from lammps_bg.crystal.structure import Array


def of_batch(table: Array, rank: int, member: Tensor | None, device: torch.device) -> Tensor:
    """A table for a batch, shape [..., *types], with an axis [n] in front where its members differ.

    Args:
        table: A parameter, shape [*types], or of each member, shape [m, *types].
        rank: Number of axes of types.
        member: Member of each configuration, shape [n]; none for a potential that is not stacked.
        device: Where the batch lives.
    """
    if table.ndim == rank:
        return torch.from_numpy(table).to(device)
    if member is None:
        raise ValueError("expected the member of each configuration for a stacked potential, got none")
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
    """Whether a parameter, shape [..., n_types, n_types], is the same for all pairs of types.

    Args:
        table: The parameter.
    """
    return bool(np.all(table == table[..., :1, :1]))
