# SPDX-License-Identifier: GPL-2.0-or-later
"""`run`: the whole job."""

import argparse

from lammps_bg.commands import Work, main_job
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

HELP = "the whole job: base, training, samples, free energy, dump"
EXAMPLE = "lammps-bg run -in inputs/in.mw_cubic -rep 2 2 2 -var T 200 -out runs/mw"
WORK = Work.SHARED
PLACE = 1


def add_arguments(parser: Parser) -> None:
    options.add(parser, "--judge", "--exact")
    options.add_script(parser)
    options.add_output(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in -out from its last checkpoint")


def execute(args: argparse.Namespace, console: Console) -> int:
    return main_job.execute(args, console, draws=True)
