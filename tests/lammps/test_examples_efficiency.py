# SPDX-License-Identifier: GPL-2.0-or-later
"""examples/figure3_efficiency.py end to end; the commands of it, of models.py and of efficiency.py are understood by the program."""

import importlib
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib  # noqa: F401  (part of the tested installation)
import pytest

from lammps_bg.commands import parse
from lammps_bg.config import load_config

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def started(name, *words):
    command = [sys.executable, EXAMPLES / f"{name}.py", *words]
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def figure3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure3")
    done = started("figure3_efficiency", "--profile", "tiny", "--jobs", "2", "-out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_curves_of_three_flows(figure3):
    results = json.loads((figure3 / "figure3_efficiency.json").read_text())
    assert [curve["flow"] for curve in results["curves"]] == ["sublattice", "augmented", "global"]
    for curve in results["curves"]:
        assert curve["step"] == [2, 4, 6]
        assert all(0 < ess <= 1 for ess in curve["ess"])
        assert curve["seconds"] == sorted(curve["seconds"])
        assert all(math.isfinite(gap) for gap in curve["gap"])
    assert (figure3 / "figure3_efficiency.png").read_bytes().startswith(b"\x89PNG")
    lines = [line for line in (figure3 / "figure3_efficiency.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1


def test_what_is_finished_is_not_run_again(figure3):
    done = started("figure3_efficiency", "--profile", "tiny", "-out", figure3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done lammps-bg train") == 3


@pytest.mark.parametrize(
    ("name", "words", "n_commands"),
    [
        ("figure3_efficiency", ["--profile", "quick"], 9),
        ("figure3_efficiency", ["--profile", "paper"], 9),
        ("exactness", ["--profile", "quick"], 12),
        ("exactness", ["--profile", "paper"], 57),
        ("models", ["--profile", "cpu"], 2 * (1 + 5 * 3)),
        ("models", ["--profile", "gpu"], 2 * (1 + 5 * 3)),
        ("efficiency", [], 1 + 2 + 1 + 6),
    ],
)
def test_every_command_is_understood(name, words, n_commands, tmp_path):
    """Of all profiles, also those that nobody runs on two cores: flags by the real parser, settings by the real configuration."""
    done = started(name, *words, "--dry-run", "--jobs", "1", "-out", tmp_path)
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line[1:]) for line in done.stdout.splitlines() if line.startswith("$")]
    assert len(commands) == n_commands
    for command in commands:
        parsed = parse(command[1:])
        load_config(None, tuple(parsed.set))
    assert not any(tmp_path.iterdir())


def test_costs_are_scaled_to_the_error_that_was_wanted(tmp_path, monkeypatch):
    """Dynamics to 1e-3 in 100 s are 10,000 s to 1e-4, and are not shortened where they came out better than asked."""
    monkeypatch.syspath_prepend(EXAMPLES)
    efficiency = importlib.import_module("efficiency")
    for name, folders in (("mw_216", ("mbar", "0.001/flow", "0.0001/flow")), ("lj_256", ("mbar", "0.001/flow", "0.0001/flow"))):
        for folder in folders:
            (tmp_path / name / folder).mkdir(parents=True)
            (tmp_path / name / folder / "results.json").touch()
    try:
        rows = efficiency.collect(Made(tmp_path))
    finally:
        del sys.modules["efficiency"]
    assert [(row["crystal"], row["target"]) for row in rows] == [
        ("mw_216", 1e-3), ("mw_216", 1e-4), ("lj_256", 1e-3), ("lj_256", 1e-4)
    ]  # fmt: skip
    assert [row["md_seconds"] for row in rows] == pytest.approx([100, 8100, 100, 8100])
    assert [row["seconds"] for row in rows] == [100, 100, 300, 300]
    assert [row["md_extrapolated"] for row in rows] == [False, True, False, True]
    text = efficiency.table({"rows": rows, "settings": {"seed": 1, "jobs": 1, "versions": dict.fromkeys(
        ("python", "lammps-bg", "lammps", "torch", "pymbar"), "1")}, "commands": []})  # fmt: skip
    assert "1 : 81.0" in text


class Made:
    """Commands that all took 100 s and reached an error of 9e-4."""

    def __init__(self, out):
        self.out = out
        self.finished = _Anything()

    def results(self, name, file="results.json"):
        entry = {"beta_F_per_atom": {"value": -1.0, "error": 9e-4}}
        return {"estimates": dict.fromkeys(("mbar", "tfep", "bar"), entry), "cost": {"energy_evaluations": 1000}}


class _Anything(dict):
    def __missing__(self, key):
        return {"seconds": 100}
