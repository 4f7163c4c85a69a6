# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 at any moment: --resume completes the run, and its samples are those of the undisturbed one, bit by bit."""

import csv
import json
import random
import time

import jobs
import pytest

from lammps_bg.store import status
from lammps_bg.training import checkpoint

_INTERVAL = 0.02  # train.checkpoint_seconds of jobs.SETTINGS


def assert_dead(run, pids):
    """What is left of a killed job: nothing half-written under a final name, and `status` says how to go on."""
    found = status.examine(run)
    if found.state == "finished":  # killed on its last few instructions
        return
    assert found.state == "dead"
    assert found.pid in pids  # of the last job that came as far as taking the folder
    assert found.resume.endswith("--resume --allow-red") == (run / "provenance.json").exists()
    assert found.notes == []
    for path in run.glob("*.json"):
        json.loads(path.read_text())


def assert_one_interval_lost(run):
    """The checkpoint is older than the last step by at most its interval and the two steps that overlap its ends."""
    text = (run / "train.csv").read_text()
    times = [0.0, *(float(row["seconds"]) for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))]
    path = run / "checkpoint.pt"
    step = checkpoint.load(path)["step"] if path.exists() else 0
    longest = max((after - before for before, after in zip(times, times[1:], strict=False)), default=0.0)
    assert times[-1] - times[min(step, len(times) - 1)] <= _INTERVAL + 2 * longest


def lines_of(path):
    return path.read_text().count("\n") if path.exists() else 0


def test_killed_in_every_stage(tmp_path, samples):
    """One run, killed in the fit of the base, in the training and while sampling, at a random moment of each."""
    generator, folder = random.Random(11), jobs.scripted(tmp_path)
    run, words = folder / "run", jobs.RUN
    moments = {
        "base": lambda: jobs.stage_of(run) == "base",
        "training": lambda: lines_of(run / "train.csv") > training,
        "sampling": lambda: lines_of(run / "samples.csv") > sampling,
    }
    training, sampling = generator.randint(3, 9), 32 * generator.randint(2, 9)
    for stage, reached in moments.items():
        job = jobs.Job(words, folder)
        assert jobs.wait_until(job, reached), f"it was over before {stage}: {job.error}"
        pid = job.pid
        job.kill()
        assert job.wait() == -9
        assert_dead(run, [pid])
        words = jobs.continued(jobs.RUN, run)
    assert_one_interval_lost(run)
    job = jobs.Job(words, folder)
    assert job.wait() == 0, job.error
    assert (run / "samples.csv").read_text() == samples
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
def test_killed_before_the_inputs_are_stored(tmp_path, samples):
    """Then there is nothing to resume: the same command begins again in what is left of the folder."""
    folder = jobs.scripted(tmp_path)
    job = jobs.Job(jobs.RUN, folder)
    assert jobs.wait_until(job, (folder / "run" / "lock").exists)
    job.kill()
    job.wait()
    run = folder / "run"
    for name in ("provenance.json", "status.json"):  # in case that it was quicker than the signal
        (run / name).unlink(missing_ok=True)
    (run / "config.toml.tmp").write_text("half")
    found = status.examine(run)
    assert found.state == "dead"
    assert found.resume.startswith("lammps-bg run -in in.lj -rep 2 2 2 -out run --allow-red --set ")
    job = jobs.Job(["run", "--resume", "-out", "run"], folder)
    assert job.wait() == 2
    assert "start its command again without --resume" in job.error
    job = jobs.Job(jobs.RUN, folder)
    assert job.wait() == 0, job.error
    assert (run / "samples.csv").read_text() == samples
    assert not list(run.rglob("*.tmp"))


def disturbed(folder, kills, longest, generator):
    """A run that is killed up to so many times and then ends by itself; how often it was killed."""
    run, words, used, pids = folder / "run", jobs.RUN, 0, []
    while True:
        job, start = jobs.Job(words, folder), time.monotonic()
        moment = start + generator.uniform(0.0, longest) if used < kills else float("inf")
        if jobs.wait_until(job, lambda moment=moment: time.monotonic() > moment):
            job.kill()
        error = job.error
        pids.append(job.pid)
        if (code := job.wait()) != -9:
            assert code == 0, error
            return used
        used += 1
        if run.exists() and any(run.iterdir()):
            assert_dead(run, pids)
        if (run / "train.csv").exists():
            assert_one_interval_lost(run)
        words = jobs.continued(jobs.RUN, run)


@pytest.mark.faults
def test_killed_at_random_moments(tmp_path, undisturbed, samples, request):
    """As often as --kills says, over as many runs as that takes; moments are uniform over the length of a run."""
    (_, longest), generator = undisturbed, random.Random(5)
    left, runs = request.config.getoption("--kills"), 0
    while left:
        folder, runs = jobs.scripted(tmp_path / f"{runs}"), runs + 1
        left -= disturbed(folder, left, longest, generator)
        assert (folder / "run" / "samples.csv").read_text() == samples
        assert json.loads((folder / "run" / "results.json").read_text())["sampling"]["n_samples"] == 512


@pytest.fixture(scope="module")
def samples_of_two(tmp_path_factory):
    """samples.csv of an undisturbed run on two ranks: its training adds up gradients in another order than one rank does."""
    folder = jobs.scripted(tmp_path_factory.mktemp("two"))
    job = jobs.RankedJob(jobs.RUN, folder, 2)
    assert job.wait() == 0, job.error
    return (folder / "run" / "samples.csv").read_text()


_RANKED = pytest.param(jobs.RUN, id="run")


def killed_ranks(folder, words, kills, generator, *, longest):
    """A job of two ranks of which one is killed now and then: that ends the whole job within 10 s. Its last words to go on."""
    for _ in range(kills):
        job = jobs.RankedJob(words, folder, 2)
        reached = jobs.wait_until(job, lambda: jobs.stage_of(folder / "run") is not None)
        until = time.monotonic() + generator.uniform(0.0, longest)
        jobs.wait_until(job, lambda until=until: time.monotonic() > until)
        if not reached or not job.alive:
            break
        ranks = job.ranks()
        job.kill(which=generator.randrange(2))
        assert job.wait(10) != 0
        assert not any(jobs.is_alive(pid) for pid in ranks)
        words = jobs.continued(words, folder / "run")
    return words


def assert_completes(folder, words, samples):
    job = jobs.RankedJob(words, folder, 2)
    assert job.wait() == 0, job.error
    assert json.loads((folder / "run" / "status.json").read_text())["stage"] == "done"
    if (folder / "run" / "samples.csv").exists():
        assert (folder / "run" / "samples.csv").read_text() == samples


@pytest.mark.slow
@pytest.mark.parametrize("words", [pytest.param(jobs.MD, id="md"), _RANKED])
def test_one_rank_is_killed(tmp_path, samples_of_two, words):
    folder, generator = jobs.scripted(tmp_path), random.Random(3)
    assert_completes(folder, killed_ranks(folder, words, 1, generator, longest=0.2), samples_of_two)


@pytest.mark.faults
@pytest.mark.parametrize("words", [pytest.param(jobs.MD, id="md"), _RANKED])
def test_ranks_are_killed_at_random_moments(tmp_path, samples_of_two, words, request):
    """A tenth as many kills: each waits for two new processes that load torch and LAMMPS."""
    generator = random.Random(4)
    for index in range(max(1, request.config.getoption("--kills") // 20)):
        folder = jobs.scripted(tmp_path / f"{index}")
        assert_completes(folder, killed_ranks(folder, words, 2, generator, longest=4.0), samples_of_two)
