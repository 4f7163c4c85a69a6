# SPDX-License-Identifier: GPL-2.0-or-later
"""Every entry of the catalogue: energies of plain LAMMPS, a phonon base, a training that lowers the bound, a dump that reruns.

The slowest entries carry the marker `physics`.
"""

import math

import numpy as np
import pytest
from catalogue import ENTRIES
from measuring import LOWERED, RERUN, SAME, difference, displaced, inside, refusal
from plain_lammps import rerun
from table import page, table_names

BY_NAME = {entry.name: entry for entry in ENTRIES}
CORE = {"lj/cut", "sw", "eam/alloy", "born/coul/long, ewald"}
"""One of each kind of energy: pairs, three bodies, density, charges; of the others `make test-slow` tells."""


def marks(entry):
    return [pytest.mark.physics] if entry.slow else [] if entry.name in CORE else [pytest.mark.slow]


WORKING = [pytest.param(entry, id=entry.name, marks=marks(entry)) for entry in ENTRIES if not (entry.refusal or entry.limitation)]
LIMITED = [pytest.param(entry, id=entry.name) for entry in ENTRIES if entry.limitation]
REFUSED = [pytest.param(entry, id=entry.name) for entry in ENTRIES if entry.refusal]


@pytest.mark.parametrize("entry", WORKING)
def test_energies_and_forces_are_those_of_plain_lammps(entry, measured):
    """Of the crystal and of displaced configurations, beside the `lmp` executable."""
    found = measured(entry)
    assert found.energy_difference <= SAME
    assert found.force_difference <= SAME


@pytest.mark.parametrize("entry", WORKING)
def test_phonon_base_fits(entry, measured):
    """Its Gibbs-Bogoliubov bound is a number with an error bar."""
    value, error = measured(entry).base_bound
    assert math.isfinite(value)
    assert 0 < error < 1


@pytest.mark.parametrize("entry", WORKING)
def test_training_lowers_the_bound(entry, measured):
    """On the same samples of the base, by more than three standard errors: see `measuring.LOWERED` for the false-alarm rate."""
    gain, error = measured(entry).gain
    assert gain > LOWERED * error


@pytest.mark.parametrize("entry", WORKING)
def test_dump_reruns_in_plain_lammps(entry, measured):
    """Energies of samples.csv, from the positions of samples.dump.gz."""
    assert measured(entry).rerun_difference <= RERUN


@pytest.mark.parametrize("entry", REFUSED)
def test_what_does_not_work_says_so(entry, tmp_path):
    assert entry.refusal in refusal(entry, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("entry", LIMITED)
def test_a_known_limitation_is_still_there_and_no_larger(entry, tmp_path):
    """Once it is gone, the entry belongs to the others."""
    assert SAME < difference(entry, tmp_path)[0] < 1e-4


@pytest.mark.slow
def test_charges_are_found_in_a_supercell(tmp_path):
    """LAMMPS replicates no atoms that a fix holds charges of, so the fix is set up anew; few energies, the rest is slow."""
    energy, force = difference(BY_NAME["reaxff"], tmp_path)
    assert energy <= SAME
    assert force <= SAME


def test_the_oracle_sees_another_potential(tmp_path):
    """A deeper well by a millionth is a difference."""
    entry = BY_NAME["lj/cut"]
    with inside(tmp_path):
        (tmp_path / "in.crystal").write_text(entry.script)
        energies, _ = displaced(entry, tmp_path / "displaced.dump")
    other = entry.script.replace("1 2 1.4 1.0", "1 2 1.400001 1.0")
    ((expected, _),) = rerun(other, entry.replicate, [tmp_path / "displaced.dump"], tmp_path)
    assert np.abs(energies / expected - 1).min() > 1e3 * SAME


def test_the_table_of_the_readme_lists_the_catalogue():
    assert table_names(page()) == [entry.name for entry in ENTRIES]


def test_names_are_unique():
    assert len(BY_NAME) == len(ENTRIES)
