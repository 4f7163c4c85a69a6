# SPDX-License-Identifier: GPL-2.0-or-later
"""Applying a trained model: to the state it was trained for, to another supercell, or to another state."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import cell_variables
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import ConfigError, CrystalError, RunDirectoryError, StateError
from lammps_bg.flow.base import FittedBase
from lammps_bg.flow.model import build_generator
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.study.conditional import ConditionalModel, at_another_size, build_model, pin_parameters
from lammps_bg.study.fitting import announce, base_at_size, refine_base
from lammps_bg.study.problem import Problem
from lammps_bg.study.training import Trained, in_state_of, problem_state
from lammps_bg.training.model_file import SavedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredModel:
    """A model before it is applied to anything.

    Attributes:
        saved: What its file holds.
        cell: Unit cell that its conditions are relative to, shape [3, 3], length units.
        origin: Folder of its run.
        changed: How the inputs differ from those it was trained with, one phrase each.
    """

    saved: SavedModel
    cell: Array
    origin: Path
    changed: tuple[str, ...] = ()


def applied(
    stored: StoredModel, problem: Problem, config: Config, reporter: Reporter = SILENT, *, force: bool = False
) -> Trained:
    """A model in the state of a problem, its base fitted again where the replicate or the state differs.

    Args:
        stored: The model.
        problem: What it is applied to.
        config: The configuration.
        reporter: Told what was found.
        force: Go on at another temperature or with another potential; crystal, species and units must be the same in any case.

    Raises:
        LammpsBGError: The model is of another crystal, or of another state without `force`.
    """
    saved = stored.saved
    _require_same_model(stored, problem, config)
    if saved.conditional is not None:
        return in_state_of(problem, _at_this_size(stored, problem, config, reporter), saved)
    forced = _state_differences(stored, problem, force=force)
    fitted, moved = saved.fitted, saved.replicate != problem.crystal.replicate
    if moved:
        _require_transferable(saved, problem)
        fitted = parallel.agreed(_base_of_this_size(saved, problem, config))
    generator = build_generator(
        config.flow, problem.crystal, fitted.base, seed=config.seed, eta=saved.state["eta"], device=config.device
    )
    trained_on = _load_weights(generator.flow, stored, reporter)
    if not (moved or forced):
        return Trained(generator, fitted, saved)
    fitted = parallel.agreed(refine_base(problem, config, generator, fitted))
    generator.prior.base = fitted.base
    announce(problem, config.base, fitted, reporter, adapted=True)
    state = {**problem_state(problem), "eta": saved.state["eta"], "trained_on": trained_on}
    own = SavedModel(saved.flow, config, fitted, problem.crystal.replicate, state)
    return Trained(generator, fitted, own, adapted=True)


def conditional(stored: StoredModel, problem: Problem, config: Config, reporter: Reporter = SILENT) -> ConditionalModel:
    """A conditional model, its bases at the problem's replicate.

    Args:
        stored: The model.
        problem: The crystal, in any state and at any replicate.
        config: The configuration.
        reporter: Told what was found.

    Raises:
        LammpsBGError: The model is of another crystal, or of one state only.
    """
    _require_same_model(stored, problem, config)
    if stored.saved.conditional is None:
        raise ConfigError(
            f"expected a model that depends on the cell or other conditions, got one of a single state in {stored.origin}; train one with "
            "ranges in [condition], such as --set condition.volume=[-0.1,0.1]"
        )
    return _at_this_size(stored, problem, config, reporter)


def _at_this_size(stored: StoredModel, problem: Problem, config: Config, reporter: Reporter) -> ConditionalModel:
    """A stored conditional model on the crystal of a problem, which may be in any state."""
    saved, fitted = stored.saved, stored.saved.conditional
    if fitted is None:
        raise TypeError("the model has no conditions")
    pin_parameters(problem, fitted.conditions)
    if saved.state.get("length_source") == problem.length_source and not problem.thermal_length:
        # one Lambda for all states, also where it is a parameter of the potential
        problem.length_scale = saved.state["length_scale"]
    if TEMPERATURE not in fitted.conditions.names:
        _state_differences(stored, problem, force=False)
    back = cell_variables(np.asarray(np.linalg.solve(problem.crystal.unit.cell, stored.cell)))
    reference = problem.at(back)
    if saved.replicate != problem.crystal.replicate:
        _require_transferable(saved, problem)
        fitted = parallel.agreed(at_another_size(fitted, saved.replicate, reference, config))
    model = build_model(reference, config, fitted, eta=saved.state["eta"])
    _load_weights(model.generators.flow, stored, reporter)
    return model


def _load_weights(flow: torch.nn.Module, stored: StoredModel, reporter: Reporter) -> list[int]:
    """Give a flow its weights, and say where they are from; the replicate they were trained on."""
    try:
        flow.load_state_dict(stored.saved.flow)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunDirectoryError(
            f"expected the weights of this flow in {stored.origin / 'model.pt'}, got other ones ({reason}); train again"
        ) from None
    saved = stored.saved
    trained_on: list[int] = saved.state.get("trained_on") or list(saved.replicate)
    reporter.say(f"model      {stored.origin.name}, trained on {' x '.join(map(str, trained_on))} cells")
    return trained_on


def _require_same_model(stored: StoredModel, problem: Problem, config: Config) -> None:
    """Refuse a model of another flow, base or state than the one asked for."""
    saved = stored.saved
    if saved.config.flow != config.flow:
        raise RunDirectoryError(
            f"expected config.toml in {stored.origin} with the flow that model.pt was trained with, got another one; restore config.toml"
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


def _state_differences(stored: StoredModel, problem: Problem, *, force: bool) -> bool:
    """Whether temperature or potential differ from those of the training, which is refused unless it is forced."""
    saved = stored.saved
    given = {"temperature": problem.temperature, "pair style": problem.engine.pair_style}
    trained = {"temperature": saved.state.get("temperature"), "pair style": saved.state.get("pair_style")}
    differences = [f"{name} {trained[name]}, got {given[name]}" for name in given if given[name] != trained[name]]
    if differences and not force:
        raise StateError(
            f"expected what the model was trained with, {differences[0]}; train a model for it (`sample --force` uses this one all the "
            "same, with exact weights but a lower ESS)"
        )
    if force:
        differences += stored.changed
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
