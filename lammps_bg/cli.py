# SPDX-License-Identifier: GPL-2.0-or-later
"""The command lammps-bg: finds the command, arranges MPI ranks and threads for it, and turns every error into one sentence."""

import logging
import sys
import time
import traceback
from collections.abc import Sequence

from lammps_bg import commands, parallel
from lammps_bg.commands import Work
from lammps_bg.errors import Interrupted, LammpsBGError
from lammps_bg.files import require_scratch
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.job import Job, present_job

_FIRST_SPEAKS = 1.0  # seconds in which the first MPI rank, which mostly fails alike, says so and ends the others


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code.

    Args:
        argv: Arguments after the command's name; None takes those of the process.
    """
    first = parallel.first()
    console = Console(quiet=not first)
    logging.basicConfig(level=logging.WARNING if first else logging.ERROR, format="WARNING: %(message)s", stream=sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    with Job(words) as job:
        return _ended_well_or_badly(words, console, job)


def _ended_well_or_badly(words: list[str], console: Console, job: Job) -> int:
    """One command, whose errors are told on the screen and in status.json; returns the exit code."""
    try:
        if not words:
            commands.print_help()
            return 0
        return _carry_out(words, console)
    except LammpsBGError as error:
        return _failed(console, str(error), error.exit_code, stopped=isinstance(error, Interrupted))
    except KeyboardInterrupt:
        sentence = "stopped by Ctrl-C; what a run had saved is in its folder, continue it with --resume"
        return _failed(console, sentence, 130, stopped=True)
    except Exception as error:
        job.note_end("failed", f"{type(error).__name__}: {error}")
        if parallel.size() > 1:
            sys.stderr.write(f"MPI rank {parallel.rank()} of {parallel.size()}, on {parallel.node_name()}:\n")
            traceback.print_exc()
            job.release_all()
            parallel.abort(1)
        raise


def _carry_out(words: list[str], console: Console) -> int:
    """One command; returns the exit code."""
    args = commands.parse(words)
    command = commands.load(args.command)
    parallel.check_launcher(args.command, several=command.WORK in (Work.SHARED, Work.REPEATED))
    parallel.arrange(getattr(args, "lammps_ranks", 1))
    if parallel.serves():
        from lammps_bg.engine import team

        return team.serve()
    if command.WORK is not Work.NONE:
        require_scratch()
        parallel.threads()  # before anything is loaded, LAMMPS and torch would pass over what is no number
    if command.WORK is Work.SHARED:
        _start_together(console)
    code = command.execute(args, console)
    with StopFlag():  # the first rank may still be writing
        parallel.barrier()
    return code


def _start_together(console: Console) -> None:
    """Give this rank its threads, and say how the job is laid out."""
    from lammps_bg.commands.job_ranks import say_ranks, set_threads

    say_ranks(console, set_threads())


def _failed(console: Console, sentence: str, code: int, *, stopped: bool) -> int:
    """Say why, on the screen and in status.json, and end the other ranks, which would wait for this one for ever.

    Returns the exit code.
    """
    if not parallel.first():
        time.sleep(_FIRST_SPEAKS)
        sentence = f"{sentence} (MPI rank {parallel.rank()} on {parallel.node_name()})"
    console.error(sentence)
    present_job().note_end("stopped" if stopped else "failed", sentence)
    present_job().release_all()
    parallel.abort(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
