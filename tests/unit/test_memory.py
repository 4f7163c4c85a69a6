# SPDX-License-Identifier: GPL-2.0-or-later
"""Work in pieces: halved where memory runs out, told once, and never lost or done twice."""

import pytest
import torch

from lammps_bg.errors import MemoryLimitError
from lammps_bg.memory import Pieces, is_out_of_memory

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000 bytes."
)


def limited(most, error, done):
    def work(items):
        if len(items) > most:
            raise error
        done.extend(items)
        return list(items)

    return work


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(CPU), torch.OutOfMemoryError("CUDA out of memory")])
def test_pieces_are_halved_until_they_fit(error, caplog):
    pieces, done = Pieces(64, "samples"), []
    results = list(pieces.over(range(100), limited(10, error, done)))
    assert done == [item for result in results for item in result] == list(range(100))
    assert max(map(len, results)) == pieces.size == 8
    assert caplog.text.count("memory ran out") == 1
    assert "with 64 samples at a time; going on with 32" in caplog.text


def test_later_work_starts_with_the_size_that_fitted():
    pieces, done = Pieces(64, "samples"), []
    list(pieces.over(range(100), limited(20, MemoryError(), done)))
    tried = []
    list(pieces.over(range(50), lambda items: tried.append(len(items)) or items))
    assert tried == [16, 16, 16, 2]


def test_one_item_that_does_not_fit_is_a_sentence():
    with pytest.raises(MemoryLimitError, match="expected memory for one of the samples, got too little; use a smaller -rep"):
        list(Pieces(4, "samples").over(range(4), limited(0, MemoryError(), [])))


def test_other_errors_are_not_swallowed():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError, match="shapes"):
        list(Pieces(4, "samples").over(range(4), limited(0, error, [])))


def test_an_allocation_that_torch_refuses_is_recognised():
    """What the installed torch says itself."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_nothing_gives_nothing():
    assert list(Pieces(4, "samples").over([], len)) == []
