# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg md --mode mbar`: the exact free energy of a harmonic crystal, its table of windows, two species, going on."""

import csv
import json
import math
import os
import shutil
import signal
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from command_line import LJ, TINY_MD, call
from lammps_scripts import INPUTS
from pymbar import MBAR

from lammps_bg import cli
from lammps_bg.config import MdConfig
from lammps_bg.study.frenkel_ladd import frenkel_ladd
from lammps_bg.study.md import MDSetup, Simulation
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.solvable import HarmonicCrystal

SCRIPT = """
variable T index 1.3
variable Lambda index 0.7
units lj
atom_style bond
read_data fcc.data
pair_style zero 1.5
pair_coeff * *
bond_style harmonic
bond_coeff 1 {constant} 0.0
"""
CONSTANT, EDGE, TEMPERATURE = 30.0, 1.5, 1.3


def silence(patch):
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.setenv("LAMMPS_POTENTIALS", "")


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def windows_of(folder):
    """Columns of windows.csv by name."""
    with (folder / "windows.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def write_harmonic(folder):
    """Script of an fcc crystal of 32 atoms with bonds of zero length between neighbours; returns the force constants.

    U = K sum |r_i - r_j|^2 over the bonds, without any higher term, as long as no bond is longer than half the cell.
    """
    cells = 2
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    fractional = (np.array(list(product(range(cells), repeat=3)))[:, None] + basis).reshape(-1, 3) / cells
    n = len(fractional)
    difference = fractional[:, None] - fractional
    distance = np.linalg.norm((difference - np.rint(difference)) * cells, axis=2)
    pairs = np.argwhere(np.triu(np.abs(distance - 0.5**0.5) < 1e-6))
    assert len(pairs) == 6 * n
    lines = ["", "", f"{n} atoms", f"{len(pairs)} bonds", "1 atom types", "1 bond types", "12 extra bond per atom"]
    lines += [f"0 {cells * EDGE} {axis}lo {axis}hi" for axis in "xyz"] + ["", "Masses", "", "1 1.0", "", "Atoms", ""]
    lines += [f"{i} 1 1 {x!r} {y!r} {z!r}" for i, (x, y, z) in enumerate((cells * EDGE * fractional).tolist(), 1)]
    lines += ["", "Bonds", "", *(f"{k} 1 {i + 1} {j + 1}" for k, (i, j) in enumerate(pairs, 1))]
    (folder / "fcc.data").write_text("\n".join(lines) + "\n")
    (folder / "in.harmonic").write_text(SCRIPT.format(constant=CONSTANT))
    graph = np.zeros((n, n))
    for i, j in pairs:
        graph[[i, j], [i, j]] += 2.0 * CONSTANT
        graph[[i, j], [j, i]] -= 2.0 * CONSTANT
    return np.kron(graph, np.eye(3))


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    silence(monkeypatch)


@pytest.fixture(scope="module")
def harmonic(tmp_path_factory):
    """Finished windows of the harmonic crystal and its force constants."""
    folder = tmp_path_factory.mktemp("harmonic")
    stiffness = write_harmonic(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        silence(patch)
        words = ["--set", "md.timestep=0.02", "--set", "md.target_error=0.003", "--set", "md.sample_every=10"]
        assert cli.main(["md", "-in", "in.harmonic", "--mode", "mbar", "-out", "mbar", *TINY_MD, *words]) == 0
    return folder / "mbar", stiffness


def test_exact_free_energy(harmonic):
    """|z| < 4.5 against the eigenvalues: a false alarm below 1e-5."""
    run, stiffness = harmonic
    results = results_of(run)
    beta, volume = 1.0 / TEMPERATURE, (2 * EDGE) ** 3
    static = results["system"]["static_energy_per_atom"] * 32
    exact = HarmonicCrystal(stiffness, beta=beta, static_energy=static).free_energy_per_atom(volume, 0.7)
    found = results["estimates"]["mbar"]["beta_F_per_atom"]
    print(f"\nharmonic: {found['value']:.5f} +- {found['error']:.5f}, exact {exact:.5f}")  # pytest -s
    assert 0 < found["error"] < 0.0035
    assert abs(found["value"] - exact) < 4.5 * found["error"]
    assert results["estimates"]["mbar"]["F_per_atom"]["value"] == pytest.approx(found["value"] / beta)


def test_mean_energy_is_three_halves(harmonic):
    """The window lambda = 1: 3 (N - 1) kT / 2 above the static energy; |z| < 4.5."""
    results = results_of(harmonic[0])
    energy = results["observables"]["potential_energy_per_atom"]["md"]
    exact = results["system"]["static_energy_per_atom"] + 1.5 * TEMPERATURE * 31 / 32
    assert abs(energy["value"] - exact) < 4.5 * energy["error"] < 0.5


def assert_reproduced(run, constant):
    """u_kn of windows.csv and plain pymbar give the value in results.json; `constant` is the free energy of the springs."""
    results, columns = results_of(run), windows_of(run)
    n, beta, static = results["system"]["n_atoms"], results["system"]["beta"], results["system"]["static_energy_per_atom"]
    couplings = np.array([row["lambda"] for row in results["windows"]])
    counts = [int((columns["window"] == index).sum()) for index in range(len(couplings))]
    assert counts == [row["n_independent"] for row in results["windows"]]
    assert np.allclose(columns["lambda"], np.repeat(couplings, counts))
    springs, crystal = beta * columns["u_springs"], beta * (columns["pe"] - n * static)
    u_kn = (1 - couplings[:, None]) * springs + couplings[:, None] * crystal
    difference = MBAR(u_kn, counts, solver_protocol="robust").compute_free_energy_differences()["Delta_f"][0, -1]
    found = results["estimates"]["mbar"]
    assert found["terms"]["lambda_windows"] * n == pytest.approx(difference, abs=1e-5)
    assert constant + beta * static + difference / n == pytest.approx(found["beta_F_per_atom"]["value"], abs=1e-6)
    assert sum(term for term in found["terms"].values() if term is not None) == pytest.approx(
        found["beta_F_per_atom"]["value"], abs=1e-9
    )


def springs_free_energy(results, kinds):
    """beta F/N of atoms on the springs of results.json, by textbook formulae, without the static energy.

    Z = V / N^(3/2) Z_u / Lambda^3N over labels, Z_u from a determinant on the coordinates without centre of mass.
    """
    n, beta = results["system"]["n_atoms"], results["system"]["beta"]
    stiffness = np.repeat([results["springs"]["stiffness"][kind] for kind in kinds], 3)
    centre = np.kron(np.ones((n, n)) / n, np.eye(3))
    basis = np.linalg.svd(np.eye(3 * n) - centre)[0][:, : 3 * n - 3]
    # the centre of the springs integrates out: the inverse of the projected inverse is their Schur complement
    projected = np.linalg.inv(basis.T @ np.diag(1.0 / stiffness) @ basis)
    log_z = 0.5 * ((3 * n - 3) * math.log(2 * math.pi / beta) - np.linalg.slogdet(projected)[1])
    scale = results["system"]["length_scale"]["value"]
    return (-log_z - math.log(results["system"]["volume"]) - 1.5 * math.log(n) + 3 * n * math.log(scale) + math.log(n)) / n


def test_table_reproduces_the_value(harmonic):
    results = results_of(harmonic[0])
    (label,) = results["springs"]["stiffness"]
    assert_reproduced(harmonic[0], springs_free_energy(results, [label] * 32))


def test_windows_overlap(harmonic):
    results = results_of(harmonic[0])
    matrix, neighbours = np.array(results["overlap_matrix"]), results["neighbour_overlaps"]
    assert matrix.shape == (len(results["windows"]),) * 2
    assert np.allclose(matrix.sum(1), 1.0)
    assert len(neighbours) == len(matrix) - 1
    assert min(neighbours) > 0.03
    couplings = [row["lambda"] for row in results["windows"]]
    assert (couplings[0], couplings[-1]) == (0.0, 1.0)
    assert couplings == sorted(couplings)
    assert all(row["n_independent"] >= 45 for row in results["windows"])


def test_the_windows_of_the_command_without_a_folder(harmonic, tmp_path):
    run, _ = harmonic
    write_harmonic(tmp_path)
    problem = Problem.load(ScriptRequest(Path("in.harmonic"), {}))
    options = MdConfig(n_frames=50, window_frames=50, damp=0.1, timestep=0.02, target_error=0.003, sample_every=10)
    found, results = frenkel_ladd(MDSetup.of(problem, "mbar", options)), results_of(run)
    assert found.free_energy.value == results["estimates"]["mbar"]["beta_F_per_atom"]["value"]
    assert found.verdict.colour == results["verdict"]["colour"]
    assert [window.coupling for window in found.windows] == [row["lambda"] for row in results["windows"]]


def test_two_species(capsys, tmp_path):
    """SiC: one spring constant for each species, and the value from the table by plain pymbar."""
    (tmp_path / "potentials").mkdir()
    shutil.copy(INPUTS / "potentials" / "SiC.tersoff", tmp_path / "potentials")
    shutil.copy(INPUTS / "in.sic", tmp_path)
    times = ("--set", "md.damp=0.05", "--set", "md.sample_every=20")
    spoken = call(capsys, tmp_path, "md", "-in", "in.sic", "--mode", "mbar", "-out", "mbar", *TINY_MD, *times)
    assert spoken.code == 0, spoken.error
    results = results_of(tmp_path / "mbar")
    assert set(results["springs"]["stiffness"]) == {"Si", "C"}
    assert results["springs"]["unit"] == "eV/Angstrom^2"
    kinds = ["Si"] * 4 + ["C"] * 4
    assert_reproduced(tmp_path / "mbar", springs_free_energy(results, kinds))
    table = spoken.out
    assert "beta F/N  MD + MBAR" in table
    assert "windows    " in table


def test_signal_and_resume(capsys, tmp_path, monkeypatch):
    """Stopped inside the windows: --resume keeps all frames and the springs, and completes."""
    (tmp_path / "in.lj").write_text(LJ)
    original, calls = Simulation.extend, []

    def stopped(self, *arguments):
        calls.append(self.record.name)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "extend", stopped)
        spoken = call(capsys, tmp_path, "md", "-in", "in.lj", "--mode", "mbar", "-out", "mbar", *TINY_MD)
    assert spoken.code == 75
    saved = {path.name: path.read_bytes() for path in (tmp_path / "mbar" / "trajectories").iterdir()}
    springs = (tmp_path / "mbar" / "springs.json").read_text()
    assert {name[:15] for name in saved} == set(calls)
    spoken = call(capsys, tmp_path, "md", "--resume", "-out", "mbar", "--mode", "mbar")
    assert spoken.code == 0, spoken.error
    assert (tmp_path / "mbar" / "springs.json").read_text() == springs
    assert all((tmp_path / "mbar" / "trajectories" / name).read_bytes() == content for name, content in saved.items())
    (label,) = results_of(tmp_path / "mbar")["springs"]["stiffness"]
    assert_reproduced(tmp_path / "mbar", springs_free_energy(results_of(tmp_path / "mbar"), [label] * 4))


@pytest.mark.slow
def test_target_error_makes_windows_longer(capsys, tmp_path):
    (tmp_path / "in.lj").write_text(LJ)
    errors, frames = [], []
    for index, target in enumerate((0.05, 0.005)):
        words = ("-out", f"mbar{index}", *TINY_MD, "--set", f"md.target_error={target}")
        assert call(capsys, tmp_path, "md", "-in", "in.lj", "--mode", "mbar", *words).code == 0
        results = results_of(tmp_path / f"mbar{index}")
        errors.append(results["estimates"]["mbar"]["beta_F_per_atom"]["error"])
        frames.append(sum(row["n_independent"] for row in results["windows"]))
    assert errors[1] < 0.0065 < errors[0]
    assert frames[1] > 2 * frames[0]
