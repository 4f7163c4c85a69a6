# SPDX-License-Identifier: GPL-2.0-or-later
"""`phase` carried out: from stored models to `study.phase`, and its result to difference.csv, coexistence.csv, results.json and summary."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from lammps_bg import parallel
from lammps_bg.commands.gibbs_job import numbers
from lammps_bg.commands.job_ranks import require_same_on_all_ranks
from lammps_bg.commands.job_request import model_and_config
from lammps_bg.commands.run_folder import Job, copy_model, create_run, reserved
from lammps_bg.commands.run_report import attempt, finish
from lammps_bg.commands.stored_run import load_conditional, stored_request, with_model
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.system import Counts
from lammps_bg.crystal.units import Units
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.report.figures.phases import draw_phases
from lammps_bg.report.figures.style import save
from lammps_bg.results import unit as symbol
from lammps_bg.results import written
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.provenance import MODELS, sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.energies import choose_source
from lammps_bg.study.entries import conventions_entry, system_entry
from lammps_bg.study.gibbs import pressures_of
from lammps_bg.study.helmholtz import free_variables, written_state
from lammps_bg.study.phase import PRESSURE, Phase, PhaseRequest, PhaseResult, phase_diagram, varying
from lammps_bg.study.problem import Problem

_BYTES = 2_000_000


@dataclass(frozen=True)
class PhaseJob:
    """The command as it was typed.

    Attributes:
        models: Folders of runs whose models depend on the cell, one for each crystal.
        out: New folder; None: a name made from theirs.
        words: Arguments as typed.
        axis: P, T, or a parameter of the potential.
        overrides: Applies -config and --set to the configuration of the first model.
        limits: Ends of the axis; empty: all that the models were trained for.
        pressures: Empty: the first script's variable P.
        temperatures: Values of T; none: that of the first script.
        variables: Values of parameters, where they are not those of the first script.
        replicates: Copies along each cell vector, once or for each model; none: as trained.
        cell: iso, xy, aniso or tri, once or for each model; none: all that each was trained over.
        other_sizes: Compare crystals of unequal numbers of atoms.
    """

    models: Sequence[Path]
    out: Path | None
    words: Sequence[str]
    axis: str
    overrides: Callable[[Config], Config]
    limits: Sequence[str] = ()
    pressures: Sequence[str] = ()
    temperatures: Sequence[float] = ()
    variables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    replicates: Sequence[Sequence[int]] = ()
    cell: Sequence[str] = ()
    other_sizes: bool = False

    def require_consistent(self) -> None:
        """Refuse what cannot belong together, before anything is read.

        Raises:
            ConfigError: Fewer than two models, too many -rep or --cell, values of the axis, or pressures given by -var or beside the axis P.
        """
        if (n := len(self.models)) < 2:
            raise ConfigError(f"expected -models with the runs of two or more crystals, got {n}; give one for each phase")
        for what, given in (("-rep", self.replicates), ("--cell", self.cell)):
            if given and len(given) not in (1, n):
                raise ConfigError(f"expected {what} once, or once for each of the {n} models, got {len(given)}; repeat it")
        if PRESSURE in self.variables:
            raise ConfigError("expected pressures by -P, got them by -var; give for example -P 0 1 GPa")
        if self.axis == PRESSURE and self.pressures:
            raise ConfigError("expected P as the axis with its ends in --range, got -P; leave -P out")
        if self.axis in self.grid():
            raise ConfigError(f"expected {self.axis}, the axis, with its ends in --range, got values of it; leave them out")

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Values of parameters and of T off the axis."""
        many = {name: numbers(values) for name, values in self.variables.items()}
        return {**many, **({TEMPERATURE: tuple(dict.fromkeys(self.temperatures))} if self.temperatures else {})}

    def counts(self, index: int) -> Counts | None:
        """Copies along each cell vector of a model; None: as trained."""
        if not self.replicates:
            return None
        x, y, z = self.replicates[index if len(self.replicates) > 1 else 0]
        return x, y, z

    def free(self, index: int) -> str | None:
        """What is free of the cell of a model; None: all that it was trained over."""
        return self.cell[index if len(self.cell) > 1 else 0] if self.cell else None

    def request(self, phases: Sequence[Phase]) -> PhaseRequest:
        """The axis and all points off it: T and parameters, and P where it is not the axis.

        Raises:
            ConfigError: There is no pressure.
            StateError: The ends of the axis are not two rising numbers.
        """
        problem, own = phases[0].model.reference, dict[str, float]()
        for entry in reversed(phases):
            own |= entry.own()
        own.pop(self.axis, None)
        grid = self.grid()
        points = [{**own, **dict(zip(grid, values, strict=True))} for values in product(*grid.values())]
        if self.axis != PRESSURE:
            pressures = pressures_of(self.pressures, problem)
            points = [{**point, PRESSURE: p} for point in points for p in pressures]
        return PhaseRequest(self.axis, points, self._ends(problem), self.other_sizes)

    def _ends(self, problem: Problem) -> tuple[float, float] | None:
        """The ends of the axis, its unit."""
        if not self.limits:
            return None
        ends = pressures_of(self.limits, problem) if self.axis == PRESSURE else numbers(self.limits)
        if len(ends) != 2 or not ends[0] < ends[1]:
            what, example = ("pressures", "0 20 GPa") if self.axis == PRESSURE else ("numbers", "300 600")
            raise StateError(f"expected --range with two rising {what}, got {' '.join(self.limits)}; give for example {example}")
        return ends[0], ends[1]


def carry_out(job: PhaseJob, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Carry the command out; returns the exit code.

    Args:
        job: What was typed.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict.
    """
    started = time.monotonic()
    job.require_consistent()
    sources = [with_model(path) for path in job.models]
    out = job.out or Path("runs") / "_".join([*(run.path.name for run in sources), "phase"])
    RunDirectory.check_new(out)
    _, config = model_and_config(job.models[0], job.overrides, "`lammps-bg phase`")
    parallel.barrier()
    with ExitStack() as stack:
        phases = [_load(job, index, run, config, console, stack) for index, run in enumerate(sources)]
        request = job.request(phases)
        with reserved(out):
            result = phase_diagram(phases, request, console, stop)
        for entry in phases:
            entry.model.reference.count_other_ranks()
        if not parallel.first():
            return 0
        run = _create(job, out, sources, config, phases[0].model.reference)
        _write(run, result, started, console)
        _show(console, result, run)
        finish(run, config, console)
    return 3 if result.verdict.colour == "red" and not allow_red else 0


def _load(job: PhaseJob, index: int, run: RunDirectory, common: Config, console: Console, stack: ExitStack) -> Phase:
    """One of the crystals with its model, evaluated by the common configuration."""
    stored = load_config(run.file("config.toml"))
    energy = stored.energy.model_copy(update={"source": common.energy.source})
    shared = {name: getattr(common, name) for name in ("estimate", "exact", "gibbs", "device", "seed")}
    config = stored.model_copy(update={"energy": energy, **shared})
    request = replace(stored_request(run), flags=LammpsFlags())
    if (counts := job.counts(index)) is not None:
        request = replace(request, replicate=counts)
    problem = Problem.load(request, config.estimate.length_scale)
    stack.enter_context(problem.engine)
    require_same_on_all_ranks(problem, config, run)
    choose_source(problem, config, console)
    model = load_conditional(run, problem, config, console)
    return Phase(run.path.name, model, free_variables(model.conditions, job.free(index)), config)


def _create(job: PhaseJob, out: Path, sources: Sequence[RunDirectory], config: Config, problem: Problem) -> RunDirectory:
    """The folder of the results, with the inputs of the first model and the hashes of all."""
    hashes = [{"name": run.path.name, "sha256": sha256(run.file("model.pt"))} for run in sources]
    request = stored_request(sources[0])
    created = create_run(
        Job(request, config, out, job.words), problem, kind="phase", needed_bytes=_BYTES, more={"sources": hashes}
    )
    for index, run in enumerate(sources):
        copy_model(created, run, MODELS / str(index) / run.path.name)
    return created


# ---- files


def _write(run: RunDirectory, result: PhaseResult, started: float, console: Console) -> None:
    """All files of the command."""
    problem = result.phases[0].model.reference
    _write_differences(run, result)
    _write_coexistence(run, result)
    run.write_results(
        {
            "system": system_entry(problem),
            "conventions": conventions_entry(problem),
            **result.to_dict(),
            "verdict": result.verdict.to_dict(),
            "cost": {"energy_evaluations": result.n_evaluations, "wall_seconds": time.monotonic() - started},
        }
    )
    run.write_json("curves.json", curves_of(result))
    run.write_status("done", percent=100.0)
    attempt("figure", lambda: save(draw_phases, run.read_json("curves.json"), run.file("phase.png")), console)


def _write_differences(run: RunDirectory, result: PhaseResult) -> None:
    """difference.csv: G per atom of the second crystal minus that of the first, in energy units and in kT."""
    outer, axis = list(result.differences[0].state), result.axis
    columns = ["first", "second", *outer, axis, "delta_g", "error", "delta_g_kT", "error_kT"]
    with CsvTable(run.file("difference.csv"), columns) as file:
        for entry in result.differences:
            state = [entry.state[name] for name in outer]
            for place, mean, error in zip(entry.axis, entry.mean, entry.error, strict=True):
                kt = result.units.boltzmann * (place if axis == TEMPERATURE else entry.state[TEMPERATURE])
                file.write(*entry.names, *state, float(place), float(mean), float(error), float(mean / kt), float(error / kt))


def _write_coexistence(run: RunDirectory, result: PhaseResult) -> None:
    """coexistence.csv: the crossings with volumes and enthalpies."""
    outer = list(result.differences[0].state)
    columns = ["first", "second", *outer, result.axis, "error", "established", "volume_first", "volume_second"]
    columns += ["volume_difference", "volume_difference_error", "enthalpy_difference", "enthalpy_difference_error"]
    with CsvTable(run.file("coexistence.csv"), columns) as file:
        for entry in result.differences:
            state = [entry.state[name] for name in outer]
            for root, at in zip(entry.crossings.roots, entry.coexistence, strict=True):
                found = [root.estimate.value, root.estimate.error, int(root.established), *(v.value for v in at.volumes)]
                changes = [at.volume.value, at.volume.error, at.enthalpy.value, at.enthalpy.error]
                file.write(*entry.names, *state, *found, *changes)


# ---- what the figure shows


def curves_of(result: PhaseResult) -> dict[str, Any]:
    """Delta g along the axis, and the lines."""
    units, outer, curves = result.units, varying(result.outer), []
    for entry in result.differences:
        first, second = entry.names
        where = "" if outer is None else f", {outer} = {entry.state[outer]:g}"
        roots = [root.estimate.value for root in entry.crossings.roots]
        curves.append(
            {"label": f"{second} − {first}{where}", "x": entry.axis, "y": entry.mean, "error": entry.error, "roots": roots}
        )
    lines = [
        {
            "label": " / ".join(traced.names), "outer": _axis_label(traced.outer, units), "x": traced.line.outer, "y": traced.line.values,
            "error": traced.line.errors,
        }
        for traced in result.lines
    ]  # fmt: skip
    energy = f"ΔG per atom ({symbol(units.labels.energy)})"
    return {"axis": _axis_label(result.axis, units), "energy": energy, "curves": curves, "lines": lines}


def _axis_label(name: str, units: Units) -> str:
    unit = {PRESSURE: units.labels.pressure, TEMPERATURE: units.labels.temperature}.get(name)
    return f"{name} ({symbol(unit)})" if unit else name


# ---- the summary


def _show(console: Console, result: PhaseResult, run: RunDirectory) -> None:
    """The summary on the console."""
    labels, label = result.units.labels, _axis_label(result.axis, result.units)
    n, doubt = len(result.outer), "" if result.verdict.reliable else "NOT RELIABLE: "
    console.say("")
    for traced in result.lines:
        first, second = traced.names
        if traced.check:
            console.say(f"slope      {second} and {first}: {' '.join(traced.check.verdict.reasons)}")
        if (kept := len(traced.line.outer)) < n:
            console.say(
                f"line       {n - kept} of {n} values of {traced.outer} have no single established crossing of "
                f"{second} and {first} and are left out of their line"
            )
    for entry in result.differences:
        first, second = entry.names
        console.say(f"{doubt}{second} - {first} at {written_state(entry.state)}, along {label}: {entry.crossings.sentence}")
        for root, at in zip(entry.crossings.roots, entry.coexistence, strict=True):
            one, two = (written(vars(volume), in_unit=f"{labels.length}^3") for volume in at.volumes)
            console.say(
                f"           at {label} = {root.estimate.value:.6g}: volumes per atom {one} and {two}, change of enthalpy "
                f"{written(vars(at.enthalpy), in_unit=labels.energy)} per atom"
            )
    console.say(f"verdict    {result.verdict.colour}: {' '.join(result.verdict.reasons)} {result.verdict.next_step}")
    console.say(f"files      {run.path}")
