# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that make container images: what hadolint and shellcheck say, and what those two cannot know."""

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
DOCKERFILES = [FOLDER / "Dockerfile", FOLDER / "Dockerfile.cuda"]
DEFINITION = FOLDER / "lammps_bg.def"
SCRIPTS = [FOLDER / "install.sh", FOLDER / "smoke.sh", ROOT / ".ci" / "run"]
BASE = "python:3.11-slim-bookworm"
INSTALL = "/source/install.sh /source /opt/lammps_bg"
SMOKE = "/opt/lammps_bg/smoke.sh /opt/lammps_bg/inputs"


def name_of(path):
    return path.name


def linted(program, *words, text=None):
    """Exit code and findings of a linter of the extra dev."""
    found = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"expected {program} of the extra dev; `make test` installs it"
    done = subprocess.run([found, *map(str, words)], input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def instructions(text):
    """Instructions of a Dockerfile with their arguments, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines() if line.strip()]


def stages(text):
    """The instructions of each stage, the first being FROM."""
    found = []
    for word, rest in instructions(text):
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def sections(text):
    """Sections of each stage of an Apptainer definition: name with its arguments -> lines."""
    found = []
    for line in re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).splitlines():
        if header := re.match(r"(Bootstrap|From|Stage): (.*)", line):
            if header[1] == "Bootstrap":
                found.append({})
            found[-1][header[1]] = [header[2]]
        elif line.startswith("%"):
            found[-1][line[1:]] = lines = []
        elif line.strip():
            lines.append(line.strip())
    return found


def copied(path):
    """What a file copies from the repository."""
    if path == DEFINITION:
        return [line.split()[0] for stage in sections(path.read_text()) for line in stage.get("files", [])]
    copies = [rest.split() for word, rest in instructions(path.read_text()) if word == "COPY"]
    return [source for words in copies if not words[0].startswith("--from=") for source in words[:-1]]


# ---- what the well-kept linters know


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_hadolint(path):
    labels = ["--require-label", "org.opencontainers.image.licenses:text", "--strict-labels"]
    titles = [
        "--require-label",
        "org.opencontainers.image.title:text",
        "--require-label",
        "org.opencontainers.image.description:text",
    ]
    titles += ["--require-label", "org.opencontainers.image.base.name:text"]
    code, said = linted("hadolint", *labels, *titles, path)
    assert code == 0, said


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_shellcheck(path):
    subprocess.run(["bash", "-n", path], check=True)
    code, said = linted("shellcheck", path)
    assert code == 0, said
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()


def test_the_linters_see_what_they_look_for():
    wrong = "FROM python:latest\nADD https://example.org/a /a\nRUN apt-get update && apt-get install -y git\nUSER root\n"
    code, said = linted("hadolint", "-", text=wrong)
    assert code != 0
    for rule in ("DL3007", "DL3015", "DL3009", "DL3002"):  # latest, recommended packages, package lists kept, root at the end
        assert rule in said
    assert linted("shellcheck", "--shell=bash", "-", text='cd "$1"\nrm $2\n')[0] != 0


# ---- what is this project's own


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_stages_of_a_dockerfile(path):
    builder, final = stages(path.read_text())
    assert builder[0] == ("FROM", f"{BASE} AS builder")
    assert final[0] == ("FROM", BASE)
    kind = "cuda" if path.suffix else "cpu"
    assert builder[-1] == ("RUN", f"{INSTALL} {kind}")
    words = [word for word, _ in final]
    assert "ADD" not in words
    assert final.index(("USER", "1000")) < final.index(("RUN", SMOKE))  # the test of the build is not root's
    assert words.count("USER") == 1
    assert words[-3:] == ["WORKDIR", "ENTRYPOINT", "CMD"]
    assert final[-3:-1] == [("WORKDIR", "/work"), ("ENTRYPOINT", '["lammps-bg"]')]
    assert ("COPY", "--from=builder /opt/lammps_bg /opt/lammps_bg") in final
    system = next(rest for word, rest in final if word == "RUN" and "apt-get" in rest)
    assert "--no-install-recommends libvulkan1 mesa-vulkan-drivers" in system
    assert "rm -rf /var/lib/apt/lists/*" in system


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_environment_of_a_dockerfile(path):
    environment = next(rest for word, rest in stages(path.read_text())[1] if word == "ENV")
    for setting in ("PATH=/opt/lammps_bg/bin:$PATH", "PYTHONUNBUFFERED=1", "PYTHONNOUSERSITE=1", "HOME=/tmp"):
        assert setting in environment.split()
    assert "OMP_NUM_THREADS" not in environment


def test_the_two_dockerfiles_differ_where_they_must():
    """Whatever is mended in one is mended in the other."""
    plain, cuda = (instructions(path.read_text()) for path in DOCKERFILES)
    without = [(word, rest) for word, rest in plain if (word, rest) not in cuda]
    assert [word for word, _ in without] == ["RUN", "LABEL", "ENV"]
    assert without[0][1] == f"{INSTALL} cpu"
    assert [word for word, _ in cuda] == [word for word, _ in plain]


def test_apptainer_calls_the_same_commands():
    builder, final = sections(DEFINITION.read_text())
    assert builder["From"] == final["From"] == [BASE]
    assert builder["Bootstrap"] == final["Bootstrap"] == ["docker"]
    assert builder["post"][-1] == f"{INSTALL} {{{{ TORCH }}}}"
    assert "TORCH=cpu" in builder["arguments"]
    assert final["files from builder"] == ["/opt/lammps_bg /opt/lammps_bg"]
    assert final["test"][-1] == SMOKE
    assert final["runscript"] == ['exec lammps-bg "$@"']
    assert {"environment", "labels", "help"} <= set(final)
    system = next(rest for word, rest in stages(DOCKERFILES[0].read_text())[1] if word == "RUN")
    for command in final["post"]:
        assert command in system
    assert "OMP_NUM_THREADS" not in " ".join(final["environment"])


@pytest.mark.parametrize("path", [*DOCKERFILES, DEFINITION], ids=name_of)
def test_copied_files_exist_and_are_needed(path):
    sources = copied(path)
    assert sorted(sources) == sorted(copied(DOCKERFILES[0]))
    assert {"pyproject.toml", "constraints.txt", "lammps_bg", "inputs", "docker/install.sh", "docker/smoke.sh"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
    assert "." not in sources


def test_nothing_else_goes_to_the_builder():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert sorted(kept) == sorted(copied(DOCKERFILES[0]))
    left_out = [line for line in lines[1:] if not line.startswith("!")]
    assert not [name for name in copied(DOCKERFILES[0]) for pattern in left_out if fnmatch(name, pattern)]


def test_one_file_of_versions():
    text = (FOLDER / "install.sh").read_text()
    assert '--constraint "$source/constraints.txt"' in text
    assert text.count("-m pip install") == 1  # every installation is through the array that has the constraint
    for path in (*DOCKERFILES, DEFINITION):
        assert "pip install" not in path.read_text()


@pytest.mark.parametrize("path", [*DOCKERFILES, DEFINITION, *SCRIPTS[:2], FOLDER / "README.md"], ids=name_of)
def test_no_place_of_packages_is_named(path):
    """Where packages come from is the builder's to say, by PIP_INDEX_URL."""
    assert not re.search(r"https?://|\b(pypi|pytorch|anaconda|docker|quay|ghcr)\.(org|io|com)\b", path.read_text())
