# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in processes that are copies of one which has torch and the like loaded: a command then starts in a second and not in five.

    python preloaded.py SOCKET STORE     # serve

A command sends its words, folder, environment and open files through the socket (`client` writes the program that does), and gets the
exit code. MPI is not loaded before the copy, so every command has its own. What a command writes to its -out is kept in STORE, and a
second command of the same words, on files and folders of the same contents, gets a copy.
"""

import contextlib
import hashlib
import importlib
import json
import os
import runpy
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from budgets import shortened, shortened_python

_PRELOADED = (
    "torch", "numpy", "scipy.stats", "scipy.optimize", "scipy.linalg", "scipy.special", "ase.io", "spglib", "networkx", "pydantic",
    "rich.console", "rich.table", "matplotlib.figure", "matplotlib.backends.backend_agg", "jinja2", "pymbar", "torch._dynamo",
)  # fmt: skip

_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
if "PMI_RANK" in os.environ:  # a rank of mpirun has to be started by it
    os.execv({python!r}, [{python!r}, {here!r}, "rank", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as door:
    door.connect({door!r})
    words = json.dumps([{kind!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(door, [len(words).to_bytes(8, "big")], [0, 1, 2])
    door.sendall(words)
    sys.exit(int.from_bytes(door.recv(1), "big"))
"""


def client(path, kind, door):
    """Write the program that hands its words over.

    Args:
        path: The program.
        kind: `lammps-bg` or `python`.
        door: The socket.
    """
    path.write_text(_CLIENT.format(python=sys.executable, here=str(Path(__file__)), kind=kind, door=str(door)))
    path.chmod(0o755)


def serve(door, store):
    """Answer one command after the other, until the process is ended."""
    for name in _PRELOADED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(door)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(_answer(connection, Path(store)).to_bytes(1, "big"))


def _answer(connection, store):
    """Read one request and do it; returns the exit code."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    length, text = int.from_bytes(head, "big"), b""
    while len(text) < length:
        text += connection.recv(65536)
    kind, words, folder, environment = json.loads(text)
    os.chdir(folder)
    with tempfile.TemporaryDirectory() as scratch:
        kept = _kept(kind, words, store)
        if kept is not None and kept.is_dir():
            _renew(kept, words)
            said = kept
        else:
            said = Path(scratch)
            code = _in_a_copy(kind, words, environment, said)
            (said / "code").write_text(str(code))
            if kept is not None and code == 0:
                _keep(kept, said, words)
        for number, name in ((files[1], "stdout"), (files[2], "stderr")):
            with open(number, "wb") as stream:
                stream.write((said / name).read_bytes())
        os.close(files[0])
        return int((said / "code").read_text())


def _kept(kind, words, store):
    """Where the result of a command is kept: it depends on its words, but for -out, and on the files and folders that they name."""
    if kind != "lammps-bg" or "-out" not in words or "--resume" in words:
        return None
    place = words.index("-out") + 1
    others = [*words[:place], *words[place + 1 :]]
    digest = hashlib.sha256(json.dumps(shortened(others)).encode())
    for path in sorted(file for word in others if Path(word).exists() for file in _files(Path(word))):
        digest.update(str(path).encode() + path.read_bytes())
    return store / digest.hexdigest()


def _files(path):
    """A file, or those in a folder on which another command depends: of a model not its results, of a simulation all but its report."""
    if path.is_file():
        return [path]
    if (path / "model.pt").is_file():
        return [path / "model.pt", path / "config.toml", *_files(path / "inputs")]
    return [file for file in path.rglob("*") if file.is_file() and file.parent.name != "figures" and file.name != "report.html"]


def _out(words):
    return Path(words[words.index("-out") + 1])


def _keep(kept, said, words):
    shutil.copytree(said, kept)
    _copy(_out(words), kept / "made")


def _renew(kept, words):
    """The folder of an earlier, equal command; it must be new here, too."""
    _copy(kept / "made", _out(words))


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _in_a_copy(kind, words, environment, scratch):
    """Do it in a copy of this process; returns the exit code."""
    sys.stdout.flush()
    copy = os.fork()
    if copy == 0:
        code = 70
        try:
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT), number)
            os.environ.clear()
            os.environ.update(environment)
            code = _lammps_bg(words) if kind == "lammps-bg" else _python(words)
        finally:  # nothing of the serving process may go on in the copy
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) & 0xFF


def _lammps_bg(words):
    main = importlib.import_module("lammps_bg.cli").main
    return _exit_code(lambda: main(shortened(words)))


def _python(words):
    sys.argv = shortened_python(words)
    sys.path.insert(0, str(Path(words[0]).parent))
    return _exit_code(lambda: runpy.run_path(words[0], run_name="__main__") and 0)


def _exit_code(action):
    try:
        return action()
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(error.code)
            return 1
        return error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        sys.exit(_lammps_bg(sys.argv[2:]))
    serve(*sys.argv[1:])
