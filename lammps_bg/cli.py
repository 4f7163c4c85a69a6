# SPDX-License-Identifier: GPL-2.0-or-later
"""The command lammps-bg: parsing and wiring only."""

import argparse
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lammps_bg import parallel
from lammps_bg.arguments import build_parser
from lammps_bg.commands import md_job, relax_job
from lammps_bg.config import Config, load_config, to_toml
from lammps_bg.crystal.cell_variables import CELL_VARIABLES
from lammps_bg.engine import team
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, Interrupted, LammpsBGError
from lammps_bg.files import require_scratch
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store import lock, status_file
from lammps_bg.study import gibbs, isobaric, phases, preflight, reporting, session, slurm, status
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.ranks import say_ranks, set_threads

_NUMBERS = ("T", "Lambda")  # variables that are read as one number; of further words LAMMPS would say nothing
_WITHOUT_SCRATCH = ("status", "config")
_FIRST_SPEAKS = 1.0  # seconds in which the first MPI rank, which mostly fails alike, says so and ends the others


def _flags(args: argparse.Namespace) -> LammpsFlags:
    if args.partition:
        raise ConfigError("expected no -partition, got one; lammps-bg splits the ranks itself, so start it with mpirun alone")
    log, screen = (args.log, args.screen) if parallel.first() else ("none", "none")  # one file, one writer
    return LammpsFlags(log, screen, tuple(args.suffix), tuple(map(tuple, args.package)), tuple(args.kokkos), args.echo)


def _variables(args: argparse.Namespace) -> dict[str, list[str]]:
    for entry in args.var:
        if len(entry) < 2:
            raise ConfigError(f"expected -var NAME VALUE, got -var {' '.join(entry)}; give a value such as -var T 300")
        if len(entry) > 2 and entry[0] in _NUMBERS:
            raise ConfigError(
                f"expected one number without its unit in -var {entry[0]}, got '{' '.join(entry[1:])}'; give it in the script's units"
            )
    # a pressure may have its unit as a word of its own
    return {entry[0]: [" ".join(entry[1:])] if entry[0] == "P" else entry[1:] for entry in args.var}


def _config(args: argparse.Namespace, start: Config | None = None) -> Config:
    overrides = list(args.set)
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    if getattr(args, "judge", None):
        overrides.append(f"energy.judge={args.judge}")
    if getattr(args, "exact", None):
        overrides.append(f"exact.mode={args.exact}")
    return load_config(args.config, tuple(overrides), start)


def _request(args: argparse.Namespace) -> ScriptRequest:
    if args.script is None:
        raise ConfigError("expected -in with a LAMMPS input script, got none; add -in in.file")
    counts, elements = tuple(args.rep or (1, 1, 1)), tuple(args.elements)
    return ScriptRequest(args.script, _variables(args), counts, _flags(args), elements, strain=_strain(args))


def _strain(args: argparse.Namespace) -> dict[str, float]:
    """Cell variables by --strain."""
    found = {}
    for text in getattr(args, "strain", []):
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name not in CELL_VARIABLES or not math.isfinite(number):
            names = ", ".join(CELL_VARIABLES)
            raise ConfigError(f"expected --strain NAME=VALUE with a NAME of {names}, got '{text}'; give for example volume=0.02")
        found[name] = number
    return found


def _check(args: argparse.Namespace, console: Console) -> int:
    config = _config(args)
    problem = Problem.load(_request(args), config.estimate.length_scale)
    found = preflight.examine(problem, config)
    if not parallel.first():
        return 0
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        preflight.show(found, console)
    return 0


def _relax(args: argparse.Namespace, console: Console) -> int:
    pressure = " ".join(args.pressure) if args.pressure else None
    return relax_job.execute(relax_job.RelaxPlan(_request(args), args.cell, pressure, args.out, args.argv), console)


def _run(args: argparse.Namespace, console: Console) -> int:
    return _with_session(args, console, sample=True)


def _train(args: argparse.Namespace, console: Console) -> int:
    return _with_session(args, console, sample=False)


def _with_session(args: argparse.Namespace, console: Console, *, sample: bool) -> int:
    if args.resume:
        plan = _resumed(args)
    else:
        request = _request(args)
        out = args.out or Path("runs") / request.script.name.removeprefix("in.")
        plan = session.fresh(request, _config(args), out, args.argv)
    if args.dry_run:
        return session.rehearse(plan, console)
    with StopFlag() as stop:
        return session.execute(plan, console, stop, sample=sample, allow_red=args.allow_red)


def _resumed(args: argparse.Namespace) -> session.Plan:
    """The plan of --resume of `run`, `train` or `sample`."""
    if args.out is None:
        raise ConfigError("expected -out with the folder of the run to --resume, got none; add -out RUN")
    typed = {"elements": getattr(args, "elements", []), "model": getattr(args, "model", None), "strain": _strain(args)}
    return session.resumed(
        args.out,
        args.argv,
        script=getattr(args, "script", None),
        given={"variables": _variables(args), "replicate": args.rep, **typed},
        flags=_flags(args),
        overrides=lambda start: _config(args, start),
    )


def _of_model(args: argparse.Namespace) -> session.Plan:
    """The plan of `sample` into a new folder."""
    _require_model(args)
    return session.from_model(
        args.model,
        args.out,
        args.argv,
        **_applied(args),
        script=args.script,
        force=args.force,
        strain=_strain(args),
    )


def _applied(args: argparse.Namespace) -> dict[str, Any]:
    """What a stored model is applied to, and how."""
    return {
        "replicate": tuple(args.rep) if args.rep else None,
        "variables": _variables(args),
        "flags": _flags(args),
        "overrides": lambda start: _config(args, start),
    }


def _require_model(args: argparse.Namespace) -> None:
    if args.model is None:
        raise ConfigError("expected -model with the folder of a run with model.pt, got none; add -model RUN")


def _sample(args: argparse.Namespace, console: Console) -> int:
    plan = replace(_resumed(args), force=args.force) if args.resume else _of_model(args)
    unfit = {"--strain": bool(args.strain), "--force": args.force}
    pressure = isobaric.asked_for(plan, args.pressure, args.cell, unfit)
    if pressure is not None:
        if args.exact == "never":
            raise ConfigError("expected chains for samples at constant pressure, got --exact never; leave out --exact")
        with StopFlag() as stop:
            return isobaric.execute(plan, pressure, console, stop, allow_red=args.allow_red, dry_run=args.dry_run)
    if args.dry_run:
        return session.rehearse(plan, console)
    with StopFlag() as stop:
        return session.execute(plan, console, stop, sample=True, allow_red=args.allow_red)


def _gibbs(args: argparse.Namespace, console: Console) -> int:
    _require_model(args)
    plan = gibbs.plan(
        args.model,
        args.out,
        args.argv,
        **_applied(args),
        pressures=args.pressures,
        temperatures=args.temperatures,
        cell=args.cell,
        md=args.md,
    )
    with StopFlag() as stop:
        return gibbs.execute(plan, console, stop, allow_red=args.allow_red)


def _phase(args: argparse.Namespace, console: Console) -> int:
    plan = phases.plan(
        args.models,
        args.out,
        args.argv,
        axis=args.axis,
        limits=args.limits,
        pressures=args.pressures,
        temperatures=args.temperatures,
        grid={name: gibbs.numbers(values) for name, values in _variables(args).items()},
        replicates=args.rep,
        cell=args.cell,
        other_sizes=args.other_sizes,
        overrides=lambda start: _config(args, start),
    )
    with StopFlag() as stop:
        return phases.execute(plan, console, stop, allow_red=args.allow_red)


def _estimate(args: argparse.Namespace, console: Console) -> int:
    with StopFlag() as stop:
        return session.estimate_again(
            args.model,
            args.out,
            console,
            stop,
            overrides=lambda start: _config(args, start),
            allow_red=args.allow_red,
            md=args.md,
        )


def _md(args: argparse.Namespace, console: Console) -> int:
    crystal = {"variables": _variables(args), "replicate": args.rep, "elements": args.elements, "strain": _strain(args)}
    asked = md_job.MDRequest(
        words=args.argv,
        overrides=lambda start: _config(args, start),
        mode=args.mode,
        out=args.out,
        script=args.script,
        model=args.model,
        resume=args.resume,
        crystal=crystal,
        flags=_flags(args),
    )
    plan = md_job.MDPlan.of(asked)
    if args.dry_run:
        return md_job.rehearse(plan, console)
    with StopFlag() as stop:
        return md_job.execute(plan, console, stop, allow_red=args.allow_red)


def _report(args: argparse.Namespace, console: Console) -> int:
    reporting.report(args.run, console)
    return 0


def _slurm(args: argparse.Namespace, console: Console) -> int:
    resources = slurm.Resources(**{field.name: getattr(args, field.name) for field in fields(slurm.Resources)})
    resources.check()
    job = slurm.job(args.job, _parse(args.job), resources.ranks)
    place = slurm.Place(args.environment or Path(sys.prefix), args.container)
    sys.stdout.write(slurm.script(job, resources, place))
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The command after `slurm ... --` as the program will understand it."""
    if not words:
        raise ConfigError(
            "expected a command after --, got none; write `lammps-bg slurm [options] -- run -in in.file -out runs/NAME`"
        )
    asks = [word for word in words if word in ("-h", "--help", "--version")]
    if asks:  # the parser would print the answer into the script
        raise ConfigError(f"expected after -- a command that does its work, got one with {asks[0]}; ask that without slurm")
    return build_parser().parse_args(words)


def _status(args: argparse.Namespace, console: Console) -> int:
    return status.report(args.runs, console, as_json=args.json)


def _print_config(args: argparse.Namespace, console: Console) -> int:
    sys.stdout.write(to_toml(_config(args)))
    return 0


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of this command, and those of the one that `slurm` has after --."""
    if words[0] != "slurm" or "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


_COMMANDS = {
    "run": _run,
    "train": _train,
    "check": _check,
    "relax": _relax,
    "sample": _sample,
    "md": _md,
    "estimate": _estimate,
    "gibbs": _gibbs,
    "phase": _phase,
    "report": _report,
    "slurm": _slurm,
    "status": _status,
    "config": _print_config,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code.

    Args:
        argv: Arguments after the command's name; None takes those of the process.
    """
    first = parallel.first()
    console = Console(quiet=not first)
    logging.basicConfig(level=logging.WARNING if first else logging.ERROR, format="WARNING: %(message)s", stream=sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words:
            build_parser().print_help()
            return 0
        own, job = _divided(words)
        args = build_parser().parse_args(own)
        args.argv, args.started, args.job = words, time.monotonic(), job
        lock.begin(words)
        parallel.check_launcher(args.command)
        parallel.arrange(getattr(args, "lammps_ranks", 1))
        if parallel.serves():
            return team.serve()
        if args.command not in _WITHOUT_SCRATCH:
            require_scratch()
        threads = set_threads()
        if args.command in parallel.JOBS:
            say_ranks(console, threads)
        code = _COMMANDS[args.command](args, console)
        with StopFlag():  # the first rank may still be writing
            parallel.barrier()
        return code
    except LammpsBGError as error:
        return _failed(console, str(error), error.exit_code, stopped=isinstance(error, Interrupted))
    except KeyboardInterrupt:
        sentence = "stopped by Ctrl-C; what a run had saved is in its folder, continue it with --resume"
        return _failed(console, sentence, 130, stopped=True)
    except Exception as error:
        status_file.note_end("failed", f"{type(error).__name__}: {error}")
        if parallel.size() > 1:
            sys.stderr.write(f"MPI rank {parallel.rank()} of {parallel.size()}, on {parallel.node_name()}:\n")
            traceback.print_exc()
            lock.release_all()
            parallel.abort(1)
        raise
    finally:
        lock.release_all()


def _failed(console: Console, sentence: str, code: int, *, stopped: bool) -> int:
    """Say why, on the screen and in status.json, and end the other ranks, which would wait for this one for ever.

    Returns the exit code.
    """
    if not parallel.first():
        time.sleep(_FIRST_SPEAKS)
        sentence = f"{sentence} (MPI rank {parallel.rank()} on {parallel.node_name()})"
    console.error(sentence)
    status_file.note_end("stopped" if stopped else "failed", sentence)
    lock.release_all()
    parallel.abort(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
