# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg status` on runs in any condition: it reads only, and asks the system's lock, never a clock, who lives."""

import json
import os
import shutil
import socket
import time

import jobs
import numpy as np
import pytest

from lammps_bg.cli import main
from lammps_bg.commands import status as shown
from lammps_bg.errors import RunDirectoryError
from lammps_bg.report import console
from lammps_bg.store import lock, status
from lammps_bg.store.lock import RunLock

HERE = socket.gethostname()


def run_of(folder, words, **entry):
    """A run directory as a job of those words left it."""
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"command": ["lammps-bg", *words]}))
    if entry:
        (folder / "status.json").write_text(json.dumps(entry))
    return folder


def entry(stage, *, seconds_ago=0.0, **more):
    updated = time.strftime(lock.TIME, time.gmtime(time.time() - seconds_ago))
    return {"stage": stage, "step": 4, "percent": 40.0, "ess": 0.25, "F": -4.5, "error": 0.01, "eta_seconds": 90.0, "updated": updated,
            "pid": os.getpid(), "host": HERE, "ranks": 2, "started": updated, **more}  # fmt: skip


def holder(**more):
    return json.dumps({"host": HERE, "pid": os.getpid(), "ranks": 2, "command": ["run"], "since": "2026-01-01T00:00:00Z", **more})


@pytest.mark.parametrize(("words", "resume"), [
    (["run", "-in", "in.lj", "--allow-red"], "lammps-bg run -out {} --resume --allow-red"),
    (["train", "-in", "in.lj"], "lammps-bg train -out {} --resume"),
    (["sample", "-model", "a"], "lammps-bg sample -out {} --resume"),
    (["md", "-in", "in.lj"], "mpirun -n 2 lammps-bg md -out {} --resume"),
    (["gibbs", "-model", "a"], "lammps-bg gibbs -model a"),
    (["phase", "-models", "a", "b"], "lammps-bg phase -models a b"),
])  # fmt: skip
def test_how_to_go_on_with_a_dead_job(tmp_path, words, resume):
    ranks = 2 if words[0] == "md" else 1
    found = status.examine(run_of(tmp_path / "a run", words, **entry("training", ranks=ranks)))
    assert (found.state, found.command) == ("dead", words[0])
    assert found.resume == resume.format(f"'{tmp_path}/a run'")
    assert bool(found.notes) == (words[0] in ("gibbs", "phase"))


def test_a_running_job(tmp_path, capsys):
    run = run_of(tmp_path / "run", ["run"], **entry("training", seconds_ago=100.0))
    held = RunLock(run, ("run",))
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out
    for text in (
        f"state      running; pid {os.getpid()} on {HERE}, 1 rank", "stage      training, step 4, 40.0 %", "ESS        25.0%",
        "beta F/N   -4.500 ± 0.010", "left       about 1 min 30 s", "updated    1 min 4",
    ):  # fmt: skip
        assert text in shown
    assert "continue" not in shown
    held.release()
    assert status.examine(run).state == "dead"


@pytest.mark.parametrize(("stage", "state"), [("done", "finished"), ("failed", "failed"), ("stopped", "stopped")])
def test_ended_jobs(tmp_path, stage, state):
    found = status.examine(run_of(tmp_path / "run", ["run"], **entry(stage, during="sampling", reason="a sentence")))
    assert (found.state, found.stage, found.step, found.reason) == (state, "sampling", 4, "a sentence")
    assert (found.resume is None) == (state == "finished")


def test_killed_before_its_first_word(tmp_path):
    """An earlier job said `stopped`, the one that continued it was killed at once."""
    run = run_of(tmp_path / "run", ["run"], **entry("stopped", pid=1))
    (run / "lock").write_text(holder())
    assert status.examine(run).state == "dead"
    held = RunLock(run, ("estimate",))
    found = status.examine(run)
    assert (found.state, found.stage, found.step) == ("running", "estimate", None)
    held.release()


def test_without_locks_the_process_is_asked_for(tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", ["run"], **entry("training"))
    monkeypatch.setattr(lock, "inspect", lambda folder: lock.LockState(None, None))
    assert status.examine(run).state == "running"
    for host, state in ((HERE, "dead"), ("elsewhere", "unknown")):
        (run / "status.json").write_text(json.dumps(entry("training", pid=2**22 + 1, host=host)))
        found = status.examine(run)
        assert found.state == state
        assert any("elsewhere" in note for note in found.notes) == (state == "unknown")


def test_a_lock_of_another_node_may_not_be_seen(tmp_path):
    run = run_of(tmp_path / "run", ["run"], **entry("training", pid=5, host="node7"))
    (run / "lock").write_text(holder(pid=5, host="node7"))
    found = status.examine(run)
    assert found.state == "dead"
    assert found.notes == ["where locks of this file system hold on one node only, ask node7 whether pid 5 runs there"]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("skew", [-7200.0, 10 * 365 * 86400.0])
def test_clocks_that_differ_decide_nothing(tmp_path, skew, held):
    run = run_of(tmp_path / "run", ["run"], **entry("training", seconds_ago=skew))
    (run / "checkpoint.pt").touch()
    os.utime(run / "checkpoint.pt", (time.time() - skew,) * 2)
    job = RunLock(run, ("run",)) if held else None
    found = status.examine(run)
    assert found.state == ("running" if held else "dead")
    assert found.age_seconds == pytest.approx(skew, abs=5)
    assert found.checkpoint_age_seconds == pytest.approx(skew, abs=5)
    assert [note.rpartition(" by ")[0] for note in found.notes] == (
        ["the clocks of this machine and of the run's differ"] if skew < 0 else []
    )
    assert any("2 h 0 min in the future" in line for line in shown.lines(found)) == (skew < 0)
    if job:
        job.release()


@pytest.mark.parametrize("name", ["status.json", "provenance.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b'{"stage": 3, "command": "x", "updated": 5}'])
def test_damaged_files_are_noted(tmp_path, name, content):
    run = run_of(tmp_path / "run", ["run"], **entry("training"))
    (run / name).write_bytes(content)
    found = status.examine(run)
    assert found.state == "dead"
    assert found.notes == ([f"{name} is damaged"] if len(content) < 5 else [])
    assert list(shown.lines(found))


def test_half_made_folders(tmp_path):
    """Only the lock so far."""
    held = RunLock(tmp_path, ("run", "-in", "in.lj"))
    assert (status.examine(tmp_path).state, status.examine(tmp_path).stage) == ("running", "starting")
    shutil.copy(tmp_path / "lock", tmp_path / "kept")
    held.release()
    (tmp_path / "kept").rename(tmp_path / "lock")
    found = status.examine(tmp_path)
    assert (found.state, found.resume) == ("dead", "lammps-bg run -in in.lj")


def test_what_is_no_run(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunDirectoryError, match="expected a run directory at"):
            status.examine(path)
    run = run_of(tmp_path / "run", ["run"], **entry("done"))
    assert main(["status", str(run), str(tmp_path / "nowhere"), str(run), "--json"]) == 2
    captured = capsys.readouterr()
    assert [one["state"] for one in json.loads(captured.out)] == ["finished", "finished"]
    assert captured.err.count("ERROR: ") == 1
    assert main(["status", str(tmp_path)]) == 2


def test_several_runs_are_a_table(tmp_path, capsys):
    runs = [run_of(tmp_path / name, ["run"], **entry(stage)) for name, stage in (("a", "done"), ("b", "training"))]
    assert main(["status", *map(str, runs)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [row.split()[1] for row in rows] == ["state", "finished", "dead"]
    assert "-4.500 ± 0.010" in rows[1]


def test_ess_while_sampling_is_that_of_the_table(tmp_path):
    run = run_of(tmp_path / "run", ["run"], **entry("sampling", ess=None))
    assert status.examine(run).ess is None
    (run / "samples.csv").write_text("sample,pe,log_q,log_w\n0,0,0,1.0\n1,0,0,1.0\n2,0,0,-inf\n3,0,0,1.0\n4,0,0,-5")
    assert status.examine(run).ess == pytest.approx(0.75)


def test_a_read_only_folder(undisturbed, tmp_path, capsys):
    run = undisturbed[0] / "run"
    before = {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))}
    assert main(["status", str(run), "--json"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))} == before
    found = json.loads(capsys.readouterr().out)
    results = json.loads((run / "results.json").read_text())
    assert (found["state"], found["ess"]) == ("finished", results["sampling"]["ess"])
    assert found["F"] == results["estimates"]["tfep"]["beta_F_per_atom"]["value"]
    assert found["ranks"] == 1


@pytest.mark.parametrize("begun", [0.0, 0.6])
def test_expected_time_is_right_after_a_tenth(monkeypatch, begun):
    """A synthetic clock: steps of random length, mean 1 s; after a tenth of what there is to do the estimate is within 30 %.

    With 100 steps of relative spread 0.5, the mean of the first tenth has an error of 16 %; the seed is fixed.
    """
    now, lengths = [1000.0], np.random.default_rng(2).gamma(4.0, 0.25, 100)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Console(quiet=True).stage("training") as bar:
        assert bar.update(begun) is None
        for index, length in enumerate(lengths[:10], 1):
            now[0] += length
            eta = bar.update(begun + (1 - begun) * index / len(lengths))
    assert eta == pytest.approx(lengths[10:].sum(), rel=0.3)


def test_a_job_tells_who_it_is_and_why_it_ended(tmp_path):
    folder = jobs.scripted(tmp_path)
    job = jobs.Job([*jobs.RUN, "--set", "train.steps=100000"], folder)
    assert jobs.wait_until(job, lambda: jobs.stage_of(folder / "run") == "training" and status.examine(folder / "run").step)
    found = status.examine(folder / "run")
    assert (found.state, found.stage, found.pid, found.host, found.ranks) == ("running", "training", job.pid, HERE, 1)
    assert found.step >= 1
    job.kill(15)
    assert job.wait() == 75
    found = status.examine(folder / "run")
    assert (found.state, found.stage, found.resume) == (
        "stopped",
        "training",
        f"lammps-bg run -out {folder}/run --resume --allow-red",
    )
    assert found.reason.startswith("stopped by SIGTERM; step ")
