# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that a team of MPI ranks holds together: its first rank runs the program and asks, the others do as it does.

What a team holds are `Member`s, with a twin on every rank. A method marked `collective` runs on all of them at once with the same
arguments, which the first rank announces; so LAMMPS, whose commands all its ranks must enter together, is in step. Nothing else
of the program runs on the other ranks. An object that one rank holds alone costs a test of one attribute.
"""

import atexit
import functools
import itertools
import signal
import sys
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np

from lammps_bg import parallel
from lammps_bg.engine.library import lammps_message
from lammps_bg.errors import LammpsBGError

_CONFIRMING = 8.0  # seconds within which all ranks report an error that all of them have
_EAGER = 200  # looks at the mailbox without a pause: batches follow each other at once
_PAUSES = (2e-5, 1e-3)  # seconds: the shortest and the longest pause between two looks

Self = TypeVar("Self", bound="Member")
Kind = TypeVar("Kind", bound="Member")
Args = ParamSpec("Args")
Result = TypeVar("Result")


class Refusal(Exception):  # noqa: N818
    """LAMMPS refused the same on every rank of a team, as it raises a plain Exception on a single one."""


class _Desk:
    """What this process knows of its team.

    Attributes:
        members: What the team holds, by number; the numbers are the same on every rank.
        numbers: Numbers of the objects to come.
        forgotten: Numbers of objects that nobody on the first rank refers to any more.
        inside: Whether a collective method is running.
        broken: What made this rank leave one before its end, so that nothing can be asked any more.
    """

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.numbers = itertools.count()
        self.forgotten: list[int] = []
        self.inside = False
        self.broken: BaseException | None = None


_desk = _Desk()


class Member:
    """Base of what a team, or one rank alone, holds.

    Attributes:
        number: Number of this object in the team; nothing where this rank holds it alone.

    Args:
        number: The same.
    """

    def __init__(self, number: int | None) -> None:
        self.number = number

    @property
    def shared(self) -> bool:
        """Whether a team holds it."""
        return self.number is not None

    def leave(self) -> None:
        """Say, within a collective method, that nothing will be asked of it any more."""
        if self.number is not None:
            _desk.members.pop(self.number, None)
            self.number = None

    def confirmed(self, error: Exception) -> Exception:
        """An error of LAMMPS, once it is sure that every rank of the team has it; else the job ends.

        After an error of one rank alone the others wait for it inside LAMMPS, for ever.
        """
        return _confirmed(error) if self.shared else error

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sum over the team, on its first rank; the others get back what they gave.

        Args:
            values: This rank's share and zeros elsewhere, any shape.
        """
        if not self.shared:
            return values
        first = parallel.team().Get_rank() == 0
        result = np.empty_like(values) if first else values
        parallel.team().Reduce(values, result if first else None)
        return result


def collective(method: Callable[Concatenate[Self, Args], Result]) -> Callable[Concatenate[Self, Args], Result]:
    """Mark a method that all ranks of the team run together; its result counts on the first one."""

    @functools.wraps(method)
    def together(self: Self, *args: Args.args, **named: Args.kwargs) -> Result:
        if self.number is None or _desk.inside:
            return method(self, *args, **named)
        _close_forgotten()
        return cast(Result, _ask(self.number, method.__name__, args, named))

    return together


def hold(kind: type[Kind], *args: Any) -> Kind:  # noqa: ANN401
    """Make an object on every rank of the team.

    Args:
        kind: Its class, whose constructor takes the number in the team last.
        *args: Its other arguments, which can be pickled.
    """
    _close_forgotten()
    return cast(Kind, _ask(next(_desk.numbers), kind, args, {}))


def close_with(owner: object, member: Member) -> None:
    """Close a member once its owner is gone, at a moment when the whole team can.

    Args:
        owner: What nobody may refer to any more.
        member: It has a collective method `close`.
    """
    if member.number is not None:
        weakref.finalize(owner, _desk.forgotten.append, member.number).atexit = False


def serve() -> int:
    """Do what the first rank of the team announces, until it says that this was all; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the launcher sends them to every rank; the first one decides
    while True:
        try:
            message = _next_message()
            if message is None:
                return 0
            _perform(*message)
        except Exception:  # every rank has it, and the first one knows what to do
            continue
        except BaseException:
            _end_job(traceback.format_exc())


def dismiss() -> None:
    """End the service of the other ranks, from the first rank; nothing without a team."""
    team = parallel.team()
    if team.Get_size() == 1 or parallel.serves():
        return
    if _desk.broken:
        parallel.abort(1)
    _desk.forgotten += _desk.members
    _close_forgotten()
    _wake(False)


atexit.register(dismiss)  # before mpi4py ends MPI, which waits for the other ranks


# ---- asking and answering


def _ask(number: int, what: str | type[Member], args: tuple[Any, ...], named: dict[str, Any]) -> Any:  # noqa: ANN401
    """Announce something and do it here, too."""
    if _desk.broken is not None:
        raise _desk.broken
    message = (number, what, args, named)
    _wake(True)
    parallel.team().bcast(message)
    try:
        return _perform(*message)
    except Exception:
        raise
    except BaseException as error:  # Ctrl-C: the others are in the middle of something
        _desk.broken = error
        raise


def _perform(number: int, what: str | type[Member], args: tuple[Any, ...], named: dict[str, Any]) -> Any:  # noqa: ANN401
    _desk.inside = True
    try:
        if isinstance(what, str):
            return getattr(_desk.members[number], what)(*args, **named)
        made = _desk.members[number] = cast(Callable[..., Member], what)(*args, number)
        return made
    except Exception as error:
        confirmed = _confirmed(error)
        raise confirmed from (None if confirmed is error else error)
    finally:
        _desk.inside = False


def _close_forgotten() -> None:
    while _desk.forgotten and not _desk.inside:
        number = _desk.forgotten.pop()
        if number in _desk.members:
            _ask(number, "close", (), {})


def _wake(more: bool) -> None:
    parallel.team().Ibcast(np.array([more], dtype=np.int8)).Wait()


def _next_message() -> tuple[int, str | type[Member], tuple[Any, ...], dict[str, Any]] | None:
    """Wait for an announcement without keeping a core busy; nothing where the service ends."""
    more = np.zeros(1, dtype=np.int8)
    _wait(parallel.team().Ibcast(more), None)
    return parallel.team().bcast(None) if more[0] else None


def _wait(request: Any, patience: float | None) -> bool:  # noqa: ANN401
    """Wait for a request with pauses that grow; whether it was done in time."""
    started, pause, looks = time.monotonic(), _PAUSES[0], 0
    while not request.Test():
        looks += 1
        if looks > _EAGER:
            time.sleep(pause)
            pause = min(1.2 * pause, _PAUSES[1])
        if patience is not None and time.monotonic() - started > patience:
            return False
    return True


# ---- errors


def _confirmed(error: Exception) -> Exception:
    """An error once it is sure that every rank of the team has it; of LAMMPS' own and of others a `Refusal`."""
    from lammps import MPIAbortException

    alone = isinstance(error, MPIAbortException)  # LAMMPS' error->one
    if not alone and _wait(parallel.confirming().Ibarrier(), _CONFIRMING):
        return error if isinstance(error, LammpsBGError) else Refusal(str(error))
    said = lammps_message(Exception(error.message) if isinstance(error, MPIAbortException) else error)
    place = int(parallel.WORLD.Get_rank())
    # LAMMPS raises plain Exception, which has no history worth telling
    history = "" if alone or type(error) is Exception else "".join(traceback.format_exception(error))
    _end_job(
        f"{history}ERROR: expected LAMMPS to fail on all MPI ranks of an instance or on none, got an error on rank {place} (node "
        f"{parallel.node_name()}) alone: '{said}'; the others cannot go on without it, so find its cause with -lammps-ranks 1\n"
    )
    return error


def _end_job(text: str) -> None:
    """End all ranks of the job with what this one has to say."""
    sys.stderr.write(text)
    parallel.abort(1)
