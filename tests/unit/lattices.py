# SPDX-License-Identifier: GPL-2.0-or-later
"""Crystals for the tests: unit cells of many kinds, supercells with shuffled atoms, and spring crystals on them."""

import numpy as np

from lammps_bg.crystal.structure import Structure
from lammps_bg.crystal.system import Crystal
from lammps_bg.thermo.solvable import AnharmonicCrystal, HarmonicCrystal, spring_stiffness

_A = 3 / 8
_ICE = [(3, 5, 3 + _A), (0, 4, _A), (0, 2, 3 + _A), (3, 1, _A), (0, 2, 6 - _A), (3, 1, 3 - _A), (3, 5, 6 - _A), (0, 4, 3 - _A)]
_DIAMOND = [(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0), (3, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3)]
_FCC = [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
_HCP = [(0, 0, 0), (1 / 2, 1 / 2, 0), (0, 2 / 3, 1 / 2), (1 / 2, 1 / 6, 1 / 2)]
_TIN = [(0, 0, 0), (0, 1 / 2, 1 / 4), (1 / 2, 1 / 2, 1 / 2), (1 / 2, 0, 3 / 4)]
_S3, _S83 = np.sqrt(3.0), np.sqrt(8 / 3)

# name: cell rows, fractional basis, types, translation classes, atoms per primitive cell, whole-shell neighbours by default
CELLS = {
    "fcc": (1.5 * np.eye(3), np.array(_FCC) / 2, [1] * 4, 1, 1, 12),
    "bcc": (np.eye(3) * 1.2, np.array([(0, 0, 0), (1, 1, 1)]) / 2, [1] * 2, 1, 1, 14),
    "hcp": (np.diag([1.0, _S3, _S83]), np.array(_HCP), [1] * 4, 2, 2, 12),
    "diamond": (6.2 * np.eye(3), np.array(_DIAMOND) / 4, [1] * 8, 2, 2, 16),
    "ice": (4.3841 * np.diag([1.0, _S3, _S83]), np.array(_ICE) / 6, [1] * 8, 4, 4, 16),
    "tin": (4.8 * np.diag([1.0, 1.0, 0.545]), np.array(_TIN), [1] * 4, 2, 2, 18),
    "zincblende": (5.6 * np.eye(3), np.array(_DIAMOND) / 4, [1] * 4 + [2] * 4, 2, 2, 16),
    "caesium": (4.1 * np.eye(3), np.array([(0, 0, 0), (1, 1, 1)]) / 2, [1, 2], 2, 2, 14),
    "triclinic": (
        np.array([[3.0, 0, 0], [0.7, 2.8, 0], [-0.5, 0.9, 3.3]]),
        np.array([(0.1, 0.2, 0.3), (0.55, 0.6, 0.85)]),
        [1, 1],
        2,
        2,
        None,
    ),  # fmt: skip
}
NAMES = tuple(CELLS)


def supercell(name, replicate=(1, 1, 1), *, seed=None, noise=0.0, origin=(0.0, 0.0, 0.0)):
    """The structure of `replicate` unit cells; with a seed, atoms are shuffled and moved by whole box vectors."""
    cell, basis, types, *_ = CELLS[name]
    grid = np.stack(np.meshgrid(*map(np.arange, replicate), indexing="ij"), -1).reshape(-1, 1, 3)
    positions = ((grid + basis).reshape(-1, 3)) @ cell
    types = np.tile(types, len(grid))
    box = cell * np.array(replicate)[:, None]
    if seed is not None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(positions))
        positions, types = positions[order], types[order]
        positions = positions + rng.integers(-2, 3, size=positions.shape) @ box + noise * rng.uniform(-1, 1, positions.shape)
    n_types = int(types.max())
    labels = ("A", "B")[:n_types]
    return Structure(box, np.array(origin, dtype=float), positions + origin, types, np.arange(1.0, n_types + 1), labels)


def crystal(name, replicate=(1, 1, 1)):
    """The crystal of `replicate` unit cells."""
    unit = Crystal.from_structure(supercell(name))
    return unit.replicated(replicate, supercell(name, replicate))


def springs(lattice, *, beta=1.0, static_energy=0.0, reach=1.15, longitudinal=40.0, transverse=4.0):
    """The exactly solvable crystal with springs up to `reach` nearest distances, in the order of the sites."""
    cutoff = reach * lattice.nearest_distance
    stiffness = spring_stiffness(lattice.sites, lattice.supercell, cutoff, longitudinal=longitudinal, transverse=transverse)
    return HarmonicCrystal(stiffness, beta=beta, static_energy=static_energy)


class SolvableSurface:
    """A solvable crystal as the energy surface that training and sampling ask for; `fails(call)` may spoil energies."""

    def __init__(self, solvable, *, fails=None):
        self.solvable, self.calls, self._fails = solvable, 0, fails
        harmonic = solvable.harmonic if isinstance(solvable, AnharmonicCrystal) else solvable
        self.static_energy = harmonic.static_energy

    def __call__(self, displacements):
        energies, forces = self.solvable.energies_forces(displacements)
        self.calls += 1
        if self._fails is not None:
            bad = self._fails(self.calls, displacements)
            energies, forces = np.where(bad, np.inf, energies), np.where(bad[:, None, None], np.nan, forces)
        return energies, forces

    def energies(self, displacements):
        return self(displacements)[0]
