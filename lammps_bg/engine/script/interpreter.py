# SPDX-License-Identifier: GPL-2.0-or-later
"""The control flow of LAMMPS scripts: files, includes, jumps, loops and conditions, so that each command passes one gate."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

from lammps_bg.engine.library import Lammps, lammps_message
from lammps_bg.engine.script.files import FileSearch, may_name_file
from lammps_bg.engine.script.left_out import LeftOut, MissingFile, SkippedCommand, origin
from lammps_bg.engine.script.rules import DYNAMICS
from lammps_bg.engine.script.text import Line, Word, has_open_variable, read_lines, split_words
from lammps_bg.engine.script.trace import Trace, TracedCommand, references, unquoted, value_of
from lammps_bg.engine.script.variables import REDEFINABLE, Definition, StaleRead, StaleReads, group_token
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
    """One open script file; `at` is the index of the line to read next, `runs` how many were skipped when a line was last read."""

    path: Path
    lines: list[Line]
    at: int = 0
    runs: dict[tuple[Path, int], int] = field(default_factory=dict)


class Quit(Exception):  # noqa: N818
    """The script said `quit`: no error, it asked for it."""


class Interpreter(ABC):
    """Follows a LAMMPS script; what to do with a command that is not control flow is the subclass' business.

    Attributes:
        lammps: The LAMMPS instance.
        skipped: Commands that were not executed, in order.
        script_files: The script and everything it included.
        files: The search for the files it names.
        trace: What was executed.
        left_out: What the skipped commands would have provided.
        stale: What of the script's variables comes from a state that skipped commands would have made.
        repeats: Jumps that would have begun a loop over states again, each with what counts instead.
        removed: By variable, the command by which `next` or `delete` removed it, and where.
    """

    def __init__(self, lammps: Lammps, script: Path) -> None:
        self.lammps = lammps
        self._script = script
        self.files = FileSearch(script.resolve().parent)
        self.trace = Trace(lammps)
        self.stale = StaleReads()
        self.repeats: list[SkippedCommand] = []
        self.removed: dict[str, SkippedCommand] = {}
        self.skipped: list[SkippedCommand] = []
        self.left_out = LeftOut()
        self.script_files: list[Path] = []
        self._count, self._started = 0, time.monotonic()
        self._ran = False  # a run was skipped: variables and conditions may lack their values
        self._runs = 0  # how many were
        # what takes back the changes since the last of them, in the order of the changes
        self._undo: list[Callable[[], None]] = []
        self._advanced: dict[str, str] = {}  # values before that, of the variables that `next` has changed since
        self._before: list[TracedCommand] = []  # the trace at that time
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

    @abstractmethod
    def execute(self, text: str, words: list[Word]) -> None:
        """Execute, skip or refuse a command that is not control flow."""

    @abstractmethod
    def lacks(self, text: str) -> bool:
        """Whether a command names something that was left out."""

    # ---- files and lines

    def run_file(self, path: Path) -> None:
        """Read one file to its end; `jump` may replace it by another one on the way."""
        if len(self._stack) >= MAX_DEPTH:
            raise self._error(f"expected at most {MAX_DEPTH} nested includes, got more; does the file include itself?")
        self._stack.append(self._open(path))
        frame = self._stack[-1]
        while frame.at < len(frame.lines):
            line = frame.lines[frame.at]
            frame.at += 1
            self._where = (frame.path, line.number)
            frame.runs[frame.path, frame.at] = self._runs
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
        """Follow or hand on one command."""
        self._count += 1
        if self._count > MAX_COMMANDS:
            raise self._endless()
        raw = self._raw = text
        self._require_reached(raw)
        if "is_file(" in text:
            text = _IS_FILE.sub(self._located, text)
        if has_open_variable(text):
            expanded = self._expand(text)
            if expanded is None:
                return
            text = expanded
        words = self._words(text)
        self._raw = raw
        if self._runs and self._prepares_next_pass([word.text for word in words]):
            self.skip(text, "prepares the next pass of a loop, of which the first one counts")
            return
        if words and words[0].text in _CONTROL:
            self.trace.add("control", raw, text, self._where, uses=self._decided_by(raw, words))
        if words and words[0].text in self._handlers:
            self._handlers[words[0].text](text, words)
        elif words:
            self.execute(text, words)

    def _require_reached(self, raw: str) -> None:
        """Refuse a crystal made with values of a state that only a skipped command would have reached.

        Raises:
            ScriptError: It defines the crystal or its energy, and depends on such a value.
        """
        try:
            words = [word.text for word in split_words(raw)]
        except ScriptError:  # with its variables substituted it may be a command, and is refused later if not
            return
        if words[:1] == ["if"]:
            defining = any(self.defines_crystal(command.split()) for command in self.commands_of_if(raw))
            found = self._stale_condition(raw) if defining else None
        else:
            found = self._stale_in(raw, words) if self.defines_crystal(words) else None
        if found is not None:
            raise self._stale_error(raw, found)

    def _stale_in(self, raw: str, words: Sequence[str]) -> StaleRead | None:
        """What a command takes from a state that was never reached, by its variables or the generated files and groups it names."""
        tokens = [*sorted(self.files.tokens(*words[1:])), *map(group_token, words[1:])]
        made = (self.stale.made(token) for token in tokens)
        return self.stale.used(raw, self._where) or next((read for read in made if read is not None), None)

    @staticmethod
    def commands_of_if(raw: str) -> list[str]:
        """The words of an `if` that may be commands."""
        try:
            return [word.text for before, word in pairwise(split_words(raw)) if before.text not in ("if", "elif")]
        except ScriptError:  # whoever reads it says so
            return []

    def _stale_condition(self, raw: str) -> StaleRead | None:
        """What the conditions of an `if` take from a state that was never reached."""
        words = split_words(raw)
        conditions = [word.raw for before, word in pairwise(words) if before.text in ("if", "elif")]
        return self.stale.used(" ".join(conditions), self._where)

    @abstractmethod
    def defines_crystal(self, words: Sequence[str]) -> bool:
        """Whether a command is part of what defines the crystal or its energy."""

    def _stale_error(self, raw: str, found: StaleRead) -> LammpsBGError:
        since, place = found.since, f"{found.file.name} line {found.line}"
        read = f"{found.word} (variable {found.variable}, {place})" if found.variable else f"{found.word} ({place})"
        numbers = {
            "": f"write the number that plain LAMMPS finds in the place of the formula with {found.word} in {place}, or ",
            "equal": f"write `variable {found.variable} equal VALUE` in {place} with the value that plain LAMMPS finds, or ",
        }
        return self._error(
            f"expected a crystal that does not depend on the result of a run, got `{' '.join(raw.split())}`, which depends on {read} after "
            f"{since.file.name} line {since.line} `{since.command}`, which was not executed; {numbers.get(found.style, '')}"
            f"put `quit` before {since.file.name} line {since.line} and relax that crystal by `lammps-bg relax`"
        )

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
        """Refuse to read files that commands left out would have written, or of the folder that `shell cd` has left."""
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
        """Say where the next command stands, outside of the reading of a file."""
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
            words = text.split()
            if words[0] == "variable" and len(words) > 2:
                self.stale.define(words, text, text, self._where)
            return None

    def _words(self, text: str) -> list[Word]:
        try:
            return split_words(text)
        except ScriptError as error:
            raise self._error(str(error)) from None

    def send(self, text: str) -> None:
        """Send a command; LAMMPS' refusal is an error of the script."""
        try:
            self.lammps.command(text)
        except Exception as error:
            raise self._lammps_error(error, text) from None

    def skip(self, text: str, reason: str) -> None:
        """List a command as not executed."""
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
        frame, ended = self._stack[-1], self._jump_skip
        self._jump_skip = False
        path = frame.path if words[1].text == "SELF" else self.files.find(words[1].text, self._folder())
        if ended and path != frame.path:
            return
        if path is None:
            path = self._find_script(words[1].text)
        lines = frame.lines if path == frame.path else self._open(path).lines
        at = self._label(lines, words[2].text) if len(words) > 2 else 0
        if at is None and not ended:
            raise self._error(f"the label '{words[2].text}' was not found in {path}")
        if at is not None and self._runs > frame.runs.get((path, at + 1), self._runs):
            self._end_pass(text, lines[at - 1 if at else 0].number, ended=ended)
        elif at is not None and not ended:
            if time.monotonic() - self._started > MAX_LOOP_SECONDS:
                raise self._endless()
            frame.path, frame.lines, frame.at = path, lines, at

    def _label(self, lines: Sequence[Line], label: str) -> int | None:
        """Index of the line after a label, or nothing."""
        for index, line in enumerate(lines):
            words = line.text.split()
            if len(words) == 2 and words[0] == "label":
                name = str(self.lammps.expand(words[1])) if "$" in words[1] else words[1]
                if name == label:
                    return index + 1
        return None

    def _next(self, text: str, words: list[Word]) -> None:
        self._need(words, 2, "next variables")
        names = [word.text for word in words[1:]]
        for name in names:
            if (value := self._keep_variable(name)) is not None:
                self._advanced[name] = value
        self.send(text)
        gone = [name for name in names if not self.lammps.has_id("variable", name)]
        self._remove(gone, text, "removed it after its last value; use it before that line or give it more values, and no -var")
        # LAMMPS deletes exhausted variables and then ignores the next jump
        self._jump_skip = bool(gone)

    # ---- loops over states: each pass ends in a run, and the first one counts

    def _prepares_next_pass(self, words: Sequence[str]) -> bool:
        """Whether a command changes the crystal between the last run of a pass and the jump to the next one."""
        if not words or words[0] == "include" or not self.defines_crystal(words):
            return False
        frame = self._stack[-1]
        for line in frame.lines[frame.at :]:
            name, *args = line.text.split() or [""]
            conditional = [command.split() for command in self.commands_of_if(line.text)] if name == "if" else []
            names = {name, *(command[0] for command in conditional if command)}
            if name == "quit" or "include" in names or names & DYNAMICS:
                return False
            if name == "jump" and args:
                return self._repeats(frame, args)
            if any(command[:1] == ["jump"] and self._repeats(frame, command[1:]) for command in conditional):
                return True
        return False

    def _repeats(self, frame: _Frame, args: Sequence[str]) -> bool:
        """Whether a jump to somewhere in the present file would begin another pass."""
        if not args or (args[0] != "SELF" and self.files.find(args[0], self._folder()) != frame.path):
            return False
        labels = {line.text.split()[1]: index + 1 for index, line in enumerate(frame.lines) if line.text.split()[:1] == ["label"]}
        at = labels.get(args[1]) if len(args) > 1 else 0
        return at is not None and self._runs > frame.runs.get((frame.path, at + 1), self._runs)

    def note_run(self, command: SkippedCommand, *, moves: bool, reshapes: bool) -> None:
        """Take note of a skipped run or the like: the variables belong to the state that it would have had."""
        self._ran = True
        self._runs += 1
        self._undo, self._advanced, self._before = [], {}, list(self.trace.commands)
        self.stale.skipped(command, moves=moves, reshapes=reshapes)

    def _keep_variable(self, name: str) -> str | None:
        """Keep what a variable is before it changes, for the end of a pass; its value where it is a text."""
        if not self.lammps.has_id("variable", name):
            return None
        definition, value = self.stale.definition(name), value_of(self.lammps, name)
        if definition is not None and definition.style in REDEFINABLE and "$" not in definition.command:
            commands = [definition.command]
        elif value is not None:
            commands = [f'variable {name} index "{value}"' if isinstance(value, str) else f"variable {name} equal {value!r}"]
        else:
            return None
        self._undo.append(partial(self._restore_variable, name, commands, definition))
        return value if isinstance(value, str) else None

    def _restore_variable(self, name: str, commands: Sequence[str], definition: Definition | None) -> None:
        for command in ([f"variable {name} delete"] if self.lammps.has_id("variable", name) else []) + list(commands):
            self.send(command)
        if definition is not None:
            self.stale.restore(name, definition)
        self.removed.pop(name, None)
        kept = set(map(id, self._before))
        self.trace.commands = [c for c in self.trace.commands if id(c) in kept or (c.kind, c.target) != ("variable", name)]

    def _remove(self, names: Iterable[str], text: str, reason: str) -> None:
        """Take note of variables that a command leaves undefined."""
        for name in names:
            self.removed[name] = SkippedCommand(*self._where, " ".join(text.split()), reason)

    def _end_pass(self, text: str, first: int, *, ended: bool) -> None:
        """Go on after a loop whose pass has had its run: what changed since, for the next pass, is taken back."""
        for undo in reversed(self._undo):
            undo()
        values = ", ".join(f"{name} = {value}" for name, value in self._advanced.items())
        flags = " and ".join(f"-var {name}" for name in self._advanced)
        self._undo, self._advanced = [], {}
        if not ended:
            counts = f"the first pass ({values}) counts" if values else "the first pass counts"
            other = f"; give {flags} for another one" if values else ""
            self.skip(text, f"begins line {first} again: {counts}, those after it are not read{other}")
            self.repeats.append(self.skipped[-1])

    def _if(self, text: str, words: list[Word]) -> None:
        if (found := self._stale_condition(self._raw)) is not None:
            self.skip(text, f"its condition needs a skipped command ({found.word} after line {found.since.line})")
            return
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
        hint += "".join(
            f"; {name}: `{gone.command}` in {gone.file.name} line {gone.line} {gone.reason}" for name, gone in self._gone_in(text)
        )
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

    def _gone_in(self, text: str) -> list[tuple[str, SkippedCommand]]:
        """The variables of a command that the script itself has removed before."""
        names = sorted(references(text) & self.removed.keys())
        return [(name, self.removed[name]) for name in names if not self.lammps.has_id("variable", name)]
