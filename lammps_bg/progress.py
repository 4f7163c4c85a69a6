# SPDX-License-Identifier: GPL-2.0-or-later
"""How a computation says where it stands: one small protocol, which a terminal, a notebook, a log or nobody implements."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """A stretch of work that knows how much of it is done."""

    def update(self, share: float, text: str = "", **numbers: float | None) -> float | None:
        """Tell how far it is.

        Args:
            share: Between 0 and 1.
            text: A few words for the eyes; empty: those of before.
            **numbers: What a status file keeps, such as `step`, `ess`, `free_energy` (beta F/N) and its `error`.

        Returns:
            Expected seconds to the end, None while nobody knows.
        """
        ...


class Reporter(Protocol):
    """Whoever listens to a computation."""

    def say(self, text: str) -> None:
        """One line about something that is done."""
        ...

    def warn(self, text: str) -> None:
        """One line about a result that is worse than expected."""
        ...

    def stage(self, name: str) -> AbstractContextManager[Stage]:
        """A stretch of work, from entering the context to leaving it."""
        ...


class _SilentStage:
    """Forgets what it is told."""

    def update(self, share: float, text: str = "", **numbers: float | None) -> float | None:
        """Nobody asked."""
        return None


class _Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nobody asked."""

    def warn(self, text: str) -> None:
        """Nobody asked."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A stage that nobody sees."""
        yield _SilentStage()


SILENT: Reporter = _Silent()
"""For notebooks and tests that want the result alone."""
