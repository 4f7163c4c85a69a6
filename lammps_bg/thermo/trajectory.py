# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of molecular dynamics in the order of time, and where a trajectory that grows is kept."""

from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lammps_bg.engine.dynamics import State

Array = NDArray[np.float64]


@dataclass
class Trajectory:
    """Frames of one trajectory, in the order of time.

    Attributes:
        steps: Time step of each frame since the start, shape [n].
        displacements: From the sites in the frame's cell, centre of mass removed, site order, length units, shape [n, N, 3].
        energies: Total potential energies, energy units, shape [n].
        virials: Configurational pressures, pressure units, shape [n].
        temperatures: Kinetic temperatures, shape [n].
        cells: Cell vectors as rows, length units, shape [n, 3, 3].
    """

    steps: NDArray[np.int64]
    displacements: Array
    energies: Array
    virials: Array
    temperatures: Array
    cells: Array

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> "Trajectory":
        """Some of the frames."""
        return Trajectory(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def volumes(self) -> Array:
        """Of the cells, length units cubed, shape [n]."""
        return np.asarray(np.linalg.det(self.cells))

    @classmethod
    def joined(cls, parts: "list[Trajectory]") -> "Trajectory":
        """Several trajectories of one crystal, at least one, one after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def cell_quantities(cells: Array) -> dict[str, Array]:
    """Lengths and tilts (length units) and ln(c / sqrt(a b)) of cells [..., 3, 3] by name, shape [...]."""
    vectors = {"lx": (0, 0), "ly": (1, 1), "lz": (2, 2), "xy": (1, 0), "xz": (2, 0), "yz": (2, 1)}
    found = {name: cells[..., row, column] for name, (row, column) in vectors.items()}
    return {**found, "ln_c_over_a": np.log(found["lz"] / np.sqrt(found["lx"] * found["ly"]))}


class TrajectoryRecord(Protocol):
    """Where one trajectory is kept while it grows: in memory, or in files (`store.trajectory`)."""

    @property
    def name(self) -> str:
        """What the trajectory is called; it decides its random numbers."""
        ...

    @property
    def last_step(self) -> int:
        """Step of the last frame; 0 before the first block."""
        ...

    def append(self, frames: Trajectory, state: State) -> None:
        """Keep the frames since the last block, and where the dynamics stands after them."""
        ...

    def load(self) -> Trajectory | None:
        """All frames so far; nothing before the first block."""
        ...

    def state(self) -> State | None:
        """Where the dynamics stood after the last block; nothing before the first."""
        ...


class TrajectoryInMemory:
    """A `TrajectoryRecord` that is gone with the process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._blocks: list[Trajectory] = []
        self._state: State | None = None

    @property
    def last_step(self) -> int:
        """Step of the last frame; 0 before the first block."""
        return int(self._blocks[-1].steps[-1]) if self._blocks else 0

    def append(self, frames: Trajectory, state: State) -> None:
        """Keep the frames since the last block, and where the dynamics stands after them."""
        self._blocks.append(frames)
        self._state = state

    def load(self) -> Trajectory | None:
        """All frames so far; nothing before the first block."""
        return Trajectory.joined(self._blocks) if self._blocks else None

    def state(self) -> State | None:
        """Where the dynamics stood after the last block; nothing before the first."""
        return self._state
