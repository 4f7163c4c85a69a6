# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the parameters of a Stillinger-Weber potential from a file in LAMMPS' format."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lammps_bg.potentials.stillinger_weber import StillingerWeber

_WORDS = 14  # element 1, 2, 3, epsilon, sigma, a, lambda, gamma, cos0, A, B, p, q, tol
_PAIR_COLUMNS = {"epsilon": 0, "sigma": 1, "a": 2, "gamma": 4, "big_a": 6, "big_b": 7, "p": 8, "q": 9}
_KCAL_PER_EV = 23.060549  # as LAMMPS has it
_LARGEST_TOLERANCE = 0.01  # as in LAMMPS

Entries = dict[tuple[str, str, str], list[float]]


def read_sw_file(path: Path, names: Sequence[str], units: str) -> StillingerWeber | None:
    """The potential of some elements, or None where the file lacks an entry or holds more than a symmetric potential.

    Args:
        path: File with 14 words an entry, comments after #.
        names: Element of each atom type.
        units: The script's unit style, to which LAMMPS converts files tagged as real or metal.
    """
    text = path.read_text(errors="replace")  # comments in any encoding
    entries = _entries(text)
    factor = _energy_factor(text, units)
    n = len(names)
    if entries is None or factor is None or any((a, b, c) not in entries for a in names for b in names for c in names):
        return None
    pairs = np.array([[entries[a, b, b] for b in names] for a in names])
    table = {name: pairs[..., column].copy() for name, column in _PAIR_COLUMNS.items()}
    table["epsilon"] *= factor
    table["reach"] = np.array([[_reach(pairs[a, b]) for b in range(n)] for a in range(n)])
    triplets = np.array([[[entries[a, b, c] for c in names] for b in names] for a in names])
    three_body, cosine = triplets[..., 3] * triplets[..., 0] * factor, triplets[..., 5].copy()
    symmetric = all(np.array_equal(value, value.T) for value in table.values())
    if not symmetric or any(np.abs(t - t.swapaxes(1, 2)).max() > 0 for t in (three_body, cosine)):
        return None
    return StillingerWeber(**table, three_body=three_body, cosine=cosine)


def _entries(text: str) -> Entries | None:
    words = " ".join(line.split("#")[0] for line in text.splitlines()).split()
    if len(words) % _WORDS:
        return None
    rows = [words[at : at + _WORDS] for at in range(0, len(words), _WORDS)]
    try:
        return {(row[0], row[1], row[2]): [float(word) for word in row[3:]] for row in rows}
    except ValueError:
        return None


def _energy_factor(text: str, units: str) -> float | None:
    """What LAMMPS multiplies the energies of a file with: it converts between real and metal where the first line has a tag."""
    tag = re.search(r"UNITS:\s*(\w+)", (text.splitlines() or [""])[0])
    given = tag.group(1) if tag else units
    return {(units, units): 1.0, ("metal", "real"): _KCAL_PER_EV, ("real", "metal"): 1 / _KCAL_PER_EV}.get((given, units))


def _reach(entry: np.ndarray) -> float:
    """The cutoff a sigma, less where the tolerance is above zero: there the three-body factor has fallen to it."""
    sigma, a, gamma, tolerance = entry[1], entry[2], entry[4], min(entry[10], _LARGEST_TOLERANCE)
    reach = sigma * a
    if tolerance > 0:
        reach += sigma * (gamma if gamma < 1 else 1.0) / math.log(tolerance)
    return float(reach)
