# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of `relax`: the relaxed script, and the potentials it names where it goes into another folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import Relaxed
from lammps_bg.engine.relaxed_script import commands, edited, places, renamed, script_text
from lammps_bg.errors import ConfigError, CrystalError, LammpsBGError, ScriptError
from lammps_bg.files import copy_file, place_new
from lammps_bg.study.problem import ScriptRequest

_ENDINGS = (".in", ".lmp", ".lammps", ".txt")
_EQUAL = 1e-10  # of a length: a written number read back


def target_file(script: Path, out: Path | None) -> Path:
    """Path of the relaxed script: `in.NAME_relaxed` beside the original, in the folder `out`, or the file `out`.

    Args:
        script: The original.
        out: A folder that exists or a name without a dot, or a file; None: beside the original.
    """
    name = script.stem if script.suffix in _ENDINGS else script.name.removeprefix("in.")
    if out is not None and not out.is_dir() and "." in out.name:
        return out
    return (script.parent if out is None else out) / f"in.{name}_relaxed"


def check_target(target: Path) -> None:
    """Refuse to overwrite.

    Raises:
        ConfigError: The file exists, or a file is in the place of its folder.
    """
    if target.exists():
        raise ConfigError(f"expected a new file for the relaxed script, got {target}, which exists; give another -out")


@contextmanager
def write_relaxed(
    engine: Engine, request: ScriptRequest, relaxed: Relaxed, target: Path, comments: Sequence[str]
) -> Iterator[Engine]:
    """Write the relaxed script, with its potentials where needed, and give the engine that read it back.

    Args:
        engine: The engine of the original script.
        request: That script, with the values by -var to write down.
        relaxed: The relaxed crystal.
        target: Where to write.
        comments: What made it, one line each.

    Raises:
        ConfigError: The place cannot be written to.
        ScriptError: No place in the script is found where the crystal can go in.
    """
    text = script_text(engine.script_files[0])
    made: list[Path] = []
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    written: Engine | None = None
    new_folder = not target.parent.exists()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != engine.script_files[0].parent:
            text = _bring_files(engine, text, target.parent, made)
        for place in places(engine):
            lines = commands(relaxed, engine, every_atom=place.after_run)
            content = edited(text, place, variables=request.variables, comments=comments, lines=lines)
            draft.write_bytes(content.encode("utf-8", "surrogateescape"))
            if (written := _read_back(draft, request, relaxed)) is not None:
                break
        if written is None:
            raise ScriptError(
                f"expected a place in {request.script.name} where the relaxed crystal can go in, found none; write the relaxed crystal with "
                "`write_data` after your own `minimize`, and read that"
            )
        yield written
        place_new(draft, target)  # unlike a move, it never replaces a file that appeared meanwhile
        made.clear()
    except OSError as error:
        raise ConfigError(f"expected to write {target}, got '{error.strerror}'; give another -out") from error
    finally:
        with suppress(OSError):  # the error under way matters more
            for path in (draft, *made):
                path.unlink(missing_ok=True)
            if new_folder and not target.exists():
                target.parent.rmdir()
        if written is not None:
            written.close()


def _read_back(draft: Path, request: ScriptRequest, relaxed: Relaxed) -> Engine | None:
    """The engine of a written script, if it has the relaxed crystal."""
    try:
        engine = Engine(draft, flags=replace(request.flags, log="none", screen="none"))  # the user's log is of the relaxing
    except LammpsBGError:
        return None
    if _agrees(engine, relaxed):
        return engine
    engine.close()
    return None


def _agrees(engine: Engine, relaxed: Relaxed) -> bool:
    structure, cell = engine.script_structure, relaxed.cell
    if structure.n_atoms != len(relaxed.fractional):
        return False
    off = (structure.positions - relaxed.positions) @ np.linalg.inv(cell)
    off = np.abs(off - np.rint(off)).max()
    return bool(np.abs(structure.cell - cell).max() < _EQUAL * np.abs(cell).max() and off < _EQUAL)


def _bring_files(engine: Engine, text: str, folder: Path, made: list[Path]) -> str:
    """Copy the files a script names beside it, under the same names where these stay inside the folder.

    Raises:
        ConfigError: Another file of a name is there.
        CrystalError: A name outside the folder is not written in the script itself.
    """
    for name, source in engine.reader.files.places.items():
        if source not in (*engine.potential_files, *engine.script_files) or Path(name).expanduser().is_absolute():
            continue
        inside = name
        if ".." in Path(name).parts:
            inside = f"potentials/{source.name}"
            text, count = renamed(text, name, inside)
            if not count:
                raise CrystalError(
                    f"expected the file name {name} in the script itself, got it from a variable or an include; leave -out out"
                )
        _copy(source, folder / inside, made)
    return text


def _copy(source: Path, copy: Path, made: list[Path]) -> None:
    if copy.exists():
        if copy.read_bytes() != source.read_bytes():
            raise ConfigError(f"expected no other file at {copy}, where the script's {source.name} has to be; give another -out")
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy_file(source, copy)
    made.append(copy)
