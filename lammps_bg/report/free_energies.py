# SPDX-License-Identifier: GPL-2.0-or-later
"""The free energies of a run, whoever estimated them: as numbers for the figures and as rows of text for the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lammps_bg.report import numbers
from lammps_bg.report.contents import RunContents
from lammps_bg.report.numbers import NOTHING, count, is_number, unit, with_error
from lammps_bg.report.tables import Table
from lammps_bg.thermo.observables import NORMAL_95
from lammps_bg.thermo.verdict import NOT_RELIABLE

_ESTIMATORS = {
    "exact": "exact, chains",
    "tfep": "TFEP, flow samples",
    "tfep_marginal": "TFEP, marginal density",
    "tfep_reverse": "TFEP reverse, MD frames",
    "bar": "BAR, flow + MD",
    "bar_marginal": "BAR, marginal density",
    "mbar": "MBAR, flow + λ windows",
    "mbar_windows": "MBAR, λ windows",
    "bound": "upper bound",
}
_HEADLINES = ("exact", "mbar", "bar", "tfep")
_TERMS = {
    "static_lattice": "static lattice",
    "base": "base",
    "flow": "flow and weights (estimated)",
    "lambda_windows": "springs to potential (estimated)",
    "centre_of_mass": "centre of mass",
    "labelling": "labelling",
}


@dataclass(frozen=True)
class Estimate:
    """beta F / N by one estimator; numbers are None where they are withheld or unknown.

    Attributes:
        key: Name in results.json.
        name: Written name.
        value: beta F / N, kT per atom.
        error: Its standard error.
        interval: Limits of the 95 % interval.
        n: Number of samples.
        z: Difference from the reference MD in joint standard errors.
    """

    key: str
    name: str
    value: float | None
    error: float | None
    interval: Sequence[float] | None
    n: float | None
    z: float | None

    @classmethod
    def read(cls, key: str, name: str, entry: Mapping[str, Any], z: Any = None) -> "Estimate":  # noqa: ANN401
        """An estimate from its entry in results.json.

        Args:
            key: Name in results.json.
            name: Written name.
            entry: Mapping with `value`, `error`, and where there are any `interval` and `n`.
            z: Difference from the reference MD.
        """
        value, error, n = (entry.get(part) if is_number(entry.get(part)) else None for part in ("value", "error", "n"))
        interval = entry.get("interval")
        if not interval and value is not None and error is not None:
            interval = [value - NORMAL_95 * error, value + NORMAL_95 * error]
        return cls(key, name, value, error, interval, n, z if is_number(z) else None)


def estimates(run: RunContents) -> list[Estimate]:
    """All estimates of a run, then those that only the comparison with MD has.

    Args:
        run: The run.
    """
    compared = {row.get("key"): row for row in run.comparison.get("rows") or []}
    found = run.results.get("estimates") or {}
    keys = [*(key for key in _ESTIMATORS if key in found), *(key for key in found if key not in _ESTIMATORS)]
    listed = []
    for key in keys:
        row = compared.get(key, {})
        name = _ESTIMATORS.get(key) or str(row.get("name") or key.replace("_", " "))
        name = _ESTIMATORS["mbar_windows"] if run.is_md and key == "mbar" else name
        listed.append(Estimate.read(key, name, run.estimate(key), row.get("z")))
    more = (row for key, row in compared.items() if key not in found)
    listed += [Estimate.read(str(row.get("key")), str(row.get("name")), row, row.get("z")) for row in more]
    return sorted(listed, key=lambda estimate: estimate.key == "bound")


def headline(run: RunContents) -> Estimate | None:
    """The estimate that stands on top: the best one there is; None where a run has none.

    Args:
        run: The run.
    """
    by_key = {estimate.key: estimate for estimate in estimates(run)}
    return next((by_key[key] for key in _HEADLINES if key in by_key and by_key[key].value is not None), by_key.get("tfep"))


def term_name(key: str) -> str:
    """Written name of a contribution to the free energy.

    Args:
        key: Name in results.json.
    """
    return _TERMS.get(key, key.replace("_", " "))


def free_energies_table(run: RunContents) -> Table:
    """The estimators with errors, intervals, effective samples, agreement with MD, and F in the script's unit.

    Args:
        run: The run.
    """
    energy = f"F/N ({unit(run.labels.energy)} per atom)"
    rows = [_free_energy_row(run, estimate) for estimate in estimates(run)]
    bound = (run.results.get("base") or {}).get("beta_F_per_atom_bound") or {}
    if bound.get("bound") is not None:
        rows.append(("upper bound of the base alone", with_error(bound["bound"], bound.get("error")), *[NOTHING] * 4))
    header = ("estimator", "βF/N (kT per atom)", "95 % interval", energy, "samples (ESS)", "z")
    if any(row[5] != NOTHING for row in rows):
        against = run.comparison.get("against")
        reference = next((row.name for row in estimates(run) if row.key == against), "the reference MD")
        note = f"z: difference from “{reference}” in joint standard errors; beyond 3 one of the two is wrong."
        return Table(header, rows, "lrrrrr", note)
    return Table(header[:5], [row[:5] for row in rows], "lrrrr")


def _free_energy_row(run: RunContents, given: Estimate) -> tuple[str, ...]:
    in_units = (run.results.get("estimates") or {}).get(given.key, {}).get("F_per_atom") or {}
    energy = with_error(in_units.get("value"), in_units.get("error"))
    if energy == NOTHING and given.value is not None and given.error is not None and is_number(run.system.get("beta")):
        energy = with_error(given.value / run.system["beta"], given.error / run.system["beta"])
    effective = (run.results.get("sampling") or {}).get("ess_samples") if given.key == "tfep" else None
    samples = f"{count(given.n)} ({count(effective)})" if is_number(effective) else count(given.n)
    value = with_error(given.value, given.error) if given.value is not None else NOT_RELIABLE
    z = f"{given.z:+.1f}" if given.z is not None else NOTHING
    return given.name, value, numbers.interval(given.interval, given.error), energy, samples, z


def terms(run: RunContents) -> dict[str, float]:
    """The contributions to the estimate on top that are known, kT per atom.

    Args:
        run: The run.
    """
    best = headline(run)
    entries = run.results.get("estimates") or {}
    for key in (best.key if best else "", *_HEADLINES):
        given = (entries.get(key) or {}).get("terms") or {}
        known = {name: float(value) for name, value in given.items() if is_number(value)}
        if known:
            return known
    return {}


def terms_table(run: RunContents) -> Table | None:
    """What beta F / N is made of; None where it is withheld.

    Args:
        run: The run.
    """
    known = terms(run)
    beta = run.system.get("beta")
    if not known or not is_number(beta):
        return None
    values = {**{term_name(key): value for key, value in known.items()}, "sum": sum(known.values())}
    digits = ".5f" if 1e-2 < abs(values["sum"] / beta) < 1e6 else ".6e"  # energies in joules are far below one
    rows = [(name, f"{value:.5f}", f"{value / beta:{digits}}") for name, value in values.items()]
    return Table(("contribution", "βF/N (kT per atom)", f"{unit(run.labels.energy)} per atom"), rows, "lrr")
