# SPDX-License-Identifier: GPL-2.0-or-later
"""What `gibbs` evaluates: a crystal in one state at one pressure, and all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.helmholtz import CellSamples, HelmholtzTable
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.gibbs import GibbsPoint
from lammps_bg.thermo.repeats import with_error


@dataclass(frozen=True)
class GibbsState:
    """The crystal in one state at one pressure.

    Attributes:
        table: F over cells in this state.
        pressure: Pressure units of the script.
        point: G, cell and response.
        check: Samples at the cell that was found.
    """

    table: HelmholtzTable
    pressure: float
    point: GibbsPoint
    check: CellSamples

    @property
    def cell(self) -> list[float]:
        """Values of the free cell variables."""
        return [entry.value for entry in self.point.cell]

    def helmholtz(self) -> EstimateResult:
        """F of the whole crystal at the cell, by the polynomial, energy units."""
        value, error = self.table.surface.helmholtz([self.cell])
        return with_error(float(value[0]), float(error[0]), len(self.table.free_energy))

    def scores(self, nktv2p: float) -> tuple[float, float]:
        """Differences of fresh samples' F and virial pressure from the polynomial's F and from P, in their standard errors.

        Args:
            nktv2p: Pressure units per energy per volume.
        """
        curve, fresh = self.helmholtz(), mean_of(self.check.free_energy)
        own = mean_of(self.check.pressure if self.check.pressure is not None else np.full(2, np.nan))
        # P is exact, the volume is not: an error of the volume is one of the pressure there
        spread = self.point.volume.error / (self.point.volume.value * self.point.compressibility.value) * nktv2p
        return (
            float((fresh.value - curve.value) / np.hypot(fresh.error, curve.error)),
            float((own.value - self.pressure) / np.hypot(own.error, spread)),
        )


def mean_of(values: Array) -> EstimateResult:
    """Mean of the repeats with its standard error.

    Args:
        values: One number per repeat, shape [R].
    """
    return with_error(float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5, len(values))


@dataclass(frozen=True)
class Outcome:
    """What was evaluated.

    Attributes:
        model: The conditional model.
        tables: F over cells in each state.
        found: G in each state and at each pressure.
        compared: Flow against MD.
        refused: A sentence for each state and pressure without a minimum inside the trained cells.
    """

    model: ConditionalModel
    tables: Sequence[HelmholtzTable]
    found: Sequence[GibbsState]
    compared: Sequence[Mapping[str, Any]]
    refused: Sequence[str] = ()
