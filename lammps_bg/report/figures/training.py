# SPDX-License-Identifier: GPL-2.0-or-later
"""How the flow was trained: its bound and its effective sample size over the steps."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures.style import COLOURS, INK, Data, FigureKind, column, legend_above, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MOST_STEPS = 1500  # points of one line; more are averaged in blocks
_SHOWN = (0.5, 97.0)  # percentiles of the batches that set the axis: the first steps and single outliers would flatten the rest


def training_data(run: RunContents) -> Data | None:
    """Bound of the batches and of the evaluations, spread of the log-weights, and ESS over the steps."""
    if not {"step", "bound"} <= run.train.keys() or len(run.train["step"]) < 2:
        return None
    shift = _absolute(run)
    step, bound = _averaged(run.train["step"]), _averaged(run.train["bound"] + (shift or 0.0))
    nothing = np.full(len(run.train["step"]), np.nan)
    exact, ess = (run.train.get(name, nothing) for name in ("exact_bound", "ess"))
    evaluated, base = np.isfinite(ess), (run.results.get("base") or {}).get("beta_F_per_atom_bound") or {}
    return {
        "absolute": shift is not None,
        "step": step,
        "bound": bound,
        "spread": _averaged(run.train.get("std_log_w", nothing)),
        "evaluation_step": run.train["step"][evaluated],
        "evaluation_bound": exact[evaluated] + (shift or 0.0),
        "ess": ess[evaluated],
        "base_bound": base.get("bound") if shift is not None else None,
    }


def draw_training(data: Data) -> "Figure":
    """The bound above, the spread of the log-weights and the ESS below."""
    figure, (top, bottom) = new_figure(4.6, nrows=2, sharex=True, height_ratios=(3, 2))
    step, bound = column(data, "step"), column(data, "bound")
    exact, base = column(data, "evaluation_bound"), data["base_bound"]
    top.plot(step, bound, color=COLOURS["flow"], linewidth=0.8, alpha=0.45, label="batches")
    top.plot(column(data, "evaluation_step"), exact, "o-", color=COLOURS["flow"], markersize=4, label="evaluations")
    if base is not None:
        top.axhline(base, color=COLOURS["base"], linestyle=":", label="base alone")
    shown = np.concatenate([bound, exact, [np.nan if base is None else base]])
    if np.isfinite(shown).any():
        low, high = np.percentile(shown[np.isfinite(shown)], _SHOWN)
        margin = 0.12 * (high - low) + 1e-12
        top.set_ylim(low - margin, max(high, -np.inf if base is None else base) + margin)
    top.set_ylabel("bound on βF/N (kT per atom)" if data["absolute"] else "bound on βF/N + constant\n(kT per atom)")
    legend_above(top)
    bottom.plot(column(data, "evaluation_step"), 100.0 * column(data, "ess"), "o-", color=COLOURS["reweighted"], markersize=4)
    bottom.set(xlabel="training step", ylim=(0, 100), xlim=(0, 1.01 * max(float(step[-1]), 1.0)))
    bottom.set_ylabel("ESS (%)", color=COLOURS["reweighted"])
    right = bottom.twinx()
    right.plot(step, column(data, "spread"), color=INK, linewidth=0.7, alpha=0.4)
    right.set(ylabel="spread of ln w (kT)", ylim=(0, None))
    right.grid(visible=False)
    return figure


def _absolute(run: RunContents) -> float | None:
    """What the bound of train.csv lacks to beta F / N: the constants and the lattice at rest."""
    constant, beta, energy = (
        run.absolute_constant,
        run.results.system.get("beta"),
        run.results.system.get("static_energy_per_atom"),
    )
    return None if constant is None or beta is None or energy is None else constant + beta * energy


def _averaged(values: Array) -> Array:
    """Means over blocks of steps, so few that a line can show them."""
    size = -(-len(values) // _MOST_STEPS)
    return np.array([values[start : start + size].mean() for start in range(0, len(values), size)])


FIGURES = (
    FigureKind(
        "training",
        "Bound and effective sample size over the training steps",
        training_data,
        draw_training,
        "Above: the variational upper bound on βF/N (batches, and fresh samples with exact energies). Below: the effective sample size "
        "(green, left) and the spread of the log-weights of the batches (grey, right). Good: the bound falls below that of the base and "
        "flattens out, ESS rises. Still falling at the end: more train.steps will pay.",
        "This run has no training steps (train.steps = 0, or a model trained elsewhere); see the run that trained the model.",
    ),
)
