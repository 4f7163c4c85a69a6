# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading back a run from its folder: its request, its model, its samples."""

import csv
import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lammps_bg import parallel
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.cell_variables import cell_variables
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, CrystalError, RunDirectoryError, StateError
from lammps_bg.flow.base import FittedBase
from lammps_bg.flow.model import build_generator
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.conditional import ConditionalModel, at_another_size, build_model, pin_parameters
from lammps_bg.study.fitting import announce, base_at_size, refine_base
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.training import Trained, in_state_of, problem_state
from lammps_bg.training.model_file import SavedModel, load_model, reference_cell

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
    _search(run.file("inputs") / "potentials")
    return ScriptRequest(
        run.script,
        stored["variables"],
        tuple(stored["replicate"]),
        LammpsFlags(**flags),
        tuple(stored["elements"]),
        stored=True,
        strain=stored.get("strain", {}),
    )


def _search(folder: Path) -> None:
    """Let LAMMPS and the file search find the stored potential files first."""
    others = [part for part in os.environ.get("LAMMPS_POTENTIALS", "").split(os.pathsep) if part and part != str(folder)]
    os.environ["LAMMPS_POTENTIALS"] = os.pathsep.join([str(folder), *others])


def load_trained(source: RunDirectory, problem: Problem, config: Config, console: Console, *, force: bool = False) -> Trained:
    """The model of an earlier run, its base fitted again where the replicate or the state differs.

    Args:
        source: The run.
        problem: What it is applied to.
        config: The configuration.
        console: Where to report.
        force: Go on at another temperature or with another potential; crystal, species and units must be the same in any case.

    Raises:
        LammpsBGError: The model is of another crystal, or of another state without `force`.
    """
    saved = _load_saved(source, problem, config, force=force)
    if saved.conditional is not None:
        return in_state_of(problem, _conditional(source, saved, problem, config, console))
    forced = _state_differences(source, saved, problem, force=force)
    fitted, moved = saved.fitted, saved.replicate != problem.crystal.replicate
    if moved:
        _require_transferable(saved, problem)
        fitted = parallel.agreed(_base_of_this_size(saved, problem, config))
    generator = build_generator(
        config.flow, problem.crystal, fitted.base, seed=config.seed, eta=saved.state["eta"], device=config.device
    )
    trained_on = _load_weights(generator.flow, saved, source, console)
    if not (moved or forced):
        return Trained(generator, fitted, None, 0)
    fitted = parallel.agreed(refine_base(problem, config, generator, fitted))
    generator.prior.base = fitted.base
    announce(problem, config.base, fitted, console, adapted=True)
    state = {**problem_state(problem), "eta": saved.state["eta"], "trained_on": trained_on}
    return Trained(generator, fitted, None, 0, SavedModel(saved.flow, config, fitted, problem.crystal.replicate, state))


def load_conditional(source: RunDirectory, problem: Problem, config: Config, console: Console) -> ConditionalModel:
    """The conditional model of an earlier run, its bases at the problem's replicate.

    Args:
        source: The run.
        problem: The crystal, in any state and at any replicate.
        config: The configuration.
        console: Where to report.

    Raises:
        LammpsBGError: The model is of another crystal, or of one state only.
    """
    saved = _load_saved(source, problem, config, force=False)
    if saved.conditional is None:
        raise ConfigError(
            f"expected a model that depends on the cell or other conditions, got one of a single state in {source.path}; train one with "
            "ranges in [condition], such as --set condition.volume=[-0.1,0.1]"
        )
    return _conditional(source, saved, problem, config, console)


def _conditional(source: RunDirectory, saved: SavedModel, problem: Problem, config: Config, console: Console) -> ConditionalModel:
    """A stored conditional model on the crystal of a problem, which may be in any state."""
    fitted = saved.conditional
    if fitted is None:
        raise TypeError("the model has no conditions")
    pin_parameters(problem, fitted.conditions)
    if saved.state.get("length_source") == problem.length_source and not problem.thermal_length:
        problem.length_scale = saved.state[
            "length_scale"
        ]  # one Lambda for all states, also where it is a parameter of the potential
    if TEMPERATURE not in fitted.conditions.names:
        _state_differences(source, saved, problem, force=False)
    cell = reference_cell(source.file("model.pt"))
    back = cell_variables(np.asarray(np.linalg.solve(problem.crystal.unit.cell, cell)))
    reference = problem.at(back)
    if saved.replicate != problem.crystal.replicate:
        _require_transferable(saved, problem)
        fitted = parallel.agreed(at_another_size(fitted, saved.replicate, reference, config))
    model = build_model(reference, config, fitted, eta=saved.state["eta"])
    _load_weights(model.generators.flow, saved, source, console)
    return model


def _load_saved(source: RunDirectory, problem: Problem, config: Config, *, force: bool) -> SavedModel:
    """The model file, of the same crystal, flow and units."""
    if not force:
        source.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on foreign files, which are refused in our own words
        saved = load_model(source.file("model.pt"), problem.crystal, problem.beta)
    _require_same_model(source, saved, problem, config)
    return saved


def _load_weights(flow: torch.nn.Module, saved: SavedModel, source: RunDirectory, console: Console) -> list[int]:
    """Give a flow its weights, and say where they are from; the replicate they were trained on."""
    try:
        flow.load_state_dict(saved.flow)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunDirectoryError(
            f"expected the weights of this flow in {source.file('model.pt')}, got other ones ({reason}); train again"
        ) from None
    trained_on: list[int] = saved.state.get("trained_on") or list(saved.replicate)
    console.say(f"model      {source.path.name}, trained on {' x '.join(map(str, trained_on))} cells")
    return trained_on


def _require_same_model(source: RunDirectory, saved: SavedModel, problem: Problem, config: Config) -> None:
    """Refuse a model of another flow, base or state than the one asked for."""
    if saved.config.flow != config.flow:
        raise RunDirectoryError(
            f"expected config.toml in {source.path} with the flow that model.pt was trained with, got another one; restore config.toml"
        )
    if saved.state.get("units") != problem.units.name:
        raise StateError(
            f"expected the units the model was trained with, {saved.state.get('units')}, got {problem.units.name}; train a model for them"
        )
    same_size = saved.replicate == problem.crystal.replicate
    if config.base.kind != saved.config.base.kind or (same_size and config.base != saved.config.base):
        raise ConfigError(
            "expected the base configuration the model was trained with (at another -rep, base.iterations and base.n_samples may "
            "differ), got another one; leave out --set base.*"
        )


def _state_differences(source: RunDirectory, saved: SavedModel, problem: Problem, *, force: bool) -> bool:
    """Whether temperature or potential differ from those of the training, which is refused unless it is forced."""
    given = {"temperature": problem.temperature, "pair style": problem.engine.pair_style}
    trained = {"temperature": saved.state.get("temperature"), "pair style": saved.state.get("pair_style")}
    differences = [f"{name} {trained[name]}, got {given[name]}" for name in given if given[name] != trained[name]]
    if differences and not force:
        raise StateError(
            f"expected what the model was trained with, {differences[0]}; train a model for it (`sample --force` uses this one all the "
            "same, with exact weights but a lower ESS)"
        )
    if force:
        differences += source.changed_inputs(problem.engine.script_files, problem.engine.potential_files)
    if differences:
        log.warning(
            "the model was trained with another state (%s): weights are exact, but expect a lower ESS", "; ".join(differences)
        )
    return bool(differences)


def _require_transferable(saved: SavedModel, problem: Problem) -> None:
    """Refuse a flow that knows one supercell only."""
    if saved.config.flow.kind == "global":
        trained, given = (" ".join(map(str, counts)) for counts in (saved.replicate, problem.crystal.replicate))
        raise CrystalError(
            f"expected -rep {trained}, on which this flow with attention over all atoms was trained, got {given}; "
            "use flow.kind=sublattice or augmented for a model that serves every supercell"
        )


def _base_of_this_size(saved: SavedModel, problem: Problem, config: Config) -> FittedBase:
    """The model's base at the problem's replicate."""
    fitted, iterated = saved.fitted, bool(saved.fitted.iterations or saved.state.get("trained_on"))
    moved = base_at_size(problem, config.base, config.seed, fitted.parameters, saved.replicate, iterated=iterated)
    return replace(fitted, base=moved.base(problem.beta), parameters=moved)


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
