# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate`: free energies and observables from stored samples."""

import argparse
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

HELP = "free energies and observables from the samples of a run"
EXAMPLE = "lammps-bg estimate -model runs/mw -md runs/mw_mbar"
WORK = Work.SHARED
PLACE = 9


def add_arguments(parser: Parser) -> None:
    options.add(parser.add_argument_group("model"), "-model", required=True)
    options.add_configuration(parser)
    options.add(parser, "--exact")
    beside = "compare with MD: folder of `lammps-bg md` (nvt or mbar), or your own dump file (default: no comparison)"
    parser.add_argument("-md", type=Path, metavar="RUN", help=beside)
    options.add(parser, "-out", help="folder for the new results (default: results.json of the run is renewed)")
    options.add(parser, "--allow-red")


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands import run_steps

    again = run_steps.Again(args.model, args.out, options.overrides(args), args.md)
    with StopFlag() as stop:
        return run_steps.estimate_again(again, console, stop, allow_red=args.allow_red)
