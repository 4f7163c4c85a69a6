# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line inside a test: tiny scripts and runs, what was said, and what changed on disk."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lammps_scripts import INPUTS

from lammps_bg.cli import main

LJ = (INPUTS / "in.lj_fcc").read_text()
MW = (INPUTS / "in.mw_cubic").read_text()
SMALL = (
    "base.iterations=1 base.pilot_steps=0 base.n_samples=50 flow.width=8 flow.n_bins=2 train.steps=6 train.batch_size=16 train.evaluate_samples=16 "
    "sample.n_samples=64 sample.n_dump=0 exact.mode=never estimate.n_bootstraps=50 estimate.report=false"
)
SMALL_MD = (
    "md.n_frames=50 md.window_frames=50 md.target_error=0.05 md.damp=0.1 md.sample_every=20 md.n_dump=20 sample.picture=false "
    "estimate.n_bootstraps=50 estimate.rdf_samples=20 estimate.report=false"
)
TINY = [word for entry in SMALL.split() for word in ("--set", entry)] + ["--allow-red"]
TINY_MD = [word for entry in SMALL_MD.split() for word in ("--set", entry)]  # times are those of units lj


@dataclass
class Spoken:
    """What one call of the command did.

    Attributes:
        code: Exit code.
        out: Standard output.
        error: Standard error.
        changed: Files that appeared, vanished or changed, relative to the folder.
    """

    code: int
    out: str
    error: str
    changed: set[str]


def contents(folder):
    """Hash of every file and None for every folder, by relative path."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else None for p in paths}


def use(patch, folder):
    """Work in a folder, on one thread, with no potentials from elsewhere."""
    patch.chdir(folder)
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("LAMMPS_POTENTIALS", "")


def call(capsys, folder, *words):
    """Run `lammps-bg words...` in this process; `folder` is the current one."""
    before = contents(folder)
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    after = contents(folder)
    changed = {name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0)}
    return Spoken(code, captured.out, captured.err, changed)


def mw_crystal(folder):
    """The mW script with its potential beside it."""
    (folder / "potentials").mkdir()
    shutil.copy(INPUTS / "potentials" / "mW.sw", folder / "potentials")
    (folder / "in.mw").write_text(MW)
    return Path("in.mw")
