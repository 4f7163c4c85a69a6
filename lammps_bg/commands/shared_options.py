# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands have, and what they are once read: LAMMPS' own flags with one dash, ours with two."""

import argparse
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lammps_bg.commands.command_parser import WIDTH, Parser
from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.errors import ConfigError

if TYPE_CHECKING:
    from lammps_bg.config import Config
    from lammps_bg.study.problem import ScriptRequest

FREE_CELL = ("iso", "xy", "aniso", "tri")
"""What of a cell may be free, as in LAMMPS' fix npt."""
_NUMBERS = ("T", "Lambda")  # variables that are read as one number; of further words LAMMPS would say nothing
_SEVERAL: dict[str, Any] = {"nargs": "+", "default": []}
_REPEATED: dict[str, Any] = {**_SEVERAL, "action": "append"}

_OPTIONS: dict[str, dict[str, Any]] = {
    "-in -i": {"dest": "script", "type": Path, "metavar": "FILE"},
    "-rep": {"nargs": 3, "type": int, "metavar": ("NX", "NY", "NZ")},
    "-var -v": {**_REPEATED, "metavar": "NAME VALUE"},
    "--elements": {
        **_SEVERAL,
        "metavar": "NAME",
        "help": "names of the atom types, in their order (default: from the masses and the potential)",
    },
    "--strain": {
        **_SEVERAL,
        "metavar": "NAME=VALUE",
        "help": "deform the script's cell, dimensionless: volume (ln V/V0), c/a, b/a (changes of the logarithm), "
        "yz, xz, xy (changes of tilt / length) (default: none)",
    },
    "-model": {
        "type": Path,
        "metavar": "RUN",
        "help": "folder of a run with model.pt (required, but not with --resume)",
    },
    "-P": {
        **_SEVERAL,
        "dest": "pressures",
        "metavar": "P",
        "help": "pressures in the script's unit, or with a unit at the end: -P 0 5 10 GPa (default: the script's P, else 0)",
    },
    "-T": {
        **_SEVERAL,
        "dest": "temperatures",
        "type": float,
        "metavar": "T",
        "help": "temperatures in the script's unit (K; units lj: reduced), of a model trained over T (default: the script's T)",
    },
    "--cell": {"choices": FREE_CELL},
    "--exact": {
        "choices": ["auto", "always", "never"],
        "help": "exact samples and free energy by chains: where the weights of the draws are not beyond doubt, always, or never (default: auto)",
    },
    "--judge": {
        "choices": ["lammps"],
        "help": "LAMMPS evaluates all samples again and gives the final weights (default: no second evaluation)",
    },
    "-out": {"type": Path, "metavar": "DIR"},
    "--allow-red": {"action": "store_true", "help": "exit with 0 in spite of a red verdict (without it: 3)"},
    "-lammps-ranks": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "MPI ranks of each LAMMPS instance, a whole number; it cuts its box among them: for large cells and expensive potentials "
        "(default: 1)",
    },
    "-log -l": {"default": "none", "metavar": "FILE", "help": "LAMMPS log (default: none)"},
    "-screen -sc": {"default": "none", "metavar": "FILE", "help": "LAMMPS screen output (default: none)"},
    "-suffix -sf": {**_SEVERAL, "metavar": "STYLE", "help": "accelerated styles, such as omp (default: none)"},
    "-package -pk": {**_REPEATED, "metavar": "ARG", "help": "package options (default: none)"},
    "-kokkos -k": {**_SEVERAL, "metavar": "ARG", "help": "KOKKOS options (default: none)"},
    "-echo -e": {
        "default": "",
        "choices": ["none", "screen", "log", "both"],
        "help": "echo the script's commands (default: none)",
    },
    "-nocite -nc": {"action": "store_true", "help": "no citation reminder in LAMMPS' log and screen output"},
    "-partition -p": {"nargs": "+", "metavar": "ARG", "help": argparse.SUPPRESS},
    "-config": {
        "type": Path,
        "metavar": "FILE",
        "help": "TOML file; `lammps-bg config` prints one with every key (default: none)",
    },
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "override one key, such as train.steps=5000; may be repeated (default: none)",
    },
    "--seed": {
        "type": int,
        "metavar": "N",
        "help": "seed of every random number, a whole number (default: 1, or that of the run)",
    },
}
_LAMMPS = ("-log", "-screen", "-suffix", "-package", "-kokkos", "-echo", "-nocite", "-partition")


def add(group: Any, *names: str, **details: Any) -> None:  # noqa: ANN401  (argparse has no public type of a group)
    """Declare options that have the same form in every command.

    Args:
        group: Parser, or group of its options.
        *names: Flags by their first name.
        **details: What is particular to this command, as of argparse's add_argument: mostly the help.
    """
    for name in names:
        flags = next(flags for flags in _OPTIONS if flags.split()[0] == name)
        group.add_argument(*flags.split(), **{**_OPTIONS[flags], **details})


# ---- LAMMPS' own flags


def add_lammps(parser: Parser) -> None:
    """Flags that LAMMPS itself has, and -var."""
    group = parser.add_argument_group("LAMMPS' own flags")
    variable = "set an index variable of the script, in the script's units, such as T 300; may be repeated (default: the script's values)"
    add(group, "-var", help=variable)
    add(group, *_LAMMPS)


def flags(args: argparse.Namespace) -> LammpsFlags:
    """LAMMPS' own flags.

    Raises:
        ConfigError: There is a -partition.
    """
    from lammps_bg import parallel

    if args.partition:
        raise ConfigError("expected no -partition, got one; lammps-bg splits the ranks itself, so start it with mpirun alone")
    log, screen = (args.log, args.screen) if parallel.first() else ("none", "none")  # one file, one writer
    suffix, package, kokkos = tuple(args.suffix), tuple(map(tuple, args.package)), tuple(args.kokkos)
    return LammpsFlags(log, screen, suffix, package, kokkos, args.echo, args.nocite)


def variables(args: argparse.Namespace) -> dict[str, list[str]]:
    """Words of each -var by name.

    Raises:
        ConfigError: One has no value, or several where a number is wanted.
    """
    for entry in args.var:
        if len(entry) < 2:
            raise ConfigError(f"expected -var NAME VALUE, got -var {' '.join(entry)}; give a value such as -var T 300")
        if len(entry) > 2 and entry[0] in _NUMBERS:
            raise ConfigError(
                f"expected one number without its unit in -var {entry[0]}, got '{' '.join(entry[1:])}'; give it in the script's units"
            )
    # a pressure may have its unit as a word of its own
    return {entry[0]: [" ".join(entry[1:])] if entry[0] == "P" else entry[1:] for entry in args.var}


# ---- configuration


def add_configuration(parser: Parser) -> None:
    """-config, --set and --seed."""
    add(parser.add_group_described_by("configuration", _key_list), "-config", "--set", "--seed")


def _key_list() -> str:
    """The names of all configuration keys by block."""
    from lammps_bg.config import known_keys

    blocks: dict[str, list[str]] = {}
    for key in known_keys():
        block, _, name = key.rpartition(".")
        blocks.setdefault(block, []).append(name)
    lines = ["Keys by block, to be set as BLOCK.KEY=VALUE; `lammps-bg config` prints each with unit, meaning and default:"]
    for block, names in blocks.items():
        lines.append(textwrap.fill(f"{block or '(no block)'}: {' '.join(names)}", WIDTH, subsequent_indent="    "))
    return "\n".join(lines)


def config(args: argparse.Namespace, start: "Config | None" = None) -> "Config":
    """The configuration: `start` or the defaults, then -config, --set and the options that stand for a key.

    Raises:
        ConfigError: A file, key or value is not usable.
    """
    from lammps_bg.config import load_config

    changes = list(args.set)
    for key, name in (("seed", "seed"), ("energy.judge", "judge"), ("exact.mode", "exact")):
        if (value := getattr(args, name, None)) is not None:
            changes.append(f"{key}={value}")
    return load_config(args.config, tuple(changes), start)


def overrides(args: argparse.Namespace) -> "Callable[[Config], Config]":
    """What applies -config and --set to the stored configuration of a run."""
    return lambda start: config(args, start)


# ---- the crystal


def add_script(parser: Parser) -> None:
    """-in and everything that says which crystal of the script it is, with LAMMPS' flags and the configuration."""
    group = parser.add_argument_group("crystal")
    add(group, "-in", help="LAMMPS input script of the crystal (required, but not with --resume or -model)")
    add(group, "-rep", help="copies along each cell vector, as LAMMPS' replicate (default: 1 1 1)")
    add(group, "--elements", "--strain")
    add_lammps(parser)
    add_configuration(parser)


def request(args: argparse.Namespace) -> "ScriptRequest":
    """What is to be loaded from the script.

    Raises:
        ConfigError: There is no -in, or a value is not usable.
    """
    from lammps_bg.study.problem import ScriptRequest

    if args.script is None:
        raise ConfigError("expected -in with a LAMMPS input script, got none; add -in in.file")
    counts, elements = tuple(args.rep or (1, 1, 1)), tuple(args.elements)
    return ScriptRequest(args.script, variables(args), counts, flags(args), elements, strain=strain(args))


def strain(args: argparse.Namespace) -> dict[str, float]:
    """Cell variables by --strain.

    Raises:
        ConfigError: One is unknown, or has no finite number.
    """
    from lammps_bg.crystal.cell_variables import CELL_VARIABLES

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


# ---- a stored model


def add_model(parser: Parser) -> None:
    """-model, and what it is applied to."""
    group = parser.add_argument_group("model")
    add(group, "-model")
    add(group, "-rep", help="copies along each cell vector (default: as trained)")
    add_lammps(parser)
    add_configuration(parser)


def require_model(args: argparse.Namespace) -> None:
    """Refuse a command without -model.

    Raises:
        ConfigError: There is none.
    """
    if args.model is None:
        raise ConfigError("expected -model with the folder of a run with model.pt, got none; add -model RUN")


def applied(args: argparse.Namespace) -> dict[str, Any]:
    """What a stored model is applied to, and how."""
    return {
        "replicate": tuple(args.rep) if args.rep else None,
        "variables": variables(args),
        "flags": flags(args),
        "overrides": overrides(args),
    }


# ---- folders


def add_output(parser: Parser) -> None:
    """-out, --dry-run and --allow-red of the main job."""
    add(parser, "-out", help="run directory, new or empty (default: runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="set everything up, estimate time, memory and disk, write nothing")
    add(parser, "--allow-red")


def require_out(args: argparse.Namespace, what: str) -> Path:
    """The folder of what is to be continued.

    Raises:
        ConfigError: There is none.
    """
    if args.out is None:
        raise ConfigError(f"expected -out with the folder of the {what} to --resume, got none; add -out RUN")
    return Path(args.out)


def typed_of_crystal(args: argparse.Namespace) -> dict[str, Any]:
    """What was typed of the crystal, for a stored run: entries that are not empty go in place of its own."""
    elements = getattr(args, "elements", [])
    return {"variables": variables(args), "replicate": args.rep and tuple(args.rep), "elements": elements, "strain": strain(args)}
