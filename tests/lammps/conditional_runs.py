# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of tiny conditional trainings, and readers of what `gibbs` and `phase` leave."""

import csv
import json


def settings(*entries):
    """Words that set configuration keys."""
    return [word for entry in entries for word in ("--set", entry)]


GSW = ("in.gsw_diamond", "in.gsw_betatin")
TINY = settings(
    "base.iterations=0", "base.pilot_steps=0", "base.n_samples=50", "flow.width=8", "flow.n_bins=2", "train.steps=6",
    "train.batch_size=16", "train.evaluate_samples=16", "condition.base_samples=50", "condition.pool=16", "sample.n_samples=64",
    "sample.n_dump=8", "sample.picture=false", "estimate.n_bootstraps=50", "estimate.rdf_samples=0", "estimate.report=false",
    "energy.source=lammps", "exact.mode=never",
)  # fmt: skip
FEW = settings("exact.mode=never", "gibbs.n_samples=32", "gibbs.n_repeats=4", "gibbs.n_volumes=5", "estimate.report=false")
_DIAMOND = ["-in", "in.gsw_diamond", *TINY]
_TIN = ["-in", "in.gsw_betatin", "-rep", "2", "2", "2", *TINY, *settings("flow.n_neighbours=10")]
VOLUME = settings("condition.volume=[-0.03,0.03]")
MODELS = {
    "one": _DIAMOND,
    "vol": [*_DIAMOND, *VOLUME],
    "gsw": [*_DIAMOND, *VOLUME, *settings("condition.temperature=[60,90]", "condition.parameters.lambda=[18,19]")],
    "tin": [
        *_TIN,
        *settings(
            "condition.volume=[-0.02,0.02]", "condition.c_over_a=[-0.015,0.015]", "condition.parameters.lambda=[18.3,18.7]"
        ),
    ],
}
"""Diamond in one state, over its volume, over volume, T and lambda (8 atoms each); beta-tin over volume, c/a and lambda (32 atoms)."""


def results(folder, name):
    """results.json of a run."""
    return json.loads((folder / name / "results.json").read_text())


def rows(folder, name, table):
    """Lines of a CSV file of a run."""
    with (folder / name / table).open(newline="") as stream:
        return list(csv.DictReader(stream))
