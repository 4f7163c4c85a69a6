# SPDX-License-Identifier: GPL-2.0-or-later
"""Spline and affine map: bijective, exact log-derivative and gradients, robust in single precision."""

import pytest
import torch

from lammps_bg.flow.transforms import affine, rational_quadratic

BOUND = 2.5
BINS = (2, 5, 16, 32)


def draw(n, n_bins, *, dtype=torch.float64, size=1.0, seed=0):
    """Inputs inside and outside the range, and random parameters."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, generator=generator, dtype=dtype)
    params = size * torch.randn(n, 3 * n_bins - 1, generator=generator, dtype=dtype)
    return x, params


@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inverse", [False, True])
def test_zero_parameters_are_the_identity_to_the_last_bit(n_bins, dtype, inverse):
    x, _ = draw(1001, n_bins, dtype=dtype)
    y, log_slope = rational_quadratic(x, x.new_zeros(1001, 3 * n_bins - 1), BOUND, inverse=inverse)
    assert torch.equal(y, x)
    assert torch.equal(log_slope, torch.zeros_like(x))


@pytest.mark.parametrize("n_bins", BINS)
def test_round_trip(n_bins):
    x, params = draw(5000, n_bins)
    y, log_slope = rational_quadratic(x, params, BOUND)
    back, log_inverse = rational_quadratic(y, params, BOUND, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_inverse, -log_slope, atol=1e-8, rtol=0)
    assert (y - x).abs().max() > 0.1
    assert torch.equal(y[x.abs() > BOUND], x[x.abs() > BOUND])


@pytest.mark.parametrize("inverse", [False, True])
def test_log_slope_is_that_of_autograd_and_positive(inverse):
    x, params = draw(2000, 8)
    x.requires_grad_()
    y, log_slope = rational_quadratic(x, params, BOUND, inverse=inverse)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    torch.testing.assert_close(slope.log(), log_slope.detach(), atol=1e-10, rtol=1e-10)


def test_monotone_and_continuous_through_all_knots():
    _, params = draw(1, 32, size=3.0)
    x = torch.linspace(-1.1 * BOUND, 1.1 * BOUND, 20001, dtype=torch.float64)
    y, _ = rational_quadratic(x, params.expand(len(x), -1), BOUND)
    assert (y.diff() > 0).all()
    assert y.diff().max() < 0.2


@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("per_element_bound", [False, True])
def test_gradients_match_finite_differences(n_bins, inverse, per_element_bound):
    x, params = draw(12, n_bins)
    bound = torch.linspace(1.5, 3, 12, dtype=torch.float64) if per_element_bound else BOUND
    inputs = (x.requires_grad_(), params.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: rational_quadratic(a, b, bound, inverse=inverse), inputs)


def test_strided_views_give_the_same_result():
    x, _ = draw(60, 8)
    wide = torch.randn(4, 5, 3, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    view, x = wide[..., 2:25].transpose(0, 1), x.view(4, 5, 3).transpose(0, 1)
    for one, two in zip(rational_quadratic(x, view, BOUND), rational_quadratic(x, view.contiguous(), BOUND), strict=True):
        torch.testing.assert_close(one, two, atol=0, rtol=0)


@pytest.mark.parametrize("size", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("inverse", [False, True])
def test_single_precision_is_finite_everywhere(size, inverse):
    x, params = draw(4000, 16, dtype=torch.float32, size=size)
    edge = torch.tensor(BOUND)
    x[:6] = torch.stack((edge, -edge, edge.nextafter(edge * 0), (-edge).nextafter(edge * 0), edge * 1e6, -edge * 1e30))
    x.requires_grad_()
    params.requires_grad_()
    y, log_slope = rational_quadratic(x, params, BOUND, inverse=inverse)
    grads = torch.autograd.grad((y.sin() + log_slope).sum(), (x, params))
    assert all(value.isfinite().all() for value in (y, log_slope, *grads))
    assert (y[x.abs() < BOUND].abs() <= BOUND * (1 + 1e-6)).all()


def test_single_precision_agrees_with_double():
    x, params = draw(4000, 16)
    y, log_slope = rational_quadratic(x, params, BOUND)
    y_single, log_single = rational_quadratic(x.float(), params.float(), BOUND)
    torch.testing.assert_close(y_single.double(), y, atol=1e-4, rtol=0)
    assert (y_single.double() - y).abs().mean() < 1e-6
    assert (log_single.double() - log_slope).abs().mean() < 1e-5


def test_affine_round_trip_and_log_slope():
    x, log_scale, shift = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, log_slope = affine(x, log_scale, shift)
    back, log_inverse = affine(y, log_scale, shift, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-13, rtol=0)
    torch.testing.assert_close(log_slope, log_scale, atol=0, rtol=0)
    torch.testing.assert_close(log_inverse, -log_scale, atol=0, rtol=0)
