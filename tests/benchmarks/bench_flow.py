# SPDX-License-Identifier: GPL-2.0-or-later
"""Cost of training and drawing on mW cubic ice, LAMMPS energies included: time by size, share of LAMMPS, peak memory.

    python tests/benchmarks/bench_flow.py [--threads 2] [--quick]

A training step is objective, backward pass and Adam step in float32; drawing ends with exact energies and weights. Of several
measurements, sizes alternating, the smallest counts: another load on the machine can only add to it. Peak memory is that of a
whole process (Python, torch and LAMMPS are about 0.3 GB of it), each in one of its own. Nothing here fails on a slow machine.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lammps_bg.config import FlowConfig
from lammps_bg.flow.base import FitTask
from lammps_bg.flow.bases.phonon import PhononFit
from lammps_bg.flow.model import build_generator
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.sampler import draw
from lammps_bg.training.objectives import OBJECTIVES
from lammps_bg.training.target import ExactTarget, SoftenedTarget

SCRIPT = Path(__file__).resolve().parents[2] / "inputs" / "in.mw_cubic"
KINDS = {
    "sublattice": (FlowConfig(kind="sublattice"), "path"),
    "augmented": (FlowConfig(kind="augmented", n_layers=4, width=32, n_neighbours=16, n_bins=16), "reparametrised"),
    "global": (FlowConfig(kind="global", n_layers=4, width=32, n_bins=16), "reparametrised"),
}
TRAINING = ((2, 32), (3, 32), (4, 8))  # cells along each edge and batch size: N = 64, 216, 512; bench_scaling.py goes further
DRAWING = ((5, 160),)  # cells along each edge and samples: N = 1000
MEMORY_OF_TRAINING = (4, 8)
COLUMNS = ("", "N", "batch", "ms/sample", "us/atom", "of N=64", "LAMMPS", "peak GB")
FORMATS = ("<26", ">5", ">6", ">10.3f", ">9.2f", ">8.2f", ">7.0%", ">8.2f")


class Watched:
    """An energy surface that adds up the seconds spent in it."""

    def __init__(self, surface):
        self.surface, self.static_energy, self.seconds = surface, surface.static_energy, 0.0

    def __call__(self, displacements):
        return self._timed(self.surface, displacements)

    def energies(self, displacements):
        return self._timed(self.surface.energies, displacements)

    def _timed(self, function, displacements):
        start = time.perf_counter()
        result = function(displacements)
        self.seconds += time.perf_counter() - start
        return result


@dataclass
class Step:
    """A training step that can be repeated, and the shortest one so far."""

    kind: str
    cells: int
    batch: int

    def __post_init__(self):
        self.problem, self.surface, self.generator = prepared(self.kind, self.cells)
        self.objective = OBJECTIVES[KINDS[self.kind][1]]()
        self.target = SoftenedTarget(self.surface, self.problem.beta, self.problem.crystal.n_sites, 6.0)
        self.optimiser = torch.optim.Adam(self.generator.flow.parameters(), lr=1e-4)
        self.random = torch.Generator().manual_seed(1)
        self.best, self.share = np.inf, np.nan

    def __call__(self):
        self.surface.seconds, start = 0.0, time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)
        self.objective(self.generator, self.target, self.generator.prior.sample(self.batch, self.random)).loss.backward()
        self.optimiser.step()
        seconds = time.perf_counter() - start
        if seconds < self.best:
            self.best, self.share = seconds, self.surface.seconds / seconds


def prepared(kind, cells):
    """Problem, watched surface and untrained generator on the harmonic crystal."""
    problem = Problem.load(ScriptRequest(SCRIPT, {}, (cells,) * 3))
    surface = Watched(problem.surface)
    fitted = PhononFit(FitTask(surface, problem.crystal, problem.units, problem.beta, 1)).run(iterations=0, n_samples=50)
    return problem, surface, build_generator(KINDS[kind][0], problem.crystal, fitted.base, seed=1)


def train_here(kind, cells, batch):
    """Two training steps."""
    step = Step(kind, cells, batch)
    step()
    step()
    return {}


def draw_here(kind, cells, n):
    """Draw `n` samples; the best chunk's size, seconds for each sample, and share of LAMMPS."""
    problem, surface, generator = prepared(kind, cells)
    chunks = list(draw(generator, ExactTarget(surface, problem.beta), n, seed=1))
    best = min(chunks, key=lambda chunk: (chunk.draw_seconds + chunk.energy_seconds) / len(chunk.energies))
    seconds = best.draw_seconds + best.energy_seconds
    return {"batch": len(best.energies), "seconds": seconds / len(best.energies), "share": best.energy_seconds / seconds}


def in_child(task, threads, *words):
    """What a task gives in a process of its own, with that process' peak memory in GB."""
    command = [sys.executable, __file__, "--threads", str(threads), "--task", json.dumps([task, *words])]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def run_task(task, *words):
    """The other side of `in_child`."""
    result = {"train": train_here, "draw": draw_here}[task](*words)
    per_gigabyte = 2**30 if sys.platform == "darwin" else 2**20
    return result | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_gigabyte}


def row(*cells):
    """Print one line of the table; None leaves a column empty."""
    widths = [form.lstrip("<>").split(".")[0].rstrip("%") for form in FORMATS]
    shown = [
        f"{'-':>{width}}" if cell is None else format(cell, f"{form[0]}{width}" if isinstance(cell, str) else form)
        for cell, form, width in zip(cells, FORMATS, widths, strict=True)
    ]
    print("  ".join(shown), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each training step (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="N = 64 and 512 only, three rounds, fewer samples")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.task:
        print(json.dumps(run_task(*json.loads(options.task))))
        return
    training, drawing, rounds = TRAINING, DRAWING, options.rounds
    if options.quick:
        training, drawing, rounds = (TRAINING[0], TRAINING[2]), ((5, 16),), 3
    row(*COLUMNS)
    # children first: on Linux a child's peak is never below what its parent held when it was started
    peaks = {kind: in_child("train", options.threads, kind, *MEMORY_OF_TRAINING)["peak"] for kind in KINDS}
    for kind in KINDS:
        for cells, n in drawing:
            drawn = in_child("draw", options.threads, kind, cells, n)
            atoms = 8 * cells**3
            row(
                f"draw {kind}",
                atoms,
                drawn["batch"],
                1e3 * drawn["seconds"],
                1e6 * drawn["seconds"] / atoms,
                None,
                drawn["share"],
                drawn["peak"],
            )
    for kind, (_, gradient) in KINDS.items():
        steps = [Step(kind, cells, batch) for cells, batch in training]
        for _ in range(rounds + 1):  # the first round warms up; it is never the shortest
            for step in steps:
                step()
        for step in steps:
            atoms, seconds = 8 * step.cells**3, step.best / step.batch
            ratio = (seconds / atoms) / (steps[0].best / steps[0].batch / 64)
            peak = peaks[kind] if (step.cells, step.batch) == MEMORY_OF_TRAINING else None
            row(f"train {kind}, {gradient}", atoms, step.batch, 1e3 * seconds, 1e6 * seconds / atoms, ratio, step.share, peak)


if __name__ == "__main__":
    main()
