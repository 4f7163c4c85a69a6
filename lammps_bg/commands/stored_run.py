# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading back a run from its folder: its request, its model, its samples."""

import csv
import logging
import warnings
from pathlib import Path

import numpy as np

from lammps_bg.config import Config, load_config
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import RunDirectoryError
from lammps_bg.progress import Reporter
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.applying import StoredModel, applied, conditional
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.training import Trained
from lammps_bg.training.model_file import load_model, reference_cell

log = logging.getLogger(__name__)


def with_model(source: Path, *, writable: bool = False) -> RunDirectory:
    """The run in a folder that has a trained model.

    Args:
        source: The folder.
        writable: Whether the caller is going to write to it.

    Raises:
        RunDirectoryError: It holds no run, or one whose training has not ended.
    """
    run = RunDirectory.open(source, writable=writable)
    if not run.file("model.pt").exists():
        if run.file("trajectories").exists():
            raise RunDirectoryError(
                f"expected a run with a trained flow for -model, got one of `lammps-bg md` in {source}; give the flow's run"
            )
        raise RunDirectoryError(
            f"expected a finished training in {source}, got a run without model.pt; continue it with --resume"
        )
    return run


def stored_request(run: RunDirectory) -> ScriptRequest:
    """The request a run was started with, on its own copies of script and potentials and without its log files."""
    stored = run.read_json("provenance.json").get("request")
    if stored is None:
        raise RunDirectoryError(
            f"expected a run of `lammps-bg run` or `train` in {run.path}, got one of another command; give another folder"
        )
    flags = stored["flags"]
    flags |= {"package": tuple(map(tuple, flags["package"])), "log": "none", "screen": "none"}
    return ScriptRequest(
        run.script,
        stored["variables"],
        tuple(stored["replicate"]),
        LammpsFlags(**flags),
        tuple(stored["elements"]),
        stored=True,
        strain=stored.get("strain", {}),
    )


def chosen_before(run: RunDirectory) -> str | None:
    """The energy source that a run was begun with; None where it left no choice."""
    recorded = run.read_json("provenance.json").get("request", {}).get("energies")
    return recorded or load_config(run.file("config.toml")).energy.chosen


def read_model(source: RunDirectory, problem: Problem, *, force: bool = False) -> StoredModel:
    """The model file of an earlier run, for a crystal of the same unit cell.

    Args:
        source: The run.
        problem: What it is going to be applied to.
        force: Whether script and potentials may be other ones.

    Raises:
        LammpsBGError: It is of another crystal, or the inputs are other ones.
    """
    files = problem.engine.script_files, problem.engine.potential_files
    if not force:
        source.require_same_inputs(*files)
    path = source.file("model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on foreign files, which are refused in our own words
        saved = load_model(path, problem.crystal, problem.beta)
    changed = source.changed_inputs(*files) if force else []
    return StoredModel(saved, reference_cell(path), source.path, tuple(changed))


def load_trained(source: RunDirectory, problem: Problem, config: Config, reporter: Reporter, *, force: bool = False) -> Trained:
    """The model of an earlier run in the state of a problem; see `applying.applied`."""
    return applied(read_model(source, problem, force=force), problem, config, reporter, force=force)


def load_conditional(source: RunDirectory, problem: Problem, config: Config, reporter: Reporter) -> ConditionalModel:
    """The conditional model of an earlier run at the replicate of a problem; see `applying.conditional`."""
    return conditional(read_model(source, problem), problem, config, reporter)


def read_samples(run: RunDirectory) -> np.ndarray:
    """Energies, log q and log w of samples.csv, shape [3, n].

    Raises:
        RunDirectoryError: The table is missing or damaged.
    """
    path = run.file("samples.csv")
    try:
        text = path.read_text(encoding="utf-8")
        rows = [[float(row[name]) for name in ("pe", "log_q", "log_w")] for row in csv.DictReader(text.splitlines())]
    except FileNotFoundError:
        raise RunDirectoryError(
            f"expected samples.csv in {run.path}, got a run without samples; draw them with `lammps-bg sample`"
        ) from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise RunDirectoryError(
            f"expected the columns sample,pe,log_q,log_w in {path}, got something else; draw the samples again"
        ) from None
    if not text.endswith("\n"):  # the last number may have lost digits
        raise RunDirectoryError(f"expected whole lines in {path}, got a table that was cut short; draw the samples again")
    wanted = load_config(run.file("config.toml")).sample.n_samples
    if 2 <= len(rows) < wanted:
        log.warning("%s holds %d of %d samples; --resume draws the rest", path, len(rows), wanted)
    if len(rows) < 2:
        raise RunDirectoryError(f"expected at least 2 samples in {path}, got {len(rows)}; draw the samples again")
    return np.array(rows).T


def require_same_samples(run: RunDirectory, drawn: np.ndarray, stored: np.ndarray) -> None:
    """Refuse a table of samples that its model does not draw.

    Args:
        run: The run.
        drawn: Energies of the first samples, drawn again, shape [n].
        stored: Those of the table, shape [n].

    Raises:
        RunDirectoryError: They differ.
    """
    finite = np.isfinite(drawn) & np.isfinite(stored)
    if not np.allclose(drawn[finite], stored[finite], rtol=1e-5):
        raise RunDirectoryError(
            f"expected samples.csv in {run.path} to come from its model.pt, got other energies; draw the samples again"
        )
