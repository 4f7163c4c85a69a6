# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGUSR1 and SIGTERM, as queues send them, and Ctrl-C, at random moments of each stage: saved, said, and completed by --resume."""

import json
import random
import signal

import jobs
import pytest

from lammps_bg.store import status
from lammps_bg.store.trajectory import TrajectoryFiles
from lammps_bg.training import checkpoint

CASES = [
    pytest.param("base", signal.SIGTERM, 75, marks=pytest.mark.slow),
    ("training", signal.SIGUSR1, 75),
    pytest.param("training", signal.SIGINT, 130, marks=pytest.mark.slow),
    ("sampling", signal.SIGTERM, 75),
]


@pytest.mark.parametrize(("stage", "number", "code"), CASES, ids=lambda value: getattr(value, "name", None))
def test_stopped_in_a_stage(tmp_path, samples, stage, number, code):
    generator, folder = random.Random(f"{stage} {number}"), jobs.scripted(tmp_path)
    run, place = folder / "run", generator.randint(2, 7)

    def reached():
        if stage == "base":
            return jobs.stage_of(run) == "base"
        table, line = (run / "train.csv", place) if stage == "training" else (run / "samples.csv", 32 * place)
        return table.exists() and table.read_text().count("\n") > line

    job = jobs.Job(jobs.RUN, folder)
    assert jobs.wait_until(job, reached), job.error
    job.kill(number)
    assert job.wait() == code, job.error
    said = [line for line in job.error.splitlines() if "WARNING" not in line]
    assert len(said) == 1
    assert said[0].startswith(f"ERROR: stopped by {number.name}; ")
    assert said[0].endswith("continue with --resume")
    found = status.examine(run)
    assert (found.state, found.stage) == ("stopped", stage)
    assert f"ERROR: {found.reason}" == said[0]
    assert not (run / "lock").exists()
    if stage == "training":
        assert f"step {checkpoint.load(run / 'checkpoint.pt')['step']} is saved" in said[0]
    job = jobs.Job(jobs.continued(jobs.RUN, run), folder)
    assert job.wait() == 0, job.error
    assert (run / "samples.csv").read_text() == samples
    assert status.examine(run).state == "finished"
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)])
def test_stopped_dynamics(tmp_path, number, code):
    folder, generator = jobs.scripted(tmp_path), random.Random(int(number))
    run, frames = folder / "run", 50 * generator.randint(1, 3)
    job = jobs.Job([*jobs.MD, "--set", "md.n_frames=100000"], folder)
    assert jobs.wait_until(job, lambda: (status.examine(run).step or 0) >= frames if (run / "status.json").exists() else False)
    job.kill(number)
    assert job.wait() == code, job.error
    kept = len(TrajectoryFiles(run / "trajectories", "nvt-00").load())
    assert kept >= frames
    assert status.examine(run).state == "stopped"
    job = jobs.Job([*jobs.continued(jobs.MD, run), "--set", "md.n_frames=50"], folder)
    assert job.wait() == 0, job.error
    assert json.loads((run / "results.json").read_text())["md"]["n_independent"] >= 50
    assert len(TrajectoryFiles(run / "trajectories", "nvt-00").load()) >= kept
