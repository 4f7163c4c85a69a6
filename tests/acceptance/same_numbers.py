# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether two checkouts give the same numbers to the last bit: small jobs of every command, carried out by both.

    git worktree add ../before TAG
    python tests/acceptance/same_numbers.py ../before .            # every job; about three minutes for each checkout
    python tests/acceptance/same_numbers.py ../before . --only run gibbs
    make same BEFORE=../before

Tables and dump files are compared byte by byte (dumps unpacked), results.json value by value without what says when, where and how fast.
An entry that only the later one has is told and is no difference: results may be added, never changed. Exit code 1: something differs.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = [
    "base.pilot_steps=0",
    "base.n_samples=50",
    "flow.width=8",
    "train.steps=6",
    "train.batch_size=16",
    "train.evaluate_samples=16",
    "sample.n_samples=64",
    "sample.n_dump=16",
    "sample.picture=false",
    "exact.mode=never",
    "estimate.n_bootstraps=50",
    "estimate.rdf_samples=20",
    "estimate.report=false",
]
MD = [
    "md.n_frames=50",
    "md.window_frames=50",
    "md.target_error=0.05",
    "md.sample_every=20",
    "md.n_dump=20",
    "sample.picture=false",
    "estimate.n_bootstraps=50",
    "estimate.rdf_samples=20",
    "estimate.report=false",
]
CHAINS = [*SMALL, "exact.mode=always", "exact.max_evaluations=2500", "exact.n_dump=32"]


def settings(keys):
    return [word for key in keys for word in ("--set", key)]


ICE, SILICON, TIN = (
    ["-in", name, "-rep", *rep.split()]
    for name, rep in (("in.mw_cubic", "2 2 2"), ("in.si_diamond", "2 2 2"), ("in.si_betatin", "2 2 4"))
)
RANGE = settings([*SMALL, "condition.volume=[-0.03,0.03]"])
CELLS = settings(["estimate.report=false", "gibbs.n_samples=64", "gibbs.n_volumes=5", "gibbs.n_repeats=3"])
AUGMENTED = settings([*SMALL, "flow.kind=augmented", "flow.n_layers=2", "estimate.marginal_samples=8"])
ISOBARIC = settings(["exact.max_evaluations=2000", "sample.picture=false", "estimate.report=false"])
JOBS = {
    "run": ["run", *ICE, "-var", "T", "200", *settings(SMALL)],
    "augmented": ["run", *ICE, *AUGMENTED],
    "einstein": ["run", "-in", "in.lj_fcc", "-rep", "2", "2", "2", *settings([*SMALL, "base.kind=einstein"])],
    "chains": ["run", *ICE, *settings(CHAINS)],
    "larger": ["sample", "-model", "run", "-rep", "3", "3", "3", *settings(CHAINS)],
    "nvt": ["md", "-model", "run", "--mode", "nvt", *settings(MD)],
    "npt": ["md", *ICE, "--mode", "npt", "-var", "P", "0", *settings(MD)],
    "mbar": ["md", "-model", "run", "--mode", "mbar", *settings(MD)],
    "estimate": ["estimate", "-model", "run", "-md", "nvt", *settings(["estimate.report=false"])],
    "diamond": ["train", *SILICON, *RANGE],
    "betatin": ["train", *TIN, *RANGE],
    "gibbs": ["gibbs", "-model", "diamond", "-P", "0", "1", "GPa", *CELLS],
    "isobaric": ["sample", "-model", "diamond", "-P", "0", *ISOBARIC],
    "phase": ["phase", "-models", "diamond", "betatin", "--axis", "P", *CELLS],
    "relax": ["relax", "-in", "in.si_diamond", "--cell", "iso", "-P", "1", "GPa"],
    "check": ["check", *ICE, "--json"],
}
TABLES = ("*.csv", "*.gz", "in.*")
PASSING = {"script", "timings", "wall_seconds", "versions", "date", "created", "command", "argv", "revision", "host", "seconds", "provenance",
           "path", "folder", "machine", "threads", "started", "ended"}  # fmt: skip


def carried_out(checkout, folder, names):
    """Every job of a checkout in its own folder below `folder`; the exit codes."""
    shutil.copytree(checkout / "inputs", folder, dirs_exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    codes = {}
    for name in names:
        words = list(JOBS[name])
        where = [] if words[0] == "check" else ["-out", name]
        forgiving = ["--allow-red"] if words[0] not in ("check", "relax") else []
        command = [sys.executable, "-m", "lammps_bg.cli", *words, *where, *forgiving]
        done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
        codes[name] = done.returncode
        print(f"{checkout.name:12s} {name:10s} exit {done.returncode} {done.stderr.strip()[-300:]}", flush=True)
        if words[0] == "check":
            (folder / name).mkdir()
            (folder / name / "check.json").write_text(done.stdout)
    return codes


def with_needed(names):
    """The jobs asked for and those whose folders they read, in order."""
    wanted = set(names)
    for name in reversed(JOBS):
        if name in wanted:
            wanted |= set(JOBS) & set(JOBS[name])
    return [name for name in JOBS if name in wanted]


def text_of(path):
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def differences(before, after, where=""):
    """Paths of results.json at which two values differ; those that only the later one has begin with +."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key in PASSING or key.endswith(("_seconds", "_ms_per_sample")):
                continue
            if key not in before:
                yield f"+{where}.{key}"
            elif key not in after:
                yield f"{where}.{key} is gone"
            else:
                yield from differences(before[key], after[key], f"{where}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{where}[{i}]")
    elif repr(before) != repr(after):
        yield f"{where}: {before!r:.60} -> {after!r:.60}"


def compared(before, after, name):
    """What differs between the folders of a job."""
    tables = {path.relative_to(before / name) for pattern in TABLES for path in (before / name).glob(pattern) if path.is_file()}
    for table in sorted(tables):
        if not (after / name / table).exists():
            yield f"{name}/{table} is gone"
        elif table.name not in ("train.csv",) and text_of(before / name / table) != text_of(after / name / table):
            yield f"{name}/{table} differs"
    for file in ("results.json", "check.json"):
        results = [folder / name / file for folder in (before, after)]
        if results[0].exists():
            loaded = [json.loads(path.read_text()) for path in results]
            yield from (f"{name}/{file} {line}" for line in differences(*loaded))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--keep", type=Path, help="folder for the runs; those of BEFORE in it are used again")
    asked = parser.parse_args()
    names = with_needed(asked.only)
    with tempfile.TemporaryDirectory() as scratch:
        root = asked.keep or Path(scratch)
        before, after = root / "before", root / "after"
        shutil.rmtree(after, ignore_errors=True)
        known = json.loads((before / "codes.json").read_text()) if (before / "codes.json").exists() else {}
        missing = [name for name in names if name not in known]
        codes = known | carried_out(asked.before, before, missing)
        (before / "codes.json").write_text(json.dumps(codes))
        again = carried_out(asked.after, after, names)
        found = [f"{name}: exit {codes[name]} -> {again[name]}" for name in names if codes[name] != again[name]]
        found += [line for name in names for line in compared(before, after, name)]
        broken = [name for name in names if codes[name] not in (0, 3)]
    for line in found:
        print(line)
    changed = [line for line in found if ".json +" not in line]
    print(f"{len(names)} jobs, {len(changed)} differences" + (f"; failed in both: {', '.join(broken)}" if broken else ""))
    return 1 if changed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
