# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole chain of a conditional model on anharmonic crystals with a known F(V, T): G, V, compressibility and coexistence."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import deformation
from lammps_bg.crystal.conditions import Axis, Conditions
from lammps_bg.crystal.structure import Structure
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.interrupt import StopFlag
from lammps_bg.study.conditional import build_model, fit_bases, task_of
from lammps_bg.study.helmholtz import tables_over
from lammps_bg.thermo.coexistence import crossing
from lammps_bg.thermo.solvable import AnharmonicCrystal, HarmonicCrystal, spring_stiffness
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.trainer import Trainer

pytestmark = pytest.mark.physics
UNITS = Units("lj", 1.0, 1.0, 1.0, 1.0, 0.005)
FCC = 0.75 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1.0]])
LENGTH_SCALE, RANGE = 0.7, (-0.08, 0.08)
CONDITIONS = Conditions((Axis("volume", *RANGE, ""), Axis("T", 0.8, 1.3, "")))
SIGMAS = (
    4.5  # with 8 repeats (Student's t of 7) a right number fails once in 360, so a test of 8 numbers once in 45 choices of seeds
)


def fcc(n_cells):
    cells = np.arange(n_cells)[:, None, None] * np.array([1.5, 0, 0])
    positions = (cells + FCC).reshape(-1, 3)
    box = np.diag([1.5 * n_cells, 1.5, 1.5])
    return Crystal.from_structure(Structure(box, np.zeros(3), positions, np.ones(len(positions), dtype=int), np.ones(1), ("A",)))


SPRINGS = spring_stiffness(fcc(4).sites, fcc(4).supercell, 1.2 * fcc(4).nearest_distance, longitudinal=1.0, transverse=0.1)


class Surface:
    """A solvable crystal as the energy surface of the chain."""

    def __init__(self, solvable):
        self.solvable, self.static_energy, self.parameters = solvable, solvable.harmonic.static_energy, {}

    def __call__(self, displacements):
        return self.solvable.energies_forces(displacements)

    def energies(self, displacements):
        return self(displacements)[0]

    def batched(self, corners):
        return None


class SolvableProblem:
    """A crystal whose springs and static energy follow the volume, in place of one that LAMMPS evaluates."""

    units, length_scale, length_source = UNITS, LENGTH_SCALE, "test"

    def __init__(self, crystal, *, grueneisen, stiffness, bulk, offset, temperature=1.0, volume=0.0):
        self.crystal, self.temperature, self._volume = crystal, temperature, volume
        self._facts = {"grueneisen": grueneisen, "stiffness": stiffness, "bulk": bulk, "offset": offset}
        self.surface = self.potential = Surface(self.solvable(volume, temperature))

    @property
    def beta(self):
        return 1 / self.temperature

    def solvable(self, volume, temperature):
        facts, n = self._facts, self.crystal.n_sites
        scale = facts["stiffness"] * math.exp(-2 * facts["grueneisen"] * volume)
        static = n * (facts["offset"] + 0.5 * facts["bulk"] * volume**2 - 0.3 * facts["bulk"] * volume**3)
        harmonic = HarmonicCrystal(scale * SPRINGS, beta=1 / temperature, static_energy=static)
        return AnharmonicCrystal(harmonic, strength=0.6, width=0.12)

    def at(self, values):
        volume, temperature = values.get("volume", 0.0), values.get("T", self.temperature)
        moved = self.crystal.deformed(deformation({"volume": volume}))
        return SolvableProblem(moved, **self._facts, temperature=temperature, volume=volume)

    def exact_target(self):
        return ExactTarget(self.surface, self.beta)

    def softened_target(self, softening):
        return SoftenedTarget(self.surface, self.beta, self.crystal.n_sites, softening)

    def free_energy(self, volume, temperature):
        """Exact F of the whole crystal, energy."""
        volume_of = self.crystal.volume * math.exp(volume)
        solvable = self.solvable(volume, temperature)
        return self.crystal.n_sites * temperature * solvable.free_energy_per_atom(volume_of, LENGTH_SCALE)

    def gibbs(self, pressure, temperature):
        """Exact G and ln V/V0."""

        def enthalpy(volume):
            return self.free_energy(volume, temperature) + pressure * self.crystal.volume * math.exp(volume)

        found = minimize_scalar(enthalpy, bounds=RANGE, method="bounded", options={"xatol": 1e-9})
        return float(found.fun), float(found.x)


SOFT = {"grueneisen": 2.0, "stiffness": 900.0, "bulk": 60.0, "offset": 0.0}
HARD = {"grueneisen": 1.2, "stiffness": 1500.0, "bulk": 90.0, "offset": -0.746}


def model_of(facts, seed):
    problem = SolvableProblem(fcc(4), **facts)
    settings = {
        "seed": seed,
        "base": {"iterations": 3, "n_samples": 300},
        "flow": {"width": 16, "n_sweeps": 1},
        "train": {"steps": 120, "batch_size": 64, "warmup_steps": 10},
    }
    config = Config.model_validate(settings)
    fitted = fit_bases(problem, config.base, CONDITIONS, seed, check=lambda: None)
    model = build_model(problem, config, fitted)
    trainer = Trainer(task_of(model, config), config.train, seed=seed)
    trainer.run(StopFlag(), report=lambda record: None, save=lambda state: None)
    return problem, model


def table_of(model, temperature, seed):
    config = Config.model_validate({"gibbs": {"n_samples": 512}, "exact": {"mode": "never"}, "seed": seed})
    (table,) = tables_over(model, [{"T": temperature}], ("volume",), config)
    return table


@pytest.fixture(scope="module")
def soft():
    return model_of(SOFT, 1)


@pytest.fixture(scope="module")
def hard():
    return model_of(HARD, 2)


@pytest.mark.parametrize("temperature", [0.85, 1.2])
def test_gibbs_free_energy_volume_and_compressibility(soft, temperature):
    problem, model = soft
    table = table_of(model, temperature, 5)
    assert table.ess.min() > 0.5
    low, high = table.surface.pressure_range()
    for pressure in (low + 0.3 * (high - low), low + 0.7 * (high - low)):
        point = table.surface.gibbs(pressure)
        exact, volume = problem.gibbs(pressure, temperature)
        step = 1e-3 * (high - low)
        slope = (problem.gibbs(pressure + step, temperature)[1] - problem.gibbs(pressure - step, temperature)[1]) / (2 * step)
        for name, found, expected in (
            ("free_energy", point.free_energy, exact),
            ("volume", point.volume, problem.crystal.volume * math.exp(volume)),
            ("compressibility", point.compressibility, -slope),
        ):
            allowed = SIGMAS * found.error + point.systematic[name]
            assert abs(found.value - expected) < allowed, name
        assert point.free_energy.error < 2e-3 * problem.crystal.n_sites * temperature


def test_two_crystals_coexist_where_they_should(soft, hard):
    (first, one), (second, other) = soft, hard
    tables = [table_of(model, 1.0, 7) for model in (one, other)]
    low = max(table.surface.pressure_range()[0] for table in tables)
    high = min(table.surface.pressure_range()[1] for table in tables)
    axis = np.linspace(low + 0.02 * (high - low), high - 0.02 * (high - low), 21)
    curves = [table.surface.gibbs_repeats(axis) / 16 for table in tables]
    exact = brentq(lambda p: first.gibbs(p, 1.0)[0] - second.gibbs(p, 1.0)[0], axis[0], axis[-1])
    found = crossing(axis, curves[1] - curves[0], np.random.default_rng(0))
    assert len(found.roots) == 1
    assert abs(found.roots[0].estimate.value - exact) < SIGMAS * found.roots[0].estimate.error + 1e-3
