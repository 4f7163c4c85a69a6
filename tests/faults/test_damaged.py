# SPDX-License-Identifier: GPL-2.0-or-later
"""Run folders with cut, garbled or foreign files, of another version, or with times of another clock: a sentence each, or no matter."""

import json
import os
import time

import pytest
import torch

from lammps_bg.cli import main

RESUME = ["run", "--resume", "-out", "run", "--allow-red", "--set", "train.steps=13"]
SAMPLE = ["sample", "-model", "run", "-out", "new"]
ESTIMATE = ["estimate", "-model", "run", "--allow-red"]


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def garbage(path):
    path.write_bytes(bytes(range(256)) * 8)


def later(path):
    """As a version to come might write it."""
    if path.suffix == ".pt":
        torch.save({**torch.load(path, weights_only=True), "version": 99}, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    else:
        path.write_text(path.read_text().replace("[train]\n", "[train]\nannealing = 3\n"))


CASES = [
    ("checkpoint.pt", cut, RESUME, "remove it to train from the start"),
    ("checkpoint.pt", garbage, RESUME, "remove it to train from the start"),
    ("checkpoint.pt", empty, RESUME, "remove it to train from the start"),
    ("checkpoint.pt", later, RESUME, "use the version of lammps-bg that wrote it"),
    ("model.pt", cut, SAMPLE, "a damaged or foreign file"),
    ("model.pt", garbage, ESTIMATE, "a damaged or foreign file"),
    ("model.pt", later, SAMPLE, "use the version of lammps-bg that wrote it"),
    ("samples.csv", cut, ESTIMATE, "draw the samples again"),
    ("samples.csv", garbage, ESTIMATE, "draw the samples again"),
    ("samples.csv", empty, ESTIMATE, "draw the samples again"),
    ("provenance.json", cut, RESUME, "restore it from a copy, or start a new run with another -out"),
    ("provenance.json", garbage, SAMPLE, "restore it from a copy"),
    ("provenance.json", empty, RESUME, "restore it from a copy"),
    ("provenance.json", later, RESUME, "use the version of lammps-bg that wrote it"),
    ("config.toml", garbage, RESUME, "expected TOML in"),
    ("config.toml", later, RESUME, "or is it of a later version of lammps-bg?"),
    ("config.toml", later, SAMPLE, "config.toml, got 'train.annealing'"),
    ("results.json", cut, ESTIMATE, "make it again with `lammps-bg estimate`, or remove it"),
    ("results.json", later, ["report", "run"], "use the version of lammps-bg that wrote it"),
]


def tree(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("name", "damage", "words", "message"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_damaged_files(finished, capsys, name, damage, words, message):
    damage(finished / "run" / name)
    before = tree(finished)
    assert main(words) == 2
    error = capsys.readouterr().err
    said = [line for line in error.splitlines() if "WARNING" not in line]
    assert len(said) == 1, error
    assert said[0].startswith("ERROR: expected ")
    assert message in said[0]
    assert "; " in said[0]
    assert tree(finished) == before


@pytest.mark.parametrize("damage", [cut, garbage, empty])
def test_a_damaged_status_hinders_nothing(finished, capsys, caplog, damage, samples):
    """It is for people; --resume says that it is damaged, and goes on."""
    damage(finished / "run" / "status.json")
    assert main(["status", "run"]) == 0
    assert "note       status.json is damaged" in capsys.readouterr().out
    assert main(["run", "--resume", "-out", "run", "--allow-red"]) == 0
    assert "status.json but it is damaged" in caplog.text
    assert json.loads((finished / "run" / "status.json").read_text())["stage"] == "done"
    assert (finished / "run" / "samples.csv").read_text() == samples


@pytest.mark.parametrize("skew", [3 * 86400, -20 * 365 * 86400])
def test_times_of_another_clock_are_no_matter(finished, capsys, samples, skew):
    """All files are of the future, or far in the past; --resume does what it does otherwise."""
    run = finished / "run"
    for name in ("samples.csv", "results.json", "status.json"):
        (run / name).unlink()
    for path in (run, *run.rglob("*")):
        os.utime(path, (time.time() + skew,) * 2)
    (run / "status.json").write_text(json.dumps({"stage": "sampling", "updated": "2199-01-01T00:00:00Z"}))
    assert main(["status", "run"]) == 0
    shown = capsys.readouterr().out
    assert "state      dead" in shown
    assert "in the future" in shown
    assert "note       the clocks of this machine and of the run's differ by at least" in shown
    assert main(["run", "--resume", "-out", "run", "--allow-red"]) == 0
    assert (run / "samples.csv").read_text() == samples


def test_leftovers_of_a_killed_job_hinder_nothing(finished, samples):
    run = finished / "run"
    names = ("checkpoint.pt", "model.pt", "samples.csv", "train.csv", "status.json", "results.json", "config.toml", "report.html")
    for name in names:
        (run / f"{name}.tmp").write_bytes(b"half")
    (run / "samples.dump.gz.partial").write_bytes(b"half")
    (run / "lock").write_text("{")
    for name in ("samples.csv", "samples.dump.gz", "results.json", "status.json"):
        (run / name).unlink()
    assert main(["run", "--resume", "-out", "run", "--allow-red"]) == 0
    assert (run / "samples.csv").read_text() == samples
    assert not (run / "samples.dump.gz.partial").exists()
    assert not (run / "lock").exists()
