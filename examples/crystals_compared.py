# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by figures 5 and 6: Gibbs free energies of several crystals over one parameter of their potential.

For each crystal a model over cells and the parameter, molecular dynamics at constant pressure at some values, lambda windows in the mean
cell of that dynamics, and the flow's Gibbs free energies beside both; then the differences of the crystals along the parameter.
"""

import math
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from command_runs import signed, words, z_score
from scipy.interpolate import make_interp_spline

from lammps_bg.report.figures.style import INK
from lammps_bg.results import NOTHING, with_error

FIRST, LARGE = "trained", "large"
"""The size that the models are trained at, and the one that they are applied to without training."""


@dataclass(frozen=True)
class Crystal:
    """A crystal and what is particular to it.

    Attributes:
        title: Its name in text and figure.
        script: LAMMPS script in inputs/.
        atoms: In the cell of the script.
        sizes: Unit cells along each edge by size.
        settings: Of its training.
        cell: How its cell may change in the molecular dynamics.
        colour: In the figure.
        lasting: Molecular dynamics stays in this crystal. Else it is no reference: one run at constant pressure shows what becomes of
            the crystal, and nothing is compared with it.
    """

    title: str
    script: str
    atoms: int
    sizes: dict[str, tuple[int, int, int]]
    settings: tuple[str, ...]
    cell: str = "iso"
    colour: str = "k"
    lasting: bool = True

    def n_atoms(self, size):
        """Atoms at a size."""
        return self.atoms * math.prod(self.sizes[size])


@dataclass(frozen=True)
class Scan:
    """What is evaluated, how large and how long.

    Attributes:
        name: The parameter.
        trained: Its trained range.
        values: Where Gibbs free energies and volumes are given.
        md: Where molecular dynamics stands beside them; among `values`.
        segments: Parts of the range in each of which the differences are followed at five nodes.
        sizes: Of the evaluation.
        train: Settings of every training.
        gibbs: Settings of the Gibbs free energies by size.
        pressure: Settings of the molecular dynamics at constant pressure by size.
        windows: Settings of the lambda windows by size.
        more: Settings of one crystal's training in this profile.
    """

    name: str
    trained: tuple[float, float]
    values: tuple[float, ...]
    md: tuple[float, ...]
    segments: tuple[tuple[float, float], ...]
    sizes: tuple[str, ...]
    train: tuple[str, ...]
    gibbs: dict[str, tuple[str, ...]]
    pressure: dict[str, tuple[str, ...]]
    windows: dict[str, tuple[str, ...]]
    more: dict[str, tuple[str, ...]] = field(default_factory=dict)


# ---- commands ------------------------------------------------------------------------------------------------------------------


def run_crystal(commands, key, crystal, scan, seed):
    """Model, molecular dynamics and Gibbs free energies of one crystal."""
    low, high = scan.trained
    settings = (f"condition.parameters.{scan.name}=[{low:g},{high:g}]", *scan.train, *crystal.settings, *scan.more.get(key, ()))
    # the last word of the folder names the crystal in the results of `phase`
    commands.make(f"models/{key}", "train", *source(crystal, FIRST), "--seed", str(seed), *words(*settings))
    for size in scan.sizes:
        runs = [run for value in scan.md for run in run_dynamics(commands, key, crystal, scan, size, value, seed + 1)]
        grid = ["-rep", *map(str, crystal.sizes[size]), "-var", scan.name, *(f"{value:g}" for value in scan.values)]
        beside = ["-md", *map(commands.folder, runs)] if runs else []
        arguments = ["-model", commands.folder(f"models/{key}"), *grid, *beside, *words(*scan.gibbs[size]), "--allow-red"]
        commands.make(f"{key}/gibbs_{size}", "gibbs", *arguments)


def run_dynamics(commands, key, crystal, scan, size, value, seed):
    """Molecular dynamics at constant pressure, then lambda windows in its mean cell; the names of the runs to compare with."""
    common = [*source(crystal, size), "-var", scan.name, f"{value:g}", "--seed", str(seed)]
    npt, mbar = (f"{key}/{mode}_{size}_{value:g}" for mode in ("npt", "mbar"))
    settings = words(f"md.cell={crystal.cell}", *scan.pressure[size])
    if crystal.lasting or (size, value) == (FIRST, scan.md[0]):
        commands.make(npt, "md", *common, "--mode", "npt", *settings, "--allow-red")
    if not crystal.lasting:
        return ()
    strain = ["--strain", *mean_cell(commands, npt, crystal)]
    commands.make(mbar, "md", *common, "--mode", "mbar", *strain, *words(*scan.windows[size]), "--allow-red")
    return npt, mbar


def source(crystal, size):
    return ["-in", f"inputs/{crystal.script}", "-rep", *map(str, crystal.sizes[size])]


def mean_cell(commands, npt, crystal):
    """The mean cell of a run at constant pressure for --strain; place holders where it has not been run."""
    names = ("volume",) if crystal.cell == "iso" else ("volume", "c/a")
    if npt not in commands.finished:
        return [f"{name}=MEAN" for name in names]
    results = commands.results(npt)
    a, b, c = np.diag(results["system"]["cell"])
    lx, ly, lz = (results["npt"][edge]["value"] for edge in ("lx", "ly", "lz"))
    volume = results["npt"]["volume"]["value"]
    found = {"volume": math.log(volume / (a * b * c)), "c/a": math.log(lz / math.sqrt(lx * ly)) - math.log(c / math.sqrt(a * b))}
    return [f"{name}={found[name]:.4f}" for name in names]


def compare_crystals(commands, crystals, scan, size, segment, number, seed):
    """The differences of the crystals that last in dynamics along a part of the parameter's range; the others may have no minimum there."""
    crystals = {key: crystal for key, crystal in crystals.items() if crystal.lasting}
    low, high = scan.segments[segment]
    models = [commands.folder(f"models/{key}") for key in crystals]
    copies = [word for crystal in crystals.values() for word in ("-rep", *map(str, crystal.sizes[size]))]
    other = ["--other-sizes"] if len({crystal.n_atoms(size) for crystal in crystals.values()}) > 1 else []
    limits = ["--axis", scan.name, "--range", f"{low:g}", f"{high:g}"]
    arguments = ["-models", *models, *limits, *copies, *other, "--seed", str(seed), *words(*scan.gibbs[size]), "--allow-red"]
    commands.make(f"phase/{size}_{number}", "phase", *arguments)


def chains(commands, crystals, scan, seed):
    """What can run side by side: first each crystal, then each part of each comparison."""
    single = [lambda key=key: run_crystal(commands, key, crystals[key], scan, seed) for key in crystals]
    parts = [(size, part) for size in scan.sizes for part in range(len(scan.segments))]
    joint = [lambda s=size, p=part: compare_crystals(commands, crystals, scan, s, p, p, seed) for size, part in parts]
    return single, joint


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def collect(commands, crystals, scan):
    """Rows of Gibbs free energies, and the differences at the values and along the parameter."""
    rows = [
        row for key, crystal in crystals.items() for size in scan.sizes for row in rows_of(commands, key, crystal, scan, size)
    ]
    return {
        "rows": rows,
        "differences": differences(rows, crystals),
        "curves": [
            curve
            for size in scan.sizes
            for number in range(len(scan.segments))
            for curve in curves_of(commands.results(f"phase/{size}_{number}"), size)
        ],
        "verdicts": [verdict_of(commands, key, size) for key in crystals for size in scan.sizes],
    }


def verdict_of(commands, key, size):
    """What the program thinks of the Gibbs free energies of a crystal."""
    found = commands.results(f"{key}/gibbs_{size}")["verdict"]
    return {"crystal": key, "size": size, "colour": found["colour"], "reasons": found["reasons"]}


def rows_of(commands, key, crystal, scan, size):
    """One row for each value: G in kT, volume and cell, the same from molecular dynamics where there is some, and z."""
    found = commands.results(f"{key}/gibbs_{size}")
    states = found["gibbs"]["states"]
    rows = []
    for state in states:
        value = state["state"][scan.name]
        row = {
            "crystal": key, "size": size, "n_atoms": crystal.n_atoms(size), "value": value, "beta_G": state["beta_G_per_atom"],
            "density": inverse(state["volume_per_atom"]), "cell": state["cell"], "ess": state["ess"], "check": state["check"],
            "pressure": state["pressure"], "md": None,
        }  # fmt: skip
        if value in scan.md and crystal.lasting:
            row["md"] = beside(commands, found, state, value, key, size)
        rows.append(row)
    return rows


def inverse(entry):
    """1 / x with its error."""
    return {"value": 1 / entry["value"], "error": entry["error"] / entry["value"] ** 2}


def beside(commands, found, state, value, key, size):
    """Molecular dynamics of one state: the comparisons that the program made, the density, and G = F + P V in the windows' cell."""
    npt, mbar = (f"{mode}_{size}_{value:g}" for mode in ("npt", "mbar"))
    compared = [row for row in found["gibbs"]["comparison"] if row["md_run"] in (npt, mbar)]
    dynamics, windows = (commands.results(f"{key}/{name}") for name in (npt, mbar))
    system = windows["system"]
    # F + P V is smallest in the mean cell, whose error counts in second order only
    beta_pv = system["beta"] * state["PV_per_atom"] * system["volume"] / system["n_atoms"] / state["volume_per_atom"]["value"]
    free = windows["estimates"]["mbar"]["beta_F_per_atom"]
    gibbs = {"value": free["value"] + beta_pv, "error": free["error"]}
    own = state["beta_G_per_atom"]
    volume = {name: dynamics["npt"]["volume"][name] / system["n_atoms"] for name in ("value", "error")}
    return {
        "comparison": [{name: row[name] for name in ("quantity", "flow", "md", "z")} for row in compared],
        "density": inverse(volume),
        "beta_G": gibbs,
        "z_G": z_score(own["value"], own["error"], gibbs["value"], gibbs["error"]),
    }


def differences(rows, crystals):
    """G of the second crystal minus that of the first, in kT per atom, at each value, by flow and by molecular dynamics."""
    found = {(row["crystal"], row["size"], row["value"]): row for row in rows}
    result = []
    for size, value in dict.fromkeys((row["size"], row["value"]) for row in rows):
        for first, second in combinations(crystals, 2):
            pair = [found.get((key, size, value)) for key in (second, first)]
            if not all(pair):
                continue  # refused: a crystal without a minimum inside its trained cells
            entry = {"first": first, "second": second, "size": size, "value": value, "md": None, "z": None}
            entry["flow"] = minus(*(row["beta_G"] for row in pair))
            if all(row["md"] for row in pair):
                entry["md"] = minus(*(row["md"]["beta_G"] for row in pair))
                entry["z"] = z_score(*entry["flow"].values(), *entry["md"].values())
            result.append(entry)
    return result


def minus(one, two):
    return {"value": one["value"] - two["value"], "error": math.hypot(one["error"], two["error"])}


def curves_of(results, size):
    """Differences along the axis in kT per atom, with the crossings, from results.json of `phase`."""
    beta = results["system"]["beta"]
    curves = []
    for entry in results["phase"]["differences"]:
        per_atom = entry["difference_per_atom"]
        roots = [{name: root[name] for name in ("value", "error", "established")} for root in entry["crossings"]["roots"]]
        curves.append(
            {
                "first": entry["first"], "second": entry["second"], "size": size, "axis": entry["axis"],
                "value": [beta * v for v in per_atom["value"]], "error": [beta * e for e in per_atom["error"]],
                "roots": roots, "sign_known": entry["crossings"]["sign_known"], "sentence": entry["crossings"]["sentence"],
            }
        )  # fmt: skip
    return curves


def all_z(results):
    """Every comparison with molecular dynamics."""
    own = [c["z"] for row in results["rows"] if row["md"] for c in row["md"]["comparison"]]
    return own + [entry["z"] for entry in results["differences"] if entry["z"] is not None]


# ---- table ---------------------------------------------------------------------------------------------------------------------


def table_of_states(results, crystals, name, unit):
    """Table lines: G and density of each crystal at each value, the flow beside molecular dynamics."""
    lines = [
        f"| crystal | N | {name} | beta G/N | MD | z (F) | density, {unit} | MD | z (volume) | lowest ESS |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        md = row["md"]
        z = {c["quantity"]: c["z"] for c in md["comparison"]} if md else {}
        cells = [
            crystals[row["crystal"]].title,
            str(row["n_atoms"]),
            f"{row['value']:g}",
            with_error(**row["beta_G"]),
            with_error(**md["beta_G"]) if md else "",
            signed(z.get("beta F per atom")) if md else "",
            with_error(**row["density"]),
            with_error(**md["density"]) if md else "",
            signed(z["volume per atom"]) if "volume per atom" in z else "",
            f"{row['ess']['lowest']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_of_differences(results, crystals, name):
    """Table lines: differences at the values."""
    lines = [f"| difference | N | {name} | flow, kT per atom | MD | z |", "|---|--:|--:|--:|--:|--:|"]
    for entry in results["differences"]:
        first, second = (crystals[entry[which]] for which in ("first", "second"))
        n = numbers_of(crystals, (entry["second"], entry["first"]), entry["size"])
        md = with_error(**entry["md"]) if entry["md"] else ""
        cells = [f"{second.title} − {first.title}", n, f"{entry['value']:g}", with_error(**entry["flow"]), md, signed(entry["z"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_of_crossings(results, crystals, name, static):
    """Table lines: crossings along the parameter with their errors.

    Args:
        results: From `collect`.
        crystals: By key.
        name: The parameter.
        static: Its crossings at T = 0 by pair.
    """
    lines = [f"| pair | N | equal G at {name} | static, T = 0 |", "|---|--:|--:|--:|"]
    joined = {}
    for curve in results["curves"]:
        joined.setdefault((curve["first"], curve["second"], curve["size"]), []).append(curve)
    for (first, second, size), parts in joined.items():
        one, two = crystals[first], crystals[second]
        n = numbers_of(crystals, (first, second), size)
        roots = [root for part in parts for root in part["roots"]]
        found = ", ".join(with_error(r["value"], r["error"]) + ("" if r["established"] else " (not established)") for r in roots)
        span = "none" if all(part["sign_known"] for part in parts) else "sign uncertain"
        span += f" in [{parts[0]['axis'][0]:g}, {parts[-1]['axis'][-1]:g}]"
        places = ", ".join(f"{place:.3f}" for place in static.get(f"{first}/{second}", ())) or NOTHING
        lines.append(f"| {one.title} / {two.title} | {n} | {found or span} | {places} |")
    return lines


def verdict_lines(results, crystals):
    """Markdown lines: the program's own verdict on each crystal."""
    lines = ["What the program says of its Gibbs free energies:", ""]
    for entry in results["verdicts"]:
        crystal = crystals[entry["crystal"]]
        said = f"{entry['colour']}. {' '.join(entry['reasons'])}"
        lines.append(f"- {crystal.title}, {crystal.n_atoms(entry['size'])} atoms: {said}")
    return lines


def numbers_of(crystals, pair, size):
    """The numbers of atoms of two crystals in words."""
    return " and ".join(dict.fromkeys(str(crystals[key].n_atoms(size)) for key in pair))


def largest_error(results):
    """The largest standard error of a difference by flow, kT per atom, and whether it reaches the aim."""
    error = max(entry["flow"]["error"] for entry in results["differences"])
    aim = "within the aim of" if error <= 2e-3 else "above the aim of"
    return f"The largest standard error of a difference by flow is {error:.1e} kT per atom, {aim} 2e-3."


def agreement(results):
    """A sentence on all comparisons with molecular dynamics."""
    zs = [abs(z) for z in all_z(results)]
    if not zs:
        return "No molecular dynamics to compare with."
    beyond = sum(z > 3 for z in zs)
    said = f"{beyond} of them beyond 3: see the tables" if beyond else "none beyond 3"
    return f"Flow against molecular dynamics: largest |z| of {len(zs)} is {max(zs):.1f}, {said}."


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw_densities(axes, results, crystals):
    """Densities over the parameter: flow, filled at the trained size, and molecular dynamics as crosses."""
    for key, crystal in crystals.items():
        for size, fill in ((FIRST, crystal.colour), (LARGE, "white")):
            rows = [row for row in results["rows"] if (row["crystal"], row["size"]) == (key, size)]
            if not rows:
                continue
            x, y, error = zip(*((r["value"], r["density"]["value"], r["density"]["error"]) for r in rows), strict=True)
            label = f"{crystal.title}, N = {rows[0]['n_atoms']}"
            axes.errorbar(x, y, error, fmt="o", color=crystal.colour, mfc=fill, ms=5, capsize=2, label=label)
            md = [(r["value"], r["md"]["density"]) for r in rows if r["md"]]
            for value, entry in md:
                axes.errorbar(value, entry["value"], entry["error"], fmt="x", color=INK, ms=7, capsize=2, zorder=5)


def draw_difference(axes, results, crystals, pair, colour):
    """Second minus first of a pair: the curve of `phase` with its band and crossings, the values of `gibbs`, and MD as crosses."""
    first, second = pair
    for size, line, fill in ((FIRST, "-", colour), (LARGE, "--", "white")):
        curves = [c for c in results["curves"] if (c["first"], c["second"], c["size"]) == (first, second, size)]
        for index, curve in enumerate(curves):
            x, y, error = (np.asarray(curve[name]) for name in ("axis", "value", "error"))
            fine = np.linspace(x[0], x[-1], 80)
            label = f"{crystals[second].title} − {crystals[first].title}, N = {numbers_of(crystals, pair, size)}"
            axes.plot(fine, joined_up(x, y, fine), line, color=colour, lw=1.3, label=None if index else label)
            axes.fill_between(x, y - error, y + error, color=colour, alpha=0.2, lw=0)
            for root in curve["roots"]:
                axes.errorbar(root["value"], 0.0, xerr=root["error"], fmt="|", color=colour, ms=13, capsize=2)
        for entry in (e for e in results["differences"] if (e["first"], e["second"], e["size"]) == (first, second, size)):
            flow, md = entry["flow"], entry["md"]
            axes.errorbar(entry["value"], flow["value"], flow["error"], fmt="o", color=colour, mfc=fill, ms=5, capsize=2)
            if md:
                axes.errorbar(entry["value"], md["value"], md["error"], fmt="x", color=INK, ms=7, capsize=2, zorder=5)


def joined_up(x, y, fine):
    """The curve that `phase` draws through its nodes: a cubic spline through five points."""
    return make_interp_spline(x, y, k=min(3, len(x) - 1))(fine)


def zeros(x, y):
    """Places where a tabulated function changes its sign, by linear interpolation."""
    x, y = np.asarray(x), np.asarray(y)
    at = np.flatnonzero(np.sign(y[:-1]) * np.sign(y[1:]) < 0)
    return [float(x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])) for i in at]
