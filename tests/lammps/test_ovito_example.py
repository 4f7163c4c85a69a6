# SPDX-License-Identifier: GPL-2.0-or-later
"""The OVITO example on a finished run: its weighted averages are those of `lammps_bg.thermo.observables`."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import LJ, TINY

from lammps_bg import cli
from lammps_bg.engine.dump import DumpWriter, read_dump
from lammps_bg.thermo.observables import pair_counts, radial_distribution

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "ovito_samples.py"
MORE = ["--set", "sample.n_dump=48", "--set", "sample.picture=false", "-rep", "2", "2", "2"]


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def example(run, folder, *, driver=True):
    """What the example says on a machine with or without a Vulkan driver; its files are in the folder."""
    hidden = {} if driver else {"VK_DRIVER_FILES": "/nonexistent.json", "VK_ICD_FILENAMES": "/nonexistent.json"}
    command = [sys.executable, EXAMPLE, run]
    environment = {**os.environ, **hidden}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of LJ fcc and what the example made of it."""
    import ovito  # noqa: F401  (part of the tested installation: missing is a failure, not a skip)

    folder = tmp_path_factory.mktemp("ovito")
    (folder / "in.lj").write_text(LJ)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert cli.main(["run", "-in", "in.lj", "-out", "run", *TINY, *MORE]) == 0
    return folder, example(folder / "run", folder)


@pytest.mark.parametrize(("columns", "weighted"), [(("g_reweighted", "error"), True), (("g_flow", "error_flow"), False)])
def test_the_weighted_rdf_is_that_of_the_package(finished, columns, weighted):
    folder, _ = finished
    frames = list(read_dump(folder / "run" / "samples.dump.gz"))
    assert len(frames) == 48
    cell, n_atoms = frames[0].cell, len(frames[0].ids)
    rows = table(folder / "ovito_rdf.csv")
    r = np.array([float(row["r"]) for row in rows])
    edges = np.linspace(0.0, r[-1] + r[0], len(r) + 1)
    counts = pair_counts(np.stack([frame.positions for frame in frames]), cell, edges)
    log_w = np.array([frame.columns["c_logw"][0] for frame in frames]) if weighted else None
    volume = abs(np.linalg.det(cell))
    expected = radial_distribution(counts, edges, volume, n_atoms=n_atoms, log_w=log_w)
    np.testing.assert_allclose(r, expected.r, rtol=1e-10)
    g, error = (np.array([float(row[name]) for row in rows]) for name in columns)
    np.testing.assert_allclose(g, expected.g, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(error, expected.errors, rtol=1e-8, atol=1e-12)
    assert expected.g.max() > 2


def test_the_structure_fractions_sum_to_one(finished):
    folder, said = finished
    rows = {row["structure"]: row for row in table(folder / "ovito_structure.csv")}
    assert sum(float(row["reweighted"]) for row in rows.values()) == pytest.approx(1)
    assert float(rows["FCC"]["reweighted"]) > 0.9
    assert "48 samples" in said
    assert "FCC" in said


def test_the_session_opens_in_ovito(finished):
    folder, _ = finished
    program = (
        "import sys, ovito\novito.scene.load(sys.argv[1])\npipeline, = ovito.scene.pipelines\n"
        "data = pipeline.compute(1)\nprint(data.attributes['ReduceProperty.particles.Mean.c_logw'], data.particles.count)\n"
    )
    command = [sys.executable, "-c", program, str(folder / "ovito_samples.ovito")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    frame = list(read_dump(folder / "run" / "samples.dump.gz"))[1]
    assert float(said[0]) == pytest.approx(frame.columns["c_logw"][0], rel=1e-12)
    assert int(said[1]) == len(frame.ids)


def test_one_sample_with_all_the_weight_is_the_mean(tmp_path):
    """Also: samples of weight zero, a lattice without a known structure, and no Vulkan driver."""
    rng, cell = np.random.default_rng(4), np.diag([6.9, 7.3, 8.1])
    crystal = SimpleNamespace(
        supercell=cell, origin=np.zeros(3), types=np.ones(20, int), labels=("Ar",), atom_ids=np.arange(1, 21)
    )
    samples = rng.uniform(size=(3, 20, 3)) @ cell
    with DumpWriter(tmp_path / "samples.dump.gz", crystal, units="lj") as writer:
        for index, positions in enumerate(samples):
            writer.write(index, positions, (0.0, -80.0, -np.inf)[index])
    (tmp_path / "samples.csv").write_text("sample,pe,log_q,log_w\n0,0,0,0.0\n1,0,0,-80.0\n2,0,0,-inf\n")
    said = example(tmp_path, tmp_path, driver=False)
    assert "3 samples, worth 1 of equal weight" in said
    assert "no picture" in said
    g = np.array([float(row["g_reweighted"]) for row in table(tmp_path / "ovito_rdf.csv")])
    edges = np.linspace(0.0, 6.9 / 2, len(g) + 1)
    first = pair_counts(samples[:1], cell, edges)[0] / (20 * 20 / np.linalg.det(cell) * 4 / 3 * np.pi * np.diff(edges**3))
    np.testing.assert_allclose(g, first, atol=1e-12)
    assert not (tmp_path / "ovito_structure.csv").exists()
