# SPDX-License-Identifier: GPL-2.0-or-later
"""The help of every command, and the list of configuration keys: nothing without its meaning, its unit and its default."""

import argparse
import re
import shlex

import pytest

from lammps_bg.arguments import build_parser
from lammps_bg.config import Config, known_keys, to_toml

PARSERS = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
UNIT = re.compile(
    r"\bunits?\b|dimensionless|copies|whole number|\bseconds\b|HH:MM:SS|\b[GM]B\b|\bnodes?\b|\bcores\b", re.IGNORECASE
)
KEY_UNIT = re.compile(r"\bunits?\b|\bseconds\b|\bkT\b|amplitudes|dimensionless", re.IGNORECASE)
QUANTITIES = {"pressure", "pressures", "temperatures", "limits", "strain", "var"}
"""Options whose words are numbers with a unit, read by the program and not by argparse."""


def options(parser):
    return [action for action in parser._actions if action.dest != "help" and action.help != argparse.SUPPRESS]


def named(action):
    return "/".join(action.option_strings) or action.dest


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_is_explained(name):
    assert not [named(action) for action in options(PARSERS[name]) if not action.help]


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_with_a_value_states_its_default(name):
    with_value = [action for action in options(PARSERS[name]) if action.nargs != 0]
    assert with_value
    assert not [named(action) for action in with_value if not re.search(r"default|required", action.help)]


@pytest.mark.parametrize("name", PARSERS)
def test_every_number_states_its_unit(name):
    numeric = [action for action in options(PARSERS[name]) if action.type in (int, float) or action.dest in QUANTITIES]
    silent = [named(action) for action in numeric if not UNIT.search(action.help)]
    assert not silent


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_ends_with_an_example_that_is_understood(name):
    text = PARSERS[name].format_help()
    lines = text[text.index("\nexample:") :].strip().splitlines()[1:]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(">")[0])
        assert words[:2] == ["lammps-bg", name]
        own = words[: words.index("--")] if name == "slurm" else words
        assert build_parser().parse_args(own[1:]).command == name


def test_the_help_of_run_names_every_configuration_key():
    text = PARSERS["run"].format_help()
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


def test_a_silent_option_is_seen():
    parser = argparse.ArgumentParser()
    parser.add_argument("--length", type=float, help="how long")
    (action,) = options(parser)
    assert not UNIT.search(action.help)
    assert not re.search("default|required", action.help)
