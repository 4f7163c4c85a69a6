# SPDX-License-Identifier: GPL-2.0-or-later
"""A conditioner that sees all atoms: self-attention over the whole supercell, as in Wirnsberger et al. 2022 (arXiv 2111.08696).

The baseline against which local conditioners are compared. Its cost grows with the square of the number of atoms, and its sites are
told apart by their place in the supercell, so that it serves the one supercell it was trained on.
"""

from torch import Tensor, nn
from torch.nn import functional

from lammps_bg.flow.gnn import Lattice, fourier

_HEADS = 4


class AttentionBlock(nn.Module):
    """Multi-head self-attention and a two-layer network, each added to its input, which is normalised first.

    Args:
        width: Width of the features, a multiple of the number of heads.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return the new features [n, N, width]."""
        q, k, v = self.queries_keys_values(self.first(h)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        h = h + self.mixed(seen.transpose(1, 2).flatten(2))
        return h + self.down(functional.gelu(self.up(self.second(h))))


class AttentionConditioner(nn.Module):
    """Transformer on displacements in units of the thermal amplitude; its last layer starts at zero.

    Args:
        n_out: Numbers returned per site.
        width: Width of the features, a multiple of 4.
        n_frequencies: Fourier frequencies of displacements and of places in the supercell.
        n_blocks: Number of attention blocks.
        period: Longest period of the displacements' Fourier features, in amplitudes.
        n_context: Conditions that all sites of a sample share, C.
    """

    def __init__(self, n_out: int, *, width: int, n_frequencies: int, n_blocks: int, period: float, n_context: int = 0) -> None:
        super().__init__()
        n_features = 3 * (2 * n_frequencies + 1)
        self.n_frequencies, self.period = n_frequencies, period
        self.displacement, self.place = nn.Linear(n_features, width), nn.Linear(n_features, width)
        self.context = nn.Linear(n_context, width, bias=False) if n_context else None
        self.blocks = nn.ModuleList(AttentionBlock(width) for _ in range(n_blocks))
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_out)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, lattice: Lattice, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return [N, n, n_out].

        Args:
            lattice: Tables of the crystal.
            x: Displacements in mean amplitudes and with a centre of mass of zero, shape [N, n, 3].
            context: Conditions of each sample, shape [n, C].
        """
        across = (x / lattice.amplitude).flatten(0, 1).t()
        h = self.displacement(fourier(across, self.n_frequencies, self.period).t()).view(*x.shape[:2], -1)
        h = h + self.place(fourier(lattice.places.t(), self.n_frequencies, 1.0).t())[:, None]
        if self.context is not None and context is not None:
            h = h + self.context(context.to(h))
        h = h.transpose(0, 1)
        for block in self.blocks:
            h = block(h)
        return self.out(self.last(h)).transpose(0, 1)
