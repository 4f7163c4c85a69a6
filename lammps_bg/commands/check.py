# SPDX-License-Identifier: GPL-2.0-or-later
"""`check`: what was understood of a script, with nothing written."""

import argparse
import json
import sys

from lammps_bg import parallel
from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

HELP = "what is understood of a script, tested against LAMMPS; writes nothing"
EXAMPLE = "lammps-bg check -in inputs/in.mw_cubic -rep 2 2 2"
WORK = Work.REPEATED
PLACE = 3


def add_arguments(parser: Parser) -> None:
    options.add_script(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.study import preflight
    from lammps_bg.study.problem import Problem

    config = options.config(args)
    problem = Problem.load(options.request(args), config.estimate.length_scale)
    found = preflight.examine(problem, config)
    if not parallel.first():
        return 0
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        preflight.show(found, console)
    return 0
