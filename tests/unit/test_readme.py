# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Markdown pages point to exists, and nothing in them waits to be filled in."""

import re
from pathlib import Path

import pytest

from lammps_bg.commands import parse

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "docker" / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_waits_to_be_filled_in(page):
    assert not re.findall(r"@[A-Z]+@|TODO|FIXME", page.read_text())


def test_commands_inside_containers_are_understood():
    """What the images are told to do after `docker run ...` or `apptainer run ...` is parsed by the real parser."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docker" / "README.md").read_text(), re.DOTALL)
    commands = [found[1].split() for block in blocks for found in re.finditer(r" ((?:run|md) -in .*)$", block, re.MULTILINE)]
    assert len(commands) >= 6
    for words in commands:
        assert parse(words).out is not None
