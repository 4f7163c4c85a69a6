# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: a user's LAMMPS script and what LAMMPS says about it, with the energies and forces of its crystal."""

import contextlib
import itertools
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.engine import describe, numbering, parameters, state_variables
from lammps_bg.engine.evaluator import Evaluator
from lammps_bg.engine.fix_trials import require_position_energies, unlike_the_run
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.guard import ScriptReader
from lammps_bg.engine.instance import Instance
from lammps_bg.engine.interpreter import SkippedCommand, lammps_message
from lammps_bg.engine.pair_style import PairStyle
from lammps_bg.errors import CrystalError, PotentialError, ScriptError

__all__ = ["Engine", "LammpsFlags", "SkippedCommand"]
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
        self._given = dict(variables or {})
        self._parameters: dict[str, str] = {}
        self._usable: set[frozenset[str]] = set()  # parameters that were checked

        self._rows: NDArray[np.int64] | None = None  # of the atoms by LAMMPS' id, in a team

        def load(*, alone: bool = False, used: LammpsFlags | None = None) -> Instance:
            values = {**(variables or {}), **{name: [value] for name, value in self._parameters.items()}}
            used = used or (LammpsFlags() if alone else flags or LammpsFlags())
            return Instance(Path(script), values, used, stored=stored, alone=alone)

        def make() -> Instance:
            instance = self._numbered(load)
            _replicate(instance, replicate)
            return instance

        first: list[Instance] = [self._numbered(load)]
        if not stored:
            silent = replace(flags or LammpsFlags(), log="none", screen="none")
            try:
                require_position_energies(first[0], lambda: load(alone=True, used=silent))
            except BaseException:
                first[0].close()
                raise
        self.unlike_the_run = unlike_the_run(first[0])
        self.units = describe.units(first[0].lammps)
        self.script_structure = describe.structure(first[0])
        wanted = self.script_structure.n_atoms * math.prod(replicate)
        if wanted > most_atoms:
            first[0].close()
            raise CrystalError(
                f"expected at most {most_atoms:.0f} atoms, which fit into the memory of this machine, got {wanted}; "
                "use a smaller -rep (a model trained on a small crystal is applied to a larger one with `lammps-bg sample -rep`)"
            )
        _replicate(first[0], replicate)
        self.structure = describe.structure(first[0])
        self.atom_ids: NDArray[np.int64] = np.arange(1, self.structure.n_atoms + 1)
        if self.structure.n_atoms < 2:
            first[0].close()
            raise ScriptError("expected at least 2 atoms, got 1; use a larger cell or -rep")
        super().__init__(lambda: first.pop() if first else make(), self.structure)

    def _numbered(self, load: Callable[..., Instance]) -> Instance:
        """An instance, with the atoms numbered as on one rank."""
        if parallel.team().Get_size() == 1:
            return load()
        if self._rows is not None:
            instance = load()
        else:
            # first alone: what is wrong with a script LAMMPS often says on one rank of a team only, which ends the job
            with contextlib.closing(load(alone=True)) as alone:
                reference = describe.structure(alone)
            instance = load()
            self._rows = numbering.rows_as(reference, describe.structure(instance))
        instance.atoms.renumber(self._rows)
        return instance

    @property
    def reader(self) -> ScriptReader:
        """The guard that read the script."""
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
    def pair(self) -> PairStyle:
        """What the script says of its pair style."""
        return PairStyle.of(self._instance)

    @property
    def version(self) -> str:
        """LAMMPS' version, year month day."""
        return str(self.lammps.version())

    @property
    def triclinic(self) -> bool:
        """Whether LAMMPS holds the box as triclinic, its tilts zero or not."""
        return bool(self.lammps.extract_setting("triclinic"))

    def variable(self, name: str) -> float | None:
        """Numeric value of a LAMMPS variable after the script, or nothing.

        Args:
            name: Name of the variable.
        """
        if not self.lammps.has_id("variable", name):
            return None
        try:
            return float(self.lammps.extract_variable(name))
        except Exception:  # LAMMPS raises plain Exception; ValueError and TypeError where it is no number
            return None

    def state_variable(self, name: str) -> str | None:
        """What the user says by T, P or Lambda: the value by -var, else the script's own number, or nothing.

        Args:
            name: Name of the variable.
        """
        given = self._given.get(name)
        return given[0] if given else state_variables.own(self.reader.stale, name, self.variable_text(name))

    def script_value(self, name: str) -> str:
        """Value that the script itself gives to an index variable, which -var replaces; empty where it gives none.

        Args:
            name: Name of the variable.
        """
        for command in self.reader.trace.commands:
            if command.target == name and command.kind == "variable":
                return command.text.split()[3]
        return ""

    def variable_text(self, name: str) -> str | None:
        """Value of a LAMMPS variable as text, or nothing where the script has none of that name.

        Args:
            name: Name of the variable.
        """
        if not self.lammps.has_id("variable", name):
            return None
        try:
            return str(self.lammps.extract_variable(name))
        except Exception:  # LAMMPS raises plain Exception: a formula without a value
            return "no value"

    def tried(self, commands: Sequence[str]) -> Evaluator:
        """Another instance of the same crystal with further commands after the script, to see what they change; close it afterwards.

        Args:
            commands: LAMMPS commands.

        Raises:
            PotentialError: LAMMPS refuses one of them.
        """

        def make() -> Instance:
            instance = self._make()
            try:
                for command in commands:
                    instance.command(command)
            except PotentialError:
                instance.close()
                raise
            return instance

        trial = Evaluator(make, self.structure)
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

        Args:
            name: Name of an index variable.

        Raises:
            ConfigError: It is no parameter of the potential alone.
        """
        return list(map(str, parameters.uses(self.reader.trace, name)))

    def set_parameters(self, values: Mapping[str, float | str]) -> None:
        """Give index variables of the script other values, as by -var; the commands of the potential are sent again.

        The crystal, the cell and everything else stay; values that are the present ones cost nothing.

        Args:
            values: New values by variable.

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
        self._parameters |= changed

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


def _replicate(instance: Instance, copies: tuple[int, int, int]) -> None:
    if tuple(copies) == (1, 1, 1):
        return
    # they hold numbers of every atom, with which LAMMPS refuses to replicate; the charges are found anew anyway
    charges = dict(instance.reader.charge_fixes)
    with instance.listening():
        for name in charges:
            instance.command(f"unfix {name}")
        # without this, a bond over a face of the cell goes on to the far side of the supercell
        bonds = " bond/periodic" if instance.lammps.extract_global("nbonds") else ""
        instance.command("replicate {} {} {}".format(*copies) + bonds)
        for command in itertools.chain(*charges.values()):
            instance.command(command)
