# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine says of several crystals: run as a program under mpirun all ranks hold one instance, imported one rank does.

`python team_cases.py FOLDER PART...` writes the results of each part into FOLDER.
"""

import sys
from pathlib import Path

import numpy as np
from lammps_scripts import INPUTS, LJ, SALT

from lammps_bg import parallel
from lammps_bg.engine import team
from lammps_bg.engine.dynamics import Dynamics
from lammps_bg.engine.ensembles import Canonical, FrenkelLadd, IsothermalIsobaric
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.engine.relaxation import at_rest, relax, static_state

PRISM = LJ.replace("region cell block 0 2 0 2 0 2", "region cell prism 0 2 0 2 0 2 0.4 -0.3 0.6")
SPRINGS = LJ + "fix tether all spring/self 40.0\nfix_modify tether energy yes\n"
CRYSTALS = {  # script, replicate, spread of the displacements
    "lj": (LJ, (2, 2, 2), 0.05),
    "lj in one cell": (INPUTS / "in.lj_fcc", (1, 1, 1), 0.05),
    "sw": (INPUTS / "in.mw_cubic", (2, 1, 2), 0.15),
    "eam": (INPUTS / "in.cu_fcc", (3, 3, 3), 0.08),
    "tersoff": (INPUTS / "in.sic", (2, 2, 2), 0.05),
    "triclinic": (PRISM, (1, 1, 2), 0.05),
    "pppm": (SALT.format(kspace="pppm"), (1, 1, 1), 0.05),
    "displaced": (LJ + "displace_atoms all random 0.05 0.05 0.05 7\n", (1, 1, 1), 0.05),
    "slabs": (LJ.replace("lattice fcc", "processors * 1 1\nlattice fcc"), (2, 1, 1), 0.05),
    "springs": (SPRINGS, (1, 1, 1), 0.05),
}


def crystal(folder, name):
    """Engine and spread of a crystal."""
    source, replicate, spread = CRYSTALS[name]
    if isinstance(source, str):
        path = Path(folder) / f"in.{name.replace(' ', '_')}"
        path.write_text(source)
        source = path
    return Engine(source, replicate=replicate), spread


def batch(engine, spread, n=6):
    """Thermal configurations and some that are not: far out of the box, disordered, not finite, two atoms close to each other."""
    positions = engine.sites + spread * np.random.default_rng(3).standard_normal((n, engine.structure.n_atoms, 3))
    shift = np.random.default_rng(4).integers(-2, 3, positions[1].shape)
    positions[1] += shift @ engine.cell
    positions[2] = positions[2, np.random.default_rng(5).permutation(len(positions[2]))]  # atoms exchange sites
    positions[3, 0, 0] = np.nan
    positions[4, 1] = positions[4, 0] + 2 * spread
    return positions


def evaluations(folder):
    """Sites, energies, forces, virial and the same in another cell, by crystal."""
    found = {}
    for name in CRYSTALS:
        with crystal(folder, name)[0] as engine:
            spread = CRYSTALS[name][2]
            positions = batch(engine, spread)
            energies, forces = engine.energies_forces(positions)
            strain = np.array([[1.01, 0, 0], [0.02, 0.99, 0], [-0.01, 0.03, 1.02]])
            pressure = engine.virial_pressure(positions[:2])
            engine.set_cell(engine.cell @ strain)
            again = engine.energies_forces(batch(engine, spread))
            found |= {f"{name}: sites": engine.structure.positions, f"{name}: types": engine.structure.types}
            found |= {f"{name}: energies": energies, f"{name}: forces": forces, f"{name}: pressure": pressure}
            found |= {f"{name}: energies strained": again[0], f"{name}: forces strained": again[1]}
            found[f"{name}: masses"] = engine.structure.masses
    return found


def states(folder):
    """Parameters, minimisation, and the engine after it was broken."""
    found = {}
    with Engine(INPUTS / "in.gsw_diamond", replicate=(2, 2, 2)) as engine:
        positions = batch(engine, 0.1)[:3]
        for value in (18.5, 23.15):
            engine.set_parameters({"lambda": value})
            found[f"parameter {value}"] = engine.energies(positions)
        found["static stress"] = static_state(engine).stress
        relaxed = relax(engine, "aniso", 100.0)
        found |= {"relaxed cell": relaxed.cell, "relaxed energy": np.array(relaxed.state.energy)}
        found["relaxed places"] = relaxed.positions
        found["after relaxing"] = engine.energies(positions)
        found["cutoff"] = np.array(engine.cutoff())
    with crystal(folder, "displaced")[0] as engine:
        found |= {"displaced sites": engine.sites, "minimised": at_rest(engine, 1e-3).positions}
    with crystal(folder, "lj")[0] as engine:
        positions = batch(engine, 0.05)
        positions[5, :2] = 0.0  # an infinite energy
        engine.lammps.command("delete_atoms group all")
        found["lost"] = engine.energies(positions)
        found["recovered"] = engine.energies(positions)
    return found


def trajectories(folder):
    """Deterministic dynamics, continued once; the velocities at the start do not depend on the ranks."""
    found = {}
    for name, ensemble in {
        "lj": IsothermalIsobaric(0.5, 20.0, "aniso", 0.5, 5.0),
        "triclinic": IsothermalIsobaric(0.5, 20.0, "tri", 0.5, 5.0),
        "pppm": IsothermalIsobaric(300.0, 0.0, "iso", 0.2, 2.0),
    }.items():
        with crystal(folder, name)[0] as engine:
            timestep, state = 0.004 if ensemble.temperature < 1 else 0.002, None
            for part in ("first", "continued"):
                with Dynamics(engine, ensemble, timestep=timestep, seed=5, start=state) as dynamics:
                    shots = [dynamics.run(10) for _ in range(2)]
                    state = dynamics.state()
                for index, shot in enumerate(shots):
                    for quantity in ("positions", "energy", "virial_pressure", "temperature", "cell", "origin"):
                        found[f"{name} {part} {index} {quantity}"] = np.array(getattr(shot, quantity))
                found[f"{name} {part} velocities"] = state.velocities
            found[f"{name} afterwards"] = engine.energies(batch(engine, CRYSTALS[name][2])[:2])
    return found


def noisy(folder):
    """Frames of dynamics with noise, which differ from rank count to rank count."""
    found = {}
    for name, ensemble in {"canonical": Canonical(0.5, 0.5), "half": FrenkelLadd(0.5, 0.5, 0.5, (5.0,))}.items():
        with crystal(folder, "lj")[0] as engine, Dynamics(engine, ensemble, timestep=0.004, seed=7) as dynamics:
            shots = [dynamics.run(10) for _ in range(10)]
            for quantity in ("positions", "energy", "virial_pressure", "temperature"):
                found[f"{name} {quantity}"] = np.array([getattr(shot, quantity) for shot in shots])
    return found


PARTS = {part.__name__: part for part in (evaluations, states, trajectories, noisy)}

if __name__ == "__main__":
    parallel.arrange(int(parallel.WORLD.Get_size()))
    if parallel.serves():
        sys.exit(team.serve())
    target = Path(sys.argv[1])
    for part in sys.argv[2:]:
        np.savez(target / part, **PARTS[part](target))
