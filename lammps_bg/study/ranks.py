# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of work that MPI ranks share out."""

import logging

from lammps_bg import parallel
from lammps_bg.progress import Reporter

log = logging.getLogger(__name__)


def say_shares(reporter: Reporter, what: str, items: str, n: int) -> None:
    """How some work is shared out where the ranks do not divide it, and that some have none of it.

    Args:
        reporter: Where to say it.
        what: The work.
        items: What it consists of, in the plural.
        n: Their number.
    """
    ranks = parallel.size()
    if n % ranks == 0:
        return
    if n < ranks:
        log.warning(
            "%s: fewer %s (%d) than MPI ranks (%d), so that some ranks wait; start fewer ranks, or ask for more",
            what,
            items,
            n,
            ranks,
        )
    else:
        reporter.say(f"parallel   {what}: {n} {items}, {n // ranks} or {n // ranks + 1} for each of {ranks} ranks")
