# SPDX-License-Identifier: GPL-2.0-or-later
"""Observables of every source of configurations side by side: base, flow, reweighted flow, molecular dynamics.

results.json gets the numbers, observables.json the curves and histograms behind them, rdf.csv the radial distribution.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.errors import LammpsBGError
from lammps_bg.report.identification import StructureIdentifier
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.observables import (
    mean_observable,
    mean_potential_energy,
    mean_square_displacement,
    pair_counts,
    radial_distribution,
    weighted_mean,
)

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
_RDF_BINS = 200
_RDF_REACH = 3.0  # nearest-neighbour distances
_STRUCTURE_FRAMES = 100


@dataclass(frozen=True)
class Source:
    """Independent configurations of one origin at the script's cell.

    Attributes:
        name: `base`, `flow` or `md`.
        energies: Total potential energies, energy units, shape [n].
        displacements: Of the first configurations, length units, shape [m, N, 3].
        log_w: Log-weights, shape [n]; None where there are none, or they are worth nothing.
        mean_energy: Mean of all frames of a trajectory, of which `energies` are the independent ones, energy units; None without one.
        virials: Configurational pressures of the first configurations, pressure units, shape [m]; None to evaluate them.
    """

    name: str
    energies: Array
    displacements: Array
    log_w: Array | None = None
    virials: Array | None = None
    mean_energy: EstimateResult | None = None
    usable: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        finite = np.isfinite(self.energies[: len(self.displacements)]) & np.isfinite(self.displacements).all((1, 2))
        object.__setattr__(self, "usable", finite)

    def views(self) -> Iterator[tuple[str, Array | None]]:
        """What it is called in the tables, raw and with its weights."""
        yield self.name, None
        if self.log_w is not None:
            yield "reweighted", self.log_w


def observe(problem: Problem, sources: Sequence[Source], run: RunDirectory, *, n_configurations: int) -> dict[str, Any]:
    """Write observables.json and rdf.csv; returns the numbers for results.json.

    Args:
        problem: Crystal, temperature and units.
        sources: What to put side by side.
        run: The run directory.
        n_configurations: Configurations of each source that the radial distribution and the pressure rest on; 0: neither.
    """
    labels = problem.units.labels
    energy = {"unit": labels.energy, **_energies(problem, sources)}
    numbers: dict[str, Any] = {"potential_energy_per_atom": energy}
    n_atoms = problem.crystal.n_sites
    arrays: dict[str, Any] = {"energy": {"unit": f"{labels.energy} per atom", "series": _series(sources, n_atoms)}}
    shown = [source for source in sources if source.usable.sum() > 1]
    if shown:
        numbers["mean_square_displacement"], arrays["msd"] = _displacements(problem, shown)
    if shown and n_configurations:
        numbers["pressure"] = arrays["pressure"] = _pressures(problem, shown, n_configurations)
        numbers["radial_distribution"], arrays["rdf"] = _radial_distribution(problem, shown, n_configurations, run)
        if (structure := _structures(problem, shown)) is not None:
            numbers["structure"] = arrays["structure"] = structure
    run.write_json("observables.json", arrays)
    return numbers


def _energies(problem: Problem, sources: Sequence[Source]) -> dict[str, Any]:
    """Mean potential energies per atom by name."""
    entries = {}
    for source in sources:
        finite = np.isfinite(source.energies)
        if source.mean_energy is not None:
            entries[source.name] = source.mean_energy.scaled(1.0 / problem.crystal.n_sites).to_dict()
            continue
        for name, log_w in source.views():
            if finite.sum() > 1:
                weights = None if log_w is None else log_w[finite]
                mean = mean_potential_energy(source.energies[finite], problem.crystal.n_sites, weights)
                entries[name] = mean.to_dict()
    return entries


def _series(sources: Sequence[Source], n_atoms: int) -> dict[str, Any]:
    """Energies per atom of all configurations with a finite one, for histograms."""
    series: dict[str, Any] = {}
    for source in sources:
        finite = np.isfinite(source.energies)
        series[source.name] = {"values": _rounded(source.energies[finite] / n_atoms)}
        if source.log_w is not None:
            series[source.name]["log_w"] = _rounded(source.log_w[finite])
    return series


def _views(sources: Sequence[Source], count: int | None = None) -> Iterator[tuple[str, Source, NDArray[np.int64], Array | None]]:
    """Name, source, its usable configurations among the first ones, and their log-weights."""
    for source in sources:
        index = np.flatnonzero(source.usable)[:count]
        for name, log_w in source.views():
            yield name, source, index, None if log_w is None else log_w[index]


def _displacements(problem: Problem, sources: Sequence[Source]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean-square displacements: of all sites, and of each."""
    unit = f"{problem.units.labels.length}^2"
    numbers: dict[str, Any] = {"unit": unit}
    curves = {}
    for name, source, index, log_w in _views(sources):
        found = mean_square_displacement(source.displacements[index], log_w)
        numbers[name] = found.mean.to_dict()
        curves[name] = {"value": _rounded(found.sites), "error": _rounded(found.errors)}
    return numbers, {"unit": unit, "curves": curves}


def _pressures(problem: Problem, sources: Sequence[Source], count: int) -> dict[str, Any]:
    """Mean pressures with the ideal part N kT / V."""
    ideal = float(problem.ideal_pressure(problem.crystal.volume))
    entries: dict[str, Any] = {"unit": problem.units.labels.pressure}
    known: dict[str, Array] = {}
    for name, source, index, log_w in _views(sources, count):
        if source.virials is not None:
            index, log_w = np.flatnonzero(source.usable), None
            known[source.name] = source.virials[index]
        elif source.name not in known:
            known[source.name] = problem.surface.virial_pressures(source.displacements[index])
        finite = np.isfinite(known[source.name])
        if finite.sum() > 1:
            weights = None if log_w is None else log_w[finite]
            entries[name] = mean_observable(known[source.name][finite], weights).scaled(1.0, ideal).to_dict()
    return entries


def _radial_distribution(
    problem: Problem, sources: Sequence[Source], count: int, run: RunDirectory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """g(r) of every view; rdf.csv holds the same curves."""
    crystal, n_atoms = problem.crystal, problem.crystal.n_sites
    edges = np.linspace(0.0, _RDF_REACH * crystal.nearest_distance, _RDF_BINS + 1)
    counts: dict[str, Array] = {}
    curves, columns = {}, []
    for name, source, index, log_w in _views(sources, count):
        if source.name not in counts:
            positions = problem.surface.positions(source.displacements[index])
            counts[source.name] = pair_counts(positions, crystal.supercell, edges)
        found = radial_distribution(counts[source.name], edges, crystal.volume, n_atoms=n_atoms, log_w=log_w)
        curves[name] = {"g": _rounded(found.g), "error": _rounded(found.errors)}
        columns += [found.g, found.errors]
        r = found.r
    names = ["r", *(column for name in curves for column in (f"g_{name}", f"error_{name}"))]
    lines = [",".join(names), *(",".join(f"{x:.8g}" for x in row) for row in zip(r, *columns, strict=True))]
    run.write_text("rdf.csv", "\n".join(lines) + "\n")
    length = problem.units.labels.length
    entry = {"file": "rdf.csv", "length_unit": length, "n_samples": {name: len(values) for name, values in counts.items()}}
    return entry, {"unit": length, "r": _rounded(r), "curves": curves}


def _structures(problem: Problem, sources: Sequence[Source]) -> dict[str, Any] | None:
    """Shares of the atoms that OVITO recognises as each structure; None where it knows no structure like the reference's."""
    crystal = problem.crystal
    try:
        identifier = StructureIdentifier(crystal.sites, crystal.supercell)
        if not identifier.recognises:
            return None
        fractions: dict[str, Array] = {}
        entries: dict[str, Any] = {}
        for name, source, index, log_w in _views(sources, _STRUCTURE_FRAMES):
            if source.name not in fractions:
                positions = problem.surface.positions(source.displacements[index])
                names, fractions[source.name] = identifier.fractions(positions, crystal.supercell)
            value, error = weighted_mean(fractions[source.name], log_w)
            entries[name] = {"value": _rounded(value), "error": _rounded(error)}
    except LammpsBGError as error:  # OVITO is optional
        log.warning("structures were not identified: %s", error)
        return None
    return {"types": list(names), "fractions": entries}


def _rounded(values: Array) -> list[float]:
    """For JSON: eight digits are enough for figures."""
    return [float(f"{value:.8g}") for value in np.asarray(values)]
