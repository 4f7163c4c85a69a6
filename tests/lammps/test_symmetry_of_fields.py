# SPDX-License-Identifier: GPL-2.0-or-later
"""Energies decide which symmetries a crystal has: a field that a fix adds breaks some of those of its positions and types."""

import numpy as np
import pytest

from lammps_bg.crystal.operations import kept_by_forces
from lammps_bg.study.problem import Problem, ScriptRequest

IONS = """variable T index 0.05
variable E index {field}
units lj
atom_style charge
lattice sc 1.1
region cell block 0 2 0 2 0 2
create_box 2 cell
lattice custom 1.1 a1 2 0 0 a2 0 2 0 a3 0 0 2 &
  basis 0 0 0 basis 0.5 0.5 0 basis 0.5 0 0.5 basis 0 0.5 0.5 basis 0.5 0 0 basis 0 0.5 0 basis 0 0 0.5 basis 0.5 0.5 0.5
create_atoms 1 box basis 5 2 basis 6 2 basis 7 2 basis 8 2
mass * 1.0
set type 1 charge 0.5
set type 2 charge -0.5
pair_style lj/cut/coul/cut 1.9
pair_coeff * * 1.0 0.95
{fix}
"""
FIELD = "fix push all efield ${E} 0 0\nfix_modify push energy yes"


def crystal_in(folder, field, fix=FIELD):
    (folder / "in.ions").write_text(IONS.format(field=field, fix=fix))
    return Problem.load(ScriptRequest(folder / "in.ions", {}, (2, 2, 2)))


@pytest.mark.parametrize(
    ("field", "fix", "group", "n_orbits"), [(0.3, "", "Fm-3m", 2), (0.0, FIELD, "Fm-3m", 2), (0.3, FIELD, "I4mm", 2)]
)
def test_a_field_breaks_what_energies_say(tmp_path, field, fix, group, n_orbits):
    problem = crystal_in(tmp_path, field, fix)
    unit = problem.crystal.unit
    assert unit.space_group.split()[0] == group
    assert len(set(unit.orbit.tolist())) == n_orbits
    turns = unit.signs[:, 0] if group == "I4mm" else np.ones(1)
    assert (turns == 1).all()
    assert kept_by_forces(problem.surface, problem.crystal).all()
