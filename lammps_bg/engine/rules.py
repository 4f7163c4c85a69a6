# SPDX-License-Identifier: GPL-2.0-or-later
"""Which LAMMPS commands and fixes define the crystal and its energy, and which would act on files or on time."""

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
