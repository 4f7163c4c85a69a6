# SPDX-License-Identifier: GPL-2.0-or-later
"""`report`: the HTML page of a finished run."""

import argparse
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

HELP = "one HTML page with all numbers and figures of a finished run; the figures as PNG and JSON"
EXAMPLE = "lammps-bg report runs/mw"
WORK = Work.SINGLE
PLACE = 11


def add_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of any finished command but `train` (required)")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands import run_report

    run_report.report(args.run, console)
    return 0
