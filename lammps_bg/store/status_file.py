# SPDX-License-Identifier: GPL-2.0-or-later
"""status.json: where a run stands, who carries it out, and the last word of a command that came to no good end."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import replace_bytes
from lammps_bg.store import lock

NAME = "status.json"
DONE = "done"
_FOLLOWED: dict[Path, str] = {}  # on the other ranks: the stage
_LAST: dict[Path, dict[str, Any]] = {}  # what this command has last written, by folder


def write(folder: Path, entry: Mapping[str, Any]) -> None:
    """Replace status.json, with the present time and this job's identity.

    Args:
        folder: The run directory.
        entry: Stage and numbers as JSON knows them.
    """
    now = time.strftime(lock.TIME, time.gmtime())
    content = {**entry, "updated": now, **lock.identity(folder)}
    replace_bytes(folder / NAME, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode(), durable=False)
    _LAST[folder] = dict(entry)


def follow(folder: Path, stage: str) -> None:
    """Note what the first rank writes, on another rank, which says a last word only if it fails itself.

    Args:
        folder: The run directory.
        stage: As for `write`.
    """
    _FOLLOWED[folder] = stage


def finish(folder: Path) -> None:
    """Write once more what was written last, as done: the command has nothing left to do.

    Args:
        folder: The run directory.
    """
    write(folder, {**_LAST[folder], "stage": DONE, "percent": 100.0, "eta_seconds": None})


def forget(folder: Path) -> None:
    """No last word for a folder that is taken back."""
    _LAST.pop(folder, None)


def note_end(stage: str, reason: str) -> None:
    """Leave a last word in each run that this command has begun and not finished.

    The numbers stay those of the stage it was in, which is written as `during`.

    Args:
        stage: `failed` or `stopped`.
        reason: The sentence that the user got.
    """
    for folder, last in list(_LAST.items()):
        if last["stage"] != DONE and folder.is_dir():
            with suppress(RunDirectoryError):  # on a full disk the sentence on the screen has to do
                write(folder, {**last, "stage": stage, "eta_seconds": None, "during": last["stage"], "reason": reason})
    _LAST.clear()
    for folder, during in _FOLLOWED.items():
        with suppress(OSError, ValueError, RunDirectoryError):
            entry = json.loads((folder / NAME).read_text(encoding="utf-8"))  # with the first rank's identity
            if entry["stage"] not in (DONE, "failed", "stopped"):
                last = {**entry, "stage": stage, "eta_seconds": None, "during": during, "reason": reason}
                replace_bytes(folder / NAME, (json.dumps(last, indent=2, allow_nan=False) + "\n").encode(), durable=False)
    _FOLLOWED.clear()
