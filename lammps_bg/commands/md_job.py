# SPDX-License-Identifier: GPL-2.0-or-later
"""`md`: one simulation in its run folder, new or continued, from its plan to its files and summary."""

import argparse
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lammps_bg import parallel
from lammps_bg.commands import main_job
from lammps_bg.commands import shared_options as options
from lammps_bg.commands.job_ranks import require_same_on_all_ranks
from lammps_bg.commands.job_request import Job
from lammps_bg.commands.run_folder import create_run, finished_code, made_by_first, reopen_run, require_same_request
from lammps_bg.commands.run_report import finish, illustrate
from lammps_bg.commands.run_results import write_observables
from lammps_bg.commands.stored_run import stored_request
from lammps_bg.config import Config, load_config
from lammps_bg.errors import ConfigError, Interrupted, LammpsBGError, RunDirectoryError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.results import ERRORS, NOT_RELIABLE, cell_unit, term_name, written
from lammps_bg.store import md_run
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.status_reporter import StatusReporter
from lammps_bg.store.trajectory import MDFolder
from lammps_bg.study.entries import conventions_entry, system_entry
from lammps_bg.study.frenkel_ladd import FrenkelLaddResult, frenkel_ladd
from lammps_bg.study.md import MDResult, MDSetup, Mode, run_md, seconds_per_step
from lammps_bg.study.observing import observe
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.verdict import Verdict

_REHEARSED = 500  # steps of --dry-run
_USUAL_INEFFICIENCY, _USUAL_WINDOWS = 6, 12  # frames for an independent one, and windows, of the crystals in inputs/
_RENEWABLE = ("n_frames", "window_frames", "target_error", "max_steps", "replicas", "n_dump")  # settings that --resume may change


@dataclass(frozen=True)
class MDPlan(Job):
    """What is going to be simulated.

    Attributes:
        mode: Constant volume, constant pressure, or lambda windows.
    """

    mode: Mode = "nvt"


def planned(args: argparse.Namespace) -> MDPlan:
    """A simulation that is continued, one like an earlier run, or one of a script.

    Raises:
        ConfigError: What was typed does not go together, or changes what is simulated.
        RunDirectoryError: The output folder holds anything, or there is no simulation to continue.
    """
    if args.resume:
        return _resumed(args)
    if args.model is not None:
        request, config = _like_run(args)
        name = args.model.absolute().name
    else:
        request, config = options.request(args), options.config(args)
        name = request.script.name.removeprefix("in.")
    mode: Mode = args.mode or "nvt"
    out = args.out or Path("runs") / f"{name}_{mode}"
    RunDirectory.check_new(out)
    parallel.barrier()
    return MDPlan(request, config, out, args.words, mode=mode)


def _like_run(args: argparse.Namespace) -> tuple[ScriptRequest, Config]:
    """Script and configuration of an earlier run, whose crystal and temperature the simulation shall have."""
    if args.script or args.elements:
        raise ConfigError("expected either -in, with --elements where wanted, or -model, got both; leave one out")
    run = RunDirectory.open(args.model)
    request, config = stored_request(run), options.config(args, load_config(run.file("config.toml")))
    return main_job.typed(args).applied_to(request), config


def _resumed(args: argparse.Namespace) -> MDPlan:
    """Continue the simulation in -out: what was typed of the crystal must be that of the simulation."""
    out, typed = options.require_out(args, "simulation"), options.typed_of_crystal(args)
    run = RunDirectory.open(out, writable=True)
    before = run.read_json("provenance.json").get("request") or {}
    if before.get("kind") != "md":
        raise RunDirectoryError(f"expected a run of `lammps-bg md` in {out}, got one of another command; give another -out")
    mode, stored = before["mode"], load_config(run.file("config.toml"))
    config = options.config(args, stored)
    kept = stored.md.model_copy(update={name: getattr(config.md, name) for name in _RENEWABLE})
    if config.md != kept or config.seed != stored.seed or (args.mode or mode) != mode:
        raise ConfigError(
            f"expected --resume of `md --mode {mode}` with the time step, damping, cell and seed of the run, got other "
            "ones; start a new run with another -out"
        )
    require_same_request(before, typed)
    request = stored_request(run)
    if args.script is not None:
        request = replace(request, script=args.script, stored=False)
    return MDPlan(request, config, out, args.words, resume=True, mode=mode)


def execute(plan: MDPlan, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Carry out a plan; returns the exit code."""
    if plan.resume:
        code = finished_code(plan.out, plan.config, console, "independent frames", allow_red=allow_red)
        if code is not None:
            return code
    problem = Problem.load(plan.request, plan.config.estimate.length_scale)
    require_same_on_all_ranks(problem, plan.config)
    setup = MDSetup.of(problem, plan.mode, plan.config.md, seed=plan.config.seed)
    run = _open(plan, problem)
    for line in problem.engine.lines:
        console.say(f"LAMMPS         {line}")
    console.say(f"md         {setup}")
    folder, compute = MDFolder(run), frenkel_ladd if plan.mode == "mbar" else run_md
    try:
        found = compute(setup, recorder=folder, reporter=StatusReporter(console, run), stop=stop)
        problem.count_other_ranks()
        if not parallel.first():
            return 0
        verdict = _finish(plan, found, run, folder.n_steps, console)
    except Exception as error:
        _leave(plan, run, error)
        raise
    return 0 if verdict.colour != "red" or allow_red else 3


def _open(plan: MDPlan, problem: Problem) -> RunDirectory:
    """The run directory, made by the first rank."""

    def make() -> RunDirectory:
        if plan.resume:
            return reopen_run(plan.out, plan.config, problem)
        frames = plan.config.md.n_frames * (1 if plan.mode != "mbar" else 10)
        return create_run(plan, problem, kind="md", needed_bytes=60 * problem.crystal.n_sites * frames, more={"mode": plan.mode})

    return made_by_first(make, plan.out)


def _leave(plan: MDPlan, run: RunDirectory, error: Exception) -> None:
    """Where bad input ended the simulation before its first frames, the same -out serves the next one."""
    with suppress(RunDirectoryError):  # the error under way matters more
        if isinstance(error, LammpsBGError) and not isinstance(error, Interrupted) and not plan.resume:
            run.discard_inputs()


def rehearse(plan: MDPlan, console: Console) -> int:
    """Set everything up, run a few steps, and say what the simulation would cost; writes nothing."""
    problem, options = Problem.load(plan.request, plan.config.estimate.length_scale), plan.config.md
    setup = MDSetup.of(problem, plan.mode, options, seed=plan.config.seed)
    console.say(f"md         {setup}")
    per_step = seconds_per_step(setup, _REHEARSED)
    wanted = options.n_frames + (options.window_frames * _USUAL_WINDOWS if plan.mode == "mbar" else 0)
    frames = _USUAL_INEFFICIENCY * wanted
    seconds = frames * setup.settings.sample_every * per_step
    console.say(f"time           {1e3 * per_step:.3g} ms for a step; about {seconds:.0f} s for {wanted} independent frames")
    if plan.mode == "mbar":
        console.say(
            f"               with {_USUAL_WINDOWS} windows; until md.target_error = {options.target_error:g} is reached it may take longer"
        )
    console.say(f"disk           about {32e-6 * problem.crystal.n_sites * frames:.1f} MB in {plan.out}")
    console.say("dry run        nothing was written")
    return 0


def _finish(plan: MDPlan, found: MDResult | FrenkelLaddResult, run: RunDirectory, n_steps: int, console: Console) -> Verdict:
    """Write everything and print the summary, on the first rank."""
    md = found.md if isinstance(found, FrenkelLaddResult) else found
    problem, config = md.setup.problem, plan.config
    md_run.write_thermo(md, run)
    md_run.write_dump(md, run)
    evaluations, seconds = n_steps + problem.n_evaluations, time.monotonic() - plan.started
    results: dict[str, Any] = {
        "system": system_entry(problem),
        "conventions": conventions_entry(problem),
        "md": md_run.md_entry(md),
        "verdict": found.verdict.to_dict(),
        "cost": {"energy_evaluations": evaluations, "wall_seconds": seconds},
    }
    if plan.mode == "npt":
        results["npt"] = md_run.npt_entry(md)
    else:
        observed = observe(problem, [md.observed], n_configurations=config.estimate.rdf_samples)
        results["observables"] = write_observables(run, observed, problem)
    if isinstance(found, FrenkelLaddResult):
        md_run.write_windows(found.windows, run)
        results |= md_run.window_entries(found)
    run.write_results(results)
    run.write_status("reporting")
    _show(results, found.verdict, problem, run, console)
    if config.sample.picture and plan.mode != "npt":
        illustrate(problem, run, ["md.dump.gz"], console)
    finish(run, config, console)
    run.end_status()
    return found.verdict


def _show(results: dict[str, Any], verdict: Verdict, problem: Problem, run: RunDirectory, console: Console) -> None:
    """The summary on the console."""
    labels, md = problem.units.labels, results["md"]
    rows = [
        (f"temperature, {labels.temperature}", written(md["temperature"])),
        (f"pressure, {labels.pressure}", written(md["pressure"])),
    ]
    if "observables" in results:
        energy = results["observables"]["potential_energy_per_atom"]["md"]
        rows.append((f"potential energy, {labels.energy} per atom", written(energy)))
    for name in ("volume", "lx", "ly", "lz", "number_density") if "npt" in results else ():
        in_unit = cell_unit(name, labels.length)
        rows.append((name.replace("_", " "), written(results["npt"][name], in_unit=in_unit)))
    if "estimates" in results:
        entry = results["estimates"]["mbar"]
        rows.append(("beta F/N  MD + MBAR", written(entry["beta_F_per_atom"], in_unit="kT", missing=NOT_RELIABLE)))
        rows += [(f"  {term_name(name)}", f"{term:.5f} kT") for name, term in entry["terms"].items() if term is not None]
        if entry["F_per_atom"]["value"] is not None:
            rows.append((f"F, {entry['F_per_atom']['unit']}", written(entry["F_per_atom"])))
    console.say("")
    console.table(f"Molecular dynamics at T = {problem.temperature:g} {labels.temperature}", rows)
    console.say(
        f"           {md['n_independent']:.0f} independent of {md['n_frames']} frames, {sum(md['steps'])} steps; {ERRORS}"
    )
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")
