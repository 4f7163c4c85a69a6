# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report consists of: blocks and sections, the band on top, and what stands at the end of the report of any run."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lammps_bg.report.contents import RunContents
from lammps_bg.results import NOTHING, count, duration, is_number, plain, unit, with_error

_STAGES = {
    "train_ms_per_sample": "training, per sample",
    "draw_ms_per_sample": "drawing, per sample",
    "energy_ms_per_sample": "energy in LAMMPS, per sample",
}
_CITATIONS = (
    (
        "Method: M. Schebek, F. Noé, J. Rogal, Scalable Boltzmann generators for equilibrium sampling of large-scale materials, "
        "Nature Communications 17, 5010 (2026), arXiv:2509.25486",
        "https://arxiv.org/abs/2509.25486",
    ),
    ("LAMMPS: A. P. Thompson et al., Comput. Phys. Commun. 271, 108171 (2022)", "https://doi.org/10.1016/j.cpc.2021.108171"),
    ("pymbar: M. R. Shirts, J. D. Chodera, J. Chem. Phys. 129, 124105 (2008)", "https://doi.org/10.1063/1.2978177"),
    ("OVITO: A. Stukowski, Modelling Simul. Mater. Sci. Eng. 18, 015012 (2010)", "https://doi.org/10.1088/0965-0393/18/1/015012"),
    (
        "PyTorch: A. Paszke et al., Advances in Neural Information Processing Systems 32 (2019)",
        "https://arxiv.org/abs/1912.01703",
    ),
)


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: Names of the columns.
        rows: One tuple for each row, as long as the header.
        align: A letter for each column: l left, r right, m left in a fixed-width font.
        note: A sentence under the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    note: str = ""

    kind = "table"


@dataclass(frozen=True)
class Picture:
    """A figure or a photograph in the page.

    Attributes:
        source: The image itself as a data URI.
        alternative: What it shows, for readers who cannot see it.
        caption: How to read it.
        name: Of its files, empty where it has none.
    """

    source: str
    alternative: str
    caption: str
    name: str = ""

    kind = "picture"


@dataclass(frozen=True)
class Text:
    """A paragraph; its style is `plain`, `hint` for what is missing, or `warning`."""

    text: str
    style: str = "plain"

    kind = "text"


@dataclass(frozen=True)
class Listing:
    """Text in a fixed-width font that opens with a click on its title."""

    title: str
    text: str

    kind = "listing"


@dataclass(frozen=True)
class Links:
    """References: pairs of text and address."""

    entries: Sequence[tuple[str, str]]

    kind = "links"


Block = Picture | Table | Text | Listing | Links
Draw = Callable[[str], Block]
"""Gives a figure by its name, or the sentence that stands in its place."""


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Band:
    """The verdict on top.

    Attributes:
        colour: `green`, `amber`, `red`, or `grey` where nobody judged.
        number: The one number with its error, or that it is not reliable; empty where a run has no one number.
        unit: What the number is.
        reasons: One sentence each.
        next_step: What to do now.
    """

    colour: str
    number: str
    unit: str
    reasons: Sequence[str]
    next_step: str


@dataclass(frozen=True)
class Page:
    """How the report on one kind of run is made.

    Attributes:
        title: The heading.
        facts: The line under it.
        number: The number of the band and what it is.
        tiles: The most important numbers beside it: name and value.
        sections: All but the ending.
    """

    title: Callable[[RunContents], str]
    facts: Callable[[RunContents], str]
    number: Callable[[RunContents], tuple[str, str]]
    tiles: Callable[[RunContents], Sequence[tuple[str, str]]]
    sections: Callable[[RunContents, Draw], Sequence[Section]]

    def filled(self, run: RunContents, draw: Draw) -> dict[str, Any]:
        """What the template fills in."""
        given = run.results.part("verdict")
        colour = str(given.get("colour")) if given.get("colour") in ("green", "amber", "red") else "grey"
        number, what = self.number(run)
        reasons = [str(reason) for reason in given.get("reasons") or []]
        return {
            "title": self.title(run),
            "facts": self.facts(run),
            "verdict": Band(colour, number, what, reasons, str(given.get("next_step") or "")),
            "tiles": [(name, value) for name, value in self.tiles(run) if value != NOTHING],
            "sections": [*self.sections(run, draw), *_ending(run)],
        }


def facts(run: RunContents, what: str = "Boltzmann generator") -> str:
    """The line under the title of a report on one crystal."""
    system = run.results.system
    cells = " × ".join(map(str, system.get("replicate") or []))
    length = (system.get("length_scale") or {}).get("value")
    parts = [
        what,
        f"space group {system['space_group']}" if system.get("space_group") else "",
        f"{cells} cells" if cells else "",
        f"V = {plain(system.get('volume'))} {unit(run.labels.length)}³" if is_number(system.get("volume")) else "",
        f"pair_style {system['pair_style']}" if system.get("pair_style") else "",
        f"units {system.get('units')}",
        f"Λ = {plain(length)} {unit(run.labels.length)}" if is_number(length) else "",
    ]
    return " · ".join(part for part in parts if part)


def cost_tiles(run: RunContents) -> list[tuple[str, str]]:
    """What the run took."""
    cost = run.results.part("cost")
    return [
        ("energy evaluations", count(cost.get("energy_evaluations"))),
        ("wall time", duration(cost.get("wall_seconds"))),
    ]


def present(*blocks: Block | None) -> list[Block]:
    """Those blocks that a run has."""
    return [block for block in blocks if block is not None]


def figure_or_nothing(block: Block) -> list[Block]:
    """A figure whose absence is not worth a sentence."""
    return [block] if isinstance(block, Picture) else []


def _ending(run: RunContents) -> list[Section]:
    """Cost, warnings, provenance and references, which every run has."""
    warnings = [Text(str(warning), "warning") for warning in run.results.get("warnings") or run.provenance.get("warnings") or []]
    config = Listing("config.toml: every setting of this run", run.config) if run.config else None
    return [
        Section("Timings and cost", [_cost_table(run) or Text("No timings in results.json.", "hint")]),
        *([Section("Warnings", warnings)] if warnings else []),
        Section("Provenance", present(_provenance_table(run), _inputs_table(run), config)),
        Section("Please cite", [Links(_CITATIONS)]),
    ]


def _cost_table(run: RunContents) -> Table | None:
    given = run.results.part("cost")
    rows = [("wall time", duration(given["wall_seconds"]))] if "wall_seconds" in given else []
    rows += [("energy evaluations in LAMMPS", count(given["energy_evaluations"]))] if "energy_evaluations" in given else []
    for name, value in run.results.part("timings").items():
        label = _STAGES.get(name, name.replace("_", " "))
        rows.append((label, f"{value:.3g} ms" if is_number(value) and "_ms" in name else plain(value)))
    rows += [
        (name.replace("_", " "), plain(value))
        for name, value in given.items()
        if name not in ("wall_seconds", "energy_evaluations")
    ]
    return Table(("", ""), rows, "lr") if rows else None


def _provenance_table(run: RunContents) -> Table:
    known = run.provenance
    seeds = ", ".join(f"{name} {value}" for name, value in (known.get("seeds") or {}).items())
    versions = ", ".join(f"{name} {value}" for name, value in (known.get("versions") or {}).items())
    rows = [("command", shlex.join(map(str, known.get("command") or []))), ("seeds", seeds), ("versions", versions)]
    rows += [("source revision", str(known.get("source_revision") or "an installed package")), ("folder", run.path.name)]
    rows += [("finished", str(run.status["updated"]))] if run.status.get("updated") else []
    return Table(("", ""), rows, "lm", "sh rerun.sh NEW_FOLDER repeats this run from the stored copies of its inputs.")


def _inputs_table(run: RunContents) -> Table | None:
    files = run.provenance.get("inputs") or []
    rows = [(str(file.get("role")), str(file.get("stored")), str(file.get("sha256"))) for file in files]
    return Table(("role", "file below inputs/", "SHA-256"), rows, "lmm") if rows else None


def settings_rows(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested settings as text; long lists by their length."""
    for name, value in content.items():
        label = prefix + name.replace("_", " ")
        if isinstance(value, Mapping) and is_number(value.get("value")):
            yield label, with_error(value["value"], value.get("error"), str(value.get("unit", "")))
        elif isinstance(value, Mapping):
            yield from settings_rows(value, f"{label}: ")
        elif isinstance(value, list):
            yield label, ", ".join(_text(entry) for entry in value) if len(value) <= 12 else f"{len(value)} values"
        else:
            yield label, _text(value)


def _text(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value) if isinstance(value, int | float) else NOTHING if value is None else str(value)
