# SPDX-License-Identifier: GPL-2.0-or-later
"""`report`, and what every command leaves for the eyes: pictures, an OVITO session, the HTML report."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lammps_bg.config import Config
from lammps_bg.report.console import Console
from lammps_bg.report.html import write_report
from lammps_bg.report.ovito_session import save_session
from lammps_bg.report.picture import Colour, render_samples
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.problem import Problem


def report(path: Path, console: Console) -> None:
    """Write report.html and its figures from the files of a finished run.

    Raises:
        LammpsBGError: The run is not finished, or matplotlib is missing.
    """
    console.say(f"report     {write_report(RunDirectory.open(path, writable=True))}")


def illustrate(problem: Problem, run: RunDirectory, dumps: Sequence[str], console: Console) -> None:
    """Draw the first of some dump files and write an OVITO session that opens each, where OVITO can on this machine.

    Args:
        problem: Crystal and units.
        run: The run directory.
        dumps: Names of the dump files, such as samples.dump.gz; those that do not exist are left out.
        console: Where to say what could not be made.
    """
    paths = [run.file(dump) for dump in dumps if run.file(dump).exists()]
    crystal = problem.crystal
    sites, unit = crystal.sites[np.argsort(crystal.atom_ids)], problem.units.labels.length
    colour: Colour = "species" if len(set(crystal.species)) > 1 else "displacement"

    def picture(path: Path) -> None:
        render_samples(path, _beside(path, "png"), sites=sites, length_unit=unit, labels=crystal.labels, colour=colour)

    def session(path: Path) -> None:
        save_session(path, _beside(path, "ovito"), sites=sites, length_unit=unit, labels=crystal.labels)

    for path in paths[:1]:  # a picture takes longer than all else here
        attempt("picture", partial(picture, path), console)
    for path in paths:
        attempt("session", partial(session, path), console)


def _beside(dump: Path, ending: str) -> Path:
    """The file of a dump's name with another ending."""
    return dump.with_name(f"{dump.name.removesuffix('.dump.gz')}.{ending}")


def attempt(what: str, make: Callable[[], object], console: Console) -> None:
    """Make something for the eyes, without which a run is complete.

    Args:
        what: Its name.
        make: Makes it.
        console: Where to say why there is none.
    """
    try:
        make()
    except Exception as error:  # OVITO and graphics drivers raise whatever they like
        console.say(f"{what:<10} none: {error or type(error).__name__}")


def finish(run: RunDirectory, config: Config, console: Console) -> None:
    """The HTML report at the end of a command, if it is wanted.

    Args:
        run: The run directory.
        config: The configuration.
        console: Where to say where it is, or why there is none.
    """
    if config.estimate.report:
        attempt("report", lambda: console.say(f"report     {write_report(run)}"), console)
