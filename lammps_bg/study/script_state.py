# SPDX-License-Identifier: GPL-2.0-or-later
"""What the script's variables say of the thermodynamic state: T, and the length Lambda that makes free energies numbers."""

import logging
import math
from pathlib import Path

import numpy as np

from lammps_bg.crystal.system import Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import StateError
from lammps_bg.potentials.pair_styles import own_length

log = logging.getLogger(__name__)
WAVELENGTH = "thermal de Broglie wavelength, geometric mean over the atoms"


def _number(engine: Engine, name: str, unit: str) -> float | None:
    """Value of a variable of the script, or None where it has none of that name.

    Raises:
        StateError: It is no finite number.
    """
    text = engine.state_variable(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise StateError(
            f"expected a plain number in {unit} in the variable {name}, got '{text}'; give for example -var {name} 1.5"
        )
    return value


def _no_temperature(engine: Engine, script: Path) -> StateError:
    """Why a script has no temperature, and where to give one."""
    definition, gone = engine.reader.stale.definition("T"), engine.reader.removed.get("T")
    give = "give -var T 300"
    if gone is not None:
        cause, remedy = f"no variable T, which `{gone.command}` in {gone.file.name} line {gone.line} leaves undefined", give
    elif definition is not None and definition.style == "string":
        cause, remedy = f"'{definition.text}' in {definition}", f"{give} or write `variable T index 300` in its place"
    elif definition is not None:
        cause = f"{definition}, which is no plain number before the dynamics"
        remedy = f"{give}, or rename that variable and add the line 'variable T index 300' to the script"
    else:
        cause, remedy = f"no variable T in {script}", "add the line 'variable T index 300' to the script or give -var T 300"
    return StateError(f"expected a temperature, got {cause}; {remedy}")


def script_temperature(engine: Engine, script: Path) -> float:
    """The script's variable T, in its temperature unit.

    Raises:
        StateError: There is none, or it is no positive number.
    """
    value = _number(engine, "T", engine.units.labels.temperature)
    if value is None:
        raise _no_temperature(engine, script)
    unit = engine.units.labels.temperature
    if value <= 0:
        raise StateError(f"expected a temperature above 0 {unit}, got T = {value:g}; give -var T with a positive value")
    if engine.units.name == "lj" and value > 20:
        log.warning(
            "T = %g in units lj is %g epsilon/kB, far above melting; reduced temperatures are of the order of 1", value, value
        )
    elif engine.units.name != "lj" and value < 60:
        log.warning("T = %g is read in kelvin; for %g degrees Celsius give -var T %.2f", value, value, value + 273.15)
    return value


def script_length_scale(engine: Engine, crystal: Crystal, temperature: float, given: float | None) -> tuple[float, str]:
    """Lambda and how it is known: by the user, the script's variable Lambda, the potential's sigma, or the thermal wavelength.

    Args:
        engine: The engine after the script.
        crystal: The crystal, for its masses.
        temperature: In the script's unit.
        given: By the user, length units; None: not given.

    Raises:
        StateError: The variable is no positive number.
    """
    if given is not None:
        return given, "estimate.length_scale"
    if (variable := _number(engine, "Lambda", engine.units.labels.length)) is not None:
        if variable <= 0:
            raise StateError(
                f"expected a positive length in variable Lambda, got {variable:g}; it is Lambda of beta F/N in the script's length unit"
            )
        return variable, "variable Lambda of the script"
    if (own := own_length(engine.pair)) is not None:
        return own
    if engine.units.name == "lj":
        return 1.0, "sigma of units lj"
    return thermal_wavelength(engine.units, crystal, temperature), WAVELENGTH


def thermal_wavelength(units: Units, crystal: Crystal, temperature: float) -> float:
    """H / sqrt(2 pi m k_B T), geometric mean over the atoms, length units.

    Args:
        units: The script's units.
        crystal: The crystal, for its masses.
        temperature: In the script's unit.
    """
    masses = crystal.masses[crystal.types - 1]
    log_lambda = np.log(units.planck) - 0.5 * np.log(2 * np.pi * masses * units.mvv2e * units.boltzmann * temperature)
    return float(np.exp(log_lambda.mean()))
