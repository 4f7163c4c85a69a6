# SPDX-License-Identifier: GPL-2.0-or-later
"""The report: self-contained, honest about what is missing or withheld, and drawn from the numbers it stores."""

import base64
import importlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from lammps_bg.errors import LammpsBGError, RunDirectoryError
from lammps_bg.report import html
from lammps_bg.report.contents import read_contents
from lammps_bg.report.figures import auxiliaries, chains, dynamics, estimates, figure_kinds, histograms, structure, training
from lammps_bg.report.figures.style import ReportError
from lammps_bg.report.html import PAGES, write_report
from lammps_bg.report.page import Text
from lammps_bg.results import ENSEMBLES, ESTIMATORS, NOTHING, Results, with_error
from lammps_bg.store.run_directory import RESULTS_SCHEMA, RunDirectory
from lammps_bg.thermo.free_energy import CrystalReference, absolute_from_difference, tfep, upper_bound
from lammps_bg.thermo.weights import log_mean_exp

N, N_SAMPLES, BETA, SPREAD = 8, 600, 2.5, 0.8
REFERENCE = CrystalReference(beta_static_energy=-240.0, base_log_integral=-20.0, n_atoms=N, volume=216.0, length_scale=2.4)
FLOW_FIGURES = {"terms", "training", "work", "convergence", "energy", "estimators"}
CHAIN_FIGURES = {"chains_trace", "chains_steps", "chains_overlap"}
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects text, links and sources of a page, and checks that its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.text, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "a":
            self.links.append(given["href"])
        else:
            self.sources += [given[name] for name in ("src", "href", "srcset", "data") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def entry(result):
    shown = result.to_dict()
    terms = shown.pop("terms")
    in_units = {"value": result.value / BETA, "error": result.error / BETA, "unit": "kcal/mol per atom"}
    return {"beta_F_per_atom": shown, "terms": terms, "F_per_atom": in_units}


def flow_results(log_w):
    tfep_value = absolute_from_difference(tfep(log_w, np.random.default_rng(1), n_bootstraps=50), REFERENCE)
    bound = absolute_from_difference(upper_bound(log_w), REFERENCE)
    system = {"n_atoms": N, "units": "real", "temperature": 200.0, "beta": BETA, "species": ["mW"], "replicate": [1, 1, 1]}
    system |= {"volume": REFERENCE.volume, "static_energy_per_atom": REFERENCE.beta_static_energy / BETA / N}
    system |= {
        "length_scale": {"value": REFERENCE.length_scale, "unit": "Angstrom"},
        "space_group": "Fd-3m (227)",
        "pair_style": "sw",
    }
    energy = {
        "flow": {"value": -11.7, "error": 0.01, "n": N_SAMPLES},
        "reweighted": {"value": -11.6, "error": 0.02, "n": N_SAMPLES},
    }
    return {
        "system": system,
        "sampling": {"n_samples": len(log_w), "ess": 0.5, "ess_samples": 300.0, "pareto_k": 0.3, "max_share": 0.01, "n_zero": 0},
        "estimates": {"tfep": entry(tfep_value), "bound": entry(bound)},
        "observables": {"potential_energy_per_atom": {**energy, "unit": "kcal/mol"}},
        "verdict": {"colour": "green", "reasons": ["Enough samples."], "reliable": True, "next_step": "Use it."},
        "cost": {"energy_evaluations": 12345, "wall_seconds": 61.0},
        "timings": {"train_ms_per_sample": 2.5},
    }


def training_rows(last_bound):
    rows = ["step,seconds,bound,std_log_w,ess,exact_bound"]
    for step in range(1, 41):
        bound = last_bound + 0.5 * math.exp(-step / 8)
        rows.append(f"{step},{step / 10},{bound!r},1.0," + (f"0.5,{bound!r}" if step % 10 == 0 else ","))
    return rows


def make_run(path, *, log_w=None):
    """A run directory as a short flow run leaves it."""
    random = np.random.default_rng(0)
    log_w = random.normal(-REFERENCE.beta_static_energy - 20.0, SPREAD, N_SAMPLES) if log_w is None else log_w
    energies = random.normal(-11.7 * N, 0.5, len(log_w))
    run = RunDirectory.create(path)
    provenance = {"schema": "lammps-bg-provenance", "schema_version": 1, "command": ["lammps-bg", "run", "-in", "in.mw"]}
    versions = {"lammps-bg": "0.1.0", "lammps": "2025.7.22"}
    inputs = [{"role": "script", "stored": "in.mw", "sha256": "ab" * 32}]
    run.write_json("provenance.json", {**provenance, "seeds": {"seed": 1}, "versions": versions, "inputs": inputs})
    run.write_text("config.toml", "seed = 1\n")
    run.write_results(flow_results(log_w))
    rows = [f"{i},{energies[i]!r},0.0,{log_w[i]!r}" for i in range(len(log_w))]
    run.write_text("samples.csv", "\n".join(["sample,pe,log_q,log_w", *rows]).replace("np.float64(", "").replace(")", "") + "\n")
    last = -float(log_w[np.isfinite(log_w)].mean()) / N - REFERENCE.beta_static_energy / N
    run.write_text("train.csv", "\n".join(training_rows(last)) + "\n")
    return run


def add_comparison(run):
    """What `estimate -md` and the observables of all ensembles add."""
    random = np.random.default_rng(2)
    results, log_w = run.read_results(), read_contents(run).log_w
    weights = np.exp(log_w - log_w.max())
    frames = random.choice(N_SAMPLES, 300, p=weights / weights.sum())
    value = results["estimates"]["tfep"]["beta_F_per_atom"]["value"]
    results["estimates"]["bar"] = {"beta_F_per_atom": {"value": value + 1e-3, "error": 2e-3, "n": 300}}
    rows = [{"name": "TFEP", "key": "tfep", "value": value, "error": 1e-3, "z": -1.2}]
    rows.append({"name": "reference MD", "key": "md", "value": value + 2e-3, "error": 3e-3, "z": None})
    md = {"path": "runs/md", "mode": "mbar", "n_frames": 600, "n_independent": 300, "temperature": 200.0}
    work = {"flow": log_w, "md": log_w[frames]}
    run.write_results({**results, "comparison": {"md": md, "against": "md", "rows": rows, "overlap": 0.4, "work": work}})
    r = np.linspace(0.1, 6.0, 30)
    curves = {kind: {"g": np.exp(-((r - 3) ** 2)) + 0.01 * i, "error": np.full(30, 0.01)} for i, kind in enumerate(kinds())}
    msd = {kind: {"value": random.normal(0.08, 0.01, N), "error": [0.01] * N} for kind in kinds()[1:]}
    energy = {kind: {"values": random.normal(-11.7, 0.1, 300)} for kind in ("base", "md")}
    energy["flow"] = {"values": random.normal(-11.7, 0.1, N_SAMPLES), "log_w": log_w}
    fractions = {kind: {"value": [0.9, 0.1], "error": [0.01, 0.01]} for kind in kinds()[1:]}
    estimate = {"value": 1203.0, "error": 22.0, "interval": [1160.0, 1246.0], "n": 300}
    observables = {
        "energy": {"unit": "kcal/mol per atom", "series": energy},
        "rdf": {"unit": "Angstrom", "r": r, "curves": curves},
        "msd": {"unit": "Angstrom^2", "curves": msd},
        "pressure": {"unit": "atm", "flow": estimate, "md": estimate},
        "structure": {"types": ["Cubic diamond", "Other"], "fractions": fractions},
    }
    run.write_json("observables.json", observables)
    return run


def kinds():
    return ["base", "flow", "reweighted", "md"]


N_CHAINS, N_STEPS = 16, 30


def add_chains(run):
    """What chains add to a run: two windows above the draws, exact.csv, and a curve of the radial distribution."""
    random, results, log_w = np.random.default_rng(4), run.read_results(), read_contents(run).log_w
    value = results["estimates"]["tfep"]["beta_F_per_atom"]["value"]
    exact = {"value": value - 2e-3, "error": 1e-4, "interval": [value - 2.2e-3, value - 1.8e-3], "n": 480}
    results["estimates"]["exact"] = {"beta_F_per_atom": exact, "terms": {"static_lattice": -30.0, "flow": 5.0}}
    names = ("coupling", "n_samples", "step", "leaps", "acceptance", "inefficiency", "r_hat", "std_log_w", "n_infinite")
    rows = [
        (0.0, 600, 0.0, 1, 1.0, 1.0, None, 1.5, 0),
        (0.5, 480, 0.43, 4, 0.81, 1.2, 1.01, 1.2, 3),
        (1.0, 480, 0.39, 4, 0.78, 1.5, 1.02, 1.1, 0),
    ]
    results["exact"] = {
        "reason": "the weights of the draws are not beyond doubt (ESS 0.50% of 600)", "target_error": 1e-4, "evaluations": 4321, "seconds": 12.0,
        "note": "", "n_samples": 480, "n_independent": 320.0, "evaluations_per_sample": 6.0, "acceptance": 0.78, "inefficiency": 1.5,
        "windows": [dict(zip(names, row, strict=True)) for row in rows], "overlaps": [0.42, 0.57],
        "overlap_matrix": [[0.7, 0.25, 0.05], [0.3, 0.4, 0.3], [0.05, 0.25, 0.7]],
    }  # fmt: skip
    run.write_results(results)
    moved = random.normal(log_w.mean() + 0.5, SPREAD, (N_STEPS, N_CHAINS))
    lines = [f"{16 * s + c},{c},{s},{-93.5},{moved[s, c].item()!r}" for s in range(N_STEPS) for c in range(N_CHAINS)]
    run.write_text("exact.csv", "\n".join(["sample,chain,step,pe,log_w", *lines]) + "\n")
    return run


def add_auxiliaries(run):
    """What a flow with auxiliary variables adds: estimates in the density of the atoms alone, over the number of draws."""
    results = run.read_results()
    results["estimates"]["tfep_marginal"] = results["estimates"]["tfep"]
    rows = [{"draws": m, "beta_F_per_atom": -25.0 - 0.01 / m, "ess": 0.6 - 0.3 / m} for m in (1, 2, 5, 10)]
    rows = [{**row, "beta_F_per_atom_fresh": -25.1, "ess_fresh": 0.5} if row["draws"] < 10 else row for row in rows]
    results["sampling"] |= {"ess_marginal": 0.57, "marginal_over_draws": rows}
    run.write_results(results)
    return run


def make_md_run(path):
    run = make_run(path)
    for name in ("samples.csv", "train.csv"):
        run.file(name).unlink()
    flow, random = run.read_results(), np.random.default_rng(3)
    windows = [
        {
            "lambda": x,
            "n_frames": 100,
            "n_independent": 50,
            "inefficiency": 2.0,
            "mean_energy": -11.7 + (1 - x) ** 2,
            "mean_springs": 0.5,
        }
        for x in (0.0, 0.3, 1.0)
    ]
    temperature = {"value": 200.3, "error": 0.9, "interval": [198.5, 202.1], "n": 100}
    md = {"mode": "mbar", "timestep": 2.0, "damp": 200.0, "pressure_damp": 2000.0, "n_frames": 400, "n_independent": 120.0}
    md |= {"equilibration_frames": [10, 0], "inefficiency": [2.0, 2.1], "temperature": temperature}
    mbar = {**flow["estimates"]["tfep"], "terms": {"static_lattice": -30.0, "lambda_windows": 5.0}}
    results = {name: flow[name] for name in ("system", "verdict", "cost")}
    results |= {"md": md, "windows": windows, "overlap_matrix": [[0.7, 0.3, 0.0], [0.3, 0.4, 0.3], [0.0, 0.3, 0.7]]}
    run.write_results({**results, "estimates": {"mbar": mbar}})
    rows = ["replica,step,time,pe,temperature,pressure,volume"]
    for replica in (0, 1):
        for step in range(1, 101):
            rows.append(
                f"{replica},{step},{2 * step},{random.normal(-93, 0.5)},{random.normal(200, 9)},{random.normal(0, 50)},216"
            )
    run.write_text("thermo.csv", "\n".join(rows) + "\n")
    return run


def page_of(run):
    text = write_report(run).read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("bare") / "run")
    return run, *page_of(run)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    run = add_comparison(make_run(tmp_path_factory.mktemp("full") / "run"))
    return run, *page_of(run)


@pytest.fixture(scope="module")
def md(tmp_path_factory):
    run = make_md_run(tmp_path_factory.mktemp("md") / "run")
    return run, *page_of(run)


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    run = add_chains(make_run(tmp_path_factory.mktemp("chained") / "run"))
    return run, *page_of(run)


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    run = add_auxiliaries(make_run(tmp_path_factory.mktemp("augmented") / "run"))
    return run, *page_of(run)


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without the time that drawing takes."""
    monkeypatch.setattr(html, "render", lambda draw, data: (b"<svg/>", b"png"))


def drawn(run):
    return {path.stem for path in run.file("figures").glob("*.png")}


@pytest.mark.parametrize("kind", ["bare", "full", "md", "chained", "augmented"])
def test_the_page_is_self_contained(kind, request):
    run, page, text = request.getfixturevalue(kind)
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert all(link.startswith(("https://doi.org/", "https://arxiv.org/")) for link in page.links)
    assert "@import" not in text
    assert "url(" not in text
    assert not {"script", "iframe", "link", "object"} & set(page.tags)
    assert len(text.encode()) < 3_000_000


@pytest.mark.parametrize("kind", ["bare", "full", "md", "chained", "augmented"])
def test_every_figure_has_its_numbers_and_its_picture(kind, request):
    run, page, text = request.getfixturevalue(kind)
    names = {path.stem for path in run.file("figures").glob("*.json")}
    assert names == drawn(run)
    assert len([source for source in page.sources if source.startswith("data:image/svg")]) == len(names)
    for name in names:
        assert run.file(f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}.json" in text
    for source in page.sources:
        assert b"<svg" in base64.b64decode(source.split(",", 1)[1])


def test_a_flow_run_without_anything_else(bare):
    run, page, _ = bare
    assert drawn(run) == FLOW_FIGURES
    text = " ".join(page.text)
    assert "lammps-bg md -model RUN" in text
    assert "No picture of the samples" in text
    value = run.read_results()["estimates"]["tfep"]["beta_F_per_atom"]
    assert with_error(value["value"], value["error"]) in text
    assert text.index("Verdict: green") < text.index("Free energy") < text.index("Training") < text.index("Provenance")
    assert "300" in text  # effective samples
    assert "arXiv:2509.25486" in text
    assert text.count("±: one standard error, 1σ") == text.count("bars and bands in figures: 95 %") == 1


def test_a_compared_run_shows_all_ensembles(full):
    run, page, _ = full
    assert drawn(run) == FLOW_FIGURES | {"rdf", "msd"}
    text = " ".join(page.text)
    assert "BAR (flow and MD)" in text
    assert "reference MD" in text
    assert "-1.2" in text
    assert "difference from “reference MD”" in text
    assert "1203 ± 22" in text
    assert "90.0 ± 1.0" in text
    assert "No reference MD" not in text
    assert set(run.read_json("figures/energy.json")["series"]) == set(kinds())


def test_exact_samples_have_a_section_and_the_headline(chained):
    """A sentence, the windows and three figures; the number on top is that of the chains, and MD is not asked for."""
    run, page, _ = chained
    assert drawn(run) == FLOW_FIGURES | CHAIN_FIGURES
    text = " ".join(" ".join(page.text).split())
    assert "because the weights of the draws are not beyond doubt (ESS 0.50% of 600): Hamiltonian Monte Carlo" in text
    assert "480 samples of the crystal" in text
    assert "one for 6 energies" in text
    assert "0.43 4 0.81 1.2 1.010 1.2 0.57" in text
    value = run.read_results()["estimates"]["exact"]["beta_F_per_atom"]
    assert text.index(with_error(value["value"], value["error"])) < text.index("Free energy")
    assert "No reference MD" not in text
    assert {row["kind"] for row in run.read_json("figures/estimators.json")["rows"]} == {"flow", "exact"}
    assert [row["kind"] for row in run.read_json("figures/convergence.json")["joint"]] == ["exact"]


def test_figures_of_chains_draw_what_the_chains_did(chained):
    run, _, _ = chained
    table = read_contents(run).chain_table("log_w")
    assert table.shape == (N_STEPS, N_CHAINS)
    stored = run.read_json("figures/chains_trace.json")
    np.testing.assert_allclose(stored["log_w"][3], table[:, 3] - table.mean(), rtol=1e-12)
    np.testing.assert_allclose(stored["mean"], table.mean(axis=1) - table.mean(), atol=1e-12)
    (axes,) = chains.draw_trace(stored).axes
    assert len([line for line in axes.lines if line.get_alpha() == 0.35]) == N_CHAINS
    steps = run.read_json("figures/chains_steps.json")
    assert (steps["lambda"], steps["energies"], steps["r_hat"]) == ([0.5, 1.0], [4.8, 6.0], [1.01, 1.02])
    left, middle, _ = chains.draw_steps(steps).axes
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [0.81, 0.78])
    np.testing.assert_array_equal(middle.lines[0].get_ydata(), [4.8, 6.0])
    overlap = run.read_json("figures/chains_overlap.json")
    assert overlap["lambda"] == [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(dynamics.draw_overlap(overlap).axes[0].images[0].get_array(), overlap["matrix"])
    work = run.read_json("figures/work.json")
    inside = (
        np.histogram(table.ravel() - log_mean_exp(read_contents(run).log_w), work["edges"])[0]
        / table.size
        / np.diff(work["edges"])
    )
    np.testing.assert_allclose(work["series"]["exact"]["density"], inside, rtol=1e-12)


def test_an_augmented_run_shows_what_more_draws_are_worth(augmented, bare):
    run, page, _ = augmented
    assert drawn(run) == FLOW_FIGURES | {"draws"}
    text = " ".join(page.text)
    assert "TFEP (marginal density)" in text
    assert "Effective samples in the density of the atoms alone 57.0%." in text
    stored = run.read_json("figures/draws.json")
    assert stored["draws"] == [1, 2, 5, 10]
    assert stored["ess_fresh"] == [0.5, 0.5, 0.5, None]
    left, right = auxiliaries.draw_draws(stored).axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), stored["beta_F_per_atom"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [30.0, 45.0, 54.0, 57.0])
    assert "auxiliary draws" not in " ".join(bare[1].text)


def test_long_chains_are_drawn_with_few_points(tmp_path):
    run = add_chains(make_run(tmp_path / "run"))
    lines = [f"{64 * s + c},{c},{s},0,{s % 7}" for s in range(1500) for c in range(64)]
    run.write_text("exact.csv", "\n".join(["sample,chain,step,pe,log_w", *lines]) + "\n")
    data = chains.trace_data(read_contents(run))
    assert len(data["step"]) <= 600
    assert len(data["log_w"]) == len(data["chains"]) <= 24
    assert len(data["mean"]) <= 61
    assert data["n_chains"] == 64
    labels = chains.draw_trace(data).axes[0].get_legend_handles_labels()[1]
    assert "24 of 64 chains" in labels


def test_chains_that_came_to_nothing_say_why(tmp_path, undrawn):
    """No number: the note stands in the section, and each figure says what to do."""
    run = add_chains(make_run(tmp_path / "run"))
    results = run.read_results()
    del results["estimates"]["exact"]
    results["exact"] = {"reason": "asked for", "evaluations": 40, "seconds": 0.5, "note": "expected chains, got none"}
    run.write_results(results)
    run.write_text("exact.csv", "sample,chain,step,pe,log_w\n")
    text = " ".join(" ".join(page_of(run)[0].text).split())
    assert "because they were asked for" in text
    assert "Expected chains, got none." in text
    assert text.count("raise exact.max_seconds") == 3
    assert not CHAIN_FIGURES & drawn(run)


def test_exact_samples_stand_beside_md_and_are_the_reference_without_it(tmp_path, undrawn):
    run = add_chains(add_comparison(make_run(tmp_path / "run")))
    observables = run.read_json("observables.json")
    for name in ("rdf", "msd"):
        curves = observables[name]["curves"]
        curves["exact"] = {key: [1.01 * x for x in values] for key, values in curves["md"].items()}
    observables["pressure"] |= dict.fromkeys(("base", "reweighted", "exact"), observables["pressure"]["md"])
    run.write_json("observables.json", observables)
    page, _ = page_of(run)
    rdf = run.read_json("figures/rdf.json")
    assert (rdf["reference"], set(rdf["differences"])) == ("md", {"base", "flow", "reweighted", "exact"})
    labels = [line.get_label() for line in structure.draw_rdf(rdf).axes[1].lines]
    assert labels[-1] == "exact (chains)"
    assert set(run.read_json("figures/msd.json")["curves"]) == {"flow", "reweighted", "exact", "md"}
    assert "exact (chains)" in " ".join(page.text)
    for name in ("rdf", "msd"):
        del observables[name]["curves"]["md"]
    assert structure.rdf_data(read_contents(run))["reference"] == "md"
    run.write_json("observables.json", observables)
    assert structure.rdf_data(read_contents(run))["reference"] == "exact"


def test_an_estimate_without_chains_shows_nothing_of_an_earlier_one(tmp_path, undrawn):
    from PIL import Image

    run = add_chains(make_run(tmp_path / "run"))
    Image.new("RGB", (40, 30), "red").save(run.file("exact.png"))
    assert "Exact samples, of equal weight" in " ".join(page_of(run)[0].text)
    results = run.read_results()
    del results["exact"], results["estimates"]["exact"]
    run.write_results(results)
    found = read_contents(run)
    assert found.picture is None
    assert found.chain_table("log_w") is None
    assert "exact" not in histograms.work_data(found)["series"]


def test_an_md_run(md):
    run, page, _ = md
    assert drawn(run) == {"terms", "thermo", "windows", "overlap"}
    text = " ".join(page.text)
    assert "reference molecular dynamics" in text
    assert "200.30 ± 0.90" in text
    assert "MBAR (MD windows)" in text
    assert "2 fs" in text
    thermo = run.read_json("figures/thermo.json")
    assert [panel["name"] for panel in thermo["panels"]] == ["pe", "temperature", "pressure"]  # the volume is constant
    assert thermo["settled"].count(False) == 10
    assert thermo["x"][-1] == 400.0  # two trajectories of 200 one after another
    assert thermo["panels"][0]["running_mean"][0] is None


def test_figures_draw_the_stored_numbers(full):
    """The JSON equals its source, and the artists on the axes equal the JSON."""
    run, _, _ = full
    source, stored = run.read_json("observables.json")["rdf"], run.read_json("figures/rdf.json")
    assert stored["r"] == source["r"]
    assert stored["curves"]["md"]["g"] == source["curves"]["md"]["g"]
    expected = np.subtract(source["curves"]["reweighted"]["g"], source["curves"]["md"]["g"])
    np.testing.assert_allclose(stored["differences"]["reweighted"]["value"], expected, atol=1e-15)
    top, bottom = structure.draw_rdf(stored).axes
    by_label = {line.get_label(): line for line in top.lines}
    np.testing.assert_array_equal(by_label["MD"].get_ydata(), stored["curves"]["md"]["g"])
    assert [line.get_label() for line in bottom.lines[1:]] == ["flow", "flow, reweighted"]
    energy = run.read_json("figures/energy.json")
    values = run.read_json("observables.json")["energy"]["series"]["md"]["values"]
    inside = np.histogram(values, energy["edges"])[0] / len(values) / np.diff(energy["edges"])
    np.testing.assert_allclose(energy["series"]["md"]["density"], inside, rtol=1e-12)


def test_densities_are_normalised(full):
    run, _, _ = full
    for name in ("energy", "work"):
        data = run.read_json(f"figures/{name}.json")
        for entry_ in data["series"].values():
            area = float(np.sum(np.array(entry_["density"]) * np.diff(data["edges"])))
            assert area == pytest.approx(1.0 - entry_["outside"], abs=1e-12)


def test_reweighted_log_weights_predict_those_of_md(tmp_path):
    """For Gaussian log-weights N(m, s^2) the MD frames have N(m + s^2, s^2); false alarm below 1e-6 for the mean of 4000."""
    random, spread = np.random.default_rng(5), 0.6
    flow, frames = random.normal(100.0, spread, 4000), random.normal(100.0 + spread**2, spread, 4000)
    run = make_run(tmp_path / "run", log_w=flow)
    results = run.read_results()
    run.write_results({**results, "comparison": {"work": {"flow": flow, "md": frames}, "rows": []}})
    data = histograms.work_data(read_contents(run))
    centres = 0.5 * (data["edges"][1:] + data["edges"][:-1])
    means = {kind: np.sum(entry_["density"] * np.diff(data["edges"]) * centres) for kind, entry_ in data["series"].items()}
    assert means["flow"] == pytest.approx(-(spread**2) / 2, abs=0.06)
    assert means["reweighted"] == pytest.approx(means["md"], abs=0.1)
    assert data["lines"]["TFEP (flow)"] == pytest.approx(0.0, abs=1e-9)
    near = data["series"]["md"]["density"] - data["series"]["reweighted"]["density"]
    error = np.hypot(data["series"]["md"]["error"], data["series"]["reweighted"]["error"])
    assert (np.abs(near[error > 0]) < 6 * error[error > 0] + 0.01).all()


def test_training_and_convergence_are_absolute(bare):
    run, _, _ = bare
    contents = read_contents(run)
    data = training.training_data(contents)
    bound = upper_bound(contents.log_w)
    shift = 0.5 * math.exp(-40 / 8)
    assert data["evaluation_bound"][-1] == pytest.approx(REFERENCE.value(bound.value) + shift, abs=1e-9)
    settled = estimates.convergence_data(contents)
    assert settled["forward"][-1] == 0.0
    assert settled["backward"][-1] == pytest.approx(0.0, abs=1e-12)
    assert settled["final_error"] == pytest.approx(tfep(contents.log_w, np.random.default_rng(0)).error / N, rel=0.3)


def test_a_withheld_number_is_not_shown(tmp_path, undrawn):
    run = make_run(tmp_path / "run")
    results = run.read_results()
    value = results["estimates"]["tfep"]["beta_F_per_atom"]["value"]
    nothing = {"value": None, "error": None, "interval": None, "n": N_SAMPLES, "note": "not reliable"}
    terms = dict.fromkeys(results["estimates"]["tfep"]["terms"])
    empty = {"value": None, "error": None, "unit": "kcal/mol per atom"}
    results["estimates"] = {"tfep": {"beta_F_per_atom": nothing, "terms": terms, "F_per_atom": empty}}
    reason = "The effective sample size is 0.10% of 600 samples, below 1%."
    results["verdict"] = {"colour": "red", "reasons": [reason], "reliable": False, "next_step": "Train longer."}
    run.write_results(results)
    page, text = page_of(run)
    assert 'class="verdict red"' in text
    assert '<p class="number">not reliable</p>' in text
    assert page.text.count("not reliable") == 2  # on top and in the table
    assert reason in " ".join(page.text)
    assert f"{value:.3f}" not in " ".join(page.text)
    assert "reweighted" not in run.read_json("figures/energy.json")["series"]
    assert "terms" not in drawn(run)


def test_poor_weights_beside_a_good_estimate_with_md(tmp_path, undrawn):
    """BAR may be reliable where perturbation is not: its number is shown, averages over the weights are not."""
    run = add_comparison(make_run(tmp_path / "run"))
    results = run.read_results()
    results["estimates"]["tfep"]["beta_F_per_atom"] |= {"value": None, "error": None, "interval": None}
    run.write_results(results)
    page, _ = page_of(run)
    bar = results["estimates"]["bar"]["beta_F_per_atom"]
    assert page.text.count(with_error(bar["value"], bar["error"])) == 2
    assert "not reliable" in page.text
    assert "flow, reweighted" not in page.text
    assert "reweighted" not in run.read_json("figures/rdf.json")["curves"]
    assert "reweighted" not in run.read_json("figures/energy.json")["series"]


def test_numbers_that_are_not_finite(tmp_path):
    """Weights of zero, infinite energies, empty cells, null everywhere: a report all the same."""
    log_w = np.random.default_rng(0).normal(10.0, 1.0, 60)
    run = make_run(tmp_path / "run", log_w=log_w)
    run.write_text(
        "samples.csv",
        "sample,pe,log_q,log_w\n0,inf,nan,-inf\n1,-93,,\n" + "".join(f"{i},-93.{i},0,{log_w[i]}\n" for i in range(2, 60)),
    )
    run.write_text("train.csv", "step,bound,std_log_w,ess,exact_bound\n1,inf,nan,,\n2,3.5,1.0,0.0,inf\n3,nan,")
    results = run.read_results()
    results["base"] = {"beta_F_per_atom_bound": {"bound": None, "error": None}}
    results["estimates"]["tfep"]["beta_F_per_atom"] |= {"value": math.nan, "error": math.inf}
    results["sampling"] |= {"ess": math.nan, "pareto_k": math.inf, "n_zero": 2}
    run.write_results(results)
    curves = {"flow": {"g": [0.0, math.nan, 1.0], "error": [0.0, math.inf, 0.1]}}
    run.write_json("observables.json", {"rdf": {"unit": "Angstrom", "r": [1, 2, 3], "curves": curves}, "msd": {"curves": {}}})
    page, _ = page_of(run)
    assert {"training", "work", "convergence", "rdf"} <= drawn(run)
    assert run.read_json("figures/work.json")["zero_weights"] == 2
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(page.text))


@pytest.mark.parametrize("keep", [[], ["system"], ["system", "md"]])
def test_almost_nothing_in_the_results(tmp_path, undrawn, keep):
    run = make_md_run(tmp_path / "run") if "md" in keep else make_run(tmp_path / "run")
    run.write_results({name: value for name, value in run.read_results().items() if name in ("system", *keep)})
    for name in ("samples.csv", "train.csv", "config.toml", "thermo.csv"):
        run.file(name).unlink(missing_ok=True)
    page, text = page_of(run)
    assert drawn(run) == set()
    assert 'class="verdict grey"' in text


def test_equal_weights_have_a_histogram(tmp_path):
    run = make_run(tmp_path / "run", log_w=np.full(50, 220.0))
    data = histograms.work_data(read_contents(run))
    assert np.isfinite(data["series"]["flow"]["density"]).all()
    assert data["series"]["flow"]["outside"] == pytest.approx(0.0, abs=1e-12)


def test_strings_of_the_user_are_escaped(tmp_path, undrawn):
    run = make_run(tmp_path / "run")
    evil = "<script>alert('&')</script>"
    provenance = run.read_json("provenance.json")
    provenance["command"] = ["lammps-bg", "run", "-in", f"in.{evil}"]
    provenance["inputs"][0]["stored"] = evil
    run.write_json("provenance.json", provenance)
    run.write_text("config.toml", f"# {evil}\n")
    results = run.read_results()
    results["system"]["species"] = [evil]
    results["verdict"]["reasons"] = [evil]
    results["warnings"] = [evil]
    run.write_results(results)
    page, text = page_of(run)
    assert "script" not in page.tags
    assert "<script" not in text
    assert " ".join(page.text).count("<script>alert(") >= 5


def test_a_new_report_drops_figures_that_are_gone(tmp_path, undrawn):
    run = add_comparison(make_run(tmp_path / "run"))
    write_report(run)
    assert "rdf" in drawn(run)
    run.file("observables.json").unlink()
    write_report(run)
    assert not {"rdf", "msd"} & drawn(run)
    assert not run.file("figures/rdf.json").exists()


def test_the_picture_is_embedded_smaller(tmp_path, undrawn):
    from PIL import Image

    run = make_run(tmp_path / "run")
    Image.new("RGBA", (1600, 1200), (10, 20, 30, 128)).save(run.file("samples.png"))
    page, _ = page_of(run)
    (source,) = [source for source in page.sources if source.startswith("data:image/jpeg")]
    path = tmp_path / "small.jpg"
    path.write_bytes(base64.b64decode(source.split(",", 1)[1]))
    with Image.open(path) as image:
        assert image.size == (900, 675)
    run.file("samples.png").write_bytes(b"no picture")
    assert "cannot be read" in " ".join(page_of(run)[0].text)


@pytest.mark.parametrize("package", ["matplotlib"])
def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch, package):
    run = make_run(tmp_path / "run")

    def without(name, *args, _import=importlib.import_module):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return _import(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ReportError, match=r"pip install 'lammps-bg\[plot\]'") as caught:
        write_report(run)
    assert isinstance(caught.value, LammpsBGError)
    assert not run.file("report.html").exists()
    assert not run.file("figures").exists()


def test_a_run_without_results_has_no_report(tmp_path):
    run = make_run(tmp_path / "run")
    run.file("results.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"results\.json"):
        write_report(run)
    run.write_json("results.json", {**RESULTS_SCHEMA, "schema_version": 99})
    with pytest.raises(RunDirectoryError, match="version"):
        write_report(run)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, undrawn):
    run = make_run(tmp_path / "run")
    run.file("figures").write_text("a file in the way")
    with pytest.raises(RunDirectoryError, match="expected to write .*figures"):
        write_report(run)


def test_reduced_units(tmp_path, undrawn):
    run = make_run(tmp_path / "run")
    results = run.read_results()
    results["system"]["units"] = "lj"
    run.write_results(results)
    text = " ".join(page_of(run)[0].text)
    assert "T = 200 ε/k_B" in text
    assert "F/N (ε per atom)" in text
    assert "216 σ³" in text


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    run = make_run(tmp_path / "run")
    data = estimates.terms_data(read_contents(run))
    run.write_json("terms.json", data)
    svg, png = html.render(estimates.draw_terms, run.read_json("terms.json"))
    again = html.render(estimates.draw_terms, json.loads(run.file("terms.json").read_text()))[0]
    assert dict(matplotlib.rcParams) == before
    assert svg == again
    assert png.startswith(b"\x89PNG")


def test_every_figure_explains_itself_and_has_a_place_in_a_page(full):
    """A module of the folder is enough to be known; a figure that no page asks for would never be seen."""
    run = read_contents(full[0])
    results = Results(run.results, windows=[{}], exact={"windows": [{}]}, estimates=run.results["estimates"])
    asked = set()

    def draw(name):
        asked.add(name)
        return Text(name)

    for page in PAGES.values():
        page.sections(replace(run, results=Results({**results, "gibbs": {}, "phase": {}})), draw)
    assert asked - {"samples"} == set(figure_kinds())
    for kind in figure_kinds().values():
        assert kind.reading.endswith(".")
        assert kind.missing.endswith((".", ")."))


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (-25.162917756842262, 0.000158, "-25.16292 ± 0.00016"),
        (1203.4, 22.0, "1203 ± 22"),
        (0.99, 0.0009999, "0.9900 ± 0.0010"),
        (-3.2e-19, 4.1e-22, "(-3.2000 ± 0.0041)e-19"),
        (100.0, 4e-17, "100"),
        (1.5, None, "1.5"),
        (None, 0.1, NOTHING),
        (math.nan, 0.1, NOTHING),
    ],
)
def test_numbers_have_the_digits_of_their_errors(value, error, expected):
    assert with_error(value, error) == expected


def test_one_order_of_estimates():
    """The best first, wherever they stand: chains, then those that join flow and MD, then the flow alone."""
    given = {key: {"beta_F_per_atom": {"value": 1.0, "error": 0.1}} for key in reversed(ESTIMATORS)}
    results = Results(estimates={**given, "of a later version": {}})
    assert [estimate.key for estimate in results.estimates()] == [*list(ESTIMATORS)[:-1], "of a later version", "bound"]
    for best in ("exact", "mbar", "bar", "tfep"):
        assert results.best.key == best
        results["estimates"][best]["beta_F_per_atom"]["value"] = None
    assert (results.best.key, str(results.best)) == ("tfep", "not reliable")
    assert str(results.estimate("bound")) == "1.00 ± 0.10 kT"
    assert results.estimate("bound").interval == pytest.approx([0.804, 1.196])
    assert {estimator.samples for estimator in ESTIMATORS.values()} <= set(ENSEMBLES)
