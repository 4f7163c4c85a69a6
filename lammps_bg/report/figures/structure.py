# SPDX-License-Identifier: GPL-2.0-or-later
"""Structure: radial distribution functions and mean-square displacements of the sites."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.contents import RunContents, numbers
from lammps_bg.report.figures.style import COLOURS, COMPARE, Data, FigureKind, column, draw_curve, legend_above, new_figure, reach
from lammps_bg.results import ENSEMBLES, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MANY_SITES = 400
_MARKERS = {"base": "o", "flow": "s", "reweighted": "^", "exact": "v", "md": "D"}
_SHORT = {"md": "MD"}  # names beside the axis of differences, where long ones have no place


def rdf_data(run: RunContents) -> Data | None:
    """Radial distribution functions and their differences from the reference: MD, else exact samples, else the reweighted flow."""
    found = run.observables.get("rdf") or {}
    curves = _shown(run, found.get("curves") or {})
    if not curves or not len(found.get("r", ())):
        return None
    r = numbers(found["r"])
    curves = {kind: {"g": numbers(entry["g"]), "error": _errors(entry, len(r))} for kind, entry in curves.items()}
    reference = next((kind for kind in ("md", "exact", "reweighted") if kind in curves), None)
    differences = {}
    if reference is not None:
        others = {kind: entry for kind, entry in curves.items() if kind != reference}
        # the reweighted curve rests on the flow's own samples, so its error is not independent and not added
        shared = reference == "reweighted"
        for kind, entry in others.items():
            error = entry["error"] if shared else np.hypot(entry["error"], curves[reference]["error"])
            differences[kind] = {"value": entry["g"] - curves[reference]["g"], "error": error}
    return {
        "unit": found.get("unit", run.labels.length), "r": r, "curves": curves, "reference": reference, "differences": differences,
    }  # fmt: skip


def draw_rdf(data: Data) -> "Figure":
    """The curves above, their differences from the reference below."""
    r, differences = column(data, "r"), data["differences"]
    if differences:
        figure, (top, bottom) = new_figure(4.6, nrows=2, sharex=True, height_ratios=(3, 1.3))
    else:
        figure, top = new_figure()
        bottom = top
    for kind in (kind for kind in ENSEMBLES if kind in data["curves"]):
        entry = data["curves"][kind]
        draw_curve(top, kind, r, column(entry, "g"), column(entry, "error"))
    top.set(ylabel="g(r)", ylim=(0, None), xlim=_support(r, data["curves"]))
    legend_above(top)
    bottom.set_xlabel(f"r ({unit(data['unit'])})")
    if differences:
        bottom.axhline(0.0, color=COLOURS[data["reference"]], linewidth=1.0)
        for kind in (kind for kind in ("flow", "reweighted", "exact") if kind in differences):
            draw_curve(bottom, kind, r, column(differences[kind], "value"), column(differences[kind], "error"))
        bottom.set_ylabel(f"g − g({_SHORT.get(data['reference'], data['reference'])})")
    return figure


def msd_data(run: RunContents) -> Data | None:
    """Mean-square displacement of each site."""
    found = run.observables.get("msd") or {}
    given = _shown(run, found.get("curves") or {})
    curves = {}
    for kind, entry in given.items():
        values = np.atleast_1d(numbers(entry["value"]))
        if len(values):
            finite = values[np.isfinite(values)]
            mean = float(finite.mean()) if len(finite) else None
            curves[kind] = {"value": values, "error": np.atleast_1d(_errors(entry, len(values))), "mean": mean}
    return {"unit": found.get("unit", f"{run.labels.length}^2"), "curves": curves} if curves else None


def draw_msd(data: Data) -> "Figure":
    """A point for each site and a line at the mean over sites."""
    figure, axes = new_figure(3.2)
    kinds = [kind for kind in ENSEMBLES if kind in data["curves"]]
    for index, kind in enumerate(kinds):
        entry = data["curves"][kind]
        value, error = column(entry, "value"), column(entry, "error")
        x = np.arange(1, len(value) + 1) + 0.22 * (index - (len(kinds) - 1) / 2)
        style = {"fmt": _MARKERS[kind], "color": COLOURS[kind], "markersize": 3, "elinewidth": 0.7, "alpha": 0.85}
        if len(value) > _MANY_SITES:
            axes.plot(x, value, ".", color=COLOURS[kind], markersize=2, alpha=0.6, label=ENSEMBLES[kind])
        else:
            axes.errorbar(x, value, reach(error), label=ENSEMBLES[kind], **style)
        if entry["mean"] is not None:
            axes.axhline(entry["mean"], color=COLOURS[kind], linewidth=1.0, alpha=0.8)
    axes.set(xlabel="site", ylabel=f"⟨u²⟩ ({unit(data['unit'])})")
    axes.margins(x=0.02)
    many = max(len(data["curves"][kind]["value"]) for kind in kinds) > _MANY_SITES
    legend_above(axes, marker=4.0 if many else 1.0)
    return figure


def _shown(run: RunContents, curves: Mapping[str, Any]) -> dict[str, Any]:
    """The curves that are known and may be shown: no reweighted one where the weights are not reliable."""
    return {
        kind: curves[kind] for kind in ENSEMBLES if curves.get(kind) and (run.results.weights_reliable or kind != "reweighted")
    }


def _errors(entry: Mapping[str, Any], n: int) -> Array:
    given = entry.get("error")
    return numbers(given) if given is not None else np.full(n, np.nan)


def _support(r: Array, curves: Mapping[str, Any]) -> tuple[float, float]:
    """Distances from a little before the first pairs on."""
    seen = [r[np.flatnonzero(column(entry, "g") > 1e-9)] for entry in curves.values()]
    first = min((float(places[0]) for places in seen if len(places)), default=float(r[0]))
    return max(float(r[0]), first - 0.06 * float(r[-1] - r[0])), float(r[-1])


FIGURES = (
    FigureKind(
        "rdf",
        "Radial distribution functions and their differences",
        rdf_data,
        draw_rdf,
        "Above: all pairs of atoms. Below: the difference from the reference, with bands of 95 % from both errors. Good: the bands "
        "of reweighted and exact samples hold zero nearly everywhere.",
        "No radial distribution in this run; ask for it: --set estimate.rdf_samples=256.",
        "All pairs of atoms, with a band of 95 %. Good: separate peaks at the distances of the lattice.",
    ),
    FigureKind(
        "msd",
        "Mean-square displacement of every site",
        msd_data,
        draw_msd,
        "A point for each site with its 95 % interval, lines at the means over sites. Sites that are equivalent by symmetry should agree, "
        "and reweighted and exact samples should agree with MD. A flow below them misses the tails of the vibrations.",
        f"No displacements site by site in this run; compare it with MD: {COMPARE}.",
        "A point for each site with its 95 % interval, a line at the mean over sites. Good: sites that are equivalent by symmetry agree.",
    ),
)
