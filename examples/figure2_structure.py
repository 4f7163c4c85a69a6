# SPDX-License-Identifier: GPL-2.0-or-later
"""Radial distribution functions and energies of the base, the flow, the reweighted flow and molecular dynamics, on two crystals.

    python examples/figure2_structure.py                    # quick: about 5 minutes on two idle cores
    python examples/figure2_structure.py --profile paper    # sizes as published: many hours, on many cores
    python examples/figure2_structure.py --dry-run          # the commands alone

As in Fig. 2 of Schebek, Noe and Rogal, Nat. Commun. 17, 5010 (2026): Lennard-Jones FCC and cubic ice of monatomic water (mW), each
at the size that the flow was trained at and at larger ones, to which it is applied without training. Reweighted curves are shown
where the weights are worth it, by the program's own verdict; where they are not, figure and table say so.

Writes figure2_structure.json, .md (table) and .png from results.json and observables.json of the runs.
Needs: pip install 'lammps-bg[plot]'.
"""

import sys
from dataclasses import dataclass

import numpy as np
from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed, words, z_score
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lammps_bg.report.figures.style import COLOURS, column, draw_curve, draw_density
from lammps_bg.results import ENSEMBLES as NAMES
from lammps_bg.results import NOTHING, unit, with_error

NAME = "figure2_structure"
KINDS = ("base", "flow", "reweighted", "md")
DRAWN = ("base", "md", "reweighted", "flow")  # from bottom to top: broken lines over full ones
MEANS = {  # entry of results.json: its name in the table
    "potential_energy_per_atom": "potential energy per atom",
    "pressure": "pressure",
    "mean_square_displacement": "mean-square displacement",
}


@dataclass(frozen=True)
class System:
    """A crystal of the figure.

    Attributes:
        title: Its name.
        script: Input script.
        cell_atoms: Atoms of the unit cell.
        md: Settings of the molecular dynamics: positions decorrelate fast and keep their distribution (fix gjf).
        base: Settings of the base.
    """

    title: str
    script: str
    cell_atoms: int
    md: tuple[str, ...]
    base: tuple[str, ...]


SYSTEMS = {
    "lj": System(
        "Lennard-Jones FCC, T* = 2, ρ* = 1.28", "in.lj_fcc", 4, ("md.damp=0.1", "md.sample_every=10"), ("base.iterations=0",)
    ),
    "mw": System(
        "mW cubic ice, T = 200 K",
        "in.mw_cubic",
        8,
        ("md.timestep=4", "md.damp=40", "md.sample_every=10"),
        ("base.pilot_steps=0",),
    ),
}


@dataclass(frozen=True)
class Profile:
    """How large and how long.

    Attributes:
        sizes: Unit cells along each edge by system; the first size is that of the training.
        train: Settings of the training.
        sample: Settings of samples and estimates.
        md: Settings of the molecular dynamics.
    """

    sizes: dict[str, tuple[int, ...]]
    train: tuple[str, ...]
    sample: tuple[str, ...]
    md: tuple[str, ...]


PROFILES = {
    "quick": Profile(
        sizes={"lj": (3, 4), "mw": (2, 3)},
        train=("train.steps=1200",),
        sample=(
            "exact.mode=never",
            "sample.n_samples=8192",
            "sample.n_dump=0",
            "sample.picture=false",
            "estimate.rdf_samples=2048",
        ),
        md=("md.n_frames=2000", "sample.picture=false", "estimate.report=false"),
    ),
    "paper": Profile(
        sizes={"lj": (4, 5, 6, 7), "mw": (3, 4, 5, 6)},
        train=("train.steps=20000", "train.batch_size=128"),
        sample=("exact.mode=never", "sample.n_samples=100000", "estimate.rdf_samples=4096"),
        md=("md.n_frames=10000",),
    ),
    "tiny": Profile(
        sizes={"lj": (2,), "mw": (1,)},
        train=("base.n_samples=100", "flow.width=8", "train.steps=10"),
        sample=(
            "exact.mode=never",
            "sample.n_samples=256",
            "sample.n_dump=0",
            "sample.picture=false",
            "estimate.rdf_samples=50",
            "estimate.report=false",
            "estimate.n_bootstraps=50",
        ),
        md=("md.n_frames=150", "sample.picture=false", "estimate.rdf_samples=50", "estimate.report=false"),
    ),
}


# ---- commands ------------------------------------------------------------------------------------------------------------------


def run_system(commands, key, profile, seed):
    """All commands of one crystal: train at the first size, then for each size samples, molecular dynamics and both together."""
    system, sizes = SYSTEMS[key], profile.sizes[key]
    for size in sizes:
        name, md = f"{key}/{atoms(key, size)}/flow", f"{key}/{atoms(key, size)}/md"
        crystal = ["-in", f"inputs/{system.script}", "-rep", *[str(size)] * 3]
        if size == sizes[0]:
            settings = words(*system.base, *profile.train, *profile.sample)
            commands.make(name, "run", *crystal, "--seed", str(seed), *settings, "--allow-red")
        else:
            model = commands.folder(f"{key}/{atoms(key, sizes[0])}/flow")
            settings = ["-rep", *[str(size)] * 3, "--seed", str(seed), *words(*profile.sample)]
            commands.make(name, "sample", "-model", model, *settings, "--allow-red")
        settings = words(*system.md, *profile.md)
        commands.make(md, "md", *crystal, "--mode", "nvt", "--seed", str(seed + 1), *settings)
        folders = ["-model", commands.folder(name), "-md", commands.folder(md)]
        commands.add(f"{name}/estimate", "estimate", *folders, "--allow-red")


def atoms(key, size):
    """Atoms in so many unit cells along each edge."""
    return SYSTEMS[key].cell_atoms * size**3


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def collect(commands, profile):
    """One panel for each crystal and size, from results.json and observables.json of the runs."""
    panels = []
    for key, sizes in profile.sizes.items():
        for size in sizes:
            name = f"{key}/{atoms(key, size)}/flow"
            panels.append(panel_of(key, atoms(key, size), commands.results(name), commands.results(name, "observables.json")))
    return panels


def panel_of(key, n_atoms, results, observables):
    """Curves, histograms and means of one crystal at one size."""
    sampling, comparison = results["sampling"], results["comparison"]
    shown = "reweighted" in observables["rdf"]["curves"]
    why = f"{sampling['ess_samples']:.1f} effective of {sampling['n_samples']} samples"
    histogram = histograms(observables["energy"]["series"])
    return {
        "system": key,
        "n_atoms": n_atoms,
        "ess": sampling["ess"],
        "overlap": comparison["overlap"],
        "withheld": None if shown else why,
        "rdf_samples": results["observables"]["radial_distribution"]["n_samples"]["flow"],
        "verdict": results["verdict"]["colour"],
        "rdf": {**rounded(observables["rdf"]), "agreement": agreement(observables["rdf"]["curves"])},
        "energy": {"unit": observables["energy"]["unit"], **rounded(histogram)},
        "means": {name: means(results["observables"][name]) for name in MEANS},
        "free_energy": [row for row in comparison["rows"] if row["key"] in ("tfep", "tfep_reverse", "bar")],
    }


def means(found):
    """Mean of one observable by kind, with z against molecular dynamics."""
    md = found["md"]
    entry = {"unit": found["unit"]}
    for kind in (kind for kind in KINDS if kind in found):
        value, error = found[kind]["value"], found[kind]["error"]
        z = None if kind == "md" else z_score(value, error, md["value"], md["error"])
        entry[kind] = {"value": value, "error": error, "z": z}
    return entry


def agreement(curves):
    """How far g(r) is from that of molecular dynamics: z of the bins in which both have pairs, as largest |z| and as rms."""
    md, found = curves["md"], {}
    for kind in (kind for kind in KINDS if kind in curves and kind != "md"):
        g, error = (np.array(curves[kind][name]) for name in ("g", "error"))
        joint = np.hypot(error, md["error"])
        # bins that single pairs reach now and then have no error worth the name
        usable = (g > 0.01) & (np.array(md["g"]) > 0.01) & (joint > 0)
        z = (g - md["g"])[usable] / joint[usable]
        found[kind] = {"bins": int(usable.sum()), "largest_z": float(np.abs(z).max()), "rms_z": float(np.sqrt(np.mean(z**2)))}
    return found


def histograms(series, n_bins=30):
    """Normalised histograms of the energy per atom with errors, over the range of molecular dynamics and flow."""
    # the energies of a harmonic base may reach far up: the upper half need not be in the figure
    shares = {"flow": (0.2, 99.8), "md": (0.2, 99.8), "base": (2.0, 50.0)}
    ranges = [np.percentile(series[kind]["values"], share) for kind, share in shares.items()]
    edges = np.linspace(min(low for low, _ in ranges), max(high for _, high in ranges), n_bins + 1)
    found = {}
    for name in series:
        values = np.array(series[name]["values"])
        found[name] = density(values, np.ones(len(values)), edges)
        if "log_w" in series[name]:
            log_w = np.array(series[name]["log_w"])
            found["reweighted"] = density(values, np.exp(log_w - log_w.max()), edges)
    return {"edges": edges, "curves": found}


def density(values, weights, edges):
    """Height of each bin and its standard error."""
    width, total = np.diff(edges), weights.sum()
    share = np.histogram(values, edges, weights=weights)[0] / total
    square = np.histogram(values, edges, weights=weights**2)[0] / total**2
    rest = (weights**2).sum() / total**2
    variance = square * (1 - 2 * share) + share**2 * rest  # of a ratio of sums, to first order
    return {"density": share / width, "error": np.sqrt(np.maximum(variance, 0.0)) / width}


def rounded(data):
    """Numbers with six digits, which are enough for a figure."""
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return [float(f"{value:.6g}") for value in data] if isinstance(data, list | np.ndarray) else data


# ---- table ---------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    lines = [
        "# Structure and energies: base, flow, reweighted flow, molecular dynamics",
        "",
        f"Made by `python examples/{NAME}.py --profile {results['settings']['profile']}`; one standard error. z: against molecular "
        "dynamics. Each flow was trained at the smallest size of its crystal. Raw samples of base and flow are not expected to "
        "agree with molecular dynamics: the weights are there for what is missing. Their z grows with the number of samples. Of some "
        "150 bins of g(r) one is expected beyond 2.7, and errors from a few dozen effective samples are too small now and then.",
        "",
        f"![g(r) and energies]({NAME}.png)",
    ]
    for panel in results["panels"]:
        lines += ["", f"## {SYSTEMS[panel['system']].title}, N = {panel['n_atoms']}", "", *panel_lines(panel)]
    return "\n".join([*lines, "", *commands_section(results)]) + "\n"


def panel_lines(panel):
    """Table lines of one crystal at one size."""
    weights = (
        f"**Reweighting withheld: {panel['withheld']}.**" if panel["withheld"] else f"ESS of the weights {panel['ess']:.1%}."
    )
    lines = [f"{weights} Overlap of flow and MD {panel['overlap']:.2f}; verdict {panel['verdict']}.", ""]
    lines += ["| | base | z | flow | z | flow, reweighted | z | MD |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for name, title in MEANS.items():
        found = panel["means"][name]
        cells = []
        for kind in KINDS:
            entry = found.get(kind)
            shown = with_error(entry["value"], entry["error"]) if entry else "withheld"
            cells += [shown, *([signed(entry and entry["z"])] if kind != "md" else [])]
        lines.append(f"| {title}, {unit(found['unit'])} | {' | '.join(cells)} |")
    cells = []
    for kind in KINDS[:-1]:
        entry = panel["rdf"]["agreement"].get(kind)
        cells += [f"rms {entry['rms_z']:.1f}", f"{entry['largest_z']:.1f}"] if entry else ["withheld", NOTHING]
    lines += [f"| g(r): rms and largest of the bins' abs(z) | {' | '.join(cells)} | |", ""]
    lines += ["| free energy | beta F/N | z |", "|---|--:|--:|"]
    for row in panel["free_energy"]:
        value = "withheld" if row["value"] is None else with_error(row["value"], row["error"])
        lines.append(f"| {row['name']} | {value} | {signed(row['z'])} |")
    return lines


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """For each crystal a row of sizes: g(r), its difference from molecular dynamics, and the energies."""
    by_system = {key: [panel for panel in results["panels"] if panel["system"] == key] for key in SYSTEMS}
    width = max(len(panels) for panels in by_system.values())
    figure = Figure(figsize=(max(4.2 * width, 6.0), 5.0 * len(by_system)), layout="constrained")
    parts = figure.subfigures(len(by_system), 1, hspace=0.03, squeeze=False)[:, 0]
    for part, (key, panels) in zip(parts, by_system.items(), strict=True):
        part.suptitle(SYSTEMS[key].title, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
        axes = part.subplots(3, len(panels), height_ratios=(2.2, 1.1, 2.0), squeeze=False)
        for index, panel in enumerate(panels):
            draw_rdf(axes[0, index], axes[1, index], panel)
            draw_energies(axes[2, index], panel)
            trained = " (training)" if index == 0 else " (transfer)"
            axes[0, index].set_title(f"N = {panel['n_atoms']}{trained}", fontsize=9.5)
        axes[0, 0].set_ylabel("g(r)")
        axes[1, 0].set_ylabel("g − g$_{MD}$")
        axes[2, 0].set_ylabel("probability density")
    handles, labels = {}, None
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [NAMES[kind] for kind in KINDS if NAMES[kind] in handles]
    figure.legend([handles[label] for label in labels], labels, loc="outside upper right", ncols=4)
    return figure


def draw_rdf(top, bottom, panel):
    """The curves, and below them their differences from molecular dynamics."""
    rdf = panel["rdf"]
    r, md = column(rdf, "r"), rdf["curves"]["md"]
    reach = 0.0
    for kind in (kind for kind in DRAWN if kind in rdf["curves"]):
        curve = rdf["curves"][kind]
        if kind == "md":  # broad, so that it shows where the others lie on it
            top.plot(r, column(curve, "g"), color=COLOURS["md"], lw=4.0, alpha=0.45, label=NAMES["md"])
        else:
            draw_curve(top, kind, r, column(curve, "g"), column(curve, "error"))
        if kind != "md":
            error = np.hypot(column(curve, "error"), column(md, "error"))
            difference = column(curve, "g") - column(md, "g")
            draw_curve(bottom, kind, r, difference, error)
            reach = max(reach, 0.0 if kind == "base" else float(np.max(np.abs(difference) + error)))
    bottom.set_ylim(-1.1 * reach, 1.1 * reach)  # the base may reach beyond
    bottom.axhline(0.0, color=COLOURS["md"], lw=1.0, zorder=0)
    first = float(r[np.flatnonzero(column(md, "g") > 1e-9)[0]])
    for axes in (top, bottom):
        axes.set_xlim(first - 0.05 * float(r[-1]), float(r[-1]))
    top.set_ylim(bottom=0.0)
    top.tick_params(labelbottom=False)
    bottom.set_xlabel(f"r ({unit(rdf['unit'])})")


def draw_energies(axes, panel):
    """Histograms of the energy per atom."""
    energy = panel["energy"]
    edges = column(energy, "edges")
    for kind in (kind for kind in DRAWN if kind in energy["curves"]):
        draw_density(axes, kind, edges, energy["curves"][kind])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel=f"potential energy ({unit(energy['unit'])})", ylim=(0.0, None))
    text = f"reweighting withheld:\n{panel['withheld']}" if panel["withheld"] else f"ESS {panel['ess']:.0%}"
    axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=8.5)


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    profile = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    run_chains(commands, [lambda key=key: run_system(commands, key, profile, options.seed) for key in SYSTEMS], options.jobs)
    if options.dry_run:
        return 0
    first = f"lj/{atoms('lj', profile.sizes['lj'][0])}/flow"
    versions = commands.results(first, "provenance.json")["versions"]
    results = {
        "settings": settings_of(options, versions),
        "panels": collect(commands, profile),
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
