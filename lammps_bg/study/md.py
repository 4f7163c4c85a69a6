# SPDX-License-Identifier: GPL-2.0-or-later
"""Molecular dynamics with the script's own potential, at constant volume or pressure, until it holds the independent frames asked for.

result = run_md(MDSetup.of(problem, "nvt", MdConfig(n_frames=1000)))
result.temperature, result.frames.energies, result.verdict
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import MdConfig
from lammps_bg.crystal.identification import StructureIdentifier
from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.engine.dynamics import Dynamics, Snapshot
from lammps_bg.engine.ensembles import Canonical, Ensemble, IsothermalIsobaric
from lammps_bg.errors import ConfigError, CrystalError, Interrupted, LammpsBGError, StateError
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.results import with_error
from lammps_bg.study.observing import Source
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import say_shares
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.timeseries import SHORTEST, Decorrelated, Fixed, correlated_mean, equilibrated_mean, slowest
from lammps_bg.thermo.trajectory import Trajectory, TrajectoryInMemory, TrajectoryRecord, cell_quantities
from lammps_bg.thermo.verdict import RED_OVERLAP, RELIABLE, Verdict, combine
from lammps_bg.thermo.weights import EstimateError

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
Mode = Literal["nvt", "npt", "mbar"]
MODES: tuple[Mode, ...] = ("nvt", "npt", "mbar")
Series = Callable[[Trajectory], Sequence[Array]]
"""Time series of a trajectory that have to decorrelate, each of shape [n]; the slowest decides."""
_BLOCK_SECONDS = 30.0
_DAMP, _PRESSURE_DAMP = 100, 1000  # time steps, as LAMMPS' documentation recommends
# LAMMPS' default time steps that no atom stands, time units of the style; and what replaces them, over the highest frequency
_FOR_LARGE_PARTICLES = {"si": 1e-8, "cgs": 1e-8, "micro": 2.0}
_STEP, _ITERATIONS = 0.1, 12
_EXPLODED = 0.5  # root-mean-square displacement in nearest-neighbour distances that no crystal has
_SPARE = 1.1  # frames made for each frame expected to be needed
_FIRST = 20  # frames more in the first round, for equilibration
_GROWTH = 4  # a round makes a trajectory at most so many times longer: early inefficiencies are uncertain
_HOPPED = 0.4  # mean displacement of an atom that has left its site, in nearest-neighbour distances
_MELTED = 0.25  # root-mean-square displacement of a melt (Lindemann), in nearest-neighbour distances
_KEPT = 0.5  # share of the atoms that must still be recognised
_TAIL = 0.5  # share of the trajectory, its end, that is looked at
_TEMPERATURE_OFF, _TEMPERATURE_Z = 0.05, 4.5  # allowed share, and standard errors that noise hardly reaches
_ENOUGH = 50  # independent frames below which an average is not reported


# ---- what is simulated


@dataclass(frozen=True)
class MDSettings:
    """Time step, damping and sampling interval with every default filled in.

    Attributes:
        timestep: Time units.
        damp: Of the thermostat, time units.
        pressure_damp: Of the barostat, time units.
        sample_every: Steps between frames.
    """

    timestep: float
    damp: float
    pressure_damp: float
    sample_every: int

    @classmethod
    def resolved(cls, config: MdConfig, problem: Problem) -> "MDSettings":
        """The settings a configuration asks for, from the crystal and its script's time step where it names none."""
        timestep = config.timestep or _script_timestep(problem)
        damp = config.damp or _DAMP * timestep
        every = config.sample_every or max(1, round(0.5 * damp / timestep))
        return cls(timestep, damp, config.pressure_damp or _PRESSURE_DAMP * timestep, every)


@dataclass(frozen=True)
class MDSetup:
    """A simulation that can be carried out; made by `of`, which refuses all others.

    Attributes:
        problem: Crystal and temperature.
        mode: Constant volume, constant pressure, or lambda windows (`frenkel_ladd`).
        options: How many frames, how long, how the cell may change.
        settings: Time step, damping, sampling interval.
        pressure: Of constant pressure, pressure units; None at constant volume.
        seed: With the name of a trajectory and the step that it is continued from it decides the random numbers.
    """

    problem: Problem
    mode: Mode
    options: MdConfig
    settings: MDSettings
    pressure: float | None
    seed: int

    @classmethod
    def of(cls, problem: Problem, mode: Mode = "nvt", options: MdConfig | None = None, *, seed: int = 1) -> "MDSetup":
        """The simulation of a crystal.

        Args:
            problem: Crystal and temperature; for npt its script has the variable P.
            mode: nvt, npt or mbar.
            options: As in the block `md` of the configuration; None: its defaults.
            seed: Seed of all random numbers.

        Raises:
            StateError: There is no pressure for npt.
            ConfigError: md.max_steps ends a trajectory before correlations can be found in it, or the damping is faster than a step.
        """
        options = options or MdConfig()
        settings, labels = MDSettings.resolved(options, problem), problem.units.labels
        pressure = script_pressure(problem.engine) if mode == "npt" else None
        if mode == "npt" and pressure is None:
            raise StateError(
                f"expected a pressure for --mode npt, got no variable P in the script; add -var P 0 (in {labels.pressure})"
            )
        shortest = SHORTEST * settings.sample_every
        if options.max_steps < shortest:
            raise ConfigError(
                f"expected md.max_steps of at least {shortest}, which is {SHORTEST} frames, got {options.max_steps}; raise it"
            )
        if settings.damp < settings.timestep:
            raise ConfigError(
                f"expected md.damp of at least one time step, {settings.timestep:g} {labels.time}, got {settings.damp:g}; "
                "100 time steps are usual"
            )
        return cls(problem, mode, options, settings, pressure, seed)

    @property
    def ensemble(self) -> Ensemble:
        """What LAMMPS samples; of lambda windows the one of the crystal itself."""
        temperature, settings = self.problem.temperature, self.settings
        if self.pressure is None:
            return Canonical(temperature, settings.damp)
        return IsothermalIsobaric(temperature, self.pressure, self.options.cell, settings.damp, settings.pressure_damp)

    @property
    def series(self) -> Series:
        """What has to decorrelate: the energy, and at constant pressure the volume."""
        return _energy if self.pressure is None else _energy_and_volume

    def __str__(self) -> str:
        """What is simulated, in one line."""
        problem, settings, labels = self.problem, self.settings, self.problem.units.labels
        held = "" if self.pressure is None else f"P = {describe_pressure(self.pressure, problem.units)}, "
        return (
            f"{self.mode}, {problem.crystal.n_sites} atoms ({', '.join(sorted(set(problem.crystal.species)))}), T = {problem.temperature:g} "
            f"{labels.temperature}, {held}time step {settings.timestep:g} {labels.time}, damping {settings.damp:g} {labels.time}, a frame "
            f"every {settings.sample_every} steps"
        )


def _energy(frames: Trajectory) -> list[Array]:
    return [frames.energies]


def _energy_and_volume(frames: Trajectory) -> list[Array]:
    return [frames.energies, frames.volumes]


def _script_timestep(problem: Problem) -> float:
    """The script's time step; where it sets none and LAMMPS' own is one for large particles, one for this crystal, time units."""
    units = problem.units
    if units.timestep != _FOR_LARGE_PARTICLES.get(units.name):
        return units.timestep
    timestep = _STEP / _fastest(problem)
    log.warning(
        "the script sets no timestep, and LAMMPS' default of `units %s`, %g %s, is made for large particles; %.3g %s is used, %g over the "
        "highest angular frequency; `timestep` in the script or --set md.timestep sets another",
        units.name, units.timestep, units.labels.time, timestep, units.labels.time, _STEP,
    )  # fmt: skip
    return timestep


def _fastest(problem: Problem) -> float:
    """Highest angular frequency of the crystal, by power iteration on finite differences of the forces, per time unit."""
    crystal, step = problem.crystal, 1e-3 * problem.crystal.nearest_distance
    mass = (crystal.masses[crystal.types - 1] * problem.units.mvv2e)[:, None]
    mode, square = np.random.default_rng(0).standard_normal((crystal.n_sites, 3)), 0.0
    for _ in range(_ITERATIONS):
        mode = mode / np.linalg.norm(mode)
        u = mode / np.sqrt(mass / mass.mean())
        u = step * u / np.abs(u).max()
        plus, minus = problem.surface(np.stack([u, -u]))[1]
        change = (minus - plus) / 2 / np.sqrt(mass)
        square = float(np.linalg.norm(change) / np.linalg.norm(u * np.sqrt(mass)))
        mode = change
    if not 0 < square < math.inf:
        raise CrystalError("expected forces that bring displaced atoms back, got none; check potential, density and units")
    return math.sqrt(square)


def seconds_per_step(setup: MDSetup, n_steps: int) -> float:
    """Wall time of a time step at constant volume, measured over `n_steps` of them, seconds."""
    settings, ensemble = setup.settings, Canonical(setup.problem.temperature, setup.settings.damp)
    with Dynamics(setup.problem.engine, ensemble, timestep=settings.timestep, seed=1) as dynamics:
        dynamics.run(1)
        start = time.perf_counter()
        dynamics.run(n_steps)
        return (time.perf_counter() - start) / n_steps


# ---- trajectories that grow


class MDRecorder(Protocol):
    """Where a simulation keeps what it has made: in memory (`MDInMemory`), or in a run folder (`store.trajectory.MDFolder`)."""

    def trajectory(self, name: str) -> TrajectoryRecord:
        """The trajectory of a name, new or as far as it got."""
        ...

    def springs(self, make: Callable[[], dict[int, float]]) -> Mapping[int, float]:
        """Spring constants by atom type, from `make` where there are none yet; all MPI ranks call it together."""
        ...


class MDInMemory:
    """Trajectories that are gone with the process, which is the only MPI rank."""

    def __init__(self) -> None:
        if parallel.size() > 1:
            raise ConfigError(
                f"expected one MPI rank for molecular dynamics in memory, got {parallel.size()}, which share files; give a recorder on disk"
            )
        self._trajectories: dict[str, TrajectoryInMemory] = {}
        self._springs: dict[int, float] = {}

    def trajectory(self, name: str) -> TrajectoryRecord:
        """The trajectory of a name, new or as far as it got."""
        return self._trajectories.setdefault(name, TrajectoryInMemory(name))

    def springs(self, make: Callable[[], dict[int, float]]) -> Mapping[int, float]:
        """Spring constants by atom type, those of the first call."""
        self._springs = self._springs or make()
        return self._springs


class Simulation:
    """A trajectory that can be made longer, in blocks between which signals act.

    Attributes:
        record: Where it is kept.
        series: What has to decorrelate.

    Args:
        setup: The crystal, time step and sampling interval.
        record: Where it is kept, as far as it got.
        ensemble: What LAMMPS samples; None: the setup's.
        series: What has to decorrelate; None: the setup's.
    """

    def __init__(
        self, setup: MDSetup, record: TrajectoryRecord, ensemble: Ensemble | None = None, series: Series | None = None
    ) -> None:
        ensemble = ensemble or setup.ensemble
        self.record, self.series = record, series or setup.series
        self._problem, self._ensemble, self._settings, self._seed = setup.problem, ensemble, setup.settings, setup.seed

    @property
    def frames(self) -> Trajectory:
        """All frames so far, of which there are some: `MDJob.reach` has been called before."""
        frames = self.record.load()
        if frames is None:
            raise RuntimeError(f"no frames of {self.record.name}")
        return frames

    def extend(self, n_frames: int, stop: StopFlag, tick: Callable[[], None]) -> None:
        """Make the trajectory longer.

        Args:
            n_frames: Frames to add.
            stop: Set by signals; what was made until then is kept.
            tick: Called after each frame.

        Raises:
            Interrupted: A signal came.
            CrystalError: The crystal melted, or LAMMPS lost it.
        """
        every, first, started = self._settings.sample_every, self.record.last_step, time.monotonic()
        snapshots: list[Snapshot] = []
        engine, timestep, start = self._problem.engine, self._settings.timestep, self.record.state()
        with Dynamics(engine, self._ensemble, timestep=timestep, seed=self._seed_from(first), start=start) as dynamics:
            for _ in range(n_frames):
                snapshots.append(dynamics.run(every))
                tick()
                stopped = bool(stop)
                if stopped or time.monotonic() - started > _BLOCK_SECONDS:
                    self.record.append(self._frames(snapshots, first), dynamics.state())
                    first, started, snapshots = first + every * len(snapshots), time.monotonic(), []
                if stopped:
                    stop.check("the trajectory so far is saved; continue with --resume")
            if snapshots:
                self.record.append(self._frames(snapshots, first), dynamics.state())

    def _seed_from(self, step: int) -> int:
        """A LAMMPS seed of its own for each trajectory and continuation."""
        digest = hashlib.sha256(f"{self._seed}/{self.record.name}/{step}".encode()).digest()
        return int.from_bytes(digest[:4], "little") % 900_000_000 + 1

    def _frames(self, snapshots: list[Snapshot], first: int) -> Trajectory:
        crystal, every = self._problem.crystal, self._settings.sample_every
        steps = first + every * np.arange(1, len(snapshots) + 1)
        displacements = np.stack([crystal.displacements(shot.positions[crystal.atom_ids - 1], shot.cell) for shot in snapshots])
        rms = float(np.sqrt(np.square(displacements[-1]).sum(1).mean()))
        if not rms < _EXPLODED * crystal.nearest_distance:
            raise CrystalError(
                f"expected atoms that stay on their sites, got a root-mean-square displacement of {rms:.3g} "
                f"{self._problem.units.labels.length} ({rms / crystal.nearest_distance:.2f} nearest-neighbour distances) in the MD: "
                "the crystal has melted or the time step is too long; lower T or --set md.timestep"
            )
        columns = [[getattr(shot, name) for shot in snapshots] for name in ("energy", "virial_pressure", "temperature", "cell")]
        return Trajectory(steps, displacements, *(np.array(column, dtype=np.float64) for column in columns))


class MDJob:
    """Trajectories made longer until they hold the independent frames asked for, shared out among MPI ranks.

    Args:
        setup: What is simulated.
        recorder: Where trajectories are kept; None: in memory.
        reporter: Told how far it is.
        stop: Set by signals; None: nothing stops it.
    """

    def __init__(
        self,
        setup: MDSetup,
        recorder: MDRecorder | None = None,
        reporter: Reporter = SILENT,
        stop: StopFlag | None = None,
    ) -> None:
        self.setup, self.reporter, self.stop = setup, reporter, StopFlag() if stop is None else stop
        self.recorder: MDRecorder = MDInMemory() if recorder is None else recorder

    def simulation(self, name: str, ensemble: Ensemble | None = None, series: Series | None = None) -> Simulation:
        """The trajectory of a name, as far as it got; of the crystal itself where neither ensemble nor series are given."""
        return Simulation(self.setup, self.recorder.trajectory(name), ensemble, series)

    def reach(self, simulations: Sequence[Simulation], n_frames: int, stage: str) -> None:
        """Make trajectories longer until each has so many independent frames or md.max_steps are done; the same on every rank."""
        # file systems of other nodes may lag behind, and all ranks have to share out the same work
        while any(missing := parallel.agreed([self._missing(one, n_frames) for one in simulations])):
            mine = parallel.share([(one, n) for one, n in zip(simulations, missing, strict=True) if n])
            say_shares(self.reporter, f"{stage} of molecular dynamics", "trajectories", sum(n > 0 for n in missing))
            total, done = sum(n for _, n in mine), 0
            with self.reporter.stage(stage) as bar:

                def tick() -> None:
                    nonlocal done
                    done += 1
                    bar.update(done / total, f"{done} of {total} frames", step=done)  # noqa: B023

                self._extend(mine, tick)

    def _extend(self, mine: Sequence[tuple[Simulation, int]], tick: Callable[[], None]) -> None:
        """This rank's share of a round; where a signal stops one rank, all stop when all have saved their frames."""
        stopped = None
        try:
            for simulation, n in mine:
                simulation.extend(n, self.stop, tick)
        except Interrupted as error:
            stopped = error
        code = parallel.meet(stopped.exit_code if stopped else 0, lambda: bool(self.stop))
        if stopped:
            raise stopped
        self.stop.check("the trajectories so far are saved; continue with --resume")  # also where the others stayed away
        if code:
            raise Interrupted("stopped with another MPI rank; the trajectories so far are saved; continue with --resume", code)

    def _missing(self, simulation: Simulation, n_frames: int) -> int:
        """Frames to add in this round."""
        frames, most, every = simulation.record.load(), self.setup.options.max_steps, self.setup.settings.sample_every
        if frames is None:
            return min(math.ceil(_SPARE * n_frames) + _FIRST, most // every)
        left = (most - int(frames.steps[-1])) // every
        try:
            found = slowest(simulation.series(frames))
            wanted = math.ceil(_SPARE * (n_frames - found.n_independent) * found.inefficiency)
        except EstimateError:
            wanted = len(frames)
        if wanted > 0 and left <= 0:
            log.warning(
                "%s ends at md.max_steps = %d with fewer than %d independent frames",
                simulation.record.name, most, n_frames,
            )  # fmt: skip
        return max(0, min(wanted, (_GROWTH - 1) * len(frames), left))


def run_md(
    setup: MDSetup,
    *,
    recorder: MDRecorder | None = None,
    reporter: Reporter = SILENT,
    stop: StopFlag | None = None,
) -> "MDResult":
    """Simulate at constant volume or pressure, or go on where the recorder has frames already; all MPI ranks together.

    Args:
        setup: What is simulated.
        recorder: Where trajectories are kept; None: in memory.
        reporter: Told how far it is.
        stop: Set by signals; None: nothing stops it.

    Raises:
        CrystalError: The crystal melted or transformed, or its atoms hop.
        Interrupted: A signal came; the recorder has the frames.
    """
    job, options = MDJob(setup, recorder, reporter, stop), setup.options
    wanted = -(-options.n_frames // options.replicas)
    replicas = [job.simulation(replica_name(setup.mode, index)) for index in range(options.replicas)]
    job.reach(replicas, wanted, setup.mode)
    return MDResult.of(setup, [replica.frames for replica in replicas])


def replica_name(mode: str, index: int) -> str:
    """Name of the trajectory of a replica."""
    return f"{mode}-{index:02d}"


# ---- what it says


@dataclass(frozen=True)
class Stability:
    """How far the atoms of a trajectory are from their sites.

    Attributes:
        lindemann: Root-mean-square displacement in nearest-neighbour distances.
        largest_mean_displacement: Of one atom, in nearest-neighbour distances.
        structure: What OVITO recognises in the reference lattice; nothing where it knows none, or is missing.
        recognised: Share of the atoms whose mean positions have that structure; nothing without one.
    """

    lindemann: float
    largest_mean_displacement: float
    structure: str | None
    recognised: float | None

    def to_dict(self) -> dict[str, object]:
        """The fields for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class MDResult:
    """What molecular dynamics of a crystal came to.

    Attributes:
        setup: What was simulated.
        trajectories: All frames, one trajectory for each replica.
        decorrelated: Where each is equilibrated, and which of its frames are independent.
        stability: How far atoms are from their sites.
    """

    setup: MDSetup
    trajectories: tuple[Trajectory, ...]
    decorrelated: tuple[Decorrelated, ...]
    stability: Stability

    @classmethod
    def of(cls, setup: MDSetup, trajectories: Sequence[Trajectory]) -> "MDResult":
        """From the trajectories of all replicas.

        Raises:
            CrystalError: One of them left the crystal.
            EstimateError: One is too short, or does not move.
        """
        stable = [require_stable(setup.problem, part) for part in trajectories]
        found = tuple(slowest(setup.series(part)) for part in trajectories)
        return cls(setup, tuple(trajectories), found, stable[0])

    @cached_property
    def frames(self) -> Trajectory:
        """The independent frames of all replicas."""
        return Trajectory.joined([part[one.indices] for part, one in zip(self.trajectories, self.decorrelated, strict=True)])

    @property
    def n_frames(self) -> int:
        """Frames of all replicas."""
        return sum(map(len, self.trajectories))

    @property
    def n_independent(self) -> int:
        """Frames that are independent in their energies, and at constant pressure in their volumes."""
        return sum(one.n_independent for one in self.decorrelated)

    def mean(self, series: Sequence[Array]) -> EstimateResult | Fixed:
        """Mean over the equilibrated frames of a quantity, one series for each replica, with an error for correlated data."""
        return equilibrated_mean([values[one.start :] for values, one in zip(series, self.decorrelated, strict=True)])

    @cached_property
    def temperature(self) -> EstimateResult | Fixed:
        """Mean kinetic temperature, temperature units."""
        return self.mean([part.temperatures for part in self.trajectories])

    @cached_property
    def pressure(self) -> EstimateResult | Fixed:
        """Mean pressure, pressure units."""
        return self.mean([self.pressures(part) for part in self.trajectories])

    @cached_property
    def energy(self) -> EstimateResult:
        """Mean total potential energy, energy units."""
        return correlated_mean(*(part.energies for part in self.trajectories), minimum=1)

    @property
    def observed(self) -> Source:
        """The independent frames, to be put beside other sources."""
        return observed(self.trajectories, self.decorrelated)

    def pressures(self, part: Trajectory) -> Array:
        """Pressures of frames with the ideal part N kT / V, pressure units, shape [n]."""
        return np.asarray(part.virials + self.setup.problem.ideal_pressure(part.volumes))

    @cached_property
    def mean_cell(self) -> Array:
        """Mean cell vectors as rows, length units, shape [3, 3]."""
        parts = zip(self.trajectories, self.decorrelated, strict=True)
        return np.asarray(np.concatenate([part.cells[one.start :] for part, one in parts]).mean(0))

    def cell_averages(self) -> dict[str, EstimateResult | Fixed]:
        """Means of lengths and tilts (length units), ln(c / sqrt(a b)), volume and number density, by name."""
        volumes = [part.volumes for part in self.trajectories]
        parts = [cell_quantities(part.cells) for part in self.trajectories]
        found = {name: self.mean([part[name] for part in parts]) for name in parts[0]}
        found["volume"] = self.mean(volumes)
        found["number_density"] = self.mean([self.setup.problem.crystal.n_sites / volume for volume in volumes])
        return found

    @cached_property
    def verdict(self) -> Verdict:
        """What to think of it."""
        return self.judged()

    def __repr__(self) -> str:
        temperature, verdict = self.temperature, self.verdict
        return (
            f"{self.setup.mode}: {self.n_independent} independent of {self.n_frames} frames, temperature {temperature.value:.6g} +- "
            f"{temperature.error:.1g} {self.setup.problem.units.labels.temperature}; {verdict.colour}: {' '.join(verdict.reasons)}"
        )

    def judged(self, neighbours: float | None = None) -> Verdict:
        """What to think of it, with the smallest overlap of neighbouring lambda windows where it is one of them."""
        counted = judge_frames(self.n_independent, self.setup.options.n_frames, neighbours)
        return combine([counted, *judge_temperature(self.temperature, self.setup.problem.temperature)])


def observed(trajectories: Sequence[Trajectory], decorrelated: Sequence[Decorrelated]) -> Source:
    """The independent frames of all replicas with the mean energy of all equilibrated ones, to be put beside other sources."""
    frames = Trajectory.joined([part[one.indices] for part, one in zip(trajectories, decorrelated, strict=True)])
    mean = correlated_mean(*(part.energies for part in trajectories), minimum=1)
    return Source("md", frames.energies, frames.displacements, virials=frames.virials, mean_energy=mean)


def judge_frames(n_independent: int, wanted: int, neighbours: float | None = None) -> Verdict:
    """What to think of a simulation by the number of its frames.

    Args:
        n_independent: Independent frames of the crystal.
        wanted: Independent frames asked for.
        neighbours: Smallest overlap of neighbouring windows, where there are some.
    """
    reason = f"There are {n_independent} independent frames."
    if neighbours is not None:
        reason += f" Neighbouring windows overlap by at least {neighbours:.2f}."
    if n_independent < _ENOUGH or (neighbours is not None and neighbours < RED_OVERLAP):
        return Verdict("red", (reason,), False, "Run longer: raise md.max_steps or md.window_frames.")
    if n_independent < 0.9 * wanted:
        return Verdict(
            "amber", (f"{reason} {wanted} were asked for.",), True, "Continue with --resume and a larger md.max_steps."
        )
    return Verdict("green", (reason,), True, RELIABLE)


def judge_temperature(measured: EstimateResult | Fixed, wanted: float) -> list[Verdict]:
    """Red where the mean kinetic temperature is not the one wanted, by more than noise and a few per cent."""
    value, error = measured.value, measured.error
    if abs(value - wanted) < max(_TEMPERATURE_OFF * wanted, _TEMPERATURE_Z * error):
        return []
    reason = f"The kinetic temperature is {with_error(value, error)}, not {wanted:g}."
    return [Verdict("red", (reason,), False, "Lower md.timestep, or change md.damp.")]


def require_stable(problem: Problem, trajectory: Trajectory) -> Stability:
    """Refuse a trajectory that left its crystal.

    Raises:
        CrystalError: Atoms melted, hopped to other sites, or formed another structure.
    """
    crystal, unit = problem.crystal, problem.units.labels.temperature
    tail = trajectory[slice(int((1 - _TAIL) * len(trajectory)), None)]
    mean = tail.displacements.mean(0)
    lindemann = float(np.sqrt(np.square(tail.displacements).sum(2).mean())) / crystal.nearest_distance
    furthest = np.linalg.norm(mean, axis=1) / crystal.nearest_distance
    state = f"at T = {problem.temperature:g} {unit}; lower T, or start from the phase that is stable there"
    if lindemann > _MELTED:
        raise CrystalError(
            f"expected a crystal, but in the MD its atoms are {lindemann:.2f} nearest-neighbour distances from their sites (root mean "
            f"square; {_MELTED} is a melt) {state}"
        )
    if furthest.max() > _HOPPED:
        atom = int(crystal.atom_ids[furthest.argmax()])
        raise CrystalError(
            f"expected every atom on its site, but in the MD atom {atom} moved {furthest.max():.2f} nearest-neighbour distances away on "
            f"average: atoms hop or the crystal transforms {state}"
        )
    return Stability(lindemann, float(furthest.max()), *_recognised(problem, tail, mean))


def _recognised(problem: Problem, tail: Trajectory, mean: Array) -> tuple[str | None, float | None]:
    """Structure of the reference and the share of the atoms that kept it, by their mean positions."""
    crystal = problem.crystal
    try:
        identifier = StructureIdentifier(crystal.sites, crystal.supercell)
        if not identifier.recognises:
            return None, None
        cell = tail.cells.mean(0)
        share = float(identifier.reference_fraction((crystal.sites_in(cell) + mean)[None], cell)[0])
        name = identifier.types[int(np.bincount(identifier.reference_types).argmax())]
    except LammpsBGError as error:  # OVITO is optional
        log.warning("the structure of the MD's crystal was not identified: %s", error)
        return None, None
    if share < _KEPT:
        raise CrystalError(
            f"expected {name}, but in the MD only {share:.0%} of the atoms kept that structure at "
            f"T = {problem.temperature:g} {problem.units.labels.temperature}: the crystal transforms; start from the phase that is stable there"
        )
    return name, share
