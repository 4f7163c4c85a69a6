# SPDX-License-Identifier: GPL-2.0-or-later
"""Distributions of log-weights whose mean weight is known exactly: light, skewed and heavy tails, tails on a bulk, zeros."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import gamma
from scipy.stats import t as student


@dataclass(frozen=True)
class LogWeights:
    """A distribution of log-weights.

    Attributes:
        draw: Independent log-weights from a source and a shape.
        log_mean: Log of the exact mean weight.
    """

    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    log_mean: float


def normal(s):
    return LogWeights(lambda rng, shape: s * rng.normal(size=shape), s * s / 2)


def exponential(rate):
    """Pareto weights: variance infinite from rate 2 down."""
    return LogWeights(lambda rng, shape: rng.exponential(1 / rate, shape), math.log(rate / (rate - 1)))


def laplace(rate, s=0.3):
    """Exponential tails on both sides of a normal bulk."""
    draw = lambda rng, shape: s * rng.normal(size=shape) + rng.laplace(0.0, 1 / rate, shape)  # noqa: E731
    return LogWeights(draw, s * s / 2 - math.log(1 - rate**-2))


def tail_on_bulk(share, rate, s):
    """A normal bulk of which a share has an exponential added."""
    mean = s * s / 2 + math.log(1 - share + share * rate / (rate - 1))
    return LogWeights(
        lambda rng, shape: (
            s * rng.normal(size=shape) + np.where(rng.random(shape) < share, rng.exponential(1 / rate, shape), 0.0)
        ),
        mean,
    )


def student_weights(nu):
    """Weights |t|: a Pareto tail of index 1/nu."""
    mean = 2 * math.sqrt(nu) * gamma((nu + 1) / 2) / (math.sqrt(math.pi) * gamma(nu / 2) * (nu - 1))
    return LogWeights(lambda rng, shape: np.log(np.abs(rng.standard_t(nu, shape))), math.log(mean))


def student_log(nu, s, top):
    """Log-weights s t, cut off at `top`, without which the mean would be infinite."""
    below = quad(lambda x: math.exp(s * x) * student.pdf(x, nu), -200, top / s, limit=500)[0]
    mean = below + math.exp(top) * student.sf(top / s, nu)
    return LogWeights(lambda rng, shape: np.minimum(s * rng.standard_t(nu, shape), top), math.log(mean))


def skewed(shape_parameter, s):
    """A centred gamma variable of standard deviation |s|; a long tail to larger weights where s > 0, to smaller ones where s < 0."""
    a, c = shape_parameter, s / math.sqrt(shape_parameter)
    return LogWeights(lambda rng, shape: c * (rng.gamma(a, 1.0, shape) - a), -c * a - a * math.log1p(-c))


def gamma_weights(a, power=1):
    """Weights gamma(a) or, with power -1, 1 / gamma(a): a Pareto tail of index 1/a."""
    mean = math.log(a) if power > 0 else -math.log(a - 1)
    return LogWeights(lambda rng, shape: power * np.log(rng.gamma(a, 1.0, shape)), mean)


def mixture(share, shift, s):
    """A normal bulk with a rare component whose weights are exp(shift) times larger."""
    mean = math.log((1 - share) * math.exp(s * s / 2) + share * math.exp(shift + 0.045))

    def draw(rng, shape):
        return np.where(rng.random(shape) < share, shift + 0.3 * rng.normal(size=shape), s * rng.normal(size=shape))

    return LogWeights(draw, mean)


def with_zeros(share, s):
    """Normal log-weights with a share of samples without a finite energy."""
    draw = lambda rng, shape: np.where(rng.random(shape) < share, -np.inf, s * rng.normal(size=shape))  # noqa: E731
    return LogWeights(draw, math.log1p(-share) + s * s / 2)


CASES = {
    **{f"normal, width {s}": normal(s) for s in (0.1, 0.3, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0)},
    **{f"exponential, rate {rate}": exponential(rate) for rate in (1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.5, 3.0, 4.0, 5.0)},
    **{f"Laplace, rate {rate}": laplace(rate) for rate in (1.6, 2.0, 3.0, 5.0)},
    **{f"weights |t|, {nu} degrees": student_weights(nu) for nu in (1.5, 2, 3, 4, 6)},
    "log-weights 0.3 t, 5 degrees, up to 3": student_log(5, 0.3, 3.0),
    "log-weights 0.5 t, 10 degrees, up to 6": student_log(10, 0.5, 6.0),
    **{f"gamma {a}, width {s}": skewed(a, s) for a, s in ((2, 0.8), (4, 0.5), (4, 1.0), (20, 1.0), (20, 1.5))},
    **{f"gamma {a}, width {s}": skewed(a, s) for a, s in ((1, -1.0), (4, -1.5), (20, -1.5))},
    **{f"weights gamma({a})": gamma_weights(a) for a in (0.2, 1.0)},
    **{f"weights 1/gamma({a})": gamma_weights(a, -1) for a in (1.5, 2, 3)},
    "10 % with rate 1.6 on a bulk": tail_on_bulk(0.1, 1.6, 0.3),
    "30 % with rate 2 on a bulk": tail_on_bulk(0.3, 2.0, 0.5),
    "10 % with rate 2.5 on a bulk": tail_on_bulk(0.1, 2.5, 0.3),
    "1 % of weights 20 times larger": mixture(0.01, 3.0, 0.3),
    "2 % zeros, width 0.8": with_zeros(0.02, 0.8),
}
"""Cases whose tail a draw of some hundreds can show; what it misses for the most part, such as `mixture(1e-3, 5, 0.3)`, no draw can judge."""
