# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of a script that were left out, and the files that a later command misses of them; for values see `stale_reads`."""

import fnmatch
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lammps_bg.engine.script.text import split_words
from lammps_bg.errors import ScriptError

# of the words of a command, the one that is the file it writes
_WRITTEN_WORD = {
    **dict.fromkeys(("write_restart", "write_data", "write_coeff", "group2ndx", "region2vmd"), 1),
    **dict.fromkeys(("write_dump", "angle_write", "dihedral_write"), 3),
    **dict.fromkeys(("dump", "bond_write"), 5),
    "log": 1,
    "labelmap": 2,
    "pair_write": 7,
}
_WRITTEN_AFTER = frozenset(("file", "append", "overwrite", "output"))  # and the words that name a file after them
_HAVE_SUCH_WORDS = frozenset(("fix", "print", "info", "dynamical_matrix", "third_order", "geturl"))
_COPYING = frozenset(("cp", "mv", "ln", "install", "rsync", "scp"))
_REMOVING = frozenset(("rm", "rmdir", "unlink"))
_UNPACKING = frozenset(("gunzip", "bunzip2", "unxz", "unzstd", "gzip", "bzip2", "xz", "zstd"))
_DOWNLOADING = frozenset(("wget", "curl"))
# programs that change none of the files they are given
_PROGRAMS = """
    cat cd chmod chown cmp date diff du echo egrep exit export file grep head less ls md5sum mkdir more printf putenv pwd sha1sum sha256sum
    sleep sort stat tail test touch true wc
"""
_READING = frozenset(_PROGRAMS.split())
_COMMAND_ENDS = frozenset((";", "&&", "||", "|", "&"))


@dataclass(frozen=True)
class SkippedCommand:
    """A command of the script that was not executed.

    Attributes:
        file: The script file.
        line: Line number in it.
        command: The command as written, after substitution.
        reason: Why it was skipped.
    """

    file: Path
    line: int
    command: str
    reason: str


@dataclass(frozen=True)
class Change:
    """What a command would have done to a file.

    Attributes:
        name: The file as the command names it; its wildcards are those of LAMMPS or of a shell.
        verb: What would have happened to it, a participle.
        source: What it would have been copied from, or nothing.
    """

    name: str
    verb: str = "written"
    source: str = ""


@dataclass(frozen=True)
class MissingFile:
    """A file that a command left out would have changed.

    Attributes:
        command: The command.
        change: What it would have done.
        folder: The script's working directory at that time.
    """

    command: SkippedCommand
    change: Change
    folder: Path


class LeftOut:
    """What the commands left out would have provided to later ones."""

    def __init__(self) -> None:
        self._commands: list[SkippedCommand] = []
        self._files: list[MissingFile] = []

    def add(self, command: SkippedCommand, folder: Path) -> None:
        """Remember a command."""
        words = _words(command.command)
        self._commands.append(command)
        self._files += [MissingFile(command, change, folder) for change in changes(words)]

    def wrote(self, path: Path) -> None:
        """Say that a file is there, whole and new, whatever was left out before."""
        self._files = [missing for missing in self._files if not _names(missing, path)]

    def file(self, path: Path) -> MissingFile | None:
        """The last command left out that would have changed a file, if any."""
        found = (missing for missing in reversed(self._files) if _names(missing, path))
        return next((missing for missing in found if not _copied_before(missing, path)), None)

    def program(self, name: str) -> SkippedCommand | None:
        """The last program left out that may have made a file or folder: one that mentions it, else any."""
        programs = [command for command in self._commands if command.command.split()[0] in ("shell", "python", "geturl")]
        programs = [command for command in programs if command.command.split()[1:2] != ["putenv"]]
        naming = [command for command in programs if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", command.command)]
        return next(iter([*reversed(naming), *reversed(programs)]), None)


# ---- what a command does to files


def changes(words: Sequence[str]) -> list[Change]:
    """The files that a command would change, were it executed."""
    if not words:
        return []
    name = words[0]
    if name == "shell":
        return list(_of_shell(words[1:]))
    if name == "restart":
        roots = words[2:4]
        return [Change(root if "*" in root or len(roots) > 1 else f"{root}.*") for root in roots]
    found = [Change(words[at]) for at in [_WRITTEN_WORD.get(name, len(words))] if at < len(words) and words[at] != "none"]
    if name in _HAVE_SUCH_WORDS:
        pairs = zip(words[1:], words[2:], strict=False)
        found += [Change(file) for before, file in pairs if before in _WRITTEN_AFTER and not file.startswith("v_")]
    if name == "geturl" and "output" not in words:
        found += [Change(url.rsplit("/", 1)[-1]) for url in words[1:2]]
    if name in ("run", "if"):  # `run ... every N "command"`, and the commands of an `if` that was not decided
        found += [change for word in words[1:] for change in changes(_words(word))]
    return found


def _of_shell(words: Sequence[str]) -> Iterator[Change]:
    """What the commands of a shell do to files; of a program unknown here every word may be a file it writes."""
    lexer = shlex.shlex(" ".join(words), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        parts = list(lexer)
    except ValueError:  # a quote without its end
        parts = " ".join(words).split()
    command: list[str] = []
    for part in [*parts, ";"]:
        if part in _COMMAND_ENDS:
            yield from _of_program(command)
            command = []
        else:
            command.append(part)


def _of_program(words: list[str]) -> Iterator[Change]:
    yield from (Change(file) for before, file in zip(words, words[1:], strict=False) if before in (">", ">>", "&>", ">|", ">&"))
    words = list(_without_redirections(words))
    while words and "=" in words[0]:  # settings of the environment
        words.pop(0)
    if not words or (name := Path(words[0]).name) in _READING:
        return
    args = [word for word in words[1:] if not word.startswith("-")]
    if name in _COPYING and len(args) > 1:
        *sources, target = args
        into = target.endswith("/") or target in (".", "..") or len(sources) > 1
        verb = {"mv": "moved", "ln": "linked"}.get(name, "copied")
        for source in sources:
            inside = into and not (name == "rsync" and source.endswith("/"))  # which means what the folder holds
            yield Change(f"{target.rstrip('/')}/{Path(source).name}" if inside else target, verb, source)
    elif name in _REMOVING:
        yield from (Change(word, "removed") for word in args)
    elif name in _UNPACKING:
        yield from (Change(word.rsplit(".", 1)[0]) for word in args)
    elif name in _DOWNLOADING:
        yield from (Change(word.rsplit("/", 1)[-1]) for word in args)
    else:
        yield from (Change(word) for word in args if any(c.isalpha() for c in word))


def _without_redirections(words: list[str]) -> Iterator[str]:
    passed = iter(words)
    for word in passed:
        if word in ("<", ">", ">>", "&>", ">|", ">&"):
            next(passed, None)
        else:
            yield word


def _words(text: str) -> list[str]:
    try:
        return [word.text for word in split_words(text)] or [""]
    except ScriptError:
        return text.split() or [""]


def _names(missing: MissingFile, path: Path) -> bool:
    """Whether a change is one of this file; either may have wildcards."""
    changed, wanted = _absolute(missing.folder, missing.change.name), str(path)
    if changed == wanted or fnmatch.fnmatchcase(changed, _pattern(wanted)) or origin(missing, path) is not None:
        return True
    if missing.command.command.split()[0] == "shell":
        return fnmatch.fnmatchcase(wanted, _pattern(changed))
    return re.fullmatch(re.escape(changed).replace(r"\*", r"\d+"), wanted) is not None


def origin(missing: MissingFile, path: Path) -> Path | None:
    """What a file would have been copied from, or nothing where the command would not have made it as a copy."""
    if not missing.change.source:
        return None
    target, source = (Path(_absolute(missing.folder, name)) for name in (missing.change.name, missing.change.source))
    if path == target:
        return source
    if "*" in source.name:
        return source.with_name(path.name) if fnmatch.fnmatchcase(str(path), _pattern(str(target))) else None
    if target not in path.parents:
        return None
    parts = path.relative_to(target).parts  # into a folder, which `cp a b` does not tell from a new name
    return source.joinpath(*parts[1:]) if parts[0] == source.name else source.joinpath(*parts)


def _absolute(folder: Path, name: str) -> str:
    return os.path.normpath(folder / name)


def _pattern(path: str) -> str:
    """A path as a pattern in which the star alone is a wildcard."""
    return path.replace("[", "[[]").replace("?", "[?]")


def _copied_before(missing: MissingFile, path: Path) -> bool:
    """Whether a copy is there that equals what it is a copy of, so that nothing is missing."""
    source = origin(missing, path)
    if source is None or missing.change.verb == "moved":
        return False
    try:
        return source.is_file() and path.is_file() and source.read_bytes() == path.read_bytes()
    except OSError:
        return False
