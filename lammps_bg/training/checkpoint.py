# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving and loading: tensors, numbers and text only (no pickled code), written to a temporary name and renamed."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import replaced

FORMAT = "lammps-bg"
FORMAT_VERSION = 2


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically: at any moment the file holds the old or the new state, whole.

    Raises:
        FullDiskError: There is no space; what stood there before stays.
        RunDirectoryError: The file cannot be written for another reason; what stood there before stays.
    """
    # in memory first: on a full disk torch's own writer raises errors that do not say so
    whole = io.BytesIO()
    torch.save({"format": FORMAT, "version": FORMAT_VERSION, **content}, whole)
    with replaced(path) as temporary, temporary.open("wb") as file:
        file.write(whole.getbuffer())


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
