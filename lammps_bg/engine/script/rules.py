# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands, fixes and styles of LAMMPS do: define the crystal and its energy, act on files or on time, or bring more than positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# ---- commands

_ALLOWED = """
    angle_coeff angle_style atom_modify atom_style bond_coeff bond_style boundary box change_box clear comm_modify
    comm_style compute compute_modify create_atoms create_bonds create_box delete_atoms delete_bonds dielectric dihedral_coeff
    dihedral_style dimension displace_atoms echo fix fix_modify group improper_coeff improper_style kim_interactions
    kspace_modify kspace_style labelmap lattice mass min_modify min_style molecule neigh_modify neighbor newton package
    pair_coeff pair_modify pair_style plugin print read_data read_dump read_restart region replicate reset_atom_ids
    reset_atoms reset_ids reset_mol_ids reset_timestep set special_bonds suffix timestep uncompute unfix units variable
"""
# sent to LAMMPS as they stand
ALLOWED = frozenset(_ALLOWED.split())

SKIPPED = {
    **dict.fromkeys(("run", "minimize", "rerun", "hyper", "neb", "neb/spin", "prd", "tad", "temper"), "moves atoms"),
    **dict.fromkeys(("temper/grem", "temper/npt", "velocity"), "moves atoms"),
    **dict.fromkeys(("dump", "dump_modify", "undump", "write_data", "write_dump", "write_restart"), "writes files"),
    **dict.fromkeys(("write_coeff", "restart", "log", "info", "angle_write", "bond_write", "dihedral_write"), "writes files"),
    **dict.fromkeys(("pair_write", "group2ndx", "region2vmd", "dynamical_matrix", "third_order", "fitpod"), "writes files"),
    **dict.fromkeys(("shell", "python"), "runs other programs"),
    **dict.fromkeys(
        ("geturl", "kim_query", "kim_param", "kim_property", "kim", "mdi", "message", "server"), "talks to other programs"
    ),
    **dict.fromkeys(("processors", "balance"), "parallel layout"),
    "quit": "ends the reading of the script",
}

_POTENTIAL = """
    pair_style pair_coeff pair_modify special_bonds kspace_style kspace_modify dielectric comm_modify bond_style bond_coeff
    angle_style angle_coeff dihedral_style dihedral_coeff improper_style improper_coeff kim_interactions
"""
# they define the potential, and may be sent again with other values
POTENTIAL = frozenset(_POTENTIAL.split())
# a value in them changes no energy: neighbour lists are this program's own business
HARMLESS = frozenset(("neighbor", "neigh_modify", "compute", "compute_modify", "echo", "min_style", "min_modify", "timestep"))

# replaced by this program's own settings; skipping them changes nothing, so they are not listed
REPLACED = frozenset(("thermo", "thermo_style", "thermo_modify", "timer", "run_style"))

# commands after which variables and conditions of the script may lack their values
DYNAMICS = frozenset(
    ("run", "minimize", "rerun", "temper", "temper/grem", "temper/npt", "neb", "neb/spin", "prd", "tad", "hyper")
)

# commands that follow what others have defined: no crystal and no energy depends on them
FOLLOWING = HARMLESS | {"variable", "print", "group", "uncompute", "reset_timestep", "unfix", "fix_modify"}

# ---- fixes

_RESHAPING = ("npt", "nph", "press/", "deform", "msst", "qbmsst")

_FILE_COMMANDS = """
    pair_coeff pair_style bond_coeff angle_coeff dihedral_coeff improper_coeff read_data read_restart read_dump molecule
    fix plugin kspace_modify
"""
# their words may name files
FILE_COMMANDS = frozenset(_FILE_COMMANDS.split())

# the argument of them that is a file for certain
FILE_WORD = {"read_data": 0, "read_restart": 0, "read_dump": 0, "molecule": 1}

_KEPT = """
    cmap amoeba/bitorsion amoeba/pitorsion property/atom spring restrain addforce addtorque gravity indent rhok adapt adapt/fep
    acks2/reaxff acks2/reax qtpie/reaxff
"""
_KEPT_FIXES = frozenset(_KEPT.split())
_KEPT_FAMILIES = ("efield", "qeq/", "spring/", "wall/", "orient/", "electrode/", "polarize/")
_PUSHING = frozenset(("spring", "restrain", "addforce", "addtorque", "gravity", "indent", "rhok"))
_PUSHING_FAMILIES = ("efield", "spring/", "wall/", "orient/")
_OTHER_CHARGE_FIXES = frozenset(("acks2/reaxff", "acks2/reax", "qtpie/reaxff"))
_DISSIPATIVE_WALLS = ("wall/gran", "wall/reflect", "wall/piston", "wall/srd", "wall/flow", "wall/body")
# part of the bonded energy, with no memory and no period of their own
STATELESS_FIXES = frozenset(("cmap", "amoeba/bitorsion", "amoeba/pitorsion", "property/atom"))

# accelerator variants carry the rule of the plain style
_SUFFIXES = ("/omp", "/kk", "/gpu", "/intel", "/opt", "/kk/device", "/kk/host")


def base_style(style: str) -> str:
    """A style name without its accelerator suffix."""
    for suffix in _SUFFIXES:
        if style.endswith(suffix):
            return style[: -len(suffix)]
    return style


def fix_is_kept(style: str) -> bool:
    """Whether a fix contributes to the potential energy (or its charges) and so must stay."""
    style = base_style(style)
    if style.startswith(_DISSIPATIVE_WALLS):
        return False
    return style in _KEPT_FIXES or style.startswith(_KEPT_FAMILIES)


def fix_reshapes(style: str, command: str) -> bool:
    """Whether a fix changes the cell during a command such as `run` or `minimize`."""
    style = base_style(style)
    return style == "box/relax" if command == "minimize" else style.startswith(_RESHAPING)


def fix_sets_charges(style: str) -> bool:
    """Whether a fix finds the charges of the atoms anew for every configuration."""
    style = base_style(style)
    return style.startswith("qeq/") or style in _OTHER_CHARGE_FIXES


def fix_pushes(style: str) -> bool:
    """Whether a fix that is kept adds forces, whose energy LAMMPS may leave out."""
    style = base_style(style)
    return fix_is_kept(style) and (style in _PUSHING or style.startswith(_PUSHING_FAMILIES))


# ---- degrees of freedom that nothing here samples: by atom style

# their atoms have positions, charges and bonds only (the induced dipoles of `amoeba` follow from the positions)
PLAIN_ATOMS = frozenset(("atomic", "charge", "bond", "angle", "molecular", "full", "template", "amoeba"))
# what their atoms have beside positions; innocent where the energy does not change with it, which is tried
TRIED_ATOMS: Mapping[str, str] = {"sphere": "radii", "dipole": "dipoles", "ellipsoid": "orientations", "spin": "spins"}
_ORIENTATIONS = dict.fromkeys(("line", "tri", "body", "bpm/sphere", "oxdna"), "orientations")
_UNSAMPLED_ATOMS: Mapping[str, str] = {
    **_ORIENTATIONS,
    **dict.fromkeys(("dpd", "edpd"), "internal temperatures"),
    **dict.fromkeys(("sph", "rheo", "rheo/thermal"), "densities and internal energies"),
    "mdpd": "densities",
    "tdpd": "concentrations",
    "smd": "strains and internal energies",
    "peri": "damage of the bonds",
    "dielectric": "normals of interfaces",
    **dict.fromkeys(("electron", "wavepacket"), "radii of electrons"),
}

# ---- by pair and bond style, by their first or last part

_CORE_SHELL = "shells that follow their cores"
_DRUDE = "Drude particles that follow their cores"
_STYLES_BY_START: Mapping[str, str] = {
    "spin/": "spins",
    "thole": _DRUDE,
    "lj/cut/thole": _DRUDE,
    "oxdna": "orientations",
    "oxrna": "orientations",
    "gran": "rotations and friction of grains",
    "dpd/fdt": "internal temperatures",
    "edpd": "internal temperatures",
    "tdpd": "concentrations",
    "mdpd": "densities",
    "peri/": "damage of the bonds",
    "bpm/": "lengths at rest and damage of the bonds",
    "smd/": "strains and internal energies",
    "sph/": "densities and internal energies",
    "sdpd/": "densities and internal energies",
    "rheo": "densities and internal energies",
    "eff/": "radii of electrons",
    "awpmd/": "radii of electrons",
}
_STYLES_BY_END: Mapping[str, str] = {"/cs": _CORE_SHELL, "/rx": "concentrations of species"}
_COMPUTES: Mapping[str, str] = {"temp/cs": _CORE_SHELL, "temp/drude": _DRUDE}

# what to use instead, where that is more than a potential without them
_INSTEAD: Mapping[str, str] = {
    _CORE_SHELL: "use rigid ions: one particle for each ion, and a pair_style without /cs "
    "(a shell is no atom of the crystal, and LAMMPS' energy of a core and a shell at the same place is a makeshift for dynamics)",
    _DRUDE: "use a potential without them, one particle for each atom",
    "radii": "use a pair_style with one coefficient for each pair of types, such as lj/cut",
}


def unsampled_atoms(style: str) -> str:
    """What the atoms of an atom style have that is not sampled, whatever the potential; empty where nothing or where it is tried."""
    if style in PLAIN_ATOMS or style in TRIED_ATOMS:
        return ""
    return _UNSAMPLED_ATOMS.get(style, "attributes of its own")


def unsampled_style(words: Sequence[str]) -> tuple[str, str] | None:
    """The pair or bond style among these that has degrees of freedom of its own, and which; None where there is none."""
    for word in words if words and words[0].startswith("hybrid") else words[:1]:
        style = base_style(word)
        for start, what in _STYLES_BY_START.items():
            if style.startswith(start):
                return word, what
        for end, what in _STYLES_BY_END.items():
            if style.endswith(end):
                return word, what
    return None


def unsampled_compute(style: str) -> str:
    """What a compute is made for that is not sampled, or nothing."""
    return _COMPUTES.get(base_style(style), "")


def unsampled_sentence(command: str, what: str) -> str:
    """Says that a command brings degrees of freedom that are not sampled."""
    instead = _INSTEAD.get(
        what, f"use a potential without {what}, `atom_style atomic` (or charge, full), and no command that sets or moves them"
    )
    return f"expected energies of the atoms' positions alone, got `{command}` with {what}, which are not sampled here and would be frozen; {instead}"


# ---- fixes that hold, drive or exchange atoms


@dataclass(frozen=True)
class ScriptFix:
    """A fix of the script, in force from its line on.

    Attributes:
        name: Its ID.
        group: Its group.
        style: Its style as written.
        file: The script file.
        line: Line number in it.
        command: The command as it can be sent to LAMMPS.
    """

    name: str
    group: str
    style: str
    file: Path
    line: int
    command: str

    def __str__(self) -> str:
        return f"`fix {self.name} {self.group} {self.style}` at {self.file.name} line {self.line}"

    @property
    def kept(self) -> bool:
        """Whether LAMMPS has it."""
        return fix_is_kept(self.style)


_CONSTRAINS = "constrains the distances of atoms"
_HOLDS = "holds or steers atoms"
_DRIVES = "acts with forces that are not the derivative of an energy"
_EXCHANGES = "exchanges, inserts or removes atoms or bonds, which is not sampled"
_QUANTUM = "makes the statistics those of quantum nuclei, where it is classical here"
_OUTSIDE = "brings forces or a bias from outside of the potential, perhaps with a memory"
_INNER = "acts on internal degrees of freedom (temperatures, energies, concentrations), which are not sampled"


def _named(clause: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), clause)


# style, or the start of one where it ends with `*`
_REFUSED: Mapping[str, str] = {
    **_named(_CONSTRAINS, "shake* rattle* rigid* poems* filter/corotate lb/rigid*"),
    **_named(_HOLDS, "setforce* freeze move move/* meso/move lineforce planeforce aveforce enforce2d oneway nve/noforce"),
    **_named(_HOLDS, "nve/asphere/noforce momentum/chunk pafi smd tmd neb neb/spin drag smd/setvel smd/move_tri_surf"),
    **_named(_DRIVES, "ti/spring wall/gran* wall/reflect* wall/piston wall/srd wall/flow wall/body/* flow/gauss"),
    **_named(_DRIVES, "propel/self grem hyper/* srd smd/wall_surface"),
    **_named(_EXCHANGES, "gcmc atom/swap mol/swap neighbor/swap sgcmc charge/regulation bond/break bond/create* bond/react"),
    **_named(_EXCHANGES, "bond/swap deposit pour evaporate append/atoms"),
    **_named(_QUANTUM, "pimd* qtb qbmsst"),
    **_named(_OUTSIDE, "external plumed colvars imd ipi mdi* latte alchemy python/*"),
    **_named(_INNER, "dpd/energy eos/* rx shardlow edpd/source tdpd/source mvv/* sph* rheo* smd/* ttm* heat/flow add/heat lb/*"),
}
# style parts that name the degrees of freedom
_REFUSED_PARTS: Mapping[str, str] = {
    "spin": "acts on spins, which are not sampled",
    "drude": "acts on Drude particles, which are not sampled",
    "eff": "acts on radii of electrons, which are not sampled",
}

_INTEGRATORS = "nve nve/* nvt nvt/* npt npt/* nph nph/* nvk gjf gld gle hmc tfmc msst nphug brownian*"
_TEMPERERS = """
    langevin ffl temp/* press/* bocs controller heat ehex thermal/conductivity viscosity viscous* electron/stopping* recenter
    momentum deform deform/* box/relax
"""
_WATCHERS = """
    print ave/* vector store/* reaxff/bonds reaxff/species reax/c/bonds reax/c/species saed/vtk phonon pair numdiff* balance halt
    dt/reset tune/kspace widom nonaffine/displacement
"""
_INNOCENT = frozenset((*_INTEGRATORS.split(), *_TEMPERERS.split(), *_WATCHERS.split()))
_MOVERS = frozenset(_INTEGRATORS.split())


def _matches(style: str, pattern: str) -> bool:
    return style.startswith(pattern[:-1]) if pattern.endswith("*") else style == pattern


def fix_refusal(style: str) -> str:
    """What a fix does for which the crystal cannot be sampled, to follow its name; nothing where it can be."""
    style = base_style(style)
    parts = style.split("/")
    for part, clause in _REFUSED_PARTS.items():
        if part in parts:
            return clause
    return next((clause for pattern, clause in _REFUSED.items() if _matches(style, pattern)), "")


def fix_is_innocent(style: str) -> bool:
    """Whether a fix is known to change no energy and no force of atoms at rest: integrators, thermostats, barostats, output."""
    return any(_matches(base_style(style), pattern) for pattern in _INNOCENT)


def fix_integrates(style: str) -> bool:
    """Whether a fix moves atoms freely by their forces."""
    return not fix_refusal(style) and any(_matches(base_style(style), pattern) for pattern in _MOVERS)


def refused_fix(fix: ScriptFix, clause: str) -> str:
    """Says why a fix is not possible here."""
    return (
        f"expected atoms that all move freely by their potential energy, but `fix {fix.style}` {clause} "
        f"(fix {fix.name}, group {fix.group}); the free energy here is that of a crystal in which every atom moves by the potential energy "
        "alone, so remove this fix and the commands that name it"
    )
