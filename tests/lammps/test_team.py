# SPDX-License-Identifier: GPL-2.0-or-later
"""-lammps-ranks: an instance on several MPI ranks says what it says on one, and a failing rank ends the job."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import team_cases
from command_line import LJ, TINY, TINY_MD, call
from lammps_scripts import INPUTS

from lammps_bg.crystal.structure import Structure
from lammps_bg.engine.lammps_engine import Engine, LammpsFlags, rows_as
from lammps_bg.errors import ScriptError
from lammps_bg.potentials.sources.lammps import LammpsSurface
from lammps_bg.store.trajectory import TrajectoryFiles
from lammps_bg.study.problem import Problem, ScriptRequest

HERE = Path(__file__).parent
MAIN = "import sys; from lammps_bg.cli import main; sys.exit(main())"
SHORT = ["--set", "md.sample_every=4", "--set", "md.damp=0.05", "--set", "md.n_frames=50", "--set", "md.target_error=1"]
MD = ["md", "-in", "in.lj", "-rep", "2", "2", "2", *TINY_MD, *SHORT, "-lammps-ranks", "2", "-out", "nvt"]
SOON = 10.0  # seconds within which a job has to end after a fault


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "in.lj").write_text(LJ)
    return tmp_path


def start(ranks, *words):
    """A Python program under the mpirun beside this Python."""
    command = [str(Path(sys.executable).parent / "mpirun"), "-n", str(ranks), sys.executable, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code=0):
    try:
        out, error = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.kill()  # the launcher ends its ranks
        pytest.fail(f"no end: {process.communicate()}")
    assert code is None or process.returncode == code, error
    return out, error


def results_of(folder, ranks, *parts):
    """Parts of `team_cases` by that many ranks."""
    finish(start(ranks, HERE / "team_cases.py", folder, *parts))
    return {key: value for part in parts for key, value in np.load(folder / f"{part}.npz").items()}


def differences(found, expected, tolerance):
    """Names of the arrays that differ by more than a part of each energy, of the largest force of a configuration, or of a matrix."""
    return [name for name, want in expected.items() if not close(found[name], want, tolerance)]


def close(got, want, tolerance):
    finite = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(np.isfinite(got), finite):
        return False
    axes = {2: (0, 1), 3: (1, 2)}.get(want.ndim, ())
    scale = 1e-6 + np.abs(want).max(axis=axes, keepdims=True, where=finite, initial=0.0)
    return bool((np.abs(np.where(finite, got, 0.0) - np.where(finite, want, 0.0)) <= tolerance * scale).all())


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """All parts by two ranks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return results_of(tmp_path_factory.mktemp("two"), 2, *team_cases.PARTS)


def test_two_ranks_evaluate_as_one(tmp_path, by_two):
    """Energies, forces, pressures and masses, in the script's cell and in a strained one; what is not finite is so for both."""
    expected = team_cases.evaluations(tmp_path)
    assert np.isfinite(expected["lj: energies"]).tolist() == [True, True, True, False, True, True]
    assert differences(by_two, expected, 1e-10) == []


@pytest.mark.slow
def test_four_ranks_evaluate_as_one(tmp_path, monkeypatch):
    """LAMMPS numbers the atoms differently on four ranks, and by itself hands them on to the next slab only."""
    few = {name: team_cases.CRYSTALS[name] for name in ("slabs", "triclinic")}
    monkeypatch.setattr(team_cases, "CRYSTALS", few)
    program = tmp_path / "few.py"
    text = (HERE / "team_cases.py").read_text()
    program.write_text(text.replace("PARTS =", f"CRYSTALS = {{name: CRYSTALS[name] for name in {list(few)}}}\nPARTS =", 1))
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{HERE}")
    finish(start(4, program, tmp_path, "evaluations"))
    assert differences(np.load(tmp_path / "evaluations.npz"), team_cases.evaluations(tmp_path), 1e-10) == []


def test_two_ranks_keep_the_state_of_one(tmp_path, by_two):
    """Parameters, static stress, lost atoms; the minimiser's path, and so its end, depends on rounding."""
    expected = team_cases.states(tmp_path)
    loose = {name: expected.pop(name) for name in [*expected] if name.startswith(("relaxed", "minimised"))}
    assert len(loose) == 4
    assert np.isposinf(expected["lost"]).tolist() == [True, False, False, True, False, True]
    assert np.isposinf(expected["recovered"]).tolist() == [False, False, False, True, False, True]
    assert differences(by_two, expected, 1e-10) == []
    assert differences(by_two, loose, 1e-6) == []


def test_two_ranks_move_as_one(tmp_path, by_two):
    """Twenty deterministic steps, and twenty more from the stored state; rounding has grown by then, but little."""
    assert differences(by_two, team_cases.trajectories(tmp_path), 1e-8) == []


@pytest.mark.parametrize("name", ["canonical", "half"])
def test_frames_of_two_ranks_are_evaluated_by_one(tmp_path, by_two, name):
    with team_cases.crystal(tmp_path, "lj")[0] as engine:
        positions = by_two[f"{name} positions"]
        energies = engine.energies(positions)
        assert np.ptp(energies) > 1.0
        np.testing.assert_allclose(by_two[f"{name} energy"], energies, rtol=1e-10)
        np.testing.assert_allclose(by_two[f"{name} virial_pressure"], engine.virial_pressure(positions), rtol=1e-7)
        # at the start twice the temperature, which goes into the potential energy: never far from it, and never nought
        assert 0.2 < by_two[f"{name} temperature"].min() <= by_two[f"{name} temperature"].max() < 1.5


def test_atoms_are_numbered_as_on_one_rank():
    with Engine(INPUTS / "in.sic") as engine:
        crystal = engine.structure
    order = np.random.default_rng(0).permutation(8)
    moved = crystal.positions[order] + np.eye(3)[np.arange(8) % 3] @ crystal.cell  # whole cells do not count

    def shuffled(positions, types):
        return Structure(crystal.cell, crystal.origin, positions, types, crystal.masses, crystal.labels)

    np.testing.assert_array_equal(rows_as(crystal, shuffled(moved, crystal.types[order])), order)
    for other in (shuffled(moved, crystal.types[order][::-1]), shuffled(moved + 0.01 * np.eye(8, 3), crystal.types[order])):
        with pytest.raises(ScriptError, match="the same crystal on every number of MPI ranks"):
            rows_as(crystal, other)


# ---- the command


def test_md_on_a_team(tmp_path):
    """Frames as stored, evaluated on one rank; the temperature, with a false-alarm rate of 1e-6 per run."""
    out, error = finish(start(2, "-c", MAIN, *MD))
    assert out.count("verdict") == 1
    md = json.loads((tmp_path / "nvt" / "results.json").read_text())["md"]
    assert abs(md["temperature"]["value"] - 2.0) < 5 * md["temperature"]["error"]
    frames = TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00").load()
    problem = Problem.load(ScriptRequest(Path("in.lj"), {}, (2, 2, 2), LammpsFlags(), ()))
    energies = LammpsSurface(problem.engine, problem.crystal).energies(frames.displacements)
    np.testing.assert_allclose(frames.energies, energies, rtol=1e-10)


@pytest.mark.slow
def test_training_on_a_team(tmp_path, capsys):
    """One rank draws and learns, two evaluate."""
    words = ["train", "-in", "in.lj", "-rep", "2", "2", "2", *TINY, "--set", "energy.source=lammps", "-lammps-ranks"]
    finish(start(2, "-c", MAIN, *words, "2", "-out", "two"))
    assert call(capsys, tmp_path, *words, "1", "-out", "one").code == 0
    two, one = (np.genfromtxt(tmp_path / name / "train.csv", delimiter=",", names=True) for name in ("two", "one"))
    for column in ("bound", "std_log_w", "grad_norm"):
        np.testing.assert_allclose(two[column], one[column], rtol=1e-6)


@pytest.mark.parametrize(("ranks", "number"), [(3, 2), (2, 0)])
def test_wrong_numbers_are_refused_once(ranks, number):
    out, error = finish(start(ranks, "-c", MAIN, *MD, "-lammps-ranks", number), 2)
    assert len(set(re.findall("ERROR: .*", error))) == 1  # where the first rank starts late, another one may have said it, too
    assert f"divides the {ranks} MPI ranks, got {number};" in error


def test_bad_input_is_said_once():
    """A mistake in the script ends the service of the other rank, too."""
    Path("in.lj").write_text(LJ.replace("pair_coeff 1 1", "pair_coeff 1 2"))
    started = time.monotonic()
    out, error = finish(start(2, "-c", MAIN, *MD), 2)
    assert error.count("ERROR: ") == 1
    assert "Traceback" not in error
    assert time.monotonic() - started < 2 * SOON


# ---- faults

FAULTY = """
import os
import signal
import sys
import time
from lammps_bg import parallel
from lammps_bg.cli import main
from lammps_bg.engine import team
from lammps_bg.engine.atoms import Atoms

original, calls = Atoms.gather.__wrapped__, []

def gather(self, *names):
    calls.extend([names] if self.shared else [])
    here = parallel.WORLD.Get_rank() == {rank}
    if len(calls) == 20:
        sys.stderr.write(f"NOW {{time.time()}}\\n")
        {fault}
    return original(self, *names)

Atoms.gather = team.collective(gather)
sys.exit(main())
"""
RAISE = "if here: raise ValueError('a bug')"
NAN = "self.library.vectors('x')[: int(here)] = float('nan'); self.library.command('run 0 post no')"
DIE = "if here: os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("fault", "rank", "message", "trace"),
    [
        (RAISE, 1, "got an error on rank 1 .*'a bug'", True),
        pytest.param(RAISE, 0, "got an error on rank 0 .*'a bug'", True, marks=pytest.mark.slow),
        pytest.param(NAN, 1, "got an error on rank 1 .*Non-numeric atom coords", False, marks=pytest.mark.slow),
        pytest.param(DIE, 1, "", False, marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_one_rank_ends_the_job(fault, rank, message, trace):
    process = start(2, "-c", FAULTY.format(fault=fault, rank=rank), *MD)
    out, error = finish(process, None)
    assert process.returncode not in (0, 75)
    assert time.time() - float(re.search(r"NOW (\S+)", error)[1]) < SOON
    assert re.search(message, error)
    assert error.count("ERROR: ") <= 1
    assert ("Traceback" in error) == trace


@pytest.mark.slow
def test_a_signal_stops_and_resume_goes_on(tmp_path):
    """SIGUSR1 reaches every rank; the one that asks stops in order, and the frames so far are there."""
    process = start(2, "-c", MAIN, *MD, "--set", "md.n_frames=200000")
    status = tmp_path / "nvt" / "status.json"
    while not (status.exists() and json.loads(status.read_text()).get("step")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    out, error = finish(process, 75)
    assert error.count("ERROR: stopped by SIGUSR1") == 1
    before = len(TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00").load())
    finish(
        start(
            2, "-c", MAIN, "md", "--resume", "-out", "nvt", "--set", f"md.n_frames={max(50, before + 20)}", "-lammps-ranks", "2"
        )
    )
    assert len(TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00").load()) >= before + 20
