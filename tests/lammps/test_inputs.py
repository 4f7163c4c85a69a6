# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped inputs: energies of plain LAMMPS, densities, and found from any folder."""

from pathlib import Path

import numpy as np
import pytest
from lammps_scripts import INPUTS, plain_energy_forces

from lammps_bg.engine.lammps_engine import Engine

NAMES = sorted(path.name for path in INPUTS.glob("in.*"))
# static energy per atom (script's units), density (per length^3): lattice sums and references of the potentials
EXPECTED = {
    "in.mw_cubic": (-12.377985118, 0.033567184),
    "in.mw_hexagonal": (-12.377985118, 0.033567184),
    "in.lj_fcc": (-6.303226, 1.28),
    "in.lj_hcp": (-6.303226 - 0.00112, 1.28),
    "in.si_diamond": (-4.33660, 0.049942),
    "in.si_betatin": (-4.13691, 0.058087),
    "in.cu_fcc": (-3.54, 0.084671),
    "in.sic": (-6.16379, 0.099148),
}


def test_every_input_is_known():
    assert set(NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_unit_cell(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Engine(INPUTS / name, replicate=(2, 2, 2)) as engine:
        cell = engine.script_structure
        assert cell.n_atoms == (4 if name in ("in.lj_fcc", "in.lj_hcp", "in.si_betatin", "in.cu_fcc") else 8)
        assert engine.structure.n_atoms == 8 * cell.n_atoms
        energies, forces = engine.energies_forces(engine.structure.positions[None])
        energy, density = EXPECTED[name]
        assert energies[0] / engine.structure.n_atoms == pytest.approx(energy, abs=1e-5)
        assert cell.n_atoms / cell.volume == pytest.approx(density, rel=2e-5)
        assert np.abs(forces).max() < 1e-9
        assert engine.variable("T") > 0
        assert not engine.skipped
        assert not engine.removed_fixes
        assert not engine.lines
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_equals_plain_lammps(name):
    """`lmp -in` + `run 0` of the same configurations, to 1e-10."""
    rng = np.random.default_rng(1)
    with Engine(INPUTS / name, replicate=(2, 2, 2)) as engine:
        spread = 0.05 * (engine.structure.volume / engine.structure.n_atoms) ** (1 / 3)
        positions = engine.structure.positions + spread * rng.standard_normal((3, engine.structure.n_atoms, 3))
        energies, forces = engine.energies_forces(positions)
        for index in range(len(positions)):
            energy, force = plain_energy_forces(INPUTS / name, positions[index], (2, 2, 2))
            assert energies[index] == pytest.approx(energy, rel=1e-10)
            np.testing.assert_allclose(forces[index], force, atol=1e-10 * np.abs(force).max())


@pytest.mark.parametrize(
    ("name", "length"),
    [("in.mw_cubic", 2.3925), ("in.lj_fcc", 1.0), ("in.si_diamond", 2.0951), ("in.cu_fcc", None), ("in.sic", None)],
)
def test_length_scale(name, length):
    with Engine(INPUTS / name) as engine:
        known = engine.length_scale()
        assert (known and known[0]) == length


def test_labels_and_variables():
    with Engine(INPUTS / "in.sic", variables={"T": ["1200"]}) as engine:
        assert engine.structure.labels == ("Si", "C")
        assert list(engine.structure.types) == [1, 1, 1, 1, 2, 2, 2, 2]
        assert engine.variable("T") == 1200.0
        assert engine.variable("nothing") is None
        assert [path.name for path in engine.potential_files] == ["SiC.tersoff"]
        assert [path.name for path in engine.script_files] == ["in.sic"]
        assert engine.units.name == "metal"
        assert engine.units.boltzmann == pytest.approx(8.617343e-5, rel=1e-12)
        assert engine.pair_style == "tersoff"


def test_potentials_folder_of_lammps(tmp_path, monkeypatch):
    """A bare file name is found in LAMMPS' own potentials folder, and before that in $LAMMPS_POTENTIALS."""
    script = tmp_path / "in.si"
    script.write_text((INPUTS / "in.si_diamond").read_text().replace("potentials/", ""))
    with Engine(script) as engine:
        assert engine.potential_files[0].parent.name == "potentials"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "Si.sw").write_text((INPUTS / "potentials" / "Si.sw").read_text())
    monkeypatch.setenv("LAMMPS_POTENTIALS", f"/nonexistent:{mine}")
    with Engine(script) as engine:
        assert engine.potential_files == [Path(mine, "Si.sw").resolve()]
