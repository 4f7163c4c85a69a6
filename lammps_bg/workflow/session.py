# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command does from start to end: plan, problem, run directory, training or a loaded model, samples, estimates."""

import csv
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg.config import Config, load_config, to_toml
from lammps_bg.crystal.system import Counts
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, CrystalError, RunDirectoryError, StateError
from lammps_bg.flow.model import build_generator
from lammps_bg.flow.self_consistent import FittedBase
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.report.picture import PictureError, render_samples
from lammps_bg.report.run_directory import RunDirectory
from lammps_bg.thermo.sampler import draw
from lammps_bg.training.model_file import load_model
from lammps_bg.training.target import ExactTarget
from lammps_bg.workflow import preflight
from lammps_bg.workflow.estimating import estimate
from lammps_bg.workflow.problem import Problem, ScriptRequest
from lammps_bg.workflow.rehearsal import forecast
from lammps_bg.workflow.sampling import Samples, resampled_trajectory
from lammps_bg.workflow.sampling import sample as draw_samples
from lammps_bg.workflow.training import Trained, fit_base, require_checkpoint, train

log = logging.getLogger(__name__)
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
    """

    request: ScriptRequest
    config: Config
    out: Path
    words: Sequence[str]
    started: float
    model: RunDirectory | None = None
    resume: bool = False


def fresh(request: ScriptRequest, config: Config, out: Path, words: Sequence[str]) -> Plan:
    """A new run; refuses an output folder that holds anything."""
    RunDirectory.check_new(out)
    return Plan(request, config, out, words, time.monotonic())


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
    require_checkpoint(run.file("checkpoint.pt"))
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    if (config.base, config.flow, config.seed) != (stored.base, stored.flow, stored.seed):
        raise ConfigError(
            "expected --resume with the base, flow and seed of the run, got other ones; start a new run with another -out"
        )
    request = _stored_request(run)
    before = run.read_json("provenance.json")["request"]
    for name, value in given.items():
        if value and value != before[name]:
            raise ConfigError(
                f"expected --resume with the {name} of the run, {before[name]}, got {value}; start a new run with another -out"
            )
    if script is not None:
        request = replace(request, script=script, stored=False)
    if flags != LammpsFlags():
        request = replace(request, flags=flags)
    return Plan(request, config, out, words, time.monotonic(), resume=True)


def from_model(
    source: Path,
    out: Path | None,
    words: Sequence[str],
    *,
    replicate: Counts | None,
    variables: Mapping[str, Sequence[str]],
    flags: LammpsFlags,
    overrides: Overrides,
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
    """
    run = _with_model(source)
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    if config.flow != stored.flow:
        raise ConfigError("expected the flow configuration the model was trained with, got another one; leave out --set flow.*")
    request = _stored_request(run)
    request = replace(
        request, variables={**request.variables, **variables}, replicate=replicate or request.replicate, flags=flags
    )
    out = out or run.path.with_name(f"{run.path.name}_{'x'.join(map(str, request.replicate))}")
    RunDirectory.check_new(out)
    return Plan(request, config, out, words, time.monotonic(), model=run)


def execute(plan: Plan, console: Console, stop: StopFlag, *, sample: bool, allow_red: bool) -> int:
    """Carry out a plan; returns the exit code.

    Args:
        plan: What to do.
        console: Where to report.
        stop: Set by signals.
        sample: Draw samples and estimate after the training.
        allow_red: Return 0 in spite of a red verdict.
    """
    if plan.resume and sample and (code := _finished(plan, console, allow_red=allow_red)) is not None:
        return code
    problem = _problem(plan, console)
    loaded = _loaded(plan.model, problem, plan.config, console) if plan.model else None
    run = _open_run(plan, problem)
    try:
        trained = loaded or train(problem, plan.config, run, console, stop, resume=plan.resume)
        if not sample:
            console.say(f"files      {run.path}")
            return 0
        _discard_partial_samples(run)
        samples = draw_samples(problem, trained.generator, plan.config, run, console, stop)
        if plan.config.sample.n_resample:
            resampled_trajectory(problem, trained.generator, plan.config, run, samples)
        if plan.config.sample.picture:
            _picture(problem, run, console)
        verdict = estimate(problem, trained, samples, plan.config, run, console, started=plan.started)
    except CrystalError:
        if not plan.resume:
            run.discard_inputs()  # nothing was made, so that the same -out serves the corrected input
        raise
    except Exception:
        run.write_status("failed or stopped")
        raise
    return 0 if verdict.colour != "red" or allow_red else 3


def _finished(plan: Plan, console: Console, *, allow_red: bool) -> int | None:
    """Exit code of a run that is complete and would only be repeated; None where there is something to do."""
    run = RunDirectory.open(plan.out)
    if not all(run.file(name).exists() for name in ("results.json", "status.json")):
        return None
    if run.read_json("status.json").get("stage") != "done" or plan.config != load_config(run.file("config.toml")):
        return None
    results = run.read_results()
    console.say(
        f"complete   {run.path} has its {results['sampling']['n_samples']} samples and results.json; ask for more with --set, "
        "or `lammps-bg estimate` again"
    )
    return 3 if results["verdict"]["colour"] == "red" and not allow_red else 0


def estimate_again(source: Path, out: Path | None, console: Console, stop: StopFlag, *, overrides: Overrides) -> int:
    """Estimates from the samples of an earlier run; returns the exit code.

    Args:
        source: Folder of the run.
        out: New folder for the results; None renews results.json of the run.
        console: Where to report.
        stop: Set by signals.
        overrides: Applies -config and --set to the stored configuration.
    """
    started = time.monotonic()
    run = _with_model(source)
    config = overrides(load_config(run.file("config.toml")))
    if out is not None:
        RunDirectory.check_new(out)
    energies, log_q, log_w = _read_samples(run)
    problem = Problem.load(_stored_request(run), config.estimate.length_scale)
    trained = _loaded(run, problem, config, console)
    keep = min(len(energies), max(config.estimate.rdf_samples, config.estimate.marginal_samples))
    chunks = list(draw(trained.generator, ExactTarget(problem.surface, problem.beta), keep, seed=config.seed))
    _require_same_samples(run, np.concatenate([c.energies for c in chunks]), energies[:keep])
    timings = run.read_results()["timings"] if run.file("results.json").exists() else {}
    samples = Samples(
        energies, log_q, log_w, np.concatenate([c.states for c in chunks]),
        timings.get("draw_ms_per_sample"), timings.get("energy_ms_per_sample"),
    )  # fmt: skip
    trained.ms_per_sample = timings.get("train_ms_per_sample")
    stop.check("nothing was written")
    target = run if out is None else RunDirectory.create(out)
    verdict = estimate(problem, trained, samples, config, target, console, started=started)
    return 3 if verdict.colour == "red" else 0


def rehearse(plan: Plan, console: Console) -> int:
    """Set everything up and say what a run would cost; writes nothing."""
    problem = _problem(plan, console)
    preflight.show(preflight.examine(problem, plan.config), console)
    for line in forecast(problem, plan.config, plan.out):
        console.say(line)
    return 0


def _problem(plan: Plan, console: Console) -> Problem:
    problem = Problem.load(plan.request, plan.config.estimate.length_scale)
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
    return problem


def _open_run(plan: Plan, problem: Problem) -> RunDirectory:
    """The run directory: new with all inputs stored, or the one to continue with the same inputs."""
    scripts, data = problem.engine.script_files, problem.engine.potential_files
    if plan.resume:
        run = RunDirectory.open(plan.out, writable=True)
        run.require_same_inputs(scripts, data)
        if (text := to_toml(plan.config)) != run.file("config.toml").read_text():
            run.write_text("config.toml", text)
        return run
    run = RunDirectory.create(plan.out, needed_bytes=_disk(problem, plan.config))
    request = {
        "variables": dict(plan.request.variables),
        "replicate": list(plan.request.replicate),
        "elements": list(plan.request.elements),
    }
    request["flags"] = asdict(plan.request.flags)
    run.store_inputs(
        scripts,
        data,
        config=to_toml(plan.config),
        command=plan.words,
        seeds={"seed": plan.config.seed},
        extra={"request": request},
    )
    return run


def _loaded(source: RunDirectory, problem: Problem, config: Config, console: Console) -> Trained:
    """The model of an earlier run, its base fitted again where the replicate differs."""
    source.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on foreign files, which are refused in our own words
        saved = load_model(source.file("model.pt"), problem.crystal, problem.beta)
    if saved.config.flow != config.flow:
        raise RunDirectoryError(
            f"expected config.toml in {source.path} with the flow that model.pt was trained with, got another one; restore config.toml"
        )
    for name, given in (
        ("temperature", problem.temperature),
        ("units", problem.units.name),
        ("pair_style", problem.engine.pair_style),
    ):
        if saved.state.get(name) != given:
            raise StateError(
                f"expected the {name.replace('_', ' ')} the model was trained with, {saved.state.get(name)}, got {given}; "
                "train a model for it"
            )
    fitted = saved.fitted
    if saved.replicate != problem.crystal.replicate:
        fitted = fit_base(problem, config, console, start=_transferred(fitted, saved.replicate, problem))
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed, eta=saved.state["eta"])
    try:
        generator.flow.load_state_dict(saved.flow)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunDirectoryError(
            f"expected the weights of this flow in {source.file('model.pt')}, got other ones ({reason}); train again"
        ) from None
    console.say(f"model      {source.path.name}, trained on {' x '.join(map(str, saved.replicate))} cells")
    return Trained(generator, fitted, None, 0)


def _transferred(fitted: FittedBase, replicate: Counts, problem: Problem) -> FittedBase:
    """Force constants interpolated to the problem's replicate, as the start of a refit."""
    if fitted.constants is None:
        return fitted
    trained = replace(problem.crystal, replicate=replicate, atom_ids=np.empty(0, dtype=np.int64))
    constants = fitted.constants.interpolated(trained, problem.crystal)
    if constants.unstable_modes():
        constants = constants.rectified()
    return replace(fitted, constants=constants)


def _with_model(source: Path) -> RunDirectory:
    run = RunDirectory.open(source)
    if not run.file("model.pt").exists():
        raise RunDirectoryError(
            f"expected a finished training in {source}, got a run without model.pt; continue it with --resume"
        )
    return run


def _stored_request(run: RunDirectory) -> ScriptRequest:
    """The request a run was started with, on its own copies of script and potentials."""
    stored = run.read_json("provenance.json").get("request")
    if stored is None:
        raise RunDirectoryError(
            f"expected a run of `lammps-bg run` or `train` in {run.path}, got one of another command; give another folder"
        )
    flags = stored["flags"]
    flags["package"] = tuple(map(tuple, flags["package"]))
    _search(run.file("inputs") / "potentials")
    return ScriptRequest(
        run.script, stored["variables"], tuple(stored["replicate"]), LammpsFlags(**flags), tuple(stored["elements"]), stored=True
    )


def _search(folder: Path) -> None:
    """Let LAMMPS and the file search find the stored potential files first."""
    before = os.environ.get("LAMMPS_POTENTIALS")
    os.environ["LAMMPS_POTENTIALS"] = f"{folder}:{before}" if before else str(folder)


def _discard_partial_samples(run: RunDirectory) -> None:
    """Remove what an interrupted sampling left: the same samples are drawn again."""
    for name in ("samples.csv", "samples.dump.gz", "samples.dump.gz.partial", "resampled.dump.gz", "resampled.dump.gz.partial"):
        run.file(name).unlink(missing_ok=True)


def _read_samples(run: RunDirectory) -> np.ndarray:
    """Energies, log q and log w of samples.csv, shape [3, n].

    Raises:
        RunDirectoryError: The table is missing or damaged.
    """
    path = run.file("samples.csv")
    try:
        with path.open(newline="") as stream:
            rows = [[float(row[name]) for name in ("pe", "log_q", "log_w")] for row in csv.DictReader(stream)]
    except FileNotFoundError:
        raise RunDirectoryError(
            f"expected samples.csv in {run.path}, got a run without samples; draw them with `lammps-bg sample`"
        ) from None
    except (KeyError, TypeError, ValueError):
        raise RunDirectoryError(
            f"expected the columns sample,pe,log_q,log_w in {path}, got something else; draw the samples again"
        ) from None
    if len(rows) < 2:
        raise RunDirectoryError(f"expected at least 2 samples in {path}, got {len(rows)}; draw the samples again")
    return np.array(rows).T


def _require_same_samples(run: RunDirectory, drawn: np.ndarray, stored: np.ndarray) -> None:
    finite = np.isfinite(drawn) & np.isfinite(stored)
    if not np.allclose(drawn[finite], stored[finite], rtol=1e-5):
        raise RunDirectoryError(
            f"expected samples.csv in {run.path} to come from its model.pt, got other energies; draw the samples again"
        )


def _picture(problem: Problem, run: RunDirectory, console: Console) -> None:
    """samples.png by OVITO, where it can draw on this machine."""
    if not run.file("samples.dump.gz").exists():
        return
    crystal = problem.crystal
    sites = crystal.sites[np.argsort(crystal.atom_ids)]
    try:
        render_samples(
            run.file("samples.dump.gz"),
            run.file("samples.png"),
            sites=sites,
            length_unit=problem.units.labels.length,
            labels=crystal.labels,
        )
    except (PictureError, RunDirectoryError) as error:
        console.say(f"picture    none: {error}")


def _disk(problem: Problem, config: Config) -> int:
    """Bytes a run will write, about."""
    frames = config.sample.n_dump + config.sample.n_resample
    return 40 * problem.crystal.n_sites * frames + 80 * config.sample.n_samples + 200 * config.train.steps + 20_000_000
