# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to results.json: free energies with terms and errors, observables, verdict, timings; with MD beside them if given."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.flow.generator import AugmentedPrior
from lammps_bg.report.console import Console
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.comparing import COMPARED, compare, comparison_entries, judge_energies
from lammps_bg.study.entries import conventions_entry, estimate_entry, missing_entry, system_entry
from lammps_bg.study.exact import ExactSamples, exact_entries, judge_structure, source_of
from lammps_bg.study.fitting import reference
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.observing import Source, observe
from lammps_bg.study.problem import Problem
from lammps_bg.study.sampling import Samples
from lammps_bg.study.training import Trained
from lammps_bg.thermo import free_energy
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult, marginal_log_q
from lammps_bg.thermo.sampler import marginal_ratios, stream
from lammps_bg.thermo.verdict import Verdict, combine, judge
from lammps_bg.thermo.weights import EstimateError, WeightSummary, effective_sample_size, summarise

Array = NDArray[np.float64]
_TITLES = {"exact": "exact (chains)", **COMPARED, "bound": "upper bound"}
_NO_WEIGHTS = "expected weights above zero in the marginal density, got too few; train longer or raise estimate.marginal_samples"
_BASE_SAMPLES = 256  # of the base, for the figures


@dataclass(frozen=True)
class Marginal:
    """Log-weights in the density of the physical coordinates alone, of the first samples, shape [m]; and why they are worth nothing.

    `over_draws` says what fewer auxiliary draws would have given, with and without the one that the flow drew.
    """

    log_w: Array
    note: str = _NO_WEIGHTS
    over_draws: tuple[dict[str, Any], ...] = ()


def estimate(
    problem: Problem,
    trained: Trained,
    samples: Samples,
    config: Config,
    run: RunDirectory,
    console: Console,
    *,
    started: float,
    marginal: Marginal | None,
    earlier: Mapping[str, Any] | None = None,
    md: MDFrames | None = None,
    exact: ExactSamples | None = None,
) -> Verdict:
    """Write results.json, observables.json and rdf.csv, and print the summary; on the first rank alone.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        samples: The samples.
        config: The configuration.
        run: The run directory.
        console: Where to report.
        started: time.monotonic() at the start of the command.
        marginal: From `marginal_weights`.
        earlier: results.json of the command that made the samples, whose cost and training are kept.
        md: Frames of molecular dynamics to compare with.
        exact: What chains came to, where they were run.
    """
    samples = replace(samples, log_w=np.where(np.isfinite(samples.log_w), samples.log_w, -np.inf))
    found = None
    if md:
        beside = exact.result if exact else None
        weights = marginal.log_w if marginal else None
        found = compare(problem, trained, samples, md, config, marginal=weights, exact=beside)
    results, verdict = _results(problem, trained, samples, config, marginal=marginal)
    if exact:
        verdict = exact.verdict(problem.crystal.n_sites)
        estimates, results["exact"] = exact_entries(exact, problem, trained)
        results["estimates"] |= estimates
    if found and md:
        verdict = combine([verdict, found.verdict]) if exact else found.verdict
        estimates, results["comparison"] = comparison_entries(found, reference(problem, trained.fitted), md, problem)
        results["estimates"] |= estimates
    sources = _sources(problem, trained, samples, judge(_summary(samples.log_w)), config, md)
    if exact and (frames := source_of(exact)) is not None:
        sources.insert(2, frames)
    results["observables"] = observe(problem, sources, run, n_configurations=config.estimate.rdf_samples)
    if found:
        verdict = combine([verdict, *judge_energies(results["observables"])])
    if exact:
        verdict = combine([verdict, *judge_structure(results["observables"])])
    results["verdict"] = verdict.to_dict()
    cost = {"energy_evaluations": problem.n_evaluations, "wall_seconds": time.monotonic() - started} | problem.cost_of_source()
    results |= {"timings": _timings(trained, samples), "cost": cost, "training": {"undone_steps": trained.n_undone}}
    results |= {name: earlier[name] for name in ("cost", "training") if earlier and name in earlier}
    if exact and earlier and "cost" in earlier:  # chains go on from those of an earlier command
        more = exact.evaluations - earlier.get("exact", {}).get("evaluations", 0)
        results["cost"] = {**earlier["cost"], "energy_evaluations": earlier["cost"]["energy_evaluations"] + more}
    run.write_results(results)
    best: Mapping[str, Any] = next(
        (results["estimates"][key] for key in ("exact", "bar", "tfep") if key in results["estimates"]), {}
    )
    reached = best.get("beta_F_per_atom", {"value": None, "error": None})
    ess = results["sampling"]["ess"]
    run.write_status("reporting", ess=ess, free_energy=reached["value"], error=reached["error"])
    _print(console, results, verdict, problem, run)
    return verdict


def _results(
    problem: Problem, trained: Trained, samples: Samples, config: Config, *, marginal: Marginal | None
) -> tuple[dict[str, Any], Verdict]:
    """System, base, sampling and the flow's own estimates, and the verdict on these."""
    random = np.random.default_rng(config.seed)
    known, summary = reference(problem, trained.fitted), _summary(samples.log_w)
    verdict = judge(summary)
    sampling: dict[str, Any] = {"n_samples": summary.n, **summary.to_dict()}
    sampling |= {"ess": summary.ess_fraction, "ess_samples": summary.ess}
    if samples.judged:
        sampling["judge"] = samples.judged
    value = _tfep(samples.log_w, known, config, random)
    estimates = _estimates(problem, samples, known, value, verdict)
    if marginal is not None and value is not None:
        alone, shown = _summary(marginal.log_w), _tfep(marginal.log_w, known, config, random)
        sampling["ess_marginal"] = alone.ess_fraction if shown else None
        entry = (
            estimate_entry(shown, judge(alone), problem) if shown else missing_entry(len(marginal.log_w), marginal.note, problem)
        )
        estimates["tfep_marginal"] = entry
        sampling["marginal_over_draws"] = list(marginal.over_draws)
    about = {"system": system_entry(problem), "conventions": conventions_entry(problem)}
    return {**about, "base": _base(trained, known), "sampling": sampling, "estimates": estimates}, verdict


def _sources(
    problem: Problem, trained: Trained, samples: Samples, verdict: Verdict, config: Config, md: MDFrames | None
) -> list[Source]:
    """Base, flow and MD, to be put side by side."""
    n = max(config.estimate.rdf_samples, 2)
    if config.train.steps:
        base = trained.generator.prior.base.sample(_BASE_SAMPLES, stream(config.seed, "base", 0)).numpy()
        energies = problem.surface.energies(base)
    else:  # the draws are the base's own
        base, energies = samples.displacements, samples.energies
    sources = [
        Source("base", energies, base[:n]),
        Source("flow", samples.energies, samples.displacements[:n], samples.log_w if verdict.reliable else None),
    ]
    return [*sources, md.observed] if md else sources


def _summary(log_w: Array) -> WeightSummary:
    """What the weights are worth, which is nothing where all are zero."""
    if np.isfinite(log_w).any():
        return summarise(log_w)
    n = len(log_w)
    return WeightSummary(
        n, n, ess=0.0, ess_fraction=0.0, max_share=math.nan, pareto_k=math.nan, mean_log_w=math.nan, std_log_w=math.nan
    )


def _estimates(
    problem: Problem, samples: Samples, known: CrystalReference, value: EstimateResult | None, verdict: Verdict
) -> dict[str, Any]:
    """The estimates from the weights of all samples."""
    estimates: dict[str, Any] = {}
    if value is not None:
        estimates["tfep"] = estimate_entry(value, verdict, problem)
    bound = free_energy.upper_bound(samples.log_w) if np.isfinite(samples.log_w).all() else None
    if bound is not None:
        estimates["bound"] = estimate_entry(free_energy.absolute_from_difference(bound, known), None, problem)
    return estimates


def _timings(trained: Trained, samples: Samples) -> dict[str, float | None]:
    return {
        "train_ms_per_sample": trained.ms_per_sample,
        "draw_ms_per_sample": samples.draw_ms,
        "energy_ms_per_sample": samples.energy_ms,
    }


def _tfep(log_w: np.ndarray, known: CrystalReference, config: Config, random: np.random.Generator) -> EstimateResult | None:
    """The absolute TFEP estimate, or None where the weights do not allow one."""
    try:
        difference = free_energy.tfep(log_w, random, n_bootstraps=config.estimate.n_bootstraps)
    except EstimateError:
        return None
    return free_energy.absolute_from_difference(difference, known)


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


def _over_draws(energies: Array, ratios: Array, known: CrystalReference) -> tuple[dict[str, Any], ...]:
    """TFEP and ESS in the marginal density of 1, 2, 5, 10, ... draws: the first of them the flow's own, or all of them fresh."""
    most = ratios.shape[1]
    if not len(energies):
        return ()
    counts = [c for c in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if c < most]
    rows = []
    for count in (*counts, most):
        row: dict[str, Any] = {"draws": count}
        fresh = [("_fresh", ratios[:, most - count :])] if count < most else []
        for name, part in [("", ratios[:, :count]), *fresh]:
            log_w = -energies - marginal_log_q(part)
            total = np.logaddexp.reduce(log_w) - math.log(len(log_w))
            row[f"beta_F_per_atom{name}"] = known.value(-float(total))
            row[f"ess{name}"] = effective_sample_size(log_w) / len(log_w)
        rows.append(row)
    return tuple(rows)


def _base(trained: Trained, known: CrystalReference) -> dict[str, Any]:
    """The Gibbs-Bogoliubov bound of the base over its iterations, absolute."""
    steps = [
        {"bound": known.value(step.bound * known.n_atoms) if step.holds else None, "error": float(step.error)}
        for step in trained.fitted.history
    ]
    return {"beta_F_per_atom_bound": steps[-1], "history": steps[:-1]}


def _in_script_units(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the summary for F and the mean potential energy in the script's energy unit."""
    rows = []
    for name, title in (("exact", "exact"), ("tfep", "TFEP")):
        free = results["estimates"].get(name, {}).get("F_per_atom")
        if free and free["value"] is not None:
            rows.append((f"F ({title}), {free['unit']}", f"{free['value']:.6g} +- {free['error']:.1g}"))
    energy = results["observables"].get("potential_energy_per_atom", {})
    for kind in ("flow", "reweighted", "exact", "md"):
        if kind in energy:
            rows.append(
                (
                    f"potential energy, {energy['unit']} per atom ({kind.replace('md', 'MD')})",
                    f"{energy[kind]['value']:.6g} +- {energy[kind]['error']:.1g}",
                )
            )
    return rows


def _free_energies(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the summary for the estimates, with z where there is MD to compare with."""
    rows = []
    z = {row["key"]: row["z"] for row in results.get("comparison", {}).get("rows", ())}
    for name, title in _TITLES.items():
        if name not in results["estimates"]:
            continue
        entry = results["estimates"][name]["beta_F_per_atom"]
        shown = "not reliable" if entry["value"] is None else f"{entry['value']:.5f} +- {entry['error']:.5f}"
        rows.append((f"beta F/N  {title}", shown, *([f"z = {z[name]:+.1f}"] if z.get(name) is not None else [])))
    base = results["base"]["beta_F_per_atom_bound"]
    shown = "none, energies were infinite" if base["bound"] is None else f"{base['bound']:.5f} +- {base['error']:.5f}"
    return [*rows, ("beta F/N  upper bound of the base alone", shown)]


def _print(console: Console, results: Mapping[str, Any], verdict: Verdict, problem: Problem, run: RunDirectory) -> None:
    """The summary on the console."""
    rows = _free_energies(results)
    best = results["estimates"].get("exact") or results["estimates"].get("tfep") or {}
    terms = best.get("terms", {})
    rows += [(f"  {name.replace('_', ' ')}", f"{term:.5f}") for name, term in terms.items() if term is not None]
    rows += _in_script_units(results)
    console.say("")
    console.table(f"Helmholtz free energy per atom in kT at T = {problem.temperature:g} {problem.units.labels.temperature}", rows)
    console.say(f"           Lambda = {problem.length_scale:.6g} {problem.units.labels.length} ({problem.length_source})")
    summary = results["sampling"]
    largest = f", largest weight {summary['max_share']:.2%}" if summary["ess"] > 0 else ", all of weight zero"
    console.say(f"           ESS {summary['ess']:.1%} of {summary['n_samples']} samples{largest}")
    if md := results.get("comparison"):
        against = _TITLES[md["against"]]
        console.say(
            f"           {md['md']['n_independent']} independent MD frames of {md['md']['path']}, overlap with the flow {md['overlap']:.2f}; "
            f"z against {against}"
        )
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")
