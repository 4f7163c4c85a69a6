# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters of a potential: after a change the energies are those of a fresh instance, and a bad one gets one sentence."""

import numpy as np
import pytest
from command_line import LJ as LJ_FILE
from command_line import MW, TINY, call, contents, use
from lammps_scripts import INPUTS, LJ, SALT

from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import ConfigError, PotentialError
from lammps_bg.potentials.pair_styles import own_length

LJ_RC = "variable rc index 2.2\n" + LJ.replace("lj/cut 2.2", "lj/cut ${rc}\npair_modify shift yes")
HEAD = LJ[: LJ.index("pair_style")]
SW_PRINTED = """
variable lambda3 index 23.15
variable strength equal v_lambda3*1.0
print "# made by the script" file gen.sw screen no
print "mW mW mW 6.189 2.3925 1.80 ${strength} 1.2 -0.333333333333 7.049556277 0.6022245584 4.0 0.0 0.0" append gen.sw screen no
pair_style sw
pair_coeff * * gen.sw mW
"""
SW = MW[: MW.index("pair_style")] + SW_PRINTED
OVERLAY = """
variable rc index 2.2
variable half equal v_rc/2
variable style string lj/cut
variable rc2 index ${rc}
variable i loop 2
label next
if "$i == 1" then "pair_style hybrid/overlay ${style} ${rc2} gauss $(v_half*1.5)"
if "$i == 1" then "pair_coeff * * ${style} 1.0 1.0"
if "$i == 2" then "include more.in"
next i
jump SELF next
"""
MORE = "pair_coeff 1 1 gauss $(0.1*v_i*v_rc) 1.5 ${half}\n"
SCALED = """
variable s index 1.0
variable other equal 1-v_s
pair_style hybrid/scaled v_whole lj/cut 2.2 v_other morse 2.0
variable whole equal ${s}
pair_coeff * * lj/cut 1.0 1.0
pair_coeff * * morse 1.0 3.0 1.1
"""
SALT_RC = "variable rc index 5.0\n" + SALT.format(kspace="pppm").replace("long 5.0", "long ${rc}").replace("1e-6", "$(1e-6*v_rc)")
EAM = (INPUTS / "in.cu_fcc").read_text()
EAM = EAM[: EAM.index("pair_style")] + (
    "variable x index 1.0\nvariable scale equal v_x\npair_style hybrid/scaled v_scale eam\n"
    f"pair_coeff * * eam {INPUTS}/potentials/Cu_u3.eam\n"
)
CASES = {
    "lj": (LJ_RC, "rc", (2.6, 2.05, 3.3)),
    "sw": (SW, "lambda3", (20.0, 25.0)),
    "overlay": (HEAD + OVERLAY, "rc", (2.5, 2.0)),
    "scaled": (HEAD + SCALED, "s", (0.5, 0.9)),
    "salt": (SALT_RC, "rc", (6.0, 4.6)),
    "eam": (EAM, "x", (1.1, 0.9)),
    # a word: the pair style must not keep what it was told before
    "modify": ("variable m index shift\n" + LJ + "pair_modify $m yes\n", "m", ("tail",)),
}


@pytest.fixture
def load(tmp_path):
    def write_and_load(text, **options):
        (tmp_path / "in.test").write_text(text)
        (tmp_path / "more.in").write_text(MORE)
        return Engine(tmp_path / "in.test", **options)

    return write_and_load


def moved(engine, n=3, seed=3):
    nearest = np.linalg.norm(engine.sites[1:] - engine.sites[0], axis=1).min()
    return engine.sites + 0.03 * nearest * np.random.default_rng(seed).standard_normal((n, *engine.sites.shape))


def require_equal(engine, fresh, positions):
    (energies, forces), (expected, expected_forces) = (e.energies_forces(positions) for e in (engine, fresh))
    np.testing.assert_allclose(energies, expected, rtol=1e-10)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=1e-10 * np.abs(expected_forces).max())
    assert engine.cutoff() == pytest.approx(fresh.cutoff(), rel=1e-12)
    assert engine.pair.args == fresh.pair.args
    assert engine.pair.coefficients == fresh.pair.coefficients
    assert engine.pair.modifiers == fresh.pair.modifiers
    assert engine.reader.kspace == fresh.reader.kspace


@pytest.mark.parametrize("case", CASES)
def test_a_change_equals_a_fresh_instance(load, case):
    text, name, values = CASES[case]
    with load(text) as engine:
        x = moved(engine)
        first = engine.energies(x)
        for value in (*values, values[0]):
            engine.set_parameters({name: value})
            with load(text, variables={name: [str(value)]}) as fresh:
                require_equal(engine, fresh, x)
            assert np.abs(engine.energies(x) - first).min() > 1e-6 * np.abs(first).max()
        with load(text) as fresh:
            engine.set_parameters({name: fresh.variable_text(name)})
            require_equal(engine, fresh, x)


def test_in_another_triclinic_cell_and_replicated(load):
    cell = np.array([[3.1, 0, 0], [0.2, 3.0, 0], [-0.1, 0.15, 6.1]])
    with load(LJ_RC, replicate=(1, 1, 2)) as engine, load(LJ_RC, replicate=(1, 1, 2), variables={"rc": ["2.9"]}) as fresh:
        engine.set_cell(cell)
        engine.energies(moved(engine))
        engine.set_parameters({"rc": 2.9})
        fresh.set_cell(cell)
        require_equal(engine, fresh, moved(fresh))


def test_the_same_value_costs_nothing(load, monkeypatch):
    with load(LJ_RC) as engine:
        monkeypatch.setattr(engine, "_apply", None)
        engine.set_parameters({"rc": 2.2})
        engine.set_parameters({"rc": "2.20"})
        engine.set_parameters({})
        with pytest.raises(PotentialError):  # the patch would be felt
            engine.set_parameters({"rc": 2.3})


def test_a_new_instance_comes_back_with_the_present_values(load):
    """After a crash, and after a run of molecular dynamics that failed."""
    with load(SW) as engine, load(SW, variables={"lambda3": ["21.0"]}) as fresh:
        engine.set_parameters({"lambda3": 21.0})
        engine._restart()
        require_equal(engine, fresh, moved(fresh))
        engine.set_parameters({"lambda3": 22.0})
        engine.set_parameters({"lambda3": 21.0})
        require_equal(engine, fresh, moved(fresh))


def test_molecular_dynamics_uses_the_present_values(load):
    def energy(engine):
        with Dynamics(engine, Canonical(0.5, 0.1), timestep=0.002, seed=5) as run:
            return run.run(20).energy

    with load(LJ_RC) as engine, load(LJ_RC, variables={"rc": ["2.7"]}) as fresh:
        before = energy(engine)
        engine.set_parameters({"rc": 2.7})
        assert energy(engine) == pytest.approx(energy(fresh), rel=1e-9)
        assert energy(engine) != pytest.approx(before, rel=1e-3)
        require_equal(engine, fresh, moved(fresh))


def test_a_value_that_lammps_refuses_is_taken_back(load):
    with load(LJ_RC) as engine, load(LJ_RC) as fresh:
        x = moved(engine)
        with pytest.raises(PotentialError, match=r"expected a value .* got rc = wide: .*'Expected floating point .*lj/cut wide"):
            engine.set_parameters({"rc": "wide"})
        require_equal(engine, fresh, x)
        assert engine.variable_text("rc") == "2.2"
        with pytest.raises(ConfigError, match="finite"):
            engine.set_parameters({"rc": float("nan")})


def test_a_value_without_an_energy_is_taken_back(load):
    """LAMMPS takes the commands: only the evaluation that follows at once tells."""
    text = "variable sigma index 1.0\n" + LJ.replace("1.0 1.0", "1.0 ${sigma}")
    with load(text) as engine, load(text) as fresh:
        with pytest.raises(PotentialError, match=r"got sigma = 1e\+100: the structure of the script has no finite energy"):
            engine.set_parameters({"sigma": 1e100})
        require_equal(engine, fresh, moved(engine))


def test_use_of_a_parameter(load):
    with load(HEAD + OVERLAY) as engine:
        used = engine.parameter_use("rc")
        assert used[-1] == "`pair_coeff 1 1 gauss $(0.1*v_i*v_rc) 1.5 ${half}` at more.in line 1"
        assert [line.split()[0][1:] for line in used] == ["variable", "variable", "pair_style", "pair_coeff"]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (LJ_RC, "cut", "the script has no such variable"),
        ("variable T index 1\n" + LJ_RC, "T", "never uses it in its potential"),
        (LJ_RC.replace("index", "equal"), "rc", "style index, got `variable rc equal`; write `variable rc index VALUE`"),
        (LJ_RC.replace("fcc 1.28", "fcc $(1.28*2.2/v_rc)"), "rc", r"potential alone, got `lattice fcc .*`.*changes the crystal"),
        (
            "variable rc index 2.2\nvariable m equal v_rc\n" + LJ.replace("mass 1 1.0", "mass 1 ${m}"),
            "rc",
            "got `mass 1 .*line 10: it changes the crystal",
        ),
        (LJ_RC + 'if "${rc} > 3" then "pair_modify mix arithmetic"\n', "rc", "changes which commands of the script run"),
        (LJ_RC + "next rc\n", "rc", "got `next rc` .*which commands of the script run"),
        (
            "variable e index 1\n" + HEAD + 'pair_style lj/cut 2.2\nprint "pair_coeff 1 1 $e 1.0" file gen.in\ninclude gen.in\n',
            "e",
            "got `include gen.in` .*which commands of the script run",
        ),
    ],
)
def test_what_is_no_parameter(load, text, name, message):
    with load(text) as engine:
        with pytest.raises(ConfigError, match=message):
            engine.parameter_use(name)
        with pytest.raises(ConfigError, match=message):
            engine.set_parameters({name: 2.5})


def test_other_variables_must_keep_their_values(load):
    text = LJ_RC.replace("lj/cut ${rc}", "lj/cut $(v_rc*v_f)")
    message = "expected `f` to keep its value .* got 1.0 in `pair_style .* and 1.1 after it"
    with load("variable f equal 1.0\n" + text + "variable f equal 1.1\n") as engine, pytest.raises(ConfigError, match=message):
        engine.set_parameters({"rc": 2.5})


def test_coefficients_in_a_data_file_are_refused(load, tmp_path):
    with load(LJ) as engine:
        engine._instance.command(f'write_data "{tmp_path}/data.lj"')
    assert "Pair Coeffs" in (tmp_path / "data.lj").read_text()
    text = "variable rc index 2.2\nunits lj\natom_style atomic\npair_style lj/cut ${rc}\nread_data data.lj\n"
    with load(text) as engine, pytest.raises(ConfigError, match="coefficients of the potential in the script, got `read_data"):
        engine.set_parameters({"rc": 2.5})


# ---- files that a script prints for itself


def test_a_printed_file_is_read_and_the_folder_untouched(load, tmp_path, monkeypatch):
    """The user's own file of that name, too; a file that nothing reads is a skipped command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gen.sw").write_text("of the user")
    (tmp_path / "in.test").write_text(SW)
    (tmp_path / "more.in").write_text(MORE)
    before = contents(tmp_path)
    with Engine(tmp_path / "in.test") as engine, Engine(INPUTS / "in.mw_cubic") as shipped:
        engine.set_parameters({"lambda3": 22.0})
        engine.set_parameters({"lambda3": 23.15})
        np.testing.assert_allclose(engine.energies(moved(engine)), shipped.energies(moved(engine)), rtol=1e-8)
        assert engine.skipped == []
        assert engine.potential_files == []
        assert own_length(engine.pair) == (2.3925, "sigma of mW in gen.sw")
        private = engine.reader.files.names["gen.sw"]
        assert private.is_file()
    assert contents(tmp_path) == before
    assert not private.exists()


def test_generated_files_of_other_commands(load, tmp_path):
    """An include and the values of a variable; what nobody reads is still listed."""
    text = HEAD + (
        'print "pair_style lj/cut 2.2" file sub/gen.in\nprint "pair_coeff 1 1 1.0 1.0" append ./sub/gen.in\ninclude sub/gen.in\n'
        'print """2.5\n2.6""" file values.txt\nvariable v file values.txt\nprint "for me" file notes.txt\n'
    )
    with load(text) as engine, load(LJ) as plain:
        require_equal(engine, plain, moved(plain))
        assert engine.variable("v") == 2.5
        assert [command.command for command in engine.skipped] == ['print "for me" file notes.txt']
        assert [path.name for path in engine.script_files] == ["in.test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.test", "more.in"]


def test_a_stored_run_makes_its_files_again(capsys, tmp_path, monkeypatch):
    """Samples of a model whose script prints its potential: the copy of the script is enough, wherever the folder goes."""
    use(monkeypatch, tmp_path)
    printed = 'print "pair_coeff 1 1 1.0 1.0" file gen.in screen no\ninclude gen.in\n'
    (tmp_path / "in.lj").write_text(LJ_FILE[: LJ_FILE.index("pair_coeff")] + printed)
    assert call(capsys, tmp_path, "train", "-in", "in.lj", "-out", "run", *TINY).code == 0
    assert sorted(path.name for path in (tmp_path / "run" / "inputs").rglob("*")) == ["in.lj"]
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "in.lj").unlink()
    spoken = call(capsys, tmp_path, "sample", "-model", "moved", "-out", "more", "--allow-red")
    assert spoken.code == 0, spoken.error
