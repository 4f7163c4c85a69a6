# SPDX-License-Identifier: GPL-2.0-or-later
"""Mean energies of exact configurations beside long molecular dynamics, to a few 1e-4 kT per atom."""

import math
from pathlib import Path

import numpy as np
import pytest

import lammps_bg as bg

pytestmark = pytest.mark.physics
MODELS = Path(__file__).parents[2] / "examples" / "models"
CASES = {
    "mw_cubic": ((3, 3, 3), 6500, {"md.timestep": 4, "md.damp": 40, "md.sample_every": 10}),
    "lj_fcc": ((4, 4, 4), 10500, {"md.damp": 0.1, "md.sample_every": 10}),
}


def mean_energy(frames):
    """beta <U>/N with its error, kT per atom.

    By equipartition <u . grad U> = (3N - 3) kT, so that beta <U> = (3N - 3) / 2 + <beta (U - u . grad U / 2)>: the mean of what is anharmonic,
    which scatters five times less than the energy does.
    """
    u = frames.u - frames.u.mean(1, keepdims=True)
    energies, forces = frames.system.problem.surface(u)
    n = u.shape[1]
    rest = frames.system.problem.beta * (energies + 0.5 * (u * forces).sum((1, 2))) / n + 1.5 * (n - 1) / n
    return rest.mean(), rest.std() / math.sqrt(len(rest))


@pytest.mark.parametrize("name", CASES)
def test_exact_frames_have_the_energy_of_dynamics(name):
    """|z| <= 4 at an error of about 2e-4 kT per atom on both sides; false alarm 6e-5."""
    copies, n, clock = CASES[name]
    model = bg.load(MODELS / name).at(replicate=copies)
    exact = model.sample_exact(n)
    assert len(exact) == n
    dynamics = model.system.md("nvt", n_frames=n, seed=5, settings=clock)
    (ours, error), (theirs, their_error) = mean_energy(exact), mean_energy(dynamics)
    assert max(error, their_error) < 2.5e-4
    assert abs(ours - theirs) <= 4.0 * np.hypot(error, their_error)
