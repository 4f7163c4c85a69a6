# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples by chains: the log-weights step by step, how the chains moved in each window, and how windows overlap."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.contents import RunContents, numbers
from lammps_bg.report.figures.dynamics import draw_overlap
from lammps_bg.report.figures.style import COLOURS, INK, Data, FigureKind, column, legend_above, new_figure, reach

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MOST_CHAINS, _MOST_STEPS = 24, 600  # thin lines that can be told apart, and points of each
_MOST_MEANS = 60  # points of the mean over the chains; more steps are averaged in blocks
_AIM = 0.8  # the acceptance that steps are tuned to
_MIXED = 1.1  # split-R-hat up to which chains agree


def trace_data(run: RunContents) -> Data | None:
    """Log-weights of the chains at the crystal over the steps, relative to the mean of all, and their mean over the chains in blocks."""
    table = run.chain_table("log_w")
    if table is None or len(table) < 2 or not np.isfinite(table).any():
        return None
    n_steps, n_chains = table.shape
    finite = np.where(np.isfinite(table), table, np.nan)
    centre = float(np.nanmean(finite))
    every, size = -(-n_steps // _MOST_STEPS), -(-n_steps // _MOST_MEANS)
    starts = range(0, n_steps, size)
    blocks = [finite[start : start + size] - centre for start in starts]
    shown = np.unique(np.linspace(0, n_chains - 1, min(n_chains, _MOST_CHAINS)).astype(int))
    return {
        "step": np.arange(1, n_steps + 1)[::every],
        "chains": shown,
        "n_chains": n_chains,
        "log_w": [finite[::every, chain] - centre for chain in shown],
        "mean_step": [float(start + 0.5 * (len(block) + 1)) for start, block in zip(starts, blocks, strict=True)],
        "mean": [float(np.nanmean(block)) if np.isfinite(block).any() else np.nan for block in blocks],
        "mean_error": [_error(block) for block in blocks],
    }


def _error(block: Array) -> float:
    """Standard error of the mean of a block, shape [steps, chains], from the spread of its chains."""
    means = block.mean(axis=0)
    means = means[np.isfinite(means)]
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")


def draw_trace(data: Data) -> "Figure":
    """A thin line for each chain, and their mean with its error."""
    figure, axes = new_figure(3.4)
    step = column(data, "step")
    for index, values in enumerate(np.array(data["log_w"], dtype=np.float64)):
        label = f"{len(data['log_w'])} of {data['n_chains']} chains" if len(data["log_w"]) < data["n_chains"] else "chains"
        axes.plot(step, values, color=COLOURS["exact"], linewidth=0.6, alpha=0.35, label=label if index == 0 else None)
    axes.axhline(0.0, color="#999999", linewidth=0.8)
    axes.errorbar(
        column(data, "mean_step"), column(data, "mean"), reach(column(data, "mean_error")), fmt="o-", color=INK, markersize=3, linewidth=1.2,
        capsize=2, label="mean of all chains, 95 %",
    )  # fmt: skip
    last = float(step[-1])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="step", ylabel="log-weight relative to its mean\nln w − ⟨ln w⟩", xlim=(1.0 - 0.02 * last, 1.02 * last))
    legend_above(axes)
    return figure


def steps_data(run: RunContents) -> Data | None:
    """Acceptance, inefficiency, energies for an independent sample and split-R-hat of each window with chains."""
    windows = [window for window in run.results.exact.get("windows") or [] if window.get("coupling")]
    if not windows:
        return None
    fields = ("acceptance", "inefficiency", "leaps", "r_hat")
    data: Data = {name: numbers([window.get(name) for window in windows]) for name in fields}
    energies = data["leaps"] * data["inefficiency"]
    return {"lambda": numbers([window["coupling"] for window in windows]), **data, "energies": energies}


def draw_steps(data: Data) -> "Figure":
    """Three panels over lambda: acceptance, cost of an independent sample, agreement of the chains."""
    figure, (left, middle, right) = new_figure(2.9, ncols=3)
    coupling, colour = column(data, "lambda"), COLOURS["exact"]
    left.axhline(_AIM, color="#999999", linewidth=0.9, linestyle="--", label="aim of the tuning")
    left.plot(coupling, column(data, "acceptance"), "o-", color=colour, markersize=5)
    left.set(ylabel="acceptance", ylim=(0.0, 1.03))
    middle.plot(coupling, column(data, "energies"), "s-", color=colour, markersize=5, label="energies")
    middle.plot(coupling, column(data, "inefficiency"), "o--", color=INK, markersize=4, linewidth=1.0, label="steps")
    middle.set(ylabel="for an independent sample", ylim=(0.0, None))
    right.axhline(_MIXED, color="#999999", linewidth=0.9, linestyle="--", label="largest that is green")
    r_hat = column(data, "r_hat")
    right.plot(coupling, r_hat, "o-", color=colour, markersize=5)
    right.set(ylabel="split-R̂", ylim=(0.99, max(1.13, 1.02 * float(np.nanmax(r_hat, initial=1.0)))))
    for axes in (left, middle, right):
        _over_couplings(axes)
    return figure


def _over_couplings(axes: "Axes") -> None:
    axes.set(xlabel="λ", xlim=(-0.05, 1.05))
    legend_above(axes, 2)


def ladder_data(run: RunContents) -> Data | None:
    """The overlap matrix of all windows, draws of the flow first."""
    given = run.results.exact.get("overlap_matrix")
    if not given or len(given) < 2:
        return None
    couplings = [window.get("coupling") for window in run.results.exact.get("windows") or []]
    return {"lambda": couplings if len(couplings) == len(given) else list(range(len(given))), "matrix": given}


FIGURES = (
    FigureKind(
        "chains_trace",
        "Log-weights of the chains over their steps",
        trace_data,
        draw_trace,
        "Log-weights of the samples of the crystal, a thin line for each chain, and the mean over all of them in black. Good: a band of noise "
        "that is level from the first step on, with a mean whose error bars (95 %) hold zero but for a few, and chains that cannot be told apart. "
        "Bad: a mean that drifts (too few steps, or the crystal changes), or a chain that stays above or below the others (a second "
        "structure, or a trap).",
        "exact.csv holds no samples of the crystal: the chains did not come to λ = 1; raise exact.max_seconds.",
    ),
    FigureKind(
        "chains_steps",
        "Acceptance, cost of an independent sample and agreement of the chains in each window",
        steps_data,
        draw_steps,
        "Over λ, from near the flow (0) to the crystal (1). Left: share of the steps that are accepted. Good: 0.6 to 0.95. Bad: below 0.4. "
        "Middle: steps, and energies with forces, that an independent sample takes. Good: 1 to 3 steps, 5 to 12 energies. Bad: tens of steps: "
        "something moves slowly. Right: split-R̂, the spread of half chains against the spread within them. Good: below 1.1. Bad: above 1.3.",
        "No window with chains: their budget ended before the first; raise exact.max_seconds.",
    ),
    FigureKind(
        "chains_overlap",
        "Overlap matrix of the windows between flow and crystal",
        ladder_data,
        draw_overlap,
        "Chance that a sample of one window (row) belongs to another (column); λ = 0 are the draws of the flow, λ = 1 is the crystal. A window with "
        "few samples has a pale column. Good: every row has a dark neighbour, so that the windows hang together. Bad: two blocks with nothing "
        "between them: the free energy across that gap is a guess.",
        "There is no overlap matrix: the chains did not come to λ = 1; raise exact.max_seconds.",
    ),
)
