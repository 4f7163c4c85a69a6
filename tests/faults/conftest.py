# SPDX-License-Identifier: GPL-2.0-or-later
"""An undisturbed run that the disturbed ones are compared with, and how often these are killed."""

import time

import jobs
import pytest


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=100, help="kills of the suite `make faults` (default: 100)")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Folder of a finished run of `jobs.RUN`, and its seconds."""
    folder = jobs.scripted(tmp_path_factory.mktemp("undisturbed"))
    assert jobs.Job(["config"], folder).wait() == 0  # from now on the server has loaded everything
    start = time.monotonic()
    job = jobs.Job(jobs.RUN, folder)
    assert job.wait() == 0, job.error
    return folder, time.monotonic() - start


@pytest.fixture
def samples(undisturbed):
    """Its samples.csv."""
    return (undisturbed[0] / "run" / "samples.csv").read_text()


@pytest.fixture
def finished(undisturbed, tmp_path, monkeypatch):
    """A copy of it as the current folder."""
    folder = jobs.copied(undisturbed[0], tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LAMMPS_POTENTIALS", "")
    return folder
