# SPDX-License-Identifier: GPL-2.0-or-later
"""Units of any size, minimisers that stall, forces that are no slope, atoms that differ in more than type, and shapes that are no crystal."""

import json
import logging
import math
import re

import numpy as np
import pytest
from lammps_scripts import LJ

from lammps_bg.cli import main
from lammps_bg.config import BaseConfig, MdConfig
from lammps_bg.crystal.connection import connection
from lammps_bg.crystal.identification import StructureIdentifier
from lammps_bg.crystal.scale import natural_unit, periodic_pairs
from lammps_bg.crystal.structure import Structure, told_apart
from lammps_bg.crystal.symmetry import find_unit_cell
from lammps_bg.crystal.system import Crystal
from lammps_bg.engine import relaxation
from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import at_rest, descend, relax, suits_minimiser
from lammps_bg.errors import CrystalError
from lammps_bg.study.check import MISMATCH, explained, force_error
from lammps_bg.study.entries import conventions_entry
from lammps_bg.study.fitting import fit_base, reference
from lammps_bg.study.md import MDSettings
from lammps_bg.study.problem import Problem, ScriptRequest

KB, DALTON, ANGSTROM = 1.380649e-23, 1.66053907e-27, 1e-10
EPSILON, SIGMA, LATTICE, MASS, KELVIN = 1.65423e-21, 3.405, 5.376, 39.948 * DALTON, 60.0  # argon: J, Angstrom, kg
# what an Angstrom, a joule and a kilogram are in each style
STYLES = {
    "lj": (1 / SIGMA, 1 / EPSILON, 1 / MASS),
    "metal": (1.0, 1 / 1.602176634e-19, 1 / DALTON),
    "real": (1.0, 6.02214076e23 / 4184, 1 / DALTON),
    "si": (1e-10, 1.0, 1.0),
    "cgs": (1e-8, 1e7, 1e3),
    "electron": (1 / 0.529177210903, 1 / 4.3597447222e-18, 1 / DALTON),
    "micro": (1e-4, 1e15, 1e15),
    "nano": (0.1, 1e21, 1e21),
}


def argon(style, extra=""):
    """The same solid argon in any unit style, with LAMMPS' own neighbour skin and time step."""
    length, energy, mass = STYLES[style]
    a = LATTICE * length
    return f"""
units {style}
variable T index {KB * KELVIN / EPSILON if style == "lj" else KELVIN!r}
variable Lambda index {SIGMA * length!r}
lattice fcc {4 / a**3 if style == "lj" else a!r}
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
mass 1 {MASS * mass!r}
pair_style lj/cut {5.0 * length!r}
pair_modify shift yes
pair_coeff * * {EPSILON * energy!r} {SIGMA * length!r}
{extra}
"""


def shaken(style):
    size = 0.1 * STYLES[style][0]
    return argon(style, f"displace_atoms all random {size!r} {size!r} {size!r} 71 units box\n")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Makes a Problem of a script's text."""
    monkeypatch.chdir(tmp_path)

    def make(text, name="in.test"):
        (tmp_path / name).write_text(text)
        return Problem.load(ScriptRequest(tmp_path / name, {}))

    return make


# ---- units


@pytest.fixture(scope="module")
def in_metal(tmp_path_factory):
    """Bound of beta F/N, and box length at zero pressure by LAMMPS' own minimiser, of argon in `units metal`."""
    folder = tmp_path_factory.mktemp("metal")
    (folder / "in.metal").write_text(argon("metal"))
    problem = Problem.load(ScriptRequest(folder / "in.metal", {}))
    assert suits_minimiser(problem.engine)
    return bound_of(problem), relax(problem.engine, "iso", 0.0).cell[0, 0]


def bound_of(problem):
    fitted = fit_base(problem, BaseConfig(iterations=1, n_samples=50), seed=1)
    return reference(problem, fitted).value(fitted.history[-1].bound * problem.crystal.n_sites)


@pytest.mark.parametrize("style", STYLES)
def test_free_energy_in_all_units(style, load, in_metal):
    problem = load(argon(style))
    assert problem.crystal.unit.space_group == "Fm-3m (225)"
    assert problem.crystal.n_basis == 4
    assert bound_of(problem) == pytest.approx(in_metal[0], abs=3e-4)


@pytest.mark.parametrize("style", ["si", "cgs", "micro", "electron", "lj"])
def test_relaxation_in_all_units(style, load, caplog, in_metal):
    with caplog.at_level(logging.WARNING):
        problem = load(shaken(style))
    moved = re.search(r"atoms relax by up to (\S+) ", caplog.text)
    assert 0.05 < float(moved[1]) / STYLES[style][0] < 0.3  # Angstrom
    length = STYLES[style][0]
    found = relax(problem.engine, "iso", 0.0)
    assert found.residual < 2e-5
    assert np.linalg.det(found.cell) ** (1 / 3) / length == pytest.approx(in_metal[1], rel=1e-5)


@pytest.mark.parametrize(("style", "second"), [("si", 1.0), ("cgs", 1.0), ("micro", 1e6)])
def test_default_time_step(style, second, load, caplog):
    problem = load(argon(style))
    with caplog.at_level(logging.WARNING):
        settings = MDSettings.resolved(MdConfig(), problem)
    assert "made for large particles" in caplog.text
    assert 3e-15 < settings.timestep / second < 2e-14
    with Dynamics(problem.engine, Canonical(KELVIN, settings.damp), timestep=settings.timestep, seed=4) as dynamics:
        temperatures = [dynamics.run(20).temperature for _ in range(30)]
    assert 30 < np.mean(temperatures[10:]) < 90  # standard error 3 K
    assert MDSettings.resolved(MdConfig(timestep=1e-15), problem).timestep == 1e-15


def test_time_step_of_the_script_is_kept(load):
    assert MDSettings.resolved(MdConfig(), load(argon("si", "timestep 2e-15\n"))).timestep == 2e-15
    assert MDSettings.resolved(MdConfig(), load(argon("metal"))).timestep == 1e-3


@pytest.mark.parametrize("given", ["", "neighbor 1e-3 bin\n"])
def test_skin_for_large_particles_is_not_used(given, load):
    problem = load(argon("si", given))
    assert 0.1e-10 < problem.engine.skin < 5e-10


@pytest.mark.slow
def test_whole_run_in_si(tmp_path, monkeypatch, in_metal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.si").write_text(argon("si"))
    words = ["base.pilot_steps=0", "base.iterations=1", "base.n_samples=50", "train.steps=5", "train.evaluate_samples=16"]
    words += ["sample.n_samples=64", "flow.width=8", "energy.source=lammps", "exact.mode=never"]
    assert main(["run", "-in", "in.si", "-out", "r", "--allow-red", *(w for word in words for w in ("--set", word))]) == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    bound = results["estimates"]["bound"]["beta_F_per_atom"]["value"]
    assert bound == pytest.approx(in_metal[0], abs=0.2)
    told = results["conventions"]["calphy"]
    assert told["add_to_calphy_kT_per_atom"] == pytest.approx(math.log(32) / 32, rel=1e-12)
    assert told["add_to_calphy"] == pytest.approx(KB * KELVIN * math.log(32) / 32, rel=1e-5)
    assert told["unit"] == "J per atom"
    assert told["text"].startswith("calphy: F + kT ln(N)/N")


def test_structures_in_si():
    """OVITO takes a box of a nanometre for none where lengths are metres."""
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = (np.array(list(np.ndindex(3, 3, 3)))[:, None] + basis).reshape(-1, 3) * 5.376e-10
    identifier = StructureIdentifier(sites, 3 * 5.376e-10 * np.eye(3))
    assert identifier.recognises
    assert identifier.types[identifier.reference_types[0]] == "FCC"


def test_natural_unit_is_exact_and_one_for_angstrom():
    assert {natural_unit(size) for size in (0.74, 1.0, 1.1, 2.35, 5.4, 7.9)} == {1.0}
    for size in (3.8e-10, 3.8e-8, 3.8e-4, 0.038, 700.0):
        assert 0.5 <= size / natural_unit(size) < 8
        assert math.frexp(natural_unit(size))[0] == 0.5
    cell = 5.4 * np.eye(3)
    sites = np.array([[0, 0, 0], [0.25, 0.25, 0.25]]) * 5.4
    small = [np.sort(periodic_pairs("d", k * cell, k * sites, k * 4.0)[0]) / k for k in (1.0, 2.0**-32)]
    np.testing.assert_array_equal(*small)


# ---- minimisers

# ice of a flexible water model, 8 molecules O H H, nearly at rest: Angstrom
ICE = np.array(
    [
        [-0.1301, 5.8621, 6.4151],
        [0.5162, 5.3311, 5.8001],
        [5.8438, 1.0289, 5.8001],
        [6.4901, 3.18, 3.2552],
        [0.5162, 3.7109, 3.8701],
        [5.8438, 2.6491, 3.87],
        [3.18, 0.498, 3.1047],
        [2.5337, 1.0288, 2.49],
        [3.8263, 5.3312, 2.49],
        [3.18, 3.18, -0.0552],
        [2.5336, 2.649, 0.5599],
        [3.8264, 3.711, 0.5599],
        [1.4498, 1.839, 1.5249],
        [0.8349, 1.308, 0.8785],
        [0.8349, 2.3699, 2.1713],
        [1.6001, 4.521, 4.8351],
        [2.215, 5.052, 4.1887],
        [2.215, 3.9901, 5.4815],
        [4.7599, 1.839, 4.8351],
        [4.145, 1.308, 4.1888],
        [4.145, 2.3699, 5.4814],
        [4.9102, 4.521, 1.5249],
        [5.5251, 5.052, 0.8786],
        [5.5251, 3.9901, 2.1712],
    ]
)
ICE_BOX = [(-0.1301, 6.4901), (0.4979, 5.8621), (-0.1302, 6.4902)]


@pytest.fixture
def ice(tmp_path):
    """A script of flexible ice, on which LAMMPS' line search stalls at once: its tables of the Coulomb forces are not smooth."""

    def rows(values):
        return "\n".join(f"{index} {row}" for index, row in enumerate(values, 1)) + "\n"

    def full(index):
        return f"{index // 3 + 1} {1 if index % 3 == 0 else 2} {-0.82 if index % 3 == 0 else 0.41}"

    oxygens = range(1, 25, 3)
    data = "ice\n\n24 atoms\n16 bonds\n8 angles\n2 atom types\n1 bond types\n1 angle types\n\n"
    data += "".join(f"{low} {high} {axis}lo {axis}hi\n" for axis, (low, high) in zip("xyz", ICE_BOX, strict=True))
    data += "\nMasses\n\n1 15.9994\n2 1.008\n\nAtoms # full\n\n"
    data += rows(" ".join([full(i), *map(str, place)]) for i, place in enumerate(ICE.tolist()))
    data += "\nBonds\n\n" + rows(f"1 {o} {o + k}" for o in oxygens for k in (1, 2))
    data += "\nAngles\n\n" + rows(f"1 {o + 1} {o} {o + 2}" for o in oxygens)
    (tmp_path / "ice.data").write_text(data)
    return """
units real
atom_style full
variable T index 200
pair_style lj/cut/coul/long 8.0
bond_style harmonic
angle_style harmonic
read_data ice.data
pair_coeff 1 1 0.155425 3.165492
pair_coeff * 2 0.0 1.0
bond_coeff 1 529.581 1.012
angle_coeff 1 37.95 113.24
kspace_style pppm 1e-5
special_bonds lj/coul 0 0 0.5
"""


def test_a_stalled_minimiser_is_not_the_end(ice, load, caplog):
    with caplog.at_level(logging.WARNING):
        problem = load(ice)
    moved = re.search(r"atoms relax by up to (\S+) Angstrom", caplog.text)
    assert 0.005 < float(moved[1]) < 0.2
    rest = at_rest(problem.engine, 1e-3)
    assert "alpha is zero" in rest.stopped
    assert rest.largest_force < 1e-3
    energy = problem.engine.energies(np.stack([problem.engine.sites, rest.positions]))
    assert energy[1] < energy[0]


def test_relax_goes_on_without_a_line_search(ice, tmp_path):
    (tmp_path / "in.ice").write_text(ice)
    with Engine(tmp_path / "in.ice") as engine:
        before = engine.energies(engine.sites[None])
        found = relax(engine, "iso", 0.0)
        assert found.residual < 1e-5
        assert abs(found.state.pressure) < 1.0  # atm, of 10^4 at first
        assert found.state.largest_force < 1e-3
        np.testing.assert_allclose(np.diag(found.cell) / np.diag(engine.cell), found.cell[0, 0] / engine.cell[0, 0], rtol=1e-12)
        np.testing.assert_allclose(engine.energies(engine.sites[None]), before, rtol=1e-8)


def test_what_stalled_is_said(ice, load, caplog, monkeypatch):
    """Where nothing works, the sentence has LAMMPS' reason and the forces that are left."""
    monkeypatch.setattr(relaxation, "descend", lambda *a, **k: descend(*a, **{**k, "most": 2}))
    with caplog.at_level(logging.WARNING):
        problem = load(ice)
    assert "LAMMPS' own stopped with 'linesearch alpha is zero', and steps along the forces stalled at " in caplog.text
    with pytest.raises(
        CrystalError, match="LAMMPS' minimiser stopped with 'linesearch alpha is zero', and steps along the forces"
    ):
        relax(problem.engine, "iso", 0.0)


def test_descent_of_a_rough_valley():
    stiffness = np.geomspace(1.0, 1e3, 40)

    def slope(x):
        g = stiffness * x * (1 + x**2) + 1e-9 * np.sin(1e6 * x)
        return g, float(np.abs(g).max())

    found = descend(slope, np.full(40, 0.3), enough=1e-7, longest=0.05)
    assert found.residual < 1e-7
    assert np.abs(found.x).max() < 1e-6


@pytest.mark.parametrize("free", ["xy", "aniso", "tri"])
def test_descent_finds_what_lammps_finds(free, load, monkeypatch):
    """The same cell as by `fix box/relax`, at a pressure, from a sheared and strained start."""
    start = argon("metal", "change_box all triclinic\nchange_box all x scale 1.02 xy final 0.3 yz final -0.2 remap units box\n")
    start = start if free == "tri" else argon("metal", "change_box all x scale 1.02 remap units box\n")
    engine = load(start).engine
    by_lammps = relax(engine, free, 500.0)
    monkeypatch.setattr(relaxation, "suits_minimiser", lambda engine: False)
    alone = relax(engine, free, 500.0)
    assert alone.converged
    assert alone.state.energy == pytest.approx(by_lammps.state.energy, rel=1e-8)
    np.testing.assert_allclose(np.abs(np.linalg.det(alone.cell)), np.abs(np.linalg.det(by_lammps.cell)), rtol=1e-6)
    # of a crystal that turns freely only lengths and angles are the same
    np.testing.assert_allclose(alone.cell @ alone.cell.T, by_lammps.cell @ by_lammps.cell.T, atol=1e-3)


# ---- forces that are no slope of the energy

ORDERED = """
units metal
atom_style charge
variable T index 300
lattice fcc 4.2
region cell block 0 2 0 2 0 2
create_box 1 cell
create_atoms 1 box
mass 1 55.845
variable plane atom "round(2*z/4.2) % 2"
variable q atom "0.6*(2*v_plane-1)"
set group all charge v_q
pair_style lj/cut/coul/long 6.0
pair_coeff 1 1 0.5 2.65
kspace_style ewald 1e-6
"""
SMOOTH = ORDERED + "pair_modify shift yes\n"
CAUSES = {
    "cutoff": (ORDERED, "`pair_modify shift yes` removes that"),
    "tables": (SMOOTH + "pair_modify tabinner 0.01 table 8\n", "`pair_modify table 0` removes that"),
    "solver": (
        SMOOTH.replace("ewald 1e-6", "ewald 2e-1") + "pair_modify table 0\n",
        "`kspace_style ewald 1e-08` in place of the present one removes",
    ),
    "both": (ORDERED + "pair_modify tabinner 0.01 table 8\n", " and `pair_modify "),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_of_a_mismatch_is_found_and_the_advice_works(cause, load):
    text, expected = CAUSES[cause]
    problem = load(text)
    assert force_error(problem, 1) > MISMATCH
    said = explained(problem, 1)
    assert expected in said
    assert "gives" in said
    advice = re.findall(r"`([^`]*)`", said.split("removes that")[0])
    for line in advice:
        text = re.sub(r"kspace_style.*", line, text) if line.startswith("kspace") else text + line + "\n"
    assert force_error(load(text, "in.followed"), 1) < MISMATCH


def test_a_coarse_grid_is_named_where_a_shift_changes_the_energy(load):
    """Of what keeps the whole crystal in its place, a grid needs another cure than a wall; the advice works."""
    text = SMOOTH.replace("0 2 0 2 0 2", "0 3 0 3 0 4").replace("ewald 1e-6", "pppm 1e-4")
    with pytest.raises(CrystalError, match="by the grid of the long-range solver; use `kspace_style pppm 1e-08`"):
        load(text)
    load(text.replace("pppm 1e-4", "pppm 1e-08"), "in.followed")


def test_damped_coulomb_without_a_single_length(load):
    text = SMOOTH.replace("lj/cut/coul/long 6.0", "lj/cut/coul/dsf 0.2 6.0 6.0").replace("kspace_style ewald 1e-6\n", "")
    assert "wavelength" in load(text).length_source


def test_a_cause_that_is_not_known_is_not_guessed(load):
    text = SMOOTH.replace("lj/cut/coul/long 6.0", "lj/cut/coul/cut 6.0").replace("kspace_style ewald 1e-6\n", "")
    problem = load(text)
    assert force_error(problem, 1) > MISMATCH
    assert "nothing that was tried in a copy of the script removes that" in explained(problem, 1)


# ---- atoms that differ in more than type


def test_charges_are_part_of_the_symmetry(load):
    crystal = load(SMOOTH).crystal
    assert crystal.unit.space_group == "P4/mmm (123)"
    assert crystal.n_primitive == 2
    assert len(np.unique(crystal.site_class)) == len(np.unique(crystal.kinds)) == 2
    assert set(crystal.types) == {1}
    plain = load(re.sub(r"set group.*", "set group all charge 0.0", SMOOTH) + "kspace_modify gewald 0.3\n", "in.plain").crystal
    assert plain.unit.space_group == "Fm-3m (225)"
    assert len(np.unique(plain.site_class)) == 1


def test_charges_that_are_found_anew_split_nothing(load, tmp_path):
    (tmp_path / "param").write_text("1 2.0 5.0 0.2 0.0 0.0\n")
    fix = "fix charges all qeq/point 1 6.0 1e-6 100 param\n"
    assert load(SMOOTH + fix).crystal.unit.space_group == "Fm-3m (225)"


def test_masses_are_part_of_the_symmetry(tmp_path):
    masses = "fix heavy all property/atom rmass\nset type 1 mass 1.0\ngroup other id 1:32:2\nset group other mass 4.0\n"
    (tmp_path / "in.masses").write_text(LJ.replace("pair_style", masses + "pair_style"))
    with Engine(tmp_path / "in.masses") as engine:
        assert len(np.unique(engine.structure.kinds)) == 2
        assert engine.structure.masses[0] == pytest.approx(2.0, rel=1e-12)  # geometric mean, of which F depends


def test_noise_does_not_tell_atoms_apart():
    types = np.array([1, 1, 2, 2])
    noise = np.array([1.0, 1.0 + 1e-9, -1.0, -1.0 - 1e-9])
    assert told_apart(types, [noise]) is None
    np.testing.assert_array_equal(told_apart(types, [np.array([1.0, 0.9, -1.0, -1.0])]), [2, 1, 3, 3])
    assert told_apart(types, []) is None
    assert told_apart(types, [np.zeros(4)]) is None


def test_bonds_are_part_of_the_symmetry():
    """A simple cubic crystal whose bonds along x are of two types in turn."""
    sites = np.array(list(np.ndindex(4, 2, 2)), dtype=float)
    names = {tuple(site): index for index, site in enumerate(sites.tolist())}
    along = [(names[x, y, z], names[(x + 1) % 4, y, z], 1 + x % 2) for x, y, z in sites.astype(int).tolist()]

    def unit_of(bonds):
        shape = np.diag([4.0, 2.0, 2.0]), np.zeros(3), sites, np.ones(16, dtype=int), np.ones(1), ("A",)
        return find_unit_cell(Structure(*shape, bonds=np.array(bonds, dtype=int).reshape(-1, 3)))

    assert unit_of([])[1] == (4, 2, 2)
    same, counts = unit_of([(i, j, 1) for i, j, _ in along])
    assert counts == (4, 2, 2)
    assert same.space_group == "P4/mmm (123)"  # x is no longer like y and z
    turned, counts = unit_of(along)
    assert counts == (2, 2, 2)
    assert len(np.unique(turned.site_class)) == 2
    assert set(turned.orbit) == {0}  # the plane between them reflects one onto the other


# ---- shapes


def layers(count, box, extra=""):
    """Copies of an LJ layer under vacuum: `count` of fcc unit cells along z in a box of `box` cells."""
    body = f"region all block 0 3 0 3 0 {box}\nregion part block 0 3 0 3 -0.1 {count - 0.3}\ncreate_box 1 all\ncreate_atoms 1 region part\n"
    return (
        LJ.split("region")[0]
        + "variable T index 0.3\n"
        + body
        + extra
        + "mass 1 1.0\npair_style lj/cut 2.2\npair_coeff 1 1 1.0 1.0\n"
    )


SHAPES = {
    "slab": (layers(2, 6), "a slab or sheet in vacuum"),
    "tilted slab": (
        layers(2, 6, "change_box all triclinic\nchange_box all xz final 2.0 yz final -1.0 units box\n"),
        "a slab or sheet in vacuum",
    ),
    "wire": (layers(2, 6, "change_box all x final -4 12\n"), "a wire or chain in vacuum"),
    "molecule": (layers(2, 6, "change_box all x final -4 12 y final -4 12\n"), "a molecule or cluster in vacuum"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_vacuum_is_named(shape, load):
    text, expected = SHAPES[shape]
    with pytest.raises(CrystalError, match=expected) as caught:
        load(text)
    assert "no bulk free energy; shorten the box" in str(caught.value)


def test_vacuum_in_a_small_cell(load):
    """Four atoms: far below what a search for vacancies looks at."""
    text = layers(2, 6).replace("0 3 0 3", "0 1 0 1")
    with pytest.raises(CrystalError, match="a slab or sheet in vacuum"):
        load(text)


def test_advice_against_vacuum_works(load):
    assert load(layers(2, 2)).crystal.unit.space_group == "Fm-3m (225)"


def test_a_single_layer_is_named_only(load, caplog):
    with caplog.at_level(logging.WARNING):
        load(layers(0.5, 6))
    assert "a single layer with vacuum around it" in caplog.text


@pytest.mark.parametrize("far", [3.35, 6.0])
def test_layers(far):
    """Graphite hangs together by its layers; a sheet on its own does not, in any choice of the cell vectors."""
    a = 2.46
    cell = np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, 2 * far]])
    basis = np.array([[0, 0, 0], [2 / 3, 1 / 3, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0.5]])
    for turn in (np.eye(3), np.array([[1, 0, 0], [2, 1, 0], [1, -3, 1]])):
        skewed = turn @ cell
        sites = basis @ cell @ np.linalg.inv(skewed) % 1 @ skewed
        assert connection(skewed, sites, 1.5).directions == 2
        assert connection(skewed, sites, 1.5).thickness < 1e-9
        assert connection(skewed, sites, 2.5 * a / 3**0.5).directions == (3 if far < 3.5 else 2)
    joined = connection(np.diag([1, 1, 4]) @ cell, basis @ cell, far + 0.5)  # two sheets under vacuum
    assert joined.directions == 2
    assert joined.thickness == pytest.approx(far)


def test_conventions_are_those_of_the_free_energy(load):
    """The same difference by the formula of F: ln V and ln N of a free centre of mass against V/N."""
    problem = load(argon("metal"))
    told = conventions_entry(problem)["calphy"]
    n, volume = problem.crystal.n_sites, problem.crystal.volume
    assert told["add_to_calphy_kT_per_atom"] == pytest.approx((math.log(volume) - math.log(volume / n)) / n)
    assert told["add_to_calphy"] == pytest.approx(told["add_to_calphy_kT_per_atom"] / problem.beta)


def test_a_crystal_made_without_bonds_or_charges_is_as_before():
    shape = (
        2.0 * np.eye(3),
        np.zeros(3),
        np.array(list(np.ndindex(2, 2, 2)), dtype=float),
        np.ones(8, dtype=int),
        np.ones(1),
        ("A",),
    )
    crystal = Crystal.from_structure(Structure(*shape))
    np.testing.assert_array_equal(crystal.kinds, crystal.types)


def test_bonds_over_the_cell_are_replicated(tmp_path):
    """A cubic network of two kinds of bonds, period three: in every supercell each atom keeps its own, displaced atoms too."""
    sites = np.array(list(np.ndindex(3, 3, 3)))
    number = {tuple(site): index + 1 for index, site in enumerate(sites.tolist())}
    bonds = [(1 + (site[axis] > 0), tuple(site), axis) for site in sites.tolist() for axis in range(3)]
    lines = [
        f"{kind} {number[site]} {number[tuple((x + (axis == a)) % 3 for a, x in enumerate(site))]}" for kind, site, axis in bonds
    ]

    def rows(entries):
        return "".join(f"{place} {entry}\n" for place, entry in enumerate(entries, 1))

    header = (
        "sc\n\n27 atoms\n81 bonds\n1 atom types\n2 bond types\n\n0 4.5 xlo xhi\n0 4.5 ylo yhi\n0 4.5 zlo zhi\n\nMasses\n\n1 1.0\n"
    )
    atoms = rows(f"1 1 {x * 1.5} {y * 1.5} {z * 1.5}" for x, y, z in sites.tolist())
    (tmp_path / "sc.data").write_text(f"{header}\nAtoms # bond\n\n{atoms}\nBonds\n\n{rows(lines)}")
    (tmp_path / "in.sc").write_text(
        "units lj\natom_style bond\nread_data sc.data extra/special/per/atom 20\npair_style lj/cut 1.4\npair_coeff * * 1e-4 1.0\n"
        "bond_style harmonic\nbond_coeff 1 100 1.45\nbond_coeff 2 100 1.55\nspecial_bonds lj 0 1 1\ncomm_modify cutoff 4.0\n"
        "displace_atoms all random 0.05 0.05 0.05 4711\n"
    )
    energies = []
    for copies in ((1, 1, 1), (2, 1, 1), (1, 3, 2)):
        with Engine(tmp_path / "in.sc", replicate=copies) as engine:
            energies.append(float(engine.energies(engine.sites[None])[0]) / engine.structure.n_atoms)
    np.testing.assert_allclose(energies, energies[0], rtol=1e-12)
