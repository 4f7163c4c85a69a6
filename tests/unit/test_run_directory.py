# SPDX-License-Identifier: GPL-2.0-or-later
"""The run directory refuses before work, never destroys what it has, and records enough to repeat the run."""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lammps_bg.errors import RunDirectoryError
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.job import present_job
from lammps_bg.store.provenance import rerun_script
from lammps_bg.store.run_directory import NonRootDirectory, RunDirectory

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@pytest.fixture(autouse=True)
def _end_of_the_command():
    """As the command does at its end."""
    yield
    present_job().release_all()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def inputs(tmp_path):
    """A script, a file it includes, a potential it names by a relative path, and one found elsewhere."""
    folder = tmp_path / "user"
    (folder / "potentials").mkdir(parents=True)
    (tmp_path / "library").mkdir()
    script, included = folder / "in.crystal", folder / "cell.txt"
    near, far = folder / "potentials" / "mW.sw", tmp_path / "library" / "Cu.eam"
    script.write_text("include cell.txt\npair_coeff * * potentials/mW.sw mW\npair_coeff * * Cu.eam\n")
    included.write_text("lattice diamond 6.2\n")
    near.write_text("mW mW mW 1\n")
    far.write_text("Cu\n")
    return [script, included], [near, far]


@pytest.fixture
def run(tmp_path, inputs):
    made = RunDirectory.create(tmp_path / "runs" / "first")
    command = ["run", "-in", "user/in.crystal", "-var", "T", "200 K", "-out", "runs/first", "--resume"]
    made.store_inputs(*inputs, config="[train]\nsteps = 5\n", command=command, seeds={"seed": 11}, extra={"lammps": "22Jul2025"})
    return made


def test_refuses_a_folder_with_files_and_touches_nothing(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.json").write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(RunDirectoryError, match="already holds files"):
        RunDirectory.create(tmp_path / "old")
    assert snapshot(tmp_path) == before


def test_accepts_an_empty_folder_and_makes_parents(tmp_path):
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty").path.is_dir()
    assert RunDirectory.create(tmp_path / "a" / "b" / "c").path.is_dir()
    assert sorted(snapshot(tmp_path)) == ["a/b/c/lock", "empty/lock"]
    present_job().release_all()
    assert snapshot(tmp_path) == {}


def test_check_new_writes_nothing(tmp_path):
    RunDirectory.check_new(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirectoryError, match="is a file"):
            RunDirectory.check_new(path)


def test_refuses_a_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a superuser may write anywhere, so the answer is forced
    with pytest.raises(RunDirectoryError, match="read-only"):
        RunDirectory.create(tmp_path / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_the_system_refuses_is_a_sentence():
    with pytest.raises(RunDirectoryError, match="expected"):
        RunDirectory.create(Path("/proc/lammps_bg/run"))


def test_refuses_a_disk_that_is_too_small(tmp_path):
    with pytest.raises(RunDirectoryError, match="MB of free disk"):
        RunDirectory.check_new(tmp_path / "run", needed_bytes=10**18)


def test_stores_copies_that_the_copied_script_finds(run):
    stored = snapshot(run.path / "inputs")
    assert set(stored) == {"in.crystal", "cell.txt", "potentials/mW.sw", "potentials/Cu.eam"}
    assert run.script.name == "in.crystal"
    assert [entry.role for entry in run.inputs] == ["script", "script", "data", "data"]


def test_equal_names_from_two_folders_are_both_kept(tmp_path, inputs):
    scripts, data = inputs
    (tmp_path / "library" / "mW.sw").write_text("another one\n")
    made = RunDirectory.create(tmp_path / "run")
    made.store_inputs(scripts, [*data, tmp_path / "library" / "mW.sw"], config="", command=["run"], seeds={})
    contents = set(snapshot(made.path / "inputs").values())
    assert {b"another one\n", b"mW mW mW 1\n"} <= contents


def test_provenance_records_versions_hashes_seeds_and_command(run):
    record = run.read_json("provenance.json")
    assert record["schema"] == "lammps-bg-provenance"
    assert {"python", "lammps-bg", "lammps", "torch", "numpy", "pymbar"} <= set(record["versions"])
    assert record["seeds"] == {"seed": 11}
    assert record["command"][:3] == ["lammps-bg", "run", "-in"]
    assert record["lammps"] == "22Jul2025"
    assert all(len(entry["sha256"]) == 64 for entry in record["inputs"])
    assert str(run.path.parent.parent) not in json.dumps(record)  # host-independent


def test_changed_inputs_are_listed(run, inputs):
    scripts, data = inputs
    assert run.changed_inputs(scripts, data) == []
    stored = [run.path / "inputs" / entry.stored for entry in run.inputs]
    assert run.changed_inputs(stored[:2], stored[2:]) == []
    data[0].write_text("mW mW mW 2\n")
    assert run.changed_inputs(scripts, data[:1]) == ["potentials/mW.sw has changed", "potentials/Cu.eam is no longer used"]
    with pytest.raises(RunDirectoryError, match=r"potentials/mW\.sw has changed"):
        run.require_same_inputs(scripts, data)


def test_missing_input_is_a_sentence(run, inputs):
    scripts, data = inputs
    data[1].unlink()
    with pytest.raises(RunDirectoryError, match=r"Cu\.eam"):
        run.changed_inputs(scripts, data)


def test_rerun_script_repeats_the_command_from_the_copies(run, tmp_path):
    """The shell script is run with a stand-in for lammps-bg that prints its arguments."""
    fake = tmp_path / "bin" / "lammps-bg"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$LAMMPS_POTENTIALS" "$@"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [run.file("rerun.sh"), "new"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    here = run.path
    expected = [f"{here}/inputs/potentials", "run", "-in", f"{here}/inputs/in.crystal", "-var", "T", "200 K"]
    expected += ["-out", f"{tmp_path}/new"]
    assert result.stdout.splitlines() == [f"{here}/inputs", *expected, "-config", f"{here}/config.toml", "--seed", "11"]
    assert subprocess.run([run.file("rerun.sh")], env=environment, capture_output=True, check=False).returncode != 0


def test_rerun_script_writes_no_old_log_and_uses_the_own_model():
    """Log files of the run stay as they are, and samples are repeated with the copy of the model."""
    text = rerun_script(["sample", "-model", "runs/a", "-log", "log.lammps", "-out", "b"], {"seed": 1}, "in.x")
    assert 'sample -model "$here" -log none -out "$out" -config "$here/config.toml" --seed 1' in text


def test_names_of_copies_elsewhere_are_recorded(tmp_path, inputs):
    made = RunDirectory.create(tmp_path / "run")
    near, far = inputs[1]
    names = {"potentials/mW.sw": near, "../library/Cu.eam": far, "unused": tmp_path}
    made.store_inputs(*inputs, config="", command=["run"], seeds={}, names=names)
    assert made.read_json("provenance.json")["names"] == {"../library/Cu.eam": "potentials/Cu.eam"}


def test_open_finds_a_run_and_refuses_anything_else(run, tmp_path):
    assert RunDirectory.open(run.path, writable=True).path == run.path
    with pytest.raises(RunDirectoryError, match="no such folder"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match=r"no provenance\.json"):
        RunDirectory.open(tmp_path)
    run.write_json("provenance.json", {"schema": "lammps-bg-provenance", "schema_version": 99})
    with pytest.raises(RunDirectoryError, match="version 99"):
        RunDirectory.open(run.path)
    run.file("provenance.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="damaged"):
        RunDirectory.open(run.path)


def test_results_have_a_schema_and_no_nan(run):
    values = {"a": np.float64("nan"), "b": [math.inf, 1.0], "c": np.arange(2), "d": np.float32(0.5), "e": Path("x"), "f": None}
    run.write_results({"system": values, "flag": np.bool_(True)})
    text = run.file("results.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = run.read_results()
    assert list(found)[:2] == ["schema", "schema_version"]
    assert found["schema"] == "lammps-bg-results"
    assert found["system"] == {"a": None, "b": [None, 1.0], "c": [0, 1], "d": 0.5, "e": "x", "f": None}
    assert found["flag"] is True


def test_results_of_a_run_that_has_none(run):
    with pytest.raises(RunDirectoryError, match=r"results\.json"):
        run.read_results()


def test_status_has_its_stable_keys(run):
    run.write_status("train", step=10, percent=12.5, loss=0.1, ess=math.nan, free_energy=-25.1, error=0.2, eta_seconds=30.0)
    status = run.read_json("status.json")
    assert list(status)[:8] == ["stage", "step", "percent", "loss", "ess", "F", "error", "eta_seconds"]
    assert status["ess"] is None
    assert status["F"] == -25.1


@needs_full
def test_full_disk_keeps_the_previous_file(run):
    run.write_results({"n": 1})
    before = run.file("results.json").read_bytes()
    run.file("results.json.tmp").symlink_to(FULL)
    with pytest.raises(RunDirectoryError, match="disk is full"):
        run.write_results({"n": 2})
    assert run.file("results.json").read_bytes() == before
    assert not run.file("results.json.tmp").is_symlink()  # nothing half-written is left either


@needs_full
def test_full_disk_ends_a_table_with_a_sentence(tmp_path):
    table = CsvTable(tmp_path / "a.csv", ["step"])
    os.dup2(os.open(FULL, os.O_WRONLY), table._stream.fileno())
    with pytest.raises(RunDirectoryError, match="disk is full"):
        table.write(1)
    with pytest.raises(RunDirectoryError, match="disk is full"):
        table.close()


def test_table_lines_are_on_disk_at_once_and_keep_all_digits(run):
    with run.sample_table() as table:
        table.write(np.int64(0), np.float64(-1 / 3), -0.1, -math.inf)
        table.write_rows([(1, None, 0.5, 2), (2, 1.0, 2.0, 3.0)])
        lines = run.file("samples.csv").read_text().splitlines()
    assert lines == ["sample,pe,log_q,log_w", f"0,{-1 / 3!r},-0.1,-inf", "1,,0.5,2", "2,1.0,2.0,3.0"]
    with pytest.raises(RunDirectoryError, match="exists"):
        run.sample_table()


def test_resumed_table_drops_what_is_repeated_and_what_is_cut(run):
    with run.training_table(["step", "loss"]) as table:
        for step in range(1, 6):
            table.write(step, step / 10)
    with open(run.file("train.csv"), "a") as stream:
        stream.write("6,0.")
    with run.training_table(["step", "loss"], keep_until=3) as table:
        table.write(4, 9.0)
    assert run.file("train.csv").read_text() == "step,loss\n1,0.1\n2,0.2\n3,0.3\n4,9.0\n"
    with pytest.raises(RunDirectoryError, match="columns step,ess"):
        run.training_table(["step", "ess"], keep_until=3)


def test_wrong_number_of_values_is_an_error(tmp_path):
    with CsvTable(tmp_path / "a.csv", ["step", "loss"]) as table, pytest.raises(ValueError, match="expected 2 values"):
        table.write(1)


def test_followers_write_nothing(tmp_path):
    """What all MPI ranks but the first have in place of a run directory: every writer leaves the folder as it is."""
    (tmp_path / "in.x").write_text("units lj\n")
    folder = tmp_path / "run"
    folder.mkdir()
    run = NonRootDirectory(folder)
    with run.training_table(["step"]) as training, run.sample_table(keep_until=3) as samples:
        training.write(1)
        samples.write_rows([(0, 1.0, 2.0, 3.0)])
    run.write_text("a.txt", "x")
    run.write_json("a.json", {})
    run.write_results({"a": 1})
    run.write_status("training", step=3)
    run.copy_in(tmp_path / "in.x", "in.x")
    run.store_inputs([tmp_path / "in.x"], [], config="", command=[], seeds={})
    run.discard_inputs()
    run.discard_half_made()
    run.end_status()
    assert not list(folder.iterdir())
    writers = {
        name
        for name, entry in vars(RunDirectory).items()
        if callable(entry) and re.match("write|store|copy|discard|end|.*_table", name)
    }
    assert writers == {
        "write_text", "write_json", "write_results", "write_status", "copy_in", "store_inputs", "discard_inputs", "discard_half_made",
        "training_table", "sample_table", "end_status",
    }  # fmt: skip


def test_a_follower_that_fails_has_the_last_word(tmp_path):
    """The reason is written once, beside the numbers and the identity of the first rank."""
    first = {"stage": "training", "step": 7, "pid": 1, "host": "node1"}
    (tmp_path / "status.json").write_text(json.dumps(first))
    NonRootDirectory(tmp_path).write_status("training", step=7)
    present_job().note_end("failed", "a sentence")
    found = json.loads((tmp_path / "status.json").read_text())
    assert found == {**first, "stage": "failed", "during": "training", "reason": "a sentence", "eta_seconds": None}
    present_job().note_end("failed", "another")
    assert json.loads((tmp_path / "status.json").read_text()) == found
