# SPDX-License-Identifier: GPL-2.0-or-later
"""Phase diagrams: the difference of two Gibbs free energies along an axis, and the coexistence line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures.style import INK, Data, FigureKind, fill_band, legend_of_states, literal, new_figure, reach

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 10  # curves that can be told apart


def phases_data(run: RunContents) -> Data | None:
    """What `phase` stored for its figure; None where it did not."""
    return dict(run.curves) or None


def draw_phases(data: Mapping[str, Any]) -> "Figure":
    """The figure of `phase`.

    Args:
        data: `curves` along the `axis`, `lines` over a second one, labels.
    """
    figure, panels = new_figure(3.8, 9.0 if data["lines"] else 5.4, ncols=2 if data["lines"] else 1, squeeze=False)
    left = panels[0, 0]
    left.axhline(0.0, color=INK, linewidth=0.8)
    for index, curve in enumerate(data["curves"][:_MOST]):
        colour = f"C{index}"
        x, y, error = (np.asarray(curve[name]) for name in ("x", "y", "error"))
        left.plot(x, y, color=colour, marker="o" if len(x) < 12 else "", markersize=4, label=literal(curve["label"]))
        fill_band(left, x, y, error, colour)
        left.plot(curve["roots"], np.zeros(len(curve["roots"])), "|", color=colour, markersize=14)
    left.set(xlabel=literal(data["axis"]), ylabel=data["energy"])
    legend_of_states(left)
    if data["lines"]:
        right = panels[0, 1]
        for line in data["lines"]:
            right.errorbar(line["x"], line["y"], reach(line["error"]), fmt="o-", capsize=2, label=literal(line["label"]))
        right.set(xlabel=literal(data["lines"][0]["outer"]), ylabel=literal(data["axis"]))
        legend_of_states(right)
    return figure


FIGURES = (
    FigureKind(
        "phases",
        "Difference of Gibbs free energies along the axis, and the coexistence line",
        phases_data,
        draw_phases,
        "Left: difference of the Gibbs free energies per atom with a band of 95 %; below zero the second crystal is the stable "
        "one, ticks mark the crossings. Good: a band that is narrow where it crosses zero. Right, where a second axis varies: the crossings "
        "over it, the coexistence line.",
        "This folder has no curves.json; compare again: lammps-bg phase -models A B --axis P -out NEW.",
    ),
)
