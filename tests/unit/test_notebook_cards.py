# SPDX-License-Identifier: GPL-2.0-or-later
"""What a notebook shows of a result: number, verdict, table, and a figure only where matplotlib is installed."""

import base64
import re

import numpy as np
import pytest

from lammps_bg.report import notebook
from lammps_bg.report.notebook import card, histogram
from lammps_bg.thermo.verdict import Verdict

AMBER = Verdict("amber", ("The tail is <heavy>.",), True, "Draw more.")


def drawn():
    return histogram(np.array([0.0, 1.0, 2.0, np.nan, -np.inf]), "flow", "ln w")


def test_number_verdict_and_rows_are_escaped():
    shown = card("F = -1.0 ± 0.1 kT", "of X & Y", verdict=AMBER, rows=[("a < b", "3")])
    assert "<b>F = -1.0 ± 0.1 kT</b>" in shown
    assert "of X &amp; Y" in shown
    assert "amber</span>: The tail is &lt;heavy&gt;. Draw more." in shown
    assert "<td style='text-align:left'>a &lt; b</td><td>3</td>" in shown
    assert "<img" not in shown


def test_the_figure_is_a_small_png():
    (data,) = re.findall(r"src='data:image/png;base64,([^']*)'", card("1", "of it", draw=drawn))
    png = base64.b64decode(data)
    assert png.startswith(b"\x89PNG")
    assert len(png) < 20_000


def test_without_matplotlib_the_text_remains(monkeypatch):
    monkeypatch.setattr(notebook, "find_spec", lambda name: None)
    assert card("1", "of it", verdict=AMBER, draw=drawn) == card("1", "of it", verdict=AMBER)


@pytest.mark.parametrize("values", [[], [np.nan], [1.0], [2.0, 2.0]])
def test_a_histogram_of_little(values):
    assert histogram(np.array(values, dtype=np.float64), "exact", "U").axes
