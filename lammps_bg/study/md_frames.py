# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of molecular dynamics for a comparison: of trajectories, or from the user's own LAMMPS dump file."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.symmetry import match_sites
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine.dump import Frame, read_dump
from lammps_bg.errors import CrystalError, RunDirectoryError
from lammps_bg.study.frenkel_ladd import FrenkelLaddResult, Window
from lammps_bg.study.md import MDResult, observed
from lammps_bg.study.observing import Source
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.springs import SpringCrystal
from lammps_bg.thermo.timeseries import correlated_mean, slowest
from lammps_bg.thermo.trajectory import Trajectory

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
SAME_CELL = 1e-5
"""Relative difference of cell vectors that is rounding of a text file."""
_SAME_ENERGY = 1e-4  # relative difference of energies that is rounding of a text file
_FEWEST = 50
_FAR = 0.5  # displacement in nearest-neighbour distances of an atom that is not on its site
_STRIDE = 0.5  # in statistical inefficiencies of the energy: the log-weights may decorrelate faster


@dataclass(frozen=True)
class MDFrames:
    """Equilibrated configurations of the target at constant volume, in the order of time, and lambda windows if there are any.

    Attributes:
        name: Of what they come from.
        mode: nvt, mbar, dump or exact.
        displacements: Without centre of mass, length units, shape [n, N, 3].
        energies: Total potential energies, energy units, shape [n].
        observed: The frames of these that are independent in their energies, for averages.
        n_frames: Frames before equilibration was cut off and some were skipped.
        springs: Reference of the windows.
        windows: By rising lambda; empty without any.
        independent: Whether all of the frames are independent of one another, as those of chains are.
    """

    name: str
    mode: str
    displacements: Array
    energies: Array
    observed: Source
    n_frames: int
    springs: SpringCrystal | None = None
    windows: tuple[Window, ...] = ()
    independent: bool = False

    @classmethod
    def of(cls, result: MDResult | FrenkelLaddResult, name: str = "md") -> "MDFrames":
        """Frames of a simulation at constant volume in this process."""
        if isinstance(result, MDResult):
            return cls.of_trajectories(result.trajectories, name, result.setup.mode)
        return cls.of_trajectories(result.md.trajectories, name, "mbar", result.springs, result.windows)

    @classmethod
    def of_trajectories(
        cls,
        trajectories: Sequence[Trajectory],
        name: str,
        mode: str,
        springs: SpringCrystal | None = None,
        windows: Sequence[Window] = (),
    ) -> "MDFrames":
        """Frames of replicas at constant volume.

        Args:
            trajectories: All frames of each replica.
            name: Of what they come from.
            mode: nvt or mbar.
            springs: Reference of the windows.
            windows: By rising lambda.

        Raises:
            EstimateError: A trajectory is too short, or does not move.
        """
        found = [slowest([part.energies]) for part in trajectories]
        pairs = list(zip(trajectories, found, strict=True))
        kept = Trajectory.joined([part[_spread(one.start, one.inefficiency)] for part, one in pairs])
        shown, total = observed(trajectories, found), sum(map(len, trajectories))
        return cls(name, mode, kept.displacements, kept.energies, shown, total, springs, tuple(windows))

    @classmethod
    def of_dump(cls, path: Path, problem: Problem, *, known: bool = False) -> "MDFrames":
        """Frames of a dump file, refused where they are not of this crystal and potential.

        Args:
            path: The dump file.
            problem: Crystal and temperature.
            known: They are of this temperature, and independent.

        Raises:
            LammpsBGError: One sentence for whatever does not fit.
        """
        crystal = problem.crystal
        frames = [_checked(frame, path, problem) for frame in read_dump(path)]
        if len(frames) < _FEWEST:
            raise RunDirectoryError(
                f"expected at least {_FEWEST} frames for -md, got {len(frames)} in {path}; write more of them"
            )
        order = _sites_of_ids(frames[0], path, problem)
        _require_same_atoms(frames, path)
        moved = crystal.displacements(np.stack([frame.positions[np.argsort(frame.ids)][order] for frame in frames]))
        furthest = float(np.linalg.norm(moved.mean(0), axis=1).max()) / crystal.nearest_distance
        if furthest > _FAR:
            raise CrystalError(
                f"expected every atom near its site, got one {furthest:.2f} nearest-neighbour distances away on average in {path}: a melt, "
                "hops, or another order of the atoms; give frames of this crystal"
            )
        energies = problem.surface.energies(moved)
        _require_same_energies(frames, energies, path, problem)
        if known:
            return cls(path.name, "exact", moved, energies, Source("md", energies, moved), len(frames), independent=True)
        log.warning("%s does not say its temperature: it is taken for T = %g", path, problem.temperature)
        found = slowest([energies])
        kept = _spread(found.start, found.inefficiency)
        mean = correlated_mean(energies, minimum=1)
        shown = Source("md", energies[found.indices], moved[found.indices], mean_energy=mean)
        return cls(path.name, "dump", moved[kept], energies[kept], shown, len(frames))


def _spread(start: int, inefficiency: float) -> slice:
    """Equilibrated frames that may be independent in their log-weights."""
    return slice(start, None, max(1, round(_STRIDE * inefficiency)))


def _checked(frame: Frame, path: Path, problem: Problem) -> Frame:
    """A frame of as many atoms in the same cell."""
    crystal = problem.crystal
    if len(frame.ids) != crystal.n_sites:
        raise CrystalError(
            f"expected {crystal.n_sites} atoms as in the flow's crystal, got {len(frame.ids)} in {path}; give its own dump"
        )
    if not np.isfinite(frame.positions).all():
        raise CrystalError(
            f"expected finite positions in {path}, got nan or inf at time step {frame.timestep}; look for a time step too long in that MD"
        )
    difference = np.abs(frame.cell - crystal.supercell).max()
    if difference > SAME_CELL * np.abs(crystal.supercell).max():
        raise CrystalError(
            f"expected frames in the cell of the flow, {np.diag(crystal.supercell).round(5).tolist()}, got "
            f"{np.diag(frame.cell).round(5).tolist()} in {path} (they differ by {difference:.2g}); run at constant volume in that cell"
        )
    return frame


def _require_same_atoms(frames: list[Frame], path: Path) -> None:
    """Ids and types must not change from frame to frame."""
    first = np.argsort(frames[0].ids)
    for frame in frames:
        order = np.argsort(frame.ids)
        if (frame.ids[order] != frames[0].ids[first]).any() or (frame.types[order] != frames[0].types[first]).any():
            raise CrystalError(
                f"expected the same atom ids and types in every frame of {path}, got others at time step {frame.timestep}; dump all atoms"
            )


def _sites_of_ids(frame: Frame, path: Path, problem: Problem) -> NDArray[np.int64]:
    """Row of each site in a frame ordered by id: the script's own order, or the one that puts every atom on a site of its type."""
    crystal = problem.crystal
    order = np.argsort(frame.ids)
    positions, types = frame.positions[order], frame.types[order]
    own = crystal.atom_ids - 1
    if np.array_equal(np.sort(frame.ids), np.sort(crystal.atom_ids)) and _fits(crystal, positions, types, own):
        return own
    found = match_sites(
        crystal.supercell, positions - crystal.origin, crystal.sites - crystal.origin, _FAR * crystal.nearest_distance
    )
    if (found < 0).any() or len(set(found)) != crystal.n_sites or not _fits(crystal, positions, types, found):
        raise CrystalError(
            f"expected an atom of the right type on each of the {crystal.n_sites} sites, got another arrangement in {path}; give a dump of "
            "the crystal that the script makes, with the same origin"
        )
    return found


def _fits(crystal: Crystal, positions: Array, types: NDArray[np.int64], order: NDArray[np.int64]) -> bool:
    near = np.linalg.norm(crystal.displacements(positions[order]), axis=1).max() < _FAR * crystal.nearest_distance
    return bool(near and np.array_equal(types[order], crystal.types))


def _require_same_energies(frames: list[Frame], energies: Array, path: Path, problem: Problem) -> None:
    """Where the dump has a column c_pe with one value for each frame, it must be the energy that LAMMPS gives here."""
    stored = [frame.columns["c_pe"] for frame in frames if "c_pe" in frame.columns]
    if len(stored) != len(frames) or any(np.ptp(values) > 0 for values in stored):
        return
    spread = _SAME_ENERGY * abs(problem.surface.static_energy) / problem.crystal.n_sites
    worst = max(abs(float(values[0]) - energy) for values, energy in zip(stored, energies, strict=True))
    if not math.isfinite(worst) or worst > max(spread, 0.01 / problem.beta):
        raise CrystalError(
            f"expected the energies in column c_pe of {path} to be those of the flow's potential, got differences up to {worst:.3g} "
            f"{problem.units.labels.energy}; give a dump made with the same potential"
        )
