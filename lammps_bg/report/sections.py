# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in the report and in which order, for runs of a flow and for runs of molecular dynamics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lammps_bg.report import free_energies, tables
from lammps_bg.report.contents import RunContents
from lammps_bg.report.numbers import NOTHING, count, duration, is_number, plain, unit, with_error
from lammps_bg.report.tables import Table
from lammps_bg.thermo.verdict import NOT_RELIABLE

NO_MD = "No reference MD yet: lammps-bg md -model RUN -out MDRUN, then lammps-bg estimate -model RUN -md MDRUN."
NO_PICTURE = (
    "No picture of the samples: install OVITO (pip install 'lammps-bg[ovito]') and a Vulkan driver, then sample again "
    "with lammps-bg sample -model RUN -out NEW."
)


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
    """A paragraph.

    Attributes:
        text: The sentences.
        style: `plain`, or `hint` for what is missing, or `warning`.
    """

    text: str
    style: str = "plain"

    kind = "text"


@dataclass(frozen=True)
class Listing:
    """Text in a fixed-width font that opens on a click.

    Attributes:
        title: What to click on.
        text: The content.
    """

    title: str
    text: str

    kind = "listing"


@dataclass(frozen=True)
class Links:
    """References with their addresses.

    Attributes:
        entries: Pairs of text and address.
    """

    entries: Sequence[tuple[str, str]]

    kind = "links"


Block = Picture | Table | Text | Listing | Links


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Its heading.
        blocks: What stands in it.
    """

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Verdict:
    """The band on top.

    Attributes:
        colour: `green`, `amber`, `red`, or `grey` where nobody judged.
        number: beta F / N with its error, or that it is not reliable.
        unit: What the number is.
        reasons: One sentence each.
        next_step: What to do now.
    """

    colour: str
    number: str
    unit: str
    reasons: Sequence[str]
    next_step: str


CITATIONS = (
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


def title(run: RunContents) -> str:
    """Crystal, number of atoms and temperature.

    Args:
        run: The run.
    """
    species = " ".join(run.system.get("species") or []) or "crystal"
    temperature = f"{plain(run.system.get('temperature'))} {unit(run.labels.temperature)}"
    return f"{species}, {run.system.get('n_atoms')} atoms, T = {temperature}"


def facts(run: RunContents) -> str:
    """The line under the title.

    Args:
        run: The run.
    """
    system = run.system
    cells = " × ".join(map(str, system.get("replicate") or []))
    length = (system.get("length_scale") or {}).get("value")
    parts = [
        "reference molecular dynamics"
        if run.is_md
        else "Boltzmann generator"
        if run.kind == "flow"
        else "Boltzmann generator over cells",
        f"space group {system['space_group']}" if system.get("space_group") else "",
        f"{cells} cells" if cells else "",
        f"V = {plain(system.get('volume'))} {unit(run.labels.length)}³" if is_number(system.get("volume")) else "",
        f"pair_style {system['pair_style']}" if system.get("pair_style") else "",
        f"units {system.get('units')}",
        f"Λ = {plain(length)} {unit(run.labels.length)}" if is_number(length) else "",
    ]
    return " · ".join(part for part in parts if part)


def verdict(run: RunContents) -> Verdict:
    """The band on top of the report.

    Args:
        run: The run.
    """
    (colour, reasons, next_step), best = judged(run), free_energies.headline(run)
    if best is None and run.is_md:
        return Verdict(colour, "", "no free energy from this kind of MD", reasons, next_step)
    if best is None and run.is_isobaric:
        return Verdict(colour, "", "exact samples at constant pressure", reasons, next_step)
    known = best is not None and best.value is not None and run.reliable
    number = with_error(best.value, best.error) if known and best else NOT_RELIABLE
    name = f" · {best.name}" if best is not None else ""
    return Verdict(colour, number, f"βF/N, kT per atom{name}", reasons, next_step)


def judged(run: RunContents) -> tuple[str, list[str], str]:
    """Colour of the verdict, its reasons, and what to do now.

    Args:
        run: The run.
    """
    given = run.results.get("verdict") or {}
    colour = str(given.get("colour")) if given.get("colour") in ("green", "amber", "red") else "grey"
    return colour, [str(reason) for reason in given.get("reasons") or []], str(given.get("next_step") or "")


def tiles(run: RunContents) -> list[tuple[str, str]]:
    """The most important numbers beside the free energy: name and value.

    Args:
        run: The run.
    """
    sampling, cost, md = (run.results.get(name) or {} for name in ("sampling", "cost", "md"))
    ess = sampling.get("ess")
    frames, exact = md.get("n_independent"), run.exact
    energies = exact.get("evaluations_per_sample")
    found = [
        ("effective samples", f"{ess:.1%}" if is_number(ess) and ess >= 0.01 else f"{ess:.2%}" if is_number(ess) else NOTHING),
        (
            "samples",
            NOTHING
            if is_number(energies) and not run.is_isobaric
            else count(sampling.get("n_samples", exact.get("n_samples") if run.is_isobaric else None)),
        ),  # a seventh tile would start a second row
        ("independent exact samples", count(exact.get("n_independent"))),
        ("energies for one of them", plain(energies, 3)),
        ("independent MD frames", count((run.comparison.get("md") or {}).get("n_independent", frames))),
        ("energy evaluations", count(cost.get("energy_evaluations"))),
        ("wall time", duration(cost.get("wall_seconds"))),
    ]
    return [(name, value) for name, value in found if value != NOTHING]


def flow_sections(run: RunContents, figures: Mapping[str, Block], samples: Block) -> list[Section]:
    """The report on a flow.

    Args:
        run: The run.
        figures: Each figure, or the sentence that stands in its place.
        samples: The picture of the samples, or the sentence in its place.
    """
    if run.is_isobaric:
        return [Section("Cell at constant pressure", _tables(run, tables.cell_table)), *ending(run)]
    md = [] if run.comparison or run.estimate("exact").get("value") is not None else [Text(NO_MD, "hint")]
    return [
        Section(
            "Free energy",
            [free_energies.free_energies_table(run), *_figures(figures, "estimators"), *md],
        ),
        Section("What it is made of", [*_tables(run, free_energies.terms_table), figures["terms"]]),
        Section("Training", [figures["training"]]),
        Section("Weights: how well the flow covers the crystal", [*_overlap(run), figures["work"]]),
        *_chains(run, figures),
        Section("Potential energy", [figures["energy"]]),
        Section("Structure", [figures["rdf"], figures["msd"]]),
        Section("Observables", _observables(run)),
        Section("Convergence", [figures["convergence"]]),
        *_windows(run, figures),
        Section("Samples", [samples]),
        *ending(run),
    ]


def md_sections(run: RunContents, figures: Mapping[str, Block], samples: Block) -> list[Section]:
    """The report on molecular dynamics.

    Args:
        run: The run.
        figures: Each figure, or the sentence that stands in its place.
        samples: The picture of the frames, or the sentence in its place.
    """
    estimated = bool(run.results.get("estimates"))
    free = (
        [free_energies.free_energies_table(run), *_tables(run, free_energies.terms_table), figures["terms"]] if estimated else []
    )
    return [
        *([Section("Free energy", free)] if free else []),
        Section("Molecular dynamics", [tables.md_table(run)]),
        Section("Observables", _observables(run)),
        Section("Over time", [figures["thermo"]]),
        Section("Potential energy", [figures["energy"]]),
        Section("Structure", [figures["rdf"], *_figures(figures, "msd")]),
        *_windows(run, figures),
        *([Section("Frames", [samples])] if isinstance(samples, Picture) else []),
        *ending(run),
    ]


def _figures(figures: Mapping[str, Block], name: str) -> list[Block]:
    """A figure whose absence is not worth a sentence."""
    return [figures[name]] if isinstance(figures[name], Picture) else []


def _tables(run: RunContents, *makers: Callable[[RunContents], Table | None]) -> list[Block]:
    return [table for maker in makers if (table := maker(run)) is not None]


def _observables(run: RunContents) -> list[Block]:
    blocks = _tables(run, tables.observables_table, tables.cell_table, tables.structure_table)
    return blocks or [Text("No observables in this run: its samples have no finite energies, or it was stopped early.", "hint")]


def _windows(run: RunContents, figures: Mapping[str, Block]) -> list[Section]:
    if not run.results.get("windows") and not run.results.get("overlap_matrix"):
        return []
    return [Section("Lambda windows", [*_tables(run, tables.windows_table), figures["windows"], figures["overlap"]])]


def _chains(run: RunContents, figures: Mapping[str, Block]) -> list[Section]:
    """What chains did, where there were any."""
    given = run.exact
    if not given:
        return []
    blocks: list[Block] = [Text(_what_chains_did(run))]
    if given.get("note"):
        note = str(given["note"])
        blocks.append(Text(f"{note[:1].upper()}{note[1:]}.", "warning"))
    blocks += _tables(run, tables.chains_table)
    return [Section("Exact samples (chains)", [*blocks, *(figures[f"chains_{name}"] for name in ("trace", "steps", "overlap"))])]


def _what_chains_did(run: RunContents) -> str:
    """The paragraph for someone who knows LAMMPS and not this method."""
    given = run.exact
    reason = str(given.get("reason") or "")
    why = " because they were asked for" if reason == "asked for" else f" because {reason}" if reason else ""
    parts = [
        f"Chains were run{why}: Hamiltonian Monte Carlo, that is short stretches of dynamics with random momenta, each accepted or "
        "rejected by its exact energy, so that there is no time step error, no thermostat and no equilibration. They move the random "
        "numbers behind the flow, where the crystal is nearly a normal distribution and soft phonons are as fast as all else.",
    ]
    if is_number(given.get("n_samples")):
        windows = len(given.get("windows") or [])
        parts.append(
            f"{count(given['n_samples'])} samples of the crystal came of it, all of the same weight, {count(given.get('n_independent'))} of them "
            f"independent: one for {plain(given.get('evaluations_per_sample'), 3)} energies. {windows} windows from the flow (λ = 0) to the crystal "
            "(λ = 1), joined by MBAR, give the free energy."
        )
    if is_number(given.get("evaluations")):
        parts.append(f"All chains together: {count(given['evaluations'])} energies in {duration(given.get('seconds'))}.")
    if is_number(given.get("n_samples")):
        parts.append("exact.dump.gz holds frames for OVITO and rerun, exact.csv all energies and log-weights.")
    return " ".join(parts)


def _overlap(run: RunContents) -> list[Block]:
    sampling = run.results.get("sampling") or {}
    parts = []
    if is_number(sampling.get("pareto_k")):
        parts.append(f"Tail index of the weights {sampling['pareto_k']:.2f} (good: below 0.5).")
    if is_number(sampling.get("max_share")):
        parts.append(f"Largest single weight {sampling['max_share']:.2%} of all.")
    if sampling.get("n_zero"):
        parts.append(f"{count(sampling['n_zero'])} samples have no finite energy and weight zero.")
    if is_number(run.comparison.get("overlap")):
        parts.append(f"Overlap of flow and MD {run.comparison['overlap']:.2f} (good: above 0.1).")
    return [Text(" ".join(parts))] if parts else []


def ending(run: RunContents) -> list[Section]:
    """Cost, warnings, provenance and references, which every run has.

    Args:
        run: The run.
    """
    warnings: list[Any] = list(run.results.get("warnings") or run.provenance.get("warnings") or [])
    config: list[Block] = [Listing("config.toml: every setting of this run", run.config)] if run.config else []
    shown: list[Block] = [Text(str(warning), "warning") for warning in warnings]
    return [
        Section("Timings and cost", _tables(run, tables.cost_table) or [Text("No timings in results.json.", "hint")]),
        *([Section("Warnings", shown)] if shown else []),
        Section("Provenance", [tables.provenance_table(run), *_tables(run, tables.inputs_table), *config]),
        Section("Please cite", [Links(CITATIONS)]),
    ]
