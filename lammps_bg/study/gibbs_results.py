# SPDX-License-Identifier: GPL-2.0-or-later
"""What `gibbs` leaves: gibbs.csv, helmholtz.csv, results.json, gibbs.png, and the summary."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lammps_bg.config import Config
from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import StateError
from lammps_bg.report.console import Console
from lammps_bg.report.figures.gibbs import draw_gibbs
from lammps_bg.report.figures.style import save
from lammps_bg.results import unit
from lammps_bg.results import with_error as written
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.entries import conventions_entry, system_entry
from lammps_bg.study.gibbs_judging import (
    chains_entry,
    judge_checks,
    judge_comparison,
    judge_edges,
    judge_surfaces,
    judge_tables,
)
from lammps_bg.study.gibbs_state import GibbsState, Outcome, mean_of
from lammps_bg.study.helmholtz import HelmholtzTable
from lammps_bg.study.problem import Problem
from lammps_bg.study.reporting import attempt
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.verdict import Verdict, combine

_CURVE = 60  # points of a drawn curve


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
    verdicts = [judge_tables(tables, n_samples), judge_checks(found, problem), *judge_surfaces(tables), *judge_edges(found)]
    verdicts += [judge_comparison(row, len(compared)) for row in compared]
    if outcome.refused:
        missing = f"{len(outcome.refused)} of {len(outcome.refused) + len(found)} states and pressures have no minimum inside the trained cells."
        verdicts.append(Verdict("amber", (missing,), True, "Train over a wider range."))
    verdict = combine(verdicts)
    _write_tables(run, model, tables)
    _write_states(run, model, found)
    run.write_results(
        {
            "system": system_entry(problem),
            "conventions": conventions_entry(problem),
            "gibbs": {
                "free": list(tables[0].names),
                "conditions": [{"name": a.name, "range": [a.low, a.high], "unit": a.unit} for a in model.conditions.axes],
                "states": [state_entry(state, model) for state in found],
                "comparison": [dict(row) for row in compared],
                "refused": list(outcome.refused),
            },
            **chains_entry(tables, [state.check for state in found]),
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
    with CsvTable(run.file("helmholtz.csv"), columns) as file:
        for table in tables:
            for index, cell in enumerate(table.x):
                volume = model.reference.crystal.volume * float(np.exp(cell[0])) / table.n_atoms
                free, energy = (mean_of(values[:, index]) for values in (table.free_energy, table.energy))
                per_atom = [x / table.n_atoms for e in (free, energy) for x in (e.value, e.error)]
                file.write(*(table.values[n] for n in names), *cell.tolist(), volume, *per_atom, float(table.ess[index]))


def _write_states(run: RunDirectory, model: ConditionalModel, found: Sequence[GibbsState]) -> None:
    """gibbs.csv: one line for each state and pressure."""
    names, cell = list(found[0].table.values), found[0].table.names
    plain = ("G", "F", "volume", "mean_volume", "potential_energy")
    columns = [*names, "P", *(c for name in plain for c in (f"{name}_per_atom", f"{name}_error")), "PV_per_atom"]
    columns += ["compressibility", "compressibility_error", *cell, "lowest_ess", "z_free_energy", "z_virial_pressure"]
    with CsvTable(run.file("gibbs.csv"), columns) as file:
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
        doubt = "" if verdict.reliable else "NOT RELIABLE: "
        console.table(
            f"{doubt}Gibbs free energy at {', '.join([*where, 'P = ' + describe_pressure(state.pressure, model.reference.units)])}",
            rows,
        )
    for row in outcome.compared:
        place = {**row["state"], **({"P": row["pressure"]} if "pressure" in row else {})}
        at = ", ".join(f"{name} = {value:g}" for name, value in place.items())
        shown = f"flow {_written(row['flow'])}, MD {_written(row['md'])}, z = {row['z']:+.1f}"
        console.say(f"MD         {row['quantity']}{row['unit'] and ', '}{row['unit']} ({row['md_run']}) at {at}: {shown}")
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")


def _written(entry: Mapping[str, float]) -> str:
    return written(entry["value"], entry["error"])
