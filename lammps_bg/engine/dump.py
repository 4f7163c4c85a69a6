# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS text dump files: a streaming writer and a reader.

The log-weight of a sample is a per-atom column with the same value on every line (`c_logw`): of the ways to store a number per
frame it is the only one that LAMMPS `rerun`, OVITO and ASE all accept.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, TextIO, cast

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import cannot_write

Array = NDArray[np.float64]

_COMPRESSION = 2  # the digits are mostly random: level 6 saves another 7 % of the file at 3 times the time
_REQUIRED = ("id", "type")
_IMAGES = ("ix", "iy", "iz")
_PLACES = (("x", "y", "z"), ("xu", "yu", "zu"), ("xs", "ys", "zs"), ("xsu", "ysu", "zsu"))  # of these the first that is there
_KNOWN = ", ".join(" ".join(names) for names in _PLACES[:-1]) + f" or {' '.join(_PLACES[-1])}"


class DumpedCrystal(Protocol):
    """What the writer needs of a crystal."""

    @property
    def supercell(self) -> Array:
        """Cell vectors as rows, lower triangular, shape [3, 3], length units."""

    @property
    def origin(self) -> Array:
        """Lower corner of the cell, shape [3]."""

    @property
    def types(self) -> NDArray[np.int64]:
        """LAMMPS type of each site, 1-based, shape [N]."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Written name of each type."""

    @property
    def atom_ids(self) -> NDArray[np.int64]:
        """LAMMPS id of each site, shape [N]."""


@dataclass(frozen=True)
class Frame:
    """One configuration of a dump file, in the order of the file.

    Attributes:
        timestep: The file's time step; the sample index in files of this program.
        cell: Cell vectors as rows, lower triangular, shape [3, 3], length units.
        origin: Lower corner of the cell, shape [3].
        ids: Atom ids, shape [N].
        types: LAMMPS atom types, shape [N].
        positions: Positions with image flags applied where the file has them, shape [N, 3], length units.
        columns: All other columns by name, shape [N] each; `element` holds strings, the others floats.
    """

    timestep: int
    cell: Array
    origin: Array
    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    positions: Array
    columns: dict[str, NDArray]


class DumpWriter:
    """Writes configurations of one crystal to a LAMMPS text dump, compressed if the name ends in `.gz`.

    The file grows under the name `<path>.partial` and gets its own name when it is closed without an exception, so a file with
    the final name is always complete. After an exception the partial file stays and is readable.

    Args:
        path: The file to write; it must not exist.
        crystal: Cell, types, labels and atom ids.
        units: LAMMPS unit style, written once at the start of the file.
        triclinic: Whether the script declares its box triclinic; a tilted cell is always written as such. It matters for zero
            tilts: LAMMPS `rerun` refuses the other header.

    Raises:
        RunDirectoryError: The file exists or cannot be written.
    """

    def __init__(self, path: Path, crystal: DumpedCrystal, *, units: str, triclinic: bool = False) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.n_frames = 0
        self._crystal = crystal
        self._order = np.argsort(crystal.atom_ids, kind="stable")
        self._triclinic = triclinic
        self._use_cell(np.asarray(crystal.supercell, dtype=np.float64))
        self._last_timestep = -1
        self._template = self._atom_lines()
        if self.path.exists():
            raise RunDirectoryError(f"expected a new file for the dump but {self.path} exists; remove it or give another name")
        try:
            self._raw = open(self.partial, "wb")  # noqa: SIM115  (closed by close())
            self._stream: BinaryIO = self._raw
            if self.path.suffix == ".gz":  # no name and no date in the header: equal samples give equal files
                zipped = gzip.GzipFile("", "wb", _COMPRESSION, self._raw, mtime=0)
                self._stream = cast(BinaryIO, zipped)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        # Only here: OVITO takes a file with one UNITS item per frame for a single frame.
        self._put(f"ITEM: UNITS\n{units}\n")

    def write(
        self,
        timestep: int,
        positions: ArrayLike,
        log_weight: float | None,
        energy: float | None = None,
        cell: ArrayLike | None = None,
    ) -> None:
        """Append one configuration.

        Args:
            timestep: Sample index; must rise from frame to frame, because `rerun` skips repeated time steps.
            positions: Positions in site order, any periodic image, shape [N, 3], length units.
            log_weight: log w of the sample, column `c_logw`; None for frames of equal weight, which have no such column.
            energy: Total potential energy, column `c_pe` (the same on every line).
            cell: Cell vectors of this frame as rows, with the crystal's origin; None for the crystal's own.

        Raises:
            ValueError: The time step does not rise, or a position is not finite or of the wrong shape.
            RunDirectoryError: The disk is full or the file became unwritable.
        """
        positions = np.asarray(positions, dtype=np.float64)
        if timestep <= self._last_timestep:
            raise ValueError(f"expected a time step above {self._last_timestep}, got {timestep}")
        if positions.shape != (len(self._order), 3) or not np.isfinite(positions).all():
            raise ValueError(f"expected finite positions of shape {(len(self._order), 3)}, got shape {positions.shape}")
        given = {"c_pe": energy, "c_logw": log_weight}
        same = {name: float(value) for name, value in given.items() if value is not None}
        if cell is not None:
            self._use_cell(np.asarray(cell, dtype=np.float64))
        numbers = np.concatenate(self._wrapped(positions), axis=1)[self._order]
        names = " ".join(["id type element x y z ix iy iz", *same])
        header = f"ITEM: TIMESTEP\n{timestep}\nITEM: NUMBER OF ATOMS\n{len(numbers)}\n{self._box}ITEM: ATOMS {names}\n"
        template = self._template.replace("\n", "".join(f" {value!r}" for value in same.values()) + "\n")
        self._put(header + template % tuple(numbers.ravel().tolist()))
        self._last_timestep = timestep
        self.n_frames += 1

    def _use_cell(self, cell: Array) -> None:
        self._cell, self._inverse_cell = cell, np.linalg.inv(cell)
        self._box = _box_header(cell, np.asarray(self._crystal.origin, float), self._triclinic)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            RunDirectoryError: The disk is full or the file became unwritable.
        """
        if self._raw.closed:
            return
        try:
            self._finish_stream()
            os.replace(self.partial, self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> "DumpWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        try:
            self._finish_stream()
        except OSError:  # the disk is full: the exception under way says so already
            self._raw.close()

    def _finish_stream(self) -> None:
        if self._stream is not self._raw:
            self._stream.close()
        self._raw.close()

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text.encode())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _atom_lines(self) -> str:
        """Format string of all atom lines, without the columns that are equal on every line."""
        crystal = self._crystal
        # ASE refuses names that are no element; X is its symbol for an unknown one
        names = [label if label in chemical_symbols else "X" for label in crystal.labels]
        ids, types = np.asarray(crystal.atom_ids), np.asarray(crystal.types)
        return "".join(f"{ids[i]} {types[i]} {names[types[i] - 1]} %r %r %r %d %d %d\n" for i in self._order)

    def _wrapped(self, positions: Array) -> tuple[Array, ...]:
        """Positions inside the cell, and the image flags that lead back: position = wrapped + images @ cell."""
        images = np.floor((positions - self._crystal.origin) @ self._inverse_cell)
        return positions - images @ self._cell, images


def _box_header(cell: Array, origin: Array, triclinic: bool) -> str:
    """The BOX BOUNDS item. LAMMPS wants the bounding box of a tilted cell there, not its edges."""
    (xy, xz, yz), high = (cell[1, 0], cell[2, 0], cell[2, 1]), origin + np.diag(cell)
    bounds = np.stack([origin, high], axis=1)
    if not (xy or xz or yz or triclinic):
        return "ITEM: BOX BOUNDS pp pp pp\n" + "".join(f"{float(lo)!r} {float(hi)!r}\n" for lo, hi in bounds)
    bounds[0] += min(0.0, xy, xz, xy + xz), max(0.0, xy, xz, xy + xz)
    bounds[1] += min(0.0, yz), max(0.0, yz)
    rows = zip(bounds, (xy, xz, yz), strict=True)
    return "ITEM: BOX BOUNDS xy xz yz pp pp pp\n" + "".join(f"{float(b[0])!r} {float(b[1])!r} {float(t)!r}\n" for b, t in rows)


def read_dump(path: Path) -> Iterator[Frame]:
    """Frames of a LAMMPS text dump, one at a time.

    Args:
        path: A dump with the columns `id type` and positions, wrapped (`x y z`), unwrapped (`xu yu zu`) or scaled (`xs ys zs`,
            `xsu ysu zsu`), with image flags `ix iy iz` or without, and any others; plain or `.gz`.

    Yields:
        The frames in the order of the file.

    Raises:
        RunDirectoryError: The file is missing, cut short, damaged, no LAMMPS text dump, or lacks columns.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as stream:
            yield from _FrameReader(path, cast(TextIO, stream)).frames()
    except FileNotFoundError as error:
        raise RunDirectoryError(f"expected a dump file at {path} but there is none; check the path") from error
    except (EOFError, zlib.error) as error:
        raise RunDirectoryError(
            f"expected a complete compressed dump but {path} is cut short or damaged; write it again or take another copy"
        ) from error
    except (gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"expected a LAMMPS text dump but {path} is none ({error}); check the file") from error
    except OSError as error:
        raise RunDirectoryError(f"expected a readable dump file at {path} but the system says '{error.strerror}'") from error


class _FrameReader:
    """Parses the items of an open dump file; every complaint names file and line."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self._path = path
        self._stream = stream
        self._line = 0

    def frames(self) -> Iterator[Frame]:
        """All frames up to the end of the file."""
        while (item := self._stream.readline()).strip():
            self._line += 1
            if item.startswith(("ITEM: UNITS", "ITEM: TIME\n")):
                self._next()
                continue
            yield self._frame(item)
        if self._line == 0:
            raise self._wrong("'ITEM: TIMESTEP'", "an empty file")

    def _frame(self, item: str) -> Frame:
        if item.strip() != "ITEM: TIMESTEP":
            raise self._wrong("'ITEM: TIMESTEP'", repr(item[:60].strip()))
        timestep = self._integer()
        self._expect("ITEM: NUMBER OF ATOMS")
        n_atoms = self._integer()
        cell, origin = self._box(self._expect("ITEM: BOX BOUNDS"))
        names = self._expect("ITEM: ATOMS").split()
        missing = [name for name in _REQUIRED if name not in names]
        places = next((known for known in _PLACES if set(known) <= set(names)), None)
        if missing or places is None:
            raise self._wrong(f"the columns id type and {_KNOWN}", f"only {' '.join(names)}")
        columns = self._columns(names, n_atoms)
        positions = np.stack([columns.pop(name) for name in places], axis=1)
        if "s" in places[0]:
            positions = origin + positions @ cell
        if "u" not in places[0] and set(_IMAGES) <= set(names):
            positions = positions + np.stack([columns.pop(name) for name in _IMAGES], axis=1) @ cell
        ids, types = (columns.pop(name).astype(np.int64) for name in _REQUIRED)
        return Frame(timestep, cell, origin, ids, types, positions, columns)

    def _columns(self, names: list[str], n_atoms: int) -> dict[str, NDArray]:
        rows = [self._next().split() for _ in range(n_atoms)]
        if any(len(row) != len(names) for row in rows):
            raise self._wrong(f"{len(names)} values on each atom line", "another number in this frame")
        columns = dict(zip(names, np.array(rows, dtype=str).reshape(n_atoms, -1).T, strict=True))
        try:
            return {name: values if name == "element" else values.astype(np.float64) for name, values in columns.items()}
        except ValueError as error:
            raise self._wrong("numbers in all columns but 'element'", str(error)) from error

    def _box(self, kind: str) -> tuple[Array, Array]:
        if "abc" in kind:
            raise self._wrong("an orthogonal or restricted triclinic box", "a general triclinic one ('abc origin')")
        tilted = "xy" in kind
        rows = [self._numbers(3 if tilted else 2) for _ in range(3)]
        low, high = (np.array([row[k] for row in rows]) for k in (0, 1))
        xy, xz, yz = (row[2] for row in rows) if tilted else (0.0, 0.0, 0.0)
        low -= min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0
        high -= max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0
        cell = np.diag(high - low)
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        return cell, low

    def _next(self) -> str:
        line = self._stream.readline()
        if not line.endswith("\n"):
            raise self._wrong("a complete last frame", "the end of the file inside it")
        self._line += 1
        return line

    def _expect(self, item: str) -> str:
        line = self._next()
        if not line.startswith(item):
            raise self._wrong(repr(item), repr(line[:60].strip()))
        return line[len(item) :]

    def _integer(self) -> int:
        return int(self._numbers(1)[0])

    def _numbers(self, count: int) -> list[float]:
        line = self._next()
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = []
        if len(values) != count:
            raise self._wrong(f"{count} number(s)", repr(line[:60].strip()))
        return values

    def _wrong(self, expected: str, given: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"expected {expected} but {self._path} has {given} at line {self._line}; "
            "give a LAMMPS text dump as by `dump 1 all custom 100 md.dump id type x y z`"
        )
