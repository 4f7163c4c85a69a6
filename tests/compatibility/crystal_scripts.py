# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS scripts of simple crystals: the lattice is written out, the potential is the caller's text."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase.data import atomic_masses, atomic_numbers

_OFFSET = (0.11, 0.13, 0.17)  # of all sites, so that none lies on a face of the cell
Place = tuple[float, float, float]


@dataclass(frozen=True)
class Lattice:
    """A unit cell.

    Attributes:
        cell: lx, ly, lz, xy, xz, yz, length units.
        sites: Fractional places by atom type, the first type first.
    """

    cell: tuple[float, float, float, float, float, float]
    sites: tuple[tuple[Place, ...], ...]

    def commands(self, units: str) -> str:
        """The LAMMPS commands that make it.

        Args:
            units: LAMMPS' name of the units; the scale of a lattice is a density in `lj`.
        """
        lx, ly, lz, xy, xz, yz = self.cell
        scale = sum(map(len, self.sites)) / (lx * ly * lz) if units == "lj" else 1
        shape = f"prism 0 {lx} 0 {ly} 0 {lz} {xy} {xz} {yz}" if any((xy, xz, yz)) else f"block 0 {lx} 0 {ly} 0 {lz}"
        places = [[(x + o) % 1 for x, o in zip(site, _OFFSET, strict=True)] for site in itertools.chain(*self.sites)]
        types = [kind for kind, sites in enumerate(self.sites, 1) for _ in sites]
        return "\n".join(
            [
                f"lattice custom {scale!r} a1 {lx} 0 0 a2 {xy} {ly} 0 a3 {xz} {yz} {lz} &",
                *(f"  basis {x!r} {y!r} {z!r} &" for x, y, z in places[:-1]),
                "  basis {!r} {!r} {!r}".format(*places[-1]),
                f"region cell {shape} units box",
                f"create_box {len(self.sites)} cell",
                "create_atoms 1 box" + "".join(f" basis {i} {kind}" for i, kind in enumerate(types, 1)),
            ]
        )


def script(
    elements: Sequence[str],
    lattice: Lattice,
    potential: str,
    *,
    temperature: float = 300,
    units: str = "metal",
    style: str = "atomic",
    charges: Mapping[str, float] | None = None,
) -> str:
    """A whole input script.

    Args:
        elements: Elements of the atom types.
        lattice: The unit cell.
        potential: Commands of the potential.
        temperature: In the script's unit.
        units: LAMMPS' name of the units.
        style: LAMMPS' atom style.
        charges: Charge by element.
    """
    masses = [1.0 if units == "lj" else float(atomic_masses[atomic_numbers[name]]) for name in elements]
    return "\n".join(
        [
            f"variable T index {temperature}",
            f"units {units}",
            f"atom_style {style}",
            lattice.commands(units),
            *(f"mass {kind} {mass}" for kind, mass in enumerate(masses, 1)),
            *(f"set type {elements.index(name) + 1} charge {charge}" for name, charge in (charges or {}).items()),
            potential.strip(),
            "",
        ]
    )


_FACES: tuple[Place, ...] = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))


def _shifted(sites: Sequence[Place], by: float) -> tuple[Place, ...]:
    return tuple((x + by, y + by, z + by) for x, y, z in sites)


def _cubic(a: float, *sites: tuple[Place, ...]) -> Lattice:
    return Lattice((a, a, a, 0, 0, 0), sites)


def fcc(a: float) -> Lattice:
    """Face-centred cubic, 4 atoms."""
    return _cubic(a, _FACES)


def bcc(a: float) -> Lattice:
    """Body-centred cubic, 2 atoms."""
    return _cubic(a, ((0, 0, 0), (0.5, 0.5, 0.5)))


def caesium_chloride(a: float) -> Lattice:
    """B2, 2 atoms of two types."""
    return _cubic(a, ((0, 0, 0),), ((0.5, 0.5, 0.5),))


def diamond(a: float) -> Lattice:
    """Diamond, 8 atoms."""
    return _cubic(a, (*_FACES, *_shifted(_FACES, 0.25)))


def zincblende(a: float) -> Lattice:
    """B3, 8 atoms of two types."""
    return _cubic(a, _FACES, _shifted(_FACES, 0.25))


def rocksalt(a: float) -> Lattice:
    """B1, 8 atoms of two types."""
    return _cubic(a, _FACES, _shifted(_FACES, 0.5))


def cu3au(a: float) -> Lattice:
    """L1_2, 4 atoms of two types."""
    return _cubic(a, _FACES[:1], _FACES[1:])


def heusler(a: float) -> Lattice:
    """L2_1, 16 atoms of three types, the first type twice."""
    return _cubic(a, _shifted(_FACES, 0.25) + _shifted(_FACES, 0.75), _FACES, _shifted(_FACES, 0.5))


def perovskite(a: float) -> Lattice:
    """Cubic ABX3, 5 atoms of three types."""
    return _cubic(a, ((0, 0, 0),), ((0.5, 0.5, 0.5),), ((0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)))


def hexagonal(a: float, c: float, *sites: tuple[Place, ...]) -> Lattice:
    """A primitive hexagonal cell, triclinic for LAMMPS, with an angle of 60 degrees.

    Args:
        a: Side, length units.
        c: Height, length units.
        sites: Fractional places by type.
    """
    return Lattice((a, a * math.sqrt(0.75), c, a / 2, 0, 0), sites)


def hcp(a: float, c: float) -> Lattice:
    """Hexagonal close-packed, 2 atoms in the primitive triclinic cell."""
    return hexagonal(a, c, ((0, 0, 0), (1 / 3, 1 / 3, 1 / 2)))


def wurtzite(a: float, c: float, u: float) -> Lattice:
    """B4, 4 atoms of two types in the primitive triclinic cell."""
    first: tuple[Place, ...] = ((0, 0, 0), (1 / 3, 1 / 3, 1 / 2))
    return hexagonal(a, c, first, tuple((x, y, z + u) for x, y, z in first))


def fcc_primitive(a: float) -> Lattice:
    """Face-centred cubic, 1 atom in the primitive triclinic cell."""
    d = a / math.sqrt(2)
    return Lattice((d, d * math.sqrt(3 / 4), d * math.sqrt(2 / 3), d / 2, d / 2, d / math.sqrt(12)), (((0, 0, 0),),))
