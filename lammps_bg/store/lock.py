# SPDX-License-Identifier: GPL-2.0-or-later
"""One job at a time in a run folder: a lock of the system on the file `lock`, which says who holds it.

The system drops the lock when its process ends, however it ends; the file of a job that was killed stays, and says who that was.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lammps_bg import parallel
from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import explained

log = logging.getLogger(__name__)

NAME = "lock"
TIME = "%Y-%m-%dT%H:%M:%SZ"
"""How moments are written, UTC."""
_FIRST_FILES = (NAME, "inputs", "config.toml", "rerun.sh", "model.pt")  # of a new run, before its provenance.json
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_PATIENCE = 0.5  # seconds: `lammps-bg status` holds a shared lock for an instant, and an ending job removes the file
_POLL = 0.05  # seconds


def now() -> str:
    """The present moment, UTC."""
    return time.strftime(TIME, time.gmtime())


@dataclass(frozen=True)
class Holder:
    """A job.

    Attributes:
        host: Name of the node of its first rank.
        pid: Process of its first rank there.
        ranks: Number of MPI processes.
        lammps_ranks: How many of them each LAMMPS instance has.
        command: The words after `lammps-bg`, as typed.
        since: When it took the folder, UTC.
    """

    host: str
    pid: int
    ranks: int
    lammps_ranks: int
    command: tuple[str, ...]
    since: str


@dataclass(frozen=True)
class LockState:
    """What the lock of a folder says.

    Attributes:
        held: Whether a job holds it; None where the file system has no locks.
        holder: The job that wrote the file; None without a file, or where it cannot be read.
    """

    held: bool | None
    holder: Holder | None


class RunLock:
    """The lock of a folder, held from construction to `release`.

    Args:
        folder: The run folder.
        command: Words after `lammps-bg`.

    Raises:
        RunDirectoryError: Another job holds it, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, command: tuple[str, ...]) -> None:
        self.path = Path(folder) / NAME
        self.holder = Holder(socket.gethostname(), os.getpid(), *parallel.processes(), command, now())
        with explained(self.path):
            self._handle = self._locked()
            try:
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, (json.dumps(asdict(self.holder)) + "\n").encode(), 0)
            except OSError:
                self.release()
                raise

    def _locked(self) -> int:
        """An open file that has the lock and is the one in the folder."""
        patience = time.monotonic() + _PATIENCE
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                if time.monotonic() > patience:
                    raise in_use(self.path.parent) from None
                time.sleep(_POLL)
                continue
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    raise
                log.warning("the file system of %s has no locks: make sure that no other job uses this folder", self.path.parent)
                return handle
            if self._is_current(handle):
                return handle
            os.close(handle)  # its last holder has just removed it

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, then drop the lock: whoever opened the file meanwhile sees that it is no longer the one in the folder."""
        with suppress(OSError):
            if self._is_current(self._handle):
                self.path.unlink()
        os.close(self._handle)


def inspect(folder: Path) -> LockState:
    """Whether a job holds a folder, and which; changes nothing."""
    try:
        handle = os.open(Path(folder) / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return LockState(False, None)
    except OSError:
        return LockState(None, None)
    holder = _read(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return LockState(True, holder)
    except OSError:
        return LockState(None, holder)
    finally:
        os.close(handle)
    return LockState(False, holder)


def half_made(folder: Path) -> bool:
    """Whether a folder holds only what a job writes before its provenance.json, and its lock file to prove that one did."""
    if not (folder / NAME).is_file():
        return False
    return all(entry.name in _FIRST_FILES or entry.name.endswith(".tmp") for entry in folder.iterdir())


def in_use(folder: Path) -> RunDirectoryError:
    """The sentence for a folder of another job."""
    holder = inspect(folder).holder
    who = f"pid {holder.pid} on {holder.host} since {holder.since}" if holder else "a job that has just started"
    return RunDirectoryError(
        f"expected a run folder that no other job uses, got {folder} in use by {who}; wait for it, or give another -out"
    )


def _read(handle: int) -> Holder | None:
    """Content of an open lock file; None where a job was killed before it had written it."""
    try:
        content = json.loads(os.pread(handle, 1 << 20, 0))
        entry = {name: content[name] for name in ("host", "pid", "ranks", "since")}
        entry["lammps_ranks"] = content.get("lammps_ranks", 1)
        return Holder(**entry, command=tuple(content["command"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
