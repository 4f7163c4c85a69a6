# SPDX-License-Identifier: GPL-2.0-or-later
"""What is lent comes back as it was, whatever was done with it: the seam between the engine and those who drive LAMMPS themselves."""

import contextlib

import numpy as np
import pytest
from lammps_scripts import INPUTS, LJ, SALT

from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical, FrenkelLadd, IsothermalIsobaric
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import at_rest, relax, static_state
from lammps_bg.errors import CrystalError, PotentialError

EDGE = (4 / 1.28) ** (1 / 3)
TILTS = f"{0.2 * EDGE!r} {-0.3 * EDGE!r} {1.4 * EDGE!r}"  # beyond half an edge: LAMMPS gets a smaller one
PRISM = f"region cell prism 0 {EDGE!r} 0 {EDGE!r} 0 {EDGE!r} {TILTS} units box"
SCRIPTS = {
    "lj": LJ + "fix tether all spring/self 1.0\nfix_modify tether energy yes\nvelocity all create 1.0 1\n",
    "tilted": LJ.replace("region cell block 0 2 0 2 0 2", PRISM).replace("2.2", "1.4"),
    "salt": SALT.format(kspace="ewald"),
    "sic": INPUTS / "in.sic",
}


def misuse(lent):
    """Everything that a borrower can change."""
    lent.set_cell(1.03 * lent.cell()[0], lent.cell()[1])
    lent.make_triclinic()
    for command in (
        "timestep 1e-4",
        "group mine id 1 2",
        "variable mine equal vol",
        "compute mine all pressure NULL virial",
        "fix mine all npt temp 1.0 1.0 0.1 tri 5.0 5.0 1.0 flip no",
        "neighbor 0.9 bin",
        "neigh_modify delay 5 every 5 check no",
        "run_style respa 2 2",
        "min_style fire",
        "thermo_style custom step pe ke c_mine",
    ):
        lent.command(command)
    lent.hold()
    lent.write_velocities(0.3 * np.random.default_rng(2).standard_normal(lent.gather("v").shape))
    lent.library.command("run 20 post no")


def everything(engine, positions):
    """What must be the same to the last bit."""
    lammps = engine.lammps
    ids = [tuple(lammps.available_ids(kind)) for kind in ("fix", "compute", "variable", "group")]
    settings = [lammps.extract_setting("triclinic"), lammps.extract_global("dt"), *ids, engine.skin]
    energies, forces = engine.energies_forces(positions)
    return settings, [energies, forces, engine.cell, engine.origin, engine.sites, engine._gather("v")]


@pytest.fixture(params=SCRIPTS)
def engine(request, tmp_path):
    source = SCRIPTS[request.param]
    if isinstance(source, str):
        (tmp_path / "in.script").write_text(source)
        source = tmp_path / "in.script"
    with Engine(source) as made:
        yield made


def borrow_and(engine, what):
    with engine.borrowed() as lent:
        what(lent)


def fail(lent):
    misuse(lent)
    raise KeyError("of the borrower")


def lose(lent):
    """Atoms are lost: LAMMPS needs another instance."""
    misuse(lent)
    lent.library.command("delete_atoms group all")


def unstable(engine):
    with Dynamics(engine, IsothermalIsobaric(300.0, 0.0, "iso", 0.1, 1.0), timestep=100.0, seed=1) as dynamics:
        dynamics.run(200)


def relax_or_not(engine):
    with contextlib.suppress(CrystalError):  # the cutoff of the first crystal is too rough for it
        relax(engine, "tri", 0.0)


CASES = {
    "nothing": (lambda engine: borrow_and(engine, lambda lent: None), None),
    "misused": (lambda engine: borrow_and(engine, misuse), None),
    "exception": (lambda engine: borrow_and(engine, fail), KeyError),
    "lost": (lambda engine: borrow_and(engine, lose), None),
    "refused": (lambda engine: borrow_and(engine, lambda lent: lent.command("fix 1 all nothing")), PotentialError),
    "unstable": (unstable, CrystalError),
    "static": (static_state, None),
    "rest": (lambda engine: at_rest(engine, 1e-6), None),
    "relax": (lambda engine: relax(engine, "none", 0.0), None),
    "relax the cell": (relax_or_not, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_all_is_as_before(engine, case):
    positions = engine.sites + 0.03 * np.random.default_rng(1).standard_normal((3, engine.structure.n_atoms, 3))
    settings, arrays = everything(engine, positions)
    act, error = CASES[case]
    with pytest.raises(error) if error else contextlib.nullcontext():
        act(engine)
    # a new instance has the velocities of the script, which the tether of the first one does not feel
    after, arrays_after = everything(engine, positions)
    assert after == settings
    for one, other in zip(arrays, arrays_after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "ensemble", [Canonical(0.5, 0.5), FrenkelLadd(0.5, 0.5, 0.5, (5.0,)), IsothermalIsobaric(0.5, 20.0, "tri", 0.5, 5.0)]
)
def test_dynamics_leaves_no_trace(ensemble, tmp_path):
    (tmp_path / "in.script").write_text(SCRIPTS["lj"])
    with Engine(tmp_path / "in.script") as engine:
        positions = engine.sites + 0.03 * np.random.default_rng(1).standard_normal((3, engine.structure.n_atoms, 3))
        settings, arrays = everything(engine, positions)
        with contextlib.suppress(KeyError), Dynamics(engine, ensemble, timestep=0.004, seed=1) as dynamics:
            dynamics.run(100)
            raise KeyError
        after, arrays_after = everything(engine, positions)
        assert after == settings
        for one, other in zip(arrays, arrays_after, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_scripts_own_minimiser_comes_back(tmp_path):
    script = LJ + "min_style sd\nmin_modify dmax 0.05\ndisplace_atoms all random 0.05 0.05 0.05 7\n"
    (tmp_path / "in.script").write_text(script)
    with Engine(tmp_path / "in.script") as engine:
        assert engine.reader.minimiser == ["min_style sd", "min_modify dmax 0.05"]
        first = at_rest(engine, 1e-3)
        relax(engine, "iso", 0.0)
        np.testing.assert_array_equal(at_rest(engine, 1e-3).positions, first.positions)
