# SPDX-License-Identifier: GPL-2.0-or-later
"""Cost of the sublattice flow over the number of atoms, from 64 to 13,824 molecules of mW cubic ice: training, drawing, energies, memory.

    python tests/benchmarks/bench_scaling.py [--threads 2] [--device cpu] [--quick] [-out FOLDER]

A training step is objective (path gradient), LAMMPS energies and forces, backward pass and SOAP step in float32; drawing ends with exact
energies and weights. Each size runs in a process of its own, whose peak memory counts (Python, torch and LAMMPS are about 0.4 GB of it);
of several measurements, all sizes twice, the smallest counts: another load can only add to it. The base is harmonic, so that its fit
takes no time. `native` is the same potential in torch. Prints a table; with -out also scaling.json, .md and .png. Nothing fails here.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_flow import SCRIPT, Watched
from matplotlib.figure import Figure

from lammps_bg.config import FlowConfig, TrainConfig
from lammps_bg.flow.base import FitTask
from lammps_bg.flow.bases.phonon import PhononFit
from lammps_bg.flow.model import build_generator
from lammps_bg.potentials.sources.torch import surface as in_torch
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.sampler import draw
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import Trainer

CELLS = (2, 3, 4, 5, 6, 8, 12)
BATCH = 32
ROWS = (  # key, title, unit of the table
    ("train_ms", "training step", "ms/sample"),
    ("train_us", "", "µs/atom"),
    ("train_ratio", "", "of N = 64"),
    ("train_lammps", "", "LAMMPS %"),
    ("draw_ms", "drawing", "ms/sample"),
    ("draw_us", "", "µs/atom"),
    ("draw_lammps", "", "LAMMPS %"),
    ("lammps_ms", "energy and forces", "LAMMPS ms"),
    ("native_ms", "", "native ms"),
    ("peak_gb", "peak memory", "GB"),
)


def shortest(work, surface, rounds):
    """Shortest time of a piece of work, and the share of it that was spent in the energy surface."""
    best, share = np.inf, np.nan
    for _ in range(rounds):
        surface.seconds, start = 0.0, time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        if seconds < best:
            best, share = seconds, surface.seconds / seconds
    return best, share


def measure(cells, device, rounds):
    """All numbers of one size, in this process."""
    problem = Problem.load(ScriptRequest(SCRIPT, {}, (cells,) * 3))
    n, beta, surface = problem.crystal.n_sites, problem.beta, Watched(problem.surface)
    fitted = PhononFit(FitTask(surface, problem.crystal, problem.units, beta, 1)).run(iterations=0, n_samples=16)
    generator = build_generator(FlowConfig(), problem.crystal, fitted.base, seed=1, device=device)
    trainer = Trainer(
        SingleState(generator, SoftenedTarget(surface, beta, n, 6.0), ExactTarget(surface, beta)),
        TrainConfig(batch_size=BATCH, steps=10**6, learning_rate=1e-6),
        seed=1,
    )
    trainer._advance()
    train, train_share = shortest(trainer._advance, surface, rounds)
    samples = max(16, min(512, 65536 // n // 16 * 16))
    target = ExactTarget(surface, beta)
    drawing, draw_share = shortest(lambda: list(draw(generator, target, samples, seed=1)), surface, rounds)
    u = generator.prior.sample(max(2, 4096 // n), torch.Generator().manual_seed(1))[:, 0].numpy()
    native = Watched(in_torch(problem.surface, device))
    lammps_ms, native_ms = (1e3 * shortest(lambda s=s: s(u), s, rounds)[0] / len(u) for s in (surface, native))
    return {
        "n_atoms": n,
        "train_ms": 1e3 * train / BATCH,
        "train_lammps": 100 * train_share,
        "draw_ms": 1e3 * drawing / samples,
        "draw_lammps": 100 * draw_share,
        "lammps_ms": lammps_ms,
        "native_ms": native_ms,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20),
    }


def in_child(cells, options):
    words = [
        "--threads",
        str(options.threads),
        "--device",
        options.device,
        "--rounds",
        str(options.rounds),
        "--cells",
        str(cells),
    ]
    found = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(found.splitlines()[-1])


def best_of(first, second):
    """The better of two measurements of one size, share by share with its time."""
    merged = dict(first)
    for time_key, share_key in (
        ("train_ms", "train_lammps"),
        ("draw_ms", "draw_lammps"),
        ("lammps_ms", None),
        ("native_ms", None),
    ):
        if second[time_key] < first[time_key]:
            merged |= {time_key: second[time_key]} | ({share_key: second[share_key]} if share_key else {})
    return merged


def completed(sizes):
    """Costs per atom, and their ratio to that of the smallest size."""
    for size in sizes:
        size["train_us"], size["draw_us"] = (1e3 * size[key] / size["n_atoms"] for key in ("train_ms", "draw_ms"))
        size["train_ratio"] = size["train_us"] / sizes[0]["train_us"]
    return sizes


def table(sizes, options):
    """The Markdown text."""
    lines = [
        f"Torch {torch.__version__} on {options.threads} threads, device {options.device}; training batches of {BATCH}.",
        "",
        "| | " + " | ".join(["N =", *(f"{size['n_atoms']:,}" for size in sizes)]) + " |",
        "|---|---|" + "--:|" * len(sizes),
    ]
    for key, title, unit in ROWS:
        cells = [f"{size[key]:.0f}" if unit.endswith("%") else f"{size[key]:.3g}" for size in sizes]
        lines.append("| " + " | ".join([title, unit, *cells]) + " |")
    return "\n".join(lines) + "\n"


def plot(sizes, path):
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    n = [size["n_atoms"] for size in sizes]
    for key, label, style in (("train_ms", "training", "o-"), ("draw_ms", "drawing", "s-"), ("lammps_ms", "energy, forces: LAMMPS", "^--"),
                              ("native_ms", "energy, forces: torch", "v--")):  # fmt: skip
        left.plot(n, [size[key] for size in sizes], style, label=label, ms=4)
    left.set(xscale="log", yscale="log", xlabel="N", ylabel="ms for each sample")
    left.legend(fontsize=8)
    right.plot(n, [size["train_us"] for size in sizes], "o-", label="training", ms=4)
    right.plot(n, [size["draw_us"] for size in sizes], "s-", label="drawing", ms=4)
    right.set(xscale="log", xlabel="N", ylabel="µs for each sample and atom")
    right.set_ylim(bottom=0)
    memory = right.twinx()
    memory.plot(n, [size["peak_gb"] for size in sizes], "k:", label="peak memory", lw=1)
    memory.set(ylabel="peak memory (GB, dotted)")
    memory.set_ylim(bottom=0)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3, lw=0.5)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (%(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the flow runs (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each number in a process (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="N = 64 and 512 only")
    parser.add_argument("-out", type=Path, help="folder for scaling.json, .md and .png")
    parser.add_argument("--cells", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cells:
        print(json.dumps(measure(options.cells, options.device, options.rounds)))
        return
    cells = (2, 4) if options.quick else CELLS
    passes = [[in_child(c, options) for c in cells] for _ in range(2)]
    sizes = completed([best_of(*pair) for pair in zip(*passes, strict=True)])
    print(table(sizes, options))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "scaling.json").write_text(json.dumps(sizes, indent=1) + "\n")
        (options.out / "scaling.md").write_text("# Cost over the number of atoms, mW cubic ice\n\n" + table(sizes, options))
        plot(sizes, options.out / "scaling.png")


if __name__ == "__main__":
    main()
