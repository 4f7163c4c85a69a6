# SPDX-License-Identifier: GPL-2.0-or-later
"""Cost of a training step of the augmented flow without LAMMPS: python tests/benchmarks/bench_augmented.py [--threads 2]."""

import argparse
import resource
import time
from types import SimpleNamespace

import numpy as np
import torch

from lammps_bg.flow.augmented import AugmentedFlow

DIAMOND = np.array([[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [3, 3, 3], [3, 1, 1], [1, 3, 1], [1, 1, 3]]) / 4


def diamond_graph(n_cells, n_neighbours=16):
    """Neighbour graph of n_cells^3 cubic diamond cells of edge 1."""
    cells = np.stack(np.meshgrid(*[np.arange(n_cells)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    sites = (cells + DIAMOND).reshape(-1, 3)
    bonds = sites[None] - sites[:, None]
    bonds -= n_cells * np.round(bonds / n_cells)
    distances = np.linalg.norm(bonds, axis=-1) + 1e9 * np.eye(len(sites))
    neighbours = np.argsort(distances.round(6), axis=1, kind="stable")[:, :n_neighbours]
    return SimpleNamespace(
        neighbours=torch.tensor(neighbours),
        vectors=torch.tensor(np.take_along_axis(bonds, neighbours[..., None], 1)),
        basis_index=torch.arange(len(sites)) % 8,
        n_basis=8,
    )


def step_seconds(n_cells, batch, repeats):
    """Least and median seconds of one forward and backward pass."""
    flow = AugmentedFlow(diamond_graph(n_cells), amplitude=torch.tensor(0.1))
    for coupling in flow.couplings:
        torch.nn.init.normal_(coupling.conditioner.out.weight, std=0.02)
    state = 0.1 * torch.randn(batch, 2, 8 * n_cells**3, 3)
    state[:, 0] -= state[:, 0].mean(1, keepdim=True)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        new, log_det = flow(state)
        (new.square().sum() - log_det.sum()).backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]), float(np.median(seconds[1:]))


def main():
    """Print milliseconds per sample, their ratio per atom to N=64, and the peak memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = None
    for n_cells, batch in ((2, 32), (4, 8), (5, 8), (2, 32)):
        least, median = step_seconds(n_cells, batch, options.repeats)
        per_atom = 1e6 * least / batch / (8 * n_cells**3)
        reference = reference or per_atom
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"N={8 * n_cells**3:5d} batch={batch:3d}  {1e3 * least / batch:7.2f} ms per sample"
            f" (median {1e3 * median / batch:.2f})"
        )
        print(f"    {per_atom:6.1f} us per atom, {per_atom / reference:.2f} of N=64; peak memory so far {peak:.2f} GB")


if __name__ == "__main__":
    main()
