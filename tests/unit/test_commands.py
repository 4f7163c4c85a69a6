# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands: found by their files, understood as they are typed, explained by their help, and quick until they compute."""

import re
import shlex
import subprocess
import sys
from typing import get_args

import pytest

from lammps_bg import commands
from lammps_bg.cli import main
from lammps_bg.commands import Work, shared_options
from lammps_bg.config import Config, known_keys, to_toml
from lammps_bg.engine.relaxation import FREE
from lammps_bg.errors import ConfigError
from lammps_bg.study.md import MODES

HEAVY = ("torch", "lammps", "scipy", "ase", "ovito", "pymbar", "matplotlib", "spglib", "networkx", "jinja2")
KEY_UNIT = re.compile(r"\bunits?\b|\bseconds\b|\bkT\b|amplitudes|dimensionless", re.IGNORECASE)


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*words, "-h"])
    assert end.value.code == 0
    return capsys.readouterr().out


def flags_of(words):
    """The LAMMPS flags of a typed command."""
    return shared_options.flags(commands.parse(words))


# ---- found, in a way that a new file is enough


@pytest.mark.parametrize("name", commands.names())
def test_every_command_is_whole(name):
    command = commands.load(name)
    assert isinstance(command.WORK, Work)
    assert command.HELP[0].islower() or command.HELP.startswith(("HTML", "Gibbs"))
    assert shlex.split(command.EXAMPLE)[:2] == ["lammps-bg", name]
    assert callable(command.add_arguments)
    assert callable(command.execute)


def test_a_new_file_is_a_new_command(tmp_path, monkeypatch, capsys):
    """And a module with an underscore in its name is none."""
    text = (
        "from lammps_bg.commands import Work\nHELP, EXAMPLE, WORK, PLACE = 'shout', 'lammps-bg shout x', Work.NONE, 99\n"
        "def add_arguments(parser): parser.add_argument('what')\n"
        "def execute(args, console): console.say(args.what.upper()); return 5\n"
    )
    (tmp_path / "shout.py").write_text(text)
    (tmp_path / "what_it_needs.py").write_text("")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert "shout" in commands.names()
    assert "what_it_needs" not in commands.names()
    assert main(["shout", "hello"]) == 5
    assert capsys.readouterr().out == "HELLO\n"
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("or SIGTERM")
    sys.modules.pop("lammps_bg.commands.shout")


def test_commands_that_share_their_work_know_teams():
    for name in commands.names():
        words = shlex.split(commands.load(name).EXAMPLE.partition(">")[0])[1:]
        assert (getattr(commands.parse(words), "lammps_ranks", 0) == 1) == (name in commands.sharing())
    assert set(commands.sharing()) == {"run", "train", "sample", "md", "estimate", "gibbs", "phase"}


# ---- understood


@pytest.mark.parametrize("name", commands.names())
def test_the_help_ends_with_an_example_that_is_understood(capsys, name):
    text = help_of(capsys, name)
    (line,) = text[text.index("\nexample:") :].strip().splitlines()[1:]
    assert commands.parse(shlex.split(line.partition(">")[0])[1:]).command == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu", "-in", "in.x"], "did you mean 'run'?"),
        (["run", "-in", "in.x", "--dryrun"], "did you mean '--dry-run'?"),
        (["run", "-in", "in.x", "-rep", "2", "2"], "expected 3 arguments"),
        (["estimate"], "arguments are required: -model"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["estimate", "-model", "a", "-in", "b"], "unrecognized arguments: -in b"),
    ],
)
def test_what_is_not_understood(words, message):
    with pytest.raises(ConfigError, match="expected arguments as in `lammps-bg") as error:
        commands.parse(words)
    assert message in str(error.value)


def test_negative_numbers_are_values():
    args = commands.parse(["gibbs", "-model", "runs/v", "-P", "-1e-3", "-2", "GPa"])
    assert args.pressures == ["-1e-3", "-2", "GPa"]


def test_choices_are_those_of_what_computes():
    """They are written down again, because the modules that know them take a second to load."""
    assert ("none", *shared_options.FREE_CELL) == FREE
    assert commands.load("md").MODES == MODES
    assert get_args(Config.model_fields["md"].annotation.model_fields["cell"].annotation)[0] in shared_options.FREE_CELL


@pytest.mark.parametrize(("words", "silent"), [([], False), (["-nocite"], True), (["-nc"], True)])
def test_citations_are_lammps_own_matter(words, silent):
    assert ("-nocite" in flags_of(["run", "-in", "in.x", *words]).cmdargs()) is silent


# ---- explained


def test_the_help_of_run_names_every_configuration_key(capsys):
    text = help_of(capsys, "run")
    blocks = {
        match[1]: match[2].split() for match in re.finditer(r"^  (\w+|\(no block\)): ((?:.|\n(?= {4,}\S))*)", text, re.MULTILINE)
    }
    listed = {name if block == "(no block)" else f"{block}.{name}" for block, names in blocks.items() for name in names}
    assert set(known_keys()) <= listed


def test_every_key_has_its_meaning_and_default_in_the_printed_configuration():
    lines = [line for line in to_toml(Config()).splitlines()[1:] if line and not line.startswith("[")]
    assert len(lines) == len(known_keys())
    for line in lines:
        key, meaning = line.removeprefix("# ").partition(" =")[0], line.rpartition("# ")[2]
        assert len(meaning) > len(key) / 2, line
    for key, (default, meaning) in known_keys().items():
        assert default is not None or re.search(r"\bnone: |set by the program", meaning), f"{key} does not say what unset means"


def test_every_key_that_is_no_count_states_its_unit():
    """Numbers that are not whole: times, lengths, energies, temperatures, or said to have none."""
    fields = {name: field.annotation for name, field in Config.model_fields.items()}
    floats = []
    for block, kind in fields.items():
        for key, entry in getattr(kind, "model_fields", {}).items():
            if "float" in str(entry.annotation):
                floats.append(f"{block}.{key}")
    assert len(floats) > 15
    assert not [key for key in floats if not KEY_UNIT.search(known_keys()[key][1])]


# ---- quick


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["config", "--set", "train.steps=7"], 0),
        (["config", "--set", "train.stepz=7"], 2),
        (["status", "/nowhere/at/all"], 2),
        (["chek", "-in", "in.x"], 2),
        (["run", "-in", "in.x", "--dryrun"], 2),
        (["slurm", "--", "check"], 2),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(words, code):
    """torch alone takes more than a second."""
    program = (
        "import sys\nfrom lammps_bg.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.splitlines()[-1] == f"{code} []"
