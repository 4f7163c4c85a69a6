# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command does from start to end: plan, problem, run directory, training or a loaded model, samples, estimates."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg import parallel
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.system import Counts
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, CrystalError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.md_run import load_md_frames
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study import preflight
from lammps_bg.study.conditional import conditions_of, require_inside
from lammps_bg.study.energies import choose_source, chosen_before
from lammps_bg.study.estimating import estimate, marginal_weights
from lammps_bg.study.exact import sample_exact
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.ranks import require_same_on_all_ranks
from lammps_bg.study.rehearsal import disk_bytes, forecast
from lammps_bg.study.reporting import finish, illustrate
from lammps_bg.study.run_folder import (
    Kind,
    create_run,
    finished_code,
    made_by_first,
    reopen_run,
    require_same_request,
)
from lammps_bg.study.sampling import Samples, resampled_trajectory
from lammps_bg.study.sampling import sample as draw_samples
from lammps_bg.study.sampling_start import begin
from lammps_bg.study.stored_run import (
    load_trained,
    read_samples,
    require_same_samples,
    stored_request,
    with_model,
)
from lammps_bg.study.training import in_state_of, require_checkpoint, train
from lammps_bg.thermo.sampler import chunks_of, draw_together
from lammps_bg.training.model_file import save_model

_DRAWS_WITHOUT_FLOW = 256  # of the base alone: the first window of the chains
_MOST_KEPT = 20_000_000  # atoms in all samples that are held in memory, about 500 MB
Overrides = Callable[[Config], Config]


@dataclass(frozen=True)
class Plan:
    """What is going to be done.

    Attributes:
        request: Script and flags.
        config: The configuration.
        out: Run directory.
        words: Arguments after `lammps-bg`, as typed.
        started: time.monotonic() at the start.
        model: Run whose model is used; None trains one.
        resume: Whether `out` is an earlier run to continue.
        force: Use the model at another temperature or potential than it was trained with.
    """

    request: ScriptRequest
    config: Config
    out: Path
    words: Sequence[str]
    started: float
    model: RunDirectory | None = None
    resume: bool = False
    force: bool = False


def fresh(request: ScriptRequest, config: Config, out: Path, words: Sequence[str]) -> Plan:
    """A new run; refuses an output folder that holds anything."""
    RunDirectory.check_new(out)
    parallel.barrier()  # before the first rank makes it
    return Plan(request, _without_flow(config), out, words, time.monotonic())


def _without_flow(config: Config) -> Config:
    """The configuration with as many draws as chains need, where no flow is trained and nobody asked for a number of draws."""
    if config.train.steps or config.exact.mode == "never" or "n_samples" in config.sample.model_fields_set:
        return config
    return config.model_copy(update={"sample": config.sample.model_copy(update={"n_samples": _DRAWS_WITHOUT_FLOW})})


def resumed(
    out: Path, words: Sequence[str], *, script: Path | None, given: Mapping[str, Any], flags: LammpsFlags, overrides: Overrides
) -> Plan:
    """Continue the run in `out` with its own script, variables, replicate and configuration.

    Args:
        out: The run directory.
        words: Arguments as typed.
        script: Script given with -in, if any: it must be the one the run was started with.
        given: What else was typed of the request: entries that are not empty must be those the run was started with.
        flags: LAMMPS' own flags; those of the run where none are given.
        overrides: Applies -config and --set to the stored configuration.

    Raises:
        RunDirectoryError: The folder holds no run.
        ConfigError: Something changes what the checkpoint depends on: crystal, temperature, base, flow or seed.
    """
    run = RunDirectory.open(out, writable=True)
    for name in ("base.pt", "checkpoint.pt"):
        require_checkpoint(run.file(name))
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    request = stored_request(run)
    before = run.read_json("provenance.json")["request"]
    sampled = before.get("kind") == "sample"
    if before.get("kind") == "md":
        raise ConfigError(f"expected --resume of `lammps-bg md` in {out}, got {words[0]}; use `lammps-bg md --resume`")
    if before.get("kind") in ("gibbs", "phase"):
        raise ConfigError(
            f"expected --resume of `lammps-bg run`, `train` or `sample`, got the results of `{before['kind']}` in {out}; run that command again"
        )
    if any(getattr(config, name) != getattr(stored, name) for name in ("base", "flow", "condition", "seed")):
        raise ConfigError(
            "expected --resume with the base, flow, conditions and seed of the run, got other ones; start a new run with another -out"
        )
    if config.train.optimiser != stored.train.optimiser:
        raise ConfigError(
            f"expected --resume with the optimiser of the run, {stored.train.optimiser}, got {config.train.optimiser}; its state is in the "
            "checkpoint, so start a new run with another -out"
        )
    if sampled:
        _require_unchanged(stored, config, ("train",), "--resume of `lammps-bg sample`")
    if words[0] != "run" and (words[0] == "sample") != sampled:
        kind = "sample" if sampled else "run"
        raise ConfigError(f"expected --resume of `lammps-bg {kind}` in {out}, got {words[0]}; use `lammps-bg {kind} --resume`")
    _require_source(given.get("model"), before)
    require_same_request(before, given)
    if script is not None:
        request = replace(request, script=script, stored=False)
    typed = {name: value for name, value in asdict(flags).items() if value != asdict(LammpsFlags())[name]}
    request = replace(request, flags=replace(request.flags, **typed))
    return Plan(request, config, out, words, time.monotonic(), model=with_model(out) if sampled else None, resume=True)


def _require_source(model: Path | None, before: Mapping[str, Any]) -> None:
    """Refuse another model than the one whose sampling is continued."""
    if model is not None and sha256(with_model(model).file("model.pt")) != before["source"]["sha256"]:
        raise ConfigError(f"expected --resume with the model of {before['source']['name']}, got another one; leave out -model")


def _require_unchanged(stored: Config, config: Config, names: Sequence[str], command: str) -> None:
    """Refuse settings that a command could only ignore."""
    changed = [name for name in names if getattr(config, name) != getattr(stored, name)]
    if changed:
        raise ConfigError(f"expected {command} with the {' and '.join(changed)} of the run, got another value; leave it out")


def from_model(
    source: Path,
    out: Path | None,
    words: Sequence[str],
    *,
    replicate: Counts | None,
    variables: Mapping[str, Sequence[str]],
    flags: LammpsFlags,
    overrides: Overrides,
    script: Path | None = None,
    force: bool = False,
    strain: Mapping[str, float] | None = None,
) -> Plan:
    """Samples from the model of an earlier run, at its replicate or another.

    Args:
        source: Folder of the run with model.pt.
        out: New run directory; None: a name made from the source's and the replicate.
        words: Arguments as typed.
        replicate: Copies along each cell vector; None: as trained.
        variables: Further index variables.
        flags: LAMMPS' own flags.
        overrides: Applies -config and --set to the stored configuration.
        script: Another script of the same crystal; None: that of the run.
        force: Allow another temperature or potential than the model was trained with.
        strain: Cell variables of the state, relative to the script's cell; None: those of the run.
    """
    run = with_model(source)
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    if (config.flow, config.condition) != (stored.flow, stored.condition):
        raise ConfigError(
            "expected the flow configuration the model was trained with, got another one; leave out --set flow.* and condition.*"
        )
    _require_unchanged(stored, config, ("train",), "`lammps-bg sample`")
    request = stored_request(run)
    request = replace(
        request,
        variables={**request.variables, **variables},
        replicate=replicate or request.replicate,
        flags=flags,
        strain=strain or request.strain,
    )
    if script is not None:
        request = replace(request, script=script, stored=False)
    out = out or run.path.with_name(f"{run.path.name}_{'x'.join(map(str, request.replicate))}")
    RunDirectory.check_new(out)
    parallel.barrier()
    return Plan(request, config, out, words, time.monotonic(), model=run, force=force)


def execute(plan: Plan, console: Console, stop: StopFlag, *, sample: bool, allow_red: bool) -> int:
    """Carry out a plan; returns the exit code.

    Args:
        plan: What to do.
        console: Where to report.
        stop: Set by signals.
        sample: Draw samples and estimate after the training.
        allow_red: Return 0 in spite of a red verdict.
    """
    code = _finished(plan, console, allow_red=allow_red) if plan.resume and sample else None
    if code is not None and plan.request.stored:
        return code
    problem = _problem(plan, console)
    with problem.engine:  # LAMMPS ends its log file when it is closed, and not whenever the last reference to it goes
        if code is not None:  # complete, if it is of this script
            RunDirectory.open(plan.out).require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
            return code
        return _carry_out(plan, problem, console, stop, sample=sample, allow_red=allow_red)


def _carry_out(plan: Plan, problem: Problem, console: Console, stop: StopFlag, *, sample: bool, allow_red: bool) -> int:
    """A plan on its problem; returns the exit code."""
    before = chosen_before(RunDirectory.open(plan.out)) if plan.resume else None
    choose_source(problem, plan.config, console, before=before)
    loaded = load_trained(plan.model, problem, plan.config, console, force=plan.force) if plan.model else None
    if loaded is None:
        _require_neighbours(problem, plan.config)
        conditions = conditions_of(plan.config.condition, problem)
        if sample and conditions:
            require_inside(problem, conditions)
    run = _open_run(plan, problem)
    if loaded and loaded.adapted and parallel.first():
        save_model(run.file("model.pt"), loaded.adapted, problem.crystal)
    try:
        trained = loaded or train(problem, plan.config, run, console, stop, resume=plan.resume)
        if sample and trained.model and not loaded:
            trained = in_state_of(problem, trained.model, ms_per_sample=trained.ms_per_sample, n_undone=trained.n_undone)
        if not sample:
            run.write_status("done", percent=100.0)
            console.say(f"files      {run.path}")
            return 0
        start = begin(run, plan.config, problem.crystal.n_sites, problem.source)
        if start.n_done:
            console.say(f"sampling   continues after {start.n_done} samples")
        samples = draw_samples(problem, trained.generator, plan.config, run, console, stop, start=start)
        marginal = marginal_weights(problem, trained, samples, plan.config)
        exact = sample_exact(problem, trained, samples.log_w, plan.config, run, console, stop=stop)
        problem.count_other_ranks()
        if not parallel.first():
            return 0
        run.write_status("estimating")
        verdict = estimate(
            problem, trained, samples, plan.config, run, console, started=plan.started, marginal=marginal, exact=exact
        )
        if plan.config.sample.n_resample and np.isfinite(samples.log_w).any():
            resampled_trajectory(problem, trained.generator, plan.config, run, samples)
        if plan.config.sample.picture:
            illustrate(problem, run, ["exact.dump.gz", "samples.dump.gz"], console)
        finish(run, plan.config, console)
        run.end_status()
    except CrystalError:
        if not plan.resume:
            run.discard_inputs()  # nothing was made, so that the same -out serves the corrected input
        raise
    return 0 if verdict.colour != "red" or allow_red else 3


def _finished(plan: Plan, console: Console, *, allow_red: bool) -> int | None:
    """Exit code of a run that is complete and would only be repeated; None where there is something to do."""
    run = RunDirectory.open(plan.out)
    resamples = plan.config.sample.n_resample and not run.file("resampled.dump.gz").exists()
    if resamples and run.file("results.json").exists() and run.read_results()["sampling"]["ess"]:
        return None
    return finished_code(plan.out, plan.config, console, "samples", allow_red=allow_red)


def estimate_again(
    source: Path,
    out: Path | None,
    console: Console,
    stop: StopFlag,
    *,
    overrides: Overrides,
    allow_red: bool,
    md: Path | None = None,
) -> int:
    """Estimates from the samples of an earlier run; returns the exit code.

    Args:
        source: Folder of the run.
        out: New folder for the results; None renews results.json of the run.
        console: Where to report.
        stop: Set by signals.
        overrides: Applies -config and --set to the stored configuration.
        allow_red: Return 0 in spite of a red verdict.
        md: Folder of `lammps-bg md`, or a dump file, to compare with.
    """
    started = time.monotonic()
    run = with_model(source, writable=out is None)
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    _require_unchanged(stored, config, ("seed", "energy", "base", "flow", "condition", "train", "sample"), "`lammps-bg estimate`")
    if out is not None:
        RunDirectory.check_new(out)
    energies, log_q, log_w = parallel.agreed(read_samples(run))
    problem = Problem.load(stored_request(run), config.estimate.length_scale)
    require_same_on_all_ranks(problem, config, run)
    choose_source(problem, config, console, before=chosen_before(run))
    frames = load_md_frames(md, problem) if md else None
    trained = load_trained(run, problem, config, console)
    keep = min(len(energies), max(config.estimate.rdf_samples, config.estimate.marginal_samples))
    if frames and frames.windows:  # their springs are evaluated on every sample
        keep = min(len(energies), max(keep, _MOST_KEPT // problem.crystal.n_sites))
    keep = parallel.agreed(keep)
    parts = [(config.seed, some) for some in chunks_of(keep, problem.crystal.n_sites, config.sample.batch_size)]
    chunks = list(draw_together(trained.generator, problem.exact_target(), parts, batch_size=config.sample.batch_size))
    require_same_samples(run, np.concatenate([c.energies for c in chunks]), energies[:keep])
    earlier = run.read_results() if run.file("results.json").exists() else {}
    timings = earlier.get("timings", {})
    samples = Samples(
        energies, log_q, log_w, np.concatenate([c.states for c in chunks]),
        timings.get("draw_ms_per_sample"), timings.get("energy_ms_per_sample"), earlier.get("sampling", {}).get("judge"),
    )  # fmt: skip
    trained.ms_per_sample = timings.get("train_ms_per_sample")
    marginal = marginal_weights(problem, trained, samples, config)
    if stop.on_any_rank():
        stop.check("nothing was written")
    target = run if out is None else made_by_first(lambda: RunDirectory.create(out), out)
    exact = sample_exact(problem, trained, log_w, config, target, console, stop=stop, model=run)
    problem.count_other_ranks()
    if not parallel.first():
        return 0
    verdict = estimate(
        problem, trained, samples, config, target, console, started=started, marginal=marginal, earlier=earlier, md=frames,
        exact=exact,
    )  # fmt: skip
    if exact and config.sample.picture:
        illustrate(problem, target, ["exact.dump.gz"], console)
    finish(target, config, console)
    target.end_status()
    return 3 if verdict.colour == "red" and not allow_red else 0


def rehearse(plan: Plan, console: Console) -> int:
    """Set everything up and say what a run would cost on this many ranks; writes nothing."""
    problem = _problem(plan, console)
    preflight.show(preflight.examine(problem, plan.config), console)
    choose_source(problem, plan.config, console)
    loaded = load_trained(plan.model, problem, plan.config, console, force=plan.force) if plan.model else None
    for line in forecast(problem, plan.config, plan.out, loaded):
        console.say(line)
    return 0


def _problem(plan: Plan, console: Console) -> Problem:
    problem = Problem.load(plan.request, plan.config.estimate.length_scale)
    require_same_on_all_ranks(problem, plan.config, plan.model)
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


def _open_run(plan: Plan, problem: Problem) -> RunDirectory:
    """The run directory: new with all inputs stored, or the one to continue with the same inputs."""

    def make() -> RunDirectory:
        if plan.resume:
            return reopen_run(plan.out, plan.config, problem)
        kind: Kind = "sample" if plan.model else "run"
        needed = disk_bytes(problem, plan.config)
        return create_run(
            plan.out, plan.request, plan.config, plan.words, problem, kind=kind, needed_bytes=needed, model=plan.model
        )

    return made_by_first(make, plan.out)
