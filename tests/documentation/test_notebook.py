# SPDX-License-Identifier: GPL-2.0-or-later
"""The notebooks run from their first cell to their last, and are stored with what they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import notebooks
import pytest
from pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SMALL = {
    "steps": 5,
    "n_samples": 64,
    "n_exact": 20,
    "n_frames": 50,
    "settings": {
        "flow.width": 8, "base.pilot_steps": 0, "base.n_samples": 50, "exact.max_evaluations": 4000, "sample.n_samples": 64,
        "md.timestep": 4, "md.damp": 40,
    },
}  # fmt: skip
"""Little effort, for the variables of the first code cell."""


def test_there_is_one():
    assert [path.name for path in NOTEBOOKS] == ["ice.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs(path, workshop):
    """In a fresh process, in its own folder, with every package that the environment has."""
    words = [f"{name}={value!r}" for name, value in SMALL.items()]
    command = [
        sys.executable,
        "-W",
        "error::FutureWarning",
        notebooks.__file__,
        str(workshop.folder / "examples" / path.name),
        *words,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, env=environment, cwd=workshop.folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_is_stored_with_its_outputs(path):
    """From one run in order, without an error, with the results as HTML; nobody's folders are in it."""
    cells = notebooks.code_cells(json.loads(path.read_text(encoding="utf-8")))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "error" not in kinds
    assert sum("text/html" in output.get("data", {}) for cell in cells for output in cell["outputs"]) >= 4
    shown = json.dumps([cell["outputs"] for cell in cells])
    assert str(Path.home()) not in shown
    assert "/tmp/" not in shown


def test_what_a_cell_shows(tmp_path):
    """Printed text, the value of the last expression unless it ends in a semicolon; other values of the first cell; a failing cell fails."""
    sources = ["n = 1\nprint('n', n)", "n + 1", "n;", "raise ValueError('no')"]
    path = tmp_path / "a.ipynb"

    def stored(count):
        path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [text]} for text in sources[:count]]}))
        return path

    here = Path.cwd()
    try:
        printed, value, nothing = (cell["outputs"] for cell in notebooks.run(stored(3), {"n": 5})["cells"])
        assert printed == [{"output_type": "stream", "name": "stdout", "text": ["n 1\n"]}]
        assert value[0]["data"] == {"text/plain": ["6"]}
        assert nothing == []
        with pytest.raises(KeyError, match="expected variables of the first code cell"):
            notebooks.run(path, {"m": 5})
        with pytest.raises(ValueError, match="no"):
            notebooks.run(stored(4))
    finally:
        os.chdir(here)
