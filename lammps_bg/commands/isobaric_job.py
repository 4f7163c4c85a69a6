# SPDX-License-Identifier: GPL-2.0-or-later
"""`sample -P`: exact samples at constant pressure in their run folder, from what was typed to files and summary."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lammps_bg import parallel
from lammps_bg.commands.job_ranks import require_same_on_all_ranks
from lammps_bg.commands.job_request import Job
from lammps_bg.commands.run_folder import create_run, finished_code, made_by_first, reopen_run
from lammps_bg.commands.run_report import finish
from lammps_bg.commands.stored_run import chosen_before, load_conditional
from lammps_bg.config import Config
from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.errors import ConfigError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.results import ERRORS, cell_unit, duration, written
from lammps_bg.store import isobaric_run
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.status_reporter import StatusReporter
from lammps_bg.study.energies import choose_source
from lammps_bg.study.entries import system_entry
from lammps_bg.study.gibbs import pressures_of
from lammps_bg.study.isobaric import (
    CrystalCells,
    IsobaricResult,
    first_chains,
    sample_isobaric,
    steps_wanted,
    usual_evaluations,
)
from lammps_bg.study.problem import Problem
from lammps_bg.study.threads import threads_for
from lammps_bg.thermo.chains import block_size
from lammps_bg.thermo.isobaric import TUNING, Isobar, IsobaricChains

_BYTES = 2_000_000


@dataclass(frozen=True)
class Pressure:
    """What is asked for at constant pressure.

    Attributes:
        words: The pressure as typed, or its value from a run that goes on.
        cell: iso, xy, aniso or tri; None: all cell variables of the model are free.
    """

    words: tuple[str, ...]
    cell: str | None


def asked_for(job: Job, words: Sequence[str], cell: str | None, unfit: Mapping[str, bool]) -> Pressure | None:
    """What `sample` is asked for at constant pressure; None where it samples one cell.

    Raises:
        ConfigError: The options exclude each other, or a run goes on with other ones.
    """
    stored = _stored(job) if job.resume else None
    if not words and stored is None:
        if cell is not None:
            raise ConfigError(f"expected --cell together with a pressure, got --cell {cell} alone; add -P 0, or leave it out")
        return None
    wrong = [name for name, given in unfit.items() if given]
    if wrong:
        raise ConfigError(
            f"expected -P alone, which lets the cell change in the state of the model, got {wrong[0]} beside it; leave it out"
        )
    if not job.resume:
        return Pressure(tuple(words), cell)
    if stored is None:
        raise ConfigError(f"expected --resume without -P in {job.out}, which has samples in one cell, got one; leave it out")
    if (words and tuple(words) != stored.words) or (cell and cell != stored.cell):
        shown = f"-P {' '.join(stored.words)}{stored.cell and ' --cell ' + stored.cell or ''}"
        raise ConfigError(f"expected --resume with {shown} of the run, got another pressure or cell; leave them out")
    return stored


def _stored(job: Job) -> Pressure | None:
    """What a run that goes on was asked for; None where it samples one cell."""
    entry = RunDirectory.open(job.out).read_json("provenance.json")["request"].get("isobaric")
    return None if entry is None else Pressure(tuple(entry["words"]), entry["cell"])


def execute(job: Job, pressure: Pressure, console: Console, stop: StopFlag, *, allow_red: bool, dry_run: bool = False) -> int:
    """Carry out `sample -P`; returns the exit code."""
    code = finished_code(job.out, job.config, console, "samples", allow_red=allow_red) if job.resume else None
    if code is not None:
        return code
    problem = Problem.load(job.request, job.config.estimate.length_scale)
    require_same_on_all_ranks(problem, job.config, job.model)
    with problem.engine, threads_for(problem.crystal.n_sites * block_size(problem.crystal.n_sites)):
        before = chosen_before(RunDirectory.open(job.out)) if job.resume else None
        choose_source(problem, job.config, console, before=before)
        crystal, isobar = _cells_of(job, pressure, problem, console)
        chains, seconds = first_chains(crystal, isobar, job.config)
        if dry_run:
            _forecast(chains, job.config, seconds, console)
            return 0
        run = _open_run(job, pressure, problem)
        record, reporter = isobaric_run.chain_file(run, job.config, crystal, isobar), StatusReporter(console, run)
        found = sample_isobaric(crystal, chains, job.config, reporter, stop=stop, record=record)
        crystal.problem.count_other_ranks()
        if not parallel.first():
            return 0
        _finish(found, run, job, console)
    return 3 if found.verdict.colour == "red" and not allow_red else 0


def _cells_of(job: Job, pressure: Pressure, problem: Problem, console: Console) -> tuple[CrystalCells, Isobar]:
    """The conditional model in the state of the script, and its free cells at the pressure."""
    if job.model is None:
        raise TypeError("samples at constant pressure are those of a model")
    values = pressures_of(pressure.words, problem)
    if len(values) > 1:
        raise ConfigError(f"expected one pressure after -P, got {len(values)}; run `lammps-bg sample` once for each")
    model = load_conditional(job.model, problem, job.config, console)
    crystal = CrystalCells.of(model, problem, pressure.cell, judged=job.config.energy.judge == "lammps")
    shown = ", ".join(f"{name} = {value:g}" for name, value in crystal.state.items())
    console.say(f"npt        {shown}, P = {describe_pressure(values[0], problem.units)}, free: {', '.join(crystal.names)}")
    return crystal, crystal.at_pressure(values[0])


def _forecast(chains: IsobaricChains, config: Config, seconds: float, console: Console) -> None:
    """What `--dry-run` says."""
    n_steps, energies = steps_wanted(chains, config) + sum(TUNING), usual_evaluations(chains, config)
    console.say(
        f"dry run    {n_steps} steps of {chains.n_chains} chains, about {energies} energies with forces, {1e3 * seconds:.1f} ms each on this rank: "
        f"about {duration(energies * seconds / parallel.size())}; at most {config.exact.max_seconds:.0f} s; nothing was written"
    )


def _open_run(job: Job, pressure: Pressure, problem: Problem) -> RunDirectory:
    """The run directory: new with all inputs stored, or the one to go on with."""

    def make() -> RunDirectory:
        if job.resume:
            return reopen_run(job.out, job.config, problem)
        needed = _BYTES + problem.crystal.n_sites * 60 * job.config.exact.n_dump + 100 * job.config.sample.n_samples
        more = {"isobaric": {"words": list(pressure.words), "cell": pressure.cell}}
        return create_run(job, problem, kind="sample", needed_bytes=needed, more=more)

    return made_by_first(make, job.out)


def _finish(found: IsobaricResult, run: RunDirectory, job: Job, console: Console) -> None:
    """All files of the folder, and the summary, on the first rank."""
    crystal = found.crystal
    seconds = time.monotonic() - job.started
    isobaric_run.write_table(found, run)
    isobaric_run.write_dump(found, run)
    mean = crystal.values(found.cells.mean((0, 1)))
    results = {
        "system": system_entry(crystal.model.reference.at(mean)),
        "npt": isobaric_run.npt_entry(found),
        "exact": isobaric_run.exact_entry(found),
        "verdict": found.verdict.to_dict(),
        "cost": {
            "energy_evaluations": crystal.problem.n_evaluations,
            **crystal.problem.cost_of_source(),
            "wall_seconds": seconds,
        },
    }
    run.write_results(results)
    _show(results, found, run, console)
    finish(run, job.config, console)
    run.end_status()


def _show(results: Mapping[str, Any], found: IsobaricResult, run: RunDirectory, console: Console) -> None:
    """The summary on the console."""
    problem, verdict = found.crystal.problem, found.verdict
    labels, npt, exact = problem.units.labels, results["npt"], results["exact"]
    rows = [
        (f"volume, {labels.length}^3", written(npt["volume"])),
        *((f"{name}, {labels.length}", written(npt[name])) for name in ("lx", "ly", "lz")),
        ("number density", written(npt["number_density"], in_unit=cell_unit("number_density", labels.length))),
        (f"variance of the volume, {labels.length}^6", written(npt["volume_fluctuation"])),
        (f"compressibility, 1/({labels.pressure})", written(npt["isothermal_compressibility"])),
        (f"potential energy, {labels.energy} per atom", written(npt["potential_energy_per_atom"])),
    ]
    doubt = "" if verdict.reliable else "NOT RELIABLE: "
    where = describe_pressure(npt["pressure"], problem.units)
    console.say("")
    console.table(f"{doubt}Constant pressure at T = {problem.temperature:g} {labels.temperature}, P = {where}", rows)
    console.say(
        f"           {exact['n_samples']} samples ({exact['n_independent']:.0f} independent, one for {exact['evaluations_per_sample']:.1f} "
        f"energies), acceptance {exact['acceptance']:.2f}, of the cell {exact['cell_acceptance']:.2f}, split-R-hat {exact['r_hat']:.2f}; {ERRORS}"
    )
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")
