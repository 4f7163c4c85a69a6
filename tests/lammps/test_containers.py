# SPDX-License-Identifier: GPL-2.0-or-later
"""The build steps of the container images without a container engine: the same scripts, here and in a clean environment."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, contents, use

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Programs that note their words, one NUL-separated call a line, and leave the files that smoke.sh looks for.
STUBS = {
    "lammps-bg": """printf '%s\\0' "$@" >> "$NOTES"; echo >> "$NOTES"
while (($# > 1)) && [[ $1 != -out ]]; do shift; done
[[ $1 == -out && -n $MAKES ]] || exit 0
mkdir "$2" && for name in $MAKES; do echo 1 > "$2/$name"; done
""",
    "mpirun": '[[ $1 == -n && $2 == 2 ]] || exit 1; shift 2; exec "$@"',
}


@pytest.fixture
def noted(tmp_path):
    """Runs smoke.sh with these programs; returns the words of their calls."""
    (tmp_path / "bin").mkdir()
    for name, text in STUBS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(makes, wanted):
        said = smoked(tmp_path / "bin", ROOT / "inputs", wanted=wanted, NOTES=str(tmp_path / "notes"), MAKES=makes)
        return said, [line.split("\0")[:-1] for line in (tmp_path / "notes").read_text().splitlines()]

    return run


def smoked(folder, inputs, *, wanted=0, **environment):
    """What smoke.sh says with the programs of a folder."""
    path = f"{folder}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        [str(ROOT / "docker" / "smoke.sh"), str(inputs)],
        env={"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == wanted, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands_of_smoke(noted, tmp_path, monkeypatch, capsys):
    """What smoke.sh asks of lammps-bg, done in this process, which saves four starts; `make containers` runs it as it stands."""
    said, (version, *commands) = noted("results.json samples.dump.gz", 0)
    assert said == "smoke.sh: lammps-bg works here\n"
    assert version == ["--version"]
    assert [words[0] for words in commands] == ["check", "run", "md"]
    (tmp_path / "work").mkdir()
    use(monkeypatch, tmp_path / "work")
    for words in commands:
        spoken = call(capsys, tmp_path / "work", *words)
        assert spoken.code == 0, spoken.error
    assert {"run/results.json", "run/samples.dump.gz"} <= set(contents(tmp_path / "work"))
    assert "md/results.json" in contents(tmp_path / "work")


def test_smoke_sees_a_program_that_does_nothing(noted):
    said, calls = noted("results.json", 1)
    assert len(calls) == 4
    assert "works here" not in said


@pytest.mark.containers
def test_smoke_here(tmp_path):
    """The last step of every image's build, with the program of these tests; nothing is left in the temporary folder."""
    (tmp_path / "tmp").mkdir()
    out = smoked(BIN, ROOT / "inputs", HOME=str(tmp_path), TMPDIR=str(tmp_path / "tmp"), PYTHONPATH=str(ROOT))
    assert out.endswith("smoke.sh: lammps-bg works here\n")
    assert "Helmholtz free energy" in out
    assert out.count("Molecular dynamics at") == 1  # two ranks, one voice
    assert not list((tmp_path / "tmp").iterdir())


def context(dockerfile, folder):
    """Copy what the first stage of a Dockerfile copies, to the same places below a folder."""
    stage = dockerfile.read_text().split("\nFROM")[1]
    for words in re.findall(r"^COPY (.*)", stage, re.MULTILINE):
        *sources, target = words.split()
        for source in map(ROOT.__truediv__, sources):
            place = folder / target.strip("/")
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place)


@pytest.mark.containers
def test_installation_in_a_clean_environment(tmp_path):
    """What the CPU image holds, made by its own commands from its own files; the package index is that of this machine's pip."""
    context(ROOT / "docker" / "Dockerfile", tmp_path)
    source, environment = tmp_path / "source", tmp_path / "lammps_bg"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LD_"))}
    path = ":".join(part for part in os.environ["PATH"].split(":") if part != str(BIN))
    subprocess.run([str(source / "install.sh"), str(source), str(environment), "cpu"], env={**clean, "PATH": path}, check=True)
    frozen = subprocess.run(
        [str(environment / "bin" / "python"), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = dict(line.lower().split("==") for line in frozen.split())
    tested = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    different = {
        name: installed[name] for name, version in tested if name in installed and installed[name].split("+")[0] != version
    }
    assert different == {}
    assert {"lammps-bg", "lammps", "mpich", "torch", "ovito", "matplotlib"} <= set(installed)
    assert not {"openmpi", "impi-rt", "pytest", "ruff", "mypy"} & set(installed)
    assert list((environment / "lib").glob("python*/site-packages/lammps_bg/report/templates/report.html.j2"))
    assert smoked(environment / "bin", ROOT / "inputs", HOME=str(tmp_path)).endswith("works here\n")
