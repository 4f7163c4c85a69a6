# SPDX-License-Identifier: GPL-2.0-or-later
"""The Markdown pages, and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*|\{[\w-]+\})\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: The page, relative to the repository.
        line: Line of its opening fence, from 1.
        section: Heading that it stands under.
        language: Word after the fence; in braces where it is a directive of Sphinx.
        text: What is between the fences.
    """

    page: str
    line: int
    section: str
    language: str
    text: str


def name_of(page):
    """Path of a page relative to the repository."""
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """The blocks of a page in their order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", before), re.MULTILINE)
        found.append(Block(name_of(page), before.count("\n") + 1, titles[-1] if titles else "", match[1], match[2]))
    return found


def commands_in(text):
    """The commands of a shell block: lines, without comments at the end, lines ending in a backslash joined; here-documents stay whole."""
    joined = text.replace("\\\n", " ")
    return [re.sub(r"\s{2,}#.*", "", line).rstrip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]
