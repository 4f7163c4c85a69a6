# SPDX-License-Identifier: GPL-2.0-or-later
"""Potentials in torch with a cell and parameters of its own for each configuration: equal to LAMMPS at that cell and those values."""

import numpy as np
import pytest
import torch
from command_line import MW
from test_native import LJ_MIXED, SW_TWO, displacements, in_random_box, native_of, problem_of, sw_file

from lammps_bg.config import Config
from lammps_bg.errors import PotentialError
from lammps_bg.potentials.native import NativeSurface
from lammps_bg.potentials.recognise import recognise
from lammps_bg.potentials.stacked import stack
from lammps_bg.study.conditional import build_model, conditions_of, fit_bases, task_of
from lammps_bg.training.target import MixedTarget, StackedTarget

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
    """Energies, forces and virials of configurations, each in its cell and with its parameters."""
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
        trace = 3 * pressure * crystal.volume * np.linalg.det(deformation[k]) / problem.units.nktv2p
        found.append((energy[0], force[0][crystal.atom_ids - 1], trace))
    engine.set_cell(cell, origin)
    return tuple(map(np.array, zip(*found, strict=True)))


def require_equal(native, expected, u, *conditions):
    energies, forces, traces = expected
    own, own_forces = native(u, *conditions)
    np.testing.assert_allclose(own, energies, rtol=1e-10)
    np.testing.assert_allclose(own_forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    np.testing.assert_allclose(native.energies(u, *conditions), energies, rtol=1e-10)
    virials = np.trace(native.virials(u, *conditions), axis1=1, axis2=2)
    np.testing.assert_allclose(virials, traces, rtol=0, atol=1e-9 * np.abs(traces).max())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["lj", "sw"])
def test_a_cell_for_each_configuration(tmp_path, seed, kind):
    if kind == "lj":
        problem = in_random_box(tmp_path, seed, "lj", 1.5, LJ_MIXED)
    else:
        file = sw_file(tmp_path / "two.sw", np.random.default_rng(seed))
        problem = in_random_box(tmp_path, seed, "metal", 3.9, SW_TWO.format(file=file))
    u, deformation = displacements(problem, 0.03, n=4, seed=seed), strains(4, seed)
    native = native_of(problem)
    require_equal(native, by_lammps(problem, u, deformation), u, deformation)
    unchanged = np.tile(np.eye(3), (4, 1, 1))
    np.testing.assert_allclose(native.energies(u, unchanged), native.energies(u), rtol=1e-14)


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
        members.append(recognise(problem.engine.pair, units))
    rng = np.random.default_rng(2)
    member = rng.integers(0, len(values), 6)
    u, deformation = displacements(problem, 0.03, n=6), strains(6, 7)
    native = NativeSurface(stack(members), problem.crystal, None)
    expected = by_lammps(problem, u, deformation, [{name: values[k]} for k in member])
    require_equal(native, expected, u, deformation, member)
    assert np.abs(native.energies(u, deformation, np.roll(member, 1)) - expected[0]).max() > 1e-5
    for k, potential in enumerate(members):  # alone it is the same
        alone = NativeSurface(potential, problem.crystal, None)
        np.testing.assert_allclose(alone.energies(u), native.energies(u, None, np.full(6, k)), rtol=1e-12)


def test_one_atom_type_has_short_tables(tmp_path):
    """The usual case takes another way through the tables: one number for each configuration."""
    head = MW[: MW.index("pair_style")]
    problem = problem_of(tmp_path, head + SW_PRINTED.replace("X X\n", "X\n"), (2, 1, 1))
    problem.engine.set_parameters({"lambda3": 20.0})
    first = recognise(problem.engine.pair, "real")
    problem.engine.set_parameters({"lambda3": 24.0})
    second = recognise(problem.engine.pair, "real")
    native = NativeSurface(stack([first, second]), problem.crystal, None)
    u, member, deformation = displacements(problem, 0.04, n=4), np.array([0, 1, 1, 0]), strains(4, 1)
    values = [{"lambda3": (20.0, 24.0)[k]} for k in member]
    require_equal(native, by_lammps(problem, u, deformation, values), u, deformation, member)


def test_forces_are_the_gradient_and_virials_that_of_the_cell(tmp_path):
    """Central differences of the energy by displacements and by the deformation."""
    problem = in_random_box(tmp_path, 1, "lj", 1.5, LJ_MIXED)
    native = native_of(problem)
    u, deformation, step = displacements(problem, 0.03, n=1), strains(1, 3), 1e-5
    force, virial = native(u, deformation)[1][0], native.virials(u, deformation)[0]
    for atom, axis in ((0, 0), (3, 2), (9, 1)):
        shift = np.zeros_like(u)
        shift[0, atom, axis] = step
        slope = (native.energies(u + shift, deformation) - native.energies(u - shift, deformation))[0] / (2 * step)
        assert slope == pytest.approx(-force[atom, axis], rel=1e-6, abs=1e-6 * np.abs(force).max())
    for i, j in ((0, 0), (1, 0), (2, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] = step
        up, down = np.eye(3) + strain, np.eye(3) - strain
        slope = (native.energies(u @ up, deformation @ up) - native.energies(u @ down, deformation @ down))[0] / (2 * step)
        assert slope == pytest.approx(-virial[i, j], rel=1e-6, abs=1e-6 * np.abs(virial).max())


def test_compression_and_far_atoms_widen_the_table(tmp_path, caplog):
    """Pairs from beyond the skin come in: a table with a wider one has them; an atom lost altogether has no energy, and it is said."""
    problem = in_random_box(tmp_path, 2, "lj", 1.5, LJ_MIXED)
    native = native_of(problem)
    u, deformation = displacements(problem, 0.02, n=20), strains(20, 4, size=0.02)
    deformation[3] *= 0.85
    u[7, 2] += 0.5 * problem.crystal.nearest_distance
    skin = native.table.skin
    expected = by_lammps(problem, u, deformation)
    require_equal(native, expected, u, deformation)
    assert native.table.skin == skin
    assert native.n_outside == 2 * 3
    u[8, 1] += 40.0
    assert np.isfinite(native.energies(u, deformation)).sum() == 19
    assert "1 of 20 configurations have atoms several sites away from their own" in caplog.text
    deformation[5, 0, 0], u[6, 0, 0] = np.nan, np.inf
    assert np.isfinite(native.energies(u, deformation)).sum() == 17


def test_what_cannot_be_stacked(tmp_path):
    lj = recognise(in_random_box(tmp_path, 0, "lj", 1.5, LJ_MIXED).engine.pair, "lj")
    file = sw_file(tmp_path / "two.sw", np.random.default_rng(0))
    sw = recognise(in_random_box(tmp_path, 0, "metal", 3.9, SW_TWO.format(file=file)).engine.pair, "metal")
    with pytest.raises(PotentialError, match="expected potentials of one kind .* got LennardJones of 2 and StillingerWeber of 2"):
        stack([lj, sw])
    crystal = in_random_box(tmp_path, 0, "lj", 1.5, LJ_MIXED).crystal
    native = NativeSurface(stack([lj, lj]), crystal, None)
    u = np.zeros((2, crystal.n_sites, 3))
    with pytest.raises(ValueError, match="expected the member of each configuration"):
        native.energies(u)
    with pytest.raises(ValueError, match="for each of 2 configurations"):
        native.energies(u, None, np.zeros(3))


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
    problem.potential = NativeSurface(recognise(problem.engine.pair, problem.units.name), problem.crystal, problem.surface)
    conditions = conditions_of(config.condition, problem)
    model = build_model(problem, config, fit_bases(problem, config.base, conditions, 1, check=lambda: None))
    task = task_of(model, config)
    contexts = task.draw(12, torch.Generator().manual_seed(0))
    generator, joined = task.at(contexts)
    assert isinstance(joined, StackedTarget)
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
