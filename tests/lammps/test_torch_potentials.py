# SPDX-License-Identifier: GPL-2.0-or-later
"""Potentials in torch: equal to LAMMPS to 1e-10 in energy, forces and virial, in any box, with any types, and never beyond their skin."""

import json
import sys
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from command_line import TINY, call, mw_crystal, use
from lammps_scripts import INPUTS

from lammps_bg.commands.stored_run import chosen_before
from lammps_bg.config import load_config, to_toml
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine.describe import PairStyle
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import ConfigError
from lammps_bg.flow.bases.einstein import EinsteinBase
from lammps_bg.flow.generator import Prior
from lammps_bg.potentials import pair_styles
from lammps_bg.potentials.pair_styles import own_length, recognised
from lammps_bg.potentials.pair_styles.sw import read_file
from lammps_bg.potentials.sources.lammps import LammpsSurface
from lammps_bg.potentials.sources.torch import TorchSurface
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.energies import Judge, choose_source
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.sampler import Chunk

TRICLINIC = """
units {units}
atom_style atomic
boundary p p p
region cell prism 0 {a} 0 {b} 0 {c} {xy} {xz} {yz} units box
create_box 2 cell
create_atoms 1 single 0.0 0.0 0.0 units box
create_atoms 2 single {x} {y} {z} units box
mass * 10.0
"""
LJ_MIXED = """
pair_style lj/cut 2.5
pair_modify shift yes mix arithmetic
pair_coeff 1 1 1.0 1.0
pair_coeff 2 2 0.7 0.9 2.2
pair_coeff 1 2 0.9 0.95 2.4
"""
SW_TWO = """pair_style sw
pair_coeff * * {file} A B
"""


def sw_file(path, rng):
    """Parameters of two elements: of their own for each pair, and strength and angle for each triplet."""
    pairs = {key: rng.uniform(0.95, 1.05, 8) * [2.2, 2.1, 1.8, 1.2, 7.0, 0.6, 4.0, 1.0] for key in ("AA", "AB", "BB")}
    strengths = {(i, jk): (rng.uniform(15, 25), rng.uniform(-0.4, -0.2)) for i in "AB" for jk in pairs}
    lines = []
    for i, j, k in product("AB", repeat=3):
        epsilon, sigma, a, gamma, big_a, big_b, p, q = pairs["".join(sorted(i + j))]
        strength, cosine = strengths[i, "".join(sorted(j + k))]
        if j != k:
            epsilon = 2.0  # counts for the triplet alone, where the order of j and k must not matter
        lines.append(f"{i} {j} {k} {epsilon} {sigma} {a} {strength} {gamma} {cosine} {big_a} {big_b} {p} {q} 0.0")
    path.write_text("\n".join(lines))
    return path


def problem_of(folder, text, replicate=(1, 1, 1), name="in.test"):
    (folder / name).write_text(text)
    return Problem.load(ScriptRequest(folder / name, {}, replicate))


@dataclass
class Bare:
    """Any structure with its energies, without the questions whether it is a crystal to be sampled."""

    engine: Engine
    crystal: Crystal
    surface: LammpsSurface

    @property
    def units(self):
        return self.engine.units


def in_random_box(folder, seed, units, length, potential):
    """Two atoms in a triclinic cell of about this edge, 2 x 2 x 2 times."""
    rng = np.random.default_rng(seed)
    a, b, c = length * rng.uniform(0.9, 1.1, 3)
    xy, xz, yz = 0.4 * length * rng.uniform(-1, 1, 3)
    x, y, z = (rng.uniform(0.4, 0.6, 3)) @ np.array([[a, 0, 0], [xy, b, 0], [xz, yz, c]])
    box = {"a": a, "b": b, "c": c, "xy": xy, "xz": xz, "yz": yz, "x": x, "y": y, "z": z}
    (folder / "in.test").write_text(TRICLINIC.format(units=units, **box) + potential)
    engine = Engine(folder / "in.test", replicate=(2, 2, 2))
    crystal = Crystal.from_structure(engine.script_structure).replicated((2, 2, 2), engine.structure)
    return Bare(engine, crystal, LammpsSurface(engine, crystal))


def torch_of(problem):
    known = recognised(problem.engine.pair, problem.units.name)
    assert known is not None
    return TorchSurface(known, problem.crystal, problem.units, problem.surface)


def displacements(problem, size, n=6, seed=1):
    scale = size * problem.crystal.nearest_distance
    return scale * np.random.default_rng(seed).standard_normal((n, problem.crystal.n_sites, 3))


def require_equal(problem, surface, u):
    energies, forces = problem.surface(u)
    own, own_forces = surface(u)
    np.testing.assert_allclose(own, energies, rtol=1e-10)
    np.testing.assert_allclose(own_forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    np.testing.assert_allclose(surface.energies(u), energies, rtol=1e-10)
    expected = problem.surface.virial_pressures(u)
    np.testing.assert_allclose(surface.virial_pressures(u), expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "replicate"),
    [
        ("lj_fcc", (1, 1, 1)),
        ("lj_hcp", (2, 1, 2)),
        ("mw_cubic", (1, 1, 1)),
        ("mw_hexagonal", (2, 1, 1)),
        ("si_betatin", (2, 2, 3)),
    ],
)
def test_shipped_inputs(name, replicate):
    """Supercells smaller than the cutoff among them: every image counts."""
    problem = Problem.load(ScriptRequest(INPUTS / f"in.{name}", {}, replicate))
    surface = torch_of(problem)
    assert surface.static_energy == pytest.approx(problem.surface.static_energy, rel=1e-12)
    for size in (0.01, 0.05):
        require_equal(problem, surface, displacements(problem, size))
    assert surface.counts.outside == 0


@pytest.mark.parametrize("seed", range(4))
def test_lennard_jones_of_two_types_in_random_boxes(tmp_path, seed):
    problem = in_random_box(tmp_path, seed, "lj", 1.5, LJ_MIXED)
    require_equal(problem, torch_of(problem), displacements(problem, 0.03, seed=seed))


@pytest.mark.parametrize("seed", range(4))
def test_stillinger_weber_of_two_elements_in_random_boxes(tmp_path, seed):
    """Three-body terms of all eight kinds of triplets, with parameters of their own."""
    problem = in_random_box(
        tmp_path, seed, "metal", 3.9, SW_TWO.format(file=sw_file(tmp_path / "two.sw", np.random.default_rng(seed)))
    )
    surface = torch_of(problem)
    assert len(set(surface.potential.three_body.ravel().tolist())) > 1
    require_equal(problem, surface, displacements(problem, 0.03, seed=seed))


@pytest.mark.parametrize(("tag", "tolerance"), [("", "0.0"), ("# UNITS: real", "0.001"), ("", "0.1")])
def test_generalised_parameters_of_the_script_s_own_file(tmp_path, tag, tolerance):
    """Other exponents and strengths, a cutoff shortened by a tolerance, energies that LAMMPS converts between units."""
    entry = f"X X X 2.1 2.0951 1.8 19.5 1.1 -0.3 7.1 0.61 4.2 0.1 {tolerance}"
    (tmp_path / "own.sw").write_text(f"{tag}\n# own\n{entry}\n")
    text = (INPUTS / "in.si_diamond").read_text()
    head = text[: text.index("pair_style")]
    problem = problem_of(tmp_path, head + f"pair_style sw\npair_coeff * * {tmp_path}/own.sw X\n", (2, 2, 2))
    require_equal(problem, torch_of(problem), displacements(problem, 0.04))


def test_what_leaves_the_skin_goes_to_lammps():
    """One configuration in twenty with a far atom: exact all the same, and counted."""
    problem = Problem.load(ScriptRequest(INPUTS / "in.mw_cubic", {}, (2, 2, 2)))
    surface = torch_of(problem)
    u = displacements(problem, 0.03, n=20)
    u[7, 5] += 0.9 * problem.crystal.nearest_distance
    before = problem.surface.n_evaluations
    energies, forces = surface(u)
    assert (surface.counts.outside, problem.surface.n_evaluations - before) == (1, 1)
    expected, expected_forces = problem.surface(u)
    np.testing.assert_allclose(energies, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())
    np.testing.assert_allclose(surface.virial_pressures(u)[7], problem.surface.virial_pressures(u[7:8])[0])


def test_the_skin_grows_with_the_displacements():
    problem = Problem.load(ScriptRequest(INPUTS / "in.mw_cubic", {}, (1, 1, 1)))
    surface = torch_of(problem)
    first, u = surface.table.skin, displacements(problem, 0.12, n=10)
    require_equal(problem, surface, u)
    assert surface.table.skin > first
    assert surface.counts.outside == 0


def test_bad_configurations_are_infinite():
    problem = Problem.load(ScriptRequest(INPUTS / "in.lj_fcc", {}, (2, 2, 2)))
    surface = torch_of(problem)
    u = displacements(problem, 0.02, n=4)
    u[1, 0, 0] = np.nan
    u[2, 3] = u[2, 4] + problem.crystal.sites[4] - problem.crystal.sites[3]  # two atoms on one place
    energies, forces = surface(u)
    assert np.isfinite(energies).tolist() == [True, False, False, True]
    assert np.isnan(forces[1:3]).all()
    assert np.isfinite(forces[[0, 3]]).all()


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        ("pair_style lj/cut 2.7\npair_modify tail yes\npair_coeff 1 1 1 1", "a constant is added"),
        ("labelmap atom 1 Ar\npair_style lj/cut 2.7\npair_coeff Ar Ar 1 1", "types by their labels"),
        ("pair_style lj/smooth 2.0 2.5\npair_coeff 1 1 1 1", "another style"),
        (
            "pair_style hybrid/overlay lj/cut 2.7 lj/cut 2.5\npair_coeff 1 1 lj/cut 1 1 1\npair_coeff 1 1 lj/cut 2 1 1",
            "several styles",
        ),
        ("pair_style lj/cut 2.7\npair_coeff 1 1 1 1\nfix 1 all addforce 0.0 0.0 0.0", "a fix may add to it"),
    ],
)
def test_what_is_more_than_a_pair_style_is_left_to_lammps(tmp_path, pair, why):
    text = (INPUTS / "in.lj_fcc").read_text()
    text = text[: text.index("pair_style")] + pair + "\n"
    problem = problem_of(tmp_path, text, (2, 2, 2))
    assert recognised(problem.engine.pair, problem.units.name) is None, why


def test_choice_by_measurement_and_by_request(capsys):
    problem = Problem.load(ScriptRequest(INPUTS / "in.mw_cubic", {}, (2, 2, 2)))
    choose_source(problem, load_config(None, ("energy.source=lammps",)), Console())
    assert problem.potential is problem.surface
    choose_source(problem, load_config(None), Console())
    said = capsys.readouterr().out
    assert ("by torch" in said) == (problem.potential is not problem.surface)
    choose_source(problem, load_config(None, ("energy.source=torch",)), Console())
    assert isinstance(problem.potential, TorchSurface)


def test_no_potential_in_torch_is_said():
    problem = Problem.load(ScriptRequest(INPUTS / "in.cu_fcc", {}, (2, 2, 2)))
    choose_source(problem, load_config(None), Console())
    assert problem.potential is problem.surface
    with pytest.raises(ConfigError, match="expected pair_style lj/cut or sw .* got a potential that only LAMMPS has"):
        choose_source(problem, load_config(None, ("energy.source=torch",)), Console())


def test_a_potential_that_is_not_that_of_lammps_is_not_used(caplog):
    """The words of a script may hide something: energies are compared before torch is trusted."""
    problem = Problem.load(ScriptRequest(INPUTS / "in.lj_fcc", {}, (2, 2, 2)))
    problem.engine.reader.pair_modify[:] = ["shift", "no"]  # as if the script had been misread
    choose_source(problem, load_config(None), Console())
    assert problem.potential is problem.surface
    assert "does not give LAMMPS' energies" in caplog.text


def test_the_judge_replaces_energies_and_weights():
    """A surface that is off by 0.3 kT: the judged weights are those of LAMMPS, and the difference is reported."""
    problem = Problem.load(ScriptRequest(INPUTS / "in.mw_cubic", {}, (1, 1, 1)))
    u = displacements(problem, 0.03, n=5)
    exact = problem.surface.energies(u)
    wrong = exact + 0.3 / problem.beta
    wrong[4] = np.inf
    log_w = -problem.beta * wrong  # the sample that torch finds infinite has a weight by LAMMPS all the same
    problem.use("torch", torch_of(problem))
    judge = Judge(problem, Prior(EinsteinBase(torch.full((8,), 0.1))))
    judged = judge.weigh(Chunk(0, u[:, None], wrong, np.zeros(5), log_w, 0.0, 0.0))
    np.testing.assert_allclose(judged.energies, exact, rtol=1e-12)
    np.testing.assert_allclose(judged.log_w, -problem.beta * exact, rtol=1e-12)
    entry = judge.entry()
    assert entry["largest_difference_kT"] == pytest.approx(0.3, rel=1e-6)
    assert (entry["n_samples"], entry["finite_in_one_only"]) == (5, 1)
    assert "0.3 kT" in judge.sentence()


def test_cutoffs_that_lammps_mixes_are_left_to_it(tmp_path):
    """Two types with cutoffs of their own and no pair_coeff for the pair of them; with one cutoff for all it is understood."""
    for cutoff, known in (("2.0", False), ("", True)):
        pair = f"pair_style lj/cut 2.3\npair_coeff 1 1 1 1 {cutoff}\npair_coeff 2 2 1 1 {cutoff}\n"
        bare = in_random_box(tmp_path, 0, "lj", 1.5, pair)
        assert (recognised(bare.engine.pair, "lj") is not None) == known


def test_comments_of_a_file_may_be_in_any_encoding(tmp_path):
    """For the energies and, in a script without a variable Lambda, for the length of free energies."""
    entry = "X X X 2.1 2.0951 1.8 19.5 1.1 -0.3 7.1 0.61 4.2 0.1 0.0"
    (tmp_path / "own.sw").write_bytes(f"# d'apr\xe8s Stillinger\n{entry}\n".encode("latin-1"))
    assert read_file(tmp_path / "own.sw", ["X"], "metal") is not None
    head = (INPUTS / "in.si_diamond").read_text()
    head = head[: head.index("pair_style")]
    assert "Lambda" not in head
    problem = problem_of(tmp_path, head + f"pair_style sw\npair_coeff * * {tmp_path}/own.sw X\n", (2, 2, 2))
    assert own_length(problem.engine.pair) == (2.0951, "sigma of X in own.sw")
    assert problem.length_scale == 2.0951


def test_the_name_of_before_still_works(caplog):
    config = load_config(None, ("energy.source=native",))
    assert config.energy.source == "torch"
    with pytest.raises(ConfigError, match="input should be 'auto', 'lammps' or 'torch'"):
        load_config(None, ("energy.source=fast",))
    assert "energy" in to_toml(config)
    assert "chosen" not in to_toml(config)
    assert load_config(None, ("energy.chosen=native",)).energy.chosen == "torch"  # as runs of earlier versions have it


def test_a_run_goes_on_with_the_source_it_was_begun_with(tmp_path, capsys):
    """From provenance.json, or from the configuration where an earlier version kept it; nothing is timed again."""
    (tmp_path / "config.toml").write_text('[energy]\nsource = "auto"\nchosen = "native"\n')
    run = RunDirectory(tmp_path)
    for recorded, expected in (({}, "torch"), ({"energies": "lammps"}, "lammps")):
        run.write_json("provenance.json", {"request": recorded})
        assert chosen_before(run) == expected
    problem = Problem.load(ScriptRequest(INPUTS / "in.mw_cubic", {}, (1, 1, 1)))
    assert choose_source(problem, load_config(None), Console(), before="torch") == problem.source == "torch"
    assert "ms for a configuration" not in capsys.readouterr().out
    moved = problem.at({"volume": 0.01})
    assert moved.source == "torch"
    assert moved.potential.crystal.volume > problem.crystal.volume


@pytest.mark.slow
@pytest.mark.parametrize(("recorded", "other"), [("torch", "lammps"), ("lammps", "torch")])
def test_a_crystal_is_drawn_again_with_the_source_of_its_run(recorded, other, tmp_path, capsys, monkeypatch):
    """Timings, which would choose the other one, must not decide about the last digits of the same samples."""
    use(monkeypatch, tmp_path)
    script = str(mw_crystal(tmp_path))
    assert (
        call(capsys, tmp_path, "train", "-in", script, "-out", "model", *TINY[:-1], "--set", f"energy.source={recorded}").code
        == 0
    )
    config = (tmp_path / "model" / "config.toml").read_text()
    (tmp_path / "model" / "config.toml").write_text(config.replace(f'source = "{recorded}"', 'source = "auto"'))
    monkeypatch.setattr("lammps_bg.study.energies._milliseconds", lambda surface, trials: float(surface_name(surface) != other))
    for rep, expected in ((("1", "1", "1"), recorded), (("2", "1", "1"), other)):
        out = "-".join(rep)
        assert call(capsys, tmp_path, "sample", "-model", "model", "-rep", *rep, "-out", out, *TINY).code == 0
        assert json.loads((tmp_path / out / "provenance.json").read_text())["request"]["energies"] == expected


def surface_name(surface):
    return "lammps" if isinstance(surface, LammpsSurface) else "torch"


def test_a_pair_style_in_torch_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "born.py").write_text('STYLE = "born"\n\n\ndef read(pair, units):\n    return (pair.style, units)\n')
    monkeypatch.setattr(pair_styles, "__path__", [*pair_styles.__path__, str(tmp_path)])
    pair = PairStyle("born", ("2.5",), (), (), {}, None, None, ())
    assert recognised(pair, "metal") == ("born", "metal")
    assert "born" in pair_styles.styles()
    monkeypatch.delitem(sys.modules, "lammps_bg.potentials.pair_styles.born")
