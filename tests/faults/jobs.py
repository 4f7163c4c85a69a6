# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as a process of its own that can be killed. One server has loaded torch and LAMMPS and forks the jobs: they start at once."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

LJ = """\
units lj
atom_style atomic
variable T index 0.5
lattice fcc 1.28
region cell block 0 1 0 1 0 1
create_box 1 cell
create_atoms 1 box
mass 1 1.0
pair_style lj/cut 2.2
pair_coeff 1 1 1.0 1.0
"""
SETTINGS = (
    "energy.source=lammps base.iterations=2 base.pilot_steps=0 base.n_samples=100 flow.width=8 flow.n_bins=2 train.steps=12 "
    "train.batch_size=16 train.evaluate_every=2 train.evaluate_samples=16 train.checkpoint_seconds=0.02 sample.n_samples=512 "
    "sample.batch_size=32 sample.n_dump=32 sample.picture=false estimate.n_bootstraps=50 estimate.rdf_samples=32 estimate.report=false "
    "exact.mode=never"
)
MD_SETTINGS = (
    "md.n_frames=300 md.damp=0.1 md.sample_every=20 md.n_dump=20 sample.picture=false estimate.n_bootstraps=50 "
    "estimate.rdf_samples=20 estimate.report=false"
)
RUN = ["run", "-in", "in.lj", "-rep", "2", "2", "2", "-out", "run", "--allow-red"]
RUN += [word for entry in SETTINGS.split() for word in ("--set", entry)]
MD = ["md", "-in", "in.lj", "-rep", "2", "2", "2", "-out", "run", "--allow-red"]
MD += [word for entry in MD_SETTINGS.split() for word in ("--set", entry)]
_LONGEST = 120.0  # seconds in which any of these jobs is done, also on a busy machine
_POLL = 0.005

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["lammps_bg.cli", "torch._dynamo"])  # the optimisers import the latter, which takes seconds


def _command(words, folder, environment, largest_file):
    """What the forked process does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.chdir(folder)
    for name, stream in (("out.txt", 1), ("error.txt", 2)):
        os.dup2(os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
    os.environ.update({"OMP_NUM_THREADS": "1", "LAMMPS_POTENTIALS": "", **environment})
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from lammps_bg.cli import main

    sys.exit(main(words))


class Job:
    """A running command; its folder's parent takes what it says.

    Args:
        words: Words after `lammps-bg`.
        folder: Where it works.
        environment: Further variables.
        largest_file: Bytes beyond which the system lets no file grow.
    """

    def __init__(self, words, folder, environment=None, largest_file=None):
        self.folder = Path(folder)
        self._process = _server.Process(
            target=_command, args=([str(w) for w in words], str(folder), environment or {}, largest_file)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def error(self):
        return (self.folder.parent / "error.txt").read_text()

    @property
    def alive(self):
        return self._process.exitcode is None

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def wait(self):
        """The exit code, negative after a signal."""
        self._process.join(_LONGEST)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"the job goes on for more than {_LONGEST:.0f} s; it said: {self.error}")
        self._process.close()
        return code


class RankedJob:
    """The same under mpirun."""

    def __init__(self, words, folder, ranks):
        self.folder = Path(folder)
        mpirun = str(Path(sys.executable).parent / "mpirun")
        program = [sys.executable, "-c", "import sys; from lammps_bg.cli import main; sys.exit(main())", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAMMPS_POTENTIALS": ""}
        with open(self.folder.parent / "out.txt", "w") as out, open(self.folder.parent / "error.txt", "w") as error:
            self._process = subprocess.Popen(
                [mpirun, "-n", str(ranks), *program], cwd=folder, stdout=out, stderr=error, env=environment
            )

    error = Job.error

    @property
    def alive(self):
        return self._process.poll() is None

    def ranks(self):
        """Processes of the ranks."""
        return [pid for pid in _descendants(self._process.pid) if b"lammps_bg.cli" in _words(pid)]

    def kill(self, number=signal.SIGKILL, which=0):
        """Signal one rank."""
        if ranks := self.ranks():
            os.kill(ranks[which % len(ranks)], number)

    def wait(self, seconds=_LONGEST):
        try:
            return self._process.wait(seconds)
        finally:
            self._process.kill()
            self._process.wait()


def _words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _descendants(pid):
    try:
        own = [int(word) for path in Path(f"/proc/{pid}/task").iterdir() for word in (path / "children").read_text().split()]
    except OSError:
        return []
    return [one for child in own for one in (child, *_descendants(child))]


def scripted(folder):
    """A new folder with the script; what its jobs say goes beside it."""
    work = Path(folder) / "work"
    work.mkdir(parents=True)
    (work / "in.lj").write_text(LJ)
    return work


def copied(source, folder):
    """A folder of `scripted` with a run in it, again."""
    return Path(shutil.copytree(source, Path(folder) / "work"))


def stage_of(run):
    """What status.json says, if anything yet."""
    try:
        return json.loads((run / "status.json").read_text())["stage"]
    except FileNotFoundError:
        return None


def wait_until(job, condition):
    """Wait for something that a job does; False where it ended before."""
    patience = time.monotonic() + _LONGEST
    while not condition():
        if not job.alive:
            return False
        if time.monotonic() > patience:
            raise TimeoutError(f"it did not come so far: {job.error}")
        time.sleep(_POLL)
    return True


def continued(words, run):
    """The words that go on with a run as the sentence of `lammps-bg status` does: a folder without inputs is begun again."""
    if (run / "provenance.json").exists():
        return [words[0], "-out", run.name, "--resume", "--allow-red"]
    return list(words)


def is_alive(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
