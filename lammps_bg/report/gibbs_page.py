# SPDX-License-Identifier: GPL-2.0-or-later
"""The report on Gibbs free energies: every state and pressure with its cell, its checks, and molecular dynamics beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lammps_bg.report import sections
from lammps_bg.report.contents import RunContents
from lammps_bg.report.numbers import NOTHING, count, duration, estimate, is_number, plain, unit
from lammps_bg.report.sections import Block, Section, Text, Verdict
from lammps_bg.report.tables import Table
from lammps_bg.thermo.verdict import NOT_RELIABLE

NO_MD = (
    "No MD beside these numbers yet: lammps-bg md --mode npt (volumes) or --mode mbar at the cell by --strain (F), then lammps-bg gibbs "
    "with -md MDRUN."
)


def title(run: RunContents) -> str:
    """Crystal and number of atoms.

    Args:
        run: The run.
    """
    species = " ".join(run.system.get("species") or []) or "crystal"
    return f"Gibbs free energy of {species}, {run.system.get('n_atoms')} atoms"


def verdict(run: RunContents) -> Verdict:
    """The band on top: G where there is one state, else how many there are.

    Args:
        run: The run.
    """
    colour, reasons, next_step = sections.judged(run)
    states = _states(run)
    if len(states) != 1:
        return Verdict(colour, "", f"{len(states)} states and pressures, in the tables below", reasons, next_step)
    number = estimate(states[0].get("beta_G_per_atom")) if run.reliable else NOT_RELIABLE
    return Verdict(colour, number, f"βG/N, kT per atom, at {_where(run, states[0])}", reasons, next_step)


def tiles(run: RunContents) -> list[tuple[str, str]]:
    """The most important numbers on quality and cost.

    Args:
        run: The run.
    """
    cost = run.results.get("cost") or {}
    lowest = [state["ess"]["lowest"] for state in _states(run) if is_number((state.get("ess") or {}).get("lowest"))]
    z = [abs(row["z"]) for row in _comparison(run) if is_number(row.get("z"))]
    found = [
        ("effective samples, worst cell", f"{min(lowest):.1%}" if lowest else NOTHING),
        ("largest |z| against MD", f"{max(z):.1f}" if z else NOTHING),
        ("energy evaluations", count(cost.get("energy_evaluations"))),
        ("wall time", duration(cost.get("wall_seconds"))),
    ]
    return [(name, value) for name, value in found if value != NOTHING]


def arrange(run: RunContents, figures: Mapping[str, Block]) -> list[Section]:
    """The sections of the report.

    Args:
        run: The run.
        figures: The figure, or the sentence that stands in its place.
    """
    compared = comparison_table(run)
    return [
        Section("Gibbs free energies", [energies_table(run)]),
        Section("Cells", [cells_table(run), figures["gibbs"]]),
        Section("Comparison with molecular dynamics", [compared if compared else Text(NO_MD, "hint")]),
        Section("Checks", [checks_table(run), conditions_table(run)]),
        *sections.ending(run),
    ]


def energies_table(run: RunContents) -> Table:
    """G and what it is made of, for each state and pressure.

    Args:
        run: The run.
    """
    energy = unit(run.labels.energy)
    header = ["βG/N", *(f"{name} ({energy} per atom)" for name in ("G", "F", "PV", "potential energy"))]
    rows = [
        (
            *_place(run, state),
            estimate(state.get("beta_G_per_atom")),
            estimate(state.get("G_per_atom")),
            estimate(state.get("F_per_atom")),
            plain(state.get("PV_per_atom")),
            estimate(state.get("potential_energy_per_atom")),
        )
        for state in _states(run)
    ]
    return _table(run, header, rows, "G = F + PV at the cell that makes it smallest; errors from independent repeats.")


def cells_table(run: RunContents) -> Table:
    """Volume, response and cell variables, for each state and pressure.

    Args:
        run: The run.
    """
    volume = f"{unit(run.labels.length)}³ per atom"
    free = list((run.results.get("gibbs") or {}).get("free") or [])
    header = [f"volume ({volume})", f"mean volume ({volume})", f"compressibility (1/({unit(run.labels.pressure)}))"]
    header += ["ln V/V₀" if name == "volume" else f"change of {name}" for name in free]
    rows = []
    for state in _states(run):
        shown = [estimate(state.get(name)) for name in ("volume_per_atom", "mean_volume_per_atom", "compressibility")]
        rows.append((*_place(run, state), *shown, *(estimate((state.get("cell") or {}).get(name)) for name in free)))
    note = (
        "The volume is where F + PV is smallest, the mean volume that of a crystal whose volume fluctuates at constant pressure, as in "
        "NPT dynamics. V₀ is the volume of the script's cell."
    )
    return _table(run, header, rows, note)


def checks_table(run: RunContents) -> Table:
    """Weights and fresh samples, for each state and pressure.

    Args:
        run: The run.
    """
    header = ("lowest ESS", "ESS at the cell", "z of F", "z of the virial pressure", "outer volumes")
    rows = []
    for state in _states(run):
        ess, check = state.get("ess") or {}, state.get("check") or {}
        shares = [_share(ess.get(name)) for name in ("lowest", "at_the_cell")]
        scores = [plain(check.get(name), 2) for name in ("z_free_energy", "z_virial_pressure")]
        rows.append((*_place(run, state), *shares, *scores, _share(state.get("edge_probability"))))
    note = (
        "z: fresh samples at the cell against the polynomial through F and against the pressure asked for, in standard errors. Outer "
        "volumes: probability of a volume at the edge of the trained range; if it is not small, the mean volume is cut off there."
    )
    return _table(run, header, rows, note)


def comparison_table(run: RunContents) -> Table | None:
    """Flow against molecular dynamics; None where there is none.

    Args:
        run: The run.
    """
    rows = []
    for row in _comparison(run):
        place = [f"{name} = {plain(value)}" for name, value in (row.get("state") or {}).items()]
        place += [f"P = {plain(row['pressure'])}"] if is_number(row.get("pressure")) else []
        place += [f"{name} = {plain(value, 4)}" for name, value in (row.get("cell") or {}).items()]
        quantity = f"{row.get('quantity')} ({unit(row['unit'])})" if row.get("unit") else str(row.get("quantity"))
        z = f"{row['z']:+.1f}" if is_number(row.get("z")) else NOTHING
        rows.append((quantity, ", ".join(place), str(row.get("md_run")), estimate(row.get("flow")), estimate(row.get("md")), z))
    note = "z: difference of flow and MD in standard errors; red where the worst of all is as unlikely as three for one normal number."
    return Table(("quantity", "at", "MD run", "flow", "MD", "z"), rows, "lllrrr", note) if rows else None


def conditions_table(run: RunContents) -> Table:
    """What the model was trained over.

    Args:
        run: The run.
    """
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


def _share(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    return f"{value:.1%}" if is_number(value) else NOTHING


def _states(run: RunContents) -> Sequence[Mapping[str, Any]]:
    return (run.results.get("gibbs") or {}).get("states") or []


def _comparison(run: RunContents) -> Sequence[Mapping[str, Any]]:
    return (run.results.get("gibbs") or {}).get("comparison") or []
