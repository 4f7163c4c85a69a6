# SPDX-License-Identifier: GPL-2.0-or-later
"""The parser of the command line."""

import argparse
import difflib
import re
from collections.abc import Callable
from typing import Any, NoReturn

from lammps_bg.errors import ConfigError

WIDTH = 96
"""Columns of what argparse does not wrap."""


class Parser(argparse.ArgumentParser):
    """Errors in one sentence, as everywhere else; negative numbers may have an exponent; long texts are made when the help is printed."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[A-Za-z]*$")
        self._late: list[tuple[Any, Callable[[], str]]] = []

    def add_group_described_by(self, title: str, text: Callable[[], str]) -> Any:  # noqa: ANN401  (argparse has no public type of a group)
        """A group of options whose description takes time to make."""
        group = self.add_argument_group(title)
        self._late.append((group, text))
        return group

    def format_help(self) -> str:
        """The help as it is printed."""
        for group, text in self._late:
            group.description = text()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"expected arguments as in `{self.prog} -h`, got a wrong one ({message}){self._did_you_mean(message)}")

    def _did_you_mean(self, message: str) -> str:
        """The closest known flag or command to the first wrong word, if any is close."""
        wrong = re.search(r"unrecognized arguments: (\S+)|invalid choice: '([^']*)'", message)
        subparsers = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        commands = subparsers[0].choices if subparsers else {}
        known = [*commands, *(flag for parser in commands.values() for flag in parser._option_string_actions)]
        given = (wrong[1] or wrong[2]) if wrong else ""
        close = difflib.get_close_matches(given, known, 1)
        return f"; did you mean '{close[0]}'?" if close and close[0] != given else ""
