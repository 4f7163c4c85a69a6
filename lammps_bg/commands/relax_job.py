# SPDX-License-Identifier: GPL-2.0-or-later
"""`relax`: a crystal relaxed, written as a script, checked by reading it again, and shown beside what it was."""

import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lammps_bg import __version__
from lammps_bg.crystal.pressure import describe_pressure, parse_pressure
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import Free
from lammps_bg.engine.relaxed_script import script_text
from lammps_bg.errors import ConfigError
from lammps_bg.report.console import Console
from lammps_bg.store.relaxed_files import check_target, target_file, write_relaxed
from lammps_bg.study.problem import ScriptRequest, require_known_variables
from lammps_bg.study.relax import RelaxResult, RestingCrystal, relax_crystal

log = logging.getLogger(__name__)
_OTHER_STYLE = re.compile(r"^[ \t]*variable[ \t]+P[ \t]+(?!index\b)", re.MULTILINE)


@dataclass(frozen=True)
class RelaxPlan:
    """What is going to be relaxed.

    Attributes:
        request: Script and flags, at the script's own size.
        free: What of the cell may change; None for its three lengths, and the tilts of a box that has some.
        pressure: As typed, with its unit; None for the script's variable P, or zero.
        out: Where the script goes, a file or a folder; None for beside the original.
        words: Arguments after `lammps-bg`, as typed.
    """

    request: ScriptRequest
    free: Free | None
    pressure: str | None
    out: Path | None
    words: Sequence[str]


def execute(plan: RelaxPlan, console: Console) -> int:
    """Relax, write the script, check it by reading it again, and print what has changed; returns the exit code."""
    target = target_file(plan.request.script, plan.out)
    check_target(target)
    with Engine(plan.request.script, variables=plan.request.variables, flags=plan.request.flags) as engine:
        require_known_variables(engine, plan.request)
        for line in engine.lines:
            console.say(f"{'LAMMPS says':16s} {line}")
        result = relax_crystal(engine, plan.free, _pressure(plan, engine))
        request = replace(plan.request, variables=_plain_pressure(plan, engine, result.pressure))
        with write_relaxed(engine, request, result.relaxed, target, _comments(plan, engine, result)) as written:
            result = replace(result, after=RestingCrystal.of(written))
        for warning in result.warnings:
            log.warning("%s", warning)
        _show(result, console)
    console.say(f"{'written':16s} {target}")
    return 0


def _pressure(plan: RelaxPlan, engine: Engine) -> float | None:
    """The target as typed, pressure units."""
    if plan.pressure is None:
        return None
    if "P" in plan.request.variables:
        raise ConfigError("expected one pressure, got -P and -var P; leave one out")
    return parse_pressure(plan.pressure, engine.units)


def _plain_pressure(plan: RelaxPlan, engine: Engine, pressure: float) -> dict[str, Sequence[str]]:
    """The -var values with the pressure as a plain number, which plain LAMMPS can use in `fix npt`, too; none of the script's own."""
    variables = {name: values for name, values in plan.request.variables.items() if name not in engine.reader.set_aside}
    own = _OTHER_STYLE.search(script_text(engine.script_files[0]))  # LAMMPS refuses to change the style of a variable
    if "P" in variables or (plan.pressure is not None and not own):
        variables["P"] = [repr(pressure)]
    return variables


def _comments(plan: RelaxPlan, engine: Engine, result: RelaxResult) -> list[str]:
    """What made the relaxed script, what was asked for, and the numbers that came out."""
    units, state = engine.units, result.relaxed.state
    return [
        f"relaxed by lammps-bg {__version__} (LAMMPS {engine.version}) from {plan.request.script.name}:",
        f"lammps-bg {' '.join(map(shlex.quote, plan.words))}",
        f"cell {result.free}, target pressure {describe_pressure(result.pressure, units)}; at rest, pressure {state.pressure:.6g} "
        f"{units.labels.pressure} and energy {state.energy / engine.structure.n_atoms:.12g} {units.labels.energy} per atom",
    ]


def _show(result: RelaxResult, console: Console) -> None:
    """Print the crystal before and after."""
    before, after, pressure, units = result.before, result.after, result.pressure, result.units
    labels = units.labels
    rows: list[tuple[str, str, str, str]] = [("", "before", "after", "")]

    def row(name: str, first: float, second: float, unit: str = "", digits: int = 8) -> None:
        rows.append((name, f"{first:.{digits}g}", f"{second:.{digits}g}", unit))

    row("energy per atom", before.energy_per_atom, after.energy_per_atom, labels.energy, 10)
    if pressure:
        row("enthalpy per atom", before.enthalpy(pressure, units), after.enthalpy(pressure, units), labels.energy, 10)
    for name, old, new in zip("abc", before.lengths, after.lengths, strict=True):
        row(name, old, new, labels.length)
    for name, old, new in zip(("alpha", "beta", "gamma"), before.angles, after.angles, strict=True):
        row(name, old, new, "degrees")
    row("c/a", before.lengths[2] / before.lengths[0], after.lengths[2] / after.lengths[0], "")
    row("density", before.n_atoms / before.volume, after.n_atoms / after.volume, f"atoms/{labels.length}^3")
    found = [describe_pressure(crystal.pressure(units), units) for crystal in (before, after)]
    rows.append(("pressure", found[0], found[1], f"wanted {describe_pressure(pressure, units)}"))
    row("largest force", before.state.largest_force, after.state.largest_force, f"{labels.energy}/{labels.length}", 2)
    rows.append(("space group", before.space_group, after.space_group, ""))
    console.table("relaxed", rows)
