# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of results.json that several commands write: the system, and estimates per atom with their terms."""

import math
from typing import Any

from lammps_bg.results import estimate_block
from lammps_bg.study.problem import Problem
from lammps_bg.thermo import free_energy
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.verdict import Verdict, reported


def system_entry(problem: Problem) -> dict[str, Any]:
    """The crystal and its state."""
    crystal, units = problem.crystal, problem.units
    return {
        "n_atoms": crystal.n_sites,
        "units": units.name,
        "temperature": problem.temperature,
        "beta": problem.beta,
        "species": sorted(set(crystal.species)),
        "space_group": crystal.unit.space_group,
        "replicate": list(crystal.replicate),
        "cell": crystal.supercell.tolist(),
        "volume": crystal.volume,
        "pair_style": problem.engine.pair_style,
        "static_energy_per_atom": problem.surface.static_energy / crystal.n_sites,
        "length_scale": {"value": problem.length_scale, "unit": units.labels.length, "source": problem.length_source},
        "site_multiplicity": free_energy.site_multiplicity(crystal.n_primitive, crystal.n_sites),
    }


def conventions_entry(problem: Problem) -> dict[str, Any]:
    """How F is meant here, and what to add to the values of other programs to compare them.

    calphy takes the centre of mass as free in the whole cell V; here it is free in V/N, one labelling of the sites.
    """
    difference = math.log(problem.crystal.n_sites) / problem.crystal.n_sites
    return {
        "F": "-kT ln[Z / (N! Lambda^3N)], configurational, one crystal, centre of mass free in the cell, one labelling of the sites (V/N)",
        "calphy": {
            "text": "calphy: F + kT ln(N)/N per atom is this F, with Lambda the thermal de Broglie wavelength",
            "add_to_calphy_kT_per_atom": difference,
            "add_to_calphy": difference / problem.beta,
            "unit": _energy_unit(problem),
        },
    }


def estimate_entry(result: EstimateResult, verdict: Verdict | None, problem: Problem) -> dict[str, Any]:
    """An absolute estimate: per atom in kT, with its terms, and in the script's energy unit.

    Args:
        result: beta F / N.
        verdict: Withholds the number where it is not reliable; None shows it.
        problem: Temperature and units.
    """
    shown = reported(result, verdict) if verdict is not None else result.to_dict()
    return estimate_block(shown, shown.pop("terms"), kt=1.0 / problem.beta, in_unit=_energy_unit(problem))


def missing_entry(n: int, note: str, problem: Problem) -> dict[str, Any]:
    """An estimate that came to no number, with the samples it would rest on and why there is none."""
    nothing = {"value": None, "error": None, "interval": None, "n": n, "note": note}
    return estimate_block(nothing, {}, kt=1.0 / problem.beta, in_unit=_energy_unit(problem))


def _energy_unit(problem: Problem) -> str:
    return f"{problem.units.labels.energy} per atom"
