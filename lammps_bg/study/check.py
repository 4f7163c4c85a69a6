# SPDX-License-Identifier: GPL-2.0-or-later
"""What was understood of a script, tested against LAMMPS; and, where forces are not the slope of the energy, what changes that."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lammps_bg.config import Config
from lammps_bg.crystal.colouring import colour_sites
from lammps_bg.crystal.neighbours import neighbour_graph
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine.script.text import quoted
from lammps_bg.errors import LammpsBGError
from lammps_bg.study.problem import Problem

log = logging.getLogger(__name__)
MISMATCH = 1e-3  # relative difference between forces and finite differences that is no rounding
_SAME_SHIFTED = 1e-4  # of the energy: its change when the whole crystal moves, with a coarse long-range solver
_POINTS = 10_000  # of a tabulated potential

Remedy = tuple[str, list[str]]  # what to write into the script, and the commands that show its effect after the script


@dataclass(frozen=True)
class AtomType:
    """A type of atoms of the script.

    Attributes:
        type: Its number.
        label: Its name.
        mass: In the script's units.
    """

    type: int
    label: str
    mass: float


@dataclass(frozen=True)
class Check:
    """What was understood of a script. Quantities are in its units; the crystal is the supercell where nothing else is said.

    Attributes:
        script: Its file.
        units: Its `units`.
        temperature: Of the state.
        n_atoms: Number of atoms.
        species: Names of the atoms.
        types: The types of atoms.
        space_group: International symbol and number.
        unit_cell: Vectors of the unit cell as rows.
        sites_per_cell: Atoms of the unit cell.
        replicate: Copies along each vector.
        cell: Vectors of the supercell as rows.
        volume: Its volume.
        nearest_distance: Between two sites.
        neighbours: That a site reads in the flow.
        site_classes: Sites of the unit cell that no translation relates.
        colours: Groups of sites that move together in the flow.
        pair_style: As LAMMPS calls it.
        energy: With all atoms at rest.
        energy_per_atom: The same by atom.
        largest_force: Largest component on an atom at rest.
        force_error: Largest difference of forces and finite differences of the energy, relative.
        cutoff: Largest range of the pair style; None where it has none.
        pressure: With all atoms at rest.
        length_scale: Lambda of the absolute free energy, `value` and `source`.
        unit_names: Names of the units of energy, length, temperature and pressure.
        skipped_commands: Commands of the script that were not executed, with the reason.
        removed_fixes: Its fixes that were removed.
        input_files: Script and potential files.
        lammps_version: Of the library.
        lammps_warnings: Its own lines about the script.
    """

    script: str
    units: str
    temperature: float
    n_atoms: int
    species: list[str]
    types: list[AtomType]
    space_group: str
    unit_cell: list[list[float]]
    sites_per_cell: int
    replicate: list[int]
    cell: list[list[float]]
    volume: float
    nearest_distance: float
    neighbours: int
    site_classes: int
    colours: int
    pair_style: str
    energy: float
    energy_per_atom: float
    largest_force: float
    force_error: float
    cutoff: float | None
    pressure: float
    length_scale: dict[str, Any]
    unit_names: dict[str, str]
    skipped_commands: list[str]
    removed_fixes: list[str]
    input_files: list[str]
    lammps_version: str
    lammps_warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON knows it."""
        return asdict(self)


def check(problem: Problem, config: Config) -> Check:
    """Look at a crystal and try its forces; warns where they are not the slope of the energy."""
    engine, crystal, labels = problem.engine, problem.crystal, problem.units.labels
    mismatch = force_error(problem, config.seed)
    if mismatch > MISMATCH:
        log.warning(
            "forces differ from finite differences of the energy by %.1g of their size; %s; training follows the forces",
            mismatch, explained(problem, config.seed),
        )  # fmt: skip
    graph = neighbour_graph(crystal, count=config.flow.n_neighbours)
    masses = zip(crystal.labels, crystal.masses, strict=True)
    return Check(
        script=str(engine.script_files[0]),
        units=problem.units.name,
        temperature=problem.temperature,
        n_atoms=crystal.n_sites,
        species=sorted(set(crystal.species)),
        types=[AtomType(number, label, float(mass)) for number, (label, mass) in enumerate(masses, 1)],
        space_group=crystal.unit.space_group,
        unit_cell=crystal.unit.cell.tolist(),
        sites_per_cell=crystal.n_basis,
        replicate=list(crystal.replicate),
        cell=crystal.supercell.tolist(),
        volume=crystal.volume,
        nearest_distance=crystal.nearest_distance,
        neighbours=graph.count,
        site_classes=int(crystal.unit.site_class.max()) + 1,
        colours=int(colour_sites(crystal, graph).max()) + 1,
        pair_style=engine.pair_style,
        energy=problem.surface.static_energy,
        energy_per_atom=problem.surface.static_energy / crystal.n_sites,
        largest_force=problem.largest_force,
        force_error=mismatch,
        cutoff=engine.cutoff(),
        pressure=float(engine.virial_pressure(engine.sites[None])[0]),
        length_scale={"value": problem.length_scale, "source": problem.length_source},
        unit_names={name: getattr(labels, name) for name in ("energy", "length", "temperature", "pressure")},
        skipped_commands=[f"{c.file.name}:{c.line}: {c.command} ({c.reason})" for c in engine.skipped],
        removed_fixes=engine.removed_fixes,
        input_files=[path.name for path in problem.surface.files],
        lammps_version=engine.version,
        lammps_warnings=engine.lines,
    )


def force_error(problem: Problem, seed: int) -> float:
    """Largest difference between forces and finite differences of the energy along random displacements, relative to the force."""
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
    """What was tried in a copy of the script against a mismatch of forces and energies, with the figures, as a part of a sentence."""
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
