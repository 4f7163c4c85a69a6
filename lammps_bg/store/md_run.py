# SPDX-License-Identifier: GPL-2.0-or-later
"""A finished run of molecular dynamics on disk: its tables, dump file and entries of results.json, and its frames read back."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg.engine.dump import DumpWriter
from lammps_bg.errors import CrystalError, RunDirectoryError, StateError
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.trajectory import MDFolder
from lammps_bg.study.entries import estimate_entry
from lammps_bg.study.frenkel_ladd import FrenkelLaddResult, Window, springs_of, window_name
from lammps_bg.study.md import MDResult, replica_name
from lammps_bg.study.md_frames import SAME_CELL, MDFrames
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.springs import SpringCrystal
from lammps_bg.thermo.trajectory import Trajectory

_WRITTEN = {"n_atoms": "number of atoms", "pair_style": "pair style"}
_SAME_STATIC_ENERGY = 0.01  # difference in kT that is rounding

# ---- tables and dump file


def write_thermo(md: MDResult, run: RunDirectory) -> None:
    """thermo.csv with every frame of every replica."""
    text = io.StringIO()
    text.write("replica,step,time,pe,temperature,pressure,volume,lx,ly,lz,xy,xz,yz\n")
    for replica, part in enumerate(md.trajectories):
        cells = part.cells
        columns = [
            np.full(len(part), replica), part.steps, part.steps * md.setup.settings.timestep, part.energies, part.temperatures,
            md.pressures(part), part.volumes, cells[:, 0, 0], cells[:, 1, 1], cells[:, 2, 2],
            cells[:, 1, 0], cells[:, 2, 0], cells[:, 2, 1],
        ]  # fmt: skip
        np.savetxt(text, np.stack(columns, 1), fmt=["%d", "%d", *["%.12g"] * 11], delimiter=",")
    run.write_text("thermo.csv", text.getvalue())


def write_windows(windows: Sequence[Window], run: RunDirectory) -> None:
    """windows.csv: the two energies of every independent frame, from which u_kn follows."""
    text = io.StringIO()
    text.write("window,lambda,frame,u_springs,pe\n")
    for index, window in enumerate(windows):
        n = len(window.energies)
        rows = np.stack([np.full(n, index), np.full(n, window.coupling), np.arange(n), window.springs, window.energies], 1)
        np.savetxt(text, rows, fmt=["%d", "%.12g", "%d", "%.17g", "%.17g"], delimiter=",")
    run.write_text("windows.csv", text.getvalue())


def write_dump(md: MDResult, run: RunDirectory) -> None:
    """md.dump.gz: independent frames with their energies and cells, for OVITO, rerun and ASE."""
    path, problem, options = run.file("md.dump.gz"), md.setup.problem, md.setup.options
    crystal, frames = problem.crystal, md.frames
    path.unlink(missing_ok=True)
    if options.n_dump == 0:
        return
    triclinic = problem.engine.triclinic or options.cell == "tri"
    with DumpWriter(path, crystal, units=problem.units.name, triclinic=triclinic) as dump:
        for index in range(min(options.n_dump, len(frames))):
            cell = frames.cells[index]
            positions = crystal.sites_in(cell) + frames.displacements[index]
            dump.write(index, positions, 0.0, energy=float(frames.energies[index]), cell=cell)


# ---- results.json


def md_entry(md: MDResult) -> dict[str, Any]:
    """The block `md`: how it was simulated, how many frames are independent, and their temperature and pressure."""
    labels = md.setup.problem.units.labels
    return {
        "mode": md.setup.mode,
        **asdict(md.setup.settings),
        "units": {"time": labels.time, "pressure": labels.pressure, "length": labels.length},
        "replicas": len(md.trajectories),
        "steps": [int(part.steps[-1]) for part in md.trajectories],
        "n_frames": md.n_frames,
        "n_independent": float(md.n_independent),
        "equilibration_frames": [int(part.start) for part in md.decorrelated],
        "inefficiency": [float(part.inefficiency) for part in md.decorrelated],
        "temperature": md.temperature.to_dict(),
        "pressure": {**md.pressure.to_dict(), "unit": labels.pressure},
        "stability": md.stability.to_dict(),
    }


def npt_entry(md: MDResult) -> dict[str, Any]:
    """The block `npt`: mean cell, volume and density at constant pressure, with errors."""
    return {
        "pressure": md.setup.pressure,
        "free": md.setup.options.cell,
        "mean": md.mean_cell.tolist(),
        **{name: mean.to_dict() for name, mean in md.cell_averages().items()},
        "unit": md.setup.problem.units.labels.length,
    }


def window_entries(found: FrenkelLaddResult) -> dict[str, Any]:
    """The blocks that lambda windows add."""
    problem, springs = found.md.setup.problem, found.springs
    crystal, labels = problem.crystal, problem.units.labels
    stiffness = {
        crystal.labels[kind - 1]: float(springs.stiffness[crystal.types == kind][0]) for kind in np.unique(crystal.types)
    }
    rows = [
        {
            "lambda": window.coupling,
            "n_frames": window.n_sampled,
            "n_independent": len(window.energies),
            "inefficiency": window.inefficiency,
            "mean_energy": float(np.mean(window.energies)) / crystal.n_sites,
            "mean_springs": float(np.mean(window.springs)) / crystal.n_sites,
        }
        for window in found.windows
    ]
    return {
        "estimates": {"mbar": estimate_entry(found.free_energy, found.verdict, problem)},
        "windows": rows,
        "overlap_matrix": found.joined.overlap_matrix.tolist(),
        "neighbour_overlaps": found.joined.neighbour_overlaps.tolist(),
        "springs": {"stiffness": stiffness, "unit": f"{labels.energy}/{labels.length}^2"},
    }


# ---- read back


def load_md_frames(path: Path, problem: Problem) -> MDFrames:
    """Frames of an MD run or a dump file, refused where they are not of this crystal, potential and temperature.

    Args:
        path: Folder of `lammps-bg md`, or of a run with exact samples, or a dump file.
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
    return MDFrames.of_dump(Path(path), problem)


def _of_run(run: RunDirectory, problem: Problem) -> MDFrames:
    results = run.read_results()
    if "exact" in results and run.file("exact.dump.gz").exists():
        _require_same_system(run, results["system"], problem)
        return MDFrames.of_dump(run.file("exact.dump.gz"), problem, known=True)
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
    folder = MDFolder(run)
    if mode != "mbar":
        names = [replica_name(mode, index) for index in range(results["md"]["replicas"])]
        return MDFrames.of_trajectories([_frames(folder, name, run) for name in names], run.path.name, mode)
    springs, seed = springs_of(folder.stored_springs(), problem), run.read_json("provenance.json")["seeds"]["seed"]
    windows = [_window(row, folder, problem, springs, run, seed) for row in results["windows"]]
    crystal = [_frames(folder, window_name(1.0), run)]
    return MDFrames.of_trajectories(crystal, run.path.name, mode, springs, windows)


def _frames(folder: MDFolder, name: str, run: RunDirectory) -> Trajectory:
    """All frames of a trajectory of a finished run."""
    frames = folder.trajectory(name).load()
    if frames is None:
        raise RunDirectoryError(f"expected the trajectory {name} of the MD in {run.path}, got none; run `lammps-bg md` again")
    return frames


def _window(
    row: dict[str, Any], folder: MDFolder, problem: Problem, springs: SpringCrystal, run: RunDirectory, seed: int
) -> Window:
    """The window of a row of results.json."""
    coupling = row["lambda"]
    if coupling == 0.0:
        return Window.of_springs(problem, springs, row["n_frames"], seed)
    return Window.of(springs, coupling, _frames(folder, window_name(coupling), run))


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
    if not (np.abs(np.array(system["cell"]) - own).max() < SAME_CELL * np.abs(own).max() and same_energy):
        raise CrystalError(
            f"expected MD in the cell of the flow, {np.diag(own).round(5).tolist()}, with {static:.8g} {problem.units.labels.energy} per "
            f"atom on the sites, got {np.diag(system['cell']).round(5).tolist()} and {system['static_energy_per_atom']:.8g} in {run.path}; "
            "run `lammps-bg md -model RUN`, which has the same variables"
        )
