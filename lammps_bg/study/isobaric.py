# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples of a conditional model at constant pressure, by chains over atoms and cell (`thermo.isobaric`)."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import deformation
from lammps_bg.flow.generator import Generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.potentials.surface import EnergyFunction
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.streams import stream
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.exact import ChainRecord, KeptFrames
from lammps_bg.study.gibbs import states_of
from lammps_bg.study.helmholtz import cell_design, free_variables
from lammps_bg.study.problem import Problem
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.gibbs import PressureUnit
from lammps_bg.thermo.isobaric import (
    FEWEST_STEPS,
    TUNING,
    Isobar,
    IsobaricAverages,
    IsobaricChains,
    averages_of,
    first_cells,
    over_chains,
    whole_blocks,
)
from lammps_bg.thermo.timeseries import Fixed
from lammps_bg.thermo.trajectory import cell_quantities
from lammps_bg.thermo.verdict import Verdict, combine

Array = NDArray[np.float64]
_TYPICAL = 32  # configurations that show LAMMPS how far atoms move
_USUAL_LEAPS = 3  # of a trajectory, before it is tuned


# ---- the crystal in its cells


@dataclass(frozen=True)
class CrystalCells:
    """A conditional model in one state, in any cell: what `thermo.isobaric.CellModel` asks for.

    Attributes:
        model: The conditional model.
        problem: The crystal in that state, in the cell that the variables are relative to.
        names: The free cell variables.
        fixed: Values of all other conditions.
        state: T and parameters of the potential among these.
        judged: Whether LAMMPS evaluates everything.
    """

    model: ConditionalModel
    problem: Problem
    names: tuple[str, ...]
    fixed: Mapping[str, float]
    state: Mapping[str, float]
    judged: bool

    @classmethod
    def of(cls, model: ConditionalModel, problem: Problem, cell: str | None, *, judged: bool = False) -> "CrystalCells":
        """The crystal of a problem in any cell that a model was trained for.

        Args:
            model: The conditional model.
            problem: T and parameters of the potential.
            cell: What is free: iso, xy, aniso or tri; None: all cell variables of the model.
            judged: Whether LAMMPS evaluates everything.

        Raises:
            ConfigError: The model has no such variables.
            StateError: It was not trained for this T or potential.
        """
        names = free_variables(model.conditions, cell)
        (state,) = states_of({}, problem, model)
        held = {axis.name: 0.0 for axis in model.conditions.axes if axis.is_cell and axis.name not in names}
        return cls(model, model.reference.at(state), names, {**held, **state}, state, judged)

    def at_pressure(self, pressure: float) -> Isobar:
        """Its cells at a pressure, pressure units of the script."""
        axes = {axis.name: axis for axis in self.model.conditions.axes}
        box = np.array([(axes[name].low, axes[name].high) for name in self.names])
        problem = self.problem
        return Isobar(self.names, box, problem.crystal.volume, pressure / problem.units.nktv2p, problem.beta)

    @property
    def keys(self) -> list[str]:
        """Where the configuration has the range of each free cell variable, in the block `condition`."""
        axes = self.model.conditions.axes
        return [axis.key for name in self.names for axis in axes if axis.name == name]

    @property
    def n_sites(self) -> int:
        """Number of atoms N."""
        return self.problem.crystal.n_sites

    @property
    def channels(self) -> int:
        """Of the white noise."""
        return 1 if self.model.generators.eta is None else 2

    def values(self, cell: Array) -> dict[str, float]:
        """The point of the model's conditions at a cell [d]."""
        return {**self.fixed, **dict(zip(self.names, cell.tolist(), strict=True))}

    def generator(self, cell: Array) -> Generator:
        """The generator of a cell [d]."""
        return self.model.generators.at(self.model.conditions.context(self.values(cell)), self.problem.beta)

    def deformations(self, cells: Array) -> Array:
        """D of cell = reference @ D for cells [n, d], shape [n, 3, 3]."""
        return np.stack([deformation(dict(zip(self.names, cell.tolist(), strict=True))) for cell in cells])

    def supercells(self, cells: Array) -> Array:
        """Cell vectors as rows of cells [n, d], shape [n, 3, 3], length units."""
        return np.asarray(self.problem.crystal.supercell @ self.deformations(cells))

    def surface(self, cells: Array) -> EnergyFunction:
        """The potential energy surface of a batch, each configuration in its cell, shape [n, d]."""
        surface = self.problem.surface if self.judged else self.problem.potential
        return _EachInItsCell(partial(surface.in_cells, deformations=self.deformations(cells)), surface.static_energy)


@dataclass
class _EachInItsCell:
    """A surface whose configurations have a cell each."""

    evaluate: Any
    static_energy: float

    def __call__(self, displacements: Array) -> tuple[Array, Array]:
        found: tuple[Array, Array] = self.evaluate(displacements)
        return found

    def energies(self, displacements: Array) -> Array:
        return self(displacements)[0]


# ---- sampling


def first_chains(crystal: CrystalCells, isobar: Isobar, config: Config) -> tuple[IsobaricChains, float]:
    """The chains before they begin, and the seconds that an energy with its forces takes on this rank.

    Raises:
        StateError: The lowest F + P V is at the edge of the trained range, or the crystal is unstable.
    """
    began, base = time.monotonic(), crystal.generator(isobar.box.mean(1)).prior.base
    crystal.problem.surface.settle(base.sample(_TYPICAL, stream(config.seed, "skin", 0)).numpy())
    units, design = crystal.problem.units, cell_design(len(isobar.names), 5)
    n_chains = whole_blocks(config.exact.chains, crystal.n_sites)
    unit = PressureUnit(units.labels.pressure, units.nktv2p)
    noise = first_cells(crystal, isobar, design, n_chains, seed=config.seed, unit=unit)
    chains = IsobaricChains(crystal, isobar, noise, n_chains, seed=config.seed)
    return chains, (time.monotonic() - began) / (len(design) * n_chains)


def steps_wanted(chains: IsobaricChains, config: Config) -> int:
    """Steps that count, of all chains together as many samples as were asked for."""
    return max(FEWEST_STEPS, math.ceil(config.sample.n_samples / chains.n_chains))


def usual_evaluations(chains: IsobaricChains, config: Config) -> int:
    """Energies with forces that the steps of all chains are likely to take."""
    return (steps_wanted(chains, config) + sum(TUNING)) * chains.n_chains * (_USUAL_LEAPS + 1)


@dataclass(frozen=True)
class IsobaricResult:
    """Exact samples at constant pressure.

    Attributes:
        crystal: The crystal in any cell.
        chains: With the numbers of every step that counts.
        averages: Of these.
        frames: Displacements in their cells of samples that are independent, length units, shape [m, N, 3].
        indices: Which samples these are, shape [m].
        wanted: Steps that were asked for.
        seconds: Wall time, that of earlier starts included.
    """

    crystal: CrystalCells
    chains: IsobaricChains
    averages: IsobaricAverages
    frames: Array
    indices: NDArray[np.int64]
    wanted: int
    seconds: float

    @cached_property
    def cells(self) -> Array:
        """Free cell variables, shape [steps, chains, d]."""
        return self.chains.series("cells")

    @property
    def pressure(self) -> float:
        """Pressure units."""
        return self.chains.isobar.pressure * self.crystal.problem.units.nktv2p

    @cached_property
    def boxes(self) -> Array:
        """Cell vectors as rows, length units, shape [steps, chains, 3, 3]."""
        cells = self.cells
        return self.crystal.supercells(cells.reshape(-1, cells.shape[-1])).reshape(*cells.shape[:2], 3, 3)

    def cell_averages(self) -> dict[str, EstimateResult | Fixed]:
        """Means of lengths and tilts (length units), ln(c / sqrt(a b)), and number density, by name, with errors over chains."""
        found = {name: _mean(values) for name, values in cell_quantities(self.boxes).items()}
        found["number_density"] = _mean(self.crystal.n_sites / self.chains.isobar.volumes(self.cells))
        return found

    @cached_property
    def verdict(self) -> Verdict:
        """What to think of it; amber where the budget ended the chains early."""
        done, n_chains = len(self.chains.records), self.chains.n_chains
        if done >= self.wanted:
            return self.averages.verdict
        reason = f"The chains came to {done * n_chains} samples within their budget, {self.wanted * n_chains} were asked for."
        step = "Use it with its errors, or raise exact.max_seconds and exact.max_evaluations with --resume."
        return combine([self.averages.verdict, Verdict("amber", (reason,), True, step)])


def sample_isobaric(
    crystal: CrystalCells,
    chains: IsobaricChains,
    config: Config,
    reporter: Reporter = SILENT,
    *,
    stop: StopFlag | None = None,
    record: ChainRecord | None = None,
) -> IsobaricResult:
    """Sample atoms and cell together, on all ranks, or continue the chains of a record.

    Args:
        crystal: The crystal.
        chains: From `first_chains`.
        config: `sample.n_samples`, the budget in `exact`, and `train.checkpoint_seconds`.
        reporter: Told how far it is.
        stop: Set by signals; None: nothing stops it.
        record: Keeps the chains; None keeps nothing.

    Raises:
        Interrupted: A signal came; the record holds the chains.
    """
    return _Sampling(chains, config, record).run(crystal, reporter, StopFlag() if stop is None else stop)


class _Sampling:
    """Chains with the frames and the time that are kept of them."""

    def __init__(self, chains: IsobaricChains, config: Config, record: ChainRecord | None) -> None:
        self._chains, self._config, self._record = chains, config, record
        self._frames = KeptFrames(config.exact.n_dump)
        self._began = self._saved = time.monotonic()
        self._spent = 0.0

    def run(self, crystal: CrystalCells, reporter: Reporter, stop: StopFlag) -> IsobaricResult:
        """Make the steps, and what follows from them."""
        chains, exact, wanted = self._chains, self._config.exact, steps_wanted(self._chains, self._config)
        if self._restored():
            reporter.say(f"chains     continue after {len(chains.records)} steps")
        else:
            chains.start()
        most = f"{exact.max_evaluations} energies" if exact.max_evaluations else "any number of energies"
        reporter.say(
            f"chains     {chains.n_chains} over atoms and cell, {wanted} steps each after {sum(TUNING)} of tuning, at most "
            f"{exact.max_seconds:.0f} s and {most}"
        )
        with reporter.stage("chains") as bar:
            while chains.tuning_left or (len(chains.records) < wanted and not self._is_spent()):
                chains.advance()
                done = len(chains.records)
                if done:
                    self._frames.add(done - 1, chains.displacements())
                share = chains.n_steps / (wanted + sum(TUNING))
                bar.update(share, f"{done} of {wanted} steps, {chains.evaluations} energies", step=done)
                if stop.on_any_rank():
                    self._save()
                    stop.check(f"{done} steps of the chains are in exact.pt; continue with --resume")
                if parallel.agreed(time.monotonic() - self._saved > self._config.train.checkpoint_seconds):
                    self._save()
        self._save()
        found = averages_of(chains, crystal.problem.crystal.nearest_distance, crystal.keys)
        frames, indices = self._frames.independent(found.inefficiency, chains.n_chains)
        return IsobaricResult(crystal, chains, found, frames, indices, wanted, self._seconds())

    def _is_spent(self) -> bool:
        exact = self._config.exact
        over = self._seconds() >= exact.max_seconds or self._chains.evaluations >= (exact.max_evaluations or math.inf)
        return bool(parallel.agreed(over) and len(self._chains.records) >= FEWEST_STEPS)

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _save(self) -> None:
        """Keep the chains; all ranks come here together."""
        self._saved = time.monotonic()
        if self._record is not None and (state := self._chains.state()) is not None:
            self._record.keep({"chains": state, "frames": self._frames.state(), "seconds": self._seconds()})

    def _restored(self) -> bool:
        """Whether the chains of the record go on."""
        saved = self._record.stored() if self._record is not None else None
        if saved is None:
            return False
        self._chains.restore(saved["chains"])
        self._frames.restore(saved["frames"])
        self._spent = float(saved["seconds"])
        return True


def _mean(table: Array) -> EstimateResult | Fixed:
    """Mean with its error over chains; no error where a quantity does not move."""
    if np.ptp(table) <= 1e-12 * abs(table.mean()):
        return Fixed(float(table.mean()), table.size)
    return over_chains(lambda some: float(some.mean()), table)
