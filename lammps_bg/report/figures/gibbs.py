# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies: the well of F + P V over the volume, and the volume over the pressure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures.style import INK, Data, FigureKind, fill_band, legend_of_states, literal, new_figure, reach

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 8  # curves that can be told apart


def gibbs_data(run: RunContents) -> Data | None:
    """What `gibbs` stored for its figure; None where it did not."""
    return dict(run.curves) or None


def draw_gibbs(data: Mapping[str, Any]) -> "Figure":
    """The figure of `gibbs`.

    Args:
        data: `wells` and `isotherms` with their curves, `md` with volumes of constant-pressure dynamics, `labels` of the axes.
    """
    figure, (left, right) = new_figure(4.6, 9.0, ncols=2)
    for index, well in enumerate(data["wells"][:_MOST]):
        colour = f"C{index}"
        left.plot(well["volume"], well["curve"], color=colour, label=literal(well["label"]))
        left.plot(well["at"], well["points"], "o", color=colour, markersize=3.5)
        left.axvline(well["minimum"], color=colour, linestyle=":", linewidth=0.8)
    tops = [max(well["curve"]) for well in data["wells"]]
    left.set(xlabel=data["labels"]["volume"], ylabel="(F + PV − G) / N (kT)", ylim=(-0.04 * max(tops), 1.04 * max(tops)))
    for index, isotherm in enumerate(data["isotherms"][:_MOST]):
        colour = f"C{index}"
        volume, error = np.asarray(isotherm["volume"]), np.asarray(isotherm["error"])
        right.plot(isotherm["pressure"], volume, color=colour, label=literal(isotherm["label"]))
        fill_band(right, isotherm["pressure"], volume, error, colour)
        right.plot(isotherm["asked_pressure"], isotherm["asked_volume"], "o", color=colour, markersize=4)
    if data["md"]:
        md = data["md"]
        right.errorbar(
            [row["pressure"] for row in md], [row["md"]["value"] for row in md],
            reach([row["md"]["error"] for row in md]),
            fmt="s", color=INK, markersize=5, fillstyle="none", label="NPT MD",
        )  # fmt: skip
    right.set(xlabel=data["labels"]["pressure"], ylabel=data["labels"]["volume"])
    for axes in (left, right):
        legend_of_states(axes)
    return figure


FIGURES = (
    FigureKind(
        "gibbs",
        "Free energy over the volume at each pressure, and volume over pressure",
        gibbs_data,
        draw_gibbs,
        "Left: F + PV above its minimum, for each state and pressure; points are the cells that were evaluated, dotted lines the minima. Good: "
        "one well with its minimum far from both ends. Right: volume over pressure with a band of 95 %; circles are the "
        "pressures asked for, squares NPT dynamics, which should lie on the curve.",
        "This folder has no curves.json; evaluate it again: lammps-bg gibbs -model RUN -out NEW.",
    ),
)
