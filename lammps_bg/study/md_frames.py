# SPDX-License-Identifier: GPL-2.0-or-later
"""Reference frames for a comparison: from a run of `lammps-bg md`, or from the user's own LAMMPS dump file."""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.symmetry import match_sites
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine.dump import Frame, read_dump
from lammps_bg.errors import CrystalError, RunDirectoryError, StateError
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.trajectory import Trajectory, TrajectoryFiles
from lammps_bg.study.md_job import slowest
from lammps_bg.study.md_windows import Window, load_window, stored_springs, window_name
from lammps_bg.study.observing import Source
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.springs import SpringCrystal
from lammps_bg.thermo.timeseries import correlated_mean

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
_WRITTEN = {"n_atoms": "number of atoms", "pair_style": "pair style"}
_SAME_CELL = 1e-5  # relative difference of cell vectors that is rounding of a text file
_SAME_STATIC_ENERGY = 0.01  # difference in kT that is rounding
_SAME_ENERGY = 1e-4  # relative difference of energies that is rounding of a text file
_FEWEST = 50
_FAR = 0.5  # displacement in nearest-neighbour distances of an atom that is not on its site
_STRIDE = 0.5  # in statistical inefficiencies of the energy: the log-weights may decorrelate faster


@dataclass(frozen=True)
class Reference:
    """Equilibrated configurations of the target at constant volume, in the order of time, and lambda windows if there are any.

    Attributes:
        path: Where they come from.
        mode: nvt, mbar or dump.
        displacements: Without centre of mass, length units, shape [n, N, 3].
        energies: Total potential energies, energy units, shape [n].
        observed: The frames of these that are independent in their energies, for averages.
        n_frames: Frames before equilibration was cut off and some were skipped.
        springs: Reference of the windows.
        windows: By rising lambda; empty without any.
        independent: Whether all of the frames are independent of one another, as those of chains are.
    """

    path: Path
    mode: str
    displacements: Array
    energies: Array
    observed: Source
    n_frames: int
    springs: SpringCrystal | None = None
    windows: tuple[Window, ...] = ()
    independent: bool = False


def load_reference(path: Path, problem: Problem) -> Reference:
    """Frames of an MD run or a dump file, refused where they are not of this crystal, potential and temperature.

    Args:
        path: Folder of `lammps-bg md`, or a dump file.
        problem: Crystal and temperature of the flow.

    Raises:
        LammpsBGError: One sentence for whatever does not fit.
    """
    if Path(path).is_dir():
        return _of_run(RunDirectory.open(path), problem)
    if not Path(path).exists():
        raise RunDirectoryError(
            f"expected -md with a folder of `lammps-bg md` or a dump file, but there is no {path}; check the path"
        )
    return _of_dump(Path(path), problem)


def _of_run(run: RunDirectory, problem: Problem) -> Reference:
    results = run.read_results()
    if "exact" in results and run.file("exact.dump.gz").exists():
        _require_same_system(run, results["system"], problem)
        return _of_dump(run.file("exact.dump.gz"), problem, known=True)
    if "md" not in results:
        raise RunDirectoryError(
            f"expected a finished run of `lammps-bg md`, or one with exact samples, for -md, got another one in {run.path}; give its folder"
        )
    mode = results["md"]["mode"]
    if mode == "npt":
        raise RunDirectoryError(
            f"expected molecular dynamics at constant volume for -md, got --mode npt in {run.path}; run `lammps-bg md --mode nvt`"
        )
    _require_same_system(run, results["system"], problem)
    run.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
    folder = run.file("trajectories")
    replicas = [f"nvt-{index:02d}" for index in range(results["md"]["replicas"])]
    names = [window_name(1.0)] if mode == "mbar" else replicas
    loaded = [TrajectoryFiles(folder, name).load() for name in names] or [None]
    parts, independent, total = [], [], 0
    for frames in loaded:
        if frames is None:
            raise RunDirectoryError(f"expected trajectories of {mode} in {folder}, got none; run `lammps-bg md` again")
        found = slowest([frames.energies])
        parts.append(frames[slice(found.start, None, max(1, round(_STRIDE * found.inefficiency)))])
        independent.append(frames[found.indices])
        total += len(frames)
    kept, shown = Trajectory.joined(parts), Trajectory.joined(independent)
    mean = correlated_mean(*(frames.energies for frames in loaded if frames), minimum=1)
    observed = Source("md", shown.energies, shown.displacements, virials=shown.virials, mean_energy=mean)
    reference = Reference(run.path, mode, kept.displacements, kept.energies, observed, total)
    if mode != "mbar":
        return reference
    springs = stored_springs(problem, run)
    seed = run.read_json("provenance.json")["seeds"]["seed"]
    windows = tuple(
        load_window(problem, folder, springs, row["lambda"], n_exact=row["n_frames"], seed=seed) for row in results["windows"]
    )
    return replace(reference, springs=springs, windows=windows)


def _require_same_system(run: RunDirectory, system: dict[str, Any], problem: Problem) -> None:
    own = {
        "n_atoms": problem.crystal.n_sites,
        "temperature": problem.temperature,
        "units": problem.units.name,
        "pair_style": problem.engine.pair_style,
        "replicate": list(problem.crystal.replicate),
    }
    for name, wanted in own.items():
        if system[name] != wanted:
            error = StateError if name == "temperature" else CrystalError
            raise error(
                f"expected MD with the {_WRITTEN.get(name, name)} of the flow, {wanted}, got {system[name]} in {run.path}; run "
                "`lammps-bg md -model RUN`, which takes them from the flow's run"
            )
    _require_same_crystal(run, system, problem)


def _require_same_crystal(run: RunDirectory, system: dict[str, Any], problem: Problem) -> None:
    """The same script with other variables is another crystal: its cell or static energy tells."""
    own, static = problem.crystal.supercell, problem.surface.static_energy / problem.crystal.n_sites
    same_energy = abs(system["static_energy_per_atom"] - static) * problem.crystal.n_sites * problem.beta < _SAME_STATIC_ENERGY
    if not (np.abs(np.array(system["cell"]) - own).max() < _SAME_CELL * np.abs(own).max() and same_energy):
        raise CrystalError(
            f"expected MD in the cell of the flow, {np.diag(own).round(5).tolist()}, with {static:.8g} {problem.units.labels.energy} per "
            f"atom on the sites, got {np.diag(system['cell']).round(5).tolist()} and {system['static_energy_per_atom']:.8g} in {run.path}; "
            "run `lammps-bg md -model RUN`, which has the same variables"
        )


def _of_dump(path: Path, problem: Problem, *, known: bool = False) -> Reference:
    """Frames of a dump file; `known` ones are of the problem's temperature and independent."""
    crystal = problem.crystal
    frames = [_checked(frame, path, problem) for frame in read_dump(path)]
    if len(frames) < _FEWEST:
        raise RunDirectoryError(f"expected at least {_FEWEST} frames for -md, got {len(frames)} in {path}; write more of them")
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
    if not known:
        log.warning("%s does not say its temperature: it is taken for T = %g", path, problem.temperature)
    if known:
        return Reference(path, "exact", moved, energies, Source("md", energies, moved), len(frames), independent=True)
    found = slowest([energies])
    kept = slice(found.start, None, max(1, round(_STRIDE * found.inefficiency)))
    mean = correlated_mean(energies, minimum=1)
    observed = Source("md", energies[found.indices], moved[found.indices], mean_energy=mean)
    return Reference(path, "dump", moved[kept], energies[kept], observed, len(frames))


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
    if difference > _SAME_CELL * np.abs(crystal.supercell).max():
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
