# SPDX-License-Identifier: GPL-2.0-or-later
"""The Markdown pages, and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: The page, relative to the repository.
        line: Line of its opening fence, from 1.
        language: Word after the fence.
        text: What is between the fences.
    """

    page: str
    line: int
    language: str
    text: str


def name_of(page):
    """Path of a page relative to the repository."""
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """The blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [Block(name_of(page), text[: m.start()].count("\n") + 1, m[1], m[2]) for m in _FENCE.finditer(text)]


def commands_in(text):
    """The commands of a shell block: lines, without comments at the end, lines ending in a backslash joined; here-documents stay whole."""
    joined = text.replace("\\\n", " ")
    return [re.sub(r"\s{2,}#.*", "", line).rstrip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]
