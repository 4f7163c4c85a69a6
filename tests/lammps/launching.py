# SPDX-License-Identifier: GPL-2.0-or-later
"""The command in processes of its own, on several MPI ranks."""

import json
import subprocess
import sys
import time
from pathlib import Path

COMMAND = "import sys; from lammps_bg.cli import main; sys.exit(main())"


def on_ranks(ranks, *words, code=COMMAND):
    """The words of a Python program, under the mpirun beside this Python for several ranks."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), *command] if ranks > 1 else command


def launched(words, ranks=1, *, code=COMMAND):
    """`lammps-bg words...`, started."""
    return subprocess.Popen(on_ranks(ranks, *words, code=code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(words, ranks, code=0):
    """`lammps-bg words...` from start to end: what it said."""
    process = launched(words, ranks)
    out, error = process.communicate(timeout=200)
    assert process.returncode == code, error
    return out, error


def wait_for(process, path, stage=None):
    """Wait until status.json tells of a step, in a stage where one is given."""
    patience = time.monotonic() + 120
    while not _reached(path, stage):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.02)


def _reached(path, stage):
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    return bool(found.get("step")) and stage in (None, found["stage"])
