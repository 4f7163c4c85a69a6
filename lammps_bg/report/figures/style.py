# SPDX-License-Identifier: GPL-2.0-or-later
"""What a figure is, and how all of them look: one palette, one set of axes, one way to PNG and SVG.

A bar or a band that is drawn is an interval of 95 %: `reach` of its standard error to either side. matplotlib is imported where it
is used.
"""

import importlib
import io
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.errors import LammpsBGError
from lammps_bg.files import replaced
from lammps_bg.report.contents import RunContents
from lammps_bg.results import ENSEMBLES, NORMAL_95

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Data = dict[str, Any]
"""What a figure shows, as it stands in figures/<name>.json."""

# Okabe & Ito: apart for every kind of colour vision; line styles tell them apart in grey print.
COLOURS = {"base": "#8A8A8A", "flow": "#0072B2", "reweighted": "#009E73", "exact": "#7B3294", "md": "#D55E00"}
LINES = {"base": ":", "flow": "--", "reweighted": "-", "exact": "-", "md": "-"}
INK, FALL, RISE = "#222222", "#56B4E9", "#E69F00"
WIDTH, HEIGHT = 8.4, 3.7
"""Size of a plain figure, inches."""
_DPI = 200
_LONG_LABEL = 36  # characters of which two fit beside each other over half a figure

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 9.0,
    "mathtext.fontset": "dejavusans",
    "axes.edgecolor": "#555555",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.useoffset": False,
    "grid.color": "#ECEEF1",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "lammps-bg",
    "path.simplify_threshold": 0.3,
}


COMPARE = "lammps-bg md -model RUN -out MDRUN, then lammps-bg estimate -model RUN -md MDRUN"


@dataclass(frozen=True)
class FigureKind:
    """One figure, with what the reader has to know: how to read it, and how to get one that is missing.

    Attributes:
        name: Of its files.
        alternative: What it shows, for readers who cannot see it.
        data: What it shows in this run; None where the run has no such data.
        draw: Draws the data.
        reading: How to read it, and what good looks like.
        missing: What to do to get it.
        reading_md: How to read it in a report on molecular dynamics, where that differs.
    """

    name: str
    alternative: str
    data: Callable[[RunContents], Data | None]
    draw: Callable[[Data], "Figure"]
    reading: str
    missing: str
    reading_md: str = ""


class ReportError(LammpsBGError):
    """No report can be made on this machine; the run is complete without it."""


def require_package(name: str) -> Any:  # noqa: ANN401  (a module)
    """A package of the group `plot`.

    Raises:
        ReportError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ReportError(
            f"expected the package {name} for the report but it cannot be imported ({error}); run: pip install 'lammps-bg[plot]'"
        ) from error


def render(draw: Callable[[Data], "Figure"], data: Data) -> tuple[bytes, bytes]:
    """Draw a figure; returns it as SVG and as PNG."""
    with styled():
        figure = draw(data)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=_DPI)
    return svg.getvalue(), png.getvalue()


def save(draw: Callable[[Data], "Figure"], data: Data, path: Path) -> None:
    """Draw a figure into a PNG file."""
    with styled(), replaced(path, durable=False) as temporary:
        draw(data).savefig(temporary, format="png", dpi=_DPI)


def styled() -> AbstractContextManager[None]:
    """How figures look, while they are drawn; ReportError without matplotlib."""
    context: AbstractContextManager[None] = require_package("matplotlib.style").context(["default", _STYLE])
    return context


def new_figure(height: float = HEIGHT, width: float = WIDTH, **panels: Any) -> tuple["Figure", Any]:  # noqa: ANN401
    """A figure and its axes.

    Args:
        height: Height, inches.
        width: Width, inches.
        panels: As for `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**panels)


def reach(error: ArrayLike) -> Array:
    """Half the width of a 95 % interval, from a standard error."""
    return NORMAL_95 * np.asarray(error, dtype=np.float64)


def draw_density(axes: "Axes", kind: str, edges: Array, entry: Mapping[str, Any], *, label: str | None = None) -> None:
    """A normalised histogram as steps with error bars; the reference and the base are filled, so that lines stay readable.

    Args:
        axes: Where to draw.
        kind: Ensemble, which sets the colour.
        edges: Edges of the bins, shape [n + 1].
        entry: Mapping with `density` and `error`, shape [n].
        label: Legend; the name of the ensemble where there is none.
    """
    height, error = (np.array(entry[name], dtype=np.float64) for name in ("density", "error"))
    colour = COLOURS[kind]
    if kind in ("base", "md"):
        axes.stairs(height, edges, fill=True, color=colour, alpha=0.16, linewidth=0)
    axes.stairs(height, edges, color=colour, linestyle=LINES[kind], linewidth=1.5, label=label or ENSEMBLES[kind])
    shown = height > 0
    centres = 0.5 * (edges[1:] + edges[:-1])
    axes.errorbar(centres[shown], height[shown], reach(error[shown]), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)


def draw_curve(axes: "Axes", kind: str, x: Array, y: Array, error: Array) -> None:
    """A curve with a band of 95 %.

    Args:
        axes: Where to draw.
        kind: Ensemble, which sets colour and legend.
        x: Abscissa, shape [n].
        y: Ordinate, nan where unknown, shape [n].
        error: Standard error of `y`, shape [n].
    """
    fill_band(axes, x, y, error, COLOURS[kind])
    axes.plot(x, y, color=COLOURS[kind], linestyle=LINES[kind], linewidth=1.3, label=ENSEMBLES[kind])


def fill_band(axes: "Axes", x: Array, y: Array, error: Array, colour: str) -> None:
    """A band of 95 % around a curve, from its standard error, shape [n]."""
    axes.fill_between(x, y - reach(error), y + reach(error), color=colour, alpha=0.25, linewidth=0)


def thousands(values: Array) -> tuple[float, str]:
    """A factor that brings numbers to the order of one, and the power of ten to write before their unit.

    Args:
        values: The numbers; nan is left out.
    """
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    power = 3 * int(np.floor((np.log10(largest) + 1.0) / 3)) if largest > 0.0 else 0
    if power == 0:
        return 1.0, ""
    return 10.0**-power, f"10$^{{{power}}}$ "


def legend_above(axes: "Axes", columns: int = 4, *, marker: float = 1.0) -> None:
    """A legend over the axes, where it hides nothing.

    Args:
        axes: Whose legend.
        columns: Entries in one row.
        marker: Size of its markers relative to those on the axes.
    """
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2, handlelength=2.2, markerscale=marker
        )


def legend_of_states(axes: "Axes") -> None:
    """A legend over the axes in small print, for names as long as that of a state."""
    labels = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, labels), default=0) <= _LONG_LABEL else 1
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        fontsize=6.5,
        handlelength=1.2,
        columnspacing=1.0,
    )


def literal(text: str) -> str:
    """A name that a user may have chosen, without mathematics in it."""
    return text.replace("$", r"\$")


def column(data: Mapping[str, Any], name: str) -> Array:
    """A list of the figure's data as numbers, null as nan."""
    return np.array(data[name], dtype=np.float64)
