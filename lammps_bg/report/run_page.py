# SPDX-License-Identifier: GPL-2.0-or-later
"""The reports on one crystal at one state: a flow with its weights and chains, molecular dynamics, samples at constant pressure."""

from functools import partial

from lammps_bg.report import tables
from lammps_bg.report.contents import RunContents
from lammps_bg.report.page import Block, Draw, Page, Picture, Section, Text, cost_tiles, facts, figure_or_nothing, present
from lammps_bg.results import NOT_RELIABLE, NOTHING, count, duration, is_number, plain, share, unit, with_error

NO_MD = "No reference MD yet: lammps-bg md -model RUN -out MDRUN, then lammps-bg estimate -model RUN -md MDRUN."
SAMPLES = "samples"
"""Name of the picture of samples or frames, which is no drawn figure."""


def _title(run: RunContents) -> str:
    species = " ".join(run.results.system.get("species") or []) or "crystal"
    temperature = f"{plain(run.results.system.get('temperature'))} {unit(run.labels.temperature)}"
    return f"{species}, {run.results.system.get('n_atoms')} atoms, T = {temperature}"


def _number(run: RunContents, *, without: str = "") -> tuple[str, str]:
    best = run.results.best
    if best is None and without:
        return "", without
    known = best is not None and best.value is not None and run.results.reliable
    number = with_error(best.value, best.error) if known and best else NOT_RELIABLE
    return number, f"βF/N, kT per atom{f' · {best.name}' if best else ''}"


def _tiles(run: RunContents) -> list[tuple[str, str]]:
    sampling, exact = run.results.part("sampling"), run.results.exact
    energies, isobaric = exact.get("evaluations_per_sample"), run.results.kind == "isobaric"
    # a seventh tile would start a second row
    samples = NOTHING if is_number(energies) and not isobaric else count(sampling.get("n_samples", exact.get("n_samples")))
    frames = (run.results.comparison.get("md") or {}).get("n_independent", run.results.part("md").get("n_independent"))
    return [
        ("effective samples", share(sampling.get("ess"))),
        ("samples", samples),
        ("independent exact samples", count(exact.get("n_independent"))),
        ("energies for one of them", plain(energies, 3)),
        ("independent MD frames", count(frames)),
        *cost_tiles(run),
    ]


def _flow_sections(run: RunContents, draw: Draw) -> list[Section]:
    exact = run.results.estimate("exact")
    md = [] if run.results.comparison or (exact and exact.value is not None) else [Text(NO_MD, "hint")]
    return [
        Section("Free energy", [tables.free_energies(run), *figure_or_nothing(draw("estimators")), *md]),
        Section("What it is made of", [*present(tables.terms(run)), draw("terms")]),
        Section("Training", [draw("training")]),
        Section(
            "Weights: how well the flow covers the crystal", [*_weights(run), draw("work"), *figure_or_nothing(draw("draws"))]
        ),
        *_chains(run, draw),
        Section("Potential energy", [draw("energy")]),
        Section("Structure", [draw("rdf"), draw("msd")]),
        Section("Observables", _observables(run)),
        Section("Convergence", [draw("convergence")]),
        *_windows(run, draw),
        Section("Samples", [draw(SAMPLES)]),
    ]


def _md_sections(run: RunContents, draw: Draw) -> list[Section]:
    free = [Section("Free energy", [tables.free_energies(run), *present(tables.terms(run)), draw("terms")])]
    frames = draw(SAMPLES)
    return [
        *(free if run.results.get("estimates") else []),
        Section("Molecular dynamics", [tables.md_settings(run)]),
        Section("Observables", _observables(run)),
        Section("Over time", [draw("thermo")]),
        Section("Potential energy", [draw("energy")]),
        Section("Structure", [draw("rdf"), *figure_or_nothing(draw("msd"))]),
        *_windows(run, draw),
        *([Section("Frames", [frames])] if isinstance(frames, Picture) else []),
    ]


def _isobaric_sections(run: RunContents, draw: Draw) -> list[Section]:
    return [Section("Cell at constant pressure", present(tables.mean_cell(run)))]


def _observables(run: RunContents) -> list[Block]:
    blocks = present(tables.observables(run), tables.mean_cell(run), tables.structure(run))
    return blocks or [Text("No observables in this run: its samples have no finite energies, or it was stopped early.", "hint")]


def _windows(run: RunContents, draw: Draw) -> list[Section]:
    if not run.results.get("windows") and not run.results.get("overlap_matrix"):
        return []
    return [Section("Lambda windows", [*present(tables.windows(run)), draw("windows"), draw("overlap")])]


def _chains(run: RunContents, draw: Draw) -> list[Section]:
    """What chains did, where there were any."""
    given = run.results.exact
    if not given:
        return []
    note = str(given.get("note") or "")
    blocks = present(
        Text(_what_chains_did(run)), Text(f"{note[:1].upper()}{note[1:]}.", "warning") if note else None, tables.chains(run)
    )
    return [Section("Exact samples (chains)", [*blocks, draw("chains_trace"), draw("chains_steps"), draw("chains_overlap")])]


def _what_chains_did(run: RunContents) -> str:
    """The paragraph for someone who knows LAMMPS and not this method."""
    given = run.results.exact
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


def _weights(run: RunContents) -> list[Block]:
    sampling, overlap = run.results.part("sampling"), run.results.comparison.get("overlap")
    parts = []
    if is_number(sampling.get("pareto_k")):
        parts.append(f"Tail index of the weights {sampling['pareto_k']:.2f} (good: below 0.5).")
    if is_number(sampling.get("max_share")):
        parts.append(f"Largest single weight {sampling['max_share']:.2%} of all.")
    if sampling.get("n_zero"):
        parts.append(f"{count(sampling['n_zero'])} samples have no finite energy and weight zero.")
    if is_number(sampling.get("ess_marginal")):
        parts.append(f"Effective samples in the density of the atoms alone {share(sampling['ess_marginal'])}.")
    if is_number(overlap):
        parts.append(f"Overlap of flow and MD {overlap:.2f} (good: above 0.1).")
    return [Text(" ".join(parts))] if parts else []


FLOW = Page(_title, facts, _number, _tiles, _flow_sections)
MD = Page(
    _title,
    partial(facts, what="reference molecular dynamics"),
    partial(_number, without="no free energy from this kind of MD"),
    _tiles,
    _md_sections,
)
ISOBARIC = Page(_title, facts, partial(_number, without="exact samples at constant pressure"), _tiles, _isobaric_sections)
