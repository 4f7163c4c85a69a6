# SPDX-License-Identifier: GPL-2.0-or-later
"""`md`: reference molecular dynamics with the script's own potential, and the absolute free energy by lambda windows."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lammps_bg import parallel
from lammps_bg.commands.run_results import write_observables
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical, IsothermalIsobaric
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, Interrupted, LammpsBGError, RunDirectoryError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.trajectory import Trajectory
from lammps_bg.study import md_results
from lammps_bg.study.entries import conventions_entry, system_entry
from lammps_bg.study.md_job import Goal, Job
from lammps_bg.study.md_windows import crystal_goal, sample_windows
from lammps_bg.study.observing import Source, observe
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.ranks import require_same_on_all_ranks
from lammps_bg.study.reporting import finish, illustrate
from lammps_bg.study.run_folder import create_run, finished_code, made_by_first, reopen_run, require_same_request
from lammps_bg.study.simulation import MdSettings
from lammps_bg.study.stability import require_stable
from lammps_bg.study.stored_run import stored_request
from lammps_bg.thermo.timeseries import SHORTEST, correlated_mean
from lammps_bg.thermo.verdict import combine

Mode = Literal["nvt", "npt", "mbar"]
MODES: tuple[Mode, ...] = ("nvt", "npt", "mbar")
_REHEARSED = 500  # steps of --dry-run
_USUAL_INEFFICIENCY, _USUAL_WINDOWS = 6, 12  # frames for an independent one, and windows, of the crystals in inputs/
_RENEWABLE = ("n_frames", "window_frames", "target_error", "max_steps", "replicas", "n_dump")  # settings that --resume may change


@dataclass(frozen=True)
class MdPlan:
    """What is going to be simulated.

    Attributes:
        request: Script and flags.
        config: The configuration.
        mode: Constant volume, constant pressure, or lambda windows.
        out: Run directory.
        words: Arguments after `lammps-bg`, as typed.
        started: time.monotonic() at the start.
        resume: Whether `out` is an earlier run to continue.
    """

    request: ScriptRequest
    config: Config
    mode: Mode
    out: Path
    words: Sequence[str]
    started: float
    resume: bool = False


def fresh(request: ScriptRequest, config: Config, mode: Mode, out: Path, words: Sequence[str]) -> MdPlan:
    """A new simulation; refuses an output folder that holds anything."""
    RunDirectory.check_new(out)
    parallel.barrier()
    return MdPlan(request, config, mode, out, words, time.monotonic())


def like_run(
    source: Path,
    *,
    replicate: Sequence[int] | None,
    variables: Mapping[str, Sequence[str]],
    flags: LammpsFlags,
    overrides: Callable[[Config], Config],
    strain: Mapping[str, float] | None = None,
) -> tuple[ScriptRequest, Config]:
    """The request and configuration of an earlier run, whose crystal and temperature the simulation shall have.

    Args:
        source: Folder of the run.
        replicate: Copies along each cell vector; None: those of the run.
        variables: Further index variables.
        flags: LAMMPS' own flags.
        overrides: Applies -config and --set to the stored configuration.
        strain: Cell variables of the state; none: those of the run.
    """
    run = RunDirectory.open(source)
    request, config = stored_request(run), overrides(load_config(run.file("config.toml")))
    nx, ny, nz = replicate or request.replicate
    variables = {**request.variables, **variables}
    strain = strain or request.strain
    return replace(request, replicate=(nx, ny, nz), variables=variables, flags=flags, strain=strain), config


def resumed(
    out: Path,
    words: Sequence[str],
    mode: Mode | None,
    overrides: Callable[[Config], Config],
    *,
    script: Path | None = None,
    given: Mapping[str, Any] | None = None,
) -> MdPlan:
    """Continue the simulation in `out`.

    Args:
        out: The run directory.
        words: Arguments as typed.
        mode: Mode typed, if any: it must be that of the run.
        overrides: Applies -config and --set to the stored configuration.
        script: Script given with -in, if any: it must be the one the simulation was started with.
        given: What else was typed of the crystal: entries that are not empty must be those of the simulation.

    Raises:
        RunDirectoryError: The folder holds no simulation.
        ConfigError: Something changes what is simulated.
    """
    run = RunDirectory.open(out, writable=True)
    before = run.read_json("provenance.json").get("request") or {}
    if before.get("kind") != "md":
        raise RunDirectoryError(f"expected a run of `lammps-bg md` in {out}, got one of another command; give another -out")
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    kept = stored.md.model_copy(update={name: getattr(config.md, name) for name in _RENEWABLE})
    if config.md != kept or config.seed != stored.seed or (mode or before["mode"]) != before["mode"]:
        raise ConfigError(
            f"expected --resume of `md --mode {before['mode']}` with the time step, damping, cell and seed of the run, got other "
            "ones; start a new run with another -out"
        )
    require_same_request(before, given or {})
    request = stored_request(run)
    if script is not None:
        request = replace(request, script=script, stored=False)
    return MdPlan(request, config, before["mode"], out, words, time.monotonic(), resume=True)


def execute(plan: MdPlan, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Carry out a plan; returns the exit code.

    Args:
        plan: What to simulate.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict.
    """
    if plan.resume:
        code = finished_code(plan.out, plan.config, console, "independent frames", allow_red=allow_red)
        if code is not None:
            return code
    problem = Problem.load(plan.request, plan.config.estimate.length_scale)
    require_same_on_all_ranks(problem, plan.config)
    settings = MdSettings.resolved(plan.config.md, problem)
    _require_possible(plan, problem, settings)
    run = _open(plan, problem)
    for line in problem.engine.lines:
        console.say(f"LAMMPS         {line}")
    console.say(settings_line(plan.mode, problem, settings))
    job = Job(problem, plan.config, settings, run, console, stop)
    try:
        return _finish(plan, job, *_ACTIONS[plan.mode](job), allow_red=allow_red)
    except Exception as error:
        _leave(plan, run, error)
        raise


def _require_possible(plan: MdPlan, problem: Problem, settings: MdSettings) -> None:
    """Refuse what cannot be simulated before anything is written.

    Raises:
        StateError: There is no pressure for npt.
        ConfigError: md.max_steps ends a trajectory before correlations can be found in it, or the damping is faster than a step.
    """
    if plan.mode == "npt" and script_pressure(problem.engine) is None:
        unit = problem.units.labels.pressure
        raise StateError(f"expected a pressure for --mode npt, got no variable P in the script; add -var P 0 (in {unit})")
    shortest = SHORTEST * settings.sample_every
    if plan.config.md.max_steps < shortest:
        raise ConfigError(
            f"expected md.max_steps of at least {shortest}, which is {SHORTEST} frames, got {plan.config.md.max_steps}; raise it"
        )
    if settings.damp < settings.timestep:
        raise ConfigError(
            f"expected md.damp of at least one time step, {settings.timestep:g} {problem.units.labels.time}, got {settings.damp:g}; "
            "100 time steps are usual"
        )


def _leave(plan: MdPlan, run: RunDirectory, error: Exception) -> None:
    """Where bad input ended the simulation before its first frames, the same -out serves the next one."""
    with suppress(RunDirectoryError):  # the error under way matters more
        if isinstance(error, LammpsBGError) and not isinstance(error, Interrupted) and not plan.resume:
            run.discard_inputs()


def rehearse(plan: MdPlan, console: Console) -> int:
    """Set everything up, run a few steps, and say what the simulation would cost; writes nothing.

    Args:
        plan: What would be simulated.
        console: Where to report.
    """
    problem = Problem.load(plan.request, plan.config.estimate.length_scale)
    settings = MdSettings.resolved(plan.config.md, problem)
    console.say(settings_line(plan.mode, problem, settings))
    with Dynamics(problem.engine, Canonical(problem.temperature, settings.damp), timestep=settings.timestep, seed=1) as dynamics:
        dynamics.run(1)
        start = time.perf_counter()
        dynamics.run(_REHEARSED)
        per_step = (time.perf_counter() - start) / _REHEARSED
    wanted, every = plan.config.md.n_frames, settings.sample_every
    if plan.mode == "mbar":
        wanted += plan.config.md.window_frames * _USUAL_WINDOWS
    frames = _USUAL_INEFFICIENCY * wanted
    console.say(
        f"time           {1e3 * per_step:.3g} ms for a step; about {frames * every * per_step:.0f} s for {wanted} independent frames"
    )
    if plan.mode == "mbar":
        console.say(
            f"               with {_USUAL_WINDOWS} windows; until md.target_error = {plan.config.md.target_error:g} is reached it may take longer"
        )
    console.say(f"disk           about {32e-6 * problem.crystal.n_sites * frames:.1f} MB in {plan.out}")
    console.say("dry run        nothing was written")
    return 0


def settings_line(mode: Mode, problem: Problem, settings: MdSettings) -> str:
    """What is simulated, in one line."""
    labels, crystal = problem.units.labels, problem.crystal
    pressure = script_pressure(problem.engine) if mode == "npt" else None
    held = "" if pressure is None else f"P = {describe_pressure(pressure, problem.units)}, "
    return (
        f"md         {mode}, {crystal.n_sites} atoms ({', '.join(sorted(set(crystal.species)))}), T = {problem.temperature:g} "
        f"{labels.temperature}, {held}time step {settings.timestep:g} {labels.time}, damping {settings.damp:g} {labels.time}, a frame "
        f"every {settings.sample_every} steps"
    )


def _open(plan: MdPlan, problem: Problem) -> RunDirectory:
    """The run directory, made by the first rank."""

    def make() -> RunDirectory:
        if plan.resume:
            return reopen_run(plan.out, plan.config, problem)
        frames = plan.config.md.n_frames * (1 if plan.mode != "mbar" else 10)
        return create_run(
            plan.out, plan.request, plan.config, plan.words, problem,
            kind="md", needed_bytes=60 * problem.crystal.n_sites * frames, more={"mode": plan.mode},
        )  # fmt: skip

    return made_by_first(make, plan.out)


def _nvt(job: Job) -> tuple[list[Trajectory], dict[str, Any]]:
    ensemble = Canonical(job.problem.temperature, job.settings.damp)
    return _replicas(job, "nvt", ensemble, lambda frames: [frames.energies]), {}


def _npt(job: Job) -> tuple[list[Trajectory], dict[str, Any]]:
    pressure, settings = script_pressure(job.problem.engine), job.settings
    if pressure is None:  # _require_possible() has been called before
        raise RuntimeError("no pressure")
    ensemble = IsothermalIsobaric(job.problem.temperature, pressure, job.config.md.cell, settings.damp, settings.pressure_damp)
    series = md_results.constant_pressure_series
    return _replicas(job, "npt", ensemble, series), {"pressure": pressure, "cell": job.config.md.cell}


def _replicas(job: Job, name: str, ensemble: Any, series: Any) -> list[Trajectory]:  # noqa: ANN401
    n = job.config.md.replicas
    wanted = -(-job.config.md.n_frames // n)
    goals = [Goal(job.simulation(f"{name}-{index:02d}", ensemble), wanted, series) for index in range(n)]
    job.reach(goals, name)
    return [frames for goal in goals if (frames := goal.simulation.files.load()) is not None]


def _mbar(job: Job) -> tuple[list[Trajectory], dict[str, Any]]:
    windows = sample_windows(job)
    frames = crystal_goal(job, job.config.md.n_frames).simulation.files.load()
    return [frames] if frames is not None else [], {"windows": windows}


_ACTIONS = {"nvt": _nvt, "npt": _npt, "mbar": _mbar}


def _finish(plan: MdPlan, job: Job, trajectories: list[Trajectory], more: dict[str, Any], *, allow_red: bool) -> int:
    """Write everything and print the summary, on the first rank; returns the exit code."""
    stable = [require_stable(job.problem, part) for part in trajectories]
    frames, found = md_results.independent_frames(trajectories, npt=plan.mode == "npt")
    job.problem.count_other_ranks()
    if not parallel.first():
        return 0
    entry = md_results.mode_entry(job, plan.mode, trajectories, found, stable[0])
    verdict = md_results.verdict_of(len(frames), plan.config.md.n_frames, _smallest_overlap(more))
    verdict = combine([verdict, *md_results.judge_temperature(entry["temperature"], job.problem.temperature)])
    md_results.write_thermo(job, trajectories)
    md_results.write_dump(job, frames)
    results: dict[str, Any] = {
        "system": system_entry(job.problem),
        "conventions": conventions_entry(job.problem),
        "md": entry,
        "verdict": verdict.to_dict(),
        "cost": {"energy_evaluations": md_results.evaluations(job), "wall_seconds": time.monotonic() - plan.started},
    }
    if plan.mode == "npt":
        results["npt"] = {"pressure": more["pressure"], "free": more["cell"], **md_results.cell_entry(job, trajectories, found)}
    else:
        mean = correlated_mean(*(part.energies for part in trajectories), minimum=1)
        source = Source("md", frames.energies, frames.displacements, virials=frames.virials, mean_energy=mean)
        n = plan.config.estimate.rdf_samples
        observed = observe(job.problem, [source], n_configurations=n)
        results["observables"] = write_observables(job.run, observed, job.problem)
    if "windows" in more:
        md_results.write_windows(job, more["windows"].windows)
        results |= md_results.window_results(job, more["windows"], verdict)
    job.run.write_results(results)
    job.run.write_status("reporting")
    md_results.show(job.console, results, verdict, job)
    if plan.config.sample.picture and plan.mode != "npt":
        illustrate(job.problem, job.run, ["md.dump.gz"], job.console)
    finish(job.run, job.config, job.console)
    job.run.end_status()
    return 0 if verdict.colour != "red" or allow_red else 3


def _smallest_overlap(more: Mapping[str, Any]) -> float | None:
    return float(more["windows"].joined.neighbour_overlaps.min()) if "windows" in more else None


__all__ = ["MODES", "MdPlan", "Mode", "execute", "fresh", "like_run", "resumed"]
