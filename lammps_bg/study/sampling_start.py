# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a sampling begins: at the first sample, or after those that an interrupted one has left in samples.csv."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import RunDirectoryError
from lammps_bg.flow.generator import Generator
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import SAMPLE_COLUMNS, RunDirectory
from lammps_bg.thermo.sampler import Chunk, chunks_of, states_again

_OF = "sampling.json"
_DUMPS = ("samples.dump.gz", "resampled.dump.gz")


@dataclass(frozen=True)
class SamplingStart:
    """Chunks that are drawn already, and those that are left.

    Attributes:
        done: Chunks whose samples are all in the table.
        left: The others.
        rows: Energy, log q and log w of the samples of `done`, shape [n_done, 3].
    """

    done: list[slice]
    left: list[slice]
    rows: Array

    @property
    def n_done(self) -> int:
        """Samples that are drawn already."""
        return len(self.rows)

    def chunks(self, generator: Generator, config: Config, n_states: int) -> Iterator[Chunk]:
        """The samples that are drawn already, on the first rank with the states of the first `n_states`, pushed once more."""
        nothing = np.empty((0, generator.prior.channels, len(generator.prior.base.amplitude), 3))
        for some in self.done:
            states = nothing
            if parallel.first() and some.start < n_states:
                states = states_again(generator, [some], seed=config.seed, batch_size=config.sample.batch_size)
            energies, log_q, log_w = self.rows[some].T
            yield Chunk(some.start, states, energies, log_q, log_w, 0.0, 0.0)


def begin(run: RunDirectory, config: Config, n_sites: int, source: str) -> SamplingStart:
    """Where to begin in a run directory; what belongs to other samples is removed.

    Args:
        run: The run directory, with its model.
        config: The configuration.
        n_sites: Number of atoms N.
        source: What evaluates the energies.
    """
    wanted = chunks_of(config.sample.n_samples, n_sites, config.sample.batch_size)
    found = parallel.agreed(_found(run, config, source) if parallel.first() else np.empty((0, 3)))
    done = [some for some in wanted if some.stop <= len(found)]
    return SamplingStart(done, wanted[len(done) :], found[: done[-1].stop if done else 0])


def _found(run: RunDirectory, config: Config, source: str) -> Array:
    """Rows of samples.csv that belong to this model and these settings, shape [n, 3]."""
    for name in _DUMPS:  # written again from the samples
        run.file(name).unlink(missing_ok=True)
        run.file(f"{name}.partial").unlink(missing_ok=True)
    of, known = _identity(run, config, source), dict[str, Any]()
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


def _identity(run: RunDirectory, config: Config, source: str) -> dict[str, Any]:
    """What the samples depend on, beside their index."""
    return {
        "model": sha256(run.file("model.pt")),
        "seed": config.seed,
        "batch_size": config.sample.batch_size,
        "energies": source,
        "judge": config.energy.judge,
        "device": config.device,
    }
