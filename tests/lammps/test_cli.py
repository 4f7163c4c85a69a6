# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands from end to end on tiny crystals: what they write, that a stopped run goes on exactly."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import LJ, TINY, call, contents, mw_crystal

from lammps_bg import cli
from lammps_bg.commands import run_report, run_steps
from lammps_bg.engine.dump import read_dump
from lammps_bg.report.picture import PictureError
from lammps_bg.study import estimating
from lammps_bg.thermo.weights import EstimateError, error_margin
from lammps_bg.training.trainer import Trainer

N_SAMPLES, N_DUMP = 256, 4
MORE = ["--set", f"sample.n_samples={N_SAMPLES}", "--set", f"sample.n_dump={N_DUMP}"]


def _no_picture(*_, **__):
    raise PictureError("expected no picture in this test")


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LAMMPS_POTENTIALS", "")  # a stored run adds its own folder; this restores it
    monkeypatch.setattr(run_report, "render_samples", _no_picture)
    (tmp_path / "in.lj").write_text(LJ)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of mW in the folder `run`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(run_report, "render_samples", _no_picture)
        assert cli.main(["run", "-in", str(mw_crystal(folder)), "-out", "run", *TINY, *MORE]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it in the current folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def weights(path):
    return torch.load(path, weights_only=True)["flow"]


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# ---- what a run leaves


def test_results(finished):
    results = results_of(finished / "run")
    assert (results["schema"], results["schema_version"]) == ("lammps-bg-results", 1)
    assert (results["system"]["n_atoms"], results["system"]["units"], results["system"]["temperature"]) == (8, "real", 200.0)
    assert results["sampling"]["n_samples"] == N_SAMPLES
    assert 0 < results["sampling"]["ess"] <= 1
    assert results["verdict"]["colour"] in ("green", "amber", "red")
    assert all(results["timings"][name] > 0 for name in ("train_ms_per_sample", "draw_ms_per_sample", "energy_ms_per_sample"))
    assert results["cost"]["energy_evaluations"] >= 6 * 16 + N_SAMPLES
    assert results["cost"]["wall_seconds"] > 0


def test_free_energy_is_that_of_the_table(finished):
    """The value follows from samples.csv, its terms sum to it, and the error is that of the weights."""
    results, rows = results_of(finished / "run"), table(finished / "run" / "samples.csv")
    entry = results["estimates"]["tfep"]
    value, error = entry["beta_F_per_atom"]["value"], entry["beta_F_per_atom"]["error"]
    assert sum(term for term in entry["terms"].values() if term is not None) == pytest.approx(value, abs=1e-12)
    n, log_w = results["system"]["n_atoms"], np.array([float(row["log_w"]) for row in rows])
    scaled = np.exp(log_w - log_w.max())
    difference = -(np.log(scaled.mean()) + log_w.max())
    # log q lives in 3N - 3 dimensions: what is left are the centre of mass, Lambda and the labels
    volume, scale = results["system"]["volume"], results["system"]["length_scale"]["value"]
    constant = -math.log(volume) - 1.5 * math.log(n) + 3 * n * math.log(scale) + math.log(n)
    assert (difference + constant) / n == pytest.approx(value, abs=1e-9)
    spread = scaled.std(ddof=1) / scaled.mean() / math.sqrt(len(log_w)) / n
    assert error == pytest.approx(error_margin(log_w) * spread, rel=0.5)
    assert entry["F_per_atom"]["value"] == pytest.approx(value / results["system"]["beta"])


def test_samples_and_dump(finished):
    rows = table(finished / "run" / "samples.csv")
    assert list(rows[0])[:4] == ["sample", "pe", "log_q", "log_w"]
    assert [int(row["sample"]) for row in rows] == list(range(N_SAMPLES))
    beta = results_of(finished / "run")["system"]["beta"]
    for row in rows:
        assert float(row["log_w"]) == pytest.approx(-beta * float(row["pe"]) - float(row["log_q"]), rel=1e-9)
    frames = list(read_dump(finished / "run" / "samples.dump.gz"))
    log_w = np.array([float(row["log_w"]) for row in rows[:N_DUMP]])
    centred = np.array([frame.columns["c_logw"][0] for frame in frames])  # about the mean of the first chunk
    assert centred - centred[0] == pytest.approx(log_w - log_w[0])
    assert abs(centred).max() < 100


def test_run_directory(finished):
    run = finished / "run"
    assert {path.name for path in run.iterdir()} == {
        "base.pt", "checkpoint.pt", "config.toml", "inputs", "model.pt", "provenance.json", "rdf.csv", "rerun.sh", "results.json",
        "observables.json", "samples.csv", "samples.dump.gz", "samples.ovito", "sampling.json", "status.json", "train.csv",
    }  # fmt: skip
    assert json.loads((run / "status.json").read_text())["stage"] == "done"
    assert [int(row["step"]) for row in table(run / "train.csv")] == [1, 2, 3, 4, 5, 6]
    stored = {entry["stored"] for entry in json.loads((run / "provenance.json").read_text())["inputs"]}
    assert stored == {"in.mw", "potentials/mW.sw"}
    assert all((run / "inputs" / name).read_bytes() == (finished / name).read_bytes() for name in stored)


def test_rerun_script_repeats_the_samples(run, tmp_path):
    """The stored copies alone give the same samples; nothing else of the folder is there."""
    (tmp_path / "in.mw").unlink()
    shutil.rmtree(tmp_path / "potentials")
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["sh", "run/rerun.sh", "again"]
    (run / "rerun.sh").write_text((run / "rerun.sh").read_text().replace(f"n_dump={N_DUMP}", "n_dump=0"))  # no picture
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "samples.csv").read_bytes() == (run / "samples.csv").read_bytes()


# ---- check, config, dry run


def test_check_json(capsys, run, tmp_path):
    spoken = call(capsys, tmp_path, "check", "-in", "in.mw", "-rep", 2, 1, 1, "-var", "T", 250, "--json")
    assert (spoken.code, spoken.changed) == (0, set())
    found = json.loads(spoken.out)
    assert found["energy_per_atom"] == pytest.approx(-12.377985, abs=1e-5)
    assert (found["n_atoms"], found["units"], found["species"], found["temperature"]) == (16, "real", ["mW"], 250.0)
    assert found["cutoff"] == pytest.approx(1.8 * 2.3925, rel=1e-6)
    assert found["force_error"] < 1e-6


def test_config_prints_what_it_reads(capsys, tmp_path):
    spoken = call(capsys, tmp_path, "config", "--set", "train.steps=7", "--set", "base.kind=einstein", "--seed", 5)
    (tmp_path / "bg.toml").write_text(spoken.out)
    again = call(capsys, tmp_path, "config", "-config", "bg.toml")
    assert again.out == spoken.out
    assert "steps = 7" in spoken.out
    assert 'kind = "einstein"' in spoken.out


@pytest.mark.parametrize(
    "words", [["run", "-in", "in.lj"], ["train", "-in", "in.lj"], ["sample", "-model", "run", "-rep", 2, 1, 1]]
)
def test_dry_run_writes_nothing(capsys, run, tmp_path, words):
    spoken = call(capsys, tmp_path, *words, "-out", "new", "--dry-run", "--set", "sample.n_samples=64")
    assert (spoken.code, spoken.changed) == (0, set())
    assert "nothing was written" in spoken.out
    assert ("s training" in spoken.out) == (words[0] != "sample")
    assert "s sampling" in spoken.out
    assert "memory  " in spoken.out


# ---- other commands and kinds


def test_sample_at_another_replicate(capsys, run, tmp_path):
    spoken = call(capsys, tmp_path, "sample", "-model", "run", "-rep", 2, 1, 1, "-out", "large", "--allow-red")
    assert spoken.code == 0
    assert not [name for name in spoken.changed if not name.startswith("large")]
    results = results_of(tmp_path / "large")
    assert (results["system"]["n_atoms"], results["system"]["replicate"]) == (16, [2, 1, 1])
    assert len(table(tmp_path / "large" / "samples.csv")) == N_SAMPLES


def test_sample_at_the_trained_size_draws_the_same(capsys, run, tmp_path):
    assert call(capsys, tmp_path, "sample", "-model", "run", "--allow-red").code == 0
    assert (tmp_path / "run_1x1x1" / "samples.csv").read_text() == (run / "samples.csv").read_text()


def test_stored_samples_are_estimated_from_their_own_model(capsys, run, tmp_path):
    """The folder of `sample` needs neither the run it came from nor the script."""
    assert call(capsys, tmp_path, "sample", "-model", "run", "-rep", 2, 1, 1, "-out", "large", "--allow-red").code == 0
    assert_same_weights(weights(tmp_path / "large" / "model.pt"), weights(run / "model.pt"))
    request = json.loads((tmp_path / "large" / "provenance.json").read_text())["request"]
    assert (request["kind"], request["source"]["name"]) == ("sample", "run")
    shutil.rmtree(run)
    before = results_of(tmp_path / "large")
    assert call(capsys, tmp_path, "estimate", "-model", "large", "--allow-red").code == 0
    assert results_of(tmp_path / "large")["estimates"] == before["estimates"]


@pytest.mark.parametrize("command", ["run", "sample"])
def test_resumed_samples_of_a_model(capsys, run, tmp_path, monkeypatch, command):
    """Interrupted samples go on from the copy of the model; nothing is trained."""
    words = ["sample", "-model", "run", "-rep", 2, 1, 1, "--allow-red"]
    assert call(capsys, tmp_path, *words, "-out", "whole").code == 0
    original = run_steps.sample

    def stopped(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(run_steps, "sample", stopped)
        spoken = call(capsys, tmp_path, *words, "-out", "part")
    assert spoken.code == 75
    assert "continue with --resume" in spoken.error
    shutil.rmtree(run)
    monkeypatch.setattr(run_steps, "train", None)  # calling it would be an error
    assert call(capsys, tmp_path, command, "--resume", "-out", "part", "--allow-red").code == 0
    assert (tmp_path / "part" / "samples.csv").read_text() == (tmp_path / "whole" / "samples.csv").read_text()


@pytest.mark.parametrize("absolute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_stored_run_finds_files_from_outside_the_folder(capsys, tmp_path, monkeypatch, absolute):
    """Potential and include beside the script's folder, named with .. or absolutely: the copies serve, from any folder."""
    mw_crystal(tmp_path)
    for name in ("pots", "script", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "potentials" / "mW.sw").rename(tmp_path / "pots" / "mW.sw")
    pots = str(tmp_path / "pots") if absolute else "../pots"
    text = (tmp_path / "in.mw").read_text().replace("potentials/mW.sw", f"{pots}/mW.sw")
    first, _, rest = text.partition("\nunits")
    assert rest
    (tmp_path / "common.in").write_text("units" + rest.split("\n")[0] + "\n")
    (tmp_path / "script" / "in.mw").write_text(first + "\ninclude ../common.in" + rest[rest.index("\n") :])
    monkeypatch.chdir(tmp_path / "script")
    assert cli.main(["run", "-in", "in.mw", "-out", str(tmp_path / "run"), "-log", "log.lammps", *TINY]) == 0
    logged = (tmp_path / "script" / "log.lammps").read_text()
    shutil.rmtree(tmp_path / "pots")
    (tmp_path / "common.in").unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["estimate", "-model", "../run", "--allow-red"]) == 0
    assert cli.main(["sample", "-model", "../run", "-out", "more", "--allow-red"]) == 0
    assert cli.main(["run", "--resume", "-out", "../run", "--allow-red", "--set", "train.steps=7"]) == 0
    assert (tmp_path / "script" / "log.lammps").read_text() == logged
    folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "LAMMPS_POTENTIALS": "", "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["sh", "../run/rerun.sh", "again"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "again" / "results.json").exists()


def test_estimate_keeps_the_cost_of_the_samples(capsys, run, tmp_path):
    before = results_of(run)
    assert call(capsys, tmp_path, "estimate", "-model", "run", "--allow-red").code == 0
    after = results_of(run)
    assert (after["cost"], after["training"]) == (before["cost"], before["training"])


def test_samples_of_weight_zero_are_a_red_verdict(capsys, run, tmp_path):
    rows = table(run / "samples.csv")
    lines = ["sample,pe,log_q,log_w", *(f"{row['sample']},inf,{row['log_q']},-inf" for row in rows)]
    (run / "samples.csv").write_text("\n".join(lines) + "\n")
    assert call(capsys, tmp_path, "estimate", "-model", "run").code == 3
    assert call(capsys, tmp_path, "estimate", "-model", "run", "--allow-red").code == 0
    results = results_of(run)
    assert (results["verdict"]["colour"], results["sampling"]["ess"], results["estimates"]) == ("red", 0.0, {})


def test_a_failed_marginal_costs_nothing_else(capsys, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise EstimateError("expected finite log-densities in this test")

    monkeypatch.setattr(estimating, "marginal_ratios", failing)
    words = ["--set", "flow.kind=augmented", "--set", "flow.n_layers=1"]
    assert call(capsys, tmp_path, "run", "-in", "in.lj", "-out", "run", *TINY, *words).code == 0
    estimates = results_of(tmp_path / "run")["estimates"]
    assert "tfep" in estimates
    assert estimates["tfep_marginal"]["beta_F_per_atom"]["value"] is None
    assert "in this test" in estimates["tfep_marginal"]["beta_F_per_atom"]["note"]


def test_a_picture_that_fails_anyhow_is_a_note(capsys, run, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no camera")

    monkeypatch.setattr(run_report, "render_samples", broken)
    spoken = call(capsys, tmp_path, "sample", "-model", "run", "-out", "new", "--allow-red")
    assert spoken.code == 0
    assert "picture    none: no camera" in spoken.out
    assert (tmp_path / "new" / "results.json").exists()


def test_estimate_again(capsys, run, tmp_path):
    before = results_of(run)
    spoken = call(capsys, tmp_path, "estimate", "-model", "run", "-out", "again")
    assert spoken.code in (0, 3)
    assert not [name for name in spoken.changed if not name.startswith("again")]
    assert results_of(tmp_path / "again")["estimates"] == before["estimates"]
    spoken = call(capsys, tmp_path, "estimate", "-model", "run", "--set", "estimate.length_scale=1.0")
    assert {name for name in spoken.changed if "results" in name} == {"run/results.json"}
    values = [results["estimates"]["bound"]["beta_F_per_atom"]["value"] for results in (before, results_of(run))]
    assert values[1] - values[0] == pytest.approx(-3 * math.log(2.3925))


def test_train_then_sample_is_run(capsys, run, tmp_path):
    """The single steps give the samples of `run`, bit by bit."""
    assert call(capsys, tmp_path, "train", "-in", "in.mw", "-out", "model", *TINY, *MORE).code == 0
    assert not (tmp_path / "model" / "samples.csv").exists()
    assert_same_weights(weights(tmp_path / "model" / "model.pt"), weights(run / "model.pt"))
    assert call(capsys, tmp_path, "sample", "-model", "model", "-out", "samples", "--allow-red").code == 0
    assert (tmp_path / "samples" / "samples.csv").read_text() == (run / "samples.csv").read_text()


@pytest.mark.parametrize(
    ("settings", "base"),
    [(["base.kind=einstein"], "einstein"), (["flow.kind=augmented", "flow.n_layers=1", "estimate.marginal_draws=4"], "phonon")],
)
def test_other_bases_and_flows(capsys, tmp_path, settings, base):
    words = [word for entry in [*settings, "estimate.marginal_samples=16"] for word in ("--set", entry)]
    spoken = call(capsys, tmp_path, "run", "-in", "in.lj", "-out", "run", *TINY, *words)
    assert spoken.code == 0
    assert f"base       {base}" in spoken.out
    results = results_of(tmp_path / "run")
    assert ("ess_marginal" in results["sampling"]) == ("flow.kind=augmented" in settings)
    spoken = call(capsys, tmp_path, "sample", "-model", "run", "-rep", 2, 1, 1, "-out", "large", "--allow-red")
    assert spoken.code == 0
    assert results_of(tmp_path / "large")["system"]["n_atoms"] == 8


def test_pilot_keeps_the_base_that_trains_better(capsys, tmp_path, monkeypatch):
    """The bounds decide, whichever base they belong to; a model of either is refined through its flow at another size."""
    for name, bounds in (("harmonic", [1.0, 2.0]), ("self-consistent", [2.0, 1.0])):
        left = list(bounds)
        monkeypatch.setattr("lammps_bg.study.pilot._trial", lambda *_, left=left: left.pop(0))
        spoken = call(capsys, tmp_path, "run", "-in", "in.lj", "-out", name, *TINY, "--set", "base.pilot_steps=2")
        assert spoken.code == 0
        assert f"the {name} base is used" in spoken.out
        assert len(results_of(tmp_path / name)["base"]["history"]) == (1 if name == "harmonic" else 2)
        large = call(capsys, tmp_path, "sample", "-model", name, "-rep", 2, 1, 1, "-out", f"large-{name}", "--allow-red")
        assert "base       phonon, adapted to this supercell and state: beta F/N <=" in large.out


def test_pilot_trains(capsys, tmp_path):
    spoken = call(capsys, tmp_path, "run", "-in", "in.lj", "-out", "run", *TINY, "--set", "base.pilot_steps=2")
    assert spoken.code == 0
    assert "pilot      bound after 2 steps: harmonic " in spoken.out


def test_resampled_trajectory(capsys, run, tmp_path):
    """Every frame of the equal-weight trajectory is a sample, as often as systematic resampling may take it."""
    frames = 300
    words = ("--set", "sample.n_dump=256", "--set", f"sample.n_resample={frames}", "--allow-red")
    assert call(capsys, tmp_path, "sample", "-model", "run", "-out", "equal", *words).code == 0
    samples = list(read_dump(tmp_path / "equal" / "samples.dump.gz"))
    positions = np.stack([frame.positions for frame in samples])
    log_w = np.array([frame.columns["c_logw"][0] for frame in samples])
    share = np.exp(log_w - log_w.max()) / np.exp(log_w - log_w.max()).sum()
    counts = np.zeros(len(samples))
    for frame in read_dump(tmp_path / "equal" / "resampled.dump.gz"):
        distance = np.abs(positions - frame.positions).max((1, 2))
        assert distance.min() < 1e-5  # drawn again in another batch: equal to rounding
        counts[distance.argmin()] += 1
    assert counts.sum() == frames
    assert np.abs(counts - frames * share).max() < 1


def test_red_verdict_is_exit_code_3(capsys, tmp_path):
    """64 samples cannot have the 50 effective ones of a verdict other than red when the flow is this short."""
    words = [word for word in TINY if word != "--allow-red"]
    spoken = call(capsys, tmp_path, "run", "-in", "in.lj", "-rep", 2, 2, 2, "-out", "run", *words)
    assert results_of(tmp_path / "run")["verdict"]["colour"] == "red"
    assert spoken.code == 3
    assert results_of(tmp_path / "run")["estimates"]["tfep"]["beta_F_per_atom"]["value"] is None
    assert "not reliable" in spoken.out
    assert call(capsys, tmp_path, "run", "--resume", "-out", "run").code == 3  # it is complete, and still red


# ---- stopping and going on


@pytest.mark.parametrize("at", [1, 4])
def test_resumed_training_is_the_uninterrupted_one(capsys, run, tmp_path, monkeypatch, at):
    """Stopped by SIGTERM after some steps and resumed: weights, table and samples as if nothing had happened, bit by bit."""
    advance = Trainer._advance

    def advance_and_stop(trainer):
        record = advance(trainer)
        if trainer.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", advance_and_stop)
        spoken = call(capsys, tmp_path, "run", "-in", "in.mw", "-out", "stopped", *TINY, *MORE)
    assert spoken.code == 75
    assert f"step {at} is saved; continue with --resume" in spoken.error
    assert len(table(tmp_path / "stopped" / "train.csv")) == at
    assert not (tmp_path / "stopped" / "model.pt").exists()
    spoken = call(capsys, tmp_path, "run", "--resume", "-in", "in.mw", "-out", "stopped", *TINY, *MORE)
    assert spoken.code == 0
    assert f"continues at step {at}" in spoken.out
    assert_same_weights(weights(tmp_path / "stopped" / "model.pt"), weights(run / "model.pt"))
    assert (tmp_path / "stopped" / "samples.csv").read_text() == (run / "samples.csv").read_text()
    bounds = [[row["bound"] for row in table(folder / "train.csv")] for folder in (tmp_path / "stopped", run)]
    assert bounds[0] == bounds[1]


def test_resumed_sampling_draws_the_same(capsys, run, tmp_path, monkeypatch):
    original = run_steps.sample

    def stopped(*arguments, **named):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(run_steps, "sample", stopped)
        spoken = call(capsys, tmp_path, "run", "-in", "in.mw", "-out", "stopped", *TINY, *MORE)
    assert spoken.code == 130
    assert "continue with --resume" in spoken.error
    assert not (tmp_path / "stopped" / "results.json").exists()
    assert call(capsys, tmp_path, "run", "--resume", "-out", "stopped", "--allow-red").code == 0
    assert (tmp_path / "stopped" / "samples.csv").read_text() == (run / "samples.csv").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow)])
def test_signals_in_a_process_of_its_own(capsys, tmp_path, number, code):
    words = ["train", "-in", "in.lj", "-out", "run", *TINY, "--set", "train.steps=100000"]
    program = "import sys; from lammps_bg.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        path, patience = tmp_path / "run" / "train.csv", time.monotonic() + 60
        while not (path.exists() and path.read_text().count("\n") > 5):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < patience
            time.sleep(0.02)
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert "Traceback" not in error
    steps = len(table(path))
    assert f"stopped by {number.name}; step {steps} is saved" in error
    assert "run/checkpoint.pt" in contents(tmp_path)
    spoken = call(capsys, tmp_path, "run", "--resume", "-out", "run", "--set", f"train.steps={steps + 3}", "--allow-red")
    assert spoken.code == 0
    assert f"continues at step {steps}" in spoken.out
    assert results_of(tmp_path / "run")["sampling"]["n_samples"] == 64
