# SPDX-License-Identifier: GPL-2.0-or-later
"""`status`: where jobs stand."""

import argparse
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

HELP = "where running, stopped or dead jobs stand: stage, step, ESS, F, time to the end"
EXAMPLE = "lammps-bg status runs/mw runs/mw_md"
WORK = Work.NONE
PLACE = 12


def add_arguments(parser: Parser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of any command, at any moment (required)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for several folders a list of them")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.study import status

    return status.report(args.runs, console, as_json=args.json)
