# SPDX-License-Identifier: GPL-2.0-or-later
"""What an MD run leaves: results.json, observables.json, thermo.csv, windows.csv, md.dump.gz, and the summary."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.engine.dump import DumpWriter
from lammps_bg.report.console import Console
from lammps_bg.store.trajectory import Trajectory, TrajectoryFiles
from lammps_bg.study.entries import estimate_entry
from lammps_bg.study.md_job import Job, slowest
from lammps_bg.study.md_windows import Window, Windows, crystal_integral
from lammps_bg.study.problem import Problem
from lammps_bg.study.stability import Stability
from lammps_bg.thermo.free_energy import CrystalReference, absolute_from_difference
from lammps_bg.thermo.timeseries import Decorrelated, correlated_mean
from lammps_bg.thermo.verdict import RED_OVERLAP, RELIABLE, Verdict

Array = NDArray[np.float64]
_TEMPERATURE_OFF, _TEMPERATURE_Z = 0.05, 4.5  # allowed share, and standard errors that noise hardly reaches
_ENOUGH = 50  # independent frames below which an average is not reported


def independent_frames(trajectories: Sequence[Trajectory], *, npt: bool) -> tuple[Trajectory, list[Decorrelated]]:
    """The independent frames of all replicas, and how each decorrelates.

    Args:
        trajectories: One for each replica.
        npt: Whether the volume has to decorrelate, too.
    """
    found = [slowest(constant_pressure_series(part) if npt else [part.energies]) for part in trajectories]
    picked = [part[decorrelated.indices] for part, decorrelated in zip(trajectories, found, strict=True)]
    return Trajectory.joined(picked), found


def pressures(job: Job, frames: Trajectory) -> Array:
    """Pressures of frames with the ideal part N kT / V, pressure units, shape [n].

    Args:
        job: Crystal and temperature.
        frames: Frames of one trajectory.
    """
    return np.asarray(frames.virials + job.problem.ideal_pressure(np.linalg.det(frames.cells)))


def write_thermo(job: Job, trajectories: Sequence[Trajectory]) -> None:
    """thermo.csv with every frame of every replica.

    Args:
        job: Crystal, settings and run directory.
        trajectories: One for each replica.
    """
    text = io.StringIO()
    text.write("replica,step,time,pe,temperature,pressure,volume,lx,ly,lz,xy,xz,yz\n")
    for replica, part in enumerate(trajectories):
        cells = part.cells
        columns = [
            np.full(len(part), replica), part.steps, part.steps * job.settings.timestep, part.energies, part.temperatures,
            pressures(job, part), np.linalg.det(cells), cells[:, 0, 0], cells[:, 1, 1], cells[:, 2, 2],
            cells[:, 1, 0], cells[:, 2, 0], cells[:, 2, 1],
        ]  # fmt: skip
        np.savetxt(text, np.stack(columns, 1), fmt=["%d", "%d", *["%.12g"] * 11], delimiter=",")
    job.run.write_text("thermo.csv", text.getvalue())


def write_windows(job: Job, windows: Sequence[Window]) -> None:
    """windows.csv: the two energies of every independent frame, from which u_kn follows.

    Args:
        job: Run directory.
        windows: By rising lambda.
    """
    text = io.StringIO()
    text.write("window,lambda,frame,u_springs,pe\n")
    for index, window in enumerate(windows):
        n = len(window.energies)
        rows = np.stack([np.full(n, index), np.full(n, window.coupling), np.arange(n), window.springs, window.energies], 1)
        np.savetxt(text, rows, fmt=["%d", "%.12g", "%d", "%.17g", "%.17g"], delimiter=",")
    job.run.write_text("windows.csv", text.getvalue())


def write_dump(job: Job, frames: Trajectory) -> None:
    """md.dump.gz: independent frames with their energies and cells, for OVITO, rerun and ASE.

    Args:
        job: Crystal and run directory.
        frames: Independent frames.
    """
    path, problem = job.run.file("md.dump.gz"), job.problem
    crystal = problem.crystal
    path.unlink(missing_ok=True)
    if job.config.md.n_dump == 0:
        return
    triclinic = problem.engine.triclinic or job.config.md.cell == "tri"
    with DumpWriter(path, crystal, units=problem.units.name, triclinic=triclinic) as dump:
        for index in range(min(job.config.md.n_dump, len(frames))):
            cell = frames.cells[index]
            positions = crystal.sites_in(cell) + frames.displacements[index]
            dump.write(index, positions, 0.0, energy=float(frames.energies[index]), cell=cell)


def verdict_of(n_independent: float, wanted: int, neighbours: float | None = None) -> Verdict:
    """What to think of an MD run.

    Args:
        n_independent: Independent frames of the crystal.
        wanted: Independent frames asked for.
        neighbours: Smallest overlap of neighbouring windows, where there are some.
    """
    reason = f"There are {n_independent:.0f} independent frames."
    if neighbours is not None:
        reason += f" Neighbouring windows overlap by at least {neighbours:.2f}."
    if n_independent < _ENOUGH or (neighbours is not None and neighbours < RED_OVERLAP):
        return Verdict("red", (reason,), False, "Run longer: raise md.max_steps or md.window_frames.")
    if n_independent < 0.9 * wanted:
        return Verdict(
            "amber", (f"{reason} {wanted} were asked for.",), True, "Continue with --resume and a larger md.max_steps."
        )
    return Verdict("green", (reason,), True, RELIABLE)


def judge_temperature(measured: Mapping[str, Any], wanted: float) -> list[Verdict]:
    """Red where the kinetic temperature is another one, by more than noise and a few per cent; nothing where it is not known.

    Args:
        measured: Entry of results.json.
        wanted: The script's.
    """
    value, error = measured["value"], measured["error"]
    if value is None or abs(value - wanted) < max(_TEMPERATURE_OFF * wanted, _TEMPERATURE_Z * error):
        return []
    reason = f"The kinetic temperature is {value:.4g} +- {error:.1g}, not {wanted:g}."
    return [Verdict("red", (reason,), False, "Lower md.timestep, or change md.damp.")]


def mode_entry(
    job: Job, mode: str, trajectories: Sequence[Trajectory], found: Sequence[Decorrelated], stable: Stability
) -> dict[str, Any]:
    """The block `md` of results.json.

    Args:
        job: Settings.
        mode: nvt, npt or mbar.
        trajectories: Of the crystal, one for each replica.
        found: How each decorrelates.
        stable: How far atoms are from their sites.
    """
    labels = job.problem.units.labels
    return {
        "mode": mode,
        **asdict(job.settings),
        "units": {"time": labels.time, "pressure": labels.pressure, "length": labels.length},
        "replicas": len(trajectories),
        "steps": [int(part.steps[-1]) for part in trajectories],
        "n_frames": sum(map(len, trajectories)),
        "n_independent": float(sum(part.n_independent for part in found)),
        "equilibration_frames": [int(part.start) for part in found],
        "inefficiency": [float(part.inefficiency) for part in found],
        "temperature": _mean([part.temperatures for part in trajectories], found),
        "pressure": {**_mean([pressures(job, part) for part in trajectories], found), "unit": labels.pressure},
        "stability": stable.to_dict(),
    }


def cell_entry(job: Job, trajectories: Sequence[Trajectory], found: Sequence[Decorrelated]) -> dict[str, Any]:
    """Mean cell, volume and density of constant-pressure dynamics, with errors.

    Args:
        job: Crystal and units.
        trajectories: One for each replica.
        found: How each decorrelates.
    """
    length, n_atoms = job.problem.units.labels.length, job.problem.crystal.n_sites
    volumes = [np.linalg.det(part.cells) for part in trajectories]
    parts = {"lx": (0, 0), "ly": (1, 1), "lz": (2, 2), "xy": (1, 0), "xz": (2, 0), "yz": (2, 1)}
    vectors = {name: [part.cells[:, row, column] for part in trajectories] for name, (row, column) in parts.items()}
    cells = np.concatenate([part.cells[one.start :] for part, one in zip(trajectories, found, strict=True)])
    return {
        "mean": cells.mean(0).tolist(),
        **{name: _mean(series, found) for name, series in vectors.items()},
        "ln_c_over_a": _mean(
            [np.log(p.cells[:, 2, 2] / np.sqrt(p.cells[:, 0, 0] * p.cells[:, 1, 1])) for p in trajectories], found
        ),
        "volume": _mean(volumes, found),
        "number_density": _mean([n_atoms / series for series in volumes], found),
        "unit": length,
    }


def _mean(series: Sequence[Array], found: Sequence[Decorrelated]) -> dict[str, Any]:
    """Mean after equilibration with an error for correlated data; no error where a quantity does not move."""
    parts = [values[one.start :] for values, one in zip(series, found, strict=True)]
    every = np.concatenate(parts)
    if np.ptp(every) <= 1e-12 * abs(every.mean()):
        return {"value": float(every.mean()), "error": 0.0, "n": len(every)}
    return correlated_mean(*parts, minimum=1).to_dict()


def mbar_entry(problem: Problem, windows: Windows, verdict: Verdict) -> dict[str, Any]:
    """The absolute free energy from the windows, with the terms of the flow's and the windows' work in place of the flow's.

    Args:
        problem: Crystal and temperature.
        windows: Springs, windows, and their MBAR.
        verdict: What to think of it.
    """
    crystal, static = problem.crystal, problem.beta * problem.surface.static_energy
    known = CrystalReference(static, windows.springs.log_integral, crystal.n_sites, crystal.volume, problem.length_scale)
    difference = crystal_integral(problem, windows.springs, windows.joined)
    entry = estimate_entry(absolute_from_difference(difference, known), verdict, problem)
    entry["terms"] = {"lambda_windows" if name == "flow" else name: value for name, value in entry["terms"].items()}
    return entry


def window_entries(windows: Sequence[Window], n_atoms: int) -> list[dict[str, float]]:
    """A row of results.json for each window.

    Args:
        windows: By rising lambda.
        n_atoms: Number of atoms N.
    """
    return [
        {
            "lambda": window.coupling,
            "n_frames": window.n_sampled,
            "n_independent": len(window.energies),
            "inefficiency": window.inefficiency,
            "mean_energy": float(np.mean(window.energies)) / n_atoms,
            "mean_springs": float(np.mean(window.springs)) / n_atoms,
        }
        for window in windows
    ]


def window_results(job: Job, found: Windows, verdict: Verdict) -> dict[str, Any]:
    """The blocks of results.json that lambda windows add.

    Args:
        job: Crystal and temperature.
        found: Springs, windows and their MBAR.
        verdict: What to think of it.
    """
    n_atoms = job.problem.crystal.n_sites
    kinds = job.problem.crystal.types
    stiffness = {
        job.problem.crystal.labels[kind - 1]: float(found.springs.stiffness[kinds == kind][0]) for kind in np.unique(kinds)
    }
    labels = job.problem.units.labels
    return {
        "estimates": {"mbar": mbar_entry(job.problem, found, verdict)},
        "windows": window_entries(found.windows, n_atoms),
        "overlap_matrix": found.joined.overlap_matrix.tolist(),
        "neighbour_overlaps": found.joined.neighbour_overlaps.tolist(),
        "springs": {"stiffness": stiffness, "unit": f"{labels.energy}/{labels.length}^2"},
    }


def constant_pressure_series(frames: Trajectory) -> list[Array]:
    """What has to decorrelate at constant pressure: energy and volume.

    Args:
        frames: Frames of one trajectory.
    """
    return [frames.energies, np.linalg.det(frames.cells)]


def evaluations(job: Job) -> int:
    """Force evaluations of all trajectories on disk, and energies evaluated outside them.

    Args:
        job: The run directory.
    """
    names = {path.name.removesuffix("-0000.npz") for path in job.folder.glob("*-0000.npz")}
    steps = sum(TrajectoryFiles(job.folder, name).last_step for name in names)
    return steps + job.problem.n_evaluations


def show(console: Console, results: dict[str, Any], verdict: Verdict, job: Job) -> None:
    """The summary on the console.

    Args:
        console: Where to report.
        results: results.json.
        verdict: What to think of it.
        job: Units and run directory.
    """
    labels, md = job.problem.units.labels, results["md"]
    rows = [
        (f"temperature, {labels.temperature}", _shown(md["temperature"])),
        (f"pressure, {labels.pressure}", _shown(md["pressure"])),
    ]
    if "observables" in results:
        rows.append(
            (f"potential energy, {labels.energy} per atom", _shown(results["observables"]["potential_energy_per_atom"]["md"]))
        )
    for name in ("volume", "lx", "ly", "lz", "number_density") if "npt" in results else ():
        rows.append((name.replace("_", " "), _shown(results["npt"][name])))
    if "estimates" in results:
        entry = results["estimates"]["mbar"]
        rows.append(("beta F/N  MD + MBAR", _shown(entry["beta_F_per_atom"])))
        rows += [(f"  {name.replace('_', ' ')}", f"{term:.5f}") for name, term in entry["terms"].items() if term is not None]
        if entry["F_per_atom"]["value"] is not None:
            rows.append((f"F, {entry['F_per_atom']['unit']}", _shown(entry["F_per_atom"])))
    console.say("")
    console.table(f"Molecular dynamics at T = {job.problem.temperature:g} {labels.temperature}", rows)
    console.say(f"           {md['n_independent']:.0f} independent of {md['n_frames']} frames, {sum(md['steps'])} steps")
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {job.run.path}")


def _shown(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return "not reliable"
    if not entry["error"]:
        return f"{entry['value']:.6g}"
    digits = max(0, 1 - math.floor(math.log10(entry["error"])))
    return f"{entry['value']:.{digits}f} +- {entry['error']:.{digits}f}"
