# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for LAMMPS that records the commands it gets, and says of a toy crystal what the engine asks: no library is needed.

Its atoms are bound to their sites by springs of constant 1 and have an energy of -1 each; a run leaves them where they are.
"""

import re
from pathlib import Path

import numpy as np

_KNOWN = """
    atom_modify atom_style boundary change_box compute create_atoms create_box fix fix_modify group kspace_modify kspace_style lattice log
    mass min_modify min_style minimize neigh_modify neighbor pair_coeff pair_style read_data read_dump region run run_style set thermo
    thermo_modify thermo_style timer timestep uncompute unfix units variable
"""
KNOWN = frozenset(_KNOWN.split())
SETTINGS = {"box_exist": 1, "dimension": 3, "imageint": 4, "rmass_flag": 0, "radius_flag": 0}
GLOBALS = {"boltz": 1.0, "hplanck": 1.0, "mvv2e": 1.0, "nktv2p": 1.0, "nbonds": 0}
PRESSURE = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


class UnknownCommand(BaseException):
    """Not an Exception, which the engine takes for a refusal by LAMMPS."""


class RecordedLammps:
    """Fulfils `lammps_bg.engine.library.Lammps`."""

    def __init__(self, cell, positions, types, *, has_gjf=True):
        self.stream = []
        self.has_failed, self.is_open = False, True
        self._cell, self._low, self._triclinic = np.array(cell, float), np.zeros(3), bool(np.tril(cell, -1).any())
        self._types = np.array(types)
        self._fractional = np.array(positions, float) @ np.linalg.inv(self._cell)
        n = len(types)
        self._arrays = {"x": np.array(positions, float), "v": np.zeros((n, 3)), "f": np.zeros((n, 3))}
        self._per_atom = {
            "id": np.arange(1, n + 1)[:, None],
            "type": self._types[:, None],
            "image": np.full((n, 1), 512 * (1 + 1024 + 1024**2)),
        }
        self._ids = {"fix": [], "compute": ["thermo_temp", "thermo_press", "thermo_pe"], "variable": [], "group": ["all"]}
        self._globals = {**GLOBALS, "dt": 0.005}
        self._variables, self._stress, self._target, self._has_gjf = {}, np.zeros(6), None, has_gjf

    # ---- commands

    def command(self, cmd):
        """Record a command; a first word that the engine has never sent is an error."""
        name, *words = cmd.split()
        if name not in KNOWN:
            raise UnknownCommand(f"`{cmd}` is not known to the recorder; is it meant? then add `{name}` to KNOWN")
        self.stream.append(re.sub(r'(?<!\S)"?/\S*?([^/\s"]+)"?(?!\S)', r"FOLDER/\1", cmd))
        getattr(self, f"_{name}", lambda *words: None)(*words)

    def _units(self, name):
        self._globals["units"] = name

    def _atom_style(self, name):
        self._globals["atom_style"] = name

    def _pair_style(self, name, *words):
        self._globals["pair_style"] = name

    def _timestep(self, value):
        self._globals["dt"] = float(value)

    def _log(self, name, *words):
        self._log_file = name.strip('"')

    def _change_box(self, group, *words):
        if words[0] in ("triclinic", "ortho"):
            self._triclinic = words[0] == "triclinic"
            return
        numbers = {}
        for at in np.flatnonzero(np.array(words) == "final"):
            axis = words[at - 1]
            numbers[axis] = [float(word) for word in words[at + 1 : at + 1 + (2 if len(axis) == 1 else 1)]]
        low, high = np.array([numbers[axis] for axis in "xyz"]).T
        self._low, self._cell = low, np.diag(high - low)
        for name, place in {"xy": (1, 0), "xz": (2, 0), "yz": (2, 1)}.items():
            self._cell[place] = numbers.get(name, [0.0])[0]

    def _fix(self, name, group, style, *words):
        self._ids["fix"].append(name)
        if style == "box/relax":
            self._target = float(words[1])

    def _unfix(self, name):
        self._ids["fix"].remove(name)

    def _compute(self, name, *words):
        self._ids["compute"].append(name)

    def _uncompute(self, name):
        self._ids["compute"].remove(name)

    def _group(self, name, *words):
        if words[0] == "delete":
            self._ids["group"].remove(name)
        elif name not in self._ids["group"]:
            self._ids["group"].append(name)

    def _variable(self, name, style, *words):
        if style == "delete":
            self._ids["variable"].remove(name)
            return
        self._ids["variable"].append(name)
        self._variables[name] = words[0].strip('"')

    def _run(self, *words):
        displacements = self._displacements()
        self._arrays["f"][...] = -displacements
        self._energy = -len(displacements) + 0.5 * float((displacements**2).sum())

    def _minimize(self, *words):
        self._arrays["x"] -= self._displacements()
        self._run()
        if self._target is not None:
            self._stress = self._target * PRESSURE
        with Path(self._log_file).open("a") as stream:
            stream.write("Stopping criterion = energy tolerance\n")

    def _displacements(self):
        """From the nearest image of the site."""
        off = (self._arrays["x"] - self._low) @ np.linalg.inv(self._cell) - self._fractional
        return (off - np.rint(off)) @ self._cell

    # ---- questions

    def expand(self, line):
        return re.sub(r"\$\{(\w+)\}", lambda found: self._variables[found[1]], line)

    def version(self):
        return 20250722

    def has_style(self, category, name):
        return self._has_gjf if name == "gjf" else category == "fix" or name in KNOWN

    def has_id(self, category, name):
        return name in self._ids[category]

    def available_ids(self, category):
        return list(self._ids[category])

    def get_natoms(self):
        return float(len(self._types))

    def extract_setting(self, name):
        known = {**SETTINGS, "triclinic": int(self._triclinic), "ntypes": int(self._types.max()), "nlocal": len(self._types)}
        return known.get(name, 0)

    def extract_global(self, name):
        return self._globals[name]

    def extract_box(self):
        tilts = self._cell[1, 0], self._cell[2, 1], self._cell[2, 0]
        return [self._low.tolist(), (self._low + np.diag(self._cell)).tolist(), *tilts, [1, 1, 1], 0]

    def extract_variable(self, name):
        return self._variables[name]

    def extract_compute(self, name, style, kind):
        assert name in self._ids["compute"]
        return self._stress if kind else float(self._stress[:3].mean())

    def extract_pair(self, name):
        return None

    def per_type(self, name):
        return np.array([0.0, *range(1, int(self._types.max()) + 1)])

    def per_atom(self, name):
        return self._per_atom[name]

    def vectors(self, name):
        return self._arrays[name]

    def potential_energy(self):
        return self._energy

    def close(self):
        self.is_open = False
