# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies beside molecular dynamics: the volume of NPT runs, and F of lambda windows at their own cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import FREE, cell_variables
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.engine.script.parameters import same
from lammps_bg.errors import CrystalError, RunDirectoryError, StateError
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.conditional import SAME_CELL, ConditionalModel
from lammps_bg.study.helmholtz import HelmholtzTable, sample_state
from lammps_bg.study.problem import Problem
from lammps_bg.study.share import Share

_SAME_ENERGY = 1e-6  # relative difference of static energies that is rounding
_SAME_STATE = 1e-6
_FLOOR = 1e-12


@dataclass(frozen=True)
class MdAtCell:
    """A finished run of `lammps-bg md` at constant pressure or over lambda windows.

    Attributes:
        path: Its folder.
        mode: npt or mbar.
        results: Its results.json.
        variables: Values of index variables that it was given.
    """

    path: Path
    mode: str
    results: Mapping[str, Any]
    variables: Mapping[str, Sequence[str]]

    @classmethod
    def load(cls, path: Path, problem: Problem) -> "MdAtCell":
        """Read a run, refused where it is of another crystal or potential.

        Args:
            path: Its folder.
            problem: The crystal of the model.

        Raises:
            RunDirectoryError: It is no finished run of these modes, or of another script.
            CrystalError: It is of another supercell.
        """
        run = RunDirectory.open(path)
        results = run.read_results()
        mode = results.get("md", {}).get("mode")
        if mode not in ("npt", "mbar"):
            raise RunDirectoryError(
                f"expected -md with runs of `lammps-bg md --mode npt` or `--mode mbar`, got another one in {path}; give their folders"
            )
        own = {"n_atoms": problem.crystal.n_sites, "units": problem.units.name, "pair_style": problem.engine.pair_style}
        for name, value in own.items():
            if results["system"][name] != value:
                raise CrystalError(
                    f"expected MD with the {name.replace('_', ' ')} of the model, {value}, got {results['system'][name]} in {path}; run it with "
                    "the same script and -rep"
                )
        run.require_same_inputs(problem.engine.script_files, problem.engine.potential_files)
        variables = (run.read_json("provenance.json").get("request") or {}).get("variables", {})
        return cls(run.path, mode, results, variables)

    def cell_values(self, model: ConditionalModel) -> dict[str, float]:
        """Cell variables of the cell it started in, which is that of the windows.

        Args:
            model: The model that they are relative to.
        """
        cell = np.array(self.results["system"]["cell"])
        return cell_variables(np.asarray(np.linalg.solve(model.reference.crystal.supercell, cell)))


def require_comparable(
    md: MdAtCell, model: ConditionalModel, states: Sequence[Mapping[str, float]], names: Sequence[str]
) -> None:
    """Refuse a run that has nothing to compare, before anything is evaluated.

    Args:
        md: The run.
        model: The conditional model.
        states: T and parameters of each state.
        names: The free cell variables.

    Raises:
        StateError: No state is that of the run, its free energy is not reliable, or it stands in a cell that the model does not know.
        CrystalError: It has another Lambda.
    """
    system = md.results["system"]
    same = [state for state in states if _is_state(md, model, state)]
    if not same:
        raise StateError(
            f"expected MD in one of the states that are evaluated, got T = {system['temperature']:g} (and its own parameters of the potential) "
            f"in {md.path}; add its state with -T or -var"
        )
    unknown = {k: v for k, v in md.cell_values(model).items() if abs(v) > SAME_CELL and k not in model.conditions.names}
    if unknown:
        name, value = next(iter(unknown.items()))
        raise StateError(
            f"expected MD in a cell that the model knows, got one that differs in {name} by {value:.3g} in {md.path}; run it without that --strain"
        )
    if md.mode == "npt" and not set(names) <= set(FREE[md.results["npt"]["free"]]):
        raise StateError(
            f"expected NPT dynamics in which {', '.join(names)} may change, as in the model, got md.cell={md.results['npt']['free']} in {md.path}; "
            "run it with --set md.cell=aniso or tri, or compare with `gibbs --cell iso`"
        )
    if md.mode == "mbar":
        _require_free_energy(md, model.reference.at(dict(same[0])).length_scale)


def _require_free_energy(md: MdAtCell, length_scale: float) -> None:
    """Refuse lambda windows without a reliable free energy, or with another Lambda in it."""
    if md.results["estimates"]["mbar"]["beta_F_per_atom"]["value"] is None:
        raise StateError(
            f"expected a free energy in {md.path}, got one that is not reliable; give the windows more frames with `lammps-bg md --resume`"
        )
    own = md.results["system"]["length_scale"]["value"]
    if not math.isclose(own, length_scale, rel_tol=_SAME_ENERGY):
        raise CrystalError(
            f"expected MD with the Lambda of the model, {length_scale:.8g}, got {own:.8g} in {md.path}; use the same estimate.length_scale"
        )


def compare_with_md(
    md: MdAtCell, model: ConditionalModel, tables: Sequence[HelmholtzTable], config: Config, share: Share
) -> list[dict[str, Any]]:
    """Rows of flow against MD, for the states that both have; see `require_comparable`.

    Args:
        md: The run.
        model: The conditional model.
        tables: F over cells in each state.
        config: The configuration.
        share: Where to report.
    """
    compare = _volumes if md.mode == "npt" else _free_energy
    return [row for table in tables if _is_state(md, model, table.values) for row in compare(md, model, table, config, share)]


def _is_state(md: MdAtCell, model: ConditionalModel, values: Mapping[str, float]) -> bool:
    """Whether T agrees, and the parameters of the potential; what the script makes of them, the static energy in the run's cell tells."""
    system = md.results["system"]
    if not math.isclose(system["temperature"], values[TEMPERATURE], rel_tol=_SAME_STATE):
        return False
    for name, value in values.items():
        own = md.variables.get(name) or [model.reference.engine.script_value(name)]
        if name != TEMPERATURE and not same(str(own[0]), repr(float(value))):
            return False
    static = model.reference.at({**values, **md.cell_values(model)}).surface.static_energy
    return math.isclose(static / system["n_atoms"], system["static_energy_per_atom"], rel_tol=_SAME_ENERGY)


def _row(
    quantity: str,
    unit: str,
    md: MdAtCell,
    values: Sequence[float],
    repeats: int,
    **more: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """One line: flow and MD with errors, and their difference in standard errors."""
    flow, flow_error, own, own_error = (float(value) for value in values)
    z = (flow - own) / max(math.hypot(flow_error, own_error), _FLOOR)
    numbers = {"flow": {"value": flow, "error": flow_error}, "md": {"value": own, "error": own_error}, "z": z}
    # Welch: the flow's error rests on few repeats, that of MD on many frames
    freedom = (repeats - 1) * (math.hypot(flow_error, own_error) / max(flow_error, _FLOOR)) ** 4
    numbers["degrees_of_freedom"] = freedom
    return {"quantity": quantity, "unit": unit, "md_run": md.path.name, **more, **numbers}


def _volumes(md: MdAtCell, model: ConditionalModel, table: HelmholtzTable, config: Config, share: Share) -> list[dict[str, Any]]:
    """Mean volume, and c/a where it is free, at the run's pressure."""
    npt, units, n = md.results["npt"], model.reference.units, table.n_atoms
    point = table.surface.gibbs(npt["pressure"] / units.nktv2p)
    where = {"state": dict(table.values), "pressure": npt["pressure"]}
    length = units.labels.length
    volume = point.mean_volume
    rows = [
        _row(
            "volume per atom", f"{length}^3", md,
            (volume.value / n, volume.error / n, npt["volume"]["value"] / n, npt["volume"]["error"] / n), volume.n, **where,
        )
    ]  # fmt: skip
    if "c/a" in table.names and npt["free"] != "iso":
        ratio = point.cell[table.names.index("c/a")]
        a, b, c = np.diag(model.reference.crystal.supercell)
        own, spread = (npt["ln_c_over_a"][part] for part in ("value", "error"))
        own -= math.log(c / math.sqrt(a * b))
        rows.append(_row("change of ln c/a", "", md, (ratio.value, ratio.error, own, spread), ratio.n, **where))
    return rows


def _free_energy(
    md: MdAtCell, model: ConditionalModel, table: HelmholtzTable, config: Config, share: Share
) -> list[dict[str, Any]]:
    """F per atom in kT in the cell of the windows, where fresh samples are drawn."""
    entry = md.results["estimates"]["mbar"]["beta_F_per_atom"]
    values = {**md.cell_values(model), **table.values}
    found = sample_state(model, values, config, config.seed + 2, share).free_energy / (table.kt * table.n_atoms)
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    cell = {name: values[name] for name in table.names}
    return [
        _row(
            "beta F per atom",
            "",
            md,
            (found.mean(), error, entry["value"], entry["error"]),
            len(found),
            state=dict(table.values),
            cell=cell,
        )
    ]
