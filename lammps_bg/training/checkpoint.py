# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving and loading: tensors, numbers and text only (no pickled code), written to a temporary name and renamed."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch

from lammps_bg.errors import RunDirectoryError

FORMAT = "lammps-bg"
FORMAT_VERSION = 2


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically: at any moment the file holds the old or the new state, whole.

    Raises:
        RunDirectoryError: The file cannot be written; what stood there before stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, "version": FORMAT_VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise RunDirectoryError(
            f"expected to write {path}, got an error ({error}); the last good file stays, free some space"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, executing nothing.

    Raises:
        RunDirectoryError: The file is missing, damaged, foreign or of another version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses about foreign files; the sentence below says all
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunDirectoryError(f"expected a model file, got none at {path}; train one with `lammps-bg train`") from None
    except Exception as error:  # damaged bytes make torch's unpickler raise whatever they happen to lead to
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise RunDirectoryError(
            f"expected a lammps-bg model in {path}, got a damaged or foreign file ({reason}); nothing was executed"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunDirectoryError(
            f"expected a lammps-bg model in {path}, got another kind of file; give the folder of a finished training"
        )
    if content.get("version") != FORMAT_VERSION:
        raise RunDirectoryError(
            f"expected model format {FORMAT_VERSION} in {path}, got {content.get('version')}; use the version of lammps-bg that wrote it"
        )
    return content
