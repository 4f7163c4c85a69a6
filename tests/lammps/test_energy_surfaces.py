# SPDX-License-Identifier: GPL-2.0-or-later
"""Every implementation of an energy surface passes the conformance test, and the conformance test finds what is broken."""

import re

import numpy as np
import pytest
from lammps_scripts import INPUTS

from lammps_bg.potentials import sources
from lammps_bg.potentials.conformance import faults
from lammps_bg.study.problem import Problem, ScriptRequest


class EinsteinCrystal:
    """Atoms on springs to the sites of a lattice that moves with their mean: the smallest surface there is."""

    def __init__(self, crystal, stiffness=3.0):
        self.crystal, self.stiffness, self.static_energy, self.n_evaluations = crystal, stiffness, 0.0, 0

    def __call__(self, displacements):
        self.n_evaluations += len(displacements)
        with np.errstate(invalid="ignore"):
            u = displacements - displacements.mean(1, keepdims=True)
        energies, forces = 0.5 * self.stiffness * np.square(u).sum((1, 2)), -self.stiffness * u
        bad = ~np.isfinite(energies)
        energies[bad], forces[bad] = np.inf, np.nan
        return energies, forces

    def energies(self, displacements):
        return self(displacements)[0]

    def in_cells(self, displacements, deformations):
        return self(displacements)

    def virial_pressures(self, displacements):
        energies = self.energies(displacements)
        return np.where(np.isfinite(energies), -2 * energies / (3 * self.crystal.volume), np.nan)

    def at(self, reference):
        return EinsteinCrystal(reference.crystal, self.stiffness)

    def batched(self, corners):
        return None

    def cost(self):
        return {}

    def close(self):
        """Nothing is held."""


def problem_of(name):
    return Problem.load(ScriptRequest(INPUTS / f"in.{name}", {}, (2, 2, 2)))


@pytest.mark.parametrize("name", ["lj_fcc", "mw_cubic"])
@pytest.mark.parametrize("source", sources.names())
def test_lammps_and_torch_conform(name, source):
    problem = problem_of(name)
    surface = sources.load(source).surface(problem.surface, "cpu")
    assert faults(surface, pressure_unit=problem.units.nktv2p) == []


def test_an_einstein_crystal_conforms():
    problem = problem_of("lj_fcc")
    assert faults(EinsteinCrystal(problem.crystal), pressure_unit=1.0) == []


class Wrong(EinsteinCrystal):
    """An Einstein crystal with a fault."""

    def __init__(self, crystal, fault):
        super().__init__(crystal)
        self.fault, self.closed, self.seen = fault, False, 0.0

    def __call__(self, displacements):
        energies, forces = super().__call__(displacements)
        match self.fault:
            case "forces":
                forces = 1.001 * forces
            case "before":
                energies, self.seen = energies + self.seen, self.seen + 1e-3
            case "fixed":
                energies = energies + np.nan_to_num(displacements.mean((1, 2)))
            case "nan":
                energies = np.where(np.isfinite(energies), energies, np.nan)
            case "single":
                energies = energies.astype(np.float32)
        return energies, forces

    def virial_pressures(self, displacements):
        return (1.01 if self.fault == "pressure" else 1.0) * super().virial_pressures(displacements)

    def close(self):
        if self.fault == "close" and self.closed:
            raise RuntimeError("closed")
        self.closed = True


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("forces", "forces that are the slope"),
        ("before", "it depends on what it saw before"),
        ("fixed", "the energy of a shifted crystal"),
        ("nan", r"expected \+inf as energy"),
        ("single", "expected energies as float64"),
        ("pressure", "slope of the energy by the volume"),
        ("close", "the second time, got RuntimeError"),
    ],
)
def test_what_is_broken_is_found(fault, said):
    found = faults(Wrong(problem_of("lj_fcc").crystal, fault), pressure_unit=1.0)
    assert re.search(said, "\n".join(found)), found
