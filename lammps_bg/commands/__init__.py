# SPDX-License-Identifier: GPL-2.0-or-later
"""One file a command: its arguments and its wiring. The program finds them by their file names.

A command is a module of this package whose name has no underscore; what several of them share has one. It imports what computes only when
it is executed: `--help`, a typo or `status` shall not wait for torch and LAMMPS.
"""

import argparse
import pkgutil
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from importlib import import_module
from typing import Protocol, cast

from lammps_bg import __version__
from lammps_bg.commands.command_parser import WIDTH, Parser
from lammps_bg.commands.shared_options import add
from lammps_bg.report.console import Console

_EPILOG = """\
examples:
  lammps-bg check -in in.mw_cubic                                  what is understood of a script; writes nothing
  lammps-bg run -in in.mw_cubic -rep 2 2 2 -var T 200 -out runs/mw  base, training, samples, free energy
  lammps-bg sample -model runs/mw -rep 4 4 4 -out runs/mw_512       the trained flow on a larger crystal
  lammps-bg md -model runs/mw --mode mbar -out runs/mw_md           the same free energy by MD, with the script's potential
  lammps-bg estimate -model runs/mw -md runs/mw_md                  flow and MD side by side; report.html
  lammps-bg train -in in.mw_cubic -rep 2 2 2 --set condition.volume=[-0.06,0.06] -out runs/mw_v   a model for every volume
  lammps-bg gibbs -model runs/mw_v -P 0 1 GPa                       Gibbs free energies from it
  lammps-bg slurm --time 24:00:00 -- run -in in.mw_cubic -out runs/mw > job.sh   the same as a batch job
  lammps-bg config                                                 every configuration key with its default

`lammps-bg COMMAND -h` explains every option of a command, with unit and default.
exit codes: 0 done, 1 training or estimate failed or the disk is full, 2 bad input (one sentence says what), 3 red verdict, 75 stopped by SIGUSR1
or SIGTERM, as a queue sends them before the time is up (what was done is saved: start the same again with --resume), 130 by Ctrl-C
"""


class Work(Enum):
    """What a command does with the MPI ranks that it is given."""

    SHARED = "shared"
    """Shares its work out among them, and may be a batch job."""
    REPEATED = "repeated"
    """Each rank does the same."""
    SINGLE = "single"
    """Computes on one."""
    NONE = "none"
    """Only reads and prints: needs no scratch folder and no threads."""


class Command(Protocol):
    """What a module of a command has.

    Attributes:
        HELP: What it does, in one line.
        EXAMPLE: A line that works.
        WORK: What it does with MPI ranks.
        PLACE: Where it stands in the list of commands: those with low numbers come first.
    """

    HELP: str
    EXAMPLE: str
    WORK: Work
    PLACE: int

    def add_arguments(self, parser: Parser) -> None:
        """Declare its arguments."""

    def execute(self, args: argparse.Namespace, console: Console) -> int:
        """Carry it out; returns the exit code."""


def names() -> list[str]:
    """The commands, in alphabetical order."""
    return [module.name for module in pkgutil.iter_modules(__path__) if "_" not in module.name]


def load(name: str) -> Command:
    """The module of a command."""
    return cast("Command", import_module(f"{__name__}.{name}"))


def sharing() -> list[str]:
    """Commands that share their work out among MPI ranks, in the order of the help."""
    return [name for name, command in _in_order(names()) if command.WORK is Work.SHARED]


def _in_order(some: Sequence[str]) -> Iterator[tuple[str, Command]]:
    found = {name: load(name) for name in some}
    yield from sorted(found.items(), key=lambda item: (item[1].PLACE, item[0]))


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; only the module of its command is loaded.

    Raises:
        ConfigError: The command or an argument is unknown, or has a wrong value.
        SystemExit: Help or the version was asked for, and has been printed.
    """
    known = names()
    own, passed_on = list(words), list[str]()
    if own[:1] == ["slurm"] and "--" in own:
        at = own.index("--")
        own, passed_on = own[:at], own[at + 1 :]
    args = _parser(own[:1] if own[:1] and own[0] in known else known).parse_args(own)
    args.words, args.job = list(words), passed_on
    return args


def print_help() -> None:
    """What the program does, and its commands."""
    _parser(names()).print_help()


def _parser(some: Sequence[str]) -> Parser:
    """The parser of some commands."""
    parser = Parser(
        prog="lammps-bg",
        description="Boltzmann generators for crystals on LAMMPS: independent configurations, exact weights, free energies.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lammps-bg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, command in _in_order(some):
        sub = commands.add_parser(
            name,
            help=command.HELP,
            description=textwrap.fill(command.HELP[0].upper() + command.HELP[1:] + ".", WIDTH),
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
        if command.WORK is Work.SHARED:
            add(sub, "-lammps-ranks")
    return parser
