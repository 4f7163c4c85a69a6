# SPDX-License-Identifier: GPL-2.0-or-later
"""`relax`: the reference crystal at its minimum of energy plus pressure times volume, as a script that plain LAMMPS reads."""

import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lammps_bg import __version__
from lammps_bg.crystal.pressure import describe_pressure, parse_pressure
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import Free, Relaxed, StaticState, relax, static_state
from lammps_bg.engine.relaxed_script import script_text, settled
from lammps_bg.errors import ConfigError, CrystalError
from lammps_bg.report.console import Console
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.problem import ScriptRequest, require_known_variables
from lammps_bg.study.relaxed_files import check_target, target_file, write_relaxed

log = logging.getLogger(__name__)
_OFF_SITE = 0.1  # largest move within the cell, in nearest-neighbour distances, of an atom that keeps its site
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


@dataclass(frozen=True)
class Summary:
    """A crystal at rest, as it is printed.

    Attributes:
        state: Energy, pressure and largest force.
        cell: Cell vectors of the script's box as rows, shape [3, 3], length units.
        n_atoms: Atoms in it.
        space_group: International symbol and number.
    """

    state: StaticState
    cell: Array
    n_atoms: int
    space_group: str

    @classmethod
    def of(cls, engine: Engine) -> "Summary":
        """Measure an engine's crystal.

        Args:
            engine: The engine.
        """
        crystal = Crystal.from_structure(engine.structure)
        return cls(static_state(engine), engine.cell, engine.structure.n_atoms, crystal.unit.space_group)

    @property
    def lengths(self) -> Array:
        """Lengths of the cell vectors, shape [3], length units."""
        return np.asarray(np.linalg.norm(self.cell, axis=1))

    @property
    def angles(self) -> Array:
        """Angles between b and c, a and c, a and b, degrees, shape [3]."""
        unit = self.cell / self.lengths[:, None]
        return np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)))

    @property
    def volume(self) -> float:
        """Volume of the cell, length units cubed."""
        return float(abs(np.linalg.det(self.cell)))

    def enthalpy(self, pressure: float, units: Units) -> float:
        """(E + P V) / N, energy units; `pressure` in the units of the script."""
        return (self.state.energy + pressure * self.volume / units.nktv2p) / self.n_atoms


def execute(plan: RelaxPlan, console: Console) -> int:
    """Relax, write the script, check it by reading it again, and print what has changed; returns the exit code.

    Args:
        plan: What to relax.
        console: Where to report.
    """
    target = target_file(plan.request.script, plan.out)
    check_target(target)
    with Engine(plan.request.script, variables=plan.request.variables, flags=plan.request.flags) as engine:
        require_known_variables(engine, plan.request)
        for line in engine.lines:
            console.say(f"{'LAMMPS says':16s} {line}")
        pressure, free = _pressure(plan, engine), _free(plan, engine)
        before = Summary.of(engine)
        relaxed = settled(relax(engine, free, pressure), engine)
        _require_same_sites(relaxed, engine)
        comments = [*_origin(plan, engine), _found(free, pressure, relaxed, engine)]
        request = replace(plan.request, variables=_plain_pressure(plan, engine, pressure))
        with write_relaxed(engine, request, relaxed, target, comments) as written:
            after = Summary.of(written)
        _warn(before, after, relaxed, engine.units)
        _show(before, after, pressure, engine.units, console)
    console.say(f"{'written':16s} {target}")
    return 0


def _pressure(plan: RelaxPlan, engine: Engine) -> float:
    if plan.pressure is None:
        return script_pressure(engine) or 0.0
    if "P" in plan.request.variables:
        raise ConfigError("expected one pressure, got -P and -var P; leave one out")
    return parse_pressure(plan.pressure, engine.units)


def _free(plan: RelaxPlan, engine: Engine) -> Free:
    """What of the cell may change.

    Raises:
        ConfigError: LAMMPS' minimiser cannot change the lengths of a tilted box alone: the tilts would change with them.
    """
    tilted = bool(np.tril(engine.cell, -1).any())
    if plan.free is None:
        return "tri" if tilted else "aniso"
    if tilted and plan.free in ("xy", "aniso"):
        raise ConfigError(
            f"expected an orthogonal box for --cell {plan.free}, got one with tilts; use --cell tri, which keeps the symmetry that the "
            "crystal has, or --cell iso"
        )
    return plan.free


def _plain_pressure(plan: RelaxPlan, engine: Engine, pressure: float) -> dict[str, Sequence[str]]:
    """The -var values with the pressure as a plain number, which plain LAMMPS can use in `fix npt`, too; none of the script's own."""
    variables = {name: values for name, values in plan.request.variables.items() if name not in engine.reader.set_aside}
    own = _OTHER_STYLE.search(script_text(engine.script_files[0]))  # LAMMPS refuses to change the style of a variable
    if "P" in variables or (plan.pressure is not None and not own):
        variables["P"] = [repr(pressure)]
    return variables


def _require_same_sites(relaxed: Relaxed, engine: Engine) -> None:
    """Refuse a crystal that turned into another one.

    Raises:
        CrystalError: An atom left its site.
    """
    moved = (relaxed.fractional - engine.structure.fractional) @ relaxed.cell
    furthest = float(np.linalg.norm(moved - moved.mean(0), axis=1).max())
    near = nearest_distance(relaxed.cell, relaxed.fractional @ relaxed.cell)
    if furthest > _OFF_SITE * near:
        raise CrystalError(
            f"expected every atom to keep its site, got atoms that move by up to {furthest:.3g} {engine.units.labels.length} within the "
            f"cell ({furthest / near:.2f} nearest-neighbour distances): the crystal transforms or is no crystal; start from the "
            "structure that you want, or let less of the cell relax (--cell)"
        )


def _warn(before: Summary, after: Summary, relaxed: Relaxed, units: Units) -> None:
    if after.space_group != before.space_group:
        log.warning(
            "the space group changed from %s to %s: the crystal transformed, or the start was a noisy copy of a symmetric one; "
            "check that the relaxed crystal is the one you want", before.space_group, after.space_group,
        )  # fmt: skip
    if not relaxed.converged:
        log.warning(
            "pressure and forces are left at %.1e of the cohesive energy's scale (largest force %.2g %s/%s), as with a cutoff where the "
            "forces jump; the relaxed crystal has no more digits than that",
            relaxed.residual, after.state.largest_force, units.labels.energy, units.labels.length,
        )  # fmt: skip


def _origin(plan: RelaxPlan, engine: Engine) -> list[str]:
    """What made the relaxed script."""
    return [
        f"relaxed by lammps-bg {__version__} (LAMMPS {engine.version}) from {plan.request.script.name}:",
        f"lammps-bg {' '.join(map(shlex.quote, plan.words))}",
    ]


def _found(free: Free, pressure: float, relaxed: Relaxed, engine: Engine) -> str:
    """What was asked for, and the numbers that came out."""
    labels, energy = engine.units.labels, relaxed.state.energy / engine.structure.n_atoms
    return (
        f"cell {free}, target pressure {describe_pressure(pressure, engine.units)}; at rest, pressure {relaxed.state.pressure:.6g} "
        f"{labels.pressure} and energy {energy:.12g} {labels.energy} per atom"
    )


def _show(before: Summary, after: Summary, pressure: float, units: Units, console: Console) -> None:
    """Print the crystal before and after."""
    labels = units.labels
    rows: list[tuple[str, str, str, str]] = [("", "before", "after", "")]

    def row(name: str, first: float, second: float, unit: str = "", digits: int = 8) -> None:
        rows.append((name, f"{first:.{digits}g}", f"{second:.{digits}g}", unit))

    row("energy per atom", before.state.energy / before.n_atoms, after.state.energy / after.n_atoms, labels.energy, 10)
    if pressure:
        row("enthalpy per atom", before.enthalpy(pressure, units), after.enthalpy(pressure, units), labels.energy, 10)
    for name, old, new in zip("abc", before.lengths, after.lengths, strict=True):
        row(name, old, new, labels.length)
    for name, old, new in zip(("alpha", "beta", "gamma"), before.angles, after.angles, strict=True):
        row(name, old, new, "degrees")
    row("c/a", before.lengths[2] / before.lengths[0], after.lengths[2] / after.lengths[0], "")
    row("density", before.n_atoms / before.volume, after.n_atoms / after.volume, f"atoms/{labels.length}^3")
    found = [describe_pressure(_rounded(summary, units), units) for summary in (before, after)]
    rows.append(("pressure", found[0], found[1], f"wanted {describe_pressure(pressure, units)}"))
    row("largest force", before.state.largest_force, after.state.largest_force, f"{labels.energy}/{labels.length}", 2)
    rows.append(("space group", before.space_group, after.space_group, ""))
    console.table("relaxed", rows)


def _rounded(summary: Summary, units: Units) -> float:
    """The pressure, or zero where it is rounding of what the cohesive energy amounts to."""
    size = abs(summary.state.energy) / summary.volume * units.nktv2p
    return summary.state.pressure if abs(summary.state.pressure) > 1e-12 * size else 0.0


__all__ = ["RelaxPlan", "Summary", "execute"]
