# SPDX-License-Identifier: GPL-2.0-or-later
"""Helmholtz free energies of a conditional model over cells, in one state: on common random numbers, in independent repeats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial.chebyshev import chebpts2
from scipy.special import logsumexp, softmax

from lammps_bg import parallel
from lammps_bg.config import GibbsConfig
from lammps_bg.crystal.cell_variables import CELL_VARIABLES, FREE
from lammps_bg.crystal.conditions import Conditions
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import ConfigError, StateError
from lammps_bg.flow.generator import Generator
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult
from lammps_bg.thermo.gibbs import FreeEnergySurface, PressureUnit
from lammps_bg.thermo.repeats import pseudo_values, with_error
from lammps_bg.thermo.sampler import Chunk, chunks_of, draw_together
from lammps_bg.thermo.weights import effective_sample_size
from lammps_bg.workflow.conditional import ConditionalModel
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.threads import threads_for

_REPEAT_SEED = 1_000_003  # between the seeds of the repeats
_DRAWS_GAIN_LESS = 4  # from threads than training steps of as many sites: half of the time is spent in LAMMPS
_MOST_SHAPES = 2  # shape variables of which every combination is evaluated with every volume


@dataclass(frozen=True)
class CellSamples:
    """What the samples of one cell say.

    Attributes:
        free_energy: F, one number per repeat (see `_repeats`), energy units, shape [R].
        energy: Mean potential energy, likewise, energy units, shape [R].
        ess: Effective sample size of all samples together, as a fraction.
        pressure: Mean pressure from the virial, likewise, pressure units, shape [R]; None if it was not asked for.
    """

    free_energy: Array
    energy: Array
    ess: float
    pressure: Array | None = None


@dataclass(frozen=True)
class HelmholtzTable:
    """F over cells in one state.

    Attributes:
        values: T and the parameters of the potential, by name.
        names: The free cell variables, `volume` first.
        fixed: Values of the other cell variables of the model.
        x: The cells, shape [m, d].
        free_energy: F of the whole crystal, energy units, shape [R, m].
        energy: Mean potential energy, energy units, shape [R, m].
        ess: Effective sample size at each cell, shape [m].
        surface: The polynomial through F.
        energies: That through the mean potential energies.
        n_atoms: Number of atoms N.
        kt: kT, energy units.
    """

    values: Mapping[str, float]
    names: tuple[str, ...]
    fixed: Mapping[str, float]
    x: Array
    free_energy: Array
    energy: Array
    ess: Array
    surface: FreeEnergySurface
    energies: FreeEnergySurface
    n_atoms: int
    kt: float

    def state(self, cell: Sequence[float]) -> dict[str, float]:
        """The point of the model's conditions at a cell.

        Args:
            cell: Values of the free cell variables.
        """
        return {**self.fixed, **self.values, **dict(zip(self.names, cell, strict=True))}

    def potential_energy(self, cell: Sequence[float]) -> EstimateResult:
        """Mean potential energy of the whole crystal at a cell, energy units.

        Args:
            cell: Values of the free cell variables.
        """
        value, error = self.energies.helmholtz([list(cell)])
        return with_error(float(value[0]), float(error[0]), len(self.energy))


def free_variables(conditions: Conditions, cell: str | None) -> tuple[str, ...]:
    """The cell variables that are free, `volume` first.

    Args:
        conditions: The axes of the model.
        cell: iso, xy, aniso or tri; None: all that the model knows.

    Raises:
        ConfigError: The model does not know them.
    """
    known = tuple(name for name in CELL_VARIABLES if name in conditions.names)
    wanted = FREE[cell] if cell else known
    missing = [name for name in wanted if name not in known]
    if "volume" not in known or missing:
        lacking = ", ".join(missing or ["volume"])
        raise ConfigError(
            f"expected a model that was trained over {', '.join(wanted) or 'volume'}, got one without {lacking}; "
            "train it with a range of it in [condition], or ask for another --cell"
        )
    return wanted


def cell_design(n_free: int, n_volumes: int) -> Array:
    """Cells in coordinates from -1 to 1: Chebyshev points in the volume, with them the corners and the middle of the shapes, [m, d].

    Args:
        n_free: Free cell variables, d.
        n_volumes: Volumes where the shape is fixed.
    """
    if n_free == 1:
        return chebpts2(n_volumes)[:, None]
    shapes = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * (n_free - 1), indexing="ij"), -1).reshape(-1, n_free - 1)
    if n_free - 1 > _MOST_SHAPES:  # middle, faces, and every second corner: enough for all products of two
        size = np.abs(shapes).sum(1)
        corners = (size == n_free - 1) & (shapes.prod(1) > 0)
        shapes = shapes[(size <= 1) | corners]
    volumes = chebpts2(5)
    return np.array([[v, *shape] for v in volumes for shape in shapes])


def sample_cell(
    problem: Problem, generator: Generator, config: GibbsConfig, seed: int, *, with_pressure: bool = False
) -> CellSamples:
    """Free and potential energy of one cell, repeat by repeat; all ranks draw it together.

    Args:
        problem: The crystal in that cell.
        generator: Its generator.
        config: Numbers of samples and repeats.
        seed: With the repeat's index, it decides the random numbers: the same in every cell.
        with_pressure: Whether the virial is evaluated, too.

    Raises:
        StateError: No sample of a repeat has a finite energy.
    """
    crystal, base = problem.crystal, generator.prior.base
    known = CrystalReference(
        problem.beta * problem.surface.static_energy, base.log_integral, crystal.n_sites, crystal.volume, problem.length_scale
    )
    repeats = range(config.n_repeats)
    parts = chunks_of(config.n_samples, crystal.n_sites)

    def finish(chunk: Chunk) -> Chunk:
        virials = problem.surface.virial_pressures(chunk.displacements) if with_pressure else None
        return replace(chunk, states=chunk.states[:0], virials=virials)

    draws = [(seed + _REPEAT_SEED * repeat, some) for repeat in repeats for some in parts]
    with threads_for(crystal.n_sites * config.n_samples // _DRAWS_GAIN_LESS):
        drawn = list(draw_together(generator, problem.exact_target(), draws, finish=finish))

    def of_repeats(name: str) -> list[Array]:
        """An attribute of the samples of each repeat."""
        arrays = [getattr(chunk, name) for chunk in drawn]
        return [np.concatenate(arrays[r * len(parts) : (r + 1) * len(parts)]) for r in repeats]

    energies, weights = of_repeats("energies"), of_repeats("log_w")
    for log_w in weights:
        if not np.isfinite(log_w).any():
            raise StateError(
                f"expected samples with finite energies at volume {crystal.volume:.6g}, got none of {len(log_w)}; train longer, or "
                "over a smaller range"
            )
    log_z = _repeats(lambda some: _log_mean(np.concatenate([weights[r] for r in some])), config.n_repeats)
    free = crystal.n_sites * np.array([known.value(-value) for value in log_z]) / problem.beta
    ess = effective_sample_size(np.concatenate(weights)) / sum(map(len, weights))
    # pressures with their kinetic part; nan where there is none
    own = _means([v + problem.ideal_pressure(crystal.volume) for v in of_repeats("virials")], weights) if with_pressure else None
    return CellSamples(free, _means(energies, weights), ess, own)


def _repeats(estimate: Callable[[list[int]], float], n: int) -> Array:
    """One number per repeat from an estimate of pooled repeats: jackknife pseudo-values, which lack most of its bias, shape [n].

    The mean of -ln <w> over the repeats would keep the bias of the single ones, however many there are.
    """
    every = list(range(n))
    without = np.array([estimate([r for r in every if r != left]) for left in every])
    return pseudo_values(np.asarray(estimate(every)), without)


def _log_mean(log_w: Array) -> float:
    return float(logsumexp(log_w) - np.log(len(log_w)))


def _means(values: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Weighted means as one number per repeat, shape [R]; values that are not finite have no weight."""

    def mean(some: list[int]) -> float:
        x, log_w = (np.concatenate([column[r] for r in some]) for column in (values, weights))
        usable = np.isfinite(log_w) & np.isfinite(x)
        return float(softmax(log_w[usable]) @ x[usable])

    return _repeats(mean, len(values))


def over_cells(
    model: ConditionalModel,
    values: Mapping[str, float],
    names: Sequence[str],
    config: GibbsConfig,
    seed: int,
    tick: Callable[[], None],
) -> HelmholtzTable:
    """Evaluate F over the trained range of cells in one state.

    Args:
        model: The conditional model.
        values: T and the parameters of the potential, by name.
        names: The free cell variables; the others stay those of the reference cell.
        config: Numbers of samples, repeats and volumes.
        seed: Seed of the random numbers.
        tick: Called after each cell.

    Raises:
        StateError: A value is outside the trained range.
    """
    conditions = model.conditions
    axes = [next(axis for axis in conditions.axes if axis.name == name) for name in names]
    box = np.array([(axis.low, axis.high) for axis in axes])
    fixed = {axis.name: 0.0 for axis in conditions.axes if axis.is_cell and axis.name not in names}
    x = box.mean(1) + 0.5 * (box[:, 1] - box[:, 0]) * cell_design(len(names), config.n_volumes)
    found = []
    for cell in x:
        state = {**fixed, **values, **dict(zip(names, cell.tolist(), strict=True))}
        found.append(sample_cell(*model.at(state), config, seed))
        tick()
    free_energy, energy = (np.stack([getattr(entry, name) for entry in found], 1) for name in ("free_energy", "energy"))
    problem = model.reference
    kt = problem.units.boltzmann * values["T"]
    unit = PressureUnit(problem.units.labels.pressure, problem.units.nktv2p)

    def fitted(numbers: Array) -> FreeEnergySurface:
        return FreeEnergySurface.fit(
            x, numbers, reference_volume=problem.crystal.volume, kt=kt, box=box, names=tuple(names), pressure_unit=unit
        )

    # what follows from it decides what is sampled next, on all ranks alike
    return parallel.agreed(HelmholtzTable(
        dict(values), tuple(names), fixed, x, free_energy, energy, np.array([entry.ess for entry in found]),
        fitted(free_energy), fitted(energy), problem.crystal.n_sites, kt,
    ))  # fmt: skip
