# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a run: one self-contained HTML page, and its figures as PNG with the numbers behind them as JSON."""

import base64
import io
import json
from pathlib import Path

import jinja2

from lammps_bg.files import explained, replace_bytes
from lammps_bg.report import gibbs_page, phase_page, run_page
from lammps_bg.report.contents import RunContents, read_contents
from lammps_bg.report.figures import figure_kinds
from lammps_bg.report.figures.style import ReportError, render, require_package
from lammps_bg.report.page import Block, Page, Picture, Text
from lammps_bg.results import ERRORS, INTERVALS, Kind
from lammps_bg.store.run_directory import RunDirectory

__all__ = ["ReportError", "write_report"]

REPORT, FOLDER = "report.html", "figures"
PAGES: dict[Kind, Page] = {
    "flow": run_page.FLOW,
    "isobaric": run_page.ISOBARIC,
    "md": run_page.MD,
    "gibbs": gibbs_page.PAGE,
    "phase": phase_page.PAGE,
}
_PICTURE_WIDTH = 900  # pixels
_NO_PICTURE = (
    "No picture of the samples: install OVITO (pip install 'lammps-bg[ovito]') and a Vulkan driver, then sample again "
    "with lammps-bg sample -model RUN -out NEW."
)


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
    with explained(run.file(FOLDER)):
        run.file(FOLDER).mkdir(exist_ok=True)
    figures = _Figures(run, contents)
    filled = PAGES[contents.results.kind].filled(contents, figures)
    figures.drop_others()
    templates = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        **filled, versions=contents.provenance.get("versions") or {}, convention=f"{ERRORS}. {INTERVALS}."
    )
    run.write_text(REPORT, page)
    return run.file(REPORT)


class _Figures:
    """Draws the figures that a page asks for, into the page and into files."""

    def __init__(self, run: RunDirectory, contents: RunContents) -> None:
        self._run, self._contents = run, contents
        self._kinds, self._drawn = figure_kinds(), set[str]()

    def __call__(self, name: str) -> Block:
        """A figure or the picture of the samples; the sentence that stands in its place where it cannot be made."""
        if name == run_page.SAMPLES:
            return _samples(self._contents)
        kind, contents = self._kinds[name], self._contents
        data = kind.data(contents)
        if data is None:
            return Text(kind.missing, "hint")
        picture, numbers = self._files(name)
        self._run.write_json(numbers, data, durable=False)
        # Drawn from the file's content, so the picture cannot say anything else than the numbers.
        svg, png = render(kind.draw, json.loads(self._run.file(numbers).read_text(encoding="utf-8")))
        replace_bytes(self._run.file(picture), png, durable=False)
        self._drawn.add(name)
        reading = kind.reading_md if contents.results.kind == "md" and kind.reading_md else kind.reading
        return Picture(_uri(svg, "svg+xml"), kind.alternative, reading, kind.name)

    def drop_others(self) -> None:
        """Remove the files of figures that an earlier report had and this one has not."""
        for name in self._kinds.keys() - self._drawn:
            for file in self._files(name):
                self._run.file(file).unlink(missing_ok=True)

    def _files(self, name: str) -> tuple[str, str]:
        return f"{FOLDER}/{name}.png", f"{FOLDER}/{name}.json"


def _samples(contents: RunContents) -> Block:
    """The picture of the samples, small enough to be part of the page."""
    if contents.picture is None:
        return Text(_NO_PICTURE, "hint")
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
    exact = contents.picture.stem == "exact"
    picked, weights = ("Exact samples, of equal weight: clouds of", "") if exact else ("Clouds of", ", picked by their weights")
    caption = (
        f"{picked} sampled positions over the reference lattice{weights}. Good: compact clouds around every site; "
        "clouds that run into each other belong to a crystal that melts or changes."
    )
    return Picture(_uri(stream.getvalue(), "jpeg"), "Sampled positions over the reference lattice", caption)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
