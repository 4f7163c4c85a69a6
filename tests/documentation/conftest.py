# SPDX-License-Identifier: GPL-2.0-or-later
"""A place where the pages can be tried: their programs first in PATH, and a copy of what a clone of the repository holds."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import preloaded
import pytest
from pages import ROOT

_PATIENCE = 120.0  # seconds until the preloaded process must answer, on a busy machine
_LONGEST = 900.0  # seconds for one block, which takes up to 40 on an idle core


@dataclass(frozen=True)
class Workshop:
    """Runs the blocks of one page after the other in one folder.

    Attributes:
        folder: A copy of the inputs and examples; the commands run here.
        environment: Variables of the commands.
    """

    folder: Path
    environment: dict[str, str]

    def do(self, text, language="sh"):
        """Run the text of a block; returns what happened, output and errors together."""
        command = ["bash", "-e", "-o", "pipefail"] if language == "sh" else ["python", self.script(text)]
        spoken = text if language == "sh" else ""
        return subprocess.run(
            command,
            input=spoken,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST,
            check=False,
        )

    def script(self, text):
        """A file with the text of a Python block."""
        path = self.folder / "block.py"
        path.write_text(text)
        return str(path)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A folder with `lammps-bg` and `python`, which hand over to one preloaded process."""
    folder = tmp_path_factory.mktemp("programs")
    door, store = folder / "door", folder / "kept"
    store.mkdir()
    for kind in ("lammps-bg", "python"):
        preloaded.client(folder / kind, kind, door)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(preloaded.__file__)), str(door), str(store)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
        patience = time.monotonic() + _PATIENCE
        while not door.exists():
            assert serving.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.05)
        yield folder
        serving.kill()


@pytest.fixture
def workshop(programs, tmp_path):
    """A fresh copy of the repository's inputs and examples."""
    for name in ("inputs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    hidden = {"LAMMPS_POTENTIALS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return Workshop(tmp_path, {**os.environ, **hidden, "PATH": path})
