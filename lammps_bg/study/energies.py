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
from lammps_bg.flow.generator import Prior
from lammps_bg.flow.model import torch_device
from lammps_bg.potentials import sources
from lammps_bg.potentials.surface import EnergySurface
from lammps_bg.progress import Reporter
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.sampler import Chunk

log = logging.getLogger(__name__)
_TRIED = 2048  # atoms in the configurations on which both are timed
_DISPLACEMENT = 0.04  # of these configurations, in nearest-neighbour distances
_SAME = 1e-9  # relative difference of energies and forces up to which two implementations are one potential


def choose_source(problem: Problem, config: Config, reporter: Reporter, *, before: str | None = None) -> str:
    """Let training and sampling use the fastest of the energy sources, or the one that was asked for; returns its name.

    Args:
        problem: Its `potential` and `source` are set.
        config: `energy.source` and `device`.
        reporter: Who hears which one it is, if there is a choice.
        before: What was chosen when the run was begun: one that goes on or is repeated must not choose again, for the last digits of
            the sources differ.

    Raises:
        ConfigError: A source was asked for that does not have this script's potential.
    """
    wanted = config.energy.source
    if wanted == "auto":
        wanted = before or wanted
    if wanted == "lammps":
        return problem.use("lammps", problem.surface)
    if wanted != "auto":
        problem.use(wanted, _asked_for(problem, wanted, config))
        reporter.say(f"energies   {problem.engine.pair_style} in {wanted}")
        return wanted
    found = {name: _surface(problem, name, config) for name in sources.names()}
    usable = {name: s for name, s in found.items() if s is not None and (s is problem.surface or _agree(problem, name, s))}
    if len(usable) == 1:
        return problem.use("lammps", problem.surface)
    # timings differ from rank to rank
    times = parallel.agreed({name: _milliseconds(s, _trials(problem)) for name, s in usable.items()})
    fastest, *others = sorted(times, key=lambda name: times[name])
    named = {name: "LAMMPS" if name == "lammps" else name for name in times}
    reporter.say(
        f"energies   {problem.engine.pair_style} by {named[fastest]}, {times[fastest]:.2f} ms for a configuration; "
        + ", ".join(f"{named[name]} would take {times[name]:.2f}" for name in others)
    )
    return problem.use(fastest, usable[fastest])


def _surface(problem: Problem, name: str, config: Config) -> EnergySurface | None:
    return sources.load(name).surface(problem.surface, torch_device(config.device))


def _asked_for(problem: Problem, name: str, config: Config) -> EnergySurface:
    """The surface of a source that must have the script's potential."""
    found = _surface(problem, name, config)
    if found is None or not _agree(problem, name, found):
        only = "a potential that only LAMMPS has" if found is None else f"one that gives other energies in {name}"
        raise ConfigError(
            f"expected {sources.load(name).NEEDS} for energy.source={name}, got {only} ({problem.engine.pair_style}); leave energy.source out"
        )
    return found


def _trials(problem: Problem) -> Array:
    """Displacements as large as thermal ones, shape [n, N, 3]; so few that LAMMPS does not fit its neighbour skin to them."""
    n = min(15, max(2, _TRIED // problem.crystal.n_sites))
    scale = _DISPLACEMENT * problem.crystal.nearest_distance
    return scale * np.random.default_rng(0).standard_normal((n, problem.crystal.n_sites, 3))


def _agree(problem: Problem, name: str, surface: EnergySurface) -> bool:
    """Whether both give the same energies and forces; a script may hold more than is understood of it."""
    u = _trials(problem)[:4]
    (energies, forces), (own, own_forces) = problem.surface(u), surface(u)
    same = np.allclose(own, energies, rtol=_SAME, atol=_SAME * abs(problem.surface.static_energy))
    if same and np.allclose(own_forces, forces, rtol=0, atol=_SAME * np.abs(forces).max()):
        return True
    log.warning(
        "%s in %s does not give LAMMPS' energies for this script, so LAMMPS evaluates them all; please report this script",
        problem.engine.pair_style,
        name,
    )
    return False


def _milliseconds(surface: EnergySurface, u: Array) -> float:
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
        log_p, states, log_q = (torch.from_numpy(a) for a in (-self.problem.beta * energies, chunk.states, chunk.log_q))
        log_w = np.where(np.isfinite(energies), self.prior.log_weights(log_p, states, log_q).numpy(), -np.inf)
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
