# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditional models that several modules use: trained once, for seconds."""

import os
import shutil

import pytest
from command_line import call
from conditional_runs import GSW, MODELS
from filelock import FileLock
from lammps_scripts import INPUTS

from lammps_bg.cli import main


@pytest.fixture(scope="session")
def crystals(tmp_path_factory):
    """A folder with trained models of generalised Stillinger-Weber crystals, see `MODELS`; trained once for all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "crystals"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _train(folder.with_name("crystals_in_work"))
            folder.with_name("crystals_in_work").rename(folder)
    return folder


def _train(folder):
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("LAMMPS_POTENTIALS", "")
        for name in GSW:
            shutil.copy(INPUTS / name, folder)
        for name, words in MODELS.items():
            assert main(["train", *words, "-out", name]) == 0


@pytest.fixture
def models(crystals, tmp_path, monkeypatch):
    """A copy of these models as the current folder."""
    shutil.copytree(crystals, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LAMMPS_POTENTIALS", "")
    return tmp_path


@pytest.fixture
def refused_by_models(models, capsys):
    """Calls the command and expects one sentence, exit code 2, and an untouched folder."""

    def call_and_expect(message, *words):
        spoken = call(capsys, models, *words)
        assert spoken.code == 2
        assert spoken.error.count("ERROR: ") == 1
        assert message in spoken.error
        assert "Traceback" not in spoken.error
        assert spoken.changed == set()

    return call_and_expect
