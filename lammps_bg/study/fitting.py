# SPDX-License-Identifier: GPL-2.0-or-later
"""Fitting a base to the potential of a problem, and what the base alone tells of the free energy."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lammps_bg import parallel
from lammps_bg.config import BaseConfig, Config
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.flow.base import BaseParameters, FitTask, FittedBase, base_kind
from lammps_bg.flow.generator import Generator
from lammps_bg.flow.self_consistent import REPORTED, measured
from lammps_bg.progress import Reporter
from lammps_bg.results import with_error
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import CrystalReference
from lammps_bg.training.objectives import ThroughFlow

log = logging.getLogger(__name__)
# of a base that is fitted through a flow: most sites x samples of an update, the least that this comes to, and most updates
_REFINED_SITES, _FEWEST, _REFINEMENTS = 250_000, 16, 3
_FULL_EFFORT = 1000  # atoms up to which a fit may evaluate base.n_samples configurations for each iteration


def fit_base(
    problem: Problem,
    config: BaseConfig,
    seed: int,
    *,
    start: BaseParameters | None = None,
    check: Callable[[], None] = lambda: None,
) -> FittedBase:
    """Fit the base to the potential.

    Args:
        problem: Crystal and temperature.
        config: Kind of the base and effort.
        seed: Seed of the displacements.
        start: Parameters to start from, where the kind of base can; None: those at the minimum.
        check: Called before every batch of energies, on all ranks; may raise to stop the fit.
    """
    evaluate = parallel.split(problem.potential)

    def force_field(displacements: Array) -> tuple[Array, Array]:
        check()
        energies, forces = evaluate(displacements)
        return energies, forces

    crystal = problem.crystal
    # every cell of a configuration counts, so that a large crystal never needs as many of them
    n_samples = max(min(100, config.n_samples), round(config.n_samples * min(1.0, _FULL_EFFORT / crystal.n_sites)))
    task = FitTask(force_field, crystal, problem.units, problem.beta, seed)
    return base_kind(config.kind).fit(task, iterations=config.iterations, n_samples=n_samples, start=start)


def base_at_size(
    problem: Problem, config: BaseConfig, seed: int, fitted: BaseParameters, replicate: tuple[int, int, int], *, iterated: bool
) -> BaseParameters:
    """The parameters of a base at a problem's replicate: moved there, or fitted again where they cannot be, or are harmonic.

    Args:
        problem: Crystal and temperature at the new replicate.
        config: The effort of another fit.
        seed: Seed of its displacements.
        fitted: The parameters at the replicate they were fitted at.
        replicate: That one, in unit cells.
        iterated: Whether they are self-consistent ones.
    """
    if iterated:
        trained = replace(problem.crystal, replicate=replicate, atom_ids=np.empty(0, dtype=np.int64))
        if (moved := fitted.at(trained, problem.crystal)) is not None:
            return moved
    elif fitted.restarts:
        config = config.model_copy(update={"iterations": 0})
    return fit_base(problem, config, seed).parameters


def refine_base(problem: Problem, config: Config, generator: Generator, fitted: FittedBase) -> FittedBase:
    """Fit a base to the energies that it sees through a trained flow, if its kind can; the generator gets the best one found.

    Args:
        problem: Crystal and temperature.
        config: `base.iterations` is the largest number of updates.
        generator: The flow, on a base with which it makes good samples.
        fitted: That base.

    Returns:
        The base, with its own bound at this size and state as its history: without the flow.
    """
    n_samples = max(_FEWEST, min(config.base.n_samples, _REFINED_SITES // problem.crystal.n_sites))
    iterations = min(config.base.iterations, _REFINEMENTS)
    known = fitted.parameters
    if known.restarts and generator.flow.channels == 1 and iterations:
        surface = parallel.split(ThroughFlow(generator, problem.softened_target(config.train.softening)))
        task = FitTask(surface, problem.crystal, problem.units, problem.beta, config.seed)
        try:
            fitted = known.fit(task, iterations=iterations, n_samples=n_samples, start=known)
        except UnstableCrystalError as error:
            log.warning("the base of this supercell is not refined through the flow (%s)", error)
        generator.prior.base = fitted.base
    few = min(n_samples, REPORTED)
    own = measured(parallel.split(problem.potential), fitted.base, problem.beta, n_samples=few, seed=config.seed + 1)
    return replace(fitted, history=(own,))


def announce(problem: Problem, config: BaseConfig, fitted: FittedBase, reporter: Reporter, *, adapted: bool = False) -> None:
    """Say what the base alone tells about the free energy: a first answer after seconds; `adapted` is one of a model used elsewhere."""
    step = fitted.history[-1]
    value = reference(problem, fitted).value(step.bound * problem.crystal.n_sites)
    text = f"beta F/N <= {with_error(value, step.error, 'kT')} (Gibbs-Bogoliubov bound)"
    if not step.holds:
        text = f"no bound, {step.n_drawn - step.n} of {step.n_drawn} samples have no finite energy"
    how = "adapted to this supercell and state" if adapted else f"{fitted.iterations} iterations"
    reporter.say(f"base       {config.kind}, {how}: {text}")


def reference(problem: Problem, fitted: FittedBase) -> CrystalReference:
    """The exactly known numbers that make free energies absolute."""
    crystal = problem.crystal
    return CrystalReference(
        problem.beta * problem.surface.static_energy,
        fitted.base.log_integral,
        crystal.n_sites,
        crystal.volume,
        problem.length_scale,
    )
