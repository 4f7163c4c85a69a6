# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples at constant pressure on disk: exact.csv, exact.dump.gz, their entries of results.json, and exact.pt to go on from."""

from typing import Any

import numpy as np

from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import SHEARS
from lammps_bg.engine.dump import DumpWriter
from lammps_bg.store.chain_file import CHAINS, ChainFile
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.isobaric import CrystalCells, IsobaricResult
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.isobaric import Isobar
from lammps_bg.thermo.timeseries import Fixed

_TABLE, _DUMP = "exact.csv", "exact.dump.gz"
_COLUMNS = ("sample", "chain", "step", "pe", "log_w", "volume")


def chain_file(run: RunDirectory, config: Config, crystal: CrystalCells, isobar: Isobar) -> ChainFile:
    """The chains of a run at constant pressure.

    Args:
        run: The run directory, with the model.
        config: The configuration.
        crystal: The crystal in any cell.
        isobar: Its cells at the pressure.
    """

    def depends_on() -> dict[str, Any]:
        return {
            "model": sha256(run.file("model.pt")), "seed": config.seed, "chains": config.exact.chains,
            "n_dump": config.exact.n_dump, "energies": crystal.problem.source, "judge": config.energy.judge,
            "device": config.device, "fixed": dict(crystal.fixed), "pressure": isobar.pressure, "names": list(crystal.names),
        }  # fmt: skip

    return ChainFile(run.file(CHAINS), run.file(CHAINS), depends_on)


def write_table(found: IsobaricResult, run: RunDirectory) -> None:
    """exact.csv: a line for each sample of each chain, with its cell."""
    chains, names, cells = found.chains, found.crystal.names, found.cells
    n_steps, n_chains = cells.shape[:2]
    steps, numbers = np.divmod(np.arange(n_steps * n_chains), n_chains)
    columns = [chains.series("energies").ravel(), chains.series("log_w").ravel(), chains.isobar.volumes(cells).ravel()]
    columns += list(cells.reshape(-1, len(names)).T)
    # "volume" is the volume itself, as in the tables of MD; its cell variable ln V/V0 has a name of its own
    rows = [",".join((*_COLUMNS, *("ln_volume" if name == "volume" else name for name in names)))]
    for index, (chain, step, *values) in enumerate(
        zip(numbers.tolist(), steps.tolist(), *(c.tolist() for c in columns), strict=True)
    ):
        rows.append(",".join([str(index), str(chain), str(step), *map(repr, values)]))
    run.write_text(_TABLE, "\n".join(rows) + "\n")


def write_dump(found: IsobaricResult, run: RunDirectory) -> None:
    """exact.dump.gz: frames of steps that are independent, where there are enough of them, each in its cell."""
    path, crystal, problem = run.file(_DUMP), found.crystal, found.crystal.problem
    path.unlink(missing_ok=True)
    if not len(found.frames):
        return
    energies, boxes = found.chains.series("energies").ravel(), found.boxes.reshape(-1, 3, 3)
    triclinic = problem.engine.triclinic or any(name in SHEARS for name in crystal.names)
    with DumpWriter(path, problem.crystal, units=problem.units.name, triclinic=triclinic) as dump:
        for index, u in zip(found.indices.tolist(), found.frames, strict=True):
            cell = boxes[index]
            dump.write(index, problem.crystal.sites_in(cell) + u, None, energy=float(energies[index]), cell=cell)


def npt_entry(found: IsobaricResult) -> dict[str, Any]:
    """The block `npt` of results.json: as that of `lammps-bg md --mode npt`, with the fluctuations of the volume."""
    labels, n_atoms, averages = found.crystal.problem.units.labels, found.crystal.n_sites, found.averages
    factor = 1.0 / found.crystal.problem.units.nktv2p
    means = {name: _number(mean) for name, mean in found.cell_averages().items()}
    return {
        "pressure": found.pressure,
        "free": list(found.crystal.names),
        "mean": found.boxes.mean((0, 1)).tolist(),
        **means,
        "volume": _number(averages.volume),
        "volume_fluctuation": {**_number(averages.variance), "unit": f"{labels.length}^6"},
        "isothermal_compressibility": {**_number(averages.compressibility, factor), "unit": f"1/({labels.pressure})"},
        "potential_energy_per_atom": {**_number(averages.energy, 1 / n_atoms), "unit": labels.energy},
        "near_edge": dict(averages.near_edge),
        "unit": labels.length,
        "pressure_unit": labels.pressure,
    }


def exact_entry(found: IsobaricResult) -> dict[str, Any]:
    """The block `exact`: how the chains moved."""
    chains, averages = found.chains, found.averages
    return {
        "reason": "constant pressure", "n_samples": averages.n_samples, "n_independent": averages.n_independent,
        "evaluations": chains.evaluations, "evaluations_per_sample": (chains.leaps + 1) * averages.inefficiency,
        "acceptance": float(chains.series("acceptance").mean()), "step": chains.step, "leaps": chains.leaps,
        "cell_acceptance": float(chains.series("cell_acceptance").mean()), "cell_angle": chains.angle,
        "inefficiency": averages.inefficiency, "r_hat": averages.r_hat, "chains": chains.n_chains,
        "n_infinite": int(chains.series("infinite").sum()), "seconds": found.seconds,
        "files": {"frames": _DUMP, "table": _TABLE},
    }  # fmt: skip


def _number(value: EstimateResult | Fixed, factor: float = 1.0) -> dict[str, float]:
    return {"value": value.value * factor, "error": value.error * factor}
