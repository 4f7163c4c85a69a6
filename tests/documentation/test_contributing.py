# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of folders is complete, and the files that an outsider is sent to exist, three at most for each change."""

import re

import pytest
from pages import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "lammps_bg"
CHANGES = {
    "a pair style in torch", "an energy source", "a base", "an optimiser", "an estimator", "a condition", "a figure", "a command",
    "a dump format",
}  # fmt: skip


def rows(title):
    """The cells of the lines of the table in a section."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return {first.strip(): second.strip() for first, second in lines}


def files(cell):
    """Files of the package that a cell names, placeholders among them."""
    return re.findall(r"`lammps_bg/([\w/]+\.py)`", cell)


def test_every_folder_is_on_the_map():
    found = {
        str(path.parent.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix in (".py", ".j2") and path.parent != PACKAGE
    }
    named = {name.strip("`/") for name in rows("Where things go") if name.startswith("`")}
    assert named == found


def test_the_table_has_every_kind_of_change():
    assert set(rows("Where to start")) == CHANGES


@pytest.mark.parametrize(("change", "cell"), rows("Where to start").items(), ids=lambda value: value[:24])
def test_a_change_is_made_in_files_that_exist(change, cell):
    named = files(cell)
    assert 1 <= len(named) <= 3
    for name in named:
        path = PACKAGE / name
        assert path.parent.is_dir() if path.name == "NAME.py" else path.is_file(), name


def test_what_is_found_by_its_name_has_no_list():
    """The folders whose files need no entry elsewhere: their names stand in no other module of the package."""
    for folder, names in {"flow/bases": ("einstein",), "potentials/sources": ("torch",), "commands": ("relax", "slurm")}.items():
        for name in names:
            module = f"lammps_bg.{folder.replace('/', '.')}.{name}"
            users = [
                path
                for path in PACKAGE.rglob("*.py")
                if re.search(rf"(from|import) {re.escape(module)}\b", path.read_text(encoding="utf-8"))
            ]
            assert [path for path in users if path.parent != PACKAGE / folder] == [], module
