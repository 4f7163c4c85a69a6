# SPDX-License-Identifier: GPL-2.0-or-later
"""Work in pieces that fit into memory: a piece that does not is halved and tried again, which is told once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from lammps_bg.errors import MemoryLimitError

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
)  # of torch on a CPU, and of libraries


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch raises a RuntimeError on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


class Pieces:
    """Cuts a sequence into pieces; after one has run out of memory all further ones are half as large.

    Attributes:
        size: Largest number of items in a piece.

    Args:
        size: The first size.
        what: What an item is, for messages: `samples`.
    """

    def __init__(self, size: int, what: str) -> None:
        self.size, self._what, self._told = max(1, size), what, False

    def over(self, items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[R]:
        """The results of `work` on consecutive pieces of `items`.

        Args:
            items: What is cut.
            work: Done on each piece; may be called again for the same items after it ran out of memory.

        Raises:
            MemoryLimitError: A single item does not fit.
        """
        at = 0
        while at < len(items):
            piece = items[at : at + self.size]
            result = self._tried(piece, work)
            if result is not None:
                yield result
                at += len(piece)

    def _tried(self, piece: Sequence[T], work: Callable[[Sequence[T]], R]) -> R | None:
        """The result, or None if the piece has to become smaller."""
        try:
            return work(piece)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            # the except block ends before the next try: only then the failed one's tensors are free
            if len(piece) == 1:
                raise MemoryLimitError(
                    f"expected memory for one of the {self._what}, got too little; use a smaller -rep, or a machine with more memory"
                ) from None
        self.size = max(1, len(piece) // 2)
        if not self._told:
            self._told = True
            log.warning("memory ran out with %d %s at a time; going on with %d", len(piece), self._what, self.size)
        return None
