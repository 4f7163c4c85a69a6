# SPDX-License-Identifier: GPL-2.0-or-later
"""Einstein crystal: independent atoms on springs, their centre of mass held at rest, and its fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.system import Crystal
from lammps_bg.errors import UnstableCrystalError
from lammps_bg.flow.base import BaseParameters, BoundStep, FitTask, FittedBase
from lammps_bg.flow.force_constants import harmonic
from lammps_bg.flow.self_consistent import Step, ThermalSample, concluded, settled, step_of, worth


class EinsteinBase:
    """Independent atoms on springs, their centre of mass removed.

    Args:
        widths: Standard deviation of each site per component, length units, shape [N].
    """

    def __init__(self, widths: Tensor) -> None:
        self.widths = widths.double()
        variance = self.widths.square()
        # the full Gaussian divided by the density of its centre-of-mass coordinate sum(u) / sqrt(N) at zero, for each component
        per_component = 0.5 * (2 * math.pi * variance).log().sum() - 0.5 * (2 * math.pi * variance.mean()).log()
        self.log_integral = 3.0 * float(per_component)
        self.amplitude = (variance - variance.square() / variance.sum()).sqrt()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw displacements, length units, shape [n, N, 3], float64."""
        return self.colour(torch.randn(n, len(self.widths), 3, dtype=torch.float64, generator=generator))

    def colour(self, x: Tensor) -> Tensor:
        """Displacements of white noise x [n, N, 3], see `Base.colour`: those of free atoms, given that the centre of mass is at rest."""
        free = self.widths[:, None] * x
        variance = self.widths.square()[:, None]
        return free - variance / variance.sum() * free.sum(1, keepdim=True)

    def whiten(self, u: Tensor) -> Tensor:
        """White noise of displacements u [n, N, 3], see `Base.whiten`."""
        return u.double() / self.widths[:, None]

    @property
    def softest(self) -> Tensor:
        """The atom on the weakest spring against all others, shape [N, 3]."""
        loose = int(self.widths.argmax())
        pattern = torch.full((len(self.widths), 3), 0.0, dtype=torch.float64)
        pattern[:, 0] = -1.0 / len(self.widths)
        pattern[loose, 0] += 1.0
        return pattern / pattern.norm()

    def log_prob(self, u: Tensor) -> Tensor:
        """Normalised log-density on the subspace, shape [n], float64; differentiable."""
        return -0.5 * (u.double() / self.widths[:, None]).square().sum((1, 2)) - self.log_integral


@dataclass(frozen=True)
class EinsteinParameters(BaseParameters):
    """Widths, fitted at their temperature; they are fitted again at another replicate.

    Attributes:
        widths: Standard deviation of each site per component, length units, shape [N].
    """

    widths: Array

    @classmethod
    def fit(cls, task: FitTask, *, iterations: int, n_samples: int, start: BaseParameters | None = None) -> FittedBase:
        """Fit by the self-consistent iteration from the harmonic widths; see `BaseParameters.fit`."""
        return EinsteinFit(task).run(iterations=iterations, n_samples=n_samples)

    def base(self, beta: float) -> EinsteinBase:
        """The distribution; the temperature is in the widths."""
        return EinsteinBase(torch.from_numpy(self.widths))

    def at(self, crystal: Crystal, target: Crystal) -> None:
        """None: a fit costs next to nothing."""
        return None

    def coordinates(self) -> tuple[np.ndarray, ...]:
        """The logarithms of the widths."""
        return (np.log(self.widths),)

    @classmethod
    def from_coordinates(cls, coordinates: Sequence[np.ndarray]) -> "EinsteinParameters":
        """The widths of any logarithms."""
        return cls(np.exp(coordinates[0]))

    def state_dict(self, crystal: Crystal) -> dict[str, Tensor]:
        """The widths of one unit cell."""
        return {"widths": torch.from_numpy(self.widths[: crystal.n_basis].copy())}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], crystal: Crystal) -> "EinsteinParameters":
        """The widths of all cells of a crystal."""
        return cls(np.tile(state["widths"].numpy(), crystal.n_cells))


PARAMETERS = EinsteinParameters


class EinsteinFit:
    """Self-consistent Einstein crystal: 1 / s^2 = -beta <F u> / <u^2>, one width for each species.

    Args:
        task: Crystal, state, energies and forces.
    """

    def __init__(self, task: FitTask) -> None:
        self.force_field, self.crystal, self.beta = task.force_field, task.crystal, task.beta
        self._generator = torch.Generator().manual_seed(task.seed)

    def run(self, *, iterations: int, n_samples: int) -> FittedBase:
        """Iterate from the harmonic widths, at most `iterations` times with at most `n_samples` configurations each.

        Raises:
            UnstableCrystalError: An atom is not bound to its site.
        """
        widths, tried = self._harmonic_widths(), list[tuple[BoundStep, Array]]()
        for _ in range(iterations):
            sample, step = step_of(partial(self._draw, widths), partial(self._update, widths), n_samples)
            tried.append((sample.bound, widths))
            widths = step.to
            if settled(sample, step):
                break
        best, history = concluded(tried, widths, self._draw, n_samples)
        parameters = EinsteinParameters(best)
        return FittedBase(parameters.base(self.beta), parameters, history)

    def _draw(self, widths: Array, n: int) -> ThermalSample:
        """Configurations of the crystal with these widths."""
        return ThermalSample.draw(EinsteinBase(torch.from_numpy(widths)), self.force_field, self.beta, n, self._generator)

    def _update(self, widths: Array, sample: ThermalSample) -> Step[Array]:
        """The widths that the forces suggest. With d the relative change of a spring, the bound falls by 3 d^2 / 4 for each atom."""
        u, forces = sample.displacements, sample.forces
        works = np.stack([self._by_kind(-(forces * u)[part].sum(-1).mean(0)) for part in sample.parts])
        springs = works / self._by_kind(np.square(u[sample.finite]).sum(-1).mean(0))
        gain, noise = worth(0.75 * (self.beta * springs * widths**2 - 1.0), self.beta * springs * widths**2 - 1.0)
        return Step(self._widths(springs.mean(0)), gain, noise)

    def _harmonic_widths(self) -> Array:
        """Widths from the curvature felt by one atom while the others rest."""
        own = harmonic(self.force_field, self.crystal).real_space[0, 0, 0].diagonal()
        return self._widths(np.tile(own.reshape(-1, 3).mean(1), self.crystal.n_cells))

    def _by_kind(self, springs: Array) -> Array:
        """The mean over the atoms of each kind, shape [N]."""
        kinds = self.crystal.kinds
        return np.array([springs[kinds == kind].mean() for kind in kinds])

    def _widths(self, springs: Array) -> Array:
        """sqrt(kT / k) with k [N] averaged over the atoms of each kind."""
        mean = self._by_kind(springs)
        if (mean <= 0).any():
            raise UnstableCrystalError(
                f"expected atoms bound to their sites, got a spring constant of {mean.min():.3g} for one species; "
                "check density, temperature and potential"
            )
        return 1.0 / np.sqrt(self.beta * mean)
