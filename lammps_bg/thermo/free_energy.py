# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies from log-weights: targeted perturbation, the variational bound, the absolute value with its terms.

The one convention: beta F / N = -(1/N) ln[Z / (N! Lambda^{3N})], configurational, of one crystal. With the centre of mass C split
off, d^{3N}r = N^{3/2} dC d^{3N-3}u in orthonormal coordinates u of the displacements; dC integrates to the volume, and (N-1)!
labellings are counted for a fixed atom on the reference site:

    beta F / N = -(1/N) ln Z_u - (1/N) ln[(V/N) N^{3/2} / Lambda^{3N}],    Z_u = integral of exp(-beta U(u)) d^{3N-3}u.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from lammps_bg.thermo.weights import (
    N_BOOTSTRAPS,
    EstimateError,
    as_log_weights,
    bootstrap_means,
    error_margin,
    log_mean_exp,
)

Array = NDArray[np.float64]
CONFIDENCE = (2.5, 97.5)
"""Percentiles of the 95 % interval."""


@dataclass(frozen=True)
class EstimateResult:
    """One estimated number.

    Attributes:
        value: The estimate; dimensionless (in kT, or kT per atom) for free energies.
        error: One standard error, never zero.
        interval: Limits of the 95 % interval.
        n: Number of samples it rests on.
        terms: Named contributions that sum to `value`, where it has any.
    """

    value: float
    error: float
    interval: tuple[float, float]
    n: int
    terms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = (self.value, self.error, *self.interval)
        if not all(map(math.isfinite, numbers)) or self.error <= 0.0:
            raise EstimateError(
                f"expected a finite estimate with an error above zero, got {self.value} ± {self.error} from {self.n} samples; "
                "draw more samples"
            )

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        return {**asdict(self), "interval": list(self.interval), "terms": dict(self.terms)}

    def scaled(self, factor: float, shift: float = 0.0) -> "EstimateResult":
        """`factor` times the estimate plus an exactly known `shift`; without terms."""
        low, high = sorted(factor * limit + shift for limit in self.interval)
        return EstimateResult(factor * self.value + shift, abs(factor) * self.error, (low, high), self.n)


@dataclass(frozen=True)
class CrystalReference:
    """The exactly known numbers that make a free-energy difference absolute.

    Attributes:
        beta_static_energy: beta E0, the potential energy of all atoms on their sites in kT.
        base_log_integral: Log of the integral of the base's Gaussian exp(-u C^-1 u / 2) over the 3N-3 orthonormal coordinates:
            (3N-3)/2 log(2 pi) + 1/2 log det C, with u in length units.
        n_atoms: Number of atoms N.
        volume: Volume of the cell, length units cubed.
        length_scale: Lambda, length units (sigma of the potential or the thermal wavelength).
    """

    beta_static_energy: float
    base_log_integral: float
    n_atoms: int
    volume: float
    length_scale: float

    def __post_init__(self) -> None:
        if self.n_atoms < 2 or self.volume <= 0.0 or self.length_scale <= 0.0:
            raise EstimateError(
                "expected at least 2 atoms, a positive volume and a positive length scale, got "
                f"{self.n_atoms}, {self.volume} and {self.length_scale}; check the crystal and its units"
            )

    def value(self, minus_log_z: float) -> float:
        """Reduced free energy beta F / N.

        Args:
            minus_log_z: -ln Z_u, with u in length units.
        """
        return minus_log_z / self.n_atoms + absolute_constant(self.n_atoms, self.volume, self.length_scale)

    def terms(self, minus_log_z: float) -> dict[str, float]:
        """The contributions to beta F / N, per atom in kT; they sum to `value`.

        `static_lattice` is the atoms at rest, `base` the reference Gaussian, `flow` all that the flow and the weights add
        to these, `centre_of_mass` the free translation of the crystal, `labelling` the count of atom labels.
        `site_multiplicity` is no part of it.

        Args:
            minus_log_z: -ln Z_u, with u in length units.
        """
        n, log_lambda = self.n_atoms, math.log(self.length_scale)
        return {
            "static_lattice": self.beta_static_energy / n,
            "base": -(self.base_log_integral - (3 * n - 3) * log_lambda) / n,
            "flow": (minus_log_z - self.beta_static_energy + self.base_log_integral) / n,
            "centre_of_mass": -(math.log(self.volume) - 3 * log_lambda + 1.5 * math.log(n)) / n,
            "labelling": math.log(n) / n,
        }


def absolute_constant(n_atoms: int, volume: float, length_scale: float) -> float:
    """-(1/N) ln[(V/N) N^{3/2} / Lambda^{3N}], what -(1/N) ln Z_u lacks to beta F / N.

    Args:
        n_atoms: Number of atoms N.
        volume: Volume of the cell, length units cubed.
        length_scale: Lambda, length units.
    """
    return -(math.log(volume) + 0.5 * math.log(n_atoms)) / n_atoms + 3.0 * math.log(length_scale)


def einstein_reference(n_atoms: int, volume: float, amplitude: float, length_scale: float) -> float:
    """Closed-form beta F / N of the Einstein crystal, -(1/N) ln[(V/N) N^{3/2} (2 pi s^2)^{(3N-3)/2} / Lambda^{3N}].

    Args:
        n_atoms: Number of atoms N.
        volume: Volume of the cell, length units cubed.
        amplitude: Standard deviation s of each displacement component before the centre of mass is removed, length units.
        length_scale: Lambda, length units.
    """
    log_z = 1.5 * (n_atoms - 1) * math.log(2.0 * math.pi * amplitude**2)
    return -log_z / n_atoms + absolute_constant(n_atoms, volume, length_scale)


def site_multiplicity(n_primitive: int, n_atoms: int) -> float:
    """ln(p)/N, for information only: no free energy of this program contains it.

    A fixed atom may sit on any of the p sites of the primitive cell, so the integral over the whole torus is p times larger
    and its beta F / N smaller by this. A comparison with values that count all sites has to subtract it.

    Args:
        n_primitive: Atoms per primitive cell, p.
        n_atoms: Number of atoms N.
    """
    return math.log(n_primitive) / n_atoms


def tfep(log_w: ArrayLike, rng: np.random.Generator, *, n_bootstraps: int = N_BOOTSTRAPS) -> EstimateResult:
    """Targeted free-energy perturbation, beta dF = -log mean w, with error and 95 % interval.

    Both are those of the bootstrap times `error_margin`: where the largest weights are missing from a sample, so is the error that
    they would show, and the bootstrap alone covers less than it promises.

    Args:
        log_w: Log-weights of independent samples, shape [n].
        rng: Source of the bootstrap replicas.
        n_bootstraps: Number of replicas.

    Raises:
        EstimateError: Too few non-zero weights for every replica to have one.
    """
    checked = as_log_weights(log_w, minimum=2)
    peak = checked.max()
    means = bootstrap_means(np.exp(checked - peak)[:, None], rng, n_bootstraps)[:, 0]
    if not (means > 0.0).all():
        raise EstimateError(
            f"expected weights above zero in every bootstrap replica, got {int(np.isfinite(checked).sum())} such weights in "
            f"{len(checked)} samples; train longer or draw more samples"
        )
    return one_sided(checked, -(peak + np.log(means)))


def one_sided(log_w: Array, replicas: Array) -> EstimateResult:
    """-log mean w with the error and the interval of its bootstrap replicas, both times `error_margin`.

    Args:
        log_w: Log-weights of independent samples, shape [n].
        replicas: -log mean w in each bootstrap replica, shape [b].
    """
    value, margin = -log_mean_exp(log_w), error_margin(log_w)
    low, high = (value + margin * (float(limit) - value) for limit in np.percentile(replicas, CONFIDENCE))
    error = _with_rounding(margin * float(replicas.std(ddof=1)), log_w)
    return EstimateResult(value, error, (low, high), len(log_w))


def upper_bound(log_w: ArrayLike) -> EstimateResult | None:
    """Gibbs-Bogoliubov bound beta dF <= -<log w>, with its standard error and normal 95 % interval.

    Args:
        log_w: Log-weights of independent samples, shape [n].

    Returns:
        The bound, or None where a weight of zero makes it infinite.
    """
    checked = as_log_weights(log_w, minimum=2)
    if not np.isfinite(checked).all():
        return None
    value = -float(checked.mean())
    error = _with_rounding(checked.std(ddof=1) / math.sqrt(len(checked)), checked)
    return EstimateResult(value, error, (value - 1.96 * error, value + 1.96 * error), len(checked))


def _with_rounding(error: float, log_w: Array) -> float:
    """The statistical error, or the rounding error of the log-weights where all weights are equal and it vanishes."""
    finite = log_w[np.isfinite(log_w)]
    return max(float(error), float(np.finfo(np.float64).eps * max(1.0, np.abs(finite).max())))


def absolute_from_difference(difference: EstimateResult, reference: CrystalReference) -> EstimateResult:
    """Absolute, itemised beta F / N from -ln Z_u, however that was estimated (TFEP, bound, BAR, MBAR).

    Args:
        difference: -ln Z_u of all atoms, the beta dF from a base normalised on the displacements without centre of mass.
        reference: The exactly known numbers.
    """
    n = reference.n_atoms
    constant = absolute_constant(n, reference.volume, reference.length_scale)
    low, high = (limit / n + constant for limit in difference.interval)
    value = reference.value(difference.value)
    return EstimateResult(value, difference.error / n, (low, high), difference.n, reference.terms(difference.value))


def marginal_log_q(ratios: ArrayLike) -> Array:
    """Log-density of the physical coordinates alone, log (1/M) sum_j q(x, a_j) / p(a_j | x), with a_j drawn from p, shape [m].

    If one of the a_j is the auxiliary that the flow drew together with x, then exp(-beta U) / q is an exact importance weight
    for any M: the draws have the joint density q(x) prod_j p(a_j | x) once the place of that one is forgotten. With fresh
    a_j only, the mean weight is too large by a relative amount of order 1/M.

    Args:
        ratios: log q(x_i, a_ij) - log p(a_ij | x_i) of configuration i with auxiliaries j, shape [m, M].
    """
    table = np.asarray(ratios, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise EstimateError(f"expected an array of shape [m, M], got {table.shape}; pass a row per sample")
    if np.isnan(table).any() or (table == np.inf).any():
        raise EstimateError("expected finite log-densities of the auxiliaries, got nan or inf; drop the samples without one")
    return np.asarray(logsumexp(table, axis=1) - math.log(table.shape[1]), dtype=np.float64)


@dataclass(frozen=True)
class Convergence:
    """Partial estimates of beta dF over growing numbers of samples.

    Attributes:
        counts: Number of samples in each point, shape [p].
        forward: Estimate from the first `counts` samples, nan where these have no weight, shape [p].
        forward_error: Its standard error (delta method), shape [p].
        backward: Estimate from the last `counts` samples, shape [p].
        backward_error: Its standard error, shape [p].
    """

    counts: NDArray[np.int64]
    forward: Array
    forward_error: Array
    backward: Array
    backward_error: Array


def convergence(log_w: ArrayLike, n_points: int = 20) -> Convergence:
    """How -log mean w settles as samples are added from either end.

    Args:
        log_w: Log-weights in the order drawn, shape [n].
        n_points: Number of evenly spaced sample counts.
    """
    checked = as_log_weights(log_w, minimum=2)
    counts = np.unique(np.linspace(len(checked) / n_points, len(checked), n_points).round().astype(np.int64).clip(min=2))
    return Convergence(counts, *_partial(checked, counts), *_partial(checked[::-1], counts))


def _partial(log_w: Array, counts: NDArray[np.int64]) -> tuple[Array, Array]:
    """-log mean w of the first samples and its delta-method error; in logarithms, else small leading weights underflow."""
    first = np.logaddexp.accumulate(log_w)[counts - 1]
    second = np.logaddexp.accumulate(2.0 * log_w)[counts - 1]
    empty = np.isneginf(first)
    first, second = np.where(empty, np.nan, first), np.where(empty, np.nan, second)
    # n / ESS - 1, the relative variance of one weight
    relative = np.maximum(counts * np.exp(second - 2.0 * first) - 1.0, 0.0)
    return np.log(counts) - first, np.sqrt(relative / (counts - 1))
