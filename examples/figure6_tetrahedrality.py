# SPDX-License-Identifier: GPL-2.0-or-later
"""Generalised Stillinger-Weber crystals over the strength of the three-body term: diamond cubic, beta-tin and BCC at 75 K and P = 0.

    python examples/figure6_tetrahedrality.py                    # quick: about 14 minutes on two cores
    python examples/figure6_tetrahedrality.py --profile paper    # longer training, 1728 atoms: days, on many cores
    python examples/figure6_tetrahedrality.py --dry-run          # the commands alone

As in Fig. 6 of Schebek, Noe and Rogal, Nat. Commun. 17, 5010 (2026): one model for each crystal over cell and lambda, trained at 64, 64
and 54 atoms and applied, without training, to larger crystals of equally many atoms. Their grid of lambda and their pressures are in
no file that we could read; T = 75 K and the numbers of atoms are from their settings, P = 0 is our choice, and so is the
range of lambda. The reference is molecular dynamics: volumes at constant pressure, and lambda windows with MBAR in the mean cell; not
for beta-tin, which molecular dynamics at 75 K leaves within picoseconds for the displaced structure t-X.

Writes figure6_tetrahedrality.json, .md (tables) and .png from results.json of the runs. Needs: pip install 'lammps-bg[plot]'.
"""

import itertools
import math
import sys

import numpy as np
from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed
from crystals_compared import (
    FIRST,
    LARGE,
    Crystal,
    Scan,
    agreement,
    chains,
    collect,
    draw_densities,
    draw_difference,
    inverse,
    largest_error,
    table_of_crossings,
    table_of_differences,
    table_of_states,
    verdict_lines,
    zeros,
)
from matplotlib.figure import Figure
from scipy.optimize import minimize

from lammps_bg.report.figures.style import COLOURS

NAME = "figure6_tetrahedrality"
# epsilon (kcal/mol), sigma (Angstrom), range, gamma, cos(theta_0), A, B of the scripts; p = 4, q = 0
EPSILON, SIGMA, REACH, GAMMA, COSINE, A, B = 6.189, 2.3925, 1.8, 1.2, -1 / 3, 7.049556277, 0.6022245584
BOLTZMANN, TEMPERATURE = 0.0019872067, 75.0  # kcal/mol/K as LAMMPS has it, K
# Static lattices: basis in units of the second entry, edge a (Angstrom) and c/a to start the minimisation from; None: cubic
LATTICES = {
    "diamond": ([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0), (1, 1, 1), (1, 3, 3), (3, 1, 3), (3, 3, 1)], 4, 6.2, None),
    "betatin": ([(0, 0, 0), (0, 2, 1), (2, 2, 2), (2, 0, 3)], 4, 5.65, 0.5535),
    "bcc": ([(0, 0, 0), (1, 1, 1)], 2, 3.67, None),
}
CRYSTALS = {
    "diamond": Crystal(
        "diamond", "in.gsw_diamond", 8, {FIRST: (2, 2, 2), LARGE: (3, 3, 3)},
        ("condition.volume=[-0.02,0.035]",), colour=COLOURS["flow"],
    ),
    "betatin": Crystal(
        "beta-tin", "in.gsw_betatin", 4, {FIRST: (2, 2, 4), LARGE: (3, 3, 6)},
        # from the harmonic crystal: a self-consistent one is wide enough to take in displaced sites, on the way to t-X
        ("condition.volume=[-0.012,0.022]", "condition.c_over_a=[-0.012,0.012]", "base.iterations=0"), "aniso",
        COLOURS["reweighted"], lasting=False,
    ),
    # below this volume, or above this lambda, its harmonic crystal has negative modes and the program refuses the base
    "bcc": Crystal(
        "BCC", "in.gsw_bcc", 2, {FIRST: (3, 3, 3), LARGE: (3, 6, 6)},
        ("condition.volume=[-0.009,0.025]",), colour=COLOURS["md"],
    ),
}  # fmt: skip
MD = ("estimate.report=false", "sample.picture=false", "md.n_dump=0")
NPT = (*MD, "md.timestep=2", "md.damp=100", "md.pressure_damp=500", "md.sample_every=50")
MBAR = (*MD, "md.timestep=4", "md.damp=40", "md.sample_every=10")
RANGE = (18.1, 19.05)
PROFILES = {
    "quick": Scan(
        name="lambda",
        trained=RANGE,
        values=(18.2, 18.7, 19.0),
        md=(18.7,),
        segments=(RANGE,),
        sizes=(FIRST, LARGE),
        train=("base.pilot_steps=0", "train.steps=1000000", "train.max_seconds=100"),
        gibbs={FIRST: ("gibbs.n_volumes=5", "gibbs.n_samples=128"), LARGE: ("gibbs.n_volumes=5", "gibbs.n_samples=48")},
        pressure={FIRST: (*NPT, "md.n_frames=200"), LARGE: (*NPT, "md.n_frames=100")},
        windows=dict.fromkeys((FIRST, LARGE), (*MBAR, "md.window_frames=100", "md.target_error=2e-3")),
    ),
    "paper": Scan(
        name="lambda",
        trained=RANGE,
        values=(18.2, 18.3, 18.4, 18.5, 18.6, 18.7, 18.8, 18.9, 19.0),
        md=(18.4, 18.7, 18.9),
        segments=(RANGE,),
        sizes=(FIRST, LARGE),
        train=("train.steps=200000", "train.batch_size=128", "condition.pool=1024"),
        gibbs=dict.fromkeys((FIRST, LARGE), ("gibbs.n_samples=4096",)),
        pressure=dict.fromkeys((FIRST, LARGE), (*NPT, "md.n_frames=4000", "md.max_steps=50000000")),
        windows=dict.fromkeys((FIRST, LARGE), (*MBAR, "md.target_error=2e-4", "md.max_steps=50000000")),
    ),
    "tiny": Scan(
        name="lambda",
        trained=RANGE,
        values=(18.7,),
        md=(18.7,),
        segments=(RANGE,),
        sizes=(FIRST,),
        train=("base.pilot_steps=0", "condition.base_samples=60", "condition.pool=16", "train.steps=30", "flow.width=16"),
        gibbs={FIRST: ("gibbs.n_volumes=5", "gibbs.n_samples=16", "gibbs.n_repeats=4")},
        pressure={FIRST: (*NPT, "md.n_frames=50")},
        windows={FIRST: (*MBAR, "md.window_frames=50", "md.target_error=0.05")},
    ),
}
PAPER_LARGE = {"diamond": (6, 6, 6), "betatin": (6, 6, 12), "bcc": (8, 9, 12)}


def crystals_of(profile):
    """The crystals with the sizes of a profile."""
    if profile != "paper":
        return CRYSTALS
    return {
        key: Crystal(**{**vars(crystal), "sizes": {**crystal.sizes, LARGE: PAPER_LARGE[key]}})
        for key, crystal in CRYSTALS.items()
    }


# ---- energies of the lattices at T = 0 -----------------------------------------------------------------------------------------


def static_terms(key, edge, ratio, shifts=0.0):
    """Two-body energy, and three-body energy for lambda = 1, of an atom of the perfect lattice, epsilon.

    Args:
        key: The lattice; its atoms are equivalent.
        edge: a, Angstrom.
        ratio: c / a.
        shifts: Of the sites of the cell, in edges.
    """
    basis, unit, *_ = LATTICES[key]
    cells = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    sites = (cells[:, None] + np.array(basis) / unit + shifts).reshape(-1, 3) * edge * np.array([1.0, 1.0, ratio]) / SIGMA
    r = np.linalg.norm(sites, axis=1)
    near = (r > 0) & (r < REACH)
    vectors, r = sites[near], r[near]
    pairs = 0.5 * np.sum(A * (B / r**4 - 1) * np.exp(1 / (r - REACH)))
    screen = np.exp(GAMMA / (r - REACH))
    cosines = (vectors @ vectors.T) / np.outer(r, r)
    triplets = np.outer(screen, screen) * (cosines - COSINE) ** 2
    return float(pairs), float(0.5 * (triplets.sum() - np.trace(triplets)))


def static_energy(key, value):
    """Smallest energy per atom over the cell at a value of lambda, epsilon, and the number density there, 1/Angstrom^3."""
    basis, _, edge, ratio = LATTICES[key]
    start = [edge] if ratio is None else [edge, ratio]

    def energy(x):
        pair, triplet = static_terms(key, x[0], x[1] if len(x) > 1 else 1.0)
        return pair + value * triplet

    found = minimize(energy, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    c = found.x[1] if len(start) > 1 else 1.0
    return float(found.fun), float(len(basis) / (found.x[0] ** 3 * c))


def static_energies(n=14):
    """E over lambda of each lattice, relative to diamond, in kT at the temperature of the scripts; crossings of each pair."""
    values = np.linspace(18.0, 19.3, n)
    energies = {key: np.array([static_energy(key, value)[0] for value in values]) for key in LATTICES}
    crossings = {
        f"{first}/{second}": zeros(values, energies[second] - energies[first])
        for first, second in itertools.combinations(LATTICES, 2)
    }
    scale = EPSILON / (BOLTZMANN * TEMPERATURE)
    over = {key: (scale * (energies[key] - energies["diamond"])).tolist() for key in LATTICES}
    return {"values": values.tolist(), "over_diamond": over, "crossings": crossings}


def displaced_path(value):
    """E of beta-tin with its four sites displaced towards t-X, cell relaxed, minus that of beta-tin, kT per atom; barrier and lowest.

    Args:
        value: Of lambda.
    """
    energies, x = [], [LATTICES["betatin"][2], LATTICES["betatin"][3]]
    places = np.arange(0.0, 0.0851, 0.005)
    for delta in places:
        found = minimize(displaced_energy, x, args=(delta, value), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-8})
        x = found.x
        energies.append(found.fun)
    over = (np.array(energies) - energies[0]) * EPSILON / (BOLTZMANN * TEMPERATURE)
    lowest = int(over.argmin())
    return {"delta": float(places[lowest]), "well": float(over[lowest]), "barrier": float(over[: lowest + 1].max())}


def displaced_energy(x, delta, value):
    """Energy per atom of displaced beta-tin, whose four sites stay equivalent, epsilon."""
    shifts = delta * np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])
    pair, triplet = static_terms("betatin", *x, shifts)
    return pair + value * triplet


def trapped(commands, value):
    """What becomes of beta-tin in molecular dynamics at constant pressure: density and difference of the edges along x and y."""
    found = commands.results(f"betatin/npt_{FIRST}_{value:g}")
    cell, n_atoms = found["npt"], found["system"]["n_atoms"]
    volume = {name: cell["volume"][name] / n_atoms for name in ("value", "error")}
    x, y = cell["lx"], cell["ly"]
    spread = math.hypot(*(edge["error"] / edge["value"] for edge in (x, y)))
    edges = {"value": math.log(y["value"] / x["value"]), "error": spread}
    return {"value": value, "density": inverse(volume), "edges": edges, **displaced_path(value)}


# ---- text ----------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    crystals = crystals_of(results["settings"]["profile"])
    lines = [
        "# Diamond, beta-tin and BCC of the generalised Stillinger-Weber potential",
        "",
        f"Made by `python examples/{NAME}.py --profile {results['settings']['profile']}`: epsilon and sigma of mW water, "
        f"T = {TEMPERATURE:g} K (kT = {BOLTZMANN * TEMPERATURE / EPSILON:.4f} epsilon), P = 0. One standard error everywhere.",
        "",
        "lambda multiplies what an angle other than the tetrahedral one costs. A large lambda favours diamond, where no angle costs "
        "anything, a small one BCC with its eight near neighbours; beta-tin lies between them in coordination and in energy. So G of "
        "diamond depends on lambda through its vibrations alone, while that of the others rises. What heat does to the order of the three "
        "is the distance between the last two columns of the first table.",
        "",
        agreement(results),
        "",
        largest_error(results),
        "",
        f"![Differences and densities over lambda]({NAME}.png)",
        "",
        "## Equal Gibbs free energies",
        "",
        *table_of_crossings(results, crystals, "lambda", results["static"]["crossings"]),
        "",
        *stable_text(results, crystals),
        "",
        "## Differences",
        "",
        *table_of_differences(results, crystals, "lambda"),
        "",
        "## Each crystal",
        "",
        *table_of_states(results, crystals, "lambda", "Å⁻³"),
        "",
        *verdict_lines(results, crystals),
        "",
        *trap_text(results),
        "",
        *REMARKS,
        "",
        *commands_section(results),
    ]
    return "\n".join(lines) + "\n"


REMARKS = (
    "Numbers of atoms. At the trained size there are 64, 64 and 54 atoms as published, and G per atom depends on N by the order of "
    "ln(N)/N: that difference alone is no property of the crystals. The large crystals have equally many atoms. beta G/N is that of one site "
    "class with Lambda = sigma; an integral over the whole box would lower diamond and beta-tin, two atoms in a primitive cell, by ln(2)/N.",
    "",
    "BCC loses its stability with lambda and with compression: at lambda = 21 some modes of 54 atoms are negative, at 19.5 they already "
    "are where the volume is 1 % below that of the script. The program refuses a base there, which limits the range.",
    "",
    "These crossings are those of three given crystals, not a phase diagram: t-X (see above), sc16 and the liquid are left out.",
    "",
    "Not known: the grid of lambda, the pressures and the large sizes of the published figure; nothing is compared with it.",
)


def stable_text(results, crystals):
    """Markdown lines: which crystal has the lowest G at each value, by size."""
    lines = []
    for size in dict.fromkeys(row["size"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["size"] == size]
        lowest = {
            value: min((row for row in rows if row["value"] == value), key=lambda row: row["beta_G"]["value"])
            for value in dict.fromkeys(row["value"] for row in rows)
        }
        said = "; ".join(f"lambda = {value:g}: {crystals[row['crystal']].title}" for value, row in lowest.items())
        lines.append(f"- Lowest G of the three, {'trained size' if size == FIRST else 'large crystals'}: {said}.")
    return lines


def trap_text(results):
    """Markdown lines: what becomes of beta-tin in molecular dynamics at constant pressure."""
    trap = results["trap"]
    row = next(row for row in results["rows"] if row["crystal"] == "betatin" and row["value"] == trap["value"])
    excess = trap["density"]["value"] / row["density"]["value"] - 1
    spread = math.hypot(*(trap["density"]["error"], row["density"]["error"])) / row["density"]["value"]
    left = abs(excess) > 3 * spread
    return [
        "## Beta-tin and t-X",
        "",
        f"A displaced beta-tin, t-X, has the lower static energy up to lambda of about 21 (Fijan and Wilson 2017). At lambda = {trap['value']:g} "
        f"its lattice with displacements of {trap['delta']:.2f} edges lies {-trap['well']:.2f} kT per atom below beta-tin, behind a barrier of "
        f"{trap['barrier']:.2f} kT per atom for all atoms moving together. The flow grew from the phonons of beta-tin and covers what "
        "surrounds it, perhaps with a part of t-X: its F is one of beta-tin only as far as the two can be told apart at this temperature.",
        "",
        f"Molecular dynamics at constant pressure from beta-tin, {row['n_atoms']} atoms, ended {100 * excess:+.1f} ± {100 * spread:.1f} % "
        f"in density from the flow's beta-tin, with edges along x and y that differ by {100 * trap['edges']['value']:+.1f} ± "
        f"{100 * trap['edges']['error']:.1f} %: "
        + ("it left beta-tin. " if left else "here it stayed near beta-tin, or came back. ")
        + "So its means are no reference, and beta-tin has none here: lambda windows of 64 atoms, tried once near its own cell, "
        "went over to displaced sites within some picoseconds where the springs are off. What stands for it is the "
        "program's own check of the volume, the virial pressure of fresh samples in the cell that was found:",
        "",
        "| N | lambda | change of ln c/a from the script | z of the virial pressure |",
        "|--:|--:|--:|--:|",
        *(
            f"| {r['n_atoms']} | {r['value']:g} | {r['cell']['c/a']['value']:+.4f} ± {r['cell']['c/a']['error']:.4f} "
            f"| {signed(r['check']['z_virial_pressure'])} |"
            for r in results["rows"]
            if r["crystal"] == "betatin"
        ),
    ]


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """G over that of diamond above, densities below."""
    crystals = crystals_of(results["settings"]["profile"])
    figure = Figure(figsize=(6.8, 8.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    static = results["static"]
    upper.axhline(0.0, color=crystals["diamond"].colour, lw=1.5, zorder=1, label="diamond")
    for key in ("betatin", "bcc"):
        crystal = crystals[key]
        upper.plot(
            static["values"], static["over_diamond"][key], ":", color=crystal.colour, lw=1.0, label=f"{crystal.title}, static"
        )
        draw_difference(upper, results, crystals, ("diamond", key), crystal.colour)
    upper.plot([], [], "x", color="k", ms=7, label="MD: windows and MBAR, volume at P")
    upper.set(ylabel="β(G − G$_{diamond}$)/N", title=f"(a) T = {TEMPERATURE:g} K, P = 0", xlim=static_limits(results))
    draw_densities(lower, results, crystals)
    lower.set(xlabel="λ", ylabel="density (Å$^{-3}$)", title="(b) densities")
    for axes in (upper, lower):
        axes.legend(fontsize=7, ncols=2)
        axes.title.set(fontsize=9, fontweight="bold", ha="left", x=0.0)
    return figure


def static_limits(results):
    """Ends of the axis: what was evaluated, and a little more."""
    ends = [place for curve in results["curves"] for place in (curve["axis"][0], curve["axis"][-1])]
    margin = 0.08 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    scan, crystals = PROFILES[options.profile], crystals_of(options.profile)
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    for group in chains(commands, crystals, scan, options.seed):
        run_chains(commands, group, options.jobs)
    if options.dry_run:
        return 0
    versions = commands.results("models/diamond", "provenance.json")["versions"]
    results = {
        "settings": settings_of(options, versions),
        **collect(commands, crystals, scan),
        "static": static_energies(),
        "trap": trapped(commands, scan.md[0]),
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
