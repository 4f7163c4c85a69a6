# SPDX-License-Identifier: GPL-2.0-or-later
"""What `gibbs` leaves: gibbs.csv, helmholtz.csv, results.json, gibbs.png, and the summary."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from lammps_bg.config import Config
from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import StateError
from lammps_bg.report.console import Console
from lammps_bg.report.figures.gibbs import draw_gibbs
from lammps_bg.report.figures.style import save
from lammps_bg.report.numbers import unit
from lammps_bg.report.numbers import with_error as written
from lammps_bg.report.run_directory import RunDirectory, Table
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.gibbs import GibbsPoint
from lammps_bg.thermo.repeats import with_error
from lammps_bg.thermo.verdict import RED_Z, RELIABLE, Verdict, combine
from lammps_bg.workflow.conditional import ConditionalModel
from lammps_bg.workflow.entries import system_entry
from lammps_bg.workflow.helmholtz import CellSamples, HelmholtzTable
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.reporting import attempt

_FEWEST_ESS, _LOW_ESS = 50.0, 0.01  # effective samples at a cell, all repeats together; and their share
_CURVE = 60  # points of a drawn curve


@dataclass(frozen=True)
class GibbsState:
    """The crystal in one state at one pressure.

    Attributes:
        table: F over cells in this state.
        pressure: Pressure units of the script.
        point: G, cell and response.
        check: Samples at the cell that was found.
    """

    table: HelmholtzTable
    pressure: float
    point: GibbsPoint
    check: CellSamples

    @property
    def cell(self) -> list[float]:
        """Values of the free cell variables."""
        return [entry.value for entry in self.point.cell]

    def helmholtz(self) -> EstimateResult:
        """F of the whole crystal at the cell, by the polynomial, energy units."""
        value, error = self.table.surface.helmholtz([self.cell])
        return with_error(float(value[0]), float(error[0]), len(self.table.free_energy))

    def scores(self, nktv2p: float) -> tuple[float, float]:
        """Differences of fresh samples' F and virial pressure from the polynomial's F and from P, in their standard errors.

        Args:
            nktv2p: Pressure units per energy per volume.
        """
        curve, fresh = self.helmholtz(), _mean(self.check.free_energy)
        own = _mean(self.check.pressure if self.check.pressure is not None else np.full(2, np.nan))
        # P is exact, the volume is not: an error of the volume is one of the pressure there
        spread = self.point.volume.error / (self.point.volume.value * self.point.compressibility.value) * nktv2p
        return (
            float((fresh.value - curve.value) / np.hypot(fresh.error, curve.error)),
            float((own.value - self.pressure) / np.hypot(own.error, spread)),
        )


def _mean(values: Array) -> EstimateResult:
    return with_error(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5, len(values))


def judge_tables(tables: Sequence[HelmholtzTable], n_samples: int, name: str = "") -> Verdict:
    """Whether the weights of every cell are worth something, by the worst of all.

    Args:
        tables: F over cells in each state.
        n_samples: Samples at each cell, all repeats together.
        name: Of the crystal, where there are several.
    """
    table = min(tables, key=lambda table: float(table.ess.min()))
    worst = int(np.argmin(table.ess))
    ess, place = float(table.ess[worst]), {**table.values, **dict(zip(table.names, table.x[worst], strict=True))}
    where = ", ".join(f"{name} = {value:.4g}" for name, value in place.items())
    said = f"The lowest ESS over the cells{name and ' of '}{name} is {ess:.1%} of {n_samples} (at {where})."
    if ess < _LOW_ESS or ess * n_samples < _FEWEST_ESS:
        return Verdict("red", (said,), False, "Train longer, over a smaller range, or draw more with gibbs.n_samples.")
    if ess < 10 * _LOW_ESS:
        return Verdict("amber", (said,), True, "Look at the errors and at the check at the cell that was found.")
    return Verdict("green", (said,), True, RELIABLE)


def judge_checks(found: Sequence[GibbsState], problem: Problem) -> Verdict:
    """Whether fresh samples at each cell give the polynomial's F and, by their virial, the pressure that was asked for.

    Red where the worst is less likely than three standard errors of a normal distribution, by Student's one of as many repeats:
    the errors come from few.

    Args:
        found: All states and pressures.
        problem: Units.
    """

    def size(state: GibbsState) -> float:
        z = np.abs(state.scores(problem.units.nktv2p))
        return float(np.nan_to_num(z, nan=np.inf).max())

    state = max(found, key=size)
    free, pressure = state.scores(problem.units.nktv2p)
    limit = float(student.isf(norm.sf(RED_Z), len(state.check.free_energy) - 1))
    where = ", ".join(f"{name} = {value:g}" for name, value in state.table.values.items())
    said = (
        f"Fresh samples at the cells that were found differ most by {free:+.1f} (F) and {pressure:+.1f} (virial pressure) standard "
        f"errors, at {where}, P = {describe_pressure(state.pressure, problem.units)}."
    )
    if not size(state) <= limit:
        return Verdict("red", (said,), False, "Use more volumes (gibbs.n_volumes), a smaller trained range, or more samples.")
    return Verdict("green", (said,), True, RELIABLE)


def judge_comparison(row: Mapping[str, Any]) -> Verdict:
    """Whether flow and MD agree.

    Args:
        row: Of `compare_with_md`.
    """
    said = f"{row['quantity']} differs from MD ({row['md_run']}) by {row['z']:+.1f} standard errors."
    if not abs(row["z"]) <= RED_Z:
        return Verdict("red", (said,), False, "Train longer, or make the MD longer, and look at both.")
    return Verdict("green", (said,), True, RELIABLE)


@dataclass(frozen=True)
class Outcome:
    """What was evaluated.

    Attributes:
        model: The conditional model.
        tables: F over cells in each state.
        found: G in each state and at each pressure.
        compared: Flow against MD.
    """

    model: ConditionalModel
    tables: Sequence[HelmholtzTable]
    found: Sequence[GibbsState]
    compared: Sequence[Mapping[str, Any]]


def write(run: RunDirectory, problem: Problem, outcome: Outcome, config: Config, console: Console, *, started: float) -> Verdict:
    """Write all files of a `gibbs` command, and judge it.

    Args:
        run: The folder.
        problem: The crystal in the script's own state.
        outcome: What was evaluated.
        config: The configuration.
        console: Where to say why there is no figure.
        started: time.monotonic() at the start of the command.
    """
    model, tables, found, compared = outcome.model, outcome.tables, outcome.found, outcome.compared
    n_samples = config.gibbs.n_samples * config.gibbs.n_repeats
    verdict = combine([judge_tables(tables, n_samples), judge_checks(found, problem), *map(judge_comparison, compared)])
    _write_tables(run, model, tables)
    _write_states(run, model, found)
    run.write_results(
        {
            "system": system_entry(problem),
            "gibbs": {
                "free": list(tables[0].names),
                "conditions": [{"name": a.name, "range": [a.low, a.high], "unit": a.unit} for a in model.conditions.axes],
                "states": [state_entry(state, model) for state in found],
                "comparison": [dict(row) for row in compared],
            },
            "verdict": verdict.to_dict(),
            "cost": {"energy_evaluations": problem.n_evaluations, "wall_seconds": time.monotonic() - started},
        }
    )
    run.write_json("curves.json", _drawn(model, found, compared))
    run.write_status("done", percent=100.0)
    attempt("figure", lambda: save(draw_gibbs, run.read_json("curves.json"), run.file("gibbs.png")), console)
    return verdict


def state_entry(state: GibbsState, model: ConditionalModel) -> dict[str, Any]:
    """Entry of results.json for a state at a pressure: per atom, in the script's units.

    Args:
        state: The state.
        model: Units.
    """
    units, n, point = model.reference.units, state.table.n_atoms, state.point
    free, pressure = state.scores(units.nktv2p)
    volume = point.volume.value
    scaled = {"G": (point.free_energy, 1 / n), "F": (state.helmholtz(), 1 / n), "volume": (point.volume, 1 / n)}
    scaled |= {"mean_volume": (point.mean_volume, 1 / n), "potential_energy": (state.table.potential_energy(state.cell), 1 / n)}
    entry: dict[str, Any] = {"state": dict(state.table.values), "pressure": state.pressure}
    entry |= {f"{name}_per_atom": _number(value, factor) for name, (value, factor) in scaled.items()}
    entry["beta_G_per_atom"] = _number(point.free_energy, 1 / (n * state.table.kt))
    entry["PV_per_atom"] = state.pressure / units.nktv2p * volume / n
    entry["compressibility"] = _number(point.compressibility, 1 / units.nktv2p)
    entry["volume_variance_per_atom"] = _number(point.volume_variance, 1 / n)
    entry["cell"] = {name: _number(value) for name, value in zip(state.table.names, point.cell, strict=True)}
    entry["box"] = model.reference.at(state.table.state(state.cell)).crystal.supercell.tolist()
    entry["edge_probability"] = point.edge_probability
    entry["ess"] = {"lowest": float(state.table.ess.min()), "at_the_cell": state.check.ess}
    entry["check"] = {"z_free_energy": free, "z_virial_pressure": pressure}
    if point.systematic is not None:
        entry["lower_degree_changes_G_per_atom_by"] = point.systematic["free_energy"] / n
    return entry


def _number(value: EstimateResult, factor: float = 1.0) -> dict[str, float]:
    return {"value": value.value * factor, "error": value.error * factor}


def _write_tables(run: RunDirectory, model: ConditionalModel, tables: Sequence[HelmholtzTable]) -> None:
    """helmholtz.csv: F, mean potential energy and ESS at each cell of each state."""
    names = list(tables[0].values)
    columns = [*names, *tables[0].names, "volume_per_atom", "F_per_atom", "F_error", "pe_per_atom", "pe_error", "ess"]
    with Table(run.file("helmholtz.csv"), columns) as file:
        for table in tables:
            for index, cell in enumerate(table.x):
                volume = model.reference.crystal.volume * float(np.exp(cell[0])) / table.n_atoms
                free, energy = (_mean(values[:, index]) for values in (table.free_energy, table.energy))
                per_atom = [x / table.n_atoms for e in (free, energy) for x in (e.value, e.error)]
                file.write(*(table.values[n] for n in names), *cell.tolist(), volume, *per_atom, float(table.ess[index]))


def _write_states(run: RunDirectory, model: ConditionalModel, found: Sequence[GibbsState]) -> None:
    """gibbs.csv: one line for each state and pressure."""
    names, cell = list(found[0].table.values), found[0].table.names
    plain = ("G", "F", "volume", "mean_volume", "potential_energy")
    columns = [*names, "P", *(c for name in plain for c in (f"{name}_per_atom", f"{name}_error")), "PV_per_atom"]
    columns += ["compressibility", "compressibility_error", *cell, "lowest_ess", "z_free_energy", "z_virial_pressure"]
    with Table(run.file("gibbs.csv"), columns) as file:
        for state in found:
            entry = state_entry(state, model)
            numbers = [entry[f"{name}_per_atom"][part] for name in plain for part in ("value", "error")]
            response = [entry["compressibility"][part] for part in ("value", "error")]
            shape = [entry["cell"][name]["value"] for name in cell]
            quality = [entry["ess"]["lowest"], *entry["check"].values()]
            file.write(
                *(state.table.values[n] for n in names),
                state.pressure,
                *numbers,
                entry["PV_per_atom"],
                *response,
                *shape,
                *quality,
            )


def _drawn(model: ConditionalModel, found: Sequence[GibbsState], compared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the figure shows: F + P V over the volume, and the volume over the pressure."""
    units = model.reference.units
    labels = {
        "volume": f"volume per atom ({unit(units.labels.length)}³)",
        "pressure": f"pressure ({unit(units.labels.pressure)})",
    }
    md = [row for row in compared if row["quantity"] == "volume per atom"]
    return {"labels": labels, "wells": [_well(model, s) for s in found], "isotherms": list(_isotherms(model, found)), "md": md}


def _well(model: ConditionalModel, state: GibbsState) -> dict[str, Any]:
    """(F + P V - G) / N kT with the shape of the minimum, as a curve and at the cells of that shape."""
    table, surface = state.table, state.table.surface
    scale, p = 1 / (table.n_atoms * table.kt), state.pressure / model.reference.units.nktv2p
    low, high = table.x[:, 0].min(), table.x[:, 0].max()
    path = np.array([[v, *state.cell[1:]] for v in np.linspace(low, high, _CURVE)])

    def enthalpy(x: Array, free: Array) -> Array:
        return np.asarray((free + p * surface.reference_volume * np.exp(x[:, 0]) - state.point.free_energy.value) * scale)

    return {
        "label": _label(state),
        "volume": surface.reference_volume * np.exp(path[:, 0]) / table.n_atoms,
        "curve": enthalpy(path, surface.helmholtz(path)[0]),
        "at": surface.reference_volume * np.exp(table.x[:, 0]) / table.n_atoms if len(table.names) == 1 else [],
        "points": enthalpy(table.x, table.free_energy.mean(0)) if len(table.names) == 1 else [],
        "minimum": state.point.volume.value / table.n_atoms,
    }


def _isotherms(model: ConditionalModel, found: Sequence[GibbsState]) -> Iterator[dict[str, Any]]:
    """Volume over pressure of each state, over all pressures that its cells cover."""
    units = model.reference.units
    for table in {id(state.table): state.table for state in found}.values():
        try:
            low, high = table.surface.pressure_range()
        except StateError:  # the repeats scatter too much for a curve; the points asked for have their numbers
            continue
        inside = np.linspace(low, high, 27)[1:-1]
        points = [table.surface.gibbs(float(p)) for p in inside]
        own = [state for state in found if state.table is table]
        yield {
            "label": ", ".join(f"{name} = {value:g}" for name, value in table.values.items()),
            "pressure": inside * units.nktv2p,
            "volume": [point.volume.value / table.n_atoms for point in points],
            "error": [point.volume.error / table.n_atoms for point in points],
            "asked_pressure": [state.pressure for state in own],
            "asked_volume": [state.point.volume.value / table.n_atoms for state in own],
        }


def _label(state: GibbsState) -> str:
    return ", ".join([*(f"{name} = {value:g}" for name, value in state.table.values.items()), f"P = {state.pressure:g}"])


def show(console: Console, outcome: Outcome, verdict: Verdict, run: RunDirectory) -> None:
    """The summary on the console.

    Args:
        console: Where to report.
        outcome: What was evaluated.
        verdict: What to think of it.
        run: The folder.
    """
    model = outcome.model
    labels = model.reference.units.labels
    console.say("")
    for state in outcome.found:
        entry = state_entry(state, model)
        rows = [
            (f"G, {labels.energy} per atom", _written(entry["G_per_atom"])),
            ("beta G/N", _written(entry["beta_G_per_atom"])),
            (f"  F, {labels.energy} per atom", _written(entry["F_per_atom"])),
            (f"  P V, {labels.energy} per atom", f"{entry['PV_per_atom']:.6g}"),
            (f"volume per atom, {labels.length}^3", _written(entry["volume_per_atom"])),
            (f"mean volume per atom at constant P, {labels.length}^3", _written(entry["mean_volume_per_atom"])),
            (f"compressibility, 1/({labels.pressure})", _written(entry["compressibility"])),
            *((f"cell: {name}", _written(value)) for name, value in entry["cell"].items()),
        ]
        where = [f"{name} = {value:g}" for name, value in state.table.values.items()]
        console.table(
            f"Gibbs free energy at {', '.join([*where, 'P = ' + describe_pressure(state.pressure, model.reference.units)])}", rows
        )
    for row in outcome.compared:
        shown = f"flow {_written(row['flow'])}, MD {_written(row['md'])}, z = {row['z']:+.1f}"
        console.say(f"MD         {row['quantity']}{row['unit'] and ', '}{row['unit']} ({row['md_run']}): {shown}")
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")


def _written(entry: Mapping[str, float]) -> str:
    return written(entry["value"], entry["error"])
