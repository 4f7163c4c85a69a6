# SPDX-License-Identifier: GPL-2.0-or-later
"""The pressure a script asks for: its variable P, a plain number or one with its unit."""

import re

from lammps_bg.crystal.pressure import parse_pressure
from lammps_bg.engine.lammps_engine import Engine
from lammps_bg.errors import StateError

_SPLIT = re.compile(r"^[ \t]*variable[ \t]+P[ \t]+index[ \t]+(\S+)[ \t]+([A-Za-z]\S*)", re.MULTILINE)


def script_pressure(engine: Engine) -> float | None:
    """Value of the script's variable P, pressure units, or None where it has none.

    Raises:
        StateError: It is no pressure.
    """
    text = engine.state_variable("P")
    if text is None:
        return None
    for path in engine.script_files:
        split = _SPLIT.search(path.read_text(errors="replace"))
        if split and split[1] == text:  # LAMMPS takes the words as a list of values, of which this is the first
            raise StateError(
                f"expected one word in `variable P index`, got '{split[1]} {split[2]}' in {path.name}, of which LAMMPS reads "
                f"'{split[1]}' only; write `variable P index \"{split[1]} {split[2]}\"`"
            )
    return parse_pressure(text, engine.units)
