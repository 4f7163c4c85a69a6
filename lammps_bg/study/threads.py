# SPDX-License-Identifier: GPL-2.0-or-later
"""How many threads torch uses: one for small steps, all that the user allows for large ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_THREADS = 16384  # sites x samples of one step


@contextmanager
def threads_for(n_sites: int) -> Iterator[None]:
    """Within the context, one thread if a step moves fewer sites than pay for more.

    On two quiet cores a second thread gained 4 % of a training step on 64 atoms x 32 samples and 6 % on 216 x 32; with another
    process on the machine it cost a factor of six, because each small kernel then waits for a thread that is not running.
    """
    allowed = torch.get_num_threads()
    torch.set_num_threads(1 if n_sites < _WORTH_THREADS else allowed)
    try:
        yield
    finally:
        torch.set_num_threads(allowed)


class FasterThreads:
    """Tries one thread on the first piece of some work and all threads on the second, then stays with what was faster."""

    def __init__(self) -> None:
        self._allowed = torch.get_num_threads()
        self._seconds: dict[int, float] = {}

    def __enter__(self) -> "FasterThreads":
        torch.set_num_threads(1)
        return self

    def __exit__(self, *exception: object) -> None:
        torch.set_num_threads(self._allowed)

    def record(self, seconds: float) -> None:
        """Note the time of the last piece for each item of it, and set the threads for the next.

        Args:
            seconds: Time divided by the number of items.
        """
        self._seconds.setdefault(torch.get_num_threads(), seconds)
        untried = [count for count in (1, self._allowed) if count not in self._seconds]
        torch.set_num_threads(untried[0] if untried else min(self._seconds, key=self._seconds.__getitem__))
