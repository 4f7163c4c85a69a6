# SPDX-License-Identifier: GPL-2.0-or-later
"""`phase`: where crystals have the same Gibbs free energy along one axis, traced over a second one."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.polynomial.chebyshev import chebpts2

from lammps_bg import parallel
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.cell_variables import CELL_VARIABLES
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.structure import Array
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.provenance import MODELS, sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.energies import choose_source
from lammps_bg.study.gibbs import numbers, pressures_of
from lammps_bg.study.helmholtz import HelmholtzTable, cell_design, free_variables, tables_over
from lammps_bg.study.phase_checks import Phase, require_comparable, require_same_potential, require_states
from lammps_bg.study.phase_results import Coexistence, Difference, show, write
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.ranks import require_same_on_all_ranks
from lammps_bg.study.reporting import finish
from lammps_bg.study.run_folder import copy_model, create_run, reserved
from lammps_bg.study.share import Share
from lammps_bg.study.stored_run import load_conditional, stored_request, with_model
from lammps_bg.thermo.coexistence import crossing

log = logging.getLogger(__name__)
PRESSURE = "P"
_SCAN = 33  # pressures at which G is minimised
_NODES = 5  # places on an axis other than the pressure, where F is evaluated
_INSET = 0.01  # share of the covered pressures left out at either end, where the minimum touches the edge
_BYTES = 2_000_000


@dataclass(frozen=True)
class PhasePlan:
    """What is going to be compared.

    Attributes:
        models: Runs of the conditional models, one for each crystal.
        config: The configuration of the evaluation.
        out: Folder of the results.
        words: Arguments as typed.
        axis: P, T, or a parameter of the potential.
        limits: Ends of the axis as typed; empty: all that both models were trained for.
        pressures: As typed; empty: the first script's variable P.
        grid: Values of T and of parameters, where they are not those of the first script.
        replicates: Copies along each cell vector for each model; None: as trained.
        cell: iso, xy, aniso or tri for each model; empty: all that each model was trained over.
        other_sizes: Compare crystals of unequal numbers of atoms.
        started: time.monotonic() at the start.
    """

    models: tuple[RunDirectory, ...]
    config: Config
    out: Path
    words: Sequence[str]
    axis: str
    limits: tuple[str, ...]
    pressures: tuple[str, ...]
    grid: Mapping[str, tuple[float, ...]]
    replicates: tuple[tuple[int, int, int] | None, ...]
    cell: tuple[str, ...]
    other_sizes: bool
    started: float


def plan(
    models: Sequence[Path],
    out: Path | None,
    words: Sequence[str],
    *,
    axis: str,
    limits: Sequence[str] = (),
    pressures: Sequence[str] = (),
    temperatures: Sequence[float] = (),
    grid: Mapping[str, tuple[float, ...]] | None = None,
    replicates: Sequence[Sequence[int]] = (),
    cell: Sequence[str] = (),
    other_sizes: bool = False,
    overrides: Callable[[Config], Config],
) -> PhasePlan:
    """The plan of `phase`; arguments as in `PhasePlan`.

    Raises:
        ConfigError: There are fewer than two models, or as many -rep or --cell as there should not be.
    """
    if len(models) < 2:
        raise ConfigError(f"expected -models with the runs of two or more crystals, got {len(models)}; give one for each phase")
    runs = tuple(with_model(path) for path in models)
    for what, given in (("-rep", replicates), ("--cell", cell)):
        if given and len(given) not in (1, len(runs)):
            raise ConfigError(f"expected {what} once, or once for each of the {len(runs)} models, got {len(given)}; repeat it")
    sizes: list[tuple[int, int, int] | None] = [(x, y, z) for x, y, z in replicates] or [None]
    sizes = sizes * len(runs) if len(sizes) == 1 else sizes
    many = {**(grid or {}), **({TEMPERATURE: tuple(dict.fromkeys(temperatures))} if temperatures else {})}
    if axis in many:
        raise ConfigError(f"expected {axis}, the axis, with its ends in --range, got values of it; leave them out")
    out = out or Path("runs") / "_".join([*(run.path.name for run in runs), "phase"])
    RunDirectory.check_new(out)
    stored = load_config(runs[0].file("config.toml"))
    config = overrides(stored)
    if any(getattr(config, name) != getattr(stored, name) for name in ("base", "flow", "condition", "train", "sample", "md")):
        raise ConfigError(
            "expected --set of gibbs, exact, estimate, energy or device alone, got another one; the models have their own settings"
        )
    parallel.barrier()
    return PhasePlan(
        runs, config, out, words, axis, tuple(limits), tuple(pressures), many, tuple(sizes), tuple(cell), other_sizes, time.monotonic()
    )  # fmt: skip


def execute(phase: PhasePlan, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Carry out a plan; returns the exit code.

    Args:
        phase: What to compare.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict.
    """
    with ExitStack() as stack:
        phases = [_load(phase, index, console, stack) for index in range(len(phase.models))]
        require_comparable(phases, other_sizes=phase.other_sizes)
        first = phases[0].model.reference
        outer = _outer_states(phase, phases)
        require_states(phases, outer)
        require_same_potential(phases, outer[0])
        _given_pressures(phase, first)
        with reserved(phase.out), console.stage("cells") as bar:
            share = Share(bar.update, stop, _cells_of_a_point(phase, phases), parts=len(outer), say=console.say)
            found = []
            for state in outer:
                found.append(_compare(phase, phases, state, share))
                share.end_part()
        for entry in phases:
            entry.model.reference.count_other_ranks()
        if not parallel.first():
            return 0
        run = _create(phase, first, phases)
        verdict = write(run, phases, phase.axis, found, phase.config, console, started=phase.started)
        show(console, phases, phase.axis, found, verdict, run)
        finish(run, phase.config, console)
    return 3 if verdict.colour == "red" and not allow_red else 0


def _create(phase: PhasePlan, problem: Problem, phases: Sequence[Phase]) -> RunDirectory:
    """The folder of the results, with the inputs of the first model and the hashes of all."""
    sources = [{"name": run.path.name, "sha256": sha256(run.file("model.pt"))} for run in phase.models]
    request = stored_request(phase.models[0])
    created = create_run(
        phase.out, request, phase.config, phase.words, problem, kind="phase", needed_bytes=_BYTES, more={"sources": sources}
    )
    for index, run in enumerate(phase.models):
        copy_model(created, run, MODELS / str(index) / run.path.name)
    return created


def _load(phase: PhasePlan, index: int, console: Console, stack: ExitStack) -> Phase:
    """One of the crystals with its model."""
    run = phase.models[index]
    stored = load_config(run.file("config.toml"))
    config = stored.model_copy(
        update={
            "energy": stored.energy.model_copy(update={"source": phase.config.energy.source}),
            "estimate": phase.config.estimate,
            "exact": phase.config.exact,
            "gibbs": phase.config.gibbs,
            "device": phase.config.device,
            "seed": phase.config.seed,
        }
    )
    request: ScriptRequest = replace(stored_request(run), flags=LammpsFlags())
    if (counts := phase.replicates[index]) is not None:
        request = replace(request, replicate=counts)
    problem = Problem.load(request, config.estimate.length_scale)
    stack.enter_context(problem.engine)
    require_same_on_all_ranks(problem, config, run)
    choose_source(problem, config, console)
    model = load_conditional(run, problem, config, console)
    cell = (phase.cell[index] if len(phase.cell) > 1 else phase.cell[0]) if phase.cell else None
    return Phase(run.path.name, model, free_variables(model.conditions, cell), config)


def _cells_of_a_point(phase: PhasePlan, phases: Sequence[Phase]) -> int:
    """Cells to be evaluated at one point off the axis, with one crossing for each pair where these cost any."""
    cells = [len(cell_design(len(entry.names), entry.config.gibbs.n_volumes)) for entry in phases]
    if phase.axis == PRESSURE:
        return sum(cells)
    return _NODES * sum(cells) + (len(phases) - 1) * sum(cells)


def _outer_states(phase: PhasePlan, phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """All points off the axis: T and parameters, and P where it is not the axis."""
    if PRESSURE in phase.grid:
        raise ConfigError("expected pressures by -P, got them by -var; give for example -P 0 1 GPa")
    if phase.axis == PRESSURE and phase.pressures:
        raise ConfigError("expected P as the axis with its ends in --range, got -P; leave -P out")
    own: dict[str, float] = {}
    for entry in reversed(phases):
        own |= entry.own()
    own.pop(phase.axis, None)
    problem = phases[0].model.reference
    pressures: list[float | None] = [None] if phase.axis == PRESSURE else list(pressures_of(phase.pressures, problem))
    points = [{**own, **dict(zip(phase.grid, values, strict=True))} for values in product(*phase.grid.values())]
    return [{**point, **({} if p is None else {PRESSURE: p})} for point in points for p in pressures]


def _limits(phase: PhasePlan, phases: Sequence[Phase]) -> tuple[float, float]:
    """Ends of an axis other than the pressure, within what all models were trained for."""
    ranges = []
    if phase.axis in CELL_VARIABLES:
        raise ConfigError(
            f"expected --axis P, T or a parameter of the potential, got {phase.axis}, in which the Gibbs free energy is minimised; use --axis P"
        )
    for entry in phases:
        axis = next((axis for axis in entry.model.conditions.axes if axis.name == phase.axis and not axis.is_cell), None)
        if axis is None:
            raise ConfigError(
                f"expected models that were trained over {phase.axis}, the axis, got none in {entry.name}; train it with a range of it in "
                "[condition], or use --axis P"
            )
        ranges.append((axis.low, axis.high))
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    if phase.limits:
        given = numbers(phase.limits)
        if len(given) != 2 or not low <= given[0] < given[1] <= high:
            raise StateError(
                f"expected --range of {phase.axis} inside [{low:g}, {high:g}], which all models were trained for, got {' '.join(phase.limits)}; "
                "give two rising numbers in it"
            )
        low, high = given
    if not low < high:
        raise StateError(f"expected models trained over a common range of {phase.axis}, got none; train them over the same one")
    return low, high


@contextmanager
def _naming(entry: Phase) -> Iterator[None]:
    """Which crystal a refused state belongs to."""
    try:
        yield
    except StateError as error:
        raise StateError(f"{entry.name}: {error}") from None


def _compare(phase: PhasePlan, phases: Sequence[Phase], state: Mapping[str, float], share: Share) -> list[Difference]:
    """All pairs of crystals along the axis, at one point off it."""
    along = _along_pressure if phase.axis == PRESSURE else _along_condition
    axis, curves, tables = along(phase, phases, state, share)
    pairs = []
    for i, j in combinations(range(len(phases)), 2):
        difference = curves[j] - curves[i]
        # equal seeds everywhere: then the replicas of the points of a line belong together
        found = parallel.agreed(crossing(axis, difference, np.random.default_rng(phase.config.seed)))
        at = [_coexistence(phase, phases, (i, j), state, root.estimate.value, tables=tables, share=share) for root in found.roots]
        pairs.append(Difference((i, j), dict(state), axis, difference, found, at, (tables[i], tables[j])))
    return pairs


def _along_pressure(
    phase: PhasePlan, phases: Sequence[Phase], state: Mapping[str, float], share: Share
) -> tuple[Array, list[Array], list[list[HelmholtzTable]]]:
    """Pressures, G per atom in each repeat [R, k] of each crystal, and their free energies over cells."""
    units = phases[0].model.reference.units
    tables, covered = [], []
    for entry in phases:
        with _naming(entry):
            tables.append(tables_over(entry.model, [state], entry.names, entry.config, share))
            covered.append(tables[-1][0].surface.pressure_range())
    margins = [_INSET * (high - low) for low, high in covered]
    low = max(r[0] + m for r, m in zip(covered, margins, strict=True))
    high = min(r[1] - m for r, m in zip(covered, margins, strict=True))
    if phase.limits:
        given = _given_pressures(phase, phases[0].model.reference)
        asked, (low, high) = (given[0], given[1]), (max(low, given[0]), min(high, given[1]))
        if (low, high) != asked:
            shown = f"{low * units.nktv2p:.6g} to {high * units.nktv2p:.6g} {units.labels.pressure}"
            log.warning("of --range only %s is looked at, which the trained cells of all crystals cover", shown)
    if not low < high:
        shown = "; ".join(
            f"{p.name} {a * units.nktv2p:.4g} to {b * units.nktv2p:.4g}" for p, (a, b) in zip(phases, covered, strict=True)
        )
        raise StateError(
            f"expected pressures that the trained cells of all crystals cover, got none in {units.labels.pressure} ({shown}); train over "
            "other volumes"
        )
    axis = np.linspace(low, high, _SCAN)
    curves = [table.surface.gibbs_repeats(axis) / p.n_atoms for (table,), p in zip(tables, phases, strict=True)]
    return axis * units.nktv2p, curves, tables


def _given_pressures(phase: PhasePlan, problem: Problem) -> list[float]:
    """Ends of the pressure by --range, energy per volume; none where they are not given, or where P is not the axis."""
    if phase.axis != PRESSURE or not phase.limits:
        return []
    given = [p / problem.units.nktv2p for p in pressures_of(phase.limits, problem)]
    if len(given) != 2 or not given[0] < given[1]:
        raise StateError(f"expected --range with two rising pressures, got {' '.join(phase.limits)}; give for example 0 20 GPa")
    return given


def _along_condition(
    phase: PhasePlan, phases: Sequence[Phase], state: Mapping[str, float], share: Share
) -> tuple[Array, list[Array], list[list[HelmholtzTable]]]:
    """Values of the axis, and G per atom in each repeat [R, k] of each crystal."""
    low, high = _limits(phase, phases)
    axis = 0.5 * (low + high) + 0.5 * (high - low) * chebpts2(_NODES)
    pressure = state[PRESSURE] / phases[0].model.reference.units.nktv2p
    at = {name: value for name, value in state.items() if name != PRESSURE}
    curves, all_tables = [], []
    for entry in phases:
        with _naming(entry):
            tables = tables_over(entry.model, [{**at, phase.axis: float(a)} for a in axis], entry.names, entry.config, share)
            curves.append(np.concatenate([table.surface.gibbs_repeats([pressure]) for table in tables], 1) / entry.n_atoms)
        all_tables.append(tables)
    return axis, curves, all_tables


def _coexistence(
    phase: PhasePlan,
    phases: Sequence[Phase],
    pair: tuple[int, int],
    state: Mapping[str, float],
    place: float,
    *,
    tables: Sequence[Sequence[HelmholtzTable]],
    share: Share,
) -> Coexistence:
    """Volumes and enthalpies of both crystals at a crossing."""
    where, units = {**state, phase.axis: place}, phases[0].model.reference.units
    at = {name: value for name, value in where.items() if name != PRESSURE}
    both = []
    for index in pair:
        entry = phases[index]
        same = phase.axis == PRESSURE  # at any P, F is what it was along the axis
        with _naming(entry):
            table = tables[index][0] if same else tables_over(entry.model, [at], entry.names, entry.config, share)[0]
            table.surface.gibbs(where[PRESSURE] / units.nktv2p)
        both.append((entry.n_atoms, table))
    return Coexistence.of(where, both, units.nktv2p)
