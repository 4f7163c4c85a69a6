# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples by chains: energies for an independent one, cost of a leap over a draw, acceptance over the number of atoms.

    python tests/benchmarks/bench_exact.py                                  # mW and Lennard-Jones from the stored models, small sizes
    python tests/benchmarks/bench_exact.py --model examples/models/mw_cubic --cells 3 6 12
    python tests/benchmarks/bench_exact.py --cells 3 --identity             # the base alone
    python tests/benchmarks/bench_exact.py --cells 6 --modes                # on which modes the kicks act
    python tests/benchmarks/bench_exact.py --cells 3 --splittings           # leapfrog beside a splitting of higher order

Single runs; ratios are of times within one run. `z` compares beta F/N with --reference VALUE ERROR where it is given.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lammps_bg.commands.stored_run import load_trained, stored_request, with_model
from lammps_bg.config import load_config
from lammps_bg.report.console import Console
from lammps_bg.streams import stream
from lammps_bg.study.energies import choose_source
from lammps_bg.study.fitting import reference
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.chains import Latent, acceptance, hamiltonian, trajectory
from lammps_bg.thermo.exact import ExactBudget, Ladder
from lammps_bg.thermo.free_energy import absolute_from_difference
from lammps_bg.thermo.sampler import draw

MODELS = Path(__file__).parents[2] / "examples" / "models"
FIXED_STEP, FIXED_LEAPS = 0.5, 3


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[MODELS / "mw_cubic", MODELS / "lj_fcc"])
    parser.add_argument("--cells", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--rep", type=int, nargs=3, help="one supercell that is no cube")
    parser.add_argument("--target", type=float, default=2e-4, help="standard error of beta F/N, kT per atom")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--draws", type=int, default=1024)
    parser.add_argument("--identity", action="store_true", help="no flow: the base alone")
    parser.add_argument("--reference", type=float, nargs=2, metavar=("VALUE", "ERROR"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modes", action="store_true", help="the squared gradient of log w by wave number, after the chains")
    parser.add_argument(
        "--splittings", action="store_true", help="a quarter of a turn by equal leaps and by Lobatto's nodes, after the chains"
    )
    return parser.parse_args()


def loaded(path, copies, identity):
    run = with_model(path)
    problem = Problem.load(replace(stored_request(run), replicate=copies))
    console = Console(quiet=True)
    config = load_config(run.file("config.toml"), ())
    choose_source(problem, config, console)
    trained = load_trained(run, problem, config, console)
    if identity:
        for parameter in trained.generator.flow.parameters():
            parameter.data.zero_()
    return problem, trained


def drawn(problem, generator, n, seed):
    """Log-weights of draws, and milliseconds of one with its energy."""
    start = time.perf_counter()
    log_w = np.concatenate([chunk.log_w for chunk in draw(generator, problem.exact_target(), n, seed=seed)])
    return log_w, 1e3 * (time.perf_counter() - start) / n


def accepted_at_a_fixed_step(latent, points, coupling=1.0):
    """Mean acceptance of a trajectory of fixed length from where chains stand: how it falls with the number of atoms."""
    odds = []
    for block, point in points.items():
        p = torch.randn(point.x.shape, dtype=torch.float64, generator=stream(7, "benchmark", block))
        end, q = trajectory(latent, point, p, coupling, step=FIXED_STEP, leaps=FIXED_LEAPS)
        odds += acceptance(hamiltonian(point, p, coupling), hamiltonian(end, q, coupling)).tolist()
    return float(np.mean(odds))


def say_modes(latent, crystal):
    """Mean square of the gradient of log w in white noise by wave number: a mode that limits the step would stand out."""
    counts = crystal.replicate
    x = torch.randn(8, *latent.shape, dtype=torch.float64, generator=stream(3, "modes", 0))
    slope = latent.at(x).slope[:, 0].reshape(len(x), *counts, -1)
    power = torch.fft.fftn(slope, dim=(1, 2, 3), norm="ortho").abs().square().mean((0, -1)).numpy()
    axes = [np.minimum(np.arange(n), n - np.arange(n)) for n in counts]
    wave = np.sqrt(sum(axis.reshape([-1 if i == j else 1 for j in range(3)]) ** 2 for i, axis in enumerate(axes)))
    for low, high in ((0, 0.5), (0.5, 1.1), (1.1, 2.1), (2.1, 4.1), (4.1, 1e9)):
        chosen = (wave >= low) & (wave < high)
        if chosen.any():
            span = f"{wave[chosen].min():.1f} to {wave[chosen].max():.1f}"
            print(f"  wave numbers {span}: {power[chosen].mean():.4f} for each of {chosen.sum() * slope.shape[-1]} modes")


def lobatto(n):
    """Nodes and weights of n intervals on [0, 1]: kicks there are those of a splitting of order 2n in the size of the kicks."""
    polynomial = np.polynomial.legendre.Legendre.basis(n)
    inner = np.sort(polynomial.deriv().roots().real) if n > 1 else np.array([])
    nodes = np.concatenate(([-1.0], inner, [1.0]))
    return 0.5 * (nodes + 1.0), 1.0 / (n * (n + 1) * polynomial(nodes) ** 2)


def say_splittings(latent, points):
    """Acceptance of a quarter of a turn with as many energies, from where the chains stand."""
    for leaps in (2, 3, 4, 5):
        grids = {
            "equal leaps": (np.linspace(0, 1, leaps + 1), np.array([0.5, *[1.0] * (leaps - 1), 0.5]) / leaps),
            "Lobatto": lobatto(leaps),
        }
        said = {
            name: np.mean([odds for block, point in points.items() for odds in turned(latent, point, block, *grid)])
            for name, grid in grids.items()
        }
        print(f"  {leaps} energies: " + ", ".join(f"{name} {value:.2f}" for name, value in said.items()))


def turned(latent, point, block, nodes, weights):
    """Acceptance of a quarter of a turn with kicks at nodes."""
    start, p = point, torch.randn(point.x.shape, dtype=torch.float64, generator=stream(7, "benchmark", block))
    q = p + 0.5 * math.pi * weights[0] * point.slope
    for gap, weight in zip(0.5 * math.pi * np.diff(nodes), weights[1:], strict=True):
        cosine, sine = math.cos(gap), math.sin(gap)
        point, q = latent.at(cosine * point.x + sine * q), cosine * q - sine * point.x
        q = q + 0.5 * math.pi * weight * point.slope
    return acceptance(hamiltonian(start, p, 1.0), hamiltonian(point, q, 1.0)).tolist()


def main():
    asked = parsed()
    torch.set_num_threads(1)
    print(f"{'model':10s} {'N':>6s} {'std':>6s} {'windows':>7s} {'step':>5s} {'L':>2s} {'acc':>5s} {'g':>5s} {'E/sample':>8s} "
          f"{'leap/draw':>9s} {'acc h=.5':>8s} {'energies':>8s} {'seconds':>7s}  beta F/N")  # fmt: skip
    for model in asked.model:
        for copies in [tuple(asked.rep)] if asked.rep else [(n, n, n) for n in asked.cells]:
            report(asked, model, copies)


def report(asked, model, copies):
    began = time.perf_counter()
    problem, trained = loaded(model, copies, asked.identity)
    base, n_sites = trained.generator.prior.base, problem.crystal.n_sites
    problem.surface.settle(base.sample(32, stream(1, "skin", 0)).numpy())
    log_w, draw_ms = drawn(problem, trained.generator, asked.draws, asked.seed)
    latent = Latent(trained.generator, problem.exact_target())
    nearest = problem.crystal.nearest_distance
    ladder = Ladder(latent, log_w, n_chains=16, nearest_distance=nearest, seed=asked.seed)
    start, before = time.perf_counter(), latent.n_evaluations
    ladder.run(ExactBudget(asked.target, asked.seconds))
    leap_ms = 1e3 * (time.perf_counter() - start) / (latent.n_evaluations - before)
    found = ladder.result()
    value = absolute_from_difference(found.difference, reference(problem, trained.fitted))
    fixed = accepted_at_a_fixed_step(latent, ladder.windows[-1].chains.points)
    z = ""
    if asked.reference:
        z = f", z = {(value.value - asked.reference[0]) / math.hypot(value.error, asked.reference[1]):+.1f}"
    top, windows = found.top, len(found.windows)
    print(f"{model.name:10s} {n_sites:6d} {found.windows[0].std_log_w:6.2f} {windows:7d} {top.step:5.2f} {top.leaps:2d} {top.acceptance:5.2f} "
          f"{top.inefficiency:5.2f} {found.evaluations_per_sample:8.1f} {leap_ms / draw_ms:9.2f} {fixed:8.2f} {found.evaluations:8d} "
          f"{time.perf_counter() - began:7.0f}  {value.value:.6f} +- {value.error:.6f} ({found.verdict.colour}){z}", flush=True)  # fmt: skip
    if asked.modes:
        say_modes(latent, problem.crystal)
    if asked.splittings:
        say_splittings(latent, ladder.windows[-1].chains.points)


if __name__ == "__main__":
    main()
