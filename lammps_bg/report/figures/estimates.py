# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies: estimators side by side, the terms of one, and how it settles with the number of samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures.style import (
    COLOURS,
    COMPARE,
    FALL,
    INK,
    RISE,
    Data,
    FigureKind,
    column,
    legend_above,
    literal,
    new_figure,
    reach,
    thousands,
)
from lammps_bg.results import Estimate, term_name, with_error
from lammps_bg.thermo.free_energy import convergence

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _shown(run: RunContents) -> list[Estimate]:
    return [given for given in run.results.estimates() if given.value is not None and given.error is not None]


def estimators_data(run: RunContents) -> Data | None:
    """The estimates of beta F / N relative to the one on top; None where there are not two of them."""
    return side_by_side(run.results.best, _shown(run), only_md=run.results.kind == "md")


def side_by_side(best: Estimate | None, known: Sequence[Estimate], *, only_md: bool = False) -> Data | None:
    """Estimates of beta F / N that have a number, relative to the best of them; None where there are not two.

    Args:
        best: The reference.
        known: All of them, best included.
        only_md: Whether all rest on molecular dynamics, so that `mbar` is that of windows alone.
    """
    if best is None or best.value is None or len(known) < 2:
        return None
    rows = []
    for given in known:
        value, error = float(given.value or 0.0), float(given.error or 0.0)
        low, high = given.interval or (value, value)
        kind = "md" if only_md else given.estimator.samples
        row = {"key": given.key, "name": given.name, "kind": kind, "value": value, "error": error}
        rows.append({**row, "difference": value - best.value, "interval": [low - best.value, high - best.value]})
    return {"reference": {"name": best.name, "value": best.value}, "rows": rows}


def draw_estimators(data: Data) -> "Figure":
    """One point with its 95 % interval for each estimator."""
    rows: list[dict[str, Any]] = data["rows"]
    figure, axes = new_figure(0.9 + 0.34 * len(rows))
    ends = np.array([row["interval"] for row in rows if row["key"] != "bound"] or [row["interval"] for row in rows])
    factor, power = thousands(ends)
    farthest = ends.max() + 5.0 * np.ptp(ends)  # a loose bound stands at the edge, else it would squeeze the others
    for place, row in enumerate(rows):
        x, low, high = (factor * min(number, farthest) for number in (row["difference"], *row["interval"]))
        colour = COLOURS[row["kind"]]
        marker = "o" if row["key"] != "bound" else "<" if row["difference"] < farthest else ">"
        spread = [[max(x - low, 0.0)], [max(high - x, 0.0)]]
        axes.errorbar(x, place, xerr=spread, fmt=marker, color=colour, capsize=3, markersize=5)
        axes.annotate(
            with_error(row["value"], row["error"]), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )
    axes.axvline(0.0, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [literal(row["name"]) for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"β(F − F′)/N ({power}kT per atom), F′: {literal(data['reference']['name'])}")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure


def terms_data(run: RunContents) -> Data | None:
    """The contributions to beta F / N in the order in which they are summed."""
    known = run.results.terms
    if not known:
        return None
    values = np.array(list(known.values()))
    ends = np.cumsum(values)
    names = [term_name(key) for key in known]
    return {"names": names, "values": values, "starts": ends - values, "total": float(ends[-1])}


def draw_terms(data: Data) -> "Figure":
    """A waterfall: each bar starts where the one above ends."""
    values, starts, total = column(data, "values"), column(data, "starts"), data["total"]
    figure, axes = new_figure(0.9 + 0.32 * (len(values) + 1))
    places = np.arange(len(values))
    colours = [FALL if value < 0 else RISE for value in values]
    axes.barh(places, values, left=starts, height=0.62, color=colours)
    axes.barh([len(values)], [total], height=0.62, color=INK, alpha=0.85)
    for place, (start, end) in enumerate(zip(starts, starts + values, strict=True)):
        axes.plot([end, end], [place, place + 1], color="#999999", linewidth=0.7)
        axes.annotate(f"{end - start:+.4f}", (max(start, end), place), xytext=(5, 0), textcoords="offset points", va="center")
    axes.annotate(f"{total:.4f}", (max(0.0, total), len(values)), xytext=(5, 0), textcoords="offset points", va="center")
    low, high = min(0.0, float((starts + values).min())), max(0.0, float((starts + values).max()))
    axes.set_yticks(range(len(values) + 1), [*data["names"], "βF/N"])
    axes.set(ylim=(len(values) + 0.6, -0.6), xlabel="kT per atom", xlim=(low - 0.02 * (high - low), high + 0.16 * (high - low)))
    axes.axvline(0.0, color="#999999", linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure


def convergence_data(run: RunContents) -> Data | None:
    """Partial TFEP estimates relative to that of all samples, per atom, and what chains and the estimators with MD say."""
    log_w = run.log_w
    if len(log_w) < 20 or not np.isfinite(log_w).any():
        return None
    partial, n = convergence(log_w), run.results.n_atoms
    final, constant = float(partial.forward[-1]) / n, run.absolute_constant
    known = _shown(run)
    beside = [next((given for given in known if given.estimator.samples == samples), None) for samples in ("exact", "reweighted")]
    data: Data = {"counts": partial.counts, "final_error": float(partial.forward_error[-1]) / n}
    for name in ("forward", "backward"):
        data[name] = getattr(partial, name) / n - final
        data[f"{name}_error"] = getattr(partial, f"{name}_error") / n
    data["joint"] = [
        {
            "name": given.name,
            "kind": given.estimator.samples,
            "value": float(given.value or 0.0) - constant - final,
            "error": given.error,
        }
        for given in beside
        if given is not None and constant is not None
    ]
    return data


def draw_convergence(data: Data) -> "Figure":
    """Estimates from the first and from the last n samples, with 95 % intervals."""
    figure, axes = new_figure()
    counts, names = column(data, "counts"), ("forward", "backward")
    factor, power = thousands(np.concatenate([column(data, name) for name in names]))
    error = reach(factor * data["final_error"])
    axes.axhspan(-error, error, color="#B8BCC4", alpha=0.35, linewidth=0, label="all samples")
    for shift, (name, label, colour, marker) in zip(
        (-0.12, 0.12),
        (("forward", "first n samples", COLOURS["flow"], "o"), ("backward", "last n samples", INK, "s")),
        strict=True,
    ):
        x = counts + shift * (counts[1] - counts[0] if len(counts) > 1 else 1)
        axes.errorbar(
            x, factor * column(data, name), reach(factor * column(data, f"{name}_error")), fmt=f"{marker}-", color=colour, markersize=3.5, capsize=2,
            linewidth=1.0, label=label,
        )  # fmt: skip
    for row in data["joint"]:
        value, width = factor * row["value"], reach(factor * row["error"])
        axes.axhline(value, color=COLOURS[row["kind"]], linewidth=1.3, label=literal(row["name"]))
        axes.axhspan(value - width, value + width, color=COLOURS[row["kind"]], alpha=0.2, linewidth=0)
    axes.set(xlabel="number of samples n", ylabel=f"β(F − F$_{{all}}$)/N ({power}kT per atom)", xlim=(0, None))
    legend_above(axes)
    return figure


FIGURES = (
    FigureKind(
        "estimators",
        "Free energies of all estimators with 95 % intervals",
        estimators_data,
        draw_estimators,
        "Each point is one estimator with its 95 % interval, relative to the number on top. Good: the intervals of TFEP, chains, BAR, MBAR "
        "and MD overlap, and the upper bound (arrow) lies to the right of all of them.",
        f"Fewer than two estimates that may be shown; reference MD adds some: {COMPARE}.",
    ),
    FigureKind(
        "terms",
        "Contributions to the free energy as a waterfall",
        terms_data,
        draw_terms,
        "Each bar starts where the one above ends. All terms but the estimated one are known exactly; the smaller it is, the closer "
        "the base already was to the crystal.",
        "The terms are withheld with the free energy; follow the next step of the verdict.",
    ),
    FigureKind(
        "convergence",
        "Free energy from growing numbers of samples",
        convergence_data,
        draw_convergence,
        "TFEP from the first n and from the last n samples, with intervals of 95 %. Good: both enter the grey band (that of all "
        "samples) early and stay. Steps downwards late in the row are rare samples of large weight: the error is then understated. "
        "A line with a band is the best other estimate; chains that lie below the grey band have found what the draws miss.",
        "At least 20 samples with finite weights are needed; draw more: lammps-bg sample -model RUN -out NEW.",
    ),
)
