# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of samples: every atom as the cloud of its sampled positions over the reference lattice, rendered without a screen.

OVITO is an optional dependency and imported where it is used.
"""

import importlib
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.engine.dump import Frame, read_dump
from lammps_bg.errors import LammpsBGError, RunDirectoryError
from lammps_bg.thermo.weights import systematic_indices

Array = NDArray[np.float64]
Colour = Literal["displacement", "species"]

VULKAN_PACKAGES = "libvulkan1 mesa-vulkan-drivers"
_POOL = 400  # samples are independent, so the first ones are as good as any and the rest of the file need not be read
_VIEW = np.array([-0.88, -0.40, -0.25])  # close to a cube edge: rows of atoms stay visible, the tilt gives depth
_MARGIN, _LEGEND = 1.05, 0.09  # free space around the cell, and the share of the height below it that the legend takes
_CLOUD, _SITE, _STICK, _EDGE = 0.034, 0.017, 0.017, 0.010  # sizes in nearest-neighbour distances
_GRADIENT = [(0.09, 0.10, 0.36), (0.11, 0.33, 0.62), (0.16, 0.60, 0.68), (0.95, 0.72, 0.30), (0.91, 0.42, 0.22)]
_SPECIES = [(0.13, 0.38, 0.68), (0.88, 0.40, 0.18), (0.20, 0.60, 0.42), (0.52, 0.35, 0.66), (0.80, 0.62, 0.15)]
_GREY, _EDGE_GREY = (0.78, 0.79, 0.81), (0.50, 0.52, 0.56)


class PictureError(LammpsBGError):
    """No picture can be made on this machine; a run is complete without it."""


def render_samples(
    dump_path: Path,
    png_path: Path,
    *,
    sites: ArrayLike,
    length_unit: str,
    labels: Sequence[str] = (),
    colour: Colour = "displacement",
    n_samples: int = 150,
    size: tuple[int, int] = (1600, 1200),
) -> None:
    """Draw the thermal cloud of the samples over the reference lattice.

    Samples are picked by their weights, so the picture shows the equilibrium ensemble and not what the flow proposes.

    Args:
        dump_path: Samples of one crystal in one cell, as written by `DumpWriter`.
        png_path: The picture to write.
        sites: Reference sites ordered by atom id, shape [N, 3], length units.
        length_unit: Written name of the length unit, for the legend.
        labels: Names of the types, for the legend by species.
        colour: By the distance from the site, or by species.
        n_samples: How many samples to superimpose; strongly uneven weights leave fewer.
        size: Width and height, pixels.

    Raises:
        PictureError: OVITO or a Vulkan driver is missing.
        RunDirectoryError: The dump cannot be read or does not fit the sites.
    """
    _ovito("data")
    frames = _pick_by_weight(list(islice(read_dump(dump_path), _POOL)), n_samples)
    sites = np.asarray(sites, dtype=np.float64)
    if sites.shape != frames[0].positions.shape:
        raise RunDirectoryError(
            f"expected {len(sites)} atoms, one per site, but {dump_path} has {len(frames[0].positions)}; give this crystal's dump"
        )
    _render(_scene(frames, sites, labels), Path(png_path), frames[0], colour=colour, unit=length_unit, size=size)


def _ovito(part: str) -> Any:  # noqa: ANN401  (used untyped: its classes take far more arguments than its type stubs know)
    """A module of OVITO."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about other installations of Qt and about conda
            return importlib.import_module(f"ovito.{part}")
    except ImportError as error:
        raise PictureError(
            f"expected the package ovito for pictures but it cannot be imported ({error}); run: pip install 'lammps-bg[ovito]'"
        ) from error


def _pick_by_weight(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Systematic resampling by weight, repeats dropped."""
    log_w = np.array([frame.columns["c_logw"][0] if "c_logw" in frame.columns else 0.0 for frame in frames])
    log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
    if not np.isfinite(log_w).any():
        raise RunDirectoryError("expected samples with finite weights for a picture but there are none; train longer")
    return [frames[index] for index in np.unique(systematic_indices(log_w, count, np.random.default_rng(0)))]


def _scene(frames: Sequence[Frame], sites: Array, labels: Sequence[str]) -> Any:  # noqa: ANN401  (an ovito DataCollection)
    """The cell, the clouds, and the lattice as sticks between small site markers."""
    ovito = _ovito("data")
    inverse = np.linalg.inv(frames[0].cell)
    displacements = np.stack([_nearest_image(frame.positions - sites, frame.cell, inverse) for frame in frames])
    distances = np.linalg.norm(displacements, axis=-1)
    first, second, images, spacing = _sticks(sites, frames[0].cell)
    n_cloud = distances.size
    particles = ovito.Particles(count=n_cloud + len(sites))
    particles.create_property("Position", data=np.concatenate([(sites + displacements).reshape(-1, 3), sites]))
    particles.create_property("Radius", data=np.repeat([_CLOUD * spacing, _SITE * spacing], [n_cloud, len(sites)]))
    particles.create_property("Displacement Magnitude", data=np.append(distances.ravel(), np.zeros(len(sites))))
    # Rare, distant positions fade, so the dense core shows through.
    fading = 0.2 + 0.6 * np.clip(distances / _far(distances), 0, 1)
    particles.create_property("Transparency", data=np.append(fading.ravel(), np.zeros(len(sites))))
    types = particles.create_property("Particle Type", data=np.tile(frames[0].types, len(frames) + 1))
    _name_types(types, frames[0].types, labels)
    bonds = particles.create_bonds(count=len(first), vis_params={"width": 2 * _STICK * spacing})
    bonds.create_property("Topology", data=np.stack([first, second], axis=1) + n_cloud)
    bonds.create_property("Periodic Image", data=images)
    bonds.create_property("Color", data=np.tile(_GREY, (len(first), 1)))
    cell = ovito.SimulationCell(pbc=(True, True, True))
    cell[...] = np.column_stack([frames[0].cell.T, frames[0].origin])
    cell.vis.line_width, cell.vis.rendering_color = _EDGE * spacing, _EDGE_GREY
    data = ovito.DataCollection()
    data.objects.extend([cell, particles])
    return data


def _render(data: Any, path: Path, frame: Frame, *, colour: Colour, unit: str, size: tuple[int, int]) -> None:  # noqa: ANN401
    sources, vis = _ovito("pipeline"), _ovito("vis")
    pipeline = sources.Pipeline(source=sources.StaticSource(data=data))
    position, view, angle = _camera(frame.cell, frame.origin, size[0] / size[1])
    perspective = vis.Viewport.Type.Perspective
    viewport = vis.Viewport(type=perspective, camera_pos=position, camera_dir=view, camera_up=(0, 0, 1), fov=angle)
    viewport.overlays.append(_by_displacement(pipeline, data, unit) if colour == "displacement" else _by_species())
    renderer = vis.StandardRenderer(antialiasing_level=4, ambient_occlusion=True, order_independent_transparency=True)
    pipeline.add_to_scene()
    try:
        viewport.render_image(filename=str(path), size=size, background=(1.0, 1.0, 1.0), renderer=renderer)
    except RuntimeError as error:
        raise PictureError(_render_sentence(str(error))) from error
    finally:
        pipeline.remove_from_scene()


def _render_sentence(message: str) -> str:
    if "vulkan" in message.lower():
        return (
            "expected a Vulkan driver for pictures but this machine has none; install the system packages "
            f"{VULKAN_PACKAGES} (Debian, Ubuntu), which render without a graphics card"
        )
    return f"expected OVITO to render a picture but it says '{message.strip().splitlines()[0]}'; the run is complete without it"


def _by_displacement(pipeline: Any, data: Any, unit: str) -> Any:  # noqa: ANN401
    """Colour the pipeline's particles by their distance from the site; returns the legend."""
    modifiers = _ovito("modifiers")
    distances = np.asarray(data.particles["Displacement Magnitude"])
    coding = modifiers.ColorCodingModifier(property="Displacement Magnitude")
    coding.gradient = modifiers.ColorCodingModifier.Gradient(_GRADIENT)
    coding.start_value, coding.end_value = 0.0, _far(distances[distances > 0])
    pipeline.modifiers.append(coding)
    return _legend(0.28, modifier=coding, title=f"distance from the site ({unit})", format_string="%.2f", font_size=0.09)


def _by_species() -> Any:  # noqa: ANN401
    return _legend(0.13, property="particles/Particle Type", title=" ", font_size=0.35)


def _legend(width: float, **what: object) -> Any:  # noqa: ANN401
    alignment = _ovito("qt_compat").QtCore.Qt.AlignmentFlag
    place = {"alignment": alignment.AlignBottom | alignment.AlignHCenter, "offset_y": 0.01}
    return _ovito("vis").ColorLegendOverlay(legend_size=width, aspect_ratio=14.0, **place, **what)


def _far(distances: Array) -> float:
    """A distance that one position in two hundred exceeds: the end of the colour scale."""
    return float(np.quantile(distances, 0.995))


def _name_types(types: Any, present: NDArray[np.int64], labels: Sequence[str]) -> None:  # noqa: ANN401
    for number in np.unique(present):
        name = labels[number - 1] if number <= len(labels) else f"type {number}"
        types.types.append(_ovito("data").ParticleType(id=int(number), name=name, color=_SPECIES[(number - 1) % len(_SPECIES)]))


def _nearest_image(vectors: NDArray, cell: NDArray, inverse: NDArray) -> Array:
    """Vectors shortened by whole cell vectors; right for vectors much shorter than the cell, shape [..., 3]."""
    return vectors - np.round(vectors @ inverse) @ cell


def _sticks(sites: Array, cell: Array) -> tuple[NDArray, NDArray, NDArray, float]:
    """Pairs of nearest neighbours (i, j, image of j), each once, and their distance in length units.

    Close-packed crystals get no sticks: with 8 or 12 at each site they would hide the clouds.
    """
    from ase.neighborlist import primitive_neighbor_list

    lengths = primitive_neighbor_list("d", [True] * 3, cell, sites, float(_guess_spacing(sites, cell)))
    spacing = float(lengths.min())
    i, j, image = primitive_neighbor_list("ijS", [True] * 3, cell, sites, 1.15 * spacing)
    if len(i) > 6 * len(sites):
        i, j, image = i[:0], j[:0], image[:0]
    once = (i < j) | ((i == j) & (image @ np.array([1_000_000, 1_000, 1]) > 0))
    return i[once], j[once], image[once], spacing


def _guess_spacing(sites: Array, cell: Array) -> float:
    """A radius that holds at least one neighbour: no packing puts nearest neighbours further apart than 1.13 v^(1/3)."""
    return 1.2 * float(abs(np.linalg.det(cell)) / len(sites)) ** (1 / 3)


def _camera(cell: Array, origin: Array, aspect: float) -> tuple[Array, Array, float]:
    """Position, direction and vertical opening angle (radians) of a camera that just holds the cell."""
    view = _VIEW / np.linalg.norm(_VIEW)
    right = np.cross(view, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, view)
    corners = origin + np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64) @ cell
    target = corners.mean(axis=0)
    distance = 3.2 * float(np.linalg.norm(corners - target, axis=1).max())
    for _ in range(8):  # centre the projection; perspective makes the near corners count more
        seen = corners - (target - distance * view)
        x, y = (seen @ axis / (seen @ view) for axis in (right, up))
        target = target + distance * ((x.max() + x.min()) / 2 * right + (y.max() + y.min()) / 2 * up)
    half = _MARGIN * max(float(np.ptp(y)) / (1 - _LEGEND), float(np.ptp(x)) / aspect) / 2
    target = target - distance * _LEGEND * half * up
    return target - distance * view, view, 2 * float(np.arctan(half))
