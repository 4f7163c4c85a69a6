# SPDX-License-Identifier: GPL-2.0-or-later
"""The models in examples/models: small, without code, and as good as their card says."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from command_line import call, use

MODELS = Path(__file__).parents[2] / "examples" / "models"
CARD = json.loads((MODELS / "models.json").read_text())
NAMES = sorted(CARD["models"])
FEW = [
    "--set",
    "exact.mode=never",
    "--set",
    "sample.n_samples=2048",
    "--set",
    "sample.n_dump=0",
    "--set",
    "estimate.rdf_samples=20",
    "--set",
    "estimate.report=false",
]


def row_of(name, n_atoms):
    return next(row for row in CARD["rows"] if (row["crystal"], row["n_atoms"]) == (name, n_atoms))


@pytest.mark.parametrize("name", NAMES)
def test_files(name):
    """Below 5 MB; the pickled part of the archive names nothing but torch's way to rebuild tensors."""
    path = MODELS / name / "model.pt"
    assert path.stat().st_size == CARD["models"][name]["bytes"] < 5e6
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(entry for entry in archive.namelist() if entry.endswith("data.pkl")))
    modules = {line.split(" ")[0] for line in pickled.decode("latin-1").split("\n") if line[:1] == "c" and " " not in line}
    assert all(module[1:].split(".")[0] in ("torch", "collections") for module in modules)
    assert {"config.toml", "provenance.json", "train.csv", "inputs"} <= {entry.name for entry in (MODELS / name).iterdir()}


@pytest.mark.parametrize(
    ("name", "cells", "n_atoms"),
    [
        ("mw_cubic", 2, 64),
        pytest.param("mw_cubic", 3, 216, marks=pytest.mark.slow),
        pytest.param("lj_fcc", 3, 108, marks=pytest.mark.slow),
    ],
)
def test_samples_are_as_good_as_the_card_says(name, cells, n_atoms, tmp_path, monkeypatch, capsys):
    """2048 samples: at least two thirds of the card's ESS, and beta F/N within 5 joint standard errors of its BAR (false alarm 6e-7)."""
    use(monkeypatch, tmp_path)
    shutil.copytree(MODELS / name, tmp_path / "model")
    words = ["sample", "-model", "model", "-rep", cells, cells, cells, "-out", "new", *FEW, "--seed", "7", "--allow-red"]
    spoken = call(capsys, tmp_path, *words)
    assert spoken.code == 0, spoken.error
    found, card = json.loads((tmp_path / "new" / "results.json").read_text()), row_of(name, n_atoms)
    assert found["sampling"]["ess"] > card["ess"] / 1.5
    value = found["estimates"]["tfep"]["beta_F_per_atom"]
    assert abs(value["value"] - card["bar"]["value"]) < 5 * (value["error"] ** 2 + card["bar"]["error"] ** 2) ** 0.5


def test_free_energies_of_the_card_are_the_published_ones():
    """BAR against published MBAR where there are any: z <= 4, false alarm 2e-4 for all of them."""
    rows = [row for row in CARD["rows"] if row["published"]]
    assert len(rows) == 3
    for row in rows:
        value, error = row["published"]
        assert abs(row["bar"]["value"] - value) < 4 * (row["bar"]["error"] ** 2 + error**2) ** 0.5
