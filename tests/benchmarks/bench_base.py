# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fit of a base costs and how good it is, beside the fit that it replaced: energy evaluations, std(log w), bound.

    python tests/benchmarks/bench_base.py [--quick] [--seeds 2] [--script SCRIPT --rep NX NY NZ]

`before` inverts <u u^T> wave vector by wave vector, averages over the space group only then, and evaluates 1000 configurations for each
iteration. Both bases, and the harmonic one, are measured on the same 2000 white noises: the differences of bounds are far better known
than the bounds. Evaluations are all of a fit, those for the harmonic start and for the reported bound included. Nothing fails here.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from lammps_bg.flow.base import FitTask
from lammps_bg.flow.bases.phonon import PhononBase, PhononFit
from lammps_bg.flow.force_constants import ForceConstants, harmonic, newton_move
from lammps_bg.study.problem import Problem, ScriptRequest

INPUTS = Path(__file__).resolve().parents[2] / "inputs"
CASES = (
    ("in.mw_cubic", (3, 3, 3)),
    ("in.lj_fcc", (4, 4, 4)),
    ("in.cu_fcc", (3, 3, 3)),
    ("in.cu_fcc", (5, 5, 5)),
    ("in.sic", (3, 3, 3)),
    ("in.si_diamond", (3, 3, 3)),
    ("in.si_betatin", (3, 3, 6)),
    ("in.lj_hcp", (5, 3, 3)),
    ("in.mw_hexagonal", (3, 2, 2)),
    ("in.gsw_bcc", (4, 4, 4)),
)
FRESH, BATCH, BEFORE = 2000, 100, 1000
HEAD = f"{'':16}{'N':>5}  {'evaluations':>19}  {'seconds':>11}  {'std(log w)':>22}  {'bound of the crystal, kT, above the new':>40}\n"
HEAD += f"{'':16}{'':5}  {'before':>10}{'now':>5}{'x':>4}  {'before':>6}{'now':>5}  {'harmonic':>9}{'before':>7}{'now':>6}  "
HEAD += f"{'harmonic':>12}{'before':>14}{'reported':>14}"


class Counted:
    """An energy surface that counts its evaluations."""

    def __init__(self, surface):
        self.surface, self.n = surface, 0

    def __call__(self, displacements):
        self.n += len(displacements)
        return self.surface(displacements)


def fit_before(surface, problem, seed):
    """Force constants and evaluations of the fit of old: up to ten iterations, the lowest of their bounds."""
    counted, crystal, beta = Counted(surface), problem.crystal, problem.beta
    generator, shape = torch.Generator().manual_seed(seed), (-1, *crystal.replicate, 3 * crystal.n_basis)
    constants = harmonic(counted, crystal)
    constants = constants.rectified() if constants.unstable_modes() else constants
    tried, misses = [], 0
    while len(tried) < 11 and misses < 2:
        base = PhononBase(constants, beta)
        u = base.sample(BEFORE, generator)
        energies, forces = counted(u.numpy())
        works = beta * energies + base.log_prob(u).numpy()
        stalls = tried and works.mean() > min(bound for bound, _ in tried) - 0.5 * works.std() / BEFORE**0.5
        misses, tried = misses + 1 if stalls else 0, [*tried, (works.mean(), constants)]
        centred = u.numpy() - np.tile(constants.offset - constants.offset.mean(0), (crystal.n_cells, 1))
        uk, fk = (np.fft.fftn(a.reshape(shape), axes=(1, 2, 3)) for a in (centred, forces))
        rest = fk + np.einsum("...ab,s...b->s...a", constants.stiffness, uk, optimize=True)
        push = rest.mean(0)[0, 0, 0].real.reshape(-1, 3) / crystal.n_cells
        offset = constants.offset + newton_move(constants, push - push.mean(0))
        rest, uk = rest - rest.mean(0), uk - uk.mean(0)
        cross, square = (np.einsum("s...a,s...b->...ab", p, uk.conj(), optimize=True) for p in (rest, uk))
        change = -cross @ np.linalg.pinv(square, rcond=1e-8, hermitian=True)
        constants = ForceConstants(constants.stiffness + 0.7 * change, offset).averaged(crystal)
        constants = constants.rectified() if constants.unstable_modes() else constants
    return min(tried, key=lambda entry: entry[0])[1], counted.n + BEFORE  # one more sample for the bound that was reported


def works_of(surface, beta, base):
    """Beta U + log q0 of the same white noises for every base, shape [FRESH]."""
    generator, found = torch.Generator().manual_seed(12345), []
    for _ in range(FRESH // BATCH):
        u = base.colour(torch.randn(BATCH, len(base.amplitude), 3, dtype=torch.float64, generator=generator))
        found.append(beta * surface(u.numpy())[0] + base.log_prob(u).numpy())
    return np.concatenate(found)


def difference(some, others):
    """How much higher a bound is, and the standard error: finite energies of both only."""
    values = (some - others)[np.isfinite(some - others)]
    return f"{values.mean():+.3f} ± {values.std() / len(values) ** 0.5:.3f}"


def row(script, replicate, seed):
    """One line of the table."""
    problem = Problem.load(ScriptRequest(script, {}, replicate))
    surface, beta, crystal = problem.surface, problem.beta, problem.crystal
    start = time.perf_counter()
    old, n_old = fit_before(surface, problem, seed)
    between = time.perf_counter()
    counted = Counted(surface)
    fitted = PhononFit(FitTask(counted, crystal, problem.units, beta, seed)).run(iterations=10, n_samples=BEFORE)
    seconds = (between - start, time.perf_counter() - between)
    rest = harmonic(surface, crystal)
    before, now = (works_of(surface, beta, base) for base in (PhononBase(old, beta), fitted.base))
    at_rest = None if rest.unstable_modes() else works_of(surface, beta, PhononBase(rest, beta))
    spread = [f"{w[np.isfinite(w)].std():.2f}" if w is not None else "unstable" for w in (at_rest, before, now)]
    reported = fitted.history[-1]
    above = f"{crystal.n_sites * reported.bound - now[np.isfinite(now)].mean():+.2f} ± {crystal.n_sites * reported.error:.2f}"
    lost = "-" if at_rest is None else difference(at_rest, now)
    return (
        f"{script.name:16}{crystal.n_sites:5d}  {n_old:10d}{counted.n:5d}{n_old / counted.n:4.0f}  {seconds[0]:6.1f}{seconds[1]:5.1f}  "
        f"{spread[0]:>9}{spread[1]:>7}{spread[2]:>6}  {lost:>12}{difference(before, now):>18}{above:>16}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first three crystals only")
    parser.add_argument("--seeds", type=int, default=1, help="fits of each crystal (%(default)s)")
    parser.add_argument("--script", type=Path, help="a script of your own")
    parser.add_argument("--rep", type=int, nargs=3, default=(3, 3, 3), help="its supercell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(INPUTS / name, replicate) for name, replicate in (CASES[:3] if options.quick else CASES)]
    if options.script:
        cases = [(options.script, tuple(options.rep))]
    print(HEAD)
    for script, replicate in cases:
        for seed in range(1, options.seeds + 1):
            print(row(script, replicate, seed), flush=True)


if __name__ == "__main__":
    main()
