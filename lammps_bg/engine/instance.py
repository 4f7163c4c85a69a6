# SPDX-License-Identifier: GPL-2.0-or-later
"""One LAMMPS instance holding a user's crystal: created from a script, checked."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lammps_bg import parallel
from lammps_bg.engine import team
from lammps_bg.engine.atoms import Atoms
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.library import lammps_message
from lammps_bg.engine.script import rules
from lammps_bg.engine.script.reader import ScriptReader
from lammps_bg.errors import PotentialError, ScriptError

# the atom order must not change, and every id must be findable
PROLOGUE = ("atom_modify map array sort 0 0",)
# energies of unrelated configurations: always check whether the neighbour list still holds
_SAFE_SETTINGS = (
    "atom_modify sort 0 0",
    "run_style verlet",
    "timer off timeout off",
    "neigh_modify delay 0 every 1 check yes once no",
)
_MINIMISER = ("min_style cg", "min_modify dmax 0.1 line quadratic")  # LAMMPS' defaults
# said of runs, which are not executed, or of this program's own way to set up
_OURS = ("No fixes with time integration, atoms won't move",)


class Instance:
    """A LAMMPS instance after its script, ready to evaluate energies.

    Attributes:
        atoms: Its atoms.
        lammps: The library object.
        reader: What read the script, with what it found there.
        warnings: LAMMPS' warnings while it read the script and at the first set-up, each once.

    Args:
        script: The input script.
        variables: Index variables, as by -var.
        flags: LAMMPS' own flags.
        stored: The script is a copy with its files beside it, which go before those of the current folder.
        alone: This rank holds it, even where it belongs to a team.
    """

    def __init__(
        self,
        script: Path,
        variables: Mapping[str, Sequence[str]],
        flags: LammpsFlags,
        *,
        stored: bool = False,
        alone: bool = False,
    ) -> None:
        self.atoms = Atoms(flags) if alone or parallel.team().Get_size() == 1 else team.hold(Atoms, flags)
        team.close_with(self, self.atoms)
        self.lammps = self.atoms.lammps
        self.warnings: list[str] = []
        self._user_log = Path(flags.log).absolute() if flags.log != "none" else None
        self.reader = ScriptReader(self.lammps, script, variables, PROLOGUE)
        try:
            self.reader.files.here_last = stored
            with self.listening():
                self.reader.read()
            self._check()
            for command in (*_SAFE_SETTINGS, *self.thermo_commands("step pe")):
                self.command(command)
        except BaseException:
            self.close()
            raise

    def command(self, text: str) -> None:
        """Send one command; LAMMPS' refusal is a PotentialError, since scripts are read elsewhere."""
        try:
            self.lammps.command(text)
        except Exception as error:
            raise PotentialError(f"LAMMPS says '{lammps_message(error)}' to `{text}`") from None

    def minimise(self, tolerances: str) -> str:
        """Run LAMMPS' minimiser with the four numbers of `minimize`, and return why it stopped in LAMMPS' own words."""
        with self._logged() as said:
            self.lammps.command(f"minimize {tolerances}")
        found = re.search(r"Stopping criterion = (.*)", said[0])
        return found[1].strip() if found else "no reason given"

    def settings(self) -> tuple[str, ...]:
        """Commands that set again, but for the neighbour skin, what a run or a minimisation may have set otherwise."""
        return (*_SAFE_SETTINGS, *self.thermo_commands("step pe"), *_MINIMISER, *self.reader.minimiser)

    @staticmethod
    def thermo_commands(columns: str) -> tuple[str, ...]:
        """Commands that make LAMMPS compute the given thermo columns and nothing else."""
        return ("thermo 0", f"thermo_style custom {columns}", "thermo_modify norm no lost error flush no")

    # ---- reading and checking

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Collect LAMMPS' warnings meanwhile."""
        said: list[str] = []
        try:
            with self._logged() as said:
                yield
        finally:
            self.warnings = list(dict.fromkeys([*self.warnings, *_warnings("".join(said[:1]))]))

    @contextlib.contextmanager
    def _logged(self) -> Iterator[list[str]]:
        """What LAMMPS logs meanwhile, in the log that the user keeps or one of our own; the list has it as its first entry afterwards."""
        kept, said = self._user_log, list[str]()
        with tempfile.TemporaryDirectory() as folder:
            log = kept or Path(folder) / "log"
            known = log.stat().st_size if log.exists() else 0
            if kept is None:
                self.lammps.command(f'log "{log}"')
            try:
                yield said
            finally:  # either makes LAMMPS write out what it has
                self.lammps.command("log none" if kept is None else f'log "{kept}" append')
                said.insert(0, log.read_bytes()[known:].decode(errors="replace") if log.exists() else "")

    def _check(self) -> None:
        """Refuse what is not a three-dimensional periodic set of atoms with an energy."""
        name = self.reader.script_files[0].name
        if not self.lammps.extract_setting("box_exist"):
            raise ScriptError(
                f"{name}: expected a script that defines a crystal, but it never creates a box; "
                f"the first missing command is `create_box` or `read_data`{self._cleared()}{self.reader.undecided()}"
            )
        if self.lammps.get_natoms() == 0:
            raise ScriptError(
                f"{name}: expected atoms in the box, got none; the first missing command is `create_atoms` or `read_data`"
                f"{self._cleared()}{self.reader.undecided()}"
            )
        if self.lammps.extract_setting("dimension") != 3:
            raise ScriptError(f"{name}: expected `dimension 3`, got 2; two-dimensional crystals are not supported")
        if list(self.lammps.extract_box()[5]) != [1, 1, 1]:
            raise ScriptError(
                f"{name}: expected `boundary p p p`, got another boundary; surfaces and slabs have no bulk free energy"
            )
        self._check_ids(name)
        self._check_potential(name)
        self._check_degrees()

    def _check_ids(self, name: str) -> None:
        n = self.lammps.get_natoms()
        ids = np.sort(self.atoms.ids())
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
                f"{self._cleared()}{self.reader.undecided()}"
            )

    def _check_degrees(self) -> None:
        """Refuse potentials and atoms that are known to have more than positions, and fixes under which they do not move freely."""
        pair = self.reader.pair_style if self.pair_style.startswith("hybrid") else [self.pair_style]
        bond = [traced.text.split()[1:] for traced in self.reader.trace.commands if traced.name == "bond_style"]
        for command, words in (("pair_style", pair), *(("bond_style", words) for words in bond[-1:])):
            if found := rules.unsampled_style(words):
                sentence = rules.unsampled_sentence(f"{command} {found[0]}", found[1])
                raise PotentialError(f"{self.place_of(command)}: {sentence}")
        for style in self.atom_styles():
            if what := rules.unsampled_atoms(style):
                sentence = rules.unsampled_sentence(f"atom_style {style}", what)
                raise PotentialError(f"{self.place_of('atom_style')}: {sentence}")
        self.reader.require_free_atoms()

    def atom_styles(self) -> list[str]:
        """The atom style, or those within `hybrid`."""
        style = str(self.lammps.extract_global("atom_style"))
        if style != "hybrid":
            return [rules.base_style(style)]
        with tempfile.TemporaryDirectory() as folder:  # a restart file may have set it: only LAMMPS knows
            file = Path(folder) / "info"
            self.command(f'info system out overwrite "{file}"')
            line = next(line for line in file.read_text(errors="replace").splitlines() if line.startswith("Atom style"))
        return [rules.base_style(style) for style in line.split("=")[1].split()[1:]]

    def place_of(self, command: str) -> str:
        """Where the script last has a command, or the script where a file brings what it does."""
        said = [traced for traced in self.reader.trace.commands if traced.name == command]
        return f"{said[-1].file.name} line {said[-1].line}" if said else self.reader.script_files[0].name

    def _cleared(self) -> str:
        """What to do where the script has removed a crystal of before by `clear`."""
        cleared = self.reader.cleared
        if cleared is None:
            return ""
        place = f"{cleared.file.name} line {cleared.line}"
        return f", since `clear` in {place} removed what was before; put `quit` before {place} if you want the crystal of before"

    @property
    def pair_style(self) -> str:
        """The pair style in use."""
        return str(self.lammps.extract_global("pair_style"))

    def potential_energy(self) -> float:
        """Total potential energy of the last evaluated configuration, in energy units (never per atom)."""
        return self.atoms.potential_energy()

    def close(self) -> None:
        """Free the instance; a second call does nothing."""
        if self.atoms.library.is_open:
            self.atoms.close()
            self.reader.files.close()


def _warnings(log: str) -> list[str]:
    """The warnings in a log of LAMMPS, each on one line, without source positions."""
    lines = [re.sub(r"\s*\(\S*src/\S+:\d+\)", "", line) for line in log.splitlines() if line.startswith("WARNING")]
    return [line for line in lines if not any(text in line for text in _OURS)]
