# SPDX-License-Identifier: GPL-2.0-or-later
"""`relax`: the crystal at its energy minimum."""

import argparse
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

HELP = "the crystal at its energy minimum, cell and atoms, written as a script for plain LAMMPS, too"
EXAMPLE = "lammps-bg relax -in inputs/in.si_betatin --cell xy -P 10 GPa -out runs/in.si_betatin_10GPa"
WORK = Work.SINGLE
PLACE = 4


def add_arguments(parser: Parser) -> None:
    options.add(parser, "-in", help="LAMMPS input script of the crystal (required)")
    free = "what of the cell may change: nothing, its volume, a = b and c, its lengths, or lengths and tilts (default: aniso, in a tilted box tri)"
    parser.add_argument("--cell", choices=["none", *options.FREE_CELL], help=free)
    target = "target in the script's pressure unit, or with a unit: 1 GPa (default: variable P of the script, else 0)"
    parser.add_argument("-P", dest="pressure", nargs="+", metavar="PRESSURE", help=target)
    where = "file or folder for the relaxed script (default: in.NAME_relaxed beside the original); nothing is overwritten"
    parser.add_argument("-out", type=Path, metavar="PATH", help=where)
    parser.set_defaults(rep=None, elements=[])
    options.add_lammps(parser)


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands import relax_job

    pressure = " ".join(args.pressure) if args.pressure else None
    plan = relax_job.RelaxPlan(options.request(args), args.cell, pressure, args.out, args.words)
    return relax_job.execute(plan, console)
