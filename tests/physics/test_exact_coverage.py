# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies and mean energies by chains, in repeated runs on crystals whose values are known: with a poor flow, and with none."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from test_coverage import BETA, Surface, fcc

from lammps_bg.config import FlowConfig
from lammps_bg.flow.bases.phonon import PhononBase
from lammps_bg.flow.force_constants import finite_differences
from lammps_bg.flow.model import build_generator
from lammps_bg.thermo.chains import Latent
from lammps_bg.thermo.exact import ExactBudget, Ladder
from lammps_bg.thermo.sampler import draw
from lammps_bg.thermo.solvable import AnharmonicCrystal, HarmonicCrystal, spring_stiffness
from lammps_bg.training.target import ExactTarget

pytestmark = pytest.mark.physics
RUNS = 20
CRYSTAL = fcc(2)
HARMONIC = HarmonicCrystal(
    spring_stiffness(CRYSTAL.sites, CRYSTAL.supercell, 1.2, longitudinal=40.0, transverse=4.0), beta=BETA, static_energy=-3.0
)


def found(solvable, kind, poor, seed):
    """z of -ln Z_u, z of the mean energy, and the colour of the verdict."""
    surface = Surface(solvable)
    constants = finite_differences(HARMONIC.energies_forces, CRYSTAL, np.zeros((CRYSTAL.n_basis, 3)), 1e-3)
    small = FlowConfig(kind=kind, width=8, n_bins=4, n_sweeps=1, n_layers=1, n_frequencies=2)
    generator = build_generator(small, CRYSTAL, PhononBase(constants, BETA), seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.flow.parameters():
            parameter.add_(poor * torch.randn_like(parameter))
    target = ExactTarget(surface, BETA)
    log_w = np.concatenate([chunk.log_w for chunk in draw(generator, target, 512, seed=seed)])
    ladder = Ladder(Latent(generator, target), log_w, n_chains=16, nearest_distance=CRYSTAL.nearest_distance, seed=seed)
    ladder.run(ExactBudget(1.2e-2, max_evaluations=30_000))
    result = ladder.result()
    error = result.energies.std() / math.sqrt(result.n_independent)
    z = (result.difference.value + solvable.log_partition) / result.difference.error
    return z, (result.energies.mean() - solvable.mean_energy) / error, result.verdict.colour


@pytest.mark.parametrize(
    ("kind", "poor", "strength"), [("sublattice", 0.0, 0.8), ("sublattice", 0.03, -0.3), ("augmented", 0.02, 0.8)]
)
def test_repeated_runs_cover_the_exact_values(kind, poor, strength):
    """Twenty independent runs: every |z| <= 4.5, and the sum of z^2 below its chi-square limit of probability 1 - 1e-3.

    False alarm below 2.5e-3 for each case, for errors that are right. Errors that are up to 30 % too large are allowed: those of the free
    energy are the larger of two estimates, and those of the energy rest on the slowest of three quantities.
    """
    solvable = AnharmonicCrystal(HARMONIC, strength=strength, width=0.3)
    free, energy, colours = zip(*(found(solvable, kind, poor, seed) for seed in range(1, RUNS + 1)), strict=True)
    for z in (np.array(free), np.array(energy)):
        assert np.abs(z).max() <= 4.5
        total = float(np.square(z).sum())
        assert chi2.ppf(1e-4, RUNS) / 1.3**2 < total < chi2.ppf(1 - 1e-3, RUNS)
    assert colours.count("red") == 0
