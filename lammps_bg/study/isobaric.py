# SPDX-License-Identifier: GPL-2.0-or-later
"""`sample -P`: exact samples of a conditional model at constant pressure, by chains over atoms and cell (`thermo.isobaric`)."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_bg import parallel
from lammps_bg.config import Config
from lammps_bg.crystal.cell_variables import SHEARS, deformation
from lammps_bg.crystal.pressure import describe_pressure
from lammps_bg.engine.dump import DumpWriter
from lammps_bg.errors import ConfigError, RunDirectoryError
from lammps_bg.flow.generator import Generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.potentials.native import NativeSurface
from lammps_bg.report.console import Console
from lammps_bg.report.numbers import duration, with_error
from lammps_bg.store.provenance import sha256
from lammps_bg.store.run_directory import RunDirectory
from lammps_bg.streams import stream
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.energies import choose_potential
from lammps_bg.study.entries import system_entry
from lammps_bg.study.exact import KeptFrames
from lammps_bg.study.gibbs import pressures_of, states_of
from lammps_bg.study.helmholtz import cell_design, free_variables
from lammps_bg.study.problem import Problem
from lammps_bg.study.ranks import require_same_on_all_ranks
from lammps_bg.study.reporting import finish
from lammps_bg.study.run_folder import create_run, finished_code, made_by_first, reopen_run
from lammps_bg.study.session import Plan
from lammps_bg.study.stored_run import load_conditional
from lammps_bg.study.threads import threads_for
from lammps_bg.thermo.chains import block_size
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.gibbs import PressureUnit
from lammps_bg.thermo.isobaric import (
    FEWEST_STEPS,
    TUNING,
    Isobar,
    IsobaricChains,
    IsobaricResult,
    first_cells,
    over_chains,
    result_of,
    whole_blocks,
)
from lammps_bg.thermo.verdict import Verdict, combine
from lammps_bg.training import checkpoint
from lammps_bg.training.target import Surface

Array = NDArray[np.float64]
_STATE, _TABLE, _DUMP = "exact.pt", "exact.csv", "exact.dump.gz"
_COLUMNS = ("sample", "chain", "step", "pe", "log_w", "volume")
_VECTORS = {"lx": (0, 0), "ly": (1, 1), "lz": (2, 2), "xy": (1, 0), "xz": (2, 0), "yz": (2, 1)}
_TYPICAL = 32  # configurations that show LAMMPS how far atoms move
_BYTES = 2_000_000
_USUAL_LEAPS = 3  # of a trajectory, before it is tuned
_TOLD = 1.0  # seconds between two entries in status.json


@dataclass(frozen=True)
class Pressure:
    """What is asked for at constant pressure.

    Attributes:
        words: The pressure as typed, or its value from a run that goes on.
        cell: iso, xy, aniso or tri; None: all cell variables of the model are free.
    """

    words: tuple[str, ...]
    cell: str | None


def asked_for(plan: Plan, words: Sequence[str], cell: str | None, unfit: Mapping[str, bool]) -> Pressure | None:
    """What `sample` is asked for at constant pressure; None where it samples one cell.

    Args:
        plan: The plan of `sample`.
        words: The pressure as typed.
        cell: iso, xy, aniso or tri.
        unfit: Other options, and whether they were given.

    Raises:
        ConfigError: The options exclude each other, or a run goes on with other ones.
    """
    stored = _stored(plan) if plan.resume else None
    if not words and stored is None:
        if cell is not None:
            raise ConfigError(f"expected --cell together with a pressure, got --cell {cell} alone; add -P 0, or leave it out")
        return None
    wrong = [name for name, given in unfit.items() if given]
    if wrong:
        raise ConfigError(
            f"expected -P alone, which lets the cell change in the state of the model, got {wrong[0]} beside it; leave it out"
        )
    if not plan.resume:
        return Pressure(tuple(words), cell)
    if stored is None:
        raise ConfigError(f"expected --resume without -P in {plan.out}, which has samples in one cell, got one; leave it out")
    if (words and tuple(words) != stored.words) or (cell and cell != stored.cell):
        shown = f"-P {' '.join(stored.words)}{stored.cell and ' --cell ' + stored.cell or ''}"
        raise ConfigError(f"expected --resume with {shown} of the run, got another pressure or cell; leave them out")
    return stored


def _stored(plan: Plan) -> Pressure | None:
    """What a run that goes on was asked for; None where it samples one cell."""
    entry = RunDirectory.open(plan.out).read_json("provenance.json")["request"].get("isobaric")
    return None if entry is None else Pressure(tuple(entry["words"]), entry["cell"])


@dataclass(frozen=True)
class CrystalCells:
    """A conditional model in one state, in any cell: what `thermo.isobaric.CellModel` asks for.

    Attributes:
        model: The conditional model.
        problem: The crystal in that state, in the cell that the variables are relative to.
        names: The free cell variables.
        fixed: Values of all other conditions.
        judged: Whether LAMMPS evaluates everything.
    """

    model: ConditionalModel
    problem: Problem
    names: tuple[str, ...]
    fixed: Mapping[str, float]
    judged: bool

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
        return 1 if self.model.family.eta is None else 2

    def values(self, cell: Array) -> dict[str, float]:
        """The point of the model's conditions at a cell.

        Args:
            cell: Free cell variables, shape [d].
        """
        return {**self.fixed, **dict(zip(self.names, cell.tolist(), strict=True))}

    def generator(self, cell: Array) -> Generator:
        """The generator of a cell.

        Args:
            cell: Free cell variables, shape [d].
        """
        return self.model.family.at(self.model.conditions.context(self.values(cell)), self.problem.beta)

    def deformations(self, cells: Array) -> Array:
        """D of cell = reference @ D, shape [n, 3, 3].

        Args:
            cells: Free cell variables, shape [n, d].
        """
        return np.stack([deformation(dict(zip(self.names, cell.tolist(), strict=True))) for cell in cells])

    def supercells(self, cells: Array) -> Array:
        """Cell vectors as rows, shape [n, 3, 3], length units.

        Args:
            cells: Free cell variables, shape [n, d].
        """
        return np.asarray(self.problem.crystal.supercell @ self.deformations(cells))

    def surface(self, cells: Array) -> Surface:
        """The potential energy surface of a batch, each configuration in its cell.

        Args:
            cells: Free cell variables, shape [n, d].
        """
        surface, potential = self.problem.surface, self.problem.potential
        if isinstance(potential, NativeSurface) and not self.judged:
            return _EachInItsCell(partial(potential, deformation=self.deformations(cells)), potential.static_energy)
        return _EachInItsCell(partial(surface.in_cells, cells=self.supercells(cells)), surface.static_energy)


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


def execute(plan: Plan, pressure: Pressure, console: Console, stop: StopFlag, *, allow_red: bool, dry_run: bool = False) -> int:
    """Carry out `sample -P`; returns the exit code.

    Args:
        plan: Model, script, configuration and folder.
        pressure: What is asked for.
        console: Where to report.
        stop: Set by signals.
        allow_red: Return 0 in spite of a red verdict.
        dry_run: Say what it would cost, and write nothing.
    """
    code = finished_code(plan.out, plan.config, console, "samples", allow_red=allow_red) if plan.resume else None
    if code is not None:
        return code
    problem = Problem.load(plan.request, plan.config.estimate.length_scale)
    require_same_on_all_ranks(problem, plan.config, plan.model)
    with problem.engine, threads_for(problem.crystal.n_sites * block_size(problem.crystal.n_sites)):
        plan = replace(plan, config=choose_potential(problem, plan.config, console))
        crystal, isobar = _cells_of(plan, pressure, problem, console)
        began = time.monotonic()
        chains, tried = _first_chains(crystal, isobar, plan.config)
        if dry_run:
            _forecast(chains, plan.config, (time.monotonic() - began) / tried, console)
            return 0
        job = _Job(crystal, chains, plan, _open_run(plan, pressure, problem), console)
        job.run(stop)
        crystal.problem.count_other_ranks()
        found = result_of(chains, crystal.problem.crystal.nearest_distance, crystal.keys)
        if not parallel.first():
            return 0
        job.write(found, time.monotonic() - plan.started)
    return 3 if found.verdict.colour == "red" and not allow_red else 0


def _cells_of(plan: Plan, pressure: Pressure, problem: Problem, console: Console) -> tuple[CrystalCells, Isobar]:
    """The conditional model in the state of the script, and its free cells at the pressure."""
    if plan.model is None:
        raise TypeError("samples at constant pressure are those of a model")
    values = pressures_of(pressure.words, problem)
    if len(values) > 1:
        raise ConfigError(f"expected one pressure after -P, got {len(values)}; run `lammps-bg sample` once for each")
    model = load_conditional(plan.model, problem, plan.config, console)
    names = free_variables(model.conditions, pressure.cell)
    (state,) = states_of({}, problem, model)
    axes = [next(axis for axis in model.conditions.axes if axis.name == name) for name in names]
    held = {axis.name: 0.0 for axis in model.conditions.axes if axis.is_cell and axis.name not in names}
    crystal = CrystalCells(model, model.reference.at(state), names, {**held, **state}, plan.config.energy.judge == "lammps")
    box = np.array([(axis.low, axis.high) for axis in axes])
    units = problem.units
    shown = ", ".join(f"{name} = {value:g}" for name, value in state.items())
    console.say(f"npt        {shown}, P = {describe_pressure(values[0], units)}, free: {', '.join(names)}")
    return crystal, Isobar(names, box, crystal.problem.crystal.volume, values[0] / units.nktv2p, crystal.problem.beta)


def _first_chains(crystal: CrystalCells, isobar: Isobar, config: Config) -> tuple[IsobaricChains, int]:
    """The chains before they begin, and the energies that it took to find their first cells."""
    base = crystal.generator(isobar.box.mean(1)).prior.base
    crystal.problem.surface.settle(base.sample(_TYPICAL, stream(config.seed, "skin", 0)).numpy())
    units, design = crystal.problem.units, cell_design(len(isobar.names), 5)
    n_chains = whole_blocks(config.exact.chains, crystal.n_sites)
    unit = PressureUnit(units.labels.pressure, units.nktv2p)
    noise = first_cells(crystal, isobar, design, n_chains, seed=config.seed, unit=unit)
    return IsobaricChains(crystal, isobar, noise, n_chains, seed=config.seed), len(design) * n_chains


def _n_steps(chains: IsobaricChains, config: Config) -> int:
    """Steps that count, of all chains together as many samples as were asked for."""
    return max(FEWEST_STEPS, math.ceil(config.sample.n_samples / chains.n_chains))


def _forecast(chains: IsobaricChains, config: Config, seconds: float, console: Console) -> None:
    """What `--dry-run` says."""
    n_steps = _n_steps(chains, config) + sum(TUNING)
    energies = n_steps * chains.n_chains * (_USUAL_LEAPS + 1)
    console.say(
        f"dry run    {n_steps} steps of {chains.n_chains} chains, about {energies} energies with forces, {1e3 * seconds:.1f} ms each on this rank: "
        f"about {duration(energies * seconds / parallel.size())}; at most {config.exact.max_seconds:.0f} s; nothing was written"
    )


def _open_run(plan: Plan, pressure: Pressure, problem: Problem) -> RunDirectory:
    """The run directory: new with all inputs stored, or the one to go on with."""

    def make() -> RunDirectory:
        if plan.resume:
            return reopen_run(plan.out, plan.config, problem)
        needed = _BYTES + problem.crystal.n_sites * 60 * plan.config.exact.n_dump + 100 * plan.config.sample.n_samples
        more = {"isobaric": {"words": list(pressure.words), "cell": pressure.cell}}
        return create_run(
            plan.out,
            plan.request,
            plan.config,
            plan.words,
            problem,
            kind="sample",
            needed_bytes=needed,
            model=plan.model,
            more=more,
        )

    return made_by_first(make, plan.out)


class _Job:
    """The chains of a run with their files."""

    def __init__(self, crystal: CrystalCells, chains: IsobaricChains, plan: Plan, run: RunDirectory, console: Console) -> None:
        self._crystal, self._chains, self._plan, self._run, self._console = crystal, chains, plan, run, console
        self._config = plan.config
        self._frames = KeptFrames(self._config.exact.n_dump)
        self._saved = self._told = time.monotonic()
        self._spent, self._began = 0.0, time.monotonic()

    def run(self, stop: StopFlag) -> None:
        """Make the steps, on all ranks.

        Args:
            stop: Set by signals.

        Raises:
            Interrupted: A signal came; exact.pt holds the chains.
        """
        chains, console, config = self._chains, self._console, self._config
        wanted = _n_steps(chains, config)
        if not self._restored():
            chains.start()
        most = f"{config.exact.max_evaluations} energies" if config.exact.max_evaluations else "any number of energies"
        console.say(
            f"chains     {chains.n_chains} over atoms and cell, {wanted} steps each after {sum(TUNING)} of tuning, at most "
            f"{config.exact.max_seconds:.0f} s and {most}"
        )
        with console.stage("chains") as bar:
            while chains.tuning_left or (len(chains.records) < wanted and not self._is_spent()):
                chains.advance()
                if chains.records:
                    self._frames.add(len(chains.records) - 1, chains.displacements())
                share = chains.n_steps / (wanted + sum(TUNING))
                self._tell(share, bar.update(share, f"{len(chains.records)} of {wanted} steps, {chains.evaluations} energies"))
                if stop.on_any_rank():
                    self._save()
                    stop.check(f"{len(chains.records)} steps of the chains are in {_STATE}; continue with --resume")
                if parallel.agreed(time.monotonic() - self._saved > config.train.checkpoint_seconds):
                    self._save()
        self._save()

    def _is_spent(self) -> bool:
        exact = self._config.exact
        over = self._seconds() >= exact.max_seconds or self._chains.evaluations >= (exact.max_evaluations or math.inf)
        return bool(parallel.agreed(over) and len(self._chains.records) >= FEWEST_STEPS)

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _tell(self, share: float, eta: float | None) -> None:
        """status.json, once in a while."""
        if time.monotonic() - self._told > _TOLD:
            self._told = time.monotonic()
            self._run.write_status("exact", step=len(self._chains.records), percent=100 * share, eta_seconds=eta)

    # ---- stopping and going on

    def _save(self) -> None:
        """Write exact.pt; all ranks come here together."""
        state = self._chains.state()
        self._saved = time.monotonic()
        if state is None:
            return
        content = {"of": self._identity(), "chains": state, "frames": self._frames.state(), "seconds": self._seconds()}
        checkpoint.save(self._run.file(_STATE), content)

    def _restored(self) -> bool:
        """Whether the chains of the folder go on, which are those of this model and these settings."""
        path = self._run.file(_STATE)
        saved: dict[str, Any] | None = None
        if parallel.first() and self._plan.resume and path.exists():
            with suppress(RunDirectoryError, KeyError):
                saved = checkpoint.load(path)
                saved = saved if saved["of"] == self._identity() else None
        saved = parallel.agreed(saved)
        if saved is None:
            return False
        self._chains.restore(saved["chains"])
        self._frames.restore(saved["frames"])
        self._spent = float(saved["seconds"])
        self._console.say(f"chains     continue after {len(self._chains.records)} steps")
        return True

    def _identity(self) -> dict[str, Any]:
        """What the chains depend on, beside the number of their steps."""
        config = self._config
        return {
            "model": sha256(self._run.file("model.pt")), "seed": config.seed, "chains": config.exact.chains,
            "n_dump": config.exact.n_dump, "energies": config.energy.chosen or config.energy.source, "judge": config.energy.judge,
            "device": config.device, "fixed": dict(self._crystal.fixed), "pressure": self._chains.isobar.pressure,
            "names": list(self._crystal.names),
        }  # fmt: skip

    # ---- what is left behind

    def write(self, found: IsobaricResult, wall_seconds: float) -> None:
        """All files of the folder, and the summary, on the first rank.

        Args:
            found: Averages.
            wall_seconds: Of the whole command.
        """
        self._write_table()
        self._write_dump(found)
        crystal, chains = self._crystal, self._chains
        mean = chains.series("cells").mean((0, 1))
        verdict = combine([found.verdict, *self._shortfall()])
        results = {
            "system": system_entry(crystal.model.reference.at(crystal.values(mean))),
            "npt": self._npt_entry(found),
            "exact": self._exact_entry(found),
            "verdict": verdict.to_dict(),
            "cost": {
                "energy_evaluations": crystal.problem.n_evaluations,
                **crystal.problem.native_cost(),
                "wall_seconds": wall_seconds,
            },
        }
        self._run.write_results(results)
        self._show(results, verdict)
        finish(self._run, self._config, self._console)
        self._run.end_status()

    def _shortfall(self) -> list[Verdict]:
        """Amber where the budget ended the chains early."""
        done, wanted = len(self._chains.records), _n_steps(self._chains, self._config)
        if done >= wanted:
            return []
        n, of = done * self._chains.n_chains, wanted * self._chains.n_chains
        reason = f"The chains came to {n} samples within their budget, {of} were asked for."
        return [
            Verdict(
                "amber",
                (reason,),
                True,
                "Use it with its errors, or raise exact.max_seconds and exact.max_evaluations with --resume.",
            )
        ]

    def _write_table(self) -> None:
        """exact.csv: a line for each sample of each chain, with its cell."""
        chains, names = self._chains, self._crystal.names
        cells = chains.series("cells")
        n_steps, n_chains = cells.shape[:2]
        steps, numbers = np.divmod(np.arange(n_steps * n_chains), n_chains)
        columns = [chains.series("energies").ravel(), chains.series("log_w").ravel(), chains.isobar.volumes(cells).ravel()]
        columns += list(cells.reshape(-1, len(names)).T)
        # "volume" is the volume itself, as in the tables of MD; its cell variable ln V/V0 has a name of its own
        rows = [",".join((*_COLUMNS, *("ln_volume" if name == "volume" else name for name in names)))]
        for index, (chain, step, *values) in enumerate(
            zip(numbers.tolist(), steps.tolist(), *(c.tolist() for c in columns), strict=True)
        ):
            rows.append(",".join([str(index), str(chain), str(step), *map(repr, values)]))
        run = self._run
        run.write_text(_TABLE, "\n".join(rows) + "\n")

    def _write_dump(self, found: IsobaricResult) -> None:
        """exact.dump.gz: frames of steps that are independent, where there are enough of them, each in its cell."""
        path, problem, chains = self._run.file(_DUMP), self._crystal.problem, self._chains
        path.unlink(missing_ok=True)
        frames, indices = self._frames.independent(found.inefficiency, chains.n_chains)
        if not len(frames):
            return
        energies, cells = chains.series("energies").ravel(), chains.series("cells").reshape(-1, len(self._crystal.names))
        triclinic = problem.engine.triclinic or any(name in SHEARS for name in self._crystal.names)
        with DumpWriter(path, problem.crystal, units=problem.units.name, triclinic=triclinic) as dump:
            for index, u in zip(indices.tolist(), frames, strict=True):
                cell = self._crystal.supercells(cells[index : index + 1])[0]
                dump.write(index, problem.crystal.sites_in(cell) + u, None, energy=float(energies[index]), cell=cell)

    def _npt_entry(self, found: IsobaricResult) -> dict[str, Any]:
        """The block `npt` of results.json: as that of `lammps-bg md --mode npt`, with the fluctuations of the volume."""
        problem, chains = self._crystal.problem, self._chains
        labels, n_atoms = problem.units.labels, self._crystal.n_sites
        cells = chains.series("cells")
        boxes = self._crystal.supercells(cells.reshape(-1, cells.shape[-1])).reshape(*cells.shape[:2], 3, 3)
        a, b, c = (boxes[..., axis, axis] for axis in range(3))
        vectors = {name: _mean(boxes[..., row, column]) for name, (row, column) in _VECTORS.items()}
        factor = 1.0 / problem.units.nktv2p
        return {
            "pressure": chains.isobar.pressure * problem.units.nktv2p,
            "free": list(self._crystal.names),
            "mean": boxes.mean((0, 1)).tolist(),
            **vectors,
            "ln_c_over_a": _mean(np.log(c / np.sqrt(a * b))),
            "volume": _number(found.volume),
            "number_density": _mean(n_atoms / chains.isobar.volumes(cells)),
            "volume_fluctuation": {**_number(found.variance), "unit": f"{labels.length}^6"},
            "isothermal_compressibility": {**_number(found.compressibility, factor), "unit": f"1/({labels.pressure})"},
            "potential_energy_per_atom": {**_number(found.energy, 1 / n_atoms), "unit": labels.energy},
            "near_edge": dict(found.near_edge),
            "unit": labels.length,
            "pressure_unit": labels.pressure,
        }

    def _exact_entry(self, found: IsobaricResult) -> dict[str, Any]:
        """The block `exact`: how the chains moved."""
        chains = self._chains
        return {
            "reason": "constant pressure", "n_samples": found.n_samples, "n_independent": found.n_independent,
            "evaluations": chains.evaluations, "evaluations_per_sample": (chains.leaps + 1) * found.inefficiency,
            "acceptance": float(chains.series("acceptance").mean()), "step": chains.step, "leaps": chains.leaps,
            "cell_acceptance": float(chains.series("cell_acceptance").mean()), "cell_angle": chains.angle,
            "inefficiency": found.inefficiency, "r_hat": found.r_hat, "chains": chains.n_chains,
            "n_infinite": int(chains.series("infinite").sum()), "seconds": self._seconds(),
            "files": {"frames": _DUMP, "table": _TABLE},
        }  # fmt: skip

    def _show(self, results: Mapping[str, Any], verdict: Verdict) -> None:
        """The summary on the console."""
        labels, npt, exact = self._crystal.problem.units.labels, results["npt"], results["exact"]
        rows = [
            (f"volume, {labels.length}^3", _written(npt["volume"])),
            *((f"{name}, {labels.length}", _written(npt[name])) for name in ("lx", "ly", "lz")),
            ("number density", _written(npt["number_density"])),
            (f"variance of the volume, {labels.length}^6", _written(npt["volume_fluctuation"])),
            (f"compressibility, 1/({labels.pressure})", _written(npt["isothermal_compressibility"])),
            (f"potential energy, {labels.energy} per atom", _written(npt["potential_energy_per_atom"])),
        ]
        doubt = "" if verdict.reliable else "NOT RELIABLE: "
        where = describe_pressure(npt["pressure"], self._crystal.problem.units)
        console = self._console
        console.say("")
        console.table(
            f"{doubt}Constant pressure at T = {self._crystal.problem.temperature:g} {labels.temperature}, P = {where}", rows
        )
        console.say(
            f"           {exact['n_samples']} samples ({exact['n_independent']:.0f} independent, one for {exact['evaluations_per_sample']:.1f} "
            f"energies), acceptance {exact['acceptance']:.2f}, of the cell {exact['cell_acceptance']:.2f}, split-R-hat {exact['r_hat']:.2f}"
        )
        console.say(f"verdict    {verdict.colour}: {' '.join(verdict.reasons)} {verdict.next_step}")
        console.say(f"files      {self._run.path}")


def _mean(table: Array) -> dict[str, float]:
    """Mean with its error over chains; no error where a quantity does not move."""
    if np.ptp(table) <= 1e-12 * abs(table.mean()):
        return {"value": float(table.mean()), "error": 0.0}
    return _number(over_chains(lambda some: float(some.mean()), table))


def _number(value: EstimateResult, factor: float = 1.0) -> dict[str, float]:
    return {"value": value.value * factor, "error": value.error * factor}


def _written(entry: Mapping[str, float]) -> str:
    return with_error(entry["value"], entry["error"])
