# SPDX-License-Identifier: GPL-2.0-or-later
"""examples/figure2_structure.py and figure4_helmholtz.py: their tiny profile end to end, reuse of runs, what is withheld."""

import copy
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib  # noqa: F401  (part of the tested installation)
import pytest

from lammps_bg.report.figures.style import render

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("figure2_structure", "figure4_helmholtz")


def start(name, out, *words):
    """The example in a process of its own; one command at a time, because both examples run side by side."""
    command = [sys.executable, EXAMPLES / f"{name}.py", "--profile", "tiny", "--jobs", "1", "-out", out, *words]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process):
    out, error = process.communicate(timeout=600)
    return process.returncode, out, error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both examples, run once."""
    folder = tmp_path_factory.mktemp("figures")
    running = [start(name, folder / name) for name in NAMES]
    for process in running:
        code, _, error = ended(process)
        assert code == 0, error
    return folder


@pytest.fixture
def modules(monkeypatch):
    """The modules of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield {name: importlib.import_module(name) for name in ("command_runs", *NAMES)}
    for name in ("command_runs", *NAMES):
        del sys.modules[name]


def results_of(folder, name):
    def refuse(constant):
        raise AssertionError(f"{constant} in {name}.json")

    return json.loads((folder / name / f"{name}.json").read_text(), parse_constant=refuse)


def numbers(data):
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from numbers(value)
    elif isinstance(data, float):
        yield data


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_a_table_and_numbers_come_out(folder, name):
    results = results_of(folder, name)
    assert results["schema"] == name
    found = list(numbers(results))
    assert len(found) > 50
    assert all(math.isfinite(number) for number in found)
    png = (folder / name / f"{name}.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert 20_000 < len(png) < 600_000
    lines = (folder / name / f"{name}.md").read_text().splitlines()
    assert sum("lammps-bg md" in line for line in lines) == 2
    for first, second in zip(lines, lines[1:], strict=False):
        if first.startswith("|") and second.startswith("|"):
            assert first.count("|") == second.count("|"), second


def test_free_energies_of_both_crystals(folder):
    results = results_of(folder, "figure4_helmholtz")
    rows = {(row["phase"], row["estimate"]): row for row in results["rows"]}
    assert len(rows) == len(results["rows"]) == 14
    for (_, estimate), row in rows.items():
        assert (row["value"] is None) == (row["withheld"] is not None)
        assert (row["z"] is None) == (row["value"] is None or estimate == "md")
    bar = rows["cubic", "sublattice_bar"]
    # physics.md: -25.8655(6); false alarm of six standard errors 2e-9, with some room for errors of small samples
    assert abs(bar["value"] + 25.8655) < 6 * bar["error"]
    assert bar["error"] < 0.02
    differences = {row["estimate"]: row for row in results["differences"]}
    assert differences["sublattice_bar"]["z"] is not None
    expected = rows["hexagonal", "sublattice_bar"]["value"] - bar["value"]
    assert differences["sublattice_bar"]["value"] == pytest.approx(expected, abs=1e-12)


def test_structures_and_energies(folder):
    panels = results_of(folder, "figure2_structure")["panels"]
    assert [(panel["system"], panel["n_atoms"]) for panel in panels] == [("lj", 32), ("mw", 8)]
    for panel in panels:
        edges, curves = panel["energy"]["edges"], panel["energy"]["curves"]
        for kind, curve in curves.items():
            share = sum(height * (high - low) for height, low, high in zip(curve["density"], edges, edges[1:], strict=False))
            assert (0.4 if kind == "base" else 0.9) < share < 1 + 1e-4  # half of the base may be left out
        assert ("reweighted" in curves) == ("reweighted" in panel["means"]["pressure"]) == (panel["withheld"] is None)
        for found in panel["means"].values():
            assert all((found[kind]["z"] is None) == (kind == "md") for kind in found if kind != "unit")
        assert panel["rdf"]["agreement"]["flow"]["bins"] > 50


@pytest.mark.parametrize("name", NAMES)
def test_finished_runs_are_used_again(folder, name):
    record = folder / name / "commands.json"
    before, figure = record.read_bytes(), folder / name / f"{name}.png"
    figure.unlink()
    code, out, error = ended(start(name, folder / name))
    assert code == 0, error
    assert record.read_bytes() == before
    assert "$" not in out
    assert out.count("done lammps-bg") == len(json.loads(before))
    assert figure.exists()


def test_other_settings_want_another_folder(folder):
    code, out, error = ended(start("figure2_structure", folder / "figure2_structure", "--seed", "7"))
    assert code == 1
    assert "give another -out" in error
    assert "$" not in out


def test_what_is_withheld_says_so(folder, modules):
    results = copy.deepcopy(results_of(folder, "figure4_helmholtz"))
    for row in results["rows"]:
        if row["estimate"] in ("md", "joint_tfep"):
            row |= {"value": None, "error": None, "z": None, "withheld": "withheld: 3 effective of 256 samples"}
    example = modules["figure4_helmholtz"]
    results["differences"] = example.differences(results["rows"])
    assert all(row["z"] is None for row in results["differences"])
    text = example.table(results)
    assert text.count("withheld: 3 effective of 256 samples") == 4
    assert render(example.draw, results)[1].startswith(b"\x89PNG")

    results = copy.deepcopy(results_of(folder, "figure2_structure"))
    example = modules["figure2_structure"]
    for panel in results["panels"]:
        panel["withheld"] = "3 effective of 256 samples"
        for part in (panel["energy"]["curves"], panel["rdf"]["curves"], panel["rdf"]["agreement"], *panel["means"].values()):
            part.pop("reweighted", None)
    assert example.table(results).count("Reweighting withheld: 3 effective") == 2
    assert render(example.draw, results)[1].startswith(b"\x89PNG")


def test_a_stopped_run_is_continued(tmp_path, modules, monkeypatch):
    command_runs, called = modules["command_runs"], []
    commands = command_runs.Commands(tmp_path)
    monkeypatch.setattr(commands, "_run", lambda name, arguments: called.append(arguments) or 1.0)
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / "provenance.json").write_text("{}")
    (tmp_path / "empty" / "inputs").mkdir(parents=True)
    commands.make("stopped", "run", "-in", "in.mw", "--allow-red")
    commands.make("empty", "md", "-in", "in.mw")
    assert called[0] == ["run", "-out", str(tmp_path / "stopped"), "--resume", "--allow-red"]
    assert called[1] == ["md", "-in", "in.mw", "-out", str(tmp_path / "empty")]
    assert not (tmp_path / "empty").exists()
    # a later process knows what has finished
    again = command_runs.Commands(tmp_path)
    monkeypatch.setattr(again, "_run", lambda name, arguments: pytest.fail("ran twice"))
    again.make("stopped", "run", "-in", "in.mw", "--allow-red")
    with pytest.raises(SystemExit, match="another -out"):
        again.make("stopped", "run", "-in", "in.other", "--allow-red")


def test_a_failed_command_ends_the_example(tmp_path, modules):
    command_runs = modules["command_runs"]
    commands = command_runs.Commands(tmp_path)
    chain = [lambda: commands.make("a", "run", "-in", "in.none"), lambda: commands.make("b", "run", "-in", "in.none")]
    with pytest.raises(SystemExit, match=r"exit code 2; the last lines of .*\nERROR: expected .*in\.none"):
        command_runs.run_chains(commands, [lambda: [step() for step in chain]], 1)
    assert commands.finished == {}
    assert commands.stopped.is_set()
    assert not (tmp_path / "logs" / "b.txt").exists()
