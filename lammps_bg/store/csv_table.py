# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables that grow while a job runs: CSV files that survive being cut anywhere."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import explained, replaced


class CsvTable:
    """A CSV file that grows line by line; every line is on disk when `write` returns.

    Args:
        path: The file.
        columns: Names in the header.
        keep_until: None starts a new file, which must not exist. A number continues one: rows whose first column is above it are
            dropped (a resumed run repeats them), and so is a line cut short by a crash.

    Raises:
        RunDirectoryError: The file exists, has other columns, or cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, keep_until: float | None = None) -> None:
        self.path = Path(path)
        self.columns = tuple(columns)
        if keep_until is None and self.path.exists():
            raise RunDirectoryError(f"expected a new table but {self.path} exists; give another -out or continue with --resume")
        rows = [list(self.columns)] if keep_until is None else self._kept_rows(keep_until)
        with explained(self.path):
            with replaced(self.path, durable=False) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows(rows)
            self._stream = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115  (closed by close())
        self._writer = csv.writer(self._stream, lineterminator="\n")

    def write(self, *values: float | int | str | None) -> None:
        """Append one line; see `write_rows`."""
        if len(values) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} values ({', '.join(self.columns)}), got {len(values)}")
        self.write_rows([values])

    def write_rows(self, rows: Sequence[Sequence[float | int | str | None]]) -> None:
        """Append lines, all of them at once; floats keep all their digits, None is an empty cell.

        Raises:
            RunDirectoryError: The disk is full.
        """
        with explained(self.path):
            self._writer.writerows([_cell(value) for value in row] for row in rows)
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        with explained(self.path):
            self._stream.close()

    def __enter__(self) -> "CsvTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _kept_rows(self, keep_until: float) -> list[list[str]]:
        if not self.path.exists():
            return [list(self.columns)]
        try:
            text = self.path.read_bytes().decode("utf-8")
            lines = text[: text.rfind("\n") + 1].splitlines() or [",".join(self.columns)]
            header, *rows = csv.reader(lines)
            kept = [row for row in rows if len(row) == len(header) and float(row[0]) <= keep_until]
        except (ValueError, csv.Error) as error:
            raise RunDirectoryError(
                f"expected a table in {self.path} but it is damaged ({error}); remove it and continue with --resume"
            ) from None
        if tuple(header) != self.columns:
            raise RunDirectoryError(
                f"expected the columns {','.join(self.columns)} in {self.path} but it has {','.join(header)}; "
                "use the version of lammps-bg that wrote it, or start a new run"
            )
        return [header, *kept]


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else repr(_exact(value))


def _exact(value: float | int) -> float | int:
    """A plain Python number, whatever numpy or torch scalar came in."""
    return int(value) if isinstance(value, int | np.integer) else float(value)
