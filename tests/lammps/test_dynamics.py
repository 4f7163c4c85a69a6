# SPDX-License-Identifier: GPL-2.0-or-later
"""Molecular dynamics: its frames are the engine's energies, it samples what it says, and it leaves no trace in the engine."""

import numpy as np
import pytest
from lammps_scripts import INPUTS, LJ, SALT
from scipy.stats import chi2, t

from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical, FrenkelLadd, IsothermalIsobaric
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import CrystalError, StateError

CASES = {
    "lj": (LJ, 0.5, 0.004, 0.5),
    "salt": (SALT.format(kspace="pppm"), 300.0, 0.002, 0.2),
    "sic": (INPUTS / "in.sic", 300.0, 0.001, 0.1),
}
ENSEMBLES = {
    "canonical": lambda temperature, damp: Canonical(temperature, damp),
    "half": lambda temperature, damp, constants=(5.0,): FrenkelLadd(temperature, damp, 0.5, constants),
    "springs": lambda temperature, damp, constants=(50.0,): FrenkelLadd(temperature, damp, 0.0, constants),
    "iso": lambda temperature, damp: IsothermalIsobaric(temperature, 20.0, "iso", damp, 10 * damp),
    "aniso": lambda temperature, damp: IsothermalIsobaric(temperature, 20.0, "aniso", damp, 10 * damp),
    "tri": lambda temperature, damp: IsothermalIsobaric(temperature, 20.0, "tri", damp, 10 * damp),
}


@pytest.fixture
def load(tmp_path):
    """An engine, with temperature, time step and damping time for its crystal."""

    def make(name, replicate=(1, 1, 1)):
        source, *numbers = CASES[name]
        if isinstance(source, str):
            path = tmp_path / "in.script"
            path.write_text(source)
            source = path
        return Engine(source, replicate=replicate), *numbers

    return make


def clouds(engine, n=3, spread=0.02):
    return engine.sites + spread * np.random.default_rng(1).standard_normal((n, engine.structure.n_atoms, 3))


def check_frames(engine, snapshots, tolerance=1e-10):
    """Energies and pressures of the frames are those the engine gives their positions."""
    structure, reach = engine.structure, 0.5 * nearest(engine)
    for snapshot in snapshots:
        engine.set_cell(snapshot.cell, snapshot.origin)
        assert engine.energies(snapshot.positions[None])[0] == pytest.approx(snapshot.energy, rel=tolerance)
        pressure = engine.virial_pressure(snapshot.positions[None])[0]
        assert pressure == pytest.approx(snapshot.virial_pressure, rel=1e3 * tolerance)
        # continuous: near the sites of its own cell, up to the drift of the centre
        displacements = snapshot.positions - engine.sites
        assert np.abs(displacements - displacements.mean(axis=0)).max() < reach
    engine.set_cell(structure.cell, structure.origin)


def nearest(engine):
    distances = np.linalg.norm(engine.sites[1:] - engine.sites[0], axis=1)
    return distances.min()


@pytest.mark.parametrize("name", ENSEMBLES)
@pytest.mark.parametrize("crystal", CASES)
def test_frames_and_restored_engine(crystal, name, load):
    engine, temperature, timestep, damp = load(crystal)
    with engine:
        positions = clouds(engine)
        energies, forces = engine.energies_forces(positions)
        pressures = engine.virial_pressure(positions)
        ids = {kind: engine.lammps.available_ids(kind) for kind in ("fix", "compute", "variable", "group")}
        old_timestep, triclinic, cell = engine.lammps.extract_global("dt"), engine.triclinic, engine.cell
        constants = [(5.0, 9.0)[: len(engine.structure.masses)]] if name in ("half", "springs") else []
        with Dynamics(engine, ENSEMBLES[name](temperature, damp, *constants), timestep=timestep, seed=5) as dynamics:
            snapshots = [dynamics.run(steps) for steps in (1, 7, 0, 60)]
        assert [snapshot.steps for snapshot in snapshots] == [1, 8, 8, 68]
        assert snapshots[2].energy == snapshots[1].energy
        again, again_forces = engine.energies_forces(positions)
        np.testing.assert_allclose(again, energies, rtol=1e-10)
        np.testing.assert_allclose(again_forces, forces, atol=1e-9 * np.abs(forces).max())
        np.testing.assert_allclose(engine.virial_pressure(positions), pressures, rtol=1e-8)
        assert {kind: engine.lammps.available_ids(kind) for kind in ids} == ids
        assert (engine.lammps.extract_global("dt"), engine.triclinic) == (old_timestep, triclinic)
        np.testing.assert_array_equal(engine.cell, cell)
        fixed_cell = name in ("canonical", "half", "springs")
        assert (snapshots[-1].cell == cell).all() == fixed_cell
        # a run keeps the mesh of its first cell, each evaluation chooses one; the script asks for an accuracy of 1e-6
        check_frames(engine, snapshots, 1e-10 if fixed_cell or crystal != "salt" else 1e-7)


@pytest.mark.parametrize("ensemble", ["canonical", "half", "tri"])
def test_tilted_cell_beyond_half_a_box(ensemble, tmp_path):
    """LAMMPS reduces large tilts; the frames keep the engine's cell vectors, which belong to its fractional coordinates."""
    a = (4 / 1.28) ** (1 / 3)
    prism = f"region cell prism 0 {a!r} 0 {a!r} 0 {a!r} {2 * a!r} {-3 * a!r} {2 * a!r} units box"
    script = tmp_path / "in.skewed"
    script.write_text(LJ.replace("region cell block 0 2 0 2 0 2", prism))
    with Engine(script, replicate=(2, 2, 2)) as engine:
        before, cell = engine.energies(clouds(engine)), engine.cell
        with Dynamics(engine, ENSEMBLES[ensemble](0.5, 0.5), timestep=0.004, seed=5) as dynamics:
            snapshots = [dynamics.run(50) for _ in range(3)]
            state = dynamics.state()
        np.testing.assert_allclose(engine.energies(clouds(engine)), before, rtol=1e-10)
        assert cell[1, 0] > 0.9 * cell[0, 0]
        assert np.abs(snapshots[-1].cell - cell).max() < 0.2 * nearest(engine)
        check_frames(engine, snapshots)
        with Dynamics(engine, ENSEMBLES[ensemble](0.5, 0.5), timestep=0.004, seed=6, start=state) as dynamics:
            np.testing.assert_allclose(dynamics.run(0).positions, snapshots[-1].positions, atol=1e-9)
        np.testing.assert_allclose(engine.energies(clouds(engine)), before, rtol=1e-10)


def test_restored_after_an_ensemble_that_does_not_start(load):
    engine, temperature, timestep, damp = load("lj")
    with engine:
        before = engine.energies(clouds(engine))
        unknown = FrenkelLadd(temperature, damp, 0.5, (1.0, 2.0, 3.0))  # one type more than the script has
        with pytest.raises(StateError, match="each of 1 atom types"), Dynamics(engine, unknown, timestep=timestep, seed=5):
            pass
        np.testing.assert_allclose(engine.energies(clouds(engine)), before, rtol=1e-10)


@pytest.mark.parametrize("ensemble", ["canonical", "half", "iso"])
@pytest.mark.parametrize("factor", [10.0, 1000.0])
def test_too_large_timestep(ensemble, factor, load):
    engine, temperature, timestep, damp = load("lj")
    with engine:
        before = engine.energies(clouds(engine))
        with Dynamics(engine, ENSEMBLES[ensemble](temperature, damp), timestep=factor * timestep, seed=5) as dynamics:
            with pytest.raises(CrystalError, match="time step smaller than") as error:
                dynamics.run(2000)
            with pytest.raises(CrystalError, match="failed before"):
                dynamics.run(1)
        assert "\n" not in str(error.value)
        np.testing.assert_allclose(engine.energies(clouds(engine)), before, rtol=1e-10)
        with Dynamics(engine, Canonical(temperature, damp), timestep=timestep, seed=5) as dynamics:
            assert np.isfinite(dynamics.run(10).energy)


@pytest.mark.parametrize("coupling", [1.0, 0.5])
def test_fixes_of_the_script_belong_to_the_potential(coupling, tmp_path):
    """Their energy is reported and their forces are scaled; springs of our own with the same anchors then add to them."""
    script = tmp_path / "in.tethered"
    script.write_text(LJ + "fix tether all spring/self 40.0\nfix_modify tether energy yes\n")
    with Engine(script) as engine:
        before = engine.energies(clouds(engine))
        ensemble = FrenkelLadd(0.5, 1e12, coupling, (40.0,))
        with Dynamics(engine, ensemble, timestep=0.004, seed=5) as dynamics:
            snapshots = [dynamics.run(20) for _ in range(3)]
            forces = engine.lammps.numpy.extract_atom("f")[: engine.structure.n_atoms].copy()
        check_frames(engine, snapshots)
        np.testing.assert_allclose(engine.energies(clouds(engine)), before, rtol=1e-10)
        _, full = engine.energies_forces(snapshots[-1].positions[None])
        springs = -40.0 * (snapshots[-1].positions - engine.sites)
        np.testing.assert_allclose(forces, coupling * full[0] + (1 - coupling) * springs, atol=1e-8 * np.abs(full).max())


def test_input_is_checked(load):
    with pytest.raises(StateError, match="positive temperature"):
        Canonical(0.0, 1.0)
    with pytest.raises(StateError, match="coupling from 0"):
        FrenkelLadd(1.0, 1.0, 1.5, (1.0,))
    with pytest.raises(StateError, match="iso, aniso, tri"):
        IsothermalIsobaric(1.0, 0.0, "xy", 1.0, 1.0)
    engine, *_ = load("lj")
    with engine, pytest.raises(StateError, match="time step"):
        Dynamics(engine, Canonical(1.0, 1.0), timestep=0.0, seed=1)


@pytest.mark.parametrize("ensemble", ["canonical", "half", "tri"])
def test_same_seed_same_run(ensemble, load):
    """In one engine, in another one, and however the run is cut into pieces."""
    runs = []
    for pieces in ((30, 30), (60,), (7, 53)):
        engine, temperature, timestep, damp = load("lj", (2, 2, 2))
        with engine:
            for _ in range(2):
                with Dynamics(engine, ENSEMBLES[ensemble](temperature, damp), timestep=timestep, seed=9) as dynamics:
                    runs.append([dynamics.run(steps) for steps in pieces][-1])
            with Dynamics(engine, ENSEMBLES[ensemble](temperature, damp), timestep=timestep, seed=10) as dynamics:
                assert np.abs(dynamics.run(60).positions - runs[-1].positions).max() > 1e-3
    for run in runs[1:]:
        np.testing.assert_allclose(run.positions, runs[0].positions, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_goes_on_from_a_state(ensemble, load):
    """Without noise (a damping time of 1e12) the run goes on as if it had not stopped, also with atoms that drifted far."""
    engine, temperature, timestep, damp = load("lj", (2, 2, 2))
    kind = ENSEMBLES[ensemble](temperature, 1e12)
    with engine:
        with Dynamics(engine, kind, timestep=timestep, seed=9) as dynamics:
            first = dynamics.run(40)
            state = dynamics.state()
            expected = dynamics.run(40)
        np.testing.assert_allclose(state.positions, first.positions, atol=1e-12)
        with Dynamics(engine, kind, timestep=timestep, seed=10, start=state) as dynamics:
            assert dynamics.run(0).energy == pytest.approx(first.energy, rel=1e-12)
            np.testing.assert_allclose(dynamics.run(40).positions, expected.positions, rtol=0, atol=1e-6)
        if ensemble in ("half", "springs"):
            return
        drift = np.array([3.3, -2.2, 7.1]) @ engine.cell
        moved = type(state)(state.positions + drift, state.velocities, state.cell, state.origin)
        with Dynamics(engine, kind, timestep=timestep, seed=10, start=moved) as dynamics:
            np.testing.assert_allclose(dynamics.run(40).positions, expected.positions + drift, rtol=0, atol=1e-6)


def test_springs_only_follow_the_einstein_law(load):
    """Two types with different masses and constants, at omega dt = 0.5: each coordinate has variance kT / k.

    Frames ten damping times apart are independent to e^-10; per type the sum of squares is in its chi-square range of
    probability 1 - 1e-6. A discretisation with an error of order (omega dt)^2, here 6 %, is 5 standard deviations off.
    """
    engine, temperature, _, _ = load("sic")
    with engine:
        kt = temperature * engine.units.boltzmann
        masses, constants = engine.structure.masses, np.array([8.0, 3.0])
        omega = np.sqrt(constants / (masses * engine.units.mvv2e)).max()
        timestep, damp = 0.5 / omega, 1.0 / omega
        with Dynamics(engine, FrenkelLadd(temperature, damp, 0.0, constants), timestep=timestep, seed=3) as dynamics:
            dynamics.run(200)
            snapshots = [dynamics.run(40) for _ in range(600)]
        displacements = np.array([snapshot.positions for snapshot in snapshots]) - engine.sites
        for kind, constant in enumerate(constants, 1):
            squares = constant * displacements[:, engine.structure.types == kind] ** 2 / kt
            assert chi2.ppf(5e-7, squares.size) < squares.sum() < chi2.isf(5e-7, squares.size), squares.mean()
        assert np.mean([snapshot.temperature for snapshot in snapshots]) == pytest.approx(temperature, rel=0.03)


def test_start_from_the_sites(load):
    """At rest as a whole and at twice the temperature: sum of squares in its chi-square range of probability 1 - 1e-6."""
    engine, temperature, timestep, damp = load("sic", (2, 2, 2))
    with engine:
        with Dynamics(engine, Canonical(temperature, damp), timestep=timestep, seed=8) as dynamics:
            snapshot, state = dynamics.run(0), dynamics.state()
        np.testing.assert_allclose(snapshot.positions, engine.sites, atol=1e-12)
        masses = engine.structure.masses[engine.structure.types - 1][:, None]
        momenta = masses * state.velocities
        assert np.abs(momenta.sum(axis=0)).max() < 1e-10 * np.abs(momenta).max()
        squares = (momenta**2 / masses).sum() * engine.units.mvv2e * engine.units.beta(2 * temperature)
        freedom = 3 * (len(masses) - 1)
        assert chi2.ppf(5e-7, freedom) < squares < chi2.isf(5e-7, freedom)
        assert snapshot.temperature / (2 * temperature) == pytest.approx(squares / (freedom + 3), rel=1e-6)


def test_older_lammps_has_the_same_integrator(load, monkeypatch):
    """`fix langevin ... gjf vfull` with `fix nve`, which stands in for `fix gjf`, makes the same steps."""
    engine, temperature, timestep, damp = load("lj")
    ensemble, snapshots = Canonical(temperature, damp), []
    with engine:
        for has_gjf in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(type(engine.lammps), "has_style", lambda self, kind, name, has_gjf=has_gjf: has_gjf, raising=False)
                with Dynamics(engine, ensemble, timestep=timestep, seed=2) as dynamics:
                    snapshots.append(dynamics.run(50))
    np.testing.assert_allclose(snapshots[0].positions, snapshots[1].positions, atol=1e-9)


def test_mean_pressure_is_the_target(load):
    """Virial plus kinetic part of an LJ crystal: Student's t of 20 blocks below 6, false alarm 1e-5."""
    engine, temperature, timestep, damp = load("lj")
    target = 12.0
    with engine:
        n = engine.structure.n_atoms
        ensemble = IsothermalIsobaric(temperature, target, "iso", damp, 5 * damp)
        with Dynamics(engine, ensemble, timestep=timestep, seed=4) as dynamics:
            dynamics.run(2000)
            pressures = []
            for _ in range(1000):
                snapshot = dynamics.run(10)
                kinetic = (n - 1) * snapshot.temperature / abs(np.linalg.det(snapshot.cell))
                pressures.append(snapshot.virial_pressure + kinetic)
        blocks = np.reshape(pressures, (20, -1)).mean(axis=1)
        error = blocks.std(ddof=1) / np.sqrt(len(blocks))
        assert error < 0.2
        assert abs(blocks.mean() - target) / error < t.isf(5e-6, 19), (blocks.mean(), error)
