# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that fills up while a job runs: one sentence, exit code 1, the last good files stay, and --resume completes the run.

On a small disk of its own where this user may mount one; and always by the limit of the system on the length of files, set on the
running job, so that the case is tested everywhere.
"""

import json
import os
import resource
import subprocess
from contextlib import contextmanager

import jobs
import pytest

from lammps_bg.training import checkpoint

_SMALL = 4096  # bytes: what a job says and status.json are shorter, all else is longer


class FileLimit:
    """No file of the job can grow any more."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self, job):
        resource.prlimit(job.pid, resource.RLIMIT_FSIZE, (_SMALL, _SMALL))

    def free(self):
        pass


class SmallDisk:
    """A disk of 64 MB, filled to the last byte."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self, job):
        with open(self.folder / "filler", "wb", buffering=0) as stream:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        stream.write(bytes(size))
                except OSError:
                    continue

    def free(self):
        (self.folder / "filler").unlink()


@contextmanager
def mounted(folder, options):
    """A file system in memory; nothing where it may not be mounted."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    try:
        yield made.returncode == 0
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(params=[pytest.param("disk", marks=pytest.mark.slow), "limit"])
def disk(request, tmp_path):
    if request.param == "limit":
        yield FileLimit(tmp_path)
        return
    try:
        with mounted(tmp_path / "small", "size=64m") as done:
            yield SmallDisk(tmp_path / "small") if done else FileLimit(tmp_path)
    except FileNotFoundError:  # no mount command
        yield FileLimit(tmp_path)


def refused_for_space(job):
    code, error = job.wait(), job.error
    said = [line for line in error.splitlines() if "WARNING" not in line]
    assert code == 1, error
    assert len(said) == 1, error
    assert said[0].startswith("ERROR: expected to write ")
    assert "the disk is full" in said[0] or "ulimit -f" in said[0]
    assert "free some space and continue with --resume" in said[0]


def test_full_at_a_checkpoint(disk, samples):
    """Neither the checkpoint before nor anything else is lost."""
    folder = jobs.scripted(disk.folder / "a")
    run = folder / "run"
    job = jobs.Job([*jobs.RUN, "--set", "train.steps=100000"], folder)
    assert jobs.wait_until(job, (run / "checkpoint.pt").exists)
    disk.fill(job)
    refused_for_space(job)
    step = checkpoint.load(run / "checkpoint.pt")["step"]
    assert step >= 1
    assert not (run / "model.pt").exists()
    assert not list(run.rglob("*.tmp"))
    json.loads((run / "status.json").read_text())
    disk.free()
    job = jobs.Job([*jobs.continued(jobs.RUN, run), "--set", f"train.steps={step + 2}"], folder)
    assert job.wait() == 0, job.error
    assert f"continues at step {step}" in (disk.folder / "a" / "out.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["disk"], indirect=True)
def test_full_while_sampling(disk, samples):
    folder = jobs.scripted(disk.folder / "a")
    run = folder / "run"
    job = jobs.Job(jobs.RUN, folder)
    assert jobs.wait_until(job, lambda: (run / "samples.csv").exists() and (run / "samples.csv").read_text().count("\n") > 96)
    disk.fill(job)
    refused_for_space(job)
    assert checkpoint.load(run / "model.pt")["version"] == checkpoint.FORMAT_VERSION
    disk.free()
    job = jobs.Job(jobs.continued(jobs.RUN, run), folder)
    assert job.wait() == 0, job.error
    assert (run / "samples.csv").read_text() == samples
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
def test_full_at_the_start(tmp_path):
    """Refused before any work where the free space can be seen; by the first file where it cannot."""
    folder = jobs.scripted(tmp_path)
    job = jobs.Job([*jobs.RUN, "--set", f"sample.n_samples={10**12}", "--set", f"sample.n_dump={10**12}"], folder)
    assert job.wait() == 2
    assert "MB of free disk for this run" in job.error
    assert sorted(path.name for path in folder.iterdir()) == ["in.lj"]
    job = jobs.Job(jobs.RUN, folder, largest_file=1024)
    refused_for_space(job)
    job = jobs.Job(jobs.RUN, folder)  # what was left is no obstacle
    assert job.wait() == 0, job.error


def test_a_read_only_folder(finished, tmp_path):
    """One sentence before any work; what only reads works."""
    with mounted(tmp_path / "disk", "size=4m") as done:
        place = tmp_path / "disk"
        folder = jobs.copied(finished, place)
        if done:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        elif os.getuid():
            for path in (folder, folder / "run"):
                path.chmod(0o555)
        else:
            pytest.skip("a superuser who may not mount writes to every folder; test_run_directory.py has this case by a stand-in")
        run, new = (
            str(folder / "run"),
            [str(place / "new") if word == "run" and index else word for index, word in enumerate(jobs.RUN)],
        )
        for words in (new, ["run", "--resume", "-out", run], ["report", run], ["estimate", "-model", run]):
            job = jobs.Job(words, finished)
            assert job.wait() == 2, words
            assert "is read-only" in job.error
        job = jobs.Job(["status", run], finished)
        assert job.wait() == 0, job.error
        assert "finished" in (finished.parent / "out.txt").read_text()
        for path in (folder, folder / "run"):
            if not done:
                path.chmod(0o755)
