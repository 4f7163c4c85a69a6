# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixed neighbour graph of the ideal lattice: who reads whom, in an order that is the same in every cell."""

import logging
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lammps_bg.crystal.scale import periodic_pairs
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import UnitCell, nearest_distance
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import ConfigError

log = logging.getLogger(__name__)
_SHELL_TOLERANCE = 2e-3  # two distances belong to one shell when they agree to this fraction of the nearest distance

_Neighbours = tuple[NDArray, NDArray, NDArray, NDArray]  # of one site: shell number, basis index, cell offset, vector


@dataclass(frozen=True)
class NeighbourGraph:
    """Neighbours of every site, ordered by shell and then by direction, reflected alike for the sites of an orbit.

    Attributes:
        neighbours: Site index of each neighbour, shape [N, K].
        vectors: Ideal bond vectors from the site to the neighbour, length units, shape [N, K, 3].
        shells: Shell number of each neighbour, from 0, shape [N, K].
    """

    neighbours: NDArray[np.int64]
    vectors: Array
    shells: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Neighbours per site, K."""
        return self.neighbours.shape[1]


def neighbour_graph(crystal: Crystal, *, count: int | None = None) -> NeighbourGraph:
    """The nearest neighbours of the ideal lattice.

    Args:
        crystal: The reference crystal.
        count: Neighbours of every site; None: the smallest whole number of shells that holds 12.

    Raises:
        ConfigError: `count` is not positive.
    """
    if count is not None and count < 1:
        raise ConfigError(f"expected a positive number of neighbours, got {count}")
    lists = _ordered_neighbours(crystal.unit, 4 * max(count or 0, 24))
    k = count or _whole_shells(lists)
    if k > min(len(entry[0]) for entry in lists):
        raise ConfigError(f"expected at most {min(len(entry[0]) for entry in lists)} neighbours, got {k}")
    _tell_of_cut_shells(crystal.unit, 4 * max(count or 0, 24), k)
    cells, basis = crystal.cell_grid, np.arange(crystal.n_basis)
    other = np.array([entry[1][:k] for entry in lists])
    offset = np.array([entry[2][:k] for entry in lists])
    vectors = np.array([entry[3][:k] for entry in lists])
    target = crystal.site_index(cells[:, None, None] + offset[None], np.broadcast_to(other, (len(cells), len(basis), k)))
    repeat = (len(cells), 1, 1)
    shell = np.tile(np.array([entry[0][:k] for entry in lists]), repeat[:2])
    return NeighbourGraph(target.reshape(-1, k), np.tile(vectors, repeat), shell)


@lru_cache(maxsize=16)  # every flow on every supercell asks for the same
def _tell_of_cut_shells(unit: UnitCell, at_least: int, k: int) -> None:
    """Say, once for a crystal, that a number of neighbours ends within a shell."""
    lists = _ordered_neighbours(unit, at_least)
    cut = [basis for basis, (shell, *_) in enumerate(lists) if len(shell) > k and shell[k] == shell[k - 1]]
    if cut:
        shell = lists[cut[0]][0]
        log.warning(
            "%d neighbours cut through a shell of %d of the %d sites of the unit cell, first through shell %d of site %d "
            "(whole shells: %s); bonds of equal length are then treated differently",
            k, len(cut), len(unit.basis), shell[k] + 1, cut[0] + 1, ", ".join(str(c) for c in np.cumsum(np.bincount(shell))[:6]),
        )  # fmt: skip


@lru_cache(maxsize=16)
def _ordered_neighbours(unit: UnitCell, at_least: int) -> list[_Neighbours]:
    """For each basis site: shell number, basis index, cell offset and vector of its neighbours, nearest first."""
    nearest, volume = nearest_distance(unit.cell, unit.basis), float(abs(np.linalg.det(unit.cell))) / len(unit.basis)
    cutoff = (at_least / (4 / 3 * np.pi) * volume) ** (1 / 3) + nearest
    i, j, d, vector, offset = periodic_pairs("ijdDS", unit.cell, unit.basis, cutoff)
    lists = []
    for basis in range(len(unit.basis)):
        mine = np.flatnonzero(i == basis)
        mine = mine[np.argsort(d[mine], kind="stable")]
        gaps = np.diff(d[mine], prepend=d[mine][:1]) > _SHELL_TOLERANCE * nearest
        shell = np.cumsum(gaps)
        # rounding makes equal directions of different sites sort alike; the odd offset keeps lattice vectors off the rounding edge
        direction = np.round(vector[mine] / (0.01 * nearest) + 0.1234).astype(int)
        order = np.lexsort((direction[:, 2], direction[:, 1], direction[:, 0], shell))
        mine = mine[order]
        lists.append((shell[order], j[mine], offset[mine], vector[mine]))
    leaders = [lists[int(np.argmax(unit.orbit == orbit))] for orbit in unit.orbit]
    tolerance = 0.1 * nearest
    return [_in_order_of(*entries, tolerance) for entries in zip(leaders, lists, unit.signs, strict=True)]


def _in_order_of(leader: _Neighbours, entry: _Neighbours, signs: Array, tolerance: float) -> _Neighbours:
    """Shells and order of another site of the orbit: noise on the positions must not part what a symmetry relates."""
    distance, index = cKDTree(entry[3]).query(leader[3] * signs)
    index = index[distance < tolerance]
    return leader[0][distance < tolerance], entry[1][index], entry[2][index], entry[3][index]


def _whole_shells(lists: list[_Neighbours]) -> int:
    """The smallest count of at least 12 that ends with a whole shell for every basis site; 16 where there is none up to 26."""
    ends = [set(np.cumsum(np.bincount(entry[0])).tolist()) for entry in lists]
    common = sorted(c for c in set.intersection(*ends) if 12 <= c <= 26)
    return common[0] if common else 16
