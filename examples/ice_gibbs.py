# SPDX-License-Identifier: GPL-2.0-or-later
"""Gibbs free energies of cubic and hexagonal ice (mW) at 0 bar and 200 K, from flows over the cell and from molecular dynamics.

    python examples/ice_gibbs.py                    # quick: about 12 minutes on two cores
    python examples/ice_gibbs.py --profile paper    # trained at 216 atoms: days, on many cores
    python examples/ice_gibbs.py --dry-run          # the commands alone

One flow for each crystal, trained at 64 atoms: conditional on the volume of cubic ice (Ic), on volume and c/a of hexagonal ice (Ih), whose
b/a the symmetry fixes. G is the minimum of F + PV over these cells. The same flows are applied to 216 atoms without training. Beside
them molecular dynamics: NPT for the volume (all three lengths of Ih are free there), MBAR over lambda windows for F in the cell that the
flow found. The state of the published comparison beyond 0 bar could not be read; 200 K is that of the Helmholtz free energies.

beta G/N counts one site class: the crystal as a whole on its sites. An integral over the whole box would be lower by ln(2)/N for cubic
and ln(4)/N for hexagonal ice (2 and 4 molecules in the primitive cell), which would move Ih - Ic by -ln(2)/N. As N grows both agree.

Writes ice_gibbs.json, .md (tables) and .png from the results of the runs. Needs: pip install 'lammps-bg[plot]'.
"""

import math
import sys
from dataclasses import dataclass

from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed, words, z_score
from gibbs_runs import Place, all_z, numbers_of, run_beside
from matplotlib.figure import Figure

from lammps_bg.report.figures.style import COLOURS, INK
from lammps_bg.results import with_error

NAME = "ice_gibbs"
TEMPERATURE, PRESSURE = 200.0, 0.0  # K, bar; zero is the same in every unit
NKTV2P = 68568.415  # atm for one kcal/mol per cubic Angstrom, as in LAMMPS' units real
MOLECULE = 18.015 / 0.602214076  # g/cm3 for one molecule per cubic Angstrom
CELL_ATOMS = 8
PHASES = {"cubic": "cubic ice (Ic)", "hexagonal": "hexagonal ice (Ih)"}
RANGES = {
    "cubic": ("condition.volume=[-0.03,0.06]",),
    "hexagonal": ("condition.volume=[-0.03,0.06]", "condition.c_over_a=[-0.02,0.02]"),
}
BAROSTAT = {"cubic": "iso", "hexagonal": "aniso"}
STAND_IN = {"cubic": {"volume": 0.015}, "hexagonal": {"volume": 0.015, "c/a": 0.0}}  # cells for a dry run
# a thermostat and time step at which positions decorrelate fast and keep their distribution (fix gjf)
MD = ("md.timestep=4", "md.damp=40")
NPT = (*MD, "md.sample_every=50", "md.pressure_damp=2000")
MBAR = (*MD, "md.sample_every=10")


@dataclass(frozen=True)
class Profile:
    """How large and how long.

    Attributes:
        sizes: Unit cells along each edge; the flows are trained at the first.
        train: Settings of the training of each flow.
        beside: Settings of the free energies and of the molecular dynamics.
        larger: Settings that differ at sizes other than the first.
    """

    sizes: tuple[int, ...]
    train: dict[str, tuple[str, ...]]
    beside: dict[str, tuple[str, ...]]
    larger: dict[str, tuple[str, ...]]


BUDGET = ("train.steps=1000000", "base.pilot_steps=0")
PROFILES = {
    "quick": Profile(
        sizes=(2, 3),
        train={
            "cubic": (*BUDGET, "train.max_seconds=120"),
            "hexagonal": (*BUDGET, "train.max_seconds=150"),
        },
        beside={
            "cell": ("gibbs.n_samples=32",),
            "gibbs": ("gibbs.n_samples=256",),
            "npt": (*NPT, "md.n_frames=800"),
            "mbar": (*MBAR, "md.target_error=1.5e-3", "md.window_frames=100"),
        },
        larger={
            "cell": ("gibbs.n_samples=16",),
            "gibbs": ("gibbs.n_samples=64",),
            "npt": (*NPT, "md.n_frames=400"),
            "mbar": (*MBAR, "md.target_error=1.5e-3", "md.window_frames=100"),
        },
    ),
    "paper": Profile(
        sizes=(3, 4, 5),
        train=dict.fromkeys(PHASES, ("train.steps=20000", "train.batch_size=128", "condition.pool=512")),
        beside={
            "cell": ("gibbs.n_samples=500",),
            "gibbs": ("gibbs.n_samples=2000", "gibbs.n_volumes=13"),
            "npt": (*NPT, "md.n_frames=20000", "md.max_steps=50000000"),
            "mbar": (*MBAR, "md.target_error=1e-4", "md.window_frames=1000", "md.max_steps=50000000"),
        },
        larger={},
    ),
    "tiny": Profile(
        sizes=(2,),
        train=dict.fromkeys(
            PHASES,
            (
                *("train.steps=30", "train.batch_size=16", "base.pilot_steps=0", "base.iterations=2"),
                *("condition.base_samples=50", "condition.pool=16"),
            ),
        ),
        beside={
            "cell": ("gibbs.n_samples=16",),
            "gibbs": ("gibbs.n_samples=16",),
            "npt": (*NPT, "md.n_frames=50"),
            "mbar": (*MBAR, "md.target_error=0.05", "md.window_frames=50"),
        },
        larger={},
    ),
}


# ---- commands ------------------------------------------------------------------------------------------------------------------


def run_phase(commands, phase, profile, seed):
    """All commands of one crystal: the flow, and at each size its free energies with molecular dynamics beside."""
    crystal = crystal_words(phase, profile.sizes[0])
    settings = words(*RANGES[phase], *profile.train[phase])
    commands.make(f"{phase}/model", "train", *crystal, "--seed", str(seed), *settings, "--allow-red")
    for size in profile.sizes:
        beside = profile.beside if size == profile.sizes[0] else {**profile.beside, **profile.larger}
        run_beside(commands, place_of(phase, size), beside, seed)


def crystal_words(phase, size):
    """The words of script and replicate."""
    return ("-in", f"inputs/in.mw_{phase}", "-rep", *[str(size)] * 3)


def place_of(phase, size):
    """One crystal at one size."""
    return Place(
        folder=f"{phase}/{atoms(size)}",
        model=f"{phase}/model",
        crystal=crystal_words(phase, size),
        variables=("-var", "T", f"{TEMPERATURE:g}"),
        conditions=(),  # the models know one T, that of the script
        pressure=PRESSURE,
        barostat=BAROSTAT[phase],
        stand_in=STAND_IN[phase],
    )


def atoms(size):
    """Atoms in so many unit cells along each edge."""
    return CELL_ATOMS * size**3


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def collect(commands, profile):
    """All numbers, from the results of the runs."""
    rows = [
        {"phase": phase, "trained": size == profile.sizes[0], **numbers_of(commands, f"{phase}/{atoms(size)}", NKTV2P)}
        for phase in PHASES
        for size in profile.sizes
    ]
    return {"rows": rows, "differences": [difference(rows, atoms(size)) for size in profile.sizes]}


def difference(rows, n_atoms):
    """Hexagonal minus cubic at one size, in kT per atom: flows, molecular dynamics, and how far they are apart."""
    pair = [next(row for row in rows if (row["phase"], row["n_atoms"]) == (phase, n_atoms)) for phase in ("hexagonal", "cubic")]
    found = {"n_atoms": n_atoms, "kt": pair[0]["kt"], "whole_box": -math.log(2) / n_atoms, "flow": None, "md": None, "z": None}
    for name in ("flow", "md"):
        if None not in (pair[0][name]["value"], pair[1][name]["value"]):
            error = math.hypot(*(row[name]["error"] for row in pair))
            found[name] = {"value": pair[0][name]["value"] - pair[1][name]["value"], "error": error}
    if found["flow"] and found["md"]:
        found["z"] = z_score(*found["flow"].values(), *found["md"].values())
    return found


def density(volume):
    """Of a volume per molecule with its error, in g/cm3."""
    value = MOLECULE / volume["value"]
    return value, value * volume["error"] / volume["value"]


# ---- text ----------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    zs = [*all_z(results["rows"]), *(entry["z"] for entry in results["differences"] if entry["z"] is not None)]
    lines = [
        "# Gibbs free energies of cubic and hexagonal ice at 0 bar",
        "",
        f"mW at {TEMPERATURE:g} K and 0 bar; made by `python examples/{NAME}.py --profile {results['settings']['profile']}`. G in kT per "
        "molecule, with Λ = σ = 2.3925 Å, one standard error. Flows are trained at the smallest size and applied to the others without "
        "training. MD: MBAR over λ windows in the cell that the flow found, and NPT.",
        "",
        f"Largest |z| of {len(zs)}: {max(map(abs, zs)):.1f}; {sum(abs(z) > 3 for z in zs)} above 3."
        if zs
        else "No z: nothing to compare.",
        "",
        f"![Free energies, their difference and densities]({NAME}.png)",
        "",
        "## Gibbs free energies",
        "",
        *free_rows(results),
        "",
        "At 0 bar G is F in the cell of the minimum. If the mean volume of NPT were the right one, F in the flow's cell would be above its "
        "minimum by the last column: second order.",
        "",
        "## Hexagonal minus cubic",
        "",
        *difference_rows(results),
        "",
        *difference_text(results),
        "",
        "## Volume and shape",
        "",
        *cell_rows(results),
        "",
        *cell_text(results),
        "",
        *commands_section(results),
    ]
    return "\n".join(lines) + "\n"


def free_rows(results):
    """Table lines of the free energies."""
    lines = [
        "| crystal | N | βG/N flow | βG/N MD | z | ESS at the cell | lowest ESS | F + PV from other V |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        cells = [
            PHASES[row["phase"]],
            f"{row['n_atoms']}{'' if row['trained'] else ' (not trained)'}",
            *(with_error(row[name]["value"], row[name]["error"]) for name in ("flow", "md")),
            signed(row["z"]),
            *(f"{row['ess'][name]:.0%}" for name in ("at_the_cell", "lowest")),
            f"{row['cell_excess']:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def difference_rows(results):
    """Table lines of the difference."""
    lines = [
        "| N | β(G_Ih − G_Ic)/N flow | MD | z | flow (J/mol) | flow, sites of the whole box |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in results["differences"]:
        flow, md = entry["flow"], entry["md"]
        joule = 4184 * entry["kt"]  # kT is in kcal/mol
        cells = [
            str(entry["n_atoms"]),
            *(with_error(e["value"], e["error"]) if e else "withheld" for e in (flow, md)),
            signed(entry["z"]),
            with_error(flow["value"] * joule, flow["error"] * joule) if flow else "withheld",
            with_error(flow["value"] + entry["whole_box"], flow["error"]) if flow else "withheld",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def difference_text(results):
    """What the difference says."""
    text = [
        "One site class is counted, as everywhere in the program. The last column counts all sites of the box, which lowers Ic by ln(2)/N and "
        "Ih by ln(4)/N, and so their difference by ln(2)/N. Numbers from elsewhere may stand for either: never mix them."
    ]
    known = [entry for entry in results["differences"] if entry["flow"]]
    for entry in known:
        value, error = entry["flow"].values()
        sigmas = value / error if error > 0 else 0.0
        side = "cubic" if value > 0 else "hexagonal"
        said = f"{side} ice is the more stable one" if abs(sigmas) > 3 else "which of them is the more stable one is not resolved"
        text.append(f"At N = {entry['n_atoms']} the flows' difference is {sigmas:+.1f} standard errors from zero: {said}.")
    wide = [entry["n_atoms"] for entry in known if entry["flow"]["error"] > 2e-3]
    text.append(
        f"Its errors are above 2e-3 kT at N = {', '.join(map(str, wide))}."
        if wide
        else "Its errors are below 2e-3 kT per molecule."
    )
    text.append(
        "At the ideal c/a the static energies of both crystals are equal in mW: only nearest neighbours are inside the cutoff, in the same "
        "tetrahedra. So the difference is one of vibrations, and depends on N through the boundaries. Not known: the published value at 0 bar, "
        "and its sizes."
    )
    return [" ".join(text)]


def cell_rows(results):
    """Table lines of densities and shapes."""
    lines = [
        "| crystal | N | density flow (g/cm³) | density MD, NPT | quantity | flow | MD | z |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for row in results["rows"]:
        own = [
            PHASES[row["phase"]],
            str(row["n_atoms"]),
            *(with_error(*density(row[f"{name}_volume"])) for name in ("flow", "md")),
        ]
        for entry in row["comparison"]:
            unit = f", {entry['unit']}" if entry["unit"] else ""
            numbers = [with_error(entry[name]["value"], entry[name]["error"]) for name in ("flow", "md")]
            lines.append(f"| {' | '.join([*own, entry['quantity'] + unit, *numbers, signed(entry['z'])])} |")
            own = [""] * 4
    return lines


def cell_text(results):
    """What the cells say."""
    changes = [(row["n_atoms"], row["cell"]["c/a"]) for row in results["rows"] if "c/a" in row["cell"]]
    shown = "; ".join(f"{with_error(entry['value'], entry['error'])} (N = {n})" for n, entry in changes)
    return [
        f"c/a of Ih is relative to the ideal one, sqrt(8/3): its logarithm changes by {shown}. Ic is cubic by symmetry, so only its volume is "
        "free. In the molecular dynamics of Ih b/a is free as well; by symmetry its mean stays."
    ]


# ---- figure --------------------------------------------------------------------------------------------------------------------

LOOKS = {"cubic": "o", "hexagonal": "s"}


def draw(results):
    """Free energies, their difference, and densities, over the number of atoms."""
    figure = Figure(figsize=(10.2, 4.0), layout="constrained")
    free, change, dense = figure.subplots(1, 3)
    sizes = sorted({row["n_atoms"] for row in results["rows"]})
    for phase, title in PHASES.items():
        rows = [row for row in results["rows"] if row["phase"] == phase]
        for name, colour, shift in (("flow", COLOURS["flow"], -0.06), ("md", COLOURS["md"], 0.06)):
            places = [sizes.index(row["n_atoms"]) + shift for row in rows]
            label = f"{title}, {'flow' if name == 'flow' else 'MD'}"
            style = {"fmt": LOOKS[phase], "color": colour, "capsize": 2, "ms": 5, "label": label}
            points = [(x, row[name]) for x, row in zip(places, rows, strict=True) if row[name]["value"] is not None]
            if points:
                free.errorbar([x for x, _ in points], *zip(*[e.values() for _, e in points], strict=True), **style)
            dense.errorbar(places, *zip(*[density(row[f"{name}_volume"]) for row in rows], strict=True), **style)
    for name, colour, shift in (("flow", COLOURS["flow"], -0.06), ("md", COLOURS["md"], 0.06)):
        points = [
            (sizes.index(e["n_atoms"]) + shift, *(1e3 * v for v in e[name].values())) for e in results["differences"] if e[name]
        ]
        if points:
            change.errorbar(
                *zip(*points, strict=True), fmt="D", color=colour, capsize=2, ms=5, label="flow" if name == "flow" else "MD"
            )
    change.axhline(0.0, color=INK, lw=0.8, zorder=0)
    figure.legend(*dense.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    free.set(ylabel="βG/N", title="(a) Gibbs free energy")
    change.set(ylabel="β(G$_{Ih}$ − G$_{Ic}$)/N  (10$^{-3}$)", title="(b) hexagonal − cubic")
    dense.set(ylabel="density (g/cm³)", title="(c) density")
    for axes in (free, change, dense):
        axes.set(xlabel="N", xlim=(-0.5, len(sizes) - 0.5))
        axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
    return figure


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    profile = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    run_chains(
        commands, [lambda phase=phase: run_phase(commands, phase, profile, options.seed) for phase in PHASES], options.jobs
    )
    if options.dry_run:
        return 0
    versions = commands.results(f"cubic/{atoms(profile.sizes[0])}/mbar", "provenance.json")["versions"]
    results = {"settings": settings_of(options, versions), **collect(commands, profile), "commands": commands.summary()}
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
