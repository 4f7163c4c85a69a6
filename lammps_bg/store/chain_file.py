# SPDX-License-Identifier: GPL-2.0-or-later
"""exact.pt: chains to go on with, which are of one model and of one set of settings."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lammps_bg import parallel
from lammps_bg.errors import RunDirectoryError
from lammps_bg.training import checkpoint

CHAINS = "exact.pt"


class ChainFile:
    """A `study.exact.ChainRecord` on disk.

    Args:
        written: The file that the chains are kept in.
        read: The file that they are continued from, which may be another run's.
        depends_on: Gives what the chains depend on, beside the number of their steps; chains that depend on something else are not continued.
    """

    def __init__(self, written: Path, read: Path, depends_on: Callable[[], dict[str, Any]]) -> None:
        self._written, self._read, self._of = written, read, depends_on

    def stored(self) -> dict[str, Any] | None:
        """The chains of the run, if they are of this model and these settings."""
        saved: dict[str, Any] | None = None
        if parallel.first() and self._read.exists():
            with suppress(RunDirectoryError, KeyError):
                saved = checkpoint.load(self._read)
                saved = saved if saved["of"] == self._of() else None
        return parallel.agreed(saved)

    def keep(self, state: dict[str, Any]) -> None:
        """Write the chains."""
        checkpoint.save(self._written, {"of": self._of(), **state})
