# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of the report as rows of text: observables, molecular dynamics, cost, provenance."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lammps_bg.report import numbers
from lammps_bg.report.contents import KINDS, NAMES, RunContents
from lammps_bg.report.numbers import NOTHING, count, duration, is_number, plain, unit, with_error

_WINDOW = ("lambda", "n_frames", "n_independent", "inefficiency", "mean_energy", "mean_springs")
_STAGES = {
    "train_ms_per_sample": "training, per sample",
    "draw_ms_per_sample": "drawing, per sample",
    "energy_ms_per_sample": "energy in LAMMPS, per sample",
}
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


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: Names of the columns.
        rows: One tuple for each row, as long as the header.
        align: A letter for each column: l left, r right, m left in a fixed-width font.
        note: A sentence under the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    note: str = ""

    kind = "table"


def observables_table(run: RunContents) -> Table | None:
    """Every observable of results.json and the pressure, one column for each ensemble; None where there are none.

    Args:
        run: The run.
    """
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
        rows.append([label, *(numbers.estimate(cells.get(kind)) for kind in KINDS)])
    kept = [0, *(index for index in range(1, len(KINDS) + 1) if any(row[index] != NOTHING for row in rows))]
    if len(kept) == 1:
        return None
    header = ["observable", *(NAMES[kind] for kind in KINDS)]
    return Table([header[i] for i in kept], [[row[i] for i in kept] for row in rows], "l" + "r" * (len(kept) - 1))


def cell_table(run: RunContents) -> Table | None:
    """Mean cell of dynamics, or of exact samples, at constant pressure; None for other runs.

    Args:
        run: The run.
    """
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
    return Table(("mean cell", "MD" if run.is_md else NAMES["exact"]), rows, "lr") if rows else None


def _by_kind(run: RunContents, entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Estimates of one observable by ensemble, also where it was written with a single value."""
    if is_number(entry.get("value")):
        return {"md" if run.is_md else "reweighted" if entry.get("reweighted", run.weights_reliable) else "flow": entry}
    found = {kind: entry[kind] for kind in KINDS if isinstance(entry.get(kind), Mapping) and is_number(entry[kind].get("value"))}
    return found if run.weights_reliable else {kind: value for kind, value in found.items() if kind != "reweighted"}


def structure_table(run: RunContents) -> Table | None:
    """Fractions of atoms in each structure type by ensemble; None where they were not classified.

    Args:
        run: The run.
    """
    found = run.observables.get("structure") or {}
    fractions = found.get("fractions") or {}
    kinds = [kind for kind in KINDS if kind in fractions and (run.weights_reliable or kind != "reweighted")]
    if not found.get("types") or not kinds:
        return None
    rows = []
    for index, name in enumerate(found["types"]):
        cells = [_percent(fractions[kind], index) for kind in kinds]
        rows.append([str(name), *cells])
    note = "Share of the atoms, in per cent, as OVITO identifies them from the neighbours."
    return Table(["structure", *(NAMES[kind] for kind in kinds)], rows, "l" + "r" * len(kinds), note)


def _percent(entry: Mapping[str, Any], index: int) -> str:
    value, error = ((entry.get(part) or [])[index : index + 1] or [None] for part in ("value", "error"))
    if not is_number(value[0]):
        return NOTHING
    return with_error(100.0 * value[0], 100.0 * error[0]) if is_number(error[0]) and error[0] > 0 else f"{100 * value[0]:.4g}"


def windows_table(run: RunContents) -> Table | None:
    """The lambda windows; None where a run has none.

    Args:
        run: The run.
    """
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


def chains_table(run: RunContents) -> Table | None:
    """The windows between flow and crystal with what their chains did; None where there are none.

    Args:
        run: The run.
    """
    windows = run.exact.get("windows") or []
    overlaps = [*(run.exact.get("overlaps") or []), None]
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


def md_table(run: RunContents) -> Table:
    """Settings and length of the molecular dynamics.

    Args:
        run: The run.
    """
    given: dict[str, Any] = dict(run.results.get("md") or {})
    hidden = _MD_ELSEWHERE if given.get("mode") == "npt" else (*_MD_ELSEWHERE, "pressure_damp")
    times = {name: f"{plain(given[name])} {unit(run.labels.time)}" for name in _TIMES if is_number(given.get(name))}
    shown = {_MD_NAMES.get(name, name): value for name, value in (given | times).items() if name not in hidden}
    return Table(("molecular dynamics", ""), list(_flat(shown)), "lm")


def cost_table(run: RunContents) -> Table | None:
    """Timings and cost; None where there are none.

    Args:
        run: The run.
    """
    given = run.results.get("cost") or {}
    rows = [("wall time", duration(given["wall_seconds"]))] if "wall_seconds" in given else []
    rows += [("energy evaluations in LAMMPS", count(given["energy_evaluations"]))] if "energy_evaluations" in given else []
    for name, value in (run.results.get("timings") or {}).items():
        label = _STAGES.get(name, name.replace("_", " "))
        rows.append((label, f"{value:.3g} ms" if is_number(value) and "_ms" in name else plain(value)))
    rows += [
        (name.replace("_", " "), plain(value))
        for name, value in given.items()
        if name not in ("wall_seconds", "energy_evaluations")
    ]
    return Table(("", ""), rows, "lr") if rows else None


def provenance_table(run: RunContents) -> Table:
    """Command, seeds, versions and source revision.

    Args:
        run: The run.
    """
    known = run.provenance
    seeds = ", ".join(f"{name} {value}" for name, value in (known.get("seeds") or {}).items())
    versions = ", ".join(f"{name} {value}" for name, value in (known.get("versions") or {}).items())
    rows = [("command", shlex.join(map(str, known.get("command") or []))), ("seeds", seeds), ("versions", versions)]
    rows += [("source revision", str(known.get("source_revision") or "an installed package")), ("folder", run.path.name)]
    rows += [("finished", str(run.status["updated"]))] if run.status.get("updated") else []
    return Table(("", ""), rows, "lm", "sh rerun.sh NEW_FOLDER repeats this run from the stored copies of its inputs.")


def inputs_table(run: RunContents) -> Table | None:
    """Input files with their hashes; None where they are unknown.

    Args:
        run: The run.
    """
    rows = [
        (str(file.get("role")), str(file.get("stored")), str(file.get("sha256"))) for file in run.provenance.get("inputs") or []
    ]
    return Table(("role", "file below inputs/", "SHA-256"), rows, "lmm") if rows else None


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested settings as text; long lists by their length."""
    for name, value in content.items():
        label = prefix + name.replace("_", " ")
        if isinstance(value, Mapping) and is_number(value.get("value")):
            yield label, f"{with_error(value['value'], value.get('error'))} {unit(str(value.get('unit', '')))}".strip()
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        elif isinstance(value, list):
            yield label, ", ".join(_text(entry) for entry in value) if len(value) <= 12 else f"{len(value)} values"
        else:
            yield label, _text(value)


def _text(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value) if isinstance(value, int | float) else NOTHING if value is None else str(value)
