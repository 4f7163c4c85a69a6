# SPDX-License-Identifier: GPL-2.0-or-later
"""The command lammps-bg: parsing and wiring only."""

import argparse
import difflib
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from lammps_bg import __version__, parallel
from lammps_bg.config import Config, known_keys, load_config, to_toml
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, LammpsBGError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.workflow import md, preflight, reporting, session
from lammps_bg.workflow.md import MODES, Mode
from lammps_bg.workflow.problem import Problem, ScriptRequest

_EXAMPLES = """\
examples:
  lammps-bg check -in in.mw_cubic                                  what is understood of a script; writes nothing
  lammps-bg run -in in.mw_cubic -rep 2 2 2 -var T 200 -out runs/mw  base, training, samples, free energy
  lammps-bg sample -model runs/mw -rep 4 4 4 -out runs/mw_512       the trained flow on a larger crystal
  lammps-bg md -model runs/mw --mode mbar -out runs/mw_md           the same free energy by MD, with the script's potential
  lammps-bg estimate -model runs/mw -md runs/mw_md                  flow and MD side by side; report.html
  lammps-bg config                                                 every configuration key with its default

exit codes: 0 done, 1 training or estimate failed, 2 bad input (one sentence says what), 3 red verdict, 130/143/75 stopped by a signal
"""


_NUMBERS = ("T", "P", "Lambda")  # variables that are read as one number; of further words LAMMPS would say nothing
_FIRST_SPEAKS = 1.0  # seconds in which the first MPI rank, which mostly fails alike, says so and ends the others


class _Parser(argparse.ArgumentParser):
    """Errors in one sentence, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"expected arguments as in `{self.prog} -h`, got a wrong one ({message}){self._did_you_mean(message)}")

    def _did_you_mean(self, message: str) -> str:
        """The closest known flag or command to the first wrong word, if any is close."""
        wrong = re.search(r"unrecognized arguments: (\S+)|invalid choice: '([^']*)'", message)
        subparsers = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        commands = subparsers[0].choices if subparsers else {}
        known = [*commands, *(flag for parser in commands.values() for flag in parser._option_string_actions)]
        given = (wrong[1] or wrong[2]) if wrong else ""
        close = difflib.get_close_matches(given, known, 1)
        return f"; did you mean '{close[0]}'?" if close and close[0] != given else ""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = _Parser(
        prog="lammps-bg",
        description="Boltzmann generators for crystals on LAMMPS: independent configurations, exact weights, free energies.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lammps-bg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    run = _command(commands, "run", "the whole job: base, training, samples, free energy, dump")
    train = _command(commands, "train", "fit the base and train the flow; writes model.pt")
    for sub in (run, train):
        _script_arguments(sub)
        _output_arguments(sub)
        sub.add_argument("--resume", action="store_true", help="continue the run in -out from its last checkpoint")
    check = _command(commands, "check", "what is understood of a script, tested against LAMMPS; writes nothing")
    _script_arguments(check)
    check.add_argument("--json", action="store_true", help="print one JSON object")
    sample = _command(commands, "sample", "draw from a trained model, at its own or another replicate")
    _model_arguments(sample)
    _output_arguments(sample)
    sample.add_argument("--resume", action="store_true", help="continue the sampling in -out; it has its own copy of the model")
    _md_command(commands)
    estimate = _command(commands, "estimate", "free energies and observables from the samples of a run")
    _model_arguments(estimate, again=False)
    estimate.add_argument(
        "-md", type=Path, metavar="RUN", help="compare with MD: folder of `lammps-bg md` (nvt or mbar), or your own dump file"
    )
    estimate.add_argument(
        "-out", type=Path, metavar="DIR", help="folder for the new results (default: results.json of the run is renewed)"
    )
    estimate.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict")
    report = _command(
        commands, "report", "one HTML page with all numbers and figures of a finished run; the figures as PNG and JSON"
    )
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a finished `run`, `sample`, `estimate -out` or `md`")
    config = _command(commands, "config", "print every configuration key with default and meaning, as TOML")
    _config_arguments(config)
    return parser


def _md_command(commands: Any) -> None:  # noqa: ANN401
    md = _command(
        commands, "md", "reference molecular dynamics with the script's potential: NVT, NPT, or the free energy by lambda windows"
    )
    _script_arguments(md)
    md.add_argument("-model", type=Path, metavar="RUN", help="take script, replicate and temperature from a run instead of -in")
    md.add_argument(
        "--mode",
        choices=MODES,
        help="nvt: frames at the script's cell (default); npt: mean cell at the variable P; mbar: absolute free energy, Einstein crystal to crystal",
    )
    md.add_argument("-out", type=Path, metavar="DIR", help="run directory, new or empty (default: runs/<name>_<mode>)")
    md.add_argument("--dry-run", action="store_true", help="set everything up, estimate time and disk, write nothing")
    md.add_argument("--resume", action="store_true", help="continue the simulation in -out")
    md.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict")


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:  # noqa: ANN401
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration")
    group.add_argument("-config", type=Path, metavar="FILE", help="TOML file; `lammps-bg config` prints one with every key")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, such as train.steps=5000"
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of every random number (default: 1)")


def _lammps_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("LAMMPS' own flags")
    group.add_argument(
        "-var", "-v", nargs="+", action="append", default=[], metavar="NAME VALUE", help="set an index variable of the script"
    )
    group.add_argument("-log", "-l", default="none", metavar="FILE", help="LAMMPS log (default: none)")
    group.add_argument("-screen", "-sc", default="none", metavar="FILE", help="LAMMPS screen output (default: none)")
    group.add_argument("-suffix", "-sf", nargs="+", default=[], metavar="STYLE", help="accelerated styles, such as omp")
    group.add_argument("-package", "-pk", nargs="+", action="append", default=[], metavar="ARG", help="package options")
    group.add_argument("-kokkos", "-k", nargs="+", default=[], metavar="ARG", help="KOKKOS options")
    group.add_argument("-echo", "-e", default="", choices=["none", "screen", "log", "both"], help="echo commands")
    group.add_argument("-nocite", "-nc", action="store_true", help="no citation reminder (always so; accepted for convenience)")
    group.add_argument("-partition", "-p", nargs="+", metavar="ARG", help=argparse.SUPPRESS)


def _script_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("crystal")
    group.add_argument("-in", "-i", dest="script", type=Path, metavar="FILE", help="LAMMPS input script of the crystal")
    copies = "copies along each cell vector (LAMMPS replicate; default: 1 1 1)"
    group.add_argument("-rep", nargs=3, type=int, metavar=("NX", "NY", "NZ"), help=copies)
    group.add_argument("--elements", nargs="+", default=[], metavar="NAME", help="names of the atom types, in their order")
    _lammps_arguments(parser)
    _config_arguments(parser)


def _model_arguments(parser: argparse.ArgumentParser, *, again: bool = True) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("-model", type=Path, required=not again, metavar="RUN", help="folder of a run with model.pt")
    if again:
        copies = "copies along each cell vector (default: as trained)"
        group.add_argument("-rep", nargs=3, type=int, metavar=("NX", "NY", "NZ"), help=copies)
        _lammps_arguments(parser)
    _config_arguments(parser)


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-out", type=Path, metavar="DIR", help="run directory, new or empty (default: runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="set everything up, estimate time, memory and disk, write nothing")
    parser.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict")


def _flags(args: argparse.Namespace) -> LammpsFlags:
    if args.partition:
        raise ConfigError("expected no -partition, got one; lammps-bg splits the ranks itself, so start it with mpirun alone")
    return LammpsFlags(args.log, args.screen, tuple(args.suffix), tuple(map(tuple, args.package)), tuple(args.kokkos), args.echo)


def _variables(args: argparse.Namespace) -> dict[str, list[str]]:
    for entry in args.var:
        if len(entry) < 2:
            raise ConfigError(f"expected -var NAME VALUE, got -var {' '.join(entry)}; give a value such as -var T 300")
        if len(entry) > 2 and entry[0] in _NUMBERS:
            raise ConfigError(
                f"expected one number without its unit in -var {entry[0]}, got '{' '.join(entry[1:])}'; give it in the script's units"
            )
    return {entry[0]: entry[1:] for entry in args.var}


def _config(args: argparse.Namespace, start: Config | None = None) -> Config:
    overrides = list(args.set)
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    return load_config(args.config, tuple(overrides), start)


def _request(args: argparse.Namespace) -> ScriptRequest:
    if args.script is None:
        raise ConfigError("expected -in with a LAMMPS input script, got none; add -in in.file")
    return ScriptRequest(args.script, _variables(args), tuple(args.rep or (1, 1, 1)), _flags(args), tuple(args.elements))


def _check(args: argparse.Namespace, console: Console) -> int:
    config = _config(args)
    problem = Problem.load(_request(args), config.estimate.length_scale)
    found = preflight.examine(problem, config)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        preflight.show(found, console)
    return 0


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
    typed = {"elements": getattr(args, "elements", []), "model": getattr(args, "model", None)}
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
    if args.model is None:
        raise ConfigError("expected -model with the folder of a run with model.pt, got none; add -model RUN")
    return session.from_model(
        args.model,
        args.out,
        args.argv,
        replicate=tuple(args.rep) if args.rep else None,
        variables=_variables(args),
        flags=_flags(args),
        overrides=lambda start: _config(args, start),
    )


def _sample(args: argparse.Namespace, console: Console) -> int:
    plan = _resumed(args) if args.resume else _of_model(args)
    if args.dry_run:
        return session.rehearse(plan, console)
    with StopFlag() as stop:
        return session.execute(plan, console, stop, sample=True, allow_red=args.allow_red)


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
    plan = _md_plan(args)
    if args.dry_run:
        return md.rehearse(plan, console)
    with StopFlag() as stop:
        return md.execute(plan, console, stop, allow_red=args.allow_red)


def _md_plan(args: argparse.Namespace) -> md.MdPlan:
    """The plan of `md`: continued, like an earlier run, or from a script."""
    mode: Mode = args.mode or "nvt"
    variables = _variables(args)
    if args.resume:
        if args.out is None:
            raise ConfigError("expected -out with the folder of the simulation to --resume, got none; add -out RUN")
        given = {"variables": variables, "replicate": args.rep, "elements": args.elements}
        return md.resumed(args.out, args.argv, args.mode, lambda start: _config(args, start), script=args.script, given=given)
    if args.model is not None:
        if args.script or args.elements:
            raise ConfigError("expected either -in, with --elements where wanted, or -model, got both; leave one out")
        request, config = md.like_run(
            args.model, replicate=args.rep, variables=variables, flags=_flags(args), overrides=lambda start: _config(args, start)
        )
        name = args.model.absolute().name
    else:
        request, config = _request(args), _config(args)
        name = request.script.name.removeprefix("in.")
    return md.fresh(request, config, mode, args.out or Path("runs") / f"{name}_{mode}", args.argv)


def _report(args: argparse.Namespace, console: Console) -> int:
    reporting.report(args.run, console)
    return 0


def _print_config(args: argparse.Namespace, console: Console) -> int:
    sys.stdout.write(to_toml(_config(args)))
    return 0


def _threads() -> int:
    """Threads of torch: OMP_NUM_THREADS (of nested levels the first), else this rank's share of the cores."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    given = text.split(",")[0].strip()
    if not given:
        return max(1, len(os.sched_getaffinity(0)) // parallel.size())
    if not given.isdigit() or int(given) == 0:
        raise ConfigError(f"expected a positive whole number in OMP_NUM_THREADS, got '{text}'; set it to 1 or unset it")
    return int(given)


_COMMANDS = {
    "run": _run,
    "train": _train,
    "check": _check,
    "sample": _sample,
    "md": _md,
    "estimate": _estimate,
    "report": _report,
    "config": _print_config,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code.

    Args:
        argv: Arguments after the command's name; None takes those of the process.
    """
    first = parallel.rank() == 0
    console = Console(quiet=not first)
    logging.basicConfig(level=logging.WARNING if first else logging.ERROR, format="WARNING: %(message)s", stream=sys.stderr)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words:
            build_parser().print_help()
            return 0
        args = build_parser().parse_args(words)
        args.argv, args.started = words, time.monotonic()
        parallel.check_launcher(args.command)
        torch.set_num_threads(_threads())
        return _COMMANDS[args.command](args, console)
    except LammpsBGError as error:
        return _failed(console, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed(console, "stopped by Ctrl-C; what a run had saved is in its folder, continue it with --resume", 130)
    except Exception:
        if parallel.size() > 1:
            traceback.print_exc()
            parallel.abort(1)
        raise


def _failed(console: Console, sentence: str, code: int) -> int:
    """Say why, and end the other ranks, which would wait for this one for ever; returns the exit code."""
    if parallel.rank():
        time.sleep(_FIRST_SPEAKS)
    console.error(sentence)
    parallel.abort(code)
    return code


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["build_parser", "known_keys", "main"]
