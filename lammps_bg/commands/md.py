# SPDX-License-Identifier: GPL-2.0-or-later
"""`md`: reference molecular dynamics."""

import argparse

from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

HELP = "reference molecular dynamics with the script's potential: NVT, NPT, or the free energy by lambda windows"
EXAMPLE = "lammps-bg md -model runs/mw --mode mbar -out runs/mw_mbar"
WORK = Work.SHARED
PLACE = 8
MODES = ("nvt", "npt", "mbar")


def add_arguments(parser: Parser) -> None:
    options.add_script(parser)
    options.add(parser, "-model", help="take script, replicate and temperature from a run (default: from -in)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="nvt: frames at the script's cell (default); npt: mean cell at the variable P; mbar: absolute free energy, Einstein crystal to crystal",
    )
    options.add(parser, "-out", help="run directory, new or empty (default: runs/<name>_<mode>)")
    parser.add_argument("--dry-run", action="store_true", help="set everything up, estimate time and disk, write nothing")
    parser.add_argument("--resume", action="store_true", help="continue the simulation in -out")
    options.add(parser, "--allow-red")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands import md_job

    plan = md_job.planned(args)
    if args.dry_run:
        return md_job.rehearse(plan, console)
    with StopFlag() as stop:
        return md_job.execute(plan, console, stop, allow_red=args.allow_red)
