# SPDX-License-Identifier: GPL-2.0-or-later
"""What a conditional model depends on: named axes with their ranges, as coordinates between -1 and 1."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lammps_bg.crystal.cell_variables import CELL_VARIABLES, SHEARS
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import StateError

TEMPERATURE = "T"
_SLACK = 1e-6  # of a range: rounding of a cell that is computed back
_FULL_CORNERS = 4  # axes up to which every corner of the box is a point of the design


@dataclass(frozen=True)
class Axis:
    """One condition.

    Attributes:
        name: A cell variable, `T`, or a LAMMPS variable of the potential.
        low: Lower end of the trained range.
        high: Upper end of it.
        unit: What the values are in.
    """

    name: str
    low: float
    high: float
    unit: str

    @property
    def is_cell(self) -> bool:
        """Whether it changes the cell."""
        return self.name in CELL_VARIABLES

    @property
    def is_parameter(self) -> bool:
        """Whether it changes the potential."""
        return not self.is_cell and self.name != TEMPERATURE

    @property
    def key(self) -> str:
        """Where the configuration has its range, in the block `condition`."""
        if self.name == TEMPERATURE:
            return "temperature"
        if self.is_parameter:
            return f"parameters.{self.name}"
        return self.name.replace("/", "_over_") if self.name not in SHEARS else "shear"


@dataclass(frozen=True)
class Conditions:
    """The axes of a conditional model.

    A context is the point in coordinates in which each range is [-1, 1].

    Attributes:
        axes: The axes in their order.
    """

    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        return len(self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(axis.name for axis in self.axes)

    @property
    def sheared(self) -> bool:
        """Whether the cell's angles change, so that reflections are no symmetries."""
        return any(name in SHEARS for name in self.names)

    def context(self, values: Mapping[str, float]) -> tuple[float, ...]:
        """The context of a point.

        Args:
            values: Value of every axis by name; others are ignored.

        Raises:
            StateError: A value is outside the trained range.
        """
        found = []
        for axis in self.axes:
            value = values[axis.name]
            slack = _SLACK * (axis.high - axis.low)
            if not axis.low - slack <= value <= axis.high + slack:
                raise StateError(
                    f"expected {axis.name} in the trained range [{axis.low:g}, {axis.high:g}]{axis.unit and ' '}{axis.unit}, "
                    f"got {value:.6g}; train a model with a wider condition.{axis.key}"
                )
            found.append(float(np.clip((2 * value - axis.low - axis.high) / (axis.high - axis.low), -1, 1)))
        return tuple(found)

    def values(self, context: tuple[float, ...]) -> dict[str, float]:
        """The point of a context, by name.

        Args:
            context: Coordinates in [-1, 1].
        """
        pairs = zip(self.axes, context, strict=True)
        return {axis.name: 0.5 * (axis.low + axis.high + x * (axis.high - axis.low)) for axis, x in pairs}

    def pool(self, n: int, seed: int) -> Array:
        """Contexts that fill the box evenly (a scrambled Sobol sequence), the same for each seed, shape [n, axes].

        Args:
            n: How many, a power of two.
            seed: Seed of the scrambling.
        """
        from scipy.stats import qmc  # a fifth of the start of every command if it stood above

        return np.asarray(2 * qmc.Sobol(len(self.axes), rng=np.random.default_rng(seed)).random(n) - 1)

    def design(self) -> Array:
        """Contexts at which a quadratic function of the conditions is fitted: centre, faces and corners, shape [n, axes].

        One axis has five points; of more than four, every second corner is enough (a central composite design).
        """
        d = len(self.axes)
        if d == 1:
            return np.array([[0.0], [-1.0], [1.0], [-0.5], [0.5]])
        faces = np.concatenate([sign * np.eye(d) for sign in (-1, 1)])
        corners = np.stack(np.meshgrid(*[(-1.0, 1.0)] * d, indexing="ij"), -1).reshape(-1, d)
        if d > _FULL_CORNERS:
            corners = corners[corners.prod(1) > 0]
        return np.concatenate([np.zeros((1, d)), faces, corners])

    def describe(self, values: Mapping[str, float]) -> str:
        """A point in words."""
        return ", ".join(f"{a.name} = {values[a.name]:.6g}{a.unit and ' '}{a.unit}" for a in self.axes)
