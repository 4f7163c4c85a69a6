# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluations of a large crystal by one rank and by the whole team (-lammps-ranks), alternating in one job: ratios, not times.

Run with `OMP_NUM_THREADS=1 mpirun -n 2 python tests/benchmarks/bench_team.py`, on as many free cores as ranks.
"""

import sys
import time
from pathlib import Path

import numpy as np

from lammps_bg import parallel
from lammps_bg.engine import team
from lammps_bg.engine.lammps_engine import Engine

INPUTS = Path(__file__).parents[2] / "inputs"
CASES = {"in.sic": (8, 0.05), "in.mw_cubic": (8, 0.15), "in.cu_fcc": (10, 0.08)}  # copies, spread
CONFIGURATIONS, ROUNDS = 16, 12  # a quiet machine; on a busy one fewer, and more rounds, find the moments when all ranks run


def seconds(engine, positions):
    """Wall time per configuration."""
    start = time.perf_counter()
    engine.energies_forces(positions)
    return (time.perf_counter() - start) / len(positions)


def engines(script, copies):
    """The same crystal held by the team and by this rank alone."""
    together = Engine(script, replicate=(copies,) * 3)
    everyone, parallel._layout.team = parallel.team(), parallel.SELF
    try:
        return together, Engine(script, replicate=(copies,) * 3)
    finally:
        parallel._layout.team = everyone


def compare(name):
    """Atoms, and the shortest times per configuration of team and single rank, in milliseconds."""
    copies, spread = CASES[name]
    n = CONFIGURATIONS
    together, alone = engines(INPUTS / name, copies)
    with together, alone:
        positions = alone.sites + spread * np.random.default_rng(0).standard_normal((n, alone.structure.n_atoms, 3))
        times = [[seconds(engine, positions) for engine in (together, alone)] for _ in range(ROUNDS)]
        return alone.structure.n_atoms, 1e3 * np.min(times[1:], axis=0)


if __name__ == "__main__":
    ranks = int(parallel.WORLD.Get_size())
    parallel.arrange(ranks)
    if parallel.serves():
        sys.exit(team.serve())
    for name in CASES:
        atoms, (many, one) = compare(name)
        print(f"{name} N={atoms:5d}: {ranks} ranks {many:.2f} ms, one rank {one:.2f} ms: {one / many:.2f} times as fast")
