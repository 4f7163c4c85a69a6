# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as people meet them: the names, units and order of what stands in results.json, and how a number is written.

One convention, for console, report, status and tables alike: a number is written `value ± error unit`, its error is one standard error
(1 sigma) with two digits, and the value has the same place. An interval, in brackets or drawn, is one of 95 %, and says so.

Whoever adds an estimator adds a line to `ESTIMATORS`: its place there is its place everywhere, the best first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

Ensemble = Literal["base", "flow", "reweighted", "exact", "md"]
Kind = Literal["flow", "isobaric", "md", "gibbs", "phase"]
NOTHING = "–"
NOT_RELIABLE = "not reliable"
ERRORS = "±: one standard error, 1σ"
INTERVALS = "Intervals in brackets, bars and bands in figures: 95 %"
NORMAL_95 = 1.96
"""Half the width of a 95 % interval of a normal distribution, in standard errors."""
ENSEMBLES: dict[str, str] = {
    "base": "base", "flow": "flow", "reweighted": "flow, reweighted", "exact": "exact (chains)", "md": "MD",
}  # fmt: skip
"""Key in results.json and written name of whose configurations a number is of, in the order of tables and figures."""


@dataclass(frozen=True)
class Estimator:
    """A way to beta F / N.

    Attributes:
        key: Name below `estimates` in results.json.
        name: Written name.
        samples: Whose samples it rests on, `reweighted` for flow and MD together.
        leads: Whether it may be the one number of a run.
    """

    key: str
    name: str
    samples: Ensemble
    leads: bool = False


_ESTIMATORS = (
    Estimator("exact", "exact (chains)", "exact", leads=True),
    Estimator("mbar", "MBAR (flow and windows)", "reweighted", leads=True),
    Estimator("bar", "BAR (flow and MD)", "reweighted", leads=True),
    Estimator("tfep", "TFEP (flow)", "flow", leads=True),
    Estimator("bar_marginal", "BAR (marginal density)", "reweighted"),
    Estimator("tfep_marginal", "TFEP (marginal density)", "flow"),
    Estimator("mbar_windows", "MBAR (MD windows)", "md"),
    Estimator("tfep_reverse", "reverse TFEP (MD)", "md"),
    Estimator("bound", "upper bound", "flow"),
)
ESTIMATORS = {estimator.key: estimator for estimator in _ESTIMATORS}
"""All estimators by key, the best first."""
_TERMS = {"flow": "flow and weights (estimated)", "lambda_windows": "springs to potential (estimated)"}
_ROUNDING = 1e-12  # an error below this share of its number is none
_SYMBOLS = (("Angstrom", "Å"), ("epsilon", "ε"), ("sigma", "σ"), ("^2", "²"), ("^3", "³"), ("kB", "k_B"))


def is_number(value: Any) -> TypeGuard[float]:  # noqa: ANN401  (any JSON value)
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def unit(name: str) -> str:
    """A unit of results.json with its symbols, such as Å² for Angstrom^2."""
    for word, symbol in _SYMBOLS:
        name = name.replace(word, symbol)
    return name


def plain(value: Any, digits: int = 6) -> str:  # noqa: ANN401  (any JSON value)
    """A number with so many significant digits; a dash where there is none."""
    return f"{value:.{digits}g}" if is_number(value) else NOTHING


def count(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A whole number with thin spaces between thousands; a dash where there is none."""
    return f"{round(value):,}".replace(",", "\u202f") if is_number(value) else NOTHING


def share(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A fraction in per cent, with two digits after the point below one per cent; a dash where there is none."""
    if not is_number(value):
        return NOTHING
    return f"{value:.1%}" if value >= 0.01 or value == 0 else f"{value:.2%}"


def score(z: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A difference in standard errors, with its sign; a dash where there is none."""
    return f"{z:+.1f}" if is_number(z) else NOTHING


def duration(seconds: Any) -> str:  # noqa: ANN401  (any JSON value)
    """A time in seconds as a person says it; a dash where there is none."""
    if not is_number(seconds):
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def short_duration(seconds: float) -> str:
    """A time in the largest two units that it has, in whole seconds."""
    whole = round(max(0.0, seconds))
    for size, large, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


def with_error(value: Any, error: Any, in_unit: str = "") -> str:  # noqa: ANN401  (any JSON values)
    """A number, its standard error with two digits, the number to the same place, and its unit.

    Args:
        value: The number; a dash is written where it is none.
        error: Its standard error; without one the number stands alone.
        in_unit: As in results.json.
    """
    if not is_number(value):
        return NOTHING
    return f"{_with_error(value, error)} {unit(in_unit)}".strip()


def _with_error(value: float, error: object) -> str:
    if not is_number(error) or error <= _ROUNDING * abs(value):
        return plain(value)
    magnitude = max(abs(value), error)
    if not 1e-4 <= magnitude < 1e7:
        power = math.floor(math.log10(magnitude))
        return f"({_with_error(value / 10.0**power, error / 10.0**power)})e{power}"
    places = _places(error)
    return f"{value:.{places}f} ± {error:.{places}f}"


def _places(error: float) -> int:
    """Digits after the point that an error of two digits needs."""
    return max(0, 1 - math.floor(math.log10(float(f"{error:.1e}"))))


def interval(limits: Any, error: Any) -> str:  # noqa: ANN401  (any JSON value)
    """Limits of a 95 % interval to the place of the error's second digit; a dash where there are none."""
    if not isinstance(limits, list | tuple) or len(limits) != 2 or not all(map(is_number, limits)):
        return NOTHING
    if is_number(error) and error > 0 and 1e-4 <= max(map(abs, limits)) < 1e7:
        places = _places(error)
        return f"[{limits[0]:.{places}f}, {limits[1]:.{places}f}]"
    return f"[{plain(limits[0])}, {plain(limits[1])}]"


def written(entry: Mapping[str, Any] | None, *, in_unit: str = "", missing: str = NOTHING) -> str:
    """An entry of results.json that has `value` and `error`.

    Args:
        entry: None or empty where there is none.
        in_unit: As in results.json.
        missing: What to write for a number that is not there, such as one that is withheld.
    """
    given = entry or {}
    shown = with_error(given.get("value"), given.get("error"), in_unit)
    return missing if shown == NOTHING else shown


def term_name(key: str) -> str:
    """Written name of a contribution to the free energy."""
    return _TERMS.get(key, key.replace("_", " "))


@dataclass(frozen=True)
class Estimate:
    """beta F / N by one estimator; numbers are None where they are withheld or unknown.

    Attributes:
        key: Name below `estimates` in results.json.
        name: Written name.
        value: beta F / N, kT per atom.
        error: One standard error of it.
        interval: Limits of the 95 % interval.
        n: Number of samples.
        terms: Contributions that sum to the value, kT per atom; None where one is withheld.
        energy: F / N with `value`, `error` and `unit`, in the script's unit.
        z: Difference from the reference of a comparison with MD, in joint standard errors.
    """

    key: str
    name: str
    value: float | None
    error: float | None
    interval: Sequence[float] | None
    n: float | None
    terms: Mapping[str, float | None]
    energy: Mapping[str, Any]
    z: float | None

    @property
    def estimator(self) -> Estimator:
        """What made it; one that nobody here knows counts as one of MD that never leads."""
        return ESTIMATORS.get(self.key, Estimator(self.key, self.name, "md"))

    def __str__(self) -> str:
        return written(vars(self), in_unit="kT", missing=NOT_RELIABLE)

    @classmethod
    def read(cls, key: str, name: str, entry: Mapping[str, Any], z: Any = None) -> "Estimate":  # noqa: ANN401
        """An estimate from its entry in results.json.

        Args:
            key: Name in results.json.
            name: Written name.
            entry: Mapping with `beta_F_per_atom`, `terms` and `F_per_atom`.
            z: Difference from the reference MD.
        """
        number = entry.get("beta_F_per_atom") or {}
        value, error, n = (number.get(part) if is_number(number.get(part)) else None for part in ("value", "error", "n"))
        limits = number.get("interval")
        if not limits and value is not None and error is not None:
            limits = [value - NORMAL_95 * error, value + NORMAL_95 * error]
        energy = entry.get("F_per_atom") or {}
        return cls(key, name, value, error, limits, n, entry.get("terms") or {}, energy, z if is_number(z) else None)


def estimate_block(number: Mapping[str, Any], terms: object, *, kt: float, in_unit: str) -> dict[str, Any]:
    """What stands below `estimates` in results.json, as `Estimate.read` reads it.

    Args:
        number: beta F / N with `value`, `error`, `interval` and `n`; None where it is withheld.
        terms: Contributions to it, kT per atom.
        kt: kT in the script's energy unit.
        in_unit: Name of that unit.
    """
    energy = {part: number[part] * kt if isinstance(number[part], float) else None for part in ("value", "error")}
    return {"beta_F_per_atom": number, "terms": terms, "F_per_atom": {**energy, "unit": in_unit}}


class Results(dict[str, Any]):
    """The content of results.json, which is this mapping, with names for its parts and its estimates in order."""

    def part(self, name: str) -> Mapping[str, Any]:
        """A block such as `sampling` or `cost`; empty where there is none."""
        return self.get(name) or {}

    @property
    def kind(self) -> Kind:
        """What made it."""
        for name in ("gibbs", "phase", "md"):
            if name in self:
                return name
        return "isobaric" if "npt" in self else "flow"

    @property
    def system(self) -> Mapping[str, Any]:
        """The crystal and its state."""
        return self.part("system")

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return int(self.system["n_atoms"])

    @property
    def comparison(self) -> Mapping[str, Any]:
        """What `estimate -md` added; empty before it."""
        return self.part("comparison")

    @property
    def exact(self) -> Mapping[str, Any]:
        """What chains added; empty where none were run."""
        return self.part("exact")

    @property
    def reliable(self) -> bool:
        """Whether the verdict lets the number be shown."""
        return bool(self.part("verdict").get("reliable"))

    @property
    def weights_reliable(self) -> bool:
        """Whether averages over the reweighted samples may be shown: the verdict does, and did not withhold their own estimate."""
        perturbation = self.estimate("tfep")
        return self.reliable and (perturbation is None or perturbation.value is not None)

    def estimates(self) -> list[Estimate]:
        """All estimates, the best first; those of a later version that nobody here knows stand last, before the upper bound."""
        given, compared = self.part("estimates"), {str(row.get("key")): row for row in self.comparison.get("rows") or []}
        keys = {**given, **compared}
        found = []
        for key in (*(key for key in ESTIMATORS if key in keys), *(key for key in keys if key not in ESTIMATORS)):
            row = compared.get(key, {})
            known = ESTIMATORS.get("mbar_windows" if self.kind == "md" and key == "mbar" else key)
            name = known.name if known else str(row.get("name") or key.replace("_", " "))
            found.append(Estimate.read(key, name, given.get(key) or {"beta_F_per_atom": row}, row.get("z")))
        return sorted(found, key=lambda estimate: estimate.key == "bound")

    def estimate(self, key: str) -> Estimate | None:
        """One of the estimates; None where the run has none of this estimator."""
        return next((estimate for estimate in self.estimates() if estimate.key == key), None)

    @property
    def best(self) -> Estimate | None:
        """The one number of the run: the best estimate that is not withheld, else a withheld one; None where there is none."""
        leading = [estimate for estimate in self.estimates() if estimate.estimator.leads]
        return next((estimate for estimate in leading if estimate.value is not None), leading[-1] if leading else None)

    @property
    def terms(self) -> dict[str, float]:
        """The contributions to the best estimate that has any, kT per atom; empty where they are withheld."""
        leading = [estimate for estimate in self.estimates() if estimate.estimator.leads]
        for estimate in sorted(leading, key=lambda estimate: estimate.value is None):
            if known := {name: float(value) for name, value in estimate.terms.items() if is_number(value)}:
                return known
        return {}
