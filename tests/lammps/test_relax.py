# SPDX-License-Identifier: GPL-2.0-or-later
"""`relax`: lattice sums as the oracle of the numbers, plain LAMMPS as that of the written script."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY_MD, call, use
from lammps_scripts import INPUTS, plain_lammps

from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import relax, static_state
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.relax import relax_crystal

GPA = 1e4  # bar
EPSILON = 6.189  # kcal/mol, of mW
TILTED = """
variable a index 5.3
lattice diamond $a
region c block 0 1 0 1 0 1
create_box 1 c
create_atoms 1 box
change_box all triclinic
change_box all xy final 0.2 xz final -0.1 yz final 0.15 z scale 1.03 remap units box
displace_atoms all random 0.05 0.05 0.05 7 units box
mass 1 28.0855
pair_style sw
pair_coeff * * potentials/Si.sw Si  # the potential
"""


@pytest.fixture
def silicon(tmp_path, monkeypatch):
    """A folder with the silicon scripts and their potential, and the current one."""
    use(monkeypatch, tmp_path)
    (tmp_path / "potentials").mkdir()
    shutil.copy(INPUTS / "potentials" / "Si.sw", tmp_path / "potentials")
    shutil.copy(INPUTS / "in.si_diamond", tmp_path)
    shutil.copy(INPUTS / "in.si_betatin", tmp_path)
    (tmp_path / "in.tilted").write_text("units metal\n" + TILTED)
    return tmp_path


def refused(capsys, folder, message, *words):
    spoken = call(capsys, folder, "relax", *words)
    assert spoken.code == 2
    assert message in spoken.error
    assert spoken.changed == set()


# ---- the numbers


@pytest.mark.parametrize(("name", "free", "cell"), [("in.si_betatin", "xy", ["--cell", "xy"]), ("in.tilted", None, [])])
def test_the_numbers_of_the_command_without_a_file(capsys, silicon, name, free, cell):
    """From an engine alone, which keeps its cell."""
    with Engine(silicon / name) as engine:
        before = engine.cell
        result = relax_crystal(engine, free, 10 * GPA)
        assert np.array_equal(engine.cell, before)
    assert {path.name for path in silicon.iterdir()} == {"potentials", "in.si_diamond", "in.si_betatin", "in.tilted"}
    said = call(capsys, silicon, "relax", "-in", name, *cell, "-P", "10", "GPa").out

    def shown(label):
        return [float(word) for word in re.search(rf"^{label} +(\S+) +(\S+)", said, re.MULTILINE).groups()]

    crystals = (result.before, result.after)
    assert [crystal.energy_per_atom for crystal in crystals] == pytest.approx(shown("energy per atom"), rel=1e-8)
    assert [crystal.enthalpy(10 * GPA, result.units) for crystal in crystals] == pytest.approx(
        shown("enthalpy per atom"), rel=1e-8
    )
    for index, label in enumerate("abc"):
        assert [crystal.lengths[index] for crystal in crystals] == pytest.approx(shown(label), rel=1e-6)
    assert all(crystal.space_group in said for crystal in crystals)
    assert result.after.state.pressure == pytest.approx(10 * GPA, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "pressure", "enthalpy", "density", "ratio"),
    [  # lattice sums
        ("in.si_betatin", 0, -4.13691, 0.058087, 0.5608),
        ("in.si_betatin", 10, -3.07738, 0.059730, 0.5735),
        ("in.si_betatin", 20, -2.04649, 0.061376, 0.5896),
        ("in.si_diamond", 10, -3.14168, 0.054470, 1.0),
        ("in.si_diamond", 20, -2.03610, 0.058407, 1.0),
    ],
)
def test_silicon_under_pressure(name, pressure, enthalpy, density, ratio):
    with Engine(INPUTS / name) as engine:
        found, n = relax(engine, "aniso", pressure * GPA), engine.structure.n_atoms
        volume = np.linalg.det(found.cell)
        assert (found.state.energy + pressure * GPA * volume / engine.units.nktv2p) / n == pytest.approx(enthalpy, abs=6e-6)
        assert n / volume == pytest.approx(density, abs=6e-7)
        assert found.cell[2, 2] / found.cell[0, 0] == pytest.approx(ratio, abs=6e-5)
        np.testing.assert_allclose(found.state.stress[:3], pressure * GPA, atol=1e-4)
        assert found.converged


@pytest.mark.parametrize(
    ("name", "energy", "density", "ratio"),
    [("betatin", -2.01014, 40.000, 0.5535), ("bcc", -2.01094, 40.372, 1.0), ("diamond", -2.0, 33.537, 1.0)],
)
def test_generalised_stillinger_weber(tmp_path, name, energy, density, ratio):
    """From a cell 2 % too wide; lattice sums in units of epsilon, densities per nm^3."""
    text = (INPUTS / f"in.gsw_{name}").read_text()
    printed = re.search(r'^print "(.*)" file (\S+)', text, re.MULTILINE)
    (tmp_path / printed[2]).write_text(printed[1].replace("${lambda}", "18.5") + "\n")
    wider = re.sub(r"^lattice (\w+) (\S+)", lambda m: f"lattice {m[1]} {1.02 * float(m[2])}", text, flags=re.MULTILINE)
    (tmp_path / "in.gsw").write_text(re.sub(r"^print.*\n", "", wider, flags=re.MULTILINE))
    with Engine(tmp_path / "in.gsw") as engine:
        found, n = relax(engine, "aniso", 0.0), engine.structure.n_atoms
        assert found.state.energy / n / EPSILON == pytest.approx(energy, abs=6e-6)
        assert 1e3 * n / np.linalg.det(found.cell) == pytest.approx(density, abs=6e-4)
        assert found.cell[2, 2] / found.cell[0, 0] == pytest.approx(ratio, abs=6e-5)


def test_what_may_change(silicon):
    """Each mode leaves alone what it should, and brings the rest to the target."""
    with Engine(silicon / "in.si_betatin") as engine:
        start = engine.cell
        fixed = relax(engine, "none", 5 * GPA)
        np.testing.assert_array_equal(fixed.cell, start)
        found = relax(engine, "iso", 5 * GPA)
        assert found.cell[2, 2] / found.cell[0, 0] == pytest.approx(start[2, 2] / start[0, 0], rel=1e-12)
        assert found.state.pressure == pytest.approx(5 * GPA, abs=1e-3)
        assert abs(found.state.stress[2] - found.state.stress[0]) > 100
        coupled, free = relax(engine, "xy", 5 * GPA), relax(engine, "aniso", 5 * GPA)
        np.testing.assert_allclose(coupled.cell, free.cell, atol=1e-9)
        assert coupled.cell[0, 0] == pytest.approx(coupled.cell[1, 1], rel=1e-14)


def test_static_state(silicon):
    """Pressure against a finite difference of the energy."""
    with Engine(silicon / "in.si_diamond") as engine:
        cell, step = 0.98 * engine.cell, 1e-5
        energies = []
        for scale in (1 - step, 1 + step):
            engine.set_cell(cell * scale)
            energies.append(engine.energies(engine.sites[None])[0])
        volumes = np.linalg.det(cell) * np.array([(1 - step) ** 3, (1 + step) ** 3])
        engine.set_cell(cell)
        found = static_state(engine)
        assert found.pressure == pytest.approx(-np.diff(energies)[0] / np.diff(volumes)[0] * engine.units.nktv2p, rel=1e-6)
        assert found.pressure == pytest.approx(engine.virial_pressure(engine.sites[None])[0], rel=1e-12)
        assert found.largest_force < 1e-12


# ---- the written script


def test_script_for_plain_lammps(capsys, silicon):
    spoken = call(capsys, silicon, "relax", "-in", "in.si_betatin", "-P", "10", "GPa")
    assert spoken.code == 0, spoken.error
    assert spoken.changed == {"in.si_betatin_relaxed"}
    text = (silicon / "in.si_betatin_relaxed").read_text()
    assert (silicon / "in.si_betatin").read_text() in text
    assert "set atom" not in text
    assert "# lammps-bg relax -in in.si_betatin -P 10 GPa\n" in text
    assert "target pressure 100000 bar (10 GPa)" in text
    energy, cell, force = plain_lammps(silicon / "in.si_betatin_relaxed")
    assert energy / 4 == pytest.approx(-3.07738 - 10 / 160.21766 / 0.059730, abs=1e-5)
    assert 4 / np.linalg.det(cell) == pytest.approx(0.059730, abs=6e-7)
    assert force < 1e-9
    for expected in ("-4.122337", "0.57350822", "0.059729883", "100000 bar (10 GPa)", "I4_1/amd (141)", "written"):
        assert expected in spoken.out
    assert not spoken.error


def test_pressure_of_the_script_goes_on(capsys, silicon):
    """The relaxed script asks for the pressure it was relaxed at, in plain numbers, and relaxes to itself."""
    assert call(capsys, silicon, "relax", "-in", "in.si_diamond", "-var", "P", "2", "GPa", "-out", "in.one").code == 0
    assert "variable P index 20000.0\n" in (silicon / "in.one").read_text()
    assert call(capsys, silicon, "relax", "-in", "in.one", "-out", "in.two").code == 0
    np.testing.assert_allclose(plain_lammps(silicon / "in.two")[1], plain_lammps(silicon / "in.one")[1], rtol=1e-10)


def test_tilted_cell_and_atoms_off_their_sites(capsys, caplog, silicon):
    """A distorted diamond comes back; the value of -var is in the written script."""
    spoken = call(capsys, silicon, "relax", "-in", "in.tilted", "-var", "a", 5.4)
    assert spoken.code == 0, spoken.error
    assert "the space group changed from P1 (1) to Fd-3m (227)" in caplog.text
    text = (silicon / "in.tilted_relaxed").read_text()
    assert "variable a index 5.4\n" in text
    assert len(re.findall("^set atom", text, re.MULTILINE)) == 8
    energy, cell, force = plain_lammps(silicon / "in.tilted_relaxed")
    assert energy / 8 == pytest.approx(-4.33660, abs=1e-6)
    np.testing.assert_allclose(cell, 5.43095 * np.eye(3), atol=1e-5)
    assert force < 1e-9


def test_tilts_in_a_box_that_had_none(capsys, silicon):
    """The primitive cell of diamond in other axes: an orthogonal box in the script becomes a tilted one."""
    spoken = call(capsys, silicon, "relax", "-in", "in.tilted", "--cell", "none", "-out", "in.none")
    assert spoken.code == 0, spoken.error
    sheared = TILTED.replace("change_box all triclinic\n", "").replace("xy final 0.2 xz final -0.1 yz final 0.15 ", "")
    (silicon / "in.sheared").write_text("units metal\n" + sheared.replace("5.3", "5.43") + "set atom 1 x 0.2 y 0.1\n")
    assert call(capsys, silicon, "relax", "-in", "in.sheared", "--cell", "tri").code == 0
    energy, cell, force = plain_lammps(silicon / "in.sheared_relaxed")
    assert energy / 8 == pytest.approx(-4.33660, abs=1e-6)
    assert force < 1e-9
    assert np.abs(cell - 5.43095 * np.eye(3)).max() < 1e-5


def test_before_what_acts(capsys, silicon):
    """The crystal goes in before velocities, fixes and runs, wherever those stand."""
    text = (silicon / "in.si_diamond").read_text()
    (silicon / "in.run").write_text(text + "fix 1 all nve\nvelocity all create 300 1\nrun 3\nquit\n")
    assert call(capsys, silicon, "relax", "-in", "in.run").code == 0
    written = (silicon / "in.run_relaxed").read_text()
    assert written.index("pair_coeff") < written.index("change_box") < written.index("fix 1")


def test_structure_after_a_run(capsys, silicon):
    """Where the script goes on after a run, the crystal comes last, with every position."""
    text = (silicon / "in.si_diamond").read_text()
    (silicon / "in.late").write_text(text + "velocity all create 300 1\nfix 1 all nve\nrun 3\nreplicate 2 1 1\n# the end")
    assert call(capsys, silicon, "relax", "-in", "in.late").code == 0
    written = (silicon / "in.late_relaxed").read_text()
    assert written.index("# the end") < written.index("change_box")
    energy, cell, _ = plain_lammps(silicon / "in.late_relaxed")
    assert energy / 16 == pytest.approx(-4.33660, abs=1e-5)
    np.testing.assert_allclose(np.diag(cell), [10.8619, 5.43095, 5.43095], atol=1e-5)


def test_another_folder_has_what_the_script_names(capsys, silicon):
    (silicon / "deep").mkdir()
    text = (silicon / "in.si_diamond").read_text()
    (silicon / "deep" / "in.up").write_text(text.replace("potentials/", "../potentials/"))
    spoken = call(capsys, silicon, "relax", "-in", "deep/in.up", "-out", "new")
    assert spoken.code == 0, spoken.error
    assert spoken.changed == {"new", "new/in.up_relaxed", "new/potentials", "new/potentials/Si.sw"}
    shutil.rmtree(silicon / "potentials")
    moved = shutil.move(silicon / "new", silicon / "deep" / "elsewhere")
    assert plain_lammps(Path(moved) / "in.up_relaxed")[0] / 8 == pytest.approx(-4.33660, abs=1e-6)


def test_includes_and_conditions(capsys, silicon):
    """Files named by a variable in an included file come along, too; a run inside an `if` is seen."""
    text = (silicon / "in.si_diamond").read_text()
    (silicon / "pot.lmp").write_text("variable file string potentials/Si.sw\npair_style sw\npair_coeff * * ${file} Si\n")
    rest = 'include pot.lmp\nvelocity all create 300 1\nfix 1 all nve\nif "1 > 0" then "run 2"\n'
    (silicon / "main.in").write_text(re.sub("^pair.*\n", "", text, flags=re.MULTILINE) + rest)
    spoken = call(capsys, silicon, "relax", "-in", "main.in", "-out", "new")
    assert spoken.code == 0, spoken.error
    assert spoken.changed == {"new", "new/in.main_relaxed", "new/pot.lmp", "new/potentials", "new/potentials/Si.sw"}
    written = (silicon / "new" / "in.main_relaxed").read_text()
    assert written.index("include") < written.index("change_box") < written.index("velocity")
    assert 4 * 2 / np.linalg.det(plain_lammps(silicon / "new" / "in.main_relaxed")[1]) == pytest.approx(0.049942, abs=6e-7)


# ---- what is refused


def test_nothing_is_overwritten(capsys, silicon):
    (silicon / "in.si_diamond_relaxed").write_text("mine")
    refused(capsys, silicon, "expected a new file for the relaxed script", "-in", "in.si_diamond")
    (silicon / "new" / "potentials").mkdir(parents=True)
    (silicon / "new" / "potentials" / "Si.sw").write_text("mine")
    refused(capsys, silicon, "expected no other file at", "-in", "in.si_diamond", "-out", "new")
    refused(capsys, silicon, "expected to write", "-in", "in.si_diamond", "-out", "in.si_betatin/x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected -in with a LAMMPS input script, got none"),
        (["-in", "in.si_diamond", "-P", "1", "-var", "P", "1"], "expected one pressure, got -P and -var P"),
        (["-in", "in.si_diamond", "-P", "1", "psi"], "Pa, kPa, MPa, GPa, bar, kbar, Mbar, atm, got '1 psi'"),
        (["-in", "in.si_diamond", "-var", "Q", "1"], "expected -var with a variable of the script"),
        (["-in", "in.si_diamond", "--cell", "cubic"], "invalid choice: 'cubic'"),
        (["-in", "in.tilted", "--cell", "aniso"], "expected an orthogonal box for --cell aniso, got one with tilts"),
        (["-in", "in.si_diamond", "-P", "-500 GPa"], "expected a crystal near its equilibrium volume, got one that swells"),
    ],
)
def test_words(capsys, silicon, words, message):
    refused(capsys, silicon, message, *words)


def test_a_crystal_that_transforms(capsys, silicon):
    text = (silicon / "in.si_diamond").read_text()
    (silicon / "in.off").write_text(text + "displace_atoms all random 0.5 0.5 0.5 5 units box\n")
    refused(capsys, silicon, "expected every atom to keep its site", "-in", "in.off", "--cell", "none")


@pytest.mark.parametrize(
    ("density", "cutoff", "message"), [(0.1, 2.7, "got one that shrinks to"), (0.1, 2.2, "expected atoms that hold each other")]
)
def test_a_crystal_far_from_its_density(capsys, tmp_path, monkeypatch, density, cutoff, message):
    use(monkeypatch, tmp_path)
    text = (INPUTS / "in.lj_fcc").read_text().replace("fcc 1.28", f"fcc {density}").replace("lj/cut 2.7", f"lj/cut {cutoff}")
    (tmp_path / "in.lj").write_text(text)
    refused(capsys, tmp_path, message, "-in", "in.lj")


def test_a_pressure_in_two_words_of_a_script(capsys, silicon):
    text = (silicon / "in.si_diamond").read_text()
    (silicon / "in.two").write_text(re.sub("variable P index 0 ", "variable P index 1 GPa ", text))
    refused(capsys, silicon, "expected one word in `variable P index`, got '1 GPa' in in.two", "-in", "in.two")
    (silicon / "in.two").write_text(re.sub("variable P index 0 ", 'variable P index "1 GPa" ', text))
    assert "10000 bar (1 GPa)" in call(capsys, silicon, "relax", "-in", "in.two").out


def test_pressure_with_its_unit_for_md(capsys, silicon):
    words = [
        "-rep",
        2,
        2,
        2,
        "--mode",
        "npt",
        "-out",
        "npt",
        *TINY_MD,
        "--set",
        "md.timestep=0.001",
        "--set",
        "md.pressure_damp=1",
    ]
    spoken = call(capsys, silicon, "md", "-in", "in.si_diamond", "-var", "P", "1", "GPa", *words)
    assert spoken.code == 0, spoken.error
    assert "P = 10000 bar (1 GPa)" in spoken.out
    found = RunDirectory.open(silicon / "npt").read_results()
    assert found["npt"]["pressure"] == 1e4
    pressure = found["md"]["pressure"]
    assert abs(pressure["value"] - 1e4) < 5 * pressure["error"]  # fails by chance once in a million
    assert pressure["error"] < 2e3
