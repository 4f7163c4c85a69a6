# SPDX-License-Identifier: GPL-2.0-or-later
"""Potentials in torch with a cell and parameters of its own for each configuration: equal to LAMMPS at that cell and those values."""

import numpy as np
import pytest
import torch
from command_line import MW
from test_torch_potentials import LJ_MIXED, SW_TWO, displacements, in_random_box, problem_of, sw_file, torch_of

from lammps_bg.config import Config
from lammps_bg.errors import PotentialError
from lammps_bg.potentials.pair_styles import recognised, with_members
from lammps_bg.potentials.sources.torch import TorchSurface
from lammps_bg.study.conditional import build_model, conditions_of, fit_bases, task_of
from lammps_bg.training.target import BatchedTarget, MixedTarget

LJ_RC = """
variable rc index 2.3
pair_style lj/cut ${rc}
pair_modify shift yes
pair_coeff * * 1.0 1.0
"""
LJ_EPS = "variable e index 1.0\n" + LJ_MIXED.replace("1 2 0.9", "1 2 $e")
LJ_CRYSTAL = """variable T index 1.0
units lj
lattice fcc 1.1
region cell block 0 1 0 1 0 1
create_box 1 cell
create_atoms 1 box
mass 1 1.0
"""
SW_PRINTED = """variable lambda3 index 23.15
print "X X X 6.189 2.3925 1.80 ${lambda3} 1.2 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0" file gen.sw screen no
pair_style sw
pair_coeff * * gen.sw X X
"""


def strains(n, seed, size=0.04):
    """Lower triangular deformations, as LAMMPS has its cells."""
    return np.eye(3) + np.tril(size * np.random.default_rng(seed).uniform(-1, 1, (n, 3, 3)))


def by_lammps(problem, u, deformation, values=None):
    """Energies, forces and pressures of configurations, each in its cell and with its parameters."""
    engine, crystal = problem.engine, problem.crystal
    cell, origin, found = engine.cell, engine.origin, []
    for k in range(len(u)):
        if values is not None:
            engine.set_parameters(values[k])
        engine.set_cell(cell @ deformation[k], origin)
        moved = (crystal.sites - origin) @ deformation[k] + origin + u[k]
        by_id = moved[np.argsort(crystal.atom_ids)][None]
        energy, force = engine.energies_forces(by_id)
        pressure = engine.virial_pressure(by_id)[0]
        found.append((energy[0], force[0][crystal.atom_ids - 1], pressure))
    engine.set_cell(cell, origin)
    return tuple(map(np.array, zip(*found, strict=True)))


def require_equal(surface, expected, u, *conditions):
    energies, forces, pressures = expected
    own, own_forces = surface(u, *conditions)
    np.testing.assert_allclose(own, energies, rtol=1e-10)
    np.testing.assert_allclose(own_forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    np.testing.assert_allclose(surface.energies(u, *conditions), energies, rtol=1e-10)
    own = surface.virial_pressures(u, *conditions)
    np.testing.assert_allclose(own, pressures, rtol=0, atol=1e-9 * np.abs(pressures).max())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["lj", "sw"])
def test_a_cell_for_each_configuration(tmp_path, seed, kind):
    if kind == "lj":
        problem = in_random_box(tmp_path, seed, "lj", 1.5, LJ_MIXED)
    else:
        file = sw_file(tmp_path / "two.sw", np.random.default_rng(seed))
        problem = in_random_box(tmp_path, seed, "metal", 3.9, SW_TWO.format(file=file))
    u, deformation = displacements(problem, 0.03, n=4, seed=seed), strains(4, seed)
    surface = torch_of(problem)
    require_equal(surface, by_lammps(problem, u, deformation), u, deformation)
    unchanged = np.tile(np.eye(3), (4, 1, 1))
    np.testing.assert_allclose(surface.energies(u, unchanged), surface.energies(u), rtol=1e-14)


@pytest.mark.parametrize(
    ("units", "length", "text", "name", "values"),
    [
        ("lj", 1.5, LJ_RC, "rc", (2.3, 2.05, 2.6)),
        ("lj", 1.5, LJ_EPS, "e", (0.9, 1.2)),
        ("real", 3.9, SW_PRINTED, "lambda3", (23.15, 18.0, 26.0)),
    ],
)
def test_parameters_and_a_cell_for_each_configuration(tmp_path, units, length, text, name, values):
    """Random cutoffs with their shifts, well depths of one pair of types, strengths of the three-body term."""
    problem = in_random_box(tmp_path, 5, units, length, text)
    members = []
    for value in values:
        problem.engine.set_parameters({name: value})
        members.append(recognised(problem.engine.pair, units))
    rng = np.random.default_rng(2)
    member = rng.integers(0, len(values), 6)
    u, deformation = displacements(problem, 0.03, n=6), strains(6, 7)
    surface = TorchSurface(with_members(members), problem.crystal, problem.units)
    expected = by_lammps(problem, u, deformation, [{name: values[k]} for k in member])
    require_equal(surface, expected, u, deformation, member)
    assert np.abs(surface.energies(u, deformation, np.roll(member, 1)) - expected[0]).max() > 1e-5
    for k, potential in enumerate(members):  # alone it is the same
        alone = TorchSurface(potential, problem.crystal, problem.units)
        np.testing.assert_allclose(alone.energies(u), surface.energies(u, None, np.full(6, k)), rtol=1e-12)


def test_one_atom_type_has_short_tables(tmp_path):
    """The usual case takes another way through the tables: one number for each configuration."""
    head = MW[: MW.index("pair_style")]
    problem = problem_of(tmp_path, head + SW_PRINTED.replace("X X\n", "X\n"), (2, 1, 1))
    problem.engine.set_parameters({"lambda3": 20.0})
    first = recognised(problem.engine.pair, "real")
    problem.engine.set_parameters({"lambda3": 24.0})
    second = recognised(problem.engine.pair, "real")
    surface = TorchSurface(with_members([first, second]), problem.crystal, problem.units)
    u, member, deformation = displacements(problem, 0.04, n=4), np.array([0, 1, 1, 0]), strains(4, 1)
    values = [{"lambda3": (20.0, 24.0)[k]} for k in member]
    require_equal(surface, by_lammps(problem, u, deformation, values), u, deformation, member)


def test_forces_are_the_gradient_and_pressure_that_of_the_volume(tmp_path):
    """Central differences of the energy by displacements and by the size of a deformed cell."""
    problem = in_random_box(tmp_path, 1, "lj", 1.5, LJ_MIXED)
    surface = torch_of(problem)
    u, deformation, step = displacements(problem, 0.03, n=1), strains(1, 3), 1e-5
    force, pressure = surface(u, deformation)[1][0], surface.virial_pressures(u, deformation)[0]
    for atom, axis in ((0, 0), (3, 2), (9, 1)):
        shift = np.zeros_like(u)
        shift[0, atom, axis] = step
        slope = (surface.energies(u + shift, deformation) - surface.energies(u - shift, deformation))[0] / (2 * step)
        assert slope == pytest.approx(-force[atom, axis], rel=1e-6, abs=1e-6 * np.abs(force).max())
    up, down = 1 + step, 1 - step
    slope = (surface.energies(u * up, deformation * up) - surface.energies(u * down, deformation * down))[0] / (2 * step)
    volume = problem.crystal.volume * np.linalg.det(deformation[0])
    assert pressure == pytest.approx(-slope / (3 * volume) * problem.units.nktv2p, rel=1e-6)


def test_compression_and_far_atoms_widen_the_table(tmp_path, caplog):
    """Pairs from beyond the skin come in: a table with a wider one has them; an atom lost altogether has no energy, and it is said."""
    problem = in_random_box(tmp_path, 2, "lj", 1.5, LJ_MIXED)
    surface = torch_of(problem)
    u, deformation = displacements(problem, 0.02, n=20), strains(20, 4, size=0.02)
    deformation[3] *= 0.85
    u[7, 2] += 0.5 * problem.crystal.nearest_distance
    skin = surface.table.skin
    expected = by_lammps(problem, u, deformation)
    require_equal(surface, expected, u, deformation)
    assert surface.table.skin == skin
    assert surface.counts.outside == 2 * 3
    u[8, 1] += 40.0
    assert np.isfinite(surface.energies(u, deformation)).sum() == 19
    assert "1 of 20 configurations have atoms several sites away from their own" in caplog.text
    deformation[5, 0, 0], u[6, 0, 0] = np.nan, np.inf
    assert np.isfinite(surface.energies(u, deformation)).sum() == 17


def test_what_cannot_be_stacked(tmp_path):
    lj = recognised(in_random_box(tmp_path, 0, "lj", 1.5, LJ_MIXED).engine.pair, "lj")
    file = sw_file(tmp_path / "two.sw", np.random.default_rng(0))
    sw = recognised(in_random_box(tmp_path, 0, "metal", 3.9, SW_TWO.format(file=file)).engine.pair, "metal")
    with pytest.raises(PotentialError, match="expected potentials of one kind .* got LennardJones of 2 and StillingerWeber of 2"):
        with_members([lj, sw])
    problem = in_random_box(tmp_path, 0, "lj", 1.5, LJ_MIXED)
    crystal, surface = problem.crystal, TorchSurface(with_members([lj, lj]), problem.crystal, problem.units)
    u = np.zeros((2, crystal.n_sites, 3))
    with pytest.raises(ValueError, match="expected the member of each configuration"):
        surface.energies(u)
    with pytest.raises(ValueError, match="for each of 2 configurations"):
        surface.energies(u, None, np.zeros(3))


@pytest.mark.parametrize("parameters", [{}, {"rc": (2.1, 2.6)}])
def test_a_batch_of_many_states_is_one_evaluation_with_the_same_targets(tmp_path, parameters):
    """Stacked and one by one, the targets of a training batch agree in value, gradient and shift."""
    problem = problem_of(tmp_path, LJ_CRYSTAL + LJ_RC, (2, 2, 2))
    settings = {
        "condition": {"volume": (-0.04, 0.04), "temperature": (0.5, 1.5), "parameters": parameters, "pool": 16},
        "base": {"iterations": 0},
        "flow": {"width": 8, "n_sweeps": 1, "n_neighbours": 12},
    }
    config = Config.model_validate(settings)
    problem.use("torch", torch_of(problem))
    conditions = conditions_of(config.condition, problem)
    model = build_model(problem, config, fit_bases(problem, config.base, conditions, 1, check=lambda: None))
    task = task_of(model, config)
    contexts = task.draw(12, torch.Generator().manual_seed(0))
    generator, joined = task.at(contexts)
    assert isinstance(joined, BatchedTarget)
    task._join = MixedTarget
    separate = task.at(contexts)[1]
    before = problem.n_evaluations
    found = []
    for target in (joined, separate):
        u = generator.prior.sample(12, torch.Generator().manual_seed(1))[:, 0].requires_grad_()
        value = target.log_prob(u)
        found.append((value.detach(), target.shift, torch.autograd.grad((value * torch.linspace(1, 2, 12)).sum(), u)[0]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-8)
    assert problem.n_evaluations - before >= 24
