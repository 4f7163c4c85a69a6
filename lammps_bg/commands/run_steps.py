# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job from start to end: problem, run directory, training or a loaded model, samples, chains, estimates."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg import parallel
from lammps_bg.commands.check import show as show_check
from lammps_bg.commands.job_ranks import require_same_on_all_ranks
from lammps_bg.commands.job_request import Job, require_kept
from lammps_bg.commands.run_folder import Kind, create_run, finished_code, made_by_first, reopen_run
from lammps_bg.commands.run_records import (
    SampleFiles,
    TrainingFiles,
    chain_file,
    write_exact,
    write_model,
    write_resampled,
)
from lammps_bg.commands.run_report import finish, illustrate
from lammps_bg.commands.run_results import results_of, show, with_earlier, write_observables
from lammps_bg.commands.stored_run import (
    chosen_before,
    load_trained,
    read_samples,
    require_same_samples,
    stored_request,
    with_model,
)
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.errors import CrystalError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.md_run import load_md_frames
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.store.status_reporter import StatusReporter
from lammps_bg.study.check import check
from lammps_bg.study.conditional import conditions_of, require_inside
from lammps_bg.study.dry_run import disk_bytes, forecast
from lammps_bg.study.energies import choose_source
from lammps_bg.study.estimating import Estimates, Marginal, estimate, marginal_weights
from lammps_bg.study.exact import sample_exact
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.problem import Problem
from lammps_bg.study.sampling import Samples, sample
from lammps_bg.study.training import Trained, in_state_of, train
from lammps_bg.thermo.sampler import Chunk, chunks_of, draw_together

_MOST_KEPT = 20_000_000  # atoms in all samples that are held in memory, about 500 MB


def execute(job: Job, console: Console, stop: StopFlag, *, draws: bool, allow_red: bool) -> int:
    """Carry out a job; returns the exit code.

    Args:
        job: What to do.
        console: Where to report.
        stop: Set by signals.
        draws: Draw samples and estimate after the training.
        allow_red: Return 0 in spite of a red verdict.
    """
    code = _finished(job, console, allow_red=allow_red) if job.resume and draws else None
    if code is not None and job.request.stored:
        return code
    problem = _problem(job, console)
    with problem.engine:  # LAMMPS ends its log file when it is closed, and not whenever the last reference to it goes
        if code is not None:  # complete, if it is of this script
            RunDirectory.open(job.out).require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
            return code
        return _carry_out(job, problem, console, stop, draws=draws, allow_red=allow_red)


def _source_before(job: Job) -> str | None:
    """The energy source of the run that goes on, or whose crystal is drawn again: timings must not decide about last digits."""
    if job.resume:
        return chosen_before(RunDirectory.open(job.out))
    if job.model and job.request.stored and job.request.replicate == stored_request(job.model).replicate:
        return chosen_before(job.model)
    return None


def _carry_out(job: Job, problem: Problem, console: Console, stop: StopFlag, *, draws: bool, allow_red: bool) -> int:
    """A job on its problem; returns the exit code."""
    choose_source(problem, job.config, console, before=_source_before(job))
    loaded = load_trained(job.model, problem, job.config, console, force=job.force) if job.model else None
    if loaded is None:
        _require_neighbours(problem, job.config)
        conditions = conditions_of(job.config.condition, problem)
        if draws and conditions:
            require_inside(problem, conditions)
    run = _open_run(job, problem)
    reporter = StatusReporter(console, run)
    if loaded and loaded.adapted:
        write_model(run, loaded, problem)
    try:
        trained = loaded or train(
            problem, job.config, reporter, stop=stop, record=TrainingFiles(run, problem, reporter, resume=job.resume)
        )
        if loaded is None:
            write_model(run, trained, problem)
        if not draws:
            run.write_status("done", percent=100.0)
            console.say(f"files      {run.path}")
            return 0
        if trained.model and not loaded:
            here = in_state_of(problem, trained.model, trained.saved)
            trained = replace(here, ms_per_sample=trained.ms_per_sample, n_undone=trained.n_undone)
        with SampleFiles(run, problem, job.config) as files:
            samples = sample(problem, trained.generator, job.config, reporter, stop=stop, record=files)
        drawn = _Drawn(problem, trained, samples, job.config, job.started)
        marginal = marginal_weights(problem, trained, samples, job.config)
        found = _evaluated(drawn, marginal, run, run, console, stop)
    except CrystalError:
        if not job.resume:
            run.discard_inputs()  # nothing was made, so that the same -out serves the corrected input
        raise
    return _exit_code(found, allow_red=allow_red)


@dataclass(frozen=True)
class _Drawn:
    """Samples with all that estimates need: of this command, or of an earlier one whose results.json is `earlier`."""

    problem: Problem
    trained: Trained
    samples: Samples
    config: Config
    started: float
    earlier: Mapping[str, Any] | None = None
    md: MDFrames | None = None


def _evaluated(
    drawn: _Drawn, marginal: Marginal | None, run: RunDirectory, model: RunDirectory, console: Console, stop: StopFlag
) -> Estimates | None:
    """Chains where they are needed, estimates, and all that is written and shown of them; None on all ranks but the first."""
    problem, trained, samples, config = drawn.problem, drawn.trained, drawn.samples, drawn.config
    reporter, record = StatusReporter(console, run), chain_file(run, config, problem.source, model)
    exact = sample_exact(problem, trained, samples.log_w, config, reporter, stop=stop, record=record)
    problem.count_other_ranks()
    if not parallel.first():
        return None
    if exact:
        write_exact(run, exact, problem)
    if drawn.earlier is None:  # of a run that is looked at again the status stays until there is something new
        run.write_status("estimating")
    found = estimate(problem, trained, samples, config, marginal=marginal, md=drawn.md, exact=exact)
    _write(found, drawn, run)
    show(found, problem, trained, console, run, md=drawn.md)
    dumps = ["exact.dump.gz"] if exact else []
    if drawn.earlier is None:
        dumps.append("samples.dump.gz")
        if config.sample.n_resample and np.isfinite(samples.log_w).any():
            write_resampled(run, samples, trained, problem, config)
    if config.sample.picture and dumps:
        illustrate(problem, run, dumps, console)
    finish(run, config, console)
    run.end_status()
    return found


def _write(found: Estimates, drawn: _Drawn, run: RunDirectory) -> None:
    """observables.json, rdf.csv and results.json."""
    problem, earlier = drawn.problem, drawn.earlier
    results = results_of(found, problem, drawn.trained, drawn.samples, md=drawn.md)
    results["observables"] = write_observables(run, found.observables, problem)
    seconds = time.monotonic() - drawn.started
    results["cost"] = {"energy_evaluations": problem.n_evaluations, "wall_seconds": seconds, **problem.cost_of_source()}
    results["training"] = {"undone_steps": drawn.trained.n_undone}
    run.write_results(with_earlier(results, earlier) if earlier else results)
    best = found.best.shown if found.best else None
    value, error = (best.value, best.error) if best else (None, None)
    run.write_status("reporting", ess=found.weights.ess_fraction, free_energy=value, error=error)


def _exit_code(found: Estimates | None, *, allow_red: bool) -> int:
    """3 for a red verdict."""
    return 3 if found is not None and found.verdict.colour == "red" and not allow_red else 0


def _finished(job: Job, console: Console, *, allow_red: bool) -> int | None:
    """Exit code of a run that is complete and would only be repeated; None where there is something to do."""
    run = RunDirectory.open(job.out)
    resamples = job.config.sample.n_resample and not run.file("resampled.dump.gz").exists()
    if resamples and run.file("results.json").exists() and run.read_results()["sampling"]["ess"]:
        return None
    return finished_code(job.out, job.config, console, "samples", allow_red=allow_red)


@dataclass(frozen=True)
class Again:
    """Estimates to be made again from the samples of an earlier run.

    Attributes:
        source: Folder of the run.
        out: New folder for the results; None renews results.json of the run.
        overrides: Applies -config and --set to the stored configuration.
        md: Folder of `lammps-bg md`, or a dump file, to compare with.
    """

    source: Path
    out: Path | None
    overrides: Callable[[Config], Config]
    md: Path | None = None


def estimate_again(again: Again, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Estimates from the samples of an earlier run; returns the exit code.

    Args:
        again: What to do.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict.
    """
    started, out = time.monotonic(), again.out
    run = with_model(again.source, writable=out is None)
    stored = load_config(run.file("config.toml"))
    config = again.overrides(stored)
    require_kept("`lammps-bg estimate`", stored, config)
    if out is not None:
        RunDirectory.check_new(out)
    rows = parallel.agreed(read_samples(run))
    problem = Problem.load(stored_request(run), config.estimate.length_scale)
    require_same_on_all_ranks(problem, config, run)
    choose_source(problem, config, console, before=chosen_before(run))
    md = load_md_frames(again.md, problem) if again.md else None
    trained = load_trained(run, problem, config, console)
    keep = _kept(len(rows[0]), problem, config, md)
    earlier = run.read_results() if run.file("results.json").exists() else {}
    trained.ms_per_sample = earlier.get("timings", {}).get("train_ms_per_sample")
    parts = [(config.seed, some) for some in chunks_of(keep, problem.crystal.n_sites, config.sample.batch_size)]
    redrawn = draw_together(trained.generator, problem.exact_target(), parts, batch_size=config.sample.batch_size)
    samples = _with_states(run, rows, list(redrawn), earlier)
    marginal = marginal_weights(problem, trained, samples, config)
    if stop.on_any_rank():
        stop.check("nothing was written")
    target = run if out is None else made_by_first(lambda: RunDirectory.create(out), out)
    drawn = _Drawn(problem, trained, samples, config, started, earlier, md)
    return _exit_code(_evaluated(drawn, marginal, target, run, console, stop), allow_red=allow_red)


def _kept(n: int, problem: Problem, config: Config, md: MDFrames | None) -> int:
    """Samples whose states are wanted again."""
    keep = min(n, max(config.estimate.rdf_samples, config.estimate.marginal_samples))
    if md and md.windows:  # their springs are evaluated on every sample
        keep = min(n, max(keep, _MOST_KEPT // problem.crystal.n_sites))
    return parallel.agreed(keep)


def _with_states(run: RunDirectory, rows: np.ndarray, chunks: Sequence[Chunk], earlier: Mapping[str, Any]) -> Samples:
    """The samples of a run, the states of the first of them drawn once more."""
    energies, log_q, log_w = rows
    drawn = np.concatenate([chunk.energies for chunk in chunks])
    require_same_samples(run, drawn, energies[: len(drawn)])
    timings, judged = earlier.get("timings", {}), earlier.get("sampling", {}).get("judge")
    times = timings.get("draw_ms_per_sample"), timings.get("energy_ms_per_sample")
    return Samples(energies, log_q, log_w, np.concatenate([chunk.states for chunk in chunks]), *times, judged)


def rehearse(job: Job, console: Console) -> int:
    """Set everything up and say what a run would cost on this many ranks; writes nothing."""
    problem = _problem(job, console)
    show_check(check(problem, job.config), console)
    choose_source(problem, job.config, console)
    loaded = load_trained(job.model, problem, job.config, console, force=job.force) if job.model else None
    for line in forecast(problem, job.config, job.out, loaded):
        console.say(line)
    return 0


def _problem(job: Job, console: Console) -> Problem:
    """The crystal of a job, and what was understood of its script."""
    problem = Problem.load(job.request, job.config.estimate.length_scale)
    require_same_on_all_ranks(problem, job.config, job.model)
    crystal = problem.crystal
    console.say(
        f"crystal    {crystal.n_sites} atoms ({', '.join(sorted(set(crystal.species)))}), {crystal.unit.space_group}, "
        f"{' x '.join(map(str, crystal.replicate))} cells of {crystal.n_basis}, T = {problem.temperature:g} {problem.units.labels.temperature}, "
        f"{problem.engine.pair_style}"
    )
    for command in problem.engine.skipped:
        console.say(f"skipped    {command.file.name}:{command.line}: {command.command} ({command.reason})")
    for fix in problem.engine.removed_fixes:
        console.say(f"removed    fix {fix}")
    for line in problem.engine.lines:
        console.say(f"LAMMPS     {line}")
    return problem


def _require_neighbours(problem: Problem, config: Config) -> None:
    """Refuse a crystal too small for the flow's neighbours before anything is written."""
    graph = neighbour_graph(problem.crystal, count=config.flow.n_neighbours)
    if config.flow.kind == "sublattice":
        colour_sites(problem.crystal, graph)


def _open_run(job: Job, problem: Problem) -> RunDirectory:
    """The run directory: new with all inputs stored, or the one to continue with the same inputs."""

    def make() -> RunDirectory:
        if job.resume:
            return reopen_run(job.out, job.config, problem)
        kind: Kind = "sample" if job.model else "run"
        needed = disk_bytes(problem, job.config)
        return create_run(job, problem, kind=kind, needed_bytes=needed)

    return made_by_first(make, job.out)
