# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals: a flag that loops look at between steps, so that a stopped run leaves usable files."""

import signal
from types import FrameType, TracebackType

from lammps_bg import parallel
from lammps_bg.errors import Interrupted

_AGAIN = 75  # "temporary failure" of sysexits.h: a queue's job script may start the command again with --resume
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: _AGAIN, signal.SIGUSR1: _AGAIN}


class StopFlag:
    """While active, Ctrl-C, SIGTERM and SIGUSR1 only set a flag; a second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopFlag":
        for number in _EXIT_CODES:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def __bool__(self) -> bool:
        return self.signal is not None

    def on_any_rank(self) -> bool:
        """Whether a signal came to any MPI rank; all ranks ask together, and from then on all have it."""
        if parallel.size() == 1:
            return bool(self)
        (number,) = parallel.largest(float(self.signal or 0))
        if number:
            self.signal = signal.Signals(int(number))
        return bool(number)

    def check(self, what_is_saved: str) -> None:
        """Stop here if a signal came.

        Args:
            what_is_saved: A clause for the message, such as how to go on.

        Raises:
            Interrupted: A signal was noted.
        """
        if self.signal is not None:
            raise Interrupted(f"stopped by {self.signal.name}; {what_is_saved}", _EXIT_CODES[self.signal])
