# SPDX-License-Identifier: GPL-2.0-or-later
"""The published flow: physical and auxiliary displacements update each other, given a network of the other.

Schebek, Noé and Rogal, "Scalable Boltzmann Generators for equilibrium sampling of large-scale materials", Nature
Communications 17, 5010 (2026). Here the range of the splines is a few thermal amplitudes, and an affine map joins them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lammps_bg.flow.bijection import Flow, weights_at_rest
from lammps_bg.flow.graph import Lattice, LatticeGraph
from lammps_bg.flow.transforms import affine, rational_quadratic

MakeConditioner = Callable[[int], nn.Module]


class Coupling(nn.Module):
    """Elementwise spline and affine map of one variable, with parameters from the other; identity at start.

    Args:
        make_conditioner: Makes the network, from the number of outputs per site.
        n_bins: Bins of the spline.
        spline_range: Half range of the spline, in amplitudes.
    """

    def __init__(self, make_conditioner: MakeConditioner, *, n_bins: int, spline_range: float) -> None:
        super().__init__()
        self.n_bins, self.spline_range = n_bins, spline_range
        self.conditioner = make_conditioner(3 * (3 * n_bins + 1))

    def forward(
        self, lattice: Lattice, x: Tensor, condition: Tensor, context: Tensor | None, *, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map `x` [N, n, 3] given `condition` [N, n, 3] (mean zero), units of `lattice`; log-determinant [n] in float64."""
        params = self.conditioner(lattice, condition, context).unflatten(-1, (3, 3 * self.n_bins + 1))
        # small factors: the affine parameters act on all of the density at once, the others each on one bin
        log_scale, shift = 0.2 * params[..., -2], 0.5 * params[..., -1]
        spline, bound = params[..., :-2], self.spline_range * lattice.amplitude
        shift = shift * lattice.amplitude
        if inverse:
            x, log_affine = affine(x, log_scale, shift, inverse=True)
            x, log_spline = rational_quadratic(x, spline, bound, inverse=True)
        else:
            x, log_spline = rational_quadratic(x, spline, bound)
            x, log_affine = affine(x, log_scale, shift)
        return x, (log_spline + log_affine).sum((0, 2), dtype=torch.float64)


class AugmentedFlow(Flow):
    """Layers of two couplings, auxiliary given physical and physical given auxiliary.

    A coupling's conditioning variable has its centre of mass at zero, the other is free: between couplings both are shifted
    by the centre of mass of the next conditioning variable. On (mean-zero u, free a) these shifts have a determinant of one.

    Args:
        graph: Neighbour graph of the crystal; the weights do not depend on its size.
        make_conditioner: Makes the network of a coupling, from the number of outputs per site.
        amplitude: Thermal amplitude of a displacement component, per site [N] or one for all, length units.
        n_layers: Number of layers, two couplings each.
        n_bins: Bins of each spline.
        spline_range: Half range of the splines, in amplitudes.
    """

    channels = 2

    def __init__(
        self,
        graph: LatticeGraph,
        make_conditioner: MakeConditioner,
        *,
        amplitude: Tensor,
        n_layers: int,
        n_bins: int,
        spline_range: float,
    ) -> None:
        super().__init__()
        self.lattice = Lattice(graph, amplitude)
        self.couplings = nn.ModuleList(
            Coupling(make_conditioner, n_bins=n_bins, spline_range=spline_range) for _ in range(2 * n_layers)
        )

    def forward(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map base to target, see `Flow.forward`; channel 0 of a state is physical, channel 1 auxiliary."""
        u, a = self._split(state)
        log_det = u.new_zeros(len(state), dtype=torch.float64)
        for update_a, update_u in zip(self.couplings[::2], self.couplings[1::2], strict=True):
            a, log_det_a = update_a(self.lattice, a, u, context)
            a, u = _centre_first(a, u)
            u, log_det_u = update_u(self.lattice, u, a, context)
            u, a = _centre_first(u, a)
            log_det = log_det + log_det_a + log_det_u
        return self._join(u, a), log_det

    def inverse(self, state: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map target to base, see `Flow.inverse`; differentiable."""
        u, a = self._split(state)
        log_det = u.new_zeros(len(state), dtype=torch.float64)
        for update_u, update_a in zip(self.couplings[::-2], self.couplings[-2::-2], strict=True):
            a, u = _centre_first(a, u)
            u, log_det_u = update_u(self.lattice, u, a, context, inverse=True)
            u, a = _centre_first(u, a)
            a, log_det_a = update_a(self.lattice, a, u, context, inverse=True)
            log_det = log_det + log_det_a + log_det_u
        return self._join(u, a), log_det

    def push_score(self, state: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` with the score, see `Flow.push_score`: its gradient passes through the inverse."""
        mapped, log_det = self.forward(state, context)
        end = mapped.detach().requires_grad_()
        with weights_at_rest(self):
            start, log_back = self.inverse(end, context)
            (pushed,) = torch.autograd.grad((start * score.to(start)).sum() + log_back.sum(), end)
        return mapped, log_det, pushed

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return u and a, [N, n, 3] each, in units of the mean amplitude."""
        scaled = state.to(self.lattice.amplitude) / self.lattice.mean_amplitude
        u, a = scaled.permute(1, 2, 0, 3).contiguous()
        return u, a

    def _join(self, u: Tensor, a: Tensor) -> Tensor:
        return torch.stack((u, a)).permute(2, 0, 1, 3) * self.lattice.mean_amplitude


def _centre_first(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Shift both variables [N, n, 3] by the centre of mass of the first one."""
    centre = first.mean(0, keepdim=True)
    return first - centre, second - centre
