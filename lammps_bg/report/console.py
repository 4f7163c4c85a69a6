# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user sees: progress bars on a terminal, plain lines when piped."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich is loaded when something is said: 0.1 s
    from rich.console import Console as RichConsole
    from rich.progress import Progress

log = logging.getLogger(__name__)
_LINE_EVERY = 10.0  # seconds between progress lines when the output is no terminal


class Console:
    """Messages and progress on standard output, errors and warnings on standard error.

    Args:
        quiet: Only errors: of several MPI ranks one speaks.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._terminal = quiet, sys.stdout.isatty() and not quiet

    @cached_property
    def _out(self) -> "RichConsole":
        from rich.console import Console as RichConsole

        return RichConsole(highlight=False, soft_wrap=True, width=None if self._terminal else 160, quiet=self._quiet)

    def say(self, text: str) -> None:
        """One line, at once (queues of batch systems buffer)."""
        self._out.print(text, markup=False)
        self._out.file.flush()

    def warn(self, text: str) -> None:
        """One line on standard error, as every warning of the package."""
        log.warning("%s", text)

    def error(self, text: str) -> None:
        """The sentence of an error."""
        from rich.console import Console as RichConsole

        console = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"ERROR: {text}", markup=False, style="red" if sys.stderr.isatty() else None)

    def table(self, title: str, rows: Sequence[tuple[str, ...]]) -> None:
        """A small table; the first column is left-aligned, the others right-aligned."""
        from rich.table import Table

        table = Table(title=title, show_header=False, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index in range(max(len(row) for row in rows)):
            table.add_column(justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        self._out.print(table, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator["ProgressLine"]:
        """A bar on a terminal, a line every ten seconds otherwise.

        Args:
            name: What is being done, in one word.
        """
        name = f"{name:<10}"
        if not self._terminal:
            yield ProgressLine(self, name, None)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._out, transient=True) as bar:
            yield ProgressLine(self, name, bar)


class ProgressLine:
    """Where one stage stands; made by `Console.stage`."""

    def __init__(self, console: Console, stage: str, bar: "Progress | None") -> None:
        self._console, self._stage, self._bar = console, stage, bar
        self._task = bar.add_task(stage, total=1.0, text="") if bar else None
        self._start = self._last = time.monotonic()
        self._first: float | None = None  # share at the first update: a resumed stage does not start at zero
        self._text = ""

    def update(self, share: float, text: str = "", **numbers: float | None) -> float | None:
        """Show a share between 0 and 1 with a short text; returns the expected seconds to the end, None before 2 % are done.

        Args:
            share: Between 0 and 1.
            text: A few words; empty: those of before.
            **numbers: For status files; not shown.
        """
        now = time.monotonic()
        self._text = text or self._text
        if self._first is None:
            self._first, self._start = share, now
        gained = share - self._first
        eta = (now - self._start) * (1 - share) / gained if gained > 0.02 else None
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=share, text=self._text)
        elif now - self._last > _LINE_EVERY:
            self._last = now
            left = f"about {eta:.0f} s left" if eta else ""
            self._console.say(f"{self._stage} {share:4.0%}  {', '.join(filter(None, (self._text, left)))}")
        return eta
