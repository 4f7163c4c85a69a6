# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder a run leaves behind: inputs with hashes, configuration, tables, status and results.

Everything but the growing tables is written under a temporary name and renamed, so that neither a reader nor a crash nor a full
disk ever meets half a file.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import copy_file, explained, replace_bytes
from lammps_bg.results import Results
from lammps_bg.store import lock, provenance
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.job import present_job
from lammps_bg.store.provenance import InputFile

RESULTS_SCHEMA: dict[str, Any] = {"schema": "lammps-bg-results", "schema_version": 1}
_REMEDY = "restore it from a copy"
_REMEDIES = {
    "status.json": "remove it, --resume does without",
    "provenance.json": "restore it from a copy, or start a new run with another -out",
    "results.json": "make it again with `lammps-bg estimate`, or remove it and continue with --resume",
}
SAMPLE_COLUMNS = ("sample", "pe", "log_q", "log_w")

_STATUS = {
    "step": "step", "percent": "percent", "loss": "loss", "ess": "ess", "free_energy": "F", "error": "error", "eta_seconds": "eta_seconds",
}  # fmt: skip
"""Numbers of status.json: steps or samples done and share of the stage in percent, loss per atom, ESS as a fraction, beta F/N with its standard
error, seconds to the end of the stage."""


class RunDirectory:
    """A folder with one run in it. Made by `create` or found by `open`.

    Args:
        path: The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.job = Path(path), present_job()

    @staticmethod
    def check_new(path: Path, *, needed_bytes: int = 0) -> None:
        """Check that a run directory can be made, without writing anything.

        Args:
            path: The folder to make; it may exist if it is empty.
            needed_bytes: Disk space that the run will take.

        Raises:
            RunDirectoryError: It holds files, is no folder, may not be written, or the disk is too full.
        """
        path = Path(path).absolute()
        present_job().require_free(path)
        if path.is_dir() and any(path.iterdir()) and not lock.half_made(path):
            raise RunDirectoryError(
                f"expected a new or empty folder for -out but {path} already holds files; give another -out, continue that "
                "run with --resume, or remove the folder"
            )
        existing = next(folder for folder in (path, *path.parents) if folder.exists() or folder.is_symlink())
        if not existing.is_dir():
            raise RunDirectoryError(f"expected a folder for -out but {existing} is a file; give another -out")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise RunDirectoryError(f"expected a folder this user may write to but {existing} is read-only; give another -out")
        free = shutil.disk_usage(existing).free
        if free < needed_bytes:
            raise RunDirectoryError(
                f"expected {needed_bytes / 1e6:.0f} MB of free disk for this run but {existing} has {free / 1e6:.0f} MB; "
                "free some, give another -out, or ask for fewer samples"
            )

    @classmethod
    def create(cls, path: Path, *, needed_bytes: int = 0) -> "RunDirectory":
        """Make a new run directory and take its lock; see `check_new` for what is refused.

        What a job left that was killed before it had stored its inputs is removed.
        """
        cls.check_new(path, needed_bytes=needed_bytes)
        folder = Path(path).absolute()
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        run.job.hold(folder)  # also the first file that is written there
        cls.check_new(folder)  # again, for another job may have filled it meanwhile
        run._clear()
        return run

    def _clear(self) -> None:
        for left in self.path.iterdir():
            if left.name != lock.NAME:
                with explained(left):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    def discard_half_made(self) -> None:
        """Take back a folder whose inputs could not be stored; one with anything else in it stays as it is."""
        if lock.half_made(self.path):
            with suppress(OSError, RunDirectoryError):  # the error under way matters more
                self._clear()
                self.job.release(self.path)
                self.path.rmdir()

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> "RunDirectory":
        """Find the run directory of an earlier run.

        Args:
            path: The folder.
            writable: Whether the caller is going to write to it: takes its lock.

        Raises:
            RunDirectoryError: It is missing, no run directory, of a later version, or read-only or in use when it should not be.
        """
        folder = Path(path).absolute()
        if not (folder / "provenance.json").is_file():
            state = "it has no provenance.json" if folder.is_dir() else "there is no such folder"
            action = (
                "start its command again without --resume" if lock.half_made(folder) else "give the -out folder of an earlier run"
            )
            raise RunDirectoryError(f"expected a run directory at {path} but {state}; {action}")
        if writable and not os.access(folder, os.W_OK | os.X_OK):
            raise RunDirectoryError(f"expected a run directory this user may write to but {path} is read-only; copy it elsewhere")
        run = cls(folder)
        run._read_schema("provenance.json", provenance.SCHEMA)
        if writable:
            run.job.hold(folder)
        return run

    def file(self, name: str) -> Path:
        """Path of a file of this run."""
        return self.path / name

    def store_inputs(
        self,
        scripts: Sequence[Path],
        data: Iterable[Path],
        *,
        config: str,
        command: Sequence[str],
        seeds: Mapping[str, int],
        names: Mapping[str, Path] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the inputs and write config.toml, rerun.sh and provenance.json.

        Args:
            scripts: The input script, then the files it includes.
            data: Potential and structure files.
            config: The resolved configuration as TOML text.
            command: Arguments after `lammps-bg`, as typed.
            seeds: Seeds by name; `seed` is the one of the command line.
            names: What each file name in the script stood for, so that the copied script finds its copies.
            extra: Further entries of provenance.json.
        """
        files = provenance.describe_inputs(scripts, data)
        for source, entry in files.items():
            target = self.path / "inputs" / entry.stored
            with explained(target.parent):
                target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, target)
        self.write_text("config.toml", config)
        self.write_text("rerun.sh", provenance.rerun_script(command, seeds, next(iter(files.values())).stored))
        self.file("rerun.sh").chmod(0o755)
        # Last: a folder without it is no run directory.
        more = {"names": provenance.stored_names(files, names or {}), **(extra or {})}
        self.write_json("provenance.json", provenance.record(files.values(), command, seeds=seeds, extra=more))

    def copy_in(self, source: Path, name: str) -> None:
        """Copy a file into the folder in one step."""
        copy_file(source, self.path / name)

    def discard_inputs(self) -> None:
        """Undo `store_inputs` in a run that came no further; a folder with anything else in it stays as it is."""
        stored = ("provenance.json", "rerun.sh", "config.toml", "status.json", lock.NAME)
        if any(entry.name not in (*stored, "inputs") for entry in self.path.iterdir()):
            return
        with explained(self.path):
            for name in stored[:-1]:
                self.file(name).unlink(missing_ok=True)
            shutil.rmtree(self.file("inputs"))
            self.job.release(self.path)
            self.path.rmdir()

    @property
    def inputs(self) -> list[InputFile]:
        """The stored inputs, the script first."""
        return [InputFile(**entry) for entry in self.read_json("provenance.json")["inputs"]]

    @property
    def script(self) -> Path:
        """The stored copy of the input script."""
        return self.path / "inputs" / self.inputs[0].stored

    def changed_inputs(self, scripts: Sequence[Path], data: Iterable[Path]) -> list[str]:
        """What differs between the given inputs and those of this run, one phrase per file; empty if nothing does."""
        return provenance.changes(self.inputs, provenance.describe_inputs(scripts, data).values())

    def require_same_inputs(self, scripts: Sequence[Path], data: Iterable[Path]) -> None:
        """Refuse to go on with other inputs than those of this run.

        Raises:
            RunDirectoryError: The script, an included file, or a potential differs.
        """
        if changed := self.changed_inputs(scripts, data):
            raise RunDirectoryError(
                f"expected the inputs of the run in {self.path} but {', '.join(changed)}; restore them, or start a new run with "
                "another -out"
            )

    def write_text(self, name: str, text: str, *, durable: bool = True) -> None:
        """Replace a file in one step.

        Args:
            name: Name in the folder.
            text: New content.
            durable: Wait until the disk has it, so that it survives a power cut.

        Raises:
            RunDirectoryError: The disk is full (FullDiskError) or the folder unwritable; the previous version stays.
        """
        replace_bytes(self.path / name, text.encode("utf-8"), durable=durable)

    def write_json(self, name: str, content: Mapping[str, Any], *, durable: bool = True) -> None:
        """Replace a JSON file in one step; numbers that are not finite become null."""
        self.write_text(name, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", durable=durable)

    def read_json(self, name: str) -> dict[str, Any]:
        """Content of a JSON file of this run.

        Raises:
            RunDirectoryError: It is missing or holds no JSON object.
        """
        try:
            content = json.loads(self.file(name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunDirectoryError(f"expected {name} in {self.path} but it is missing; the run has not come so far") from error
        except ValueError as error:
            raise RunDirectoryError(
                f"expected JSON in {self.file(name)} but it is damaged ({error}); {_REMEDIES.get(name, _REMEDY)}"
            ) from error
        if not isinstance(content, dict):
            raise RunDirectoryError(
                f"expected a JSON object in {self.file(name)} but it holds something else; {_REMEDIES.get(name, _REMEDY)}"
            )
        return content

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Replace results.json; the name and version of its schema come first."""
        self.write_json("results.json", {**RESULTS_SCHEMA, **results})

    def read_results(self) -> Results:
        """Content of results.json; raises RunDirectoryError if it is missing or of a later version."""
        return Results(self._read_schema("results.json", RESULTS_SCHEMA))

    def write_status(self, stage: str, **numbers: float | None) -> None:
        """Replace status.json, which says where the run stands.

        Args:
            stage: What the program is doing, one word.
            numbers: Those of `_STATUS` that are known.
        """
        known = {written: numbers.pop(name, None) for name, written in _STATUS.items()}
        if numbers:
            raise TypeError(f"unknown numbers of a status: {', '.join(numbers)}")
        self.job.write_status(self.path, _plain({"stage": stage, **known}))

    def end_status(self) -> None:
        """Say in status.json that the command has nothing left to do; the numbers are those written last."""
        self.job.finish(self.path)

    def training_table(self, columns: Sequence[str], *, keep_until: float | None = None) -> CsvTable:
        """The growing train.csv; `keep_until` as in `CsvTable`."""
        return CsvTable(self.file("train.csv"), columns, keep_until=keep_until)

    def sample_table(self, *, keep_until: float | None = None) -> CsvTable:
        """The growing samples.csv: sample index, total potential energy, log q and log w; `keep_until` as in `CsvTable`."""
        return CsvTable(self.file("samples.csv"), SAMPLE_COLUMNS, keep_until=keep_until)

    def _read_schema(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        content = self.read_json(name)
        found, known = content.get("schema"), schema["schema_version"]
        if found != schema["schema"] or not 1 <= content.get("schema_version", 0) <= known:
            raise RunDirectoryError(
                f"expected {schema['schema']} of version {known} or before in {self.file(name)} but it says {found!r} version "
                f"{content.get('schema_version')!r}; use the version of lammps-bg that wrote it"
            )
        return content


class NonRootDirectory(RunDirectory):
    """The run directory as all MPI ranks but the first have it: they read, and leave the writing to the first."""

    def write_text(self, name: str, text: str, *, durable: bool = True) -> None:
        """Leave it to the first rank."""

    def write_status(self, stage: str, **numbers: float | None) -> None:
        """Leave it to the first rank, unless this one fails: then it has the last word."""
        self.job.follow(self.path, stage)

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


def _plain(value: Any) -> Any:  # noqa: ANN401  (any JSON-like value)
    """The value as JSON knows it; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
