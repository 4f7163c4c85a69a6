# SPDX-License-Identifier: GPL-2.0-or-later
"""A batch script for SLURM around one command of this program: it stops in time, is put back into the queue, and goes on."""

import argparse
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import jinja2

from lammps_bg import parallel
from lammps_bg.errors import ConfigError

WARNING = 300
"""Seconds between the signal and the end of the job: time for one step, a checkpoint, and SLURM's habit of being a minute off."""

_SHORTEST = 300  # seconds; of a shorter job start and warning would leave nothing
_MOST_RESTARTS = 100  # a job that makes no headway is not to go round for ever
_TIME = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)", re.ASCII)
_MEMORY = re.compile(r"[1-9]\d*[KMGT]?", re.ASCII)
_NAME = re.compile(r"[\w.+@:,-]+", re.ASCII)  # #SBATCH lines are split at blanks and know no quotes
_TEMPLATE = "job.sh.j2"
log = logging.getLogger(__name__)


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
        ConfigError: It works in no folder of its own, names none, or cannot use so many ranks.
    """
    command = parsed.command
    if command not in parallel.JOBS:
        raise ConfigError(
            f"expected after -- one of {', '.join(parallel.JOBS)}, got {command}; that takes no batch job, so start it by hand"
        )
    if getattr(parsed, "dry_run", False):
        raise ConfigError("expected after -- a command that does its work, got one with --dry-run; start that one by hand")
    if parsed.out is None:
        raise ConfigError(
            "expected -out with the run directory in the command after --, got none; add -out runs/NAME, where a restarted job goes on"
        )
    if ranks > 1 and command not in parallel.PARALLEL_COMMANDS:
        raise ConfigError(
            f"expected one MPI rank, which is all that `lammps-bg {command}` can use, got {ranks}; leave out --nodes and --ranks-per-node"
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
