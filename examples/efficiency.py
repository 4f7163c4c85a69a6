# SPDX-License-Identifier: GPL-2.0-or-later
"""What a free energy costs: a flow, its training included, against molecular dynamics with MBAR, to the same standard error.

    python examples/efficiency.py              # about 10 minutes; one command at a time, so that each has the machine for itself
    python examples/efficiency.py --dry-run    # the commands alone

For cubic ice (mW, N = 216) and Lennard-Jones FCC (N = 256): wall-clock and energy evaluations of every command, start-up included, until
beta F/N has a standard error of 1e-3 and of 1e-4 kT per atom. Molecular dynamics: lambda windows from an Einstein crystal and MBAR, as
`lammps-bg md --mode mbar` places and lengthens them until the error is 1e-3; what 1e-4 would take is extrapolated from there, time
going as one over the square of the error. The flow: training, samples, and where its own weights are poor a short NVT run for BAR.

Writes efficiency.json and .md.
"""

import sys
from dataclasses import dataclass

from command_runs import Commands, command_line, commands_section, publish, settings_of, words

from lammps_bg.results import with_error

NAME = "efficiency"
QUIET = (
    "sample.n_dump=0",
    "sample.picture=false",
    "exact.mode=never",
    "estimate.report=false",
    "estimate.n_bootstraps=200",
    "estimate.rdf_samples=2",
)


@dataclass(frozen=True)
class Route:
    """A way to a free energy: commands one after the other, the last of which has it.

    Attributes:
        target: Standard error it is meant for.
        steps: Name, command and its words; `{NAME}` stands for the folder of an earlier step.
        estimate: Entry of results.json.
    """

    target: float
    steps: tuple[tuple[str, str, tuple[str, ...]], ...]
    estimate: str


@dataclass(frozen=True)
class Case:
    """A crystal with its routes."""

    title: str
    script: tuple[str, ...]
    md: tuple[str, ...]
    routes: tuple[Route, ...]


def trained(steps, samples, batch):
    """Words of a short training with samples."""
    return words(
        "base.pilot_steps=0", f"train.steps={steps}", f"train.batch_size={batch}", "train.warmup_steps=20", "train.evaluate_every=1000",
        f"sample.n_samples={samples}", *QUIET,
    )  # fmt: skip


MW_MD = ("md.timestep=4", "md.damp=40", "md.sample_every=10")
LJ_MD = ("md.damp=0.1", "md.sample_every=10")
HARMONIC = words("base.iterations=0")


def with_md(steps, samples, frames):
    """A flow of Lennard-Jones, a short NVT run, and BAR from both."""
    return (
        ("flow", "run", ("{script}", *HARMONIC, *trained(steps, samples, 32), "--allow-red")),
        ("md", "md", ("{script}", *words(*LJ_MD, f"md.n_frames={frames}", *QUIET), "--allow-red")),
        ("bar", "estimate", ("-model", "{flow}", "-md", "{md}", *words(*QUIET[2:]), "--allow-red")),
    )


CASES = {
    "mw_216": Case(
        "cubic ice, mW, N = 216",
        ("-in", "inputs/in.mw_cubic", "-rep", "3", "3", "3"),
        MW_MD,
        (
            Route(1e-3, (("flow", "run", ("{script}", *trained(30, 512, 32), "--allow-red")),), "tfep"),
            Route(1e-4, (("flow", "run", ("{script}", *trained(150, 4096, 64), "--allow-red")),), "tfep"),
        ),
    ),
    "lj_256": Case(
        "Lennard-Jones FCC, N = 256",
        ("-in", "inputs/in.lj_fcc", "-rep", "4", "4", "4"),
        LJ_MD,
        (Route(1e-3, with_md(60, 1024, 100), "bar"), Route(1e-4, with_md(600, 8192, 4000), "bar")),
    ),
}
PROFILES = ("quick",)


def run_case(commands, name, seed):
    """Molecular dynamics to 1e-3, then every route."""
    case = CASES[name]
    md = words(*case.md, "md.target_error=0.001", "md.n_frames=300", *QUIET)
    commands.make(f"{name}/mbar", "md", *case.script, "--mode", "mbar", "--seed", str(seed + 1), *md)
    for route in case.routes:
        folder = f"{name}/{route.target:g}"
        places = {step: commands.folder(f"{folder}/{step}") for step, *_ in route.steps}
        for step, command, template in route.steps:
            given = [word for entry in template for word in (case.script if entry == "{script}" else [entry.format(**places)])]
            if command == "estimate":
                commands.add(f"{folder}/{step}", command, *given)
            else:
                commands.make(f"{folder}/{step}", command, *given, "--seed", str(seed))


# ---- numbers -------------------------------------------------------------------------------------------------------------------


def cost(commands, name, keys):
    """Seconds of some commands, and energy evaluations of those that have their own folder."""
    seconds = sum(commands.finished[f"{name}/{key}"]["seconds"] for key in keys)
    evaluations = 0
    for key in keys:
        path = commands.out / name / key / "results.json"
        evaluations += commands.results(f"{name}/{key}")["cost"]["energy_evaluations"] if path.exists() else 0
    return seconds, evaluations


def collect(commands):
    """One row for each crystal and target, flow beside dynamics."""
    rows = []
    for name, case in CASES.items():
        found = commands.results(f"{name}/mbar")["estimates"]["mbar"]["beta_F_per_atom"]
        md_seconds, md_evaluations = cost(commands, name, ["mbar"])
        for route in case.routes:
            keys = [f"{route.target:g}/{step}" for step, *_ in route.steps]
            seconds, evaluations = cost(commands, name, keys)
            holder = f"{name}/{route.target:g}/{route.steps[0][0]}"
            reached = commands.results(holder)["estimates"][route.estimate]["beta_F_per_atom"]
            scale = max(1.0, (found["error"] / route.target) ** 2)
            rows.append(
                {
                    "crystal": name,
                    "target": route.target,
                    "estimate": route.estimate,
                    "value": reached["value"],
                    "error": reached["error"],
                    "seconds": seconds,
                    "evaluations": evaluations,
                    "md_value": found["value"],
                    "md_error": found["error"],
                    "md_seconds": scale * md_seconds,
                    "md_evaluations": scale * md_evaluations,
                    "md_extrapolated": scale > 1.0,
                }
            )
    return rows


def table(results):
    """The Markdown text."""
    lines = [
        "# What a free energy costs",
        "",
        f"Made by `python examples/{NAME}.py`: one command at a time on one core, start-up, base and training included. Errors are standard "
        "errors of beta F/N in kT per atom. Numbers of the dynamics with * are extrapolated from the run to 1e-3 (time as one over the "
        "square of the error).",
        "",
        "| crystal | error wanted | flow: beta F/N | s | evaluations | MD + MBAR: beta F/N | s | evaluations | time, flow : MD | evaluations |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        star = "*" if row["md_extrapolated"] else ""
        shown = "withheld" if row["value"] is None else with_error(row["value"], row["error"])
        cells = [
            CASES[row["crystal"]].title,
            f"{row['target']:g}",
            f"{shown} ({row['estimate'].upper()})",
            f"{row['seconds']:.0f}",
            f"{row['evaluations']:,}",
            with_error(row["md_value"], row["md_error"]),
            f"{row['md_seconds']:,.0f}{star}",
            f"{row['md_evaluations']:,.0f}{star}",
            f"1 : {row['md_seconds'] / row['seconds']:.1f}",
            f"{row['evaluations'] / row['md_evaluations']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *commands_section(results)]) + "\n"


def main():
    options = command_line(__doc__.splitlines()[0], NAME, PROFILES)
    commands = Commands(options.out, dry=options.dry_run, threads=options.threads)
    for name in CASES:
        run_case(commands, name, options.seed)
    if options.dry_run:
        return 0
    results = {
        "settings": settings_of(options, commands.results("mw_216/mbar", "provenance.json")["versions"]) | {"jobs": 1},
        "rows": collect(commands),
        "commands": commands.summary(),
    }
    publish(options, NAME, results, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
