# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures: what is drawn, and the sentence where nothing can be drawn."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lammps_bg.engine.dump import DumpWriter, Frame, read_dump
from lammps_bg.errors import RunDirectoryError
from lammps_bg.report import picture
from lammps_bg.report.picture import PictureError, render_samples

SPACING = 2.5


@dataclass(frozen=True)
class ToyCrystal:
    supercell: np.ndarray
    origin: np.ndarray
    types: np.ndarray
    labels: tuple[str, ...]
    atom_ids: np.ndarray
    sites: np.ndarray


@pytest.fixture
def crystal() -> ToyCrystal:
    """A tilted simple cubic crystal of two species, 2 x 2 x 2 sites."""
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cell = SPACING * np.array([[2.0, 0, 0], [0.2, 2, 0], [0, 0, 2]])
    return ToyCrystal(cell, np.zeros(3), 1 + grid.sum(1) % 2, ("Na", "Cl"), np.arange(1, 9), (grid + 0.5) / 2 @ cell)


@pytest.fixture
def dump(crystal, tmp_path) -> Path:
    rng = np.random.default_rng(3)
    with DumpWriter(tmp_path / "samples.dump", crystal, units="metal") as writer:
        for index in range(20):
            writer.write(index, crystal.sites + 0.1 * rng.standard_normal(crystal.sites.shape), float(rng.standard_normal()))
    return tmp_path / "samples.dump"


@pytest.mark.parametrize("colour", ["displacement", "species"])
def test_the_picture_shows_the_samples(crystal, dump, tmp_path, colour):
    import ovito  # noqa: F401  (part of the tested installation: missing is a failure, not a skip)
    from PIL import Image as image
    try:
        names = {"labels": crystal.labels, "length_unit": "Angstrom"}
        render_samples(dump, tmp_path / "a.png", sites=crystal.sites, colour=colour, size=(320, 240), **names)
    except PictureError as error:
        if "Vulkan" not in str(error) or "vulkan" in os.environ.get("LAMMPS_BG_REQUIRE", ""):
            raise
        pytest.skip(str(error))
    with image.open(tmp_path / "a.png") as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert pixels.shape == (240, 320, 3)
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # the crystal is inside the frame
    crystal_part = pixels[:200]  # the legend is below
    red, blue = (crystal_part[..., a] - crystal_part[..., b] > 40 for a, b in ((0, 2), (2, 0)))
    assert red.mean() > 0.0005  # sticks, cell and background are grey: they count as neither
    assert blue.mean() > 0.002


def test_without_a_vulkan_driver_the_sentence_names_the_packages(crystal, dump, tmp_path):
    """In a process of its own whose Vulkan loader finds no driver."""
    import ovito  # noqa: F401  (part of the tested installation: missing is a failure, not a skip)
    np.save(tmp_path / "sites.npy", crystal.sites)
    program = (
        "import sys, numpy as np\nfrom lammps_bg.report.picture import *\ntry:\n"
        "    render_samples(sys.argv[1], sys.argv[2], sites=np.load(sys.argv[3]), length_unit='A', size=(80, 60))\n"
        "except PictureError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "VK_DRIVER_FILES": "/nonexistent.json", "VK_ICD_FILENAMES": "/nonexistent.json"}
    command = [sys.executable, "-c", program, str(dump), str(tmp_path / "a.png"), str(tmp_path / "sites.npy")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "libvulkan1 mesa-vulkan-drivers" in result.stdout
    assert not (tmp_path / "a.png").exists()


def test_without_ovito_the_sentence_names_the_extra(crystal, dump, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ovito.data", None)
    with pytest.raises(PictureError, match=r"pip install 'lammps-bg\[ovito\]'"):
        render_samples(dump, tmp_path / "a.png", sites=crystal.sites, length_unit="A")


def test_a_dump_of_another_crystal_is_refused(crystal, dump, tmp_path):
    import ovito  # noqa: F401  (part of the tested installation: missing is a failure, not a skip)
    with pytest.raises(RunDirectoryError, match="expected 4 atoms"):
        render_samples(dump, tmp_path / "a.png", sites=crystal.sites[:4], length_unit="A")


def test_samples_are_picked_by_weight(dump):
    frames = list(read_dump(dump))

    def weighted(log_w: list[float]) -> list[Frame]:
        for frame, value in zip(frames, log_w, strict=False):
            frame.columns["c_logw"][:] = value
        return picture._pick_by_weight(frames[: len(log_w)], 10)

    assert [f.timestep for f in weighted([0.0, -np.inf, 0.0])] == [0, 2]
    assert [f.timestep for f in weighted([-50.0, 3.0, -60.0])] == [1]
    assert len(weighted([0.0] * 10)) == 10
    with pytest.raises(RunDirectoryError, match="finite weights"):
        weighted([-np.inf, -np.inf])


def test_sticks_join_nearest_neighbours_once(crystal):
    first, second, images, spacing = picture._sticks(crystal.sites, crystal.supercell)
    vectors = crystal.sites[second] + images @ crystal.supercell - crystal.sites[first]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), SPACING, rtol=0.01)
    assert len(first) == 3 * len(crystal.sites)  # simple cubic: six neighbours, each pair once
    assert spacing == pytest.approx(SPACING)


def test_close_packed_crystals_have_no_sticks():
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    first, _, _, spacing = picture._sticks(fcc * 3.6, np.eye(3) * 3.6)
    assert len(first) == 0
    assert spacing == pytest.approx(3.6 / np.sqrt(2))


def test_the_camera_holds_the_whole_cell(crystal):
    position, view, angle = picture._camera(crystal.supercell, crystal.origin, 4 / 3)
    corners = np.array(list(np.ndindex(2, 2, 2))) @ crystal.supercell - position
    right = np.cross(view, (0, 0, 1)) / np.linalg.norm(np.cross(view, (0, 0, 1)))
    x, y = (corners @ axis / (corners @ view) / np.tan(angle / 2) for axis in (right, np.cross(right, view)))
    assert np.abs(x).max() <= 4 / 3
    assert np.abs(y).max() <= 1
    assert max(np.abs(x).max() * 3 / 4, np.abs(y).max()) > 0.85  # and wastes little
