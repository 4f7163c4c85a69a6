# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference of the lambda windows: atoms on springs to their sites, with the centre of the springs integrated out.

In a window the atoms move in (1 - lambda) sum_i k_i |x_i|^2 / 2 + lambda U(x), x_i the displacements from the fixed sites. With
c = sum_i k_i x_i / K and K = sum_i k_i, the springs are sum_i k_i |x_i - c|^2 / 2 + K |c|^2 / 2, and neither the first part nor U
changes under a shift of all atoms: c is an independent Gaussian, and the displacements u without their centre of mass have the
density exp(-beta [(1 - lambda) U_s(u) + lambda U(u)]), U_s(u) = sum_i k_i |u_i - c(u)|^2 / 2.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.thermo.weights import EstimateError

Array = NDArray[np.float64]


class SpringCrystal:
    """Independent atoms on springs, free of their common centre: it is integrated out, not held at rest as in `EinsteinBase`.

    Attributes:
        n_atoms: Number of atoms N.

    Args:
        stiffness: Spring constant of each site, energy / length^2, shape [N].
        beta: Inverse temperature, inverse energy.
    """

    def __init__(self, stiffness: ArrayLike, beta: float) -> None:
        self.stiffness = np.array(stiffness, dtype=np.float64)
        self.beta, self.n_atoms = beta, self.stiffness.size
        good = self.stiffness.ndim == 1 and len(self.stiffness) > 1 and np.isfinite(self.stiffness).all()
        if not (good and (self.stiffness > 0.0).all() and math.isfinite(beta) and beta > 0.0):
            raise EstimateError(
                f"expected at least 2 positive spring constants and a positive beta, got {self.stiffness} and {beta}; measure "
                "the displacements in a stable crystal"
            )

    @property
    def log_integral(self) -> float:
        """Log of the integral of exp(-beta U_s) over the 3N-3 orthonormal displacements without centre of mass, length units.

        Over all 3N displacements the fixed springs give prod (2 pi / (beta k_i))^{3/2}, of which the free centre is the part
        N^{3/2} (2 pi / (beta K))^{3/2}.
        """
        each = np.log(2.0 * math.pi / (self.beta * self.stiffness)).sum()
        centre = math.log(self.n_atoms) + math.log(2.0 * math.pi / (self.beta * self.stiffness.sum()))
        return 1.5 * float(each - centre)

    def energies(self, displacements: ArrayLike) -> Array:
        """U_s of displacements [n, N, 3] (length units; a common shift changes nothing), energy units, shape [n]."""
        u = np.asarray(displacements, dtype=np.float64)
        centre = np.einsum("i,nia->na", self.stiffness / self.stiffness.sum(), u)
        return 0.5 * np.einsum("i,nia->n", self.stiffness, np.square(u - centre[:, None]))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent configurations at equilibrium, without centre of mass, length units, shape [n, N, 3]."""
        amplitudes = 1.0 / np.sqrt(self.beta * self.stiffness)
        x = amplitudes[:, None] * rng.standard_normal((n, self.n_atoms, 3))
        return x - x.mean(1, keepdims=True)


def stiffness_from_displacements(mean_square: ArrayLike, n_atoms: int, beta: float) -> Array:
    """Spring constants whose crystal has these mean square displacements, energy / length^2, shape as `mean_square`.

    k = (3 kT / <|u|^2>) (N - 1) / N: without their centre of mass, atoms on equal springs move by the share (N - 1) / N less.

    Args:
        mean_square: <|u_i|^2> without centre of mass, of each site, class or type, length units squared.
        n_atoms: Number of atoms N of the crystal they were measured in.
        beta: Inverse temperature, inverse energy.
    """
    measured = np.asarray(mean_square, dtype=np.float64)
    if not (np.isfinite(measured).all() and (measured > 0.0).all() and n_atoms > 1 and beta > 0.0):
        raise EstimateError(
            f"expected positive mean square displacements of a crystal of several atoms, got {measured} for {n_atoms} atoms; "
            "check that the atoms move"
        )
    return np.asarray(3.0 * (1.0 - 1.0 / n_atoms) / (beta * measured))
