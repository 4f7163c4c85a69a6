# SPDX-License-Identifier: GPL-2.0-or-later
"""The page on the method names files and names of the code that exist, and links headings that are there."""

import ast
import re

import pytest
from pages import PAGES, ROOT, name_of

PAGE = ROOT / "docs" / "method.md"
_CITED = re.compile(r"`(lammps_bg/[\w/]+\.py)`(?::((?:\s*`[\w.]+`,?)+))?")


def cited(text):
    """Files of the code in a text, with the names that follow each."""
    return [(match[1], re.findall(r"`([\w.]+)`", match[2] or "")) for match in _CITED.finditer(text)]


def names_in(path):
    """Functions, classes and their members of a module, written Class.member."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def anchors(text):
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_method_cites_code_that_exists():
    text = PAGE.read_text(encoding="utf-8")
    places = cited(text)
    assert len(places) > 30
    assert len(re.findall(r"lammps_bg/[\w/]+\.py", text)) == len(places)
    for file, names in places:
        assert (ROOT / file).is_file(), file
        assert set(names) <= names_in(ROOT / file), (file, names)


def test_every_section_of_the_method_has_its_code():
    parts = re.split(r"^## (?=\d)", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(parts) > 8
    assert not [part.splitlines()[0] for part in parts if "*Code:*" not in part]


def test_references_are_cited_and_listed():
    text, _, listed = PAGE.read_text(encoding="utf-8").partition("## References")
    numbers = {int(number) for number in re.findall(r"\[(\d+)\](?!\()", text)}
    assert numbers == {int(number) for number in re.findall(r"^(\d+)\. ", listed, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_headings_lead_to_one(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        assert anchor in anchors(other.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_a_name_that_is_gone_is_seen():
    assert cited("`lammps_bg/a.py`: `b`, `C.d`; `lammps_bg/e.py`.") == [("lammps_bg/a.py", ["b", "C.d"]), ("lammps_bg/e.py", [])]
    assert "no_such_name" not in names_in(ROOT / "lammps_bg" / "thermo" / "weights.py")
