# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of one site: a monotone map of each component between two shears that couple the components.

A shear adds to each component a polynomial of the components before it: with a, b, c in its order

    b' = b + k0 a + k1 (aa),   c' = c + k2 a + k3 b + k4 (aa) + k5 (ab) + k6 (bb),   (pq) = p q / (1 + |p q| / 9), squares less one.

Its Jacobian is unit triangular. The first shear goes from x to z, the last one back. Between them stand, for each component, the
sinh-arcsinh map sinh(d asinh(x) + e) of Jones and Pewsey (Biometrika 96, 761, 2009), which changes tails and skewness, and an affine
map. All of it has a closed inverse. Linear shears tilt the ellipsoid in which an atom moves, quadratic ones bend it: the site of a
tetrahedral crystal has a cubic term x y z in its energy, which no map of single components can give.

Tensors are component-first: values [3, ...], parameters [26, ...]; everything that follows the first axis is a batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

N_PARAMETERS = 26  # 3 shifts, 3 log-scales, 3 log-tails, 3 skews, 7 coefficients of each shear
_SHIFT, _SCALE = 0.5, 0.2  # a unit output of the network moves a site by half an amplitude, and changes a log-width by 0.2
_LEVEL = 9.0  # products level off there: the tails of a large crystal must not leave what the network knows
_COEFFICIENTS = (1.0, 0.5, 1.0, 1.0, 0.5, 0.5, 0.5)  # largest value of each coefficient of a shear
_BOUNDS = (1.0,) * 3 + (0.5,) * 3 + (1.0,) * 3 + 2 * _COEFFICIENTS  # of log-scales, log-tails, skews and both shears


def _shares(like: Tensor) -> Tensor:
    """Largest value of each bounded parameter, shape [23, 1, ...]."""
    return like.new_tensor(_BOUNDS).view(-1, *(1,) * (like.dim() - 1))


@dataclass
class _Shear:
    """A shear at some point: its features, its Jacobian's elements, and which component stands where.

    Attributes:
        order: Components in the order of the shear.
        features: What the coefficients multiply, shape [7, ...].
        slopes: Derivatives db'/da, dc'/da, dc'/db.
    """

    order: tuple[int, int, int]
    features: Tensor
    slopes: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def at(cls, x: Tensor, k: Tensor, order: tuple[int, int, int]) -> "_Shear":
        a, b = x[order[0]], x[order[1]]
        (aa, aa_slope), (ab, ab_slope), (bb, bb_slope) = _level(a, a), _level(a, b), _level(b, b)
        aa, bb = aa - 1, bb - 1
        bent = 2 * a * aa_slope
        slopes = (
            torch.addcmul(k[0], k[1], bent),
            torch.addcmul(k[2], k[4], bent).addcmul_(k[5], b * ab_slope),
            torch.addcmul(k[3], k[5], a * ab_slope).addcmul_(k[6], b * bb_slope, value=2),
        )
        return cls(order, torch.stack((a, aa, a, b, aa, ab, bb)), slopes)

    def apply(self, x: Tensor, k: Tensor) -> Tensor:
        """The sheared values."""
        first, second, third = self.order
        terms, new = k * self.features, x.clone()
        new[second] += terms[:2].sum(0)
        new[third] += terms[2:].sum(0)
        return new

    def vjp(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to the values and to the coefficients."""
        first, second, third = self.order
        down, across, over = self.slopes
        g = cotangent.clone()
        g[first].addcmul_(down, cotangent[second]).addcmul_(across, cotangent[third])
        g[second].addcmul_(over, cotangent[third])
        return g, torch.cat((self.features[:2] * cotangent[second], self.features[2:] * cotangent[third]))

    def solve(self, gradient: Tensor) -> Tensor:
        """The gradient behind the shear whose pull-back to its front is `gradient`."""
        first, second, third = self.order
        down, across, over = self.slopes
        g = gradient.clone()
        g[second].addcmul_(over, g[third], value=-1)
        g[first].addcmul_(down, g[second], value=-1).addcmul_(across, g[third], value=-1)
        return g


_UP, _DOWN = (0, 1, 2), (2, 1, 0)


def _level(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The product p q, levelling off, and its derivative by the product."""
    product = p * q
    inverse = product.abs().div_(_LEVEL).add_(1).reciprocal_()
    return product.mul_(inverse), inverse.square_()


@dataclass
class SiteMap:
    """The map at some point, with what its derivatives need.

    Attributes:
        value: Where the values went, shape [3, ...].
        log_slope: Logarithm of the Jacobian determinant, one part for each component, shape [3, ...].
    """

    value: Tensor
    log_slope: Tensor
    _bounded: Tensor
    _first: _Shear
    _last: _Shear
    _root: Tensor
    _angle: Tensor
    _x: Tensor
    _w: Tensor
    _bent: Tensor
    _scale: Tensor

    @classmethod
    def forward(cls, y: Tensor, raw: Tensor) -> "SiteMap":
        """Map values [3, ...] with the network's outputs [26, ...]; all zero is the identity."""
        bounded = torch.tanh(_SCALE * raw[3:]).mul_(_shares(raw))
        log_scale, log_tail, skew, lower, upper = bounded.split((3, 3, 3, 7, 7))
        first = _Shear.at(y, lower, _UP)
        x = first.apply(y, lower)
        root = torch.rsqrt(torch.addcmul(torch.ones_like(x), x, x))
        angle = torch.asinh(x)
        w = torch.addcmul(skew, torch.exp(log_tail), angle)
        bent, scale = torch.sinh(w), torch.exp(log_scale)
        z = torch.addcmul(_SHIFT * raw[:3], bent, scale)
        last = _Shear.at(z, upper, _DOWN)
        log_slope = _log_cosh(w).add_(torch.log(root)).add_(log_tail).add_(log_scale)
        return cls(last.apply(z, upper), log_slope, bounded, first, last, root, angle, x, w, bent, scale)

    def push_score(self, score: Tensor) -> Tensor:
        """The score of the density after the map, from that before it and the map's own change of volume, shape [3, ...].

        With J the Jacobian: J^-T (score - grad log|det J|). Only its part through the values that are mapped; `vjp` has the rest.

        Args:
            score: Gradient of the log-density by the values before the map, shape [3, ...].
        """
        tail = torch.exp(self._bounded[3:6])
        inner = self._first.solve(score)
        inner = inner - (tail * torch.tanh(self._w) - self._x * self._root) * self._root
        return self._last.solve(inner / (tail * torch.cosh(self._w) * self._root * self._scale))

    def vjp(self, cotangent: Tensor, weight: Tensor | float) -> tuple[Tensor, Tensor]:
        """Gradients of <cotangent, value> + weight log|det J| with respect to the values [3, ...] and the network's outputs [26, ...].

        Args:
            cotangent: Shape [3, ...].
            weight: Cotangent of the logarithm of the determinant: a number, or a shape that broadcasts to [3, ...].
        """
        tail = torch.exp(self._bounded[3:6])
        g_z, g_upper = self._last.vjp(cotangent)
        g_bent = g_z * self._scale
        g_scale = g_bent * self._bent + weight
        g_w = g_bent * torch.cosh(self._w) + weight * torch.tanh(self._w)
        turned = g_w * tail
        g_x = (turned - weight * self._x * self._root) * self._root
        g_y, g_lower = self._first.vjp(g_x)
        bounded = torch.cat((g_scale, turned * self._angle + weight, g_w, g_lower, g_upper))
        shares = _shares(bounded)
        slope = (shares - self._bounded.square() / shares).mul_(_SCALE)
        return g_y, torch.cat((_SHIFT * g_z, bounded * slope))


def inverse(value: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Undo the map; the values before it, and the logarithm of the determinant of the inverse by components, both [3, ...].

    Args:
        value: Values after the map, shape [3, ...].
        raw: The network's outputs, shape [26, ...].
    """
    bounded = torch.tanh(_SCALE * raw[3:]).mul_(_shares(raw))
    log_scale, log_tail, skew, lower, upper = bounded.split((3, 3, 3, 7, 7))
    z = _unshear(value, upper, _DOWN)
    w = torch.asinh((z - _SHIFT * raw[:3]) * torch.exp(-log_scale))
    x = torch.sinh((w - skew) * torch.exp(-log_tail))
    log_slope = 0.5 * torch.log(torch.addcmul(torch.ones_like(x), x, x)) - _log_cosh(w) - log_tail - log_scale
    return _unshear(x, lower, _UP), log_slope


def _unshear(x: Tensor, k: Tensor, order: tuple[int, int, int]) -> Tensor:
    first, second, third = order
    new, a = x.clone(), x[first]
    aa = _level(a, a)[0] - 1
    b = new[second].sub_(k[0] * a).addcmul_(k[1], aa, value=-1)
    new[third].sub_(k[2] * a).sub_(k[3] * b).sub_(k[4] * aa).sub_(k[5] * _level(a, b)[0]).sub_(k[6] * (_level(b, b)[0] - 1))
    return new


def _log_cosh(w: Tensor) -> Tensor:
    """Logarithm of cosh w, without overflow."""
    far = w.abs()
    return torch.exp(-2 * far).log1p_().add_(far).sub_(0.6931471805599453)
