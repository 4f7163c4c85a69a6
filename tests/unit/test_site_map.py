# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of one site: closed inverse, log-determinant, derivatives and score against finite differences and automatic differentiation."""

import pytest
import torch

from lammps_bg.flow import site_map
from lammps_bg.flow.site_map import SiteMap

SITES = 6


def draw(size=2.0, seed=0, scale=1.5):
    rng = torch.Generator().manual_seed(seed)
    y = scale * torch.randn(3, SITES, generator=rng, dtype=torch.float64)
    return y, size * torch.randn(site_map.N_PARAMETERS, SITES, generator=rng, dtype=torch.float64)


def differences(function, x, step=1e-6):
    """Gradient of a scalar function by central differences."""
    gradient = torch.zeros_like(x)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)):
        moved = torch.zeros_like(x)
        moved[tuple(index)] = step
        gradient[tuple(index)] = (function(x + moved) - function(x - moved)) / (2 * step)
    return gradient


def jacobians(y, raw):
    """Jacobian of each site's map by central differences, shape [SITES, 3, 3]."""
    columns = []
    for component in range(3):
        moved = torch.zeros_like(y)
        moved[component] = 1e-6
        columns.append((SiteMap.forward(y + moved, raw).value - SiteMap.forward(y - moved, raw).value) / 2e-6)
    return torch.stack(columns, -1).permute(1, 0, 2)


def test_zero_parameters_are_the_identity():
    y, raw = draw(size=0.0)
    found = SiteMap.forward(y, raw)
    torch.testing.assert_close(found.value, y, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(found.log_slope, torch.zeros_like(y), atol=1e-14, rtol=0)


@pytest.mark.parametrize("scale", [0.3, 1.5, 6.0])
def test_round_trip(scale):
    y, raw = draw(scale=scale)
    found = SiteMap.forward(y, raw)
    back, log_slope = site_map.inverse(found.value, raw)
    torch.testing.assert_close(back, y, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_slope.sum(0), -found.log_slope.sum(0), atol=1e-9, rtol=1e-9)
    assert (found.value - y).abs().max() > 0.1


def test_log_determinant():
    y, raw = draw()
    sign, exact = torch.linalg.slogdet(jacobians(y, raw))
    assert (sign > 0).all()
    torch.testing.assert_close(SiteMap.forward(y, raw).log_slope.sum(0), exact, atol=1e-7, rtol=0)


def test_the_components_are_coupled():
    """Both triangles of the Jacobian: a map of single components, or of one order only, would have zeros there."""
    assert (jacobians(*draw()).abs().amin(0) > 1e-6).all()


def test_derivatives():
    y, raw = draw(seed=1)
    cotangent, weight = draw(seed=2)[0], torch.linspace(-1, 1, SITES, dtype=torch.float64)

    def value(y, raw):
        found = SiteMap.forward(y, raw)
        return float((cotangent * found.value).sum() + (weight * found.log_slope).sum())

    g_y, g_raw = SiteMap.forward(y, raw).vjp(cotangent, weight)
    torch.testing.assert_close(g_y, differences(lambda x: value(x, raw), y), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(g_raw, differences(lambda x: value(y, x), raw), atol=1e-7, rtol=1e-6)


def test_score_behind_the_map():
    """J^-T (score - grad log|det J|), with the Jacobian by finite differences and a general solver."""
    y, raw = draw(seed=3)
    score = draw(seed=4)[0]
    volume = differences(lambda x: float(SiteMap.forward(x, raw).log_slope.sum()), y)
    turned = torch.linalg.solve(jacobians(y, raw).mT, (score - volume).t()[..., None])[..., 0].t()
    torch.testing.assert_close(SiteMap.forward(y, raw).push_score(score), turned, atol=1e-6, rtol=1e-6)


def test_parameters_are_bounded():
    """However large the network's outputs, a map stays within known limits: far atoms must not be thrown out of the crystal."""
    y, raw = draw(size=1e4, scale=1.0)
    found = SiteMap.forward(y, raw * (torch.arange(site_map.N_PARAMETERS)[:, None] > 2))
    assert torch.isfinite(found.value).all()
    assert found.value.abs().max() < 1e3
    assert torch.isfinite(found.log_slope).all()
