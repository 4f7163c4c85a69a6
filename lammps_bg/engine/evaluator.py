# SPDX-License-Identifier: GPL-2.0-or-later
"""Batched energies and forces: one LAMMPS instance, one neighbour list built at the sites."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from lammps_bg.crystal.structure import Array, Structure
from lammps_bg.engine import describe
from lammps_bg.engine.instance import Instance
from lammps_bg.engine.library import Lammps, lammps_message
from lammps_bg.engine.script import rules
from lammps_bg.errors import CrystalError, PotentialError

log = logging.getLogger(__name__)
_HELD = 0.999  # of half the skin: below it LAMMPS' own check never rebuilds the list
_FAR = 1e6  # cell lengths: farther out a coordinate has lost its meaning
_PIECE = 256  # configurations prepared at a time
_MIN_BATCH = 16  # configurations that say something about the skin
_SKIN_QUANTILE = 0.99
_SKIN_STEP = 0.05  # skins are multiples of this many default skins
_SKIN_RANGE = (0.5, 2.0)  # in default skins
_MANY_OUTSIDE = 0.1
_REMOVE = {"fix": "unfix {}", "compute": "uncompute {}", "variable": "variable {} delete", "group": "group {} delete"}


class Evaluator:
    """Evaluates configurations of one crystal.

    To rounding, the energy is a pure function of the positions: configurations whose atoms lie within half a neighbour skin of
    the sites use the list built at the sites, all others a list of their own.

    Attributes:
        n_evaluations: Configurations evaluated so far.
        n_nonfinite: Those of them without a finite energy and finite forces.
        energy_per_atom: Size of the energy of the script's sites per atom, energy units.

    Args:
        instance: The LAMMPS instance, which is closed with this object.
        structure: The sites in the instance's cell, ordered by id.
        remake: Makes another such instance should this one be lost.
    """

    def __init__(self, instance: Instance, structure: Structure, remake: Callable[[], Instance]) -> None:
        self._instance, self._remake = instance, remake
        self._fractional = structure.fractional
        inverse = np.linalg.inv(structure.cell)
        self._offsets = np.rint((describe.unwrapped(self._instance) - structure.positions) @ inverse)  # the script's image flags
        self.n_evaluations = 0
        self.n_nonfinite = 0
        self._told = False
        self._default_skin = self._skin = describe.skin(self._instance, (structure.volume / structure.n_atoms) ** (1 / 3))
        self._tuned = self._fixed_skin = False
        # fixes may act every few steps or remember the last configuration: only a full set-up is safe with them
        kept = self._instance.reader.kept_fixes.values()
        self._needs_setup = any(style not in rules.STATELESS_FIXES for style in kept)
        self._use_cell(structure.cell, structure.origin)
        if not np.array_equal(self._box, structure.cell):
            self._change_box()
        self._send_skin()
        self._first_setup()

    def _first_setup(self) -> None:
        """Evaluate the sites once, so that a potential that does not work says so now."""
        try:
            with self._instance.listening():
                self._hold()
        except Exception as error:  # LAMMPS raises plain Exception
            self.close()
            raise PotentialError(
                f"LAMMPS cannot evaluate the structure of the script: '{lammps_message(error)}'; "
                "complete the script until plain LAMMPS accepts `run 0` after it"
            ) from None
        if not math.isfinite(self._instance.potential_energy()):
            self.close()
            raise PotentialError("expected a finite energy of the script's structure, got none; do atoms overlap?")
        self.energy_per_atom = abs(self._instance.potential_energy()) / len(self._sites)

    @property
    def lammps(self) -> Lammps:
        """The LAMMPS library object: for questions; whoever changes its state goes through `borrowed`."""
        return self._instance.lammps

    # ---- cell

    @property
    def cell(self) -> Array:
        """Vectors of the current cell as rows, shape [3, 3], length units."""
        return self._cell.copy()

    @property
    def origin(self) -> Array:
        """Lower corner of the current cell, shape [3], length units."""
        return self._origin.copy()

    @property
    def sites(self) -> Array:
        """The sites, scaled into the current cell, shape [N, 3], length units."""
        return self._sites.copy()

    def set_cell(self, cell: Array, origin: Array | None = None) -> None:
        """Change the cell; the sites keep their fractional coordinates.

        Args:
            cell: Cell vectors as rows, lower triangular, shape [3, 3], length units.
            origin: Lower corner, shape [3], length units; the present one if not given.
        """
        cell = np.array(cell, dtype=np.float64)
        if cell.shape != (3, 3) or not np.isfinite(cell).all() or np.abs(np.triu(cell, 1)).max() > 1e-12 * np.abs(cell).max():
            raise CrystalError(f"expected a lower triangular 3x3 cell, got {cell.tolist()}; rotate it as LAMMPS does")
        if np.diag(cell).min() <= 0:
            raise CrystalError(f"expected positive box lengths, got {np.diag(cell).tolist()}")
        self._use_cell(cell, self._origin if origin is None else np.array(origin, dtype=np.float64))
        self._change_box()

    def _use_cell(self, cell: Array, origin: Array) -> None:
        self._cell, self._origin = np.tril(cell), origin
        self._sites = self._fractional @ self._cell + origin
        # what LAMMPS gets: the same lattice with small tilts, the sites inside that box
        self._box = _reduced(self._cell)
        self._inverse = np.linalg.inv(self._box)
        self._box_sites = self._sites - np.floor((self._sites - origin) @ self._inverse + describe.WRAP_TOLERANCE) @ self._box
        images = np.rint((self._sites + self._offsets @ self._cell - self._box_sites) @ self._inverse)
        self._images = describe.encoded_images(self._instance, images.astype(np.int64))
        # below half the shortest distance between opposite faces a displacement is its own nearest image
        self._half_width = 0.5 / np.linalg.norm(self._inverse, axis=0).max() / math.sqrt(3.0)
        self._held = False

    def _change_box(self) -> None:
        """Tell LAMMPS the cell."""
        low = self._origin
        bounds = zip("xyz", low.tolist(), (low + np.diag(self._box)).tolist(), strict=True)
        command = "change_box all " + " ".join(f"{axis} final {lo!r} {hi!r}" for axis, lo, hi in bounds)
        tilts = (float(self._box[1, 0]), float(self._box[2, 0]), float(self._box[2, 1]))
        if any(tilts) or self.lammps.extract_setting("triclinic"):
            self._make_triclinic()
            command += " xy final {!r} xz final {!r} yz final {!r}".format(*tilts)
        self._instance.command(command + " units box")
        self._held = False

    def _make_triclinic(self) -> None:
        if self.lammps.extract_setting("triclinic"):
            return
        self._change_kind("triclinic")

    def _make_orthogonal(self) -> None:
        """Undo `_make_triclinic`, in a box without tilts."""
        if self.lammps.extract_setting("triclinic"):
            self._change_kind("ortho")

    def _change_kind(self, kind: str) -> None:
        self._instance.command(f"change_box all {kind}")
        for command in self._instance.reader.kspace:  # LAMMPS wants them again after this
            self._instance.command(command)
        self._held = False

    # ---- evaluation

    def energies(self, positions: Array, sites: Array | None = None) -> Array:
        """Total potential energies, shape [n], energy units; infinity where there is none.

        Args:
            positions: Cartesian positions ordered by id, any image, shape [n, N, 3], length units; displacements where `sites` are given.
            sites: What they are displacements from, ordered by id: the sites in this cell, but for noise and images, shape [N, 3].
        """
        return self._evaluate(positions, None, sites)

    def energies_forces(self, positions: Array, sites: Array | None = None) -> tuple[Array, Array]:
        """Total potential energies, shape [n], and forces, shape [n, N, 3].

        A configuration without a finite energy or forces has energy infinity and forces nan, and is counted.
        """
        forces = np.full(np.shape(positions), np.nan)
        return self._evaluate(positions, forces, sites), forces

    def _evaluate(self, positions: Array, forces: Array | None, sites: Array | None) -> Array:
        """Evaluate in pieces, so that the memory for displacements stays small."""
        pieces, offset = [], self._offset_of(sites)
        for start in range(0, len(positions), _PIECE):
            piece = slice(start, start + _PIECE)
            pieces.append(self._evaluate_piece(positions[piece], None if forces is None else forces[piece], offset))
        energies = np.concatenate(pieces) if pieces else np.empty(0)
        self.n_evaluations += len(energies)
        self.n_nonfinite += int(np.count_nonzero(~np.isfinite(energies)))
        return energies

    def _offset_of(self, sites: Array | None) -> Array | None:
        """From the sites that LAMMPS has to those that displacements count from, nearest images."""
        if sites is None:
            return None
        offset = sites - self._sites
        return np.asarray(offset - np.rint(offset @ self._inverse) @ self._box)

    def _evaluate_piece(self, positions: Array, forces: Array | None, offset: Array | None) -> Array:
        displacements, reach = self.displacements(positions, offset)
        self._tune(reach)
        energies = np.full(len(displacements), np.inf)
        held = (reach < _HELD * 0.5 * self._skin) & (not self._needs_setup)
        # those that keep the list first: the others rebuild it
        for keep, index in ((True, np.flatnonzero(held)), (False, np.flatnonzero(np.isfinite(reach) & ~held))):
            found = None if forces is None else np.full((len(index), *self._sites.shape), np.nan)
            energies[index] = self._several(displacements[index], keep, found, offset)
            if forces is not None:
                forces[index] = found
        return energies

    def displacements(self, positions: Array, offset: Array | None = None) -> tuple[Array, Array]:
        """Displacements to the nearest image of the site, and the longest in each configuration (infinity: not usable).

        Args:
            positions: Cartesian positions ordered by id, shape [n, N, 3], length units; displacements where there is an `offset`.
            offset: From the sites to what these count from, as they stay; the longest are from the sites, shape [N, 3].
        """
        positions = np.asarray(positions, dtype=np.float64)
        if positions.ndim != 3 or positions.shape[1:] != self._sites.shape:
            raise ValueError(f"expected positions of shape [n, {len(self._sites)}, 3], got {list(positions.shape)}")
        with np.errstate(invalid="ignore", over="ignore"):
            displacements = positions - self._sites if offset is None else positions.copy()
            largest = np.abs(displacements).reshape(len(positions), -1).max(axis=1, initial=0.0)
            for index in np.flatnonzero(~(largest < self._half_width)):
                fractional = displacements[index] @ self._inverse
                usable = (np.abs(fractional) < _FAR).all()  # false for nan, too
                displacements[index] = displacements[index] - np.rint(fractional) @ self._box if usable else np.inf
            from_sites = displacements if offset is None else displacements + offset
            squares = np.einsum("nij,nij->ni", from_sites, from_sites)
        return displacements, np.sqrt(squares.max(axis=1, initial=0.0))

    def _several(self, displacements: Array, held: bool, forces: Array | None, offset: Array | None = None) -> Array:
        """Evaluate configurations of one kind, infinite where LAMMPS refuses."""
        energies, at = np.full(len(displacements), math.inf), 0
        while at < len(displacements):
            if held and not self._held:
                self._recover()
            self._held = held
            piece = slice(at, at + self._instance.atoms.portion(len(self._sites)))
            sites = None if held else (self._box_sites, self._images)
            found = self._instance.atoms.evaluate(displacements[piece], sites, forces is not None, offset)
            done = slice(at, at + len(found.energies))
            energies[done] = found.energies
            if forces is not None:
                forces[done] = found.forces
            at = done.stop
            if found.refusal is not None:
                self._refused(found.refusal)
                at += 1
        return self._finite(energies, forces)

    @staticmethod
    def _finite(energies: Array, forces: Array | None) -> Array:
        """Energies that are infinite where they or the forces are not finite; those forces become nan."""
        finite = np.isfinite(energies)
        if forces is not None:
            # nan and infinity survive the sum, which is cheaper than isfinite
            finite &= np.isfinite(forces.sum(axis=(1, 2)))
            forces[~finite] = np.nan
        return np.where(finite, energies, math.inf)

    def _refused(self, error: Exception) -> None:
        """After a configuration that LAMMPS refuses; it raises plain Exception, for one bad configuration as for anything else."""
        if not self._told:
            self._told = True
            log.warning("LAMMPS gives no energy for a configuration, which counts as infinite: %s", str(error).strip())
        self._recover()

    def _hold(self) -> None:
        """Build the neighbour list at the sites."""
        self._instance.atoms.hold(self._box_sites, self._images)
        self._held = True

    def _gather(self, name: str) -> Array:
        """A per-atom quantity in id order, shape [N, 3] or [N]."""
        return self._instance.atoms.gather(name)[0]

    def _recover(self) -> None:
        """After LAMMPS refused a configuration: make sure that the sites still work, else start from the script again."""
        try:
            self._hold()
        except Exception:
            self._restart()

    def _restart(self) -> None:
        """Replace the LAMMPS instance by a new one, in the present cell."""
        said = self._instance.warnings
        self._instance.close()
        self._instance = self._remake()
        self._instance.warnings = said
        self._change_box()
        self._send_skin()
        self._hold()

    # ---- neighbour skin

    @property
    def skin(self) -> float:
        """The neighbour skin in use, length units."""
        return self._skin

    def keep_neighbour_skin(self, positions: Array, sites: Array | None = None) -> None:
        """Choose the skin for configurations like these and keep it, so that energies do not depend on what came before, to the last bit."""
        if self._needs_setup:
            return
        _, reach = self.displacements(positions, self._offset_of(sites))
        self._skin, self._fixed_skin = self._wanted_skin(reach[np.isfinite(reach)]), True
        self._send_skin()

    def _send_skin(self) -> None:
        words = self._instance.reader.neighbor
        self._instance.command(f"neighbor {self._skin!r} {words[1] if len(words) > 1 else 'bin'}")
        self._held = False

    def _tune(self, reach: Array) -> None:
        """Choose the smallest skin whose list, built at the sites, holds for nearly all configurations.

        The first real batch decides; later ones only widen it, when many of theirs lie outside.
        """
        reach = reach[np.isfinite(reach)]
        if self._fixed_skin or self._needs_setup or len(reach) < _MIN_BATCH:
            return
        wanted = self._wanted_skin(reach)
        outside = float(np.mean(reach >= _HELD * 0.5 * self._skin))
        if not self._tuned or (outside > _MANY_OUTSIDE and wanted > self._skin):
            self._tuned, self._skin = True, wanted
            self._send_skin()

    def _wanted_skin(self, reach: Array) -> float:
        """The skin whose list, built at the sites, holds for nearly all configurations of these reaches."""
        step = _SKIN_STEP * self._default_skin
        wanted = step * math.ceil(2.0 * float(np.quantile(reach, _SKIN_QUANTILE)) / _HELD / step) if len(reach) else 0.0
        return min(max(wanted, _SKIN_RANGE[0] * self._default_skin), _SKIN_RANGE[1] * self._default_skin)

    # ---- other quantities

    def virial_pressure(self, positions: Array, sites: Array | None = None) -> Array:
        """Configurational pressure, without the kinetic part, shape [n], pressure units; nan where there is none."""
        offset = self._offset_of(sites)
        displacements, reach = self.displacements(positions, offset)
        self._instance.command("compute lammps_bg_pressure all pressure NULL virial")
        self._thermo("step pe c_lammps_bg_pressure")
        try:
            return np.array(
                [self._pressure(d, offset) if math.isfinite(r) else math.nan for d, r in zip(displacements, reach, strict=True)]
            )
        finally:
            self._thermo("step pe")
            self._instance.command("uncompute lammps_bg_pressure")
            self._held = False

    def _pressure(self, displacement: Array, offset: Array | None) -> float:
        if not math.isfinite(self._several(displacement[None], False, None, offset)[0]):
            return math.nan
        return float(self.lammps.extract_compute("lammps_bg_pressure", 0, 0))

    def _thermo(self, columns: str) -> None:
        for command in self._instance.thermo_commands(columns):
            self._instance.command(command)

    # ---- lending

    @contextlib.contextmanager
    def borrowed(self) -> Iterator["Loan"]:
        """Lend the LAMMPS instance; afterwards it is as it was before, in a new instance where LAMMPS is beyond repair.

        Cell, velocities, time step, thermo output, neighbour lists and minimiser are set again, what was defined meanwhile is removed, and
        the atoms are on the sites. Meanwhile the engine itself must not be used.
        """
        before = self._cell, self._origin, bool(self.lammps.extract_setting("triclinic"))
        ids = {kind: set(self.lammps.available_ids(kind)) for kind in _REMOVE}
        timestep, velocities = float(self.lammps.extract_global("dt")), self._gather("v")
        try:
            yield Loan(self)
        finally:
            self._use_cell(*before[:2])
            try:
                self._remove_all_but(ids)
                for command in (*self._instance.settings(), f"timestep {timestep!r}"):
                    self._instance.command(command)
                self._instance.atoms.write({"v": velocities})
                self._send_skin()
                self._change_box()
                if not before[2]:
                    self._make_orthogonal()
                self._hold()
            except Exception:  # LAMMPS raises plain Exception
                self._restart()

    def _remove_all_but(self, ids: Mapping[str, set[str]]) -> None:
        for kind, command in _REMOVE.items():
            present = self.lammps.available_ids(kind)
            if not ids[kind] <= set(present):
                raise PotentialError(f"expected every {kind} of the script after a loan, got none of {ids[kind] - set(present)}")
            for name in present:
                if name not in ids[kind]:
                    self._instance.command(command.format(name))

    # ---- end

    def close(self) -> None:
        """Free the LAMMPS instance."""
        self._instance.close()


def _reduced(cell: Array) -> Array:
    """The same lattice with tilts of at most half a box length, shape [3, 3]."""
    a, b, c = cell.copy()
    c -= np.rint(c[1] / b[1]) * b
    b -= np.rint(b[0] / a[0]) * a
    c -= np.rint(c[0] / a[0]) * a
    return np.stack([a, b, c])


class Loan:
    """An engine's LAMMPS instance while somebody else drives it, see `Evaluator.borrowed`.

    Cells and positions are those of the engine: LAMMPS' own box may be the same lattice in other vectors with smaller tilts, and its image
    flags those that the script left.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    @property
    def _instance(self) -> Instance:
        return self._evaluator._instance  # a configuration that LAMMPS refuses may have cost the one of before

    @property
    def library(self) -> Lammps:
        """The library object, for questions and for `run`, whose refusal is LAMMPS' own exception."""
        return self._evaluator.lammps

    def command(self, text: str) -> None:
        """Send a command; LAMMPS' refusal is a PotentialError."""
        self._instance.command(text)

    def tally(self, columns: str) -> None:
        """Let LAMMPS compute thermo columns such as `c_ID` on the last step of a run, besides the potential energy."""
        for command in self._instance.thermo_commands(f"step pe {columns}"):
            self._instance.command(command)

    def minimise(self, tolerances: str) -> str:
        """Run LAMMPS' minimiser with the four numbers of `minimize`; why it stopped, in its own words."""
        return self._instance.minimise(tolerances)

    # ---- cell

    def set_cell(self, cell: Array, origin: Array) -> None:
        """Change the cell; the sites keep their fractional coordinates.

        Args:
            cell: Cell vectors as rows, lower triangular, shape [3, 3], length units.
            origin: Lower corner, shape [3], length units.
        """
        self._evaluator.set_cell(cell, origin)

    def make_triclinic(self) -> None:
        """Let LAMMPS hold the box as triclinic."""
        self._evaluator._make_triclinic()

    def cell(self) -> tuple[Array, Array]:
        """LAMMPS' present cell in the engine's vectors, shape [3, 3], and its lower corner, shape [3], length units."""
        cell, origin = describe.box(self.library)
        return np.rint(self._evaluator._cell @ self._evaluator._inverse) @ cell, origin

    # ---- atoms, in id order

    def hold(self) -> None:
        """Put the atoms on the sites and set up, so that energy and forces are theirs."""
        self._evaluator._hold()

    def gather(self, name: str) -> Array:
        """A per-atom quantity by LAMMPS' name (`v`, `f`, `type`, `rmass`), shape [N, 3] or [N]."""
        return self._evaluator._gather(name)

    def energy(self) -> float:
        """Potential energy of what LAMMPS last computed, energy units."""
        return self._instance.potential_energy()

    def positions(self, cell: Array) -> Array:
        """Positions, continuous over a run, in LAMMPS' present cell as `cell` gives it, shape [N, 3], length units."""
        return describe.unwrapped(self._instance) - self._evaluator._offsets @ cell

    def write_positions(self, positions: Array) -> None:
        """Write continuous positions, shape [N, 3]: in the box with image flags, since LAMMPS moves them by one box length only."""
        cell, origin = describe.box(self.library)
        total = positions + self._evaluator._offsets @ self._evaluator._cell
        images = np.floor((total - origin) @ np.linalg.inv(cell))
        flags = describe.encoded_images(self._instance, images.astype(np.int64))
        self._instance.atoms.write({"x": total - images @ cell}, flags)

    def write_velocities(self, velocities: Array) -> None:
        """Write velocities, shape [N, 3], length per time units."""
        self._instance.atoms.write({"v": velocities})

    def forces_at(self, displacement: Array) -> Array | None:
        """Forces at displacements from the sites in the cell that was set, shape [N, 3]; None where there is no energy."""
        forces = np.full((1, *displacement.shape), np.nan)
        energy = self._evaluator._several(displacement[None], False, forces)
        return forces[0] if math.isfinite(energy[0]) else None
