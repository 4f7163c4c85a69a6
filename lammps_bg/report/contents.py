# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything a finished run left in its folder, read once for the report; what the run did not make is empty."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.crystal.units import LABELS, UnitLabels
from lammps_bg.results import ENSEMBLES, Results
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.thermo.free_energy import absolute_constant

Array = NDArray[np.float64]
Columns = Mapping[str, Array]


@dataclass(frozen=True)
class RunContents:
    """The files of one run.

    Attributes:
        path: The folder.
        results: results.json.
        observables: observables.json; filled from samples.csv and rdf.csv where a run has none.
        provenance: provenance.json.
        status: status.json.
        config: Text of config.toml.
        train: Columns of train.csv.
        samples: Columns of samples.csv.
        thermo: Columns of thermo.csv.
        picture: The file exact.png, else samples.png; None where there is none.
        curves: curves.json, what `gibbs` and `phase` draw.
        chains: Columns of exact.csv.
    """

    path: Path
    results: Results
    observables: Mapping[str, Any]
    provenance: Mapping[str, Any]
    status: Mapping[str, Any]
    config: str
    train: Columns
    samples: Columns
    thermo: Columns
    picture: Path | None
    curves: Mapping[str, Any]
    chains: Columns

    @property
    def labels(self) -> UnitLabels:
        """Written names of the script's units."""
        return LABELS[self.results.system.get("units", "lj")]

    def chain_table(self, name: str) -> Array | None:
        """A column of exact.csv, shape [steps, chains]; None where it is missing or not whole."""
        values, chain = self.chains.get(name, np.empty(0)), self.chains.get("chain", np.empty(0))
        if not len(values) or not np.isfinite(chain).all():
            return None
        n_chains = int(chain.max()) + 1
        n_steps = len(values) // n_chains
        return values[: n_steps * n_chains].reshape(n_steps, n_chains)

    @property
    def log_w(self) -> Array:
        """Log-weights of all samples, -inf for weights of zero, shape [n]."""
        values = self.samples.get("log_w", np.empty(0))
        return np.where(np.isfinite(values), values, -np.inf)

    @property
    def absolute_constant(self) -> float | None:
        """What -ln Z_u / N lacks to beta F / N; None where the crystal is not described fully."""
        try:
            length = self.results.system["length_scale"]["value"]
            return absolute_constant(self.results.n_atoms, self.results.system["volume"], length)
        except (KeyError, TypeError, ValueError):
            return None


def read_contents(run: RunDirectory) -> RunContents:
    """Read the files of a run.

    Raises:
        RunDirectoryError: results.json is missing, or a file is damaged.
    """
    results = run.read_results()
    samples = read_columns(run.file("samples.csv"))
    observables = _optional_json(run, "observables.json") or _from_tables(results, samples, read_columns(run.file("rdf.csv")))
    config = run.file("config.toml")
    chained = "exact" in results  # files of an earlier estimate with chains may lie beside one without
    pictures = [run.file(name) for name in (["exact.png", "samples.png"] if chained else ["samples.png"])]
    return RunContents(
        path=run.path,
        results=results,
        observables=observables,
        provenance=_optional_json(run, "provenance.json"),
        status=_optional_json(run, "status.json"),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        train=read_columns(run.file("train.csv")),
        samples=samples,
        thermo=read_columns(run.file("thermo.csv")),
        picture=next((picture for picture in pictures if picture.is_file()), None),
        curves=_optional_json(run, "curves.json"),
        chains=read_columns(run.file("exact.csv")) if chained else {},
    )


def read_columns(path: Path) -> Columns:
    """Columns of a CSV file by name; empty cells and words are nan, a line cut short is left out, a missing file has no columns."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", errors="replace", newline="") as stream:
        header, *rows = list(csv.reader(stream)) or [[]]
    whole = [[_number(cell) for cell in row] for row in rows if len(row) == len(header)]
    table = np.array(whole, dtype=np.float64).reshape(len(whole), len(header))
    return {name: table[:, index] for index, name in enumerate(header)}


def numbers(values: Sequence[float | None] | Array) -> Array:
    """Numbers of a JSON list, null as nan, shape [n]."""
    return np.array(values, dtype=np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _optional_json(run: RunDirectory, name: str) -> Mapping[str, Any]:
    return run.read_json(name) if run.file(name).is_file() else {}


def _from_tables(results: Mapping[str, Any], samples: Columns, rdf: Columns) -> Mapping[str, Any]:
    """Energies and radial distribution of a run without observables.json, in its schema."""
    found: dict[str, Any] = {}
    system = results.get("system") or {}
    labels = LABELS[system.get("units", "lj")]
    if "pe" in samples and system.get("n_atoms"):
        energies = {"values": samples["pe"] / system["n_atoms"], "log_w": samples.get("log_w")}
        found["energy"] = {"unit": f"{labels.energy} per atom", "series": {"flow": energies}}
    curves = {kind: {"g": rdf[f"g_{kind}"], "error": rdf.get(f"error_{kind}")} for kind in ENSEMBLES if f"g_{kind}" in rdf}
    if "r" in rdf and curves:
        found["rdf"] = {"unit": labels.length, "r": rdf["r"], "curves": curves}
    return found
