# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to be the same on every MPI rank, and how a job is laid out over them."""

import logging

import torch

from lammps_bg import parallel
from lammps_bg.config import Config, to_toml
from lammps_bg.progress import Reporter
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.problem import Problem

log = logging.getLogger(__name__)


def require_same_on_all_ranks(problem: Problem, config: Config, model: RunDirectory | None = None) -> None:
    """Refuse nodes with other files or versions than the first rank's: their samples would be of another crystal.

    Args:
        problem: The crystal as this rank has read it.
        config: The configuration.
        model: Run whose model is used.

    Raises:
        ConfigError: A rank has something else.
    """
    files = {f"file {path.name}": sha256(path) for path in problem.surface.files}
    if model is not None:
        files["file model.pt"] = sha256(model.file("model.pt"))
    versions = {"version of LAMMPS": problem.engine.version, "version of torch": torch.__version__}
    parallel.require_same({**files, **versions, "configuration": to_toml(config)})


def set_threads() -> int:
    """Give torch its threads; returns their number."""
    threads = parallel.threads()
    torch.set_num_threads(threads)
    return threads


def say_ranks(reporter: Reporter, threads: int) -> None:
    """How the job is laid out, and whether its ranks are too many for the cores.

    Args:
        reporter: Where to say it.
        threads: Of torch, on this rank.
    """
    if parallel.size() == 1 and parallel.team().Get_size() == 1:
        return
    (on_node, cores), helpers = parallel.processes_on_node(), parallel.team().Get_size()
    n, own = parallel.size() * helpers, f"{threads} thread{'s' * (threads > 1)} of torch"
    teams = f"in teams of {helpers}, each with one LAMMPS and {own}" if helpers > 1 else f"each with a LAMMPS and {own}"
    reporter.say(f"parallel   {n} MPI ranks ({on_node} on {parallel.node_name()}), {teams}")
    if on_node > cores:
        log.warning(
            "%d MPI ranks share %d cores of %s, so that they wait for each other; start with mpirun -n %d",
            on_node, cores, parallel.node_name(), cores,
        )  # fmt: skip
