# SPDX-License-Identifier: GPL-2.0-or-later
"""A reporter that also keeps status.json: where the console shows a bar, the file has its numbers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lammps_bg.progress import Reporter, Stage
from lammps_bg.store.run_directory import RunDirectory

_SECONDS = 1.0  # between two versions of the file
_NAMES = {"chains": "exact"}  # stages whose name in status.json is another


class StatusReporter:
    """Passes on what it is told, and notes each stage in the run directory.

    Args:
        reporter: Who shows it.
        run: Whose status.json it is.
    """

    def __init__(self, reporter: Reporter, run: RunDirectory) -> None:
        self._reporter, self._run = reporter, run

    def say(self, text: str) -> None:
        """Pass it on."""
        self._reporter.say(text)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._reporter.warn(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A stage that is shown and noted; the file has its last numbers also where it ends early."""
        with self._reporter.stage(name) as shown:
            noted = _NotedStage(shown, self._run, _NAMES.get(name, name))
            try:
                yield noted
            finally:
                noted.write()


class _NotedStage:
    """A stage with its entry in status.json."""

    def __init__(self, shown: Stage, run: RunDirectory, name: str) -> None:
        self._shown, self._run, self._name = shown, run, name
        self._last: dict[str, Any] = {}
        self.write()

    def update(self, share: float, text: str = "", **numbers: float | None) -> float | None:
        """Show it, and note it once in a while."""
        eta = self._shown.update(share, text, **numbers)
        self._last = {**numbers, "percent": 100.0 * share, "eta_seconds": eta}
        if time.monotonic() - self._told > _SECONDS:
            self.write()
        return eta

    def write(self) -> None:
        """Note where it stands."""
        self._told = time.monotonic()
        self._run.write_status(self._name, **self._last)
