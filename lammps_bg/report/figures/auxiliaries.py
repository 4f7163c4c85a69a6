# SPDX-License-Identifier: GPL-2.0-or-later
"""The marginal density of an augmented flow over the number of auxiliary draws: its bias, and what more draws are worth."""

from typing import TYPE_CHECKING

import numpy as np

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures.style import COLOURS, Data, FigureKind, column, legend_above, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEYS = ("beta_F_per_atom", "beta_F_per_atom_fresh", "ess", "ess_fresh")


def draws_data(run: RunContents) -> Data | None:
    """Free energy and ESS by number of draws; None for flows without auxiliary variables."""
    rows = run.results.get("sampling", {}).get("marginal_over_draws") or []
    if len(rows) < 2:
        return None
    table = {key: np.array([row.get(key, np.nan) for row in rows]) for key in _KEYS}
    return {"draws": np.array([row["draws"] for row in rows]), **table}


def draw_draws(data: Data) -> "Figure":
    """Free energies on the left, effective sample sizes on the right."""
    figure, (left, right) = new_figure(3.2, ncols=2)
    draws = column(data, "draws")
    for suffix, label, style, colour in (("", "with the flow's own", "o-", "flow"), ("_fresh", "fresh draws only", "s--", "md")):
        left.plot(draws, column(data, f"beta_F_per_atom{suffix}"), style, color=COLOURS[colour], markersize=4, label=label)
        right.plot(draws, 100 * column(data, f"ess{suffix}"), style, color=COLOURS[colour], markersize=4)
    left.set(xscale="log", xlabel="auxiliary draws M", ylabel="βF/N (kT per atom)")
    right.set(xscale="log", xlabel="auxiliary draws M", ylabel="ESS (%)", ylim=(0, 100))
    legend_above(left)
    return figure


FIGURES = (
    FigureKind(
        "draws",
        "Free energy and effective sample size of the marginal density over the number of auxiliary draws",
        draws_data,
        draw_draws,
        "Perturbation in the density of the atoms alone, from the first M auxiliary draws of each sample. With the draw that the flow made "
        "itself among them the mean weight is exact at any M, and M = 1 is the joint density; with fresh draws alone βF is too low by about "
        "1/M of a relative weight. Good: both curves have met and are flat at the right end; else raise estimate.marginal_draws.",
        "Only flows with auxiliary variables have a marginal density: flow.kind=augmented or global.",
    ),
)
