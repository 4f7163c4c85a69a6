# SPDX-License-Identifier: GPL-2.0-or-later
"""One command at work in run folders: the locks that it holds, and status.json, where it says how far it is and how it ended.

A command begins with `with Job(words):` and gives back everything at its end; the run directories that are made or opened meanwhile
belong to it. Outside of any command, as in a notebook, they belong to a job of the process itself.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Any

from lammps_bg import parallel
from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import replace_bytes
from lammps_bg.store import lock
from lammps_bg.store.lock import RunLock

STATUS = "status.json"
DONE = "done"
ENDS = (DONE, "failed", "stopped")
"""Stages after which nothing comes."""


class Job:
    """What one command holds and has said in run folders.

    Args:
        command: The words after `lammps-bg`.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self.command = tuple(command)
        self._started = lock.now()
        self._locks: dict[Path, RunLock] = {}
        self._last: dict[Path, dict[str, Any]] = {}  # what was written last in each folder
        self._followed: dict[Path, str] = {}  # on ranks other than the first: the stage in each folder
        self._outer: list[Token[Job]] = []

    def __enter__(self) -> "Job":
        self._outer.append(_PRESENT.set(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release_all()
        _PRESENT.reset(self._outer.pop())

    def hold(self, folder: Path) -> None:
        """Take the lock of a folder until the end of the command; only the first of several MPI ranks does.

        Raises:
            RunDirectoryError: Another job holds it, or the folder cannot be written to.
        """
        folder = Path(folder).resolve()
        if parallel.first() and folder not in self._locks:
            self._locks[folder] = RunLock(folder, self.command)

    def require_free(self, folder: Path) -> None:
        """Refuse a folder that another job holds: RunDirectoryError."""
        if Path(folder).resolve() not in self._locks and lock.inspect(folder).held:
            raise lock.in_use(folder)

    def release(self, folder: Path) -> None:
        """Give back the lock of a folder, if this job holds it, and say no last word there."""
        if held := self._locks.pop(Path(folder).resolve(), None):
            held.release()
        self._last.pop(folder, None)

    def release_all(self) -> None:
        """Give back every lock."""
        while self._locks:
            self._locks.popitem()[1].release()

    def write_status(self, folder: Path, entry: Mapping[str, Any]) -> None:
        """Replace status.json.

        Args:
            folder: The run directory.
            entry: Stage and numbers as JSON knows them; the present time and who says so are added.
        """
        held = self._locks.get(Path(folder).resolve())
        who = {"pid": os.getpid(), "host": socket.gethostname(), "ranks": parallel.processes()[0]}
        _write(folder, {**entry, "updated": lock.now(), **who, "started": held.holder.since if held else self._started})
        self._last[folder] = dict(entry)

    def follow(self, folder: Path, stage: str) -> None:
        """Note what the first rank writes, on another rank, which says a last word only if it fails itself."""
        self._followed[folder] = stage

    def finish(self, folder: Path) -> None:
        """Write once more what was written last, as done: the command has nothing left to do."""
        self.write_status(folder, {**self._last[folder], "stage": DONE, "percent": 100.0, "eta_seconds": None})

    def note_end(self, stage: str, reason: str) -> None:
        """Leave a last word in each run that this command has begun and not finished.

        The numbers stay those of the stage it was in, which is written as `during`.
        """
        for folder, last in list(self._last.items()):
            if last["stage"] != DONE and folder.is_dir():
                with suppress(RunDirectoryError):  # on a full disk the sentence on the screen has to do
                    self.write_status(folder, _ended(last, last["stage"], stage, reason))
        for folder, during in self._followed.items():
            with suppress(OSError, ValueError, RunDirectoryError):
                entry = json.loads((folder / STATUS).read_text(encoding="utf-8"))  # with the first rank's identity
                if entry["stage"] not in ENDS:
                    _write(folder, _ended(entry, during, stage, reason))
        self._last.clear()
        self._followed.clear()


def _ended(entry: Mapping[str, Any], during: str, stage: str, reason: str) -> dict[str, Any]:
    return {**entry, "stage": stage, "eta_seconds": None, "during": during, "reason": reason}


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    replace_bytes(folder / STATUS, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode(), durable=False)


_PRESENT: ContextVar[Job] = ContextVar("job", default=Job())  # noqa: B039  (the process's own, for run directories outside of commands)


def present_job() -> Job:
    """The job of the command that is being carried out."""
    return _PRESENT.get()
