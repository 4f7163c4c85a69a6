# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a run's numbers come from: input files with hashes, versions, source revision, and the script that repeats the run."""

import hashlib
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import lammps_bg
from lammps_bg.errors import RunDirectoryError

SCHEMA = {"schema": "lammps-bg-provenance", "schema_version": 1}
_PACKAGES = ("lammps-bg", "lammps", "torch", "numpy", "scipy", "pymbar", "ase", "spglib", "networkx", "mpi4py", "mpich", "ovito")
MODELS = Path("models")
"""Where a comparison of several models keeps their runs, each in a numbered folder."""
_SCRIPT_FLAGS = ("-in", "-i")
_OUTPUT_FLAGS = ("-log", "-l", "-screen", "-sc")  # a repetition must not write to the files of the run


@dataclass(frozen=True)
class InputFile:
    """One file that a run depends on.

    Attributes:
        role: `script` (the first one is the script itself, the others it includes) or `data` (potentials and structures).
        stored: Path of the copy below the run's `inputs` folder.
        sha256: Hash of the content, hexadecimal.
    """

    role: str
    stored: str
    sha256: str


def sha256(path: Path) -> str:
    """Hash of a file's content, hexadecimal.

    Raises:
        RunDirectoryError: The file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RunDirectoryError(f"expected a readable input file {path} but the system says '{error.strerror}'") from error


def describe_inputs(scripts: Sequence[Path], data: Iterable[Path]) -> dict[Path, InputFile]:
    """Hash all inputs and choose where their copies go.

    A file that the script names relative to its own folder keeps that relative place, so the copied script finds it. All others
    go to `potentials/` or `includes/`; `stored_names` tells how the script calls them.

    Args:
        scripts: The input script, then the files it includes.
        data: Potential and structure files.
    """
    base = Path(scripts[0]).resolve().parent
    text = "\n".join(Path(path).read_text(errors="replace") for path in scripts)
    files: dict[Path, InputFile] = {}
    roles = [(Path(path).resolve(), "script") for path in scripts] + [(Path(path).resolve(), "data") for path in data]
    for path, role in roles:
        if path in files:
            continue
        hashed, inside = sha256(path), path.is_relative_to(base)
        relative = path.relative_to(base).as_posix() if inside else path.name
        kept = inside and (not files or relative in text)
        stored = relative if kept else f"{'potentials' if role == 'data' else 'includes'}/{path.name}"
        if any(other.stored == stored for other in files.values()):
            stored = f"{Path(stored).parent.as_posix()}/{hashed[:8]}/{path.name}"
        files[path] = InputFile(role, stored, hashed)
    return files


def stored_names(files: Mapping[Path, InputFile], names: Mapping[str, Path]) -> dict[str, str]:
    """Where the copies lie that the script calls by another name, such as `../pots/mW.sw`.

    Args:
        files: The inputs with their copies, by the original's path.
        names: What each name in the script stood for.
    """
    copies = {name: files[path].stored for name, path in names.items() if path in files}
    return {name: stored for name, stored in copies.items() if stored != Path(name).as_posix()}


def changes(before: Iterable[InputFile], after: Iterable[InputFile]) -> list[str]:
    """What differs between two sets of inputs, one phrase per file; empty if nothing does."""
    old, new = ({file.stored: file.sha256 for file in files} for files in (before, after))
    changed = [f"{name} has changed" for name in old if name in new and old[name] != new[name]]
    dropped = [f"{name} is no longer used" for name in old if name not in new]
    return changed + dropped + [f"{name} is new" for name in new if name not in old]


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a result may depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # an optional one
            continue
    return versions


def source_revision() -> str | None:
    """Git commit of the running source tree, with `-dirty` if files differ from it; None for an installed package."""
    root = Path(lammps_bg.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def record(
    files: Iterable[InputFile], command: Sequence[str], *, seeds: Mapping[str, int], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of provenance.json; names no host, no user and no folder of this machine but those that the user wrote."""
    return {
        **SCHEMA,
        "command": ["lammps-bg", *command],
        "seeds": dict(seeds),
        "versions": package_versions(),
        "source_revision": source_revision(),
        "inputs": [asdict(file) for file in files],
        **extra,
    }


def rerun_script(command: Sequence[str], seeds: Mapping[str, int], script: str) -> str:
    """A shell script that repeats the run from the stored copies into a new folder.

    Args:
        command: The arguments after `lammps-bg`.
        seeds: Seeds by name; `seed` is passed on unless the command has one.
        script: Stored path of the input script below `inputs`.
    """
    stored = {"-config": '"$here/config.toml"', "-out": '"$out"', "-model": '"$here"'}
    stored |= dict.fromkeys(_OUTPUT_FLAGS, "none")
    stored |= dict.fromkeys(_SCRIPT_FLAGS, '"$here/inputs/"' + shlex.quote(script))
    given = [word for word in command if word != "--resume"]
    words = [stored.get(before, other) for before, other in zip(["", *given], _with_folders(given), strict=False)]
    if "-out" not in given:
        words += ["-out", stored["-out"]]
    if "-config" not in given:
        words += ["-config", stored["-config"]]
    if "--seed" not in given and "seed" in seeds:
        words += ["--seed", str(seeds["seed"])]
    return f"""#!/bin/sh
# Repeats this run from the stored copies of its inputs: sh rerun.sh NEW_FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${{1:?usage: sh rerun.sh NEW_FOLDER}}
case $out in /*) ;; *) out=$(pwd)/$out ;; esac
export LAMMPS_POTENTIALS="$here/inputs/potentials"
cd "$here/inputs"
exec lammps-bg {" ".join(words)}
"""


def _with_folders(words: Sequence[str]) -> list[str]:
    """The words of a command for a shell elsewhere: models of a comparison are the copies, simulations have their whole path."""
    found, flag, index = [], "", 0
    for word in words:
        if word.startswith("-"):
            flag, index = word, 0
            found.append(shlex.quote(word))
        elif flag == "-models":
            found.append(f'"$here"/{shlex.quote(str(MODELS / str(index) / Path(word).absolute().name))}')
            index += 1
        else:
            found.append(shlex.quote(str(Path(word).absolute()) if flag == "-md" else word))
    return found
