# SPDX-License-Identifier: GPL-2.0-or-later
"""How a result looks in a notebook: its number, its verdict, a table, and a small figure where matplotlib is installed."""

import base64
import io
from collections.abc import Callable, Iterable
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.figures.style import COLOURS, new_figure, styled
from lammps_bg.thermo.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 80
_LIGHTS = {"green": "#2E7D32", "amber": "#B26A00", "red": "#C62828"}


def card(
    number: str,
    about: str,
    *,
    verdict: Verdict | None = None,
    rows: Iterable[tuple[str, str]] = (),
    draw: "Callable[[], Figure] | None" = None,
) -> str:
    """A result as HTML.

    Args:
        number: The result in a few words, with error and unit.
        about: What it is of.
        verdict: What to think of it.
        rows: Further numbers by name.
        draw: Makes the figure; left out where matplotlib is not installed.
    """
    parts = [f"<b>{escape(number)}</b> <span style='color:#666'>{escape(about)}</span>"]
    if verdict is not None:
        words = " ".join([*verdict.reasons, verdict.next_step])
        parts.append(f"<span style='color:{_LIGHTS[verdict.colour]}'>&#9679; {verdict.colour}</span>: {escape(words)}")
    cells = "".join(f"<tr><td style='text-align:left'>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    if cells:
        parts.append(f"<table>{cells}</table>")
    if draw is not None and find_spec("matplotlib"):
        parts.append(f"<img alt='{escape(about, quote=True)}' src='data:image/png;base64,{_png(draw)}'>")
    return "".join(f"<div>{part}</div>" for part in parts)


def histogram(values: NDArray[np.float64], kind: str, label: str) -> "Figure":
    """A small histogram.

    Args:
        values: The numbers; what is not finite is left out, shape [n].
        kind: Ensemble that they are of, which sets the colour.
        label: Below the axis, with the unit.
    """
    figure, axes = new_figure(1.9, 4.2)
    finite = values[np.isfinite(values)]
    if len(finite):
        axes.hist(finite, bins=min(40, max(8, round(len(finite) ** 0.5))), density=True, color=COLOURS[kind], alpha=0.8)
    axes.set(xlabel=label, ylabel="density")
    axes.locator_params(axis="x", nbins=5)
    return figure


def _png(draw: "Callable[[], Figure]") -> str:
    stream = io.BytesIO()
    with styled():
        draw().savefig(stream, format="png", dpi=_DPI)
    return base64.b64encode(stream.getvalue()).decode()
