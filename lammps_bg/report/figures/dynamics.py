# SPDX-License-Identifier: GPL-2.0-or-later
"""Molecular dynamics: quantities over time, lambda windows and their overlap."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.contents import RunContents, numbers
from lammps_bg.report.figures.style import COLOURS, INK, Data, FigureKind, column, new_figure
from lammps_bg.results import unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MOST_FRAMES = 1500
_MOST_WRITTEN = 14  # windows up to which the numbers of the overlap matrix can be read
_PANELS = ("pe", "temperature", "pressure", "volume")


def thermo_data(run: RunContents) -> Data | None:
    """Energy, temperature, pressure and volume over time; constant quantities are left out."""
    axis = "time" if "time" in run.thermo else "step"
    if axis not in run.thermo or len(run.thermo[axis]) < 2:
        return None
    labels = run.labels
    names = {
        "pe": f"potential energy\n({unit(labels.energy)} per atom)",
        "temperature": f"temperature\n({unit(labels.temperature)})",
        "pressure": f"pressure\n({unit(labels.pressure)})",
        "volume": f"volume\n({unit(labels.length)}³ per atom)",
    }
    every, settled = -(-len(run.thermo[axis]) // _MOST_FRAMES), _settled(run)
    panels: list[Data] = []
    for name in (name for name in _PANELS if name in run.thermo):
        values = run.thermo[name] / (run.results.n_atoms if name in ("pe", "volume") else 1)
        finite = values[np.isfinite(values)]
        if len(finite) > 1 and np.ptp(finite) > 1e-9 * abs(finite).max():
            used = settled & np.isfinite(values)
            total, count = np.cumsum(np.where(used, values, 0.0)), np.cumsum(used)
            mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            panels.append({"name": name, "label": names[name], "values": values[::every], "running_mean": mean[::every]})
    if not panels:
        return None
    label = f"time ({unit(labels.time)})" if axis == "time" else "step"
    x, starts = _one_after_another(run, run.thermo[axis])
    label += ", trajectories one after another" if len(starts) > 1 else ""
    return {"x_label": label, "x": x[::every], "settled": settled[::every], "starts": starts, "panels": panels}


def draw_thermo(data: Data) -> "Figure":
    """One panel below the other, each with its running mean."""
    panels = data["panels"]
    figure, rows = new_figure(0.7 + 1.35 * len(panels), nrows=len(panels), sharex=True, squeeze=False)
    x, settled = column(data, "x"), column(data, "settled").astype(bool)
    for index, (axes, panel) in enumerate(zip(rows[:, 0], panels, strict=True)):
        values = column(panel, "values")
        axes.plot(x[settled], values[settled], ".", color=COLOURS["md"], markersize=1.8, alpha=0.5, label="frames")
        if not settled.all():
            axes.plot(x[~settled], values[~settled], ".", color=COLOURS["base"], markersize=1.8, label="equilibration, left out")
        for start in data["starts"][1:]:
            axes.axvline(start, color="#999999", linewidth=0.8)
        axes.plot(x, column(panel, "running_mean"), color=INK, linewidth=1.2, label="mean so far")
        axes.set_ylabel(panel["label"])
        if index == 0:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2, markerscale=3)
    rows[-1, 0].set(xlabel=data["x_label"], xlim=(float(x[0]), float(x[-1])))
    figure.align_ylabels()
    return figure


def _replicas(run: RunContents) -> list[NDArray[np.int64]]:
    """Rows of thermo.csv that belong to each trajectory."""
    n = len(next(iter(run.thermo.values())))
    replica = run.thermo.get("replica", np.zeros(n))
    return [np.flatnonzero(replica == number) for number in np.unique(replica)]


def _settled(run: RunContents) -> NDArray[np.bool_]:
    """Which rows of thermo.csv come after equilibration."""
    parts = _replicas(run)
    settled = np.ones(sum(map(len, parts)), dtype=bool)
    for rows, skipped in zip(parts, (run.results.get("md") or {}).get("equilibration_frames") or [], strict=False):
        settled[rows[: int(skipped)]] = False
    return settled


def _one_after_another(run: RunContents, time: Array) -> tuple[Array, list[float]]:
    """Times that go on from one trajectory to the next, and where each starts."""
    x, starts, end = time.copy(), [], 0.0
    for rows in _replicas(run):
        starts.append(end)
        x[rows] += end
        end = float(x[rows[-1]])
    return x, starts


def windows_data(run: RunContents) -> Data | None:
    """Mean energy and independent frames of each lambda window."""
    given = run.results.get("windows") or []
    if len(given) < 2:
        return None
    fields = ("lambda", "n_frames", "n_independent", "inefficiency", "mean_energy", "mean_springs")
    data: Data = {name: numbers([window.get(name) for window in given]) for name in fields}
    return {"unit": f"{run.labels.energy} per atom", **data, "slope": data["mean_energy"] - data["mean_springs"]}


def draw_windows(data: Data) -> "Figure":
    """Mean energies as points, numbers of independent frames as bars."""
    figure, (left, right) = new_figure(2.9, ncols=2, width_ratios=(3, 2))
    coupling, frames = column(data, "lambda"), column(data, "n_independent")
    slope = column(data, "slope")
    left.plot(coupling, slope, "o-", color=COLOURS["md"], markersize=4.5)
    inner = slope[(coupling > 0) & np.isfinite(slope)]
    if len(inner) > 1 and np.nanmax(slope) > inner.max() + 4 * np.ptp(inner):  # atoms on springs alone may overlap
        left.set_ylim(inner.min() - 0.1 * np.ptp(inner), inner.max() + 0.5 * np.ptp(inner))
    left.set(xlabel="λ", ylabel=f"∂F/∂λ = ⟨U − U$_{{springs}}$⟩\n({unit(data['unit'])})")
    right.bar(np.arange(len(frames)), frames, color=COLOURS["md"], alpha=0.75, width=0.7)
    right.set_xticks(np.arange(len(frames)), [f"{value:.3g}" for value in coupling], rotation=60 if len(frames) > 6 else 0)
    right.set(xlabel="λ", ylabel="independent frames")
    right.grid(axis="x", visible=False)
    return figure


def overlap_data(run: RunContents) -> Data | None:
    """The overlap matrix of the lambda windows."""
    given = run.results.get("overlap_matrix")
    if not given or len(given) < 2:
        return None
    couplings = [window.get("lambda") for window in run.results.get("windows") or []]
    return {"lambda": couplings if len(couplings) == len(given) else list(range(len(given))), "matrix": given}


def draw_overlap(data: Data) -> "Figure":
    """A heat map with the numbers in it where they can be read."""
    matrix = column(data, "matrix")
    n = len(matrix)
    figure, axes = new_figure(4.6, 5.6)
    image = axes.imshow(matrix, cmap="Blues", vmin=0.0, vmax=max(float(np.nanmax(matrix, initial=0.0)), 1e-12))
    figure.colorbar(image, ax=axes, label="overlap", shrink=0.85)
    labels = [f"{value:.3g}" if value is not None else "?" for value in data["lambda"]]
    step = 1 if n <= 2 * _MOST_WRITTEN else n // _MOST_WRITTEN
    axes.set_xticks(range(0, n, step), labels[::step], rotation=60 if n > 8 else 0)
    axes.set_yticks(range(0, n, step), labels[::step])
    axes.set(xlabel="λ", ylabel="λ")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if n <= _MOST_WRITTEN:
        for (row, place), value in np.ndenumerate(matrix):
            if np.isfinite(value) and value >= 0.005:
                white = value > 0.55 * image.norm.vmax
                axes.text(place, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if white else INK)
    return figure


FIGURES = (
    FigureKind(
        "thermo",
        "Energy, temperature, pressure and volume over time",
        thermo_data,
        draw_thermo,
        "Good: no drift, and a running mean (black) that has settled long before the end. Frames of the equilibration (grey) are left "
        "out of every mean. A jump means that the crystal has changed.",
        "No thermo.csv in this run; run the MD again: lammps-bg md -in SCRIPT -out NEW.",
    ),
    FigureKind(
        "windows",
        "Thermodynamic force and independent frames of the lambda windows",
        windows_data,
        draw_windows,
        "Left: the slope of the free energy on the way from springs (λ = 0) to the potential (λ = 1); good: smooth and falling, for the free "
        "energy is concave in λ. Right: independent frames in each window; "
        "the error of the sum is ruled by the window with the fewest.",
        "This run has no lambda windows; for an absolute free energy from MD alone run lammps-bg md with --mode mbar.",
    ),
    FigureKind(
        "overlap",
        "Overlap matrix of the lambda windows",
        overlap_data,
        draw_overlap,
        "Chance that a frame of one window (row) belongs to another (column). Good: neighbours of at least 0.03; below that, add "
        "windows there.",
        "This run has no overlap matrix; it comes with lambda windows: lammps-bg md with --mode mbar.",
    ),
)
