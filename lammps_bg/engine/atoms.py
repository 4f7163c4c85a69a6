# SPDX-License-Identifier: GPL-2.0-or-later
"""The atoms of a LAMMPS instance in the order of their ids, whatever order and whatever MPI rank LAMMPS has them on.

One rank alone reads and writes LAMMPS' own arrays. In a team (-lammps-ranks) each rank does so with the atoms in its part of the
box, and the first one gets the whole.
"""

import contextlib
import functools
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.library import Lammps, create
from lammps_bg.engine.team import Member, collective

Array = NDArray[np.float64]

_KEPT_LIST = "run 1 pre no post no"  # forces at the new positions with the neighbour list as it is
_FULL_SETUP = "run 0 post no"
# LAMMPS hands atoms on to neighbouring parts of the box only; this brings them wherever they belong, and costs 2 % of a set-up
_MIGRATE = "change_box all x delta 0 0"
_MESSAGE = 1 << 25  # bytes
_VECTORS = ("x", "v", "f")
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


class Everywhere:
    """The library object of an instance that a team holds: what LAMMPS executes or computes goes to every rank."""

    def __init__(self, atoms: "Atoms") -> None:
        self._atoms = atoms

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name in ("command", "expand", "extract_variable", "extract_compute"):
            return functools.partial(self._atoms.ask, name)
        return getattr(self._atoms.library, name)  # what every rank knows by itself


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
        self.library: Lammps = create(flags, self._communicator)

    @property
    def lammps(self) -> Lammps:
        """The library object for the rest of the program: of a team, all of its ranks."""
        return cast(Lammps, Everywhere(self)) if self.shared else self.library

    @collective
    def ask(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """Call a method of the library object on every rank."""
        return getattr(self.library, method)(*args)

    # ---- this rank's atoms

    def _local(self, name: str) -> NDArray:
        """A per-atom quantity in LAMMPS' local order, a copy where it is no vector, shape [n] or [n, 3]."""
        if name in _VECTORS:
            return self.library.vectors(name)
        return self.library.per_atom(name).astype(_TYPES.get(name, np.float64)).ravel()

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

    def _placed(self, whole: NDArray) -> NDArray:
        """This rank's part of a quantity of all atoms, in LAMMPS' order."""
        return whole if self._rows is None else whole[self._rows]

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
            self.library.vectors(name)[...] = self._placed(whole)
        if images is not None:
            self.library.per_atom("image")[:, 0] = self._placed(images)
        if self.shared and "x" in values:
            self.library.command(_MIGRATE)

    # ---- energies and forces

    def portion(self, n_atoms: int) -> int:
        """How many configurations `evaluate` should get at a time: of a team they are a message to every rank."""
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
        self._held = self.library.vectors("x").copy()

    @collective
    def evaluate(
        self, displacements: Array, sites: tuple[Array, NDArray[np.int64]] | None, forces: bool, offset: Array | None = None
    ) -> Evaluated:
        """Energies of configurations one after the other, as many as LAMMPS takes.

        Args:
            displacements: From the sites, or from places beside them, shape [n, N, 3], length units.
            sites: Positions in the box and image flags as of `hold`, for a list of its own each; None keeps the list that `hold` built.
            forces: Whether forces are wanted, too.
            offset: From the sites to those places, shape [N, 3], length units; None: they are the sites.
        """
        held = self._held if offset is None or sites is not None else self._held + self._placed(offset)
        places = None if sites is None else sites[0] if offset is None else sites[0] + offset
        energies, refusal, done = np.empty(len(displacements)), None, len(displacements)
        # rows of other ranks' atoms stay zero
        found = (np.zeros if self.shared else np.empty)(displacements.shape) if forces else None
        for index, displacement in enumerate(displacements):
            try:
                if sites is None:  # ghost atoms follow by LAMMPS' own communication
                    np.add(held, self._placed(displacement), out=self.library.vectors("x"))
                    self.library.command(_KEPT_LIST)
                else:
                    self._set_up(places + displacement, sites[1])
                    self.library.command(_FULL_SETUP)
                    self._order()
                energies[index] = self.potential_energy()
            except Exception as error:  # LAMMPS raises plain Exception
                refusal, done = self.confirmed(error), index
                break
            if found is not None:
                found[index][slice(None) if self._rows is None else self._rows] = self.library.vectors("f")
        return Evaluated(energies[:done], None if found is None else self.summed(found[:done]), refusal)

    def _set_up(self, positions: Array, images: NDArray[np.int64]) -> None:
        """Write positions with the image flags that fixes with a memory (springs) refer to."""
        self.write({"x": positions}, images)

    @collective
    def potential_energy(self) -> float:
        """Total potential energy of the last evaluated configuration, in energy units (never per atom)."""
        return self.library.potential_energy()

    @collective
    def close(self) -> None:
        """Free the instance; a second call does nothing."""
        if self.library.is_open:
            intact = not self.library.has_failed
            if not intact:
                with contextlib.suppress(Exception):  # LAMMPS raises plain Exception
                    self.library.command("log none")  # a later instance may go on with the user's log
            self.library.close()
            if self.shared and intact:
                self._communicator.Free()
            self.leave()
