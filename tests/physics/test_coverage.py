# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole chain, from forces to an absolute free energy with its error, on crystals whose free energy is known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from lammps_bg.config import FlowConfig, TrainConfig
from lammps_bg.crystal.structure import Structure
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import PhononFit
from lammps_bg.interrupt import StopFlag
from lammps_bg.thermo.free_energy import CrystalReference, absolute_from_difference, tfep
from lammps_bg.thermo.sampler import draw
from lammps_bg.thermo.solvable import AnharmonicCrystal, HarmonicCrystal, spring_stiffness
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import Trainer

pytestmark = pytest.mark.physics
BETA, LENGTH_SCALE, RUNS = 20.0, 0.7, 12
UNITS = Units("metal", 8.617e-5, 1.0, 1.0, 1.0, 0.001)
FCC = 0.75 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1.0]])


class Surface:
    """A solvable crystal as the energy surface of the chain."""

    def __init__(self, solvable):
        self.solvable, self.static_energy = solvable, solvable.harmonic.static_energy

    def __call__(self, displacements):
        return self.solvable.energies_forces(displacements)

    def energies(self, displacements):
        return self(displacements)[0]


def fcc(n_cells):
    cells = np.arange(n_cells)[:, None, None] * np.array([1.5, 0, 0])
    positions = (cells + FCC).reshape(-1, 3)
    box = np.diag([1.5 * n_cells, 1.5, 1.5])
    return Crystal.from_structure(Structure(box, np.zeros(3), positions, np.ones(len(positions), dtype=int), np.ones(1), ("A",)))


def estimated(crystal, solvable, seed, kind):
    """Absolute beta F / N with its error, and the bias-free check of what the base alone says."""
    surface = Surface(solvable)
    fitted = PhononFit(surface, crystal, UNITS, BETA, seed=seed).run(iterations=3, n_samples=300)
    small = FlowConfig(kind=kind, width=16, n_bins=4, n_sweeps=1, n_layers=1, n_frequencies=2)
    generator = build_generator(small, crystal, fitted.base, seed=seed)
    config = TrainConfig(steps=120, batch_size=32, learning_rate=3e-3)
    exact = ExactTarget(surface, BETA)
    softened = SoftenedTarget(surface, BETA, crystal.n_sites, 6.0)
    trainer = Trainer(SingleState(generator, softened, exact), config, seed=seed)
    trainer.run(StopFlag(), report=lambda record: None, save=lambda state: None)
    log_w = np.concatenate([chunk.log_w for chunk in draw(generator, exact, 4000, seed=seed)])
    reference = CrystalReference(
        BETA * surface.static_energy, fitted.base.log_integral, crystal.n_sites, crystal.volume, LENGTH_SCALE
    )
    weights = np.exp(log_w - log_w.max())
    ess = weights.sum() ** 2 / np.square(weights).sum() / len(weights)
    return absolute_from_difference(tfep(log_w, np.random.default_rng(seed)), reference), ess


@pytest.mark.parametrize(("kind", "strength"), [("sublattice", 0.8), ("sublattice", -0.4), ("augmented", 0.8)])
def test_repeated_runs_cover_the_exact_free_energy(kind, strength):
    """Twelve independent runs: each |z| <= 4.5, sum of z^2 in its chi-square range of probability 1 - 2e-4.

    False alarm below 3e-4 for each crystal, up to the skewness of a bootstrap error at the effective sizes required here.
    The error must not be too large either: then the sum of z^2 is below the range.
    """
    crystal = fcc(2)
    harmonic = HarmonicCrystal(
        spring_stiffness(crystal.sites, crystal.supercell, 1.2, longitudinal=40.0, transverse=4.0), beta=BETA, static_energy=-3.0
    )
    solvable = AnharmonicCrystal(harmonic, strength=strength, width=0.3)
    exact = solvable.free_energy_per_atom(crystal.volume, LENGTH_SCALE)
    torch.manual_seed(0)
    results, ess = zip(*(estimated(crystal, solvable, seed, kind) for seed in range(1, RUNS + 1)), strict=True)
    assert min(ess) > 0.1
    z = np.array([(result.value - exact) / result.error for result in results])
    assert np.abs(z).max() < 4.5, z
    assert chi2.ppf(1e-4, RUNS) < np.square(z).sum() < chi2.isf(1e-4, RUNS), z
    for result in results:
        assert sum(result.terms.values()) == pytest.approx(result.value, abs=1e-9)
        assert math.isfinite(result.error)
