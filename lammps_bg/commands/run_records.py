# SPDX-License-Identifier: GPL-2.0-or-later
"""What the main job keeps in its folder while it computes, so that --resume continues it: model files, tables, dump files."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.engine.dump import DumpWriter
from lammps_bg.errors import RunDirectoryError
from lammps_bg.progress import Reporter
from lammps_bg.store.chain_file import CHAINS, ChainFile
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import SAMPLE_COLUMNS, RunDirectory
from lammps_bg.study.exact import ExactSamples
from lammps_bg.study.problem import Problem
from lammps_bg.study.sampling import Samples, resampled
from lammps_bg.study.training import Trained
from lammps_bg.thermo.sampler import Chunk, chunks_of
from lammps_bg.training import checkpoint
from lammps_bg.training.model_file import SavedModel, load_model, save_model
from lammps_bg.training.trainer import StepRecord, Trainer

Array = NDArray[np.float64]
_BASE, _CHECKPOINT = "base.pt", "checkpoint.pt"
_OF = "sampling.json"
_DUMP, _RESAMPLED = "samples.dump.gz", "resampled.dump.gz"
_CHAIN_COLUMNS = ("sample", "chain", "step", "pe", "log_w")


class TrainingFiles:
    """base.pt, checkpoint.pt and train.csv: a `study.training.TrainingRecord`.

    Args:
        run: The run directory.
        problem: Crystal and temperature.
        reporter: Told where files cannot be used.
        resume: Whether what the folder has is continued.
    """

    def __init__(self, run: RunDirectory, problem: Problem, reporter: Reporter, *, resume: bool) -> None:
        self._run, self._problem, self._reporter, self._resume = run, problem, reporter, resume

    def base(self) -> SavedModel | None:
        """The base as an earlier start has fitted it."""
        if not self._resume:
            return None
        path = self._run.file(_BASE)
        if parallel.agreed(path.exists()):
            return load_model(path, self._problem.crystal, self._problem.beta)
        if self._run.file(_CHECKPOINT).exists():
            self._reporter.say(f"training   starts again: {_BASE}, to which {_CHECKPOINT} belongs, is not there")
        return None

    def keep_base(self, model: SavedModel) -> None:
        """Write base.pt."""
        if parallel.first():
            save_model(self._run.file(_BASE), model, self._problem.crystal)

    def restore(self, trainer: Trainer) -> bool:
        """Continue from checkpoint.pt, if there is one.

        Raises:
            RunDirectoryError: It is damaged, or of another flow.
        """
        path = self._run.file(_CHECKPOINT)
        if not parallel.agreed(path.exists()):
            return False
        state = checkpoint.load(path)
        try:
            trainer.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [""])[-1].strip()
            raise RunDirectoryError(
                f"expected a checkpoint of this flow in {path}, got another file ({reason}); remove it to train from the start"
            ) from None
        return True

    def keep(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt."""
        checkpoint.save(self._run.file(_CHECKPOINT), state)

    @contextmanager
    def table(self, last: int) -> Iterator[Callable[[StepRecord], None]]:
        """Lines of train.csv."""
        columns = [field.name for field in dataclasses.fields(StepRecord)]
        with self._run.training_table(columns, keep_until=last) as table:
            yield lambda record: table.write(*dataclasses.astuple(record))


def require_checkpoints(run: RunDirectory) -> None:
    """Refuse a checkpoint, or a stored base, that cannot be continued from, before any work; there may be none.

    Raises:
        RunDirectoryError: One is damaged or foreign.
    """
    for name, part in ((_BASE, "base"), (_CHECKPOINT, "optimiser")):
        path = run.file(name)
        if not path.exists():
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's remarks on foreign files, which are refused in our own words
                state = checkpoint.load(path)
        except RunDirectoryError as error:
            raise RunDirectoryError(f"{error}; remove it to train from the start") from None
        if part not in state:
            raise RunDirectoryError(
                f"expected a checkpoint in {path}, got another file of lammps-bg; remove it to train from the start"
            )


def write_model(run: RunDirectory, trained: Trained, problem: Problem) -> None:
    """Write model.pt, on the first rank."""
    if parallel.first():
        save_model(run.file("model.pt"), trained.saved, problem.crystal)


def dump_writer(path: Path, problem: Problem) -> DumpWriter:
    """A dump file of a crystal.

    Args:
        path: The file, which does not exist.
        problem: Crystal and units.
    """
    return DumpWriter(path, problem.crystal, units=problem.units.name, triclinic=problem.engine.triclinic)


def _identity(run: RunDirectory, config: Config, source: str) -> dict[str, Any]:
    """What draws and chains depend on, beside their index."""
    return {
        "model": sha256(run.file("model.pt")),
        "seed": config.seed,
        "energies": source,
        "judge": config.energy.judge,
        "device": config.device,
    }


class SampleFiles:
    """samples.csv and samples.dump.gz: a `study.sampling.SamplingRecord`, to be used as a context.

    Attributes:
        rows: Energy, log q and log w of the samples that are in the table, shape [m, 3].
        n_states: Samples in the dump file.

    Args:
        run: The run directory, with its model; what it has of other samples is removed.
        problem: Crystal and units.
        config: The configuration.
    """

    def __init__(self, run: RunDirectory, problem: Problem, config: Config) -> None:
        found = parallel.agreed(_found(run, config, problem.source) if parallel.first() else np.empty((0, 3)))
        chunks = chunks_of(config.sample.n_samples, problem.crystal.n_sites, config.sample.batch_size)
        n_done = max((some.stop for some in chunks if some.stop <= len(found)), default=0)
        self.rows, self.n_states = found[:n_done], config.sample.n_dump
        self._problem = problem
        self._table = run.sample_table(keep_until=n_done - 1)
        self._dump = dump_writer(run.file(_DUMP), problem) if self.n_states and parallel.first() else None
        self._centre: float | None = None

    def __enter__(self) -> "SampleFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._table.close()
        if self._dump is not None:
            self._dump.__exit__(kind, error, trace)

    def add(self, chunk: Chunk, *, new: bool) -> None:
        """Write the next samples."""
        if new:
            rows = np.stack((chunk.energies, chunk.log_q, chunk.log_w), 1)
            self._table.write_rows([(index, *row) for index, row in enumerate(rows.tolist(), chunk.first)])
        if self._dump is not None:
            self._write_frames(self._dump, chunk)

    def _write_frames(self, dump: DumpWriter, chunk: Chunk) -> None:
        """Frames of the samples that have finite positions; the time step is the sample's index."""
        finite = chunk.log_w[np.isfinite(chunk.log_w)]
        if self._centre is None and len(finite):  # so that exp() of a log-weight is a number: OVITO's Compute Property takes it
            self._centre = float(finite.mean())
        shown = chunk.displacements[: max(0, self.n_states - chunk.first)]
        for index, (displacement, weight) in enumerate(zip(shown, chunk.log_w, strict=False), chunk.first):
            if np.isfinite(displacement).all():
                dump.write(index, self._problem.surface.positions(displacement), weight - (self._centre or 0.0))


def _found(run: RunDirectory, config: Config, source: str) -> Array:
    """Rows of samples.csv that belong to this model and these settings, shape [n, 3]."""
    for name in (_DUMP, _RESAMPLED):  # written again from the samples
        run.file(name).unlink(missing_ok=True)
        run.file(f"{name}.partial").unlink(missing_ok=True)
    of, known = {**_identity(run, config, source), "batch_size": config.sample.batch_size}, dict[str, Any]()
    with suppress(RunDirectoryError):  # missing or cut short: then nobody knows what the samples belong to
        known = run.read_json(_OF)
    if known == of and run.file("samples.csv").exists():
        return _intact_rows(run)
    run.file("samples.csv").unlink(missing_ok=True)
    run.write_json(_OF, of)
    return np.empty((0, 3))


def _intact_rows(run: RunDirectory) -> Array:
    """Energy, log q and log w of the samples of the table, shape [n, 3]; from the first damaged line on it is cut off."""
    lines = run.file("samples.csv").read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows: list[list[float]] = []
    with suppress(ValueError):
        for line in lines[1:]:
            index, *numbers = map(float, line.split(","))
            if index != len(rows) or len(numbers) != len(SAMPLE_COLUMNS) - 1 or not line.endswith("\n"):
                break
            rows.append(numbers)
    if len(rows) < len(lines) - 1:
        run.write_text("samples.csv", "".join(lines[: len(rows) + 1]))
    return np.array(rows).reshape(-1, len(SAMPLE_COLUMNS) - 1)


def write_resampled(run: RunDirectory, samples: Samples, trained: Trained, problem: Problem, config: Config) -> None:
    """Write resampled.dump.gz: equal-weight frames, picked from all samples in proportion to their weights.

    Args:
        run: The run directory.
        samples: The samples to pick from.
        trained: The generator that drew them.
        problem: Crystal and units.
        config: `sample.n_resample`.
    """
    frame = 0
    with dump_writer(run.file(_RESAMPLED), problem) as dump:
        for times, displacement in resampled(samples, trained.generator, config.sample.n_resample, seed=config.seed):
            for _ in range(times):
                dump.write(frame, problem.surface.positions(displacement), 0.0)
                frame += 1


def chain_file(run: RunDirectory, config: Config, source: str, model: RunDirectory) -> ChainFile:
    """The chains of a run.

    Args:
        run: The run directory.
        config: The configuration.
        source: What evaluates the energies.
        model: The run of the model, whose chains are continued.
    """

    def depends_on() -> dict[str, Any]:
        exact = {"chains": config.exact.chains, "n_dump": config.exact.n_dump}
        return {**_identity(model, config, source), **exact, "n_samples": config.sample.n_samples}

    return ChainFile(run.file(CHAINS), model.file(CHAINS), depends_on)


def write_exact(run: RunDirectory, found: ExactSamples, problem: Problem) -> None:
    """Write exact.csv and exact.dump.gz.

    Args:
        run: The run directory.
        found: The samples.
        problem: Crystal and units.
    """
    rows = [",".join(_CHAIN_COLUMNS)]
    for step, (energies, log_w) in enumerate(zip(found.energies.tolist(), found.log_w.tolist(), strict=True)):
        first = step * len(energies)
        pairs = enumerate(zip(energies, log_w, strict=True))
        rows += [f"{first + chain},{chain},{step},{energy!r},{weight!r}" for chain, (energy, weight) in pairs]
    run.write_text("exact.csv", "\n".join(rows) + "\n")
    path = run.file("exact.dump.gz")
    path.unlink(missing_ok=True)
    if not len(found.frames):
        return
    with dump_writer(path, problem) as dump:
        for index, u, energy in zip(found.indices.tolist(), found.frames, found.frame_energies.tolist(), strict=True):
            dump.write(index, problem.surface.positions(u), None, energy=energy)
