# SPDX-License-Identifier: GPL-2.0-or-later
"""`phase`: where two or more crystals coexist."""

import argparse
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.command_parser import Parser
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

HELP = "where two or more crystals have the same Gibbs free energy, traced over a second axis"
EXAMPLE = "lammps-bg phase -models runs/si_diamond runs/si_betatin --axis P -T 400 600 -out runs/si_phase"
WORK = Work.SHARED
PLACE = 7


def add_arguments(parser: Parser) -> None:
    models = "runs with models over cells, one for each crystal (required)"
    parser.add_argument("-models", nargs="+", type=Path, required=True, metavar="RUN", help=models)
    parser.add_argument("--axis", required=True, metavar="NAME", help="P, T, or a parameter of the potential (required)")
    limits = (
        "ends of the axis in the script's unit; of P with another where wanted: 0 20 GPa (default: all that the models cover)"
    )
    parser.add_argument("--range", dest="limits", nargs="+", default=[], metavar="END", help=limits)
    options.add(parser, "-P", "-T")
    values = "values of a parameter of the potential, in the script's units; several are evaluated one after the other (default: the script's)"
    options.add(parser, "-var", help=values)
    copies = "copies along each cell vector, once for all models or once for each (default: as trained)"
    options.add(parser, "-rep", action="append", default=[], help=copies)
    cell = "which cell variables are free, once for all models or once for each (default: all that each was trained over)"
    options.add(parser, "--cell", action="append", default=[], help=cell)
    parser.add_argument("--other-sizes", action="store_true", help="compare crystals of unequal numbers of atoms")
    options.add(parser, "--exact")
    options.add(parser, "-out", help="folder, new or empty (default: runs/<names>_phase)")
    options.add(parser, "--allow-red")
    options.add_configuration(parser)


def execute(args: argparse.Namespace, console: Console) -> int:
    from lammps_bg.commands.phase_job import PhaseJob, carry_out

    job = PhaseJob(
        args.models,
        args.out,
        args.words,
        args.axis,
        options.overrides(args),
        limits=args.limits,
        pressures=args.pressures,
        temperatures=args.temperatures,
        variables=options.variables(args),
        replicates=args.rep,
        cell=args.cell,
        other_sizes=args.other_sizes,
    )
    with StopFlag() as stop:
        return carry_out(job, console, stop, allow_red=args.allow_red)
