# SPDX-License-Identifier: GPL-2.0-or-later
"""`slurm`: a batch script around one command of this program; the job stops in time, is put back into the queue, and goes on."""

import argparse
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from lammps_bg.commands import Work, parse, sharing
from lammps_bg.commands.command_parser import Parser
from lammps_bg.errors import ConfigError
from lammps_bg.report.console import Console

HELP = "print a commented batch script for SLURM around another command, given after --"
EXAMPLE = "lammps-bg slurm --ranks-per-node 4 -- run -in inputs/in.mw_cubic -rep 2 2 2 -out runs/mw > job.sh"
WORK = Work.NONE
PLACE = 10

WARNING = 300
"""Seconds between the signal and the end of the job: time for one step, a checkpoint, and SLURM's habit of being a minute off."""

_SHORTEST = 300  # seconds; of a shorter job start and warning would leave nothing
_MOST_RESTARTS = 100  # a job that makes no headway is not to go round for ever
_TIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", re.ASCII)
_MEMORY = re.compile(r"[1-9]\d*[KMGT]?", re.ASCII)
_NAME = re.compile(r"[\w.+@:,-]+", re.ASCII)  # #SBATCH lines are split at blanks and know no quotes
_TEMPLATE = "job.sh.j2"
log = logging.getLogger(__name__)


def add_arguments(parser: Parser) -> None:
    parser.usage = "lammps-bg slurm [options] -- COMMAND ... -out RUN > job.sh"
    default, resources = Resources(), parser.add_argument_group("what is asked for")
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
    place = parser.add_argument_group("where the program is").add_mutually_exclusive_group()
    here = "Python environment on the cluster, with lammps-bg and its mpirun (default: the one of this command)"
    place.add_argument("--environment", type=Path, metavar="FOLDER", help=here)
    place.add_argument("--container", type=Path, metavar="IMAGE", help="Apptainer image to use instead (default: none)")


def execute(args: argparse.Namespace, console: Console) -> int:
    resources = Resources(**{field.name: getattr(args, field.name) for field in fields(Resources)})
    resources.check()
    command = job(args.job, _parsed(args.job), resources.ranks)
    sys.stdout.write(script(command, resources, Place(args.environment or Path(sys.prefix), args.container)))
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The command after -- as the program will understand it."""
    if not words:
        raise ConfigError(
            "expected a command after --, got none; write `lammps-bg slurm [options] -- run -in in.file -out runs/NAME`"
        )
    asks = [word for word in words if word in ("-h", "--help", "--version")]
    if asks:  # the parser would print the answer into the script
        raise ConfigError(f"expected after -- a command that does its work, got one with {asks[0]}; ask that without slurm")
    return parse(words)


@dataclass(frozen=True)
class Resources:
    """What the job asks SLURM for.

    Attributes:
        nodes: Number of nodes.
        ranks_per_node: MPI ranks on each.
        cores_per_rank: Cores of each rank, which are its threads.
        gpus_per_node: GPUs on each node.
        time: Time limit, HH:MM:SS or D-HH:MM:SS.
        memory: Memory of each node with K, M, G or T; None leaves it to the partition.
        partition: Partition; None leaves it to SLURM.
        account: Account to charge; None leaves it to SLURM.
        name: Name of the job; None takes that of the run directory.
        mail: Address that is told of end, failure and requeueing.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    cores_per_rank: int = 1
    gpus_per_node: int = 0
    time: str = "24:00:00"
    memory: str | None = None
    partition: str | None = None
    account: str | None = None
    name: str | None = None
    mail: str | None = None

    @property
    def ranks(self) -> int:
        """MPI ranks of the whole job."""
        return self.nodes * self.ranks_per_node

    @property
    def seconds(self) -> int:
        """The time limit in seconds.

        Raises:
            ConfigError: It is not a time.
        """
        found = _TIME.fullmatch(self.time)
        if found is None:
            raise ConfigError(
                f"expected --time as HH:MM:SS or D-HH:MM:SS, got '{self.time}'; write for example 24:00:00 or 2-12:00:00"
            )
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def check(self) -> None:
        """Refuse what SLURM would refuse hours later or, worse, accept.

        Raises:
            ConfigError: A number, the time or a name cannot be used.
        """
        for name in ("nodes", "ranks_per_node", "cores_per_rank", "gpus_per_node"):
            least, value = int(name != "gpus_per_node"), getattr(self, name)
            if value < least:
                raise ConfigError(f"expected {_flag(name)} of {least} or more, got {value}; leave it out for {_default(name)}")
        if self.gpus_per_node and self.ranks_per_node % self.gpus_per_node:
            raise ConfigError(
                f"expected --ranks-per-node as a multiple of --gpus-per-node, so that every GPU serves as many ranks, got {self.ranks_per_node} "
                f"ranks on {self.gpus_per_node} GPUs; one rank for each GPU is usual"
            )
        if self.seconds < _SHORTEST:
            raise ConfigError(
                f"expected --time of 00:05:00 or more, got '{self.time}'; in less the job would only start and stop, so ask for longer"
            )
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ConfigError(
                f"expected --memory of a node as a whole number with K, M, G or T, got '{self.memory}'; write for example 16G"
            )
        for name in ("partition", "account", "name", "mail"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise ConfigError(
                    f"expected {_flag(name)} as one word of letters, digits and . _ + @ : , -, got '{value}'; SLURM knows no other"
                )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(name: str) -> object:
    return next(field.default for field in fields(Resources) if field.name == name)


@dataclass(frozen=True)
class Place:
    """Where the program lies on the cluster.

    Attributes:
        environment: Folder of a Python environment with lammps-bg and the mpirun of its MPICH.
        container: Apptainer image to use instead; None uses the environment.
    """

    environment: Path
    container: Path | None = None


@dataclass(frozen=True)
class Job:
    """The command that the script runs.

    Attributes:
        words: Its arguments, as typed after `lammps-bg`.
        out: Its run directory.
        resumable: Whether it can go on where it stopped, with --resume.
    """

    words: Sequence[str]
    out: Path
    resumable: bool


def job(words: Sequence[str], parsed: argparse.Namespace, ranks: int) -> Job:
    """The command to run, if it is one for a batch job.

    Args:
        words: What was typed after `--`.
        parsed: The same, as the program itself understands it.
        ranks: MPI ranks of the job.

    Raises:
        ConfigError: It works in no folder of its own, names none, or cannot share so many ranks out.
    """
    command, jobs = parsed.command, sharing()
    if command not in jobs:
        raise ConfigError(
            f"expected after -- one of {', '.join(jobs)}, got {command}; that takes no batch job, so start it by hand"
        )
    if getattr(parsed, "dry_run", False):
        raise ConfigError("expected after -- a command that does its work, got one with --dry-run; start that one by hand")
    if parsed.out is None:
        raise ConfigError(
            "expected -out with the run directory in the command after --, got none; add -out runs/NAME, where a restarted job goes on"
        )
    team = getattr(parsed, "lammps_ranks", 1)  # ranks of one LAMMPS
    if team > 0 and ranks % team:
        raise ConfigError(
            f"expected MPI ranks as a multiple of -lammps-ranks {team}, got {ranks}; change --nodes, --ranks-per-node or -lammps-ranks"
        )
    for name in ("script", "model", "config"):
        path = getattr(parsed, name, None)
        if path is not None and not path.exists():
            log.warning("%s is not on this machine; it must be there where the job runs, seen from the folder of `sbatch`", path)
    own = [word for word in words if word != "--resume"]  # the script adds it where there is something to go on with
    return Job(own, parsed.out, hasattr(parsed, "resume"))


def script(job: Job, resources: Resources, place: Place) -> str:
    """The text of the batch script.

    Args:
        job: The command.
        resources: What to ask SLURM for, already checked.
        place: Where the program lies.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    return environment.get_template(_TEMPLATE).render(
        job=job,
        resources=resources,
        place=place,
        name=resources.name or re.sub(r"[^\w.+-]", "_", job.out.absolute().name, flags=re.ASCII) or "lammps-bg",
        warning=min(WARNING, resources.seconds // 4),
        most_restarts=_MOST_RESTARTS,
    )
