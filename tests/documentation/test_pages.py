# SPDX-License-Identifier: GPL-2.0-or-later
"""Every block of the pages does what the page says: commands run, Python runs, settings load, and output looks as printed."""

import re
import shlex
from dataclasses import replace

import pytest
from budgets import EXERCISED_ELSEWHERE, REPLACED
from pages import PAGES, ROOT, blocks_of, commands_in, name_of

from lammps_bg.commands import parse
from lammps_bg.config import load_config

RUN = ("sh", "python")
LANGUAGES = {*RUN, "text", "toml"}
_END = "\x1e\n"  # between the blocks of one session
_NEXT = f"print({_END[0]!r}, flush=True)\n"
NOT_SHOWN = {"report"}  # lines that the settings of the test switch off
_RECORD = re.compile(r"^ +\d+ s  (lammps-bg .*)$", re.MULTILINE)  # what an example page lists: seconds and command
_NUMBER = re.compile(r"not reliable|(?<![A-Za-z_])[-+]?\d.*")


def runnable(text):
    """A block without the commands that are exercised elsewhere, and with words in the place of placeholders."""
    lines = [line for line in text.splitlines() if not any(line.startswith(start) for start in EXERCISED_ELSEWHERE)]
    text = "\n".join(lines) + "\n"
    for words, others in REPLACED.items():
        text = text.replace(words, others)
    return text


def labels(text):
    """What the lines of an output start with: up to a wide gap or the first number; of `beta F/N` and its like the name behind, too."""
    found = []
    for line in text.splitlines():
        parts = re.split(r"\s{2,}|(?<=^verdict) ", line.strip().removeprefix("NOT RELIABLE: "))
        words = " ".join(parts[:2]) if parts[0].startswith("beta ") else parts[0]
        label = _NUMBER.sub("", words).strip()
        if label and label != "...":
            found.append(label)
    return found


TRIED = [
    pytest.param(page, id=name_of(page), marks=[] if page.name == "README.md" else [pytest.mark.slow])
    for page in PAGES
    if blocks_of(page)
]


def joined(blocks):
    """The blocks of a page; if Python is all that runs there, as one session in its first block, which tells of its end in each."""
    if {block.language for block in blocks if block.language in RUN} != {"python"}:
        return blocks
    session = _NEXT.join(block.text for block in blocks if block.language == "python")
    first = next(block for block in blocks if block.language == "python")
    return [replace(block, text=session if block is first else "") if block.language == "python" else block for block in blocks]


@pytest.mark.parametrize("page", TRIED)
def test_blocks_run_in_their_order(page, workshop):
    said, section, coming = "", "", []
    for block in joined(blocks_of(page)):
        where = f"{block.page}:{block.line}"
        if block.language in RUN:
            if block.text:
                done = workshop.do(runnable(block.text), block.language)
                assert done.returncode == 0, f"{where}\n{done.stdout}"
                coming = done.stdout.split(_END)
            said, section = coming.pop(0), block.section
        elif block.language == "text" and is_output(block):
            assert section == block.section, f"{where}: output without the commands that made it"
            missing = [label for label in labels(block.text) if label not in {*labels(said), *NOT_SHOWN}]
            assert not missing, f"{where}: the output has no line that starts with {missing}\n{said}"


def is_output(block):
    """Whether a text block is what commands printed, and not a list of commands."""
    return not _RECORD.search(block.text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_language_that_is_tried(page):
    assert {block.language for block in blocks_of(page) if not block.language.startswith("{")} <= LANGUAGES
    assert page.read_text().count("```") == 2 * len(blocks_of(page))


def test_settings_load(tmp_path):
    blocks = [block for page in PAGES for block in blocks_of(page) if block.language == "toml"]
    assert blocks
    for block in blocks:
        (tmp_path / "bg.toml").write_text(block.text)
        load_config(tmp_path / "bg.toml")


def test_recorded_commands_are_those_of_this_version():
    """The commands that the example pages were made with: the parser knows every word, and their scripts are there."""
    records = [line for page in PAGES for block in blocks_of(page) for line in _RECORD.findall(block.text)]
    assert len(records) > 100
    for line in records:
        args = parse(shlex.split(line)[1:])
        if getattr(args, "script", None):
            assert (ROOT / args.script).is_file(), line


def test_what_is_not_run_is_in_a_page():
    commands = [line for page in PAGES for block in blocks_of(page) if block.language in RUN for line in commands_in(block.text)]
    assert not [start for start in EXERCISED_ELSEWHERE if not any(line.startswith(start) for line in commands)]
    text = "\n".join(commands)
    assert not [words for words in REPLACED if words not in text]


def test_a_wrong_command_is_seen(workshop):
    """The way of running blocks can fail: a wrong command, a failure before the last line, a wrong label."""
    assert workshop.do("lammps-bg check -in inputs/in.absent\n").returncode == 2
    assert workshop.do("false\ntrue\n").returncode != 0
    assert workshop.do("import sys\nsys.exit(3)\n", "python").returncode == 3
    assert workshop.do("lammps-bg config | grep -c steps\n").stdout.strip().isdigit()
    assert labels("beta F/N  TFEP (flow)     -25.1 ± 0.1\nfiles      runs/x\n...\n") == ["beta F/N TFEP (flow)", "files"]
