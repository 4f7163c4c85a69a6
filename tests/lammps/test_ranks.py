# SPDX-License-Identifier: GPL-2.0-or-later
"""MPI ranks change how long a job takes, and nothing else; what goes wrong on one of them ends all of them, in a sentence."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import LJ, TINY, call, use
from launching import finished, launched, on_ranks, wait_for

from lammps_bg import parallel
from lammps_bg.cli import main
from lammps_bg.errors import ConfigError

TRAINING = Path(__file__).with_name("solvable_training.py")
CRYSTAL = ["-in", "in.lj", "-rep", "2", "2", "2"]
AUGMENTED = [
    "flow.kind=augmented",
    "estimate.marginal_samples=40",
    "estimate.marginal_draws=4",
    "sample.batch_size=16",
    "sample.n_dump=30",
]
SETTINGS = [*TINY, *(word for entry in AUGMENTED for word in ("--set", entry)), "--set", "sample.picture=false"]


def close(one, two):
    """Whether all numbers of two JSON values agree to 1e-10."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    return one == two or one == pytest.approx(two, rel=1e-10, abs=1e-10)


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """A run of an augmented flow, and 100 samples of its model, on one rank."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        (folder / "in.lj").write_text(LJ)
        assert main(["run", *CRYSTAL, *SETTINGS, "-out", "run"]) == 0
        assert main(["sample", "-model", "run", "--set", "sample.n_samples=100", "--allow-red", "-out", "samples"]) == 0
    return folder


@pytest.fixture
def place(one_rank, tmp_path, monkeypatch):
    """A copy of it as the current folder."""
    shutil.copytree(one_rank, tmp_path, dirs_exist_ok=True)
    use(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Course and weights of a training in float64 by a number of ranks and a way to add up gradients."""
    folder = tmp_path_factory.mktemp("trained")

    def train(ranks, how):
        launcher = on_ranks(ranks)[:3] if ranks > 1 else []
        command = [*launcher, sys.executable, str(TRAINING), str(folder), how, "40"]
        subprocess.run(command, check=True, timeout=200, capture_output=True)
        return [torch.load(folder / f"{ranks}-{place}.pt", weights_only=True) for place in range(ranks)]

    return train, train(1, "mpi")[0]


@pytest.mark.parametrize(("ranks", "how"), [(3, "mpi"), pytest.param(2, "gloo", marks=pytest.mark.slow)])
def test_training_is_that_of_one_rank(trained, ranks, how):
    """Bounds, evaluations and gradients agree to rounding, for a batch that the ranks do not divide; weights do to the last bit on all ranks."""
    train, whole = trained
    parts = train(ranks, how)
    for part in parts:
        assert torch.equal(part["weights"], parts[0]["weights"])
        for mine, theirs in zip(whole["course"], part["course"], strict=True):
            assert [x is None for x in mine] == [x is None for x in theirs]
            finite = [(x, y) for x, y in zip(mine, theirs, strict=True) if x is not None]
            assert np.allclose(*np.transpose(finite), rtol=1e-6, atol=1e-9)
    assert [part["n_saved"] for part in parts] == [1] + [0] * (ranks - 1)


def test_samples_are_those_of_one_rank(place):
    """100 samples in 7 chunks on 3 ranks: every file the same to the last bit, F and the marginal estimate to 1e-10."""
    out, error = finished(["sample", "-model", "run", "--set", "sample.n_samples=100", "--allow-red", "-out", "three"], 3)
    assert "the sampling: 7 chunks, 2 or 3 for each of 3 ranks" in out
    assert out.count("verdict") == 1
    for name in ("samples.csv", "samples.dump.gz"):
        assert (place / "three" / name).read_bytes() == (place / "samples" / name).read_bytes()
    one, three = (results(place / name) for name in ("samples", "three"))
    assert close(three["estimates"], one["estimates"])
    assert close(three["sampling"], one["sampling"])
    assert len(one["sampling"]["marginal_over_draws"]) == 3
    assert three["cost"]["energy_evaluations"] >= 100


@pytest.mark.slow
def test_estimate_on_two_ranks(place):
    before = results(place / "samples")["estimates"]
    finished(["estimate", "-model", "samples", "--allow-red"], 2)
    after = results(place / "samples")["estimates"]
    assert "tfep_marginal" in after
    assert close(after, before)


@pytest.mark.slow
def test_an_interrupted_sampling_goes_on_with_another_number_of_ranks(place, capsys):
    """Cut in the middle of a line: what is whole stays, the rest is drawn again, and nothing can be told from the undisturbed one."""
    whole = (place / "samples" / "samples.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = b"".join(lines[:54]) + lines[54][:9]
    for name in ("results.json", "samples.dump.gz", "status.json"):
        (place / "samples" / name).unlink()
    (place / "samples" / "samples.csv").write_bytes(cut)
    out, _ = finished(["sample", "--resume", "-out", "samples", "--allow-red"], 2)
    assert "continues after 48 samples" in out
    assert (place / "samples" / "samples.csv").read_bytes() == whole


@pytest.mark.parametrize(
    "damaged", [b"3,1.0,2.0,3.0\n", *(pytest.param(line, marks=pytest.mark.slow) for line in (b"\xff\x00\n", b"39,1.0\n"))]
)
def test_a_damaged_table_is_drawn_again_from_the_damage_on(place, capsys, damaged):
    whole = (place / "samples" / "samples.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    lines[40] = damaged  # sample 39
    (place / "samples" / "samples.csv").write_bytes(b"".join(lines))
    (place / "samples" / "results.json").unlink()
    spoken = call(capsys, place, "sample", "--resume", "-out", "samples", "--allow-red")
    assert spoken.code == 0
    assert "continues after 32 samples" in spoken.out
    assert (place / "samples" / "samples.csv").read_bytes() == whole


def test_samples_of_another_model_are_not_continued(place, capsys):
    """A run that is trained further draws anew."""
    before = (place / "run" / "samples.csv").read_bytes()
    spoken = call(capsys, place, "run", "--resume", "-out", "run", "--set", "train.steps=8", "--allow-red")
    assert spoken.code == 0
    assert "continues after" not in spoken.out.replace("continues at step", "")
    assert "as it was fitted before" in spoken.out
    assert (place / "run" / "samples.csv").read_bytes() != before


@pytest.mark.slow
def test_fewer_samples_than_ranks(place):
    out, error = finished(["sample", "-model", "run", "--set", "sample.n_samples=20", "--allow-red", "-out", "few"], 3)
    assert "the sampling: fewer chunks (2) than MPI ranks (3), so that some ranks wait" in error
    assert len((place / "few" / "samples.csv").read_text().splitlines()) == 21


def test_a_run_on_two_ranks(place):
    """The whole job: base and first step are those of one rank to rounding; one rank speaks and writes."""
    out, error = finished(["run", *CRYSTAL, *SETTINGS, "-out", "two"], 2)
    assert out.count("parallel   2 MPI ranks") == 1
    assert out.count("verdict") == 1
    one, two = ((place / name / "train.csv").read_text().splitlines() for name in ("run", "two"))
    assert len(one) == len(two)
    first = [np.array([float(x) for x in table[1].split(",")[2:6]]) for table in (one, two)]
    assert np.allclose(*first, rtol=1e-5)
    assert {p.name for p in (place / "two").iterdir()} == {p.name for p in (place / "run").iterdir()}
    assert results(place / "two")["estimates"]["bound"]["beta_F_per_atom"]["value"] == pytest.approx(
        results(place / "run")["estimates"]["bound"]["beta_F_per_atom"]["value"], abs=0.05
    )


@pytest.mark.slow
def test_stopped_on_two_ranks_and_continued_on_one(place, capsys):
    """SIGUSR1 to mpirun: the checkpoint is written at the next step, the exit code is 75; ranks may change at --resume."""
    process = launched(
        ["run", *CRYSTAL, *SETTINGS, "--set", "train.steps=100000", "--set", "train.evaluate_every=3", "-out", "long"], 2
    )
    wait_for(process, place / "long" / "status.json", "training")
    process.send_signal(signal.SIGUSR1)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert error.count("ERROR: stopped by SIGUSR1") == 1
    step = torch.load(place / "long" / "checkpoint.pt", weights_only=True)["step"]
    spoken = call(capsys, place, "run", "--resume", "-out", "long", "--set", f"train.steps={step + 3}", "--allow-red")
    assert spoken.code == 0
    assert f"continues at step {step}" in spoken.out


FAILING = """
import sys
from lammps_bg import parallel
from lammps_bg.cli import main
from lammps_bg.errors import TrainingError
from lammps_bg.training.trainer import Trainer

advance = Trainer._advance

def failing(self):
    if self.step == 3:
        raise {error}
    return advance(self)

if parallel.rank() == {rank}:
    Trainer._advance = failing
sys.exit(main())
"""


BUG, WORD = "ValueError('a bug')", "TrainingError('it diverged')"


@pytest.mark.parametrize(("error", "rank", "code"), [(WORD, 1, 1), pytest.param(BUG, 0, 1, marks=pytest.mark.slow)])
def test_a_failing_rank_ends_the_training(place, error, rank, code):
    """Within 10 s of the failure, with its sentence or its traceback, and the rank and node it happened on."""
    process = launched(["run", *CRYSTAL, *SETTINGS, "-out", "fails"], 2, code=FAILING.format(error=error, rank=rank))
    _, said = process.communicate(timeout=100)
    assert process.returncode == code
    assert ("Traceback" in said) == ("ValueError" in error)
    assert ("it diverged" in said) or ("a bug" in said)
    assert f"MPI rank {rank}" in said
    took = time.time() - max(p.stat().st_mtime for p in (place / "fails").iterdir())
    assert took < 10


OTHER_FILE = """
import sys
from lammps_bg import parallel
from lammps_bg.cli import main
from lammps_bg.commands import job_ranks

if parallel.rank() == 1:
    known = job_ranks.sha256
    job_ranks.sha256 = lambda path: known(path) + ("x" if path.name == "in.lj" else "")
sys.exit(main())
"""


def test_nodes_with_other_files_are_refused(place):
    process = launched(["run", *CRYSTAL, *SETTINGS, "-out", "other"], 2, code=OTHER_FILE)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "expected the same file in.lj on all MPI ranks, got another one on rank 1" in said
    assert "Traceback" not in said
    assert not (place / "other").exists()


def test_commands_of_one_rank_refuse_more(place):
    _, said = finished(["report", "run"], 2, 2)
    assert "expected one MPI rank, which is all that `lammps-bg report` can use, got 2" in said


def test_teams_have_to_divide_the_ranks():
    with pytest.raises(ConfigError, match="a number that divides the 1 MPI ranks, got 2"):
        parallel.arrange(2)
