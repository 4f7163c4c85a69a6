# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that LAMMPS gets, word for word, without LAMMPS: reading a script, evaluating, dynamics of every kind, relaxing.

A change of a stream is a change of the physics until proven otherwise. `pytest tests/unit/test_golden_commands.py --update-golden` writes
the files anew; a missing one is a failure.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from recorded_lammps import RecordedLammps, UnknownCommand

from lammps_bg.engine import atoms
from lammps_bg.engine.dump import DumpWriter, read_dump
from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical, FrenkelLadd, IsothermalIsobaric
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import at_rest, relax, static_state

GOLDEN = Path(__file__).parents[1] / "golden"

CUBIC = """units lj
atom_style atomic
variable T index 0.5
lattice fcc 1.0
region cell block 0 1 0 1 0 1
create_box 1 cell
create_atoms 1 box
mass 1 1.0
pair_style lj/cut ${rc}
pair_coeff 1 1 1.0 1.0
neighbor 0.4 bin
timestep 0.002
fix 1 all nvt temp ${T} ${T} 0.1
thermo 100
dump d all custom 10 my.dump id type x y z
run 1000
"""
TILTED = """units lj
atom_style charge
boundary p p p
read_data hexagonal.data
read_dump hexagonal.dump 10 x y z
set type 1 charge 1.0
set type 2 charge -1.0
pair_style lj/cut/coul/long 2.5
pair_coeff * * 1.0 1.0
kspace_style pppm 1e-5
min_style fire
fix anchor all spring/self 1.0
fix_modify anchor energy yes
"""
CHARGED = CUBIC.replace("lj/cut ${rc}", "lj/cut/coul/long 2.5") + "kspace_style ewald 1e-4\nkspace_modify gewald 0.3\n"
FCC = 1.5 * np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
HEXAGONAL = np.array([[2.0, 0.0, 0.0], [-1.0, 1.75, 0.0], [0.0, 0.0, 3.0]])


@pytest.fixture(autouse=True)
def no_lammps(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)


@pytest.fixture
def crystal(tmp_path, monkeypatch):
    """An engine of one of the scripts, and the recorder behind it."""
    engines = []

    def make(name, **facts):
        text, cell, positions, types = {
            "cubic": (CUBIC, 1.5 * np.eye(3), FCC, [1, 1, 1, 1]),
            "charged": (CHARGED, 1.5 * np.eye(3), FCC, [1, 1, 1, 1]),
            "tilted": (TILTED, HEXAGONAL, np.array([[0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]) @ HEXAGONAL, [1, 2]),
        }[name]
        recorder = RecordedLammps(cell, positions, types, **facts)
        monkeypatch.setattr(atoms, "create", lambda flags, communicator: recorder)
        monkeypatch.chdir(tmp_path)
        for file, content in {"in.crystal": text, "hexagonal.data": "", "hexagonal.dump": ""}.items():
            (tmp_path / file).write_text(content)
        variables = {"rc": ["2.5"], "T": ["0.7"]} if name != "tilted" else {}
        # without the trials of fixes, which need an instance of their own
        engines.append(Engine(tmp_path / "in.crystal", variables=variables, stored=True))
        return engines[-1], recorder

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def agrees(request):
    """Compares a stream with its golden file, or writes that."""

    def compare(name, stream):
        file, text = GOLDEN / f"{name}.txt", "\n".join(stream) + "\n"
        if request.config.getoption("--update-golden"):
            file.write_text(text)
        assert file.exists(), f"expected the golden stream {file}, which is missing; write it with --update-golden and read it"
        assert file.read_text().splitlines() == text.splitlines()

    return compare


@dataclass(frozen=True)
class Run:
    """A run of dynamics in two pieces."""

    crystal: str
    ensemble: object
    has_gjf: bool = True


RUNS = {
    "nvt": Run("cubic", Canonical(0.7, 0.5)),
    "nvt_before_2025": Run("cubic", Canonical(0.7, 0.5), has_gjf=False),
    "nvt_tilted": Run("tilted", Canonical(0.7, 0.5)),
    "npt_iso": Run("cubic", IsothermalIsobaric(0.7, 1.25, "iso", 0.5, 5.0)),
    "npt_aniso": Run("cubic", IsothermalIsobaric(0.7, 1.25, "aniso", 0.5, 5.0)),
    "npt_tri": Run("cubic", IsothermalIsobaric(0.7, 1.25, "tri", 0.5, 5.0)),
    "npt_tri_kspace": Run("charged", IsothermalIsobaric(0.7, 1.25, "tri", 0.5, 5.0)),
    "npt_tri_tilted": Run("tilted", IsothermalIsobaric(0.7, 1.25, "tri", 0.5, 5.0)),
    "window_springs": Run("cubic", FrenkelLadd(0.7, 0.5, 0.0, (3.0,))),
    "window_half": Run("cubic", FrenkelLadd(0.7, 0.5, 0.5, (3.0,))),
    "window_crystal": Run("cubic", FrenkelLadd(0.7, 0.5, 1.0, (3.0,))),
    "window_two_springs": Run("tilted", FrenkelLadd(0.7, 0.5, 0.25, (3.0, 4.0))),
    "window_shared_spring": Run("tilted", FrenkelLadd(0.7, 0.5, 0.25, (3.0, 3.0))),
}


@pytest.mark.parametrize("name", RUNS)
def test_dynamics(name, crystal, agrees):
    run = RUNS[name]
    engine, recorder = crystal(run.crystal, has_gjf=run.has_gjf)
    recorder.stream.clear()
    with Dynamics(engine, run.ensemble, timestep=0.004, seed=11) as dynamics:
        dynamics.run(100)
        dynamics.run(50)
    agrees(name, recorder.stream)


def test_dynamics_goes_on(crystal, agrees):
    engine, recorder = crystal("cubic")
    with Dynamics(engine, RUNS["npt_iso"].ensemble, timestep=0.004, seed=11) as dynamics:
        dynamics.run(100)
        state = dynamics.state()
    recorder.stream.clear()
    with Dynamics(engine, RUNS["npt_iso"].ensemble, timestep=0.004, seed=12, start=state) as dynamics:
        dynamics.run(50)
    agrees("npt_goes_on", recorder.stream)


@pytest.mark.parametrize("free", ["none", "iso", "xy", "aniso", "tri"])
@pytest.mark.parametrize("name", ["cubic", "tilted"])
def test_relax(name, free, crystal, agrees):
    engine, recorder = crystal(name)
    recorder.stream.clear()
    relax(engine, free, 0.0 if free == "none" else 2.5)
    agrees(f"relax_{free}_{name}", recorder.stream)


def test_at_rest_and_static_state(crystal, agrees):
    engine, recorder = crystal("cubic")
    recorder.stream.clear()
    static_state(engine)
    at_rest(engine, 1e-3)
    agrees("at_rest", recorder.stream)


@pytest.mark.parametrize("name", ["cubic", "tilted"])
def test_reading_a_script(name, crystal, agrees):
    """What defines the crystal is sent; values by -var go before those of the script, dynamics and output are left out."""
    _, recorder = crystal(name)
    agrees(f"script_{name}", recorder.stream)


@dataclass(frozen=True)
class Dumped:
    """What the writer of dump files needs."""

    supercell: np.ndarray
    origin: np.ndarray
    types: np.ndarray
    labels: tuple[str, ...]
    atom_ids: np.ndarray


def test_reading_dumps(crystal, agrees, tmp_path):
    """Frames near the sites use their neighbour list, others one of their own, and each brings its cell."""
    engine, recorder = crystal("cubic")
    structure = engine.structure
    dumped = Dumped(structure.cell, structure.origin, structure.types, structure.labels, engine.atom_ids)
    with DumpWriter(tmp_path / "frames.dump", dumped, units="lj") as writer:
        writer.write(0, engine.sites + 0.01, 0.0)
        writer.write(1, engine.sites + np.array([0.4, 0.0, 0.0]), 0.0)
        writer.write(2, 1.1 * engine.sites, 0.0, cell=1.1 * structure.cell)
    recorder.stream.clear()
    for frame in read_dump(tmp_path / "frames.dump"):
        engine.set_cell(frame.cell, frame.origin)
        engine.energies_forces(frame.positions[np.argsort(frame.ids)][None])
        engine.virial_pressure(frame.positions[None])
    agrees("dump_frames", recorder.stream)


def test_the_recorder_knows_what_it_records():
    with pytest.raises(UnknownCommand, match="`fly 1 2`"):
        RecordedLammps(np.eye(3), np.zeros((1, 3)), [1]).command("fly 1 2")


def test_every_golden_file_has_its_test():
    names = {*RUNS, "npt_goes_on", "at_rest", "dump_frames", "script_cubic", "script_tilted"}
    names |= {f"relax_{free}_{name}" for free in ("none", "iso", "xy", "aniso", "tri") for name in ("cubic", "tilted")}
    assert {file.stem for file in GOLDEN.glob("*.txt")} == names


def test_the_engine_is_imported_without_lammps():
    code = "import sys; sys.modules['lammps'] = None; import lammps_bg.engine.relaxed_script, lammps_bg.engine.dynamics, lammps_bg.engine.dump"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
