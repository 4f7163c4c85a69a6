# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of the command lammps-bg: LAMMPS' own flags with one dash, ours with two."""

import argparse
import difflib
import re
from pathlib import Path
from typing import Any, NoReturn, cast

from lammps_bg import __version__
from lammps_bg.engine.relaxation import FREE
from lammps_bg.errors import ConfigError
from lammps_bg.workflow.md import MODES

_ON_TEAMS = (
    "run",
    "train",
    "sample",
    "md",
    "estimate",
    "gibbs",
    "phase",
)  # a LAMMPS instance of theirs may have several MPI ranks
_EXAMPLES = """\
examples:
  lammps-bg check -in in.mw_cubic                                  what is understood of a script; writes nothing
  lammps-bg run -in in.mw_cubic -rep 2 2 2 -var T 200 -out runs/mw  base, training, samples, free energy
  lammps-bg sample -model runs/mw -rep 4 4 4 -out runs/mw_512       the trained flow on a larger crystal
  lammps-bg md -model runs/mw --mode mbar -out runs/mw_md           the same free energy by MD, with the script's potential
  lammps-bg estimate -model runs/mw -md runs/mw_md                  flow and MD side by side; report.html
  lammps-bg train -in in.mw_cubic -rep 2 2 2 --set condition.volume=[-0.06,0.06] -out runs/mw_v   a model for every volume
  lammps-bg gibbs -model runs/mw_v -P 0 1 GPa                       Gibbs free energies from it
  lammps-bg config                                                 every configuration key with its default

exit codes: 0 done, 1 training or estimate failed, 2 bad input (one sentence says what), 3 red verdict, 130/143/75 stopped by a signal
"""


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
    report.add_argument("run", type=Path, metavar="RUN", help="folder of any finished command but `train`")
    config = _command(commands, "config", "print every configuration key with default and meaning, as TOML")
    _config_arguments(config)
    return parser


def _relax_command(commands: Any) -> None:  # noqa: ANN401
    relax = _command(
        commands, "relax", "the crystal at its energy minimum, cell and atoms, written as a script for plain LAMMPS, too"
    )
    relax.add_argument("-in", "-i", dest="script", type=Path, metavar="FILE", help="LAMMPS input script of the crystal")
    free = "what of the cell may change: nothing, its volume, a = b and c, its lengths, or lengths and tilts (default: aniso, in a tilted box tri)"
    relax.add_argument("--cell", choices=FREE, help=free)
    target = "target, such as 1 GPa (default: variable P of the script, else 0)"
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
        help="compare with `lammps-bg md --mode npt` (volume) or `mbar` (F)",
    )
    gibbs.add_argument("-out", type=Path, metavar="DIR", help="folder, new or empty (default: the run's name with _gibbs)")
    gibbs.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict")


def _phase_command(commands: Any) -> None:  # noqa: ANN401
    phase = _command(commands, "phase", "where two or more crystals have the same Gibbs free energy, traced over a second axis")
    phase.add_argument(
        "-models", nargs="+", type=Path, required=True, metavar="RUN", help="runs with models over cells, one for each crystal"
    )
    phase.add_argument("--axis", required=True, metavar="NAME", help="P, T, or a parameter of the potential")
    limits = "ends of the axis; of P with a unit where wanted: 0 20 GPa (default: all that the models cover)"
    phase.add_argument("--range", dest="limits", nargs="+", default=[], metavar="END", help=limits)
    _state_arguments(phase)
    values = "values of a parameter of the potential; several are evaluated one after the other"
    phase.add_argument("-var", "-v", nargs="+", action="append", default=[], metavar="NAME VALUE", help=values)
    copies = "copies along each cell vector, once for all models or once for each (default: as trained)"
    phase.add_argument("-rep", nargs=3, type=int, action="append", default=[], metavar=("NX", "NY", "NZ"), help=copies)
    cell = "which cell variables are free, once for all models or once for each (default: all that each was trained over)"
    phase.add_argument("--cell", action="append", default=[], choices=["iso", "xy", "aniso", "tri"], help=cell)
    phase.add_argument("--other-sizes", action="store_true", help="compare crystals of unequal numbers of atoms")
    phase.add_argument("-out", type=Path, metavar="DIR", help="folder, new or empty (default: runs/<names>_phase)")
    phase.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict")
    _config_arguments(phase)


def _state_arguments(parser: argparse.ArgumentParser) -> None:
    pressures = "pressures in the script's unit, or with a unit at the end: -P 0 5 10 GPa (default: the script's P)"
    parser.add_argument("-P", dest="pressures", nargs="+", default=[], metavar="P", help=pressures)
    temperatures = "temperatures in the script's unit, of a model trained over T (default: the script's T)"
    parser.add_argument("-T", dest="temperatures", nargs="+", type=float, default=[], metavar="T", help=temperatures)


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
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    if name in _ON_TEAMS:
        ranks = "MPI ranks of each LAMMPS instance, which cuts its box among them: for large or costly cells (default: 1)"
        parser.add_argument("-lammps-ranks", type=int, default=1, metavar="N", help=ranks)
    return cast(argparse.ArgumentParser, parser)


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
    _strain_argument(group)
    _lammps_arguments(parser)
    _config_arguments(parser)


def _strain_argument(group: Any) -> None:  # noqa: ANN401
    strain = (
        "deform the script's cell: volume (ln V/V0), c/a, b/a (changes of the logarithm), yz, xz, xy (changes of tilt / length)"
    )
    group.add_argument("--strain", nargs="+", default=[], metavar="NAME=VALUE", help=strain)


def _model_arguments(parser: argparse.ArgumentParser, *, again: bool = True) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("-model", type=Path, required=not again, metavar="RUN", help="folder of a run with model.pt")
    if again:
        copies = "copies along each cell vector (default: as trained)"
        group.add_argument("-rep", nargs=3, type=int, metavar=("NX", "NY", "NZ"), help=copies)
        _lammps_arguments(parser)
    _config_arguments(parser)


def _judge_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", choices=["lammps"], help="LAMMPS evaluates all samples again and gives the final weights")


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-out", type=Path, metavar="DIR", help="run directory, new or empty (default: runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="set everything up, estimate time, memory and disk, write nothing")
    parser.add_argument("--allow-red", action="store_true", help="exit with 0 in spite of a red verdict")
