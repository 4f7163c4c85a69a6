# SPDX-License-Identifier: GPL-2.0-or-later
"""The control flow of LAMMPS scripts: files, includes, jumps, loops and conditions, so that each command passes one gate."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lammps_bg.engine.left_out import LeftOut, MissingFile, origin
from lammps_bg.engine.left_out import SkippedCommand as SkippedCommand
from lammps_bg.engine.potential_files import FileSearch, may_name_file
from lammps_bg.engine.script_text import Line, Word, has_open_variable, read_lines, split_words
from lammps_bg.engine.script_trace import Trace, references, unquoted
from lammps_bg.errors import LammpsBGError, PotentialError, ScriptError

MAX_COMMANDS = 100_000
MAX_LOOP_SECONDS = 5.0
MAX_DEPTH = 16
_FLAG = "lammps_bg_condition"
_NOT_POTENTIAL = (
    "atom_style",
    "atom_modify",
    "fix_modify",
    "comm_style",
    "comm_modify",
    "neigh_modify",
    "min_style",
    "min_modify",
)

_IS_FILE = re.compile(r"\bis_file\(\s*([^()\s$]+)\s*\)")  # LAMMPS' own question looks into its own working directory

# commands that decide which others run
_CONTROL = frozenset(("include", "jump", "next", "if", "partition"))

Handler = Callable[[str, list[Word]], None]


@dataclass
class _Frame:
    """One open script file; `at` is the index of the line to read next."""

    path: Path
    lines: list[Line]
    at: int = 0


class Quit(Exception):  # noqa: N818
    """The script said `quit`: no error, it asked for it."""


def lammps_message(error: Exception) -> str:
    """LAMMPS' message of an exception, on one line, without source positions.

    Args:
        error: What the LAMMPS library raised.
    """
    text = str(error).split("\nLast input line")[0].split("\n--> parsed")[0]
    text = re.sub(r"\s*\(\S*src/\S+:\d+\)", "", text)
    text = re.sub(r"^ERROR( on proc \d+)?: ", "", text)
    text = re.sub(r"\s*For more information see (\S+)", r" (\1)", text)
    return " ".join(text.split())


class Interpreter:
    """Follows a LAMMPS script; what to do with a command that is not control flow is the subclass' business.

    Attributes:
        lammps: The LAMMPS instance.
        skipped: Commands that were not executed, in order.
        script_files: The script and everything it included.
        files: The search for the files it names.
        trace: What was executed.
        left_out: What the skipped commands would have provided.

    Args:
        lammps: The LAMMPS instance, which substitutes variables and evaluates conditions.
        script: The script file.
    """

    def __init__(self, lammps: Any, script: Path) -> None:  # noqa: ANN401
        self.lammps = lammps
        self._script = script
        self.files = FileSearch(script.resolve().parent)
        self.trace = Trace(lammps)
        self.skipped: list[SkippedCommand] = []
        self.left_out = LeftOut()
        self.script_files: list[Path] = []
        self._count, self._started = 0, time.monotonic()
        self._ran = False  # a run was skipped: variables and conditions may lack their values
        self._jump_skip = False
        self._stack: list[_Frame] = []
        self._where = (script, 0)
        self._unread: dict[str, list[SkippedCommand]] = {}  # what wrote the generated files that no command has read yet
        self._raw = ""  # the present command as written
        self._handlers: dict[str, Handler] = {
            "include": self._include,
            "jump": self._jump,
            "label": lambda text, words: None,
            "next": self._next,
            "if": self._if,
            "partition": self._partition,
        }

    def execute(self, text: str, words: list[Word]) -> None:
        """Execute, skip or refuse a command that is not control flow.

        Args:
            text: The command after substitution.
            words: Its words.
        """
        raise NotImplementedError

    def lacks(self, text: str) -> bool:
        """Whether a command names something that was left out.

        Args:
            text: The command.
        """
        raise NotImplementedError

    # ---- files and lines

    def run_file(self, path: Path) -> None:
        """Read one file to its end; `jump` may replace it by another one on the way.

        Args:
            path: The file.
        """
        if len(self._stack) >= MAX_DEPTH:
            raise self._error(f"expected at most {MAX_DEPTH} nested includes, got more; does the file include itself?")
        self._stack.append(self._open(path))
        frame = self._stack[-1]
        while frame.at < len(frame.lines):
            line = frame.lines[frame.at]
            frame.at += 1
            self._where = (frame.path, line.number)
            if line.text:
                self.dispatch(line.text)
        self._stack.pop()

    def _open(self, path: Path) -> _Frame:
        path = path.resolve()
        lines = read_lines(path)
        if path not in self.script_files and not self.files.is_generated(path):
            self.script_files.append(path)
        return _Frame(path, lines)

    def _folder(self) -> Path | None:
        return self._stack[-1].path.parent if self._stack else None

    def _find_script(self, name: str) -> Path:
        path = self.files.find(name, self._folder())
        if path is None:
            hint = self._may_be_made(name) or self.files.looked_in(self._folder())
            raise self._error(f"the file '{name}' was not found; {hint}")
        return path

    # ---- one command

    def dispatch(self, text: str) -> None:
        """Follow or hand on one command.

        Args:
            text: The command, without comment.
        """
        self._count += 1
        if self._count > MAX_COMMANDS:
            raise self._endless()
        raw = self._raw = text
        if "is_file(" in text:
            text = _IS_FILE.sub(self._located, text)
        if has_open_variable(text):
            expanded = self._expand(text)
            if expanded is None:
                return
            text = expanded
        words = self._words(text)
        if words and words[0].text in _CONTROL:
            self.trace.add("control", raw, text, self._where, uses=self._decided_by(raw, words))
        if words and words[0].text in self._handlers:
            self._handlers[words[0].text](text, words)
        elif words:
            self.execute(text, words)

    def _decided_by(self, raw: str, words: list[Word]) -> frozenset[str]:
        """Variables and generated files that decide what a command of the control flow does; the commands inside are their own."""
        found = references(unquoted(raw))
        name, args = words[0].text, words[1:]
        if name == "if":
            conditions = [word.raw for before, word in zip(words, args, strict=False) if before.text in ("if", "elif")]
            found |= references(" ".join(conditions))
        elif name == "next":
            found |= {word.text for word in args}
        elif name in ("include", "jump"):
            self._require_files(args[:1])
            found |= self._generated_in(args[:1])
        return found

    def _generated_in(self, words: Sequence[Word]) -> frozenset[str]:
        """The generated files that words name, for a trace; the commands that wrote them are no longer skipped ones."""
        used = self.files.tokens(*(word.text for word in words))
        read = [command for token in used for command in self._unread.pop(token, [])]
        if read:
            self.skipped = [command for command in self.skipped if not any(command is other for other in read)]
        return used

    def _require_files(self, words: Sequence[Word], *, certain: bool = True) -> None:
        """Refuse to read files that commands left out would have written, or of the folder that `shell cd` has left.

        Args:
            words: Words of a command.
            certain: They name files, whatever they look like.
        """
        for word in words:
            if certain or may_name_file(word.text):
                self._require_unchanged(word.text)
            if (there := self.files.left_behind(word.text, self._folder())) is not None:
                raise self._error(
                    f"the file '{word.text}' was not found; {self.files.looked_in(self._folder())}; after `shell cd` the one in the folder "
                    f"in which the script starts is called {there}"
                )

    def _require_unchanged(self, name: str) -> None:
        """Refuse a file that a command left out would have changed: what lies there is of an earlier life, or nothing."""
        missing = self.left_out.file(self.files.absolute(name))
        if missing is not None:
            raise self._missing_file(name, missing)

    def _located(self, question: re.Match[str]) -> str:
        """Whether a file exists, asked of the place where the script would read it."""
        self._require_unchanged(question[1])
        return f"is_file({self.files.find(question[1], self._folder()) or self.files.absolute(question[1])})"

    def place(self, path: Path, line: int) -> None:
        """Say where the next command stands, outside of the reading of a file.

        Args:
            path: Its file.
            line: Its line.
        """
        self._where, self._stack = (path, line), [_Frame(path, [])]

    def _endless(self) -> LammpsBGError:
        return self._error(
            f"expected the script to end, but after {self._count} commands it still goes on; "
            "take the loop out of the script, it may wait for the result of a run"
        )

    def _expand(self, text: str) -> str | None:
        """Substitute variables; nothing where a value would come from a skipped run."""
        try:
            return str(self.lammps.expand(text))
        except Exception as error:  # LAMMPS raises plain Exception
            if not (self._ran and text.split()[0] in ("variable", "print", "if", "compute", "group")):
                raise self._lammps_error(error, text) from None
            self.skip(text, f"needs the result of a skipped command ({lammps_message(error)})")
            return None

    def _words(self, text: str) -> list[Word]:
        try:
            return split_words(text)
        except ScriptError as error:
            raise self._error(str(error)) from None

    def send(self, text: str) -> None:
        """Send a command; LAMMPS' refusal is an error of the script.

        Args:
            text: The command.
        """
        try:
            self.lammps.command(text)
        except Exception as error:
            raise self._lammps_error(error, text) from None

    def skip(self, text: str, reason: str) -> None:
        """List a command as not executed.

        Args:
            text: The command.
            reason: Why.
        """
        self.skipped.append(self._here(text, reason))
        self.left_out.add(self.skipped[-1], self.files.absolute("."))

    def _here(self, text: str, reason: str) -> SkippedCommand:
        """A command at the present place, as one that is left out."""
        return SkippedCommand(self._where[0], self._where[1], " ".join(text.split()), reason)

    # ---- control flow

    def _include(self, text: str, words: list[Word]) -> None:
        self._need(words, 2, "include file")
        where = self._where
        self.run_file(self._find_script(words[1].text))
        self._where = where

    def _jump(self, text: str, words: list[Word]) -> None:
        self._need(words, 2, "jump SELF|file [label]")
        if self._jump_skip:
            self._jump_skip = False
            return
        if time.monotonic() - self._started > MAX_LOOP_SECONDS:
            raise self._endless()
        frame = self._stack[-1]
        if words[1].text != "SELF":
            target = self._open(self._find_script(words[1].text))
            frame.path, frame.lines = target.path, target.lines
        frame.at = self._label(frame, words[2].text) if len(words) > 2 else 0

    def _label(self, frame: _Frame, label: str) -> int:
        """Index of the line after a label."""
        for index, line in enumerate(frame.lines):
            words = line.text.split()
            if len(words) == 2 and words[0] == "label":
                name = str(self.lammps.expand(words[1])) if "$" in words[1] else words[1]
                if name == label:
                    return index + 1
        raise self._error(f"the label '{label}' was not found in {frame.path}")

    def _next(self, text: str, words: list[Word]) -> None:
        self._need(words, 2, "next variables")
        self.send(text)
        # LAMMPS deletes exhausted variables and then ignores the next jump
        self._jump_skip = not all(self.lammps.has_id("variable", word.text) for word in words[1:])

    def _if(self, text: str, words: list[Word]) -> None:
        for condition, commands in self._branches(words):
            holds = True if condition is None else self._holds(text, condition)
            if holds is None:
                return
            if holds:
                for command in commands:
                    self.dispatch(command)
                return

    def _branches(self, words: list[Word]) -> list[tuple[str | None, list[str]]]:
        """Conditions, raw, with their commands; the condition of `else` is nothing."""
        self._need(words, 4, 'if boolean then "command" ... else "command"')
        if words[2].text != "then":
            raise self._error(f"expected `then` after the condition of `if`, got '{words[2].text}'")
        branches: list[tuple[str | None, list[str]]] = [(words[1].raw, [])]
        rest = iter(words[3:])
        for word in rest:
            if word.text == "elif":
                branches.append((next(rest, word).raw, []))
            elif word.text == "else":
                branches.append((None, []))
            else:
                branches[-1][1].append(word.text)
        return branches

    def _holds(self, text: str, condition: str) -> bool | None:
        """Let LAMMPS evaluate a condition; nothing where it needs a skipped command."""
        try:
            self.lammps.command(f"if {condition} then 'variable {_FLAG} string yes' else 'variable {_FLAG} string no'")
        except Exception as error:
            if not (self._ran or self.lacks(text)):
                raise self._lammps_error(error, text) from None
            self.skip(text, f"its condition needs a skipped command ({lammps_message(error)})")
            return None
        holds = self.lammps.extract_variable(_FLAG) == "yes"
        self.lammps.command(f"variable {_FLAG} delete")
        return holds

    def _partition(self, text: str, words: list[Word]) -> None:
        """There is one partition, number 1; the range is `N`, `N*`, `*M` or `N*M`."""
        self._need(words, 4, "partition yes|no N command")
        first, star, last = words[2].text.partition("*")
        if words[1].text not in ("yes", "no") or not all(part.isdigit() for part in (first, last) if part) or not (first or star):
            raise self._error(f"expected `partition yes|no N command`, got '{text}'")
        mine = int(first or 1) <= 1 <= int(last or (1 if star else first))
        if mine == (words[1].text == "yes"):
            self.dispatch(" ".join(word.raw for word in words[3:]))

    # ---- errors

    def _need(self, words: list[Word], count: int, usage: str) -> None:
        if len(words) < count:
            raise self._error(f"expected `{usage}`, got '{' '.join(word.raw for word in words)}'")

    def _error(self, message: str, kind: type[LammpsBGError] = ScriptError) -> LammpsBGError:
        path, number = self._where
        return kind(f"{path.name} line {number}: {message}" if number else message)

    def _lammps_error(self, error: Exception, text: str) -> LammpsBGError:
        """LAMMPS' refusal of a command as one sentence with what to do."""
        message, name = lammps_message(error), (text.split() or [""])[0]
        if missing := self._missing_value(self._raw or text, message):
            return missing
        hint = ""
        unknown = "Unknown command" in message
        if "before simulation box" in message and not self.lammps.extract_setting("box_exist"):
            hint = self.undecided()
        elif unknown and not self.lammps.extract_setting("box_exist"):
            hint = "; expected a LAMMPS input script, whose first missing command is `create_box` or `read_data`"
        elif "is part of the" in message:
            hint = "; this LAMMPS lacks that package, install a LAMMPS Python library that has it"
        elif "Unrecognized" in message and "style" in message:
            hint = "; check its spelling, or install a LAMMPS Python library that has it"
        elif "annot open" in message:
            hint = f"; {self._made_by_program(text) or self.files.looked_in(self._folder())}"
        potential = name.endswith(("_style", "_coeff", "_modify")) and name not in _NOT_POTENTIAL and not unknown
        return self._error(
            f"LAMMPS says '{message}' to `{' '.join(text.split())}`{hint}", PotentialError if potential else ScriptError
        )

    # ---- what a command misses of those that were left out

    def _line(self, command: SkippedCommand) -> str:
        """The place of a command, as seen from the present one."""
        return f"line {command.line}" if command.file == self._where[0] else f"{command.file.name} line {command.line}"

    def _missing_file(self, name: str, missing: MissingFile) -> LammpsBGError:
        command, change, here = missing.command, missing.change, f"line {self._where[1]}"
        source = origin(missing, self.files.absolute(name))
        own = Path(name).with_name(f"saved_{Path(name).name.replace('*', 'last')}")
        which = f"{'the last ' if '*' in name else ''}{name}"
        if source is not None and source.exists():
            cure = f"name the file itself in {here}, {source}"
        elif change.verb == "removed":
            cure = f"give the file that you mean another name, such as {own}, and read {own} in {here}"
        elif command.command.split()[0] in ("shell", "python", "geturl"):
            cure = f"run that yourself, copy {which} to {own}, and read {own} in {here}"
        else:
            cure = f"run the script once with plain LAMMPS, copy {which} to {own}, and read {own} in {here}"
        return self._error(
            f"expected a file that is there before the script starts, got {name}, which {self._line(command)} `{command.command}` would "
            f"have {change.verb}, but it was not executed ({command.reason}), and what lies there may be of an earlier run; {cure}"
        )

    def _missing_value(self, raw: str, message: str) -> LammpsBGError | None:
        """What to say where a command needs the value of something that was left out; nothing where it does not."""
        found = self.left_out.value(raw, message, self._definition)
        if found is None:
            return None
        name, defined, command = found
        by = f"{self._line(defined)} `{defined.command}` takes from " if defined else ""
        gives = "" if defined else " would have given"
        at = defined or command
        words = at.command.split()
        if words[0] == "group" or words[2:3] in (["atom"], ["vector"]):
            cure = "let plain LAMMPS run the script as far as here and `write_data FILE`, and start from that crystal by `read_data FILE`"
        elif words[0] == "variable":
            style = words[2] if words[2:3] in (["index"], ["string"]) else "equal"
            cure = f"replace {self._line(at)} by `variable {name} {style} VALUE` with the value that plain LAMMPS gives"
        else:
            cure = f"write what plain LAMMPS gives for it in line {self._where[1]}"
        return self._error(
            f"expected {name} to be known in `{' '.join(raw.split())}`, which {by}{self._line(command)} `{command.command}`{gives}, but that "
            f"was not executed ({command.reason}); {cure}"
        )

    def cause(self, message: str) -> LammpsBGError | None:
        """What was left out that an error after the script comes from, such as a variable that a fix takes, if that is known.

        Args:
            message: What LAMMPS said.
        """
        for command in reversed(self.trace.commands):
            if command.kind in ("crystal", "potential"):
                self.place(command.file, command.line)
                if missing := self._missing_value(command.raw, message):
                    return missing
        return None

    def undecided(self) -> str:
        """The last condition of the script that could not be decided, as a hint for what the script lacks in the end."""
        found = [command for command in self.skipped if command.command.split()[0] == "if"]
        if not found:
            return ""
        command = found[-1]
        return (
            f"; {command.file.name} line {command.line} `{command.command}` was left out ({command.reason}); write the commands that shall "
            "be executed in its place"
        )

    def _definition(self, name: str) -> SkippedCommand | None:
        """The command that defined a variable."""
        for command in reversed(self.trace.commands):
            if command.kind == "variable" and command.target == name:
                return SkippedCommand(command.file, command.line, " ".join(command.raw.split()), "")
        return None

    def _made_by_program(self, text: str) -> str:
        """The program left out that may have made the file which LAMMPS did not find, as a hint."""
        names = [word.text for word in self._words(text)[1:] if may_name_file(word.text)]
        missing = [name for name in names if self.files.find(name, self._folder()) is None]
        return self._may_be_made(missing[0]) if missing else ""

    def _may_be_made(self, name: str) -> str:
        command = self.left_out.program(Path(name).name)
        if command is None:
            return ""
        return f"if {self._line(command)} `{command.command}`, which was not executed, makes it, run that yourself before"
