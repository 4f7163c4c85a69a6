# SPDX-License-Identifier: GPL-2.0-or-later
"""`status`: where jobs stand."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lammps_bg.commands import Work
from lammps_bg.commands.command_parser import Parser
from lammps_bg.errors import LammpsBGError, RunDirectoryError
from lammps_bg.report.console import Console
from lammps_bg.results import ERRORS, NOTHING, share, short_duration, with_error
from lammps_bg.store.status import LATE, RunStatus, examine

HELP = "where running, stopped or dead jobs stand: stage, step, ESS, F, time to the end"
EXAMPLE = "lammps-bg status runs/mw runs/mw_md"
WORK = Work.NONE
PLACE = 12


def add_arguments(parser: Parser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of any command, at any moment (required)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for several folders a list of them")


def execute(args: argparse.Namespace, console: Console) -> int:
    found, refused = list[RunStatus](), False
    for run in args.runs:
        try:
            found.append(examine(run))
        except LammpsBGError as error:
            if len(args.runs) == 1:
                raise
            console.error(str(error))  # the others are shown all the same
            refused = True
    if args.json:
        entries = [vars(status) for status in found]
        sys.stdout.write(json.dumps(entries[0] if len(args.runs) == 1 else entries, indent=2) + "\n")
    elif len(args.runs) == 1:
        for line in lines(found[0]):
            console.say(line)
    elif found:
        console.table("", table(found))
    return RunDirectoryError.exit_code if refused else 0


def lines(status: RunStatus) -> Iterator[str]:
    """A run in full."""
    ranks = "1 rank" if (status.ranks or 1) == 1 else f"{status.ranks} ranks"
    job = [f"pid {status.pid} on {status.host}, {ranks}, since {status.started}"] if status.pid else []
    step = [] if status.step is None else [f"step {status.step}"]
    percent = [] if status.percent is None else [f"{status.percent:.1f} %"]
    yield f"run        {status.run}"
    yield f"state      {'; '.join([status.state, *job])}"
    yield f"stage      {', '.join([status.stage or 'nothing done yet', *step, *percent])}"
    if status.ess is not None:
        yield f"ESS        {share(status.ess)}"
    if status.F is not None:
        yield f"beta F/N   {with_error(status.F, status.error, 'kT')} ({ERRORS})"
    if status.state == "running" and status.eta_seconds is not None:
        yield f"left       about {short_duration(status.eta_seconds)} in this stage, at the last update"
    if status.age_seconds is not None:
        saved = status.checkpoint_age_seconds
        yield f"updated    {_ago(status.age_seconds)}{'' if saved is None else f'; last checkpoint {_ago(saved)}'}"
    if status.reason or status.state == "dead":
        yield f"reason     {status.reason or 'its process is gone without a word: killed, out of memory, or its node was lost'}"
    for note in status.notes:
        yield f"note       {note}"
    if status.resume:
        yield f"continue   {status.resume}"


def table(found: Sequence[RunStatus]) -> list[tuple[str, ...]]:
    """Runs side by side, a header first."""
    rows: list[tuple[str, ...]] = [("run", "state", "stage", "step", "%", "ESS", "beta F/N (kT)", "left", "updated")]
    for status in found:
        left = status.eta_seconds if status.state == "running" else None
        rows.append(
            (
                status.run,
                status.state,
                status.stage or NOTHING,
                NOTHING if status.step is None else str(status.step),
                NOTHING if status.percent is None else f"{status.percent:.0f}",
                share(status.ess),
                with_error(status.F, status.error),
                NOTHING if left is None else short_duration(left),
                NOTHING if status.age_seconds is None else _ago(status.age_seconds),
            )
        )
    return rows


def _ago(seconds: float) -> str:
    return f"{short_duration(seconds)} ago" if seconds > -LATE else f"{short_duration(-seconds)} in the future"
