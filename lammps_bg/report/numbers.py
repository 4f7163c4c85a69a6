# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers and units as a reader expects them: as many digits as the error supports, and symbols for units."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

NOTHING = "–"
_ROUNDING = 1e-12  # an error below this share of its number is none
_SYMBOLS = (("Angstrom", "Å"), ("epsilon", "ε"), ("sigma", "σ"), ("^2", "²"), ("^3", "³"), ("kB", "k_B"))


def unit(name: str) -> str:
    """The written name of a unit with its symbols, such as Å² for Angstrom^2.

    Args:
        name: Unit as in results.json.
    """
    for word, symbol in _SYMBOLS:
        name = name.replace(word, symbol)
    return name


def is_number(value: Any) -> TypeGuard[float]:  # noqa: ANN401  (any JSON value)
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any, digits: int = 6) -> str:  # noqa: ANN401  (any JSON value)
    """A number with so many significant digits; a dash where there is none.

    Args:
        value: The number, or anything else.
        digits: Significant digits.
    """
    return f"{value:.{digits}g}" if is_number(value) else NOTHING


def with_error(value: Any, error: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A number and its standard error, the error with two digits and the number to the same place.

    Args:
        value: The number, or anything else.
        error: Its standard error, or anything else where it has none.
    """
    if not is_number(value):
        return NOTHING
    if not is_number(error) or error <= _ROUNDING * abs(value):
        return plain(value)
    magnitude = max(abs(value), error)
    if not 1e-4 <= magnitude < 1e7:
        power = math.floor(math.log10(magnitude))
        return f"({with_error(value / 10.0**power, error / 10.0**power)})e{power}"
    places = _places(error)
    return f"{value:.{places}f} ± {error:.{places}f}"


def _places(error: float) -> int:
    """Digits after the point that an error of two digits needs."""
    return max(0, 1 - math.floor(math.log10(float(f"{error:.1e}"))))


def interval(limits: Any, error: Any) -> str:  # noqa: ANN401  (any JSON value)
    """Limits of an interval to the place of the error's second digit.

    Args:
        limits: Two numbers, or anything else.
        error: The standard error that sets the number of digits.
    """
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(map(is_number, limits)):
        return NOTHING
    if is_number(error) and error > 0 and 1e-4 <= max(map(abs, limits)) < 1e7:
        places = _places(error)
        return f"[{limits[0]:.{places}f}, {limits[1]:.{places}f}]"
    return f"[{plain(limits[0])}, {plain(limits[1])}]"


def estimate(entry: Mapping[str, Any] | None, *, missing: str = NOTHING) -> str:
    """Value and error of an estimate in results.json.

    Args:
        entry: Mapping with `value` and `error`; None or empty where there is none.
        missing: What to write where the value is withheld.
    """
    shown = with_error((entry or {}).get("value"), (entry or {}).get("error"))
    return missing if shown == NOTHING else shown


def duration(seconds: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A wall time as a person says it.

    Args:
        seconds: The time in seconds, or anything else.
    """
    if not is_number(seconds):
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A whole number with thin spaces between thousands.

    Args:
        value: The number, or anything else.
    """
    return f"{round(value):,}".replace(",", "\u202f") if is_number(value) else NOTHING
