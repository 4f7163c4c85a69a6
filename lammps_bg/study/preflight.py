# SPDX-License-Identifier: GPL-2.0-or-later
"""`check`: what was understood of a script, tested against LAMMPS, with nothing written."""

import logging
from typing import Any

import numpy as np

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.report.console import Console
from lammps_bg.store.provenance import package_versions
from lammps_bg.study.force_mismatch import MISMATCH, explained, force_error
from lammps_bg.study.problem import Problem

log = logging.getLogger(__name__)


def examine(problem: Problem, config: Config) -> dict[str, Any]:
    """Everything `check` tells, as one JSON object.

    Args:
        problem: Crystal and temperature.
        config: The configuration.
    """
    engine, labels = problem.engine, problem.units.labels
    mismatch = force_error(problem, config.seed)
    if mismatch > MISMATCH:
        log.warning(
            "forces differ from finite differences of the energy by %.1g of their size; %s; training follows the forces",
            mismatch, explained(problem, config.seed),
        )  # fmt: skip
    return {
        "script": str(engine.script_files[0]),
        "units": problem.units.name,
        "temperature": problem.temperature,
        **_crystal(problem, config),
        "pair_style": engine.pair_style,
        "energy": problem.surface.static_energy,
        "energy_per_atom": problem.surface.static_energy / problem.crystal.n_sites,
        "largest_force": problem.largest_force,
        "force_error": mismatch,
        "cutoff": engine.cutoff(),
        "pressure": float(engine.virial_pressure(engine.sites[None])[0]),
        "length_scale": {"value": problem.length_scale, "source": problem.length_source},
        "unit_names": {name: getattr(labels, name) for name in ("energy", "length", "temperature", "pressure")},
        "skipped_commands": [f"{c.file.name}:{c.line}: {c.command} ({c.reason})" for c in engine.skipped],
        "removed_fixes": engine.removed_fixes,
        "input_files": [path.name for path in problem.surface.files],
        "lammps_version": engine.version,
        "lammps_warnings": engine.lines,
        "mpi_ranks": parallel.size(),
        "versions": package_versions(),
    }


def _crystal(problem: Problem, config: Config) -> dict[str, Any]:
    """What is known of the lattice."""
    crystal = problem.crystal
    graph = neighbour_graph(crystal, count=config.flow.n_neighbours)
    return {
        "n_atoms": crystal.n_sites,
        "species": sorted(set(crystal.species)),
        "types": [
            {"type": t + 1, "label": crystal.labels[t], "mass": float(crystal.masses[t])} for t in range(len(crystal.labels))
        ],
        "space_group": crystal.unit.space_group,
        "unit_cell": crystal.unit.cell.tolist(),
        "sites_per_cell": crystal.n_basis,
        "replicate": list(crystal.replicate),
        "cell": crystal.supercell.tolist(),
        "volume": crystal.volume,
        "nearest_distance": crystal.nearest_distance,
        "neighbours": graph.count,
        "site_classes": int(crystal.unit.site_class.max()) + 1,
        "colours": int(colour_sites(crystal, graph).max()) + 1,
    }


def show(found: dict[str, Any], console: Console) -> None:
    """Print what `examine` found, for people."""
    unit = found["unit_names"]
    lengths = np.linalg.norm(np.array(found["cell"]), axis=1)
    types = ", ".join(f"{t['type']} = {t['label']} ({t['mass']:g})" for t in found["types"])
    rows = [
        ("script", found["script"]),
        ("units", f"{found['units']} (energy {unit['energy']}, length {unit['length']}, pressure {unit['pressure']})"),
        ("temperature", f"{found['temperature']:g} {unit['temperature']}"),
        ("types (mass)", types),
        (
            "crystal",
            f"{found['space_group']}, {found['sites_per_cell']} sites in the unit cell, {found['site_classes']} classes under translation",
        ),
        ("replicate", f"{' x '.join(map(str, found['replicate']))} unit cells: {found['n_atoms']} atoms"),
        ("cell", f"{' x '.join(f'{x:.6g}' for x in lengths)} {unit['length']}, volume {found['volume']:.6g} {unit['length']}^3"),
        (
            "neighbours",
            f"{found['neighbours']} for each site, nearest at {found['nearest_distance']:.6g} {unit['length']}; {found['colours']} colours",
        ),
        ("pair style", found["pair_style"]),
        ("energy", f"{found['energy_per_atom']:.10g} {unit['energy']} per atom"),
        ("pressure", f"{found['pressure']:.6g} {unit['pressure']} (atoms at rest)"),
        ("largest force", f"{found['largest_force']:.3g} {unit['energy']}/{unit['length']}"),
        ("forces", f"agree with finite differences of the energy to {found['force_error']:.1e}"),
        ("Lambda", f"{found['length_scale']['value']:.6g} {unit['length']} ({found['length_scale']['source']})"),
        ("files", ", ".join(found["input_files"])),
        ("LAMMPS", f"{found['lammps_version']}, {found['mpi_ranks']} MPI rank(s)"),
    ]
    for name, text in rows:
        console.say(f"{name:14s} {text}")
    for title, entries in (
        ("not executed", found["skipped_commands"]),
        ("fixes removed", found["removed_fixes"]),
        ("LAMMPS says", found["lammps_warnings"]),
    ):
        for entry in entries:
            console.say(f"{title:14s} {entry}")
