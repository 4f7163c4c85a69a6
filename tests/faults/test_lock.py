# SPDX-License-Identifier: GPL-2.0-or-later
"""Two jobs in one folder: the second is refused by a sentence that names the first, and a killed one hinders nobody."""

import errno
import fcntl
import json
import logging
import os
import threading
import time

import jobs
import pytest

from lammps_bg.errors import FullDiskError, RunDirectoryError
from lammps_bg.store import lock, status
from lammps_bg.store.job import present_job
from lammps_bg.store.lock import RunLock
from lammps_bg.store.run_directory import RunDirectory

LONG = [*jobs.RUN, "--set", "train.steps=100000"]


@pytest.fixture(autouse=True)
def _end_of_the_command():
    yield
    present_job().release_all()


def test_two_jobs_in_one_folder(tmp_path):
    """Really two processes: neither a new run nor --resume touches the folder; after kill -9 of the first, --resume goes on."""
    folder = jobs.scripted(tmp_path)
    first = jobs.Job(LONG, folder)
    assert jobs.wait_until(first, (folder / "run" / "checkpoint.pt").exists)
    for words in (LONG, ["run", "--resume", "-out", "run"], ["report", "run"]):
        second = jobs.Job(words, folder)
        assert second.wait() == 2
        assert second.error.startswith(
            f"ERROR: expected a run folder that no other job uses, got {folder}/run in use by pid {first.pid}"
        )
        assert second.error.rstrip().endswith("wait for it, or give another -out")
    assert first.alive
    assert status.examine(folder / "run").state == "running"
    first.kill()
    assert first.wait() == -9
    assert status.examine(folder / "run").state == "dead"
    third = jobs.Job([*jobs.continued(LONG, folder / "run"), "--set", "train.steps=3"], folder)
    assert third.wait() == 0, third.error
    assert not (folder / "run" / "lock").exists()


def test_a_folder_is_made_by_one_job_only(tmp_path):
    """Two jobs that found the folder empty at the same moment: one gets it."""
    RunDirectory.create(tmp_path / "run")
    state = lock.inspect(tmp_path / "run")
    assert (state.held, state.holder.pid) == (True, os.getpid())
    with pytest.raises(RunDirectoryError, match=rf"in use by pid {os.getpid()} on .* since 20"):
        RunLock(tmp_path / "run", ())
    present_job().release_all()
    assert list((tmp_path / "run").iterdir()) == []


def test_the_file_of_a_killed_job_is_taken_over(tmp_path):
    (tmp_path / "lock").write_text(
        '{"host": "elsewhere", "pid": 1, "ranks": 1, "command": ["run"], "since": "2020-01-01T00:00:00Z"}'
    )
    assert lock.inspect(tmp_path).holder.host == "elsewhere"
    present_job().hold(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": 1}'])
def test_a_garbled_file_is_no_obstacle(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    assert lock.inspect(tmp_path) == lock.LockState(False, None)
    present_job().hold(tmp_path)
    assert lock.inspect(tmp_path).held


def test_a_glance_of_status_does_not_hinder_a_job(tmp_path):
    """`status` holds a shared lock for an instant."""
    (tmp_path / "lock").touch()
    handle = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [handle]).start()
    start = time.monotonic()
    present_job().hold(tmp_path)
    assert time.monotonic() - start >= 0.15


def test_the_file_that_its_holder_removes_is_not_taken(tmp_path, monkeypatch):
    """A job opens the file, the holder removes it and ends: a lock on the removed file would protect nothing."""
    first, flock, ended = RunLock(tmp_path, ()), fcntl.flock, []

    def just_then(handle, operation):
        if not ended:  # between the second one's open() and its flock()
            ended.append(first.release())
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", just_then)
    second = RunLock(tmp_path, ())
    assert ended
    assert os.stat(tmp_path / "lock").st_ino == os.fstat(second._handle).st_ino
    assert lock.inspect(tmp_path).held
    second.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, caplog, code):
    def none_here(handle, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none_here)
    with caplog.at_level(logging.WARNING):
        present_job().hold(tmp_path)
        present_job().hold(tmp_path)
    assert len(caplog.records) == 1
    assert "has no locks" in caplog.text
    assert lock.inspect(tmp_path).held is None


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(FullDiskError, match="lock but the disk is full"):
        present_job().hold(tmp_path)
    assert list(tmp_path.iterdir()) == []
