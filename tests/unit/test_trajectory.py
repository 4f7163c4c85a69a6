# SPDX-License-Identifier: GPL-2.0-or-later
"""Trajectories on disk: blocks in the order of time, all or nothing, and the state after the last one."""

import numpy as np
import pytest

from lammps_bg.engine.dynamics import State
from lammps_bg.errors import RunDirectoryError
from lammps_bg.store.trajectory import TrajectoryFiles
from lammps_bg.thermo.trajectory import Trajectory, TrajectoryInMemory

N_ATOMS = 3


def block(first, n, seed=0):
    """n frames behind the step `first`, every 10 steps, and a state."""
    random = np.random.default_rng(seed)
    steps = first + 10 * np.arange(1, n + 1)
    shapes = [(n, N_ATOMS, 3), (n,), (n,), (n,), (n, 3, 3)]
    frames = Trajectory(steps, *(random.standard_normal(shape) for shape in shapes))
    state = State(*(random.standard_normal(shape) for shape in ((N_ATOMS, 3), (N_ATOMS, 3), (3, 3), (3,))))
    return frames, state


def assert_same(first, second):
    for name in vars(first):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_nothing_before_the_first_block(tmp_path):
    files = TrajectoryFiles(tmp_path / "new", "a")
    assert (files.blocks, files.load(), files.state(), files.last_step) == ([], None, None, 0)


def test_blocks_come_back_in_order_with_the_last_state(tmp_path):
    """Twelve blocks: their numbers are sorted as numbers."""
    files, parts = TrajectoryFiles(tmp_path / "new", "a"), []
    for index in range(12):
        frames, state = block(20 * index, 2, seed=index)
        files.append(frames, state)
        parts.append(frames)
    loaded = TrajectoryFiles(tmp_path / "new", "a").load()
    assert_same(loaded, Trajectory.joined(parts))
    assert loaded.steps.tolist() == list(range(10, 241, 10))
    assert_same(files.state(), state)
    assert files.last_step == 240
    assert len(loaded) == 24
    assert_same(loaded[slice(2, 4)], parts[1])
    assert_same(loaded[np.array([3, 2])], parts[1][slice(None, None, -1)])
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


def test_a_trajectory_in_memory_is_one_on_disk(tmp_path):
    records = TrajectoryInMemory("a"), TrajectoryFiles(tmp_path, "a")
    for record in records:
        assert (record.name, record.load(), record.state(), record.last_step) == ("a", None, None, 0)
        for index in range(3):
            record.append(*block(20 * index, 2, seed=index))
    assert_same(*(record.load() for record in records))
    assert_same(*(record.state() for record in records))
    assert [record.last_step for record in records] == [60, 60]


def test_names_do_not_mix(tmp_path):
    """lambda-0.5 is no part of lambda-0.50000, nor nvt-0 of nvt-00."""
    for name, n in (("nvt-0", 1), ("nvt-00", 2), ("nvt-00-0000", 3)):
        TrajectoryFiles(tmp_path, name).append(*block(0, n))
    assert [len(TrajectoryFiles(tmp_path, name).load()) for name in ("nvt-0", "nvt-00", "nvt-00-0000")] == [1, 2, 3]


@pytest.mark.parametrize("length", [0, 100, -200])
def test_a_damaged_block_is_named(tmp_path, length):
    files = TrajectoryFiles(tmp_path, "a")
    files.append(*block(0, 5))
    path = files.blocks[0]
    path.write_bytes(path.read_bytes()[:length])
    for read in (files.load, files.state, lambda: files.last_step):
        with pytest.raises(RunDirectoryError, match="a-0000.npz but it is damaged .*remove it"):
            read()


def test_foreign_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "a-0000.npz", steps=np.arange(3))
    with pytest.raises(RunDirectoryError, match="is damaged"):
        TrajectoryFiles(tmp_path, "a").load()


def test_what_a_killed_process_left_is_no_block(tmp_path):
    files = TrajectoryFiles(tmp_path, "a")
    files.append(*block(0, 2))
    (tmp_path / "a-0001.npz.tmp").write_bytes(b"half a block")
    assert len(files.load()) == 2
    files.append(*block(20, 3))
    assert files.load().steps.tolist() == [10, 20, 30, 40, 50]
    assert not (tmp_path / "a-0001.npz.tmp").exists()


def test_a_full_disk_leaves_the_earlier_blocks(tmp_path):
    files = TrajectoryFiles(tmp_path, "a")
    files.append(*block(0, 2))
    (tmp_path / "a-0001.npz.tmp").symlink_to("/dev/full")
    with pytest.raises(RunDirectoryError, match="No space left .*--resume"):
        files.append(*block(20, 2))
    assert len(files.load()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a-0000.npz"]
    files.append(*block(20, 2))
    assert len(files.load()) == 4


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="expected to write"):
        TrajectoryFiles(tmp_path / "file" / "inside", "a").append(*block(0, 2))
