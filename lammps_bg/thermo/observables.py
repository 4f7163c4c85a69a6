# SPDX-License-Identifier: GPL-2.0-or-later
"""Averages over weighted samples: any observable, potential energy, mean-square displacement, radial distribution function.

Without log-weights every sample counts the same: the raw average of the generator, or of molecular dynamics.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.weights import EstimateError, normalised_weights

Array = NDArray[np.float64]
NORMAL_95 = 1.96


def weighted_mean(values: ArrayLike, log_w: ArrayLike | None = None) -> tuple[Array, Array]:
    """Self-normalised mean and its delta-method standard error, sqrt(n/(n-1) sum w_i^2 (v_i - mean)^2).

    Args:
        values: One row per independent sample, any unit, shape [n, ...]; rows of weight zero may hold anything, nan and inf too.
        log_w: Log-weights, shape [n]; None for equal weights.

    Returns:
        Mean and error, each of shape [...]. An entry that is the same in all samples has an error of zero.

    Raises:
        EstimateError: Fewer than two samples of non-zero weight, or a value that is not finite among these.
    """
    rows = np.asarray(values, dtype=np.float64)
    weights = normalised_weights(np.zeros(len(rows)) if log_w is None else log_w)
    if len(weights) != len(rows):
        raise EstimateError(f"expected one log-weight for each of {len(rows)} samples, got {len(weights)}; pass the same samples")
    used = weights > 0.0
    n = int(used.sum())
    if n < 2:
        raise EstimateError(f"expected at least 2 samples with a weight above zero, got {n}; draw more samples")
    rows, weights = rows[used], weights[used]
    if not np.isfinite(rows).all():
        raise EstimateError(
            "expected finite values where the weight is above zero, got nan or inf; set the log-weights there to -inf"
        )
    mean = np.tensordot(weights, rows, axes=1)
    variance = np.tensordot(weights**2, (rows - mean) ** 2, axes=1) * n / (n - 1)
    return np.asarray(mean), np.asarray(np.sqrt(variance))


def mean_observable(values: ArrayLike, log_w: ArrayLike | None = None) -> EstimateResult:
    """Mean of one number per sample, with error and normal 95 % interval.

    Args:
        values: Any unit, shape [n].
        log_w: Log-weights, shape [n]; None for equal weights.

    Raises:
        EstimateError: See `weighted_mean`; also where all samples have the same value, which leaves no error to state.
    """
    mean, error = (float(number) for number in weighted_mean(values, log_w))
    return EstimateResult(mean, error, (mean - NORMAL_95 * error, mean + NORMAL_95 * error), len(np.asarray(values)))


def mean_potential_energy(energies: ArrayLike, n_atoms: int, log_w: ArrayLike | None = None) -> EstimateResult:
    """Mean potential energy per atom.

    Args:
        energies: Total potential energies, energy units, shape [n]; +inf is allowed where the weight is zero.
        n_atoms: Number of atoms.
        log_w: Log-weights, shape [n]; None for equal weights.
    """
    return mean_observable(np.asarray(energies, dtype=np.float64) / n_atoms, log_w)


@dataclass(frozen=True)
class SiteDisplacements:
    """Mean-square displacements from the sites, with the centre of mass at rest.

    Attributes:
        mean: Of all sites, length units squared.
        sites: Of each site, length units squared, shape [N].
        errors: Standard error of `sites`, shape [N].
    """

    mean: EstimateResult
    sites: Array
    errors: Array


def mean_square_displacement(displacements: ArrayLike, log_w: ArrayLike | None = None) -> SiteDisplacements:
    """Mean of |u_i|^2, the trace of the displacement tensor of each site.

    Args:
        displacements: Without centre of mass, length units, shape [n, N, 3].
        log_w: Log-weights, shape [n]; None for equal weights.
    """
    squares = np.square(np.asarray(displacements, dtype=np.float64)).sum(-1)
    return SiteDisplacements(mean_observable(squares.mean(1), log_w), *weighted_mean(squares, log_w))


@dataclass(frozen=True)
class RadialDistribution:
    """g(r), 1 for an ideal gas.

    Attributes:
        edges: Limits of the bins, length units, shape [b + 1].
        g: Mean in each bin, shape [b].
        errors: Standard error of `g`, zero in a bin that no pair ever entered, shape [b].
    """

    edges: Array
    g: Array
    errors: Array

    @property
    def r(self) -> Array:
        """Centres of the bins, length units, shape [b]."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def pair_counts(positions: ArrayLike, cell: ArrayLike, edges: ArrayLike) -> Array:
    """Number of ordered pairs in each distance bin, periodic images and an atom's own images included, shape [n, b].

    The cost per sample grows with the number of pairs, linear in N; the bins may reach beyond half the cell.

    Args:
        positions: Cartesian, any image, length units, shape [n, N, 3].
        cell: Cell vectors as rows, any shape of cell, shape [3, 3].
        edges: Rising limits of the bins, length units, shape [b + 1].
    """
    frames, box = np.asarray(positions, dtype=np.float64), np.asarray(cell, dtype=np.float64)
    limits = np.asarray(edges, dtype=np.float64)
    if frames.ndim != 3 or frames.shape[2] != 3 or not np.isfinite(frames).all():
        raise EstimateError(f"expected finite positions of shape [n, N, 3], got shape {frames.shape}; drop the other samples")
    if limits.ndim != 1 or len(limits) < 2 or limits[0] < 0.0 or (np.diff(limits) <= 0.0).any():
        raise EstimateError(f"expected at least two rising, positive bin limits, got shape {limits.shape}; use numpy.linspace")
    return np.stack([_count_frame(frame, box, limits) for frame in frames])


def _count_frame(frame: Array, cell: Array, edges: Array) -> Array:
    """Ordered pairs of one configuration in each bin, shape [b]."""
    fractional = np.asarray(np.linalg.solve(cell.T, frame.T).T % 1.0, dtype=np.float64)
    wrapped = fractional @ cell
    images, owners = _with_images(fractional, cell, edges[-1])
    pairs = cKDTree(wrapped).sparse_distance_matrix(cKDTree(images), edges[-1], output_type="ndarray")
    # An atom is no neighbour of itself, its images are; rounding keeps its distance from being exactly zero
    own = (owners[pairs["j"]] == pairs["i"]) & (pairs["v"] < 1e-9 * np.linalg.norm(cell))
    return np.histogram(pairs["v"][~own], bins=edges)[0].astype(np.float64)


def _with_images(fractional: Array, cell: Array, reach: float) -> tuple[Array, NDArray[np.int64]]:
    """Atoms and all their periodic images within `reach` of the cell: Cartesian positions [m, 3] and the atom of each, [m]."""
    # Distance between opposite faces: |det| / area of the face
    margin = reach * np.linalg.norm(np.linalg.inv(cell), axis=0)
    points = fractional
    owners = np.arange(len(fractional))
    for axis in range(3):
        shifts = np.arange(-math.ceil(margin[axis]), math.ceil(margin[axis]) + 1)
        copies = points[None] + shifts[:, None, None] * np.eye(3)[axis]
        keep = (copies[..., axis] >= -margin[axis]) & (copies[..., axis] <= 1.0 + margin[axis])
        points, owners = copies[keep], np.broadcast_to(owners, keep.shape)[keep]
    return np.asarray(points @ cell), owners


def radial_distribution(
    counts: ArrayLike, edges: ArrayLike, volume: float, *, n_atoms: int, log_w: ArrayLike | None = None
) -> RadialDistribution:
    """Mean g(r) of counted pairs, relative to an ideal gas of density `n_atoms / volume`.

    Args:
        counts: From `pair_counts`, shape [n, b].
        edges: Limits of the bins, length units, shape [b + 1].
        volume: Volume of the cell, length units cubed.
        n_atoms: Number of atoms N.
        log_w: Log-weights, shape [n]; None for equal weights.
    """
    limits = np.asarray(edges, dtype=np.float64)
    ideal = n_atoms * n_atoms / volume * 4.0 / 3.0 * math.pi * np.diff(limits**3)
    mean, error = weighted_mean(counts, log_w)
    return RadialDistribution(limits, mean / ideal, error / ideal)
