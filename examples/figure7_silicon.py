# SPDX-License-Identifier: GPL-2.0-or-later
"""Coexistence of diamond and beta-tin silicon (Stillinger-Weber 1985) in the plane of T and P, from flows over T and the cell.

    python examples/figure7_silicon.py                    # quick: about 15 minutes on two cores
    python examples/figure7_silicon.py --profile paper    # 216 atoms and more: days, on many cores
    python examples/figure7_silicon.py --dry-run          # the commands alone

As in Fig. 7 of Schebek, Noe and Rogal, Nat. Commun. 17, 5010 (2026): one flow for each crystal, conditional on T from 350 to 1050 K and
on the cell: the volume of diamond, volume and c/a of beta-tin. The Gibbs free energies meet at the transition pressure P_t(T). At one T
molecular dynamics alone says where: NPT for the cells, and MBAR over lambda windows for F, both at the flow's own P_t; from it follow
the difference of the Gibbs free energies there, which should be zero, and another P_t. Sizes, pressures and temperatures of the
published figure could not be read; those here are our choice.

Beta-tin is a delicate reference. It starts from the harmonic crystal (base.iterations=0): a self-consistent one is unstable under
compression. Ideal beta-tin is a minimum of the energy, but displaced relatives (t-X, and Imma where b differs from a) lie below it
already at T = 0. A model over volume and c/a keeps b = a, which is the symmetric cell; molecular dynamics at constant pressure has b/a
free, and the text below says how far it goes.

Writes figure7_silicon.json, .md (tables) and .png from the results of the runs. Needs: pip install 'lammps-bg[plot]'.
"""

import csv
import math
import sys
from dataclasses import dataclass

import numpy as np
from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed, words, z_score
from gibbs_runs import Place, all_z, numbers_of, run_beside
from matplotlib.figure import Figure

from lammps_bg.report.figures.style import COLOURS, INK, RISE
from lammps_bg.results import with_error

NAME = "figure7_silicon"
BAR = 1e-4  # GPa
NKTV2P = 1602176.5  # bar for one eV per cubic Angstrom, as in LAMMPS' units metal
PLACE = 600.0  # K, where molecular dynamics stands beside
PHASES = {"diamond": "diamond", "betatin": "β-tin"}
CELLS = {"diamond": (2, 2, 2), "betatin": (2, 2, 4)}  # 64 atoms each: 8 and 4 atoms in a unit cell
RANGES = {
    "diamond": ("condition.volume=[-0.15,0.02]", "condition.temperature=[350,1050]"),
    "betatin": (
        *("condition.volume=[-0.055,0.01]", "condition.c_over_a=[-0.005,0.045]", "condition.temperature=[350,1050]"),
        "base.iterations=0",
    ),
}
BAROSTAT = {"diamond": "iso", "betatin": "aniso"}
# for a dry run: the commands that follow the coexistence take these numbers from its results
# beta-tin moves slowly between displaced structures: its windows need many times the frames of diamond for the same error
TARGETS = {
    "quick": {"diamond": 2e-3, "betatin": 6e-3},
    "paper": {"diamond": 1e-4, "betatin": 5e-4},
    "tiny": {"diamond": 0.05, "betatin": 0.05},
}
STAND_IN = {"pressure": 136000.0, "diamond": {"volume": -0.11}, "betatin": {"volume": -0.04, "c/a": 0.025}}
# classical quasi-harmonic crystals of 64 atoms and, at T = 0, lattice sums (GPa): no anharmonicity
QUASI_HARMONIC = {0: 18.13, 350: 15.90, 600: 14.58, 800: 13.67, 1050: 12.64}
TWO_WELLS = 2.3  # fourth moment of ln b/a below which it has two wells
T_X = 15.8  # GPa, diamond to displaced beta-tin (t-X) at T = 0
EXPERIMENT, QMC = (11.3, 12.6), (14.0, 1.0)  # GPa, real silicon; arXiv 1006.3253
# a thermostat and time step at which positions decorrelate fast and keep their distribution (fix gjf)
MD = ("md.timestep=0.002", "md.damp=0.1")
NPT = (*MD, "md.sample_every=20", "md.pressure_damp=1")
MBAR = (*MD, "md.sample_every=10")


@dataclass(frozen=True)
class Profile:
    """How large and how long.

    Attributes:
        copies: Of the cells in CELLS along each edge, at which the flows are trained.
        larger: The same for larger crystals, without training; none: no such.
        train: Settings of the training of each flow.
        temperatures: Of the line, K.
        line: Settings of the coexistence line.
        transfer: Settings of the coexistence of the larger crystals at PLACE.
        beside: Settings of the molecular dynamics and of the Gibbs free energies beside it.
    """

    copies: tuple[float, ...]
    larger: tuple[float, ...] | None
    train: dict[str, tuple[str, ...]]
    temperatures: tuple[float, ...]
    line: tuple[str, ...]
    transfer: tuple[str, ...]
    beside: dict[str, tuple[str, ...]]


BUDGET = ("train.steps=1000000", "base.pilot_steps=0")
PROFILES = {
    "quick": Profile(
        copies=(1, 1, 1),
        larger=None,  # the weights of beta-tin at 64 atoms are too uneven for more
        train={
            "diamond": (*BUDGET, "train.max_seconds=150"),
            "betatin": (*BUDGET, "train.max_seconds=480"),
        },
        temperatures=(350, 600, 800, 1050),
        line=("gibbs.n_samples=128",),
        transfer=("gibbs.n_samples=64",),
        beside={
            "cell": ("gibbs.n_samples=64",),
            "gibbs": ("gibbs.n_samples=256",),
            "npt": (*NPT, "md.n_frames=1000"),
            "mbar": (*MBAR, "md.window_frames=100"),
        },
    ),
    "paper": Profile(
        copies=(1.5, 1.5, 1.5),
        larger=(2, 2, 2),
        train=dict.fromkeys(PHASES, ("train.steps=20000", "train.batch_size=256", "condition.pool=512")),
        temperatures=(350, 475, 600, 700, 800, 925, 1050),
        line=("gibbs.n_samples=2000", "gibbs.n_volumes=13"),
        transfer=("gibbs.n_samples=2000",),
        beside={
            "cell": ("gibbs.n_samples=500",),
            "gibbs": ("gibbs.n_samples=2000",),
            "npt": (*NPT, "md.n_frames=20000", "md.max_steps=50000000"),
            "mbar": (*MBAR, "md.window_frames=1000", "md.max_steps=50000000"),
        },
    ),
    "tiny": Profile(
        copies=(1, 1, 1),
        larger=None,
        train=dict.fromkeys(
            PHASES,
            (*("train.steps=20", "train.batch_size=16", "base.pilot_steps=0"), "condition.base_samples=50", "condition.pool=16"),
        ),
        temperatures=(500, 600, 800),
        line=("gibbs.n_samples=16",),
        transfer=(),
        beside={
            "cell": ("gibbs.n_samples=16",),
            "gibbs": ("gibbs.n_samples=16",),
            "npt": (*NPT, "md.n_frames=50"),
            "mbar": (*MBAR, "md.window_frames=50"),
        },
    ),
}


# ---- commands ------------------------------------------------------------------------------------------------------------------


def run(commands, profile, options):
    """Train both flows side by side, find the line, and do the molecular dynamics of both crystals side by side."""
    seed, jobs = options.seed, options.jobs
    run_chains(commands, [lambda phase=phase: train(commands, phase, profile, seed) for phase in PHASES], jobs)
    models = ["-models", *(commands.folder(f"{phase}/model") for phase in PHASES), "--axis", "P", "--seed", str(seed)]
    chains = [lambda: line(commands, models, profile)]
    if profile.larger:
        sizes = [word for phase in PHASES for word in replicate(phase, profile.larger)]
        settings = ["-T", f"{PLACE:g}", *sizes, *words(*profile.transfer), "--allow-red"]
        chains.append(lambda: commands.make("larger", "phase", *models, *settings))
    run_chains(commands, chains, jobs)
    pressure, targets = pressure_of(commands), TARGETS[options.profile]
    run_chains(
        commands, [lambda phase=phase: beside(commands, phase, profile, pressure, targets[phase], seed) for phase in PHASES], jobs
    )


def train(commands, phase, profile, seed):
    """The flow of one crystal over T and its cells."""
    crystal = ["-in", f"inputs/in.si_{phase}", *replicate(phase, profile.copies), "--seed", str(seed)]
    commands.make(f"{phase}/model", "train", *crystal, *words(*RANGES[phase], *profile.train[phase]), "--allow-red")


def line(commands, models, profile):
    """P_t at each T."""
    states = ["-T", *(f"{t:g}" for t in profile.temperatures)]
    commands.make("line", "phase", *models, *states, *words(*profile.line), "--allow-red")


def replicate(phase, copies):
    """The words of -rep."""
    return ["-rep", *(f"{round(n * c)}" for n, c in zip(CELLS[phase], copies, strict=True))]


def pressure_of(commands):
    """P_t of the flows at the place of the molecular dynamics, in whole bar; a number that stands for it in a dry run."""
    if "line" not in commands.finished:
        return STAND_IN["pressure"]
    roots = crossings(commands.results("line"), PLACE)["roots"]
    if len(roots) != 1:
        sys.exit(f"expected one pressure at which the crystals coexist at {PLACE:g} K, got {len(roots)}; train longer")
    return float(round(roots[0]["value"]))


def crossings(results, temperature):
    """Where the difference of the Gibbs free energies is zero at a temperature."""
    return next(d["crossings"] for d in results["phase"]["differences"] if d["state"]["T"] == temperature)


def beside(commands, phase, profile, pressure, target, seed):
    """Molecular dynamics beside the flow of one crystal."""
    settings = {**profile.beside, "mbar": (*profile.beside["mbar"], f"md.target_error={target:g}")}
    run_beside(commands, place_of(phase, profile, pressure), settings, seed)


def place_of(phase, profile, pressure):
    """Where molecular dynamics stands beside the flow of a crystal."""
    return Place(
        folder=f"{phase}/beside",
        model=f"{phase}/model",
        crystal=("-in", f"inputs/in.si_{phase}", *replicate(phase, profile.copies)),
        variables=("-var", "T", f"{PLACE:g}"),
        conditions=("-T", f"{PLACE:g}"),
        pressure=pressure,
        barostat=BAROSTAT[phase],
        stand_in=STAND_IN[phase],
    )


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def collect(commands, profile):
    """All numbers, from the results of the runs."""
    found = commands.results("line")
    boltzmann = 1 / (found["system"]["beta"] * found["system"]["temperature"])
    places = {phase: numbers_of(commands, f"{phase}/beside", NKTV2P) for phase in PHASES}
    results = {
        "line": [point_of(entry, boltzmann) for entry in found["phase"]["differences"]],
        "clapeyron": next(iter(found["phase"]["clausius_clapeyron"]), None),
        "verdict": found["verdict"],
        "n_atoms": {"line": found["system"]["n_atoms"]},
        "larger": None,
        "places": places,
        "shape": shape_of(commands.out / "betatin/beside/npt/thermo.csv", places["betatin"]["n_atoms"]),
    }
    if profile.larger:
        larger = commands.results("larger")
        results["larger"] = point_of(larger["phase"]["differences"][0], boltzmann)
        results["n_atoms"]["larger"] = larger["system"]["n_atoms"]
    return {**results, "check": check_of(places, results["line"])}


def point_of(entry, boltzmann):
    """One temperature of the line: pressures in GPa, energies in kT per atom."""
    t, kt = entry["state"]["T"], boltzmann * entry["state"]["T"]
    difference = entry["difference_per_atom"]
    roots = [
        {"P": root["value"] * BAR, "error": root["error"] * BAR, "established": root["established"],
         "error_g": abs(root["slope"]) * root["error"] / kt, **at}
        for root, at in zip(entry["crossings"]["roots"], entry["coexistence"], strict=True)
    ]  # fmt: skip
    return {
        "T": t,
        "roots": roots,
        "sentence": entry["crossings"]["sentence"],
        "quasi_harmonic": quasi_harmonic(t),
        "axis": [p * BAR for p in entry["axis"]],
        "difference": {key: [x / kt for x in difference[key]] for key in ("value", "error")},
    }


def quasi_harmonic(temperature):
    """P_t of the table, between its temperatures by a straight line."""
    return float(np.interp(temperature, list(QUASI_HARMONIC), list(QUASI_HARMONIC.values())))


def shape_of(path, n_atoms):
    """How ln b/a of beta-tin is distributed in the constant-pressure dynamics: one well, or two.

    Its fourth moment over the squared mean square is 3 for a Gaussian and 1 for two sharp wells; the depth of the wells below b = a
    follows from the histogram of its absolute value, in kT per atom.
    """
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ratio = np.array([math.log(float(row["ly"]) / float(row["lx"])) for row in rows])[len(rows) // 10 :]
    square = float((ratio**2).mean())
    counts, _ = np.histogram(np.abs(ratio), 10, (0.0, np.abs(ratio).max()))
    signs = np.sign(ratio)
    return {
        "rms": square**0.5,
        "kurtosis": float((ratio**4).mean()) / square**2,
        "depth": math.log(counts.max() / max(1, counts[0])) / n_atoms,
        "changes_of_sign": int((signs[1:] != signs[:-1]).sum()),
        "frames": len(ratio),
    }


def check_of(places, line_points):
    """Beta-tin minus diamond of molecular dynamics alone at the flows' P_t, and the P_t that follows from it."""
    first, second = places["diamond"], places["betatin"]
    if None in (first["md"]["value"], second["md"]["value"]):
        return None
    difference = second["md"]["value"] - first["md"]["value"]
    error = math.hypot(first["md"]["error"], second["md"]["error"])
    root = next(point for point in line_points if point["T"] == PLACE)["roots"][0]
    per_gpa = (second["md_volume"]["value"] - first["md_volume"]["value"]) / (NKTV2P * BAR * first["kt"])  # kT per atom and GPa
    pressure, spread = first["pressure"] * BAR - difference / per_gpa, error / abs(per_gpa)
    return {
        "T": PLACE,
        "difference": {"value": difference, "error": error, "z": difference / error},
        "P": {"value": pressure, "error": spread, "z": z_score(root["P"], root["error"], pressure, spread)},
        "flow": {"value": root["P"], "error": root["error"]},
        "per_gpa": per_gpa,
    }


# ---- text ----------------------------------------------------------------------------------------------------------------------


def table(results):
    """The Markdown text."""
    n = results["n_atoms"]["line"]
    zs = all_z(results["places"].values())
    lines = [
        "# Diamond and β-tin silicon in the plane of T and P",
        "",
        f"Stillinger-Weber silicon (1985), {n} atoms in both crystals; made by `python examples/{NAME}.py --profile "
        f"{results['settings']['profile']}`. Pressures in GPa with one standard error, energies in kT per atom. Quasi-harmonic: classical "
        "harmonic crystals of 64 atoms at each volume, no anharmonicity.",
        "",
        f"![Gibbs free energies and coexistence line]({NAME}.png)",
        "",
        "## Coexistence line",
        "",
        *line_rows(results),
        "",
        *line_text(results),
        "",
        f"## Molecular dynamics beside, at {PLACE:g} K and the flows' own P_t",
        "",
        *place_rows(results),
        "",
        *check_text(results),
        "",
        *shape_text(results),
        "",
        f"`gibbs -md` compares {len(zs)} numbers; largest |z| {max(map(abs, zs)):.1f}, {sum(abs(z) > 3 for z in zs)} above 3."
        if zs
        else "Nothing to compare.",
        "",
        *comparison_rows(results),
        "",
        "## Other numbers, and what is not known",
        "",
        *literature_text(results),
        "",
        *commands_section(results),
    ]
    return "\n".join(lines) + "\n"


def line_rows(results):
    """Table lines of the coexistence line."""
    head = (
        "| T (K) | N | P_t flow | error in ΔG (kT/atom) | quasi-harmonic | flow − quasi-harmonic | ΔV (Å³/atom) | ΔH (eV/atom) |"
    )
    lines = [head, "|--:|--:|--:|--:|--:|--:|--:|--:|"]
    points = [(results["n_atoms"]["line"], point) for point in results["line"]]
    if results["larger"]:
        points.append((results["n_atoms"]["larger"], results["larger"]))
    for n, point in points:
        for root in point["roots"]:
            cells = [
                f"{point['T']:g}",
                str(n),
                with_error(root["P"], root["error"]) + ("" if root["established"] else " (not established)"),
                f"{root['error_g']:.1e}",
                f"{point['quasi_harmonic']:.2f}",
                f"{root['P'] - point['quasi_harmonic']:+.2f}",
                *(
                    with_error(root[f"{name}_difference"]["value"], root[f"{name}_difference"]["error"])
                    for name in ("volume", "enthalpy")
                ),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if not point["roots"]:
            lines.append(f"| {point['T']:g} | {n} | {point['sentence']} | | {point['quasi_harmonic']:.2f} | | | |")
    return lines


def line_text(results):
    """What the line says: its slope, its errors, its size dependence."""
    text = []
    if results["clapeyron"]:
        zs = [z for z in results["clapeyron"]["z"] if z is not None]
        text.append(
            "Clausius-Clapeyron: the slope of the line differs from ΔH / (T ΔV) of both crystals by "
            f"{', '.join(f'{z:+.1f}' for z in zs)} standard errors."
        )
    errors = [root["error_g"] for point in results["line"] for root in point["roots"]]
    if errors:
        below = "all below" if max(errors) <= 2e-3 else "not all below"
        text.append(
            f"The errors of the difference of the Gibbs free energies are {min(errors):.1e} to {max(errors):.1e} kT per atom, {below} 2e-3."
        )
    larger, same = results["larger"], next((p for p in results["line"] if p["T"] == PLACE), None)
    if larger and larger["roots"] and same and same["roots"]:
        one, two = larger["roots"][0], same["roots"][0]
        change, error = one["P"] - two["P"], math.hypot(one["error"], two["error"])
        text.append(
            f"From {results['n_atoms']['line']} to {results['n_atoms']['larger']} atoms, with the flows trained at the smaller size, P_t at "
            f"{PLACE:g} K changes by {with_error(change, error)} GPa."
        )
    if not larger:
        share = results["places"]["betatin"]["ess"]["at_the_cell"]
        n = results["n_atoms"]["line"]
        text.append(
            f"Larger crystals are left out: the flow of β-tin has an ESS of {share:.0%} at {n} atoms, which at 216 would be about "
            f"{share ** (216 / n):.1g} as a share."
        )
    return [" ".join(text)]


def place_rows(results):
    """Table lines of both crystals at the place of the molecular dynamics."""
    first = "| crystal | βG/N flow | βG/N MD, MBAR | z | V flow (Å³/atom) | V MD, NPT "
    lines = [
        f"{first}| P of MD in the flow's cell (GPa) | z | ESS at the cell | lowest ESS |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for phase, title in PHASES.items():
        place = results["places"][phase]
        pressure = place["md_pressure"]
        cells = [
            title,
            *(with_error(place[name]["value"], place[name]["error"]) for name in ("flow", "md")),
            signed(place["z"]),
            *(with_error(place[name]["value"], place[name]["error"]) for name in ("flow_volume", "md_volume")),
            with_error(pressure["value"] * BAR, pressure["error"] * BAR) if pressure["value"] is not None else "",
            signed(pressure["z"]),
            *(f"{place['ess'][name]:.0%}" for name in ("at_the_cell", "lowest")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    excess = ", ".join(f"{results['places'][phase]['cell_excess']:.1e} ({title})" for phase, title in PHASES.items())
    return [
        *lines,
        "",
        f"P of the flow's cells is {results['places']['diamond']['pressure'] * BAR:.4f} GPa; z of the dynamics' pressure in them counts the "
        "error of the flow's volume, too. βG/N of MD is F of MBAR plus PV in the flow's cell. If the volume of NPT were the right one, F + PV "
        f"there would be above its minimum by {excess} kT per atom: second order.",
    ]


def check_text(results):
    """What molecular dynamics alone says of P_t."""
    check = results["check"]
    if not check:
        return ["No check of P_t by molecular dynamics alone: an MBAR estimate was withheld."]
    zs = {title: results["places"][phase]["z"] for phase, title in PHASES.items()}
    off = [title for title, z in zs.items() if z is None or abs(z) > 3]
    said = "Both agree, crystal by crystal and in P_t, within three standard errors."
    if off or abs(check["P"]["z"]) > 3:
        said = f"They do not agree within three standard errors: look at {' and '.join(off) or 'the volumes'}, and at its ESS."
        said += (
            " A flow of low ESS gives too large a G, and with it for β-tin too large a P_t: trust the molecular dynamics then."
        )
    return [
        f"Molecular dynamics alone at P = {check['flow']['value']:.3f} GPa: βΔG/N = "
        f"{with_error(check['difference']['value'], check['difference']['error'])} (β-tin − diamond), "
        f"{signed(check['difference']['z'])} of its own standard errors from zero, so P_t = "
        f"{with_error(check['P']['value'], check['P']['error'])} GPa; flows "
        f"{with_error(check['flow']['value'], check['flow']['error'])}, z = {signed(check['P']['z'])}. {said}"
    ]


def shape_text(results):
    """How far the dynamics leave b = a, and what that means for P_t."""
    shape, check = results["shape"], results["check"]
    text = (
        f"In the constant-pressure dynamics of β-tin, where b/a is free, ln b/a has a root mean square of {shape['rms']:.4f}; its fourth "
        f"moment is {shape['kurtosis']:.2f} times the square of that squared (3: one Gaussian well, 1: two sharp wells), and its sign changes "
        f"{shape['changes_of_sign']} times in {shape['frames']} frames."
    )
    if shape["kurtosis"] > TWO_WELLS:
        return [f"{text} One well: the crystal is tetragonal."]
    moved = f", and P_t about {shape['depth'] / abs(check['per_gpa']):.2f} GPa lower," if check else ""
    return [
        f"{text} These are two wells: at constant pressure the crystal is orthorhombic most of the time (Imma would be such a crystal), and "
        "at this size jumps between both variants. Flow and MBAR both keep b = a, and so do the P_t above: they compare like with like, and "
        "the pressure of the dynamics in that cell is the check of its volume. NPT samples another ensemble here, so its volume and c/a need "
        f"not be the flow's. From the histogram of b/a the wells are roughly {shape['depth']:.1g} kT per atom deep: a large crystal, which "
        f"stays in one of them, would have its G lower by so much{moved} if the depth per atom does not depend on N. A model with b/a as a "
        "third cell variable would say, but has no harmonic base: at b/a of 3 % the ideal positions are no minimum any more."
    ]


def comparison_rows(results):
    """Table lines of `gibbs -md`."""
    lines = ["| crystal | quantity | flow | MD | z |", "|---|---|--:|--:|--:|"]
    for phase, title in PHASES.items():
        for row in results["places"][phase]["comparison"]:
            numbers = [with_error(row[name]["value"], row[name]["error"]) for name in ("flow", "md")]
            lines.append(
                f"| {title} | {row['quantity']}{row['unit'] and ', '}{row['unit']} | {' | '.join(numbers)} | {signed(row['z'])} |"
            )
    return lines


def literature_text(results):
    """The line beside other numbers."""
    roots = [(point["T"], root["P"]) for point in results["line"] for root in point["roots"]]
    shift = [p - quasi_harmonic(t) for t, p in roots]
    text = [
        f"No published P_t(T) of this potential was found. At T = 0 lattice sums give {QUASI_HARMONIC[0]:.2f} GPa for ideal β-tin."
    ]
    if shift:
        text.append(f"The line of the flows lies {min(shift):+.2f} to {max(shift):+.2f} GPa from the quasi-harmonic one.")
    if shift and max(shift) < 0:
        text.append(
            "That is the direction to expect where β-tin moves between displaced relatives, of which its harmonic crystal knows nothing."
        )
    return [
        " ".join(text),
        "",
        f"Real silicon goes from diamond to β-tin at {EXPERIMENT[0]} to {EXPERIMENT[1]} GPa at room temperature, and quantum Monte Carlo gives "
        f"{QMC[0]:.1f} ± {QMC[1]:.1f} GPa (arXiv 1006.3253). The potential was made for the diamond crystal and the liquid: a remark, not a test.",
        "",
        f"At T = 0 the displaced t-X crystal lies below ideal β-tin, with diamond → t-X at about {T_X} GPa. A flow on the harmonic crystal of "
        "ideal β-tin is trained on all of the ensemble with b = a, but may miss displaced structures; MBAR, whose dynamics can wander into them, "
        "says whether it does. Its slow moves between them are also why MBAR costs far more for β-tin than for diamond: the quick profile asks it "
        "for 6e-3 kT per atom only. Not known: sizes and pressures of the published figure, and the stable high-pressure phase of this potential.",
    ]


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """Difference of the Gibbs free energies over P, and the line in the plane of T and P."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, point in enumerate(results["line"]):
        x, y, e = (np.array(values) for values in (point["axis"], point["difference"]["value"], point["difference"]["error"]))
        shade = 0.25 + 0.7 * index / max(1, len(results["line"]) - 1)
        colour = (shade, 0.3, 1 - shade)
        left.plot(x, y, color=colour, label=f"{point['T']:g} K")
        left.fill_between(x, y - 3 * e, y + 3 * e, color=colour, alpha=0.3, lw=0)
        left.plot([r["P"] for r in point["roots"]], [0.0] * len(point["roots"]), "o", color=colour, ms=5)
    left.axhline(0.0, color=INK, lw=0.8, zorder=0)
    left.set(xlabel="P (GPa)", ylabel="β(G$_{β-tin}$ − G$_{diamond}$)/N", title="(a) difference, band: 3 standard errors")
    left.legend()
    draw_plane(right, results)
    return figure


def draw_plane(axes, results):
    """P_t over T."""
    n = results["n_atoms"]["line"]
    points = [(point["T"], root["P"], root["error"]) for point in results["line"] for root in point["roots"]]
    axes.plot(list(QUASI_HARMONIC), list(QUASI_HARMONIC.values()), "--", color=COLOURS["base"], label="quasi-harmonic, N = 64")
    if points:
        t, p, e = zip(*points, strict=True)
        axes.errorbar(t, p, e, fmt="o-", color=COLOURS["flow"], capsize=2, ms=5, label=f"flows, N = {n}")
    if results["larger"] and results["larger"]["roots"]:
        root = results["larger"]["roots"][0]
        label = f"flows, N = {results['n_atoms']['larger']}, not trained there"
        axes.errorbar(
            results["larger"]["T"] + 8,
            root["P"],
            root["error"],
            fmt="s",
            color=COLOURS["reweighted"],
            capsize=2,
            ms=5,
            label=label,
        )
    if results["check"]:
        entry = results["check"]["P"]
        axes.errorbar(
            PLACE - 8, entry["value"], entry["error"], fmt="D", color=COLOURS["md"], capsize=2, ms=5, label="MD: NPT and MBAR"
        )
    axes.errorbar(
        300,
        sum(EXPERIMENT) / 2,
        (EXPERIMENT[1] - EXPERIMENT[0]) / 2,
        fmt="none",
        color=RISE,
        capsize=4,
        label="real silicon, observed",
    )
    axes.set(xlabel="T (K)", ylabel="P$_t$ (GPa)", title="(b) diamond below, β-tin above")
    axes.legend()


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    profile = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    run(commands, profile, options)
    if options.dry_run:
        return 0
    versions = commands.results("diamond/beside/mbar", "provenance.json")["versions"]
    results = {"settings": settings_of(options, versions), **collect(commands, profile), "commands": commands.summary()}
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
