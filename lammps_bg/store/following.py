# SPDX-License-Identifier: GPL-2.0-or-later
"""The run directory as all MPI ranks but the first have it: they read, and leave the writing to the first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lammps_bg.store import status_file
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.run_directory import RunDirectory


class FollowingDirectory(RunDirectory):
    """A run directory whose writers do nothing."""

    def write_text(self, name: str, text: str, *, durable: bool = True) -> None:
        """Leave it to the first rank."""

    def write_status(self, stage: str, **numbers: float | None) -> None:
        """Leave it to the first rank, unless this one fails: then it has the last word."""
        status_file.follow(self.path, stage)

    def end_status(self) -> None:
        """Leave it to the first rank."""

    def copy_in(self, source: Path, name: str) -> None:
        """Leave it to the first rank."""

    def store_inputs(self, scripts: Sequence[Path], data: Any, **more: Any) -> None:  # noqa: ANN401
        """Leave it to the first rank."""

    def discard_inputs(self) -> None:
        """Leave it to the first rank."""

    def discard_half_made(self) -> None:
        """Leave it to the first rank."""

    def training_table(self, columns: Sequence[str], *, keep_until: float | None = None) -> CsvTable:
        """A table that forgets its lines."""
        return _NoTable()

    def sample_table(self, *, keep_until: float | None = None) -> CsvTable:
        """A table that forgets its lines."""
        return _NoTable()


class _NoTable(CsvTable):
    """Looks like a table, and has no file."""

    def __init__(self) -> None:
        self.columns = ()

    def write(self, *values: float | int | str | None) -> None:
        """Forget a line."""

    def write_rows(self, rows: Sequence[Sequence[float | int | str | None]]) -> None:
        """Forget lines."""

    def close(self) -> None:
        """Nothing was opened."""
