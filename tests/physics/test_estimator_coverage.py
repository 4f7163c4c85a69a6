# SPDX-License-Identifier: GPL-2.0-or-later
"""Every estimator of ln Z_u covers the truth at the rate its error promises, on crystals whose free energy is known."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import chi2

from lammps_bg.thermo.multistate import mbar
from lammps_bg.thermo.solvable import AnharmonicCrystal, HarmonicCrystal, spring_stiffness
from lammps_bg.thermo.springs import SpringCrystal, stiffness_from_displacements
from lammps_bg.thermo.timeseries import correlated_mean, decorrelate
from lammps_bg.thermo.two_sided import two_sided
from lammps_bg.thermo.weights import error_margin
from lammps_bg.thermo.windows import initial_windows, to_insert

pytestmark = pytest.mark.physics
BETA, RUNS = 20.0, 60
FCC = 0.75 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1.0]])
NAMES = ("tfep", "tfep_reverse", "bar")


def covered(z, inflation=1.0):
    """Sum of z^2 in its chi-square range of probability 1 - 2e-4, and no |z| above 5 (less than 1e-4 for 60 runs).

    Args:
        z: Deviations from the exact value in standard errors, shape [runs].
        inflation: Largest mean square that the error is known to leave out, where the test says so.
    """
    low, high = (chi2.ppf(p, len(z)) for p in (1e-4, 1.0 - 1e-4))
    total = np.square(z).sum()
    summary = f"mean z^2 = {total / len(z):.2f}, mean z = {np.mean(z):.2f}"
    print(summary)
    assert low < total < high * inflation, summary
    assert np.abs(z).max() < 5.0 * math.sqrt(inflation)


def crystal_of(n_cells, longitudinal=40.0, transverse=4.0, static_energy=-3.0):
    """fcc crystal of 4 n_cells atoms in a row of cells."""
    cells = np.arange(n_cells)[:, None, None] * np.array([1.5, 0, 0])
    box = np.diag([1.5 * n_cells, 1.5, 1.5])
    stiffness = spring_stiffness((cells + FCC).reshape(-1, 3), box, 1.2, longitudinal=longitudinal, transverse=transverse)
    return HarmonicCrystal(stiffness, beta=BETA, static_energy=static_energy)


def log_weights(flow, target, configurations):
    return -BETA * target.energies_forces(configurations)[0] - flow.log_prob(configurations)


@pytest.mark.parametrize(
    ("n_cells", "longitudinal", "strength"),
    [(1, 30.0, None), (2, 50.0, None), (4, 34.0, None), (2, 34.0, 0.4), (2, 40.0, -0.3)],
    ids=["N=4", "N=8", "N=16", "soft N=8", "stiff N=8"],
)
def test_two_sided_estimates_cover_the_truth(n_cells, longitudinal, strength):
    """60 runs with a wrong Gaussian as the flow: for each estimate `covered`, false alarm below 3e-4 (15 in all: 5e-3).

    The same holds for the differences of estimates that share samples, in their joint standard error.
    """
    flow = crystal_of(n_cells, longitudinal, 0.1 * longitudinal)
    target = crystal_of(n_cells)
    if strength is not None:
        target = AnharmonicCrystal(target, strength=strength, width=0.3)
    z = {name: [] for name in (*NAMES, "tfep - bar", "tfep - tfep_reverse")}
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, n_cells, int(longitudinal)])
        sides = [log_weights(flow, target, source.sample(n, rng)) for source, n in ((flow, 1000), (target, 500))]
        result = two_sided(*sides, tuple(rng.spawn(2)), n_bootstraps=200)
        assert 0.3 < result.overlap < 0.95
        # What the one-sided errors grant to their own uncertainty is taken off: here the bootstrap within is tested
        margins = {"tfep": error_margin(sides[0]), "tfep_reverse": error_margin(-sides[1]), "bar": 1.0}
        for name in NAMES:
            estimate = getattr(result, name)
            z[name].append(margins[name] * (estimate.value + target.log_partition) / estimate.error)
        z["tfep - bar"].append(result.z("tfep", "bar"))
        within = math.hypot(result.tfep.error / margins["tfep"], result.tfep_reverse.error / margins["tfep_reverse"])
        z["tfep - tfep_reverse"].append((result.tfep.value - result.tfep_reverse.value) / within)
    for values in z.values():
        covered(values)


def window_samples(stiffness, target, coupling, n, rng):
    """Exact samples of (1 - lambda) U_s + lambda U, both harmonic."""
    springs = np.kron(np.diag(stiffness) - np.outer(stiffness, stiffness) / stiffness.sum(), np.eye(3))
    modes = target.modes * target.curvatures @ target.modes.T
    return HarmonicCrystal((1.0 - coupling) * springs + coupling * modes, beta=BETA).sample(n, rng)


@pytest.mark.parametrize(("n_cells", "uneven"), [(1, 1.0), (2, 3.0), (4, 6.0)])
def test_windows_from_springs_cover_the_truth(n_cells, uneven):
    """60 runs of springs + MBAR with automatic windows: `covered`, false alarm below 3e-4 each; `uneven`: ratio of the springs."""
    target = crystal_of(n_cells)
    rng = np.random.default_rng(0)
    measured = np.square(target.sample(500, rng)).sum(2).mean(0)
    stiffness = stiffness_from_displacements(measured, target.n_atoms, BETA)
    stiffness[::2] *= uneven
    springs = SpringCrystal(stiffness, BETA)

    def differences(u):
        return BETA * (target.energies_forces(u)[0] - springs.energies(u))

    lambdas = initial_windows(3)
    while new := to_insert(lambdas, [differences(window_samples(stiffness, target, x, 300, rng)) for x in lambdas]):
        lambdas = sorted([*lambdas, *new])
    assert len(lambdas) <= 25
    z = []
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, n_cells, 1])
        frames = np.concatenate([window_samples(stiffness, target, x, 200, rng) for x in lambdas])
        base, du = BETA * springs.energies(frames), differences(frames)
        u_kn = base + np.array(lambdas)[:, None] * du
        result = mbar(u_kn, [200] * len(lambdas), rng.spawn(len(lambdas)))
        estimate = result.difference(0, -1).scaled(1.0, -springs.log_integral)
        z.append((estimate.value + target.log_partition) / estimate.error)
    covered(z)


@pytest.mark.parametrize("tau", [0.3, 5.0])
def test_means_of_correlated_series_cover_the_truth(tau):
    """200 series of 2000 frames: the mean square of z may be up to 15 % too large, the price of looking for equilibrium."""
    decay, z, z_frames = math.exp(-1.0 / tau), [], []
    for seed in range(200):
        rng = np.random.default_rng([seed, 2])
        noise = rng.normal(size=2000) * math.sqrt(1.0 - decay**2)
        noise[0] = rng.normal()
        series = lfilter([1.0], [1.0, -decay], noise) + 10.0 * np.exp(-np.arange(2000) / 30.0)
        mean = correlated_mean(series)
        z.append(mean.value / mean.error)
        frames = series[decorrelate(series).indices]
        z_frames.append(frames.mean() / frames.std(ddof=1) * math.sqrt(len(frames)))
    covered(z, inflation=1.15)
    covered(z_frames, inflation=1.15)
