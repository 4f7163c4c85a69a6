# SPDX-License-Identifier: GPL-2.0-or-later
"""Lennard-Jones: which close packing is stable depends on the cutoff. Gibbs free energy difference and densities of HCP and FCC.

    python examples/figure5_cutoff.py                    # quick: about 14 minutes on two cores
    python examples/figure5_cutoff.py --profile paper    # evaluated at 1080 atoms as published: days, on many cores
    python examples/figure5_cutoff.py --dry-run          # the commands alone

As in Fig. 5 of Schebek, Noe and Rogal, Nat. Commun. 17, 5010 (2026): one model for each crystal, trained at 180 atoms over volume and
cutoff. Their state and cutoffs are in no file that we could read; here T* = 2 and P* = 44.6, where the density is about 1.28, and
cutoffs from 2.2 to 2.7, truncated and shifted. Quick evaluates the 180 atoms of the training, paper 1080. The reference is molecular
dynamics: volumes at constant pressure, and lambda windows with MBAR in the mean cell.

Writes figure5_cutoff.json, .md (tables) and .png from results.json of the runs. Needs: pip install 'lammps-bg[plot]'.
"""

import itertools
import math
import sys

import numpy as np
from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of
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
    largest_error,
    table_of_crossings,
    table_of_differences,
    table_of_states,
    verdict_lines,
    zeros,
)
from matplotlib.figure import Figure

from lammps_bg.report.figures.style import COLOURS, INK

NAME = "figure5_cutoff"
TEMPERATURE, DENSITY = 2.0, 1.28  # of both scripts; the density is that of the static lattices
CRYSTALS = {
    "fcc": Crystal("FCC", "in.lj_fcc6", 6, {FIRST: (5, 3, 2), LARGE: (9, 5, 4)}, (), colour=COLOURS["flow"]),
    "hcp": Crystal("HCP", "in.lj_hcp_fig5", 4, {FIRST: (5, 3, 3), LARGE: (9, 5, 6)}, (), colour=COLOURS["md"]),
}
VOLUMES = "condition.volume=[-0.03,0.03]"
MD = ("estimate.report=false", "sample.picture=false", "md.n_dump=0")
# constant pressure (Nose-Hoover) wants a shorter time step than the windows, whose positions have no error of the time step to speak of
NPT = (*MD, "md.timestep=0.002", "md.damp=0.1", "md.pressure_damp=0.5", "md.sample_every=50")
MBAR = (*MD, "md.damp=0.1", "md.sample_every=10")
PROFILES = {
    "quick": Scan(
        name="rc",
        trained=(2.2, 2.7),
        values=(2.2, 2.3, 2.5, 2.7),
        md=(2.3, 2.5),
        segments=((2.2, 2.45), (2.45, 2.7)),
        sizes=(FIRST,),
        train=(VOLUMES, "base.pilot_steps=0", "train.steps=1000000", "train.max_seconds=280"),
        gibbs={FIRST: ("gibbs.n_volumes=5", "gibbs.n_samples=128")},
        pressure={FIRST: (*NPT, "md.n_frames=250")},
        windows={FIRST: (*MBAR, "md.window_frames=100", "md.target_error=1.5e-3")},
    ),
    "paper": Scan(
        name="rc",
        trained=(2.2, 3.5),
        values=(2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 3.0, 3.2, 3.5),
        md=(2.3, 2.5, 2.7, 3.0),
        segments=((2.2, 2.45), (2.45, 2.7), (2.7, 3.0), (3.0, 3.5)),
        sizes=(FIRST, LARGE),
        train=(VOLUMES, "train.steps=200000", "train.batch_size=128", "condition.pool=1024"),
        gibbs={FIRST: ("gibbs.n_samples=2048",), LARGE: ("gibbs.n_samples=8192",)},
        pressure=dict.fromkeys((FIRST, LARGE), (*NPT, "md.n_frames=4000", "md.max_steps=50000000")),
        windows=dict.fromkeys((FIRST, LARGE), (*MBAR, "md.target_error=2e-4", "md.max_steps=50000000")),
    ),
    "tiny": Scan(
        name="rc",
        trained=(2.2, 2.7),
        values=(2.3, 2.5),
        md=(2.5,),
        segments=((2.2, 2.7),),
        sizes=(FIRST,),
        train=(
            VOLUMES,
            "base.pilot_steps=0",
            "condition.base_samples=60",
            "condition.pool=16",
            "train.steps=30",
            "flow.width=16",
        ),
        gibbs={FIRST: ("gibbs.n_volumes=5", "gibbs.n_samples=16", "gibbs.n_repeats=4")},
        pressure={FIRST: (*NPT, "md.n_frames=50")},
        windows={FIRST: (*MBAR, "md.window_frames=50", "md.target_error=0.05")},
    ),
}


# ---- energies of the lattices at T = 0 -----------------------------------------------------------------------------------------


def static_energy(key, cutoff):
    """Energy per atom of the perfect lattice at the density of the scripts, truncated and shifted, epsilon.

    Args:
        key: fcc or hcp; in both all atoms are equivalent.
        cutoff: In sigma.
    """
    nearest = (math.sqrt(2) / DENSITY) ** (1 / 3)
    n = range(-6, 7)  # six cells along the shortest edge reach beyond 6 sigma
    a, b, c = np.array([1, 0, 0]), np.array([0.5, math.sqrt(0.75), 0]), np.array([0.5, math.sqrt(1 / 12), math.sqrt(2 / 3)])
    sites = []
    for i, j, k in itertools.product(n, n, n):
        # layers A B A B of hcp: every second one lies over the first; A B C of fcc: each moves on by the same step
        shift = k * c if key == "fcc" else (k % 2) * c + (k - k % 2) * np.array([0, 0, c[2]])
        sites.append(i * a + j * b + shift)
    r = nearest * np.linalg.norm(np.array(sites), axis=1)
    r = r[(r > 0) & (r < cutoff)]

    def pair(x):
        return 4 * (x**-12.0 - x**-6.0)

    return float(0.5 * (pair(r) - pair(cutoff)).sum())


def static_difference(low, high, n=251):
    """E of HCP minus E of FCC per atom over the cutoff, in kT at the temperature of the scripts."""
    cutoffs = np.linspace(low, high, n)
    found = [(static_energy("hcp", float(rc)) - static_energy("fcc", float(rc))) / TEMPERATURE for rc in cutoffs]
    return {"cutoff": cutoffs.tolist(), "value": found}


# ---- text ----------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    static = results["static"]
    places = zeros(static["cutoff"], static["value"])
    lines = [
        "# HCP and FCC Lennard-Jones crystals over the cutoff",
        "",
        f"Made by `python examples/{NAME}.py --profile {results['settings']['profile']}`: reduced units, T* = {TEMPERATURE:g}, "
        f"P* = {results['rows'][0]['pressure']:g}; truncated and shifted at the cutoff. One standard error everywhere.",
        "",
        "HCP and FCC differ from the third shell of neighbours on, by thousandths of kT per atom. A cutoff that takes in a shell of "
        "one crystal before that of the other one moves their order back and forth: at T = 0 the difference jumps in slope "
        "with every shell that comes within reach. Thermal motion smears the shells out, so that less of it is left at finite "
        "temperature. A result on the stability of these crystals is one for a cutoff.",
        "",
        agreement(results),
        "",
        largest_error(results),
        "",
        f"![Difference and densities over the cutoff]({NAME}.png)",
        "",
        "## Equal Gibbs free energies",
        "",
        *table_of_crossings(results, CRYSTALS, "r_c", {"fcc/hcp": places}),
        "",
        *crossing_text(results),
        "",
        "## HCP minus FCC",
        "",
        *table_of_differences(results, CRYSTALS, "r_c"),
        "",
        *difference_text(results),
        "",
        "## Each crystal",
        "",
        *table_of_states(results, CRYSTALS, "r_c", "σ⁻³"),
        "",
        *verdict_lines(results, CRYSTALS),
        "",
        *CONVENTIONS,
        "",
        *commands_section(results),
    ]
    return "\n".join(lines) + "\n"


CONVENTIONS = (
    "beta G/N is that of one site class, configurational, with Lambda = sigma. An integral over the whole box would lower that of HCP, "
    "with two atoms in its primitive cell, by ln(2)/N and leave that of FCC: flow, windows and the difference here all omit it.",
    "",
    "G by molecular dynamics is F of the lambda windows in the mean cell of the run at constant pressure, plus P V there. The values "
    "of z in the last table are of F in this cell and of the volume, as the program computes them; z of the difference is of G.",
    "",
    "Not known: the state and the cutoffs of the published figure, and whether its potential was shifted or switched; so nothing is "
    "compared with it. 180 atoms are not the infinite crystal: the box is 5 sigma wide, and the difference changes with N by the order of 1/N.",
)


def crossing_text(results):
    """Markdown lines: what `phase` says, part by part."""
    return [f"- {curve['sentence']}" for curve in results["curves"]] + [
        "",
        "(Sentences of `lammps-bg phase`, one for each part of the range; Delta g in epsilon per atom.)",
    ]


def difference_text(results):
    """Markdown lines: the static difference beside that at temperature."""
    static = results["static"]
    lines = ["Static difference at density 1.28 beside the one at temperature, in kT per atom:", ""]
    lines += ["| r_c | static | flow |", "|--:|--:|--:|"]
    for entry in (e for e in results["differences"] if e["size"] == results["differences"][0]["size"]):
        own = float(np.interp(entry["value"], static["cutoff"], static["value"]))
        lines.append(f"| {entry['value']:g} | {own:+.4f} | {entry['flow']['value']:+.4f} |")
    return lines


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """The difference above, the densities below."""
    figure = Figure(figsize=(6.4, 7.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.4, 1))
    upper.axhline(0.0, color=INK, lw=0.8, zorder=0)
    static = results["static"]
    upper.plot(static["cutoff"], static["value"], ":", color="0.5", lw=1.0, label=f"static lattices, ρ* = {DENSITY:g}")
    draw_difference(upper, results, CRYSTALS, ("fcc", "hcp"), COLOURS["reweighted"])
    upper.plot([], [], "x", color="k", ms=7, label="MD: windows and MBAR, volume at P")
    upper.set(ylabel="β(G$_{HCP}$ − G$_{FCC}$)/N", title=f"(a) T* = {TEMPERATURE:g}, P* = {results['rows'][0]['pressure']:g}")
    draw_densities(lower, results, CRYSTALS)
    lower.set(xlabel="cutoff r$_c$ (σ)", ylabel="density (σ$^{-3}$)", title="(b) densities")
    for axes in (upper, lower):
        axes.legend()
        axes.title.set(fontsize=9, fontweight="bold", ha="left", x=0.0)
    return figure


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    scan = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    for group in chains(commands, CRYSTALS, scan, options.seed):
        run_chains(commands, group, options.jobs)
    if options.dry_run:
        return 0
    versions = commands.results("models/fcc", "provenance.json")["versions"]
    results = {
        "settings": settings_of(options, versions),
        **collect(commands, CRYSTALS, scan),
        "static": static_difference(*scan.trained),
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
