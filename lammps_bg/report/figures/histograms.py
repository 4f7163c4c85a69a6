# SPDX-License-Identifier: GPL-2.0-or-later
"""Histograms of log-weights and energies: normalised densities over shared bins, with errors."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.contents import RunContents, numbers
from lammps_bg.report.figures.style import COMPARE, Data, FigureKind, column, draw_density, legend_above, new_figure
from lammps_bg.results import ENSEMBLES, is_number, unit
from lammps_bg.thermo.weights import log_mean_exp, normalised_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MOST_BINS = 50
_TAIL = 0.002  # share of the samples that may lie beyond either end of the axis
_REACH = 0.6  # of the axis beyond the bulk, in widths of the bulk


def work_data(run: RunContents) -> Data | None:
    """Log-weights of the flow, raw and reweighted, and of exact samples and MD frames where there are any."""
    given = (run.results.comparison.get("work") or {}) if run.results.comparison else {}
    flow = _finite(numbers(given["flow"]) if given.get("flow") else run.log_w)
    if len(flow) < 2:
        return None
    centre = log_mean_exp(flow)
    values, weights = {"flow": flow - centre, "reweighted": flow - centre}, {"reweighted": normalised_weights(flow)}
    if given.get("md") and len(frames := _finite(numbers(given["md"]))) > 1:
        values["md"] = frames - centre
    correlation = {"md": _correlation(run, len(values.get("md", ())))}
    if len(chained := _finite(run.chains.get("log_w", np.empty(0)))) > 1:
        values["exact"], correlation["exact"] = chained - centre, max(1.0, float(run.results.exact.get("inefficiency") or 1.0))
    series, edges = _densities(values, weights, correlation, upper=0.0)
    return {
        "x_label": "log-weight relative to the mean weight, ln(w / ⟨w⟩)",
        "edges": edges,
        "series": series,
        "lines": _estimates_on_axis(run, centre),
        "zero_weights": int(len(run.log_w) - np.isfinite(run.log_w).sum()),
    }


def draw_work(data: Data) -> "Figure":
    """The distributions of log-weights; forward and reverse ones cross at the free-energy difference."""
    figure, axes = new_figure()
    edges = column(data, "edges")
    names = {
        "flow": "flow samples",
        "reweighted": "flow, reweighted: what MD should give",
        "exact": "exact samples (chains)",
        "md": "MD frames in the flow",
    }
    for kind in (kind for kind in ENSEMBLES if kind in data["series"]):
        draw_density(axes, kind, edges, data["series"][kind], label=names[kind])
    dashes = ["-", "--", ":", "-."]
    for (name, place), dash in zip(data["lines"].items(), dashes, strict=False):
        axes.axvline(place, color="#333333", linewidth=1.0, linestyle=dash, label=f"−βΔF by {name}")
    axes.set(xlabel=data["x_label"], ylabel="probability density", xlim=(edges[0], edges[-1]), ylim=(0, None))
    legend_above(axes, 3)
    return figure


def energy_data(run: RunContents) -> Data | None:
    """Distributions of the potential energy: base, flow, reweighted, MD."""
    found = run.observables.get("energy") or {}
    values: dict[str, Array] = {}
    weights: dict[str, Array] = {}
    for kind, entry in (found.get("series") or {}).items():
        energies = numbers(entry.get("values") or []) if not isinstance(entry.get("values"), np.ndarray) else entry["values"]
        usable = np.isfinite(energies)
        if kind not in ENSEMBLES or usable.sum() < 2:
            continue
        values[kind] = energies[usable]
        if kind == "flow" and run.results.weights_reliable and len(log_w := _log_weights(entry, len(energies))):
            values["reweighted"], weights["reweighted"] = values["flow"], normalised_weights(log_w[usable])
    if not values:
        return None
    series, edges = _densities(
        values,
        weights,
        {"md": _correlation(run, len(values.get("md", ())))},
        narrow=("base", "flow") if {"exact", "md"} & values.keys() else ("base",),
    )
    return {"unit": found.get("unit", f"{run.labels.energy} per atom"), "edges": edges, "series": series}


def draw_energy(data: Data) -> "Figure":
    """The distributions of the potential energy."""
    figure, axes = new_figure()
    edges = column(data, "edges")
    for kind in (kind for kind in ENSEMBLES if kind in data["series"]):
        entry = data["series"][kind]
        beyond = f" ({entry['outside']:.0%} beyond the axis)" if entry["outside"] > 0.02 else ""
        draw_density(axes, kind, edges, entry, label=ENSEMBLES[kind] + beyond)
    axes.set(xlabel=f"potential energy ({unit(data['unit'])})", ylabel=f"probability density\n(per {unit(data['unit'])})")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
    legend_above(axes)
    return figure


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _log_weights(entry: Mapping[str, Any], n: int) -> Array:
    """Log-weights of a series, -inf where they are not finite; empty where it has none for all values."""
    given = entry.get("log_w")
    log_w = numbers(given) if given is not None else np.empty(0)
    if len(log_w) != n or np.isfinite(log_w).sum() < 2:
        return np.empty(0)
    return np.where(np.isfinite(log_w), log_w, -np.inf)


def _correlation(run: RunContents, n_shown: int) -> float:
    """Statistical inefficiency of the MD frames shown, at least 1."""
    described = run.results.comparison.get("md") or run.results.get("md") or {}
    independent = described.get("n_independent")
    return max(1.0, n_shown / independent) if is_number(independent) and independent > 0 else 1.0


def _densities(
    values: Mapping[str, Array],
    weights: Mapping[str, Array],
    correlation: Mapping[str, float],
    *,
    narrow: tuple[str, ...] = (),
    upper: float = _TAIL,
) -> tuple[dict[str, Data], Array]:
    """Densities with errors over shared bins; `narrow` series do not widen the axis beyond twice the span of the others."""
    wide = [name for name in values if name not in narrow and name not in weights] or [
        name for name in values if name not in weights
    ]
    low, high = _span([values[name] for name in wide], upper)
    reach = 0.5 * (high - low)
    for name in set(values) - set(wide):
        own = _span([values[name]], upper)
        low, high = max(min(low, own[0]), low - reach), min(max(high, own[1]), high + reach)
    edges = np.linspace(low, high, min(_MOST_BINS, max(12, round(1.2 * math.sqrt(min(map(len, values.values())))))) + 1)
    series = {}
    for name in (kind for kind in ENSEMBLES if kind in values):
        share = weights.get(name, np.full(len(values[name]), 1.0 / len(values[name])))
        series[name] = _density(values[name], share, edges, correlation.get(name, 1.0))
    return series, edges


def _density(values: Array, share: Array, edges: Array, correlation: float) -> Data:
    """Density and its standard error from shares of the weight that sum to one; correlated frames count for less."""
    width = np.diff(edges)
    first = np.histogram(values, edges, weights=share)[0]
    second = np.histogram(values, edges, weights=share**2)[0]
    error = np.sqrt(correlation * np.maximum(second - first**2 * float((share**2).sum()), 0.0))
    outside = max(0.0, 1.0 - float(first.sum()))
    return {"density": first / width, "error": error / width, "outside": outside, "n": len(values)}


def _span(values: list[Array], upper: float) -> tuple[float, float]:
    """Ends of an axis that holds all but the farthest values."""
    ends = [np.quantile(one, (_TAIL, 0.05, 0.95, 1.0 - upper)) for one in values]
    # twice the width of the bulk holds any smooth curve; heavy tails would press it into a few bins
    low = min(float(max(first, inner - _REACH * (outer - inner))) for first, inner, outer, _ in ends)
    high = max(float(last if upper == 0.0 else min(last, outer + _REACH * (outer - inner))) for _, inner, outer, last in ends)
    spread = high - low
    least = 1e-9 * max(1.0, abs(low), abs(high))  # equal values still need bins
    margin = 0.03 * spread if spread > least else least
    return low - margin, high + margin


def _estimates_on_axis(run: RunContents, centre: float) -> dict[str, float]:
    """Where each estimate of ln Z_u lies on the axis of the log-weights."""
    constant = run.absolute_constant
    if constant is None:
        return {}
    places = {}
    for given in run.results.estimates():
        if given.estimator.leads and given.value is not None:
            places[given.name] = (constant - given.value) * run.results.n_atoms - centre
    return places


FIGURES = (
    FigureKind(
        "work",
        "Distributions of the log-weights of flow samples and MD frames",
        work_data,
        draw_work,
        "Log-weights ln w = −βU − ln q of the flow's samples, the same reweighted, and of exact samples or MD frames in the flow, "
        "where there are any. The flow's curve and theirs cross at the free-energy difference; the reweighted curve should fall on theirs. "
        "Good: narrow curves that overlap. Bad: a reweighted curve made of a few spikes at the right end of the flow's; there chains are needed.",
        f"No log-weights in samples.csv; sample again: lammps-bg sample -model RUN -out NEW. With MD: {COMPARE}.",
    ),
    FigureKind(
        "energy",
        "Distributions of the potential energy",
        energy_data,
        draw_energy,
        "Good: the flow lies close to the reweighted curve, and the reweighted curve follows those of exact samples and of MD within the "
        "error bars (95 %).",
        "No energies in this run; make a new one: lammps-bg sample -model RUN -out NEW.",
        "Energies of the independent frames. Good: one smooth peak; a second one or a long shoulder belongs to a crystal that changed.",
    ),
)
