# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures the catalogue and writes the table of what works into docs/what_works.md: `make compatibility` (some minutes)."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from catalogue import ENTRIES, Entry
from measuring import Measured, complaints, difference, measure, refusal

PAGE = Path(__file__).parents[2] / "docs" / "what_works.md"
_BEGIN, _END = "<!-- compatibility: begin -->", "<!-- compatibility: end -->"
_HEADER = """\
| pair style | crystal | atoms | energies | bound, kT per atom | ESS | rerun | works |
|---|---|--:|--:|---|--:|--:|---|"""


def page() -> str:
    """The page."""
    return PAGE.read_text(encoding="utf-8")


def table_names(text: str) -> list[str]:
    """First column of the table between the markers.

    Args:
        text: The page.
    """
    inside = text.split(_BEGIN)[1].split(_END)[0]
    return re.findall(r"^\| ([^|]+?) \|", inside, re.MULTILINE)[1:]


def with_table(text: str, rows: Sequence[str]) -> str:
    """The page with a new table between the markers.

    Args:
        text: The page.
        rows: Lines of the table.
    """
    before, rest = text.split(_BEGIN)
    return "\n".join([before + _BEGIN, _HEADER, *rows, _END]) + rest.split(_END)[1]


def line(entry: Entry, folder: Path) -> str:
    """Measure an entry; its line of the table.

    Args:
        entry: The entry.
        folder: An empty folder.
    """
    if entry.refusal:
        verdict = f"no: {entry.special}" if entry.refusal in refusal(entry, folder) else "no, and not for the known reason"
        return f"| {entry.name} | {' '.join(entry.elements)} | | | | | | {verdict} |"
    if entry.limitation:
        energy, _ = difference(entry, folder)
        return f"| {entry.name} | {' '.join(entry.elements)} | | {energy:.0e} | | | | no: {entry.limitation} |"
    try:
        found = measure(entry, folder)
    except Exception as error:  # the table tells what does not work
        return f"| {entry.name} | {' '.join(entry.elements)} | | | | | | no: {' '.join(str(error).split())[:200]} |"
    return _line(entry, found)


def _line(entry: Entry, found: Measured) -> str:
    bound = f"{_number(found.before)} → {_number(found.after)} ({found.gain[0]:.4f} ± {found.gain[1]:.4f})"
    verdict = "; ".join(complaints(found))
    cells = (
        entry.name,
        f"{' '.join(entry.elements)}, {found.space_group}; {entry.special}",
        str(found.n_atoms),
        _small(found.energy_difference),
        bound,
        f"{found.ess:.0%}",
        _small(found.rerun_difference),
        f"no: {verdict}" if verdict else "yes",
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _small(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def main() -> None:
    """Measure all entries, or print the lines of some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="entries whose lines are printed; none: all, into docs/what_works.md")
    names = parser.parse_args().names
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for entry in ENTRIES:
        if names and entry.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(line(entry, Path(folder)))
        sys.stderr.write(f"{rows[-1]}\n")
    if not names:
        PAGE.write_text(with_table(page(), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
