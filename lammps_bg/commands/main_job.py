# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run`, `train` and `sample` have in common: from the arguments to a job, and to carrying it out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lammps_bg.commands import shared_options as options
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console

if TYPE_CHECKING:
    from lammps_bg.commands.job_request import Job, Typed


def execute(args: argparse.Namespace, console: Console, *, draws: bool) -> int:
    """A new run, or one that is continued; returns the exit code.

    Args:
        args: The arguments.
        console: Where to report.
        draws: Draw samples and estimate after the training.
    """
    from lammps_bg.commands import job_request

    if args.resume:
        job = resumed(args)
    else:
        request = options.request(args)
        out = args.out or Path("runs") / request.script.name.removeprefix("in.")
        job = job_request.new(request, options.config(args), out, args.words)
    return carry_out(job, args, console, draws=draws)


def carry_out(job: "Job", args: argparse.Namespace, console: Console, *, draws: bool) -> int:
    """A job, or with --dry-run what it would cost; returns the exit code."""
    from lammps_bg.commands import run_steps

    if args.dry_run:
        return run_steps.rehearse(job, console)
    with StopFlag() as stop:
        return run_steps.execute(job, console, stop, draws=draws, allow_red=args.allow_red)


def typed(args: argparse.Namespace) -> "Typed":
    """What was typed for a job that goes on from a stored run."""
    from lammps_bg.commands.job_request import Typed

    return Typed(
        args.words,
        options.overrides(args),
        flags=options.flags(args),
        script=getattr(args, "script", None),
        force=getattr(args, "force", False),
        **options.typed_of_crystal(args),
    )


def resumed(args: argparse.Namespace) -> "Job":
    """The job of --resume."""
    from lammps_bg.commands import job_request

    return job_request.resumed(options.require_out(args, "run"), typed(args), model=getattr(args, "model", None))
