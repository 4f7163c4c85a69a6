# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a user's LAMMPS script into a LAMMPS instance: what defines the crystal is sent, what acts is skipped and listed."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from lammps_bg.engine.library import Lammps, lammps_message
from lammps_bg.engine.script import rules
from lammps_bg.engine.script.files import may_name_file
from lammps_bg.engine.script.interpreter import Interpreter, Quit
from lammps_bg.engine.script.left_out import LeftOut, SkippedCommand
from lammps_bg.engine.script.rules import ScriptFix
from lammps_bg.engine.script.text import Word, quoted
from lammps_bg.engine.script.trace import Kind, Trace, TracedCommand, references
from lammps_bg.engine.script.variables import OVERRIDABLE, STATE_NAMES, StaleReads, clash, group_token, is_number
from lammps_bg.errors import ScriptError

# they only define what others may use
_WITHOUT_EFFECT = frozenset(("variable", "compute", "compute_modify", "group"))
# the same on one partition, and without LAMMPS' lock files
_ONE_PARTITION = {"universe": "index", "uloop": "loop", "world": "index"}


@dataclass(frozen=True)
class Relaxation:
    """A skipped command that would have relaxed the crystal.

    Attributes:
        command: The command.
        fix: The fix that would have changed the cell; empty where only the atoms would have moved.
        target: The pressure that the fix aims at, pressure units, where it has one.
    """

    command: SkippedCommand
    fix: str
    target: float | None

    @property
    def strains(self) -> bool:
        """Whether it would have strained the cell instead."""
        return " deform" in self.fix


class ScriptReader(Interpreter):
    """Interprets a LAMMPS script with no effect but on the LAMMPS instance.

    Attributes:
        removed_fixes: `ID style` of fixes that were left out.
        kept_fixes: Style by ID of the fixes LAMMPS has.
        fixes: All fixes in force by ID, left out or not.
        run_fixes: Those in force at the last `run`.
        charge_fixes: Commands by ID, as sent, of those of them that set charges.
        pair_style: Words of the last pair_style command.
        pair_coeffs: Words of each pair_coeff command of the pair style in use.
        pair_modify: Words of its pair_modify commands, in order.
        neighbor: Words of the last `neighbor` command.
        kspace: The kspace commands.
        minimiser: The min_style and min_modify commands.
        relaxation: The first skipped command that would have relaxed the cell of the present crystal, else its atoms; or nothing.
        cleared: The `clear` that removed another crystal before this one, or nothing.
        set_aside: Variables by -var of which the script has an own one, which it keeps; see `state_variable`.

    Args:
        lammps: The LAMMPS instance.
        script: The script file.
        variables: Index variables set before the script, as by -var.
        prologue: Commands sent before the script and again after each `clear`.
    """

    def __init__(
        self,
        lammps: Lammps,
        script: Path,
        variables: Mapping[str, Sequence[str]],
        prologue: Sequence[str] = (),
    ) -> None:
        super().__init__(lammps, script)
        self._variables = dict(variables)
        self._prologue = prologue
        self.removed_fixes: list[str] = []
        self.cleared: SkippedCommand | None = None
        # a `clear` that waits for the next crystal: after the last command of a loop over states there may be none
        self._clearing: SkippedCommand | None = None
        self.set_aside: set[str] = set()
        self._forget()
        self._handlers |= {
            "fix": self._fix,
            "fix_modify": self._of_fix,
            "unfix": self._of_fix,
            "print": self._print,
            "variable": self._variable,
            "clear": self._clear,
            "shell": self._shell,
            "uncompute": self._of_compute,
            "compute_modify": self._of_compute,
        }

    def _forget(self) -> None:
        """Forget what `clear` undoes."""
        self.kept_fixes: dict[str, str] = {}
        self.charge_fixes: dict[str, list[str]] = {}
        self.pair_style: list[str] = []
        self.pair_coeffs: list[list[str]] = []
        self.pair_modify: list[str] = []
        self.neighbor: list[str] = []
        self.kspace: list[str] = []
        self.minimiser: list[str] = []
        self.fixes: dict[str, ScriptFix] = {}
        self.run_fixes: list[ScriptFix] = []
        self._computes: list[tuple[tuple[Path, int], str, str]] = []  # place, style and what it is made for that is not sampled
        self.relaxation: Relaxation | None = None
        self._integrators: dict[str, list[str]] = {}  # words of the fixes in force that LAMMPS did not get, by ID
        self._gone: set[str] = set()  # ids of fixes and computes that LAMMPS did not get

    def read(self) -> None:
        """Read the script.

        Raises:
            ScriptError: LAMMPS refuses a command, or the script does not end.
            PotentialError: LAMMPS refuses the potential.
        """
        for name, values in self._variables.items():
            self.send(f"variable {name} index " + " ".join(quoted(value) for value in values))
        self._send_prologue()
        with contextlib.suppress(Quit):
            self.run_file(self._script)
        if self._clearing is not None:
            self.skipped.append(replace(self._clearing, reason="no other crystal follows it"))
            self._clearing = None
        self._require_free_states()

    def _require_free_states(self) -> None:
        """Refuse T, P or Lambda by -var where the script's own variable of that name is a plain number, or makes the crystal."""
        for name in sorted(self.set_aside):
            first, *others = self.stale.history(name)
            place = f"{first.file.name} line {first.line}"
            if not others and is_number(first.text) and first.style in ("equal", "string", "internal"):
                raise ScriptError(f"{place}: {clash(first, name, self.lammps)}")
            if (user := self._user_of(name)) is None:
                continue
            if self.stale.state_word(name):
                raise ScriptError(
                    f"{place}: expected -var {name} for a variable that the script leaves free, got {user}, which depends on its own "
                    f"{first}; rename that variable in the script"
                )
            raise ScriptError(f"{place}: {clash(first, name, self.lammps)}, since {user} depends on it")

    def _user_of(self, name: str) -> TracedCommand | None:
        """The first command that makes the crystal or its energy with a variable."""
        names = self.trace.dependent([name])
        return next((command for command in self.trace.commands if command.uses & names and self._defines(command)), None)

    def _defines(self, command: TracedCommand) -> bool:
        if command.name == "if":
            return any(self.defines_crystal(part.split()) for part in self.commands_of_if(command.raw))
        return command.kind in ("potential", "crystal") and command.name not in rules.FOLLOWING

    def require_free_atoms(self) -> None:
        """Refuse fixes, still in force, that hold, drive or exchange atoms, and computes of degrees of freedom that are not sampled.

        Raises:
            ScriptError: There is one.
        """
        for fix in self.fixes.values():
            if clause := rules.fix_refusal(fix.style):
                self._where = (fix.file, fix.line)
                raise self._error(rules.refused_fix(fix, clause))
        for where, style, what in self._computes:
            self._where = where
            raise self._error(rules.unsampled_sentence(f"compute {style}", what))

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """Send commands of the trace again meanwhile, from the state before any pair style."""
        trace, skipped, left_out, stale = self.trace, self.skipped, self.left_out, self.stale
        self.trace, self.skipped, self.left_out, self.stale, self._count = Trace(self.lammps), [], LeftOut(), StaleReads(), 0
        self.kspace.clear()
        try:
            self.send("pair_style none")  # re-issued, a pair style would keep settings and files of before
            yield
        finally:
            self.trace, self.skipped, self.left_out, self.stale, self._stack = trace, skipped, left_out, stale, []

    def repeat(self, command: TracedCommand, *, anew: bool) -> None:
        """Execute a command of the trace once more, from within `replaying`."""
        self.place(command.file, command.line)
        with self.files.within(command.folder):
            self.dispatch(command.raw if anew else command.text)

    def execute(self, text: str, words: list[Word]) -> None:
        """Send a command that defines the crystal, skip one that acts."""
        name = words[0].text
        if name in rules.SKIPPED:
            self.skip(text, rules.SKIPPED[name])
            if name in rules.DYNAMICS:
                self._skip_dynamics(self.skipped[-1], [word.text for word in words])
            if name == "run":
                self.run_fixes = list(self.fixes.values())
            if name == "quit":
                raise Quit
        elif name == "labelmap" and words[1:] and words[1].text == "write":
            self.skip(text, "writes files")
        elif name not in rules.ALLOWED and self.lammps.has_style("command", name):
            self.skip(text, "not needed to define the crystal")
        elif name not in rules.REPLACED:
            self._define(text, words)

    def defines_crystal(self, words: Sequence[str]) -> bool:
        """Whether a command is part of what defines the crystal or its energy."""
        name = words[0] if words else ""
        if name == "fix":
            return len(words) > 3 and rules.fix_is_kept(words[3])
        if name == "unfix":
            return len(words) > 1 and words[1] in self.kept_fixes
        return name == "include" or (name in rules.ALLOWED and name not in rules.FOLLOWING)

    def _skip_dynamics(self, command: SkippedCommand, words: list[str]) -> None:
        """Take note of what a run, a minimisation or the like would have changed."""
        self._forget_cleared()
        name = words[0]
        moves = not (name == "run" and words[1:2] == ["0"]) and not (name == "minimize" and words[3:4] == ["0"])
        fixes = [fix for fix in self._integrators.values() if moves and rules.fix_reshapes(fix[3], name)]
        self.note_run(command, moves=moves, reshapes=bool(fixes) or name in ("rerun", "temper/npt"))
        if fixes and not (self.relaxation and self.relaxation.fix):
            self.relaxation = Relaxation(command, " ".join(fixes[-1]), _target(fixes[-1]))
        elif moves and name == "minimize" and self.relaxation is None:
            self.relaxation = Relaxation(command, "", None)

    def _expand(self, text: str) -> str | None:
        """Substitute variables; what is left out in any case may lack the result of a run."""
        words = text.split()
        fix = words[0] == "fix" and len(words) > 3 and not rules.fix_is_kept(words[3])
        if self._ran and (fix or words[0] in rules.SKIPPED or words[0] in rules.REPLACED):
            with contextlib.suppress(Exception):  # LAMMPS raises plain Exception
                return str(self.lammps.expand(text))
            return text
        return super()._expand(text)

    def lacks(self, text: str) -> bool:
        """Whether a command names a fix or compute that was left out."""
        return any(name in self._gone for name in re.findall(r"\b[fcC]_(\w+)", text))

    def _define(self, text: str, words: list[Word], files: frozenset[str] = frozenset()) -> None:
        """Send a command, with the files it names found, unless it fails only for something that was left out."""
        name, args, said = words[0].text, words[1:], text
        if name not in ("variable", "print", "echo"):
            self._forget_cleared()
        if name in rules.FILE_COMMANDS:
            at = rules.FILE_WORD.get(name, len(args))
            self._require_files(args[at : at + 1])
            self._require_files(args, certain=False)
            if name == "read_restart" or not any("*" in word.text for word in args[at : at + 1]):
                args = [*args[:at], *map(self._file_word, args[at : at + 1]), *args[at + 1 :]]
        files |= self._generated_in(words[1:])
        if name in rules.FILE_COMMANDS:
            text = " ".join([name, *self.files.resolve(args, self._folder())])
        self._note(name, [word.text for word in args])
        if name == "group" and args:
            by = f" v_{args[2].text}" if [word.text for word in args[1:2]] == ["variable"] and len(args) > 2 else ""
            self.stale.make(group_token(args[0].text), self._raw + by, self._where)
        try:
            self.lammps.command(text)
            self._remember(name, said, files)
        except Exception as error:  # LAMMPS raises plain Exception
            # whatever shapes the crystal or its potential cannot be left out
            if name not in _WITHOUT_EFFECT or not ((self._ran and name != "compute_modify") or self.lacks(text)):
                raise self._lammps_error(error, text) from None
            self.skip(text, "needs a command that was skipped")
            if name == "compute" and args:
                self._gone.add(args[0].text)

    def _file_word(self, word: Word) -> Word:
        """A word that names a file and does not look like it, such as `a`, `r.*` or `r.%`, which LAMMPS would look for where it started."""
        if may_name_file(word.text) and "%" not in word.text:
            return word
        path = self.files.find(word.text, self._folder())
        if path is not None:
            self.files.record(path)
        elif not self.files.moved:
            return word
        name = str(path or self.files.absolute(word.text))
        return Word(quoted(name), name)

    def _remember(self, name: str, text: str, files: frozenset[str]) -> None:
        """Put a command that LAMMPS took into the trace."""
        if name in rules.HARMLESS:
            return
        kind: Kind = "variable" if name == "variable" else "potential" if name in rules.POTENTIAL else "crystal"
        words = self._raw.split()
        uses, target = references(self._raw) | files, words[1] if kind == "variable" else ""
        if kind == "variable" and words[2] == "format":
            uses |= {words[3]}
        self.trace.add(kind, self._raw, text, self._where, uses=uses, target=target)

    def _note(self, name: str, args: list[str]) -> None:
        """Remember what the engine needs to know later."""
        if name == "compute" and len(args) > 2 and (what := rules.unsampled_compute(args[2])):
            self._computes.append((self._where, args[2], what))
        if name == "pair_style":
            self.pair_style = args
            self.pair_coeffs.clear()
            self.pair_modify.clear()
        elif name == "pair_coeff":
            self.pair_coeffs.append(args)
        elif name == "pair_modify":
            self.pair_modify += args
        elif name == "neighbor":
            self.neighbor = args
        elif name == "change_box" and all((axis, "final") in pairwise(args) for axis in "xyz"):
            self.stale.reshaped = None  # whatever the cell was
            self.relaxation = None
        elif name.startswith("kspace_"):
            self.kspace.append(" ".join([name, *args]))
        elif name in ("min_style", "min_modify"):
            self.minimiser.append(" ".join([name, *args]))

    def _clear(self, text: str, words: list[Word]) -> None:
        """After a run, wait with it until another crystal begins: as the last command it would leave nothing."""
        self._forget_cleared()
        self._clearing = SkippedCommand(*self._where, text, "")
        if not self.stale.ran:
            self._forget_cleared()

    def _forget_cleared(self) -> None:
        """Do the `clear` that waits."""
        if self._clearing is None:
            return
        if self.lammps.extract_setting("box_exist"):
            self.cleared = self._clearing
        self._clearing = None
        self.send("clear")
        self._forget()
        self.stale.crystal_is_new()
        self.trace.clear()
        self._send_prologue()

    def _send_prologue(self) -> None:
        for command in self._prologue:
            self.send(command)

    def _fix(self, text: str, words: list[Word]) -> None:
        """Keep what belongs to the energy, remove what moves atoms or writes files; the end of the script is what is refused or not."""
        self._need(words, 4, "fix ID group-ID style args")
        name, style = words[1].text, words[3].text
        self.fixes[name] = ScriptFix(name, words[2].text, style, *self._where, self._fix_command(words))
        if rules.fix_is_kept(style):
            self._gone.discard(name)
            self.kept_fixes[name] = rules.base_style(style)
            self._define(text, words)
            if rules.fix_sets_charges(style):
                self.charge_fixes[name] = [self.fixes[name].command]
            return
        self.removed_fixes.append(f"{name} {style}")
        self._gone.add(name)
        self.left_out.add(self._here(text, "it acts during a run"), self.files.absolute("."))
        self._integrators[name] = [word.text for word in words]

    def _fix_command(self, words: list[Word]) -> str:
        """A fix command that can be sent, with its files found; of a fix that LAMMPS never gets as it stands, since its files may be output."""
        style = words[3].text
        if rules.fix_refusal(style) or rules.fix_is_innocent(style):
            return " ".join(word.raw for word in words)
        if not rules.fix_is_kept(style) and not self.lammps.has_style("fix", style):
            raise self._error(
                f"expected a fix style of this LAMMPS, got '{style}'; check its spelling, or install a LAMMPS Python library that has it"
            )
        return " ".join(["fix", *self.files.resolve(words[1:], self._folder())])

    def _of_fix(self, text: str, words: list[Word]) -> None:
        """fix_modify and unfix, of a fix that LAMMPS may not have got."""
        self._need(words, 2, f"{words[0].text} ID")
        name = words[1].text
        if words[0].text == "unfix":
            self.fixes.pop(name, None)
            self._integrators.pop(name, None)
        if name not in self._gone:
            self.send(text)
            if words[0].text == "unfix":
                self.kept_fixes.pop(name, None)
                self.charge_fixes.pop(name, None)
            elif name in self.charge_fixes:
                self.charge_fixes[name].append(text)

    def _of_compute(self, text: str, words: list[Word]) -> None:
        """Uncompute and compute_modify, of a compute that LAMMPS may not have got."""
        self._need(words, 2, f"{words[0].text} ID")
        if words[1].text not in self._gone or self.lammps.has_id("compute", words[1].text):
            self._define(text, words)

    def _shell(self, text: str, words: list[Word]) -> None:
        """Follow `shell cd` without changing the working directory of this process; remember what the others would have done."""
        self._need(words, 2, "shell command args")
        kind, args = words[1].text, [word.text for word in words[2:]]
        if kind == "cd":
            self._change_folder(text, args)
            return
        self.skip(text, rules.SKIPPED["shell"])
        if kind == "mkdir":
            self.files.make(*args)
        elif kind == "putenv":
            self.files.environment |= {name: value for name, _, value in (arg.partition("=") for arg in args)}

    def _change_folder(self, text: str, args: list[str]) -> None:
        if len(args) != 1:
            raise self._error(f"expected `shell cd FOLDER`, got '{text}'")
        looked_in = ", ".join(dict.fromkeys(map(str, (self.files.absolute("."), self._folder()))))
        if not self.files.move(args[0]):
            cure = self._may_be_made(Path(args[0]).name) or "make it, or take the line out of the script"
            raise self._error(f"expected a folder in `{text}`, got {args[0]}, which is none (looked in: {looked_in}); {cure}")
        self.trace.folder = self.files.moved

    def _print(self, text: str, words: list[Word]) -> None:
        """Printing to a file goes to a private copy; printing to the screen never stops the reading."""
        if any(word.text in ("file", "append") for word in words[2:]):
            self._print_to_file(words)
            return
        try:
            self.lammps.command(text)
        except Exception as error:
            self.skip(text, lammps_message(error))

    def _print_to_file(self, words: list[Word]) -> None:
        """Print to a private copy of the file, for commands that read it; until one does, the command counts as skipped."""
        redirected, name, whole = list(words), "", True
        for at, word in enumerate(words[:-1]):
            if at > 1 and word.text in ("file", "append"):
                name = words[at + 1].text
                whole = word.text == "file" or self.left_out.file(self.files.absolute(name)) is None
                path = self.files.generate(name, append=word.text == "append", current=self._folder())
                redirected[at + 1] = Word(f'"{path}"', str(path))
        text = " ".join(word.raw for word in words)
        self.skip(text, "writes files")
        if not name:
            return
        try:
            self.lammps.command(" ".join(word.raw for word in redirected))
        except Exception:  # LAMMPS raises plain Exception: its text needs a skipped command
            return
        if whole:
            self.left_out.wrote(self.files.absolute(name))
        token = self.files.token(name)
        self.stale.make(token, self._raw, self._where)
        self._unread.setdefault(token, []).append(self.skipped[-1])
        self.trace.add("file", self._raw, text, self._where, uses=references(self._raw), target=token)

    def _variable(self, text: str, words: list[Word]) -> None:
        self._need(words, 3, "variable name style args")
        name, style = words[1].text, words[2].text
        if style == "python":
            self.skip(text, rules.SKIPPED["python"])
            self._remove([name], text, f"was not executed; write `variable {name} index VALUE` in its place")
            return
        args, files = [word.raw for word in words[3:]], frozenset[str]()
        if style == "getenv" and args and args[0] in self.files.environment:
            style, args = "string", [quoted(self.files.environment[args[0]])]
        if style in ("file", "atomfile"):
            self._require_files(words[3:])
            files = self._generated_in(words[3:])
            args = [self._named_file(self._file_word(word)) for word in words[3:4]]
        sent = " ".join(["variable", name, _ONE_PARTITION.get(style, style), *args])
        if style not in OVERRIDABLE or not self.lammps.has_id("variable", name):  # LAMMPS passes over others
            self._keep_variable(name)
            self.stale.define([word.text for word in words], self._raw, sent, self._where)
            self._give_way(name, style)
        if style == "delete":
            self._remove([name], text, "removed it; use it before that line")
        self._define(sent, words[:2], files)

    def _next(self, text: str, words: list[Word]) -> None:
        """A state by -var outlives its last `next`: the loop ends, and the state is that one."""
        super()._next(text, words)
        for name in sorted({word.text for word in words[1:]} & self.removed.keys() & self._variables.keys()):
            if name in STATE_NAMES:
                self.send(f"variable {name} index {quoted(self._variables[name][-1])}")
                del self.removed[name]

    def _named_file(self, word: Word) -> str:
        """The file that a word names, whatever it looks like, as a word for LAMMPS."""
        path = self.files.find(word.text, self._folder())
        if path is None:
            return word.raw
        self.files.record(path)
        return f'"{path}"'

    def _give_way(self, name: str, style: str) -> None:
        """Where the script defines a variable of its own with the name of one by -var, that one is set aside, or refused."""
        if name not in self._variables or name in self.set_aside or style in (*OVERRIDABLE, "delete"):
            return
        if not self.lammps.has_id("variable", name):
            return
        definition = self.stale.history(name)[-1]
        if name in STATE_NAMES:
            self.set_aside.add(name)
            self.send(f"variable {name} delete")
        elif self.stale.state_word(name):
            raise self._error(
                f"expected -var {name} for a variable that the script leaves free, got one that it computes, `{definition.command}`; "
                f"leave -var {name} out"
            )
        else:
            raise self._error(clash(definition, name, self.lammps))


def _target(fix: list[str]) -> float | None:
    """The pressure that a fix brings the cell to, pressure units, where it has one."""
    for before, word in pairwise(fix[4:]):
        if before in ("iso", "aniso", "tri", "x", "y", "z") and not fix[3].startswith("deform"):
            try:
                return float(word)
            except ValueError:
                return None
    return None
