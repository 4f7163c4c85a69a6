# SPDX-License-Identifier: GPL-2.0-or-later
"""Weighted samples in OVITO: the log-weight as a frame attribute, and a reweighted radial distribution function.

    python examples/ovito_weights.py runs/mw_cubic

Every sample carries a log-weight log w. Averages over the equilibrium ensemble are sum(w x) / sum(w); plain averages over the
frames are those of the flow. OVITO has no weighted average over frames, so the loop below does it.
Needs: pip install 'lammps-bg[ovito]'. Writes rdf.csv in the current folder.
"""

import csv
import math
import sys
from pathlib import Path

import numpy as np
from ovito.io import import_file
from ovito.modifiers import CoordinationAnalysisModifier


def read_log_weights(run):
    """Log-weights by sample index; the dump's time step is that index."""
    with open(run / "samples.csv", newline="") as stream:
        return {int(row["sample"]): float(row["log_w"]) for row in csv.DictReader(stream)}


def add_log_weight(log_w):
    """A modifier that gives each frame the attribute `log_weight`. Paste it into OVITO as a Python script modifier, too."""

    def modify(frame, data):
        data.attributes["log_weight"] = log_w.get(int(data.attributes["Timestep"]), -math.inf)

    return modify


def reweighted_rdf(pipeline, n_frames):
    """Distances, g(r) of the equilibrium ensemble, and g(r) of the flow's proposal without weights."""
    curves, log_weights = [], []
    for frame in range(n_frames):
        data = pipeline.compute(frame)
        curves.append(data.tables["coordination-rdf"].xy())
        log_weights.append(data.attributes["log_weight"])
    log_w, g = np.array(log_weights), np.array(curves)[:, :, 1]
    weights = np.exp(log_w - log_w.max())  # the largest is 1: no overflow
    weights /= weights.sum()
    return curves[0][:, 0], weights @ g, g.mean(axis=0), 1 / np.sum(weights**2)


def main(run):
    pipeline = import_file(str(run / "samples.dump.gz"))
    pipeline.modifiers.append(add_log_weight(read_log_weights(run)))
    # Half the shortest distance between opposite faces is the largest cut-off without repeated images.
    cell = np.asarray(pipeline.compute(0).cell[:, :3])
    shortest = 1 / np.linalg.norm(np.linalg.inv(cell), axis=1).max()
    pipeline.modifiers.append(CoordinationAnalysisModifier(cutoff=0.5 * float(shortest), number_of_bins=150))

    n_frames = min(pipeline.num_frames, 1000)
    r, weighted, plain, n_effective = reweighted_rdf(pipeline, n_frames)
    np.savetxt("rdf.csv", np.stack([r, weighted, plain], axis=1), delimiter=",", header="r,g_reweighted,g_flow", comments="")
    peak = int(np.argmax(weighted))
    print(f"{n_frames} samples, {n_effective:.0f} effective; highest peak g({r[peak]:.3f}) = {weighted[peak]:.3f}; wrote rdf.csv")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "samples.dump.gz").exists():
        sys.exit("usage: python examples/ovito_weights.py RUN, with RUN the -out folder of a finished lammps-bg run")
    main(Path(sys.argv[1]))
