# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg md` from end to end on small crystals: its files, going on after a signal, several replicas and MPI ranks."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import LJ, TINY, TINY_MD, call, contents
from launching import finished, launched, wait_for

import lammps_bg as bg
from lammps_bg import cli, parallel
from lammps_bg.commands import run_report
from lammps_bg.config import MdConfig
from lammps_bg.engine.dump import read_dump
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import ConfigError
from lammps_bg.report.picture import PictureError
from lammps_bg.store.md_run import load_md_frames, md_entry
from lammps_bg.store.trajectory import TrajectoryFiles
from lammps_bg.study.md import MDInMemory, MDSetup, Simulation, run_md
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.problem import Problem, ScriptRequest

N_ATOMS = 32
P_AT_HALF = 28.0  # pressure of the script's density at T = 0.5
BASIC = ["-in", "in.lj", "-rep", 2, 2, 2]
FILES = {
    "config.toml", "inputs", "md.dump.gz", "observables.json", "provenance.json", "rdf.csv", "rerun.sh", "results.json",
    "status.json", "thermo.csv", "trajectories",
}  # fmt: skip


def _no_picture(*_, **__):
    raise PictureError("expected no picture in this test")


def silence(patch):
    """One thread, and no potentials of an earlier test."""
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("LAMMPS_POTENTIALS", "")  # a stored run adds its own folder; this restores it


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silence(monkeypatch)
    (tmp_path / "in.lj").write_text(LJ)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """An nvt run in the folder `nvt`."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "in.lj").write_text(LJ)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        silence(patch)
        assert cli.main(["md", "-in", "in.lj", "-rep", "2", "2", "2", "-out", "nvt", *TINY_MD]) == 0
    return folder / "nvt"


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def table(path):
    """Columns of a table by name."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


# ---- what a run leaves


def test_files(simulated):
    assert {path.name for path in simulated.iterdir()} == FILES
    provenance = json.loads((simulated / "provenance.json").read_text())
    assert (provenance["request"]["kind"], provenance["request"]["mode"]) == ("md", "nvt")
    assert provenance["request"]["replicate"] == [2, 2, 2]
    assert (simulated / "inputs" / "in.lj").read_text() == LJ
    assert "n_frames = 50 " in (simulated / "config.toml").read_text()
    assert json.loads((simulated / "status.json").read_text())["stage"] == "done"


def test_results(simulated):
    results = results_of(simulated)
    assert (results["schema"], results["system"]["n_atoms"], results["system"]["temperature"]) == ("lammps-bg-results", 32, 2.0)
    entry = results["md"]
    assert (entry["mode"], entry["damp"], entry["sample_every"], entry["replicas"]) == ("nvt", 0.1, 20, 1)
    assert entry["n_frames"] == entry["steps"][0] // 20 == len(table(simulated / "thermo.csv")["pe"])
    assert 50 <= entry["n_independent"] <= entry["n_frames"]
    assert results["verdict"]["colour"] == "green"
    assert results["cost"]["energy_evaluations"] >= entry["steps"][0]
    assert entry["stability"]["structure"] == "FCC"
    assert entry["stability"]["recognised"] == 1.0
    assert 0.02 < entry["stability"]["lindemann"] < 0.15


def test_temperature_is_that_of_the_script(simulated):
    """|z| < 4.5 with the 50 independent frames: a false alarm of 1e-4, Student's t."""
    found = results_of(simulated)["md"]["temperature"]
    assert abs(found["value"] - 2.0) < 4.5 * found["error"] < 1.0


def test_numbers_follow_from_the_table(simulated):
    results, columns = results_of(simulated), table(simulated / "thermo.csv")
    start = results["md"]["equilibration_frames"][0]
    assert columns["volume"] == pytest.approx(results["system"]["volume"])
    assert columns["step"].tolist() == list(range(20, 20 * len(columns["step"]) + 1, 20))
    assert columns["time"] == pytest.approx(0.005 * columns["step"])
    energy = results["observables"]["potential_energy_per_atom"]["md"]
    assert abs(columns["pe"][start:].mean() / N_ATOMS - energy["value"]) < 4 * energy["error"]
    pressure = results["md"]["pressure"]
    assert abs(columns["pressure"][start:].mean() - pressure["value"]) < 4 * pressure["error"]
    other = results["observables"]["pressure"]["md"]
    assert abs(other["value"] - pressure["value"]) < 4 * (other["error"] + pressure["error"])


def test_observables_schema(simulated):
    arrays = json.loads((simulated / "observables.json").read_text())
    n = int(results_of(simulated)["md"]["n_independent"])
    assert arrays["energy"]["unit"] == "epsilon per atom"
    assert len(arrays["energy"]["series"]["md"]["values"]) == n
    assert len(arrays["rdf"]["r"]) == len(arrays["rdf"]["curves"]["md"]["g"]) == len(arrays["rdf"]["curves"]["md"]["error"])
    assert len(arrays["msd"]["curves"]["md"]["value"]) == N_ATOMS
    assert {"value", "error", "interval", "n"} <= set(arrays["pressure"]["md"])
    structure = arrays["structure"]
    assert len(structure["types"]) == len(structure["fractions"]["md"]["value"])
    assert sum(structure["fractions"]["md"]["value"]) == pytest.approx(1.0)


def test_dump_has_the_energies_of_the_engine(simulated):
    frames = list(read_dump(simulated / "md.dump.gz"))
    assert len(frames) == 20
    with Engine(simulated / "inputs" / "in.lj", replicate=(2, 2, 2)) as engine:
        positions = np.stack([frame.positions[np.argsort(frame.ids)] for frame in frames])
        energies = engine.energies(positions)
    assert [frame.columns["c_pe"][0] for frame in frames] == pytest.approx(energies.tolist(), abs=1e-9)
    thermo = table(simulated / "thermo.csv")["pe"]
    assert all(np.abs(thermo - energy).min() < 1e-8 for energy in energies)


def test_no_dump_where_none_is_wanted(capsys, tmp_path):
    assert call(capsys, tmp_path, "md", *BASIC, "-out", "nvt", *TINY_MD, "--set", "md.n_dump=0").code == 0
    assert {path.name for path in (tmp_path / "nvt").iterdir()} == FILES - {"md.dump.gz"}


def test_a_finished_simulation_is_not_repeated(capsys, simulated, tmp_path):
    """With --resume alone, and with what was typed before."""
    shutil.copytree(simulated, tmp_path / "nvt")
    for words in ([], ["-in", "in.lj", "-rep", "2", "2", "2"]):
        spoken = call(capsys, tmp_path, "md", *words, "--resume", "-out", "nvt")
        assert (spoken.code, spoken.changed) == (0, set()), spoken.error
        assert spoken.out.startswith("complete")


def test_report(capsys, tmp_path, monkeypatch):
    """At the end, and again by `report`, even with an OVITO that cannot draw."""
    monkeypatch.setattr(run_report, "render_samples", _no_picture)
    spoken = call(
        capsys, tmp_path, "md", *BASIC, "-out", "nvt", *TINY_MD, "--set", "sample.picture=true", "--set", "estimate.report=true"
    )
    assert spoken.code == 0
    assert "picture    none: expected no picture in this test" in spoken.out
    assert "nvt/md.ovito" in spoken.changed
    assert "report     " in spoken.out
    page = (tmp_path / "nvt" / "report.html").read_text()
    (tmp_path / "nvt" / "report.html").unlink()
    spoken = call(capsys, tmp_path, "report", "nvt")
    assert spoken.code == 0
    assert "nvt/report.html" in spoken.changed
    assert len((tmp_path / "nvt" / "report.html").read_text()) == pytest.approx(len(page), rel=0.1)


# ---- the same in Python


def test_the_numbers_of_the_command_without_a_folder(simulated, tmp_path):
    """From typed inputs alone, in memory; its frames for a comparison are those that the command's folder gives."""
    problem = Problem.load(ScriptRequest(Path("in.lj"), {}, (2, 2, 2)))
    before = contents(tmp_path)
    result = run_md(MDSetup.of(problem, "nvt", MdConfig(n_frames=50, damp=0.1, sample_every=20)))
    assert contents(tmp_path) == before
    results, own = results_of(simulated), {"md": md_entry(result), "verdict": result.verdict.to_dict()}
    assert json.loads(json.dumps(own)) == {name: results[name] for name in own}
    assert result.energy.value / N_ATOMS == results["observables"]["potential_energy_per_atom"]["md"]["value"]
    assert table(simulated / "thermo.csv")["pe"] == pytest.approx(result.trajectories[0].energies, rel=1e-11)
    frames, stored = MDFrames.of(result), load_md_frames(simulated, problem)
    assert len(frames.energies) > result.n_independent == len(frames.observed.energies)
    assert np.array_equal(frames.displacements, stored.displacements)
    assert np.array_equal(frames.observed.energies, stored.observed.energies)


def test_a_system_can_be_simulated(simulated):
    """Through the public interface: the same numbers, and a sentence that says them."""
    system = bg.System.from_lammps("in.lj", replicate=(2, 2, 2))
    result = system.md("nvt", n_frames=50, settings={"md.damp": 0.1, "md.sample_every": 20}).result
    found = results_of(simulated)["md"]
    assert result.temperature.value == found["temperature"]["value"]
    assert repr(result).startswith(f"nvt: {found['n_independent']:.0f} independent of {found['n_frames']} frames, temperature ")
    system.close()


def test_constant_pressure_in_python():
    script = ScriptRequest(Path("in.lj"), {"T": ["0.5"], "P": [str(P_AT_HALF)]}, (2, 2, 2))
    options = MdConfig(n_frames=50, damp=0.1, sample_every=20, pressure_damp=0.5, cell="aniso")
    setup = MDSetup.of(Problem.load(script), "npt", options)
    result = run_md(setup)
    volume = result.cell_averages()["volume"]
    assert setup.pressure == P_AT_HALF
    assert abs(volume.value - setup.problem.crystal.volume) < 0.03 * volume.value
    assert np.linalg.det(result.mean_cell) == pytest.approx(volume.value, rel=1e-3)
    assert result.cell_averages()["xy"].error == 0.0


def test_memory_is_not_shared_by_ranks(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 2)
    with pytest.raises(ConfigError, match="expected one MPI rank for molecular dynamics in memory, got 2"):
        MDInMemory()


# ---- modes, names, models


@pytest.mark.parametrize("cell", ["iso", "aniso", "tri"])
def test_npt(capsys, tmp_path, cell):
    """Near the pressure of the script's density the mean cell is near the script's; at T = 2 so small a cell shears to bcc."""
    words = (
        "-var",
        "T",
        0.5,
        "-var",
        "P",
        P_AT_HALF,
        "--set",
        f"md.cell={cell}",
        "--set",
        "md.pressure_damp=0.5",
        "--set",
        "md.n_frames=100",
    )
    spoken = call(capsys, tmp_path, "md", *BASIC, "--mode", "npt", "-out", "npt", *TINY_MD, *words)
    assert spoken.code == 0, spoken.error
    results, columns = results_of(tmp_path / "npt"), table(tmp_path / "npt" / "thermo.csv")
    found = results["npt"]
    assert (found["pressure"], found["free"]) == (P_AT_HALF, cell)
    start = results["md"]["equilibration_frames"][0]
    assert abs(columns["volume"][start:].mean() - found["volume"]["value"]) < 4 * found["volume"]["error"]
    assert found["volume"]["value"] == pytest.approx(results["system"]["volume"], rel=0.03)
    assert found["volume"]["error"] < 0.02 * found["volume"]["value"]
    sheared = [np.ptp(columns[name]) > 0 for name in ("xy", "xz", "yz")]
    assert sheared == [cell == "tri"] * 3
    assert (np.ptp(columns["lx"] - columns["ly"]) > 1e-9) == (cell != "iso")
    assert abs(results["md"]["pressure"]["value"] - P_AT_HALF) < 4.5 * results["md"]["pressure"]["error"]
    frames = list(read_dump(tmp_path / "npt" / "md.dump.gz"))
    assert len({frame.cell[0, 0] for frame in frames}) == len(frames)


def test_npt_dump_has_the_energies_of_the_engine(capsys, tmp_path):
    words = ("-var", "T", 0.5, "-var", "P", P_AT_HALF, "--set", "md.cell=tri", "--set", "md.pressure_damp=0.5")
    assert call(capsys, tmp_path, "md", *BASIC, "--mode", "npt", "-out", "npt", *TINY_MD, *words).code == 0
    frames = list(read_dump(tmp_path / "npt" / "md.dump.gz"))[:5]
    with Engine(tmp_path / "in.lj", replicate=(2, 2, 2)) as engine:
        for frame in frames:
            engine.set_cell(frame.cell, frame.origin)
            energy = engine.energies(frame.positions[np.argsort(frame.ids)][None])[0]
            assert frame.columns["c_pe"][0] == pytest.approx(energy, abs=1e-8)


def test_default_name_and_model(capsys, tmp_path):
    """-model takes script, replicate and variables from a run; folders are named by the source and the mode."""
    assert call(capsys, tmp_path, "md", *BASIC, "-var", "T", 1.5, *TINY_MD).code == 0
    first = results_of(tmp_path / "runs" / "lj_nvt")
    (tmp_path / "in.lj").unlink()
    spoken = call(capsys, tmp_path, "md", "-model", "runs/lj_nvt", "--seed", 7, "-var", "P", 40, "--mode", "npt")
    assert spoken.code == 0, spoken.error
    second = results_of(tmp_path / "runs" / "lj_nvt_npt")
    assert second["system"]["temperature"] == first["system"]["temperature"] == 1.5
    assert second["system"]["replicate"] == [2, 2, 2]
    assert second["md"]["sample_every"] == first["md"]["sample_every"]
    assert second["md"]["temperature"] != first["md"]["temperature"]


def test_model_of_a_flow_and_flags(capsys, tmp_path):
    assert call(capsys, tmp_path, "train", "-in", "in.lj", "-out", "flow", *TINY).code == 0
    words = ("-rep", 2, 2, 2, "-log", "log.lammps", "-var", "T", 1.0, "-out", "nvt", *TINY_MD)
    assert call(capsys, tmp_path, "md", "-model", "flow", *words).code == 0
    assert results_of(tmp_path / "nvt")["system"]["temperature"] == 1.0
    assert results_of(tmp_path / "nvt")["system"]["n_atoms"] == 32
    assert "fix" in (tmp_path / "log.lammps").read_text()


def test_same_seed_same_frames(capsys, tmp_path, simulated):
    assert call(capsys, tmp_path, "md", *BASIC, "-out", "again", *TINY_MD).code == 0
    assert (tmp_path / "again" / "thermo.csv").read_bytes() == (simulated / "thermo.csv").read_bytes()
    assert call(capsys, tmp_path, "md", *BASIC, "-out", "other", *TINY_MD, "--seed", 2).code == 0
    assert (tmp_path / "other" / "thermo.csv").read_bytes() != (simulated / "thermo.csv").read_bytes()


def test_most_steps_end_a_trajectory(capsys, tmp_path):
    spoken = call(capsys, tmp_path, "md", *BASIC, "-out", "nvt", *TINY_MD, "--set", "md.max_steps=700")
    assert spoken.code == 3
    results = results_of(tmp_path / "nvt")
    assert results["md"]["steps"] == [700]
    assert results["verdict"]["colour"] == "red"
    spoken = call(capsys, tmp_path, "md", "--resume", "-out", "nvt", "--set", "md.max_steps=500000")
    assert spoken.code == 0
    assert results_of(tmp_path / "nvt")["verdict"]["colour"] == "green"


def test_replicas(capsys, tmp_path):
    spoken = call(capsys, tmp_path, "md", *BASIC, "-out", "nvt", *TINY_MD, "--set", "md.replicas=2", "--set", "md.n_frames=100")
    assert spoken.code == 0
    entry, columns = results_of(tmp_path / "nvt")["md"], table(tmp_path / "nvt" / "thermo.csv")
    assert entry["replicas"] == len(entry["steps"]) == len(entry["inefficiency"]) == 2
    assert set(columns["replica"]) == {0.0, 1.0}
    assert entry["n_frames"] == len(columns["pe"])
    assert entry["n_independent"] >= 100
    first, second = (columns["pe"][columns["replica"] == index] for index in (0, 1))
    assert not set(first) & set(second)


# ---- stopping and going on


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_signal_and_resume(capsys, tmp_path, monkeypatch, number, code):
    """Stopped after 15 frames: all 15 are on disk, --resume keeps them, goes on behind them, and completes."""
    original, count = Simulation.extend, iter(range(1, 1000))

    def stopped(self, n_frames, stop, tick):
        def counting():
            tick()
            if next(count) == 15:
                os.kill(os.getpid(), number)

        original(self, n_frames, stop, counting)

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "extend", stopped)
        spoken = call(capsys, tmp_path, "md", *BASIC, "-out", "nvt", *TINY_MD)
    assert spoken.code == code
    assert spoken.error.count("\n") == 1
    assert f"stopped by {number.name}" in spoken.error
    assert "--resume" in spoken.error
    assert not (tmp_path / "nvt" / "results.json").exists()
    files = TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00")
    before = files.load()
    assert before.steps.tolist() == list(range(20, 301, 20))
    spoken = call(capsys, tmp_path, "md", "--resume", "-out", "nvt")
    assert spoken.code == 0, spoken.error
    after = files.load()
    assert after.steps.tolist() == list(range(20, 20 * len(after) + 1, 20))
    assert np.array_equal(after.displacements[:15], before.displacements)
    assert results_of(tmp_path / "nvt")["md"]["n_independent"] >= 50
    # the jump from frame to frame is no larger where it went on
    jumps = np.abs(np.diff(after.displacements, axis=0)).max((1, 2))
    assert jumps[14] < 1.5 * jumps[20:].max()


def test_signals_in_a_process_of_its_own(tmp_path):
    words = ["md", *map(str, BASIC), "-out", "nvt", *TINY_MD, "--set", "md.n_frames=100000"]
    process = launched(words)
    wait_for(process, tmp_path / "nvt" / "status.json")
    process.send_signal(signal.SIGUSR1)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 75, error
    assert "stopped by SIGUSR1" in error
    assert "Traceback" not in error
    assert len(TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00").load()) >= 50
    assert json.loads((tmp_path / "nvt" / "status.json").read_text())["stage"] == "stopped"


def test_resume_of_a_finished_run_adds_nothing(capsys, tmp_path, simulated):
    shutil.copytree(simulated, tmp_path / "nvt")
    before = contents(tmp_path / "nvt" / "trajectories")
    assert call(capsys, tmp_path, "md", "--resume", "-out", "nvt").code == 0
    assert contents(tmp_path / "nvt" / "trajectories") == before
    assert (tmp_path / "nvt" / "thermo.csv").read_bytes() == (simulated / "thermo.csv").read_bytes()
    assert (tmp_path / "nvt" / "md.dump.gz").read_bytes() == (simulated / "md.dump.gz").read_bytes()


def test_resume_with_more_frames(capsys, tmp_path, simulated):
    shutil.copytree(simulated, tmp_path / "nvt")
    assert call(capsys, tmp_path, "md", "--resume", "-out", "nvt", "--set", "md.n_frames=120").code == 0
    assert results_of(tmp_path / "nvt")["md"]["n_independent"] >= 120
    old, new = table(simulated / "thermo.csv"), table(tmp_path / "nvt" / "thermo.csv")
    assert np.array_equal(new["pe"][: len(old["pe"])], old["pe"])


# ---- several ranks


def test_two_ranks_share_the_replicas(tmp_path, capsys):
    """The frames are those of one rank, made by two; one rank speaks."""
    words = ["md", *map(str, BASIC), *TINY_MD, "--set", "md.replicas=2", "--set", "md.n_frames=60"]
    out, error = finished([*words, "-out", "two"], 2)
    for text in ("md         nvt", "verdict", "Molecular dynamics at", "files   "):
        assert out.count(text) == 1, out
    assert error.count("WARNING") <= 1
    assert call(capsys, tmp_path, *words, "-out", "one").code == 0
    assert (tmp_path / "two" / "thermo.csv").read_bytes() == (tmp_path / "one" / "thermo.csv").read_bytes()
    assert not list((tmp_path / "two").rglob("*.tmp"))


@pytest.mark.slow
def test_two_ranks_stop_and_go_on(tmp_path):
    """SIGUSR1 to mpirun: exit code 75, the frames of both ranks are saved, and --resume with two ranks goes on."""
    words = ["md", *map(str, BASIC), *TINY_MD, "--set", "md.replicas=2", "-out", "nvt"]
    process = launched([*words, "--set", "md.n_frames=200000"], 2)
    wait_for(process, tmp_path / "nvt" / "status.json")
    process.send_signal(signal.SIGUSR1)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert error.count("ERROR: stopped by SIGUSR1") == 1
    files = [TrajectoryFiles(tmp_path / "nvt" / "trajectories", f"nvt-0{index}") for index in (0, 1)]
    lengths = [len(one.load()) for one in files]
    assert min(lengths) >= 20
    out, error = finished(["md", "--resume", "-out", "nvt", "--set", "md.n_frames=50"], 2)
    assert out.count("verdict") == 1
    assert [len(one.load()) for one in files] >= lengths
    assert results_of(tmp_path / "nvt")["md"]["replicas"] == 2


FAILING = """
import sys
from lammps_bg import parallel
from lammps_bg.cli import main
from lammps_bg.errors import CrystalError
from lammps_bg.study.md import Simulation

def extend(self, *_):
    raise {error} if parallel.rank() == {rank} else SystemExit("both ranks were expected to wait")

if parallel.rank() == {rank}:
    Simulation.extend = extend
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("error", "rank", "code"),
    [
        ("CrystalError('it melted')", 1, 2),
        pytest.param("ValueError('a bug')", 1, 1, marks=pytest.mark.slow),
        ("ValueError('a bug')", 0, 1),
    ],
)
def test_a_failing_rank_ends_the_job(tmp_path, error, rank, code):
    words = ["md", *map(str, BASIC), *TINY_MD, "--set", "md.replicas=2", "-out", "nvt"]
    command = [
        str(Path(sys.executable).parent / "mpirun"),
        "-n",
        "2",
        sys.executable,
        "-c",
        FAILING.format(error=error, rank=rank),
    ]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert done.stderr.count(re.search(r"'(.*)'", error)[1]) == 1
    assert ("Traceback" in done.stderr) == (code == 1)


@pytest.mark.slow
def test_bad_input_on_two_ranks_is_said_once(tmp_path):
    _, error = finished(["md", "-in", "nowhere"], 2, 2)
    assert error.count("ERROR: ") == 1
    assert "cannot be read" in error
