# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a run stands, from its files alone: whether its job runs, was stopped, or died without a word.

Whether a job lives is asked of the system's lock on the run folder, never of a clock: clocks of nodes differ.
"""

import json
import math
import os
import shlex
import socket
import time
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lammps_bg.errors import RunDirectoryError
from lammps_bg.results import short_duration
from lammps_bg.store import lock
from lammps_bg.store.job import DONE, STATUS
from lammps_bg.store.lock import Holder, LockState

_CHECKPOINTS = ("checkpoint.pt", "exact.pt", "trajectories/*.npz")
_RESUMABLE = ("run", "train", "sample", "md")
LATE = 2.0  # seconds by which a time in the future shows that clocks differ: times are written in whole seconds
_ENDS = {DONE: "finished", "failed": "failed", "stopped": "stopped", "failed or stopped": "stopped"}
Entry = dict[str, Any]


@dataclass
class RunStatus:
    """Where a run stands; None where something is not known or does not apply.

    Attributes:
        run: The folder as typed.
        state: running, finished, stopped, failed, dead (ended without a word) or unknown.
        command: First word after `lammps-bg`.
        stage: What it is or was doing.
        step: Steps, samples or frames done in this stage.
        percent: Share of the stage that is done.
        ess: Effective sample size as a fraction.
        F: beta F / N.
        error: Its standard error.
        eta_seconds: Expected time to the end of the stage at the last update, seconds.
        updated: Time of the last update, UTC.
        age_seconds: How long ago that was by this machine's clock, seconds.
        checkpoint_age_seconds: How long ago training or dynamics was last saved, seconds.
        host: Node of the first rank.
        pid: Its process there.
        ranks: Number of MPI ranks.
        started: When the job took the folder, UTC.
        reason: Why it failed or stopped.
        resume: The command that continues it.
        notes: What else must be known.
    """

    run: str
    state: str
    command: str | None
    stage: str | None
    step: int | None
    percent: float | None
    ess: float | None
    F: float | None
    error: float | None
    eta_seconds: float | None
    updated: str | None
    age_seconds: float | None
    checkpoint_age_seconds: float | None
    host: str | None
    pid: int | None
    ranks: int | None
    started: str | None
    reason: str | None
    resume: str | None
    notes: list[str]


def examine(run: Path) -> RunStatus:
    """Where a run stands; reads only, and takes a folder in any condition.

    Raises:
        RunDirectoryError: It is no run directory.
    """
    folder, notes = Path(run).absolute(), list[str]()
    state = lock.inspect(folder)
    provenance, entry = (_read(folder / name, notes) for name in ("provenance.json", STATUS))
    known = (folder / "provenance.json").exists() or state.holder or state.held
    if not known and not lock.half_made(folder):
        what = "it has no provenance.json" if folder.is_dir() else "there is no such folder"
        raise RunDirectoryError(f"expected a run directory at {run} but {what}; give the -out folder of a command")
    life = _life(state, entry, notes)
    if life == "running":
        entry = _present(state.holder, entry)
    words = _words(provenance, state.holder)
    status = RunStatus(
        run=str(run), state=life, command=words[0] if words else None, resume=None, notes=notes,
        age_seconds=_age(entry.get("updated"), notes), checkpoint_age_seconds=_checkpoint_age(folder, notes),
        **_numbers(folder, entry), **_job(state.holder, entry),
    )  # fmt: skip
    if life not in ("running", "finished"):
        status.resume = _resume(run, words, status, half_made=not (folder / "provenance.json").exists())
    return status


def _read(path: Path, notes: list[str]) -> Entry:
    """A JSON object; empty where there is none, with a note where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        notes.append(f"{path.name} is damaged")
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        notes.append(f"{path.name} is damaged")
    return {}


def _life(state: LockState, entry: Entry, notes: list[str]) -> str:
    """The state of a run by the lock of its folder and its last word."""
    here, holder = socket.gethostname(), state.holder
    host, pid = (holder.host, holder.pid) if holder else (entry.get("host"), entry.get("pid"))
    own = holder is None or (entry.get("host"), entry.get("pid")) == (holder.host, holder.pid)
    end = _ENDS.get(str(entry.get("stage"))) if own else None
    if state.held:
        return "running"
    if state.held is None and end is None:
        if host == here and isinstance(pid, int):
            return "running" if _is_alive(pid) else "dead"
        notes.append(f"this file system has no locks, so ask {host} whether pid {pid} runs there")
        return "unknown"
    if end is None and holder and holder.host != here:
        notes.append(
            f"where locks of this file system hold on one node only, ask {holder.host} whether pid {holder.pid} runs there"
        )
    return end or "dead"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _present(holder: Holder | None, entry: Entry) -> Entry:
    """What a running job is doing, where status.json is still that of an earlier one, or says that all is done."""
    if holder is None or (entry.get("host"), entry.get("pid")) == (holder.host, holder.pid):
        return {**entry, "stage": "finishing"} if entry.get("stage") in _ENDS else entry
    first = holder.command[0] if holder.command else "starting"
    return {"stage": first if first in ("estimate", "report") else "starting", "updated": holder.since}


def _words(provenance: Entry, holder: Holder | None) -> list[str]:
    """Words after `lammps-bg` of the command that made the run."""
    stored = provenance.get("command")
    if isinstance(stored, list) and len(stored) > 1:
        return [str(word) for word in stored[1:]]
    return list(holder.command) if holder else []


def _numbers(folder: Path, entry: Entry) -> Entry:
    """Stage, step, ESS and F, as far as the run has come."""
    found: Entry = {name: _number(entry.get(name)) for name in ("step", "percent", "ess", "F", "error", "eta_seconds")}
    found |= {name: _text(entry.get(name)) for name in ("updated", "reason")}
    stage = _text(entry.get("during")) or _text(entry.get("stage"))
    if stage == "sampling" and found["ess"] is None:
        found["ess"] = _sampled_ess(folder / "samples.csv")
    return {"stage": stage, **found}


def _job(holder: Holder | None, entry: Entry) -> Entry:
    """Who carries it out, or did so last."""
    if holder:
        return {"host": holder.host, "pid": holder.pid, "ranks": holder.ranks, "started": holder.since}
    return {name: entry.get(name) for name in ("host", "pid", "ranks", "started")}


def _number(value: object) -> int | float | None:
    """What a damaged file, or one of another version, may hold something else for."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _sampled_ess(path: Path) -> float | None:
    """ESS of the samples so far; the last line may be cut short."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        place = lines[0].split(",").index("log_w")
        log_w = [float(line.split(",")[place]) for line in lines[1:]]
    except (OSError, ValueError, IndexError):
        return None
    finite = [value for value in log_w if math.isfinite(value)]
    largest = max(finite, default=0.0)
    weights = [math.exp(value - largest) for value in finite]
    return sum(weights) ** 2 / sum(weight**2 for weight in weights) / len(log_w) if weights else None


def _age(updated: object, notes: list[str]) -> float | None:
    """Seconds since a written time, by this machine's clock."""
    try:
        moment = timegm(time.strptime(str(updated), lock.TIME))
    except ValueError:
        return None
    return _since(moment, notes)


def _checkpoint_age(folder: Path, notes: list[str]) -> float | None:
    """Seconds since the newest checkpoint."""
    times = [path.stat().st_mtime for name in _CHECKPOINTS for path in folder.glob(name)]
    return _since(max(times), notes) if times else None


def _since(moment: float, notes: list[str]) -> float:
    age = time.time() - moment
    if age < -LATE and not any("clocks" in note for note in notes):
        notes.append(f"the clocks of this machine and of the run's differ by at least {short_duration(-age)}")
    return round(age, 1)


def _resume(run: Path, words: Sequence[str], status: RunStatus, *, half_made: bool) -> str | None:
    """The command that goes on with a run that has ended early."""
    if not words:
        return None
    command = ["lammps-bg", words[0], "-out", str(run), "--resume", *_kept(words)]
    if half_made:  # nothing is stored yet
        command = ["lammps-bg", *words]
    elif words[0] not in _RESUMABLE:
        status.notes.append(f"`{words[0]}` has no --resume: remove or rename the folder and start it again")
        command = ["lammps-bg", *words]
    ranks = ["mpirun", "-n", str(status.ranks)] if (status.ranks or 1) > 1 else []
    return shlex.join([*ranks, *command])


def _kept(words: Sequence[str]) -> list[str]:
    """Words of a command that are said again with --resume."""
    kept = [word for word in words if word in ("--allow-red", "--force")]
    if "-lammps-ranks" in words[:-1]:
        at = words.index("-lammps-ranks")
        kept += words[at : at + 2]
    return kept
