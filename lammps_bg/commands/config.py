# SPDX-License-Identifier: GPL-2.0-or-later
"""`config`: every configuration key."""

import argparse
import sys

from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.report.console import Console

HELP = "print every configuration key with default and meaning, as TOML"
EXAMPLE = "lammps-bg config --set train.steps=2000 > bg.toml"
WORK = Work.NONE
PLACE = 13


def add_arguments(parser: Parser) -> None:
    options.add_configuration(parser)


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.config import to_toml

    sys.stdout.write(to_toml(options.config(args)))
    return 0
