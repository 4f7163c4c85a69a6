# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of samples: every atom as the cloud of its sampled positions over the reference lattice, rendered without a screen.

OVITO is an optional dependency and imported where it is used.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from lammps_bg.crystal.ovito_package import GRADIENT, OvitoError, ovito_module, quiet, species_colour
from lammps_bg.crystal.scale import natural_unit, periodic_pairs
from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.engine.dump import Frame, read_dump
from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import replaced
from lammps_bg.thermo.weights import systematic_indices

Array = NDArray[np.float64]
Camera = tuple[Array, Array, float]  # position, direction, vertical opening angle in radians
Colour = Literal["displacement", "species"]

VULKAN_PACKAGES = "libvulkan1 mesa-vulkan-drivers"
_POOL = 400  # samples are independent, so the first ones are as good as any and the rest of the file need not be read
_SUPERIMPOSED = 150  # samples in a picture; strongly uneven weights leave fewer
_VIEW = np.array([-0.88, -0.40, -0.25])  # close to a cube edge: rows of atoms stay visible, the tilt gives depth
_TURNS = np.radians([0, -12, 12, -24, 24, -36, 36, -48, 48])  # about z, tried where sites hide behind each other
_HIDDEN = 0.3  # sites closer than this in the picture hide each other, in nearest-neighbour distances
_DRAWN = 256  # more sites than this make a grey block: of a larger crystal only the corner in front is drawn
_MARGIN = 1.05  # free space around the cell
_LEGEND: dict[Colour, float] = {"displacement": 0.09, "species": 0.13}  # share of the height below the cell that the legend takes
_CLOUD, _SITE, _STICK, _EDGE = 0.034, 0.017, 0.017, 0.010  # sizes in nearest-neighbour distances
_GREY, _EDGE_GREY = (0.78, 0.79, 0.81), (0.50, 0.52, 0.56)


class PictureError(OvitoError):
    """No picture can be made on this machine; a run is complete without it."""


def render_samples(
    dump_path: Path,
    png_path: Path,
    *,
    sites: ArrayLike,
    length_unit: str,
    labels: Sequence[str] = (),
    colour: Colour = "displacement",
    size: tuple[int, int] = (1600, 1200),
) -> None:
    """Draw the thermal cloud of the samples over the reference lattice.

    Samples are picked by their weights, so the picture shows the equilibrium ensemble and not what the flow proposes. Of a large
    crystal it shows the corner in front and says so.

    Args:
        dump_path: Samples of one crystal in one cell, as written by `DumpWriter`.
        png_path: The picture to write.
        sites: Reference sites ordered by atom id, shape [N, 3], length units.
        length_unit: Written name of the length unit, for the legend.
        labels: Names of the types, for the legend by species.
        colour: By the distance from the site, or by species.
        size: Width and height, pixels.

    Raises:
        OvitoError: OVITO is missing; PictureError where a Vulkan driver is.
        RunDirectoryError: The dump cannot be read or does not fit the sites.
    """
    ovito_module("data")
    frames = _pick_by_weight(list(islice(read_dump(dump_path), _POOL)), _SUPERIMPOSED)
    sites = np.asarray(sites, dtype=np.float64)
    if sites.shape != frames[0].positions.shape:
        raise RunDirectoryError(
            f"expected {len(sites)} atoms, one per site, but {dump_path} has {len(frames[0].positions)}; give this crystal's dump"
        )
    frames, sites, length_unit = _in_view(frames, sites, length_unit)
    view = _view(sites, frames[0])
    drawn, cell, origin = _in_front(sites, frames[0], view)
    camera = _camera(cell, origin, size[0] / size[1], view, _LEGEND[colour])
    data = _scene(frames, sites, labels, drawn)
    data.objects.append(_box(cell, origin, nearest_distance(frames[0].cell, sites)))
    note = "" if len(drawn) == len(sites) else f"{len(drawn)} of {len(sites)} atoms"
    _render(data, Path(png_path), camera, colour=colour, unit=length_unit, size=size, note=note)


def _in_view(frames: list[Frame], sites: Array, length_unit: str) -> tuple[list[Frame], Array, str]:
    """Frames and sites in lengths of order one, which OVITO can draw, with the name of their unit, such as 1e-10 m."""
    spacing = nearest_distance(frames[0].cell, sites)
    if natural_unit(spacing) == 1:
        return frames, sites, length_unit
    unit = 10.0 ** math.floor(math.log10(spacing))
    scaled = [replace(f, cell=f.cell / unit, origin=f.origin / unit, positions=f.positions / unit) for f in frames]
    return scaled, sites / unit, f"{unit:g} {length_unit}"


def _pick_by_weight(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Systematic resampling by weight, repeats dropped."""
    log_w = np.array([frame.columns["c_logw"][0] if "c_logw" in frame.columns else 0.0 for frame in frames])
    log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
    if not np.isfinite(log_w).any():
        raise RunDirectoryError("expected samples with finite weights for a picture but there are none; train longer")
    return [frames[index] for index in np.unique(systematic_indices(log_w, count, np.random.default_rng(0)))]


def _scene(frames: Sequence[Frame], sites: Array, labels: Sequence[str], drawn: NDArray[np.int64]) -> Any:  # noqa: ANN401
    """The clouds, and the lattice as sticks between small site markers, as an ovito DataCollection."""
    ovito, cell = ovito_module("data"), frames[0].cell
    first, second, images, spacing = _sticks(sites, cell)
    kept = np.isin(first, drawn) & np.isin(second, drawn)
    if len(drawn) < len(sites):
        kept &= ~images.any(axis=1)  # the box around a part of the crystal is no period
    first, second, images = np.searchsorted(drawn, first[kept]), np.searchsorted(drawn, second[kept]), images[kept]
    sites, species = sites[drawn], frames[0].types[drawn]
    inverse = np.linalg.inv(cell)
    displacements = np.stack([_nearest_image(frame.positions[drawn] - sites, cell, inverse) for frame in frames])
    distances = np.linalg.norm(displacements, axis=-1)
    n_cloud = distances.size
    particles = ovito.Particles(count=n_cloud + len(sites))
    particles.create_property("Position", data=np.concatenate([(sites + displacements).reshape(-1, 3), sites]))
    particles.create_property("Radius", data=np.repeat([_CLOUD * spacing, _SITE * spacing], [n_cloud, len(sites)]))
    particles.create_property("Displacement Magnitude", data=np.append(distances.ravel(), np.zeros(len(sites))))
    # Rare, distant positions fade, so the dense core shows through.
    fading = 0.2 + 0.6 * np.clip(distances / _far(distances), 0, 1)
    particles.create_property("Transparency", data=np.append(fading.ravel(), np.zeros(len(sites))))
    types = particles.create_property("Particle Type", data=np.tile(species, len(frames) + 1))
    _name_types(types, species, labels)
    bonds = particles.create_bonds(count=len(first), vis_params={"width": 2 * _STICK * spacing})
    bonds.create_property("Topology", data=np.stack([first, second], axis=1) + n_cloud)
    bonds.create_property("Periodic Image", data=images)
    bonds.create_property("Color", data=np.tile(_GREY, (len(first), 1)))
    data = ovito.DataCollection()
    data.objects.append(particles)
    return data


def _box(cell: Array, origin: Array, spacing: float) -> Any:  # noqa: ANN401
    box = ovito_module("data").SimulationCell(pbc=(True, True, True))
    box[...] = np.column_stack([cell.T, origin])
    box.vis.line_width, box.vis.rendering_color = _EDGE * spacing, _EDGE_GREY
    return box


def _render(data: Any, path: Path, camera: Camera, *, colour: Colour, unit: str, size: tuple[int, int], note: str) -> None:  # noqa: ANN401
    sources, vis = ovito_module("pipeline"), ovito_module("vis")
    pipeline = sources.Pipeline(source=sources.StaticSource(data=data))
    position, view, angle = camera
    perspective = vis.Viewport.Type.Perspective
    viewport = vis.Viewport(type=perspective, camera_pos=position, camera_dir=view, camera_up=(0, 0, 1), fov=angle)
    viewport.overlays.append(_by_displacement(pipeline, data, unit) if colour == "displacement" else _by_species(data))
    if note:
        place = ovito_module("qt_compat").QtCore.Qt.AlignmentFlag
        corner = place.AlignBottom | place.AlignLeft
        viewport.overlays.append(vis.TextLabelOverlay(text=note, font_size=0.025, text_color=_EDGE_GREY, alignment=corner))
    renderer = vis.StandardRenderer(antialiasing_level=4, ambient_occlusion=True, order_independent_transparency=True)
    pipeline.add_to_scene()
    try:
        with quiet():
            image = viewport.render_image(size=size, background=(1.0, 1.0, 1.0), renderer=renderer)
    except RuntimeError as error:
        raise PictureError(_render_sentence(str(error))) from error
    finally:
        pipeline.remove_from_scene()
    with replaced(path, durable=False) as temporary:
        if not image.save(str(temporary), "PNG"):
            raise PictureError(f"expected OVITO to write the picture {path} but it could not; check the folder and its disk")


def _render_sentence(message: str) -> str:
    if "vulkan" in message.lower():
        return (
            "expected a Vulkan driver for pictures but this machine has none; install the system packages "
            f"{VULKAN_PACKAGES} (Debian, Ubuntu), which render without a graphics card"
        )
    return f"expected OVITO to render a picture but it says '{message.strip().splitlines()[0]}'; the run is complete without it"


def _by_displacement(pipeline: Any, data: Any, unit: str) -> Any:  # noqa: ANN401
    """Colour the pipeline's particles by their distance from the site; returns the legend."""
    modifiers = ovito_module("modifiers")
    distances = np.asarray(data.particles["Displacement Magnitude"])
    coding = modifiers.ColorCodingModifier(property="Displacement Magnitude")
    coding.gradient = modifiers.ColorCodingModifier.Gradient(GRADIENT)
    coding.start_value, coding.end_value = 0.0, _far(distances[distances > 0])
    pipeline.modifiers.append(coding)
    return _legend(0.28, modifier=coding, title=f"distance from the site ({unit})", format_string="%.2f", font_size=0.09)


def _by_species(data: Any) -> Any:  # noqa: ANN401
    # OVITO fits the row of balls into the width: one that grows with their number keeps their size
    width = 0.06 * len(data.particles.particle_types.types)
    return _legend(width, property="particles/Particle Type", title=" ", font_size=0.35)


def _legend(width: float, **what: object) -> Any:  # noqa: ANN401
    alignment = ovito_module("qt_compat").QtCore.Qt.AlignmentFlag
    place = {"alignment": alignment.AlignBottom | alignment.AlignHCenter, "offset_y": 0.01}
    return ovito_module("vis").ColorLegendOverlay(legend_size=width, aspect_ratio=14.0, **place, **what)


def _far(distances: Array) -> float:
    """A distance that one position in two hundred exceeds: the end of the colour scale."""
    return float(np.quantile(distances, 0.995))


def _name_types(types: Any, present: NDArray[np.int64], labels: Sequence[str]) -> None:  # noqa: ANN401
    for number in np.unique(present):
        name = labels[number - 1] if number <= len(labels) else f"type {number}"
        types.types.append(ovito_module("data").ParticleType(id=int(number), name=name, color=species_colour(int(number))))


def _nearest_image(vectors: NDArray, cell: NDArray, inverse: NDArray) -> Array:
    """Vectors shortened by whole cell vectors; right for vectors much shorter than the cell, shape [..., 3]."""
    return vectors - np.round(vectors @ inverse) @ cell


def _sticks(sites: Array, cell: Array) -> tuple[NDArray, NDArray, NDArray, float]:
    """Pairs of nearest neighbours (i, j, image of j), each once, and their distance in length units.

    Close-packed crystals get no sticks: with 8 or 12 at each site they would hide the clouds.
    """
    spacing = nearest_distance(cell, sites)
    i, j, image = periodic_pairs("ijS", cell, sites, 1.15 * spacing)
    if len(i) > 6 * len(sites):
        i, j, image = i[:0], j[:0], image[:0]
    once = (i < j) | ((i == j) & (image @ np.array([1_000_000, 1_000, 1]) > 0))
    return i[once], j[once], image[once], spacing


def _view(sites: Array, frame: Frame) -> Array:
    """The usual direction of view, or one turned from it where that keeps more sites from hiding behind others."""
    cosines, sines, still = np.cos(_TURNS), np.sin(_TURNS), np.zeros(len(_TURNS))
    x, y, z = _VIEW / np.linalg.norm(_VIEW)
    views = np.stack([cosines * x - sines * y, sines * x + cosines * y, still + z], axis=1)
    radius = _HIDDEN * nearest_distance(frame.cell, sites)
    drawn = [sites[_in_front(sites, frame, view)[0]] @ np.stack(_axes(view), axis=1) for view in views]
    hidden = np.array([len(cKDTree(points).query_pairs(radius)) for points in drawn])
    return np.asarray(views[0 if hidden[0] <= 1.5 * hidden.min() else hidden.argmin()])


def _in_front(sites: Array, frame: Frame, view: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Indices of the sites to draw, and cell and origin of the box around them: all, or a corner of a large crystal."""
    inverse = np.linalg.inv(frame.cell)
    shares = _shares(1.0 / np.linalg.norm(inverse, axis=0), _DRAWN / len(sites))
    from_start = inverse.T @ view > 0  # whether the camera meets the start or the end of each cell vector first
    fractional = (sites - frame.origin) @ inverse
    fractional = fractional - np.floor(fractional + 1e-9)
    depth = np.where(from_start, fractional, 1.0 - fractional)
    drawn = np.flatnonzero((depth <= shares + 1e-9).all(axis=1))
    return drawn, shares[:, None] * frame.cell, frame.origin + np.where(from_start, 0.0, 1.0 - shares) @ frame.cell


def _shares(heights: Array, total: float) -> Array:
    """How much of each cell vector to keep for this share of the volume: the long ones are cut first, to one height."""
    if total >= 1.0:
        return np.ones(3)
    shares = np.minimum(1.0, np.linspace(0.0, heights.max(), 1001)[1:, None] / heights)
    return np.asarray(shares[np.abs(shares.prod(axis=1) - total).argmin()])


def _axes(view: Array) -> tuple[Array, Array]:
    """Unit vectors to the right and upwards in the picture."""
    right = np.cross(view, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return right, np.cross(right, view)


def _camera(cell: Array, origin: Array, aspect: float, view: Array, legend: float) -> Camera:
    """A camera that just holds the cell above a legend of this share of the height."""
    right, up = _axes(view)
    corners = origin + np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64) @ cell
    target = corners.mean(axis=0)
    distance = 3.2 * float(np.linalg.norm(corners - target, axis=1).max())
    for _ in range(8):  # centre the projection; perspective makes the near corners count more
        seen = corners - (target - distance * view)
        x, y = (seen @ axis / (seen @ view) for axis in (right, up))
        target = target + distance * ((x.max() + x.min()) / 2 * right + (y.max() + y.min()) / 2 * up)
    half = _MARGIN * max(float(np.ptp(y)) / (1 - legend), float(np.ptp(x)) / aspect) / 2
    target = target - distance * legend * half * up
    return target - distance * view, view, 2 * float(np.arctan(half))
