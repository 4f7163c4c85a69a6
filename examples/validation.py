# SPDX-License-Identifier: GPL-2.0-or-later
"""Free energies of crystals with published values: molecular dynamics with MBAR, flow samples, and both joined, side by side.

    python examples/validation.py                      # all cases, about an hour and a half on one core
    python examples/validation.py --cases mw_64        # one case, about ten minutes

For each case it runs `lammps-bg md --mode mbar`, `lammps-bg run` and `lammps-bg estimate -md`, and writes the table
validation/validation.md with the numbers behind it in validation/validation.json. Finished runs in -out are used again.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INPUTS = HERE.parent / "inputs"
COMMAND = Path(sys.executable).with_name("lammps-bg")
ESTIMATES = {
    "mbar_windows": "MD + MBAR",
    "tfep": "TFEP (flow)",
    "tfep_reverse": "reverse TFEP (MD)",
    "bar": "BAR (flow and MD)",
    "mbar": "MBAR (flow and windows)",
}
# shorter damping than the default: frames decorrelate in fewer steps, and the positions stay exact (fix gjf)
ICE = ("md.timestep=4", "md.damp=40", "md.sample_every=10", "md.n_frames=4000")
ARGON = ("md.damp=0.1", "md.sample_every=10", "md.n_frames=4000")


@dataclass(frozen=True)
class Case:
    """A crystal with a published free energy.

    Attributes:
        script: Input script.
        replicate: Copies along each cell vector.
        md: Settings of the molecular dynamics.
        flow: Settings of the flow.
        value: Published beta F / N (MBAR).
        error: Its standard error.
    """

    script: str
    replicate: tuple[int, int, int]
    md: tuple[str, ...]
    flow: tuple[str, ...]
    value: float
    error: float


# MBAR values of Wirnsberger et al. (2022) and their errors, for the same state, cut-off and convention
CASES = {
    "mw_64": Case("in.mw_cubic", (2, 2, 2), ICE, ("train.steps=400",), -25.16306, 0.00020),
    "mw_216": Case("in.mw_cubic", (3, 3, 3), ICE, ("train.steps=400",), -25.08234, 0.00005),
    "lj_256": Case("in.lj_fcc", (4, 4, 4), ARGON, ("train.steps=400",), 3.10798, 0.00009),
}


def call(folder: Path, *words: str) -> str:
    """Run `lammps-bg` into a folder unless it is finished; returns the command as it would be typed."""
    line = " ".join(["lammps-bg", *words])
    if not (folder / "results.json").is_file() or words[0] == "estimate":
        sys.stdout.write(f"$ {line}\n")
        sys.stdout.flush()
        done = subprocess.run([str(COMMAND), *words], cwd=HERE.parent, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(done.returncode)
    return line


def run_case(name: str, case: Case, out: Path) -> dict[str, Any]:
    """All commands of a case, and what they found."""
    md, flow = out / f"{name}_md", out / f"{name}_flow"
    given = ["-in", f"inputs/{case.script}", "-rep", *map(str, case.replicate)]
    commands = [
        call(md, "md", "--mode", "mbar", *given, "-out", str(md), *_settings(case.md)),
        call(flow, "run", *given, "-out", str(flow), "--allow-red", *_settings(case.flow)),
        call(flow, "estimate", "-model", str(flow), "-md", str(md), "--allow-red"),
    ]
    dynamics, found = (json.loads((folder / "results.json").read_text()) for folder in (md, flow))
    estimates = {key: found["estimates"][key]["beta_F_per_atom"] for key in ESTIMATES if key in found["estimates"]}
    return {
        "n_atoms": found["system"]["n_atoms"],
        "literature": {"value": case.value, "error": case.error},
        "estimates": {key: {"value": e["value"], "error": e["error"]} for key, e in estimates.items()},
        "ess": found["sampling"]["ess"],
        "n_samples": found["sampling"]["n_samples"],
        "overlap": found["comparison"]["overlap"],
        "md_frames": found["comparison"]["md"]["n_independent"],
        "verdict": found["verdict"]["colour"],
        "windows": len(dynamics["windows"]),
        "cost": {"md": dynamics["cost"], "flow": found["cost"]},
        "commands": commands,
    }


def _settings(settings: tuple[str, ...]) -> list[str]:
    return [word for entry in settings for word in ("--set", entry)]


def table(results: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = ["# Free energies against published values", "", "beta F / N in kT per atom; z against the published MBAR value.", ""]
    for name, entry in results.items():
        known = entry["literature"]
        lines += [f"## {name}: {entry['n_atoms']} atoms", "", "| estimate | beta F / N | z |", "|---|--:|--:|"]
        lines.append(f"| published, MBAR | {known['value']:.5f} +- {known['error']:.5f} | |")
        for key, estimate in entry["estimates"].items():
            if estimate["value"] is None:
                lines.append(f"| {ESTIMATES[key]} | not reliable | |")
                continue
            z = (estimate["value"] - known["value"]) / (estimate["error"] ** 2 + known["error"] ** 2) ** 0.5
            lines.append(f"| {ESTIMATES[key]} | {estimate['value']:.5f} +- {estimate['error']:.5f} | {z:+.1f} |")
        md, flow = entry["cost"]["md"], entry["cost"]["flow"]
        lines += [
            "",
            f"ESS {entry['ess']:.1%} of {entry['n_samples']} samples; {entry['md_frames']} independent MD frames, overlap with the flow "
            f"{entry['overlap']:.2f}; verdict {entry['verdict']}. MD: {entry['windows']} windows, {md['energy_evaluations']} energy "
            f"evaluations, {md['wall_seconds']:.0f} s; flow: {flow['energy_evaluations']} energy evaluations, {flow['wall_seconds']:.0f} s "
            "(one core, shared machine).",
            "",
            "```sh",
            *entry["commands"],
            "```",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Run the cases and write table and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("-out", type=Path, default=Path("runs") / "validation", help="folder of the runs")
    args = parser.parse_args()
    folder = HERE / "validation"
    folder.mkdir(exist_ok=True)
    stored = folder / "validation.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    for name in args.cases:
        results[name] = run_case(name, CASES[name], args.out)
        stored.write_text(json.dumps(results, indent=2) + "\n")
        (folder / "validation.md").write_text(table({key: results[key] for key in CASES if key in results}))
    sys.stdout.write((folder / "validation.md").read_text())


if __name__ == "__main__":
    main()
