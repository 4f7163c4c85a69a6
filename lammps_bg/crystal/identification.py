# SPDX-License-Identifier: GPL-2.0-or-later
"""Structure identification by OVITO: which atoms of a configuration still have the neighbourhood of their crystal.

The lattice decides the analysis: `IdentifyDiamondModifier` for diamond, lonsdaleite and zincblende, polyhedral template matching
for fcc, hcp, bcc and simple cubic. OVITO looks neighbours up through the periodic boundaries and so needs no replicas, however
small the cell (measured down to one atom).

Thermal noise hides structure from a single configuration; for whether a crystal melted or transformed, ask for the mean of
some ten consecutive frames.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.crystal.ovito_package import configuration, ovito_module
from lammps_bg.crystal.scale import natural_unit
from lammps_bg.errors import LammpsBGError

Array = NDArray[np.float64]

RMSD_CUTOFF = 0.12
"""Template matching finds up to 0.01 of a liquid crystalline at this cut-off and up to 0.07 at 0.15; at 0.10 it loses 0.03 of
an fcc crystal whose atoms are displaced by 9 % of the nearest distance, at 0.12 none."""
_TEMPLATES = ("FCC", "HCP", "BCC")
# The neighbours of a recognised atom sit on the same lattice, but something in their own second shell does not.
_DIAMOND = {
    1: "Cubic diamond",
    2: "Cubic diamond",
    3: "Cubic diamond",
    4: "Hexagonal diamond",
    5: "Hexagonal diamond",
    6: "Hexagonal diamond",
}
_KNOWN = "fcc, hcp, bcc, simple cubic, cubic or hexagonal diamond"


class IdentificationError(LammpsBGError):
    """OVITO does not know the lattice, or the configurations do not fit it."""


class StructureIdentifier:
    """Assigns a structure type to every atom, by the analysis that recognises the reference lattice.

    Args:
        sites: Reference sites, shape [N, 3], length units.
        cell: Cell vectors as rows, shape [3, 3], length units.

    Attributes:
        method: "diamond", "template matching", or "none" for a lattice that OVITO does not know (beta-tin, quartz).
        types: Names of the structure types, OVITO's, "Other" last; empty if the lattice is not known.
        reference_types: Index into `types` of each site of the reference lattice, shape [N].

    Raises:
        OvitoError: OVITO is missing.
    """

    def __init__(self, sites: ArrayLike, cell: ArrayLike) -> None:
        lattice, box = np.asarray(sites, dtype=np.float64), np.asarray(cell, dtype=np.float64)
        self.method = "none"
        self.types: tuple[str, ...] = ()
        self.reference_types = np.zeros(len(lattice), dtype=np.int64)
        for method, modifier, names in _analyses():
            numbers = _structure_types(modifier, lattice, box)
            # A lattice with vacancies has sites of no type; a lattice of mostly such sites would be judged by the rest of it.
            if np.mean(numbers != 0) > 0.5:
                self.method, self.types = method, (*dict.fromkeys(names.values()), "Other")
                self._modifier, self._names = modifier, names
                self.reference_types = self._indices(numbers)
                return

    @property
    def recognises(self) -> bool:
        """Whether OVITO knows the reference lattice."""
        return self.method != "none"

    def modifier(self) -> Any:  # noqa: ANN401
        """The analysis as an OVITO modifier for one pipeline of the caller's."""
        self._require_known()
        return self._modifier

    def type_indices(self, positions: ArrayLike, cell: ArrayLike) -> NDArray[np.int64]:
        """Structure type of every atom in every frame, an index into `types`, shape [n, N].

        Args:
            positions: In site order, any periodic image, shape [n, N, 3], length units.
            cell: Cell vectors as rows, one cell or one for each frame, shape [3, 3] or [n, 3, 3], length units.

        Raises:
            IdentificationError: The lattice is not known, or the positions are of another crystal.
        """
        self._require_known()
        frames, cells = self._checked(positions, cell)
        found = [self._indices(_structure_types(self._modifier, frame, box)) for frame, box in zip(frames, cells, strict=True)]
        return np.array(found, dtype=np.int64).reshape(frames.shape[:2])

    def fractions(self, positions: ArrayLike, cell: ArrayLike) -> tuple[tuple[str, ...], Array]:
        """Fraction of the atoms of each structure type in each frame.

        Returns:
            The names of the types (k of them) and the fractions, shape [n, k]; they sum to 1.

        Raises:
            IdentificationError: As for `type_indices`.
        """
        found = self.type_indices(positions, cell)
        return self.types, np.stack([(found == index).mean(axis=1) for index in range(len(self.types))], axis=1)

    def reference_fraction(self, positions: ArrayLike, cell: ArrayLike) -> Array:
        """Fraction of the atoms whose structure type is that of their site: 1 in the crystal, near 0 once it melted or transformed.

        Sites that have no type in the reference lattice (next to a vacancy) are left out.

        Returns:
            One number per frame, shape [n].

        Raises:
            IdentificationError: As for `type_indices`.
        """
        found = self.type_indices(positions, cell)
        known = self.reference_types != len(self.types) - 1
        return np.asarray((found == self.reference_types)[:, known].mean(axis=1))

    def _indices(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices into `types` of OVITO's type numbers."""
        table = np.full(max(*self._names, numbers.max()) + 1, len(self.types) - 1)
        for number, name in self._names.items():
            table[number] = self.types.index(name)
        return np.asarray(table[numbers])

    def _checked(self, positions: ArrayLike, cell: ArrayLike) -> tuple[Array, Array]:
        """Frames [n, N, 3] and the cell of each, [n, 3, 3]."""
        frames, box = np.asarray(positions, dtype=np.float64), np.asarray(cell, dtype=np.float64)
        n_atoms = len(self.reference_types)
        if frames.ndim != 3 or frames.shape[1:] != (n_atoms, 3) or not np.isfinite(frames).all():
            raise IdentificationError(
                f"expected finite positions of shape [n, {n_atoms}, 3], got shape {list(frames.shape)}; give frames of this crystal"
            )
        if box.shape not in ((3, 3), (len(frames), 3, 3)):
            raise IdentificationError(
                f"expected one cell or {len(frames)} of shape [3, 3], got shape {list(box.shape)}; give one per frame"
            )
        return frames, np.broadcast_to(box, (len(frames), 3, 3))

    def _require_known(self) -> None:
        if not self.recognises:
            raise IdentificationError(
                f"expected a lattice that OVITO identifies ({_KNOWN}), but the reference lattice is none of these; "
                "judge this crystal by its displacements and radial distribution instead"
            )


def _analyses() -> Iterator[tuple[str, Any, dict[int, str]]]:
    """Method, OVITO modifier and names of the type numbers, the most specific first."""
    modifiers = ovito_module("modifiers")
    yield "diamond", modifiers.IdentifyDiamondModifier(color_by_type=False), _DIAMOND
    # Simple cubic only where the lattice is: every further template takes its share of a liquid.
    for templates in (_TEMPLATES, (*_TEMPLATES, "Simple cubic")):
        matching = modifiers.PolyhedralTemplateMatchingModifier(rmsd_cutoff=RMSD_CUTOFF, color_by_type=False)
        for structure in matching.structures:
            structure.enabled = structure.name in templates
        yield "template matching", matching, {s.id: s.name for s in matching.structures if s.enabled}


def _structure_types(modifier: Any, positions: Array, cell: Array) -> NDArray[np.int64]:  # noqa: ANN401
    """OVITO's type number of each atom, 0 for none, shape [N]."""
    unit = natural_unit(float(abs(np.linalg.det(cell)) / len(positions)) ** (1 / 3))  # OVITO takes a box of 1e-9 m for none
    data = configuration(positions / unit, cell / unit)
    data.apply(modifier)
    return np.array(data.particles["Structure Type"], dtype=np.int64)
