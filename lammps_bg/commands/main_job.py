# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run`, `train` and `sample` have in common."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lammps_bg.commands import shared_options as options
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

if TYPE_CHECKING:
    from lammps_bg.study.session import Plan


def execute(args: argparse.Namespace, console: Console, *, sample: bool) -> int:
    """A new run, or one that is continued; returns the exit code.

    Args:
        args: The arguments.
        console: Where to report.
        sample: Draw samples and estimate after the training.
    """
    from lammps_bg.study import session

    if args.resume:
        plan = resumed(args)
    else:
        request = options.request(args)
        out = args.out or Path("runs") / request.script.name.removeprefix("in.")
        plan = session.fresh(request, options.config(args), out, args.words)
    return carry_out(plan, args, console, sample=sample)


def carry_out(plan: "Plan", args: argparse.Namespace, console: Console, *, sample: bool) -> int:
    """A plan, or with --dry-run what it would cost; returns the exit code."""
    from lammps_bg.study import session

    if args.dry_run:
        return session.rehearse(plan, console)
    with StopFlag() as stop:
        return session.execute(plan, console, stop, sample=sample, allow_red=args.allow_red)


def resumed(args: argparse.Namespace) -> "Plan":
    """The plan of --resume."""
    from lammps_bg.study import session

    return session.resumed(
        options.require_out(args, "run"),
        args.words,
        script=args.script,
        given={**options.typed_of_crystal(args), "model": getattr(args, "model", None)},
        flags=options.flags(args),
        overrides=options.overrides(args),
    )
