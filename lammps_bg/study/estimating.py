# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to free energies with terms and errors, observables and a verdict; with MD and chains beside them if given."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.flow.generator import AugmentedPrior
from lammps_bg.results import ESTIMATORS
from lammps_bg.streams import stream
from lammps_bg.study.comparing import Comparison, compare, judge_energies
from lammps_bg.study.exact import ExactSamples, judge_structure, source_of
from lammps_bg.study.fitting import reference
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.observing import Observables, Source, observe
from lammps_bg.study.problem import Problem
from lammps_bg.study.sampling import Samples
from lammps_bg.study.training import Trained
from lammps_bg.thermo import free_energy
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult, absolute_from_difference, marginal_log_q
from lammps_bg.thermo.sampler import marginal_ratios
from lammps_bg.thermo.verdict import Verdict, combine, judge
from lammps_bg.thermo.weights import EstimateError, WeightSummary, effective_sample_size, summarise

Array = NDArray[np.float64]
_NO_WEIGHTS = "expected weights above zero in the marginal density, got too few; train longer or raise estimate.marginal_samples"
_BASE_SAMPLES = 256  # of the base, for the figures


@dataclass(frozen=True)
class OverDraws:
    """The marginal estimate from fewer auxiliary draws.

    Attributes:
        draws: Auxiliary draws of each sample.
        beta_free_energy: beta F / N with the draw that the flow made among them.
        ess: Effective sample size as a fraction, with the same.
        fresh: The same two numbers without it; None for all draws.
    """

    draws: int
    beta_free_energy: float
    ess: float
    fresh: tuple[float, float] | None


@dataclass(frozen=True)
class Marginal:
    """Weights in the density of the physical coordinates alone.

    Attributes:
        log_w: Log-weights of the first samples, shape [m].
        note: Why they are worth nothing, if they are.
        over_draws: What fewer auxiliary draws would have given.
    """

    log_w: Array
    note: str = _NO_WEIGHTS
    over_draws: tuple[OverDraws, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """One estimate of the absolute free energy.

    Attributes:
        result: beta F / N with its terms; None where the samples came to none.
        verdict: Withholds the number where it is not reliable; None shows it.
        n: Samples it rests on.
        note: Why there is no number.
    """

    result: EstimateResult | None
    verdict: Verdict | None
    n: int
    note: str = ""

    @property
    def shown(self) -> EstimateResult | None:
        """The number, if it may be used."""
        return self.result if self.verdict is None or self.verdict.reliable else None


@dataclass
class Estimates:
    """All that samples, chains and MD say of a crystal.

    Attributes:
        known: The exactly known numbers that make free energies absolute.
        values: By estimator: `tfep`, `bound`, `tfep_marginal`, `exact`, and those of the comparison.
        weights: What the weights of the samples are worth.
        ess_marginal: ESS in the marginal density, as a fraction; None where there is none.
        marginal: The marginal weights, for flows with auxiliary variables whose weights allow an estimate.
        observables: Of base, flow, chains and MD.
        verdict: On all together.
        comparison: With MD, if there is some.
        exact: What chains came to, where they were run.
    """

    known: CrystalReference
    values: dict[str, Estimate]
    weights: WeightSummary
    ess_marginal: float | None
    marginal: Marginal | None
    observables: Observables
    verdict: Verdict
    comparison: Comparison | None = None
    exact: ExactSamples | None = None

    @property
    def best(self) -> Estimate | None:
        """The estimate to be trusted most, whether it may be used or not."""
        return next((self.values[name] for name, e in ESTIMATORS.items() if e.leads and name in self.values), None)


def estimate(
    problem: Problem,
    trained: Trained,
    samples: Samples,
    config: Config,
    *,
    marginal: Marginal | None = None,
    md: MDFrames | None = None,
    exact: ExactSamples | None = None,
) -> Estimates:
    """Free energies, observables and a verdict; on the first rank alone.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        samples: The samples.
        config: The configuration.
        marginal: From `marginal_weights`.
        md: Frames of molecular dynamics to compare with.
        exact: What chains came to, where they were run.
    """
    samples = replace(samples, log_w=np.where(np.isfinite(samples.log_w), samples.log_w, -np.inf))
    known, weights, found = reference(problem, trained.fitted), weight_summary(samples.log_w), None
    if md:
        beside = exact.result if exact else None
        alone = marginal.log_w if marginal else None
        found = compare(problem, trained, samples, md, config, marginal=alone, exact=beside)
    flow = judge(weights)
    values, ess_marginal = _of_the_draws(samples, known, config, marginal, flow)
    marginal = marginal if "tfep_marginal" in values else None
    verdict = exact.verdict(known.n_atoms) if exact else flow
    if exact and exact.result:
        result = exact.result.difference
        values["exact"] = Estimate(absolute_from_difference(result, known), verdict, result.n)
    if found:
        verdict = combine([verdict, found.verdict]) if exact else found.verdict
        for name, result in found.results.items():
            values[name] = Estimate(absolute_from_difference(result, known), found.verdicts[name], result.n)
    sources = _sources(problem, trained, samples, flow, config)
    frames = source_of(exact) if exact else None
    sources += [source for source in (frames, md.observed if md else None) if source is not None]
    observables = observe(problem, sources, n_configurations=config.estimate.rdf_samples)
    if found:
        verdict = combine([verdict, *judge_energies(observables.energies)])
    if exact:
        verdict = combine([verdict, *judge_structure(observables.structure)])
    return Estimates(known, values, weights, ess_marginal, marginal, observables, verdict, found, exact)


def _of_the_draws(
    samples: Samples, known: CrystalReference, config: Config, marginal: Marginal | None, verdict: Verdict
) -> tuple[dict[str, Estimate], float | None]:
    """The estimates from the weights of the flow's own samples, and the ESS in the marginal density."""
    random, values, ess = np.random.default_rng(config.seed), dict[str, Estimate](), None
    if (value := _tfep(samples.log_w, known, config, random)) is not None:
        values["tfep"] = Estimate(value, verdict, value.n)
    bound = free_energy.upper_bound(samples.log_w) if np.isfinite(samples.log_w).all() else None
    if bound is not None:
        values["bound"] = Estimate(absolute_from_difference(bound, known), None, bound.n)
    if marginal is not None and value is not None:
        alone, shown = weight_summary(marginal.log_w), _tfep(marginal.log_w, known, config, random)
        ess = alone.ess_fraction if shown else None
        missing = Estimate(None, None, len(marginal.log_w), marginal.note)
        values["tfep_marginal"] = Estimate(shown, judge(alone), shown.n) if shown else missing
    return values, ess


def _sources(problem: Problem, trained: Trained, samples: Samples, verdict: Verdict, config: Config) -> list[Source]:
    """Base and flow, to be put side by side."""
    n = max(config.estimate.rdf_samples, 2)
    if config.train.steps:
        base = trained.generator.prior.base.sample(_BASE_SAMPLES, stream(config.seed, "base", 0)).numpy()
        energies = problem.surface.energies(base)
    else:  # the draws are the base's own
        base, energies = samples.displacements, samples.energies
    return [
        Source("base", energies, base[:n]),
        Source("flow", samples.energies, samples.displacements[:n], samples.log_w if verdict.reliable else None),
    ]


def weight_summary(log_w: Array) -> WeightSummary:
    """What the weights are worth, which is nothing where all are zero."""
    if np.isfinite(log_w).any():
        return summarise(log_w)
    n = len(log_w)
    return WeightSummary(
        n, n, ess=0.0, ess_fraction=0.0, max_share=math.nan, pareto_k=math.nan, mean_log_w=math.nan, std_log_w=math.nan
    )


def _tfep(log_w: np.ndarray, known: CrystalReference, config: Config, random: np.random.Generator) -> EstimateResult | None:
    """The absolute TFEP estimate, or None where the weights do not allow one."""
    try:
        difference = free_energy.tfep(log_w, random, n_bootstraps=config.estimate.n_bootstraps)
    except EstimateError:
        return None
    return absolute_from_difference(difference, known)


def marginal_weights(problem: Problem, trained: Trained, samples: Samples, config: Config) -> Marginal | None:
    """Log-weights of the first samples in the marginal density, on all ranks; nothing for flows without auxiliaries.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        samples: The samples; their states are with the first rank.
        config: `estimate.marginal_samples` and `estimate.marginal_draws`.
    """
    if not isinstance(trained.generator.prior, AugmentedPrior):
        return None
    n = min(config.estimate.marginal_samples, len(samples.log_w))
    log_w = np.full(n, -np.inf)
    # a sample without a finite energy has no weight whatever its density
    usable = parallel.agreed(
        np.isfinite(samples.log_w[:n]) & (np.isfinite(samples.states[:n]).all((1, 2, 3)) if parallel.first() else True)
    )
    energies, draws = problem.beta * samples.energies[:n][usable], config.estimate.marginal_draws
    states = parallel.from_first(samples.states[:n][usable] if parallel.first() else samples.states)
    first = parallel.portion(len(energies)).start
    try:
        own = marginal_ratios(trained.generator, states, draws, seed=config.seed, first=first)
        ratios = np.concatenate(parallel.gathered(own))
        log_w[usable] = -energies - marginal_log_q(ratios)
        table = _over_draws(energies, ratios, reference(problem, trained.fitted))
    except EstimateError as error:
        return Marginal(log_w, str(error))
    return Marginal(np.where(np.isfinite(log_w), log_w, -np.inf), over_draws=table)


def _over_draws(energies: Array, ratios: Array, known: CrystalReference) -> tuple[OverDraws, ...]:
    """TFEP and ESS in the marginal density of 1, 2, 5, 10, ... draws: the first of them the flow's own, or all of them fresh."""
    most = ratios.shape[1]
    if not len(energies):
        return ()

    def numbers(part: Array) -> tuple[float, float]:
        log_w = -energies - marginal_log_q(part)
        total = np.logaddexp.reduce(log_w) - math.log(len(log_w))
        return known.value(-float(total)), effective_sample_size(log_w) / len(log_w)

    counts = [c for c in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if c < most]
    fresh = [numbers(ratios[:, most - count :]) for count in counts]
    return tuple(
        OverDraws(count, *numbers(ratios[:, :count]), beside)
        for count, beside in zip((*counts, most), (*fresh, None), strict=True)
    )
