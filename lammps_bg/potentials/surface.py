# SPDX-License-Identifier: GPL-2.0-or-later
"""The one protocol of a potential energy surface: what LAMMPS, a potential in torch or anything else that gives energies must offer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal

EnergiesForces = Callable[[Array], tuple[Array, Array]]
"""Energies [n] and forces [n, N, 3] of displacements [n, N, 3]; a surface is one."""


class EnergyFunction(Protocol):
    """Energies and forces of batches of displacements from the sites, in the order of the sites: all that targets and fits ask for.

    A configuration gives the same numbers in any batch, to rounding. One without a finite energy or finite forces, or that is not
    finite itself, has energy +inf and forces nan; it is never an error.

    Attributes:
        static_energy: Energy of the undisplaced crystal, energy units.
    """

    static_energy: float

    def __call__(self, displacements: Array) -> tuple[Array, Array]:
        """Energies [n], energy units, and forces [n, N, 3] of displacements [n, N, 3], length units."""
        ...

    def energies(self, displacements: Array) -> Array:
        """Energies [n] of displacements [n, N, 3]."""
        ...


class EnergySurface(EnergyFunction, Protocol):
    """The potential energy of one crystal in one state, which knows its other states.

    Attributes:
        crystal: The crystal in the cell of this state.
        n_evaluations: Configurations that it has evaluated, other states included; not those that it handed to another surface.
    """

    @property
    def crystal(self) -> Crystal: ...  # noqa: D102

    @property
    def n_evaluations(self) -> int: ...  # noqa: D102

    def virial_pressures(self, displacements: Array) -> Array:
        """Configurational pressures [n] of displacements [n, N, 3], pressure units, without the kinetic part; nan where there is none."""
        ...

    def in_cells(self, displacements: Array, deformations: Array) -> tuple[Array, Array]:
        """Energies [n] and forces [n, N, 3], each configuration from the sites in a cell of its own.

        Args:
            displacements: Length units, shape [n, N, 3].
            deformations: D of cell = this cell @ D, lower triangular, shape [n, 3, 3].
        """
        ...

    def at(self, reference: Any) -> "EnergySurface":  # noqa: ANN401  (a LammpsSurface; its name would put the engine below the flow)
        """The same potential in another state, that of a surface of LAMMPS.

        Args:
            reference: LAMMPS with the same crystal in its cell there, the last of all its states that LAMMPS was brought to.

        Raises:
            PotentialError: This source does not have the potential with the parameters of that state.
        """
        ...

    def batched(self, corners: "Iterable[EnergySurface]") -> "Batched | None":
        """What evaluates configurations of several states in one call; None where each state needs its own.

        Args:
            corners: States between which all others lie; only looked at where there is such a call.
        """
        ...

    def cost(self) -> dict[str, int]:
        """What it counts beside `n_evaluations`, by the names of `cost` in results.json; other states included."""
        ...

    def close(self) -> None:
        """Free what it holds, other states included; a second call does nothing."""
        ...


class Batched(Protocol):
    """Evaluates batches in which each of several states has so many configurations in a row."""

    def __call__(self, states: Sequence[EnergyFunction], counts: Sequence[int]) -> EnergiesForces:
        """Energies and forces of a batch.

        Args:
            states: States of the surface that made this.
            counts: Configurations of each.
        """
        ...
