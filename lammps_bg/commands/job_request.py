# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command of the main job is going to do: new, continued, or with the model of an earlier run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lammps_bg import parallel
from lammps_bg.commands.run_folder import Job, require_same_request
from lammps_bg.commands.run_records import require_checkpoints
from lammps_bg.commands.stored_run import stored_request, with_model
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.system import Counts
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.problem import ScriptRequest

_DRAWS_WITHOUT_FLOW = 256  # of the base alone: the first window of the chains
_KEPT = {
    "--resume of `lammps-bg run`": ("base", "flow", "condition", "seed", "train.optimiser"),
    "--resume of `lammps-bg sample`": ("base", "flow", "condition", "seed", "train"),
    "`lammps-bg sample`": ("flow", "condition", "train"),
    "`lammps-bg estimate`": ("seed", "energy", "base", "flow", "condition", "train", "sample"),
    "`lammps-bg gibbs`": ("base", "flow", "condition", "train"),
    "`lammps-bg phase`": ("base", "flow", "condition", "train", "sample", "md"),
}
"""Blocks and keys of the configuration that a command takes as its run has them: what it had made depends on them."""


@dataclass(frozen=True)
class Typed:
    """What was typed for a job that goes on from a stored run.

    Attributes:
        words: All arguments.
        overrides: Applies -config and --set to the stored configuration.
        flags: LAMMPS' own flags.
        script: Given with -in; None: that of the run.
        variables: Given with -var.
        replicate: Given with -rep; None: that of the run.
        elements: Given with --elements.
        strain: Given with --strain; empty: that of the run.
        force: Use a model at another temperature or potential than it was trained with.
    """

    words: Sequence[str]
    overrides: Callable[[Config], Config]
    flags: LammpsFlags = LammpsFlags()
    script: Path | None = None
    variables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    replicate: Counts | None = None
    elements: Sequence[str] = ()
    strain: Mapping[str, float] = field(default_factory=dict)
    force: bool = False

    def applied_to(self, stored: ScriptRequest) -> ScriptRequest:
        """The request of a run with what was typed in place of its own."""
        request = replace(
            stored,
            variables={**stored.variables, **self.variables},
            replicate=self.replicate or stored.replicate,
            flags=self.flags,
            strain=self.strain or stored.strain,
        )
        return request if self.script is None else replace(request, script=self.script, stored=False)


def new(request: ScriptRequest, config: Config, out: Path, words: Sequence[str]) -> Job:
    """A new run; refuses an output folder that holds anything."""
    _reserve(out)
    if not (config.train.steps or config.exact.mode == "never" or "n_samples" in config.sample.model_fields_set):
        # no flow, and nobody asked for a number of draws: as many as chains need
        config = config.model_copy(update={"sample": config.sample.model_copy(update={"n_samples": _DRAWS_WITHOUT_FLOW})})
    return Job(request, config, out, words)


def resumed(out: Path, typed: Typed, *, model: Path | None = None) -> Job:
    """Continue the run in `out` with its own script, variables, replicate and configuration.

    Args:
        out: The run directory.
        typed: What was typed: of the crystal only what the run was started with; LAMMPS' flags are those of the run where none are given.
        model: Folder of the model, if it was typed.

    Raises:
        RunDirectoryError: The folder holds no run.
        ConfigError: Something changes what was made so far.
    """
    run = RunDirectory.open(out, writable=True)
    require_checkpoints(run)
    stored = load_config(run.file("config.toml"))
    config, request = typed.overrides(stored), stored_request(run)
    before = run.read_json("provenance.json")["request"]
    sampled = _require_main_job(before, out, typed.words[0])
    require_kept(f"--resume of `lammps-bg {'sample' if sampled else 'run'}`", stored, config)
    if model is not None and sha256(with_model(model).file("model.pt")) != before["source"]["sha256"]:
        raise ConfigError(f"expected --resume with the model of {before['source']['name']}, got another one; leave out -model")
    require_same_request(before, {name: getattr(typed, name) for name in ("variables", "replicate", "elements", "strain")})
    if typed.script is not None:
        request = replace(request, script=typed.script, stored=False)
    given = {name: value for name, value in asdict(typed.flags).items() if value != asdict(LammpsFlags())[name]}
    request = replace(request, flags=replace(request.flags, **given))
    return Job(request, config, out, typed.words, with_model(out) if sampled else None, resume=True, force=typed.force)


def _require_main_job(before: Mapping[str, Any], out: Path, command: str) -> bool:
    """Refuse to continue what another command has made; whether it is a run of `sample`."""
    kind = before.get("kind")
    if kind == "md":
        raise ConfigError(f"expected --resume of `lammps-bg md` in {out}, got {command}; use `lammps-bg md --resume`")
    if kind in ("gibbs", "phase"):
        raise ConfigError(
            f"expected --resume of `lammps-bg run`, `train` or `sample`, got the results of `{kind}` in {out}; run that command again"
        )
    sampled = kind == "sample"
    if command != "run" and (command == "sample") != sampled:
        kind = "sample" if sampled else "run"
        raise ConfigError(f"expected --resume of `lammps-bg {kind}` in {out}, got {command}; use `lammps-bg {kind} --resume`")
    return sampled


def of_model(source: Path, out: Path | None, typed: Typed) -> Job:
    """Samples from the model of an earlier run, at its replicate or another.

    Args:
        source: Folder of the run with model.pt.
        out: New run directory; None: a name made from the source's and the replicate.
        typed: What it is applied to.
    """
    run, config = model_and_config(source, typed.overrides, "`lammps-bg sample`")
    request = typed.applied_to(stored_request(run))
    out = out or run.path.with_name(f"{run.path.name}_{'x'.join(map(str, request.replicate))}")
    _reserve(out)
    return Job(request, config, out, typed.words, run, force=typed.force)


def model_and_config(source: Path, overrides: Callable[[Config], Config], command: str) -> tuple[RunDirectory, Config]:
    """The run of a model, and its configuration for a command that uses it.

    Args:
        source: Folder of the run.
        overrides: Applies -config and --set to the stored configuration.
        command: What uses it, one of those that keep some of the configuration.
    """
    run = with_model(source)
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    require_kept(command, stored, config)
    return run, config


def require_kept(command: str, stored: Config, config: Config) -> None:
    """Refuse other settings where a command depends on those of the run.

    Args:
        command: One that keeps some of the configuration.
        stored: The configuration of the run.
        config: The one that was asked for.

    Raises:
        ConfigError: One differs.
    """
    changed = [name for name in _KEPT[command] if _value(config, name) != _value(stored, name)]
    if changed:
        words = ", ".join(f"--set {name}{'' if name == 'seed' or '.' in name else '.*'}" for name in changed)
        anew = ", or start a new run with another -out" if "--resume" in command else ""
        raise ConfigError(
            f"expected {command} with the {' and '.join(changed)} of the run, got another value; leave out {words}{anew}"
        )


def _value(config: Config, name: str) -> object:
    """A block, or a key of one."""
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _reserve(out: Path) -> None:
    """Refuse a folder that holds anything, on all ranks before the first one makes it."""
    RunDirectory.check_new(out)
    parallel.barrier()
