# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains behind a table of free energies over cells: when they are needed, and what is told of them."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.structure import Array
from lammps_bg.study.share import Share
from lammps_bg.study.threads import threads_for
from lammps_bg.thermo.chains import block_size
from lammps_bg.thermo.exact import ExactBudget
from lammps_bg.thermo.shared_states import SharedResult, SharedState, SharedStates
from lammps_bg.thermo.verdict import Verdict, combine, judge
from lammps_bg.thermo.weights import EstimateError, summarise

_REACHED = 1.2  # times the error asked for that counts as reached: errors have errors


@dataclass(frozen=True)
class CellChains:
    """What the chains of some cells came to.

    Attributes:
        result: Their numbers; None where the chains came to none.
        note: Why there are none, or none of some cells.
        reason: Why chains were run.
        target_error: The error asked for in each cell, kT per atom.
        states: The cells: T, parameters and cell variables.
        n_atoms: Number of atoms N.
        evaluations: Energies of all chains, and of their samples in all cells.
        seconds: Time.
    """

    result: SharedResult | None
    note: str
    reason: str
    target_error: float
    states: tuple[Mapping[str, float], ...]
    n_atoms: int
    evaluations: int
    seconds: float

    def verdict(self) -> Verdict:
        """What to think of the numbers."""
        if self.result is None:
            said = f"{self.note[:1].upper()}{self.note[1:]}."
            return Verdict("red", (said,), False, "Raise exact.max_seconds, or train longer or over a smaller range.")
        verdicts = [self.result.verdict]
        reached = float(self.result.errors.max()) / self.n_atoms
        if reached > _REACHED * self.target_error:
            said = f"The chains came to an error of {reached:.1e} kT per atom within their budget, {self.target_error:.1e} was asked for."
            verdicts.append(Verdict("amber", (said,), True, "Use the numbers with their errors, or raise exact.max_seconds."))
        return combine(verdicts)

    def entry(self) -> dict[str, Any]:
        """Entry of results.json."""
        known: dict[str, Any] = {
            "reason": self.reason, "target_error": self.target_error, "evaluations": self.evaluations, "seconds": self.seconds,
            "note": self.note,
        }  # fmt: skip
        if self.result is None:
            return known
        windows = [{"state": dict(self.states[s]), **asdict(summary)} for s, summary in self.result.windows[1:]]
        cells = zip(self.states, self.result.errors, self.result.coverage, strict=True)
        return {
            **known,
            "n_samples": sum(w["n_samples"] for w in windows),
            "acceptance": min(w["acceptance"] for w in windows),
            "r_hat": max(w["r_hat"] for w in windows),
            "windows": windows,
            "overlaps": self.result.ladder_overlaps.tolist(),
            "cells": [
                {"state": dict(state), "error": float(error) / self.n_atoms, "overlap": float(overlap)}
                for state, error, overlap in cells
            ],
        }

    def sentence(self) -> str:
        """The summary for the console."""
        if self.result is None:
            return f"chains     no numbers: {self.note}"
        sampled = len({state for state, window in self.result.windows[1:] if window.coupling == 1.0})
        return (
            f"chains     {sampled} of {len(self.states)} cells sampled, {len(self.result.windows)} windows, {self.evaluations} energies in "
            f"{self.seconds:.0f} s, error {float(self.result.errors.max()) / self.n_atoms:.1g} kT per atom"
        )


def why_chains(draws: Sequence[Array], mode: str) -> str | None:
    """Why chains are run for a table after the draws at its cells; None where they are not.

    Args:
        draws: Log-weights of the draws at each cell, -inf without a finite energy.
        mode: `exact.mode`.
    """
    if mode == "never":
        return None
    if mode == "always":
        return "asked for"
    if any(not np.isfinite(log_w).any() for log_w in draws):
        return "no draw of the flow has a weight at some cell"
    summaries = [summarise(log_w.ravel()) for log_w in draws]
    doubtful = [summary for summary in summaries if judge(summary).colour != "green"]
    if not doubtful:
        return None
    lowest = min(summary.ess_fraction for summary in doubtful)
    return f"the weights of the draws are not beyond doubt at {len(doubtful)} of {len(draws)} cells (lowest ESS {lowest:.2%})"


def run_chains(
    cells: Sequence[SharedState],
    states: Sequence[Mapping[str, float]],
    config: Config,
    seed: int,
    share: Share,
    *,
    anchor: int,
    reason: str,
) -> CellChains:
    """Run chains for some cells, on all ranks together.

    Args:
        cells: The cells with their draws.
        states: T, parameters and cell variables of each.
        config: The configuration.
        seed: Seed of the random numbers.
        share: Where to report; stops where a signal came.
        anchor: The cell to begin with.
        reason: Why.

    Raises:
        Interrupted: A signal came.
    """
    exact, target, n_atoms = config.exact, config.estimate.target_error, cells[0].latent.n_sites
    limits = f"{exact.max_seconds:.0f} s" + (f" and {exact.max_evaluations} energies" if exact.max_evaluations else "")
    share.say(f"chains     {reason}: until an error of {target:.1g} kT per atom at each cell, at most {limits}")
    shared = SharedStates(cells, anchor=anchor, n_chains=exact.chains, seed=seed)
    result, note, began = None, "", time.monotonic()
    budget = ExactBudget(target, exact.max_seconds, exact.max_evaluations or math.inf)
    with threads_for(n_atoms * block_size(n_atoms)):
        try:
            result = shared.run(budget, tick=lambda shared: share.beat(f"chains, {shared.evaluations} energies"))
        except EstimateError as error:
            note = str(error)
    seconds = parallel.agreed(time.monotonic() - began)
    found = CellChains(
        result, note or shared.note, reason, target, tuple(map(dict, states)), n_atoms, shared.evaluations, seconds
    )
    share.say(found.sentence())
    return found
