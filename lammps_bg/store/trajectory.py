# SPDX-License-Identifier: GPL-2.0-or-later
"""Trajectories on disk: frames of molecular dynamics in blocks that are complete or absent, and the state to go on from."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_bg.engine.dynamics import State
from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import explained, replaced

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

    @classmethod
    def joined(cls, parts: "list[Trajectory]") -> "Trajectory":
        """Several trajectories one after another.

        Args:
            parts: At least one, all of one crystal.
        """
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class TrajectoryFiles:
    """The blocks `<name>-0000.npz`, `<name>-0001.npz`, ... of one trajectory.

    Args:
        folder: Where they are.
        name: What the trajectory is called.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = Path(folder), name

    @property
    def blocks(self) -> list[Path]:
        """The blocks in the order of time."""
        return sorted(self.folder.glob(f"{self.name}-[0-9][0-9][0-9][0-9].npz"))

    def append(self, frames: Trajectory, state: State) -> None:
        """Write a block in one step.

        Args:
            frames: The frames since the last block.
            state: Where the dynamics stands after them.

        Raises:
            RunDirectoryError: The disk is full (FullDiskError) or the folder unwritable; earlier blocks stay.
        """
        path = self.folder / f"{self.name}-{len(self.blocks):04d}.npz"
        arrays = {field.name: getattr(frames, field.name) for field in fields(frames)}
        arrays |= {f"state_{field.name}": getattr(state, field.name) for field in fields(state)}
        with explained(self.folder):
            self.folder.mkdir(exist_ok=True)
        with replaced(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)

    def load(self) -> Trajectory | None:
        """All frames so far; nothing before the first block."""
        names = [field.name for field in fields(Trajectory)]
        parts = [Trajectory(*self._arrays(path, names)) for path in self.blocks]
        return Trajectory.joined(parts) if parts else None

    @property
    def last_step(self) -> int:
        """Step of the last frame; 0 before the first block."""
        return int(self._arrays(self.blocks[-1], ["steps"])[0][-1]) if self.blocks else 0

    def state(self) -> State | None:
        """Where the dynamics stood after the last block; nothing before the first."""
        names = [f"state_{field.name}" for field in fields(State)]
        return State(*self._arrays(self.blocks[-1], names)) if self.blocks else None

    @staticmethod
    def _arrays(path: Path, names: list[str]) -> list[NDArray]:
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                return [stored[name] for name in names]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunDirectoryError(
                f"expected frames of lammps-bg md in {path} but it is damaged ({error}); remove it and later blocks, then --resume"
            ) from None
