# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg phase` through the command line: crossings and their absence, its files and report, and crystals that do not compare."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from command_line import call, use
from conditional_runs import FEW, MODELS, results, rows, settings

import lammps_bg as bg
from lammps_bg.cli import main
from lammps_bg.report.console import ProgressLine

REP = ["-rep", "2", "2", "1", "-rep", "2", "2", "2"]  # 32 atoms of each
PAIR = ["phase", "-models", "gsw", "tin", *REP]
MORE = settings(
    "exact.mode=never", "gibbs.n_samples=32", "gibbs.n_repeats=4", "gibbs.n_volumes=5", "estimate.report=true"
)  # with the report
FILES = {
    "coexistence.csv", "config.toml", "curves.json", "difference.csv", "inputs", "models", "phase.png", "provenance.json",
    "rerun.sh", "results.json", "status.json",
}  # fmt: skip
BOLTZMANN = 0.0019872067  # kcal/mol/K


@pytest.fixture(scope="module")
def compared(crystals, tmp_path_factory):
    """Diamond and beta-tin over the pressure for two lambdas, and over lambda in a part of its range."""
    folder = tmp_path_factory.mktemp("phase") / "runs"
    shutil.copytree(crystals, folder)
    shares = []
    update = ProgressLine.update

    def watched(line, share, text=""):
        shares.append(share)
        return update(line, share, text)

    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        patch.setattr(ProgressLine, "update", watched)
        values = ["-var", "lambda", "18.3", "18.7"]
        assert main([*PAIR, "--axis", "P", *values, *MORE, "-out", "pressure", "--allow-red"]) == 0
        over = ["--axis", "lambda", "--range", "18.3", "18.4", "-P", "0", "--cell", "iso"]
        assert (
            main([*PAIR, *over, *FEW, *settings("gibbs.n_samples=16", "gibbs.n_repeats=3"), "-out", "parameter", "--allow-red"])
            == 0
        )
    (folder / "shares.json").write_text(json.dumps(shares))
    return folder


def test_from_python(compared):
    """The models compared without a folder; the result says what it found, with a figure in a notebook."""
    models = {"gsw": bg.load(compared / "gsw").at(replicate=(2, 2, 1)), "tin": bg.load(compared / "tin").at(replicate=(2, 2, 2))}
    few = {"exact.mode": "never", "gibbs.n_samples": 16, "gibbs.n_repeats": 3, "gibbs.n_volumes": 5}
    found = bg.phase_diagram(models, axis="lambda", limits=(18.3, 18.4), P=0, settings=few)
    (entry,) = found.differences
    assert entry.names == ("gsw", "tin")
    page = found._repr_html_()
    for shown in (repr(found), page):
        assert "tin - gsw at T = " in shown
        assert f"along lambda: {entry.crossings.sentence}" in shown
        assert "verdict" in shown or f"&#9679; {found.verdict.colour}" in shown
    assert "<img" in page


def test_files(compared):
    assert {path.name for path in (compared / "pressure").iterdir()} == FILES | {"figures", "report.html"}
    assert {path.name for path in (compared / "parameter").iterdir()} == FILES
    assert json.loads((compared / "parameter" / "status.json").read_text())["stage"] == "done"


def test_the_progress_line_never_restarts(compared):
    """Two commands: each rises from its first cell to the end, once."""
    shares = json.loads((compared / "shares.json").read_text())
    starts = [i for i in range(1, len(shares)) if shares[i] < shares[i - 1]]
    assert len(starts) == 1
    first, second = shares[: starts[0]], shares[starts[0] :]
    assert len(first) == 2 * (5 + 15)  # two lambdas; 5 volumes of one crystal, 5 x 3 cells of the other
    assert first[-1] == pytest.approx(1.0)
    assert all(0 < share <= 1 for share in (*first, *second))


def test_differences(compared):
    """Columns, units, and one number for each place on the axis; G in kT is G over kT."""
    table = rows(compared, "pressure", "difference.csv")
    assert list(table[0]) == ["first", "second", "T", "lambda", "P", "delta_g", "error", "delta_g_kT", "error_kT"]
    assert {(row["first"], row["second"]) for row in table} == {("gsw", "tin")}
    assert len(table) == 2 * 33
    for row in table:
        assert float(row["delta_g_kT"]) == pytest.approx(float(row["delta_g"]) / (BOLTZMANN * 75), rel=1e-6)
    for entry in results(compared, "pressure")["phase"]["differences"]:
        own = [float(row["delta_g"]) for row in table if float(row["lambda"]) == entry["state"]["lambda"]]
        assert own == entry["difference_per_atom"]["value"]
        slope = np.gradient(own, entry["axis"]) * 68568.415  # dG/dP is V: beta-tin is the denser by about 5 Angstrom^3
        assert np.all((slope > -7) & (slope < -3))


def test_coexistence(compared):
    """At a crossing the curve is zero, and the table's differences are those of its volumes."""
    found = results(compared, "pressure")["phase"]
    crossings = rows(compared, "pressure", "coexistence.csv")
    assert len(crossings) == sum(len(entry["crossings"]["roots"]) for entry in found["differences"])
    assert crossings  # more three-body energy favours diamond
    for row in crossings:
        entry = next(e for e in found["differences"] if e["state"]["lambda"] == float(row["lambda"]))
        there = np.interp(float(row["P"]), entry["axis"], entry["difference_per_atom"]["value"])
        assert abs(there) < 2e-3
        change = float(row["volume_second"]) - float(row["volume_first"])
        assert float(row["volume_difference"]) == pytest.approx(change, rel=1e-9)
        assert float(row["error"]) > 0


def test_no_crossing_is_said(compared):
    found = results(compared, "parameter")["phase"]
    assert found["axis"] == "lambda"
    (entry,) = found["differences"]
    assert entry["crossings"]["roots"] == []
    assert "No crossing in [18.3, 18.4]: Delta g is " in entry["crossings"]["sentence"]
    assert rows(compared, "parameter", "coexistence.csv") == []
    assert [phase["free"] for phase in found["phases"]] == [["volume"], ["volume"]]  # --cell iso
    assert len(entry["axis"]) == 5


def test_the_verdict_rests_on_the_samples(compared):
    """The lowest ESS of each crystal is stored, and one below 50 samples is red."""
    found = results(compared, "pressure")
    lowest = [phase["lowest_ess"] for phase in found["phase"]["phases"]]
    assert all(0 < share <= 1 for share in lowest)
    assert (min(lowest) * 128 < 50) == (found["verdict"]["colour"] == "red")


def test_report(compared, tmp_path, monkeypatch, capsys):
    target = tmp_path / "copy"
    shutil.copytree(compared / "pressure", target / "pressure")
    shutil.copytree(compared / "parameter", target / "parameter")
    use(monkeypatch, target)
    for name in ("pressure", "parameter"):
        spoken = call(capsys, target, "report", name)
        assert spoken.code == 0, spoken.error
        assert {path.name for path in (target / name / "figures").iterdir()} == {"phases.json", "phases.png"}
    page = (target / "pressure" / "report.html").read_text()
    for title in ("Crossings", "Differences of the Gibbs free energies", "Crystals", "Provenance"):
        assert f"<h2>{title}</h2>" in page
    for entry in results(target, "pressure")["phase"]["differences"]:
        assert entry["crossings"]["sentence"] in page
    page = (target / "parameter" / "report.html").read_text()
    assert "no crossing" in page
    assert "No crossing in [18.3, 18.4]" in page


@pytest.mark.slow
def test_one_crystal_by_two_models(models, capsys, tmp_path):
    """A model over lambda at the lambda of the other: no difference; rerun.sh repeats it from its own copies of both models."""
    words = ["phase", "-models", "gsw", "vol", "--axis", "P", *FEW, "--allow-red"]
    spoken = call(capsys, models, *words, "-out", "same")
    assert spoken.code == 0, spoken.error
    (entry,) = results(models, "same")["phase"]["differences"]
    values, errors = (np.array(entry["difference_per_atom"][name]) for name in ("value", "error"))
    assert np.all(abs(values) < 5.8 * errors)  # four repeats: 1 % by Student's distribution at one place, and all places agree
    assert errors.max() < 0.01
    for name in ("gsw", "vol"):
        shutil.rmtree(models / name)
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "LAMMPS_POTENTIALS": "", "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["sh", "same/rerun.sh", "again"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert rows(models, "again", "difference.csv") == rows(models, "same", "difference.csv")


@pytest.mark.slow
def test_chains_for_both_crystals(models, capsys):
    """`--exact always` within a small budget: chains for the cells of each crystal, and no ESS of the draws in the verdict."""
    few = settings("exact.max_evaluations=2500", "estimate.target_error=0.02", "gibbs.n_repeats=3", "estimate.report=false")
    words = ["phase", "-models", "gsw", "vol", "--axis", "P", *FEW, *few, "--exact", "always", "--allow-red"]
    spoken = call(capsys, models, *words, "-out", "exact")
    assert spoken.code == 0, spoken.error
    assert spoken.out.count("chains     asked for") == 2
    found = results(models, "exact")
    for phase in found["phase"]["phases"]:
        (chains,) = phase["exact"]["chains"]
        assert (chains["of"], chains["reason"], len(chains["cells"])) == ("table", "asked for", 5)
        assert 0 < phase["exact"]["evaluations"] < 2 * 2500
    assert not any("lowest ESS" in reason for reason in found["verdict"]["reasons"])
    (entry,) = found["phase"]["differences"]
    values, errors = (np.array(entry["difference_per_atom"][name]) for name in ("value", "error"))
    assert np.all(abs(values) < 9.9 * errors)  # one crystal by two models: 1 % by Student's distribution of three repeats


# ---- crystals that do not compare, and bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--axis", "volume"], "in which the Gibbs free energy is minimised"),
        (["--axis", "rc"], "expected models that were trained over rc, the axis, got none in gsw"),
        (["--axis", "T"], "expected models that were trained over T, the axis, got none in vol"),
        (["--axis", "P", "-P", "1"], "expected P as the axis with its ends in --range, got -P"),
        (["--axis", "P", "--range", "1", "0"], "expected --range with two rising pressures, got 1 0"),
        (["--axis", "P", "--range", "0", "1", "parsec"], "check the unit"),
        (
            ["--axis", "P", "--range", "3", "5", "GPa"],
            "expected pressures that the trained cells of all crystals cover, got none in atm",
        ),
        (["--axis", "lambda", "-P", "0", "--range", "a", "b"], "expected numbers as values of a condition, got 'a b'"),
        (["--axis", "lambda", "-P", "0", "--range", "17", "18.5"], "inside [18, 19], which all models were trained for"),
        (["--axis", "lambda", "-P", "0", "-var", "lambda", "18"], "expected lambda, the axis, with its ends in --range"),
        (["--axis", "lambda", "-P", "9", "GPa"], "gsw: expected the cell at P = "),
        (["--axis", "lambda", "-P", "0", "-var", "P", "1"], "expected pressures by -P, got them by -var"),
        (["--axis", "P", "-var", "rc", "1"], "got rc = 1 for gsw, whose script has no variable rc"),
        (["--axis", "P", "-T", "95"], "expected T in the trained range [60, 90] K, got 95"),
        (["--axis", "P", "-T", "80"], "got T = 80 for vol, which knows T = 75 alone"),
        (["--axis", "P", "-var", "lambda", "19.9"], "expected lambda in the trained range [18, 19], got 19.9"),
        (["--axis", "P", "-var", "lambda", "18.2"], "got lambda = 18.2 for vol, which knows lambda = 18.5 alone"),
        (["--axis", "P", "--cell", "aniso"], "got one without c/a, b/a"),
        (["--axis", "P", *REP, *REP], "expected -rep once, or once for each of the 2 models, got 4"),
    ],
)
def test_bad_input(refused_by_models, words, message):
    other = "gsw" if "lambda" in words[:2] else "vol"
    refused_by_models(message, "phase", "-models", "gsw", other, *FEW, *words, "-out", "no")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gsw"], "expected -models with the runs of two or more crystals, got 1"),
        (["gsw", "tin"], "expected crystals of equally many atoms, 8 in gsw, got 32 in tin"),
        (["gsw", "one"], "got one of a single state"),
        (["gsw", "nothing"], "there is no such folder"),
    ],
)
def test_models_that_do_not_compare(refused_by_models, names, message):
    refused_by_models(message, "phase", "-models", *names, "--axis", "P", *FEW, "-out", "no")


def test_another_potential_is_refused(models, refused_by_models):
    """The depth of the printed potential differs, its lambda and the name of its file do not."""
    text = (models / "in.gsw_diamond").read_text()
    assert " 6.189 " in text
    (models / "in.deep").write_text(text.replace(" 6.189 ", " 6.2 "))
    words = ["in.deep" if word == "in.gsw_diamond" else word for word in MODELS["vol"]]
    assert main(["train", *words, "-out", "deep"]) == 0
    refused_by_models(
        "expected the potential of vol in deep, got another", "phase", "-models", "vol", "deep", "--axis", "P", *FEW, "-out", "no"
    )
