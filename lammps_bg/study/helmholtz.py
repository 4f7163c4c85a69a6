# SPDX-License-Identifier: GPL-2.0-or-later
"""Helmholtz free energies of a conditional model over cells: on common random numbers, in independent repeats, by chains where needed.

`tables_over` draws in every cell of a design; where the weights of the draws are not beyond doubt, one set of chains for all cells gives the
numbers (`thermo.shared_states`). A polynomial through F is what Gibbs free energies are minimised on (`thermo.gibbs`).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.polynomial.chebyshev import chebpts2
from scipy.special import logsumexp, softmax

from lammps_bg import parallel
from lammps_bg.config import Config, GibbsConfig
from lammps_bg.crystal.cell_variables import CELL_VARIABLES, FREE
from lammps_bg.crystal.conditions import Conditions
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import ConfigError, StateError
from lammps_bg.flow.generator import Generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter, Stage
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.problem import Problem
from lammps_bg.study.threads import threads_for
from lammps_bg.thermo.chains import Latent, block_size
from lammps_bg.thermo.exact import ExactBudget
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult
from lammps_bg.thermo.gibbs import FreeEnergySurface, PressureUnit
from lammps_bg.thermo.repeats import pseudo_values, with_error
from lammps_bg.thermo.sampler import Chunk, chunks_of, draw_together
from lammps_bg.thermo.shared_states import SharedResult, SharedState, SharedStates
from lammps_bg.thermo.verdict import Verdict, combine, judge, judge_lowest_ess, judge_polynomial
from lammps_bg.thermo.weights import EstimateError, effective_sample_size, summarise

_REACHED = 1.2  # times the error asked for that counts as reached: errors have errors
_REPEAT_SEED = 1_000_003  # between the seeds of the repeats
_DRAWS_GAIN_LESS = 4  # from threads than training steps of as many sites: half of the time is spent in LAMMPS
_MOST_SHAPES = 2  # shape variables of which every combination is evaluated with every volume


class CellProgress:
    """Counts the cells that are evaluated, as one share however many tables they belong to; stops where a signal came.

    Args:
        stage: Told the share that is done, from 0 to 1; None: nobody is.
        stop: Set by signals.
        steps: Cells in one part; a part that turns out longer waits at its end.
        parts: Parts of about equal work, one after the other.
        reporter: Told of chains.
    """

    def __init__(
        self,
        stage: Stage | None = None,
        stop: StopFlag | None = None,
        steps: int = 1,
        *,
        parts: int = 1,
        reporter: Reporter = SILENT,
    ) -> None:
        self._stage, self._stop, self.reporter = stage, StopFlag() if stop is None else stop, reporter
        self._steps, self._parts = steps, parts
        self._ended = self._done = 0

    @classmethod
    @contextmanager
    def shown(cls, reporter: Reporter, stop: StopFlag | None, steps: int, *, parts: int = 1) -> Iterator["CellProgress"]:
        """A count that is the stage `cells` of a reporter; arguments as of the class."""
        with reporter.stage("cells") as stage:
            yield cls(stage, stop, steps, parts=parts, reporter=reporter)

    def tick(self, text: str) -> None:
        """One more cell is done; see `beat`."""
        self._done += 1
        self.beat(text)

    def beat(self, text: str) -> None:
        """The cell after the last one that was counted, or chains for it, go on.

        Raises:
            Interrupted: A signal came.
        """
        if self._stop.on_any_rank():
            self._stop.check("nothing was written")
        if self._stage:
            self._stage.update((self._ended + min(1.0, self._done / self._steps)) / self._parts, text)

    def end_part(self) -> None:
        """The next cell belongs to the next part."""
        self._ended, self._done = self._ended + 1, 0


@dataclass(frozen=True)
class CellChains:
    """What the chains of some cells came to.

    Attributes:
        result: Their numbers; None where the chains came to none.
        note: Why there are none, or none of some cells.
        reason: Why chains were run.
        target_error: The error asked for in each cell, kT per atom.
        states: The cells: T, parameters and cell variables.
        n_atoms: Number of atoms N.
        evaluations: Energies of all chains, and of their samples in all cells.
        seconds: Time.
    """

    result: SharedResult | None
    note: str
    reason: str
    target_error: float
    states: tuple[Mapping[str, float], ...]
    n_atoms: int
    evaluations: int
    seconds: float

    def verdict(self) -> Verdict:
        """What to think of the numbers."""
        if self.result is None:
            said = f"{self.note[:1].upper()}{self.note[1:]}."
            return Verdict("red", (said,), False, "Raise exact.max_seconds, or train longer or over a smaller range.")
        verdicts = [self.result.verdict]
        reached = float(self.result.errors.max()) / self.n_atoms
        if reached > _REACHED * self.target_error:
            said = f"The chains came to an error of {reached:.1e} kT per atom within their budget, {self.target_error:.1e} was asked for."
            verdicts.append(Verdict("amber", (said,), True, "Use the numbers with their errors, or raise exact.max_seconds."))
        return combine(verdicts)

    def entry(self) -> dict[str, Any]:
        """Entry of results.json."""
        known: dict[str, Any] = {
            "reason": self.reason, "target_error": self.target_error, "evaluations": self.evaluations, "seconds": self.seconds,
            "note": self.note,
        }  # fmt: skip
        if self.result is None:
            return known
        windows = [{"state": dict(self.states[s]), **asdict(summary)} for s, summary in self.result.windows[1:]]
        cells = zip(self.states, self.result.errors, self.result.coverage, strict=True)
        return {
            **known,
            "n_samples": sum(w["n_samples"] for w in windows),
            "acceptance": min(w["acceptance"] for w in windows),
            "r_hat": max(w["r_hat"] for w in windows),
            "windows": windows,
            "overlaps": self.result.ladder_overlaps.tolist(),
            "cells": [
                {"state": dict(state), "error": float(error) / self.n_atoms, "overlap": float(overlap)}
                for state, error, overlap in cells
            ],
        }

    def sentence(self) -> str:
        """The summary for the console."""
        if self.result is None:
            return f"chains     no numbers: {self.note}"
        sampled = len({state for state, window in self.result.windows[1:] if window.coupling == 1.0})
        return (
            f"chains     {sampled} of {len(self.states)} cells sampled, {len(self.result.windows)} windows, {self.evaluations} energies in "
            f"{self.seconds:.0f} s, error {float(self.result.errors.max()) / self.n_atoms:.1g} kT per atom"
        )


@dataclass(frozen=True)
class CellSamples:
    """What the samples of one cell say.

    Attributes:
        free_energy: F, one number per repeat (see `_repeats`), energy units, shape [R].
        energy: Mean potential energy, likewise, energy units, shape [R].
        ess: Effective sample size of all samples together, as a fraction.
        pressure: Mean pressure from the virial, likewise, pressure units, shape [R]; None if it was not asked for.
        chains: The chains that the numbers are from; None: from the draws.
    """

    free_energy: Array
    energy: Array
    ess: float
    pressure: Array | None = None
    chains: CellChains | None = None


@dataclass(frozen=True)
class CellDraws:
    """Draws of the flow in one cell, in repeats.

    Attributes:
        state: T, parameters and cell variables.
        problem: The crystal there.
        generator: Its generator.
        energies: Potential energies, shape [R, n].
        log_w: Log-weights, -inf without a finite energy, shape [R, n].
        pressures: Pressures with their kinetic part, shape [R, n]; None if they were not asked for.
    """

    state: Mapping[str, float]
    problem: Problem
    generator: Generator
    energies: Array
    log_w: Array
    pressures: Array | None

    @property
    def reference(self) -> CrystalReference:
        """What makes -ln Z_u an absolute free energy."""
        problem, crystal = self.problem, self.problem.crystal
        static, integral = problem.beta * problem.surface.static_energy, self.generator.prior.base.log_integral
        return CrystalReference(static, integral, crystal.n_sites, crystal.volume, problem.length_scale)

    def free_energies(self, minus_log_z: Array) -> Array:
        """F of the whole crystal, energy units, from -ln Z_u of each repeat [R]."""
        known, n = self.reference, self.problem.crystal.n_sites
        return n * np.array([known.value(value) for value in minus_log_z]) / self.problem.beta

    @property
    def ess(self) -> float:
        """Effective sample size of all draws together, as a fraction; zero where none has a weight."""
        return effective_sample_size(self.log_w.ravel()) / self.log_w.size if np.isfinite(self.log_w).any() else 0.0

    def require_weights(self) -> None:
        """Refuse a repeat without a weight.

        Raises:
            StateError: No sample of a repeat has a finite energy.
        """
        for log_w in self.log_w:
            if not np.isfinite(log_w).any():
                raise StateError(
                    f"expected samples with finite energies at volume {self.problem.crystal.volume:.6g}, got none of {len(log_w)}; train longer, or "
                    "over a smaller range"
                )

    def samples(self) -> CellSamples:
        """What the weights of the draws say.

        Raises:
            StateError: No sample of a repeat has a finite energy.
        """
        self.require_weights()
        weights = list(self.log_w)
        log_z = _repeats(lambda some: _log_mean(np.concatenate([weights[r] for r in some])), len(weights))
        # pressures are nan where there is none
        own = None if self.pressures is None else _means(list(self.pressures), weights)
        return CellSamples(self.free_energies(-log_z), _means(list(self.energies), weights), self.ess, own)

    def as_shared(self) -> SharedState:
        """The cell for chains."""
        problem = self.problem
        surface, ideal = problem.surface, problem.ideal_pressure(problem.crystal.volume) if self.pressures is not None else 0.0
        return SharedState(
            Latent(self.generator, problem.exact_target()), self.log_w, self.energies, problem.crystal.nearest_distance,
            None if self.pressures is None else lambda u: surface.virial_pressures(u) + ideal, self.pressures,
        )  # fmt: skip


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
        chains: The chains that F is from; None: from the draws.
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
    chains: CellChains | None = None

    def state(self, cell: Sequence[float]) -> dict[str, float]:
        """The point of the model's conditions at values of the free cell variables."""
        return {**self.fixed, **self.values, **dict(zip(self.names, cell, strict=True))}

    def potential_energy(self, cell: Sequence[float]) -> EstimateResult:
        """Mean potential energy of the whole crystal at values of the free cell variables, energy units."""
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
        n_volumes: Volumes where the shape is fixed; five where it is free.
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


def _draw_cell(
    model: ConditionalModel, state: Mapping[str, float], config: GibbsConfig, seed: int, *, with_pressure: bool = False
) -> CellDraws:
    """Draws in one cell, repeat by repeat, on common random numbers in all cells; all ranks draw them together."""
    problem, generator = model.at(state)
    crystal, repeats = problem.crystal, range(config.n_repeats)
    parts = chunks_of(config.n_samples, crystal.n_sites)

    def finish(chunk: Chunk) -> Chunk:
        virials = problem.surface.virial_pressures(chunk.displacements) if with_pressure else None
        return replace(chunk, states=chunk.states[:0], virials=virials)

    draws = [(seed + _REPEAT_SEED * repeat, some) for repeat in repeats for some in parts]
    with threads_for(crystal.n_sites * config.n_samples // _DRAWS_GAIN_LESS):
        drawn = list(draw_together(generator, problem.exact_target(), draws, finish=finish))

    def of_repeats(name: str) -> Array:
        """An attribute of the samples of each repeat, shape [R, n]."""
        return np.concatenate([getattr(chunk, name) for chunk in drawn]).reshape(config.n_repeats, -1)

    pressures = of_repeats("virials") + problem.ideal_pressure(crystal.volume) if with_pressure else None
    return CellDraws(dict(state), problem, generator, of_repeats("energies"), of_repeats("log_w"), pressures)


def sample_state(
    model: ConditionalModel,
    values: Mapping[str, float],
    config: Config,
    seed: int,
    progress: CellProgress,
    *,
    with_pressure: bool = False,
) -> CellSamples:
    """Free and potential energy of one cell, from draws, or by chains where these are needed.

    Args:
        model: The conditional model.
        values: T, parameters and cell variables.
        config: The configuration.
        seed: Seed of the random numbers.
        progress: Where to report.
        with_pressure: Whether the virial is evaluated, too.

    Raises:
        StateError: There is no number.
    """
    drawn = _draw_cell(model, values, config.gibbs, seed, with_pressure=with_pressure)
    return _exactly([[drawn]], model, config, seed, progress)[0][0]


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


def tables_over(
    model: ConditionalModel,
    states: Sequence[Mapping[str, float]],
    names: Sequence[str],
    config: Config,
    progress: CellProgress | None = None,
) -> list[HelmholtzTable]:
    """Evaluate F over the trained range of cells in some states, by one set of chains for all where the draws do not suffice.

    Args:
        model: The conditional model.
        states: T and the parameters of the potential of each, by name.
        names: The free cell variables; the others stay those of the reference cell.
        config: The configuration.
        progress: Counts the cells.

    Raises:
        StateError: A value is outside the trained range, or there is no number.
    """
    progress, cells = progress or CellProgress(), _cells(model, names, config.gibbs)
    drawn: list[list[CellDraws]] = []
    for values in states:
        drawn.append([])
        for cell in cells:
            drawn[-1].append(_draw_cell(model, {**cell, **values}, config.gibbs, config.seed))
            if config.exact.mode == "never":
                drawn[-1][-1].require_weights()
            progress.tick(written_state(values))
    found = _exactly(drawn, model, config, config.seed, progress)
    # what follows from it decides what is sampled next, on all ranks alike
    return parallel.agreed([_table(model, values, names, cells, own) for values, own in zip(states, found, strict=True)])


def _exactly(
    drawn: Sequence[Sequence[CellDraws]], model: ConditionalModel, config: Config, seed: int, progress: CellProgress
) -> list[list[CellSamples]]:
    """The cells of some tables, by chains in those whose draws are not beyond doubt, or where it is asked for."""
    reasons = parallel.agreed([_why_chains([cell.log_w for cell in table], config.exact.mode) for table in drawn])
    doubtful = [cell for table, reason in zip(drawn, reasons, strict=True) if reason for cell in table]
    if not doubtful:
        return [[cell.samples() for cell in table] for table in drawn]
    every = parallel.agreed(_why_chains([cell.log_w for cell in doubtful], config.exact.mode)) or ""
    anchor = _middle([model.conditions.context(cell.state) for cell in doubtful])
    states = [cell.state for cell in doubtful]
    chains = _run_chains([cell.as_shared() for cell in doubtful], states, config, seed, progress, anchor=anchor, reason=every)
    place = {id(cell): index for index, cell in enumerate(doubtful)}
    return [[_by_chains(cell, place.get(id(cell)), chains) for cell in table] for table in drawn]


def _by_chains(cell: CellDraws, index: int | None, chains: CellChains) -> CellSamples:
    """A cell's numbers from chains where it has some, else from its draws."""
    if index is None:
        return cell.samples()
    found = chains.result
    if found is None:
        return replace(cell.samples(), chains=chains)
    pressure = None if cell.pressures is None else found.pressures[:, index]
    free = cell.free_energies(found.minus_log_z[:, index])
    return CellSamples(free, found.energies[:, index], cell.ess, pressure, chains)


def _middle(contexts: Sequence[Sequence[float]]) -> int:
    """The point nearest to the mean of all."""
    points = np.array(contexts)
    return int(np.square(points - points.mean(0)).sum(1).argmin())


def _box(model: ConditionalModel, names: Sequence[str]) -> Array:
    """Ends of the free cell variables, shape [d, 2]."""
    axes = [next(axis for axis in model.conditions.axes if axis.name == name) for name in names]
    return np.array([(axis.low, axis.high) for axis in axes])


def _cells(model: ConditionalModel, names: Sequence[str], config: GibbsConfig) -> list[dict[str, float]]:
    """All cell variables of the model at the cells of the design."""
    box = _box(model, names)
    x = box.mean(1) + 0.5 * (box[:, 1] - box[:, 0]) * cell_design(len(names), config.n_volumes)
    fixed = {axis.name: 0.0 for axis in model.conditions.axes if axis.is_cell and axis.name not in names}
    return [{**fixed, **dict(zip(names, cell.tolist(), strict=True))} for cell in x]


def _table(
    model: ConditionalModel,
    values: Mapping[str, float],
    names: Sequence[str],
    cells: Sequence[Mapping[str, float]],
    found: Sequence[CellSamples],
) -> HelmholtzTable:
    """The polynomials through F at some cells."""
    x = np.array([[cell[name] for name in names] for cell in cells])
    fixed = {name: value for name, value in cells[0].items() if name not in names}
    free_energy, energy = (np.stack([getattr(entry, name) for entry in found], 1) for name in ("free_energy", "energy"))
    problem, box = model.reference, _box(model, names)
    kt = problem.units.boltzmann * values["T"]
    unit = PressureUnit(problem.units.labels.pressure, problem.units.nktv2p)

    def fitted(numbers: Array) -> FreeEnergySurface:
        surface = FreeEnergySurface.fit(x, numbers, reference_volume=problem.crystal.volume, kt=kt, box=box, names=names)
        return replace(surface, pressure_unit=unit)

    return HelmholtzTable(
        dict(values), tuple(names), fixed, x, free_energy, energy, np.array([entry.ess for entry in found]),
        fitted(free_energy), fitted(energy), problem.crystal.n_sites, kt, found[0].chains,
    )  # fmt: skip


def _why_chains(draws: Sequence[Array], mode: str) -> str | None:
    """Why chains are run for a table after the draws at its cells; None where they are not."""
    if mode == "never":
        return None
    if mode == "always":
        return "asked for"
    if any(not np.isfinite(log_w).any() for log_w in draws):
        return "no draw of the flow has a weight at some cell"
    summaries = [summarise(log_w.ravel()) for log_w in draws]
    doubtful = [summary for summary in summaries if judge(summary).colour != "green"]
    if not doubtful:
        return None
    lowest = min(summary.ess_fraction for summary in doubtful)
    return f"the weights of the draws are not beyond doubt at {len(doubtful)} of {len(draws)} cells (lowest ESS {lowest:.2%})"


def _run_chains(
    cells: Sequence[SharedState],
    states: Sequence[Mapping[str, float]],
    config: Config,
    seed: int,
    progress: CellProgress,
    *,
    anchor: int,
    reason: str,
) -> CellChains:
    """Run chains for some cells, on all ranks together, from the one of index `anchor`."""
    exact, target, n_atoms = config.exact, config.estimate.target_error, cells[0].latent.n_sites
    limits = f"{exact.max_seconds:.0f} s" + (f" and {exact.max_evaluations} energies" if exact.max_evaluations else "")
    progress.reporter.say(f"chains     {reason}: until an error of {target:.1g} kT per atom at each cell, at most {limits}")
    shared = SharedStates(cells, anchor=anchor, n_chains=exact.chains, seed=seed)
    result, note, began = None, "", time.monotonic()
    budget = ExactBudget(target, exact.max_seconds, exact.max_evaluations or math.inf)
    with threads_for(n_atoms * block_size(n_atoms)):
        try:
            result = shared.run(budget, tick=lambda shared: progress.beat(f"chains, {shared.evaluations} energies"))
        except EstimateError as error:
            note = str(error)
    seconds = parallel.agreed(time.monotonic() - began)
    found = CellChains(
        result, note or shared.note, reason, target, tuple(map(dict, states)), n_atoms, shared.evaluations, seconds
    )
    progress.reporter.say(found.sentence())
    return found


def chains_of(tables: Iterable[HelmholtzTable | CellSamples]) -> list[CellChains]:
    """The chains of some tables or cells, each once."""
    return list({id(table.chains): table.chains for table in tables if table.chains is not None}.values())


def chains_entry(tables: Iterable[HelmholtzTable], checks: Iterable[CellSamples] = ()) -> dict[str, Any]:
    """Entry `exact` of results.json: chains of tables, and of samples at the cells that were found; nothing where there are none."""
    sets = [("table", chains) for chains in chains_of(tables)] + [("check", chains) for chains in chains_of(checks)]
    if not sets:
        return {}
    entries = [{"of": of, **chains.entry()} for of, chains in sets]
    return {"exact": {"evaluations": sum(entry["evaluations"] for entry in entries), "chains": entries}}


def judge_tables(tables: Sequence[HelmholtzTable], config: GibbsConfig, name: str = "") -> list[Verdict]:
    """Whether F in every cell is worth something: by the worst of all weights, by the chains where there are any, and by the polynomial.

    Args:
        tables: F over cells in each state.
        config: Numbers of samples and repeats.
        name: Of the crystal, where there are several.
    """
    drawn = [table for table in tables if table.chains is None]
    verdicts = [_judge_draws(drawn, config.n_samples * config.n_repeats, name)] if drawn else []
    worst = max(tables, key=lambda table: table.surface.rms_residual / table.surface.rms_noise)
    missed = worst.surface.rms_residual / (worst.n_atoms * worst.kt)
    misfit = judge_polynomial(missed, worst.surface.rms_residual / worst.surface.rms_noise, name)
    return [combine([*verdicts, *(chains.verdict() for chains in chains_of(tables))]), *misfit]


def _judge_draws(tables: Sequence[HelmholtzTable], n_samples: int, name: str) -> Verdict:
    """By the lowest of all effective sample sizes."""
    table = min(tables, key=lambda table: float(table.ess.min()))
    worst = int(np.argmin(table.ess))
    place = {**table.values, **dict(zip(table.names, table.x[worst], strict=True))}
    where = ", ".join(f"{name} = {value:.4g}" for name, value in place.items())
    return judge_lowest_ess(float(table.ess[worst]), n_samples, where, name)


def written_state(values: Mapping[str, float]) -> str:
    """Names and values of a state in one line."""
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())
