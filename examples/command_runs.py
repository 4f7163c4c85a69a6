# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the examples: call `lammps-bg` as a user would, print every command, and never run one twice.

Each command has one folder, or one addition to a folder, below `out`. What has finished is listed in out/commands.json with its
arguments, its seconds and its exit code; a command that was stopped half way is continued with --resume.
"""

import argparse
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from lammps_bg.report.figures.style import render
from lammps_bg.results import NOTHING

ROOT = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).with_name("lammps-bg")
RECORD = "commands.json"


class Commands:
    """Runs commands into folders below `out` and remembers which have finished.

    Attributes:
        out: Folder of all runs.
        dry: Print the commands, run nothing.
        threads: OMP_NUM_THREADS of each command, unless the environment sets it.
        finished: Entries of commands.json by name.
        stopped: No further command is started.
    """

    def __init__(self, out, *, dry=False, threads=1):
        self.out, self.dry, self.threads = Path(out).resolve(), dry, threads
        path = self.out / RECORD
        self.finished = json.loads(path.read_text()) if path.exists() else {}
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def folder(self, name):
        """The folder of a run as it stands in the commands: relative to the repository where it is inside."""
        path = self.out / name
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

    def make(self, name, command, *words):
        """Make the folder `name` with a command that takes -out."""
        arguments = [command, *words, "-out", self.folder(name)]
        self._call(name, arguments, lambda: self._prepared(self.out / name, command, arguments))

    def add(self, name, *words):
        """A command that adds to folders of others, and may simply be repeated where it was stopped."""
        self._call(name, list(words), lambda: list(words))

    def _prepared(self, folder, command, arguments):
        """The arguments, with --resume instead of all but -out where an earlier call was stopped on the way."""
        if not folder.exists():
            return arguments
        if (folder / "provenance.json").exists():
            red = ["--allow-red"] if "--allow-red" in arguments else []
            return [command, "-out", arguments[-1], "--resume", *red]
        shutil.rmtree(folder)  # stopped before there was anything to continue
        return arguments

    def _call(self, name, arguments, prepare):
        if self.stopped.is_set():
            raise RuntimeError("stopped")
        done = self.finished.get(name)
        if done is not None and done["arguments"] != arguments:
            sys.exit(
                f"expected the settings of {self.out / RECORD}, got others for '{name}'; give another -out or remove that folder"
            )
        say(f"{'done' if done else '$':4s} {shown(arguments)}")
        if done or self.dry:
            return
        prepared = prepare()
        seconds = self._run(name, prepared)
        with self._lock:
            entry = {"arguments": arguments, "seconds": round(seconds, 1), "continued": "--resume" in prepared}
            self.finished[name] = entry
            write_json(self.out / RECORD, self.finished)

    def _run(self, name, arguments):
        """Run in the root of the repository; what the command says goes to out/logs."""
        log = self.out / "logs" / f"{name.replace('/', '-')}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        environment = {"OMP_NUM_THREADS": str(self.threads), **os.environ}
        with log.open("w", encoding="utf-8") as stream:
            code = subprocess.run(
                [COMMAND, *arguments], cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False
            ).returncode
        seconds = time.monotonic() - start
        if code != 0:
            raise RuntimeError(f"`{shown(arguments)}` ended with exit code {code}; the last lines of {log}:\n{tail(log)}")
        say(f"     {name}: {seconds:.0f} s")
        return seconds

    def results(self, name, file="results.json"):
        """A JSON file of a finished run."""
        return json.loads((self.out / name / file).read_text())

    def summary(self, prefix=""):
        """The finished commands as they were given, with their seconds."""
        return [
            {"command": shown(entry["arguments"]), "seconds": entry["seconds"], "continued": entry.get("continued", False)}
            for name, entry in self.finished.items()
            if name.startswith(prefix)
        ]


def run_chains(commands, chains, jobs):
    """Run functions without arguments, so many at a time; after the first error the commands that run are the last ones."""
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(chain) for chain in chains]
        try:
            for future in running:
                future.result()
        except (RuntimeError, KeyboardInterrupt) as error:
            commands.stopped.set()
            pool.shutdown(cancel_futures=True)
            sys.exit(f"ERROR: {error or 'stopped'}\nthe same command goes on from here")


def words(*settings):
    """The --set words of KEY=VALUE settings."""
    return [word for setting in settings for word in ("--set", setting)]


def shown(arguments):
    """A command as a user would type it in the root of the repository."""
    return shlex.join(["lammps-bg", *(str(argument) for argument in arguments)])


def say(text):
    print(text, flush=True)


def tail(path, n=12):
    """The last lines of a file."""
    return "\n".join(path.read_text(encoding="utf-8").splitlines()[-n:])


def write_json(path, data):
    """Write a file in one step, so that a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_png(path, data):
    """Write a PNG with a palette of 128 colours, a third of the size and the same to the eye."""
    Image.open(io.BytesIO(data)).convert("RGB").quantize(128).save(path, optimize=True)


def settings_of(options, versions):
    """What all numbers of an example have in common, for its JSON file."""
    return {"profile": options.profile, "seed": options.seed, "jobs": options.jobs, "versions": versions}


def publish(options, name, results, table, draw=None):
    """Write NAME.json, NAME.md and, with something to draw, NAME.png into the folder of the results.

    Args:
        options: From `command_line`.
        name: Name of the example.
        results: For the JSON file.
        table: Makes the Markdown text from it.
        draw: Makes the figure from it.
    """
    path = options.results / f"{name}.json"
    write_json(path, {"schema": name, "schema_version": 1, **results})
    path.with_suffix(".md").write_text(table(results), encoding="utf-8")
    if draw:
        write_png(path.with_suffix(".png"), render(draw, results)[1])
    say(f"wrote {path}, {name}.md{f' and {name}.png' if draw else ''}")


def z_score(value, error, reference, reference_error):
    """Difference of two independent numbers in units of their joint standard error."""
    joint = (error**2 + reference_error**2) ** 0.5
    return (value - reference) / joint if joint > 0 else None


def signed(z):
    """A z-score for a table."""
    return NOTHING if z is None else f"{z:+.1f}"


def command_line(text, name, profiles):
    """The options that the figures have in common."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--profile", choices=profiles, default=profiles[0], help="how large and how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the flow; the molecular dynamics takes the next one (1)")
    parser.add_argument("--jobs", type=int, default=2, help="crystals treated side by side, one core each (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each command (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    parser.add_argument(
        "-out", type=Path, help=f"folder of the runs (runs/{name}_PROFILE); what has finished there is used again"
    )
    parser.add_argument(
        "--results", type=Path, help="folder of JSON, table and figure (examples/NAME for the first profile, else -out)"
    )
    options = parser.parse_args()
    options.out = options.out or ROOT / "runs" / f"{name}_{options.profile}"
    committed = options.profile == profiles[0]  # the profile whose results are in the repository
    options.results = options.results or (ROOT / "examples" / name if committed else options.out)
    return options


def commands_section(results):
    """Markdown lines: what was run, for how long, with which versions and seeds."""
    settings = results["settings"]
    versions = ", ".join(f"{key} {settings['versions'][key]}" for key in ("python", "lammps-bg", "lammps", "torch", "pymbar"))
    total = sum(entry["seconds"] for entry in results["commands"])
    return [
        "## Commands",
        "",
        f"Seeds: flow {settings['seed']}, molecular dynamics {settings['seed'] + 1}. Together {total:.0f} s of commands, "
        f"{settings['jobs']} at a time, one thread each; * continued after a stop, which lost the seconds before it. "
        f"Versions: {versions}.",
        "",
        "```text",
        *(f"{entry['seconds']:7.0f} s{'*' if entry['continued'] else ' '} {entry['command']}" for entry in results["commands"]),
        "```",
    ]
