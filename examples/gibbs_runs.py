# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the examples of Gibbs free energies: molecular dynamics beside a conditional model, at the cell that the model finds.

For one crystal at one T and P: `gibbs` finds the cell; `md --mode npt` measures it at that P, and `md --mode mbar` the Helmholtz free
energy F in it, F + PV of molecular dynamics alone; `gibbs -md` puts all of them side by side.
"""

from dataclasses import dataclass

from command_runs import words, z_score

NO_EXTRAS = ("sample.picture=false", "estimate.report=false", "estimate.rdf_samples=20", "estimate.n_bootstraps=200")


@dataclass(frozen=True)
class Place:
    """A crystal at one T, P and size.

    Attributes:
        folder: Of all its runs, below the folder of the example.
        model: Name of the run of its model.
        crystal: Words of script and replicate.
        variables: Words of T and parameters for the molecular dynamics.
        conditions: Words of T and parameters for the model.
        pressure: In the script's unit.
        barostat: How the cell may change in the molecular dynamics.
        stand_in: A cell for the commands of a dry run.
    """

    folder: str
    model: str
    crystal: tuple[str, ...]
    variables: tuple[str, ...]
    conditions: tuple[str, ...]
    pressure: float
    barostat: str
    stand_in: dict[str, float]


def run_beside(commands, place, settings, seed):
    """All commands at a place.

    Args:
        commands: Runs them.
        place: Crystal and state.
        settings: For `cell`, the first, short search of the cell, and for `gibbs`, `npt` and `mbar`.
        seed: Of the model; the molecular dynamics takes the next one.
    """
    replicate = place.crystal[place.crystal.index("-rep") :]
    state = ["-P", f"{place.pressure:g}", *place.conditions]
    own = ["-model", commands.folder(place.model), *replicate, *state, "--seed", str(seed)]
    commands.make(f"{place.folder}/cell", "gibbs", *own, *words(*settings["cell"]), "--allow-red")
    strain = ["--strain", *cell_words(commands, f"{place.folder}/cell", place.stand_in)]
    md = [*place.crystal, *place.variables, *strain, "--seed", str(seed + 1)]
    barostat = ["-var", "P", f"{place.pressure:g}", *words(f"md.cell={place.barostat}", *settings["npt"], *NO_EXTRAS)]
    commands.make(f"{place.folder}/npt", "md", *md, "--mode", "npt", *barostat, "--allow-red")
    commands.make(f"{place.folder}/mbar", "md", *md, "--mode", "mbar", *words(*settings["mbar"], *NO_EXTRAS), "--allow-red")
    runs = ["-md", commands.folder(f"{place.folder}/npt"), commands.folder(f"{place.folder}/mbar")]
    commands.make(f"{place.folder}/gibbs", "gibbs", *own, *words(*settings["gibbs"]), *runs, "--allow-red")


def cell_words(commands, name, stand_in):
    """The cell of a finished `gibbs` as words of --strain; in a dry run before there is one, a cell that stands for it."""
    if name in commands.finished:
        stand_in = {key: entry["value"] for key, entry in commands.results(name)["gibbs"]["states"][0]["cell"].items()}
    return [f"{key}={value:.5f}" for key, value in stand_in.items()]


def numbers_of(commands, folder, nktv2p):
    """What flow and molecular dynamics say of a place: energies in kT per atom, volumes per atom.

    Args:
        commands: Where the runs are.
        folder: Of the place.
        nktv2p: Pressure units per energy per volume.
    """
    results, mbar, npt = (commands.results(f"{folder}/{name}") for name in ("gibbs", "mbar", "npt"))
    state, n = results["gibbs"]["states"][0], results["system"]["n_atoms"]
    # T of the state may be another one than that of the script, which `system` knows
    kt = state["state"]["T"] / (results["system"]["temperature"] * results["system"]["beta"])
    found = mbar["estimates"]["mbar"]["beta_F_per_atom"]
    volume = mbar["system"]["volume"] / n
    product = state["pressure"] * volume / (nktv2p * kt)
    known = found["value"] is not None
    md = {"value": found["value"] + product if known else None, "error": found["error"]}
    flow = state["beta_G_per_atom"]
    own = {"md_volume": {key: npt["npt"]["volume"][key] / n for key in ("value", "error")}}
    return {
        "n_atoms": n,
        "temperature": state["state"]["T"],
        "pressure": state["pressure"],
        "kt": kt,
        "flow": flow,
        "md": md,
        "z": z_score(flow["value"], flow["error"], md["value"], md["error"]) if known else None,
        "cell_volume": volume,
        # F + PV in a cell other than the minimum is larger than G: by so much if MD's volume is right, and in second order
        "cell_excess": excess(state, own["md_volume"]["value"], nktv2p * kt),
        "flow_volume": state["mean_volume_per_atom"],
        **own,
        "md_pressure": pressure_in_cell(mbar["md"]["pressure"], state),
        "cell": state["cell"],
        "compressibility": state["compressibility"],
        "ess": state["ess"],
        "check": state["check"],
        "comparison": results["gibbs"]["comparison"],
        "verdicts": {name: entry["verdict"]["colour"] for name, entry in (("gibbs", results), ("npt", npt), ("mbar", mbar))},
    }


def pressure_in_cell(found, state):
    """Pressure of the dynamics in the cell that the flow found, and its z against P, with the error of the flow's volume."""
    if found["value"] is None:
        return {"value": None, "error": None, "z": None}
    volume = state["volume_per_atom"]
    spread = volume["error"] / (volume["value"] * state["compressibility"]["value"])
    return {
        "value": found["value"],
        "error": found["error"],
        "z": z_score(found["value"], found["error"], state["pressure"], spread),
    }


def excess(state, md_volume, scale):
    """beta/N times what F + PV rises by (dV)^2 / (2 kappa V), with dV the difference of both mean volumes."""
    volume, kappa = state["volume_per_atom"]["value"], state["compressibility"]["value"]
    change = md_volume - state["mean_volume_per_atom"]["value"]
    return change**2 / (2 * kappa * volume * scale)


def all_z(places):
    """Every z-score of `gibbs -md`."""
    return [row["z"] for place in places for row in place["comparison"] if row["z"] is not None]
