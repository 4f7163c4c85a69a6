# SPDX-License-Identifier: GPL-2.0-or-later
"""Weighted samples in OVITO: log-weights, reweighted g(r) and structure fractions, a picture, a session to open in OVITO.

    python examples/ovito_samples.py runs/mw_cubic

RUN is the -out folder of a finished `lammps-bg run`. Needs only the packages ovito and numpy: pip install 'lammps-bg[ovito]'.
Writes ovito_rdf.csv, ovito_structure.csv, ovito_samples.png and ovito_samples.ovito in the current folder.

Every sample carries a log-weight log w. An average over the equilibrium ensemble is sum(w x) / sum(w); the plain average over the
frames is the flow's. OVITO has no weighted average over frames (TimeAveragingModifier is a plain one), so a loop does it.
"""

import csv
import gzip
import math
import sys
from pathlib import Path

import numpy as np
import ovito
from ovito.io import import_file
from ovito.modifiers import (
    ColorCodingModifier,
    CoordinationAnalysisModifier,
    IdentifyDiamondModifier,
    PolyhedralTemplateMatchingModifier,
    ReducePropertyModifier,
)
from ovito.qt_compat import QtCore
from ovito.vis import ColorLegendOverlay, StandardRenderer, Viewport

N_FRAMES = 1000  # at most
N_BINS = 150


# 1. Weights as frame attributes


def read_log_weights(run):
    """Log-weights by sample index, which is the dump's time step. The dump has them, too: in its column c_logw."""
    with open(run / "samples.csv", newline="") as stream:
        return {int(row["sample"]): float(row["log_w"] or "-inf") for row in csv.DictReader(stream)}


def add_weights(log_w):
    """A modifier that gives each frame the attributes `log_weight` and `weight` (mean 1 over all samples).

    In OVITO Pro: paste the inner function into a "Python script" modifier, with `log_w` read from the file above it.
    """
    log_mean = np.logaddexp.reduce(list(log_w.values())) - math.log(len(log_w))

    def modify(frame, data):
        value = log_w.get(int(data.attributes["Timestep"]), -math.inf)
        data.attributes["log_weight"] = value
        data.attributes["weight"] = math.exp(value - log_mean)

    return modify


# 2. Structure identification: the analysis that knows the lattice


def structure_modifier(data):
    """Identify Diamond or Polyhedral Template Matching, whichever names most atoms of this frame; None if neither does."""
    matching = PolyhedralTemplateMatchingModifier(rmsd_cutoff=0.12)
    for modifier in (IdentifyDiamondModifier(), matching):
        modifier.color_by_type = False
        trial = data.clone()
        trial.apply(modifier)
        if np.mean(trial.particles["Structure Type"] != 0) > 0.5:
            return modifier
    return None


def structure_counts(data):
    """Atoms of each structure type. The 1st and 2nd neighbours of a diamond atom stand on the same lattice."""
    counts = {}
    types = data.particles["Structure Type"]
    for kind in types.types:
        if kind.enabled:
            name = kind.name.split(" (")[0]
            counts[name] = counts.get(name, 0) + int(np.count_nonzero(types == kind.id))
    return counts


# 3. Weighted averages


def weighted_mean(values, log_w):
    """sum(w x) / sum(w) over the first axis, and its standard error for independent samples."""
    used = np.isfinite(log_w)  # samples whose energy was not finite have weight zero
    values, log_w = np.asarray(values, dtype=float)[used], log_w[used]
    weights = np.exp(log_w - log_w.max())  # the largest is 1: no overflow
    weights /= weights.sum()
    mean = weights @ values
    n = len(weights)
    return mean, np.sqrt(weights**2 @ (values - mean) ** 2 * n / max(n - 1, 1))


def analyse(pipeline, n_frames):
    """Distances, and for every frame: log-weight, g(r), structure fractions by name."""
    log_w, curves, counts = [], [], []
    for frame in range(n_frames):
        data = pipeline.compute(frame)
        log_w.append(data.attributes["log_weight"])
        distances, g = data.tables["coordination-rdf"].xy().T
        curves.append(g)
        if "Structure Type" in data.particles:
            counts.append(structure_counts(data))
    return distances, np.array(log_w), np.array(curves), counts, data.particles.count


def write_csv(name, header, rows):
    with open(name, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def write_rdf(distances, curves, log_w):
    reweighted, error = weighted_mean(curves, log_w)
    raw, raw_error = weighted_mean(curves, np.zeros(len(curves)))
    columns = ["r", "g_reweighted", "error", "g_flow", "error_flow"]
    write_csv("ovito_rdf.csv", columns, zip(distances, reweighted, error, raw, raw_error, strict=True))
    peak = int(np.argmax(reweighted))
    print(f"highest peak: g({distances[peak]:.3f}) = {reweighted[peak]:.3f} +- {error[peak]:.3f}; of the flow {raw[peak]:.3f}")


def write_structure(counts, n_atoms, log_w):
    names = list(counts[0])
    fractions = np.array([[count[name] / n_atoms for name in names] for count in counts])
    reweighted, error = weighted_mean(fractions, log_w)
    raw, raw_error = weighted_mean(fractions, np.zeros(len(fractions)))
    rows = list(zip(names, reweighted, error, raw, raw_error, strict=True))
    write_csv("ovito_structure.csv", ["structure", "reweighted", "error", "flow", "error_flow"], rows)
    for name, value, uncertainty, *_ in rows:
        if value > 0:
            print(f"{name}: {100 * value:.2f} +- {100 * uncertainty:.2f} % of the atoms")


# 4. A picture and a session


def save_picture_and_session(run, structure):
    """One sample, coloured by structure type or by log-weight, in a scene that OVITO can open again.

    A pipeline of its own: a session does not restore Python functions. ReducePropertyModifier makes the same attribute of c_logw.
    """
    pipeline = open_dump(run)
    pipeline.modifiers.append(ReducePropertyModifier(property="c_logw"))
    viewport = ovito.scene.viewports.active_vp
    if structure is not None:
        structure.color_by_type = True
        pipeline.modifiers.append(structure)
        legend = ColorLegendOverlay(property="particles/Structure Type", font_size=0.05)
    else:
        values = [float(pipeline.compute(frame).particles["c_logw"][0]) for frame in range(min(pipeline.num_frames, 20))]
        coding = ColorCodingModifier(property="c_logw", start_value=min(values), end_value=max(values) + 1e-3)
        pipeline.modifiers.append(coding)
        legend = ColorLegendOverlay(modifier=coding, title="log w")
    legend.orientation = QtCore.Qt.Vertical
    legend.alignment = QtCore.Qt.AlignLeft | QtCore.Qt.AlignVCenter
    data = pipeline.compute(0)
    pipeline.source.data.particles.vis.radius = 0.2 * (data.cell.volume / data.particles.count) ** (1 / 3)
    pipeline.add_to_scene()
    viewport.type = Viewport.Type.Perspective
    viewport.overlays.append(legend)
    viewport.zoom_all()
    ovito.scene.save("ovito_samples.ovito")
    try:
        viewport.render_image(filename="ovito_samples.png", size=(1200, 900), renderer=StandardRenderer())
        print("wrote ovito_samples.png and ovito_samples.ovito")
    except RuntimeError as error:  # no Vulkan driver: apt-get install libvulkan1 mesa-vulkan-drivers
        print(f"wrote ovito_samples.ovito; no picture: {error}")


def open_dump(run):
    """The pipeline of the dump. OVITO 3.17 at times stops looking for frames after the first; another import finds them."""
    with gzip.open(run / "samples.dump.gz") as stream:
        n_frames = sum(line.startswith(b"ITEM: TIMESTEP") for line in stream)
    for _ in range(100):
        pipeline = import_file(str(run / "samples.dump.gz"))
        if pipeline.num_frames == n_frames:
            return pipeline
    sys.exit(f"OVITO finds {pipeline.num_frames} of {n_frames} frames in {run}/samples.dump.gz")


def main(run):
    pipeline = open_dump(run)
    pipeline.modifiers.append(add_weights(read_log_weights(run)))
    first = pipeline.compute(0)
    structure = structure_modifier(first)
    if structure is not None:
        pipeline.modifiers.append(structure)
    # Half the shortest distance between opposite faces is the largest cut-off without repeated images.
    shortest = 1 / np.linalg.norm(np.linalg.inv(np.asarray(first.cell[:, :3])), axis=1).max()
    pipeline.modifiers.append(CoordinationAnalysisModifier(cutoff=0.5 * float(shortest), number_of_bins=N_BINS))

    distances, log_w, curves, counts, n_atoms = analyse(pipeline, min(pipeline.num_frames, N_FRAMES))
    finite = log_w[np.isfinite(log_w)]
    weights = np.exp(finite - finite.max())
    print(f"{len(log_w)} samples, worth {weights.sum() ** 2 / np.sum(weights**2):.0f} of equal weight")
    write_rdf(distances, curves, log_w)
    if counts:
        write_structure(counts, n_atoms, log_w)
    save_picture_and_session(run, structure)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "samples.dump.gz").exists():
        sys.exit("usage: python examples/ovito_samples.py RUN, with RUN the -out folder of a finished lammps-bg run")
    main(Path(sys.argv[1]))
