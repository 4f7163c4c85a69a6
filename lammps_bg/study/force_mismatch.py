# SPDX-License-Identifier: GPL-2.0-or-later
"""Forces beside the slope of the energy, and, where they differ, what changes that: found by trying, not by guessing."""

from collections.abc import Callable

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine.script.text import quoted
from lammps_bg.errors import LammpsBGError
from lammps_bg.study.problem import Problem

MISMATCH = 1e-3  # relative difference between forces and finite differences that is no rounding
_SAME_SHIFTED = 1e-4  # of the energy: its change when the whole crystal moves, with a coarse long-range solver
_POINTS = 10_000  # of a tabulated potential

Remedy = tuple[str, list[str]]  # what to write into the script, and the commands that show its effect after the script


def force_error(problem: Problem, seed: int) -> float:
    """Largest difference between forces and finite differences of the energy along random directions, relative to the force.

    Args:
        problem: Crystal and temperature.
        seed: Seed of the displacements.
    """
    return _force_error(problem.surface.energies, problem.surface, problem.crystal, seed)


def _force_error(
    energies: Callable[[Array], Array], evaluate: Callable[[Array], tuple[Array, Array]], crystal: Crystal, seed: int
) -> float:
    """The same for any functions of displacements in site order: energies, and energies with forces."""
    random = np.random.default_rng(seed)
    n, length = crystal.n_sites, crystal.nearest_distance
    u = 0.03 * length * random.standard_normal((4, n, 3))
    direction = random.standard_normal((4, n, 3))
    direction /= np.linalg.norm(direction, axis=(1, 2), keepdims=True)
    # five-point rule: its error is far below the rounding of energies of some hundred atoms
    step = 1e-3 * length
    e = [energies(u + k * step * direction) for k in (-2, -1, 1, 2)]
    slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)
    forces = evaluate(u)[1]
    return float(np.abs((forces * direction).sum((1, 2)) + slope).max() / np.linalg.norm(forces, axis=(1, 2)).max())


def explained(problem: Problem, seed: int) -> str:
    """What was tried in a copy of the script against a mismatch of forces and energies, with the figures, as a part of a sentence.

    Args:
        problem: Crystal and temperature.
        seed: Seed of the displacements.
    """
    found: list[tuple[float, Remedy]] = []
    for remedy in _remedies(problem):
        if (error := _error_with(problem, remedy, seed)) is not None:
            found.append((error, remedy))
    if found and min(error for error, _ in found) > MISMATCH:
        single = [remedy for _, remedy in sorted(found, key=lambda entry: entry[0])]
        for count in range(2, len(single) + 1):  # more than one cause
            together = " and ".join(name for name, _ in single[:count]), [line for _, lines in single[:count] for line in lines]
            if (error := _error_with(problem, together, seed)) is not None:
                found.append((error, together))
                if error < MISMATCH:
                    break
    if not found:
        return "nothing that is known to cause this could be tried with this potential"
    figures = ", ".join(f"{name} gives {error:.1g}" for error, (name, _) in found)
    best, (name, _) = min(found, key=lambda entry: entry[0])
    if best < MISMATCH:
        where = ", after the last line of the potential" if name.endswith("`") and not name.startswith("leaving out") else ""
        return f"{name} removes that{where} (tried in a copy of the script: {figures})"
    return f"nothing that was tried in a copy of the script removes that ({figures}), so look at the cutoffs and the fixes of the script"


def _remedies(problem: Problem) -> list[Remedy]:
    """What may be the cause with this potential, the cheapest first."""
    engine = problem.engine
    reader = engine.reader
    remedies: list[Remedy] = [("`pair_modify shift yes`", ["pair_modify shift yes"])]
    words = reader.pair_style
    if words[:1] == ["table"] and len(words) > 2:
        style = f"pair_style table spline {_POINTS}"
        remedies.append((f"`{style}`", [style, *(" ".join(["pair_coeff", *map(quoted, args)]) for args in reader.pair_coeffs)]))
    if reader.kspace:
        tables = ["table", "table/disp"] if "long/" in "/".join(words) else ["table"]
        remedies += [(f"`{line}`", [line]) for line in (f"pair_modify {name} 0" for name in tables)]
    if (finer := engine.finer_solver()) is not None:
        remedies.append((f"`{finer[0]}` in place of the present one", list(finer[1])))
    for name in reader.kept_fixes:
        line = f"fix_modify {name} energy yes"
        remedies += [(f"`{line}`", [line]), (f"leaving out `fix {name}`", [f"unfix {name}"])]
    return remedies


def _error_with(problem: Problem, remedy: Remedy, seed: int) -> float | None:
    """The mismatch with further commands after the script; None where LAMMPS or this program refuses them."""
    surface, order = problem.surface, problem.crystal.atom_ids - 1
    try:
        trial = problem.engine.tried(remedy[1])
    except LammpsBGError:
        return None
    try:

        def positions(u: Array) -> Array:
            return surface.positions(u)[:, np.argsort(order)]

        def evaluate(u: Array) -> tuple[Array, Array]:
            energies, forces = trial.energies_forces(positions(u))
            return energies, forces[:, order]

        error = _force_error(lambda u: trial.energies(positions(u)), evaluate, problem.crystal, seed)
        static = trial.energies(positions(np.zeros((1, problem.crystal.n_sites, 3))))[0]
        shifted = trial.energies(positions(np.full((1, problem.crystal.n_sites, 3), 0.1 * problem.crystal.nearest_distance)))[0]
    except LammpsBGError:
        return None
    finally:
        trial.close()
    if abs(shifted - static) > _SAME_SHIFTED * abs(static):
        return None  # the centre of mass would be held, which is refused
    return error if np.isfinite(error) else None
