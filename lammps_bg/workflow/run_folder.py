# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of a command: new with all inputs stored, or an earlier one with the same inputs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lammps_bg.config import Config, to_toml
from lammps_bg.report.provenance import sha256
from lammps_bg.report.run_directory import RunDirectory
from lammps_bg.workflow.problem import Problem, ScriptRequest

Kind = Literal["run", "sample", "md"]


def create_run(
    out: Path,
    request: ScriptRequest,
    config: Config,
    words: Sequence[str],
    problem: Problem,
    *,
    kind: Kind,
    needed_bytes: int,
    model: RunDirectory | None = None,
    more: dict[str, Any] | None = None,
) -> RunDirectory:
    """Make a run directory and store what the command was given.

    Args:
        out: The folder.
        request: Script and flags.
        config: The configuration.
        words: Arguments after `lammps-bg`, as typed.
        problem: The crystal made from them.
        kind: What the command does.
        needed_bytes: Disk space it will take.
        model: Run whose model is copied.
        more: Further facts that --resume must know.
    """
    run = RunDirectory.create(out, needed_bytes=needed_bytes)
    entry: dict[str, Any] = {
        "kind": kind,
        "variables": dict(request.variables),
        "replicate": list(request.replicate),
        "elements": list(request.elements),
        "flags": asdict(request.flags),
        **(more or {}),
    }
    if model:  # first, so that a run directory of samples always has its model
        run.copy_in(model.file("model.pt"), "model.pt")
        entry["source"] = {"name": model.path.name, "sha256": sha256(run.file("model.pt"))}
    run.store_inputs(
        problem.engine.script_files,
        problem.engine.potential_files,
        config=to_toml(config),
        command=words,
        seeds={"seed": config.seed},
        names=problem.engine.reader.files.names,
        extra={"request": entry},
    )
    return run


def reopen_run(out: Path, config: Config, problem: Problem) -> RunDirectory:
    """The folder of an earlier command of the same inputs, with the configuration renewed.

    Args:
        out: The folder.
        config: The configuration to go on with.
        problem: The crystal.

    Raises:
        RunDirectoryError: The inputs have changed.
    """
    run = RunDirectory.open(out, writable=True)
    run.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
    if (text := to_toml(config)) != run.file("config.toml").read_text():
        run.write_text("config.toml", text)
    return run
