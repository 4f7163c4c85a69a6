# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies over cells from one set of chains: exactly solvable crystals whose flow is so weak that its draws alone fail."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from lattices import SolvableSurface, crystal

from lammps_bg.config import FlowConfig
from lammps_bg.flow.bases.einstein import EinsteinBase
from lammps_bg.flow.model import build_generator
from lammps_bg.thermo.chains import Latent
from lammps_bg.thermo.exact import ExactBudget
from lammps_bg.thermo.free_energy import CrystalReference
from lammps_bg.thermo.sampler import draw
from lammps_bg.thermo.shared_states import SharedState, SharedStates
from lammps_bg.thermo.solvable_volume import VolumeCrystal
from lammps_bg.thermo.verdict import judge
from lammps_bg.thermo.weights import EstimateError, summarise
from lammps_bg.training.target import ExactTarget

LATTICE = crystal("diamond", (1, 1, 1))
EXACT = VolumeCrystal(n_atoms=8, volume_per_atom=LATTICE.volume / 8, bulk_modulus=0.4, stiffness=90.0, kt=0.8)
BETA, N, R = 1 / EXACT.kt, EXACT.n_atoms, 8
UNITS = np.linspace(-1.0, 1.0, 5)
REACH = 0.12  # of ln(V / V0)
VOLUMES = REACH * UNITS
SIGMAS = 5.0
"""Standard errors from 8 groups (Student's t of 7): a right number lies outside once in 640, one of the 5 cells of a test once in 130."""


class Springs:
    """Every atom on a spring to its site, as stiff as the volume says; without centre of mass."""

    def __init__(self, log_volume):
        self.stiffness = EXACT.stiffness * math.exp(-2 * EXACT.grueneisen * log_volume)
        self.static_energy = EXACT.static_energy(log_volume)

    def energies_forces(self, u):
        return self.static_energy + 0.5 * self.stiffness * np.square(u).sum((1, 2)), -self.stiffness * u


class Surface(SolvableSurface):
    def __init__(self, log_volume):
        self.solvable, self.calls, self._fails = Springs(log_volume), 0, None
        self.static_energy = self.solvable.static_energy


@cache
def family(kind="sublattice", *, width=0.62, follow=0.5, reach=REACH):
    """States over the volume with draws: a base of wrong widths, that follow the volume too little, and a flow of random weights."""
    config = FlowConfig(kind=kind, width=8, n_bins=4, n_sweeps=1, n_layers=1, n_frequencies=2)
    states = []
    for volume in reach * UNITS:
        own = width * math.exp(follow * EXACT.grueneisen * volume) / math.sqrt(BETA * EXACT.stiffness)
        base = EinsteinBase(torch.full((N,), own, dtype=torch.float64))
        generator = build_generator(config, LATTICE, base, seed=3)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in generator.flow.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        generator.flow.double()
        target = ExactTarget(Surface(volume), BETA)
        drawn = [list(draw(generator, target, 128, seed=11 + repeat)) for repeat in range(R)]
        log_w, energies = (
            [np.concatenate([getattr(c, name) for c in chunks]) for chunks in drawn] for name in ("log_w", "energies")
        )
        latent = Latent(generator, target)
        states.append(SharedState(latent, np.array(log_w), np.array(energies), LATTICE.nearest_distance))
    return tuple(states)


def assert_exact(found, *, reach=REACH):
    """F and mean energy of every cell within `SIGMAS` standard errors."""
    volumes, root = reach * UNITS, math.sqrt(R)
    known = [CrystalReference(0.0, 0.0, N, EXACT.volume(v), 1.0) for v in volumes]
    free = np.array([N * k.value(f) / BETA for k, f in zip(known, found.minus_log_z.mean(0), strict=True)])
    z = (free - [EXACT.free_energy(v) for v in volumes]) / (found.minus_log_z.std(0, ddof=1) / root / BETA)
    assert np.abs(z).max() < SIGMAS, z
    exact = [EXACT.static_energy(v) + 1.5 * (N - 1) * EXACT.kt for v in volumes]
    z = (found.energies.mean(0) - exact) / (found.energies.std(0, ddof=1) / root)
    assert np.abs(z).max() < SIGMAS, z


def test_draws_alone_fail():
    """Beyond doubt they are nowhere: the base is too narrow for weights of finite variance."""
    for state in family():
        assert judge(summarise(state.log_w.ravel())).colour == "red"


@pytest.mark.parametrize("kind", ["sublattice", pytest.param("augmented", marks=pytest.mark.slow)])
def test_free_energies_over_cells_are_exact(kind):
    """A ladder in the middle cell suffices for all: false alarm once in 60 choices of seeds for F and energies of a kind."""
    found = SharedStates(family(kind), anchor=2, n_chains=16, seed=7).run(ExactBudget(0.03, max_evaluations=30_000))
    assert_exact(found)
    assert found.errors.max() / N < 0.04
    assert found.verdict.reliable
    assert found.coverage.min() > 0.3
    assert {state for state, window in found.windows[1:] if window.coupling == 1.0} == {2}


@pytest.mark.slow
def test_cells_out_of_reach_get_chains_of_their_own():
    """Volumes so different, under a flow that does not follow them, that no sample of the middle has weight at the ends."""
    states = family(width=0.9, follow=0.0, reach=0.4)
    found = SharedStates(states, anchor=2, n_chains=16, seed=3).run(ExactBudget(0.04, max_evaluations=30_000))
    assert_exact(found, reach=0.4)
    assert len({state for state, window in found.windows[1:] if window.coupling == 1.0}) > 1


def test_a_budget_is_kept_and_what_was_reached_stays():
    shared = SharedStates(family(), anchor=2, n_chains=1, seed=1)
    assert shared.n_chains == 16  # one for each of 8 groups at least, and a whole block
    found = shared.run(ExactBudget(1e-9, max_evaluations=6000))
    assert 6000 <= shared.evaluations == found.evaluations < 7000
    assert_exact(found)
    assert found.minus_log_z.shape == found.energies.shape == (R, len(UNITS))
    assert np.isnan(found.pressures).all()
    with pytest.raises(EstimateError, match="expected chains of the crystal itself"):
        SharedStates(family(), anchor=2, n_chains=16, seed=1).run(ExactBudget(1e-9, max_evaluations=100))
