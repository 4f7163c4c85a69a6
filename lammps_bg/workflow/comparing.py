# SPDX-License-Identifier: GPL-2.0-or-later
"""Flow and molecular dynamics against each other: perturbation from both sides, BAR, MBAR, and whether they agree.

Every estimate is -ln Z_u of the same integral. Those that share no samples are compared by their z-score; those that do, by the
spread of their difference over joint bootstrap replicas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg.config import Config
from lammps_bg.thermo.free_energy import CrystalReference, EstimateResult, absolute_from_difference
from lammps_bg.thermo.multistate import mbar
from lammps_bg.thermo.sampler import marginal_log_density, weigh_frames
from lammps_bg.thermo.timeseries import decorrelate
from lammps_bg.thermo.two_sided import TwoSided, two_sided
from lammps_bg.thermo.verdict import RED_Z, RELIABLE, Verdict, combine, judge, judge_overlap, z_score
from lammps_bg.thermo.weights import summarise
from lammps_bg.training.target import ExactTarget
from lammps_bg.workflow.entries import estimate_entry
from lammps_bg.workflow.md_frames import Reference
from lammps_bg.workflow.md_windows import Window, reduced_energies
from lammps_bg.workflow.problem import Problem
from lammps_bg.workflow.sampling import Samples
from lammps_bg.workflow.training import Trained

Array = NDArray[np.float64]
_FEWEST = 50  # independent frames that a comparison needs
COMPARED = {
    "tfep": "TFEP, flow",
    "tfep_reverse": "TFEP, MD to flow",
    "bar": "BAR, flow and MD",
    "mbar_windows": "MBAR, MD windows",
    "mbar": "MBAR, flow and windows",
    "tfep_marginal": "TFEP, marginal density",
    "bar_marginal": "BAR, marginal density",
}
"""Estimators by the name they have in results.json."""


@dataclass
class Comparison:
    """Estimates of flow and MD.

    Attributes:
        results: -ln Z_u by name of the estimator.
        verdicts: What to think of each by itself, same names.
        z: Difference of each from the reference of the comparison in standard errors, same names, without the reference.
        against: Name of that reference.
        verdict: On all together.
        overlap: Of flow and MD.
        work: Log-weights of flow samples and of independent MD frames.
        n_independent: Of the MD frames.
    """

    results: dict[str, EstimateResult]
    verdicts: dict[str, Verdict]
    z: dict[str, float]
    against: str
    verdict: Verdict
    overlap: float
    work: dict[str, Array]
    n_independent: int


def compare(
    problem: Problem, trained: Trained, samples: Samples, reference: Reference, config: Config, *, marginal: Array | None = None
) -> Comparison:
    """Estimate from flow samples and MD frames together.

    Args:
        problem: Crystal and temperature.
        trained: The generator that drew the samples.
        samples: The samples, with the states of all of them where there are windows.
        reference: The frames.
        config: The configuration.
        marginal: Log-weights of the first samples in the density of the physical coordinates alone, shape [m]; None for flows
            without auxiliary variables.

    Raises:
        EstimateError: Too few independent frames, or flow and MD have nothing in common.
    """
    target = ExactTarget(problem.surface, problem.beta)
    states, log_w = weigh_frames(trained.generator, target, reference.displacements, reference.energies, seed=config.seed)
    picked = decorrelate(log_w, minimum=_FEWEST).indices
    both = two_sided(samples.log_w, log_w[picked], _sources(config), n_bootstraps=config.estimate.n_bootstraps)
    results = {"tfep": both.tfep, "tfep_reverse": both.tfep_reverse, "bar": both.bar}
    if reference.windows and reference.springs is not None:
        results |= _with_windows(problem, trained, samples, reference, config)
    overlap = judge_overlap(both.overlap, ("Flow", "MD"))
    verdicts = {
        "tfep": judge(summarise(samples.log_w)),
        "tfep_reverse": judge(summarise(-log_w[picked])),
        **dict.fromkeys([name for name in results if name not in ("tfep", "tfep_reverse")], overlap),
    }
    if marginal is not None:
        frames = _marginal_frames(problem, trained, states[picked], reference.energies[picked], config)
        alone = two_sided(marginal, frames, _sources(config), n_bootstraps=config.estimate.n_bootstraps)
        results |= {"tfep_marginal": alone.tfep, "bar_marginal": alone.bar}
        verdicts["tfep_marginal"] = judge(summarise(marginal))
        verdicts["bar_marginal"] = judge_overlap(alone.overlap, ("Flow", "MD"))
    against, z = _z_scores(results, verdicts, both)
    work = {"flow": samples.log_w, "md": log_w[picked]}
    verdict = _overall(results, verdicts, overlap, z, against)
    return Comparison(results, verdicts, z, against, verdict, both.overlap, work, len(picked))


def _sources(config: Config) -> tuple[np.random.Generator, np.random.Generator]:
    first, second = np.random.default_rng(config.seed).spawn(2)
    return first, second


def _with_windows(
    problem: Problem, trained: Trained, samples: Samples, reference: Reference, config: Config
) -> dict[str, EstimateResult]:
    """-ln Z_u from the windows alone, and from windows and flow samples in one MBAR."""
    springs, windows = reference.springs, list(reference.windows)
    if springs is None:
        return {}
    target, static = ExactTarget(problem.surface, problem.beta), problem.beta * problem.surface.static_energy
    n_flow = min(len(samples.displacements), len(samples.log_w))
    finite = np.isfinite(samples.log_w[:n_flow])
    displacements, energies = samples.displacements[:n_flow][finite], samples.energies[:n_flow][finite]
    flow = Window(1.0, springs.energies(displacements), energies, displacements, n_flow, 1.0)
    log_w = [
        weigh_frames(trained.generator, target, window.displacements, window.energies, seed=config.seed + index)[1]
        for index, window in enumerate(windows)
    ]
    couplings = np.array([window.coupling for window in windows])
    u_kn = reduced_energies(problem, springs, couplings, [*windows, flow])
    crystal = u_kn[-1]
    # the flow's reduced potential -log q, in the joint density of the auxiliary variables where there are some
    u_flow = crystal + np.concatenate([*log_w, samples.log_w[:n_flow][finite]]) + static
    n_k = [len(window.energies) for window in windows]
    options = {"n_bootstraps": config.estimate.n_bootstraps}
    n_md = sum(n_k)
    alone = mbar(u_kn[:, :n_md], n_k, np.random.default_rng(config.seed).spawn(len(n_k)), **options)
    joined = mbar(
        np.vstack([u_kn, u_flow]), [*n_k, int(finite.sum())], np.random.default_rng(config.seed).spawn(len(n_k) + 1), **options
    )
    # samples without a finite energy count in the flow's number
    missing = float(np.log(n_flow / finite.sum()))
    return {
        "mbar_windows": alone.difference(0, -1).scaled(1.0, static - springs.log_integral),
        "mbar": joined.difference(-1, len(n_k) - 1).scaled(1.0, static + missing),
    }


def _marginal_frames(problem: Problem, trained: Trained, states: Array, energies: Array, config: Config) -> Array:
    """Log-weights of frames, spread over the trajectory, in the density of the physical coordinates alone, shape [m]."""
    n = min(config.estimate.marginal_samples, len(states))
    spread = np.unique(np.linspace(0, len(states) - 1, n).round().astype(np.int64))
    log_q = marginal_log_density(trained.generator, states[spread], config.estimate.marginal_draws, seed=config.seed + 1)
    return np.asarray(-problem.beta * energies[spread] - log_q)


def _z_scores(
    results: Mapping[str, EstimateResult], verdicts: Mapping[str, Verdict], both: TwoSided
) -> tuple[str, dict[str, float]]:
    """Difference z of each estimate against the windows, which know nothing of the flow, or else against BAR.

    BAR and the windows share MD frames; taking them for independent overstates the error of their difference.
    """
    if "mbar_windows" in results:
        against = "mbar_windows"
        z = {name: z_score(result, results[against]) for name, result in results.items() if name not in (against, "mbar")}
        return against, z
    z = {"tfep": both.z("tfep", "bar"), "tfep_reverse": both.z("tfep_reverse", "bar")}
    return "bar", z


def _overall(
    results: Mapping[str, EstimateResult], verdicts: Mapping[str, Verdict], overlap: Verdict, z: Mapping[str, float], against: str
) -> Verdict:
    """Red without overlap, or where a reliable estimate is more than three standard errors away from the reference."""
    verdict = [overlap]
    for name, value in z.items():
        # a perturbation estimate with too few effective samples is withheld, and says nothing against the others
        if not verdicts[name].reliable:
            continue
        reason = f"{COMPARED[name]} and {COMPARED[against]} differ by {abs(value):.1f} standard errors."
        step = "Trust neither number: look at the weights, the convergence and whether the MD stayed in this crystal."
        agrees = abs(value) <= RED_Z
        verdict.append(Verdict("green" if agrees else "red", (reason,), agrees, RELIABLE if agrees else step))
    return combine(verdict)


def comparison_entries(
    found: Comparison, known: CrystalReference, reference: Reference, problem: Problem
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries `estimates` and `comparison` of results.json.

    Args:
        found: The estimates.
        known: What makes them absolute.
        reference: The frames.
        problem: Units and temperature.
    """
    estimates, rows = {}, []
    for name, result in found.results.items():
        absolute = absolute_from_difference(result, known)
        estimates[name] = estimate_entry(absolute, found.verdicts[name], problem)
        shown = estimates[name]["beta_F_per_atom"]
        z = found.z.get(name) if found.verdicts[name].reliable else None
        rows.append({"name": COMPARED[name], "key": name, "value": shown["value"], "error": shown["error"], "z": z})
    md = {"path": reference.path.name, "mode": reference.mode, "n_frames": reference.n_frames}
    entry = {
        "md": {**md, "n_independent": found.n_independent, "temperature": problem.temperature},
        "against": found.against,
        "rows": rows,
        "overlap": found.overlap,
        "work": {name: values.tolist() for name, values in found.work.items()},
    }
    return estimates, entry
