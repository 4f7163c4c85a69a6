# SPDX-License-Identifier: GPL-2.0-or-later
"""A reporter that keeps status.json of a run folder, beside whatever shows the progress."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lammps_bg.progress import Reporter, Stage
from lammps_bg.store.run_directory import RunDirectory

_TOLD = 1.0  # seconds between two entries in status.json


class StatusReporter:
    """Tells another reporter and, once in a while, status.json.

    Args:
        shown: The other reporter.
        run: The run directory.
    """

    def __init__(self, shown: Reporter, run: RunDirectory) -> None:
        self._shown, self._run = shown, run
        self.say, self.warn = shown.say, shown.warn

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A stretch of work, of this name in status.json, too."""
        with self._shown.stage(name) as stage:
            yield _StatusStage(stage, self._run, name)


class _StatusStage:
    """Where one stage stands."""

    def __init__(self, shown: Stage, run: RunDirectory, name: str) -> None:
        self._shown, self._run, self._name = shown, run, name
        self._told = time.monotonic()

    def update(self, share: float, text: str = "", **numbers: float | None) -> float | None:
        """Tell how far it is; `step` goes into status.json."""
        eta = self._shown.update(share, text, **numbers)
        if time.monotonic() - self._told > _TOLD:
            self._told, step = time.monotonic(), numbers.get("step")
            self._run.write_status(self._name, step=None if step is None else int(step), percent=100 * share, eta_seconds=eta)
        return eta
