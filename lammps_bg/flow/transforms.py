# SPDX-License-Identifier: GPL-2.0-or-later
"""Elementwise bijections: monotone rational-quadratic spline and affine map, each with its log-derivative."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_Context = Any  # what torch carries from forward to backward
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
    """The spline with a backward derived by hand: few kernels, and no more memory than two [M, 2, K] tables.

    By automatic differentiation a training step of the augmented flow takes 1.1 times as long.

    In units of the bound, a bin has start (x0, y0), size (w, h), mean slope s = h / w, end slopes d0, d1. At t = (x - x0) / w
    with r = t (1 - t), c = d0 + d1 - 2 s:
        den = s + c r,  num = s + (d1 - s) t^2 + (d0 - s) (1 - t)^2,  y = y0 + h (s t^2 + d0 r) / den,  dy/dx = s^2 num / den^2.
    The code holds slopes minus one: every term of y - x is then zero for the identity, exact there and precise near it.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, params: Tensor, bound: float | Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        scale = bound.expand_as(x).flatten() if isinstance(bound, Tensor) else x.new_full((), bound)
        flat, raw = x.flatten(), params.reshape(-1, params.shape[-1])
        scaled = flat / scale
        place = scaled.clamp(-1, 1)
        inside = (scaled == place).to(x.dtype)
        free, chosen, start, size, shares = _choose_bins(raw, place, int(inverse))
        slopes, grown = _choose_slopes(raw, chosen)
        t = (_solve if inverse else _locate)(place.sub_(start[int(inverse)]), size, slopes)
        lift, log_slope, kept = _evaluate(t, start, size, slopes)
        y = torch.addcmul(flat, lift.mul_(inside), scale, value=-1 if inverse else 1).view(x.shape)
        log_slope = log_slope.mul_(inside).view(x.shape)
        ctx.save_for_backward(scale, inside, free, chosen, size, shares, slopes, grown, t, *kept)
        ctx.inverse = inverse
        return y, log_slope.neg_() if inverse else log_slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad_y: Tensor, grad_log: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        scale, inside, free, chosen, size, shares, slopes, grown, t, *kept = ctx.saved_tensors
        upstream = grad_y.flatten()
        g_y, g_log = (upstream * inside).mul_(scale), grad_log.flatten() * inside
        g_x, g_start, g_size, g_slopes = _vjp(g_y, g_log, t, size, slopes, kept, inverse=ctx.inverse)
        grad_x = torch.addcdiv(upstream, g_x.sub_(g_y), scale).view(grad_y.shape)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        n_bins = free.shape[-1]
        grad_params = free.new_empty(len(free), 3 * n_bins - 1)
        tables = grad_params[:, : 2 * n_bins].unflatten(-1, (2, n_bins))
        _write_size_gradient(tables, free, chosen, shares, g_start, g_size)
        g_ends = torch.sub(g_slopes, g_slopes / grown, alpha=1 - _SLOPE).mul_(1 - MIN_DERIVATIVE)
        ends = free.new_zeros(len(free), n_bins + 1)
        ends.scatter_(1, chosen, g_ends[0, :, None]).scatter_(1, chosen + 1, g_ends[1, :, None])
        grad_params[:, 2 * n_bins :] = ends[:, 1:-1]
        return grad_x, grad_params.view(*grad_y.shape, -1), None, None


@lru_cache(maxsize=32)
def _constants(n_bins: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """End of each bin if all had the least size, [K]; and which bins [K, K] lie before each one."""
    ends = torch.arange(1, n_bins + 1, device=device, dtype=dtype).mul_(2 * MIN_FRACTION).sub_(1)
    return ends, torch.ones(n_bins, n_bins, device=device, dtype=dtype).tril_(-1)


def _choose_bins(raw: Tensor, place: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Find the bin of `place` [M] along `side` (0: widths, 1: heights), each bin the least size plus its share of the rest.

    Returns:
        The shares of all bins [M, 2, K]; the chosen bin [M, 1]; its start and size, [2, M] each; and, [2, 2, M], its share and
        that of it and all bins before it.
    """
    n_bins = (raw.shape[-1] + 1) // 3
    least, _ = _constants(n_bins, raw.dtype, raw.device)
    free = raw[:, : 2 * n_bins].clamp(-_MAX_RAW, _MAX_RAW).exp_().view(-1, 2, n_bins)
    upto = free.cumsum(-1)
    scale = upto[:, :, -1:].reciprocal().mul_(2 - 2 * MIN_FRACTION * n_bins)
    free.mul_(scale)
    upto.mul_(scale)
    chosen = torch.searchsorted(upto[:, side] + least, place[:, None], right=True).clamp_(max=n_bins - 1)
    index = chosen[:, None].expand(-1, 2, 1)
    shares = torch.cat((free.gather(-1, index), upto.gather(-1, index)), -1).permute(2, 1, 0).contiguous()
    size = shares[0] + 2 * MIN_FRACTION
    start = (shares[1] + least[chosen[:, 0]]).sub_(size)
    return free, chosen, start, size, shares


def _choose_slopes(raw: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes minus one, [2, M], at both ends of the chosen bin, and the number 1 + (1 - 1/e)(exp(raw) - 1) they come from."""
    n_bins = (raw.shape[-1] + 1) // 3
    padded = torch.constant_pad_nd(raw[:, 2 * n_bins :], (1, 1))  # raw zero is slope one
    grown = torch.cat((padded.gather(1, chosen), padded.gather(1, chosen + 1)), 1).t().contiguous()
    grown = grown.clamp_(-_MAX_RAW, _MAX_RAW).expm1_().mul_(_SLOPE).add_(1)
    return torch.log(grown).mul_(1 - MIN_DERIVATIVE), grown


def _locate(along: Tensor, size: Tensor, slopes: Tensor) -> Tensor:
    """Position in the bin, from the distance `along` x from its start."""
    return along.div_(size[0]).clamp_(0, 1)


def _solve(along: Tensor, size: Tensor, slopes: Tensor) -> Tensor:
    """Position in the bin, from the distance `along` y from its start: the root of a t^2 + b t = s v that lies in [0, 1]."""
    width, height = size
    left, right = slopes
    mean = (height - width).div_(width)
    bend = along * (left + right).sub_(mean, alpha=2)
    a = torch.addcmul(bend, height, mean - left)
    b = torch.addcmul(height, height, left).sub_(bend)
    sv = torch.addcmul(along, mean, along)
    # the sum of two numbers of one sign in either case: no cancellation in single precision
    q = torch.addcmul(b * b, a, sv, value=4).clamp_(min=0).sqrt_().add_(b.abs())
    rising = b >= 0
    return (torch.where(rising, sv.mul_(2), q) / torch.where(rising, q, a.mul_(2))).clamp_(0, 1)


def _evaluate(t: Tensor, start: Tensor, size: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return y - x (in units of the bound), log dy/dx, and what the backward needs again."""
    width, height = size
    left, right = slopes
    mean = (height - width).div_(width)
    slope = height / width
    curve = (left + right).sub_(mean, alpha=2)
    tt = t * t
    r = t - tt
    rest = t.neg().add_(1)
    inverse_den = torch.addcmul(slope, curve, r).reciprocal_()
    num = torch.addcmul(slope, right - mean, tt).addcmul_(left - mean, rest * rest)
    lift = (mean * t).addcmul_(left, rest).mul_(height).addcmul_(width, curve * r, value=-1)
    lift = torch.addcmul(start[1] - start[0], lift.mul_(t), inverse_den)
    total = (slope * inverse_den).square_().mul_(num)
    return lift, torch.log(total), (mean, slope, curve, r, rest, inverse_den, num, total)


def _vjp(
    g_y: Tensor, g_log: Tensor, t: Tensor, size: Tensor, slopes: Tensor, kept: list[Tensor], *, inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to the input [M], and to the bin's start, size and end slopes, [2, M] each."""
    width, height = size
    left, right = slopes
    mean, slope, curve, r, rest, inverse_den, num, total = kept
    if inverse:
        g_log = -g_log
    tt, uu = t * t, rest * rest
    q = g_log / num  # d log_slope / d num
    p = g_log * inverse_den  # minus half d log_slope / d den
    g_t = ((right - mean) * t).addcmul_(left - mean, rest, value=-1).mul_(q).addcmul_(p * curve, rest - t, value=-1)
    if inverse:  # implicit function: the forward map's gradients, weighted by minus the gradient at the input
        g_input = torch.addcdiv(g_y, g_t, width, value=2).div_(total)
        g_t, g_y = g_y * width, -g_input
    else:
        g_t.mul_(-2).addcmul_(g_y * width, total, value=-1)
        g_input = (g_t / width).neg_()
    minus_g_t = g_t
    ratio = torch.addcmul(t, mean, tt).addcmul_(left, r).mul_(inverse_den)
    e = (g_y * height).mul_(inverse_den)
    g_den = torch.addcmul(p, e, ratio, value=0.5).mul_(-2)
    g_mean = torch.addcmul(g_den, e, tt).addcmul_(q - g_den, r, value=2).addcdiv_(g_log, slope, value=2)
    g_start = torch.stack((minus_g_t / width, g_y))
    g_size = torch.stack(((minus_g_t * t).addcmul_(g_mean, slope, value=-1), torch.addcmul(g_mean, g_y * width, ratio)))
    g_slopes = torch.stack(((e + g_den).mul_(r).addcmul_(q, uu), (g_den * r).addcmul_(q, tt)))
    return g_input, g_start, g_size.div_(width), g_slopes


def _write_size_gradient(out: Tensor, free: Tensor, chosen: Tensor, shares: Tensor, g_start: Tensor, g_size: Tensor) -> None:
    """Write the gradient of the raw widths and heights into `out` [M, 2, K]: a softmax, summed up to the chosen bin."""
    n_bins = free.shape[-1]
    _, before = _constants(n_bins, free.dtype, free.device)
    mean = (shares[0] * (g_size - g_start)).addcmul_(shares[1], g_start).div_(2 - 2 * MIN_FRACTION * n_bins)
    g = before.index_select(0, chosen[:, 0])[:, None] * g_start.t()[..., None]
    g.scatter_(-1, chosen[:, None].expand(-1, 2, 1), g_size.t()[..., None])
    torch.mul(g.sub_(mean.t()[..., None]), free, out=out)
