# SPDX-License-Identifier: GPL-2.0-or-later
"""All figures of the report with what the reader has to know: how to read them, and how to get one that is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lammps_bg.report.contents import RunContents
from lammps_bg.report.figures import auxiliaries, chains, dynamics, estimates, gibbs, histograms, phases, structure, training
from lammps_bg.report.figures.style import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMPARE = "lammps-bg md -model RUN -out MDRUN, then lammps-bg estimate -model RUN -md MDRUN"


@dataclass(frozen=True)
class FigureKind:
    """One figure.

    Attributes:
        name: Of its files.
        alternative: What it shows, for readers who cannot see it.
        data: What it shows in this run; None where the run has no such data.
        draw: Draws the data.
        reading: How to read it, and what good looks like.
        missing: What to do to get it.
        reading_md: How to read it in a report on molecular dynamics, where that differs.
    """

    name: str
    alternative: str
    data: Callable[[RunContents], Data | None]
    draw: Callable[[Data], "Figure"]
    reading: str
    missing: str
    reading_md: str = ""


FIGURES = (
    FigureKind(
        "estimators",
        "Free energies of all estimators with 95 % intervals",
        estimates.estimators_data,
        estimates.draw_estimators,
        "Each point is one estimator with its 95 % interval, relative to the number on top. Good: the intervals of TFEP, chains, BAR, MBAR "
        "and MD overlap, and the upper bound (arrow) lies to the right of all of them.",
        f"Fewer than two estimates that may be shown; reference MD adds some: {_COMPARE}.",
    ),
    FigureKind(
        "terms",
        "Contributions to the free energy as a waterfall",
        estimates.terms_data,
        estimates.draw_terms,
        "Each bar starts where the one above ends. All terms but the estimated one are known exactly; the smaller it is, the closer "
        "the base already was to the crystal.",
        "The terms are withheld with the free energy; follow the next step of the verdict.",
    ),
    FigureKind(
        "training",
        "Bound and effective sample size over the training steps",
        training.training_data,
        training.draw_training,
        "Above: the variational upper bound on βF/N (batches, and fresh samples with exact energies). Below: the effective sample size "
        "(green, left) and the spread of the log-weights of the batches (grey, right). Good: the bound falls below that of the base and "
        "flattens out, ESS rises. Still falling at the end: more train.steps will pay.",
        "This run has no training steps (train.steps = 0, or a model trained elsewhere); see the run that trained the model.",
    ),
    FigureKind(
        "work",
        "Distributions of the log-weights of flow samples and MD frames",
        histograms.work_data,
        histograms.draw_work,
        "Log-weights ln w = −βU − ln q of the flow's samples, the same reweighted, and of exact samples or MD frames in the flow, "
        "where there are any. The flow's curve and theirs cross at the free-energy difference; the reweighted curve should fall on theirs. "
        "Good: narrow curves that overlap. Bad: a reweighted curve made of a few spikes at the right end of the flow's; there chains are needed.",
        f"No log-weights in samples.csv; sample again: lammps-bg sample -model RUN -out NEW. With MD: {_COMPARE}.",
    ),
    FigureKind(
        "convergence",
        "Free energy from growing numbers of samples",
        estimates.convergence_data,
        estimates.draw_convergence,
        "TFEP from the first n and from the last n samples, with one standard error. Good: both enter the grey band (error of all "
        "samples) early and stay. Steps downwards late in the row are rare samples of large weight: the error is then understated. "
        "A line with a band is the best other estimate; chains that lie below the grey band have found what the draws miss.",
        "At least 20 samples with finite weights are needed; draw more: lammps-bg sample -model RUN -out NEW.",
    ),
    FigureKind(
        "draws",
        "Free energy and effective sample size of the marginal density over the number of auxiliary draws",
        auxiliaries.draws_data,
        auxiliaries.draw_draws,
        "Perturbation in the density of the atoms alone, from the first M auxiliary draws of each sample. With the draw that the flow made "
        "itself among them the mean weight is exact at any M, and M = 1 is the joint density; with fresh draws alone βF is too low by about "
        "1/M of a relative weight. Good: both curves have met and are flat at the right end; else raise estimate.marginal_draws.",
        "Only flows with auxiliary variables have a marginal density: flow.kind=augmented or global.",
    ),
    FigureKind(
        "energy",
        "Distributions of the potential energy",
        histograms.energy_data,
        histograms.draw_energy,
        "Good: the flow lies close to the reweighted curve, and the reweighted curve follows those of exact samples and of MD within the "
        "error bars.",
        "No energies in this run; make a new one: lammps-bg sample -model RUN -out NEW.",
        "Energies of the independent frames. Good: one smooth peak; a second one or a long shoulder belongs to a crystal that changed.",
    ),
    FigureKind(
        "rdf",
        "Radial distribution functions and their differences",
        structure.rdf_data,
        structure.draw_rdf,
        "Above: all pairs of atoms. Below: the difference from the reference, with bands of one joint standard error. Good: reweighted "
        "and exact samples within about two bands of zero everywhere.",
        "No radial distribution in this run; ask for it: --set estimate.rdf_samples=256.",
        "All pairs of atoms, with a band of one standard error. Good: separate peaks at the distances of the lattice.",
    ),
    FigureKind(
        "msd",
        "Mean-square displacement of every site",
        structure.msd_data,
        structure.draw_msd,
        "A point for each site, lines at the means over sites. Sites that are equivalent by symmetry should agree within their errors, "
        "and reweighted and exact samples should agree with MD. A flow below them misses the tails of the vibrations.",
        f"No displacements site by site in this run; compare it with MD: {_COMPARE}.",
        "A point for each site, a line at the mean over sites. Good: sites that are equivalent by symmetry agree within their errors.",
    ),
    FigureKind(
        "thermo",
        "Energy, temperature, pressure and volume over time",
        dynamics.thermo_data,
        dynamics.draw_thermo,
        "Good: no drift, and a running mean (black) that has settled long before the end. Frames of the equilibration (grey) are left "
        "out of every mean. A jump means that the crystal has changed.",
        "No thermo.csv in this run; run the MD again: lammps-bg md -in SCRIPT -out NEW.",
    ),
    FigureKind(
        "windows",
        "Thermodynamic force and independent frames of the lambda windows",
        dynamics.windows_data,
        dynamics.draw_windows,
        "Left: the slope of the free energy on the way from springs (λ = 0) to the potential (λ = 1); good: smooth and falling, for the free "
        "energy is concave in λ. Right: independent frames in each window; "
        "the error of the sum is ruled by the window with the fewest.",
        "This run has no lambda windows; for an absolute free energy from MD alone run lammps-bg md with --mode mbar.",
    ),
    FigureKind(
        "overlap",
        "Overlap matrix of the lambda windows",
        dynamics.overlap_data,
        dynamics.draw_overlap,
        "Chance that a frame of one window (row) belongs to another (column). Good: neighbours of at least 0.03; below that, add "
        "windows there.",
        "This run has no overlap matrix; it comes with lambda windows: lammps-bg md with --mode mbar.",
    ),
    FigureKind(
        "chains_trace",
        "Log-weights of the chains over their steps",
        chains.trace_data,
        chains.draw_trace,
        "Log-weights of the samples of the crystal, a thin line for each chain, and the mean over all of them in black. Good: a band of noise "
        "that is level from the first step on, with a mean within about two error bars of zero, and chains that cannot be told apart. "
        "Bad: a mean that drifts (too few steps, or the crystal changes), or a chain that stays above or below the others (a second "
        "structure, or a trap).",
        "exact.csv holds no samples of the crystal: the chains did not come to λ = 1; raise exact.max_seconds.",
    ),
    FigureKind(
        "chains_steps",
        "Acceptance, cost of an independent sample and agreement of the chains in each window",
        chains.steps_data,
        chains.draw_steps,
        "Over λ, from near the flow (0) to the crystal (1). Left: share of the steps that are accepted. Good: 0.6 to 0.95. Bad: below 0.4. "
        "Middle: steps, and energies with forces, that an independent sample takes. Good: 1 to 3 steps, 5 to 12 energies. Bad: tens of steps: "
        "something moves slowly. Right: split-R̂, the spread of half chains against the spread within them. Good: below 1.1. Bad: above 1.3.",
        "No window with chains: their budget ended before the first; raise exact.max_seconds.",
    ),
    FigureKind(
        "chains_overlap",
        "Overlap matrix of the windows between flow and crystal",
        chains.ladder_data,
        dynamics.draw_overlap,
        "Chance that a sample of one window (row) belongs to another (column); λ = 0 are the draws of the flow, λ = 1 is the crystal. A window with "
        "few samples has a pale column. Good: every row has a dark neighbour, so that the windows hang together. Bad: two blocks with nothing "
        "between them: the free energy across that gap is a guess.",
        "There is no overlap matrix: the chains did not come to λ = 1; raise exact.max_seconds.",
    ),
    FigureKind(
        "gibbs",
        "Free energy over the volume at each pressure, and volume over pressure",
        gibbs.gibbs_data,
        gibbs.draw_gibbs,
        "Left: F + PV above its minimum, for each state and pressure; points are the cells that were evaluated, dotted lines the minima. Good: "
        "one well with its minimum far from both ends. Right: volume over pressure with a band of one standard error; circles are the "
        "pressures asked for, squares NPT dynamics, which should lie on the curve.",
        "This folder has no curves.json; evaluate it again: lammps-bg gibbs -model RUN -out NEW.",
    ),
    FigureKind(
        "phases",
        "Difference of Gibbs free energies along the axis, and the coexistence line",
        phases.phases_data,
        phases.draw_phases,
        "Left: difference of the Gibbs free energies per atom with a band of one standard error; below zero the second crystal is the stable "
        "one, ticks mark the crossings. Good: a band that is narrow where it crosses zero. Right, where a second axis varies: the crossings "
        "over it, the coexistence line.",
        "This folder has no curves.json; compare again: lammps-bg phase -models A B --axis P -out NEW.",
    ),
)
