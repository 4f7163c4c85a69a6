# SPDX-License-Identifier: GPL-2.0-or-later
"""Ensembles of molecular dynamics: what each asks of LAMMPS, as commands whose ids all start with `PREFIX`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from lammps_bg.errors import StateError

PREFIX = "lammps_bg_"
_FREE = ("iso", "aniso", "tri")


@dataclass(frozen=True)
class Facts:
    """What the commands of an ensemble depend on besides itself.

    Attributes:
        n_types: Number of atom types.
        seed: Seed of LAMMPS' noise, 1 to 900000000.
        has_gjf: Whether this LAMMPS has `fix gjf`; before 2025 the same integrator was a part of `fix langevin`.
    """

    n_types: int
    seed: int
    has_gjf: bool = True


class Ensemble(Protocol):
    """What the dynamics needs of an ensemble."""

    stochastic: ClassVar[bool]
    """Whether noise acts on every degree of freedom, the centre of mass included."""

    @property
    def temperature(self) -> float:
        """Temperature, temperature units."""

    @property
    def triclinic(self) -> bool:
        """Whether LAMMPS must hold the box as triclinic."""

    def commands(self, facts: Facts) -> list[str]:
        """LAMMPS commands that start it, to be sent with the atoms on the sites."""


@dataclass(frozen=True)
class Canonical:
    """Constant temperature and cell: Langevin dynamics in the discretisation of Gronbech-Jensen and Farago.

    In a harmonic well its positions have the exact variance at every stable time step; LAMMPS' plain `fix langevin` does not.

    Nothing holds the centre of mass. A crystal's energy does not change with a common shift, so the shift diffuses freely and
    independently of the relative coordinates, whose distribution is the canonical one whatever the masses: take the mean
    displacement off afterwards. Constraining the total force (`zero yes`) or momentum (`fix momentum`) would correlate the noise
    of different atoms and is not needed.

    Attributes:
        temperature: Temperature, temperature units.
        damp: Relaxation time of the velocities, time units.
    """

    temperature: float
    damp: float
    stochastic: ClassVar[bool] = True
    triclinic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_positive(temperature=self.temperature, damp=self.damp)

    def commands(self, facts: Facts) -> list[str]:
        """LAMMPS commands that start it."""
        noise = f"{_numbers(self.temperature, self.temperature, self.damp)} {facts.seed}"
        # velocities at the time of the positions: together they are the whole state, so that a run can go on from them
        if facts.has_gjf:
            return [f"fix {PREFIX}gjf all gjf {noise} vel vfull"]
        return [f"fix {PREFIX}langevin all langevin {noise} gjf vfull", f"fix {PREFIX}nve all nve"]


@dataclass(frozen=True)
class FrenkelLadd:
    """Constant temperature and cell, with forces between those of the crystal and those of springs to the sites.

    U = coupling * U_crystal + (1 - coupling) * sum over atoms of stiffness / 2 * displacement^2.

    The mean displacement may be taken off here, too: with the centre weighted by the spring constants, the springs' energy is a
    part of the centre and a part of the coordinates relative to it, so the centre integrates out.

    Attributes:
        temperature: Temperature, temperature units.
        damp: Relaxation time of the velocities, time units.
        coupling: Share of the crystal's forces, 0 to 1.
        stiffness: Spring constant of each atom type, shape [n_types], energy per length squared.
    """

    temperature: float
    damp: float
    coupling: float
    stiffness: Sequence[float]
    stochastic: ClassVar[bool] = True
    triclinic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_positive(temperature=self.temperature, damp=self.damp, stiffness=min(self.stiffness))
        if not 0.0 <= self.coupling <= 1.0:
            raise StateError(f"expected a coupling from 0 (springs only) to 1 (crystal only), got {self.coupling}")

    def commands(self, facts: Facts) -> list[str]:
        """LAMMPS commands that start it, to be sent with the atoms on the sites: there the springs are fixed."""
        if len(self.stiffness) != facts.n_types:
            raise StateError(f"expected a spring constant for each of {facts.n_types} atom types, got {len(self.stiffness)}")
        springs = [] if self.coupling == 1.0 else [*self._scaled_forces(), *self._springs()]
        return springs + Canonical(self.temperature, self.damp).commands(facts)

    def _scaled_forces(self) -> list[str]:
        """Scale all forces so far, those of kspace and of the script's fixes included; the springs come after it."""
        if self.coupling == 0.0:  # also where the crystal's forces are infinite
            return [f"fix {PREFIX}scale all setforce 0 0 0"]
        variables = [f'variable {PREFIX}f{axis} atom "{_numbers(self.coupling - 1.0)}*f{axis}"' for axis in "xyz"]
        return [*variables, f"fix {PREFIX}scale all addforce " + " ".join(f"v_{PREFIX}f{axis}" for axis in "xyz")]

    def _springs(self) -> list[str]:
        """One fix for each spring constant. LAMMPS has room for 32 groups, so equal types share one."""
        commands = []
        for number, constant in enumerate(sorted(set(map(float, self.stiffness)))):
            types = [str(index) for index, k in enumerate(self.stiffness, 1) if k == constant]
            commands += [
                f"group {PREFIX}{number} type {' '.join(types)}",
                f"fix {PREFIX}spring{number} {PREFIX}{number} spring/self {_numbers((1.0 - self.coupling) * constant)}",
            ]
        return commands


@dataclass(frozen=True)
class IsothermalIsobaric:
    """Constant temperature and pressure: LAMMPS' `fix npt`.

    Attributes:
        temperature: Temperature, temperature units.
        pressure: Pressure with its kinetic part, pressure units.
        free: What of the cell may change: `iso` its volume, `aniso` its three lengths, `tri` lengths and tilts.
        damp: Relaxation time of the temperature, time units.
        pressure_damp: Relaxation time of the pressure, time units.
    """

    temperature: float
    pressure: float
    free: str
    damp: float
    pressure_damp: float
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_positive(temperature=self.temperature, damp=self.damp, pressure_damp=self.pressure_damp)
        if self.free not in _FREE:
            raise StateError(f"expected the free part of the cell to be one of {', '.join(_FREE)}, got '{self.free}'")

    @property
    def triclinic(self) -> bool:
        """Whether LAMMPS must hold the box as triclinic."""
        return self.free == "tri"

    def commands(self, facts: Facts) -> list[str]:
        """LAMMPS commands that start it; the dynamics is deterministic."""
        temperature = f"temp {_numbers(self.temperature, self.temperature, self.damp)}"
        pressure = f"{self.free} {_numbers(self.pressure, self.pressure, self.pressure_damp)}"
        # a flipped box is the same lattice in other vectors: then fractional coordinates of the sites would change
        return [f"fix {PREFIX}npt all npt {temperature} {pressure} flip no"]


def _numbers(*values: float) -> str:
    """Numbers with all their digits; those of numpy print their type, too."""
    return " ".join(repr(float(value)) for value in values)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise StateError(f"expected a positive {name.replace('_', ' ')} for molecular dynamics, got {value}")
