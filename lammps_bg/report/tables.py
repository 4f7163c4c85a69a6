# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of the report on one crystal at one state: free energies, observables, windows, chains, molecular dynamics."""

from collections.abc import Mapping
from typing import Any

from lammps_bg.report.contents import RunContents
from lammps_bg.report.page import Table, settings_rows
from lammps_bg.results import (
    ENSEMBLES,
    NOT_RELIABLE,
    NOTHING,
    Estimate,
    count,
    interval,
    is_number,
    plain,
    score,
    term_name,
    unit,
    with_error,
    written,
)

_WINDOW = ("lambda", "n_frames", "n_independent", "inefficiency", "mean_energy", "mean_springs")
_TIMES = ("timestep", "damp", "pressure_damp")
_MD_NAMES = {
    "timestep": "time step",
    "damp": "damping time of the thermostat",
    "pressure_damp": "damping time of the barostat",
    "sample_every": "steps between frames",
    "n_frames": "frames",
    "n_independent": "independent frames",
    "inefficiency": "statistical inefficiency (frames)",
}
_MD_ELSEWHERE = ("temperature", "pressure", "units")  # of `md`, shown as observables and with the numbers they belong to


def free_energies(run: RunContents) -> Table:
    """The estimators with errors, intervals, effective samples, agreement with MD, and F in the script's unit."""
    estimates, energy = run.results.estimates(), f"F/N ({unit(run.labels.energy)} per atom)"
    rows = [_free_energy_row(run, estimate) for estimate in estimates]
    bound = run.results.part("base").get("beta_F_per_atom_bound") or {}
    if bound.get("bound") is not None:
        rows.append(("upper bound of the base alone", with_error(bound["bound"], bound.get("error")), *[NOTHING] * 4))
    header = ("estimator", "βF/N (kT per atom)", "95 % interval", energy, "samples (ESS)", "z")
    if any(row[5] != NOTHING for row in rows):
        against = run.results.comparison.get("against")
        reference = next((estimate.name for estimate in estimates if estimate.key == against), "the reference MD")
        note = f"z: difference from “{reference}” in joint standard errors; beyond 3 one of the two is wrong."
        return Table(header, rows, "lrrrrr", note)
    return Table(header[:5], [row[:5] for row in rows], "lrrrr")


def _free_energy_row(run: RunContents, given: Estimate) -> tuple[str, ...]:
    energy, beta = with_error(given.energy.get("value"), given.energy.get("error")), run.results.system.get("beta")
    if energy == NOTHING and given.value is not None and given.error is not None and is_number(beta):
        energy = with_error(given.value / beta, given.error / beta)
    effective = run.results.part("sampling").get("ess_samples") if given.key == "tfep" else None
    samples = f"{count(given.n)} ({count(effective)})" if is_number(effective) else count(given.n)
    value = with_error(given.value, given.error) if given.value is not None else NOT_RELIABLE
    return given.name, value, interval(given.interval, given.error), energy, samples, score(given.z)


def terms(run: RunContents) -> Table | None:
    """What beta F / N is made of; None where it is withheld."""
    known, beta = run.results.terms, run.results.system.get("beta")
    if not known or not is_number(beta):
        return None
    values = {**{term_name(key): value for key, value in known.items()}, "sum": sum(known.values())}
    digits = ".5f" if 1e-2 < abs(values["sum"] / beta) < 1e6 else ".6e"  # energies in joules are far below one
    rows = [(name, f"{value:.5f}", f"{value / beta:{digits}}") for name, value in values.items()]
    return Table(("contribution", "βF/N (kT per atom)", f"{unit(run.labels.energy)} per atom"), rows, "lrr")


def observables(run: RunContents) -> Table | None:
    """Every observable of results.json and the pressure, one column for each ensemble; None where there are none."""
    given: dict[str, Any] = dict(run.results.get("observables") or {})
    if run.observables.get("pressure"):
        given["pressure"] = run.observables["pressure"]
    kinetic = (run.results.get("md") or {}).get("temperature")
    if isinstance(kinetic, Mapping):
        given["kinetic_temperature"] = {**kinetic, "unit": run.labels.temperature}
    rows: list[list[str]] = []
    for name, entry in given.items():
        if not isinstance(entry, Mapping) or not (cells := _by_kind(run, entry)):
            continue
        label = f"{name.replace('_', ' ')} ({unit(str(entry.get('unit', '')))})" if entry.get("unit") else name.replace("_", " ")
        rows.append([label, *(written(cells.get(kind)) for kind in ENSEMBLES)])
    kept = [0, *(index for index in range(1, len(ENSEMBLES) + 1) if any(row[index] != NOTHING for row in rows))]
    if len(kept) == 1:
        return None
    header = ["observable", *(ENSEMBLES[kind] for kind in ENSEMBLES)]
    return Table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], "l" + "r" * (len(kept) - 1))


def mean_cell(run: RunContents) -> Table | None:
    """Mean cell of dynamics, or of exact samples, at constant pressure; None for other runs."""
    given, length = run.results.get("npt") or {}, unit(run.labels.length)
    units = {"volume": f"{length}³", "number_density": f"atoms per {length}³"}
    rows = [
        (
            f"{name.replace('_', ' ')} ({unit(entry.get('unit') or units.get(name, length))})",
            with_error(entry["value"], entry.get("error")),
        )
        for name, entry in given.items()
        if isinstance(entry, Mapping) and is_number(entry.get("value"))
    ]
    return Table(("mean cell", "MD" if run.results.kind == "md" else ENSEMBLES["exact"]), rows, "lr") if rows else None


def _by_kind(run: RunContents, entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Estimates of one observable by ensemble, also where it was written with a single value."""
    if is_number(entry.get("value")):
        return {
            "md"
            if run.results.kind == "md"
            else "reweighted"
            if entry.get("reweighted", run.results.weights_reliable)
            else "flow": entry
        }
    found = {
        kind: entry[kind] for kind in ENSEMBLES if isinstance(entry.get(kind), Mapping) and is_number(entry[kind].get("value"))
    }
    return found if run.results.weights_reliable else {kind: value for kind, value in found.items() if kind != "reweighted"}


def structure(run: RunContents) -> Table | None:
    """Fractions of atoms in each structure type by ensemble; None where they were not classified."""
    found = run.observables.get("structure") or {}
    fractions = found.get("fractions") or {}
    kinds = [kind for kind in ENSEMBLES if kind in fractions and (run.results.weights_reliable or kind != "reweighted")]
    if not found.get("types") or not kinds:
        return None
    rows = []
    for index, name in enumerate(found["types"]):
        cells = [_percent(fractions[kind], index) for kind in kinds]
        rows.append([str(name), *cells])
    note = "Share of the atoms, in per cent, as OVITO identifies them from the neighbours."
    return Table(["structure", *(ENSEMBLES[kind] for kind in kinds)], rows, "l" + "r" * len(kinds), note)


def _percent(entry: Mapping[str, Any], index: int) -> str:
    value, error = ((entry.get(part) or [])[index : index + 1] or [None] for part in ("value", "error"))
    if not is_number(value[0]):
        return NOTHING
    return with_error(100.0 * value[0], 100.0 * error[0]) if is_number(error[0]) and error[0] > 0 else f"{100 * value[0]:.4g}"


def windows(run: RunContents) -> Table | None:
    """The lambda windows; None where a run has none."""
    digits = {"lambda": 4, "inefficiency": 3, "mean_energy": 7, "mean_springs": 5}
    rows = [
        [count(window.get(name)) if name.startswith("n_") else plain(window.get(name), digits[name]) for name in _WINDOW]
        for window in run.results.get("windows") or []
    ]
    if not rows:
        return None
    energy = f"({unit(run.labels.energy)} per atom)"
    header = ("λ", "frames", "independent frames", "inefficiency (frames)", f"potential {energy}", f"springs {energy}")
    return Table(
        header, rows, "rrrrrr", "Mean energies. The springs hold the crystal at λ = 0; at λ = 1 only the potential acts."
    )


def chains(run: RunContents) -> Table | None:
    """The windows between flow and crystal with what their chains did; None where there are none."""
    windows = run.results.exact.get("windows") or []
    overlaps = [*(run.results.exact.get("overlaps") or []), None]
    if not windows:
        return None
    rows = []
    for window, overlap in zip(windows, [*overlaps, *[None] * len(windows)], strict=False):
        moved = [plain(window.get("step"), 3), count(window.get("leaps")), plain(window.get("acceptance"), 2)]
        moved += [plain(window.get("inefficiency"), 3), _r_hat(window.get("r_hat"))]
        shown = moved if window.get("coupling") else [NOTHING] * 5
        ends = [plain(window.get("std_log_w"), 3), plain(overlap, 2)]
        rows.append([plain(window.get("coupling"), 4), count(window.get("n_samples")), *shown, *ends])
    header = ("λ", "samples", "step", "leaps", "acceptance", "inefficiency", "R̂", "σ(ln\u00a0w)", "overlap")
    note = (
        "λ = 0: independent draws of the flow. Samples are apart by a trajectory of so many leaps of one energy with forces each; a step is "
        "the angle of a leap, and all leaps together make about a quarter of a turn. Inefficiency: trajectories for an independent sample. "
        "R̂: split-R-hat, 1 where the chains agree. Overlap with the next window: 1 for equal ones, 0 for strangers; below 0.3 another window "
        "is put in between."
    )
    return Table(header, rows, "r" * len(header), note)


def _r_hat(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return f"{value:.3f}" if is_number(value) else NOTHING


def md_settings(run: RunContents) -> Table:
    """Settings and length of the molecular dynamics."""
    given: dict[str, Any] = dict(run.results.get("md") or {})
    hidden = _MD_ELSEWHERE if given.get("mode") == "npt" else (*_MD_ELSEWHERE, "pressure_damp")
    times = {name: f"{plain(given[name])} {unit(run.labels.time)}" for name in _TIMES if is_number(given.get(name))}
    shown = {_MD_NAMES.get(name, name): value for name, value in (given | times).items() if name not in hidden}
    return Table(("molecular dynamics", ""), list(settings_rows(shown)), "lm")
