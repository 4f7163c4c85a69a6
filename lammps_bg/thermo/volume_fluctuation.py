# SPDX-License-Identifier: GPL-2.0-or-later
"""How the volume fluctuates at constant pressure: mean, variance, and whether the trained box holds it.

In the isothermal-isobaric ensemble p(V) dV ~ exp(-(F + P V) / kT) dV, where F is that of a box of fixed size. With x = ln(V / V_ref)
the measure dV is V dx.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from lammps_bg.thermo.legendre import EnthalpySurface

Array = NDArray[np.float64]
EDGE_SHARE = 0.05
"""The part of the range of ln V at either end that counts as near the edge."""
_NODES, _SPREADS = 200, 12.0


def volume_moments(surface: EnthalpySurface, x: Array, kt: float) -> tuple[float, float, float]:
    """Mean of V, variance of V, and the probability of a volume near an edge of the box or, for several variables, beyond it.

    With the volume as only variable they are integrals over the box. With several they are those of the Gaussian at the minimum,
    relaxed shapes included: mean V*, variance kT V* kappa; what this leaves out is of relative order 1/N.

    Args:
        surface: F + P V.
        x: Its minimum, shape [d].
        kt: kT, energy.
    """
    low, high = surface.terms.box[0]
    spread = float(np.sqrt(kt * np.linalg.inv(surface.hessian(x))[0, 0]))
    margin = EDGE_SHARE * (high - low)
    if len(x) > 1:
        share = ndtr((low + margin - x[0]) / spread) + ndtr((x[0] - high + margin) / spread)
        volume = surface.volume(x)
        return volume, (volume * spread) ** 2, float(share)
    nodes, widths = _quadrature(low, high, x[0], spread)
    exponent = -(surface.values(nodes[:, None]) - surface.values(x[None])[0]) / kt + nodes - x[0]
    weights = widths * np.exp(exponent - exponent.max())
    weights /= weights.sum()
    volumes = surface.reference_volume * np.exp(nodes)
    mean = float(weights @ volumes)
    share = weights[(nodes < low + margin) | (nodes > high - margin)].sum()
    return mean, float(weights @ (volumes - mean) ** 2), float(share)


def _quadrature(low: float, high: float, centre: float, spread: float) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and widths over [low, high], dense where a peak much narrower than that is."""
    ends = np.unique(np.clip([low, centre - _SPREADS * spread, centre + _SPREADS * spread, high], low, high))
    nodes, widths = _legendre()
    half, middle = 0.5 * np.diff(ends)[:, None], 0.5 * (ends[1:] + ends[:-1])[:, None]
    return (middle + half * nodes).ravel(), (half * widths).ravel()


@cache
def _legendre() -> tuple[Array, Array]:
    nodes, widths = np.polynomial.legendre.leggauss(_NODES)
    return nodes, widths
