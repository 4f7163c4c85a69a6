# SPDX-License-Identifier: GPL-2.0-or-later
"""`gibbs`: Gibbs free energies of one crystal."""

import argparse
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

HELP = "Gibbs free energy, volume and compressibility from a model over cells; several values of -var, -T, -P make a table"
EXAMPLE = "lammps-bg gibbs -model runs/mw_v -P 0 1 GPa -out runs/mw_gibbs"
WORK = Work.SHARED
PLACE = 6


def add_arguments(parser: Parser) -> None:
    options.add_model(parser)
    options.add(parser, "-P", "-T")
    cell = "which cell variables are free, as in LAMMPS' fix npt (default: all that the model was trained over)"
    options.add(parser, "--cell", help=cell)
    parser.add_argument(
        "-md",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="compare with `lammps-bg md --mode npt` (volume) or `mbar` (F) (default: no comparison)",
    )
    options.add(parser, "--exact")
    options.add(parser, "-out", help="folder, new or empty (default: the run's name with _gibbs)")
    options.add(parser, "--allow-red")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands.gibbs_job import GibbsJob, carry_out

    options.require_model(args)
    job = GibbsJob(
        args.model,
        args.out,
        args.words,
        **options.applied(args),
        pressures=args.pressures,
        temperatures=args.temperatures,
        cell=args.cell,
        md=args.md,
    )
    with StopFlag() as stop:
        return carry_out(job, console, stop, allow_red=args.allow_red)
