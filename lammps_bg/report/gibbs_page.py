# SPDX-License-Identifier: GPL-2.0-or-later
"""The report on Gibbs free energies: every state and pressure with its cell, its checks, and molecular dynamics beside it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lammps_bg.report.contents import RunContents
from lammps_bg.report.page import Draw, Page, Section, Table, Text, cost_tiles, facts
from lammps_bg.results import NOT_RELIABLE, NOTHING, is_number, plain, score, share, unit, written

NO_MD = (
    "No MD beside these numbers yet: lammps-bg md --mode npt (volumes) or --mode mbar at the cell by --strain (F), then lammps-bg gibbs "
    "with -md MDRUN."
)


def _title(run: RunContents) -> str:
    """Crystal and number of atoms."""
    species = " ".join(run.results.system.get("species") or []) or "crystal"
    return f"Gibbs free energy of {species}, {run.results.system.get('n_atoms')} atoms"


def _number(run: RunContents) -> tuple[str, str]:
    """The band on top: G where there is one state, else how many there are."""
    states = _states(run)
    if len(states) != 1:
        return "", f"{len(states)} states and pressures, in the tables below"
    number = written(states[0].get("beta_G_per_atom")) if run.results.reliable else NOT_RELIABLE
    return number, f"βG/N, kT per atom, at {_where(run, states[0])}"


def _tiles(run: RunContents) -> list[tuple[str, str]]:
    """The most important numbers on quality and cost."""
    lowest = [state["ess"]["lowest"] for state in _states(run) if is_number((state.get("ess") or {}).get("lowest"))]
    z = [abs(row["z"]) for row in _comparison(run) if is_number(row.get("z"))]
    return [
        ("effective samples, worst cell", share(min(lowest, default=None))),
        ("largest |z| against MD", f"{max(z):.1f}" if z else NOTHING),
        *cost_tiles(run),
    ]


def _sections(run: RunContents, draw: Draw) -> list[Section]:
    """The sections of the report."""
    compared = _comparison_table(run)
    return [
        Section("Gibbs free energies", [_energies_table(run)]),
        Section("Cells", [_cells_table(run), draw("gibbs")]),
        Section("Comparison with molecular dynamics", [compared if compared else Text(NO_MD, "hint")]),
        Section("Checks", [_checks_table(run), _conditions_table(run)]),
    ]


def _energies_table(run: RunContents) -> Table:
    """G and what it is made of, for each state and pressure."""
    energy = unit(run.labels.energy)
    header = ["βG/N", *(f"{name} ({energy} per atom)" for name in ("G", "F", "PV", "potential energy"))]
    rows = [
        (
            *_place(run, state),
            written(state.get("beta_G_per_atom")),
            written(state.get("G_per_atom")),
            written(state.get("F_per_atom")),
            plain(state.get("PV_per_atom")),
            written(state.get("potential_energy_per_atom")),
        )
        for state in _states(run)
    ]
    return _table(run, header, rows, "G = F + PV at the cell that makes it smallest; errors from independent repeats.")


def _cells_table(run: RunContents) -> Table:
    """Volume, response and cell variables, for each state and pressure."""
    volume = f"{unit(run.labels.length)}³ per atom"
    free = list((run.results.get("gibbs") or {}).get("free") or [])
    header = [f"volume ({volume})", f"mean volume ({volume})", f"compressibility (1/({unit(run.labels.pressure)}))"]
    header += ["ln V/V₀" if name == "volume" else f"change of {name}" for name in free]
    rows = []
    for state in _states(run):
        shown = [written(state.get(name)) for name in ("volume_per_atom", "mean_volume_per_atom", "compressibility")]
        rows.append((*_place(run, state), *shown, *(written((state.get("cell") or {}).get(name)) for name in free)))
    note = (
        "The volume is where F + PV is smallest, the mean volume that of a crystal whose volume fluctuates at constant pressure, as in "
        "NPT dynamics. V₀ is the volume of the script's cell."
    )
    return _table(run, header, rows, note)


def _checks_table(run: RunContents) -> Table:
    """Weights and fresh samples, for each state and pressure."""
    header = ("lowest ESS", "ESS at the cell", "z of F", "z of the virial pressure", "outer volumes")
    rows = []
    for state in _states(run):
        ess, check = state.get("ess") or {}, state.get("check") or {}
        shares = [share(ess.get(name)) for name in ("lowest", "at_the_cell")]
        scores = [plain(check.get(name), 2) for name in ("z_free_energy", "z_virial_pressure")]
        rows.append((*_place(run, state), *shares, *scores, share(state.get("edge_probability"))))
    note = (
        "z: fresh samples at the cell against the polynomial through F and against the pressure asked for, in standard errors. Outer "
        "volumes: probability of a volume at the edge of the trained range; if it is not small, the mean volume is cut off there."
    )
    return _table(run, header, rows, note)


def _comparison_table(run: RunContents) -> Table | None:
    """Flow against molecular dynamics; None where there is none."""
    rows = []
    for row in _comparison(run):
        place = [f"{name} = {plain(value)}" for name, value in (row.get("state") or {}).items()]
        place += [f"P = {plain(row['pressure'])}"] if is_number(row.get("pressure")) else []
        place += [f"{name} = {plain(value, 4)}" for name, value in (row.get("cell") or {}).items()]
        quantity = f"{row.get('quantity')} ({unit(row['unit'])})" if row.get("unit") else str(row.get("quantity"))
        rows.append(
            (
                quantity,
                ", ".join(place),
                str(row.get("md_run")),
                written(row.get("flow")),
                written(row.get("md")),
                score(row.get("z")),
            )
        )
    note = "z: difference of flow and MD in standard errors; red where the worst of all is as unlikely as three for one normal number."
    return Table(("quantity", "at", "MD run", "flow", "MD", "z"), rows, "lllrrr", note) if rows else None


def _conditions_table(run: RunContents) -> Table:
    """What the model was trained over."""
    given = (run.results.get("gibbs") or {}).get("conditions") or []
    rows = [(str(a["name"]), *map(plain, a["range"]), unit(str(a.get("unit") or ""))) for a in given]
    return Table(("condition of the model", "from", "to", "unit"), rows, "lrrl")


def _table(run: RunContents, header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> Table:
    """A table whose rows begin with state and pressure."""
    states = _states(run)
    names = [_with_unit(run, name) for name in (states[0].get("state") or {})] if states else []
    first = (*names, f"P ({unit(run.labels.pressure)})")
    return Table((*first, *header), rows, "r" * (len(first) + len(header)), note)


def _place(run: RunContents, state: Mapping[str, Any]) -> list[str]:
    return [*(plain(value) for value in (state.get("state") or {}).values()), plain(state.get("pressure"))]


def _where(run: RunContents, state: Mapping[str, Any]) -> str:
    values = [f"{name} = {plain(value)}" for name, value in (state.get("state") or {}).items()]
    return ", ".join([*values, f"P = {plain(state.get('pressure'))} {unit(run.labels.pressure)}"])


def _with_unit(run: RunContents, name: str) -> str:
    return f"T ({unit(run.labels.temperature)})" if name == "T" else name


def _states(run: RunContents) -> Sequence[Mapping[str, Any]]:
    return (run.results.get("gibbs") or {}).get("states") or []


def _comparison(run: RunContents) -> Sequence[Mapping[str, Any]]:
    return (run.results.get("gibbs") or {}).get("comparison") or []


PAGE = Page(_title, partial(facts, what="Boltzmann generator over cells"), _number, _tiles, _sections)
