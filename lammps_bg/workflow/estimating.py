# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to results.json: free energies with terms and errors, observables, verdict, timings."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.config import Config
from lammps_bg.flow.prior import AugmentedPrior
from lammps_bg.report.console import Console
from lammps_bg.report.run_directory import RunDirectory
from lammps_bg.thermo import free_energy
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult
from lammps_bg.thermo.observables import mean_potential_energy, mean_square_displacement, pair_counts, radial_distribution
from lammps_bg.thermo.sampler import marginal_log_density
from lammps_bg.thermo.verdict import Verdict, judge, reported
from lammps_bg.thermo.weights import EstimateError, WeightSummary, summarise
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.sampling import Samples
from lammps_bg.workflow.training import Trained, reference

Array = NDArray[np.float64]
_RDF_BINS = 200


def estimate(
    problem: Problem,
    trained: Trained,
    samples: Samples,
    config: Config,
    run: RunDirectory,
    console: Console,
    *,
    started: float,
    earlier: Mapping[str, Any] | None = None,
) -> Verdict:
    """Write results.json and rdf.csv, and print the summary.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        samples: The samples.
        config: The configuration.
        run: The run directory.
        console: Where to report.
        started: time.monotonic() at the start of the command.
        earlier: results.json of the command that made the samples, whose cost and training are kept.
    """
    random = np.random.default_rng(config.seed)
    known = reference(problem, trained.fitted)
    samples = replace(samples, log_w=np.where(np.isfinite(samples.log_w), samples.log_w, -np.inf))
    summary = _summary(samples.log_w)
    verdict = judge(summary)
    value = _tfep(samples.log_w, known, config, random)
    sampling: dict[str, Any] = {"n_samples": summary.n, **summary.to_dict()}
    sampling |= {"ess": summary.ess_fraction, "ess_samples": summary.ess}
    cost = {"energy_evaluations": problem.surface.n_evaluations, "wall_seconds": time.monotonic() - started}
    results = {
        "system": _system(problem),
        "base": _base(trained, known),
        "sampling": sampling,
        "estimates": _estimates(problem, samples, known, value, verdict),
        "observables": _observables(problem, samples, config, run, verdict) if summary.n - summary.n_zero > 1 else {},
        "verdict": verdict.to_dict(),
        "timings": _timings(trained, samples),
        "cost": cost,
        "training": {"undone_steps": trained.n_undone},
    }
    if isinstance(trained.generator.prior, AugmentedPrior) and value is not None:
        sampling["ess_marginal"], results["estimates"]["tfep_marginal"] = _marginal(
            problem, trained, samples, config, known, random
        )
    results |= {name: earlier[name] for name in ("cost", "training") if earlier and name in earlier}
    run.write_results(results)
    reached = (value.value, value.error) if value else (None, None)
    run.write_status("done", percent=100.0, ess=summary.ess_fraction, free_energy=reached[0], error=reached[1])
    _print(console, results, verdict, problem, run)
    return verdict


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
        estimates["tfep"] = _entry(value, verdict, problem)
    bound = free_energy.upper_bound(samples.log_w) if np.isfinite(samples.log_w).all() else None
    if bound is not None:
        estimates["bound"] = _entry(free_energy.absolute_from_difference(bound, known), None, problem)
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


def _entry(result: EstimateResult, verdict: Verdict | None, problem: Problem) -> dict[str, Any]:
    """An estimate for results.json: per atom in kT, with its terms, and in the script's energy unit."""
    shown = reported(result, verdict) if verdict is not None else result.to_dict()
    terms = shown.pop("terms")
    factor = 1.0 / problem.beta
    number, error = shown["value"], shown["error"]
    in_units = {
        "value": number * factor if isinstance(number, float) else None,
        "error": error * factor if isinstance(error, float) else None,
        "unit": f"{problem.units.labels.energy} per atom",
    }
    return {"beta_F_per_atom": shown, "terms": terms, "F_per_atom": in_units}


def _marginal(
    problem: Problem, trained: Trained, samples: Samples, config: Config, known: CrystalReference, random: np.random.Generator
) -> tuple[float | None, dict[str, Any]]:
    """ESS and free energy from the density of the physical coordinates alone, on the first samples.

    Samples that are not finite have weight zero; where no number comes out, the entry says why.
    """
    n = min(config.estimate.marginal_samples, len(samples.displacements))
    log_w = np.full(n, -np.inf)
    usable = np.isfinite(samples.log_w[:n]) & np.isfinite(samples.states[:n]).all((1, 2, 3))
    try:
        states, draws = samples.states[:n][usable], config.estimate.marginal_draws
        log_q = marginal_log_density(trained.generator, states, draws, seed=config.seed)
        log_w[usable] = -problem.beta * samples.energies[:n][usable] - log_q
        log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
        difference = free_energy.tfep(log_w, random, n_bootstraps=config.estimate.n_bootstraps)
        summary = summarise(log_w)
    except EstimateError as error:
        nothing = {"value": None, "error": None, "interval": None, "n": n, "note": str(error)}
        unit = f"{problem.units.labels.energy} per atom"
        return None, {
            "beta_F_per_atom": nothing, "terms": {}, "F_per_atom": {"value": None, "error": None, "unit": unit}
        }  # fmt: skip
    return summary.ess_fraction, _entry(free_energy.absolute_from_difference(difference, known), judge(summary), problem)


def _system(problem: Problem) -> dict[str, Any]:
    crystal, units = problem.crystal, problem.units
    return {
        "n_atoms": crystal.n_sites,
        "units": units.name,
        "temperature": problem.temperature,
        "beta": problem.beta,
        "species": sorted(set(crystal.species)),
        "space_group": crystal.unit.space_group,
        "replicate": list(crystal.replicate),
        "cell": crystal.supercell.tolist(),
        "volume": crystal.volume,
        "pair_style": problem.engine.pair_style,
        "static_energy_per_atom": problem.surface.static_energy / crystal.n_sites,
        "length_scale": {"value": problem.length_scale, "unit": units.labels.length, "source": problem.length_source},
        "site_multiplicity": free_energy.site_multiplicity(crystal.n_primitive, crystal.n_sites),
    }


def _base(trained: Trained, known: CrystalReference) -> dict[str, Any]:
    """The Gibbs-Bogoliubov bound of the base over its iterations, absolute."""
    steps = [
        {"bound": known.value(step.bound * known.n_atoms) if step.holds else None, "error": float(step.error)}
        for step in trained.fitted.history
    ]
    return {"beta_F_per_atom_bound": steps[-1], "history": steps[:-1]}


def _observables(problem: Problem, samples: Samples, config: Config, run: RunDirectory, verdict: Verdict) -> dict[str, Any]:
    """Mean energy, displacements and RDF, raw (flow) and reweighted; the RDF goes to rdf.csv."""
    n_atoms = problem.crystal.n_sites
    finite = np.isfinite(samples.log_w)
    raw = mean_potential_energy(samples.energies[finite], n_atoms)
    entries: dict[str, Any] = {"potential_energy_per_atom": {"flow": raw.to_dict(), "unit": problem.units.labels.energy}}
    first = len(samples.displacements)
    usable = finite[:first] & np.isfinite(samples.displacements).all((1, 2))
    displacements, log_w = samples.displacements[usable], samples.log_w[:first][usable]
    if verdict.reliable:
        entries["potential_energy_per_atom"]["reweighted"] = mean_potential_energy(
            samples.energies, n_atoms, samples.log_w
        ).to_dict()
    if len(displacements) < 2:
        return entries
    msd = mean_square_displacement(displacements, log_w if verdict.reliable else None)
    entries["mean_square_displacement"] = {
        **msd.mean.to_dict(),
        "unit": f"{problem.units.labels.length}^2",
        "reweighted": verdict.reliable,
    }
    if config.estimate.rdf_samples:
        entries["radial_distribution"] = _radial_distribution(problem, displacements, log_w if verdict.reliable else None, run)
    return entries


def _radial_distribution(problem: Problem, displacements: Array, log_w: Array | None, run: RunDirectory) -> dict[str, Any]:
    """Write rdf.csv with the curve of the flow and, given weights, the reweighted one."""
    crystal, n_atoms = problem.crystal, problem.crystal.n_sites
    edges = np.linspace(0.0, 3.0 * crystal.nearest_distance, _RDF_BINS + 1)
    counts = pair_counts(problem.surface.positions(displacements), crystal.supercell, edges)
    kinds: list[tuple[str, Array | None]] = [("flow", None)]
    kinds += [("reweighted", log_w)] if log_w is not None else []
    curves = [
        radial_distribution(counts, edges, crystal.volume, n_first=n_atoms, n_second=n_atoms, log_w=weights)
        for _, weights in kinds
    ]
    columns = [curves[0].r, *(array for curve in curves for array in (curve.g, curve.errors))]
    names = ["r", *(name for kind, _ in kinds for name in (f"g_{kind}", f"error_{kind}"))]
    lines = [",".join(names), *(",".join(f"{x:.8g}" for x in row) for row in zip(*columns, strict=True))]
    run.write_text("rdf.csv", "\n".join(lines) + "\n")
    return {"file": "rdf.csv", "length_unit": problem.units.labels.length, "n_samples": len(displacements)}


def _in_script_units(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the summary for F and the mean potential energy in the script's energy unit."""
    rows = []
    free = results["estimates"].get("tfep", {}).get("F_per_atom")
    if free and free["value"] is not None:
        rows.append((f"F, {free['unit']}", f"{free['value']:.6g} +- {free['error']:.1g}"))
    energy = results["observables"].get("potential_energy_per_atom", {})
    for kind in ("flow", "reweighted"):
        if kind in energy:
            rows.append(
                (
                    f"potential energy, {energy['unit']} per atom ({kind})",
                    f"{energy[kind]['value']:.6g} +- {energy[kind]['error']:.1g}",
                )
            )
    return rows


def _print(console: Console, results: Mapping[str, Any], verdict: Verdict, problem: Problem, run: RunDirectory) -> None:
    """The summary on the console."""
    rows = []
    names = {"tfep": "TFEP", "tfep_marginal": "TFEP, marginal density", "bound": "upper bound"}
    for name, title in names.items():
        if name in results["estimates"]:
            entry = results["estimates"][name]["beta_F_per_atom"]
            shown = "not reliable" if entry["value"] is None else f"{entry['value']:.5f} +- {entry['error']:.5f}"
            rows.append((f"beta F/N  {title}", shown))
    base = results["base"]["beta_F_per_atom_bound"]
    shown = "none, energies were infinite" if base["bound"] is None else f"{base['bound']:.5f} +- {base['error']:.5f}"
    rows.append(("beta F/N  upper bound of the base alone", shown))
    terms = results["estimates"].get("tfep", {}).get("terms", {})
    rows += [(f"  {name.replace('_', ' ')}", f"{term:.5f}") for name, term in terms.items() if term is not None]
    rows += _in_script_units(results)
    console.say("")
    console.table(f"Helmholtz free energy per atom in kT at T = {problem.temperature:g} {problem.units.labels.temperature}", rows)
    console.say(f"           Lambda = {problem.length_scale:.6g} {problem.units.labels.length} ({problem.length_source})")
    summary = results["sampling"]
    largest = f", largest weight {summary['max_share']:.2%}" if summary["ess"] > 0 else ", all of weight zero"
    console.say(f"           ESS {summary['ess']:.1%} of {summary['n_samples']} samples{largest}")
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")
