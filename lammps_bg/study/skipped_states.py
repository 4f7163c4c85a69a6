# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user has to know of the states that a script would have gone on to: relaxed cells, relaxed atoms, other passes of its loops."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import StaticState, static_state
from lammps_bg.engine.script.reader import Relaxation

log = logging.getLogger(__name__)
# of the cohesive energy's scale for pressures and forces: less is a crystal at rest, and far above the rounding of `relax`
_AT_REST = 1e-5


def warn_of_skipped_states(engine: Engine, script: Path, variables: Mapping[str, Sequence[str]]) -> None:
    """Say which crystal is used where the script would have relaxed it, and which state where it loops over several.

    Args:
        engine: LAMMPS with the script's crystal.
        script: The script, for the command to type.
        variables: Values by -var, for the same.
    """
    for jump in engine.reader.repeats:
        log.warning("%s line %d `%s` %s", jump.file.name, jump.line, jump.command, jump.reason)
    if (relaxation := engine.reader.relaxation) is not None:
        _warn_of_relaxation(engine, relaxation, script, variables)


def _warn_of_relaxation(engine: Engine, relaxation: Relaxation, script: Path, variables: Mapping[str, Sequence[str]]) -> None:
    """Say so if a crystal is not at rest, or not at the pressure of a fix, and a skipped command would have brought it there."""
    state, labels, command = static_state(engine), engine.units.labels, relaxation.command
    pressure = float(state.stress[:3].mean())
    forces, stresses = _unrest(engine, state, relaxation)
    values = [word for name, given in variables.items() for word in ("-var", name, *given)]
    aim = ["-P", f"{relaxation.target:g}"] if relaxation.target else []
    use = shlex.join(["lammps-bg", "relax", "-in", str(script), *values, *aim])
    place = f"{command.file.name} line {command.line} {'changes' if relaxation.strains else 'relaxes'}"
    if relaxation.strains or (relaxation.fix and max(forces, stresses) > _AT_REST):
        log.warning(
            "cell as written; %s it and was not executed; P = %.6g %s with the atoms at rest%s, use `%s` (`%s` with `%s`)",
            place, pressure, labels.pressure, f", where {relaxation.target:g} is aimed at" if relaxation.target else "", use,
            command.command, relaxation.fix,
        )  # fmt: skip
    elif not relaxation.fix and forces > _AT_REST:
        log.warning(
            "atoms as written; %s them and was not executed; the largest force is %.3g %s/%s, P = %.6g %s, use `%s --cell none` (`%s`)",
            place, state.largest_force, labels.energy, labels.length, pressure, labels.pressure, use, command.command,
        )  # fmt: skip


def _unrest(engine: Engine, state: StaticState, relaxation: Relaxation) -> tuple[float, float]:
    """Largest force, and largest deviation of the stress from what a fix aims at, relative to the scales of the cohesive energy."""
    n, volume = engine.structure.n_atoms, abs(np.linalg.det(engine.cell))
    spacing, energy = (volume / n) ** (1 / 3), abs(state.energy) / n
    stress = state.stress[:3] - (relaxation.target or 0.0)
    off = abs(stress.mean()) if " iso " in relaxation.fix else np.abs(stress).max()
    return state.largest_force / (energy / spacing), float(off / (engine.units.nktv2p * energy / spacing**3))
