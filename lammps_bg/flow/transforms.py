# SPDX-License-Identifier: GPL-2.0-or-later
"""Elementwise bijections: monotone rational-quadratic spline and affine map, each with its log-derivative."""

from typing import Any

import torch
from torch import Tensor

MIN_FRACTION = 1e-3  # least width and height of a bin, as a fraction of the spline's range
MIN_DERIVATIVE = 1e-3
_SLOPE = 1 - torch.tensor(-1.0, dtype=torch.float64).exp().item()  # 1 - 1/e: slope of softplus where softplus is 1
_MAX_RAW = 60.0  # exp would overflow in float32: beyond it the derivative stays constant


def rational_quadratic(x: Tensor, params: Tensor, bound: float | Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Map `x` by a monotone rational-quadratic spline on [-bound, bound] (Durkan et al. 2019), identity outside.

    Zero parameters are the identity, to the last bit. Gradients reach `x` and `params`, once (no second derivatives).

    Args:
        x: Values to map, shape [...].
        params: Unconstrained K bin widths, K bin heights, K - 1 inner derivatives; shape [..., 3K-1], dtype of `x`.
        bound: Half range of the spline in units of `x`, one number or a shape that broadcasts to `x`; takes no gradient.
        inverse: Apply the inverse map.

    Returns:
        The mapped values [...] and the log-derivative of the map that was applied [...].
    """
    y, log_slope = _RationalQuadratic.apply(x, params, bound, inverse)
    return y, log_slope


def affine(x: Tensor, log_scale: Tensor, shift: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Map `x` to `x * exp(log_scale) + shift`, or back.

    Args:
        x: Values to map, shape [...].
        log_scale: Logarithm of the slope, shape [...].
        shift: Value of the map at zero, units of `x`, shape [...].
        inverse: Apply the inverse map.

    Returns:
        The mapped values [...] and the log-derivative of the map that was applied [...].
    """
    if inverse:
        return (x - shift) * torch.exp(-log_scale), -log_scale
    return torch.addcmul(shift, x, torch.exp(log_scale)), log_scale


class _RationalQuadratic(torch.autograd.Function):
    """The spline with a backward derived by hand: few kernels, and no more memory than two [..., 2, K] tables.

    In units of the range, a bin has start (x0, y0), size (w, h), mean slope s = h / w, end slopes d0, d1. At t = (x - x0) / w
    with r = t (1 - t), c = d0 + d1 - 2 s:
        den = s + c r,  num = s + (d1 - s) t^2 + (d0 - s) (1 - t)^2,  y = y0 + h (s t^2 + d0 r) / den,  dy/dx = s^2 num / den^2.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, params: Tensor, bound: float | Tensor, inverse: bool
    ) -> tuple[Tensor, Tensor]:
        inside = (x.abs() < bound).to(x.dtype)
        fraction = (x * (0.5 / bound)).clamp_(-0.5, 0.5).add_(0.5)
        free, chosen, start, size = _choose_bins(params, fraction, int(inverse))
        slots, grown, chain, slopes = _choose_slopes(params, chosen)
        t = (_solve if inverse else _locate)(fraction - start[int(inverse)], size, slopes)
        shift, log_slope, kept = _evaluate(t, start, size, slopes)
        log_slope = log_slope.mul_(inside)
        shift.mul_(inside).mul_(2 * bound)
        ctx.save_for_backward(inside, free, chosen, start, size, slots, chain, slopes, t, *kept)
        ctx.bound, ctx.inverse = bound, inverse
        return (x - shift, log_slope.neg_()) if inverse else (shift.add_(x), log_slope)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad_y: Tensor, grad_log: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None]:
        inside, free, chosen, start, size, slots, chain, slopes, t, *kept = ctx.saved_tensors
        g_y, g_log = (grad_y * inside).mul_(2 * ctx.bound), grad_log * inside
        g_x, g_start, g_size, g_slopes = _pull_back(g_y, g_log, t, size, slopes, kept, ctx.inverse)
        grad_x = torch.addcmul(g_x.mul_(0.5 / ctx.bound), grad_y, 1 - inside)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        n_bins = free.shape[-1]
        grad_params = free.new_zeros(*t.shape, 3 * n_bins - 1)
        tables = grad_params[..., : 2 * n_bins].unflatten(-1, (2, n_bins))
        _write_size_gradient(tables, free, chosen, start, size, g_start, g_size)
        inner = grad_params[..., 2 * n_bins :]
        for slot, g in zip(slots, g_slopes.mul_(chain), strict=True):
            inner.scatter_add_(-1, slot[..., None], g[..., None])
        return grad_x, grad_params, None, None


def _choose_bins(params: Tensor, fraction: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the bin of `fraction` along `side` (0: widths, 1: heights), each bin MIN_FRACTION plus its share of the rest.

    Returns:
        The shares of all bins [..., 2, K]; the index of the chosen bin [...]; its start and its size, [2, ...] each.
    """
    n_bins = (params.shape[-1] + 1) // 3
    raw = params[..., : 2 * n_bins].clamp(-_MAX_RAW, _MAX_RAW)
    free = raw.exp_().unflatten(-1, (2, n_bins))
    ends = free.cumsum(-1)
    scale = (1 - MIN_FRACTION * n_bins) / ends[..., -1:]
    free.mul_(scale)
    ends.mul_(scale)
    least = torch.arange(1, n_bins + 1, device=params.device, dtype=params.dtype).mul_(MIN_FRACTION)
    chosen = torch.searchsorted(ends[..., side, :] + least, fraction[..., None], right=True).clamp_(max=n_bins - 1)
    index = chosen[..., None, :].expand(*chosen.shape[:-1], 2, 1)
    size = free.gather(-1, index).squeeze(-1).movedim(-1, 0).contiguous().add_(MIN_FRACTION)
    start = ends.gather(-1, index).squeeze(-1).movedim(-1, 0) + least[chosen.squeeze(-1)]
    return free, chosen.squeeze(-1), start.sub_(size), size


def _choose_slopes(params: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_bins = (params.shape[-1] + 1) // 3
    slots = torch.stack((chosen - 1, chosen))
    clamped = slots.clamp(0, n_bins - 2)
    valid = (slots == clamped).to(params.dtype)
    inner = params[..., 2 * n_bins :]
    raw = torch.stack([inner.gather(-1, slot[..., None]).squeeze(-1) for slot in clamped])
    grown = torch.expm1(raw.mul_(valid).clamp_(max=_MAX_RAW))
    slopes = (grown * _SLOPE).log1p_().mul_(1 - MIN_DERIVATIVE).add_(1)
    chain = (grown + 1).div_(grown + 1 / _SLOPE).mul_(valid).mul_(1 - MIN_DERIVATIVE)
    return clamped, grown, chain, slopes


def _locate(along: Tensor, size: Tensor, slopes: Tensor) -> Tensor:
    """Position in the bin, from the distance `along` x from its start."""
    return (along / size[0]).clamp_(0, 1)


def _solve(along: Tensor, size: Tensor, slopes: Tensor) -> Tensor:
    """Position in the bin, from the distance `along` y from its start: the root of a t^2 + b t = s v that lies in [0, 1]."""
    left, right = slopes
    mean = size[1] / size[0]
    bend = along * (left + right).sub_(mean, alpha=2)
    a = torch.addcmul(bend, size[1], mean - left)
    b = torch.addcmul(bend, size[1], left, value=-1).neg_()
    sv = mean * along
    # the sum of two numbers of one sign in either case: no cancellation in single precision
    q = torch.addcmul(b * b, a, sv, value=4).clamp_(min=0).sqrt_().add_(b.abs())
    rising = b >= 0
    return (torch.where(rising, 2 * sv, q) / torch.where(rising, q, 2 * a)).clamp_(0, 1)


def _evaluate(t: Tensor, start: Tensor, size: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return y - x (in units of the range), log dy/dx, and what the backward needs again."""
    left, right = slopes
    mean = size[1] / size[0]
    curve = (left + right).sub_(mean, alpha=2)
    rest = 1 - t
    r = t * rest
    inverse_den = torch.addcmul(mean, curve, r).reciprocal_()
    num = torch.addcmul(mean, right - mean, t * t).addcmul_(left - mean, rest * rest)
    slope = (mean * inverse_den).square_().mul_(num)
    # y - x, every term of which is zero for the identity: exact there, and no digits lost near it
    lift = ((mean - 1) * t).addcmul_(left - 1, rest).mul_(size[1]).addcmul_(size[0], curve * r, value=-1)
    shift = torch.addcmul(start[1] - start[0], lift.mul_(t), inverse_den)
    return shift, torch.log(slope), (mean, curve, r, inverse_den, num, slope)


def _pull_back(
    g_y: Tensor, g_log: Tensor, t: Tensor, size: Tensor, slopes: Tensor, kept: list[Tensor], inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to the input [...], the bin's start and size [2, ...] and its end slopes [2, ...]."""
    left, right = slopes
    mean, curve, r, inverse_den, num, slope = kept
    if inverse:
        g_log = -g_log
    rest = 1 - t
    tt, uu = t * t, rest * rest
    q = g_log / num  # d log_slope / d num
    p = 2 * g_log * inverse_den  # minus d log_slope / d den
    g_t = (((right - mean) * t).addcmul_(left - mean, rest, value=-1).mul_(q).mul_(2)).addcmul_(p * curve, rest - t, value=-1)
    if inverse:  # implicit function: the forward map's gradients, weighted by minus the gradient at the input
        g_input = torch.addcdiv(g_y, g_t, size[0]).div_(slope)
        g_y, g_t = -g_input, -g_y * size[0]
    else:
        g_t.addcmul_(g_y * size[0], slope)
        g_input = g_t / size[0]
    ratio = (mean * tt).addcmul_(left, r).mul_(inverse_den)
    e = g_y * size[1] * inverse_den
    g_den = torch.addcmul(p, e, ratio).neg_()
    g_mean = (e * tt).addcmul_(g_den, 1 - 2 * r).addcmul_(q, r, value=2).addcdiv_(g_log, mean, value=2)
    g_start = torch.stack((-g_t / size[0], g_y))
    g_size = torch.stack((torch.addcmul(g_t * t, g_mean, mean).neg_(), torch.addcmul(g_mean, g_y * size[0], ratio))).div_(size[0])
    g_slopes = torch.stack(((e + g_den).mul_(r).addcmul_(q, uu), (g_den * r).addcmul_(q, tt)))
    return g_input, g_start, g_size, g_slopes


def _write_size_gradient(
    out: Tensor, free: Tensor, chosen: Tensor, start: Tensor, size: Tensor, g_start: Tensor, g_size: Tensor
) -> None:
    """Write the gradient of the raw widths and heights into `out` [..., 2, K]: a softmax, summed up to the chosen bin."""
    n_bins = free.shape[-1]
    mean = (size - MIN_FRACTION).mul_(g_size).addcmul_(g_start, start - MIN_FRACTION * chosen)
    mean = mean.div_(1 - MIN_FRACTION * n_bins)
    before = torch.ones(n_bins, n_bins, dtype=free.dtype, device=free.device).tril_(-1)
    rows = before.index_select(0, chosen.flatten()).view(*chosen.shape, 1, n_bins)
    g = rows * g_start.movedim(0, -1)[..., None]
    index = chosen[..., None, None].expand(*chosen.shape, 2, 1)
    g.scatter_(-1, index, g_size.movedim(0, -1)[..., None])
    torch.mul(g.sub_(mean.movedim(0, -1)[..., None]), free, out=out)
