# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressures with units: every unit against pascal, and what is refused."""

import pytest

from lammps_bg.crystal.pressure import describe_pressure, parse_pressure
from lammps_bg.crystal.units import LABELS, Units
from lammps_bg.errors import StateError


def units(name):
    return Units(name, boltzmann=1.0, planck=1.0, mvv2e=1.0, nktv2p=1.0, timestep=1.0)


@pytest.mark.parametrize(
    ("text", "pascal"),
    [
        ("1 GPa", 1e9),
        ("1GPa", 1e9),
        ("1gpa", 1e9),
        ("1 GPA", 1e9),
        (" -2.5e-1  GPa ", -2.5e8),
        ("10 kbar", 1e9),
        ("10 KBAR", 1e9),
        ("1e4 bar", 1e9),
        ("1e4bar", 1e9),
        ("100 MPa", 1e8),
        ("1 Mbar", 1e11),
        ("1 atm", 101325.0),
        (".5 atm", 50662.5),
        ("3 kPa", 3e3),
        ("2 Pa", 2.0),
    ],
)
def test_units_of_pressure(text, pascal):
    assert parse_pressure(text, units("si")) == pytest.approx(pascal, rel=1e-15)
    assert parse_pressure(text, units("metal")) == pytest.approx(pascal / 1e5, rel=1e-15)
    assert parse_pressure(text, units("real")) == pytest.approx(pascal / 101325, rel=1e-15)
    assert parse_pressure(text, units("cgs")) == pytest.approx(pascal * 10, rel=1e-15)
    # pg/(um us^2) = 1e-15 kg / (1e-6 m 1e-12 s^2) and ag/(nm ns^2) = 1e-21 kg / (1e-9 m 1e-18 s^2)
    assert parse_pressure(text, units("micro")) == pytest.approx(pascal / 1e3, rel=1e-15)
    assert parse_pressure(text, units("nano")) == pytest.approx(pascal / 1e6, rel=1e-15)


@pytest.mark.parametrize("name", sorted(LABELS))
def test_plain_numbers_and_own_unit(name):
    own = units(name)
    assert parse_pressure("-12.5", own) == -12.5
    assert parse_pressure("1e4", own) == 1e4
    assert parse_pressure(f"12.5 {own.labels.pressure}", own) == 12.5


@pytest.mark.parametrize("text", ["high", "", "1e400", "nan", "inf", "1 2", "1..2", "GPa", "1 e4", "1_0"])
@pytest.mark.parametrize("name", ["metal", "lj"])
def test_no_pressure(text, name):
    with pytest.raises(StateError, match=r"^expected a pressure as a plain number in .*, got '") as caught:
        parse_pressure(text, units(name))
    assert f"got '{text}'" in str(caught.value)


def test_unknown_units_are_told_what_is_known():
    with pytest.raises(StateError, match="Pa, kPa, MPa, GPa, bar, kbar, Mbar, atm, got '1 psi'; check the unit"):
        parse_pressure("1 psi", units("metal"))


@pytest.mark.parametrize(("text", "meant"), [("1 mPa", "MPa"), ("1 mpa", "MPa"), ("1 MPA", "MPa"), ("1 mbar", "Mbar")])
def test_small_and_large_m_are_not_guessed(text, meant):
    with pytest.raises(StateError, match=f"write {meant} with a capital M if you mean a million"):
        parse_pressure(text, units("metal"))


def test_reduced_units_have_no_gigapascal():
    with pytest.raises(StateError, match="units lj has no unit of mass and length"):
        parse_pressure("1 GPa", units("lj"))


def test_description():
    assert describe_pressure(1e4, units("metal")) == "10000 bar (1 GPa)"
    assert describe_pressure(1.0, units("real")) == "1 atm (0.000101325 GPa)"
    assert describe_pressure(44.6, units("lj")) == "44.6 epsilon/sigma^3"
