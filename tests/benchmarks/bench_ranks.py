# SPDX-License-Identifier: GPL-2.0-or-later
"""Strong scaling: the same training steps and the same samples on 1, 2, ... MPI ranks, one thread each.

    python tests/benchmarks/bench_ranks.py [--ranks 1 2] [--rounds 5] [--script inputs/in.sic] [--cells 3]

Times are wall-clock of whole steps and whole samplings on the slowest rank, with all communication; of several rounds, in which the
numbers of ranks take turns, the shortest counts: another load can only add to it. `LAMMPS %` is the share of energies and forces. The base
is harmonic, so that its fit takes no time. Prints a table with the gain over one rank. Nothing fails here.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_flow import Watched

from lammps_bg import parallel
from lammps_bg.config import FlowConfig, TrainConfig
from lammps_bg.flow.base import FitTask
from lammps_bg.flow.bases.phonon import PhononFit
from lammps_bg.flow.model import build_generator
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.sampler import chunks_of, draw_together
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import Trainer

BATCH, SAMPLES = 64, 1024


def measure(script, cells):
    """Seconds of a training step and of a sampling on this many ranks, and LAMMPS' share of each."""
    torch.set_num_threads(1)
    problem = Problem.load(ScriptRequest(script, {}, (cells,) * 3))
    n, beta, surface = problem.crystal.n_sites, problem.beta, Watched(problem.surface)
    fitted = PhononFit(FitTask(surface, problem.crystal, problem.units, beta, 1)).run(iterations=0, n_samples=16)
    generator = build_generator(FlowConfig(), problem.crystal, fitted.base, seed=1)
    target = ExactTarget(surface, beta)
    state = SingleState(generator, SoftenedTarget(surface, beta, n, 6.0), target)
    trainer = Trainer(state, TrainConfig(batch_size=BATCH, steps=10**6, learning_rate=1e-6), seed=1)
    parts = [(1, some) for some in chunks_of(SAMPLES, n)]
    found = {"n_atoms": n}
    for name, work in (
        ("train", trainer._advance),
        ("sample", lambda: list(draw_together(generator, target, parts, finish=without_states))),
    ):
        work()
        found[name], found[f"{name}_lammps"] = min(timed(work, surface) for _ in range(3))
    return found


def without_states(chunk):
    chunk.states = chunk.states[:0]
    return chunk


def timed(work, surface):
    parallel.barrier()
    surface.seconds, start = 0.0, time.perf_counter()
    work()
    (seconds,) = parallel.largest(time.perf_counter() - start)
    return seconds, 100 * surface.seconds / seconds


def launched(ranks, options):
    launcher = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, __file__, "--measure", "--script", str(options.script), "--cells", str(options.cells)]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(found.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--script", type=Path, default=Path(__file__).parents[2] / "inputs" / "in.sic")
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        found = measure(options.script, options.cells)
        if parallel.first():
            print(json.dumps(found))
        return
    rounds = [{ranks: launched(ranks, options) for ranks in options.ranks} for _ in range(options.rounds)]
    print(f"{options.script.name}, {rounds[0][options.ranks[0]]['n_atoms']} atoms; batch of {BATCH}, {SAMPLES} samples")
    print(f"{'ranks':>5} {'step, ms':>10} {'gain':>6} {'LAMMPS %':>9} {'sampling, s':>12} {'gain':>6} {'LAMMPS %':>9}")
    best = {r: {key: np.min([row[r][key] for row in rounds]) for key in ("train", "sample")} for r in options.ranks}
    for ranks in options.ranks:
        gains = {key: best[options.ranks[0]][key] / best[ranks][key] for key in ("train", "sample")}
        shares = {key: np.median([row[ranks][f"{key}_lammps"] for row in rounds]) for key in ("train", "sample")}
        print(
            f"{ranks:5d} {1e3 * best[ranks]['train']:10.1f} {gains['train']:6.2f} {shares['train']:9.0f} "
            f"{best[ranks]['sample']:12.2f} {gains['sample']:6.2f} {shares['sample']:9.0f}"
        )


if __name__ == "__main__":
    main()
