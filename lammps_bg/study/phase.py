# SPDX-License-Identifier: GPL-2.0-or-later
"""Phase diagrams: where crystals have the same Gibbs free energy along one axis, traced over a second one."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.polynomial.chebyshev import chebpts2

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import CELL_VARIABLES
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.units import Units
from lammps_bg.errors import ConfigError, CrystalError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.helmholtz import (
    CellProgress,
    HelmholtzTable,
    cell_design,
    chains_entry,
    judge_tables,
    tables_over,
    written_state,
)
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.coexistence import ClausiusClapeyron, CoexistenceLine, Crossings, crossing
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.repeats import with_error
from lammps_bg.thermo.verdict import Verdict, combine

log = logging.getLogger(__name__)
PRESSURE = "P"
_SCAN = 33  # pressures at which G is minimised
_NODES = 5  # places on an axis other than the pressure, where F is evaluated
_INSET = 0.01  # share of the covered pressures left out at either end, where the minimum touches the edge


# ---- what is asked for


@dataclass(frozen=True)
class Phase:
    """One crystal of a comparison.

    Attributes:
        name: What it is called.
        model: Its conditional model.
        names: Its free cell variables.
        config: Its configuration.
    """

    name: str
    model: ConditionalModel
    names: tuple[str, ...]
    config: Config

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.model.reference.crystal.n_sites

    def own(self) -> dict[str, float]:
        """T and the parameters of its script that are conditions of the model."""
        problem = self.model.reference
        return {TEMPERATURE: problem.temperature, **problem.surface.parameters}


@dataclass(frozen=True)
class PhaseRequest:
    """Where crystals are compared.

    Attributes:
        axis: P, T, or a parameter of the potential.
        outer: Points off the axis: T, parameters, and P in the script's unit where it is not the axis.
        limits: Ends of the axis in its unit, rising; None: all that the models cover.
        other_sizes: Compare crystals of unequal numbers of atoms.
    """

    axis: str
    outer: Sequence[Mapping[str, float]]
    limits: tuple[float, float] | None = None
    other_sizes: bool = False


# ---- what is found


@dataclass(frozen=True)
class Coexistence:
    """Two crystals where they have the same Gibbs free energy; differences are second minus first, per atom.

    Attributes:
        place: P, T and parameters there.
        volumes: Volume per atom of each, length units cubed.
        enthalpies: Potential energy and P V per atom of each, energy units.
    """

    place: Mapping[str, float]
    volumes: tuple[EstimateResult, EstimateResult]
    enthalpies: tuple[EstimateResult, EstimateResult]

    @classmethod
    def of(cls, place: Mapping[str, float], both: Sequence[tuple[int, HelmholtzTable]], nktv2p: float) -> "Coexistence":
        """From the free energies of both over cells.

        Args:
            place: P, T and parameters.
            both: Number of atoms and table of each crystal, at this T and these parameters.
            nktv2p: Pressure units per energy per volume.
        """
        pressure = place[PRESSURE] / nktv2p
        volumes, enthalpies = [], []
        for n, table in both:
            point = table.surface.gibbs(pressure)
            energy = table.potential_energy([entry.value for entry in point.cell])
            volumes.append(point.volume.scaled(1 / n))
            enthalpy = (energy.value + pressure * point.volume.value) / n
            error = math.hypot(energy.error, pressure * point.volume.error) / n
            enthalpies.append(with_error(enthalpy, error, energy.n))
        return cls(place, (volumes[0], volumes[1]), (enthalpies[0], enthalpies[1]))

    @property
    def volume(self) -> EstimateResult:
        """Difference of the volumes."""
        return _difference(*self.volumes)

    @property
    def enthalpy(self) -> EstimateResult:
        """Difference of the enthalpies."""
        return _difference(*self.enthalpies)

    def to_dict(self) -> dict[str, Any]:
        """The fields for a JSON file."""
        changes = {"volume_difference": _number(self.volume), "enthalpy_difference": _number(self.enthalpy)}
        return {**changes, "volumes": [_number(v) for v in self.volumes]}


def _difference(first: EstimateResult, second: EstimateResult) -> EstimateResult:
    return with_error(second.value - first.value, math.hypot(first.error, second.error), first.n)


def _number(value: EstimateResult) -> dict[str, float]:
    return {"value": value.value, "error": value.error}


@dataclass(frozen=True)
class Difference:
    """Two crystals along the axis, at one point off it.

    Attributes:
        pair: Their indices.
        names: Their names, first and second.
        state: T, parameters and P, but for the axis.
        axis: Places on the axis, shape [k].
        difference: G per atom of the second minus that of the first in each repeat, energy units, shape [R, k].
        crossings: Its zeros.
        coexistence: Volumes and enthalpies at these.
        tables: F over cells of each of the two, at the points of the axis.
    """

    pair: tuple[int, int]
    names: tuple[str, str]
    state: dict[str, float]
    axis: Array
    difference: Array
    crossings: Crossings
    coexistence: Sequence[Coexistence]
    tables: tuple[Sequence[HelmholtzTable], Sequence[HelmholtzTable]]

    @property
    def mean(self) -> Array:
        """Mean of the repeats, shape [k]."""
        return np.asarray(self.difference.mean(0))

    @property
    def error(self) -> Array:
        """Its standard error, shape [k]."""
        return np.asarray(self.difference.std(0, ddof=1) / math.sqrt(len(self.difference)))

    def to_dict(self) -> dict[str, Any]:
        """The fields for a JSON file."""
        return {
            **dict(zip(("first", "second"), self.names, strict=True)),
            "state": self.state,
            "axis": self.axis.tolist(),
            "difference_per_atom": {"value": self.mean.tolist(), "error": self.error.tolist()},
            "crossings": self.crossings.to_dict(),
            "coexistence": [entry.to_dict() for entry in self.coexistence],
        }


@dataclass(frozen=True)
class TracedLine:
    """Where two crystals coexist over the one quantity off the axis that varies.

    Attributes:
        names: Of the two crystals, first and second.
        outer: Name of that quantity.
        line: The crossings.
        check: Its slope beside that of Clausius and Clapeyron, in the plane of P and T.
    """

    names: tuple[str, str]
    outer: str
    line: CoexistenceLine
    check: ClausiusClapeyron | None


@dataclass(frozen=True)
class PhaseResult:
    """Crystals compared.

    Attributes:
        phases: The crystals.
        axis: Name of the axis.
        outer: Points off the axis.
        differences: Each pair at each point off the axis, all pairs of a point together.
        lines: Coexistence over the quantity that varies between these points, where there are three or more.
        verdict: What to think of all of it.
    """

    phases: Sequence[Phase]
    axis: str
    outer: Sequence[Mapping[str, float]]
    differences: Sequence[Difference]
    lines: Sequence[TracedLine]
    verdict: Verdict

    @property
    def units(self) -> Units:
        """Of all crystals."""
        return self.phases[0].model.reference.units

    @property
    def n_evaluations(self) -> int:
        """Configurations evaluated."""
        return sum(phase.model.reference.n_evaluations for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Entry `phase` of results.json."""
        phases = [
            {
                "name": phase.name, "n_atoms": phase.n_atoms, "free": list(phase.names), "lowest_ess": min(float(t.ess.min()) for t in own),
                **chains_entry(own),
            }
            for phase, own in zip(self.phases, _tables(self.phases, self.differences), strict=True)
        ]  # fmt: skip
        slopes = [{"pair": list(line.names), **line.check.to_dict()} for line in self.lines if line.check]
        found = [difference.to_dict() for difference in self.differences]
        return {"phase": {"axis": self.axis, "phases": phases, "differences": found, "clausius_clapeyron": slopes}}


# ---- how it is found


def phase_diagram(
    phases: Sequence[Phase], request: PhaseRequest, reporter: Reporter = SILENT, stop: StopFlag | None = None
) -> PhaseResult:
    """Compare crystals along an axis; all MPI ranks call it together.

    Args:
        phases: The crystals, with the same seed, units and potential.
        request: The axis, and the points off it.
        reporter: Told of progress.
        stop: Set by signals.

    Raises:
        CrystalError: The free energies do not compare.
        ConfigError: A model does not know a quantity.
        StateError: A value is outside what the models were trained for.
        Interrupted: A signal came.
    """
    _require_comparable(phases, other_sizes=request.other_sizes)
    _require_states(phases, request.outer)
    _require_same_potential(phases, request.outer[0])
    comparison, found = _Comparison(phases, request), list[Difference]()
    with CellProgress.shown(reporter, stop, comparison.cells_of_a_point(), parts=len(request.outer)) as progress:
        for state in request.outer:
            found += comparison.at(state, progress)
            progress.end_part()
    lines = _lines(request, found, comparison.units.nktv2p)
    verdicts = [*_judge_crystals(phases, found), *_judge_crossings(found), *(line.check.verdict for line in lines if line.check)]
    return PhaseResult(phases, request.axis, request.outer, found, lines, combine(verdicts))


@contextmanager
def _naming(phase: Phase) -> Iterator[None]:
    """Which crystal a refused state belongs to."""
    try:
        yield
    except StateError as error:
        raise StateError(f"{phase.name}: {error}") from None


class _Comparison:
    """Free energies of some crystals along an axis, and where they cross."""

    def __init__(self, phases: Sequence[Phase], request: PhaseRequest) -> None:
        self.phases, self.axis, self.given = phases, request.axis, request.limits
        self.units, self.seed = phases[0].model.reference.units, phases[0].config.seed

    def cells_of_a_point(self) -> int:
        """Cells to be evaluated at one point off the axis, with one crossing for each pair where these cost any."""
        cells = [len(cell_design(len(entry.names), entry.config.gibbs.n_volumes)) for entry in self.phases]
        if self.axis == PRESSURE:
            return sum(cells)
        return _NODES * sum(cells) + (len(self.phases) - 1) * sum(cells)

    def at(self, state: Mapping[str, float], progress: CellProgress) -> list[Difference]:
        """All pairs of crystals along the axis, at one point off it."""
        along = self._along_pressure if self.axis == PRESSURE else self._along_condition
        axis, curves, tables = along(state, progress)
        pairs = []
        for i, j in combinations(range(len(self.phases)), 2):
            difference = curves[j] - curves[i]
            # equal seeds everywhere: then the replicas of the points of a line belong together
            found = parallel.agreed(crossing(axis, difference, np.random.default_rng(self.seed)))
            places = [{**state, self.axis: root.estimate.value} for root in found.roots]
            at = [self._coexistence((i, j), where, tables, progress) for where in places]
            names = (self.phases[i].name, self.phases[j].name)
            pairs.append(Difference((i, j), names, dict(state), axis, difference, found, at, (tables[i], tables[j])))
        return pairs

    def _along_pressure(
        self, state: Mapping[str, float], progress: CellProgress
    ) -> tuple[Array, list[Array], list[list[HelmholtzTable]]]:
        """Pressures, G per atom in each repeat [R, k] of each crystal, and their free energies over cells."""
        tables, covered = [], []
        for entry in self.phases:
            with _naming(entry):
                tables.append(tables_over(entry.model, [state], entry.names, entry.config, progress))
                covered.append(tables[-1][0].surface.pressure_range())
        axis = np.linspace(*self._common_pressures(covered), _SCAN)
        curves = [table.surface.gibbs_repeats(axis) / p.n_atoms for (table,), p in zip(tables, self.phases, strict=True)]
        return axis * self.units.nktv2p, curves, tables

    def _common_pressures(self, covered: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """What the trained cells of all crystals cover of what is asked for, energy per volume."""
        factor, label = self.units.nktv2p, self.units.labels.pressure
        margins = [_INSET * (high - low) for low, high in covered]
        low = max(r[0] + m for r, m in zip(covered, margins, strict=True))
        high = min(r[1] - m for r, m in zip(covered, margins, strict=True))
        if self.given:
            asked = self.given[0] / factor, self.given[1] / factor
            low, high = max(low, asked[0]), min(high, asked[1])
            if (low, high) != asked:
                shown = f"{low * factor:.6g} to {high * factor:.6g} {label}"
                log.warning("of --range only %s is looked at, which the trained cells of all crystals cover", shown)
        if not low < high:
            shown = "; ".join(
                f"{p.name} {a * factor:.4g} to {b * factor:.4g}" for p, (a, b) in zip(self.phases, covered, strict=True)
            )
            raise StateError(
                f"expected pressures that the trained cells of all crystals cover, got none in {label} ({shown}); train over other volumes"
            )
        return low, high

    def _along_condition(
        self, state: Mapping[str, float], progress: CellProgress
    ) -> tuple[Array, list[Array], list[list[HelmholtzTable]]]:
        """Values of the axis, G per atom in each repeat [R, k] of each crystal, and their free energies over cells."""
        low, high = self._common_range()
        axis = 0.5 * (low + high) + 0.5 * (high - low) * chebpts2(_NODES)
        pressure = state[PRESSURE] / self.units.nktv2p
        at = {name: value for name, value in state.items() if name != PRESSURE}
        curves, every = [], []
        for entry in self.phases:
            with _naming(entry):
                states = [{**at, self.axis: float(a)} for a in axis]
                tables = tables_over(entry.model, states, entry.names, entry.config, progress)
                curves.append(np.concatenate([table.surface.gibbs_repeats([pressure]) for table in tables], 1) / entry.n_atoms)
            every.append(tables)
        return axis, curves, every

    def _common_range(self) -> tuple[float, float]:
        """Ends of an axis other than the pressure, within what all models were trained for."""
        if self.axis in CELL_VARIABLES:
            raise ConfigError(
                f"expected --axis P, T or a parameter of the potential, got {self.axis}, in which the Gibbs free energy is minimised; use --axis P"
            )
        ranges = []
        for entry in self.phases:
            axis = next((axis for axis in entry.model.conditions.axes if axis.name == self.axis and not axis.is_cell), None)
            if axis is None:
                raise ConfigError(
                    f"expected models that were trained over {self.axis}, the axis, got none in {entry.name}; train it with a range of it in "
                    "[condition], or use --axis P"
                )
            ranges.append((axis.low, axis.high))
        low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
        if self.given:
            if not low <= self.given[0] < self.given[1] <= high:
                raise StateError(
                    f"expected --range of {self.axis} inside [{low:g}, {high:g}], which all models were trained for, got {self.given[0]:g} "
                    f"{self.given[1]:g}; give two rising numbers in it"
                )
            low, high = self.given
        if not low < high:
            raise StateError(
                f"expected models trained over a common range of {self.axis}, got none; train them over the same one"
            )
        return low, high

    def _coexistence(
        self,
        pair: tuple[int, int],
        where: Mapping[str, float],
        tables: Sequence[Sequence[HelmholtzTable]],
        progress: CellProgress,
    ) -> Coexistence:
        """Volumes and enthalpies of both crystals at a crossing."""
        at = {name: value for name, value in where.items() if name != PRESSURE}
        both = []
        for index in pair:
            entry = self.phases[index]
            same = self.axis == PRESSURE  # at any P, F is what it was along the axis
            with _naming(entry):
                table = tables[index][0] if same else tables_over(entry.model, [at], entry.names, entry.config, progress)[0]
                table.surface.gibbs(where[PRESSURE] / self.units.nktv2p)
            both.append((entry.n_atoms, table))
        return Coexistence.of(where, both, self.units.nktv2p)


# ---- the lines


def varying(states: Sequence[Mapping[str, float]]) -> str | None:
    """The one entry that differs between states; None where there are more or none."""
    names = [name for name in states[0] if len({state[name] for state in states}) > 1]
    return names[0] if len(names) == 1 else None


def _lines(request: PhaseRequest, found: Sequence[Difference], nktv2p: float) -> list[TracedLine]:
    """The coexistence line of each pair, where there are three points or more."""
    outer, traced = varying(request.outer), list[TracedLine]()
    if outer is None:
        return traced
    for pair in dict.fromkeys(d.pair for d in found):
        column = sorted((d for d in found if d.pair == pair), key=lambda d: d.state[outer])
        kept = [
            (d, d.crossings.roots[0], d.coexistence[0])
            for d in column
            if len(d.crossings.roots) == 1 and d.crossings.roots[0].established
        ]
        if len(kept) < 3:
            continue
        # the points share their random numbers, and so the replicas belong together
        replicas = np.stack([root.replicas for _, root, _ in kept])
        line = CoexistenceLine.of([d.state[outer] for d, _, _ in kept], [root.estimate for _, root, _ in kept], replicas=replicas)
        check = _clapeyron(request.axis, outer, line, [c for *_, c in kept], nktv2p)
        traced.append(TracedLine(column[0].names, outer, line, check))
    return traced


def _clapeyron(
    axis: str, outer: str, line: CoexistenceLine, at: Sequence[Coexistence], nktv2p: float
) -> ClausiusClapeyron | None:
    """The check of the line's slope in the plane of P and T."""
    if {axis, outer} != {PRESSURE, TEMPERATURE}:
        return None
    return line.clausius_clapeyron(
        [entry.place[TEMPERATURE] for entry in at], [entry.enthalpy for entry in at],
        [entry.volume.scaled(1 / nktv2p) for entry in at], outer_axis="temperature" if outer == TEMPERATURE else "pressure",
    )  # fmt: skip


# ---- what to think of it


def _tables(phases: Sequence[Phase], found: Sequence[Difference]) -> list[list[HelmholtzTable]]:
    """F over cells of each crystal, in all states."""
    sides = [(i, own) for d in found for i, own in zip(d.pair, d.tables, strict=True)]
    return [[table for i, own in sides if i == index for table in own] for index in range(len(phases))]


def _judge_crystals(phases: Sequence[Phase], found: Sequence[Difference]) -> list[Verdict]:
    """Whether F of each crystal is worth something in every cell."""
    given = zip(phases, _tables(phases, found), strict=True)
    return [verdict for phase, own in given for verdict in judge_tables(own, phase.config.gibbs, phase.name)]


def _judge_crossings(found: Sequence[Difference]) -> list[Verdict]:
    """Amber where the errors leave open whether there is a crossing."""
    verdicts = []
    for entry in found:
        if entry.crossings.sign_known and all(root.established for root in entry.crossings.roots):
            continue
        first, second = entry.names
        where = written_state(entry.state)
        said = f"Whether {second} and {first} cross{where and ' at '}{where} is open within the errors."
        verdicts.append(Verdict("amber", (said,), True, "Draw more samples (gibbs.n_samples), or train longer."))
    return verdicts


# ---- what keeps crystals from being compared


def _require_comparable(phases: Sequence[Phase], *, other_sizes: bool) -> None:
    """Refuse crystals whose free energies per atom do not compare."""
    first = phases[0].model.reference
    for phase in phases[1:]:
        other = phase.model.reference
        if phase.n_atoms != phases[0].n_atoms and not other_sizes:
            raise CrystalError(
                f"expected crystals of equally many atoms, {phases[0].n_atoms} in {phases[0].name}, got {phase.n_atoms} in {phase.name}; give "
                "each its -rep, or accept an error of the order ln(N)/N per atom with --other-sizes"
            )
        for what, one, two in (
            ("units", first.units.name, other.units.name),
            ("Lambda of the absolute free energy", _lambda(first), _lambda(other, first)),
        ):
            if one != two:
                raise _unlike(what, phases[0], phase)


def _lambda(problem: Problem, like: Problem | None = None) -> tuple[str, float | None]:
    """Whether Lambda is the thermal wavelength, and its value where it is not; equal but for rounding to that of another problem, it is that one."""
    if problem.thermal_length:
        return "thermal", None
    same = like is not None and math.isclose(problem.length_scale, like.length_scale, rel_tol=1e-9)
    return ("", like.length_scale) if same and like else ("", problem.length_scale)


def _unlike(what: str, first: Phase, other: Phase) -> CrystalError:
    return CrystalError(
        f"expected the {what} of {first.name} in {other.name}, got another; their free energies do not compare, so use one "
        "potential and one set of units in both scripts"
    )


def _require_states(phases: Sequence[Phase], states: Sequence[Mapping[str, float]]) -> None:
    """Refuse states that a model does not know, before anything is evaluated."""
    for entry in phases:
        conditions = entry.model.conditions
        middle = conditions.values((0.0,) * len(conditions))
        for state in states:
            conditions.context({**middle, **state})
            for name, value in state.items():
                if name != PRESSURE and name not in conditions.names and value != (own := _own_value(entry, name)):
                    known = f"which knows {name} = {own:g} alone" if own is not None else f"whose script has no variable {name}"
                    raise ConfigError(
                        f"expected models that were trained over {name}, got {name} = {value:g} for {entry.name}, {known}; train it with a "
                        "range of it in [condition]"
                    )


def _own_value(entry: Phase, name: str) -> float | None:
    """T or a variable of a crystal's script."""
    problem = entry.model.reference
    return problem.temperature if name == TEMPERATURE else problem.engine.variable(name)


def _require_same_potential(phases: Sequence[Phase], state: Mapping[str, float]) -> None:
    """Refuse crystals of unequal potentials; their parameters are compared at one state, a model's own axis in the middle of its range."""
    middles = [entry.model.conditions.values((0.0,) * len(entry.model.conditions)) for entry in phases]
    values = {name: value for middle in reversed(middles) for name, value in middle.items()} | dict(state)
    first = _potential(phases[0], values)
    for entry in phases[1:]:
        if _potential(entry, values) != first:
            raise _unlike("potential", phases[0], entry)


def _potential(entry: Phase, values: Mapping[str, float]) -> tuple[Any, ...]:
    """What defines the potential in a state, with the contents of its files in place of their names."""
    names = [axis.name for axis in entry.model.conditions.axes if axis.is_parameter]
    problem = entry.model.reference
    # the instance may stand at the last state that was evaluated
    problem.at({name: values[name] for name in names}).surface.enter()
    pair = problem.engine.pair

    def known(word: str) -> str | bytes:
        path = pair.files.get(word)
        return path.read_bytes() if path is not None and path.is_file() else word

    coefficients = [tuple(map(known, words)) for words in pair.coefficients]
    return pair.style, pair.args, tuple(coefficients), pair.modifiers, pair.others
