# SPDX-License-Identifier: GPL-2.0-or-later
"""Trained models of two crystals, and what they are worth at larger supercells: samples without retraining, beside molecular dynamics.

    python examples/models.py                    # cpu: about an hour on two cores
    python examples/models.py --profile gpu      # the published training sizes, 25 minutes for each crystal on a GPU
    python examples/models.py --dry-run          # the commands alone

For cubic ice (mW, 200 K) and Lennard-Jones FCC (T* = 2, rho* = 1.28): one training, then for each supercell samples of the model, frames
of NVT dynamics, and perturbation (TFEP) and BAR from both. The model of each crystal goes into a folder that `lammps-bg sample
-model` takes, with its inputs and the course of its training.

Writes models.json, .md (the model card), .png, and a folder for each model. Needs: pip install 'lammps-bg[plot]'.
"""

import csv
import shutil
import sys
from dataclasses import dataclass

from command_runs import Commands, command_line, commands_section, publish, run_chains, settings_of, signed, words, z_score
from matplotlib.figure import Figure

from lammps_bg.report.figures.style import COLOURS
from lammps_bg.results import NOTHING, with_error

NAME = "models"
KEPT = ("model.pt", "config.toml", "provenance.json", "results.json", "train.csv", "inputs")
NO_FILES = ("sample.n_dump=0", "sample.picture=false", "estimate.report=false", "exact.mode=never")


@dataclass(frozen=True)
class Case:
    """A crystal.

    Attributes:
        script: Its input script.
        cell_atoms: Atoms in the unit cell of the script.
        title: In words.
        md: Settings of the dynamics.
        published: Published beta F/N with its error by number of atoms (Wirnsberger et al. 2022, MBAR).
    """

    script: str
    cell_atoms: int
    title: str
    md: tuple[str, ...]
    published: dict[int, tuple[float, float]]

    def atoms(self, size):
        """Atoms in so many unit cells along each edge."""
        return self.cell_atoms * size**3


CASES = {
    "mw_cubic": Case(
        "in.mw_cubic", 8, "cubic ice, mW, 200 K", ("md.timestep=4", "md.damp=40", "md.sample_every=10"),
        {64: (-25.16306, 2.0e-4), 216: (-25.08234, 5e-5)},
    ),
    "lj_fcc": Case(
        "in.lj_fcc", 4, "Lennard-Jones FCC, T* = 2, ρ* = 1.28", ("md.damp=0.1", "md.sample_every=10"),
        {256: (3.10798, 9e-5)},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """How large and how long.

    Attributes:
        trained: Unit cells along each edge of the training supercell.
        sizes: Unit cells along each edge of the supercells that are sampled.
        seconds: Training time.
        settings: Further settings of the training.
        samples: Samples at a size.
        frames: Independent frames of the dynamics at a size.
    """

    trained: dict[str, int]
    sizes: dict[str, tuple[int, ...]]
    seconds: float
    settings: tuple[str, ...]
    samples: int
    frames: int


PUBLISHED_SIZES = {"mw_cubic": (2, 3, 4, 5, 6), "lj_fcc": (3, 4, 5, 6, 7)}
PROFILES = {
    "cpu": Profile({"mw_cubic": 2, "lj_fcc": 3}, PUBLISHED_SIZES, 1100, ("flow.n_sweeps=4",), 4096, 300),
    "gpu": Profile({"mw_cubic": 3, "lj_fcc": 4}, PUBLISHED_SIZES, 1500, ("train.batch_size=512", "flow.n_sweeps=4"), 20000, 1000),
    "tiny": Profile(
        {"mw_cubic": 2, "lj_fcc": 3}, {"mw_cubic": (2, 3), "lj_fcc": (3,)}, 3, ("base.n_samples=50", "flow.width=8"), 256, 50
    ),
}


def run_case(commands, name, profile, seed):
    """The training, then samples, dynamics and estimates at each size."""
    case, trained = CASES[name], profile.trained[name]
    script = ["-in", f"inputs/{case.script}"]
    settings = (f"train.max_seconds={profile.seconds}", "train.steps=1000000", *profile.settings)
    commands.make(f"{name}/model", "train", *script, "-rep", *[str(trained)] * 3, "--seed", str(seed), *words(*settings))
    for size in profile.sizes[name]:
        place, rep = f"{name}/{case.atoms(size)}", ["-rep", *[str(size)] * 3]
        samples = words(f"sample.n_samples={profile.samples}", *NO_FILES)
        commands.make(f"{place}/flow", "sample", "-model", commands.folder(f"{name}/model"), *rep, *samples, "--allow-red")
        md = words(*case.md, f"md.n_frames={profile.frames}", *NO_FILES)
        commands.make(f"{place}/md", "md", *script, *rep, "--seed", str(seed + 1), *md, "--allow-red")
        folders = ["-model", commands.folder(f"{place}/flow"), "-md", commands.folder(f"{place}/md")]
        commands.add(f"{place}/estimate", "estimate", *folders, *words("estimate.report=false"), "--allow-red")


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def collect(commands, profile):
    """One row for each crystal and size."""
    rows = []
    for name, case in CASES.items():
        for size in profile.sizes[name]:
            n = case.atoms(size)
            found = commands.results(f"{name}/{n}/flow")
            row = {"crystal": name, "n_atoms": n, "trained": size == profile.trained[name]}
            row |= {"ess": found["sampling"]["ess"], "n_samples": found["sampling"]["n_samples"]}
            row |= {"md_frames": found["comparison"]["md"]["n_independent"], "overlap": found["comparison"]["overlap"]}
            row |= {key: found["estimates"].get(key, {}).get("beta_F_per_atom") for key in ("tfep", "tfep_reverse", "bar")}
            row["ms_per_sample"] = sum(found["timings"][key] or 0.0 for key in ("draw_ms_per_sample", "energy_ms_per_sample"))
            row["verdict"] = found["verdict"]["colour"]
            row["published"] = case.published.get(n)
            rows.append(row)
    return rows


def training(commands, name):
    """The evaluations of a training, a list for each column."""
    with (commands.out / name / "model" / "train.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["ess"]]
    return {key: [float(row[key]) for row in rows] for key in ("step", "seconds", "ess", "exact_bound")}


def keep_model(commands, name, folder):
    """What `sample -model` needs, and what tells where it comes from."""
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in KEPT:
        source = commands.out / name / "model" / part
        if source.is_dir():
            shutil.copytree(source, target / part)
        elif source.exists():
            shutil.copy(source, target / part)
    rows = (target / "train.csv").read_text().splitlines()
    evaluated = [rows[0], *(row for row in rows[1:] if not row.endswith(",,,"))]
    (target / "train.csv").write_text("\n".join(evaluated) + "\n")
    return {"bytes": (target / "model.pt").stat().st_size}


# ---- model card ----------------------------------------------------------------------------------------------------------------


def value_of(entry):
    return NOTHING if entry is None or entry["value"] is None else with_error(entry["value"], entry["error"])


def table(results):
    """The Markdown text."""
    settings = results["settings"]
    lines = [
        "# Trained models",
        "",
        f"Made by `python examples/{NAME}.py --profile {settings['profile']}` on one core for each crystal of a shared machine. One model "
        "a crystal; every other supercell is sampled without retraining, its phonon base interpolated and refined through the flow. beta F/N in kT "
        "per atom, one standard error; z of BAR against the published MBAR value where there is one (Wirnsberger et al. 2022).",
        "",
        f"![Training and transfer]({NAME}.png)",
    ]
    for name, case in CASES.items():
        model = results["models"][name]
        lines += [
            "",
            f"## {name}: {case.title}",
            "",
            f"Trained on {model['n_atoms']} atoms for {model['seconds']:.0f} s ({model['steps']} steps of {model['batch_size']} samples); "
            f"model.pt holds {model['bytes'] / 1e6:.2f} MB of tensors and text. Use it with",
            "",
            "```sh",
            f"lammps-bg sample -model examples/models/{name} -rep {' '.join([str(model['example'])] * 3)} -out runs/{name}",
            "```",
            "",
            "| N | ESS % | ms a sample | TFEP | reverse TFEP (MD) | BAR | published | z | MD frames | overlap | verdict |",
            "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
        ]
        lines += [row_text(row) for row in results["rows"] if row["crystal"] == name]
    lines += [
        "",
        "The models are for these crystals, temperatures, densities and potentials alone; the weights of the samples are exact in any case, "
        "so a low ESS is the price of a poor model and never a wrong number. The licence is that of the package.",
        "",
        "What an error costs with them by draws, by chains and by MD with MBAR, in energy evaluations: [exactness](../exactness/exactness.md).",
        "",
        *commands_section(results),
    ]
    return "\n".join(lines) + "\n"


def row_text(row):
    """One line of a table."""
    z, bar = None, row["bar"]
    if row["published"] and bar and bar["value"] is not None:
        z = z_score(bar["value"], bar["error"], *row["published"])
    cells = [
        f"{row['n_atoms']}{' (trained)' if row['trained'] else ''}",
        f"{100 * row['ess']:.1f}",
        f"{row['ms_per_sample']:.2f}",
        value_of(row["tfep"]),
        value_of(row["tfep_reverse"]),
        value_of(bar),
        with_error(*row["published"]) if row["published"] else "",
        signed(z) if row["published"] else "",
        str(row["md_frames"]),
        f"{row['overlap']:.2f}",
        row["verdict"],
    ]
    return f"| {' | '.join(cells)} |"


# ---- figure --------------------------------------------------------------------------------------------------------------------


def draw(results):
    """ESS over the training time, and over the size of the supercell."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip(CASES, (COLOURS["flow"], COLOURS["md"]), strict=True):
        curve = results["models"][name]["training"]
        n = results["models"][name]["n_atoms"]
        left.plot(
            [s / 60 for s in curve["seconds"]], [100 * e for e in curve["ess"]], color=colour, lw=0.8, label=f"{name}, N = {n}"
        )
        rows = [row for row in results["rows"] if row["crystal"] == name]
        right.plot([r["n_atoms"] for r in rows], [100 * r["ess"] for r in rows], "o-", color=colour, label=name)
        for row in (row for row in rows if row["trained"]):
            right.plot(row["n_atoms"], 100 * row["ess"], "o", color=colour, ms=11, mfc="none")
    left.set(xlabel="training time (min)", ylabel="ESS (%)", ylim=(0, 100), title="training")
    right.set(xlabel="N", ylabel="ESS (%)", xscale="log", yscale="log", title="transfer (ring: trained size)")
    sizes: list[int] = []
    for n in sorted({row["n_atoms"] for row in results["rows"]}):
        if not sizes or n > 1.15 * sizes[-1]:  # room for its label
            sizes.append(n)
    right.set_xticks(sizes, [str(n) for n in sizes], rotation=60)
    right.minorticks_off()
    for axes in (left, right):
        axes.grid(alpha=0.25, lw=0.5)
        axes.legend(loc="lower right" if axes is left else "lower left")
    return figure


def main():
    options = command_line(__doc__.splitlines()[0], NAME, list(PROFILES))
    profile = PROFILES[options.profile]
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    run_chains(commands, [lambda n=name: run_case(commands, n, profile, options.seed) for name in CASES], options.jobs)
    if options.dry_run:
        return 0
    models = {}
    for name, case in CASES.items():
        curve, batch = training(commands, name), 64
        for setting in profile.settings:
            batch = int(setting.partition("=")[2]) if setting.startswith("train.batch_size=") else batch
        models[name] = {"n_atoms": case.atoms(profile.trained[name]), "training": curve, "batch_size": batch}
        models[name] |= {"seconds": curve["seconds"][-1], "steps": int(curve["step"][-1]), "example": profile.sizes[name][-1]}
        models[name] |= keep_model(commands, name, options.results)
    results = {
        "settings": settings_of(options, commands.results("mw_cubic/model", "provenance.json")["versions"]),
        "models": models,
        "rows": collect(commands, profile),
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
