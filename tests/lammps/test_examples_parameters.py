# SPDX-License-Identifier: GPL-2.0-or-later
"""examples/figure5_cutoff.py and figure6_tetrahedrality.py: valid commands, static lattices, and text and figure from made-up runs."""

import importlib
import math
import shlex
import sys
from pathlib import Path

import matplotlib  # noqa: F401  (part of the tested installation)
import pytest

from lammps_bg.commands import parse
from lammps_bg.config import load_config
from lammps_bg.report.figures.style import render

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = ("figure5_cutoff", "figure6_tetrahedrality")
SLOPES = {"fcc": 0.0, "hcp": 0.02, "diamond": 0.0, "betatin": 2.0, "bcc": 4.0}
"""Of beta G/N over the parameter in the made-up runs; all are equal in the middle of the range."""


@pytest.fixture
def modules(monkeypatch):
    """The modules of the examples by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    loaded = ("command_runs", "crystals_compared", *NAMES)
    yield {name: importlib.import_module(name) for name in loaded}
    for name in loaded:
        del sys.modules[name]


class MadeUp:
    """Stands for finished commands: G is linear in the parameter, MD differs from the flow by `shift` in kT per atom."""

    def __init__(self, example, profile, shift=0.0):
        self.example, self.scan, self.shift = example, example.PROFILES[profile], shift
        self.middle = sum(self.scan.trained) / 2

    def beta_g(self, key, value):
        return 7.0 + SLOPES[key] * (value - self.middle)

    def results(self, name):
        kind, last = name.split("/")
        if kind == "phase":
            return self.phase(int(last.rsplit("_", 1)[1]))
        mode, size, *value = last.split("_")
        return self.gibbs(kind, size) if mode == "gibbs" else self.md(kind, mode, float(value[0]))

    def gibbs(self, key, size):
        states = [
            {
                "state": {"T": 2.0, self.scan.name: value}, "pressure": 44.6, "PV_per_atom": 30.0,
                "beta_G_per_atom": {"value": self.beta_g(key, value), "error": 1e-3},
                "volume_per_atom": {"value": 0.8, "error": 1e-4}, "ess": {"lowest": 0.5, "at_the_cell": 0.6},
                "cell": {"volume": {"value": 0.01, "error": 1e-4}, "c/a": {"value": 0.002, "error": 1e-4}},
                "check": {"z_free_energy": 0.1, "z_virial_pressure": -0.2},
            }
            for value in self.scan.values
        ]  # fmt: skip
        number = {"value": 1.0, "error": 0.1}
        quantities = {"npt": ("volume per atom", "change of ln c/a"), "mbar": ("beta F per atom",)}
        compared = [
            {"quantity": quantity, "flow": number, "md": number, "z": 0.5, "md_run": f"{mode}_{size}_{value:g}"}
            for value in self.scan.md
            for mode, found in quantities.items()
            for quantity in found
        ]
        verdict = {"colour": "green", "reasons": ["The lowest ESS over the cells is 50%."]}
        return {"gibbs": {"states": states, "comparison": compared}, "verdict": verdict}

    def md(self, key, mode, value):
        """100 atoms; the windows' cell has 0.81 per atom, hence beta P V is 0.5 * 30 * 0.81 / 0.8."""
        free = self.beta_g(key, value) + self.shift - 0.5 * 30 * 0.81 / 0.8
        system = {"n_atoms": 100, "beta": 0.5, "volume": 81.0, "cell": [[4.0, 0, 0], [0, 4.0, 0], [0, 0, 5.0]]}
        edges = {name: {"value": length, "error": 0.01} for name, length in (("lx", 4.1), ("ly", 4.1), ("lz", 5.05))}
        return {
            "system": system,
            "npt": {"volume": {"value": 81.0, "error": 0.05}, "pressure": 44.6, **edges},
            "estimates": {"mbar": {"beta_F_per_atom": {"value": free, "error": 2e-3}}},
        }

    def phase(self, number):
        low, high = self.scan.segments[number]
        axis = [low + (high - low) * i / 4 for i in range(5)]
        found, keys = [], list(self.example.CRYSTALS)
        for i, first in enumerate(keys):
            for second in keys[i + 1 :]:
                inside = low <= self.middle < high
                root = {"value": self.middle, "error": 0.01, "established": True, "slope": 1.0, "found": 1.0}
                crossings = {"roots": [root] if inside else [], "sentence": "Crossing." if inside else "No crossing."}
                crossings["sign_known"] = True
                energies = [2.0 * (self.beta_g(second, a) - self.beta_g(first, a)) for a in axis]
                found.append(
                    {
                        "first": first, "second": second, "axis": axis, "crossings": crossings,
                        "difference_per_atom": {"value": energies, "error": [1e-3] * 5},
                    }
                )  # fmt: skip
        return {"system": {"beta": 0.5}, "phase": {"differences": found}}


def made_up(modules, name, shift=0.0):
    """The results of an example from made-up runs of its quick profile."""
    example, compared = modules[name], modules["crystals_compared"]
    runs = MadeUp(example, "quick", shift)
    found = compared.collect(runs, example.CRYSTALS, runs.scan)
    static = example.static_difference(2.2, 2.7, 21) if name == "figure5_cutoff" else example.static_energies(4)
    trap = {"trap": example.trapped(runs, 18.7)} if hasattr(example, "trapped") else {}
    versions = dict.fromkeys(("python", "lammps-bg", "lammps", "torch", "pymbar"), "1")
    commands = [{"command": "lammps-bg train", "seconds": 1.0, "continued": False}]
    settings = {"profile": "quick", "seed": 1, "jobs": 2, "versions": versions}
    return {"settings": settings, **found, "static": static, **trap, "commands": commands}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["quick", "paper", "tiny"])
def test_every_command_is_valid(modules, name, profile, tmp_path, monkeypatch, capsys):
    arguments = [name, "--profile", profile, "--jobs", "1", "--dry-run", "-out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert modules[name].main() == 0
    lines = [shlex.split(line[1:])[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("$")]
    assert {words[0] for words in lines} == {"train", "md", "gibbs", "phase"}
    for words in lines:
        given = parse(words)
        load_config(overrides=tuple(given.set))
        if words[0] in ("train", "md"):
            assert (ROOT / given.script).exists()
    made = {words[words.index("-out") + 1] for words in lines}
    used = [run for words in lines if words[0] in ("gibbs", "phase") for run in words if run.startswith(str(tmp_path))]
    assert made.issuperset(used)  # every folder that a command reads is one that another wrote
    windows = [words for words in lines if "mbar" in words]
    assert windows
    assert not any("betatin" in word for words in windows for word in words)
    assert list(tmp_path.iterdir()) == []


def test_large_crystals_have_equally_many_atoms(modules):
    for name in NAMES:
        example = modules[name]
        assert len({crystal.n_atoms("large") for crystal in example.CRYSTALS.values()}) == 1
        for profile in example.PROFILES.values():
            assert set(profile.md) <= set(profile.values)
    paper = modules["figure6_tetrahedrality"].crystals_of("paper")
    assert {crystal.n_atoms("large") for crystal in paper.values()} == {1728}


def test_static_close_packed_lattices(modules):
    # physics.md section 3, lattice sums in LAMMPS
    energy = modules["figure5_cutoff"].static_energy
    assert energy("fcc", 2.7) == pytest.approx(-6.303226, abs=1e-6)
    for cutoff, expected in ((2.2, -0.01789), (2.5, 0.01215), (2.7, -0.00112), (3.0, -0.00262), (4.5, -0.00198)):
        assert energy("hcp", cutoff) - energy("fcc", cutoff) == pytest.approx(expected, abs=6e-6)


def test_static_tetrahedral_lattices(modules):
    # physics.md section 4: epsilon per atom, density per nm^3, crossings
    example = modules["figure6_tetrahedrality"]
    for key, value, energy, density in (
        ("diamond", 19, -2.0, 33.537),
        ("betatin", 18.5, -2.01014, 40.000),
        ("betatin", 21, -1.90791, 39.006),
        ("bcc", 18.5, -2.01094, 40.372),
    ):
        found = example.static_energy(key, value)
        assert found[0] == pytest.approx(energy, abs=6e-6)
        assert 1000 * found[1] == pytest.approx(density, abs=2e-3)
    crossings = example.static_energies()["crossings"]
    expected = {"betatin/bcc": 18.547, "diamond/bcc": 18.679, "diamond/betatin": 18.730}
    for pair, place in expected.items():
        assert crossings[pair] == [pytest.approx(place, abs=1e-3)]


def test_numbers_from_the_runs(modules):
    results = made_up(modules, "figure5_cutoff", shift=0.01)
    by_value = {entry["value"]: entry for entry in results["differences"]}
    assert by_value[2.5]["flow"]["value"] == pytest.approx(0.02 * 0.05)
    assert by_value[2.5]["flow"]["error"] == pytest.approx(math.sqrt(2) * 1e-3)
    assert by_value[2.5]["md"]["value"] == pytest.approx(0.02 * 0.05)  # both crystals are shifted alike
    assert by_value[2.5]["z"] == pytest.approx(0.0, abs=1e-9)
    assert by_value[2.2]["md"] is None
    row = next(row for row in results["rows"] if row["crystal"] == "hcp" and row["value"] == 2.5)
    assert row["md"]["beta_G"]["value"] == pytest.approx(row["beta_G"]["value"] + 0.01)
    assert row["md"]["z_G"] == pytest.approx(-0.01 / math.hypot(1e-3, 2e-3))
    assert row["density"] == {"value": pytest.approx(1.25), "error": pytest.approx(1e-4 / 0.64)}
    # in kT, not in energy units
    assert results["curves"][0]["value"][0] == pytest.approx(0.02 * (2.2 - 2.45))


def test_mean_cell_of_a_run(modules):
    compared = modules["crystals_compared"]
    runs = MadeUp(modules["figure6_tetrahedrality"], "tiny")
    runs.finished = {"betatin/npt_trained_18.7": {}}
    beta_tin = modules["figure6_tetrahedrality"].CRYSTALS["betatin"]
    assert compared.mean_cell(runs, "betatin/npt_trained_18.7", beta_tin) == ["volume=0.0124", "c/a=-0.0147"]
    assert compared.mean_cell(runs, "betatin/npt_trained_18.9", beta_tin) == ["volume=MEAN", "c/a=MEAN"]


def test_a_crystal_that_does_not_last_has_no_reference(modules):
    results = made_up(modules, "figure6_tetrahedrality")
    with_md = {row["crystal"] for row in results["rows"] if row["md"]}
    assert with_md == {"diamond", "bcc"}
    pairs = {(entry["first"], entry["second"]) for entry in results["differences"] if entry["md"]}
    assert pairs == {("diamond", "bcc")}


def test_the_way_to_the_displaced_crystal(modules):
    # physics.md section 4: t-X at -2.00764 epsilon for lambda = 18.73, where beta-tin has -2.0; displacements of 0.06 to 0.09
    path = modules["figure6_tetrahedrality"].displaced_path(18.73)
    assert path["well"] * 0.024082 == pytest.approx(-0.00764, abs=1e-4)
    assert 0.06 <= path["delta"] <= 0.09
    assert 0.1 < path["barrier"] < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_text_and_figure(modules, name):
    example, results = modules[name], made_up(modules, name)
    text = example.table(results)
    lines = text.splitlines()
    for first, second in zip(lines, lines[1:], strict=False):
        if first.startswith("|") and second.startswith("|"):
            assert first.count("|") == second.count("|"), second
    middle = sum(example.PROFILES["quick"].trained) / 2
    assert f"{middle:.3f} ± 0.010" in text
    assert "none beyond 3" in text
    assert "within the aim of 2e-3" in text
    png = render(example.draw, results)[1]
    assert png.startswith(b"\x89PNG")
    assert len(png) > 20_000


def test_what_became_of_beta_tin_is_said(modules):
    text = modules["figure6_tetrahedrality"].table(made_up(modules, "figure6_tetrahedrality"))
    # made up: 1.25 by flow, 1 / 0.81 by dynamics, edges of 4.1 each
    assert "ended -1.2 ± 0.1 % in density" in text
    assert "differ by +0.0 ± 0.3 %: it left beta-tin" in text
    assert text.count("z (volume)") == 1


def test_what_is_not_known_is_said(modules):
    results = made_up(modules, "figure5_cutoff")
    text = modules["figure5_cutoff"].table(results)
    assert text.count("180 atoms: green. The lowest ESS over the cells is 50%.") == 2
    for curve in results["curves"]:
        curve |= {"roots": [], "sign_known": True}
    assert "none in [2.2, 2.7]" in modules["figure5_cutoff"].table(results)
    results["curves"][0]["sign_known"] = False
    assert "sign uncertain in [2.2, 2.7]" in modules["figure5_cutoff"].table(results)


def test_a_disagreement_is_said(modules):
    results = made_up(modules, "figure5_cutoff")
    results["rows"][1]["md"]["comparison"][0]["z"] = -4.2
    assert "is 4.2, 1 of them beyond 3" in modules["figure5_cutoff"].table(results)
