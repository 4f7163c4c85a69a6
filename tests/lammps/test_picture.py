# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures: what is drawn, and the sentence where nothing can be drawn."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.engine.dump import DumpWriter, Frame, read_dump
from lammps_bg.errors import RunDirectoryError
from lammps_bg.report import picture
from lammps_bg.report.identification import IdentificationError
from lammps_bg.report.ovito_package import OvitoError
from lammps_bg.report.ovito_session import save_session
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
    assert "ulkan" not in result.stderr  # what OVITO itself has to say about it
    assert not (tmp_path / "a.png").exists()


def test_without_ovito_the_sentence_names_the_extra(crystal, dump, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ovito.data", None)
    with pytest.raises(OvitoError, match=r"pip install 'lammps-bg\[ovito\]'"):
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


@pytest.mark.parametrize("legend", [0.09, 0.2])
def test_the_camera_holds_the_whole_cell(crystal, legend):
    direction = picture._view(crystal.sites, frame_of(crystal))
    position, view, angle = picture._camera(crystal.supercell, crystal.origin, 4 / 3, direction, legend)
    corners = np.array(list(np.ndindex(2, 2, 2))) @ crystal.supercell - position
    right = np.cross(view, (0, 0, 1)) / np.linalg.norm(np.cross(view, (0, 0, 1)))
    x, y = (corners @ axis / (corners @ view) / np.tan(angle / 2) for axis in (right, np.cross(right, view)))
    assert np.abs(x).max() <= 4 / 3
    assert y.max() <= 1
    assert y.min() >= -1 + 2 * legend  # the legend has its room
    assert max(np.ptp(x) * 3 / 4, np.ptp(y) / (1 - legend)) > 2 * 0.85  # and little is wasted


def frame_of(crystal: ToyCrystal) -> Frame:
    return Frame(0, crystal.supercell, crystal.origin, crystal.atom_ids, crystal.types, crystal.sites, {})


def repeated(*counts: int) -> tuple[np.ndarray, Frame]:
    """Sites and frame of so many cells of a triclinic crystal with two sites each, away from the origin."""
    cell, origin = SPACING * np.array([[1.4, 0, 0], [0.5, 1.3, 0], [0.3, -0.4, 1.2]]), np.array([3.0, -2.0, 7.0])
    grid = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), -1).reshape(-1, 3)
    sites = origin + np.concatenate([grid, grid + 0.5]) @ cell
    count = len(sites)
    return sites, Frame(0, np.diag(counts) @ cell, origin, np.arange(1, count + 1), np.ones(count, int), sites, {})


@pytest.mark.parametrize("counts", [(9, 9, 9), (1, 12, 12)])
def test_of_a_large_crystal_the_corner_in_front_is_drawn(counts):
    sites, frame = repeated(*counts)
    view = picture._view(sites, frame)
    drawn, cell, origin = picture._in_front(sites, frame, view)
    assert 150 < len(drawn) < 400
    inside = (sites - origin) @ np.linalg.inv(cell)
    kept = ((inside > -1e-9) & (inside < 1 + 1e-9)).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(kept), drawn)  # all that is in the box is drawn
    corners = np.array(list(np.ndindex(2, 2, 2)))
    nearest = (frame.origin + corners @ frame.cell)[((frame.origin + corners @ frame.cell) @ view).argmin()]
    assert np.linalg.norm(origin + corners @ cell - nearest, axis=1).min() < 1e-9
    moved = replace(frame, positions=sites + np.random.default_rng(0).normal(0.0, 0.1, sites.shape))
    data = picture._scene([frame, moved], sites, ("Na",), drawn)
    assert data.particles.count == 3 * len(drawn)
    ends = np.asarray(data.particles.positions)[np.asarray(data.particles.bonds.topology)]
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    assert len(lengths) > 0
    assert lengths.max() < 1.15 * nearest_distance(frame.cell, sites) + 1e-9


def test_a_small_crystal_is_drawn_whole():
    sites, frame = repeated(5, 5, 5)
    drawn, cell, origin = picture._in_front(sites, frame, picture._view(sites, frame))
    assert len(drawn) == len(sites)
    np.testing.assert_array_equal(cell, frame.cell)
    np.testing.assert_array_equal(origin, frame.origin)


def test_the_view_turns_where_sites_hide_each_other():
    """Rows of atoms along the usual direction of view would look like one atom each."""
    cell = 4.0 * np.diag([3.0, 3.0, 3.0])
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    usual = picture._VIEW / np.linalg.norm(picture._VIEW)
    across = np.linalg.qr(np.column_stack([usual, np.eye(3)[:, :2]]))[0].T
    frame = Frame(0, cell @ across, np.zeros(3), np.arange(27), np.ones(27, int), 4.0 * grid @ across, {})
    assert picture._view(frame.positions, frame) @ usual < 0.999
    straight = Frame(0, cell, np.zeros(3), np.arange(27), np.ones(27, int), 4.0 * grid.astype(float), {})
    assert abs(np.linalg.norm(picture._view(straight.positions, straight)) - 1) < 1e-12


OPEN = """
import sys, numpy as np, ovito
ovito.scene.load(sys.argv[1])
pipeline, = ovito.scene.pipelines
data = pipeline.compute(3)
types = data.particles.particle_types.types
print(pipeline.source.source_path, *(kind.name for kind in types), *(type(m).__name__ for m in pipeline.modifiers), sep="|")
print(repr(float(data.attributes["ReduceProperty.particles.Mean.c_logw"])))
print(*np.asarray(data.particles["Displacement Magnitude"])[np.argsort(data.particles["Particle Identifier"])].tolist())
"""


@pytest.mark.parametrize("colour", ["displacement", "species", "structure"])
def test_a_session_opens_in_another_folder(crystal, dump, tmp_path, colour):
    """OVITO restores types, displacements and log-weights, from the dump beside the session and not from where it was."""
    save_session(dump, tmp_path / "a.ovito", sites=crystal.sites, length_unit="Angstrom", labels=crystal.labels, colour=colour)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (dump, tmp_path / "a.ovito"):
        path.rename(moved / path.name)
    command = [sys.executable, "-c", OPEN, str(moved / "a.ovito")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert f"{moved}/{dump.name}|Na|Cl" in lines[0]
    assert "PolyhedralTemplateMatchingModifier" in lines[0]
    frame = list(read_dump(moved / dump.name))[3]
    assert float(lines[1]) == pytest.approx(frame.columns["c_logw"][0], rel=1e-12)
    distances = np.linalg.norm(frame.positions - crystal.sites, axis=1)
    np.testing.assert_allclose(list(map(float, lines[2].split())), distances, atol=1e-6)


def test_a_session_leaves_the_scene_as_it_was(crystal, dump, tmp_path):
    import ovito

    before = len(ovito.scene.pipelines)
    save_session(dump, tmp_path / "a.ovito", sites=crystal.sites, length_unit="Angstrom")
    assert len(ovito.scene.pipelines) == before
    assert len(ovito.scene.viewports.active_vp.overlays) == 0


def test_a_session_that_cannot_be_made_says_why(crystal, dump, tmp_path, monkeypatch):
    with pytest.raises(RunDirectoryError, match="expected 4 atoms"):
        save_session(dump, tmp_path / "a.ovito", sites=crystal.sites[:4], length_unit="A")
    with pytest.raises(OvitoError, match="choose another folder"):
        save_session(dump, tmp_path / "none" / "a.ovito", sites=crystal.sites, length_unit="A")
    strange = crystal.sites + np.random.default_rng(0).uniform(-0.9, 0.9, crystal.sites.shape)
    save_session(dump, tmp_path / "a.ovito", sites=strange, length_unit="A")
    with pytest.raises(IdentificationError, match="none of these"):
        save_session(dump, tmp_path / "a.ovito", sites=strange, length_unit="A", colour="structure")
    monkeypatch.setitem(sys.modules, "ovito.io", None)
    with pytest.raises(OvitoError, match=r"pip install"):
        save_session(dump, tmp_path / "a.ovito", sites=crystal.sites, length_unit="A")
