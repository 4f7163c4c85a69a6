# SPDX-License-Identifier: GPL-2.0-or-later
"""The report on a phase diagram: crossings of Gibbs free energies, the crystals there, and the slope of the coexistence line."""

from collections.abc import Mapping, Sequence
from typing import Any

from lammps_bg.report.contents import RunContents
from lammps_bg.report.page import Draw, Page, Section, Table, Text, cost_tiles, present
from lammps_bg.results import NOT_RELIABLE, NOTHING, count, is_number, plain, share, unit, with_error, written


def _title(run: RunContents) -> str:
    """The crystals and the axis."""
    names = ", ".join(str(entry["name"]) for entry in _crystals(run))
    return f"Phases {names} along {_axis(run)}"


def _facts(run: RunContents) -> str:
    """The line under the title."""
    atoms = ", ".join(f"{entry['name']}: {entry['n_atoms']} atoms" for entry in _crystals(run))
    system = run.results.system
    return " · ".join(
        ("Gibbs free energies of crystals", atoms, f"pair_style {system.get('pair_style')}", f"units {system.get('units')}")
    )


def _number(run: RunContents) -> tuple[str, str]:
    """The band on top: the crossing where there is one, else how many there are."""
    roots = [root for entry in _differences(run) for root in entry["crossings"]["roots"]]
    if len(roots) != 1:
        return "", f"{len(roots)} crossings, in the table below" if roots else "no crossing"
    number = (
        with_error(roots[0]["value"], roots[0]["error"]) if run.results.reliable and roots[0]["established"] else NOT_RELIABLE
    )
    return number, f"{_labelled(run, _axis(run))} of equal Gibbs free energies"


def _tiles(run: RunContents) -> list[tuple[str, str]]:
    """The most important numbers on quality and cost."""
    lowest = [entry["lowest_ess"] for entry in _crystals(run) if is_number(entry.get("lowest_ess"))]
    return [("effective samples, worst cell", share(min(lowest, default=None))), *cost_tiles(run)]


def _sections(run: RunContents, draw: Draw) -> list[Section]:
    """The sections of the report."""
    slopes = _slopes_table(run)
    return [
        Section("Crossings", [*map(Text, _sentences(run)), *present(_crossings_table(run))]),
        Section("Differences of the Gibbs free energies", [draw("phases"), _ends_table(run)]),
        *([Section("Slope of the coexistence line", [slopes])] if slopes else []),
        Section("Crystals", [_crystals_table(run)]),
    ]


def _crossings_table(run: RunContents) -> Table | None:
    """Volumes and enthalpies where two crystals coexist; None where none do."""
    rows = []
    for entry in _differences(run):
        for root, at in zip(entry["crossings"]["roots"], entry["coexistence"], strict=True):
            volumes = [written(volume) for volume in at["volumes"]]
            changes = [written(at[f"{name}_difference"]) for name in ("volume", "enthalpy")]
            found = [with_error(root["value"], root["error"]), "yes" if root["established"] else "no"]
            rows.append((*_place(entry), *found, *volumes, *changes))
    volume, energy = f"{unit(run.labels.length)}³ per atom", f"{unit(run.labels.energy)} per atom"
    header = (
        *_outer(run), _labelled(run, _axis(run)), "established", f"volume of the first ({volume})", f"of the second ({volume})",
        f"ΔV ({volume})", f"ΔH ({energy})",
    )  # fmt: skip
    note = "Differences are second minus first. Established: at least 95 % of the bootstrap replicas have the crossing."
    return Table(header, rows, "ll" + "r" * (len(header) - 2), note) if rows else None


def _ends_table(run: RunContents) -> Table:
    """The difference at the ends of the axis."""
    energy = f"({unit(run.labels.energy)} per atom)"
    rows = []
    for entry in _differences(run):
        values = entry["difference_per_atom"]
        ends = [(plain(entry["axis"][i]), with_error(values["value"][i], values["error"][i])) for i in (0, -1)]
        rows.append((*_place(entry), *ends[0], *ends[1]))
    header = (*_outer(run), "from", f"ΔG {energy}", "to", f"ΔG {energy}")
    return Table(
        header, rows, "ll" + "r" * (len(header) - 2), f"Along {_labelled(run, _axis(run))}; all points are in difference.csv."
    )


def _slopes_table(run: RunContents) -> Table | None:
    """Slope of the line against that of Clausius and Clapeyron; None where no line was traced."""
    rows = []
    for entry in (run.results.get("phase") or {}).get("clausius_clapeyron") or []:
        columns = [entry[name] for name in ("outer", "slopes", "slope_errors", "expected", "z")]
        for outer, slope, error, expected, z in zip(*columns, strict=True):
            rows.append((*map(str, entry["pair"]), plain(outer), with_error(slope, error), plain(expected), plain(z, 2)))
    note = "Expected: T ΔV / ΔH or its inverse. z: their difference in standard errors; beyond 3 the verdict is red."
    return Table(("first", "second", "at", "slope of the line", "expected", "z"), rows, "llrrrr", note) if rows else None


def _crystals_table(run: RunContents) -> Table:
    """The crystals and their models."""
    sources = (run.provenance.get("request") or {}).get("sources") or []
    hashes = {str(source["name"]): str(source["sha256"]) for source in sources}
    rows = [
        (
            str(entry["name"]),
            count(entry["n_atoms"]),
            ", ".join(entry["free"]),
            share(entry.get("lowest_ess")),
            hashes.get(str(entry["name"]), NOTHING),
        )
        for entry in _crystals(run)
    ]
    return Table(("crystal", "atoms", "free cell variables", "lowest ESS", "SHA-256 of model.pt"), rows, "lrlrm")


def _sentences(run: RunContents) -> list[str]:
    found = []
    for entry in _differences(run):
        state = ", ".join(f"{name} = {plain(value)}" for name, value in entry["state"].items())
        found.append(f"{entry['second']} − {entry['first']}{state and ' at '}{state}: {entry['crossings']['sentence']}")
    return found


def _place(entry: Mapping[str, Any]) -> list[str]:
    return [str(entry["first"]), str(entry["second"]), *(plain(value) for value in entry["state"].values())]


def _outer(run: RunContents) -> list[str]:
    differences = _differences(run)
    return ["first", "second", *(_labelled(run, name) for name in (differences[0]["state"] if differences else ()))]


def _labelled(run: RunContents, name: str) -> str:
    known = {"P": run.labels.pressure, "T": run.labels.temperature}.get(name)
    return f"{name} ({unit(known)})" if known else name


def _axis(run: RunContents) -> str:
    return str((run.results.get("phase") or {}).get("axis"))


def _crystals(run: RunContents) -> Sequence[Mapping[str, Any]]:
    return (run.results.get("phase") or {}).get("phases") or []


def _differences(run: RunContents) -> Sequence[Mapping[str, Any]]:
    return (run.results.get("phase") or {}).get("differences") or []


PAGE = Page(_title, _facts, _number, _tiles, _sections)
