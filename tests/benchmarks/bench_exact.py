# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples by chains: energies for an independent one, cost of a leap over a draw, acceptance over the number of atoms.

    python tests/benchmarks/bench_exact.py                                  # mW and Lennard-Jones from the stored models, small sizes
    python tests/benchmarks/bench_exact.py --model examples/models/mw_cubic --cells 3 6 12
    python tests/benchmarks/bench_exact.py --cells 3 --identity             # the base alone

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


if __name__ == "__main__":
    main()
