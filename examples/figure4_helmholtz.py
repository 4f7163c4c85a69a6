# SPDX-License-Identifier: GPL-2.0-or-later
"""Helmholtz free energies of cubic and hexagonal ice (mW) over the number of atoms, from flows and from molecular dynamics.

    python examples/figure4_helmholtz.py                    # quick: about 12 minutes on two cores
    python examples/figure4_helmholtz.py --profile paper    # sizes as published: days, on many cores
    python examples/figure4_helmholtz.py --dry-run          # the commands alone

As in Fig. 4 of Schebek, Noe and Rogal, Nat. Commun. 17, 5010 (2026): beta F/N of both crystals and their difference, by targeted
free energy perturbation (TFEP) in the joint density of atoms and auxiliary variables, in the marginal density of the atoms alone,
and by BAR with molecular dynamics; here also from the sublattice flow, whose density is that of the atoms. The reference is
molecular dynamics with lambda windows and MBAR. A flow trained at one size is applied to larger ones without training.

beta F/N counts one site class: the crystal as a whole on its sites. An integral over the whole box would be lower by
ln(2)/N for cubic and ln(4)/N for hexagonal ice, which would move the difference by -ln(2)/N.

Writes figure4_helmholtz.json, .md (table) and .png from results.json of the runs. Needs: pip install 'lammps-bg[plot]'.
"""

import math
import sys
from dataclasses import dataclass, field

import numpy as np
from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed, words, z_score
from matplotlib.figure import Figure

from lammps_bg.report.figures.style import COLOURS, INK, RISE
from lammps_bg.results import NOTHING, with_error

NAME = "figure4_helmholtz"
PHASES = {"cubic": "cubic ice (Ic)", "hexagonal": "hexagonal ice (Ih)"}
FLOWS = ("sublattice", "augmented")
WITHHELD = "withheld: too few effective samples"
CELL_ATOMS = 8
# thermostat and time step at which positions decorrelate fast and keep their distribution (fix gjf)
MD = ("md.timestep=4", "md.damp=40", "md.sample_every=10")
# Wirnsberger et al. (2022), MBAR, same potential, density and convention; N = 8 of their tutorial, without error
LITERATURE = {"cubic": {8: (-25.86, None), 64: (-25.16306, 2.0e-4), 216: (-25.08234, 5e-5)}}
ESTIMATES = {  # key: flow, entry of results.json, name, colour, marker, filled
    "md": (None, "mbar", "MD, MBAR over λ windows", INK, "_", True),
    "sublattice_tfep": ("sublattice", "tfep", "sublattice flow, TFEP", COLOURS["flow"], "o", False),
    "sublattice_bar": ("sublattice", "bar", "sublattice flow, BAR", COLOURS["flow"], "o", True),
    "joint_tfep": ("augmented", "tfep", "augmented flow, joint, TFEP", COLOURS["reweighted"], "s", False),
    "joint_bar": ("augmented", "bar", "augmented flow, joint, BAR", COLOURS["reweighted"], "s", True),
    "marginal_tfep": ("augmented", "tfep_marginal", "augmented flow, marginal, TFEP", COLOURS["md"], "D", False),
    "marginal_bar": ("augmented", "bar_marginal", "augmented flow, marginal, BAR", COLOURS["md"], "D", True),
}


@dataclass(frozen=True)
class Profile:
    """How large and how long.

    Attributes:
        groups: Size that a model is trained at, and sizes that it is applied to, in unit cells along each edge.
        train: Settings of each flow's training.
        sample: Settings of each flow's samples and estimates.
        md: Settings of the molecular dynamics.
        target: Standard error of beta F/N of the molecular dynamics by size.
        large: Settings of the augmented flow's samples that differ at a size: it takes longer for each atom than the other flow.
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]
    train: dict[str, tuple[str, ...]]
    sample: dict[str, tuple[str, ...]]
    md: tuple[str, ...]
    target: dict[int, float]
    large: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def samples(self, flow, size):
        """Settings of the samples of a flow at a size."""
        later = self.large.get(size, ()) if flow == "augmented" else ()
        return dict(setting.split("=") for setting in (*self.sample[flow], *later))


# at one cell the periodic images of hexagonal ice leave only the four neighbours for a flow over sublattices
FEW_NEIGHBOURS = {("hexagonal", "sublattice", 1): ("flow.n_neighbours=4",)}
NO_PICTURES = ("sample.n_dump=0", "sample.picture=false", "exact.mode=never")  # the figure is of independent draws
TINY = ("estimate.rdf_samples=20", "estimate.report=false", "estimate.n_bootstraps=50")
TINY_TRAINING = ("base.pilot_steps=0", "base.iterations=1", "base.n_samples=100", "flow.width=8", "train.steps=10")
TINY_SAMPLES = ("sample.n_samples=256", *NO_PICTURES, "estimate.marginal_draws=4", "estimate.marginal_samples=100", *TINY)
PROFILES = {
    "quick": Profile(
        groups=((1, (1,)), (2, (2, 3))),
        train={
            "sublattice": ("base.pilot_steps=0", "train.steps=400"),
            "augmented": ("base.pilot_steps=0", "train.steps=200"),
        },
        sample={
            "sublattice": ("sample.n_samples=4096", *NO_PICTURES, "estimate.n_bootstraps=200"),
            "augmented": (
                *("sample.n_samples=4096", *NO_PICTURES),
                *("estimate.marginal_draws=10", "estimate.marginal_samples=256", "estimate.n_bootstraps=200"),
            ),
        },
        md=("md.n_frames=800", "md.window_frames=100", "sample.picture=false", "estimate.n_bootstraps=200"),
        target={1: 0.006, 2: 0.003, 3: 0.002},
        large={3: ("sample.n_samples=2048", "estimate.marginal_draws=8", "estimate.marginal_samples=128")},
    ),
    "paper": Profile(
        groups=((3, (3, 4, 5, 6)),),
        train={
            "sublattice": ("train.steps=20000", "train.batch_size=128"),
            "augmented": ("train.steps=200000", "train.batch_size=128", "flow.n_layers=10", "flow.width=96"),
        },
        sample={
            "sublattice": ("sample.n_samples=20000",),
            "augmented": ("sample.n_samples=20000", "estimate.marginal_draws=200", "estimate.marginal_samples=1000"),
        },
        md=("md.n_frames=4000", "md.max_steps=50000000"),
        target={3: 2e-4, 4: 2e-4, 5: 1e-4, 6: 1e-4},
    ),
    "tiny": Profile(
        groups=((1, (1,)),),
        train=dict.fromkeys(FLOWS, TINY_TRAINING),
        sample=dict.fromkeys(FLOWS, TINY_SAMPLES),
        md=("md.n_frames=100", "md.window_frames=50", "sample.picture=false", *TINY),
        target={1: 0.05},
    ),
}


# ---- commands ------------------------------------------------------------------------------------------------------------------


def run_phase(commands, phase, profile, seed):
    """All commands of one crystal: for each size molecular dynamics, samples of each flow, and estimates from both together."""
    for trained, sizes in profile.groups:
        for size in sizes:
            md = f"{phase}/{atoms(size)}/md"
            settings = words(*MD, *profile.md, f"md.target_error={profile.target[size]:g}")
            crystal = ["-in", f"inputs/in.mw_{phase}", "-rep", *[str(size)] * 3]
            commands.make(md, "md", *crystal, "--mode", "mbar", "--seed", str(seed + 1), *settings)
            for flow in FLOWS:
                name = f"{phase}/{atoms(size)}/{flow}"
                draw_samples(commands, phase, flow, trained, size, profile, seed=seed)
                settings = [f"{key}={value}" for key, value in profile.samples(flow, size).items() if key.startswith("estimate.")]
                folders = ["-model", commands.folder(name), "-md", commands.folder(md)]
                commands.add(f"{name}/estimate", "estimate", *folders, *words(*settings), "--allow-red")


def draw_samples(commands, phase, flow, trained, size, profile, *, seed):
    """Train a model and draw from it, or draw from the model trained at a smaller size."""
    name, rest = f"{phase}/{atoms(size)}/{flow}", ["-rep", *[str(size)] * 3, "--seed", str(seed)]
    # the marginal density is left to the estimate that follows: one draw is the joint one
    samples = {**profile.samples(flow, size), "estimate.marginal_draws": "1", "estimate.report": "false"}
    settings = [f"{key}={value}" for key, value in samples.items()]
    if size == trained:
        settings = [f"flow.kind={flow}", *profile.train[flow], *FEW_NEIGHBOURS.get((phase, flow, size), ()), *settings]
        commands.make(name, "run", "-in", f"inputs/in.mw_{phase}", *rest, *words(*settings), "--allow-red")
    else:
        model = commands.folder(f"{phase}/{atoms(trained)}/{flow}")
        commands.make(name, "sample", "-model", model, *rest, *words(*settings), "--allow-red")


def atoms(size):
    """Atoms in so many unit cells along each edge."""
    return CELL_ATOMS * size**3


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def collect(commands, profile):
    """One row for each estimate, from results.json of the runs."""
    rows = []
    for phase in PHASES:
        for size in (size for _, sizes in profile.groups for size in sizes):
            folder = f"{phase}/{atoms(size)}"
            results = {None: commands.results(f"{folder}/md")}
            results |= {flow: commands.results(f"{folder}/{flow}") for flow in FLOWS}
            rows += [row_of(phase, atoms(size), key, results) for key in ESTIMATES]
    return rows


def row_of(phase, n_atoms, key, results):
    """An estimate with what it rests on; without a value where the program withholds it, and why."""
    flow, name, *_ = ESTIMATES[key]
    found = results[flow]
    entry = found["estimates"].get(name, {"beta_F_per_atom": {"value": None, "error": None}})["beta_F_per_atom"]
    z = {row["key"]: row["z"] for row in found.get("comparison", {}).get("rows", ())}.get(name)
    row = {"phase": phase, "n_atoms": n_atoms, "estimate": key, "value": entry["value"], "error": entry["error"], "z": z}
    row["ess"] = quality(found, name)
    row["withheld"] = why_withheld(found, name) if entry["value"] is None else None
    literature, error = LITERATURE.get(phase, {}).get(n_atoms, (None, None))
    known = entry["value"] is not None and error is not None
    row["z_literature"] = z_score(entry["value"], entry["error"], literature, error) if known else None
    return row


def quality(found, name):
    """Effective sample size of a perturbation estimate as a share; the overlap of flow and dynamics for BAR."""
    if name == "tfep":
        return found["sampling"]["ess"]
    if name == "tfep_marginal":
        return found["sampling"].get("ess_marginal")
    return found["comparison"]["overlap"] if name == "bar" else None


def why_withheld(found, name):
    """A few words on an estimate that the program does not show."""
    if name == "tfep":
        sampling = found["sampling"]
        return f"withheld: {sampling['ess_samples']:.1f} effective of {sampling['n_samples']} samples"
    if name == "tfep_marginal":
        share = found["sampling"].get("ess_marginal")
        n = found["estimates"].get(name, {"beta_F_per_atom": {"n": 0}})["beta_F_per_atom"]["n"]
        return f"withheld: {share * n:.1f} effective of {n} samples" if share else "withheld: no usable weights"
    return f"withheld: {' '.join(found['verdict']['reasons'])}"


def differences(rows):
    """Hexagonal minus cubic by estimate and size; z against molecular dynamics."""
    values = {(row["phase"], row["n_atoms"], row["estimate"]): row for row in rows if row["value"] is not None}
    found = []
    for n_atoms in sorted({row["n_atoms"] for row in rows}):
        for key in ESTIMATES:
            pair = [values.get((phase, n_atoms, key)) for phase in ("hexagonal", "cubic")]
            entry = {"n_atoms": n_atoms, "estimate": key, "value": None, "error": None, "z": None}
            if all(pair):
                entry |= {"value": pair[0]["value"] - pair[1]["value"], "error": math.hypot(*(row["error"] for row in pair))}
            found.append(entry)
            md = next(e for e in found if e["n_atoms"] == n_atoms and e["estimate"] == "md")
            if key != "md" and None not in (entry["value"], md["value"]):
                entry["z"] = z_score(entry["value"], entry["error"], md["value"], md["error"])
    return found


# ---- table ---------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    zs = [abs(row["z"]) for row in [*results["rows"], *results["differences"]] if row["z"] is not None]
    lines = [
        "# Helmholtz free energies of cubic and hexagonal ice",
        "",
        f"mW at 200 K; made by `python examples/{NAME}.py --profile {results['settings']['profile']}`. beta F/N in kT per atom, one "
        "standard error; z against molecular dynamics with MBAR, and against the published MBAR values where there are some "
        "(Wirnsberger et al. 2022; N = 8 was published with two decimals and without error). TFEP: ESS of its weights; BAR: overlap "
        "of flow and MD. All z of one crystal and size rest on one reference, so they are not independent; BAR shares the frames at λ = 1 "
        "with it, which makes its z a little too small.",
        "",
        f"Largest |z| of {len(zs)}: {max(zs):.1f}." if zs else "No z: nothing to compare.",
        "",
        f"![Free energies over N]({NAME}.png)",
    ]
    for phase, title in PHASES.items():
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *rows_of(results, phase)]
    lines += ["", "## Hexagonal minus cubic", "", *difference_rows(results)]
    lines += [
        "",
        "Per site class, as everywhere in the program: an integral over the whole box would shift the difference by −ln(2)/N.",
        "",
        *commands_section(results),
    ]
    return "\n".join(lines) + "\n"


def rows_of(results, phase):
    """Table lines of one crystal."""
    lines = ["| N | estimate | beta F/N | z | published | z | ESS or overlap |", "|--:|---|--:|--:|--:|--:|--:|"]
    for row in (row for row in results["rows"] if row["phase"] == phase):
        published = LITERATURE.get(phase, {}).get(row["n_atoms"], (None, None))
        cells = [
            str(row["n_atoms"]),
            ESTIMATES[row["estimate"]][2],
            row["withheld"] or with_error(row["value"], row["error"]),
            signed(row["z"]),
            with_error(*published) if row["estimate"] == "md" else "",
            signed(row["z_literature"]),
            NOTHING if row["ess"] is None else f"{row['ess']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def difference_rows(results):
    """Table lines of the difference."""
    lines = ["| N | estimate | beta (F_Ih − F_Ic)/N | z |", "|--:|---|--:|--:|"]
    for entry in results["differences"]:
        value = "withheld" if entry["value"] is None else with_error(entry["value"], entry["error"])
        lines.append(f"| {entry['n_atoms']} | {ESTIMATES[entry['estimate']][2]} | {value} | {signed(entry['z'])} |")
    return lines


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """Values and difference over N above; below, every estimate at every size on its own scale."""
    rows, sizes = results["rows"], sorted({row["n_atoms"] for row in results["rows"]})
    figure = Figure(figsize=(9.0, 10.0), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 2.3), hspace=0.02)
    left, right = upper.subplots(1, 2)
    draw_over_size(left, {phase: [row for row in rows if row["phase"] == phase] for phase in PHASES})
    draw_over_size(right, {"hexagonal − cubic": results["differences"]})
    left.set(ylabel="βF/N", title="(a) both crystals")
    right.set(ylabel="β(F$_{Ih}$ − F$_{Ic}$)/N", title="(b) hexagonal − cubic")
    right.axhline(0.0, color=INK, lw=0.8, zorder=0)
    panels = lower.subplots(3, len(sizes), squeeze=False)
    for letter, line, (title, entries) in zip("cde", panels, panel_rows(results).items(), strict=True):
        line[0].set(ylabel=title)
        for axes, n in zip(line, sizes, strict=True):
            draw_size(axes, [entry for entry in entries if entry["n_atoms"] == n])
            axes.set_title(f"({letter}) N = {n}")
    for axes in figure.axes:
        axes.title.set(fontsize=9, fontweight="bold", ha="left", x=0.0)
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return figure


def panel_rows(results):
    """Deviations of each crystal from molecular dynamics with the published values, and the difference, by label of the axis."""
    found = {}
    for phase in PHASES:
        rows = [dict(row) for row in results["rows"] if row["phase"] == phase]
        zeros = {row["n_atoms"]: row["value"] for row in rows if row["estimate"] == "md"}
        for n, (value, error) in LITERATURE.get(phase, {}).items():
            if error is not None and n in zeros:
                rows.append({"n_atoms": n, "estimate": "published", "value": value, "error": error})
        for row in rows:
            known = None not in (row["value"], zeros[row["n_atoms"]])
            row["value"] = row["value"] - zeros[row["n_atoms"]] if known else None
        short = "Ic" if phase == "cubic" else "Ih"
        found[f"β(F − F$_{{MD}}$)/N, {short}  (10$^{{-3}}$)"] = rows
    return {**found, "β(F$_{Ih}$ − F$_{Ic}$)/N  (10$^{-3}$)": results["differences"]}


def draw_over_size(axes, curves):
    """Molecular dynamics and sublattice flow over N: on this scale the other estimates lie on them."""
    sizes = sorted({row["n_atoms"] for rows in curves.values() for row in rows})
    for (name, rows), line in zip(curves.items(), ("-", "--"), strict=False):
        for key in ("md", "sublattice_bar"):
            x, y, error = zip(
                *[(r["n_atoms"], r["value"], r["error"]) for r in shown_rows(rows, key)] or [(1, np.nan, 0)], strict=True
            )
            _, _, _, colour, marker, _ = ESTIMATES[key]
            axes.errorbar(x, y, error, fmt=marker, color=colour, ls=line if key == "md" else "none", ms=6, capsize=2, lw=1.0)
        published = {n: LITERATURE.get(name, {}).get(n, (None,))[0] for n in sizes}
        points = [(n, value) for n, value in published.items() if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "*", color=RISE, ms=9, mec=INK, mew=0.5, zorder=5)
        if len(curves) > 1 and (md := shown_rows(rows, "md")):
            place = ((-6, 14), (16, 0))[line == "--"]
            axes.annotate(name, (md[0]["n_atoms"], md[0]["value"]), place, textcoords="offset points", va="center")
    axes.set(xscale="log", xlabel="N")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()


def shown_rows(rows, key):
    return [row for row in rows if row["estimate"] == key and row["value"] is not None]


def draw_size(axes, rows):
    """The estimates of one size side by side, in thousandths; what is withheld is a cross at the foot."""
    places = [*ESTIMATES, "published"]
    for row in rows:
        _, _, label, colour, marker, filled = ESTIMATES.get(row["estimate"], (None, None, "published MBAR", RISE, "*", True))
        x = places.index(row["estimate"])
        if row["value"] is None:
            axes.plot(x, 0.04, "x", color=colour, ms=6, transform=axes.get_xaxis_transform(), label=WITHHELD)
            continue
        style = {"mfc": colour if filled else "white", "ms": 9 if marker == "*" else 5, "capsize": 2, "lw": 1.2}
        edge = {"mec": INK, "mew": 0.5} if marker == "*" else {}
        axes.errorbar(x, 1e3 * row["value"], 1e3 * row["error"], fmt=marker, color=colour, label=label, **style, **edge)
        if row["estimate"] == "md":
            y, error = 1e3 * row["value"], 1e3 * row["error"]
            axes.axhspan(y - error, y + error, color="0.5", alpha=0.15, lw=0)
    axes.set(xlim=(-0.7, len(places) - 0.3))
    axes.margins(y=0.12)
    axes.set_xticks([])


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    profile = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    run_chains(
        commands, [lambda phase=phase: run_phase(commands, phase, profile, options.seed) for phase in PHASES], options.jobs
    )
    if options.dry_run:
        return 0
    versions = commands.results(f"cubic/{atoms(profile.groups[0][0])}/md", "provenance.json")["versions"]
    rows = collect(commands, profile)
    results = {
        "settings": settings_of(options, versions),
        "rows": rows,
        "differences": differences(rows),
        "literature": {phase: {str(n): list(entry) for n, entry in values.items()} for phase, values in LITERATURE.items()},
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
