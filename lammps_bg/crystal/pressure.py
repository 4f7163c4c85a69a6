# SPDX-License-Identifier: GPL-2.0-or-later
"""Pressures as people write them, `1 GPa` or `10 kbar`, in the units of a script and back."""

import math
import re

from lammps_bg.crystal.units import Units
from lammps_bg.errors import StateError

# pascal in one unit of pressure of each LAMMPS unit style; units lj has none
_STYLES = {"real": 101325.0, "metal": 1e5, "si": 1.0, "cgs": 0.1, "electron": 1.0, "micro": 1e3, "nano": 1e6}
_PASCAL = {"Pa": 1.0, "kPa": 1e3, "MPa": 1e6, "GPa": 1e9, "bar": 1e5, "kbar": 1e8, "Mbar": 1e11, "atm": 101325.0}
# a small m means a thousandth, a large one a million: guessing would be wrong by 1e9
_EXACT_CASE = frozenset(("mpa", "mbar"))
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)


def parse_pressure(text: str, units: Units) -> float:
    """A pressure in the script's units, from a plain number in them or a number with its unit.

    Args:
        text: Such as `1e4`, `1 GPa`, `10kbar`; capitals do not matter but in MPa and Mbar.
        units: Units of the script.

    Raises:
        StateError: It is no such text, or has a physical unit in `units lj`.
    """
    found = _NUMBER.fullmatch(text)
    if not found or not math.isfinite(float(found[1])):
        raise StateError(f"expected a pressure as {_accepted(units)}, got '{text}'; give for example -var P {_example(units)}")
    value, unit = float(found[1]), found[2]
    if not unit or unit == units.labels.pressure:
        return value
    pascal = _pascal(unit)
    if pascal is None:
        raise StateError(f"expected a pressure as {_accepted(units)}, got '{text}'{_advice(unit)}")
    if units.name not in _STYLES:
        raise StateError(
            f"expected a pressure as {_accepted(units)}, got '{text}'; units lj has no unit of mass and length, "
            "so divide by epsilon/sigma^3 of your material"
        )
    return value if pascal == _STYLES[units.name] else value * pascal / _STYLES[units.name]


def describe_pressure(value: float, units: Units) -> str:
    """A pressure in the script's unit and in GPa, such as `10000 bar (1 GPa)`, so that a wrong unit is seen.

    Args:
        value: In the script's units.
        units: Units of the script.
    """
    own = f"{value:.6g} {units.labels.pressure}"
    return f"{own} ({value * _STYLES[units.name] / 1e9:.6g} GPa)" if units.name in _STYLES else own


def _pascal(unit: str) -> float | None:
    """Pascal in a unit, None where it is not known."""
    if unit in _PASCAL:
        return _PASCAL[unit]
    folded = {name.lower(): value for name, value in _PASCAL.items()}
    return folded.get(unit.lower()) if unit.lower() not in _EXACT_CASE else None


def _accepted(units: Units) -> str:
    """What may be written, for an error message."""
    plain = f"a plain number in {units.labels.pressure}"
    return f"{plain} or a number with one of {', '.join(_PASCAL)}" if units.name in _STYLES else plain


def _example(units: Units) -> str:
    return "'1 GPa'" if units.name in _STYLES else "1.5"


def _advice(unit: str) -> str:
    exact = next((name for name in _PASCAL if name.lower() == unit.lower()), None)
    return f"; write {exact} with a capital M if you mean a million, since m is a thousandth" if exact else "; check the unit"
