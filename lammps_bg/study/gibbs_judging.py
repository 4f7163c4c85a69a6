# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts on Gibbs free energies: the weights in every cell, the polynomial, fresh samples, the trained range, and MD."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.study.cell_chains import CellChains
from lammps_bg.study.gibbs_state import GibbsState
from lammps_bg.study.helmholtz import CellSamples, HelmholtzTable
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.verdict import RED_Z, RELIABLE, Verdict, combine

_FEWEST_ESS, _LOW_ESS = 50.0, 0.01  # effective samples at a cell, all repeats together; and their share
_MISFIT, _SMALL = 4.0, 1e-4  # of a polynomial's residual: times its noise, and kT per atom below which it does not matter
_EDGE = 0.01


def judge_tables(tables: Sequence[HelmholtzTable], n_samples: int, name: str = "") -> Verdict:
    """Whether the numbers of every cell are worth something: by the worst of all weights, or by the chains where there are any.

    Args:
        tables: F over cells in each state.
        n_samples: Samples at each cell, all repeats together.
        name: Of the crystal, where there are several.
    """
    drawn = [table for table in tables if table.chains is None]
    verdicts = [judge_weights(drawn, n_samples, name)] if drawn else []
    return combine([*verdicts, *(chains.verdict() for chains in chains_of(tables))])


def chains_of(tables: Iterable[HelmholtzTable | CellSamples]) -> list[CellChains]:
    """The chains of some tables or cells, each once.

    Args:
        tables: The tables or cells.
    """
    return list({id(table.chains): table.chains for table in tables if table.chains is not None}.values())


def chains_entry(tables: Iterable[HelmholtzTable], checks: Iterable[CellSamples] = ()) -> dict[str, Any]:
    """Entry `exact` of results.json; nothing where no chains were run.

    Args:
        tables: F over cells.
        checks: Samples at the cells that were found.
    """
    sets = [("table", chains) for chains in chains_of(tables)] + [("check", chains) for chains in chains_of(checks)]
    if not sets:
        return {}
    entries = [{"of": of, **chains.entry()} for of, chains in sets]
    return {"exact": {"evaluations": sum(entry["evaluations"] for entry in entries), "chains": entries}}


def judge_weights(tables: Sequence[HelmholtzTable], n_samples: int, name: str = "") -> Verdict:
    """Whether the weights of the draws in every cell are worth something, by the worst of all.

    Args:
        tables: F over cells in each state.
        n_samples: Samples at each cell, all repeats together.
        name: Of the crystal, where there are several.
    """
    table = min(tables, key=lambda table: float(table.ess.min()))
    worst = int(np.argmin(table.ess))
    ess, place = float(table.ess[worst]), {**table.values, **dict(zip(table.names, table.x[worst], strict=True))}
    where = ", ".join(f"{name} = {value:.4g}" for name, value in place.items())
    said = f"The lowest ESS over the cells{name and ' of '}{name} is {ess:.1%} of {n_samples} (at {where})."
    if ess < _LOW_ESS or ess * n_samples < _FEWEST_ESS:
        return Verdict("red", (said,), False, "Train longer, over a smaller range, or draw more with gibbs.n_samples.")
    if ess < 10 * _LOW_ESS:
        return Verdict("amber", (said,), True, "Look at the errors and at the check at the cell that was found.")
    return Verdict("green", (said,), True, RELIABLE)


def judge_checks(found: Sequence[GibbsState], problem: Problem) -> Verdict:
    """Whether fresh samples at each cell give the polynomial's F and, by their virial, the pressure that was asked for.

    Red beyond `limit_of` as many tests.

    Args:
        found: All states and pressures.
        problem: Units.
    """

    def size(state: GibbsState) -> float:
        z = np.abs(state.scores(problem.units.nktv2p))
        return float(np.nan_to_num(z, nan=np.inf).max())

    state = max(found, key=size)
    free, pressure = state.scores(problem.units.nktv2p)
    limit = limit_of(len(state.check.free_energy) - 1, 2 * len(found))
    where = ", ".join(f"{name} = {value:g}" for name, value in state.table.values.items())
    said = (
        f"Fresh samples at the cells that were found differ most by {free:+.1f} (F) and {pressure:+.1f} (virial pressure) standard "
        f"errors, at {where}, P = {describe_pressure(state.pressure, problem.units)}."
    )
    if not size(state) <= limit:
        return Verdict("red", (said,), False, "Use more volumes (gibbs.n_volumes), a smaller trained range, or more samples.")
    return Verdict("green", (said,), True, RELIABLE)


def limit_of(freedom: float, n_tests: int) -> float:
    """Standard errors beyond which the worst of several tests is as unlikely as three are for one normal number.

    Args:
        freedom: Degrees of freedom of the error: few repeats know it badly (Student).
        n_tests: Number of tests (Bonferroni).
    """
    return float(-stdtrit(freedom, ndtr(-RED_Z) / max(1, n_tests)))


def judge_surfaces(tables: Sequence[HelmholtzTable], name: str = "") -> list[Verdict]:
    """Amber where the polynomial misses F at the cells by much more than its noise.

    Args:
        tables: F over cells in each state.
        name: Of the crystal, where there are several.
    """
    table = max(tables, key=lambda table: table.surface.rms_residual / table.surface.rms_noise)
    ratio, missed = table.surface.rms_residual / table.surface.rms_noise, table.surface.rms_residual / (table.n_atoms * table.kt)
    if ratio <= _MISFIT or missed < _SMALL:
        return []
    said = (
        f"The polynomial{name and ' of '}{name} misses F at the cells by {missed:.2g} kT per atom, {ratio:.0f} times its noise."
    )
    return [Verdict("amber", (said,), True, "Use a smaller trained range, or more volumes (gibbs.n_volumes).")]


def judge_edges(found: Sequence[GibbsState]) -> list[Verdict]:
    """Amber where volumes at the edge of the trained range are likely, so that the mean volume is cut off.

    Args:
        found: All states and pressures.
    """
    state = max(found, key=lambda state: state.point.edge_probability)
    if state.point.edge_probability <= _EDGE:
        return []
    said = (
        f"At P = {state.pressure:g} a volume at the edge of the trained range has a probability of {state.point.edge_probability:.1%}, so "
        "that mean volume and fluctuations are cut off."
    )
    return [
        Verdict("amber", (said,), True, "Train over a wider range of volumes; G and the volume at the minimum do not suffer.")
    ]


def judge_comparison(row: Mapping[str, Any], n_rows: int) -> Verdict:
    """Whether flow and MD agree.

    Args:
        row: Of `compare_with_md`.
        n_rows: How many there are.
    """
    said = f"{row['quantity']} differs from MD ({row['md_run']}) by {row['z']:+.1f} standard errors."
    if not abs(row["z"]) <= limit_of(row["degrees_of_freedom"], n_rows):
        return Verdict("red", (said,), False, "Train longer, or make the MD longer, and look at both.")
    return Verdict("green", (said,), True, RELIABLE)
