# SPDX-License-Identifier: GPL-2.0-or-later
"""Every writer makes its file under another name and renames it: interrupted at any point, it leaves the old file or none."""

import ast
import errno
import os
from pathlib import Path

import pytest

from lammps_bg import files
from lammps_bg.cli import main
from lammps_bg.errors import ConfigError, FullDiskError, RunDirectoryError
from lammps_bg.store.csv_table import CsvTable
from lammps_bg.store.run_directory import RunDirectory

PACKAGE = Path(files.__file__).parent
ALLOWED = {  # places that write, and why they may
    "files.py": "the one way",
    "engine/dump.py": "grows under .partial",
    "store/csv_table.py": "grows by whole lines",
    "store/lock.py": "the lock",
    "engine/script/files.py": "scratch",
    "engine/instance.py": "scratch",
    "engine/lammps_engine.py": "scratch",
    "store/relaxed_files.py": "a draft that is given its name by a link",
    "report/figures/style.py": "inside replaced()",
    "report/html.py": "into memory",
    "report/notebook.py": "into memory",
    "store/trajectory.py": "inside replaced()",
    "training/checkpoint.py": "inside replaced()",
}


def writes(call):
    """Whether a call writes a file by itself; methods of a run directory, which are safe, do not count."""
    place, _, name = ast.unparse(call.func).rpartition(".")
    if name == "open":
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        return any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)
    if name in ("copyfile", "copy", "copy2", "move"):
        return place == "shutil"
    return name in ("write_text", "write_bytes", "savefig") and place.split(".")[-1] not in ("run", "self")


def test_writers_are_known():
    """Whoever writes a file some other way has to be looked at and named above."""
    trees = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    calls = {name: [node for node in ast.walk(tree) if isinstance(node, ast.Call)] for name, tree in trees.items()}
    found = {name for name, every in calls.items() if any(map(writes, every))}
    assert found - set(ALLOWED) == set()
    assert {"files.py", "engine/dump.py", "store/csv_table.py"} <= found


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("killed"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    (tmp_path / "a.json.tmp").write_text("of a killed job")

    def half():
        with files.replaced(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(FullDiskError if isinstance(error, OSError) else type(error)):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    files.replace_bytes(path, b"new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.ENOSPC, FullDiskError, "the disk is full"),
        (errno.EDQUOT, FullDiskError, "the disk quota is used up"),
        (errno.EFBIG, FullDiskError, "ulimit -f"),
        (errno.EROFS, RunDirectoryError, "it is read-only"),
        (errno.EIO, RunDirectoryError, "the system says 'Input/output error'"),
    ],
)
def test_system_errors_are_sentences(tmp_path, code, kind, message):
    error = files.cannot_write(tmp_path, OSError(code, os.strerror(code)))
    assert type(error) is kind
    assert message in str(error)
    assert error.exit_code == (1 if kind is FullDiskError else 2)


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_another(tmp_path, monkeypatch, links):
    def none_here(*_):
        raise OSError(errno.EPERM, "no hard links")

    if not links:
        monkeypatch.setattr(os, "link", none_here)
    (tmp_path / "draft").write_text("new")
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileExistsError):
        files.place_new(tmp_path / "draft", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    files.place_new(tmp_path / "draft", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_table_cut_anywhere_is_continued(tmp_path, cut):
    with CsvTable(tmp_path / "a.csv", ["step", "loss"]) as table:
        for step in range(1, 6):
            table.write(step, step / 10)
    whole = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "a.csv").write_bytes(whole[:cut])
    (tmp_path / "a.csv.tmp").write_text("of a killed job")
    kept = max(0, whole[:cut].count(b"\n") - 1)
    with CsvTable(tmp_path / "a.csv", ["step", "loss"], keep_until=99) as table:
        for step in range(kept + 1, 6):
            table.write(step, step / 10)
    assert (tmp_path / "a.csv").read_bytes() == whole


@pytest.mark.parametrize("content", [b"\xff\xfe\x00step\n", b"step,loss\nx,y\n", b"\x00\x00\x00\n"])
def test_a_garbled_table_is_a_sentence(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"a\.csv"):
        CsvTable(tmp_path / "a.csv", ["step", "loss"], keep_until=99)


def test_a_folder_filled_meanwhile_is_refused(tmp_path, monkeypatch):
    """Between the first look and the lock, somebody else puts a file there."""
    from lammps_bg.store.job import Job

    hold = Job.hold

    def late(job, folder):
        (folder / "precious").write_text("x")
        hold(job, folder)

    monkeypatch.setattr(Job, "hold", late)
    with Job(), pytest.raises(RunDirectoryError, match="already holds files"):
        RunDirectory.create(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


# ---- the scratch folder


@pytest.mark.parametrize("name", ["TMPDIR", "TEMP", "TMP"])
def test_missing_scratch(tmp_path, monkeypatch, capsys, name):
    """Python would silently take /tmp instead."""
    for other in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path / "scratch"))
    assert main(["run", "-in", "in.none", "-out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"ERROR: expected a scratch folder that can be written to in {name}, got {tmp_path}/scratch ('No such file"
    )
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "scratch").write_text("no folder")
    with pytest.raises(ConfigError, match="Not a directory"):
        files.require_scratch()
    assert main(["config"]) == 0
    (tmp_path / "scratch").unlink()
    (tmp_path / "scratch").mkdir()
    files.require_scratch()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_full_scratch(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        files.require_scratch()
