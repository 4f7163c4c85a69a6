# SPDX-License-Identifier: GPL-2.0-or-later
"""`gibbs` carried out: from a stored model to `study.gibbs`, and its result to gibbs.csv, helmholtz.csv, results.json, figure and summary."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg import parallel
from lammps_bg.commands.job_ranks import require_same_on_all_ranks
from lammps_bg.commands.job_request import model_and_config
from lammps_bg.commands.run_folder import Job, create_run, reserved
from lammps_bg.commands.run_report import attempt, finish
from lammps_bg.commands.stored_run import load_conditional, stored_request
from lammps_bg.config import Config
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Counts
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, CrystalError, RunDirectoryError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.report.figures.gibbs import draw_gibbs
from lammps_bg.report.figures.style import save
from lammps_bg.results import ERRORS, unit, with_error, written
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.energies import choose_source
from lammps_bg.study.entries import conventions_entry, system_entry
from lammps_bg.study.gibbs import GibbsRequest, GibbsResult, GibbsRow, MdAtCell, gibbs, pressures_of, states_of
from lammps_bg.study.helmholtz import HelmholtzTable, written_state
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.repeats import mean_of

_BYTES = 2_000_000
_CURVE = 60  # points of a drawn curve


@dataclass(frozen=True)
class GibbsJob:
    """The command as it was typed.

    Attributes:
        source: Folder of a run whose model depends on the cell.
        out: New folder; None: a name made from the source's.
        words: Arguments as typed.
        replicate: Copies along each cell vector; None: as trained.
        variables: Index variables; several values of one are evaluated one after the other.
        flags: LAMMPS' own flags.
        overrides: Applies -config and --set to the stored configuration.
        pressures: As typed; empty: the script's variable P.
        temperatures: In the script's unit; none: the script's T.
        cell: iso, xy, aniso or tri; None: all cell variables of the model are free.
        md: Folders of `lammps-bg md` to compare with.
    """

    source: Path
    out: Path | None
    words: Sequence[str]
    replicate: Counts | None
    variables: Mapping[str, Sequence[str]]
    flags: LammpsFlags
    overrides: Callable[[Config], Config]
    pressures: Sequence[str] = ()
    temperatures: Sequence[float] = ()
    cell: str | None = None
    md: Sequence[Path] = ()

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Values of T and of parameters of the potential, where several are evaluated."""
        many = {name: numbers(values) for name, values in self.variables.items() if name != "P" and len(values) > 1}
        return {**({TEMPERATURE: tuple(dict.fromkeys(self.temperatures))} if self.temperatures else {}), **many}

    def request(self, run: RunDirectory) -> ScriptRequest:
        """The script of the model's run with the variables that have one value."""
        stored = stored_request(run)
        single = {name: values for name, values in self.variables.items() if name == "P" or len(values) == 1}
        variables = {**stored.variables, **single}
        return replace(stored, variables=variables, replicate=self.replicate or stored.replicate, flags=self.flags)


def numbers(texts: Sequence[str]) -> tuple[float, ...]:
    """Values of a condition as typed, each once.

    Raises:
        ConfigError: One is no number.
    """
    try:
        return tuple(dict.fromkeys(map(float, texts)))
    except ValueError:
        shown = " ".join(texts)
        raise ConfigError(f"expected numbers as values of a condition, got '{shown}'; give for example -var rc 2.2 2.5") from None


def carry_out(job: GibbsJob, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Carry the command out; returns the exit code.

    Args:
        job: What was typed.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict, or of pressures that the cells do not cover.
    """
    started = time.monotonic()
    source, config = model_and_config(job.source, job.overrides, "`lammps-bg gibbs`")
    grid, request = job.grid(), job.request(source)
    out = job.out or source.path.with_name(f"{source.path.name}_gibbs")
    RunDirectory.check_new(out)
    parallel.barrier()
    problem = Problem.load(request, config.estimate.length_scale)
    require_same_on_all_ranks(problem, config, source)
    with problem.engine:
        choose_source(problem, config, console)
        model = load_conditional(source, problem, config, console)
        pressures, states = pressures_of(job.pressures, problem), states_of(grid, problem, model)
        asked = GibbsRequest(states, pressures, job.cell, [_md_at_cell(path, problem) for path in job.md])
        with reserved(out):
            result = gibbs(model, asked, config, console, stop)
        problem.count_other_ranks()
        if not parallel.first():
            return 0
        run = create_run(Job(request, config, out, job.words, source), problem, kind="gibbs", needed_bytes=_BYTES)
        _write(run, problem, result, started, console)
        _show(console, result, run)
        finish(run, config, console)
    for sentence in result.refused:
        console.error(sentence)
    if result.refused and not allow_red:
        return ConfigError.exit_code
    return 3 if result.verdict.colour == "red" and not allow_red else 0


def _md_at_cell(path: Path, problem: Problem) -> MdAtCell:
    """A run of `lammps-bg md` to compare with, refused where it is of another crystal or potential."""
    run = RunDirectory.open(path)
    results = run.read_results()
    mode = results.get("md", {}).get("mode")
    if mode not in ("npt", "mbar"):
        raise RunDirectoryError(
            f"expected -md with runs of `lammps-bg md --mode npt` or `--mode mbar`, got another one in {path}; give their folders"
        )
    own = {"n_atoms": problem.crystal.n_sites, "units": problem.units.name, "pair_style": problem.engine.pair_style}
    for name, value in own.items():
        if results["system"][name] != value:
            raise CrystalError(
                f"expected MD with the {name.replace('_', ' ')} of the model, {value}, got {results['system'][name]} in {path}; run it with "
                "the same script and -rep"
            )
    run.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
    variables = (run.read_json("provenance.json").get("request") or {}).get("variables", {})
    return MdAtCell(run.path, mode, results, variables)


# ---- files


def _write(run: RunDirectory, problem: Problem, result: GibbsResult, started: float, console: Console) -> None:
    """All files of the command."""
    _write_cells(run, result.tables)
    _write_states(run, result.rows)
    run.write_results(
        {
            "system": system_entry(problem),
            "conventions": conventions_entry(problem),
            **result.to_dict(),
            "verdict": result.verdict.to_dict(),
            "cost": {"energy_evaluations": problem.n_evaluations, "wall_seconds": time.monotonic() - started},
        }
    )
    run.write_json("curves.json", curves_of(result))
    run.write_status("done", percent=100.0)
    attempt("figure", lambda: save(draw_gibbs, run.read_json("curves.json"), run.file("gibbs.png")), console)


def _write_cells(run: RunDirectory, tables: Sequence[HelmholtzTable]) -> None:
    """helmholtz.csv: F, mean potential energy and ESS at each cell of each state."""
    names = list(tables[0].values)
    columns = [*names, *tables[0].names, "volume_per_atom", "F_per_atom", "F_error", "pe_per_atom", "pe_error", "ess"]
    with CsvTable(run.file("helmholtz.csv"), columns) as file:
        for table in tables:
            for index, cell in enumerate(table.x):
                volume = table.surface.reference_volume * float(np.exp(cell[0])) / table.n_atoms
                both = [mean_of(values[:, index]) for values in (table.free_energy, table.energy)]
                per_atom = [x / table.n_atoms for e in both for x in (e.value, e.error)]
                file.write(*(table.values[n] for n in names), *cell.tolist(), volume, *per_atom, float(table.ess[index]))


def _write_states(run: RunDirectory, rows: Sequence[GibbsRow]) -> None:
    """gibbs.csv: one line for each state and pressure."""
    columns = [
        *rows[0].state,
        "P",
        *(c for name in rows[0].per_atom for c in (f"{name}_per_atom", f"{name}_error")),
        "PV_per_atom",
    ]
    columns += ["compressibility", "compressibility_error", *rows[0].cell, "lowest_ess", "z_free_energy", "z_virial_pressure"]
    with CsvTable(run.file("gibbs.csv"), columns) as file:
        for row in rows:
            per_atom = [number for entry in row.per_atom.values() for number in (entry.value, entry.error)]
            response = [row.pv, row.compressibility.value, row.compressibility.error]
            quality = [*(entry.value for entry in row.cell.values()), float(row.table.ess.min()), *row.scores]
            file.write(*row.state.values(), row.pressure, *per_atom, *response, *quality)


# ---- what the figure shows


def curves_of(result: GibbsResult) -> dict[str, Any]:
    """F + P V over the volume, and the volume over the pressure."""
    names = result.model.reference.units.labels
    labels = {"volume": f"volume per atom ({unit(names.length)}³)", "pressure": f"pressure ({unit(names.pressure)})"}
    md = [line.to_dict() for line in result.comparison if line.quantity == "volume per atom"]
    return {"labels": labels, "wells": [_well(row) for row in result.rows], "isotherms": list(_isotherms(result)), "md": md}


def _well(row: GibbsRow) -> dict[str, Any]:
    """(F + P V - G) / N kT with the shape of the minimum, as a curve and at the cells of that shape."""
    table, surface = row.table, row.table.surface
    scale, p = 1 / (table.n_atoms * table.kt), row.pressure / row.units.nktv2p
    shape = [entry.value for entry in row.point.cell[1:]]
    path = np.array([[v, *shape] for v in np.linspace(table.x[:, 0].min(), table.x[:, 0].max(), _CURVE)])

    def enthalpy(x: Array, free: Array) -> Array:
        return np.asarray((free + p * surface.reference_volume * np.exp(x[:, 0]) - row.point.free_energy.value) * scale)

    return {
        "label": ", ".join([written_state(row.state), f"P = {row.pressure:g}"]),
        "volume": surface.reference_volume * np.exp(path[:, 0]) / table.n_atoms,
        "curve": enthalpy(path, surface.helmholtz(path)[0]),
        "at": surface.reference_volume * np.exp(table.x[:, 0]) / table.n_atoms if len(table.names) == 1 else [],
        "points": enthalpy(table.x, table.free_energy.mean(0)) if len(table.names) == 1 else [],
        "minimum": row.point.volume.value / table.n_atoms,
    }


def _isotherms(result: GibbsResult) -> Iterator[dict[str, Any]]:
    """Volume over pressure of each state, over all pressures that its cells cover."""
    nktv2p = result.model.reference.units.nktv2p
    for table in {id(row.table): row.table for row in result.rows}.values():
        try:
            low, high = table.surface.pressure_range()
        except StateError:  # the repeats scatter too much for a curve; the points asked for have their numbers
            continue
        inside = np.linspace(low, high, 27)[1:-1]
        points = [table.surface.gibbs(float(p)) for p in inside]
        own = [row for row in result.rows if row.table is table]
        yield {
            "label": written_state(table.values),
            "pressure": inside * nktv2p,
            "volume": [point.volume.value / table.n_atoms for point in points],
            "error": [point.volume.error / table.n_atoms for point in points],
            "asked_pressure": [row.pressure for row in own],
            "asked_volume": [row.point.volume.value / table.n_atoms for row in own],
        }


# ---- the summary


def _show(console: Console, result: GibbsResult, run: RunDirectory) -> None:
    """The summary on the console."""
    labels, doubt = result.model.reference.units.labels, "" if result.verdict.reliable else "NOT RELIABLE: "
    console.say("")
    for row in result.rows:
        per_atom = row.per_atom
        shown = [
            (f"G, {labels.energy} per atom", written(vars(per_atom["G"]))),
            ("beta G/N", written(vars(row.beta_g), in_unit="kT")),
            (f"  F, {labels.energy} per atom", written(vars(per_atom["F"]))),
            (f"  P V, {labels.energy} per atom", f"{row.pv:.6g}"),
            (f"volume per atom, {labels.length}^3", written(vars(per_atom["volume"]))),
            (f"mean volume per atom at constant P, {labels.length}^3", written(vars(per_atom["mean_volume"]))),
            (f"compressibility, 1/({labels.pressure})", written(vars(row.compressibility))),
            *((f"cell: {name}", written(vars(value))) for name, value in row.cell.items()),
        ]
        console.table(f"{doubt}Gibbs free energy at {row.where}", shown)
    for line in result.comparison:
        place = {**line.place["state"], **({"P": line.place["pressure"]} if "pressure" in line.place else {})}
        unit_of = f"{line.unit and ', '}{line.unit}"
        both = f"flow {with_error(*line.flow)}, MD {with_error(*line.md)}, z = {line.z:+.1f}"
        console.say(f"MD         {line.quantity}{unit_of} ({line.md_run}) at {written_state(place)}: {both}")
    console.say(f"           {ERRORS}")
    console.say(f"verdict    {result.verdict.colour}: {' '.join(result.verdict.reasons)} {result.verdict.next_step}")
    console.say(f"files      {run.path}")
