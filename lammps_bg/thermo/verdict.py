# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic light on an estimate: may its number be shown, why (not), and what to do next."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.weights import WeightSummary

Colour = Literal["green", "amber", "red"]
SEVERITY: dict[Colour, int] = {"green": 0, "amber": 1, "red": 2}

RED_ESS_FRACTION = 0.01
RED_ESS = 50.0
RED_Z = 3.0
AMBER_ESS_FRACTION = 0.10
AMBER_PARETO_K = 0.7
AMBER_MAX_SHARE = 0.05
AMBER_ZERO_FRACTION = 0.01

RELIABLE = "The number can be used with its error."
NOT_RELIABLE = "not reliable"


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
    """Verdict on a one-sided (perturbation) estimate from its weights.

    Args:
        summary: What the weights are worth.
    """
    findings = [*_too_few(summary), *_uneven(summary)]
    reliable = all(finding.colour != "red" for finding in findings)
    if not findings:
        share = f"{summary.ess_fraction:.1%} of {summary.n}"
        reason = f"There are {summary.ess:.0f} effective samples ({share}) and the tail index is {summary.pareto_k:.2f}."
        return Verdict("green", (reason,), True, RELIABLE)
    worst = max(findings, key=lambda finding: SEVERITY[finding.colour])
    return Verdict(worst.colour, tuple(finding.reason for finding in findings), reliable, worst.next_step)


def _too_few(summary: WeightSummary) -> list[_Finding]:
    """Findings on the effective sample size."""
    share = f"The effective sample size is {summary.ess_fraction:.2%} of {summary.n} samples"
    if summary.ess_fraction < RED_ESS_FRACTION:
        step = "Train longer, use the phonon base or a smaller cell, or join reference MD (BAR)."
        return [_Finding("red", f"{share}, below {RED_ESS_FRACTION:.0%}.", step)]
    if summary.ess < RED_ESS:
        needed = math.ceil(1.2 * RED_ESS / summary.ess_fraction)
        reason = f"There are {summary.ess:.1f} effective samples, fewer than {RED_ESS:.0f}."
        return [_Finding("red", reason, f"Draw at least {needed} samples.")]
    if summary.ess_fraction < AMBER_ESS_FRACTION:
        step = "Train longer, or check the number against BAR with reference MD."
        return [_Finding("amber", f"{share}, below {AMBER_ESS_FRACTION:.0%}.", step)]
    return []


def _uneven(summary: WeightSummary) -> list[_Finding]:
    """Findings on the tail, the largest weight and the weights of zero."""
    findings = []
    if summary.pareto_k > AMBER_PARETO_K:
        reason = f"The tail index of the weights is {summary.pareto_k:.2f}, above {AMBER_PARETO_K}: the error may be understated."
        findings.append(_Finding("amber", reason, "Train longer, or check the number against BAR with reference MD."))
    if summary.max_share > AMBER_MAX_SHARE:
        reason = f"One sample carries {summary.max_share:.1%} of the weight, above {AMBER_MAX_SHARE:.0%}."
        findings.append(_Finding("amber", reason, "Draw more samples."))
    if summary.zero_fraction > AMBER_ZERO_FRACTION:
        reason = f"{summary.n_zero} of {summary.n} samples ({summary.zero_fraction:.1%}) have no finite energy and weight zero."
        findings.append(_Finding("amber", reason, "Narrow the base or train longer; look at the closest pairs of atoms."))
    return findings


def z_score(first: EstimateResult, second: EstimateResult) -> float:
    """Difference of two independent estimates of one number in units of their joint standard error.

    Args:
        first: One estimate.
        second: The other.
    """
    return (first.value - second.value) / math.hypot(first.error, second.error)


def judge_agreement(first: EstimateResult, second: EstimateResult, names: tuple[str, str]) -> Verdict:
    """Verdict on two estimates of one number; red where they differ by more than three standard errors.

    Args:
        first: One estimate.
        second: The other.
        names: How to call them in the sentence.
    """
    z = z_score(first, second)
    reason = f"{names[0]} and {names[1]} differ by {abs(z):.1f} standard errors."
    if abs(z) > RED_Z:
        step = "Trust neither number: look at the weights, the convergence and whether the MD stayed in this crystal."
        return Verdict("red", (reason,), False, step)
    return Verdict("green", (reason,), True, RELIABLE)


def reported(result: EstimateResult, verdict: Verdict) -> dict[str, object]:
    """The estimate for a JSON file: as it is, or without its numbers (null) and marked "not reliable".

    Args:
        result: The estimate.
        verdict: What to think of it.
    """
    if verdict.reliable:
        return result.to_dict()
    terms = dict.fromkeys(result.terms)
    return {"value": None, "error": None, "interval": None, "n": result.n, "terms": terms, "note": NOT_RELIABLE}


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst colour with all its reasons; reliable only where all are.

    Args:
        verdicts: At least one verdict.
    """
    given = list(verdicts)
    worst = max(given, key=lambda verdict: SEVERITY[verdict.colour])
    shown = [verdict for verdict in given if verdict.colour != "green"] or given
    reasons = tuple(reason for verdict in shown for reason in verdict.reasons)
    return Verdict(worst.colour, reasons, all(verdict.reliable for verdict in given), worst.next_step)
