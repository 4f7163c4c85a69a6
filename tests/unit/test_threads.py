# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread counts: small steps on one thread, the faster count for large work, and the user's count afterwards."""

import pytest
import torch

from lammps_bg.study.threads import FasterThreads, threads_for


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("sites", "threads"), [(64 * 32, 1), (1000 * 32, 2)])
def test_small_steps_use_one_thread(sites, threads):
    with threads_for(sites):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("seconds", "kept"), [((1.0, 2.0), 1), ((2.0, 1.0), 2)])
def test_the_faster_count_is_kept(seconds, kept):
    tried = []
    with FasterThreads() as threads:
        for value in (*seconds, 5.0, 5.0):
            tried.append(torch.get_num_threads())
            threads.record(value)
        assert torch.get_num_threads() == kept
    assert tried == [1, 2, kept, kept]
    assert torch.get_num_threads() == 2


def test_one_allowed_thread_stays():
    torch.set_num_threads(1)
    with FasterThreads() as threads:
        threads.record(1.0)
        assert torch.get_num_threads() == 1
