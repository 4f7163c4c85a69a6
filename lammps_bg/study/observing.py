# SPDX-License-Identifier: GPL-2.0-or-later
"""Observables of every source of configurations side by side: base, flow, reweighted flow, molecular dynamics."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lammps_bg.errors import LammpsBGError
from lammps_bg.report.identification import StructureIdentifier
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.observables import (
    RadialDistribution,
    SiteDisplacements,
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


@dataclass(frozen=True)
class Structure:
    """What OVITO recognises.

    Attributes:
        types: Names of the structures, such as FCC.
        shares: By name of the view: share of the atoms in each structure and its standard error, shape [types] each.
    """

    types: tuple[str, ...]
    shares: dict[str, tuple[Array, Array]]


@dataclass(frozen=True)
class Observables:
    """Observables by the name of their view: `base`, `flow`, `reweighted`, `exact`, `md`.

    Attributes:
        energies: Mean potential energies per atom.
        series: By source: energies per atom of all configurations with a finite one, and their log-weights where there are some.
        displacements: Mean-square displacements.
        pressures: Mean pressures with the ideal part, pressure units; None where they were not asked for.
        radial: g(r); None where it was not asked for.
        n_radial: By source: configurations behind g(r).
        structure: None where OVITO knows no structure like the reference's.
    """

    energies: dict[str, EstimateResult]
    series: dict[str, tuple[Array, Array | None]]
    displacements: dict[str, SiteDisplacements] = field(default_factory=dict)
    pressures: dict[str, EstimateResult] | None = None
    radial: dict[str, RadialDistribution] | None = None
    n_radial: dict[str, int] = field(default_factory=dict)
    structure: Structure | None = None


def observe(problem: Problem, sources: Sequence[Source], *, n_configurations: int) -> Observables:
    """All observables of all sources.

    Args:
        problem: Crystal, temperature and units.
        sources: What to put side by side.
        n_configurations: Configurations of each source that the radial distribution and the pressure rest on; 0: neither.
    """
    energies, series = _energies(problem, sources), _series(sources, problem.crystal.n_sites)
    shown = [source for source in sources if source.usable.sum() > 1]
    if not shown:
        return Observables(energies, series)
    displacements = _displacements(shown)
    if not n_configurations:
        return Observables(energies, series, displacements)
    pressures = _pressures(problem, shown, n_configurations)
    radial, n_radial = _radial_distribution(problem, shown, n_configurations)
    return Observables(energies, series, displacements, pressures, radial, n_radial, _structures(problem, shown))


def _energies(problem: Problem, sources: Sequence[Source]) -> dict[str, EstimateResult]:
    """Mean potential energies per atom by name."""
    means = {}
    for source in sources:
        finite = np.isfinite(source.energies)
        if source.mean_energy is not None:
            means[source.name] = source.mean_energy.scaled(1.0 / problem.crystal.n_sites)
            continue
        for name, log_w in source.views():
            if finite.sum() > 1:
                weights = None if log_w is None else log_w[finite]
                means[name] = mean_potential_energy(source.energies[finite], problem.crystal.n_sites, weights)
    return means


def _series(sources: Sequence[Source], n_atoms: int) -> dict[str, tuple[Array, Array | None]]:
    """Energies per atom of all configurations with a finite one."""
    series = {}
    for source in sources:
        finite = np.isfinite(source.energies)
        series[source.name] = source.energies[finite] / n_atoms, None if source.log_w is None else source.log_w[finite]
    return series


def _views(sources: Sequence[Source], count: int | None = None) -> Iterator[tuple[str, Source, NDArray[np.int64], Array | None]]:
    """Name, source, its usable configurations among the first ones, and their log-weights."""
    for source in sources:
        index = np.flatnonzero(source.usable)[:count]
        for name, log_w in source.views():
            yield name, source, index, None if log_w is None else log_w[index]


def _displacements(sources: Sequence[Source]) -> dict[str, SiteDisplacements]:
    """Mean-square displacements: of all sites, and of each."""
    return {name: mean_square_displacement(source.displacements[index], log_w) for name, source, index, log_w in _views(sources)}


def _pressures(problem: Problem, sources: Sequence[Source], count: int) -> dict[str, EstimateResult]:
    """Mean pressures with the ideal part N kT / V."""
    ideal = float(problem.ideal_pressure(problem.crystal.volume))
    means, known = dict[str, EstimateResult](), dict[str, Array]()
    for name, source, index, log_w in _views(sources, count):
        if source.virials is not None:
            index, log_w = np.flatnonzero(source.usable), None
            known[source.name] = source.virials[index]
        elif source.name not in known:
            known[source.name] = problem.surface.virial_pressures(source.displacements[index])
        finite = np.isfinite(known[source.name])
        if finite.sum() > 1:
            weights = None if log_w is None else log_w[finite]
            means[name] = mean_observable(known[source.name][finite], weights).scaled(1.0, ideal)
    return means


def _radial_distribution(
    problem: Problem, sources: Sequence[Source], count: int
) -> tuple[dict[str, RadialDistribution], dict[str, int]]:
    """g(r) of every view, and the configurations of every source behind it."""
    crystal, n_atoms = problem.crystal, problem.crystal.n_sites
    edges = np.linspace(0.0, _RDF_REACH * crystal.nearest_distance, _RDF_BINS + 1)
    counts, curves = dict[str, Array](), {}
    for name, source, index, log_w in _views(sources, count):
        if source.name not in counts:
            positions = problem.surface.positions(source.displacements[index])
            counts[source.name] = pair_counts(positions, crystal.supercell, edges)
        curves[name] = radial_distribution(counts[source.name], edges, crystal.volume, n_atoms=n_atoms, log_w=log_w)
    return curves, {name: len(values) for name, values in counts.items()}


def _structures(problem: Problem, sources: Sequence[Source]) -> Structure | None:
    """Shares of the atoms that OVITO recognises as each structure; None where it knows no structure like the reference's."""
    crystal = problem.crystal
    try:
        identifier = StructureIdentifier(crystal.sites, crystal.supercell)
        if not identifier.recognises:
            return None
        fractions, shares = dict[str, Array](), {}
        for name, source, index, log_w in _views(sources, _STRUCTURE_FRAMES):
            if source.name not in fractions:
                positions = problem.surface.positions(source.displacements[index])
                names, fractions[source.name] = identifier.fractions(positions, crystal.supercell)
            shares[name] = weighted_mean(fractions[source.name], log_w)
    except LammpsBGError as error:  # OVITO is optional
        log.warning("structures were not identified: %s", error)
        return None
    return Structure(tuple(names), shares)
