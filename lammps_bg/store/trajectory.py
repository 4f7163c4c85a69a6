# SPDX-License-Identifier: GPL-2.0-or-later
"""Trajectories on disk: frames of molecular dynamics in blocks that are complete or absent, and the state to go on from."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.engine.dynamics import State
from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import explained, replaced
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.thermo.trajectory import Trajectory

_SPRINGS = "springs.json"


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


class MDFolder:
    """What molecular dynamics keeps in a run folder while it goes on: trajectories, and the springs of lambda windows."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._folder = run, run.file("trajectories")

    def trajectory(self, name: str) -> TrajectoryFiles:
        """The trajectory of a name, new or as far as it got."""
        return TrajectoryFiles(self._folder, name)

    @property
    def n_steps(self) -> int:
        """Steps of all trajectories, each of which is an evaluation of the forces."""
        names = {path.name.removesuffix("-0000.npz") for path in self._folder.glob("*-0000.npz")}
        return sum(self.trajectory(name).last_step for name in names)

    def springs(self, make: Callable[[], dict[int, float]]) -> Mapping[int, float]:
        """Spring constants by atom type; once made they stay. All MPI ranks call it together."""
        if parallel.first() and not self._run.file(_SPRINGS).exists():
            self._run.write_json(_SPRINGS, {"stiffness": {str(kind): value for kind, value in make().items()}})
        return parallel.agreed(self.stored_springs() if parallel.first() else {})

    def stored_springs(self) -> dict[int, float]:
        """Spring constants by atom type, energy per length squared.

        Raises:
            RunDirectoryError: There are none yet.
        """
        return {int(kind): value for kind, value in self._run.read_json(_SPRINGS)["stiffness"].items()}
