# SPDX-License-Identifier: GPL-2.0-or-later
"""What an exact free energy costs by draws, by chains and by molecular dynamics, and whether the three agree: ten crystals and sizes.

    python examples/exactness.py                 # paper: about an hour on two cores
    python examples/exactness.py --profile large # 13,824 molecules, about half an hour
    python examples/exactness.py --profile quick # mW and Lennard-Jones at one size each, some minutes
    python examples/exactness.py --dry-run       # the commands alone

Cubic ice (mW) and Lennard-Jones FCC from the stored models, copper (EAM), silicon (Stillinger-Weber, diamond and beta-tin) and silicon
carbide (Tersoff) from trainings of a minute or two, each at supercells on which it was not trained. For every one: draws alone (TFEP),
chains (`--exact always`), frames of NVT dynamics joined with other draws (BAR), and lambda windows (MD + MBAR) where that is affordable.

Writes exactness.json, .md (the table) and .png. Needs: pip install 'lammps-bg[plot]'.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed, words, z_score
from matplotlib.figure import Figure
from scipy.stats import kstest

from lammps_bg.report.figures.style import COLOURS
from lammps_bg.results import NOTHING, with_error

NAME = "exactness"
QUIET = ("sample.n_dump=0", "sample.picture=false", "estimate.report=false")
SHORT = ("train.steps=100", "base.pilot_steps=20", "base.n_samples=300")


@dataclass(frozen=True)
class Crystal:
    """A crystal with a model.

    Attributes:
        title: In words.
        script: Words that load it, but for the supercell.
        md: Settings of the dynamics.
        model: Stored model; None trains one.
        trained: Supercell of the training.
        training: Its settings.
    """

    title: str
    script: tuple[str, ...]
    md: tuple[str, ...]
    model: str | None = None
    trained: tuple[int, int, int] = (2, 2, 2)
    training: tuple[str, ...] = SHORT


# shorter damping than the default: frames decorrelate in fewer steps, and the positions stay exact (fix gjf)
METAL = ("md.sample_every=20", "md.damp=0.05")
ICE = ("md.timestep=4", "md.damp=40", "md.sample_every=10")
ARGON = ("md.damp=0.1", "md.sample_every=10")
CRYSTALS = {
    "mw": Crystal("ice Ic, mW, 200 K", ("-in", "inputs/in.mw_cubic"), ICE, "examples/models/mw_cubic"),
    "lj": Crystal("Lennard-Jones FCC, T* = 2", ("-in", "inputs/in.lj_fcc"), ARGON, "examples/models/lj_fcc"),
    "cu": Crystal("Cu, EAM, 300 K", ("-in", "inputs/in.cu_fcc"), METAL, trained=(3, 3, 3)),
    "si": Crystal("Si diamond, SW, 300 K", ("-in", "inputs/in.si_diamond"), METAL),
    "sic": Crystal("SiC, Tersoff, 300 K", ("-in", "inputs/in.sic"), METAL),
    "tin": Crystal("Si beta-tin, SW, 600 K", ("-in", "inputs/in.si_betatin", "-var", "T", "600"), METAL, trained=(2, 2, 4),
                   training=("train.steps=300", "base.pilot_steps=50")),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A crystal at one size.

    Attributes:
        crystal: Key of `CRYSTALS`.
        copies: Its supercell.
        target: Standard error that chains are run to, kT per atom.
        frames: Independent frames of the dynamics.
        windows: Whether lambda windows are run, too.
        published: beta F/N by MBAR of others, with its error.
    """

    crystal: str
    copies: tuple[int, int, int]
    target: float
    frames: int = 200
    windows: bool = False
    published: tuple[float, float] | None = None


CASES = {
    "mw_64": Case("mw", (2, 2, 2), 2e-4, 400, True, (-25.16306, 2.0e-4)),
    "mw_216": Case("mw", (3, 3, 3), 5e-5, 300, True, (-25.08234, 5e-5)),
    "mw_1728": Case("mw", (6, 6, 6), 2e-5),
    "mw_13824": Case("mw", (12, 12, 12), 3e-5, 60),
    "lj_256": Case("lj", (4, 4, 4), 2e-4, 300, True, (3.10798, 9e-5)),
    "lj_864": Case("lj", (6, 6, 6), 1e-4),
    "lj_1372": Case("lj", (7, 7, 7), 1e-4),
    "cu_500": Case("cu", (5, 5, 5), 1e-4),
    "si_216": Case("si", (3, 3, 3), 2e-4),
    "sic_216": Case("sic", (3, 3, 3), 3e-4),
    "tin_216": Case("tin", (3, 3, 6), 1e-3),
}
PROFILES = {"paper": tuple(name for name in CASES if name != "mw_13824"), "quick": ("mw_64", "lj_256"), "large": ("mw_13824",)}


def model_of(commands, name):
    crystal = CRYSTALS[name]
    return crystal.model or commands.folder(f"{name}/model")


def run_crystal(commands, name, cases, seed):
    """The training where there is no stored model, then everything at each size."""
    crystal = CRYSTALS[name]
    if crystal.model is None:
        rep = ["-rep", *map(str, crystal.trained)]
        commands.make(f"{name}/model", "train", *crystal.script, *rep, "--seed", str(seed), *words(*crystal.training))
    for key in (key for key in cases if CASES[key].crystal == name):
        run_case(commands, key, seed)


def run_case(commands, key, seed):
    """Draws, chains, frames with draws of another seed, and windows."""
    case = CASES[key]
    crystal, rep = CRYSTALS[case.crystal], ["-rep", *map(str, case.copies)]
    model = ["-model", model_of(commands, case.crystal), *rep]
    n_draws = 1024 if math.prod(case.copies) < 1000 else 256
    draws = words(f"sample.n_samples={n_draws}", *QUIET)
    exact = ["--exact", "always", *words(f"estimate.target_error={case.target}", "exact.max_seconds=2400", "exact.n_dump=400")]
    commands.make(f"{key}/chains", "sample", *model, "--seed", str(seed), *draws, *exact, "--allow-red")
    commands.make(f"{key}/draws", "sample", *model, "--seed", str(seed + 1), *draws, "--exact", "never", "--allow-red")
    md = words(*crystal.md, "estimate.report=false", "sample.picture=false")
    md_words = [*crystal.script, *rep, "--seed", str(seed + 2)]
    frames = words(f"md.n_frames={case.frames}", f"md.n_dump={case.frames}")
    commands.make(f"{key}/nvt", "md", *md_words, "--mode", "nvt", *md, *frames, "--allow-red")
    for flow in ("draws", "chains"):
        folders = ["-model", commands.folder(f"{key}/{flow}"), "-md", commands.folder(f"{key}/nvt")]
        commands.add(f"{key}/estimate_{flow}", "estimate", *folders, *words("estimate.report=false"), "--allow-red")
    if case.windows:
        windows = words("md.target_error=1e-3")
        commands.make(f"{key}/mbar", "md", *md_words, "--mode", "mbar", *md, *windows, "--allow-red")


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def estimate(results, name):
    """Value and error of beta F/N; None where it is withheld."""
    entry = results["estimates"].get(name, {}).get("beta_F_per_atom")
    return None if entry is None or entry["value"] is None else (entry["value"], entry["error"])


def evaluations_for(target, error, evaluations):
    """Energies until an error is reached that falls as the root of their number."""
    return None if error is None else math.ceil(evaluations * (error / target) ** 2)


def row(commands, key):
    """All numbers of a case."""
    case = CASES[key]
    chains, draws = commands.results(f"{key}/chains"), commands.results(f"{key}/draws")
    exact = chains["exact"]
    found = {"case": key, "n_atoms": chains["system"]["n_atoms"], "target": case.target, "published": case.published}
    found |= {name: exact[name] for name in ("evaluations", "evaluations_per_sample", "acceptance", "step", "leaps")}
    found |= {"windows": len(exact["windows"]), "ess": draws["sampling"]["ess"], "verdict": chains["verdict"]["colour"]}
    found |= {"chains": estimate(chains, "exact"), "tfep": estimate(draws, "tfep"), "bar": estimate(draws, "bar")}
    found["mbar"] = estimate(commands.results(f"{key}/mbar"), "mbar") if case.windows else None
    n = draws["sampling"]["n_samples"]
    by_chains = evaluations_for(case.target, found["chains"][1], exact["evaluations"] + n)
    by_draws = (
        evaluations_for(case.target, found["tfep"][1], n) if found["tfep"] and draws["verdict"]["colour"] == "green" else None
    )
    by_md = None
    if case.windows:
        by_md = evaluations_for(case.target, found["mbar"][1], commands.results(f"{key}/mbar")["cost"]["energy_evaluations"])
    found |= {"by_chains": by_chains, "by_draws": by_draws, "by_md": by_md}
    found["chains_seconds"] = commands.finished[f"{key}/chains"]["seconds"]
    energies = chains["observables"]["potential_energy_per_atom"]
    found["energies"] = {name: energies[name] for name in ("exact", "md") if name in energies}
    return found


def scores(rows):
    """Scores z of chains against each independent number there is."""
    found = []
    for entry in rows:
        for other in ("bar", "mbar", "published"):
            if entry[other]:
                found.append((entry["case"], other, z_score(*entry["chains"], *entry[other])))
    return found


# ---- table and figure ----------------------------------------------------------------------------------------------------------


def text_of(pair):
    return NOTHING if pair is None else with_error(*pair)


def number(count):
    return NOTHING if count is None else f"{count:,}"


def table(results):
    """The Markdown text."""
    rows, found = results["rows"], results["scores"]
    z = np.array([score for _, _, score in found])
    lines = [
        "# Exact free energies: draws, chains and molecular dynamics",
        "",
        f"Made by `python examples/{NAME}.py --profile {results['settings']['profile']}`. beta F/N in kT per atom, one standard error. "
        "The models are those of `examples/models` for mW and Lennard-Jones, and short trainings (100 steps; beta-tin 300) for the others, "
        "all at supercells other than that of the training but mW 64.",
        "",
        f"![Evaluations for the same error, and agreement]({NAME}.png)",
        "",
        "## Energy evaluations for the same error",
        "",
        "From the error that was reached, which falls as the root of the evaluations; base fits and trainings are not in it. Draws: TFEP "
        "where its verdict is green. MD: lambda windows with MBAR.",
        "",
        "| crystal | N | error | ESS of draws % | by draws | by chains | by MD + MBAR | energies a sample | windows | seconds of chains |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in rows:
        title = CRYSTALS[CASES[entry["case"]].crystal].title
        lines.append(
            f"| {title} | {entry['n_atoms']} | {entry['target']:.0e} | {100 * entry['ess']:.1f} | {number(entry['by_draws'])} | "
            f"{number(entry['by_chains'])} | {number(entry['by_md'])} | {entry['evaluations_per_sample']:.1f} | {entry['windows']} | "
            f"{entry['chains_seconds']:.0f} |"
        )
    lines += [
        "",
        "## Agreement",
        "",
        f"Every value of the chains against every independent one: {len(z)} differences, largest |z| {np.abs(z).max():.1f}, mean {z.mean():+.2f}, "
        f"standard deviation {z.std():.2f}; Kolmogorov-Smirnov against a unit normal: p = {kstest(z, 'norm').pvalue:.2f}. BAR joins frames of NVT "
        "dynamics with draws of another seed than those of the chains.",
        "",
        "| case | chains | BAR | z | MD + MBAR | z | published | z | mean energy, chains | MD | z |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in rows:
        cells = [entry["case"], text_of(entry["chains"])]
        for other in ("bar", "mbar", "published"):
            cells += [text_of(entry[other]), signed(z_score(*entry["chains"], *entry[other])) if entry[other] else ""]
        energies = [(e["value"], e["error"]) for e in entry["energies"].values()]
        cells += [text_of(pair) for pair in energies] + [signed(z_score(*energies[0], *energies[1]))]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *commands_section(results)]
    return "\n".join(lines) + "\n"


def draw(results):
    """Evaluations for the same error, and the z-scores beside a unit normal."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    rows = results["rows"]
    for name, label, colour in (("by_draws", "draws", "flow"), ("by_chains", "chains", "exact"), ("by_md", "MD + MBAR", "md")):
        known = [(i, entry[name]) for i, entry in enumerate(rows) if entry[name]]
        left.plot(*zip(*known, strict=True), "o", color=COLOURS[colour], label=label)
    left.set_xticks(range(len(rows)), [entry["case"] for entry in rows], rotation=60, ha="right")
    left.set(yscale="log", ylabel="energy evaluations", title="for the same error of β F/N")
    left.grid(alpha=0.25, lw=0.5)
    left.legend()
    z = [score for _, _, score in results["scores"]]
    right.hist(z, bins=np.arange(-4, 4.5, 1.0), density=True, color=COLOURS["exact"], alpha=0.6)
    grid = np.linspace(-4, 4, 200)
    right.plot(grid, np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi), color="0.3", lw=1)
    right.set(xlabel="z of chains against BAR, MBAR, published", title="agreement", yticks=[])
    return figure


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    cases = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    crystals = dict.fromkeys(CASES[key].crystal for key in cases)
    run_chains(commands, [lambda n=name: run_crystal(commands, n, cases, options.seed) for name in crystals], options.jobs)
    if options.dry_run:
        return 0
    rows = [row(commands, key) for key in cases]
    versions = commands.results(f"{cases[0]}/chains", "provenance.json")["versions"]
    results = {"settings": settings_of(options, versions), "rows": rows, "scores": scores(rows), "commands": commands.summary()}
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
