# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic light on an estimate: may its number be shown, why (not), and what to do next."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from lammps_bg.results import NOT_RELIABLE
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.weights import HILL_SHARE, ONE_SIDED_95, WeightSummary

Colour = Literal["green", "amber", "red"]
SEVERITY: dict[Colour, int] = {"green": 0, "amber": 1, "red": 2}

RED_ESS_FRACTION = 0.01
RED_ESS = 50.0
RED_TAIL = 0.6
RED_Z = 3.0
RED_OVERLAP = 0.06
"""Twice the 0.03 below which an entry between neighbours of the MBAR overlap matrix calls for more states (Klimovich, Shirts and
Mobley, J. Comput.-Aided Mol. Des. 29, 397, 2015): for two equally sampled states the entry is half of this overlap."""
AMBER_ESS_FRACTION = 0.10
AMBER_ESS = 200.0
AMBER_TAIL = 0.5
"""From a tail index of 1/2 on the variance of the weights is infinite, and no error follows from the samples. Both measures of it are
held against this: the shape of the generalised Pareto distribution, which sees a few heavy weights on a light bulk, and the upper 95 %
limit of Hill's index, which a sample without its largest weights does not deceive. `tests/physics/test_coverage.py` measures what the
colours are worth with these thresholds."""
AMBER_MAX_SHARE = 0.05
AMBER_ZERO_FRACTION = 0.01

RELIABLE = "The number can be used with its error."
CHAINS = "Use --exact auto: chains sample exactly where the flow's weights do not suffice."
LOWEST_CELL_ESS, LOWEST_CELL_FRACTION = 50.0, 0.01  # effective samples at a cell, all repeats together; and their share
MISFIT, SMALL_MISFIT = 4.0, 1e-4  # of a polynomial's residual: times its noise, and kT per atom below which it does not matter
EDGE_PROBABILITY = 0.01
MOST_SAMPLES = 100_000
"""More than this are not recommended: chains are cheaper."""


@dataclass(frozen=True)
class Verdict:
    """What to think of an estimate.

    Attributes:
        colour: `green`, `amber` (look before you use it) or `red`.
        reasons: One sentence each.
        reliable: False where the number is to be withheld ("not reliable").
        next_step: One sentence: what to do now.
    """

    colour: Colour
    reasons: tuple[str, ...]
    reliable: bool
    next_step: str

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        return {"colour": self.colour, "reasons": list(self.reasons), "reliable": self.reliable, "next_step": self.next_step}


@dataclass(frozen=True)
class _Finding:
    colour: Colour
    reason: str
    next_step: str


def judge(summary: WeightSummary) -> Verdict:
    """Verdict on a one-sided (perturbation) estimate from its weights."""
    findings = [*_tail(summary), *_too_few(summary), *_uneven(summary)]
    reliable = all(finding.colour != "red" for finding in findings)
    if not findings:
        share = f"{summary.ess_fraction:.1%} of {summary.n}"
        reason = f"There are {summary.ess:.0f} effective samples ({share}) and the tail index is {summary.pareto_k:.2f}."
        return Verdict("green", (reason,), True, RELIABLE)
    worst = max(findings, key=lambda finding: SEVERITY[finding.colour])
    return Verdict(worst.colour, tuple(finding.reason for finding in findings), reliable, worst.next_step)


def _tail(summary: WeightSummary) -> list[_Finding]:
    """Findings on how heavy the tail of the weights may be."""
    heaviest = float(np.fmax(summary.pareto_k, summary.hill_limit))
    if not heaviest >= AMBER_TAIL:
        return []
    colour: Colour = "red" if heaviest >= RED_TAIL else "amber"
    if math.isinf(heaviest):
        reason = f"The tail index of the weights cannot be told from {summary.n} samples."
    else:
        limit = RED_TAIL if colour == "red" else AMBER_TAIL
        reason = f"The tail index of the weights may be {heaviest:.2f}, above {limit}: their error may be understated."
    needed = _enough_for_tail(summary)
    step = f"Draw at least {needed} samples, or use --exact auto: chains sample exactly." if needed <= MOST_SAMPLES else CHAINS
    return [_Finding(colour, reason, step)]


def _enough_for_tail(summary: WeightSummary) -> float:
    """Samples at which the upper limit of Hill's index, if that stays, is below the threshold; inf where none are enough."""
    if summary.pareto_k >= AMBER_TAIL and math.isfinite(summary.pareto_k):
        return math.inf
    if math.isinf(summary.hill) or math.isinf(summary.pareto_k):
        return math.ceil(2.0 * AMBER_ESS)
    if not summary.hill < AMBER_TAIL:
        return math.inf
    return math.ceil(1.2 / HILL_SHARE * (ONE_SIDED_95 * summary.hill / (AMBER_TAIL - summary.hill)) ** 2)


def _too_few(summary: WeightSummary) -> list[_Finding]:
    """Findings on the effective sample size."""
    share = f"The effective sample size is {summary.ess_fraction:.2%} of {summary.n} samples"
    if summary.ess_fraction < RED_ESS_FRACTION:
        return [_Finding("red", f"{share}, below {RED_ESS_FRACTION:.0%}.", CHAINS)]
    if summary.ess < AMBER_ESS:
        colour: Colour = "red" if summary.ess < RED_ESS else "amber"
        fewest = RED_ESS if colour == "red" else AMBER_ESS
        reason = f"There are {summary.ess:.1f} effective samples, fewer than {fewest:.0f}."
        needed = math.ceil(1.2 * AMBER_ESS / summary.ess_fraction)
        return [_Finding(colour, reason, f"Draw at least {needed} samples, or use --exact auto: chains sample exactly.")]
    if summary.ess_fraction < AMBER_ESS_FRACTION:
        return [_Finding("amber", f"{share}, below {AMBER_ESS_FRACTION:.0%}.", CHAINS)]
    return []


def _uneven(summary: WeightSummary) -> list[_Finding]:
    """Findings on the largest weight and the weights of zero."""
    findings = []
    if summary.max_share > AMBER_MAX_SHARE:
        reason = f"One sample carries {summary.max_share:.1%} of the weight, above {AMBER_MAX_SHARE:.0%}."
        findings.append(_Finding("amber", reason, CHAINS))
    if summary.zero_fraction > AMBER_ZERO_FRACTION:
        reason = f"{summary.n_zero} of {summary.n} samples ({summary.zero_fraction:.1%}) have no finite energy and weight zero."
        findings.append(_Finding("amber", reason, "Narrow the base or train longer; look at the closest pairs of atoms."))
    return findings


def z_score(first: EstimateResult, second: EstimateResult) -> float:
    """Difference of two independent estimates of one number in units of their joint standard error."""
    return (first.value - second.value) / math.hypot(first.error, second.error)


def paired_z(
    first: EstimateResult, second: EstimateResult, first_replicas: NDArray[np.float64], second_replicas: NDArray[np.float64]
) -> float:
    """As `z_score` for estimates that share samples: the error of the difference is its spread over joint replicas.

    Args:
        first: One estimate.
        second: The other.
        first_replicas: The first estimate in bootstrap replicas, shape [b].
        second_replicas: The second in the same replicas, that is with the shared samples resampled alike, shape [b].
    """
    spread = float(np.std(first_replicas - second_replicas, ddof=1))
    # Equal estimates differ by rounding alone, which is no sign of anything
    rounding = float(np.finfo(np.float64).eps) * max(1.0, abs(first.value)) * 16.0
    return (first.value - second.value) / max(spread, rounding)


def judge_overlap(overlap: float, names: tuple[str, str]) -> Verdict:
    """Verdict on an estimate that joins two sets of samples; red where these overlap too little.

    Args:
        overlap: Overlap of the two densities as `two_sided.overlap` defines it.
        names: How to call the two in the sentence.
    """
    reason = f"{names[0]} and {names[1]} overlap by {overlap:.2g}"
    # not (>=): an overlap of nan is red as well
    if not overlap >= RED_OVERLAP:
        step = "Train longer, or bring the two closer (more windows, the same state)."
        return Verdict("red", (f"{reason}, below {RED_OVERLAP}.",), False, step)
    return Verdict("green", (f"{reason}.",), True, RELIABLE)


def judge_agreement(first: EstimateResult, second: EstimateResult, names: tuple[str, str], *, z: float | None = None) -> Verdict:
    """Verdict on two estimates of one number; red where they differ by more than three standard errors.

    Args:
        first: One estimate.
        second: The other.
        names: How to call them in the sentence.
        z: Their difference in joint standard errors where they share samples (`paired_z`).
    """
    z = z_score(first, second) if z is None else z
    reason = f"{names[0]} and {names[1]} differ by {abs(z):.1f} standard errors."
    if abs(z) > RED_Z:
        step = "Trust neither number: look at the weights, the convergence and whether the MD stayed in this crystal."
        return Verdict("red", (reason,), False, step)
    return Verdict("green", (reason,), True, RELIABLE)


def limit_of(freedom: float, n_tests: int) -> float:
    """Standard errors beyond which the worst of several tests is as unlikely as three are for one normal number.

    Args:
        freedom: Degrees of freedom of the error: few repeats know it badly (Student).
        n_tests: Number of tests (Bonferroni).
    """
    return float(-stdtrit(freedom, ndtr(-RED_Z) / max(1, n_tests)))


def judge_lowest_ess(ess: float, n_samples: int, where: str, name: str = "") -> Verdict:
    """Verdict on free energies over cells from their draws.

    Args:
        ess: Effective sample size in the worst cell, as a fraction.
        n_samples: Samples in each cell.
        where: The worst cell.
        name: Of the crystal, where there are several.
    """
    said = f"The lowest ESS over the cells{name and ' of '}{name} is {ess:.1%} of {n_samples} (at {where})."
    if ess < LOWEST_CELL_FRACTION or ess * n_samples < LOWEST_CELL_ESS:
        return Verdict("red", (said,), False, "Train longer, over a smaller range, or draw more with gibbs.n_samples.")
    if ess < 10 * LOWEST_CELL_FRACTION:
        return Verdict("amber", (said,), True, "Look at the errors and at the check at the cell that was found.")
    return Verdict("green", (said,), True, RELIABLE)


def judge_polynomial(missed: float, ratio: float, name: str = "") -> list[Verdict]:
    """Amber where a polynomial misses F at the cells by much more than its noise.

    Args:
        missed: Root mean square by which it does, kT per atom.
        ratio: That in units of its noise.
        name: Of the crystal, where there are several.
    """
    if ratio <= MISFIT or missed < SMALL_MISFIT:
        return []
    said = (
        f"The polynomial{name and ' of '}{name} misses F at the cells by {missed:.2g} kT per atom, {ratio:.0f} times its noise."
    )
    return [Verdict("amber", (said,), True, "Use a smaller trained range, or more volumes (gibbs.n_volumes).")]


def judge_fresh_samples(free_energy: float, pressure: float, limit: float, where: str) -> Verdict:
    """Whether fresh samples at a cell give the polynomial's F and, by their virial, the pressure that was asked for.

    Args:
        free_energy: Difference of F in its standard error.
        pressure: That of the pressure.
        limit: See `limit_of`.
        where: State and pressure of the largest difference.
    """
    said = (
        f"Fresh samples at the cells that were found differ most by {free_energy:+.1f} (F) and {pressure:+.1f} (virial pressure) standard "
        f"errors, at {where}."
    )
    if not max(abs(free_energy), abs(pressure)) <= limit or math.isnan(free_energy) or math.isnan(pressure):
        return Verdict("red", (said,), False, "Use more volumes (gibbs.n_volumes), a smaller trained range, or more samples.")
    return Verdict("green", (said,), True, RELIABLE)


def judge_edge(probability: float, pressure: float) -> list[Verdict]:
    """Amber where volumes at the edge of the trained range are likely, so that the mean volume is cut off.

    Args:
        probability: Of such a volume.
        pressure: Pressure units of the script.
    """
    if probability <= EDGE_PROBABILITY:
        return []
    said = (
        f"At P = {pressure:g} a volume at the edge of the trained range has a probability of {probability:.1%}, so "
        "that mean volume and fluctuations are cut off."
    )
    return [
        Verdict("amber", (said,), True, "Train over a wider range of volumes; G and the volume at the minimum do not suffer.")
    ]


def judge_beside_md(quantity: str, md_run: str, z: float, limit: float) -> Verdict:
    """Whether flow and MD agree."""
    said = f"{quantity} differs from MD ({md_run}) by {z:+.1f} standard errors."
    if not abs(z) <= limit:
        return Verdict("red", (said,), False, "Train longer, or make the MD longer, and look at both.")
    return Verdict("green", (said,), True, RELIABLE)


def reported(result: EstimateResult, verdict: Verdict) -> dict[str, object]:
    """The estimate for a JSON file: as it is, or without its numbers (null) and marked "not reliable"."""
    if verdict.reliable:
        return result.to_dict()
    terms = dict.fromkeys(result.terms)
    return {"value": None, "error": None, "interval": None, "n": result.n, "terms": terms, "note": NOT_RELIABLE}


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst colour with all its reasons; reliable only where all are."""
    given = list(verdicts)
    worst = max(given, key=lambda verdict: SEVERITY[verdict.colour])
    shown = [verdict for verdict in given if verdict.colour != "green"] or given
    reasons = tuple(reason for verdict in shown for reason in verdict.reasons)
    return Verdict(worst.colour, reasons, all(verdict.reliable for verdict in given), worst.next_step)
