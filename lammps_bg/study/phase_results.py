# SPDX-License-Identifier: GPL-2.0-or-later
"""What `phase` leaves: difference.csv, coexistence.csv, results.json, phase.png, and the summary."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lammps_bg.config import Config
from lammps_bg.crystal.structure import Array
from lammps_bg.report.console import Console
from lammps_bg.report.figures.phases import draw_phases
from lammps_bg.report.figures.style import save
from lammps_bg.results import unit as symbol
from lammps_bg.results import with_error as written
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.entries import conventions_entry, system_entry
from lammps_bg.study.gibbs_judging import chains_entry, judge_surfaces, judge_tables
from lammps_bg.study.helmholtz import HelmholtzTable
from lammps_bg.study.phase_checks import Phase
from lammps_bg.study.reporting import attempt
from lammps_bg.thermo.coexistence import Crossings
from lammps_bg.thermo.coexistence_line import ClausiusClapeyron, CoexistenceLine
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.repeats import with_error
from lammps_bg.thermo.verdict import Verdict, combine

Traced = tuple[str, CoexistenceLine, ClausiusClapeyron | None]
"""Name of the second axis, the line, and the check of its slope."""


@dataclass(frozen=True)
class Coexistence:
    """Two crystals where they have the same Gibbs free energy; differences are second minus first, per atom.

    Attributes:
        place: P, T and parameters there.
        volumes: Volume per atom of each, length units cubed.
        enthalpies: Potential energy and P V per atom of each, energy units.
        volume: Difference of the volumes.
        enthalpy: Difference of the enthalpies.
    """

    place: Mapping[str, float]
    volumes: tuple[EstimateResult, EstimateResult]
    enthalpies: tuple[EstimateResult, EstimateResult]
    volume: EstimateResult
    enthalpy: EstimateResult

    @classmethod
    def of(cls, place: Mapping[str, float], both: Sequence[tuple[int, HelmholtzTable]], nktv2p: float) -> "Coexistence":
        """From the free energies of both over cells.

        Args:
            place: P, T and parameters.
            both: Number of atoms and table of each crystal, at this T and these parameters.
            nktv2p: Pressure units per energy per volume.
        """
        pressure = place["P"] / nktv2p
        volumes, enthalpies = [], []
        for n, table in both:
            point = table.surface.gibbs(pressure)
            energy = table.potential_energy([entry.value for entry in point.cell])
            volumes.append(point.volume.scaled(1 / n))
            enthalpy = (energy.value + pressure * point.volume.value) / n
            error = math.hypot(energy.error, pressure * point.volume.error) / n
            enthalpies.append(with_error(enthalpy, error, energy.n))
        return cls(place, (volumes[0], volumes[1]), (enthalpies[0], enthalpies[1]), _difference(volumes), _difference(enthalpies))


def _difference(pair: Sequence[EstimateResult]) -> EstimateResult:
    first, second = pair
    return with_error(second.value - first.value, math.hypot(first.error, second.error), first.n)


@dataclass(frozen=True)
class Difference:
    """Two crystals along the axis, at one point off it.

    Attributes:
        pair: Their indices.
        state: T, parameters and P, but for the axis.
        axis: Places on the axis, shape [k].
        difference: G per atom of the second minus that of the first in each repeat, energy units, shape [R, k].
        crossings: Its zeros.
        coexistence: Volumes and enthalpies at these.
        tables: F over cells of each of the two, at the points of the axis.
    """

    pair: tuple[int, int]
    state: dict[str, float]
    axis: Array
    difference: Array
    crossings: Crossings
    coexistence: Sequence[Coexistence]
    tables: tuple[Sequence[HelmholtzTable], Sequence[HelmholtzTable]]

    @property
    def mean(self) -> Array:
        """Mean of the repeats, shape [k]."""
        return np.asarray(self.difference.mean(0))

    @property
    def error(self) -> Array:
        """Its standard error, shape [k]."""
        return np.asarray(self.difference.std(0, ddof=1) / math.sqrt(len(self.difference)))


def lines(axis: str, found: Sequence[Sequence[Difference]], nktv2p: float) -> dict[tuple[int, int], Traced]:
    """The coexistence line of each pair over the one quantity off the axis that varies, where there are three points or more.

    Args:
        axis: Name of the axis.
        found: Differences at each point off the axis, for every pair.
        nktv2p: Pressure units per energy per volume.
    """
    outer = _varies([row[0].state for row in found])
    if outer is None:
        return {}
    traced = {}
    for index in range(len(found[0])):
        column = sorted((row[index] for row in found), key=lambda entry: entry.state[outer])
        kept = [
            (d, d.crossings.roots[0], d.coexistence[0])
            for d in column
            if len(d.crossings.roots) == 1 and d.crossings.roots[0].established
        ]
        if len(kept) < 3:
            continue
        # the points share their random numbers, and so the replicas belong together
        replicas = np.stack([root.replicas for _, root, _ in kept])
        line = CoexistenceLine.of([d.state[outer] for d, _, _ in kept], [root.estimate for _, root, _ in kept], replicas=replicas)
        traced[found[0][index].pair] = (outer, line, _clapeyron(axis, outer, line, [c for *_, c in kept], nktv2p))
    return traced


def _varies(states: Sequence[Mapping[str, float]]) -> str | None:
    """The one entry that differs between states."""
    names = [name for name in states[0] if len({state[name] for state in states}) > 1]
    return names[0] if len(names) == 1 else None


def _clapeyron(
    axis: str, outer: str, line: CoexistenceLine, at: Sequence[Coexistence], nktv2p: float
) -> ClausiusClapeyron | None:
    """The check of the line's slope in the plane of P and T."""
    if {axis, outer} != {"P", "T"}:
        return None
    return line.clausius_clapeyron(
        [entry.place["T"] for entry in at], [entry.enthalpy for entry in at],
        [entry.volume.scaled(1 / nktv2p) for entry in at], outer_axis="temperature" if outer == "T" else "pressure",
    )  # fmt: skip


def write(
    run: RunDirectory,
    phases: Sequence[Phase],
    axis: str,
    found: Sequence[Sequence[Difference]],
    config: Config,
    console: Console,
    *,
    started: float,
) -> Verdict:
    """Write all files of a `phase` command, and judge it.

    Args:
        run: The folder.
        phases: The crystals.
        axis: Name of the axis.
        found: Differences at each point off the axis, for every pair.
        config: The configuration.
        console: Where to say why there is no figure.
        started: time.monotonic() at the start of the command.
    """
    problem = phases[0].model.reference
    traced = lines(axis, found, problem.units.nktv2p)
    checks = [check.verdict for _, _, check in traced.values() if check]
    verdict = combine([*_judge_crystals(phases, found), *_judge_crossings(phases, found), *checks])
    _write_differences(run, phases, axis, found)
    _write_coexistence(run, phases, axis, found, traced)
    run.write_results(
        {
            "system": system_entry(problem),
            "conventions": conventions_entry(problem),
            "phase": {
                "axis": axis,
                "phases": [
                    {
                        "name": p.name,
                        "n_atoms": p.n_atoms,
                        "free": list(p.names),
                        "lowest_ess": min(float(t.ess.min()) for t in own),
                        **chains_entry(own),
                    }
                    for p, own in zip(phases, _tables(phases, found), strict=True)
                ],
                "differences": [_entry(d, phases) for row in found for d in row],
                "clausius_clapeyron": [
                    {"pair": [phases[i].name for i in pair], **check.to_dict()} for pair, (_, _, check) in traced.items() if check
                ],
            },
            "verdict": verdict.to_dict(),
            "cost": {
                "energy_evaluations": sum(p.model.reference.n_evaluations for p in phases),
                "wall_seconds": time.monotonic() - started,
            },
        }
    )
    run.write_json("curves.json", _drawn(phases, axis, found, traced))
    run.write_status("done", percent=100.0)
    attempt("figure", lambda: save(draw_phases, run.read_json("curves.json"), run.file("phase.png")), console)
    return verdict


def _tables(phases: Sequence[Phase], found: Sequence[Sequence[Difference]]) -> list[list[HelmholtzTable]]:
    """F over cells of each crystal, in all states."""
    sides = [(i, own) for row in found for d in row for i, own in zip(d.pair, d.tables, strict=True)]
    return [[table for i, own in sides if i == index for table in own] for index in range(len(phases))]


def _judge_crystals(phases: Sequence[Phase], found: Sequence[Sequence[Difference]]) -> list[Verdict]:
    """Whether the weights of each crystal are worth something in every cell."""
    sizes = [phase.config.gibbs.n_samples * phase.config.gibbs.n_repeats for phase in phases]
    given = zip(phases, _tables(phases, found), sizes, strict=True)
    return [v for p, own, size in given for v in (judge_tables(own, size, p.name), *judge_surfaces(own, p.name))]


def _judge_crossings(phases: Sequence[Phase], found: Sequence[Sequence[Difference]]) -> list[Verdict]:
    """Amber where the errors leave open whether there is a crossing."""
    verdicts = []
    for entry in (d for row in found for d in row):
        if entry.crossings.sign_known and all(root.established for root in entry.crossings.roots):
            continue
        first, second = (phases[i].name for i in entry.pair)
        where = ", ".join(f"{name} = {value:g}" for name, value in entry.state.items())
        said = f"Whether {second} and {first} cross{where and ' at '}{where} is open within the errors."
        verdicts.append(Verdict("amber", (said,), True, "Draw more samples (gibbs.n_samples), or train longer."))
    return verdicts


def _entry(found: Difference, phases: Sequence[Phase]) -> dict[str, Any]:
    first, second = (phases[i].name for i in found.pair)
    at = [
        {
            "volume_difference": _number(entry.volume),
            "enthalpy_difference": _number(entry.enthalpy),
            "volumes": [_number(v) for v in entry.volumes],
        }
        for entry in found.coexistence
    ]
    return {
        "first": first,
        "second": second,
        "state": found.state,
        "axis": found.axis.tolist(),
        "difference_per_atom": {"value": found.mean.tolist(), "error": found.error.tolist()},
        "crossings": found.crossings.to_dict(),
        "coexistence": at,
    }


def _number(value: EstimateResult) -> dict[str, float]:
    return {"value": value.value, "error": value.error}


def _write_differences(run: RunDirectory, phases: Sequence[Phase], axis: str, found: Sequence[Sequence[Difference]]) -> None:
    """difference.csv: G per atom of the second crystal minus that of the first, in energy units and in kT."""
    outer = list(found[0][0].state)
    units = phases[0].model.reference.units
    with CsvTable(
        run.file("difference.csv"), ["first", "second", *outer, axis, "delta_g", "error", "delta_g_kT", "error_kT"]
    ) as file:
        for entry in (d for row in found for d in row):
            names = [phases[i].name for i in entry.pair]
            for place, mean, error in zip(entry.axis, entry.mean, entry.error, strict=True):
                kt = units.boltzmann * (place if axis == "T" else entry.state["T"])
                state = [entry.state[name] for name in outer]
                file.write(*names, *state, float(place), float(mean), float(error), float(mean / kt), float(error / kt))


def _write_coexistence(
    run: RunDirectory, phases: Sequence[Phase], axis: str, found: Sequence[Sequence[Difference]], traced: Mapping[Any, Any]
) -> None:
    """coexistence.csv: the crossings with volumes and enthalpies."""
    outer = list(found[0][0].state)
    columns = ["first", "second", *outer, axis, "error", "established", "volume_first", "volume_second"]
    columns += ["volume_difference", "volume_difference_error", "enthalpy_difference", "enthalpy_difference_error"]
    with CsvTable(run.file("coexistence.csv"), columns) as file:
        for entry in (d for row in found for d in row):
            names, state = [phases[i].name for i in entry.pair], [entry.state[name] for name in outer]
            for root, at in zip(entry.crossings.roots, entry.coexistence, strict=True):
                numbers = [root.estimate.value, root.estimate.error, int(root.established), *(v.value for v in at.volumes)]
                changes = [at.volume.value, at.volume.error, at.enthalpy.value, at.enthalpy.error]
                file.write(*names, *state, *numbers, *changes)


def _drawn(
    phases: Sequence[Phase], axis: str, found: Sequence[Sequence[Difference]], traced: Mapping[Any, Any]
) -> dict[str, Any]:
    """What the figure shows: Delta g along the axis, and the lines."""
    units = phases[0].model.reference.units
    curves = []
    for entry in (d for row in found for d in row):
        first, second = (phases[i].name for i in entry.pair)
        varying = _varies([row[0].state for row in found])
        where = "" if varying is None else f", {varying} = {entry.state[varying]:g}"
        curves.append(
            {
                "label": f"{second} − {first}{where}", "x": entry.axis, "y": entry.mean, "error": entry.error,
                "roots": [root.estimate.value for root in entry.crossings.roots],
            }
        )  # fmt: skip
    shown = []
    for pair, (outer, line, _) in traced.items():
        names = " / ".join(phases[i].name for i in pair)
        shown.append(
            {"label": names, "outer": _axis_label(outer, units), "x": line.outer, "y": line.values, "error": line.errors}
        )
    return {
        "axis": _axis_label(axis, units), "energy": f"ΔG per atom ({symbol(units.labels.energy)})", "curves": curves, "lines": shown,
    }  # fmt: skip


def _axis_label(name: str, units: Any) -> str:  # noqa: ANN401
    unit = {"P": units.labels.pressure, "T": units.labels.temperature}.get(name)
    return f"{name} ({symbol(unit)})" if unit else name


def show(
    console: Console,
    phases: Sequence[Phase],
    axis: str,
    found: Sequence[Sequence[Difference]],
    verdict: Verdict,
    run: RunDirectory,
) -> None:
    """The summary on the console.

    Args:
        console: Where to report.
        phases: The crystals.
        axis: Name of the axis.
        found: Differences at each point off the axis, for every pair.
        verdict: What to think of it.
        run: The folder.
    """
    units = phases[0].model.reference.units
    labels, label = units.labels, _axis_label(axis, units)
    console.say("")
    for pair, (outer, line, check) in lines(axis, found, units.nktv2p).items():
        if check:
            console.say(f"slope      {phases[pair[1]].name} and {phases[pair[0]].name}: {' '.join(check.verdict.reasons)}")
        if len(line.outer) < len(found):
            console.say(
                f"line       {len(found) - len(line.outer)} of {len(found)} values of {outer} have no single established crossing of "
                f"{phases[pair[1]].name} and {phases[pair[0]].name} and are left out of their line"
            )
    for entry in (d for row in found for d in row):
        first, second = (phases[i].name for i in entry.pair)
        where = ", ".join(f"{name} = {value:g}" for name, value in entry.state.items())
        doubt = "" if verdict.reliable else "NOT RELIABLE: "
        console.say(f"{doubt}{second} - {first} at {where}, along {label}: {entry.crossings.sentence}")
        for root, at in zip(entry.crossings.roots, entry.coexistence, strict=True):
            console.say(
                f"           at {label} = {root.estimate.value:.6g}: volumes per atom {written(at.volumes[0].value, at.volumes[0].error)} and "
                f"{written(at.volumes[1].value, at.volumes[1].error)} {labels.length}^3, change of enthalpy "
                f"{written(at.enthalpy.value, at.enthalpy.error)} {labels.energy} per atom"
            )
    console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
    console.say(f"files      {run.path}")
