# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of a command: new with all inputs stored, or an earlier one with the same inputs."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lammps_bg import parallel
from lammps_bg.config import Config, load_config, to_toml
from lammps_bg.errors import ConfigError, RunDirectoryError
from lammps_bg.progress import Reporter
from lammps_bg.store.job import present_job
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import NonRootDirectory, RunDirectory
from lammps_bg.study.problem import Problem, ScriptRequest

log = logging.getLogger(__name__)
Kind = Literal["run", "sample", "md", "gibbs", "phase"]


@dataclass(frozen=True)
class Job:
    """What is going to be done.

    Attributes:
        request: Script and flags.
        config: The configuration.
        out: Run directory.
        words: Arguments after `lammps-bg`, as typed.
        model: Run whose model is used; None trains one.
        resume: Whether `out` is an earlier run to continue.
        force: Use the model at another temperature or potential than it was trained with.
        started: time.monotonic() at the start.
    """

    request: ScriptRequest
    config: Config
    out: Path
    words: Sequence[str]
    model: RunDirectory | None = None
    resume: bool = False
    force: bool = False
    started: float = field(default_factory=time.monotonic)


def create_run(job: Job, problem: Problem, *, kind: Kind, needed_bytes: int, more: dict[str, Any] | None = None) -> RunDirectory:
    """Make the run directory of a job and store what it was given, its model included.

    Args:
        job: The job.
        problem: The crystal made from its request.
        kind: What the command does.
        needed_bytes: Disk space it will take.
        more: Further facts that --resume must know.
    """
    run, request, model = RunDirectory.create(job.out, needed_bytes=needed_bytes), job.request, job.model
    entry: dict[str, Any] = {
        "kind": kind,
        "energies": problem.source,
        "variables": dict(request.variables),
        "replicate": list(request.replicate),
        "elements": list(request.elements),
        "strain": dict(request.strain),
        "flags": asdict(request.flags),
        **(more or {}),
    }
    try:
        if model:  # first, so that a run directory of samples always has its model
            run.copy_in(model.file("model.pt"), "model.pt")
            entry["source"] = {"name": model.path.name, "sha256": sha256(run.file("model.pt"))}
        run.store_inputs(
            problem.engine.script_files,
            problem.engine.potential_files,
            config=to_toml(job.config),
            command=job.words,
            seeds={"seed": job.config.seed},
            names=problem.engine.reader.files.places,
            extra={"request": entry},
        )
    except BaseException:  # such as a full disk
        run.discard_half_made()
        raise
    run.write_status("starting")
    return run


def made_by_first(make: Callable[[], RunDirectory], out: Path) -> RunDirectory:
    """A run directory that the first rank makes or opens; the others follow. All ranks call it together."""
    made = make() if parallel.first() else NonRootDirectory(out.absolute())
    parallel.barrier()
    return made


@contextmanager
def reserved(out: Path) -> Iterator[None]:
    """Keep a folder for a command that writes its results at its end; where it fails, the folder is gone again.

    Args:
        out: The folder, new or empty.
    """
    if parallel.first():
        RunDirectory.create(out)
    try:
        yield
    except BaseException:
        if parallel.first():
            present_job().release(out)
            with suppress(OSError):
                out.rmdir()
        raise


def copy_model(run: RunDirectory, source: RunDirectory, folder: Path) -> None:
    """Store what a model's run needs to be used again: its inputs, configuration and weights.

    Args:
        run: The run directory.
        source: The run of the model.
        folder: Where the copy goes, below the run directory.
    """
    inputs = [path.relative_to(source.path) for path in source.file("inputs").rglob("*") if path.is_file()]
    for name in (Path("provenance.json"), Path("config.toml"), Path("model.pt"), *inputs):
        (run.path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        run.copy_in(source.path / name, str(folder / name))


def require_same_request(before: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse --resume with another crystal or state than the one of the run.

    Args:
        before: Entry `request` of its provenance.json.
        given: What was typed; entries that are not empty must be those of the run.

    Raises:
        ConfigError: One differs.
    """
    for name in ("variables", "replicate", "elements", "strain"):
        value, stored = given.get(name), before.get(name, {})
        if not value:
            continue
        same = {**stored, **value} == stored if isinstance(value, Mapping) and name == "variables" else _plain(value) == stored
        if not same:
            raise ConfigError(
                f"expected --resume with the {name} of the run, {stored}, got {value}; start a new run with another -out"
            )


def _plain(value: object) -> object:
    """As JSON knows it."""
    return list(value) if isinstance(value, tuple) else value


def finished_code(out: Path, config: Config, reporter: Reporter, what: str, *, allow_red: bool) -> int | None:
    """Exit code of a command that is complete and would only be repeated; None where there is something to do.

    Args:
        out: Its folder.
        config: The configuration to go on with.
        reporter: Told so.
        what: What it made, in the plural.
        allow_red: Return 0 in spite of a red verdict.
    """
    run = RunDirectory.open(out)
    if not run.file("results.json").exists() or _stage(run) != "done" or config != load_config(run.file("config.toml")):
        return None
    reporter.say(
        f"complete   {run.path} has its {what} and results.json; ask for more with --set, or `lammps-bg report {run.path.name}` again"
    )
    return 3 if run.read_results()["verdict"]["colour"] == "red" and not allow_red else 0


def _stage(run: RunDirectory) -> str | None:
    """Where a run stood; None where that is not known, and then there may be something to do."""
    if not run.file("status.json").exists():
        return None
    try:
        return str(run.read_json("status.json").get("stage"))
    except RunDirectoryError as error:
        log.warning("%s", error)
        return None


def reopen_run(out: Path, config: Config, problem: Problem) -> RunDirectory:
    """The folder of an earlier command of the same inputs, with the configuration renewed.

    Raises:
        RunDirectoryError: The inputs have changed.
    """
    run = RunDirectory.open(out, writable=True)
    run.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
    if (text := to_toml(config)) != run.file("config.toml").read_text():
        run.write_text("config.toml", text)
    run.write_status("starting")
    return run
