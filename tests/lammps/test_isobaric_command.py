# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg sample -P` through the command line: exact samples in which the cell changes, `gibbs` beside them, and bad input."""

import math
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from command_line import call, use
from conditional_runs import FEW, results, rows, settings
from lammps_scripts import plain_energy_forces

from lammps_bg.cli import main
from lammps_bg.commands.stored_run import load_conditional, stored_request
from lammps_bg.config import load_config
from lammps_bg.engine.dump import read_dump
from lammps_bg.progress import SILENT
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.study.isobaric import CrystalCells, first_chains, sample_isobaric
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.isobaric import TUNING, IsobaricChains

EDGE = 6.2018745  # of the cubic cell of the script, Angstrom
FILES = {
    "config.toml",
    "exact.csv",
    "exact.dump.gz",
    "exact.pt",
    "inputs",
    "model.pt",
    "provenance.json",
    "rerun.sh",
    "results.json",
    "status.json",
}
SAMPLE = ["sample", "-model", "vol", "-rep", "2", "1", "1"]
SHORT = settings("sample.n_samples=96", "exact.n_dump=20", "energy.source=lammps")
GPA = 1e9 / 101325.0  # atm


@pytest.fixture(scope="module")
def sampled(crystals, tmp_path_factory):
    """Diamond at zero pressure and at 0.05 GPa, with `gibbs` at both; beta-tin with its shape free, and not."""
    folder = tmp_path_factory.mktemp("isobaric") / "runs"
    shutil.copytree(crystals, folder)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        many = settings("sample.n_samples=640", "exact.n_dump=20")
        assert main([*SAMPLE, "-P", "0", *many, "-out", "npt", "--allow-red"]) == 0
        assert main([*SAMPLE, "-P", "0.05", "GPa", *SHORT, "-out", "squeezed", "--allow-red"]) == 0
        assert (
            main(
                ["gibbs", "-model", "vol", "-rep", "2", "1", "1", "-P", "0", "0.05", "GPa", *FEW, "-out", "gibbs", "--allow-red"]
            )
            == 0
        )
        for name, cell in (("shape", []), ("iso", ["--cell", "iso"])):
            words = [
                "sample",
                "-model",
                "tin",
                "-P",
                "0",
                *cell,
                *settings("sample.n_samples=96", "exact.n_dump=4"),
                "-out",
                name,
            ]
            assert main([*words, "--allow-red"]) == 0
    return folder


def test_files_and_columns(sampled):
    assert {path.name for path in (sampled / "npt").iterdir()} == FILES
    table = rows(sampled, "npt", "exact.csv")
    assert list(table[0]) == ["sample", "chain", "step", "pe", "log_w", "volume", "ln_volume"]
    assert len(table) == 640
    assert [(row["sample"], row["chain"], row["step"]) for row in table[15:18]] == [
        ("15", "15", "0"),
        ("16", "0", "1"),
        ("17", "1", "1"),
    ]
    for row in table:
        assert float(row["volume"]) == pytest.approx(2 * EDGE**3 * math.exp(float(row["ln_volume"])), rel=1e-7)
    assert list(rows(sampled, "shape", "exact.csv")[0])[5:] == ["volume", "ln_volume", "c/a"]
    assert list(rows(sampled, "iso", "exact.csv")[0])[5:] == ["volume", "ln_volume"]


def test_results(sampled):
    found = results(sampled, "npt")
    npt, exact = found["npt"], found["exact"]
    volumes = np.array([float(row["volume"]) for row in rows(sampled, "npt", "exact.csv")])
    assert npt["volume"]["value"] == pytest.approx(volumes.mean())
    assert npt["volume_fluctuation"]["value"] == pytest.approx(volumes.var())
    assert npt["volume_fluctuation"]["unit"] == "Angstrom^6"
    kt = 0.0019872067 * 75
    response = volumes.var() / (kt * volumes.mean()) / 68568.415
    assert npt["isothermal_compressibility"]["value"] == pytest.approx(response, rel=1e-6)
    assert npt["isothermal_compressibility"]["unit"] == "1/(atm)"
    assert npt["lx"]["value"] == pytest.approx(2 * npt["ly"]["value"])
    assert npt["number_density"]["value"] == pytest.approx((16 / volumes).mean())
    assert npt["xy"] == {"value": 0.0, "error": 0.0}
    assert all(npt[name]["error"] > 0 for name in ("volume", "lx", "lz", "number_density", "volume_fluctuation"))
    assert exact["n_samples"] == 640
    assert exact["n_independent"] > 150
    assert 0.5 < exact["acceptance"] <= 1
    assert exact["cell_acceptance"] > 0.5
    assert found["cost"]["energy_evaluations"] >= exact["evaluations"] > 640
    assert results(sampled, "squeezed")["npt"]["pressure"] == pytest.approx(0.05 * GPA)


def test_volume_and_its_fluctuations_are_those_of_gibbs(sampled):
    """|z| <= 4 by 16 chains, whose errors are the larger ones: false alarm of each of four numbers 1.2e-3. Both are cut off by the trained range."""
    for name, state in zip(("npt", "squeezed"), results(sampled, "gibbs")["gibbs"]["states"], strict=True):
        npt = results(sampled, name)["npt"]
        for own, other in (("volume", "mean_volume_per_atom"), ("volume_fluctuation", "volume_variance_per_atom")):
            chains, flow = npt[own], state[other]
            assert abs(chains["value"] - 16 * flow["value"]) < 4 * math.hypot(chains["error"], 16 * flow["error"])
    error = results(sampled, "npt")["npt"]["volume"]["error"]
    assert error < 0.002 * results(sampled, "npt")["npt"]["volume"]["value"]
    assert results(sampled, "npt")["npt"]["volume"]["value"] > results(sampled, "squeezed")["npt"]["volume"]["value"]


@pytest.mark.parametrize(
    ("name", "script", "replicate"), [("npt", "in.gsw_diamond", (2, 1, 1)), ("shape", "in.gsw_betatin", (2, 2, 2))]
)
def test_frames_have_their_cells_and_energies(sampled, name, script, replicate):
    """Plain LAMMPS finds each frame's energy in that frame's cell, 1e-9 relative; cell and energy are those of the table."""
    table, frames = rows(sampled, name, "exact.csv"), list(read_dump(sampled / name / "exact.dump.gz"))
    assert len(frames) == (20 if name == "npt" else 4)
    assert len({frame.cell[0, 0] for frame in frames}) > 2
    reference = np.array(results(sampled, name)["system"]["cell"])
    shapes = []
    for frame in frames:
        assert "c_logw" not in frame.columns
        row = table[frame.timestep]
        assert np.linalg.det(frame.cell) == pytest.approx(float(row["volume"]), rel=1e-9)
        positions = frame.positions[np.argsort(frame.ids)]
        own, _ = plain_energy_forces(sampled / script, positions, replicate, frame.cell)
        assert own == pytest.approx(float(row["pe"]), rel=1e-9)
        assert frame.columns["c_pe"][0] == pytest.approx(own, rel=1e-9)
        shapes.append(math.log(frame.cell[2, 2] / frame.cell[0, 0]) - float(row.get("c/a", 0.0)))
    assert np.ptp(shapes) < 1e-9
    assert reference.shape == (3, 3)


def test_free_shapes_fluctuate_and_held_ones_do_not(sampled):
    shape, iso = results(sampled, "shape")["npt"], results(sampled, "iso")["npt"]
    assert shape["ln_c_over_a"]["error"] > 0
    assert iso["ln_c_over_a"]["error"] == 0
    assert (shape["free"], iso["free"]) == (["volume", "c/a"], ["volume"])
    assert set(shape["near_edge"]) == {"volume", "c/a"}


@pytest.mark.slow
def test_energies_in_torch_are_those_of_lammps(sampled, models, capsys):
    """The first step that counts of the same chains: 1e-6 in every number, before rounding grows."""
    words = [
        *SAMPLE,
        "-P",
        "0.05",
        "GPa",
        *SHORT,
        *settings("energy.source=torch", "exact.max_evaluations=500"),
        "-out",
        "native",
    ]
    spoken = call(capsys, models, *words, "--allow-red")
    assert spoken.code == 0, spoken.error
    assert results(models, "native")["cost"]["native_evaluations"] > 500
    for name in ("pe", "log_w", "volume"):
        own, other = (
            [float(row[name]) for row in rows(folder, run, "exact.csv")[:16]]
            for folder, run in ((models, "native"), (sampled, "squeezed"))
        )
        np.testing.assert_allclose(own, other, rtol=1e-6)


def test_the_summary_and_the_report(models, capsys):
    """Of a run whose budget ends first, after four steps."""
    few = settings("estimate.report=true", "exact.max_evaluations=500")
    spoken = call(capsys, models, *SAMPLE, "-P", "0", *SHORT, *few, "-out", "npt", "--allow-red")
    assert spoken.code == 0, spoken.error
    for words in (
        "Constant pressure at T = 75 K, P = 0 atm",
        "volume, Angstrom^3",
        "compressibility, 1/(atm)",
        "of the cell",
        "verdict",
    ):
        assert words in spoken.out
    assert "The chains came to 64 samples within their budget, 96 were asked for." in spoken.out
    assert len(rows(models, "npt", "exact.csv")) == 64
    page = (models / "npt" / "report.html").read_text()
    for words in (
        "Cell at constant pressure",
        "exact (chains)",
        "isothermal compressibility (1/(atm))",
        "exact samples at constant pressure",
    ):
        assert words in page


@pytest.mark.slow
def test_fluctuations_beyond_the_trained_range_are_told(models, capsys):
    """The volume of eight atoms fluctuates more than the range of the model: the verdict names the key of the configuration."""
    spoken = call(capsys, models, "sample", "-model", "vol", "-P", "0", *SHORT, "-out", "npt")
    assert spoken.code == 0
    assert "samples are near an end of the trained range of volume: it ends before the fluctuations do" in spoken.out
    assert "Train a model with a wider condition.volume." in spoken.out
    found = results(models, "npt")
    assert found["verdict"]["colour"] == "amber"
    assert found["npt"]["near_edge"]["volume"] > 0.01


def test_the_numbers_of_the_command_without_a_folder(sampled, models):
    run = RunDirectory.open(models / "vol")
    config = load_config(None, tuple(SHORT[1::2]), load_config(run.file("config.toml")))
    problem = Problem.load(replace(stored_request(run), replicate=(2, 1, 1)))
    model = load_conditional(run, problem, config, SILENT)
    crystal = CrystalCells.of(model, problem, None)
    chains, _ = first_chains(crystal, crystal.at_pressure(0.05 * GPA), config)
    found = sample_isobaric(crystal, chains, config)
    npt = results(sampled, "squeezed")["npt"]
    assert (found.averages.volume.value, found.averages.volume.error) == (npt["volume"]["value"], npt["volume"]["error"])
    assert found.cell_averages()["lx"].value == npt["lx"]["value"]
    assert len(found.frames) == len(list(read_dump(sampled / "squeezed" / "exact.dump.gz")))


# ---- stopping and going on


def test_a_stopped_run_goes_on_to_the_last_bit(sampled, models, monkeypatch, capsys):
    """SIGTERM inside the chains: the rest of the same numbers, and a larger number of samples goes on from there."""
    plain, left = IsobaricChains.advance, [sum(TUNING) + 2]

    def advance(chains):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(chains)

    with monkeypatch.context() as patch:
        patch.setattr(IsobaricChains, "advance", advance)
        spoken = call(capsys, models, *SAMPLE, "-P", "0.05", "GPa", *SHORT, "-out", "cut", "--allow-red")
    assert spoken.code == 75
    assert "2 steps of the chains are in exact.pt; continue with --resume" in spoken.error
    spoken = call(capsys, models, "sample", "--resume", "-out", "cut", "--allow-red")
    assert spoken.code == 0, spoken.error
    assert "continue after 2 steps" in spoken.out
    for name in ("exact.csv", "exact.dump.gz"):
        assert (models / "cut" / name).read_bytes() == (sampled / "squeezed" / name).read_bytes()
    again = call(capsys, models, "sample", "--resume", "-out", "cut", "--allow-red")
    assert "complete" in again.out
    assert again.changed == set()
    more = call(capsys, models, "sample", "--resume", "-out", "cut", "--set", "sample.n_samples=112", "--allow-red")
    assert more.code == 0, more.error
    found = rows(models, "cut", "exact.csv")
    assert len(found) == 112
    assert found[:96] == rows(sampled, "squeezed", "exact.csv")


def test_a_rehearsal_writes_nothing(models, capsys):
    spoken = call(capsys, models, *SAMPLE, "-P", "0", *SHORT, "--dry-run", "-out", "npt")
    assert spoken.code == 0
    assert "26 steps of 16 chains" in spoken.out
    assert spoken.changed == set()


# ---- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-P", "0", "1", "GPa"], "expected one pressure after -P, got 2; run `lammps-bg sample` once for each"),
        (["-P", "1", "apple"], "apple"),
        (["-P", "high"], "high"),
        (["-P", "0", "--cell", "aniso"], "expected a model that was trained over volume, c/a, b/a, got one without c/a, b/a"),
        (["--cell", "iso"], "expected --cell together with a pressure, got --cell iso alone; add -P 0, or leave it out"),
        (["-P", "0", "--strain", "volume=0.01"], "got --strain beside it; leave it out"),
        (["-P", "0", "--force"], "got --force beside it; leave it out"),
        (["-P", "0", "--exact", "never"], "got --exact never; leave out --exact"),
        (["-P", "0", "-var", "T", "90"], "expected what the model was trained with, temperature 75"),
        (["-P", "20", "GPa"], "train a wider range or use a pressure between"),
        (["-P", "-5", "GPa"], "train a wider range or use a pressure between"),
    ],
)
def test_bad_input(refused_by_models, words, message):
    refused_by_models(message, *SAMPLE, *words, *SHORT, "-out", "npt")


def test_a_model_of_one_cell_is_refused(refused_by_models):
    refused_by_models("expected a model that depends on the cell", "sample", "-model", "one", "-P", "0", *SHORT, "-out", "npt")


def test_resuming_with_another_pressure_is_refused(sampled, capsys, monkeypatch):
    use(monkeypatch, sampled)
    for words, message in (
        (
            ["-out", "squeezed", "-P", "1"],
            "expected --resume with -P 0.05 GPa of the run, got another pressure or cell; leave them out",
        ),
        (["-out", "iso", "--cell", "xy"], "expected --resume with -P 0 --cell iso of the run"),
    ):
        spoken = call(capsys, sampled, "sample", "--resume", *words)
        assert spoken.code == 2
        assert message in spoken.error
        assert spoken.changed == set()


def test_samples_at_constant_pressure_are_no_samples_of_one_cell(sampled, capsys, monkeypatch):
    use(monkeypatch, sampled)
    spoken = call(capsys, sampled, "estimate", "-model", "npt")
    assert spoken.code == 2
    assert "expected samples.csv in" in spoken.error
    assert spoken.changed == set()
