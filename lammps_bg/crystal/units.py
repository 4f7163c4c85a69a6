# SPDX-License-Identifier: GPL-2.0-or-later
"""Units: names of the LAMMPS unit styles and the constants that LAMMPS itself uses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UnitLabels:
    """How the quantities of one LAMMPS unit style are written."""

    energy: str
    length: str
    temperature: str
    pressure: str
    time: str


LABELS = {
    "lj": UnitLabels("epsilon", "sigma", "epsilon/kB", "epsilon/sigma^3", "tau"),
    "real": UnitLabels("kcal/mol", "Angstrom", "K", "atm", "fs"),
    "metal": UnitLabels("eV", "Angstrom", "K", "bar", "ps"),
    "si": UnitLabels("J", "m", "K", "Pa", "s"),
    "cgs": UnitLabels("erg", "cm", "K", "dyne/cm^2", "s"),
    "electron": UnitLabels("Hartree", "Bohr", "K", "Pa", "fs"),
    "micro": UnitLabels("pg um^2/us^2", "um", "K", "pg/(um us^2)", "us"),
    "nano": UnitLabels("ag nm^2/ns^2", "nm", "K", "ag/(nm ns^2)", "ns"),
}


@dataclass(frozen=True)
class Units:
    """A LAMMPS unit style with LAMMPS' own constants.

    Attributes:
        name: The style, as in the `units` command.
        boltzmann: k_B in energy per temperature.
        planck: Planck's constant h in energy times time.
        mvv2e: Conversion of mass velocity^2 to energy.
        nktv2p: Conversion of energy per volume to pressure.
        timestep: The script's time step, LAMMPS' default for the style where it sets none.
    """

    name: str
    boltzmann: float
    planck: float
    mvv2e: float
    nktv2p: float
    timestep: float

    @property
    def labels(self) -> UnitLabels:
        """The written names of this style's units."""
        return LABELS[self.name]

    def beta(self, temperature: float) -> float:
        """1 / (k_B T) in inverse energy; `temperature` in this style's unit."""
        return 1.0 / (self.boltzmann * temperature)
