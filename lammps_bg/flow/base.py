# SPDX-License-Identifier: GPL-2.0-or-later
"""What a base distribution must offer.

A new kind of base is one file in `flow/bases`: a density (`Base`) and the parameters that make it (`BaseParameters`), which the file
names `PARAMETERS`. The file's name is the value of `base.kind`; nothing else has to know of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.potentials.surface import EnergiesForces


class Base(Protocol):
    """A Gaussian on the displacements of a crystal with the centre of mass removed (3N - 3 dimensions).

    Attributes:
        log_integral: Logarithm of the integral of exp(-u C^-1 u / 2) over the subspace, in (length units)^(3N - 3).
        amplitude: Root-mean-square displacement of each site per component, length units, shape [N].
        softest: Unit vector of the displacements that vary most, shape [N, 3]: what a chain forgets last.
    """

    log_integral: float
    amplitude: Tensor

    @property
    def softest(self) -> Tensor: ...  # noqa: D102

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw displacements, length units, shape [n, N, 3], float64."""
        ...

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        ...

    def colour(self, x: Tensor) -> Tensor:
        """Displacements C^(1/2) x [n, N, 3], length units, of white noise x [n, N, 3]: standard normal x give samples; differentiable.

        x has three dimensions more than the displacements: they have no effect.
        """
        ...

    def whiten(self, u: Tensor) -> Tensor:
        """The shortest x [n, N, 3] that `colour` takes to displacements u [n, N, 3] without centre of mass; differentiable."""
        ...


@dataclass(frozen=True)
class BoundStep:
    """One iteration of a fit: <beta U + log q0> per atom, the Gibbs-Bogoliubov bound if all samples have a finite energy.

    Attributes:
        bound: Mean over the samples with finite energy, kT per atom.
        error: Its standard error.
        n: Samples with finite energy.
        n_drawn: Samples drawn.
    """

    bound: float
    error: float
    n: int
    n_drawn: int

    @property
    def holds(self) -> bool:
        """Whether it is a bound: a single infinite energy makes the true mean infinite."""
        return self.n == self.n_drawn


@dataclass(frozen=True)
class FitTask:
    """What a base is fitted to.

    Attributes:
        force_field: Energies and forces of displacements in grid order.
        crystal: The reference crystal.
        units: Unit style, for messages.
        beta: 1 / (k_B T), inverse energy.
        seed: Seed of the random displacements.
    """

    force_field: EnergiesForces
    crystal: Crystal
    units: Units
    beta: float
    seed: int


class BaseParameters(ABC):
    """The numbers that a base is made from, fitted at one replicate.

    Attributes:
        restarts: Whether a fit can start from other parameters: then the harmonic ones, which a flow may get further from, are tried
            beside the self-consistent ones, and the base is fitted again through the flow at other sizes.
    """

    restarts: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fit(cls, task: FitTask, *, iterations: int, n_samples: int, start: "BaseParameters | None" = None) -> "FittedBase":
        """Fit to energies and forces.

        Args:
            task: Crystal, state, energies and forces.
            iterations: Largest number of self-consistent updates; 0 keeps the harmonic crystal.
            n_samples: Most configurations that are evaluated for each update.
            start: Parameters to start from, if the kind `restarts`; None: the harmonic ones.

        Raises:
            UnstableCrystalError: There is no stable crystal of this kind.
        """

    @abstractmethod
    def base(self, beta: float) -> Base:
        """The distribution at 1 / (k_B T), inverse energy."""

    @abstractmethod
    def at(self, crystal: Crystal, target: Crystal) -> "BaseParameters | None":
        """The parameters at another replicate of the same unit cell; None where they have to be fitted again there.

        Args:
            crystal: The crystal at the replicate of these parameters.
            target: The crystal at the other one.
        """

    @abstractmethod
    def coordinates(self) -> tuple[np.ndarray, ...]:
        """The parameters as numbers without bounds, in which a polynomial between several of them makes sense."""

    @classmethod
    @abstractmethod
    def from_coordinates(cls, coordinates: Sequence[np.ndarray]) -> "BaseParameters":
        """The parameters of any such numbers."""

    @abstractmethod
    def state_dict(self, crystal: Crystal) -> dict[str, Tensor]:
        """What a model file keeps of them; `crystal` is that at their replicate."""

    @classmethod
    @abstractmethod
    def from_state_dict(cls, state: Mapping[str, Any], crystal: Crystal) -> "BaseParameters":
        """What a model file has kept, for a crystal at any replicate where they do not know their own."""


@dataclass(frozen=True)
class FittedBase:
    """A base with what it was made from.

    Attributes:
        base: The distribution.
        parameters: Its parameters.
        history: The bound of every iteration, and last that of `base` from fresh samples.
    """

    base: Base
    parameters: BaseParameters
    history: tuple[BoundStep, ...]

    @property
    def iterations(self) -> int:
        """Self-consistent updates that were made."""
        return max(0, len(self.history) - 2)


def base_kind(name: str) -> type[BaseParameters]:
    """The kind of base that a file of `flow/bases` holds.

    Args:
        name: As in `base.kind`, which the configuration has checked.
    """
    kind: type[BaseParameters] = import_module(f"lammps_bg.flow.bases.{name}").PARAMETERS
    return kind
