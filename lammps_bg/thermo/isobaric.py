# SPDX-License-Identifier: GPL-2.0-or-later
"""Exact samples at constant pressure: chains over the white noise behind a conditional flow and over the cell.

The free cell variables c, ln V/V0 first, are those of `crystal.cell_variables`. The ensemble is that of `gibbs`, exp(-beta [F(c) + P V(c)])
with the F of a crystal that moves freely in its cell, exp(-beta F) ~ V Z_u(c), and with the measure V dc: dV for the volume alone, dlx dly dlz
for three lengths, and for lengths and tilts V times the left-invariant measure of cells, which is flat in these variables. So

    p(x, c) ~ exp(-|x|^2 / 2 + log w_c(x)) V^2 exp(-beta P V),    log w_c(x) = -beta U(u, c) + log N(a; u) - log q_c(u, a), u = f_c(C_c^(1/2) x),

whose integral over x is V^2 Z_u(c) exp(-beta P V), whatever the flow. (The barostat of Martyna, Tobias and Klein, LAMMPS' `fix npt`, has the same
measure of cells; with its centre of mass at rest it lacks a factor V^(1 + 1/N): its mean volume is smaller by (1 + 1/N) kT kappa, the variance
of the volume over the volume.)

A step of a chain is Hamiltonian Monte Carlo in x in its cell (`chains`), then a move of the cell at constant x, under which the atoms follow the
cell along the flow: where the flow is good log w_c(x) is -ln Z_u(c) for every x, and large moves of the cell are accepted. In the white noise of
the cell, c = m + L y, a move is a rotation of y towards fresh noise, which leaves exp(-|y|^2 / 2) as it is; it is accepted with the rest of the
density. Cells outside the trained box have no density here, which is told where the fluctuations reach its border.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_bg import parallel
from lammps_bg.flow.bijection import weights_at_rest
from lammps_bg.flow.generator import Generator, mixed
from lammps_bg.potentials.surface import EnergyFunction
from lammps_bg.streams import stream
from lammps_bg.thermo.chains import (
    FIRST_STEP,
    QUARTER,
    Point,
    StepTuner,
    acceptance,
    block_size,
    hamiltonian,
    joined_points,
    leaps_of,
    own_blocks,
    pieces_of_chains,
    point_at,
    trajectory,
)
from lammps_bg.thermo.exact import split_r_hat
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.gibbs import EDGE_SHARE, EnthalpySurface, FreeEnergySurface, PressureUnit
from lammps_bg.thermo.repeats import jackknife
from lammps_bg.thermo.timeseries import inefficiency
from lammps_bg.thermo.verdict import RELIABLE, SEVERITY, Colour, Verdict
from lammps_bg.thermo.weights import EstimateError
from lammps_bg.training.target import ExactTarget

Array = NDArray[np.float64]
TUNING = (6, 6, 8)
"""Steps of each round of the tuning; after each but the last the white noise of the cell is that of its second half."""
FEWEST_STEPS = 4
"""Steps that count without which there is no average."""
_CELL_ACCEPTANCE = 0.5  # between the optimum of small steps (0.44 in one dimension) and that of independent proposals (1)
_WIDER = 1.3  # times the variance found: proposals narrower than the density are rarely accepted into its tails
_MIXED, _UNMIXED, _FEWEST = 1.1, 1.3, 50.0  # as for chains in one cell (`exact`)
_HOP, _HOPS = 0.5, 0.01
_TOUCHING, _CUT = 0.01, 0.1  # share of the samples near an end of the trained range: too many, and so many that no number is left


@dataclass(frozen=True)
class Isobar:
    """A crystal's cells at one pressure and temperature.

    Attributes:
        names: The free cell variables, `volume` first.
        box: Lowest and highest trained value of each, shape [d, 2].
        reference_volume: V0, of all atoms, length units cubed.
        pressure: P, energy per volume.
        beta: 1 / (k_B T), inverse energy.
    """

    names: tuple[str, ...]
    box: Array
    reference_volume: float
    pressure: float
    beta: float

    def volumes(self, cells: Array) -> Array:
        """V of cells [..., d], length units cubed, shape [...]."""
        return np.asarray(self.reference_volume * np.exp(cells[..., 0]))

    def log_measure(self, cells: Array) -> Array:
        """ln(V^2 / V0^2) - beta P V of cells [n, d]; -inf outside the box, shape [n]."""
        inside = ((cells > self.box[:, 0]) & (cells < self.box[:, 1])).all(-1)
        return np.where(inside, 2.0 * cells[:, 0] - self.beta * self.pressure * self.volumes(cells), -np.inf)

    def near_edge(self, cells: Array) -> Array:
        """Share of cells [..., d] in the outer part of the range of each variable, shape [d]."""
        margin = EDGE_SHARE * (self.box[:, 1] - self.box[:, 0])
        near = (cells < self.box[:, 0] + margin) | (cells > self.box[:, 1] - margin)
        return np.asarray(near.reshape(-1, len(self.box)).mean(0))


class CellModel(Protocol):
    """A crystal with a generator in every cell."""

    @property
    def n_sites(self) -> int:
        """Number of atoms N."""
        ...

    @property
    def channels(self) -> int:
        """Of the white noise."""
        ...

    def generator(self, cell: Array) -> Generator:
        """The generator of a cell, shape [d]."""
        ...

    def surface(self, cells: Array) -> EnergyFunction:
        """The potential energy surface of a batch, each configuration in its cell, shape [n, d]."""
        ...


class InCells:
    """The density over white noise of some chains, each in a cell of its own.

    Args:
        model: The crystal.
        beta: 1 / (k_B T), inverse energy.
        cells: Of each chain, shape [n, d].
        generators: Of each chain.
    """

    def __init__(self, model: CellModel, beta: float, cells: Array, generators: Sequence[Generator]) -> None:
        self._model, self._beta, self._cells, self._generators = model, beta, cells, list(generators)
        self._pieces = pieces_of_chains(model.channels, model.n_sites)

    def at(self, x: Tensor) -> Point:
        """Log-weights in these cells and their gradients at white noise x, shape [n, channels, N, 3]."""
        with weights_at_rest(self._generators[0].flow):
            return joined_points(list(self._pieces.over(range(len(x)), lambda some: self._some(x, some))))

    def _some(self, x: Tensor, some: Sequence[int]) -> Point:
        own = slice(some[0], some[-1] + 1)
        generator = mixed(self._generators[own], [1] * len(some))
        return point_at(generator, ExactTarget(self._model.surface(self._cells[own]), self._beta), x[own])


@dataclass(frozen=True)
class CellNoise:
    """White noise y of cells, c = m + L y.

    Attributes:
        centre: m, shape [d].
        root: L, lower triangular, shape [d, d].
    """

    centre: Array
    root: Array

    @classmethod
    def of(cls, centre: Array, covariance: Array) -> "CellNoise | None":
        """The noise of a Gaussian of cells, somewhat widened; None where the covariance is none."""
        try:
            return cls(centre, np.asarray(np.linalg.cholesky(_WIDER * np.atleast_2d(covariance)), dtype=np.float64))
        except np.linalg.LinAlgError:
            return None

    def cells(self, y: Array) -> Array:
        """Cells of white noise y [n, d]."""
        return np.asarray(self.centre + y @ self.root.T)

    def white(self, cells: Array) -> Array:
        """White noise of cells [n, d]."""
        return np.asarray(np.linalg.solve(self.root, (cells - self.centre).T).T, dtype=np.float64)


@dataclass(frozen=True)
class CellRecord:
    """What one step of all chains gave, in the order of the chains.

    Attributes:
        log_w: Log-weights in the chains' cells, shape [n].
        energies: Total potential energies, shape [n].
        cells: Free cell variables, shape [n, d].
        furthest: Largest displacement of an atom, length units, shape [n].
        acceptance: Probability with which each trajectory was accepted, shape [n].
        cell_acceptance: The same of the moves of the cell, shape [n].
        infinite: Whether the end of the trajectory had no finite energy, shape [n].
    """

    log_w: Array
    energies: Array
    cells: Array
    furthest: Array
    acceptance: Array
    cell_acceptance: Array
    infinite: Array


@dataclass
class _Block:
    """Chains that move together: where they stand, in which cells, with which generators."""

    point: Point
    cells: Array
    generators: list[Generator]


def first_cells(
    model: CellModel,
    isobar: Isobar,
    design: Array,
    n_chains: int,
    *,
    seed: int,
    unit: PressureUnit | None = None,
) -> CellNoise:
    """Where F + P V is lowest and how wide, from the mean log-weights of a few draws in some cells: where chains start.

    The draws of all cells have the white noise of the chains' start. The mean of -log w is an upper bound of -ln Z_u, near enough for a start.

    Args:
        model: The crystal.
        isobar: Its cells.
        design: Cells in coordinates from -1 to 1, shape [m, d].
        n_chains: Number of chains.
        seed: Seed of all random numbers.
        unit: How pressures are written in sentences.

    Raises:
        EstimateError: Hardly a draw has a finite energy in all cells.
        StateError: The lowest F + P V is at the edge of the trained box, or the crystal is unstable.
    """
    x = isobar.box.mean(1) + 0.5 * (isobar.box[:, 1] - isobar.box[:, 0]) * design
    generators = [model.generator(cell) for cell in x]
    rows: dict[int, Array] = {}
    for block in own_blocks(whole_blocks(n_chains, model.n_sites), model.n_sites):
        noise, columns = _first_noise(model, seed, block), []
        for cell, generator in zip(x, generators, strict=True):
            cells = np.broadcast_to(cell, (len(noise), len(cell)))
            found = InCells(model, isobar.beta, cells, [generator] * len(noise)).at(noise)
            columns.append(found.log_w.numpy() + cell[0])
        rows[block] = -np.stack(columns, 1) / isobar.beta
    table = _in_order(parallel.gathered(rows))
    table = table[np.isfinite(table).all(1)]
    if len(table) < 2:
        raise EstimateError(
            f"expected draws with finite energies in all trained cells, got {len(table)} of {n_chains}; train longer, or over smaller ranges"
        )
    surface = FreeEnergySurface.fit(
        x, table, reference_volume=isobar.reference_volume, kt=1.0 / isobar.beta, box=isobar.box, names=isobar.names
    )
    surface = replace(surface, pressure_unit=unit or PressureUnit())
    centre = np.array([entry.value for entry in surface.gibbs(isobar.pressure).cell])
    enthalpy = EnthalpySurface(surface.terms, surface.coefficients.mean(0), isobar.reference_volume, isobar.pressure)
    covariance = np.asarray(np.linalg.inv(enthalpy.hessian(centre)) / isobar.beta, dtype=np.float64)
    noise_of_cells = CellNoise.of(centre, covariance)
    if noise_of_cells is None:  # `gibbs` has seen to it that the curvatures are positive
        raise EstimateError("expected a free energy that is convex in the cell, got one that is not; use another state")
    return parallel.agreed(noise_of_cells)


def whole_blocks(n_chains: int, n_sites: int) -> int:
    """A number of chains, rounded up to whole blocks."""
    size = block_size(n_sites)
    return size * -(-n_chains // size)


def _first_noise(model: CellModel, seed: int, block: int) -> Tensor:
    """Where the chains of a block start, shape [n, channels, N, 3]."""
    shape = (block_size(model.n_sites), model.channels, model.n_sites, 3)
    return torch.randn(*shape, dtype=torch.float64, generator=stream(seed, "isobaric start", block))


class IsobaricChains:
    """Chains over white noise and cell; every MPI rank holds and moves blocks of them, and knows the numbers of all.

    Attributes:
        records: Steps that count, in order.
        n_chains: Number of chains.
        evaluations: Energies with forces spent by the chains, on all ranks.
        step: Angle of one rotation of a trajectory.
        leaps: Rotations of a trajectory.
        angle: Angle of a rotation of the cell's noise.

    Args:
        model: The crystal.
        isobar: Its cells.
        noise: Of the cells, at the start.
        n_chains: Number of chains; rounded up to whole blocks.
        seed: Seed of all random numbers.
    """

    def __init__(self, model: CellModel, isobar: Isobar, noise: CellNoise, n_chains: int, *, seed: int) -> None:
        self._model, self.isobar, self._noise, self._seed = model, isobar, noise, seed
        self.n_chains = whole_blocks(n_chains, model.n_sites)
        self.records: list[CellRecord] = []
        self._tuned: list[CellRecord] = []
        self.step, self.leaps, self.angle = FIRST_STEP, leaps_of(FIRST_STEP), QUARTER
        self._tuner, self._cell_tuner = StepTuner(FIRST_STEP), StepTuner(QUARTER, wanted=_CELL_ACCEPTANCE)
        self.evaluations = self.n_chains
        self._blocks: dict[int, _Block] = {}

    @property
    def n_steps(self) -> int:
        """Steps so far, those of the tuning included."""
        return len(self._tuned) + len(self.records)

    @property
    def tuning_left(self) -> int:
        """Steps of the tuning that are left."""
        return sum(TUNING) - len(self._tuned)

    def start(self) -> None:
        """Put the chains where they begin: white noise, in cells of the noise that they are given."""
        isobar = self.isobar
        for block in own_blocks(self.n_chains, self._model.n_sites):
            x = _first_noise(self._model, self._seed, block)
            random = stream(self._seed, "isobaric cells", block)
            y = torch.randn(len(x), len(isobar.box), dtype=torch.float64, generator=random).numpy()
            margin = 1e-3 * (isobar.box[:, 1] - isobar.box[:, 0])
            self._place(block, x, np.clip(self._noise.cells(y), isobar.box[:, 0] + margin, isobar.box[:, 1] - margin))

    def _place(self, block: int, x: Tensor, cells: Array) -> None:
        generators = [self._model.generator(cell) for cell in cells]
        self._blocks[block] = _Block(self._in(cells, generators).at(x), cells, generators)

    def _in(self, cells: Array, generators: Sequence[Generator]) -> InCells:
        return InCells(self._model, self.isobar.beta, cells, generators)

    # ---- moving

    def advance(self) -> None:
        """One step of all chains; the first ones tune, and do not count."""
        self.evaluations += (self.leaps + 1) * self.n_chains
        every: dict[int, list[Array]] = {}
        for part in parallel.gathered({block: self._moved(block) for block in self._blocks}):
            every |= part
        columns = zip(*(every[block] for block in sorted(every)), strict=True)
        record = CellRecord(*(np.concatenate(column) for column in columns))
        if self.tuning_left:
            self._tuned.append(record)
            self._tune(record)
        else:
            self.records.append(record)

    def _tune(self, record: CellRecord) -> None:
        self.step = self._tuner.next_step(float(record.acceptance.mean()))
        self.angle = self._cell_tuner.next_step(float(record.cell_acceptance.mean()))
        done, ends = len(self._tuned), np.cumsum(TUNING).tolist()
        if done == ends[-1]:
            self.step, self.angle = self._tuner.step, self._cell_tuner.step
        elif done in ends:
            half = TUNING[ends.index(done)] // 2
            cells = np.concatenate([entry.cells for entry in self._tuned[-half:]])
            self._noise = CellNoise.of(cells.mean(0), np.cov(cells.T)) or self._noise
            self._cell_tuner = StepTuner(self.angle, wanted=_CELL_ACCEPTANCE)
        self.leaps = leaps_of(self.step)

    def _moved(self, index: int) -> list[Array]:
        """One step of a block; the numbers of its `CellRecord`."""
        block = self._blocks[index]
        random = stream(self._seed, f"isobaric chain {index}", self.n_steps)
        start = block.point
        p = torch.randn(start.x.shape, dtype=torch.float64, generator=random)
        uniform = torch.rand(len(p), dtype=torch.float64, generator=random)
        end, q = trajectory(self._in(block.cells, block.generators), start, p, 1.0, step=self.step, leaps=self.leaps)
        odds = acceptance(hamiltonian(start, p, 1.0), hamiltonian(end, q, 1.0))
        block.point = start.where(uniform < odds, end)
        of_cells = self._move_cells(block, random)
        point = block.point
        furthest = point.displacements.square().sum(-1).amax(-1).sqrt()
        infinite = torch.isneginf(end.log_w).double()
        columns = [point.log_w.numpy(), point.energies.numpy(), block.cells.copy(), furthest.numpy()]
        return [*columns, odds.numpy(), of_cells.numpy(), infinite.numpy()]

    def _move_cells(self, block: _Block, random: torch.Generator) -> Tensor:
        """A move of the cell of each chain of a block at constant white noise; the odds of each, shape [n]."""
        xi = torch.randn(block.cells.shape, dtype=torch.float64, generator=random).numpy()
        uniform = torch.rand(len(xi), dtype=torch.float64, generator=random)
        y = self._noise.white(block.cells)
        turned = math.cos(self.angle) * y + math.sin(self.angle) * xi
        wanted = self._noise.cells(turned)
        inside = np.isfinite(self.isobar.log_measure(wanted))
        cells = np.where(inside[:, None], wanted, block.cells)  # a cell outside is refused below: there is nothing to evaluate
        generators = [
            self._model.generator(cell) if new else old for cell, new, old in zip(cells, inside, block.generators, strict=True)
        ]
        end = self._in(cells, generators).at(block.point.x)
        odds = acceptance(self._level(block.point, block.cells, y), self._level(end, wanted, turned))
        taken = uniform < odds
        chosen = taken.numpy()
        block.point = block.point.where(taken, end)
        block.cells = np.where(chosen[:, None], cells, block.cells)
        block.generators = [new if yes else old for yes, new, old in zip(chosen, generators, block.generators, strict=True)]
        return odds

    def _level(self, point: Point, cells: Array, y: Array) -> Tensor:
        """Minus the logarithm of the density at constant x, relative to that of the cell's white noise, shape [n]."""
        return -(point.log_w + torch.from_numpy(self.isobar.log_measure(cells) + 0.5 * np.square(y).sum(1)))

    # ---- what was found

    def series(self, name: str) -> Array:
        """A quantity of the steps that count, shape [steps, chains] or, for `cells`, [steps, chains, d]."""
        return np.array([getattr(record, name) for record in self.records])

    def displacements(self) -> Array | None:
        """Where all chains stand, on the first rank, length units, shape [n, N, 3]; None elsewhere."""
        parts = parallel.gathered_by_first({b: block.point.displacements.numpy() for b, block in self._blocks.items()})
        return _in_order(parts) if parts else None

    # ---- stopping and going on

    def state(self) -> dict[str, Any] | None:
        """Everything that the next step depends on, on the first rank; None elsewhere."""
        parts = parallel.gathered_by_first({b: (block.point.x.numpy(), block.cells) for b, block in self._blocks.items()})
        if not parts:
            return None
        x, cells = (_in_order([{b: pair[place] for b, pair in part.items()} for part in parts]) for place in (0, 1))
        return {
            "x": torch.from_numpy(x), "cells": torch.from_numpy(cells), "evaluations": self.evaluations,
            "noise": [torch.from_numpy(self._noise.centre), torch.from_numpy(self._noise.root)],
            "tuners": [_plain(self._tuner), _plain(self._cell_tuner)], "steps": [self.step, self.angle],
            "tuned": _packed(self._tuned), "records": _packed(self.records),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, on any number of ranks."""
        x, cells = state["x"], state["cells"].numpy()
        if tuple(x.shape) != (self.n_chains, self._model.channels, self._model.n_sites, 3):
            raise ValueError("white noise of another crystal")
        size = block_size(self._model.n_sites)
        for block in own_blocks(self.n_chains, self._model.n_sites):
            own = slice(block * size, (block + 1) * size)
            self._place(block, x[own], cells[own])
        self._noise = CellNoise(*(part.numpy() for part in state["noise"]))
        self._tuner, self._cell_tuner = (StepTuner(**entry) for entry in state["tuners"])
        self.step, self.angle = state["steps"]
        self.leaps, self.evaluations = leaps_of(self.step), state["evaluations"]
        self._tuned, self.records = _unpacked(state["tuned"]), _unpacked(state["records"])


def _plain(tuner: StepTuner) -> dict[str, Any]:
    return {field.name: getattr(tuner, field.name) for field in fields(StepTuner)}


def _packed(records: Sequence[CellRecord]) -> list[Tensor]:
    return [torch.from_numpy(np.array([getattr(r, f.name) for r in records], dtype=np.float64)) for f in fields(CellRecord)]


def _unpacked(columns: Sequence[Tensor]) -> list[CellRecord]:
    return [CellRecord(*rows) for rows in zip(*(column.numpy() for column in columns), strict=True)]


def _in_order(parts: Sequence[Mapping[int, Array]]) -> Array:
    """Rows of all blocks in order."""
    every: dict[int, Array] = {}
    for part in parts:
        every |= part
    return np.concatenate([every[block] for block in sorted(every)])


# ---- averages


def over_chains(statistic: Callable[..., float], *tables: Array) -> EstimateResult:
    """A function of the samples with its jackknife error over whole chains, which correlations within a chain leave honest.

    Args:
        statistic: Of the samples, one argument for each table.
        tables: Each of shape [steps, chains, ...].
    """
    n = tables[0].shape[1]
    value = statistic(*tables)
    without = [statistic(*(np.delete(table, chain, 1) for table in tables)) for chain in range(n)]
    return jackknife(float(value), np.array(without))


def compressibility(volumes: Array, kt: float) -> float:
    """Isothermal compressibility -d ln V / dP = Var V / (kT <V>), volume per energy."""
    return float(volumes.var() / (kt * volumes.mean()))


@dataclass(frozen=True)
class IsobaricAverages:
    """What the chains say of a crystal at constant pressure.

    Attributes:
        volume: Mean volume, length units cubed.
        variance: Of the volume, length units to the sixth power.
        compressibility: -d ln V / dP, volume per energy; where the shape is free, too, with a relaxing shape.
        energy: Mean potential energy.
        n_samples: Samples of all chains.
        inefficiency: Statistical inefficiency, the largest of energy and cell variables, in steps.
        r_hat: Split-R-hat over the chains, the largest of these.
        near_edge: Share of the samples near an end of the trained range of each free cell variable.
        verdict: What to think of it.
    """

    volume: EstimateResult
    variance: EstimateResult
    compressibility: EstimateResult
    energy: EstimateResult
    n_samples: int
    inefficiency: float
    r_hat: float
    near_edge: Mapping[str, float]
    verdict: Verdict

    @property
    def n_independent(self) -> float:
        """Independent samples."""
        return self.n_samples / self.inefficiency


def averages_of(chains: IsobaricChains, nearest_distance: float, keys: Sequence[str]) -> IsobaricAverages:
    """Averages over the steps that count.

    Args:
        chains: The chains.
        nearest_distance: Of two atoms, length units.
        keys: Of each free cell variable, where the configuration has its range.

    Raises:
        EstimateError: There are too few steps.
    """
    if len(chains.records) < FEWEST_STEPS:
        raise EstimateError(
            f"expected {FEWEST_STEPS} steps of the chains at least, got {len(chains.records)}; raise sample.n_samples"
        )
    isobar, cells, energies = chains.isobar, chains.series("cells"), chains.series("energies")
    volumes, kt = isobar.volumes(cells), 1.0 / isobar.beta
    looked_at = [energies, *np.moveaxis(cells, -1, 0)]
    usable = [table for table in looked_at if np.isfinite(table).all()]
    slowest = max((inefficiency(list(table.T)) for table in usable), default=float(len(energies)))
    r_hat = max((split_r_hat(table) for table in usable), default=math.inf)
    near = isobar.near_edge(cells)
    hops = float((chains.series("furthest") > _HOP * nearest_distance).mean())
    n = energies.size
    return IsobaricAverages(
        over_chains(lambda v: float(v.mean()), volumes), over_chains(lambda v: float(v.var()), volumes),
        over_chains(lambda v: compressibility(v, kt), volumes), over_chains(lambda e: float(e.mean()), energies),
        n, max(1.0, slowest), r_hat, dict(zip(isobar.names, near.tolist(), strict=True)),
        judge(n / max(1.0, slowest), r_hat, hops, list(zip(isobar.names, keys, near.tolist(), strict=True))),
    )  # fmt: skip


def judge(independent: float, r_hat: float, hops: float, near_edge: Sequence[tuple[str, str, float]]) -> Verdict:
    """Verdict on samples at constant pressure.

    Args:
        independent: Independent samples.
        r_hat: Split-R-hat over the chains.
        hops: Share of the samples with an atom off its site.
        near_edge: Name and configuration key of each free cell variable, and the share of the samples near an end of its range.
    """
    findings: list[tuple[Colour, str, str]] = []
    for name, key, share in near_edge:
        if share > _TOUCHING:
            reason = (
                f"{share:.1%} of the samples are near an end of the trained range of {name}: it ends before the fluctuations do."
            )
            findings.append(("red" if share > _CUT else "amber", reason, f"Train a model with a wider condition.{key}."))
    if hops > _HOPS:
        reason = f"In {hops:.1%} of the samples an atom is more than half the nearest-neighbour distance away from its site."
        step = "Check whether the crystal melts or transforms in this state: look at exact.dump.gz in OVITO."
        findings.append(("red", reason, step))
    if r_hat > _MIXED:
        reason = f"The chains do not agree yet: split-R-hat is {r_hat:.2f}, above {_MIXED}."
        findings.append(("red" if r_hat > _UNMIXED else "amber", reason, "Raise sample.n_samples, or train longer."))
    if independent < _FEWEST:
        reason = f"There are {independent:.0f} independent samples, fewer than {_FEWEST:.0f}."
        findings.append(("amber" if independent > 0.4 * _FEWEST else "red", reason, "Raise sample.n_samples."))
    if not findings:
        reason = f"Chains at constant pressure: {independent:.0f} independent samples, split-R-hat {r_hat:.2f}."
        return Verdict("green", (reason,), True, RELIABLE)
    colour, _, step = max(findings, key=lambda finding: SEVERITY[finding[0]])
    return Verdict(colour, tuple(reason for _, reason, _ in findings), colour != "red", step)
