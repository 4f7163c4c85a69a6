# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies, volumes and compressibilities of one crystal from its conditional model, with molecular dynamics beside them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import FREE, cell_variables
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.pressure import describe_pressure, parse_pressure
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.units import Units
from lammps_bg.engine.script.parameters import same
from lammps_bg.errors import ConfigError, CrystalError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.study.conditional import SAME_CELL, ConditionalModel
from lammps_bg.study.helmholtz import (
    CellProgress,
    CellSamples,
    HelmholtzTable,
    cell_design,
    chains_entry,
    free_variables,
    judge_tables,
    sample_state,
    tables_over,
    written_state,
)
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.gibbs import GibbsPoint
from lammps_bg.thermo.repeats import mean_of, with_error
from lammps_bg.thermo.verdict import Verdict, combine, judge_beside_md, judge_edge, judge_fresh_samples, limit_of

_SAME_ENERGY = 1e-6  # relative difference of static energies that is rounding
_SAME_STATE = 1e-6
_FLOOR = 1e-12


# ---- what is asked for


@dataclass(frozen=True)
class MdAtCell:
    """Molecular dynamics to compare with: at constant pressure, or over the windows of lambda in one cell.

    Attributes:
        path: Folder or name that tells of it.
        mode: npt or mbar.
        results: Content of its results.json.
        variables: Values of index variables that it was given.
    """

    path: Path
    mode: str
    results: Mapping[str, Any]
    variables: Mapping[str, Sequence[str]]

    def cell_values(self, model: ConditionalModel) -> dict[str, float]:
        """Cell variables of the cell it started in, which is that of the windows, relative to the model's."""
        cell = np.array(self.results["system"]["cell"])
        return cell_variables(np.asarray(np.linalg.solve(model.reference.crystal.supercell, cell)))


@dataclass(frozen=True)
class GibbsRequest:
    """Where G is asked for: in every state at every pressure.

    Attributes:
        states: T and the parameters of the potential of each state, by name; see `states_of`.
        pressures: Pressure units of the script.
        cell: Which cell variables are free, iso, xy, aniso or tri; None: all of the model.
        md: Molecular dynamics to compare with.
    """

    states: Sequence[Mapping[str, float]]
    pressures: Sequence[float]
    cell: str | None = None
    md: Sequence[MdAtCell] = ()


def pressures_of(typed: Sequence[str], problem: Problem) -> list[float]:
    """Pressures as a person writes them, in pressure units of the script.

    Args:
        typed: The words; a unit at the end goes for all numbers before it. Empty: the script's variable P.
        problem: Units and variable.

    Raises:
        StateError: One is no pressure.
        ConfigError: There is none.
    """
    if not typed:
        own = script_pressure(problem.engine)
        if own is None:
            raise ConfigError("expected a pressure, got no variable P in the script; add -P with one or more, such as -P 0 1 GPa")
        return [own]
    words = list(typed)
    unit = words.pop() if len(words) > 1 and words[-1][:1].isalpha() else ""
    return [parse_pressure(word if word[-1:].isalpha() else f"{word} {unit}", problem.units) for word in words]


def states_of(grid: Mapping[str, Sequence[float]], problem: Problem, model: ConditionalModel) -> list[dict[str, float]]:
    """T and parameters of all states of a grid, checked against the trained ranges.

    Args:
        grid: Values by name, where they are not those of the script.
        problem: The script's own state.
        model: The model.

    Raises:
        ConfigError: A name is no condition of the model.
        StateError: A value is outside the trained range.
    """
    known = (TEMPERATURE, *(axis.name for axis in model.conditions.axes if axis.is_parameter))
    own = {name: value for name, value in model.own_values(problem).items() if name in known}
    for name in grid:
        if name not in model.conditions.names:
            raise ConfigError(
                f"expected conditions of the model ({', '.join(model.conditions.names)}), got values of {name}; train a model with a range of it"
            )
    states = [{**own, **dict(zip(grid, values, strict=True))} for values in product(*grid.values())]
    middle = model.conditions.values((0.0,) * len(model.conditions))
    for state in states:
        model.conditions.context({**middle, **state})
    return states


# ---- what is found


@dataclass(frozen=True)
class GibbsRow:
    """The crystal in one state at one pressure; what is extensive is per atom, all in the script's units.

    Attributes:
        table: F over cells in this state.
        pressure: P.
        point: Minimum of F + P V, of the whole crystal, with P in energy per volume.
        check: Fresh samples in the cell that was found.
        box: Vectors of that cell as rows, shape [3, 3].
        units: The script's units.
    """

    table: HelmholtzTable
    pressure: float
    point: GibbsPoint
    check: CellSamples
    box: Array
    units: Units

    @property
    def state(self) -> Mapping[str, float]:
        """T and the parameters of the potential."""
        return self.table.values

    @property
    def where(self) -> str:
        """State and pressure in one line."""
        return ", ".join([*filter(None, [written_state(self.state)]), f"P = {describe_pressure(self.pressure, self.units)}"])

    @property
    def cell(self) -> dict[str, EstimateResult]:
        """The free cell variables, by name."""
        return dict(zip(self.table.names, self.point.cell, strict=True))

    @property
    def per_atom(self) -> dict[str, EstimateResult]:
        """G, F, volume where F + P V is lowest, mean volume, and mean potential energy, by name."""
        cell = [entry.value for entry in self.point.cell]
        whole = {
            "G": self.point.free_energy,
            "F": self._helmholtz(),
            "volume": self.point.volume,
            "mean_volume": self.point.mean_volume,
        }
        whole["potential_energy"] = self.table.potential_energy(cell)
        return {name: value.scaled(1 / self.table.n_atoms) for name, value in whole.items()}

    @property
    def beta_g(self) -> EstimateResult:
        """G per atom, kT."""
        return self.point.free_energy.scaled(1 / (self.table.n_atoms * self.table.kt))

    @property
    def pv(self) -> float:
        """P V per atom, energy units."""
        return self.pressure / self.units.nktv2p * self.point.volume.value / self.table.n_atoms

    @property
    def compressibility(self) -> EstimateResult:
        """-d ln V / dP with relaxing shape, inverse pressure units."""
        return self.point.compressibility.scaled(1 / self.units.nktv2p)

    @property
    def scores(self) -> tuple[float, float]:
        """Differences of fresh samples' F and virial pressure from the polynomial's F and from P, in their standard errors."""
        curve, fresh = self._helmholtz(), mean_of(self.check.free_energy)
        own = mean_of(self.check.pressure if self.check.pressure is not None else np.full(2, np.nan))
        # P is exact, the volume is not: an error of the volume is one of the pressure there
        spread = self.point.volume.error / (self.point.volume.value * self.point.compressibility.value) * self.units.nktv2p
        return (
            float((fresh.value - curve.value) / np.hypot(fresh.error, curve.error)),
            float((own.value - self.pressure) / np.hypot(own.error, spread)),
        )

    def _helmholtz(self) -> EstimateResult:
        """F of the whole crystal in the cell, by the polynomial."""
        value, error = self.table.surface.helmholtz([[entry.value for entry in self.point.cell]])
        return with_error(float(value[0]), float(error[0]), len(self.table.free_energy))

    def to_dict(self) -> dict[str, Any]:
        """The fields for a JSON file."""
        point, n = self.point, self.table.n_atoms
        entry: dict[str, Any] = {"state": dict(self.state), "pressure": self.pressure}
        entry |= {f"{name}_per_atom": _number(value) for name, value in self.per_atom.items()}
        entry |= {
            "beta_G_per_atom": _number(self.beta_g),
            "PV_per_atom": self.pv,
            "compressibility": _number(self.compressibility),
        }
        entry["volume_variance_per_atom"] = _number(point.volume_variance.scaled(1 / n))
        entry["cell"] = {name: _number(value) for name, value in self.cell.items()}
        entry |= {"box": self.box.tolist(), "edge_probability": point.edge_probability}
        entry["ess"] = {"lowest": float(self.table.ess.min()), "at_the_cell": self.check.ess}
        entry["check"] = dict(zip(("z_free_energy", "z_virial_pressure"), self.scores, strict=True))
        if point.systematic is not None:
            entry["lower_degree_changes_G_per_atom_by"] = point.systematic["free_energy"] / n
        return entry


def _number(value: EstimateResult) -> dict[str, float]:
    return {"value": value.value, "error": value.error}


@dataclass(frozen=True)
class MdComparison:
    """One quantity by flow and by molecular dynamics.

    Attributes:
        quantity: Its name.
        unit: Its unit.
        md_run: Name of the run of MD.
        place: The state, and the pressure or the cell.
        flow: Value and standard error of the flow.
        md: Those of MD.
        n_repeats: Repeats that the flow's error rests on.
    """

    quantity: str
    unit: str
    md_run: str
    place: Mapping[str, Any]
    flow: tuple[float, float]
    md: tuple[float, float]
    n_repeats: int

    @property
    def z(self) -> float:
        """Difference in its standard error."""
        return (self.flow[0] - self.md[0]) / max(math.hypot(self.flow[1], self.md[1]), _FLOOR)

    @property
    def degrees_of_freedom(self) -> float:
        """Of that error, by Welch: the flow's part rests on few repeats, that of MD on many frames."""
        return (self.n_repeats - 1) * (math.hypot(self.flow[1], self.md[1]) / max(self.flow[1], _FLOOR)) ** 4

    def to_dict(self) -> dict[str, Any]:
        """The fields for a JSON file."""
        both = {name: dict(zip(("value", "error"), getattr(self, name), strict=True)) for name in ("flow", "md")}
        known = {"quantity": self.quantity, "unit": self.unit, "md_run": self.md_run, **self.place, **both}
        return {**known, "z": self.z, "degrees_of_freedom": self.degrees_of_freedom}


@dataclass(frozen=True)
class GibbsResult:
    """Gibbs free energies of one crystal.

    Attributes:
        model: The conditional model.
        tables: F over cells in each state.
        rows: G in each state at each pressure.
        comparison: Flow beside MD.
        refused: A sentence for each state and pressure without a minimum inside the trained cells.
        verdict: What to think of all of it.
    """

    model: ConditionalModel
    tables: Sequence[HelmholtzTable]
    rows: Sequence[GibbsRow]
    comparison: Sequence[MdComparison]
    refused: Sequence[str]
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Entries of results.json: `gibbs`, and `exact` where chains were run."""
        found = {
            "free": list(self.tables[0].names),
            "conditions": [{"name": a.name, "range": [a.low, a.high], "unit": a.unit} for a in self.model.conditions.axes],
            "states": [row.to_dict() for row in self.rows],
            "comparison": [row.to_dict() for row in self.comparison],
            "refused": list(self.refused),
        }
        return {"gibbs": found, **chains_entry(self.tables, [row.check for row in self.rows])}


# ---- how it is found


def gibbs(
    model: ConditionalModel, request: GibbsRequest, config: Config, reporter: Reporter = SILENT, stop: StopFlag | None = None
) -> GibbsResult:
    """Minimise F + P V over the cell; all MPI ranks call it together.

    Args:
        model: A model that was trained over cells.
        request: States, pressures and free cell variables.
        config: Numbers of samples and repeats (`gibbs`), and of chains (`exact`).
        reporter: Told of progress.
        stop: Set by signals.

    Raises:
        ConfigError: The model does not know the free cell variables.
        StateError: No pressure is covered by the trained cells, or MD has nothing to compare.
        Interrupted: A signal came.
    """
    names = free_variables(model.conditions, request.cell)
    for run in request.md:
        _require_comparable(run, model, request.states, names)
    cells = len(request.states) * len(cell_design(len(names), config.gibbs.n_volumes))
    rows, refused = list[GibbsRow](), list[str]()
    with CellProgress.shown(reporter, stop, cells) as progress:
        tables = tables_over(model, request.states, names, config, progress)
        for table, pressure in product(tables, request.pressures):
            try:
                rows.append(_row(model, table, pressure, config, progress))
            except StateError as error:
                refused.append(str(error))
        if not rows:
            raise StateError(refused[0])
        comparison = [line for run in request.md for line in _compare(run, model, tables, config, progress)]
    return GibbsResult(model, tables, rows, comparison, refused, _verdict(tables, rows, comparison, len(refused), config))


def _row(model: ConditionalModel, table: HelmholtzTable, pressure: float, config: Config, progress: CellProgress) -> GibbsRow:
    """G at one pressure, and fresh samples at its cell."""
    units = model.reference.units
    point = table.surface.gibbs(pressure / units.nktv2p)
    state = table.state([entry.value for entry in point.cell])
    check = sample_state(model, state, config, config.seed + 1, progress, with_pressure=True)
    return GibbsRow(table, pressure, point, check, model.crystal_at(state).supercell, units)


def _verdict(
    tables: Sequence[HelmholtzTable], rows: Sequence[GibbsRow], comparison: Sequence[MdComparison], n_refused: int, config: Config
) -> Verdict:
    """The worst of the weights in every cell, fresh samples, the polynomial, the edge of the trained range, MD, and what is missing."""
    weights, *misfits = judge_tables(tables, config.gibbs)
    likely = max(rows, key=lambda row: row.point.edge_probability)
    verdicts = [weights, _judge_fresh(rows), *misfits, *judge_edge(likely.point.edge_probability, likely.pressure)]
    for line in comparison:
        limit = limit_of(line.degrees_of_freedom, len(comparison))
        verdicts.append(judge_beside_md(line.quantity, line.md_run, line.z, limit))
    if n_refused:
        missing = f"{n_refused} of {n_refused + len(rows)} states and pressures have no minimum inside the trained cells."
        verdicts.append(Verdict("amber", (missing,), True, "Train over a wider range."))
    return combine(verdicts)


def _judge_fresh(rows: Sequence[GibbsRow]) -> Verdict:
    """By the largest difference of fresh samples from what was found, as many tests as there are."""

    def size(row: GibbsRow) -> float:
        return float(np.nan_to_num(np.abs(row.scores), nan=np.inf).max())

    row = max(rows, key=size)
    return judge_fresh_samples(*row.scores, limit_of(len(row.check.free_energy) - 1, 2 * len(rows)), row.where)


# ---- molecular dynamics beside it


def _require_comparable(
    md: MdAtCell, model: ConditionalModel, states: Sequence[Mapping[str, float]], names: Sequence[str]
) -> None:
    """Refuse a run that has nothing to compare, before anything is evaluated."""
    system = md.results["system"]
    same_state = [state for state in states if _is_state(md, model, state)]
    if not same_state:
        raise StateError(
            f"expected MD in one of the states that are evaluated, got T = {system['temperature']:g} (and its own parameters of the potential) "
            f"in {md.path}; add its state with -T or -var"
        )
    unknown = {k: v for k, v in md.cell_values(model).items() if abs(v) > SAME_CELL and k not in model.conditions.names}
    if unknown:
        name, value = next(iter(unknown.items()))
        raise StateError(
            f"expected MD in a cell that the model knows, got one that differs in {name} by {value:.3g} in {md.path}; run it without that --strain"
        )
    if md.mode == "npt" and not set(names) <= set(FREE[md.results["npt"]["free"]]):
        raise StateError(
            f"expected NPT dynamics in which {', '.join(names)} may change, as in the model, got md.cell={md.results['npt']['free']} in {md.path}; "
            "run it with --set md.cell=aniso or tri, or compare with `gibbs --cell iso`"
        )
    if md.mode == "mbar":
        _require_free_energy(md, model.reference.at(dict(same_state[0])).length_scale)


def _require_free_energy(md: MdAtCell, length_scale: float) -> None:
    """Refuse lambda windows without a reliable free energy, or with another Lambda in it."""
    if md.results["estimates"]["mbar"]["beta_F_per_atom"]["value"] is None:
        raise StateError(
            f"expected a free energy in {md.path}, got one that is not reliable; give the windows more frames with `lammps-bg md --resume`"
        )
    own = md.results["system"]["length_scale"]["value"]
    if not math.isclose(own, length_scale, rel_tol=_SAME_ENERGY):
        raise CrystalError(
            f"expected MD with the Lambda of the model, {length_scale:.8g}, got {own:.8g} in {md.path}; use the same estimate.length_scale"
        )


def _is_state(md: MdAtCell, model: ConditionalModel, values: Mapping[str, float]) -> bool:
    """Whether T agrees, and the parameters of the potential; what the script makes of them, the static energy in the run's cell tells."""
    system = md.results["system"]
    if not math.isclose(system["temperature"], values[TEMPERATURE], rel_tol=_SAME_STATE):
        return False
    for name, value in values.items():
        own = md.variables.get(name) or [model.reference.engine.script_value(name)]
        if name != TEMPERATURE and not same(str(own[0]), repr(float(value))):
            return False
    static = model.reference.at({**values, **md.cell_values(model)}).surface.static_energy
    return math.isclose(static / system["n_atoms"], system["static_energy_per_atom"], rel_tol=_SAME_ENERGY)


def _compare(
    md: MdAtCell, model: ConditionalModel, tables: Sequence[HelmholtzTable], config: Config, progress: CellProgress
) -> list[MdComparison]:
    """Flow beside MD, for the states that both have."""
    lines = list[MdComparison]()
    for table in tables:
        if _is_state(md, model, table.values):
            lines += _volumes(md, model, table) if md.mode == "npt" else [_free_energy(md, model, table, config, progress)]
    return lines


def _volumes(md: MdAtCell, model: ConditionalModel, table: HelmholtzTable) -> list[MdComparison]:
    """Mean volume, and c/a where it is free, at the run's pressure."""
    npt, units, n = md.results["npt"], model.reference.units, table.n_atoms
    point = table.surface.gibbs(npt["pressure"] / units.nktv2p)
    where, name = {"state": dict(table.values), "pressure": npt["pressure"]}, md.path.name
    flow, own = point.mean_volume, npt["volume"]
    both = (flow.value / n, flow.error / n), (own["value"] / n, own["error"] / n)
    lines = [MdComparison("volume per atom", f"{units.labels.length}^3", name, where, *both, flow.n)]
    if "c/a" in table.names and npt["free"] != "iso":
        ratio = point.cell[table.names.index("c/a")]
        a, b, c = np.diag(model.reference.crystal.supercell)
        change = float(npt["ln_c_over_a"]["value"] - math.log(c / math.sqrt(a * b)))
        both = (ratio.value, ratio.error), (change, npt["ln_c_over_a"]["error"])
        lines.append(MdComparison("change of ln c/a", "", name, where, *both, ratio.n))
    return lines


def _free_energy(
    md: MdAtCell, model: ConditionalModel, table: HelmholtzTable, config: Config, progress: CellProgress
) -> MdComparison:
    """F per atom in kT in the cell of the windows, where fresh samples are drawn."""
    own = md.results["estimates"]["mbar"]["beta_F_per_atom"]
    values = {**md.cell_values(model), **table.values}
    found = sample_state(model, values, config, config.seed + 2, progress).free_energy / (table.kt * table.n_atoms)
    flow = float(found.mean()), float(found.std(ddof=1)) / math.sqrt(len(found))
    place = {"state": dict(table.values), "cell": {name: values[name] for name in table.names}}
    return MdComparison("beta F per atom", "", md.path.name, place, flow, (own["value"], own["error"]), len(found))
