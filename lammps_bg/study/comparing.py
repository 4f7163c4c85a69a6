# SPDX-License-Identifier: GPL-2.0-or-later
"""Flow and molecular dynamics against each other: perturbation from both sides, BAR, MBAR, and whether they agree.

Every estimate is -ln Z_u of the same integral. Those that share no samples are compared by their z-score; those that do, by the
spread of their difference over joint bootstrap replicas.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_bg.config import Config
from lammps_bg.results import ESTIMATORS
from lammps_bg.study.frenkel_ladd import Window, crystal_integral, join_windows, reduced_energies
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.problem import Problem
from lammps_bg.study.sampling import Samples
from lammps_bg.study.training import Trained
from lammps_bg.thermo.exact import ExactResult
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.multistate import N_BOOTSTRAPS, mbar
from lammps_bg.thermo.sampler import marginal_log_density, weigh_frames
from lammps_bg.thermo.springs import SpringCrystal
from lammps_bg.thermo.timeseries import decorrelate, evenly_spaced
from lammps_bg.thermo.two_sided import SMALLEST_OVERLAP, TwoSided, overlap, reverse_tfep, two_sided
from lammps_bg.thermo.verdict import RED_Z, Verdict, combine, judge, judge_agreement, judge_overlap, z_score
from lammps_bg.thermo.weights import summarise

Array = NDArray[np.float64]
_FEWEST = 50  # independent frames that a comparison needs
_JOINED = 200  # frames of each window but the crystal's in one MBAR with the flow
_SIDES = ("Flow", "MD")


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

    @property
    def is_settled(self) -> bool:
        """Whether the reference of the comparison is a number itself."""
        return self.against in self.verdicts and self.verdicts[self.against].reliable

    def shown_z(self, name: str) -> float | None:
        """Difference of an estimate from the reference of the comparison in standard errors; None where either is no number."""
        return self.z.get(name) if name in self.verdicts and self.verdicts[name].reliable and self.is_settled else None

    def add(self, name: str, result: EstimateResult, verdict: Verdict) -> None:
        """Add an estimate."""
        self.results[name], self.verdicts[name] = result, verdict


def compare(
    problem: Problem,
    trained: Trained,
    samples: Samples,
    reference: MDFrames,
    config: Config,
    *,
    marginal: Array | None = None,
    exact: ExactResult | None = None,
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
        exact: What chains came to; None without any.

    Raises:
        EstimateError: Too few independent frames.
    """
    target = problem.exact_target()
    states, log_w = weigh_frames(trained.generator, target, reference.displacements, reference.energies, seed=config.seed)
    picked = np.arange(len(log_w)) if reference.independent else decorrelate(log_w, minimum=_FEWEST).indices
    work = {"flow": samples.log_w, "md": log_w[picked]}
    shared = overlap(samples.log_w, log_w[picked])
    joint = judge_overlap(shared, _SIDES)
    found = Comparison({}, {}, {}, "bar", joint, shared, work, len(picked))
    if shared < SMALLEST_OVERLAP:
        found.add("tfep_reverse", reverse_tfep(log_w[picked], np.random.default_rng(config.seed)), joint)
        if exact is not None:
            found.add("exact", exact.difference, exact.verdict)
            found.verdict = exact.verdict
        return found
    both = two_sided(samples.log_w, log_w[picked], _sources(config), n_bootstraps=config.estimate.n_bootstraps)
    found.add("tfep", both.tfep, judge(summarise(samples.log_w)))
    found.add("tfep_reverse", both.tfep_reverse, judge(summarise(-log_w[picked])))
    found.add("bar", both.bar, joint)
    if reference.windows:
        _add_windows(found, problem, reference, config)
        _add_joined(found, problem, trained, samples, reference, config)
    if marginal is not None:
        frames = _marginal_frames(problem, trained, states[picked], reference.energies[picked], config)
        _add_marginal(found, marginal, frames, config)
    if exact is not None:
        found.add("exact", exact.difference, exact.verdict)
    found.against, found.z = _z_scores(found.results, both)
    found.verdict = _overall(found, joint)
    return found


def _sources(config: Config) -> tuple[np.random.Generator, np.random.Generator]:
    first, second = np.random.default_rng(config.seed).spawn(2)
    return first, second


def _add_windows(found: Comparison, problem: Problem, reference: MDFrames, config: Config) -> None:
    """-ln Z_u from the windows alone."""
    springs = reference.springs
    if springs is None:
        return
    n_bootstraps = min(config.estimate.n_bootstraps, N_BOOTSTRAPS)
    alone = join_windows(problem, springs, reference.windows, seed=config.seed, n_bootstraps=n_bootstraps)
    healthy = judge_overlap(float(alone.neighbour_overlaps.min()), ("Neighbouring windows", "each other"))
    found.add("mbar_windows", crystal_integral(problem, springs, alone), healthy)


def _add_joined(
    found: Comparison, problem: Problem, trained: Trained, samples: Samples, reference: MDFrames, config: Config
) -> None:
    """-ln Z_u from windows and flow samples in one MBAR.

    The windows far from the crystal say little about its distance from the flow: a few frames of each are enough, since the
    flow's density of a frame costs far more than its energies.
    """
    springs = reference.springs
    if springs is None:
        return
    windows = [*(window.thinned(_JOINED) for window in reference.windows[:-1]), reference.windows[-1]]
    target, static = problem.exact_target(), problem.beta * problem.surface.static_energy
    flow, log_w_flow, n_flow = _flow_window(springs, samples)
    log_w = [
        weigh_frames(trained.generator, target, window.displacements, window.energies, seed=config.seed + index)[1]
        for index, window in enumerate(windows)
    ]
    u_kn = reduced_energies(problem, springs, np.array([window.coupling for window in windows]), [*windows, flow])
    # the flow's reduced potential -log q, in the joint density of the auxiliary variables where there are some
    u_flow = u_kn[-1] + np.concatenate([*log_w, log_w_flow]) + static
    n_k = [*(len(window.energies) for window in windows), len(log_w_flow)]
    rngs = np.random.default_rng(config.seed).spawn(len(n_k))
    joined = mbar(np.vstack([u_kn, u_flow]), n_k, rngs, n_bootstraps=min(config.estimate.n_bootstraps, N_BOOTSTRAPS))
    # samples without a finite energy count in the flow's number
    shift = static + math.log(n_flow / len(log_w_flow))
    found.add("mbar", joined.difference(-1, len(windows) - 1).scaled(1.0, shift), found.verdicts["bar"])


def _flow_window(springs: SpringCrystal, samples: Samples) -> tuple[Window, Array, int]:
    """Flow samples as a window, their log-weights, and their number with those that have no finite energy."""
    n = len(samples.displacements)
    finite = np.isfinite(samples.log_w[:n])
    displacements, energies = samples.displacements[finite], samples.energies[:n][finite]
    return Window(1.0, springs.energies(displacements), energies, displacements, n, 1.0), samples.log_w[:n][finite], n


def _add_marginal(found: Comparison, flow: Array, frames: Array, config: Config) -> None:
    """TFEP and BAR in the density of the physical coordinates alone."""
    if overlap(flow, frames) < SMALLEST_OVERLAP:
        return
    alone = two_sided(flow, frames, _sources(config), n_bootstraps=config.estimate.n_bootstraps)
    found.add("tfep_marginal", alone.tfep, judge(summarise(flow)))
    found.add("bar_marginal", alone.bar, judge_overlap(alone.overlap, _SIDES))


def _marginal_frames(problem: Problem, trained: Trained, states: Array, energies: Array, config: Config) -> Array:
    """Log-weights of frames, spread over the trajectory, in the density of the physical coordinates alone, shape [m]."""
    spread = evenly_spaced(len(states), config.estimate.marginal_samples)
    log_q = marginal_log_density(trained.generator, states[spread], config.estimate.marginal_draws, seed=config.seed + 1)
    return np.asarray(-problem.beta * energies[spread] - log_q)


def _z_scores(results: Mapping[str, EstimateResult], both: TwoSided) -> tuple[str, dict[str, float]]:
    """Difference z of each estimate against the windows, which know nothing of the flow, or else against BAR.

    BAR and the windows share MD frames; taking them for independent overstates the error of their difference.
    """
    if "mbar_windows" in results:
        against = "mbar_windows"
        z = {name: z_score(result, results[against]) for name, result in results.items() if name not in (against, "mbar")}
        return against, z
    z = {"tfep": both.z("tfep", "bar"), "tfep_reverse": both.z("tfep_reverse", "bar")}
    if "exact" in results:
        z["exact"] = z_score(results["exact"], results["bar"])
    return "bar", z


def _overall(found: Comparison, joint: Verdict) -> Verdict:
    """Red without overlap, or where a reliable estimate is more than three standard errors away from the reference.

    Where all agree, the one that is furthest away is named.
    """
    # a perturbation estimate with too few effective samples is withheld, and says nothing against the others
    z = {name: value for name, value in found.z.items() if found.verdicts[name].reliable}
    if "exact" in found.results:  # chains need no overlap of flow and MD; without one there is nothing to compare them with
        joint = found.verdicts["exact"]
        z = z if found.is_settled else {}
    apart = {name: value for name, value in z.items() if abs(value) > RED_Z}
    shown = apart or dict(sorted(z.items(), key=lambda item: -abs(item[1]))[:1])
    verdicts = [joint]
    for name, value in shown.items():
        names = (ESTIMATORS[name].name, ESTIMATORS[found.against].name)
        verdicts.append(judge_agreement(found.results[name], found.results[found.against], names, z=value))
    return combine(verdicts)


def judge_energies(energies: Mapping[str, EstimateResult]) -> list[Verdict]:
    """Whether MD and reweighted flow have the same mean energy; nothing where one of them is not known.

    Frames of another temperature hardly change the free energy that a good flow has with them, but their energies tell.

    Args:
        energies: Mean potential energies by their source.
    """
    ours = next((name for name in ("exact", "reweighted") if name in energies), None)
    if ours is None or "md" not in energies:
        return []
    whose = "of the chains" if ours == "exact" else "of the flow"
    return [judge_agreement(energies[ours], energies["md"], (f"Mean potential energies {whose}", "of the MD"))]
