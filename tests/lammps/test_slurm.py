# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg slurm`: the script that it prints, run under a SLURM of a few lines of shell."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import LJ, TINY, TINY_MD, call, use

from lammps_bg.commands import slurm
from lammps_bg.errors import ConfigError

BIN = Path(sys.executable).parent
RUN = ["run", "-in", "in.lj", "-out", "runs/lj"]
MD = ["md", "-in", "in.lj", "-out", "runs/lj"]
STARTED: list[subprocess.Popen] = []
GIBBS = ["gibbs", "-model", "runs/lj", "-out", "runs/lj"]

# What SLURM, MPI and Apptainer do here: they note what they are told, and start what they should.
STUBS = {
    "scontrol": 'echo "$*" >> "$NOTES/scontrol"; exit "${SCONTROL_CODE:-0}"',
    "mpirun": 'echo "$*" >> "$NOTES/mpirun"; while [[ $1 == -* ]]; do shift 2; done; exec "$@"',
    "apptainer": 'echo "$*" >> "$NOTES/apptainer"; while [[ $1 != *.sif ]]; do shift; done; shift; exec "$@"',
    "srun": 'echo "$*" >> "$NOTES/srun"; while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "lammps-bg": """printf '%q ' "$@" >> "$NOTES/lammps-bg"; echo >> "$NOTES/lammps-bg"
env > "$NOTES/environment"
[[ $1 == status ]] && exit 2
trap 'echo USR1 >> "$NOTES/signals"; [[ -n ${DEAF:-} ]] || exit 75' USR1
trap 'echo TERM >> "$NOTES/signals"; exit 143' TERM
echo > "$NOTES/started"
for ((i = 0; i < ${TENTHS:-0}; i++)); do sleep 0.1; done
exit "${CODE:-0}"
""",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A submission folder, with stubs in bin/ and an empty folder for what they note."""
    use(monkeypatch, tmp_path)
    (tmp_path / "in.lj").write_text(LJ)
    (tmp_path / "bin").mkdir()
    (tmp_path / "notes").mkdir()
    for name, text in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.write_text(f"#!/bin/bash\n{text}\n")
        stub.chmod(0o755)
    return tmp_path


@pytest.fixture
def printed(cluster, capsys):
    """Prints a script into job.sh and returns its text; nothing else is said."""

    def make(*words, place=("--environment", cluster)):
        spoken = call(capsys, cluster, "slurm", *place, *words)
        assert (spoken.code, spoken.error, spoken.changed) == (0, "", set())
        (cluster / "job.sh").write_text(spoken.out)
        return spoken.out

    return make


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """A test that fails leaves no program behind."""
    STARTED.clear()
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def start(folder, **more):
    """Start job.sh as SLURM would."""
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node1", "SLURM_CPUS_PER_TASK": "1", "SLURM_TASKS_PER_NODE": "2"}
    more = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "NOTES": str(folder / "notes"), **slurm, **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(["bash", "job.sh"], cwd=folder, env={**os.environ, **more}, start_new_session=True, **pipes)
    STARTED.append(process)
    return process


def ended(process):
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def wait_for(process, ready):
    patience = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.02)


def noted(folder, name):
    path = folder / "notes" / name
    return path.read_text().split("\n")[:-1] if path.exists() else []


# ---- the text


def directives(text):
    return re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE)


def test_what_slurm_is_asked_for(printed):
    assert directives(printed("--", *RUN)) == [
        "--job-name=lj",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--time=24:00:00",
        "--output=%x-%j.out",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@300",
    ]
    words = "--nodes 2 --ranks-per-node 4 --cores-per-rank 3 --gpus-per-node 2 --time 1-02:00:00 --memory 64G --partition gpu,big"
    text = printed(*words.split(), "--account", "abc", "--name", "ice", "--mail", "me@home", "--", *MD)
    assert directives(text)[:11] == [
        "--job-name=ice",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--cpus-per-task=3",
        "--gpus-per-node=2",
        "--time=1-02:00:00",
        "--mem=64G",
        "--partition=gpu,big",
        "--account=abc",
        "--mail-user=me@home",
        "--mail-type=END,FAIL,REQUEUE",
    ]
    first_command = text.index("\nset -u")
    assert text.rindex("#SBATCH") < first_command  # SLURM reads no further
    assert "--signal=B:USR1@75 " in printed("--time", "00:05:00", "--", *RUN)


OPTIONS = {
    "one rank": ([], RUN),
    "several ranks": (["--ranks-per-node", 2], MD),
    "several nodes": (["--nodes", 2, "--gpus-per-node", 1], MD),
    "container": (["--container", "my image.sif", "--gpus-per-node", 1], RUN),
    "container on several nodes": (["--container", "an.sif", "--nodes", 3], MD),
    "cannot go on": ([], GIBBS),
    "everything": (["--memory", "1G", "--partition", "p", "--account", "a", "--mail", "m@n"], [*RUN, "-var", "T", "it's"]),
}


@pytest.mark.parametrize(("options", "command"), OPTIONS.values(), ids=OPTIONS)
def test_the_shell_understands_it(printed, cluster, options, command):
    text = printed(*options, "--", *command, place=() if "--container" in options else ("--environment", cluster))
    subprocess.run(["bash", "-n", "job.sh"], check=True)
    found = shutil.which("shellcheck", path=f"{BIN}:{os.environ['PATH']}")
    assert found, "expected shellcheck of the extra dev; `make test` installs it"
    done = subprocess.run([found, "--severity=warning", "job.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "\n\n\n" not in text
    assert not re.search(r"[ \t]$", text, re.MULTILINE)


def test_without_a_place_it_is_this_environment(printed):
    assert f"ENVIRONMENT={sys.prefix} " in printed("--", *RUN, place=())


# ---- the text, run


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_exit_code_is_that_of_the_program(printed, cluster, code):
    printed("--", *RUN, "-var", "T", "it's 2 $HOME")
    assert ended(start(cluster, CODE=str(code), SLURM_CPUS_PER_TASK="3"))[0] == code
    command, status = noted(cluster, "lammps-bg")
    assert command == r"run -in in.lj -out runs/lj -var T it\'s\ 2\ \$HOME "
    assert status == "status runs/lj "
    assert noted(cluster, "mpirun") == [f"-launcher fork -n 1 {cluster}/bin/lammps-bg {' '.join(RUN)} -var T it's 2 $HOME"]
    assert {"OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3", "PYTHONUNBUFFERED=1"} <= set(noted(cluster, "environment"))
    assert noted(cluster, "scontrol") == []


def test_a_run_that_has_begun_goes_on(printed, cluster):
    printed("--", *RUN)
    (cluster / "runs" / "lj").mkdir(parents=True)
    assert ended(start(cluster))[0] == 0
    assert noted(cluster, "lammps-bg")[0] == "run -in in.lj -out runs/lj "
    (cluster / "runs" / "lj" / "provenance.json").write_text("{}")
    assert ended(start(cluster))[0] == 0
    assert noted(cluster, "lammps-bg")[2] == "run -in in.lj -out runs/lj --resume "


def stopped(cluster, *signals, **more):
    """The script, told so many times to stop."""
    process = start(cluster, TENTHS="300", **more)
    wait_for(process, (cluster / "notes" / "started").exists)
    for number, name in enumerate(signals, 1):
        process.send_signal(getattr(signal, f"SIG{name}"))
        wait_for(process, lambda number=number: len(noted(cluster, "signals")) >= number or number == len(signals))
    return ended(process)


def test_before_the_end_it_stops_and_is_requeued(printed, cluster):
    printed("--", *RUN)
    code, out, error = stopped(cluster, "USR1")
    assert (code, error) == (75, "")
    assert noted(cluster, "signals") == ["USR1"]
    assert noted(cluster, "scontrol") == ["requeue 77"]
    assert "job 77 is in the queue again" in out
    assert noted(cluster, "lammps-bg")[-1] == "status runs/lj "


def test_every_signal_is_passed_on(printed, cluster):
    """The shell goes on waiting for a program that has not ended yet, and has its exit code in the end."""
    printed("--", *RUN)
    assert stopped(cluster, "USR1", "USR1", "TERM", DEAF="yes")[0] == 143
    assert noted(cluster, "signals") == ["USR1", "USR1", "TERM"]
    assert noted(cluster, "scontrol") == []  # cancelled, or requeued by SLURM itself


def test_a_job_does_not_go_round_for_ever(printed, cluster):
    printed("--", *RUN)
    code, _, error = stopped(cluster, "USR1", SLURM_RESTART_COUNT="100")
    assert (code, noted(cluster, "scontrol")) == (75, [])
    assert error == "job script: stopped after 100 restarts; if it makes headway, submit this script again and it goes on\n"


def test_where_requeueing_is_forbidden(printed, cluster):
    printed("--", *RUN)
    code, _, error = stopped(cluster, "USR1", SCONTROL_CODE="1")
    assert code == 75
    assert error == "job script: SLURM did not requeue this job; submit this script again and it goes on\n"


def test_what_cannot_go_on_is_not_requeued(printed, cluster):
    text = printed("--", *GIBBS)
    assert "--no-requeue" in directives(text)
    (cluster / "runs" / "lj").mkdir(parents=True)
    (cluster / "runs" / "lj" / "provenance.json").write_text("{}")
    assert stopped(cluster, "USR1")[0] == 75
    assert noted(cluster, "scontrol") == []
    assert noted(cluster, "lammps-bg")[0] == "gibbs -model runs/lj -out runs/lj "


def test_a_missing_folder_is_a_sentence(printed, cluster):
    printed("--", *RUN)
    code, _, error = ended(start(cluster, TMPDIR="/nowhere/at/all"))
    assert code == 2
    assert re.fullmatch(r"job script: expected a folder to write to in TMPDIR, got /nowhere/at/all on .*\n", error)
    (cluster / "bin" / "mpirun").unlink()
    code, _, error = ended(start(cluster))
    assert code == 2
    assert error.startswith(f"job script: expected lammps-bg and mpirun in {cluster}/bin, got none on ")
    printed("--container", "no.sif", "--", *RUN, place=())
    code, _, error = ended(start(cluster))
    assert code == 2
    assert error.startswith("job script: expected the container image no.sif, got no such file on ")
    assert noted(cluster, "lammps-bg") == []


def test_containers(printed, cluster):
    (cluster / "an.sif").write_text("")
    printed("--container", "an.sif", "--ranks-per-node", 2, "--gpus-per-node", 2, "--", *MD, place=())
    assert ended(start(cluster, TMPDIR="/tmp"))[0] == 0
    prefix = f"exec --nv --bind {cluster} --bind /tmp an.sif"
    assert noted(cluster, "apptainer") == [
        f"{prefix} mpirun -launcher fork -n 2 lammps-bg {' '.join(MD)}",
        f"{prefix} lammps-bg status runs/lj",
    ]
    printed("--container", "an.sif", "--nodes", 2, "--ranks-per-node", 3, "--", *MD, place=())
    assert ended(start(cluster, TMPDIR="/tmp"))[0] == 0
    assert noted(cluster, "srun") == [
        f"--mpi=pmi2 --ntasks=6 --ntasks-per-node=3 --wait=60 apptainer exec --bind {cluster} --bind /tmp an.sif lammps-bg {' '.join(MD)}"
    ]


# ---- the real program


@pytest.fixture
def environment(cluster):
    """An environment with the real mpirun and the program of these tests; `status` is only noted, to save its start."""
    (cluster / "bin" / "mpirun").write_text(f'#!/bin/bash\nexec {BIN / "mpirun"} "$@"\n')  # it finds its helper beside itself
    program = f'{sys.executable} -c "import sys; from lammps_bg.cli import main; sys.exit(main())"'
    text = f'#!/bin/bash\n[[ $1 == status ]] && {{ echo "$*" >> "$NOTES/status"; exit; }}\nexec {program} "$@"\n'
    (cluster / "bin" / "lammps-bg").write_text(text)
    return cluster


def step_of(run):
    path = run / "status.json"
    return (json.loads(path.read_text()).get("step") or 0) if path.exists() else 0


LONG = ["--set", "train.steps=100"]  # a second or more
LONG_MD = ["--set", "md.n_frames=800", "--set", "md.replicas=2"]


@pytest.mark.parametrize(
    ("ranks", "command"),
    [
        pytest.param(2, [*MD, *TINY_MD, *LONG_MD], id="md", marks=pytest.mark.slow),
        pytest.param(1, [*RUN, *TINY, *LONG], id="run", marks=pytest.mark.containers),
    ],
)
def test_a_job_of_two_starts(printed, environment, ranks, command):
    """SIGUSR1 to the batch shell: exit code 75 and a place in the queue; started again, the same script goes on and ends."""
    printed("--ranks-per-node", ranks, "--", *command, "-rep", 2, 2, 2)
    run = environment / "runs" / "lj"
    process = start(environment)
    wait_for(process, lambda: step_of(run) > 0)
    process.send_signal(signal.SIGUSR1)
    code, out, error = ended(process)
    assert code == 75, error
    assert error.count("ERROR: stopped by SIGUSR1") == 1
    assert noted(environment, "scontrol") == ["requeue 77"]
    assert not (run / "results.json").exists()
    code, out, error = ended(start(environment, SLURM_RESTART_COUNT="1"))
    assert code == 0, error
    assert "start 2: lammps-bg" in out
    assert "--resume" in out
    assert json.loads((run / "status.json").read_text())["stage"] == "done"
    assert (run / "results.json").exists()
    assert noted(environment, "scontrol") == ["requeue 77"]
    assert noted(environment, "status") == ["status runs/lj"] * 2


TWO_NODES = """
nodes=0
echo "$SLURM_OVERLAP $SLURM_WHOLE $SLURM_CPU_BIND $1 $2" >> "$NOTES/srun"
while [[ $1 == -* ]]; do
  [[ $1 == -N ]] && nodes=$2
  shift 2
done
for ((i = 0; i < nodes; i++)); do SLURM_NODEID=$i "$@" & done
wait
"""


def test_two_nodes(printed, environment):
    """The real mpirun starts a helper on each node by srun, as SLURM's variables say; both nodes are this machine here."""
    (environment / "bin" / "srun").write_text(f"#!/bin/bash\n{TWO_NODES}")
    program = "import pathlib, os; from lammps_bg import parallel; rank, size = parallel.rank(), parallel.size(); "
    program += "pathlib.Path(os.environ['NOTES'], f'rank-{rank}').write_text(f'{size}')"
    (environment / "bin" / "lammps-bg").write_text(f'#!/bin/bash\n[[ $1 == status ]] || exec {sys.executable} -c "{program}"\n')
    printed("--nodes", 2, "--", *MD)
    names = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NODELIST": "node[1-2]", "SLURM_TASKS_PER_NODE": "1(x2)"}
    counts = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NNODES": "2"}
    code, _, error = ended(start(environment, **names, **counts))
    assert code == 0, error
    assert {path.name: path.read_text() for path in (environment / "notes").glob("rank-*")} == {"rank-0": "2", "rank-1": "2"}
    assert noted(environment, "srun") == ["1 1 none --nodelist node1,node2"]


# ---- bad input


BAD = {
    "nothing after --": (["--"], "expected a command after --, got none"),
    "no --": ([], "expected a command after --, got none"),
    "command before --": (["run", "--", *RUN], "unrecognized arguments: run"),
    "unknown command": (["--", "runn", "-out", "a"], "invalid choice: 'runn'"),
    "unknown argument": (["--", *RUN, "--setx", "1"], "unrecognized arguments: --setx"),
    "no folder": (["--", "run", "-in", "in.lj"], "expected -out with the run directory in the command after --, got none"),
    "check": (["--", "check", "-in", "in.lj"], "expected after -- one of run, train"),
    "slurm in slurm": (["--", "slurm", "--", *RUN], "expected after -- one of run, train"),
    "help": (["--", "run", "-h"], "got one with -h"),
    "dry run": (["--", *RUN, "--dry-run"], "got one with --dry-run"),
    "time in words": (["--time", "2 days", "--", *RUN], "expected --time as HH:MM:SS or D-HH:MM:SS, got '2 days'"),
    "minutes": (["--time", "90", "--", *RUN], "expected --time as HH:MM:SS or D-HH:MM:SS, got '90'"),
    "61 minutes": (["--time", "00:61:00", "--", *RUN], "expected --time as HH:MM:SS"),
    "short": (["--time", "00:04:59", "--", *RUN], "expected --time of 00:05:00 or more"),
    "no nodes": (["--nodes", "0", "--", *RUN], "expected --nodes of 1 or more, got 0"),
    "no ranks": (["--ranks-per-node", "0", "--", *RUN], "expected --ranks-per-node of 1 or more, got 0"),
    "no cores": (["--cores-per-rank", "-1", "--", *RUN], "expected --cores-per-rank of 1 or more, got -1"),
    "no GPUs": (["--gpus-per-node", "-1", "--", *RUN], "expected --gpus-per-node of 0 or more, got -1"),
    "half a node": (["--nodes", "0.5", "--", *RUN], "invalid int value"),
    "uneven": (["--ranks-per-node", "3", "--gpus-per-node", "2", "--", *MD], "got 3 ranks on 2 GPUs"),
    "idle GPUs": (["--gpus-per-node", "2", "--", *MD], "got 1 ranks on 2 GPUs"),
    "memory": (["--memory", "lots", "--", *RUN], "expected --memory"),
    "two words": (["--name", "my job", "--", *RUN], "expected --name as one word"),
    "a second line": (["--account", "a\n#SBATCH --exclusive", "--", *RUN], "expected --account as one word"),
    "two places": (["--environment", "a", "--container", "b", "--", *RUN], "not allowed with argument"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(cluster, capsys, words, message):
    spoken = call(capsys, cluster, "slurm", *words)
    assert (spoken.code, spoken.out, spoken.changed) == (2, "", set())
    assert spoken.error.count("ERROR: ") == 1
    assert message in " ".join(spoken.error.split())


def test_ranks_that_a_command_cannot_use():
    parsed = argparse.Namespace(command="md", out=Path("runs/lj"), lammps_ranks=2)
    assert not slurm.job(MD, parsed, 4).resumable
    with pytest.raises(ConfigError, match="expected MPI ranks as a multiple of -lammps-ranks 2, got 3"):
        slurm.job(MD, parsed, 3)


def test_resume_is_the_scripts_own(printed):
    """The script adds it where a run has begun; typed, it would be said twice, or to a run that is not there."""
    assert printed("--", *RUN, "--resume") == printed("--", *RUN)


def test_an_input_that_is_not_here_is_told(cluster, capsys, caplog):
    """It may be there where the job runs, so the script is printed all the same."""
    with caplog.at_level("WARNING"):
        spoken = call(capsys, cluster, "slurm", "--environment", cluster, "--", "run", "-in", "in.nope", "-out", "runs/x")
    assert spoken.code == 0
    assert spoken.out.startswith("#!/bin/bash")
    assert "in.nope is not on this machine" in caplog.text
