# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain LAMMPS as the oracle of the engine, and script pieces the tests share."""

import os
from pathlib import Path

import numpy as np

from lammps_bg import parallel

# isort: split
from lammps import lammps

INPUTS = Path(__file__).parents[2] / "inputs"

LJ = """
units lj
atom_style atomic
lattice fcc 1.28
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
mass 1 1.0
pair_style lj/cut 2.2
pair_coeff 1 1 1.0 1.0
"""

SALT = """
units metal
atom_style charge
lattice fcc 5.64 origin 0.01 0.01 0.01
region cell block 0 2 0 2 0 2
create_box 2 cell
create_atoms 1 box
lattice fcc 5.64 origin 0.51 0.01 0.01
create_atoms 2 box
mass 1 22.99
mass 2 35.45
set type 1 charge 1.0
set type 2 charge -1.0
pair_style born/coul/long 5.0
pair_coeff 1 1 0.2637 0.317 2.340 1.0486 -0.4993
pair_coeff 1 2 0.2110 0.317 2.755 6.9906 -8.6758
pair_coeff 2 2 0.1582 0.317 3.170 72.4022 -145.4285
kspace_style {kspace} 1e-6
"""


def plain_energy_forces(script, positions, replicate=(1, 1, 1), cell=None):
    """Energy and forces, in id order, of a LAMMPS instance of its own with the script as it is and `run 0`."""
    here = Path.cwd()
    instance = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    try:
        os.chdir(Path(script).parent)
        instance.command("atom_modify map array")
        instance.file(str(script))
    finally:
        os.chdir(here)
    if replicate != (1, 1, 1):
        instance.command("replicate {} {} {}".format(*replicate))
    if cell is not None:
        bounds = " ".join(f"{a} final 0 {x!r}" for a, x in zip("xyz", np.diag(cell).tolist(), strict=True))
        tilts = ""
        if np.abs(np.tril(cell, -1)).any():
            instance.command("change_box all triclinic")
            tilts = f"xy final {float(cell[1, 0])!r} xz final {float(cell[2, 0])!r} yz final {float(cell[2, 1])!r}"
        instance.command(f"change_box all {bounds} {tilts} units box")
    n = instance.get_natoms()
    order = instance.numpy.extract_atom("id")[:n] - 1
    instance.numpy.extract_atom("x")[:n] = np.asarray(positions)[order]
    instance.command("run 0")
    forces = np.empty((n, 3))
    forces[instance.numpy.extract_atom("id")[:n] - 1] = instance.numpy.extract_atom("f")[:n]
    energy = float(instance.extract_compute("thermo_pe", 0, 0))
    instance.close()
    return energy, forces


def plain_lammps(script):
    """Energy, cell and largest force of a script in a LAMMPS instance of its own, in the script's folder, after `run 0`."""
    here = Path.cwd()
    instance = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    try:
        os.chdir(Path(script).parent)
        instance.file(Path(script).name)
    finally:
        os.chdir(here)
    for fix in instance.available_ids("fix"):
        instance.command(f"unfix {fix}")
    instance.command("run 0")
    low, high, xy, yz, xz = instance.extract_box()[:5]
    cell = np.diag(np.subtract(high, low))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    energy = float(instance.extract_compute("thermo_pe", 0, 0))
    force = float(np.abs(instance.numpy.extract_atom("f")[: instance.get_natoms()]).max())
    instance.close()
    return energy, cell, force
