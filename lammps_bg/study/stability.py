# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a trajectory stayed in its crystal: no atom left its site, and the structure is still recognised."""

import logging
from dataclasses import asdict, dataclass

import numpy as np

from lammps_bg.errors import CrystalError, LammpsBGError
from lammps_bg.report.identification import StructureIdentifier
from lammps_bg.store.trajectory import Trajectory
from lammps_bg.study.problem import Problem

log = logging.getLogger(__name__)
_HOPPED = 0.4  # mean displacement of an atom that has left its site, in nearest-neighbour distances
_MELTED = 0.25  # root-mean-square displacement of a melt (Lindemann), in nearest-neighbour distances
_KEPT = 0.5  # share of the atoms that must still be recognised
_TAIL = 0.5  # share of the trajectory, its end, that is looked at


@dataclass(frozen=True)
class Stability:
    """How far the atoms of a trajectory are from their sites.

    Attributes:
        lindemann: Root-mean-square displacement in nearest-neighbour distances.
        largest_mean_displacement: Of one atom, in nearest-neighbour distances.
        structure: What OVITO recognises in the reference lattice; nothing where it knows none, or is missing.
        recognised: Share of the atoms whose mean positions have that structure; nothing without one.
    """

    lindemann: float
    largest_mean_displacement: float
    structure: str | None
    recognised: float | None

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        return asdict(self)


def require_stable(problem: Problem, trajectory: Trajectory) -> Stability:
    """Refuse a trajectory that left its crystal.

    Args:
        problem: The crystal.
        trajectory: Frames with displacements from its sites.

    Raises:
        CrystalError: Atoms melted, hopped to other sites, or formed another structure.
    """
    crystal, unit = problem.crystal, problem.units.labels.temperature
    tail = trajectory[slice(int((1 - _TAIL) * len(trajectory)), None)]
    mean = tail.displacements.mean(0)
    lindemann = float(np.sqrt(np.square(tail.displacements).sum(2).mean())) / crystal.nearest_distance
    furthest = np.linalg.norm(mean, axis=1) / crystal.nearest_distance
    state = f"at T = {problem.temperature:g} {unit}; lower T, or start from the phase that is stable there"
    if lindemann > _MELTED:
        raise CrystalError(
            f"expected a crystal, but in the MD its atoms are {lindemann:.2f} nearest-neighbour distances from their sites (root mean "
            f"square; {_MELTED} is a melt) {state}"
        )
    if furthest.max() > _HOPPED:
        atom = int(crystal.atom_ids[furthest.argmax()])
        raise CrystalError(
            f"expected every atom on its site, but in the MD atom {atom} moved {furthest.max():.2f} nearest-neighbour distances away on "
            f"average: atoms hop or the crystal transforms {state}"
        )
    return Stability(lindemann, float(furthest.max()), *_recognised(problem, tail, mean))


def _recognised(problem: Problem, tail: Trajectory, mean: np.ndarray) -> tuple[str | None, float | None]:
    """Structure of the reference and the share of the atoms that kept it, by their mean positions."""
    crystal = problem.crystal
    try:
        identifier = StructureIdentifier(crystal.sites, crystal.supercell)
        if not identifier.recognises:
            return None, None
        cell = tail.cells.mean(0)
        share = float(identifier.reference_fraction((crystal.sites_in(cell) + mean)[None], cell)[0])
        name = identifier.types[int(np.bincount(identifier.reference_types).argmax())]
    except LammpsBGError as error:  # OVITO is optional
        log.warning("the structure of the MD's crystal was not identified: %s", error)
        return None, None
    if share < _KEPT:
        raise CrystalError(
            f"expected {name}, but in the MD only {share:.0%} of the atoms kept that structure at "
            f"T = {problem.temperature:g} {problem.units.labels.temperature}: the crystal transforms; start from the phase that is stable there"
        )
    return name, share
