# SPDX-License-Identifier: GPL-2.0-or-later
"""Random numbers that depend on the seed and on a sample's index alone, whichever rank, piece or resumed run draws it."""

import hashlib
from collections.abc import Iterator

import torch

BLOCK = 16
"""Consecutive samples that share one stream."""


def stream(seed: int, stage: str, index: int) -> torch.Generator:
    """A random stream of its own for each seed, stage and index.

    Args:
        seed: Seed of the run.
        stage: What the numbers are for.
        index: Of the block, sample or step.
    """
    digest = hashlib.sha256(f"{seed}/{stage}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def blocks(some: slice, n: int) -> Iterator[tuple[int, slice]]:
    """Index and samples of each block that holds some of a range of samples; the last block of all ends at `n`."""
    for block in range(some.start // BLOCK, -(-some.stop // BLOCK) if some.stop > some.start else 0):
        yield block, slice(block * BLOCK, min(n, (block + 1) * BLOCK))
