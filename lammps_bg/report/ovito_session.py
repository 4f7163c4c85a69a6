# SPDX-License-Identifier: GPL-2.0-or-later
"""A saved OVITO session that opens a dump file with everything set up: types, displacements, structure types, log-weights.

The session refers to the dump and holds no frame of it. It stores the dump's place relative to its own as well, and OVITO takes
that one first: a folder with both can be moved and copied. All its modifiers are built-in: OVITO does not restore a Python function.
"""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.crystal.identification import StructureIdentifier
from lammps_bg.crystal.ovito_package import (
    GRADIENT,
    OvitoError,
    configuration,
    ovito_module,
    species_colour,
)
from lammps_bg.crystal.scale import natural_unit
from lammps_bg.crystal.symmetry import nearest_distance
from lammps_bg.engine.dump import Frame, read_dump
from lammps_bg.errors import RunDirectoryError
from lammps_bg.files import replaced

Array = NDArray[np.float64]
SessionColour = Literal["displacement", "species", "structure"]

_RADIUS = 0.2  # in nearest-neighbour distances
_IMPORTS = 100
_FAR = 0.25  # end of the colour scale of displacements, in nearest-neighbour distances


def save_session(
    dump_path: Path,
    session_path: Path,
    *,
    sites: ArrayLike,
    length_unit: str,
    labels: Sequence[str] = (),
    colour: SessionColour = "displacement",
) -> None:
    """Write an OVITO session state that loads a dump file and analyses each frame.

    Args:
        dump_path: Samples or frames of one crystal with atom ids, plain or `.gz`.
        session_path: The file to write, `.ovito`; it replaces an older one.
        sites: Reference sites ordered by atom id, shape [N, 3], length units.
        length_unit: Written name of the length unit, for the legend.
        labels: Names of the types.
        colour: What the atoms are coloured by when the session opens.

    Raises:
        OvitoError: OVITO is missing or cannot write the session.
        IdentificationError: Colours by structure of a lattice that OVITO does not know.
        RunDirectoryError: The dump cannot be read or does not fit the sites.
    """
    ovito_module("")
    frame = next(read_dump(dump_path))
    lattice = np.asarray(sites, dtype=np.float64)
    if lattice.shape != frame.positions.shape:
        raise RunDirectoryError(
            f"expected {len(lattice)} atoms, one per site, but {dump_path} has {len(frame.ids)}; give this crystal's dump"
        )
    spacing = nearest_distance(frame.cell, lattice)
    if natural_unit(spacing, 12) != 1:
        raise OvitoError(
            f"expected lengths of order one for an OVITO session, which shows the dump as it is, got a nearest distance of {spacing:.3g} "
            f"{length_unit}; scale the dump by OVITO's affine transformation, or use `units metal`"
        )
    pipeline = _import_all(Path(dump_path).absolute())
    _name_types(pipeline, np.unique(frame.types), labels, spacing)
    pipeline.modifiers.append(_displacements(frame, lattice))
    identifier = StructureIdentifier(lattice, frame.cell)
    if colour == "structure" or identifier.recognises:  # a lattice OVITO does not know gets no structure types, unless asked for
        analysis = identifier.modifier()
        analysis.color_by_type = colour == "structure"
        pipeline.modifiers.append(analysis)
    with _scene_of(pipeline) as viewport:
        _label(pipeline, viewport, frame)
        if colour == "displacement":
            _colour_by_displacement(pipeline, viewport, _FAR * spacing, length_unit)
        _aim(viewport, frame)
        _write(Path(session_path))


def _import_all(path: Path) -> Any:  # noqa: ANN401
    """The pipeline of a dump file with all its frames.

    In a process that rendered before, OVITO 3.17 often stops looking after the first frame: the next import may find them.
    """
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
        n_frames = sum(line.startswith(b"ITEM: TIMESTEP") for line in stream)
    for _ in range(_IMPORTS):
        pipeline = ovito_module("io").import_file(str(path))
        if pipeline.num_frames == n_frames:
            return pipeline
    raise OvitoError(
        f"expected OVITO to find {n_frames} frames in {path} but it finds {pipeline.num_frames}; open the dump itself"
    )


def _name_types(pipeline: Any, numbers: NDArray[np.int64], labels: Sequence[str], spacing: float) -> None:  # noqa: ANN401
    """Names, colours and radii of the types."""
    edited, kinds = ovito_module("modifiers").EditTypesModifier(property="particles/Particle Type"), ovito_module("data")
    for number in map(int, numbers):
        name = labels[number - 1] if number <= len(labels) else f"type {number}"
        kind = kinds.ParticleType(id=number, name=name, color=species_colour(number), radius=_RADIUS * spacing)
        edited.edited_types.append(kind)
    pipeline.modifiers.append(edited)


def _displacements(frame: Frame, sites: Array) -> Any:  # noqa: ANN401
    """Displacement vectors from the sites, which the session holds itself."""
    sources = ovito_module("pipeline")
    lattice = configuration(sites, frame.cell, frame.origin)
    lattice.particles_.create_property("Particle Identifier", data=np.sort(frame.ids))
    modifier = ovito_module("modifiers").CalculateDisplacementsModifier()
    modifier.reference = sources.StaticSource(data=lattice)
    return modifier


@contextmanager
def _scene_of(pipeline: Any) -> Iterator[Any]:  # noqa: ANN401
    """The active viewport of a scene with nothing but this pipeline; what was in the scene comes back."""
    scene = ovito_module("").scene
    others, viewport = list(scene.pipelines), scene.viewports.active_vp
    for other in others:
        other.remove_from_scene()
    pipeline.add_to_scene()
    try:
        yield viewport
    finally:
        pipeline.remove_from_scene()
        viewport.overlays.clear()
        for other in others:
            other.add_to_scene()


def _label(pipeline: Any, viewport: Any, frame: Frame) -> None:  # noqa: ANN401
    """A line with the sample number and, where the file has it, the log-weight."""
    parts = ["sample [Timestep]"]
    if "c_logw" in frame.columns:
        pipeline.modifiers.append(ovito_module("modifiers").ReducePropertyModifier(property="c_logw"))
        parts.append("log w = [ReduceProperty.particles.Mean.c_logw]")
    viewport.overlays.append(ovito_module("vis").TextLabelOverlay(text="   ".join(parts), font_size=0.03, outline_enabled=True))


def _colour_by_displacement(pipeline: Any, viewport: Any, far: float, unit: str) -> None:  # noqa: ANN401
    modifiers, qt = ovito_module("modifiers"), ovito_module("qt_compat").QtCore.Qt
    coding = modifiers.ColorCodingModifier(property="Displacement Magnitude", start_value=0.0, end_value=far)
    coding.gradient = modifiers.ColorCodingModifier.Gradient(GRADIENT)
    pipeline.modifiers.append(coding)
    place = {"orientation": qt.Orientation.Vertical, "alignment": qt.AlignmentFlag.AlignLeft | qt.AlignmentFlag.AlignVCenter}
    title = f"distance from the site ({unit})"
    legend = ovito_module("vis").ColorLegendOverlay(modifier=coding, title=title, format_string="%.2f", font_size=0.08, **place)
    viewport.overlays.append(legend)


def _aim(viewport: Any, frame: Frame) -> None:  # noqa: ANN401
    """Camera that holds the cell. OVITO's own `zoom_all` is cancelled, as if by Ctrl-C, when it meets the search for frames."""
    corners = frame.origin + np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64) @ frame.cell
    centre, opening = corners.mean(axis=0), np.radians(35.0)
    radius = float(np.linalg.norm(corners - centre, axis=1).max())
    direction = np.array([-0.8, 0.4, -0.4]) / np.linalg.norm([-0.8, 0.4, -0.4])
    viewport.type = ovito_module("vis").Viewport.Type.Perspective
    viewport.camera_pos = centre - direction * radius / np.sin(opening / 2)
    viewport.camera_dir, viewport.fov = direction, float(opening)


def _write(path: Path) -> None:
    try:
        with replaced(path, durable=False) as temporary:
            ovito_module("").scene.save(str(temporary))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise OvitoError(
            f"expected to write the OVITO session {path} but OVITO says '{reason}'; choose another folder"
        ) from error
