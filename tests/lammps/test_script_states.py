# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts that go on to other states: relaxed cells that were never reached, variables T and P of the user's own, loops over states."""

import pytest
from command_line import call, use
from lammps_scripts import plain_lammps

from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import LammpsBGError, ScriptError, StateError
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.script_state import script_length_scale, script_temperature

HEAD = "units lj\natom_style atomic\n"
CRYSTAL = """lattice fcc RHO
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
mass 1 1.0
pair_style lj/cut 2.2
pair_coeff 1 1 1.0 1.0
"""
LJ = HEAD + CRYSTAL.replace("RHO", "1.28")
T = "variable T index 0.5\n"
NVT = "fix move all nvt temp 1 1 0.1\nrun 100\nunfix move\n"
NPT = "fix move all npt temp 1 1 0.1 iso 0 0 1\nrun 100\nunfix move\n"
BOX_RELAX = "fix rel all box/relax iso 0.0\nminimize 0 1e-8 100 1000\nunfix rel\n"
LINE = 2 + CRYSTAL.count("\n")  # of `LJ`
AGAIN = "clear\n" + HEAD + CRYSTAL
AGAIN_R = AGAIN.replace("RHO", "${r}")


@pytest.fixture
def write(tmp_path, monkeypatch):
    use(monkeypatch, tmp_path)

    def write_script(text, name="in.x"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_script


def energy_of(script, **variables):
    with Engine(script, variables={name: [value] for name, value in variables.items()}) as engine:
        return float(engine.energies(engine.structure.positions[None])[0])


# ---- what is read of a state that was never reached


@pytest.mark.parametrize(
    ("tail", "command", "word", "variable", "run"),
    [
        (NPT + "variable l equal lx\nchange_box all x final 0 ${l} units box\n", "change_box", "lx", "l", "run 100"),
        (NPT + "change_box all x final 0 $(lx:%.4f) units box\n", "change_box", "lx", "", "run 100"),
        (NPT + "variable l equal lx\nregion part block 0 $l 0 1 0 1\n", "region", "lx", "l", "run 100"),
        (NPT + "variable l equal lx\nvariable f format l %.3f\nreplicate ${f} 1 1\n", "replicate", "lx", "l", "run 100"),
        (NPT + 'variable l equal lx\nif "${l} > 3" then "print x" else "displace_atoms all move 0.1 0 0"\n', "if", "lx", "l", "run"),
        (NPT + 'if "$(cella) > 3" then "include other.in"\n', "if", "cella", "", "run"),
        (BOX_RELAX + "variable v equal vol\nvariable n equal ${v}\nvariable r equal 32/v_n\n" + AGAIN_R, "lattice", "vol", "v", "min"),
        (BOX_RELAX + "variable r equal density\nprint 'variable a index $r' file a.in\nclear\ninclude a.in\n", "include", "density", "r", "min"),
        (BOX_RELAX + "variable r equal density\nprint '$r' file a\nvariable a file a\nmass 1 ${a}\n", "mass", "density", "r", "min"),
        (NVT + "variable p equal press\npair_coeff 1 1 ${p} 1.0\n", "pair_coeff", "press", "p", "run"),
        (NVT + "compute t all temp\nvariable q equal c_t\nset type 1 mass ${q}\n", "set", "c_t", "q", "run"),
        ("fix av all ave/time 1 1 1 c_thermo_temp\nrun 9\nvariable q equal f_av\nmass 1 $q\n", "mass", "f_av", "q", "run 9"),
        ("minimize 0 1e-8 9 9\nvariable z equal bound(all,zmax)\ndisplace_atoms all move v_z 0 0\n", "displace_atoms", "bound", "z", "min"),
        ("run 9\nvariable z atom z+0.1\nset group all z v_z\n", "set", "z", "z", "run 9"),
        ("run 9\nvariable hot atom vx>0\ngroup hot variable hot\ndelete_atoms group hot\n", "delete_atoms", "vx", "hot", "run 9"),
        ("run 0\nvariable e equal pe\nmass 1 $(-v_e)\n", "mass", "pe", "e", "run 0"),
        (NVT + "variable e equal temp\nfix pull all addforce ${e} 0 0\n", "fix", "temp", "e", "run"),
        (T + "variable l equal lx\n" + NPT + "change_box all x final 0 ${l} units box\n", "change_box", "lx", "l", "run"),
    ],
)  # fmt: skip
def test_a_crystal_of_a_state_never_reached_is_refused(write, tail, command, word, variable, run):
    """The sentence names the use, what is read and where, and the skipped line."""
    text = LJ + tail
    script = write(text)
    with pytest.raises(ScriptError) as caught:
        Engine(script)
    said = str(caught.value)
    lines = text.splitlines()
    used = max(n for n, line in enumerate(lines, 1) if line.startswith(command))
    skipped = next(n for n, line in enumerate(lines, 1) if line.startswith(run))
    assert said.startswith(
        f"in.x line {used}: expected a crystal that does not depend on the result of a run, got `{lines[used - 1][:20]}"
    )
    assert f"depends on {word} (" + (f"variable {variable}, " if variable else "in.x line") in said
    assert f"in.x line {skipped} `{run}" in said
    assert f"put `quit` before in.x line {skipped}" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("tail", "unchanged"),
    [
        (T + "variable l equal lx\nvariable m equal ${l}\n" + NPT + "change_box all x final 0 ${m} units box\n", True),
        (NVT + "variable l equal lx\nchange_box all x final 0 ${l} units box\n", True),
        ("fix move all npt temp 1 1 0.1 iso 0 0 1\nrun 0\nchange_box all x final 0 $(lx) units box\n", True),
        ("minimize 0 1e-8 9 9\nvariable n equal count(all)\nchange_box all x scale $(v_n/atoms) units box\n", True),
        (NPT + 'variable e equal pe\nprint "$(lx) ${e}"\nvariable n equal ${e}/2\nthermo_style custom v_e\n', True),
        (NPT + "velocity all create $(lx) 5\nfix 3 all nvt temp $(temp) 1 1\nrun $(step)\n", True),
        (NPT + 'if "$(lx) > 3" then "print x" else "run 5"\n', True),
        ("variable z atom z+0.0\nset group all z v_z\nrun 9\n", True),
        (NPT + "variable l equal lx\n" + AGAIN.replace("RHO", "1.28") + "change_box all y final 0 ${l} units box\n", True),
        (NPT + "change_box all x final 0 3 y final 0 3 z final 0 3 units box\nchange_box all x final 0 $(lx) units box\n", False),
    ],
)
def test_what_no_run_changes_may_be_read(write, tail, unchanged):
    """Read before the run, not changed by it, of a new crystal, or not used for one: nothing is refused."""
    # LAMMPS writes 15 digits of a variable
    assert (energy_of(write(LJ + tail)) == pytest.approx(energy_of(write(LJ)), rel=1e-12)) == unchanged


def test_both_cures_work_word_for_word(write, capsys, tmp_path):
    """`variable length equal VALUE` in the line named, or `quit` before the line named and `lammps-bg relax`."""
    text = T + LJ + BOX_RELAX + "variable length equal vol\nvariable rho equal 32/${length}\n" + AGAIN.replace("RHO", "${rho}")
    lines = text.splitlines()
    with pytest.raises(ScriptError) as caught:
        Engine(write(text))
    run, read = 1 + LINE + 2, 1 + LINE + 4
    assert f"write `variable length equal VALUE` in in.x line {read} " in str(caught.value)
    assert f"put `quit` before in.x line {run} " in str(caught.value)
    given = write("\n".join([*lines[: read - 1], "variable length equal 29.0", *lines[read:], ""]))
    with Engine(given) as engine:
        assert engine.structure.volume == pytest.approx(29.0)
    write("\n".join([*lines[: run - 1], "quit", *lines[run - 1 :], ""]))
    assert call(capsys, tmp_path, "relax", "-in", "in.x").code == 0
    with Engine(tmp_path / "in.x_relaxed") as engine:
        assert abs(float(engine.virial_pressure(engine.sites[None])[0])) < 1e-3


# ---- crystals that the script would have relaxed


@pytest.mark.parametrize(
    ("tail", "line", "message"),
    [
        (
            BOX_RELAX,
            2,
            "relaxes it and was not executed; P = 25.3619 epsilon/sigma^3 with the atoms at rest, use `lammps-bg relax -in ",
        ),
        (NVT + NPT.replace("iso 0 0 1", "aniso 2 2 1"), 5, "where 2 is aimed at, use `lammps-bg relax -in {} -P 2`"),
        (NPT.replace("npt temp 1 1 0.1", "nph"), 2, "relaxes it and was not executed; P = 25.3619"),
        ("fix b all press/berendsen iso 0 0 1\n" + NVT, 3, "relaxes it and was not executed; P = 25.3619"),
        ("fix d all deform 1 x erate 0.01\nrun 100\n", 2, "changes it and was not executed; P = 25.3619"),
        ("minimize 0 1e-8 9 9\n" + BOX_RELAX, 3, "relaxes it and was not executed"),
    ],
)
def test_cell_as_written(write, caplog, tail, line, message):
    script = write(T + LJ + tail)
    Problem.load(ScriptRequest(script, {})).engine.close()
    assert f"cell as written; in.x line {1 + LINE + line} " in caplog.text
    assert message.format(script) in caplog.text
    caplog.clear()
    Problem.load(ScriptRequest(script, {}, stored=True)).engine.close()
    assert "as written" not in caplog.text


def test_atoms_as_written(write, caplog):
    displaced = T + LJ + "displace_atoms all random 0.02 0.02 0.02 77\nminimize 0 1e-8 100 100\n"
    Problem.load(ScriptRequest(write(displaced), {})).engine.close()
    assert (
        f"atoms as written; in.x line {1 + LINE + 2} relaxes them and was not executed; the largest force is 40." in caplog.text
    )


@pytest.mark.parametrize(
    "tail",
    ["minimize 0 1e-8 9 9\n", NVT, BOX_RELAX.replace("iso 0.0", "iso 25.36190"), "fix r all box/relax iso 0\nminimize 0 0 0 0\n"],
)
def test_nothing_to_relax_needs_no_warning(write, caplog, tail):
    Problem.load(ScriptRequest(write(T + LJ + tail), {})).engine.close()
    assert "as written" not in caplog.text


@pytest.mark.parametrize("command", [["check"], ["run", "--dry-run"]])
def test_the_relaxed_script_needs_no_warning(write, capsys, caplog, tmp_path, command):
    """The command in the warning, followed word for word, ends it."""
    write(T + LJ + BOX_RELAX)
    words = (*command, "-rep", 2, 2, 2, "-in")
    assert call(capsys, tmp_path, *words, "in.x").code == 0
    assert "use `lammps-bg relax -in in.x`" in caplog.text
    assert call(capsys, tmp_path, "relax", "-in", "in.x").code == 0
    caplog.clear()
    assert call(capsys, tmp_path, *words, "in.x_relaxed").code == 0
    assert "as written" not in caplog.text


# ---- variables T, P and Lambda of the user's own

RESULTS = [
    "equal temp",
    "equal c_thermo_temp",
    "equal vol",
    "equal vcm(all,x)",
    "equal ramp(1,2)",
    "equal v_other",
    "equal step*0.1",
    "atom vx",
]
RESULTS += ["vector [1,2]", "getenv LAMMPS_BG_NOT_SET", "python f"]


@pytest.mark.parametrize("definition", RESULTS)
def test_a_result_called_temperature_is_no_state(write, definition):
    """Refused with the line and two cures; both work word for word, and the script keeps its variable."""
    line = f"variable T {definition}\n"
    text = (
        LJ + "variable other equal pe\n" + line + 'print "${T}"\nfix 1 all nvt temp ${T} ${T} 1\nrun 10\nvariable U equal v_T\n'
    )
    text = text.replace('print "${T}"\nfix 1 all nvt temp ${T} ${T} 1\n', "")
    script = write(text)
    with Engine(script) as engine, pytest.raises(StateError) as caught:
        script_temperature(engine, script)
    said = str(caught.value)
    assert f"`{line.strip()}`" in said
    assert f"in.x line {LINE + 2}" in said
    assert "give -var T 300" in said
    with Engine(script, variables={"T": ["300"]}) as engine:
        assert script_temperature(engine, script) == 300
        assert definition.startswith("python") or engine.variable_text("T") != "300"
    renamed = write(text.replace("variable T ", "variable Tnow ").replace("v_T", "v_Tnow") + "variable T index 300\n")
    with Engine(renamed) as engine:
        assert script_temperature(engine, renamed) == 300


@pytest.mark.parametrize(
    "definition",
    [
        "equal 0.5",
        "string 0.5",
        "internal 0.5",
        "equal v_half",
        "equal ${half}+0.0",
        "format half %.2f",
        "loop 3",
        "universe 0.5 1",
        "getenv LAMMPS_BG_HALF",
    ],
)
def test_a_plain_number_is_the_temperature(write, monkeypatch, definition):
    """Each style counts; -var replaces it, at once or after the hint is followed."""
    monkeypatch.setenv("LAMMPS_BG_HALF", "0.5")
    text = "variable half equal 0.5\n" + LJ + f"variable T {definition}\n"
    script = write(text)
    with Engine(script) as engine:
        assert script_temperature(engine, script) == (1 if definition == "loop 3" else 0.5)
    if definition.endswith(" 0.5"):
        with pytest.raises(ScriptError, match=r"-var T cannot override .*; write `variable T index 0.5` in the script"):
            Engine(script, variables={"T": ["0.7"]})
        script = write(text.replace(f"variable T {definition}", "variable T index 0.5"))
    with Engine(script, variables={"T": ["0.7"]}) as engine:
        assert script_temperature(engine, script) == 0.7


@pytest.mark.parametrize(
    ("lines", "given", "message"),
    [
        (
            "variable t0 equal 0.5\nvariable T equal v_t0+0.1\nvariable r equal 1.28-v_T/10\n",
            "T",
            "index 0.6` in the script, since `lattice fcc $r`",
        ),
        ("variable b equal 0.28\nvariable r equal 1+v_b\n", "r", "write `variable r index 1.28` in the script"),
    ],
)
def test_hints_give_numbers(write, lines, given, message):
    """A formula is never proposed as the value of an index variable, and the hint works."""
    text = lines + HEAD + CRYSTAL.replace("RHO", "$r")
    with pytest.raises(ScriptError) as caught:
        Engine(write(text), variables={given: ["1.2"]})
    assert message in str(caught.value)
    formula = next(line for line in lines.splitlines() if line.startswith(f"variable {given} "))
    hint = str(caught.value).split("write `")[1].split("`")[0]
    with Engine(write(text.replace(formula, hint)), variables={given: ["1.2"]}) as engine:
        assert engine.variable(given) == 1.2


def test_a_computed_variable_takes_no_value(write):
    with pytest.raises(ScriptError, match=r"got one that it computes, `variable V equal vol`; leave -var V out"):
        Engine(write(LJ + "variable V equal vol\n"), variables={"V": ["3"]})


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        ("equal press", None), ("equal (pxx+pyy+pzz)/3", None), ("equal vol", None), ("atom x", None), ("string phase1", None),
        ("equal 1.0", 1.0), ("string 1.5", 1.5), ("equal 2*0.5", 1.0), ("index 3", 3.0),
    ],
)  # fmt: skip
def test_pressure_of_the_script(write, definition, value):
    script = write(LJ + f"variable P {definition}\n")
    with Engine(script) as engine:
        assert script_pressure(engine) == value
    if value is None:
        with Engine(script, variables={"P": ["2.5"]}) as engine:
            assert script_pressure(engine) == 2.5


def test_a_length_called_lambda_is_no_state(write):
    script = write(T + LJ + "variable Lambda equal lx\n")
    problem = Problem.load(ScriptRequest(script, {}))
    assert script_length_scale(problem.engine, problem.crystal, 0.5, None)[1] != "variable Lambda of the script"
    problem.engine.close()


def test_relaxing_keeps_the_scripts_own_variables(write, capsys, tmp_path):
    write(LJ + "variable T equal temp\nvariable P equal press\nrun 10\n")
    assert call(capsys, tmp_path, "relax", "-in", "in.x", "-var", "T", 300, "-var", "P", 2).code == 0
    with Engine(tmp_path / "in.x_relaxed") as engine:
        assert float(engine.virial_pressure(engine.sites[None])[0]) == pytest.approx(2.0, abs=1e-3)


# ---- loops over states

RUN = "velocity all create ${T} 99\nfix mv all nvt temp ${T} ${T} 0.1\nrun 20\nunfix mv\n"
TS = "variable T index 0.5 0.6 0.9\n"
STEP = "variable T equal ${T}+0.1\n"
CELL = CRYSTAL.replace("RHO", "$a")
LOOPS = {
    "index": LJ + TS + "label s\n" + RUN + "next T\njump SELF s\n",
    "file by name": HEAD + TS + LJ.removeprefix(HEAD) + RUN + "clear\nnext T\njump in.x\n",
    "whole file": HEAD + TS + LJ.removeprefix(HEAD) + RUN + "clear\nnext T\njump SELF\n",
    "clear first": TS + "label s\nclear\n" + LJ + RUN + "next T\njump SELF s\n",
    "universe": LJ + TS.replace("index", "universe") + "label s\n" + RUN + "next T\njump SELF s\n",
    "world": LJ + TS.replace("index", "world") + "label s\n" + RUN,
    "formula": LJ + "variable i loop 3\nlabel s\nvariable T equal 0.4+0.1*v_i\n" + RUN + "next i\njump SELF s\n",
    "formula outside": LJ + "variable i loop 3\nvariable T equal 0.4+0.1*v_i\nlabel s\n" + RUN + "next i\njump SELF s\n",
    "if": LJ + "variable T equal 0.5\nlabel s\n" + RUN + STEP + 'if "${T} < 0.9" then "jump SELF s"\n',
    "while": LJ + 'variable T equal 0.5\nlabel s\nif "${T} > 0.9" then "jump SELF e"\n' + RUN + STEP + "jump SELF s\nlabel e\n",
    "nested": "variable a index 1.28 1.2\nlabel o\nclear\n" + HEAD + CELL + TS + "label s\n" + RUN + "next T\njump SELF s\nnext a\njump SELF o\n",
    "defined": LJ + TS + "label s\n" + RUN + 'next T\nif "$(is_defined(variable,T))" then "jump SELF s"\n',
    "break": LJ + TS + "label s\n" + RUN + 'if "$T > 0.7" then "jump SELF b"\nnext T\njump SELF s\nlabel b\n',
    "next first": LJ + TS.replace("0.5", "0.4 0.5") + "label s\nnext T\n" + RUN + "jump SELF s\n",
    "in step": HEAD + TS.replace("0.9", "") + "variable a index 1.28 1.2\n" + CELL + RUN + "clear\nnext T a\njump SELF\n",
    "file": LJ + "print '0.5' file t\nprint '0.6' append t\nvariable T file t\nlabel s\n" + RUN + "next T\njump SELF s\n",
    "strained after": LJ + TS + "label s\n" + RUN + "change_box all x scale 1.1 remap units box\nnext T\njump SELF s\n",
    "force": LJ + TS + "label s\nfix ef all addforce 0 0 0\n" + RUN + "unfix ef\nmass 1 2.0\nnext T\njump SELF s\n",
    "two loops": LJ + "variable i loop 2\nlabel a\nrun 9\nnext i\njump SELF a\n" + TS + "label s\n" + RUN + "next T\njump SELF s\n",
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_the_first_pass_counts(write, name):
    """T and the crystal are those of the first pass, with -var those of that state; the energy is that of plain LAMMPS."""
    script = write(LOOPS[name])
    plain = plain_lammps(write(LJ, "in.first"))[0]
    for given, temperature in ({}, 0.5), ({"T": ["0.6"]}, 0.6):
        with Engine(script, variables=given) as engine:
            assert script_temperature(engine, script) == pytest.approx(temperature)
            assert float(engine.energies(engine.structure.positions[None])[0]) == pytest.approx(plain, rel=1e-14)
            assert set(engine.structure.masses) == {1.0}
            assert given or name == "world" or engine.reader.repeats


def test_later_passes_are_told_in_one_line(write, caplog):
    script = write(LOOPS["index"])
    Problem.load(ScriptRequest(script, {})).engine.close()
    jump, label = LOOPS["index"].count("\n"), LINE + 2
    said = (
        f"in.x line {jump} `jump SELF s` begins line {label} again: the first pass (T = 0.5) counts, those after it are not read"
    )
    assert [said in record.getMessage() for record in caplog.records].count(True) == 1
    assert "give -var T for another one" in caplog.text
    caplog.clear()
    Problem.load(ScriptRequest(script, {"T": ["0.6"]})).engine.close()
    assert "first pass" not in caplog.text


def test_stages_without_a_loop_are_read_to_the_end(write):
    script = write(LJ + TS + RUN + "next T\n" + RUN)
    with Engine(script) as engine:
        assert script_temperature(engine, script) == 0.6


def test_a_loop_that_builds_has_all_its_passes(write):
    shells = "variable i loop 2\nlabel s\nvariable k equal $i-1\nvariable h equal $i-0.1\nregion r$i block 0 2 0 2 $k $h\n"
    shells += "create_atoms 1 region r$i\nnext i\njump SELF s\n"
    assert energy_of(write(LJ.replace("create_atoms 1 box\n", shells))) == pytest.approx(energy_of(write(LJ)), rel=1e-14)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LJ + TS + "label s\nnext T\njump SELF s\n", f"got no variable T, which `next T` in in.x line {LINE + 3} leaves undefined; give -var T 300"),
        (LJ + TS + "variable T delete\n", f"`variable T delete` in in.x line {LINE + 2} leaves undefined; give -var T 300"),
        ("variable a index 1.28\nnext a\n" + HEAD + CELL, "to `lattice fcc $a`; a: `next a` in in.x line 2 removed it after its last value"),
        (T + LJ + "run 9\nclear\nunits lj\n", f"`clear` in in.x line {LINE + 3} removed what was before; put `quit` before in.x line {LINE + 3} if"),
        (T + LJ + "run 9\n" + AGAIN.replace("RHO", "1").split("pair")[0], f"no interaction energy.* `clear` in in.x line {LINE + 3} removed"),
    ],
)  # fmt: skip
def test_what_next_and_clear_removed_is_named(write, text, message):
    script = write(text)
    with pytest.raises(LammpsBGError, match=message.replace("$", r"\$")), Engine(script) as engine:
        script_temperature(engine, script)


def test_a_crystal_cleared_at_the_end_is_the_crystal(write):
    with Engine(write(LJ + "run 9\nclear\n")) as engine:
        assert engine.structure.n_atoms == 32
        assert (engine.skipped[-1].command, engine.skipped[-1].reason) == ("clear", "no other crystal follows it")


def test_parameters_of_a_script_with_states(write):
    """A potential whose cutoff was read before a skipped `fix npt`, in a loop over states that ends in `clear`, can be set again."""
    text = T + LJ.replace("pair_coeff 1 1 1.0 1.0", "variable rc equal lx*0.7\npair_coeff 1 1 ${eps} 1.0 ${rc}")
    text = "variable eps index 1.0\n" + text + NPT + "clear\n"
    with Engine(write(text)) as engine:
        positions = engine.structure.positions[None]
        before = float(engine.energies(positions)[0])
        engine.set_parameters({"eps": 2.0})
        assert float(engine.energies(positions)[0]) == pytest.approx(2 * before, rel=1e-12)
