# SPDX-License-Identifier: GPL-2.0-or-later
"""`sample`: draws and chains from a trained model."""

import argparse

from lammps_bg.commands import Work, main_job
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.errors import ConfigError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

HELP = "draw from a trained model, at its own or another replicate"
EXAMPLE = "lammps-bg sample -model runs/mw -rep 4 4 4 -out runs/mw_512"
WORK = Work.SHARED
PLACE = 5


def add_arguments(parser: Parser) -> None:
    options.add_model(parser)
    options.add(parser, "--strain")
    options.add_output(parser)
    options.add(parser, "--judge", "--exact")
    pressure = (
        "of a model over cells: exact samples at this pressure, in the script's unit or with one (-P 1 GPa), in which the cell changes, too "
        "(default: one cell)"
    )
    parser.add_argument("-P", dest="pressure", nargs="+", default=[], metavar="PRESSURE", help=pressure)
    cell = "with -P: which cell variables are free, as in LAMMPS' fix npt (default: all that the model was trained over)"
    options.add(parser, "--cell", help=cell)
    parser.add_argument("--resume", action="store_true", help="continue the sampling in -out; it has its own copy of the model")
    another = "another script of the same crystal (default: the run's own); a different potential needs --force"
    options.add(parser, "-in", help=another)
    parser.add_argument(
        "--force", action="store_true", help="use a model at another temperature or potential than it was trained for"
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands import isobaric_job, job_request

    if args.resume:
        job = main_job.resumed(args)
    else:
        options.require_model(args)
        job = job_request.of_model(args.model, args.out, main_job.typed(args))
    unfit = {"--strain": bool(args.strain), "--force": args.force}
    pressure = isobaric_job.asked_for(job, args.pressure, args.cell, unfit)
    if pressure is None:
        return main_job.carry_out(job, args, console, draws=True)
    if args.exact == "never":
        raise ConfigError("expected chains for samples at constant pressure, got --exact never; leave out --exact")
    with StopFlag() as stop:
        return isobaric_job.execute(job, pressure, console, stop, allow_red=args.allow_red, dry_run=args.dry_run)
