# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped inputs: energies of plain LAMMPS, densities, and found from any folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from lammps_scripts import INPUTS, plain_energy_forces, plain_lammps

from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.potentials.pair_styles import own_length

# write their potential file themselves, so they run in a copy of their own
GENERATED = sorted(path.name for path in INPUTS.glob("in.gsw_*"))
NAMES = sorted({path.name for path in INPUTS.glob("in.*")} - set(GENERATED))
EPSILON = 6.189  # kcal/mol, of the generalised Stillinger-Weber potential
# static energy per atom (script's units), density (per length^3): lattice sums and references of the potentials
EXPECTED = {
    "in.mw_cubic": (-12.377985118, 0.033567184),
    "in.mw_hexagonal": (-12.377985118, 0.033567184),
    "in.lj_fcc": (-6.303226, 1.28),
    "in.lj_hcp": (-6.303226 - 0.00112, 1.28),
    "in.lj_fcc6": (-5.428932, 1.28),
    "in.lj_hcp_fig5": (-5.428932 - 0.01789, 1.28),
    "in.si_diamond": (-4.33660, 0.049942),
    "in.si_betatin": (-4.13691, 0.058087),
    "in.cu_fcc": (-3.54, 0.084671),
    "in.sic": (-6.16379, 0.099148),
}
CELLS = {
    "in.lj_fcc": 4,
    "in.lj_hcp": 4,
    "in.lj_hcp_fig5": 4,
    "in.lj_fcc6": 6,
    "in.si_betatin": 4,
    "in.cu_fcc": 4,
}  # atoms in the cell, where not 8
# energy per atom in epsilon, density per nm^3, c/a of the generalised Stillinger-Weber potential at lambda 18.5: lattice sums
RELAXED = {
    "in.gsw_diamond": (8, -2.0, 33.537, 1.0),
    "in.gsw_bcc": (2, -2.01094, 40.372, 1.0),
    "in.gsw_betatin": (4, -2.01014, 40.000, 0.5535),
}


def test_every_input_is_known():
    assert set(NAMES) == set(EXPECTED)
    assert set(GENERATED) == set(RELAXED)


@pytest.mark.parametrize("name", NAMES)
def test_unit_cell(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Engine(INPUTS / name, replicate=(2, 2, 2)) as engine:
        cell = engine.script_structure
        assert cell.n_atoms == CELLS.get(name, 8)
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


@pytest.mark.parametrize("name", GENERATED)
def test_generated_potentials(name, tmp_path):
    """The script writes its potential, and stands at the energy minimum that lattice sums give."""
    shutil.copy(INPUTS / name, tmp_path)
    n, energy, density, ratio = RELAXED[name]
    found, cell, force = plain_lammps(tmp_path / name)
    assert found / n / EPSILON == pytest.approx(energy, abs=6e-6)
    assert 1e3 * n / np.linalg.det(cell) == pytest.approx(density, abs=6e-4)
    assert cell[2, 2] / cell[0, 0] == pytest.approx(ratio, abs=6e-5)
    assert force < 1e-9
    assert {path.name for path in tmp_path.iterdir()} == {name, "generated.sw"}


@pytest.mark.parametrize(("name", "lowest"), [("in.gsw_bcc", -2.04236), ("in.gsw_betatin", -2.03275)])
def test_strength_of_the_three_body_term(name, lowest, tmp_path):
    """At lambda 18 the crystal of 18.5 is just above the minimum that lattice sums give there."""
    (tmp_path / name).write_text((INPUTS / name).read_text().replace("lambda index 18.5", "lambda index 18"))
    assert 0 < plain_lammps(tmp_path / name)[0] / RELAXED[name][0] / EPSILON - lowest < 1e-3


@pytest.mark.parametrize(
    ("cutoff", "difference"),
    [(2.2, -0.01789), (2.5, 0.01215), (2.7, -0.00112), (3.0, -0.00262), (3.5, 0.00065), (4.0, -0.00057), (8.0, -0.00104)],
)
def test_hcp_against_fcc(cutoff, difference):
    """The sign changes with the cutoff; lattice sums at density 1.28."""
    energies = []
    for name in ("in.lj_fcc6", "in.lj_hcp_fig5"):
        with Engine(INPUTS / name, variables={"rc": [str(cutoff)]}) as engine:
            energies.append(engine.energies(engine.sites[None])[0] / engine.structure.n_atoms)
    assert energies[1] - energies[0] == pytest.approx(difference, abs=6e-6)
    if cutoff == 2.7:
        assert energies[0] == pytest.approx(EXPECTED["in.lj_fcc"][0], abs=1e-6)


def test_near_cubic_crystals():
    for name, small, large in (("in.lj_fcc6", (5, 3, 2), (9, 5, 4)), ("in.lj_hcp_fig5", (5, 3, 3), (9, 5, 6))):
        for replicate, n in ((small, 180), (large, 1080)):
            with Engine(INPUTS / name, replicate=replicate) as engine:
                assert engine.structure.n_atoms == n
                assert np.diag(engine.cell).max() / np.diag(engine.cell).min() < 1.15


@pytest.mark.parametrize(
    ("name", "length"),
    [("in.mw_cubic", 2.3925), ("in.lj_fcc", 1.0), ("in.si_diamond", 2.0951), ("in.cu_fcc", None), ("in.sic", None)],
)
def test_length_scale(name, length):
    with Engine(INPUTS / name) as engine:
        known = own_length(engine.pair)
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
