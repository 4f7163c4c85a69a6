# SPDX-License-Identifier: GPL-2.0-or-later
"""Guard: any script loads without a trace on disk, loops and conditions work, and a bad one gets one sentence."""

import hashlib
import time

import numpy as np
import pytest
from lammps_scripts import LJ

from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.script import interpreter
from lammps_bg.engine.script.text import split_words, strip_comment
from lammps_bg.errors import LammpsBGError, PotentialError, ScriptError

ACTING = """
log mine.log
shell touch touched
shell rm precious
dump 1 all custom 1 out.dump id x y z
dump_modify 1 sort id
fix out all print 1 "x" file printed.txt
fix avg all ave/time 1 1 1 c_thermo_temp file averages.txt
fix integrate all nvt temp 2 2 0.1
fix_modify integrate energy yes
variable now equal f_avg
compute late all reduce sum f_avg
print "hello" file greeting.txt
print "temperature ${T}" append precious
info all out append info.txt
thermo_style custom step f_avg
restart 10 a.restart b.restart
run 1000000000
minimize 0 0 1000000 1000000
variable result equal ${now}
print "result ${result}"
if "${now} > 3" then "shell touch touched2" else "write_data final.data"
write_data final.data
write_restart final.restart
write_dump all custom final.dump id
write_coeff final.coeff
pair_write 1 1 10 r 0.5 2.0 table.txt LJ
python f here "def f(): open('python', 'w')"
python f invoke
unfix integrate
undump 1
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text, **options):
        path = tmp_path / "in.test"
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(text)
        return Engine(path, **options)

    return write_and_load


def _hashes(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_no_side_effects(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").write_text("data")
    (tmp_path / "in.test").write_text("variable T index 300\n" + LJ + ACTING)
    before, started = _hashes(tmp_path), time.monotonic()
    with Engine(tmp_path / "in.test") as engine:
        assert time.monotonic() - started < 5
        energy = engine.energies(engine.structure.positions[None])
        skipped = {item.command.split()[0] for item in engine.skipped}
        assert {"log", "shell", "dump", "run", "minimize", "write_data", "restart", "python", "pair_write", "info"} <= skipped
        assert [item.split()[1] for item in engine.removed_fixes] == ["print", "ave/time", "nvt"]
        first = engine.skipped[0]
        assert (first.file.name, first.command, first.reason) == ("in.test", "log mine.log", "writes files")
        assert first.line == 1 + LJ.count("\n") + 2
    assert _hashes(tmp_path) == before
    with load(LJ) as plain:
        assert plain.energies(plain.structure.positions[None]) == energy


def test_quit_ends_the_reading(load):
    with load(LJ + 'if "1 == 1" then quit\nread_data nothing.here\n') as engine:
        assert engine.skipped[-1].command == "quit"
        assert engine.structure.n_atoms == 32


def test_loops_jumps_and_clear(load):
    """A loop that builds a crystal has all its passes; of one over states, each with a run, the first counts."""
    text = (
        """
    variable n loop 3
    label again
    clear
    """
        + LJ.replace("0 2 0 2 0 2", "0 $n 0 1 0 1")
        + """
    run 100
    next n
    jump SELF again
    variable after equal 7
    """
    )
    for loop, n_atoms, n_left, n_skipped in ((text.replace("run 100", ""), 12, None, 0), (text, 4, 1, 2)):
        with load(loop) as engine:
            assert engine.structure.n_atoms == n_atoms
            assert engine.variable("after") == 7
            assert engine.variable("n") == n_left
            assert len(engine.skipped) == n_skipped


def test_include_jump_to_file_and_nested_if(load, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "lattice.in").write_text("variable deep index 1\ninclude more.in\n")
    (folder / "more.in").write_text("variable deeper index 2\n")
    (tmp_path / "rest.in").write_text("skip this line\nlabel here\npair_style lj/cut 2.2\npair_coeff 1 1 1.0 1.0\n")
    text = (
        """
    include parts/lattice.in
    variable size index 2
    """
        + LJ.split("pair_style")[0].replace("0 2 0 2 0 2", "0 ${size} 0 ${size} 0 ${size}")
        + """
    if "${size} == 1" then "quit" elif "${deeper} == 3" "quit" else &
       "if '${deep} == 1' then 'jump rest.in here'"
    this line is never reached
    """
    )
    with pytest.raises(PotentialError, match="no interaction energy"):  # the box of size 1 quits before the potential
        load(text, variables={"size": ["1"]})
    with load(text) as engine:
        assert engine.structure.n_atoms == 32
        assert {path.name for path in engine.script_files} == {"in.test", "lattice.in", "more.in", "rest.in"}


def test_state_is_as_if_skipped_commands_were_absent(load):
    with load(LJ + "velocity all create 5.0 1\nfix 1 all nve\nrun 50\n") as engine, load(LJ) as plain:
        np.testing.assert_array_equal(engine.structure.positions, plain.structure.positions)


def test_variables_of_the_command_line(load):
    text = "variable rho index 1.28\n" + LJ.replace("fcc 1.28", "fcc ${rho}")
    with load(text, variables={"rho": ["1.0"]}) as engine:
        assert 32 / engine.structure.volume == pytest.approx(1.0)
    with pytest.raises(ScriptError, match=r"line 1: -var rho cannot override .* write `variable rho index 1.28`"):
        load(text.replace("index", "equal"), variables={"rho": ["1.0"]})
    with load(text + "variable name string 'two words'\n", variables={"shift": ["-5"], "words": ["a b"]}) as engine:
        assert engine.variable("shift") == -5
        assert engine.variable("words") is None


def test_commands_hidden_in_variables(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with load(
        LJ + 'variable c string "write_data"\n${c} x.data\nif "yes == yes" then "${c} y.data"\npartition yes 1 ${c} z.data\n'
    ) as engine:
        assert [item.command for item in engine.skipped] == ["write_data x.data", "write_data y.data", "write_data z.data"]
    assert [path.name for path in tmp_path.iterdir()] == ["in.test"]


@pytest.mark.parametrize(
    ("loop", "most"),
    [("label a\njump SELF a\n", None), ("jump SELF\n", 1000), ("label a\nvariable x delete\njump SELF a\n", 1000)],
)
def test_endless_loops_end(load, monkeypatch, loop, most):
    """The first at the limit of the package."""
    monkeypatch.setattr(interpreter, "MAX_COMMANDS", most or interpreter.MAX_COMMANDS)
    started = time.monotonic()
    with pytest.raises(ScriptError, match="expected the script to end"):
        load(loop)
    assert time.monotonic() - started < 20


def test_convergence_loop_waiting_for_a_run(load):
    """A loop whose exit needs the result of a run must not hang."""
    text = LJ + "variable e equal pe\nlabel again\nrun 100\nif '${e} < -1e9' then 'jump SELF done'\njump SELF again\nlabel done\n"
    with load(text) as engine:
        assert [item.command.split()[0] for item in engine.skipped] == ["run", "if", "jump"]
        assert "the first pass counts" in engine.skipped[-1].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first missing command is `create_box` or `read_data`"),
        ("units lj\natom_style atomic\n", "the first missing command is `create_box`"),
        (
            "system:\n  temperature: 300\n",
            r"in.test line 1: LAMMPS says 'Unknown command: system:.* expected a LAMMPS input script",
        ),
        (b"\x7fELF\0\0", "is a binary file"),
        (LJ.replace("create_atoms 1 box", ""), "expected atoms in the box"),
        ("boundary p p f\n" + LJ, "expected `boundary p p p`"),
        (
            "dimension 2\n" + LJ.replace("lattice fcc 1.28", "lattice sq 1.0").replace("0 2 0 2 0 2", "0 4 0 4 -0.1 0.1"),
            "expected `dimension 3`",
        ),
        (LJ + "group g id 3 5\ndelete_atoms group g compress no\n", "add `reset_atoms id`"),
        (LJ + "fix r all rigid single\n", "`fix rigid` constrains"),
        (LJ + "fix s all shake 0.1 10 0 b 1\n", "`fix shake` constrains"),
        (LJ.replace("0 2 0 2 0 2", "0 1 0 1 0 1").replace("lattice fcc", "lattice sc"), "at least 2 atoms"),
        (LJ + "partition no x run\n", "expected `partition yes|no N command`"),
        (LJ + "jump SELF nowhere\n", "the label 'nowhere' was not found"),
        (LJ + "include nowhere.in\n", r"'nowhere.in' was not found; looked in: .*LAMMPS_POTENTIALS"),
        (LJ + "pari_style lj/cut 3\n", r"line 11: LAMMPS says 'Unknown command: pari_style"),
        ("include in.test\n", "does the file include itself"),
    ],
)
def test_unusable_scripts(load, text, message):
    with pytest.raises(ScriptError, match=message) as caught:
        load(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("", "no interaction energy found"),
        ("pair_style none", "no interaction energy found"),
        ("pair_style zero 2.0\npair_coeff * *", "no interaction energy found"),
        ("pair_style pace\n", "part of the ML-PACE package.*this LAMMPS lacks that package"),
        ("pair_style no/such", "no/such"),
        ("pair_style sw\npair_coeff * * nowhere.sw Si", r"cannot open .*nowhere.sw.*looked in: "),
    ],
)
def test_unusable_potentials(load, style, message):
    with pytest.raises(PotentialError, match=message):
        load(LJ.split("pair_style")[0] + style + "\n")


def test_missing_script(tmp_path):
    with pytest.raises(LammpsBGError, match="cannot be read"):
        Engine(tmp_path / "nothing")


def test_words_and_comments():
    assert strip_comment("print 'a # b' # c") == "print 'a # b' "
    assert [word.text for word in split_words("if \"a == b\" then 'x \"y\"' \"\"\"z 'w'\"\"\" don't")] == [
        "if", "a == b", "then", 'x "y"', "z 'w'", "don't",
    ]  # fmt: skip
    with pytest.raises(ScriptError, match="closing"):
        split_words('print "open')
