# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains over white noise and cell: the exact ensemble at constant pressure of crystals whose free energy is known at every volume."""

import math

import numpy as np
import pytest
import torch
from lattices import crystal

from lammps_bg.config import FlowConfig
from lammps_bg.errors import StateError
from lammps_bg.flow.bases.einstein import EinsteinParameters
from lammps_bg.flow.conditional import ConditionalBases, ConditionalGenerator
from lammps_bg.flow.model import build_conditional
from lammps_bg.thermo.isobaric import (
    FEWEST_STEPS,
    TUNING,
    CellNoise,
    Isobar,
    IsobaricChains,
    averages_of,
    compressibility,
    first_cells,
    judge,
    over_chains,
    whole_blocks,
)
from lammps_bg.thermo.repeats import t_factor
from lammps_bg.thermo.solvable_volume import VolumeCrystal
from lammps_bg.thermo.weights import EstimateError

LATTICE = crystal("fcc", (2, 2, 2))
CRYSTAL = VolumeCrystal(n_atoms=LATTICE.n_sites, volume_per_atom=LATTICE.volume / LATTICE.n_sites)
SMALL = VolumeCrystal(n_atoms=4, bulk_modulus=40.0)
"""So small and soft that one power of V more or less moves the mean volume by 8 % of its width."""
SHAPES = 150.0  # energy of a squared change of ln c/a, times two
ENDS = np.array([[-0.35, 0.35], [-0.4, 0.4]])
POINTS = np.array([[-1.0], [-0.7], [0.0], [0.7], [1.0]])


class Identity(torch.nn.Module):
    """A flow that does nothing."""

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, start, _context):
        return start, torch.zeros(len(start), dtype=torch.float64)


class VolumeSurface:
    """U of a solvable crystal, each configuration in its cell: ln V first, then a shape on a spring."""

    def __init__(self, solvable, cells, fails):
        self.static_energy, self._solvable, self._cells, self._fails = solvable.static_energy(0.0), solvable, cells, fails

    def __call__(self, u):
        x = self._cells[:, 0]
        stiffness = self._solvable.stiffness * np.exp(-2 * self._solvable.grueneisen * x)
        static = [self._solvable.static_energy(v) for v in x] + 0.5 * SHAPES * np.square(self._cells[:, 1:]).sum(1)
        centred = u - u.mean(1, keepdims=True)
        energies = static + 0.5 * stiffness * np.square(centred).sum((1, 2))
        return np.where(self._fails(u), np.inf, energies), -stiffness[:, None, None] * centred

    def energies(self, u):
        return self(u)[0]


class VolumeModel:
    """A conditional model of a solvable crystal that is deliberately wrong: widths too large, and with half the power of the volume."""

    channels = 1

    def __init__(self, solvable, *, n_free=1, lattice=None, randomise=0.02, fails=None):
        self.solvable, self.n_sites, self.scale = solvable, solvable.n_atoms, ENDS[:n_free, 1]
        nodes = (
            POINTS if n_free == 1 else np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1.0)])
        )
        own = math.sqrt(solvable.kt / solvable.stiffness) * np.exp(0.5 * solvable.grueneisen * self.scale[0] * nodes[:, 0])
        bases = ConditionalBases(nodes, [EinsteinParameters(np.full(self.n_sites, 1.1 * width)) for width in own])
        if lattice is None:
            self.generators = ConditionalGenerator(Identity(), bases, None)
        else:
            self.generators = build_conditional(
                FlowConfig(width=8, n_sweeps=1), lattice, bases, [1.0 / solvable.kt] * len(nodes), seed=3
            )
            random = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in self.generators.flow.parameters():
                    parameter += randomise * torch.randn(parameter.shape, generator=random).to(parameter.dtype)
        self._fails = fails or (lambda u: np.zeros(len(u), dtype=bool))

    def generator(self, cell):
        return self.generators.at(tuple((cell / self.scale).tolist()), 1.0 / self.solvable.kt)

    def surface(self, cells):
        return VolumeSurface(self.solvable, cells, self._fails)

    def isobar(self, pressure, box=None):
        names = ("volume", "c/a")[: len(self.scale)]
        ends = ENDS[: len(names)] if box is None else np.array([box])
        return Isobar(names, ends, self.solvable.reference_volume, pressure, 1.0 / self.solvable.kt)


def chains_of(model, pressure, *, n_chains=16, seed=1, box=None, design=POINTS):
    isobar = model.isobar(pressure, box)
    chains = IsobaricChains(model, isobar, first_cells(model, isobar, design, n_chains, seed=seed), n_chains, seed=seed)
    chains.start()
    return chains


def advanced(chains, n_steps):
    """The chains after so many steps."""
    for _ in range(n_steps):
        chains.advance()
    return chains


def require_exact(found, solvable, pressure, box, z):
    """Mean and variance of the volume and the compressibility are those of p(V) dV ~ exp(-(F + P V) / kT) dV."""
    mean, variance = solvable.volume_moments(pressure, box)
    assert abs(found.volume.value - mean) < z * found.volume.error
    assert abs(found.variance.value - variance) < z * found.variance.error
    assert abs(found.compressibility.value - variance / (solvable.kt * mean)) < z * found.compressibility.error


# ---- the ensemble


def test_the_measure_is_that_of_gibbs():
    """|z| <= 3.5 by 32 chains: false alarm of each of three numbers 1.4e-3; a power of V more or less is off by more than four errors."""
    model = VolumeModel(SMALL)
    chains = advanced(chains_of(model, 3.0, n_chains=32), sum(TUNING) + 260)
    found = averages_of(chains, 1.0, ["volume"])
    require_exact(found, SMALL, 3.0, ENDS[0], 3.5)
    mean, variance = SMALL.volume_moments(3.0, ENDS[0])
    assert found.volume.error < 0.018 * math.sqrt(variance)
    assert found.verdict.colour == "green"
    assert found.n_samples == 260 * 32
    assert found.energy.value == pytest.approx(
        np.mean([SMALL.static_energy(x) for x in chains.series("cells").ravel()]) + 4.5, abs=4.5 * found.energy.error
    )
    assert mean / found.volume.error > 500


@pytest.mark.parametrize("pressure", [0.0, pytest.param(6.0, marks=pytest.mark.slow)])
def test_a_flow_that_is_wrong_costs_samples_and_no_truth(pressure):
    """|z| <= 4.5 by 16 chains: false alarm of each number 4e-4. Flow, widths and their power of the volume are wrong."""
    model = VolumeModel(CRYSTAL, lattice=LATTICE)
    found = averages_of(advanced(chains_of(model, pressure), sum(TUNING) + 60), LATTICE.nearest_distance, ["volume"])
    require_exact(found, CRYSTAL, pressure, ENDS[0], 4.5)
    assert found.n_independent > 100
    assert found.r_hat < 1.3


def test_shapes_have_a_flat_measure():
    """Volume and ln c/a are independent here: a mean of zero and a variance of kT / stiffness, |z| <= 4.5 by 16 chains."""
    design = np.array([[v, c] for v in (-1.0, -0.5, 0.0, 0.5, 1.0) for c in (-1.0, 0.0, 1.0)])
    model = VolumeModel(SMALL, n_free=2)
    chains = advanced(chains_of(model, 3.0, design=design), sum(TUNING) + 100)
    require_exact(averages_of(chains, 1.0, ["volume", "c_over_a"]), SMALL, 3.0, ENDS[0], 4.5)
    shape = chains.series("cells")[..., 1]
    mean, variance = over_chains(lambda s: float(s.mean()), shape), over_chains(lambda s: float(s.var()), shape)
    assert abs(mean.value) < 4.5 * mean.error
    assert abs(variance.value - SMALL.kt / SHAPES) < 4.5 * variance.error
    assert mean.error < 0.1 * math.sqrt(SMALL.kt / SHAPES)


def test_no_chain_leaves_the_trained_box_and_its_border_is_told():
    box = (-0.03, 0.05)  # about one width of the volume
    chains = advanced(chains_of(VolumeModel(SMALL), 3.0, box=box), sum(TUNING) + 100)
    volumes = chains.series("cells")
    assert volumes.min() > box[0]
    assert volumes.max() < box[1]
    found = averages_of(chains, 1.0, ["volume"])
    require_exact(found, SMALL, 3.0, box, 4.5)
    assert found.near_edge["volume"] > 0.05
    assert found.verdict.colour != "green"
    assert any("it ends before the fluctuations do" in reason for reason in found.verdict.reasons)
    assert "wider condition.volume" in found.verdict.next_step


# ---- moving


def test_moves_of_the_cell_are_large_where_the_flow_is_good():
    """The volume is forgotten within some steps, with a base whose widths are wrong."""
    chains = advanced(chains_of(VolumeModel(SMALL), 3.0), sum(TUNING) + 60)
    assert chains.angle > 1.0
    assert chains.series("cell_acceptance").mean() > 0.5
    assert chains.series("acceptance").mean() > 0.6
    assert averages_of(chains, 1.0, ["volume"]).inefficiency < 5.0
    assert chains.evaluations >= 80 * 2 * 16


def test_chains_go_on_to_the_last_bit():
    model = VolumeModel(SMALL)
    whole = advanced(chains_of(model, 3.0), sum(TUNING) + 6)
    for stopped_at in (14, sum(TUNING) + 2):
        stopped = advanced(chains_of(model, 3.0), stopped_at)
        again = IsobaricChains(model, stopped.isobar, CellNoise(np.zeros(1), np.eye(1)), 16, seed=1)
        again.restore(stopped.state())
        advanced(again, sum(TUNING) + 6 - stopped_at)
        for name in ("cells", "energies", "log_w"):
            np.testing.assert_array_equal(again.series(name), whole.series(name))
        assert (again.evaluations, again.step, again.angle) == (whole.evaluations, whole.step, whole.angle)
        assert again.tuning_left == 0


def test_the_state_of_another_crystal_is_refused():
    state = chains_of(VolumeModel(SMALL), 3.0).state()
    model = VolumeModel(CRYSTAL)
    other = IsobaricChains(model, model.isobar(0.0), CellNoise(np.zeros(1), np.eye(1)), 16, seed=1)
    with pytest.raises(ValueError, match="another crystal"):
        other.restore(state)


@pytest.mark.slow
def test_no_chain_enters_an_infinite_energy():
    """Where a coordinate of the first atom is positive there is no energy: all samples are on the other side."""
    model = VolumeModel(SMALL, fails=lambda u: u[:, 0, 0] - u[:, :, 0].mean(1) > 0)
    isobar = model.isobar(3.0)
    chains = IsobaricChains(model, isobar, CellNoise(np.zeros(1), 0.05 * np.eye(1)), 16, seed=1)
    chains.start()
    advanced(chains, sum(TUNING) + 10)
    u = chains.displacements()
    assert (u[:, 0, 0] < 0).all()
    assert np.isfinite(chains.series("energies")).all()
    assert chains.series("infinite").mean() > 0.1


def test_white_noise_of_cells():
    noise = CellNoise.of(np.array([0.1, -0.2]), np.array([[0.04, 0.01], [0.01, 0.09]]))
    y = np.random.default_rng(1).normal(size=(5, 2))
    np.testing.assert_allclose(noise.white(noise.cells(y)), y, atol=1e-13)
    np.testing.assert_allclose(noise.root @ noise.root.T, 1.3 * np.array([[0.04, 0.01], [0.01, 0.09]]))
    assert CellNoise.of(np.zeros(2), np.zeros((2, 2))) is None
    assert whole_blocks(17, 32) == 32


# ---- what cannot be sampled


def test_a_pressure_beyond_the_trained_volumes_is_refused_with_those_that_are_not():
    model = VolumeModel(CRYSTAL)
    with pytest.raises(
        StateError, match=r"expected the cell at P = 400 .* got its edge; train a wider range or use a pressure between"
    ):
        chains_of(model, 400.0)


def test_draws_without_energies_are_refused():
    model = VolumeModel(SMALL, fails=lambda u: np.ones(len(u), dtype=bool))
    with pytest.raises(EstimateError, match="expected draws with finite energies in all trained cells, got 0 of 16"):
        chains_of(model, 3.0)


def test_too_few_steps_are_refused():
    chains = advanced(chains_of(VolumeModel(SMALL), 3.0), sum(TUNING) + FEWEST_STEPS - 1)
    with pytest.raises(EstimateError, match="expected 4 steps of the chains at least, got 3"):
        averages_of(chains, 1.0, ["volume"])


# ---- errors and verdicts


def test_errors_are_those_of_whole_chains():
    """A chain whose samples are all equal counts once; the error of a mean is that of the chains' means."""
    means = np.random.default_rng(2).normal(size=8)
    found = over_chains(lambda table: float(table.mean()), np.tile(means, (100, 1)))
    assert found.value == pytest.approx(means.mean())
    assert found.error == pytest.approx(means.std(ddof=1) / math.sqrt(8))
    assert found.interval[1] - found.value == pytest.approx(t_factor(8) * found.error)
    assert compressibility(np.array([[9.0, 11.0]]), 0.5) == pytest.approx(1.0 / (0.5 * 10.0))


@pytest.mark.parametrize(
    ("numbers", "colour", "words"),
    [
        ((200, 1.01, 0.0, 0.0), "green", "200 independent samples"),
        ((200, 1.2, 0.0, 0.0), "amber", "split-R-hat is 1.20"),
        ((200, 1.4, 0.0, 0.0), "red", "do not agree"),
        ((30, 1.0, 0.0, 0.0), "amber", "30 independent samples, fewer than 50"),
        ((10, 1.0, 0.0, 0.0), "red", "10 independent samples"),
        ((200, 1.0, 0.02, 0.0), "red", "half the nearest-neighbour distance"),
        ((200, 1.0, 0.0, 0.02), "amber", "2.0% of the samples are near an end of the trained range of c/a"),
        ((200, 1.0, 0.0, 0.3), "red", "30.0% of the samples"),
    ],
)
def test_verdicts(numbers, colour, words):
    *first, share = numbers
    found = judge(*first, [("volume", "volume", 0.001), ("c/a", "c_over_a", share)])
    assert found.colour == colour
    assert any(words in reason for reason in found.reasons)
    assert found.reliable == (colour != "red")
    assert ("condition.c_over_a" in found.next_step) == (share > 0.01)
