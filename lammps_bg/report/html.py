# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a run: one self-contained HTML page, and its figures as PNG with the numbers behind them as JSON."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from lammps_bg.files import explained, replace_bytes
from lammps_bg.report import gibbs_page, phase_page, sections
from lammps_bg.report.contents import Kind, RunContents, read_contents
from lammps_bg.report.figures.catalogue import FIGURES, FigureKind
from lammps_bg.report.figures.style import ReportError, render, require_package
from lammps_bg.report.sections import Block, Picture, Text
from lammps_bg.store.run_directory import RunDirectory

__all__ = ["ReportError", "write_report"]

REPORT, FOLDER = "report.html", "figures"
_PICTURE_WIDTH = 900  # pixels
_FLOW_ONLY = ("estimators", "training", "work", "convergence", "chains_trace", "chains_steps", "chains_overlap")
_MD_ONLY = ("thermo",)
_ONLY: dict[Kind, str] = {"gibbs": "gibbs", "phase": "phases"}
_OWN = tuple(_ONLY.values())


def write_report(run: RunDirectory) -> Path:
    """Write report.html, figures/<name>.png and figures/<name>.json from the files of a run; an older report is replaced.

    Args:
        run: The run directory, with results.json.

    Returns:
        The page.

    Raises:
        ReportError: matplotlib is missing.
        RunDirectoryError: results.json is missing, a file is damaged, or the folder cannot be written.
    """
    require_package("matplotlib")
    contents = read_contents(run)
    _make_folder(run.file(FOLDER))
    figures = {kind.name: _figure(run, contents, kind) for kind in FIGURES}
    templates = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        **_content(contents, figures),
        versions=contents.provenance.get("versions") or {},
    )
    run.write_text(REPORT, page)
    return run.file(REPORT)


def _content(run: RunContents, figures: Mapping[str, Block]) -> dict[str, Any]:
    """What the template fills in."""
    if run.kind in ("gibbs", "phase"):
        gibbs = run.kind == "gibbs"
        page = gibbs_page if gibbs else phase_page
        return {
            "title": page.title(run),
            "facts": sections.facts(run) if gibbs else phase_page.facts(run),
            "verdict": page.verdict(run),
            "tiles": page.tiles(run),
            "sections": page.arrange(run, figures),
        }
    arrange = sections.md_sections if run.is_md else sections.flow_sections
    return {
        "title": sections.title(run),
        "facts": sections.facts(run),
        "verdict": sections.verdict(run),
        "tiles": sections.tiles(run),
        "sections": arrange(run, figures, _samples(run)),
    }


def _wanted(run: RunContents, name: str) -> bool:
    """Whether a figure belongs to a report of this kind."""
    if run.kind in _ONLY or name in _OWN:
        return name == _ONLY.get(run.kind)
    return name not in (_FLOW_ONLY if run.is_md else _MD_ONLY)


def _figure(run: RunDirectory, contents: RunContents, kind: FigureKind) -> Block:
    """Write the files of one figure; returns it for the page, or the sentence that stands in its place."""
    data = kind.data(contents) if _wanted(contents, kind.name) else None
    picture, numbers = (f"{FOLDER}/{kind.name}.{ending}" for ending in ("png", "json"))
    if data is None:
        for name in (picture, numbers):
            run.file(name).unlink(missing_ok=True)
        return Text(kind.missing, "hint")
    run.write_json(numbers, data, durable=False)
    # Drawn from the file's content, so the picture cannot say anything else than the numbers.
    svg, png = render(kind.draw, json.loads(run.file(numbers).read_text(encoding="utf-8")))
    replace_bytes(run.file(picture), png, durable=False)
    reading = kind.reading_md if contents.is_md and kind.reading_md else kind.reading
    return Picture(_uri(svg, "svg+xml"), kind.alternative, reading, kind.name)


def _samples(contents: RunContents) -> Block:
    """The picture of the samples, small enough to be part of the page."""
    if contents.picture is None:
        return Text(sections.NO_PICTURE, "hint")
    from PIL import Image

    try:
        with Image.open(contents.picture) as image:
            flat = Image.new("RGB", image.size, "white")
            flat.paste(image, mask=image.convert("RGBA").getchannel("A"))
    except OSError:
        return Text(f"The picture {contents.picture.name} cannot be read; sample again to get a new one.", "hint")
    flat.thumbnail((_PICTURE_WIDTH, _PICTURE_WIDTH), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    flat.save(stream, "JPEG", quality=88)
    picked = "Exact samples, of equal weight: clouds of" if contents.picture.stem == "exact" else "Clouds of"
    weights = "" if contents.picture.stem == "exact" else ", picked by their weights"
    caption = (
        f"{picked} sampled positions over the reference lattice{weights}. Good: compact clouds around every site; "
        "clouds that run into each other belong to a crystal that melts or changes."
    )
    return Picture(_uri(stream.getvalue(), "jpeg"), "Sampled positions over the reference lattice", caption)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _make_folder(path: Path) -> None:
    with explained(path):
        path.mkdir(exist_ok=True)
