# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of a command's cells is done, as one share however many tables they belong to."""

from collections.abc import Callable

from lammps_bg.interrupt import StopFlag


class Share:
    """Counts the cells that are evaluated and tells the progress line; stops where a signal came.

    Args:
        update: Called with the share that is done, from 0 to 1, and a text.
        stop: Set by signals.
        steps: Cells in one part; one that turns out longer waits at its end.
        parts: Parts of about equal work, one after the other.
        say: Given a line for the user.
    """

    def __init__(
        self,
        update: Callable[[float, str], object],
        stop: StopFlag,
        steps: int,
        *,
        parts: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._update, self._stop, self.say = update, stop, say
        self._steps, self._parts = steps, parts
        self._ended = self._done = 0

    def tick(self, text: str) -> None:
        """One more cell is done.

        Args:
            text: What is being evaluated.

        Raises:
            Interrupted: A signal came.
        """
        self._done += 1
        self.beat(text)

    def beat(self, text: str) -> None:
        """The cell after the last one that was counted, or chains for it, go on.

        Args:
            text: What is being evaluated.

        Raises:
            Interrupted: A signal came.
        """
        if self._stop.on_any_rank():
            self._stop.check("nothing was written")
        self._update((self._ended + min(1.0, self._done / self._steps)) / self._parts, text)

    def end_part(self) -> None:
        """The next cell belongs to the next part."""
        self._ended, self._done = self._ended + 1, 0
