# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies: the well of F + P V over the volume, and the volume over the pressure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures.style import INK, Data, legend_of_states, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 8  # curves that can be told apart


def gibbs_data(run: RunContents) -> Data | None:
    """What `gibbs` stored for its figure; None where it did not.

    Args:
        run: The run.
    """
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
        right.fill_between(isotherm["pressure"], volume - error, volume + error, color=colour, alpha=0.3, linewidth=0)
        right.plot(isotherm["asked_pressure"], isotherm["asked_volume"], "o", color=colour, markersize=4)
    if data["md"]:
        md = data["md"]
        right.errorbar(
            [row["pressure"] for row in md], [row["md"]["value"] for row in md], [row["md"]["error"] for row in md],
            fmt="s", color=INK, markersize=5, fillstyle="none", label="NPT MD",
        )  # fmt: skip
    right.set(xlabel=data["labels"]["pressure"], ylabel=data["labels"]["volume"])
    for axes in (left, right):
        legend_of_states(axes)
    return figure
