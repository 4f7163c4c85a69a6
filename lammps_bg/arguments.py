# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of the command lammps-bg: LAMMPS' own flags with one dash, ours with two."""

import argparse
import difflib
import re
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from lammps_bg import __version__, parallel
from lammps_bg.config import known_keys
from lammps_bg.engine.relaxation import FREE
from lammps_bg.errors import ConfigError
from lammps_bg.study.md import MODES
from lammps_bg.study.slurm import Resources

_EXAMPLES = """\
examples:
  lammps-bg check -in in.mw_cubic                                  what is understood of a script; writes nothing
  lammps-bg run -in in.mw_cubic -rep 2 2 2 -var T 200 -out runs/mw  base, training, samples, free energy
  lammps-bg sample -model runs/mw -rep 4 4 4 -out runs/mw_512       the trained flow on a larger crystal
  lammps-bg md -model runs/mw --mode mbar -out runs/mw_md           the same free energy by MD, with the script's potential
  lammps-bg estimate -model runs/mw -md runs/mw_md                  flow and MD side by side; report.html
  lammps-bg train -in in.mw_cubic -rep 2 2 2 --set condition.volume=[-0.06,0.06] -out runs/mw_v   a model for every volume
  lammps-bg gibbs -model runs/mw_v -P 0 1 GPa                       Gibbs free energies from it
  lammps-bg slurm --time 24:00:00 -- run -in in.mw_cubic -out runs/mw > job.sh   the same as a batch job
  lammps-bg config                                                 every configuration key with its default

`lammps-bg COMMAND -h` explains every option of a command, with unit and default.
exit codes: 0 done, 1 training or estimate failed or the disk is full, 2 bad input (one sentence says what), 3 red verdict, 75 stopped by SIGUSR1
or SIGTERM, as a queue sends them before the time is up (what was done is saved: start the same again with --resume), 130 by Ctrl-C
"""

_EXAMPLE = {
    "run": "lammps-bg run -in inputs/in.mw_cubic -rep 2 2 2 -var T 200 -out runs/mw",
    "train": "lammps-bg train -in inputs/in.mw_cubic -rep 2 2 2 --set train.steps=2000 -out runs/mw",
    "check": "lammps-bg check -in inputs/in.mw_cubic -rep 2 2 2",
    "relax": "lammps-bg relax -in inputs/in.si_betatin --cell xy -P 10 GPa -out runs/in.si_betatin_10GPa",
    "sample": "lammps-bg sample -model runs/mw -rep 4 4 4 -out runs/mw_512",
    "gibbs": "lammps-bg gibbs -model runs/mw_v -P 0 1 GPa -out runs/mw_gibbs",
    "phase": "lammps-bg phase -models runs/si_diamond runs/si_betatin --axis P -T 400 600 -out runs/si_phase",
    "md": "lammps-bg md -model runs/mw --mode mbar -out runs/mw_mbar",
    "estimate": "lammps-bg estimate -model runs/mw -md runs/mw_mbar",
    "slurm": "lammps-bg slurm --ranks-per-node 4 -- run -in inputs/in.mw_cubic -rep 2 2 2 -out runs/mw > job.sh",
    "report": "lammps-bg report runs/mw",
    "status": "lammps-bg status runs/mw runs/mw_md",
    "config": "lammps-bg config --set train.steps=2000 > bg.toml",
}
"""One line for each command, the last of its help."""

_WIDTH = 96  # columns of what is not wrapped by argparse


class _Parser(argparse.ArgumentParser):
    """Errors in one sentence, as everywhere else; negative numbers may have an exponent."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[A-Za-z]*$")

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
    _judge_argument(run)
    _exact_argument(run)
    for sub in (run, train):
        _script_arguments(sub)
        _output_arguments(sub)
        sub.add_argument("--resume", action="store_true", help="continue the run in -out from its last checkpoint")
    check = _command(commands, "check", "what is understood of a script, tested against LAMMPS; writes nothing")
    _script_arguments(check)
    check.add_argument("--json", action="store_true", help="print one JSON object")
    _relax_command(commands)
    _sample_command(commands)
    _gibbs_command(commands)
    _phase_command(commands)
    _md_command(commands)
    _estimate_command(commands)
    _slurm_command(commands)
    _report_command(commands)
    _status_command(commands)
    for name in parallel.JOBS:
        _ranks_argument(commands.choices[name])
    config = _command(commands, "config", "print every configuration key with default and meaning, as TOML")
    _config_arguments(config)
    return parser


def _status_command(commands: Any) -> None:  # noqa: ANN401
    status = _command(commands, "status", "where running, stopped or dead jobs stand: stage, step, ESS, F, time to the end")
    status.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders of any command, at any moment (required)")
    status.add_argument("--json", action="store_true", help="print one JSON object, for several folders a list of them")


def _estimate_command(commands: Any) -> None:  # noqa: ANN401
    estimate = _command(commands, "estimate", "free energies and observables from the samples of a run")
    _model_arguments(estimate, again=False)
    beside = "compare with MD: folder of `lammps-bg md` (nvt or mbar), or your own dump file (default: no comparison)"
    _exact_argument(estimate)
    estimate.add_argument("-md", type=Path, metavar="RUN", help=beside)
    where = "folder for the new results (default: results.json of the run is renewed)"
    estimate.add_argument("-out", type=Path, metavar="DIR", help=where)
    _allow_red_argument(estimate)


def _relax_command(commands: Any) -> None:  # noqa: ANN401
    relax = _command(
        commands, "relax", "the crystal at its energy minimum, cell and atoms, written as a script for plain LAMMPS, too"
    )
    script = "LAMMPS input script of the crystal (required)"
    relax.add_argument("-in", "-i", dest="script", type=Path, metavar="FILE", help=script)
    free = "what of the cell may change: nothing, its volume, a = b and c, its lengths, or lengths and tilts (default: aniso, in a tilted box tri)"
    relax.add_argument("--cell", choices=FREE, help=free)
    target = "target in the script's pressure unit, or with a unit: 1 GPa (default: variable P of the script, else 0)"
    relax.add_argument("-P", dest="pressure", nargs="+", metavar="PRESSURE", help=target)
    where = "file or folder for the relaxed script (default: in.NAME_relaxed beside the original); nothing is overwritten"
    relax.add_argument("-out", type=Path, metavar="PATH", help=where)
    relax.set_defaults(rep=None, elements=[])
    _lammps_arguments(relax)


def _sample_command(commands: Any) -> None:  # noqa: ANN401
    sample = _command(commands, "sample", "draw from a trained model, at its own or another replicate")
    _model_arguments(sample)
    _strain_argument(sample)
    _output_arguments(sample)
    _judge_argument(sample)
    _exact_argument(sample)
    pressure = (
        "of a model over cells: exact samples at this pressure, in the script's unit or with one (-P 1 GPa), in which the cell changes, too "
        "(default: one cell)"
    )
    sample.add_argument("-P", dest="pressure", nargs="+", default=[], metavar="PRESSURE", help=pressure)
    cell = "with -P: which cell variables are free, as in LAMMPS' fix npt (default: all that the model was trained over)"
    sample.add_argument("--cell", choices=["iso", "xy", "aniso", "tri"], help=cell)
    sample.add_argument("--resume", action="store_true", help="continue the sampling in -out; it has its own copy of the model")
    another = "another script of the same crystal (default: the run's own); a different potential needs --force"
    sample.add_argument("-in", "-i", dest="script", type=Path, metavar="FILE", help=another)
    sample.add_argument(
        "--force", action="store_true", help="use a model at another temperature or potential than it was trained for"
    )


def _gibbs_command(commands: Any) -> None:  # noqa: ANN401
    gibbs = _command(
        commands,
        "gibbs",
        "Gibbs free energy, volume and compressibility from a model over cells; several values of -var, -T, -P make a table",
    )
    _model_arguments(gibbs)
    _state_arguments(gibbs)
    cell = "which cell variables are free, as in LAMMPS' fix npt (default: all that the model was trained over)"
    gibbs.add_argument("--cell", choices=["iso", "xy", "aniso", "tri"], help=cell)
    gibbs.add_argument(
        "-md",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="compare with `lammps-bg md --mode npt` (volume) or `mbar` (F) (default: no comparison)",
    )
    _exact_argument(gibbs)
    gibbs.add_argument("-out", type=Path, metavar="DIR", help="folder, new or empty (default: the run's name with _gibbs)")
    _allow_red_argument(gibbs)


def _phase_command(commands: Any) -> None:  # noqa: ANN401
    phase = _command(commands, "phase", "where two or more crystals have the same Gibbs free energy, traced over a second axis")
    phase.add_argument(
        "-models",
        nargs="+",
        type=Path,
        required=True,
        metavar="RUN",
        help="runs with models over cells, one for each crystal (required)",
    )
    phase.add_argument("--axis", required=True, metavar="NAME", help="P, T, or a parameter of the potential (required)")
    limits = (
        "ends of the axis in the script's unit; of P with another where wanted: 0 20 GPa (default: all that the models cover)"
    )
    phase.add_argument("--range", dest="limits", nargs="+", default=[], metavar="END", help=limits)
    _state_arguments(phase)
    values = "values of a parameter of the potential, in the script's units; several are evaluated one after the other (default: the script's)"
    phase.add_argument("-var", "-v", nargs="+", action="append", default=[], metavar="NAME VALUE", help=values)
    copies = "copies along each cell vector, once for all models or once for each (default: as trained)"
    phase.add_argument("-rep", nargs=3, type=int, action="append", default=[], metavar=("NX", "NY", "NZ"), help=copies)
    cell = "which cell variables are free, once for all models or once for each (default: all that each was trained over)"
    phase.add_argument("--cell", action="append", default=[], choices=["iso", "xy", "aniso", "tri"], help=cell)
    phase.add_argument("--other-sizes", action="store_true", help="compare crystals of unequal numbers of atoms")
    _exact_argument(phase)
    phase.add_argument("-out", type=Path, metavar="DIR", help="folder, new or empty (default: runs/<names>_phase)")
    _allow_red_argument(phase)
    _config_arguments(phase)


def _state_arguments(parser: argparse.ArgumentParser) -> None:
    pressures = "pressures in the script's unit, or with a unit at the end: -P 0 5 10 GPa (default: the script's P, else 0)"
    parser.add_argument("-P", dest="pressures", nargs="+", default=[], metavar="P", help=pressures)
    temperatures = "temperatures in the script's unit (K; units lj: reduced), of a model trained over T (default: the script's T)"
    parser.add_argument("-T", dest="temperatures", nargs="+", type=float, default=[], metavar="T", help=temperatures)


def _md_command(commands: Any) -> None:  # noqa: ANN401
    md = _command(
        commands, "md", "reference molecular dynamics with the script's potential: NVT, NPT, or the free energy by lambda windows"
    )
    _script_arguments(md)
    md.add_argument(
        "-model", type=Path, metavar="RUN", help="take script, replicate and temperature from a run (default: from -in)"
    )
    md.add_argument(
        "--mode",
        choices=MODES,
        help="nvt: frames at the script's cell (default); npt: mean cell at the variable P; mbar: absolute free energy, Einstein crystal to crystal",
    )
    md.add_argument("-out", type=Path, metavar="DIR", help="run directory, new or empty (default: runs/<name>_<mode>)")
    md.add_argument("--dry-run", action="store_true", help="set everything up, estimate time and disk, write nothing")
    md.add_argument("--resume", action="store_true", help="continue the simulation in -out")
    _allow_red_argument(md)


def _report_command(commands: Any) -> None:  # noqa: ANN401
    report = _command(
        commands, "report", "one HTML page with all numbers and figures of a finished run; the figures as PNG and JSON"
    )
    report.add_argument("run", type=Path, metavar="RUN", help="folder of any finished command but `train` (required)")


def _slurm_command(commands: Any) -> None:  # noqa: ANN401
    slurm = _command(commands, "slurm", "print a commented batch script for SLURM around another command, given after --")
    slurm.usage = "lammps-bg slurm [options] -- COMMAND ... -out RUN > job.sh"
    default, resources = Resources(), slurm.add_argument_group("what is asked for")
    numbers = {
        "--nodes": "nodes",
        "--ranks-per-node": "MPI ranks on each node",
        "--cores-per-rank": "cores of each rank, which are its threads",
        "--gpus-per-node": "GPUs on each node, which its ranks share out evenly",
    }
    for flag, text in numbers.items():
        value = getattr(default, flag.strip("-").replace("-", "_"))
        resources.add_argument(flag, type=int, default=value, metavar="N", help=f"{text} (default: {value})")
    limit = f"time limit of one start, HH:MM:SS or D-HH:MM:SS (default: {default.time})"
    resources.add_argument("--time", default=default.time, metavar="TIME", help=limit)
    resources.add_argument("--memory", metavar="SIZE", help="memory of a node, such as 16G (default: the partition's)")
    resources.add_argument("--partition", metavar="NAME", help="partition (default: SLURM's)")
    resources.add_argument("--account", metavar="NAME", help="account to charge (default: SLURM's)")
    resources.add_argument("--name", metavar="NAME", help="name of the job (default: that of the run directory)")
    resources.add_argument("--mail", metavar="ADDRESS", help="who is told of end, failure and requeueing (default: nobody)")
    place = slurm.add_argument_group("where the program is").add_mutually_exclusive_group()
    here = "Python environment on the cluster, with lammps-bg and its mpirun (default: the one of this command)"
    place.add_argument("--environment", type=Path, metavar="FOLDER", help=here)
    place.add_argument("--container", type=Path, metavar="IMAGE", help="Apptainer image to use instead (default: none)")


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:  # noqa: ANN401
    return commands.add_parser(
        name,
        help=text,
        description=textwrap.fill(text[0].upper() + text[1:] + ".", _WIDTH),
        epilog=f"example:\n  {_EXAMPLE[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _key_list() -> str:
    """The names of all configuration keys by block, for the help of a command."""
    blocks: dict[str, list[str]] = {}
    for key in known_keys():
        block, _, name = key.rpartition(".")
        blocks.setdefault(block, []).append(name)
    lines = ["Keys by block, to be set as BLOCK.KEY=VALUE; `lammps-bg config` prints each with unit, meaning and default:"]
    for block, names in blocks.items():
        lines.append(textwrap.fill(f"{block or '(no block)'}: {' '.join(names)}", _WIDTH, subsequent_indent="    "))
    return "\n".join(lines)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration", _key_list())
    group.add_argument(
        "-config", type=Path, metavar="FILE", help="TOML file; `lammps-bg config` prints one with every key (default: none)"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, such as train.steps=5000; may be repeated (default: none)",
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="seed of every random number, a whole number (default: 1, or that of the run)"
    )


def _lammps_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("LAMMPS' own flags")
    variable = "set an index variable of the script, in the script's units, such as T 300; may be repeated (default: the script's values)"
    group.add_argument("-var", "-v", nargs="+", action="append", default=[], metavar="NAME VALUE", help=variable)
    group.add_argument("-log", "-l", default="none", metavar="FILE", help="LAMMPS log (default: none)")
    group.add_argument("-screen", "-sc", default="none", metavar="FILE", help="LAMMPS screen output (default: none)")
    group.add_argument(
        "-suffix", "-sf", nargs="+", default=[], metavar="STYLE", help="accelerated styles, such as omp (default: none)"
    )
    group.add_argument(
        "-package", "-pk", nargs="+", action="append", default=[], metavar="ARG", help="package options (default: none)"
    )
    group.add_argument("-kokkos", "-k", nargs="+", default=[], metavar="ARG", help="KOKKOS options (default: none)")
    group.add_argument(
        "-echo", "-e", default="", choices=["none", "screen", "log", "both"], help="echo the script's commands (default: none)"
    )
    group.add_argument("-nocite", "-nc", action="store_true", help="no citation reminder (always so; accepted for convenience)")
    group.add_argument("-partition", "-p", nargs="+", metavar="ARG", help=argparse.SUPPRESS)


def _exact_argument(parser: argparse.ArgumentParser) -> None:
    text = "exact samples and free energy by chains: where the weights of the draws are not beyond doubt, always, or never (default: auto)"
    parser.add_argument("--exact", choices=["auto", "always", "never"], help=text)


def _ranks_argument(parser: argparse.ArgumentParser) -> None:
    ranks = "MPI ranks of each LAMMPS instance, a whole number; it cuts its box among them: for large cells and expensive potentials (default: 1)"
    parser.add_argument("-lammps-ranks", type=int, default=1, metavar="N", help=ranks)


def _script_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("crystal")
    script = "LAMMPS input script of the crystal (required, but not with --resume or -model)"
    group.add_argument("-in", "-i", dest="script", type=Path, metavar="FILE", help=script)
    copies = "copies along each cell vector, as LAMMPS' replicate (default: 1 1 1)"
    group.add_argument("-rep", nargs=3, type=int, metavar=("NX", "NY", "NZ"), help=copies)
    names = "names of the atom types, in their order (default: from the masses and the potential)"
    group.add_argument("--elements", nargs="+", default=[], metavar="NAME", help=names)
    _strain_argument(group)
    _lammps_arguments(parser)
    _config_arguments(parser)


def _strain_argument(group: Any) -> None:  # noqa: ANN401
    strain = (
        "deform the script's cell, dimensionless: volume (ln V/V0), c/a, b/a (changes of the logarithm), "
        "yz, xz, xy (changes of tilt / length) (default: none)"
    )
    group.add_argument("--strain", nargs="+", default=[], metavar="NAME=VALUE", help=strain)


def _model_arguments(parser: argparse.ArgumentParser, *, again: bool = True) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "-model",
        type=Path,
        required=not again,
        metavar="RUN",
        help="folder of a run with model.pt (required, but not with --resume)",
    )
    if again:
        copies = "copies along each cell vector (default: as trained)"
        group.add_argument("-rep", nargs=3, type=int, metavar=("NX", "NY", "NZ"), help=copies)
        _lammps_arguments(parser)
    _config_arguments(parser)


def _judge_argument(parser: argparse.ArgumentParser) -> None:
    again = "LAMMPS evaluates all samples again and gives the final weights (default: no second evaluation)"
    parser.add_argument("--judge", choices=["lammps"], help=again)


def _allow_red_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict (without it: 3)")


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-out", type=Path, metavar="DIR", help="run directory, new or empty (default: runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="set everything up, estimate time, memory and disk, write nothing")
    _allow_red_argument(parser)
