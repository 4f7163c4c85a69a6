# SPDX-License-Identifier: GPL-2.0-or-later
"""`check`: what was understood of a script, with nothing written."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lammps_bg import parallel
from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

if TYPE_CHECKING:
    from lammps_bg.study.check import Check

HELP = "what is understood of a script, tested against LAMMPS; writes nothing"
EXAMPLE = "lammps-bg check -in inputs/in.mw_cubic -rep 2 2 2"
WORK = Work.REPEATED
PLACE = 3


def add_arguments(parser: Parser) -> None:
    options.add_script(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.store.provenance import package_versions
    from lammps_bg.study.check import check
    from lammps_bg.study.problem import Problem

    config = options.config(args)
    found = check(Problem.load(options.request(args), config.estimate.length_scale), config)
    if not parallel.first():
        return 0
    if args.json:
        entry = {**found.to_dict(), "mpi_ranks": parallel.size(), "versions": package_versions()}
        sys.stdout.write(json.dumps(entry, indent=2) + "\n")
    else:
        show(found, console)
    return 0


def show(found: "Check", console: Console) -> None:
    """Print what was understood, for people."""
    for name, text in _rows(found):
        console.say(f"{name:14s} {text}")


def _rows(found: "Check") -> Iterator[tuple[str, str]]:
    energy, length, pressure = (found.unit_names[name] for name in ("energy", "length", "pressure"))
    yield "script", found.script
    yield "units", f"{found.units} (energy {energy}, length {length}, pressure {pressure})"
    yield "temperature", f"{found.temperature:g} {found.unit_names['temperature']}"
    yield "types (mass)", ", ".join(f"{kind.type} = {kind.label} ({kind.mass:g})" for kind in found.types)
    yield (
        "crystal",
        f"{found.space_group}, {found.sites_per_cell} sites in the unit cell, {found.site_classes} classes under translation",
    )
    yield "replicate", f"{' x '.join(map(str, found.replicate))} unit cells: {found.n_atoms} atoms"
    lengths = " x ".join(f"{math.hypot(*vector):.6g}" for vector in found.cell)
    yield "cell", f"{lengths} {length}, volume {found.volume:.6g} {length}^3"
    near = f"nearest at {found.nearest_distance:.6g} {length}"
    yield "neighbours", f"{found.neighbours} for each site, {near}; {found.colours} colours"
    yield "pair style", found.pair_style
    yield "energy", f"{found.energy_per_atom:.10g} {energy} per atom"
    yield "pressure", f"{found.pressure:.6g} {pressure} (atoms at rest)"
    yield "largest force", f"{found.largest_force:.3g} {energy}/{length}"
    yield "forces", f"agree with finite differences of the energy to {found.force_error:.1e}"
    yield "Lambda", f"{found.length_scale['value']:.6g} {length} ({found.length_scale['source']})"
    yield "files", ", ".join(found.input_files)
    yield "LAMMPS", f"{found.lammps_version}, {parallel.size()} MPI rank(s)"
    for title, entries in (
        ("not executed", found.skipped_commands),
        ("fixes removed", found.removed_fixes),
        ("LAMMPS says", found.lammps_warnings),
    ):
        yield from ((title, entry) for entry in entries)
