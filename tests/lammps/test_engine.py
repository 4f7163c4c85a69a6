# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine: energies and forces of batches equal plain LAMMPS whatever the script leaves behind, and bad ones are flagged."""

import re

import numpy as np
import pytest
from lammps_scripts import INPUTS, LJ, SALT, plain_energy_forces

from lammps_bg.engine.flags import LammpsFlags
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import at_rest
from lammps_bg.engine.script.files import wheel_potentials
from lammps_bg.errors import ConfigError, CrystalError, PotentialError

HOSTILE = {
    "neighbour list kept too long": "neigh_modify delay 10 every 5 once yes\n",
    "barostat left on": "velocity all create 2.0 1\nfix 1 all npt temp 2 2 1 iso 0 0 1\nrun 100\n",
    "images and sorting": "atom_modify sort 1 2.0\nset atom 3*9 image 1 -1 2\n",
    "displaced across the boundary": "displace_atoms all move -0.6 0.3 0.1 units box\n",
    "tiny skin": "neighbor 0.01 bin\n",
    "half lists off": "newton off\n",
    "thermo output": "thermo_style custom step pe press temp\nthermo 1\nthermo_modify norm yes lost ignore\n",
    "respa": "run_style respa 2 2 pair 2\n",
}


@pytest.fixture
def script(tmp_path):
    def write(text, name="in.test"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def hash_of_id(line):
    return int(line.split()[0]) * 19 % 32


def _clouds(engine, n, spread, seed=0):
    rng = np.random.default_rng(seed)
    return engine.structure.positions + spread * rng.standard_normal((n, engine.structure.n_atoms, 3))


def _check_against_plain(engine, plain_script, positions, replicate=(1, 1, 1), cell=None):
    energies, forces = engine.energies_forces(positions)
    for index, configuration in enumerate(positions):
        energy, force = plain_energy_forces(plain_script, configuration, replicate, cell)
        assert energies[index] == pytest.approx(energy, rel=1e-10)
        np.testing.assert_allclose(forces[index], force, rtol=0, atol=1e-10 * np.abs(force).max())


@pytest.mark.parametrize("trap", HOSTILE)
def test_hostile_settings(trap, script):
    first = "newton off\n" if trap == "half lists off" else ""
    with Engine(script(first + LJ + ("" if first else HOSTILE[trap])), replicate=(2, 1, 2)) as engine:
        positions = np.concatenate([_clouds(engine, 6, 0.05), _clouds(engine, 3, 0.15), _clouds(engine, 3, 0.02)])
        _check_against_plain(engine, script(LJ, "in.plain"), positions, (2, 1, 2))


@pytest.mark.parametrize("kspace", ["ewald", "pppm"])
def test_charges_with_kspace_and_box_change(kspace, script):
    path = script(SALT.format(kspace=kspace))
    with Engine(path) as engine:
        _check_against_plain(engine, path, _clouds(engine, 3, 0.1))
        cell = 1.03 * engine.cell
        engine.set_cell(cell, np.zeros(3))
        positions = engine.sites + 0.1 * np.random.default_rng(3).standard_normal((2, engine.structure.n_atoms, 3))
        _check_against_plain(engine, path, positions, cell=cell)


def test_kspace_in_a_tilted_box(script):
    path = script(SALT.format(kspace="pppm"))
    tilted = script(
        SALT.format(kspace="pppm").replace("create_atoms 2 box", "create_atoms 2 box\nchange_box all triclinic"), "in.tilted"
    )
    with Engine(path) as engine:
        cell = engine.cell
        cell[1, 0] = 0.7
        engine.set_cell(cell, np.zeros(3))
        positions = engine.sites + 0.1 * np.random.default_rng(3).standard_normal((2, engine.structure.n_atoms, 3))
        _check_against_plain(engine, tilted, positions, cell=cell)


REAX = """
units real
atom_style charge
lattice diamond 3.6
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
mass 1 12.011
pair_style reaxff NULL
pair_coeff * * ffield.reax.rdx C
fix charges all qeq/reaxff 1 0.0 10.0 1e-10 reaxff
"""


def test_charge_equilibration(script, monkeypatch):
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(wheel_potentials()))
    path = script(REAX)
    with Engine(path) as engine:
        _check_against_plain(engine, path, _clouds(engine, 2, 0.05))


def test_data_file_after_md(script, tmp_path):
    """Disordered ids, image flags and velocities, as in a data file written by an MD run."""
    data = tmp_path / "lj.data"
    two_types = LJ.replace("create_box 1", "create_box 2") + "mass 2 2.0\nset atom 1*7 type 2\npair_coeff * 2 1.5 0.9\n"
    with Engine(script(two_types)) as engine:
        for command in ("set atom 3*9 image 1 -1 2", "velocity all create 2 1", "fix 1 all nve", "run 200"):
            engine.lammps.command(command)
        engine.lammps.command(f'write_data "{data}" nocoeff')
    head, atoms, rest = re.split(r"Atoms.*\n\n|\n\nVelocities", data.read_text())
    data.write_text(f"{head}Atoms\n\n" + "\n".join(sorted(atoms.splitlines(), key=hash_of_id)) + f"\n\nVelocities{rest}")
    text = (
        "units lj\natom_style atomic\npair_style lj/cut 2.2\nread_data lj.data\npair_coeff 1 1 1.0 1.0\npair_coeff * 2 1.5 0.9\n"
    )
    path = script(text, "in.data")
    with Engine(path, replicate=(1, 2, 1)) as engine:
        _check_against_plain(
            engine, path, np.concatenate([engine.structure.positions[None], _clouds(engine, 2, 0.02)]), (1, 2, 1)
        )


def test_general_triclinic(script, monkeypatch):
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(INPUTS / "potentials"))
    text = """
    units metal
    atom_style atomic
    lattice custom 3.615 a1 0 .5 .5 a2 .5 0 .5 a3 .5 .5 0 basis 0 0 0 triclinic/general
    create_box 1 NULL 0 2 0 2 0 2
    create_atoms 1 box
    pair_style eam
    pair_coeff 1 1 Cu_u3.eam
    """
    with Engine(script(text), replicate=(2, 2, 2)) as engine:
        assert np.abs(np.triu(engine.structure.cell, 1)).max() == 0
        assert engine.energies(engine.structure.positions[None])[0] / 64 == pytest.approx(-3.54, abs=1e-6)


def test_long_batches_are_cut(script):
    with Engine(script(LJ)) as engine:
        positions = _clouds(engine, 600, 0.05)
        energies, forces = engine.energies_forces(positions)
        picked = [0, 255, 256, 599]
        again, again_forces = engine.energies_forces(positions[picked])
        np.testing.assert_array_equal(again, energies[picked])
        np.testing.assert_array_equal(again_forces, forces[picked])
        assert engine.energies(positions[:0]).shape == (0,)
        assert engine.n_evaluations == 604


def test_energy_does_not_depend_on_history(script):
    """A configuration gives the same energy alone, in a batch, and after wild ones."""
    with Engine(script(LJ), replicate=(2, 2, 2)) as engine:
        calm, wild = _clouds(engine, 4, 0.04), _clouds(engine, 3, 0.2, seed=1)
        engine.keep_neighbour_skin(calm)
        alone = engine.energies(calm[:1])
        engine.energies(wild)
        batch = engine.energies(np.concatenate([calm, wild, calm]))
        np.testing.assert_array_equal(batch[:4], batch[7:])
        assert batch[0] == alone[0]


def test_any_image(script):
    with Engine(script(LJ), replicate=(2, 2, 2)) as engine:
        positions = _clouds(engine, 3, 0.05)
        shifts = np.random.default_rng(2).integers(-5, 6, positions.shape)
        energies, forces = engine.energies_forces(positions)
        shifted, shifted_forces = engine.energies_forces(positions + shifts @ engine.cell)
        np.testing.assert_allclose(shifted, energies, rtol=1e-11)
        np.testing.assert_allclose(shifted_forces, forces, atol=1e-9 * np.abs(forces).max())


def test_forces_are_the_gradient(script):
    with Engine(script(LJ)) as engine:
        positions = _clouds(engine, 1, 0.05)
        direction = np.random.default_rng(5).standard_normal(positions.shape)
        _, forces = engine.energies_forces(positions)
        plus, minus = (engine.energies(positions + step * direction)[0] for step in (1e-5, -1e-5))
        assert (plus - minus) / 2e-5 == pytest.approx(-np.sum(forces * direction), rel=1e-6)


def test_bad_configurations_are_flagged(script):
    with Engine(script(LJ), replicate=(2, 2, 2)) as engine:
        positions = _clouds(engine, 6, 0.05)
        expected = engine.energies(positions)
        bad = positions.copy()
        bad[0, 3, 1] = np.nan
        bad[1, 5, 0] = np.inf
        bad[2, 7] = bad[2, 8]  # overlap
        bad[3, 0, 2] = 1e300
        energies, forces = engine.energies_forces(bad)
        assert np.all(np.isposinf(energies[:4]))
        assert np.isnan(forces[:4]).all()
        np.testing.assert_array_equal(energies[4:], expected[4:])
        assert np.isfinite(forces[4:]).all()
        assert engine.n_nonfinite == 4
        assert engine.n_evaluations == 12
        np.testing.assert_allclose(engine.energies(positions), expected, rtol=1e-12)


def test_recovers_from_a_lost_state(script):
    with Engine(script(LJ), replicate=(2, 2, 2)) as engine:
        positions = _clouds(engine, 2, 0.05)
        expected = engine.energies(positions)
        engine.lammps.command("delete_atoms group all")
        assert not np.isfinite(engine.energies(positions)).all()
        np.testing.assert_allclose(engine.energies(positions), expected, rtol=1e-12)


def test_triclinic_and_skewed_cells(script):
    path = script(LJ)
    with Engine(path) as engine:
        cell = engine.cell
        cell[1, 0], cell[2, 0], cell[2, 1] = 0.3, -0.2, 0.25
        engine.set_cell(cell)
        positions = engine.sites + 0.03 * np.random.default_rng(0).standard_normal((2, engine.structure.n_atoms, 3))
        _check_against_plain(engine, path, positions, cell=cell)
        expected = engine.energies(positions)
        skewed = cell.copy()
        skewed[1] += 3 * cell[0]
        skewed[2] += 2 * cell[1] - 4 * cell[0]
        with Engine(path) as other:
            other.set_cell(skewed)
            np.testing.assert_allclose(other.energies(positions), expected, rtol=1e-11)


def test_primitive_skewed_script(script):
    """A primitive cell, given by read_data-like tilts far beyond half the box, equals the conventional one."""
    a = (4 / 1.28) ** (1 / 3)
    text = LJ.replace(
        "region cell block 0 2 0 2 0 2", f"region cell prism 0 {a!r} 0 {a!r} 0 {a!r} {2 * a!r} {-3 * a!r} {2 * a!r} units box"
    )
    with Engine(script(text), replicate=(2, 2, 2)) as engine, Engine(script(LJ)) as plain:
        assert engine.structure.n_atoms == 32
        assert engine.energies(engine.structure.positions[None])[0] == pytest.approx(
            plain.energies(plain.structure.positions[None])[0]
        )


def test_set_cell_refuses(script):
    with Engine(script(LJ)) as engine:
        with pytest.raises(CrystalError, match="lower triangular"):
            engine.set_cell(engine.cell + np.triu(np.ones((3, 3)), 1))
        with pytest.raises(CrystalError, match="positive"):
            engine.set_cell(-engine.cell)
        with pytest.raises(ValueError, match="shape"):
            engine.energies(engine.sites)


def test_virial_pressure_is_the_volume_derivative(script):
    with Engine(script(LJ)) as engine:
        fractional = engine.structure.fractional
        step, cell = 1e-5, engine.cell
        positions = _clouds(engine, 2, 0.03)
        pressure = engine.virial_pressure(positions)
        displaced = (positions - engine.structure.positions) @ np.linalg.inv(cell)
        energies = []
        for scale in (1 + step, 1 - step):
            engine.set_cell(scale * cell)
            energies.append(engine.energies((fractional + displaced) @ (scale * cell)))
        volume = engine.structure.volume
        slope = (energies[0] - energies[1]) / (volume * ((1 + step) ** 3 - (1 - step) ** 3))
        np.testing.assert_allclose(pressure, -slope, rtol=1e-6)
        engine.set_cell(cell)
        assert engine.energies(positions).shape == (2,)


def test_energy_fixes_count(script):
    spring = LJ + "fix tether all spring/self 40.0\nfix_modify tether energy yes\n"
    path = script(spring)
    with Engine(path) as engine, Engine(script(LJ, "in.free")) as free:
        positions = _clouds(engine, 3, 0.05)
        extra = 20.0 * np.sum((positions - engine.structure.positions) ** 2, axis=(1, 2))
        np.testing.assert_allclose(engine.energies(positions) - free.energies(positions), extra, rtol=1e-8)
        assert engine.removed_fixes == []


def test_relaxed_positions(script):
    with Engine(script(LJ + "displace_atoms all random 0.05 0.05 0.05 7\n")) as engine:
        before = engine.energies(engine.sites[None])
        relaxed = at_rest(engine, 1e-3).positions
        energy, forces = engine.energies_forces(relaxed[None])
        assert energy[0] / 32 == pytest.approx(-5.19, abs=0.05) or energy[0] < before[0]
        assert np.abs(forces).max() < 1e-3
        assert np.abs(relaxed - engine.sites).max() < 0.3
        np.testing.assert_allclose(engine.energies(engine.sites[None]), before, rtol=1e-12)


def test_skin_follows_the_amplitude(script):
    """A first batch of tiny displacements must not leave a skin that thermal ones never fit in."""
    with Engine(INPUTS / "in.mw_cubic", replicate=(2, 2, 2)) as engine:
        engine.energies(_clouds(engine, 20, 1e-4))
        small = engine.skin
        expected = engine.energies(_clouds(engine, 40, 0.15, seed=8))
        assert small == 1.0
        assert small < engine.skin <= 4.0
        engine.keep_neighbour_skin(_clouds(engine, 20, 1e-4))
        assert engine.skin == 1.0
        np.testing.assert_allclose(engine.energies(_clouds(engine, 40, 0.15, seed=8)), expected, rtol=1e-12)


def test_flags():
    flags = LammpsFlags(log="a", screen="b", suffix=("omp",), package=(("omp", "1"),), kokkos=("on",), echo="none", nocite=False)
    words = "-log a -screen b -echo none -kokkos on -suffix omp -package omp 1"
    assert " ".join(flags.cmdargs()) == words
    with pytest.raises(ConfigError, match="LAMMPS does not start"):
        Engine(INPUTS / "in.lj_fcc", flags=LammpsFlags(suffix=("gpu",), package=(("gpu", "1"),)))


def test_potential_that_cannot_be_evaluated(script):
    with pytest.raises(PotentialError, match="pair coeffs"):
        Engine(script(LJ.replace("pair_coeff 1 1 1.0 1.0", "")))
    with pytest.raises(PotentialError, match="masses"):
        Engine(script(LJ.replace("mass 1 1.0", "")))
    with pytest.raises(PotentialError, match="finite energy"):
        Engine(script(LJ + "create_atoms 1 box\n"))
