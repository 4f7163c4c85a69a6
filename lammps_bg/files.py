# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing files so that neither a reader nor a killed job nor a full disk ever meets half of one; and the scratch folder."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lammps_bg.errors import ConfigError, FullDiskError, RunDirectoryError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the largest file this job may write (ulimit -f) is reached",
}
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_SCRATCH = ("TMPDIR", "TEMP", "TMP")  # in the order in which Python looks at them


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's errors about a file that is written into sentences.

    Raises:
        FullDiskError: There is no space for it.
        RunDirectoryError: It cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunDirectoryError:
    """The sentence for a system error."""
    if error.errno in _FULL:
        action = "free some space and continue with --resume; what was complete is untouched"
        return FullDiskError(f"expected to write {path} but {_FULL[error.errno]} ({error.strerror}); {action}")
    if error.errno in _READ_ONLY:
        return RunDirectoryError(f"expected to write {path} but it is read-only; give another -out")
    reason = error.strerror or error
    return RunDirectoryError(f"expected to write {path} but the system says '{reason}'; check the folder or give another -out")


@contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary name to write to; the file gets its own name when it is whole, and nothing is left after an error.

    What a killed job left under the temporary name is overwritten.

    Args:
        path: The file to make or to replace.
        durable: Wait until the disk has it, so that it survives a power cut.

    Raises:
        FullDiskError: There is no space; what stood there before stays.
        RunDirectoryError: It cannot be written for another reason; what stood there before stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with explained(path):
            yield temporary
            if durable:
                _flush(temporary)
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the error under way matters more
            temporary.unlink(missing_ok=True)
        raise


def replace_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file in one step; see `replaced`."""
    with replaced(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in one step; see `replaced`.

    Args:
        source: The file.
        target: The copy, in a folder that exists.
    """
    with replaced(target) as temporary:
        shutil.copyfile(source, temporary)


def place_new(draft: Path, path: Path) -> None:
    """Give a finished file its name in one step, unless a file of that name is there.

    Args:
        draft: The file under another name in the same folder; it may stay there.
        path: Its name.

    Raises:
        FileExistsError: There is one; unlike a move, this never replaces it.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(path, "xb"):
            pass
        os.replace(draft, path)


def require_scratch() -> None:
    """Refuse a scratch folder that cannot be used; Python and LAMMPS would silently take /tmp, which may be small or shared.

    Raises:
        ConfigError: The folder that TMPDIR (or TEMP, TMP) names is missing or cannot be written to.
    """
    name = next((name for name in _SCRATCH if os.environ.get(name)), None)
    if name is None:
        return
    try:
        with tempfile.TemporaryFile(dir=os.environ[name]) as stream:
            stream.write(b"x")
            stream.flush()
    except OSError as error:
        raise ConfigError(
            f"expected a scratch folder that can be written to in {name}, got {os.environ[name]} ('{error.strerror}'); "
            f"make it, free space in it, or set {name} to another folder"
        ) from None


def _flush(path: Path) -> None:
    """Wait until the disk has a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
