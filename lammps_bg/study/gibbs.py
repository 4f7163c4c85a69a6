# SPDX-License-Identifier: GPL-2.0-or-later
"""`gibbs`: Gibbs free energies, volumes and compressibilities of one crystal from its conditional model, with MD beside them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from lammps_bg import parallel
from lammps_bg.config import Config, load_config
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.pressure import parse_pressure
from lammps_bg.crystal.system import Counts
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.energies import choose_source
from lammps_bg.study.gibbs_md import MdAtCell, compare_with_md, require_comparable
from lammps_bg.study.gibbs_results import show, write
from lammps_bg.study.gibbs_state import GibbsState, Outcome
from lammps_bg.study.helmholtz import HelmholtzTable, cell_design, free_variables, sample_state, tables_over
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.ranks import require_same_on_all_ranks
from lammps_bg.study.reporting import finish
from lammps_bg.study.run_folder import create_run, reserved
from lammps_bg.study.share import Share
from lammps_bg.study.stored_run import load_conditional, stored_request, with_model

_BYTES = 2_000_000


@dataclass(frozen=True)
class GibbsPlan:
    """What is going to be evaluated.

    Attributes:
        model: Run of the conditional model.
        request: Script and flags.
        config: The configuration.
        out: Folder of the results.
        words: Arguments as typed.
        pressures: As typed; empty: the script's variable P.
        grid: Values of T and of parameters of the potential, where they are not those of the script.
        cell: iso, xy, aniso or tri; None: all cell variables of the model are free.
        md: Folders of `lammps-bg md` to compare with.
        started: time.monotonic() at the start.
    """

    model: RunDirectory
    request: ScriptRequest
    config: Config
    out: Path
    words: Sequence[str]
    pressures: tuple[str, ...]
    grid: Mapping[str, tuple[float, ...]]
    cell: str | None
    md: tuple[Path, ...]
    started: float


def plan(
    source: Path,
    out: Path | None,
    words: Sequence[str],
    *,
    replicate: Counts | None,
    variables: Mapping[str, Sequence[str]],
    flags: LammpsFlags,
    overrides: Callable[[Config], Config],
    pressures: Sequence[str] = (),
    temperatures: Sequence[float] = (),
    cell: str | None = None,
    md: Sequence[Path] = (),
) -> GibbsPlan:
    """The plan of `gibbs`.

    Args:
        source: Folder of a run whose model depends on the cell.
        out: New folder; None: a name made from the source's.
        words: Arguments as typed.
        replicate: Copies along each cell vector; None: as trained.
        variables: Index variables; several values of one are evaluated one after the other.
        flags: LAMMPS' own flags.
        overrides: Applies -config and --set to the stored configuration.
        pressures: As typed.
        temperatures: In the script's unit; none: the script's T.
        cell: iso, xy, aniso or tri; None: all cell variables of the model are free.
        md: Folders of `lammps-bg md` to compare with.
    """
    run = with_model(source)
    stored = load_config(run.file("config.toml"))
    config = overrides(stored)
    if any(getattr(config, name) != getattr(stored, name) for name in ("flow", "base", "condition", "train")):
        raise ConfigError("expected the model's own flow, base, condition and train, got other ones; leave them out of --set")
    request = stored_request(run)
    many = {name: numbers(values) for name, values in variables.items() if name != "P" and len(values) > 1}
    single = {name: values for name, values in variables.items() if name not in many}
    request = replace(request, variables={**request.variables, **single}, replicate=replicate or request.replicate, flags=flags)
    grid = {**({TEMPERATURE: tuple(dict.fromkeys(temperatures))} if temperatures else {}), **many}
    out = out or run.path.with_name(f"{run.path.name}_gibbs")
    RunDirectory.check_new(out)
    parallel.barrier()
    return GibbsPlan(run, request, config, out, words, tuple(pressures), grid, cell, tuple(md), time.monotonic())


def numbers(texts: Sequence[str]) -> tuple[float, ...]:
    """Values of a condition as typed.

    Args:
        texts: The words.

    Raises:
        ConfigError: One is no number.
    """
    try:
        return tuple(dict.fromkeys(map(float, texts)))
    except ValueError:
        shown = " ".join(texts)
        raise ConfigError(f"expected numbers as values of a condition, got '{shown}'; give for example -var rc 2.2 2.5") from None


def execute(gibbs: GibbsPlan, console: Console, stop: StopFlag, *, allow_red: bool) -> int:
    """Carry out a plan; returns the exit code.

    Args:
        gibbs: What to evaluate.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict, or of pressures that the cells do not cover.
    """
    problem = Problem.load(gibbs.request, gibbs.config.estimate.length_scale)
    require_same_on_all_ranks(problem, gibbs.config, gibbs.model)
    with problem.engine:
        config = gibbs.config
        choose_source(problem, config, console)
        model = load_conditional(gibbs.model, problem, config, console)
        names = free_variables(model.conditions, gibbs.cell)
        pressures = pressures_of(gibbs.pressures, problem)
        states = states_of(gibbs.grid, problem, model)
        md = [MdAtCell.load(path, problem) for path in gibbs.md]
        for entry in md:
            require_comparable(entry, model, states, names)
        with reserved(gibbs.out), console.stage("cells") as bar:
            share = Share(bar.update, stop, len(states) * len(cell_design(len(names), config.gibbs.n_volumes)), say=console.say)
            tables = tables_over(model, states, names, config, share)
            found, refused = _at_pressures(model, tables, pressures, config, share)
            compared = [row for entry in md for row in compare_with_md(entry, model, tables, config, share)]
        problem.count_other_ranks()
        if not parallel.first():
            return 0
        run = create_run(
            gibbs.out, gibbs.request, config, gibbs.words, problem, kind="gibbs", needed_bytes=_BYTES, model=gibbs.model
        )
        outcome = Outcome(model, tables, found, compared, refused)
        verdict = write(run, problem, outcome, config, console, started=gibbs.started)
        show(console, outcome, verdict, run)
        finish(run, config, console)
    for sentence in refused:
        console.error(sentence)
    if refused and not allow_red:
        return ConfigError.exit_code
    return 3 if verdict.colour == "red" and not allow_red else 0


def _at_pressures(
    model: ConditionalModel, tables: Sequence[HelmholtzTable], pressures: Sequence[float], config: Config, share: Share
) -> tuple[list[GibbsState], list[str]]:
    """G wherever the cells cover the pressure, and a sentence for each where they do not.

    Raises:
        StateError: They cover none of them.
    """
    found, refused = list[GibbsState](), list[str]()
    for table, pressure in product(tables, pressures):
        try:
            found.append(_at_pressure(model, table, pressure, config, share))
        except StateError as error:
            refused.append(str(error))
    if not found:
        raise StateError(refused[0])
    return found, refused


def pressures_of(typed: Sequence[str], problem: Problem) -> list[float]:
    """The pressures that are asked for, pressure units of the script.

    Args:
        typed: As typed; a unit at the end goes for all numbers before it. Empty: the script's variable P.
        problem: Units and variable.

    Raises:
        StateError: One is no pressure.
        ConfigError: There is none.
    """
    if not typed:
        own = script_pressure(problem.engine)
        if own is None:
            raise ConfigError("expected a pressure, got no variable P in the script; add -P with one or more, such as -P 0 1 GPa")
        return [own]
    words = list(typed)
    unit = words.pop() if len(words) > 1 and words[-1][:1].isalpha() else ""
    return [parse_pressure(word if word[-1:].isalpha() else f"{word} {unit}", problem.units) for word in words]


def states_of(grid: Mapping[str, tuple[float, ...]], problem: Problem, model: ConditionalModel) -> list[dict[str, float]]:
    """T and parameters of all states, checked against the trained ranges.

    Args:
        grid: Values by name, where they are not those of the script.
        problem: The script's own state.
        model: The model.

    Raises:
        ConfigError: A name is no condition of the model.
    """
    own = {name: value for name, value in model.own_values(problem).items() if not _is_cell(model, name)}
    for name in grid:
        if name not in model.conditions.names:
            raise ConfigError(
                f"expected conditions of the model ({', '.join(model.conditions.names)}), got values of {name}; train a model with a range of it"
            )
    states = [{**own, **dict(zip(grid, values, strict=True))} for values in product(*grid.values())]
    middle = model.conditions.values((0.0,) * len(model.conditions))
    for state in states:
        model.conditions.context({**middle, **state})
    return states


def _is_cell(model: ConditionalModel, name: str) -> bool:
    return name != TEMPERATURE and name not in {axis.name for axis in model.conditions.axes if axis.is_parameter}


def _at_pressure(model: ConditionalModel, table: HelmholtzTable, pressure: float, config: Config, share: Share) -> GibbsState:
    """G at one pressure, and fresh samples at its cell."""
    point = table.surface.gibbs(pressure / model.reference.units.nktv2p)
    cell = [entry.value for entry in point.cell]
    check = sample_state(model, table.state(cell), config, config.seed + 1, share, with_pressure=True)
    return GibbsState(table, pressure, point, check)
