# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test changes in the commands of the pages: less effort, values for placeholders, and what cannot run inside a test.

Effort is taken away by settings at the end of a command, which override those before, and by smaller supercells; everything else of
the command stays as printed.
"""

from pathlib import Path

REPLACED = {
    "in.NAME -rep NX NY NZ": "in.cu_fcc -rep 2 2 2",
    "-T 350 600 800 1050": "-T 600 1050",
    "mw_cubic -rep 6 6 6": "mw_cubic -rep 2 2 2",
    "lj_fcc -rep 7 7 7": "lj_fcc -rep 3 3 3",
    "lj_fcc -rep 4 4 4": "lj_fcc -rep 3 3 3",
    "steps=300, seed=1": 'steps=20, seed=1, settings={"flow.width": 8, "base.pilot_steps": 0, "exact.max_evaluations": 600}',
}
"""Words of the pages with what stands for them in the test: placeholders, long lists, large supercells, long trainings in Python."""

EXERCISED_ELSEWHERE = {
    "make run": "its command, `lammps-bg run`, is that of the tour; the recipe needs a new environment",
    "make test": "this is it",
    "python examples/compare_defaults.py": "tests/lammps/test_compare_defaults.py",
}
"""Beginnings of commands that are not run here, with where they are exercised. An entry that no page has any more fails a test."""

KEPT = {"base.iterations", "exact.max_evaluations"}
"""Settings of the pages that the crystal, or the output beside, needs: not overridden."""

_TRAIN = [
    "base.n_samples=50",
    "flow.width=8",
    "train.steps=10",
    "train.batch_size=16",
    "train.evaluate_samples=16",
    "condition.pool=16",
    "condition.base_samples=50",
]
_PILOT = ["base.iterations=1", "base.pilot_steps=2"]
_NO_PILOT = ["base.iterations=0", "base.pilot_steps=0"]
_SAMPLE = [
    "exact.max_evaluations=600",
    "sample.n_samples=200",
    "sample.n_dump=12",
    "sample.picture=false",
    "estimate.n_bootstraps=50",
    "estimate.rdf_samples=12",
]
_ESTIMATE = ["exact.max_evaluations=600", "estimate.n_bootstraps=50", "estimate.rdf_samples=12"]
_MD = [
    "md.n_frames=50",
    "md.window_frames=60",
    "md.target_error=0.05",
    "md.max_steps=20000",
    "md.sample_every=10",
    "md.n_dump=20",
    "sample.picture=false",
]
_CLOCKS = {  # time step, damping, and damping of the barostat in the units of the script
    "mw": ["md.timestep=4", "md.damp=40", "md.pressure_damp=400"],
    "si": ["md.timestep=0.002", "md.damp=0.1", "md.pressure_damp=1"],
    "lj": ["md.damp=0.1", "md.pressure_damp=1", "md.window_frames=100"],
}
_REPLICATES = {  # supercells for the tests; crystals of one page that are compared have the same number of atoms
    "in.mw_": ["1", "1", "1"],
    "in.si_diamond": ["2", "2", "1"],
    "in.": ["2", "2", "2"],
}
_GIBBS = ["gibbs.n_samples=16", "gibbs.n_repeats=3", "gibbs.n_volumes=5", "exact.max_evaluations=1"]
_NO_REPORT = ["estimate.report=false"]  # `lammps-bg report` makes one

SETTINGS = {
    "run": [*_TRAIN, *_PILOT, *_SAMPLE, *_NO_REPORT],
    "train": [*_TRAIN, *_NO_PILOT, *_SAMPLE, *_NO_REPORT],
    "sample": [*_SAMPLE, *_NO_REPORT],
    "md": [*_MD, *_ESTIMATE, *_NO_REPORT],
    "estimate": [*_ESTIMATE, *_NO_REPORT],
    "gibbs": [*_GIBBS, *_NO_REPORT],
    "phase": [*_GIBBS, *_NO_REPORT],
}
"""Settings that each command gets in a test, and --allow-red: so little effort gives no good numbers."""


def shortened(words):
    """The words of a `lammps-bg` command with less effort.

    Args:
        words: Words after `lammps-bg`.
    """
    command = words[0] if words else ""
    if "--help" in words or "-h" in words or command not in SETTINGS:
        return list(words)
    given = {word.partition("=")[0] for word in words}
    settings = [*SETTINGS[command], *(_clock(words) if command == "md" else [])]
    kept = [entry for entry in settings if entry.partition("=")[0] not in KEPT & given]
    return [*_smaller(words), *(word for entry in kept for word in ("--set", entry)), "--allow-red"]


def shortened_python(words):
    """The words of a `python` command: examples only list their commands.

    Args:
        words: Words after `python`.
    """
    lists = words and words[0].startswith("examples/") and words[0] != "examples/ovito_samples.py"
    return [*words, "--dry-run"] if lists else list(words)


def _smaller(words):
    """The words with a small supercell, where they name a script; a stored model is applied to what the page says."""
    if "-in" not in words or "-rep" not in words:
        return list(words)
    script, place = Path(words[words.index("-in") + 1]).name, words.index("-rep") + 1
    counts = next(counts for name, counts in _REPLICATES.items() if script.startswith(name))
    return [*words[:place], *counts, *words[place + 3 :]]


def _clock(words):
    """Settings of the time step for the crystal that the command names."""
    text = " ".join(words)
    return next((settings for name, settings in _CLOCKS.items() if f"/{name}_" in text or f"in.{name}_" in text), [])
