# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a LAMMPS script: logical lines and words, by the rules of LAMMPS' own reader."""

import re
from dataclasses import dataclass
from pathlib import Path

from lammps_bg.errors import ScriptError

_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_QUOTES = ('"""', '"', "'")


@dataclass(frozen=True)
class Line:
    """One command of a script: continuation lines joined, comment removed.

    Attributes:
        text: The command, possibly empty.
        number: Number of its first line in the file, from 1.
    """

    text: str
    number: int


@dataclass(frozen=True)
class Word:
    """One word of a command.

    Attributes:
        raw: As written, with its quotes.
        text: Without the quotes.
    """

    raw: str
    text: str


def read_lines(path: Path) -> list[Line]:
    """The logical lines of a script file.

    Raises:
        ScriptError: The file cannot be read or is not text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScriptError(f"expected a LAMMPS input script at {path}, but it cannot be read ({error.strerror})") from None
    if _NO_TEXT.search(data):
        raise ScriptError(f"expected a LAMMPS input script (text), but {path} is a binary file; give the script itself to -in")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return _logical(text.replace("\r\n", "\n").split("\n"))


def _logical(physical: list[str]) -> list[Line]:
    """Join lines that end in `&` and the lines inside triple quotes."""
    lines: list[Line] = []
    text, start = "", 1
    for number, piece in enumerate(physical, 1):
        if not text:
            start = number
        text += piece
        if text.rstrip().endswith("&"):
            text = text.rstrip()[:-1] or " "
        elif text.count('"""') % 2:
            text += "\n"
        else:
            lines.append(Line(strip_comment(text).strip(), start))
            text = ""
    if text.strip():
        lines.append(Line(strip_comment(text).strip(), start))
    return lines


def _quote_at(text: str, position: int) -> str:
    """The quote that starts at a position, or nothing."""
    return next((quote for quote in _QUOTES if text.startswith(quote, position)), "")


def strip_comment(text: str) -> str:
    """Remove everything from the first `#` outside quotes."""
    position = 0
    while position < len(text):
        if text[position] == "#":
            return text[:position]
        quote = _quote_at(text, position)
        if quote:
            end = text.find(quote, position + len(quote))
            if end < 0:
                return text
            position = end + len(quote)
        else:
            position += 1
    return text


def has_open_variable(text: str) -> bool:
    """Whether a `$` stands outside quotes, so that LAMMPS would substitute it before it reads the command."""
    position = 0
    while position < len(text):
        if text[position] == "$":
            return True
        quote = _quote_at(text, position)
        end = text.find(quote, position + len(quote)) if quote else -1
        position = end + len(quote) if end >= 0 else position + 1
    return False


def split_words(text: str) -> list[Word]:
    """Split a command into words as LAMMPS does: a quote counts at the start of a word only."""
    words: list[Word] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        quote = _quote_at(text, position)
        end = text.find(quote, position + len(quote)) if quote else -1
        if quote and end < 0:
            raise ScriptError(f"expected a closing {quote} in the LAMMPS command '{text}'")
        if quote:
            words.append(Word(text[position : end + len(quote)], text[position + len(quote) : end]))
            position = end + len(quote)
        else:
            end = position
            while end < len(text) and not text[end].isspace():
                end += 1
            words.append(Word(text[position:end], text[position:end]))
            position = end
    return words


def quoted(value: str) -> str:
    """A value as one word of a LAMMPS command."""
    if value and not any(c.isspace() or c in "#&$" for c in value):
        return value
    quote = '"' if '"' not in value else "'"
    return f"{quote}{value}{quote}"
