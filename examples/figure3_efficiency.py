# SPDX-License-Identifier: GPL-2.0-or-later
"""Local against global conditioners: effective sample size over training steps and over seconds, for ice (mW) and Lennard-Jones.

    python examples/figure3_efficiency.py                    # quick: about 8 minutes on two cores
    python examples/figure3_efficiency.py --profile paper    # the published budget of 10^6 steps of 128 samples: weeks on a CPU
    python examples/figure3_efficiency.py --dry-run          # the commands alone

As in Fig. 3 of Schebek, Noe and Rogal, Nat. Commun. 17, 5010 (2026): the augmented flow with a graph network over near neighbours, and
with attention over all atoms (Wirnsberger et al. 2022); beside them the sublattice flow of this package. All three start from
the same phonon base and see the same energies. The ESS of the augmented flows is that of the joint density of atoms and auxiliaries.
Every curve is one run of `lammps-bg train`, evaluated on fresh samples with exact energies as it goes along.

Writes figure3_efficiency.json, .md (table) and .png from train.csv of the runs. Needs: pip install 'lammps-bg[plot]'.
"""

import csv
import math
import sys
from dataclasses import dataclass

from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, words
from matplotlib.figure import Figure

from lammps_bg.report.figures.style import COLOURS
from lammps_bg.results import NOTHING

NAME = "figure3_efficiency"
CRYSTALS = {  # key: script, atoms in its cell, title
    "mw": ("in.mw_cubic", 8, "cubic ice, mW"),
    "lj": ("in.lj_fcc", 4, "Lennard-Jones FCC"),
}
FLOWS = {  # key: settings, name, colour, line
    "sublattice": ((), "sublattice flow (local)", COLOURS["flow"], "-"),
    "augmented": (("flow.kind=augmented",), "augmented flow, local graph network", COLOURS["reweighted"], "-"),
    "global": (("flow.kind=global",), "augmented flow, attention over all atoms", COLOURS["md"], "--"),
}
COLUMNS = ("step", "seconds", "ess", "exact_bound", "free_energy")


@dataclass(frozen=True)
class Profile:
    """How large and how long.

    Attributes:
        cases: Crystal and unit cells along each edge.
        train: Settings of every training.
        flow: Further settings by flow.
    """

    cases: tuple[tuple[str, int], ...]
    train: tuple[str, ...]
    flow: dict[str, tuple[str, ...]]


NO_TRIAL = "base.pilot_steps=0"
PROFILES = {
    "quick": Profile(
        cases=(("mw", 2), ("mw", 3), ("lj", 4)),
        train=(NO_TRIAL, "train.steps=100000", "train.max_seconds=80", "train.evaluate_every=20", "train.evaluate_samples=256"),
        # a sample costs them ten times as much: smaller batches, or there are no steps to speak of
        flow=dict.fromkeys(("augmented", "global"), ("train.batch_size=16",)),
    ),
    "paper": Profile(
        cases=(("mw", 2), ("mw", 3), ("lj", 4)),
        train=(
            NO_TRIAL,
            "train.steps=1000000",
            "train.batch_size=128",
            "train.evaluate_every=1000",
            "train.evaluate_samples=1000",
        ),
        flow=dict.fromkeys(("augmented", "global"), ("flow.n_layers=10", "flow.width=96", "flow.n_frequencies=8")),
    ),
    "tiny": Profile(
        cases=(("mw", 1),),
        train=(NO_TRIAL, "base.iterations=1", "base.n_samples=50", "flow.width=8", "train.steps=6", "train.evaluate_every=2"),
        flow={},
    ),
}


def atoms(crystal, size):
    """Atoms in so many unit cells along each edge."""
    return CRYSTALS[crystal][1] * size**3


def run_case(commands, crystal, size, profile, seed):
    """One training of each flow."""
    for flow, (settings, *_) in FLOWS.items():
        every = [*settings, *profile.train, *profile.flow.get(flow, ())]
        script = ["-in", f"inputs/{CRYSTALS[crystal][0]}", "-rep", *[str(size)] * 3, "--seed", str(seed)]
        commands.make(f"{crystal}{atoms(crystal, size)}/{flow}", "train", *script, *words(*every))


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def curve_of(path):
    """The evaluations of a training, a list for each column."""
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["ess"]]
    values = {name: [float(row[name]) for row in rows] for name in COLUMNS}
    return {name: [x if math.isfinite(x) else None for x in column] for name, column in values.items()}


def collect(commands, profile):
    """One curve for each crystal and flow, with the gap between bound and free energy."""
    curves = []
    for crystal, size in profile.cases:
        n = atoms(crystal, size)
        found = {flow: curve_of(commands.out / f"{crystal}{n}" / flow / "train.csv") for flow in FLOWS}
        known = best_free_energy(found)
        for flow, curve in found.items():
            gaps = [None if bound is None or known is None else bound - known for bound in curve["exact_bound"]]
            curves.append({"crystal": crystal, "n_atoms": n, "flow": flow, **curve, "gap": gaps})
    return curves


def best_free_energy(found):
    """Mean over the last ten evaluations of the flow with the largest ESS: of one, its noise would show in the gaps."""
    ends = [(smoothed(curve["ess"])[-1], smoothed(curve["free_energy"], 10)[-1]) for curve in found.values() if curve["ess"]]
    usable = [end for end in ends if None not in end]
    return max(usable)[1] if usable else None


def smoothed(values, width=5):
    """Mean over the last `width` evaluations up to each one, nothing where one is missing."""
    parts = [values[max(0, i + 1 - width) : i + 1] for i in range(len(values))]
    return [None if None in part else sum(part) / len(part) for part in parts]


# ---- table ---------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    settings = results["settings"]
    lines = [
        "# Local against global conditioners",
        "",
        f"Made by `python examples/{NAME}.py --profile {settings['profile']}`. Each training got the same wall-clock on one core, the fit of "
        "the base apart. ESS: mean of the last five evaluations; of the augmented flows in the joint density. Gap: Gibbs-Bogoliubov "
        "bound of the flow above the free energy, in kT per atom, that is the Kullback-Leibler divergence.",
        "",
        f"![ESS over steps and seconds]({NAME}.png)",
        "",
        "| crystal | N | flow | steps | s | ms a step | ESS % | gap ·10³ |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for curve in results["curves"]:
        steps, seconds = curve["step"][-1], curve["seconds"][-1]
        ess, gap = smoothed(curve["ess"])[-1], smoothed(curve["gap"])[-1]
        cells = [
            CRYSTALS[curve["crystal"]][2],
            str(curve["n_atoms"]),
            FLOWS[curve["flow"]][1],
            f"{steps:.0f}",
            f"{seconds:.0f}",
            f"{1e3 * seconds / steps:.0f}",
            NOTHING if ess is None else f"{100 * ess:.1f}",
            NOTHING if gap is None else f"{1e3 * gap:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *commands_section(results)]) + "\n"


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """ESS and gap over steps and over seconds, one row for each crystal and size."""
    cases = list(dict.fromkeys((curve["crystal"], curve["n_atoms"]) for curve in results["curves"]))
    figure = Figure(figsize=(9.5, 1.0 + 2.5 * len(cases)), layout="constrained")
    rows = figure.subplots(len(cases), 3, squeeze=False)
    for (crystal, n), line in zip(cases, rows, strict=True):
        curves = [curve for curve in results["curves"] if (curve["crystal"], curve["n_atoms"]) == (crystal, n)]
        for axes, (x, y) in zip(line, (("step", "ess"), ("seconds", "ess"), ("seconds", "gap")), strict=True):
            draw_curves(axes, curves, x, y)
        line[0].set_title(f"{CRYSTALS[crystal][2]}, N = {n}", fontsize=9, fontweight="bold", loc="left")
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def draw_curves(axes, curves, x, y):
    """One quantity of all flows."""
    for curve in curves:
        _, name, colour, line = FLOWS[curve["flow"]]
        points = [(a, b) for a, b in zip(curve[x], smoothed(curve[y]), strict=True) if b is not None and (y == "ess" or b > 0)]
        if points:
            axes.plot(*zip(*points, strict=True), line, color=colour, lw=1.4, label=name)
    names = {"step": "training step", "seconds": "training time (s)", "ess": "ESS (%)", "gap": "bound − F (kT per atom)"}
    axes.set(xlabel=names[x], ylabel=names[y])
    axes.set(yscale="log")
    if y == "ess":
        axes.set(ylim=(0.003, 1.1), yticks=(0.01, 0.03, 0.1, 0.3, 1.0), yticklabels=("1", "3", "10", "30", "100"))
        axes.minorticks_off()
    axes.grid(alpha=0.25, lw=0.5)


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    profile = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    chains = [lambda case=case: run_case(commands, *case, profile, options.seed) for case in profile.cases]
    run_chains(commands, chains, options.jobs)
    if options.dry_run:
        return 0
    crystal, size = profile.cases[0]
    versions = commands.results(f"{crystal}{atoms(crystal, size)}/sublattice", "provenance.json")["versions"]
    results = {
        "settings": settings_of(options, versions),
        "curves": collect(commands, profile),
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
