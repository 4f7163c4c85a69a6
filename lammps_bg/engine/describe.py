# SPDX-License-Identifier: GPL-2.0-or-later
"""What LAMMPS holds after a script, in this package's words: units, structure, names of the atom types."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import NDArray

from lammps_bg.crystal.structure import Array, Structure, told_apart
from lammps_bg.crystal.units import LABELS, Units
from lammps_bg.engine.instance import Instance
from lammps_bg.engine.library import Lammps
from lammps_bg.engine.script import rules
from lammps_bg.errors import ScriptError

_SKINS = {"lj": 0.3, "real": 2.0, "metal": 2.0, "si": 0.001, "cgs": 0.1, "electron": 2.0, "micro": 0.1, "nano": 0.1}
_WIDEST_SKIN = 4.0  # in spacings
_MASS_TOLERANCE = 0.01  # of a mass in g/mol to count as that element
WRAP_TOLERANCE = 1e-9  # fractional: a site at -1e-12 stays there instead of going to the far side


def units(lammps: Lammps) -> Units:
    """The unit style of an instance with LAMMPS' own constants."""
    name = str(lammps.extract_global("units"))
    if name not in LABELS:
        raise ScriptError(f"expected `units` to be one of {', '.join(LABELS)}, got '{name}'")
    keys = ("boltz", "hplanck", "mvv2e", "nktv2p", "dt")
    return Units(name, *(float(lammps.extract_global(key)) for key in keys))


def skin(instance: Instance, spacing: float) -> float:
    """The script's neighbour skin, or LAMMPS' default of the unit style, length units.

    Those of the styles that are made for large particles (a millimetre in `units si`) would make every atom a neighbour of
    millions of images: there it is a part of the spacing.

    Args:
        instance: The instance.
        spacing: Cube root of the volume per atom, length units.
    """
    words = instance.reader.neighbor
    given = float(words[0]) if words and float(words[0]) > 0 else _SKINS[str(instance.lammps.extract_global("units"))]
    return given if given < _WIDEST_SKIN * spacing else 0.5 * spacing


def box(lammps: Lammps) -> tuple[Array, Array]:
    """Cell vectors as rows, shape [3, 3], and origin, shape [3], of the current box."""
    low, high, xy, yz, xz = lammps.extract_box()[:5]
    cell = np.diag(np.subtract(high, low)).astype(np.float64)
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    return cell, np.array(low, dtype=np.float64)


def structure(instance: Instance) -> Structure:
    """The atoms of an instance, ordered by id, wrapped into the cell.

    Whole-cell image flags are dropped: in a crystal they say nothing about the site.
    """
    lammps = instance.lammps
    cell, origin = box(lammps)
    positions, types = instance.atoms.gather("x", "type")
    fractional = (positions - origin) @ np.linalg.inv(cell)
    positions -= np.floor(fractional + WRAP_TOLERANCE) @ cell
    masses = _masses(instance, types)
    found = labels(instance, masses)
    return Structure(cell, origin, positions, types, masses, found, told_apart(types, _own(instance)), _bonds(instance))


def _own(instance: Instance) -> list[Array]:
    """What atoms of one type may differ in, shape [N] each: charges that stay, masses and radii.

    Charges that are found anew for every configuration follow from types and positions, and carry noise.
    """
    fixed = {"q": not instance.reader.charge_fixes, "rmass": True, "radius": True}
    flags = {name: instance.lammps.extract_setting(f"{name}_flag") == 1 for name in fixed}
    return list(instance.atoms.gather(*(name for name in fixed if fixed[name] and flags[name])))


def _bonds(instance: Instance) -> NDArray[np.int64]:
    """Indices of the two atoms and type of each bond, shape [m, 3]."""
    has_bonds = bool(instance.lammps.extract_global("nbonds"))
    return instance.atoms.bonds() if has_bonds else np.empty((0, 3), dtype=np.int64)


def unwrapped(instance: Instance) -> Array:
    """Positions with image flags applied, ordered by id, shape [N, 3], length units: what fixes with a memory refer to."""
    cell, _ = box(instance.lammps)
    positions, flags = instance.atoms.gather("x", "image")
    bits, half = _image_layout(instance)
    images = np.stack([((flags >> shift) & (2 * half - 1)) - half for shift in (0, bits, 2 * bits)], axis=1)
    return np.asarray(positions + images @ cell)


def encoded_images(instance: Instance, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Image flags in LAMMPS' packed form, shape [N].

    Args:
        instance: The instance.
        images: Cells to add to each position, shape [N, 3].
    """
    bits, half = _image_layout(instance)
    packed = images + half
    return packed[:, 0] | (packed[:, 1] << bits) | (packed[:, 2] << 2 * bits)


def _image_layout(instance: Instance) -> tuple[int, int]:
    """Bits per direction and the number that stands for image 0."""
    return (10, 512) if instance.lammps.extract_setting("imageint") == 4 else (21, 1 << 20)


def _masses(instance: Instance, types: NDArray[np.int64]) -> Array:
    """Mass of each type, shape [n_types]; with a mass per atom its geometric mean over the type, which free energies contain."""
    lammps, n_types = instance.lammps, instance.lammps.extract_setting("ntypes")
    if not lammps.extract_setting("rmass_flag"):
        return lammps.per_type("mass")[1 : n_types + 1].copy()
    (per_atom,) = instance.atoms.gather("rmass")
    return np.array([_geometric_mean(per_atom[types == t + 1]) for t in range(n_types)])


def _geometric_mean(masses: Array) -> float:
    """Of no mass zero, and of equal masses their value to the last bit."""
    if len(masses) == 0 or np.ptp(masses) == 0:
        return float(masses[0]) if len(masses) else 0.0
    return float(np.exp(np.log(masses).mean()))


def labels(instance: Instance, masses: Array) -> tuple[str, ...]:
    """Name of each type: as in pair_coeff, else the element of its mass, else `X1`, `X2`, ...

    Args:
        instance: The instance.
        masses: Mass of each type, shape [n_types].
    """
    named = [""] * len(masses)
    for words in instance.reader.pair_coeffs:
        symbols = words[-len(masses) :]
        if words[:2] == ["*", "*"] and len(words) > 2 + len(masses):
            named = [old or _symbol(word) for old, word in zip(named, symbols, strict=True)]
    if str(instance.lammps.extract_global("units")) in ("real", "metal", "electron"):
        named = [old or _element_of_mass(mass) for old, mass in zip(named, masses, strict=True)]
    return tuple(name or f"X{index}" for index, name in enumerate(named, 1))


def _symbol(word: str) -> str:
    """The word if it can be a name: numbers are coefficients, NULL leaves the type to another potential."""
    return word if word[:1].isalpha() and word != "NULL" else ""


def _element_of_mass(mass: float) -> str:
    nearest = int(np.argmin(np.abs(atomic_masses[1:] - mass))) + 1
    return chemical_symbols[nearest] if abs(atomic_masses[nearest] - mass) < _MASS_TOLERANCE * mass else ""


@dataclass(frozen=True)
class PairStyle:
    """A pair style with its parameters.

    Attributes:
        style: Its name, without an accelerator suffix.
        args: Words after the name.
        coefficients: Words of each pair_coeff command.
        modifiers: Words of all pair_modify commands, in order.
        files: What the file names among the words stand for.
        epsilon: Energy of each pair of types as LAMMPS mixes it, energy units, shape [n_types, n_types]; None where there is none.
        sigma: Length of each pair of types, length units, same shape; None where there is none.
        others: What else contributes to the energy.
    """

    style: str
    args: tuple[str, ...]
    coefficients: tuple[tuple[str, ...], ...]
    modifiers: tuple[str, ...]
    files: Mapping[str, Path]
    epsilon: Array | None
    sigma: Array | None
    others: tuple[str, ...]

    @classmethod
    def of(cls, instance: Instance) -> "PairStyle":
        """What the script of an instance says."""
        reader, lammps = instance.reader, instance.lammps
        style = rules.base_style(instance.pair_style)
        others = [f"fix {name}" for name in reader.kept_fixes] + reader.kspace
        others += [kind for kind in ("bond", "angle", "dihedral", "improper") if lammps.extract_setting(f"n{kind}types") > 0]
        described = reader.pair_style[:1] and rules.base_style(reader.pair_style[0]) == style
        args = tuple(reader.pair_style[1:]) if described else ()
        mixed = style.startswith("lj/cut")
        return cls(
            style,
            args,
            tuple(map(tuple, reader.pair_coeffs)),
            tuple(reader.pair_modify),
            dict(reader.files.names),
            _table(instance, "epsilon") if mixed else None,
            _table(instance, "sigma") if mixed else None,
            tuple(others),
        )


def _table(instance: Instance, name: str) -> Array | None:
    """A parameter of each pair of types, as LAMMPS mixes it."""
    values = instance.lammps.extract_pair(name)
    if values is None:
        return None
    upper = np.triu(np.array(values, dtype=np.float64)[1:, 1:])  # LAMMPS sets no more of it
    return upper + np.triu(upper, 1).T
