# SPDX-License-Identifier: GPL-2.0-or-later
"""What evaluates energies: LAMMPS, or the script's potential in torch where that is the same and faster; and LAMMPS as the judge."""

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import ConfigError
from lammps_bg.flow.model import torch_device
from lammps_bg.flow.prior import Prior
from lammps_bg.potentials.native import NativeSurface
from lammps_bg.potentials.recognise import recognise
from lammps_bg.progress import Reporter
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.sampler import Chunk
from lammps_bg.training.target import Surface

log = logging.getLogger(__name__)
_TRIED = 2048  # atoms in the configurations on which both are timed
_DISPLACEMENT = 0.04  # of these configurations, in nearest-neighbour distances
_SAME = 1e-9  # relative difference of energies and forces up to which two implementations are one potential


def choose_potential(problem: Problem, config: Config, reporter: Reporter) -> Config:
    """Let training and sampling use the faster of LAMMPS and the potential in torch, or the one that was asked for.

    Returns the configuration with the choice: a run that is resumed or repeated must not choose again, for the last digits of both differ.

    Args:
        problem: Its `potential` is set.
        config: `energy.source` and `device`.
        reporter: Where to say which one it is, if there is a choice.

    Raises:
        ConfigError: The potential in torch was asked for, and there is none for this script.
    """
    wanted = config.energy.source if config.energy.source != "auto" else config.energy.chosen
    if wanted == "lammps":
        return config
    known = recognise(problem.engine.pair, problem.units.name)
    native = None if known is None else NativeSurface(known, problem.crystal, problem.surface, torch_device(config.device))
    if native is None or not _agree(problem, native):
        if wanted == "native":
            only = "a potential that only LAMMPS has" if native is None else "one that gives other energies in torch"
            raise ConfigError(
                f"expected pair_style lj/cut or sw with nothing added for energy.source=native, got {only} "
                f"({problem.engine.pair_style}); leave energy.source out"
            )
        return _chosen(config, "lammps")
    if wanted == "native":
        problem.potential = native
        reporter.say(f"energies   {problem.engine.pair_style} in torch")
        return config
    # timings differ from rank to rank
    lammps_ms, native_ms = parallel.agreed(tuple(_milliseconds(s, _trials(problem)) for s in (problem.surface, native)))
    faster = native_ms < lammps_ms
    problem.potential = native if faster else problem.surface
    chosen, other = ("torch", "LAMMPS") if faster else ("LAMMPS", "torch")
    reporter.say(
        f"energies   {problem.engine.pair_style} by {chosen}, {min(lammps_ms, native_ms):.2f} ms for a configuration; "
        f"{other} would take {max(lammps_ms, native_ms):.2f}"
    )
    return _chosen(config, "native" if faster else "lammps")


def _chosen(config: Config, source: str) -> Config:
    return config.model_copy(update={"energy": config.energy.model_copy(update={"chosen": source})})


def _trials(problem: Problem) -> Array:
    """Displacements as large as thermal ones, shape [n, N, 3]; so few that LAMMPS does not fit its neighbour skin to them."""
    n = min(15, max(2, _TRIED // problem.crystal.n_sites))
    scale = _DISPLACEMENT * problem.crystal.nearest_distance
    return scale * np.random.default_rng(0).standard_normal((n, problem.crystal.n_sites, 3))


def _agree(problem: Problem, native: NativeSurface) -> bool:
    """Whether both give the same energies and forces; a script may hold more than is understood of it."""
    u = _trials(problem)[:4]
    (energies, forces), (own, own_forces) = problem.surface(u), native(u)
    same = np.allclose(own, energies, rtol=_SAME, atol=_SAME * abs(problem.surface.static_energy))
    if same and np.allclose(own_forces, forces, rtol=0, atol=_SAME * np.abs(forces).max()):
        return True
    log.warning(
        "%s in torch does not give LAMMPS' energies for this script, so LAMMPS evaluates them all; please report this script",
        problem.engine.pair_style,
    )
    return False


def _milliseconds(surface: Surface, u: Array) -> float:
    """Shorter of two timings of energies and forces, for each configuration."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        surface(u)
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds) / len(u)


@dataclass
class Judge:
    """LAMMPS evaluates samples again and gives the weights; how far the other energies were off is kept.

    Attributes:
        problem: The crystal, with the potential that drew the samples.
        prior: The prior of their generator.
        n: Samples judged.
        largest: Largest difference of two finite energies, energy units.
        n_decided_otherwise: Samples with a finite energy in one of them only.
    """

    problem: Problem
    prior: Prior
    n: int = 0
    largest: float = 0.0
    n_decided_otherwise: int = 0

    def weigh(self, chunk: Chunk) -> Chunk:
        """The same samples with LAMMPS' energies and the weights that belong to them.

        Args:
            chunk: Samples with the energies of `problem.potential`.
        """
        if self.problem.potential is self.problem.surface:
            self.n += len(chunk.energies)
            return chunk
        energies = self.problem.surface.energies(chunk.displacements)
        both = np.isfinite(energies) & np.isfinite(chunk.energies)
        change = energies[both] - chunk.energies[both]
        self.n += len(energies)
        self.largest = max(self.largest, float(np.abs(change).max(initial=0.0)))
        self.n_decided_otherwise += int((np.isfinite(energies) != np.isfinite(chunk.energies)).sum())
        auxiliary = self.prior.log_auxiliary(torch.from_numpy(chunk.states)).numpy()
        log_w = np.where(np.isfinite(energies), -self.problem.beta * energies + auxiliary - chunk.log_q, -np.inf)
        return replace(chunk, energies=energies, log_w=np.where(np.isnan(log_w), -np.inf, log_w))

    def join_ranks(self) -> None:
        """Count what the other ranks judged, too; all ranks call it together."""
        parts = parallel.gathered((self.n, self.n_decided_otherwise))
        self.n, self.n_decided_otherwise = (sum(column) for column in zip(*parts, strict=True))
        (self.largest,) = parallel.largest(self.largest)

    def entry(self) -> dict[str, object]:
        """Entry of results.json."""
        unit = self.problem.units.labels.energy
        return {
            "by": "lammps",
            "n_samples": self.n,  # compared since the last start: weights of an earlier one are LAMMPS', too
            "largest_difference": {"value": self.largest, "unit": unit},
            "largest_difference_kT": self.problem.beta * self.largest,
            "finite_in_one_only": self.n_decided_otherwise,
        }

    def sentence(self) -> str:
        """The verdict for the console."""
        if self.problem.potential is self.problem.surface:
            return "judge      LAMMPS evaluated the samples in the first place: there is nothing to compare"
        other = f"; {self.n_decided_otherwise} samples have a finite energy in one only" if self.n_decided_otherwise else ""
        return (
            f"judge      LAMMPS gave the weights of {self.n} samples; the largest difference of an energy is "
            f"{self.problem.beta * self.largest:.2g} kT{other}"
        )
