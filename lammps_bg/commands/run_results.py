# SPDX-License-Identifier: GPL-2.0-or-later
"""What the main job leaves of its estimates: results.json, observables.json and rdf.csv, and the summary on the console."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.report.console import Console
from lammps_bg.results import ENSEMBLES, ERRORS, ESTIMATORS, NOT_RELIABLE, term_name, with_error
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.comparing import Comparison
from lammps_bg.study.entries import conventions_entry, estimate_entry, missing_entry, system_entry
from lammps_bg.study.estimating import Estimate, Estimates, OverDraws
from lammps_bg.study.exact import ExactSamples
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.observing import Observables
from lammps_bg.study.problem import Problem
from lammps_bg.study.sampling import Samples
from lammps_bg.study.training import Trained

Array = NDArray[np.float64]


def results_of(
    found: Estimates, problem: Problem, trained: Trained, samples: Samples, *, md: MDFrames | None = None
) -> dict[str, Any]:
    """Content of results.json, but for observables, time and cost.

    Args:
        found: The estimates.
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        samples: The samples.
        md: The frames that they were compared with.
    """
    results: dict[str, Any] = {"system": system_entry(problem), "conventions": conventions_entry(problem)}
    results["base"] = _base(found, trained)
    results["sampling"] = _sampling(found, samples)
    results["estimates"] = {name: _entry(value, problem) for name, value in found.values.items()}
    if found.exact:
        results["exact"] = _exact(found.exact, problem.crystal.n_sites)
    if found.comparison and md:
        results["comparison"] = _comparison(found, found.comparison, md, problem.temperature)
    results["verdict"] = found.verdict.to_dict()
    results["timings"] = {
        "train_ms_per_sample": trained.ms_per_sample,
        "draw_ms_per_sample": samples.draw_ms,
        "energy_ms_per_sample": samples.energy_ms,
    }
    return results


def _entry(estimate: Estimate, problem: Problem) -> dict[str, Any]:
    """An estimate, or why there is none."""
    if estimate.result is None:
        return missing_entry(estimate.n, estimate.note, problem)
    return estimate_entry(estimate.result, estimate.verdict, problem)


def _base(found: Estimates, trained: Trained) -> dict[str, Any]:
    """The Gibbs-Bogoliubov bound of the base over its iterations, absolute."""
    steps = [{"bound": bound, "error": error} for bound, error in _bounds(found, trained)]
    return {"beta_F_per_atom_bound": steps[-1], "history": steps[:-1]}


def _bounds(found: Estimates, trained: Trained) -> list[tuple[float | None, float]]:
    known = found.known
    return [
        (known.value(step.bound * known.n_atoms) if step.holds else None, float(step.error)) for step in trained.fitted.history
    ]


def _sampling(found: Estimates, samples: Samples) -> dict[str, Any]:
    """What the weights are worth."""
    weights = found.weights
    entry: dict[str, Any] = {"n_samples": weights.n, **weights.to_dict()}
    entry |= {"ess": weights.ess_fraction, "ess_samples": weights.ess}
    if samples.judged:
        entry["judge"] = samples.judged
    if found.marginal is not None:
        entry["ess_marginal"] = found.ess_marginal
        entry["marginal_over_draws"] = [_over_draws(row) for row in found.marginal.over_draws]
    return entry


def _over_draws(row: OverDraws) -> dict[str, Any]:
    entry: dict[str, Any] = {"draws": row.draws, "beta_F_per_atom": row.beta_free_energy, "ess": row.ess}
    if row.fresh is not None:
        entry |= dict(zip(("beta_F_per_atom_fresh", "ess_fresh"), row.fresh, strict=True))
    return entry


def _exact(found: ExactSamples, n_atoms: int) -> dict[str, Any]:
    """The chains."""
    entry: dict[str, Any] = {
        "reason": found.reason, "target_error": found.target_error, "evaluations": found.evaluations, "seconds": found.seconds,
        "note": found.note,
    }  # fmt: skip
    if (result := found.result) is None:
        return entry
    top = result.top
    return entry | {
        "n_samples": top.n_samples,
        "n_independent": result.n_independent,
        "evaluations_per_sample": result.evaluations_per_sample,
        "acceptance": top.acceptance,
        "step": top.step,
        "leaps": top.leaps,
        "inefficiency": top.inefficiency,
        "r_hat": max(window.r_hat or 1.0 for window in result.windows),
        "windows": [asdict(window) for window in result.windows],
        "overlaps": result.joined.neighbour_overlaps.tolist(),
        "overlap_matrix": result.joined.overlap_matrix.tolist(),
        "analytic_error": result.analytic_error / n_atoms,
        "files": {"frames": "exact.dump.gz", "table": "exact.csv"},
    }


def _comparison(found: Estimates, compared: Comparison, md: MDFrames, temperature: float) -> dict[str, Any]:
    """Flow and MD side by side."""
    rows = []
    for name in compared.results:
        shown = found.values[name].shown
        value, error = (shown.value, shown.error) if shown else (None, None)
        rows.append({"name": ESTIMATORS[name].name, "key": name, "value": value, "error": error, "z": compared.shown_z(name)})
    frames = {"path": md.name, "mode": md.mode, "n_frames": md.n_frames}
    return {
        "md": {**frames, "n_independent": compared.n_independent, "temperature": temperature},
        "against": compared.against,
        "rows": rows,
        "overlap": compared.overlap,
        "work": {name: values.tolist() for name, values in compared.work.items()},
    }


def write_observables(run: RunDirectory, found: Observables, problem: Problem) -> dict[str, Any]:
    """Write observables.json and rdf.csv; returns the numbers for results.json.

    Args:
        run: The run directory.
        found: The observables.
        problem: Units.
    """
    labels = problem.units.labels
    squared = f"{labels.length}^2"
    energies = {name: mean.to_dict() for name, mean in found.energies.items()}
    numbers: dict[str, Any] = {"potential_energy_per_atom": {"unit": labels.energy, **energies}}
    curves: dict[str, Any] = {"energy": {"unit": f"{labels.energy} per atom", "series": _series(found)}}
    if found.displacements:
        means = {name: entry.mean.to_dict() for name, entry in found.displacements.items()}
        numbers["mean_square_displacement"] = {"unit": squared, **means}
        sites = {name: {"value": _rounded(d.sites), "error": _rounded(d.errors)} for name, d in found.displacements.items()}
        curves["msd"] = {"unit": squared, "curves": sites}
    if found.pressures is not None:
        pressures = {name: mean.to_dict() for name, mean in found.pressures.items()}
        numbers["pressure"] = curves["pressure"] = {"unit": labels.pressure, **pressures}
    if found.radial:
        numbers["radial_distribution"] = {"file": "rdf.csv", "length_unit": labels.length, "n_samples": found.n_radial}
        r = next(iter(found.radial.values())).r
        shown = {name: {"g": _rounded(curve.g), "error": _rounded(curve.errors)} for name, curve in found.radial.items()}
        curves["rdf"] = {"unit": labels.length, "r": _rounded(r), "curves": shown}
        run.write_text("rdf.csv", _radial_table(found, r))
    if found.structure is not None:
        shares = {n: {"value": _rounded(v), "error": _rounded(e)} for n, (v, e) in found.structure.shares.items()}
        numbers["structure"] = curves["structure"] = {"types": list(found.structure.types), "fractions": shares}
    run.write_json("observables.json", curves)
    return numbers


def _series(found: Observables) -> dict[str, Any]:
    """Energies per atom for histograms."""
    series: dict[str, Any] = {}
    for name, (values, log_w) in found.series.items():
        series[name] = {"values": _rounded(values)}
        if log_w is not None:
            series[name]["log_w"] = _rounded(log_w)
    return series


def _radial_table(found: Observables, r: Array) -> str:
    """The text of rdf.csv."""
    curves = found.radial or {}
    names = ["r", *(column for name in curves for column in (f"g_{name}", f"error_{name}"))]
    columns = [column for curve in curves.values() for column in (curve.g, curve.errors)]
    lines = [",".join(names), *(",".join(f"{x:.8g}" for x in row) for row in zip(r, *columns, strict=True))]
    return "\n".join(lines) + "\n"


def _rounded(values: Array) -> list[float]:
    """For JSON: eight digits are enough for figures."""
    return [float(f"{value:.8g}") for value in np.asarray(values)]


def show(
    found: Estimates, problem: Problem, trained: Trained, console: Console, run: RunDirectory, *, md: MDFrames | None = None
) -> None:
    """The summary on the console.

    Args:
        found: The estimates.
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        console: Where it goes.
        run: The run directory.
        md: The frames that they were compared with.
    """
    rows = _free_energies(found, trained)
    if found.best and found.best.shown:
        rows += [(f"  {term_name(name)}", f"{term:.5f} kT") for name, term in found.best.shown.terms.items()]
    rows += _in_script_units(found, problem)
    units = problem.units.labels
    console.say("")
    console.table(f"Helmholtz free energy per atom at T = {problem.temperature:g} {units.temperature} ({ERRORS})", rows)
    console.say(f"           Lambda = {problem.length_scale:.6g} {units.length} ({problem.length_source})")
    weights = found.weights
    largest = f", largest weight {weights.max_share:.2%}" if weights.ess > 0 else ", all of weight zero"
    console.say(f"           ESS {weights.ess_fraction:.1%} of {weights.n} samples{largest}")
    if (compared := found.comparison) and md:
        console.say(
            f"           {compared.n_independent} independent MD frames of {md.name}, overlap with the flow {compared.overlap:.2f}; "
            f"z against {ESTIMATORS[compared.against].name}"
        )
    verdict = found.verdict
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")


def _free_energies(found: Estimates, trained: Trained) -> list[tuple[str, ...]]:
    """Rows of the summary for the estimates, with z where there is MD to compare with."""
    rows = list[tuple[str, ...]]()
    for name, estimator in ESTIMATORS.items():
        if name not in found.values:
            continue
        shown = found.values[name].shown
        text = NOT_RELIABLE if shown is None else with_error(shown.value, shown.error, "kT")
        z = found.comparison.shown_z(name) if found.comparison else None
        rows.append((f"beta F/N  {estimator.name}", text, *([f"z = {z:+.1f}"] if z is not None else [])))
    bound, error = _bounds(found, trained)[-1]
    text = "none, energies were infinite" if bound is None else with_error(bound, error, "kT")
    return [*rows, ("beta F/N  upper bound of the base alone", text)]


def _in_script_units(found: Estimates, problem: Problem) -> list[tuple[str, ...]]:
    """Rows of the summary for F and the mean potential energy in the script's energy unit."""
    rows, unit = list[tuple[str, ...]](), problem.units.labels.energy
    for name, estimator in ESTIMATORS.items():
        if estimator.leads and (estimate := found.values.get(name)) and (shown := estimate.shown):
            text = with_error(shown.value / problem.beta, shown.error / problem.beta, f"{unit} per atom")
            rows.append((f"F/N  {estimator.name}", text))
    for kind in ("flow", "reweighted", "exact", "md"):
        if (mean := found.observables.energies.get(kind)) is not None and math.isfinite(mean.value):
            rows.append((f"potential energy  {ENSEMBLES[kind]}", with_error(mean.value, mean.error, f"{unit} per atom")))
    return rows


def with_earlier(results: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Results of estimates made again, with the cost and the training of the command that drew the samples."""
    kept = {name: earlier[name] for name in ("cost", "training") if name in earlier}
    if "exact" in results and "cost" in earlier:  # chains go on from those of an earlier command
        more = results["exact"]["evaluations"] - earlier.get("exact", {}).get("evaluations", 0)
        kept["cost"] = {**earlier["cost"], "energy_evaluations": earlier["cost"]["energy_evaluations"] + more}
    return results | kept
