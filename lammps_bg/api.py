# SPDX-License-Identifier: GPL-2.0-or-later
"""The package from Python: from a LAMMPS script to samples, exact frames and free energies, without a folder or a command line."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lammps_bg.commands import gibbs_job, phase_job
from lammps_bg.commands.run_folder import Job as Planned
from lammps_bg.commands.run_folder import create_run
from lammps_bg.commands.run_records import dump_writer
from lammps_bg.commands.stored_run import chosen_before, load_trained, stored_request, with_model
from lammps_bg.config import Config, load_config
from lammps_bg.engine.lammps_engine import LammpsFlags
from lammps_bg.errors import ConfigError
from lammps_bg.progress import SILENT, Reporter
from lammps_bg.report.console import Console
from lammps_bg.report.figures.estimates import draw_estimators, side_by_side
from lammps_bg.report.figures.gibbs import draw_gibbs
from lammps_bg.report.figures.phases import draw_phases
from lammps_bg.report.notebook import card, histogram
from lammps_bg.results import ESTIMATORS, NOT_RELIABLE, Estimate, share, term_name, unit, with_error, written
from lammps_bg.store.job import Job
from lammps_bg.study import estimating, exact, sampling, training
from lammps_bg.study.applying import StoredModel, applied
from lammps_bg.study.conditional import ConditionalModel
from lammps_bg.study.energies import choose_source
from lammps_bg.study.frenkel_ladd import FrenkelLaddResult, frenkel_ladd
from lammps_bg.study.gibbs import GibbsRequest, GibbsResult, pressures_of, states_of
from lammps_bg.study.gibbs import gibbs as minimised
from lammps_bg.study.helmholtz import free_variables, written_state
from lammps_bg.study.md import MDResult, MDSetup, run_md
from lammps_bg.study.md_frames import MDFrames
from lammps_bg.study.phase import PRESSURE, Phase, PhaseRequest, PhaseResult
from lammps_bg.study.phase import phase_diagram as compared
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.training import Trained
from lammps_bg.thermo.free_energy import EstimateResult
from lammps_bg.thermo.verdict import Verdict, judge
from lammps_bg.training.model_file import save_model

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
Counts = tuple[int, int, int]
Value = str | float
_ENERGIES = {"eV": 1.0, "meV": 1e-3, "J": 6.241509074460763e18, "kJ/mol": 0.010364269656262174, "kcal/mol": 0.043364104241800936,
             "Hartree": 27.211386245988, "Ry": 13.605693122994, "erg": 6.241509074460763e11}  # fmt: skip
"""Energy units in eV (CODATA 2018)."""


def _default_reporter() -> Reporter:
    """A console for a person at a terminal or in a notebook, nobody else."""
    return Console() if sys.stdout.isatty() or "ipykernel" in sys.modules else SILENT


def _changed(config: Config, settings: Mapping[str, object]) -> Config:
    """A configuration with some keys set, such as {"flow.width": 32}."""
    words = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items())
    return load_config(None, tuple(words), config)


@dataclass(frozen=True)
class System:
    """A crystal at a temperature with its potential, from a LAMMPS input script; made by `from_lammps`.

    >>> crystal
    X1 crystal of 32 atoms, Fm-3m (225), 2 x 2 x 2 cells, lj/cut, T = 2 epsilon/kB
    >>> crystal.n_atoms, crystal.temperature
    (32, 2.0)

    Attributes:
        problem: The crystal as the package computes with it: LAMMPS, reference sites, units.
        request: What was asked for.
        length_scale: Lambda of the absolute free energy, length units; None: from the script or the potential.
    """

    problem: Problem
    request: ScriptRequest
    length_scale: float | None = None

    @classmethod
    def from_lammps(
        cls,
        script: str | Path,
        *,
        replicate: Counts = (1, 1, 1),
        T: float | None = None,  # noqa: N803  (LAMMPS' own variable)
        variables: Mapping[str, Value | Sequence[Value]] | None = None,
        strain: Mapping[str, float] | None = None,
        length_scale: float | None = None,
    ) -> "System":
        """The crystal of a LAMMPS input script, which plain `lmp -in` accepts.

        Args:
            script: The script: units, cell, masses, pair_style, pair_coeff.
            replicate: Copies along each cell vector.
            T: Temperature in the script's unit; None: the script's variable T.
            variables: Further index variables of the script, as by `-var`.
            strain: Cell variables relative to the script's cell, such as {"volume": 0.02}.
            length_scale: Lambda of the absolute free energy, length units; None: from the script or the potential.

        Raises:
            LammpsBGError: One sentence for whatever is wrong with script, potential, crystal or temperature.
        """
        given = {**(variables or {}), **({} if T is None else {"T": T})}
        words = {
            name: [str(word) for word in (value if not isinstance(value, str) and isinstance(value, Sequence) else [value])]
            for name, value in given.items()
        }
        request = ScriptRequest(Path(script).absolute(), words, replicate, LammpsFlags(), strain=dict(strain or {}))
        return cls(Problem.load(request, length_scale), request, length_scale)

    def at(
        self,
        *,
        replicate: Counts | None = None,
        T: float | None = None,  # noqa: N803
        variables: Mapping[str, Value] | None = None,
        strain: Mapping[str, float] | None = None,
    ) -> "System":
        """The same crystal at another size or in another state, with a LAMMPS instance of its own; arguments as in `from_lammps`."""
        given = {**(variables or {}), **({} if T is None else {"T": T})}
        request = replace(
            self.request,
            variables={**self.request.variables, **{name: [str(value)] for name, value in given.items()}},
            replicate=replicate or self.request.replicate,
            strain=self.request.strain if strain is None else dict(strain),
        )
        return System(Problem.load(request, self.length_scale), request, self.length_scale)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.problem.crystal.n_sites

    @property
    def temperature(self) -> float:
        """In the script's unit."""
        return self.problem.temperature

    def md(
        self,
        mode: Literal["nvt", "mbar"] = "nvt",
        *,
        n_frames: int | None = None,
        seed: int = 1,
        settings: Mapping[str, object] | None = None,
        reporter: Reporter | None = None,
    ) -> "Dynamics":
        """Molecular dynamics of LAMMPS with the script's potential at constant volume.

        Args:
            mode: nvt, or mbar: the absolute free energy over lambda windows from an Einstein crystal, too.
            n_frames: Independent frames; None: `md.n_frames`.
            seed: Seed of velocities and thermostat.
            settings: Further keys of the configuration, such as {"md.timestep": 0.002}.
            reporter: Told how far it is; None: a bar on a terminal and in a notebook.

        Raises:
            CrystalError: The crystal melted or transformed, or its atoms hop.
        """
        wanted = {} if n_frames is None else {"md.n_frames": n_frames}
        config, reporter = _changed(Config(seed=seed), {**(settings or {}), **wanted}), reporter or _default_reporter()
        setup = MDSetup.of(self.problem, mode, config.md, seed=seed)
        result = frenkel_ladd(setup, reporter=reporter) if mode == "mbar" else run_md(setup, reporter=reporter)
        frames = (result.md if isinstance(result, FrenkelLaddResult) else result).frames
        return Dynamics(self, frames.displacements, frames.energies, result)

    def close(self) -> None:
        """End LAMMPS; the system cannot be used any more."""
        self.problem.engine.close()

    def __repr__(self) -> str:
        crystal, engine = self.problem.crystal, self.problem.engine
        cells = " x ".join(map(str, crystal.replicate))
        return (
            f"{', '.join(sorted(set(crystal.species)))} crystal of {crystal.n_sites} atoms, {crystal.unit.space_group}, {cells} cells, "
            f"{engine.pair_style}, T = {self.temperature:g} {self.problem.units.labels.temperature}"
        )


@dataclass(frozen=True)
class Frames:
    """Configurations of a crystal.

    Attributes:
        system: The crystal.
        u: Displacements from the reference sites without centre of mass, length units, shape [n, N, 3].
        energies: Total potential energies, the script's energy unit, shape [n].
    """

    system: System
    u: Array
    energies: Array

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def positions(self) -> Array:
        """Positions in site order, length units, shape [n, N, 3]."""
        return np.asarray(self.system.problem.surface.positions(self.u))

    def _numbers(self, index: int) -> dict[str, float]:
        """What is told of a configuration beside its positions."""
        return {"energy": float(self.energies[index])}

    def to_ase(self) -> "list[Atoms]":
        """As atoms of ASE, by LAMMPS' atom ids; `info` has the numbers of each configuration, in the script's units.

        >>> samples.to_ase()[0].get_chemical_formula(), sorted(samples.to_ase()[0].info)
        ('X32', ['energy', 'log_w'])
        """
        from ase import Atoms
        from ase.data import chemical_symbols

        crystal = self.system.problem.crystal
        order = np.argsort(crystal.atom_ids, kind="stable")
        symbols = [crystal.species[i] if crystal.species[i] in chemical_symbols else "X" for i in order]
        return [
            Atoms(symbols, positions=positions[order], cell=crystal.supercell, pbc=True, info=self._numbers(index))
            for index, positions in enumerate(self.positions)
        ]

    def write(self, path: str | Path) -> Path:
        """Write a LAMMPS dump file, which OVITO, ASE and `rerun` read; compressed if the name ends in .gz.

        Args:
            path: The file, which does not exist.
        """
        with dump_writer(Path(path), self.system.problem) as dump:
            for index, positions in enumerate(self.positions):
                numbers = self._numbers(index)
                dump.write(index, positions, numbers.get("log_w"), None if "log_w" in numbers else numbers["energy"])
        return Path(path)

    def __repr__(self) -> str:
        return f"{len(self)} configurations of {self.system}"


@dataclass(frozen=True, repr=False)
class Samples(Frames):
    """Independent draws of a flow with exact log-weights.

    >>> samples.u.shape, samples.log_w.shape
    ((64, 32, 3), (64,))

    Attributes:
        model: The model that drew them.
        drawn: All their numbers.
    """

    model: "Model"
    drawn: sampling.Samples

    @property
    def log_w(self) -> Array:
        """Log-weights -beta U - log q, of the joint density where the flow has auxiliary variables, shape [n]."""
        return self.drawn.log_w

    @property
    def log_q(self) -> Array:
        """Log-densities of the flow, shape [n]."""
        return self.drawn.log_q

    @property
    def ess(self) -> float:
        """Effective sample size as a fraction of the number of samples."""
        return estimating.weight_summary(self.log_w).ess_fraction

    @property
    def verdict(self) -> Verdict:
        """What to think of an average with these weights."""
        return judge(estimating.weight_summary(self.log_w))

    def _numbers(self, index: int) -> dict[str, float]:
        finite = self.log_w[np.isfinite(self.log_w)]
        centre = float(finite.mean()) if len(finite) else 0.0  # so that exp() of it is a number
        return {"energy": float(self.energies[index]), "log_w": float(self.log_w[index]) - centre}

    def __repr__(self) -> str:
        return f"{len(self)} samples, ESS {share(self.ess)}, of {self.system}; verdict {self.verdict.colour}"

    def _repr_html_(self) -> str:
        finite = self.log_w[np.isfinite(self.log_w)]
        centred = finite - finite.mean() if len(finite) else finite
        number = (
            f"{len(self)} samples, ESS {share(self.ess)}, σ(ln w) = {centred.std():.2g}"
            if len(finite)
            else f"{len(self)} samples"
        )
        about = f"of {self.system}"
        return card(number, about, verdict=self.verdict, draw=lambda: histogram(centred, "flow", "ln w less its mean"))


@dataclass(frozen=True, repr=False)
class ExactFrames(Frames):
    """Configurations of the exact ensemble, of equal weight, independent of one another.

    Attributes:
        model: The model whose flow the chains used.
        chains: What the chains came to.
    """

    model: "Model"
    chains: exact.ExactSamples

    @property
    def verdict(self) -> Verdict:
        """What to think of the chains."""
        return self.chains.verdict(self.system.n_atoms)

    def __repr__(self) -> str:
        return f"{len(self)} exact configurations of {self.system}; verdict {self.verdict.colour}"

    def _repr_html_(self) -> str:
        per_atom, name = self.energies / self.system.n_atoms, f"{unit(self.system.problem.units.labels.energy)} per atom"
        error = float(per_atom.std(ddof=1)) / len(self) ** 0.5 if len(self) > 1 else None
        mean = f", potential energy {with_error(float(per_atom.mean()), error, name)}" if len(self) else ""
        number, about = f"{len(self)} exact configurations{mean}", f"of {self.system}"
        return card(number, about, verdict=self.verdict, draw=lambda: histogram(per_atom, "exact", f"potential energy ({name})"))


@dataclass(frozen=True, repr=False)
class Dynamics(Frames):
    """Independent frames of molecular dynamics at constant volume.

    Attributes:
        result: All frames, averages and verdict; with lambda windows also the free energy.
    """

    result: MDResult | FrenkelLaddResult

    def __repr__(self) -> str:
        return f"{len(self)} independent frames of MD of {self.system}; verdict {self.result.verdict.colour}"


@dataclass(frozen=True)
class Model:
    """A trained Boltzmann generator of a crystal.

    >>> model
    sublattice flow on a phonon base, 6 training steps, of X1 crystal of 32 atoms, Fm-3m (225), 2 x 2 x 2 cells, lj/cut, T = 2 epsilon/kB
    >>> model.at(replicate=(3, 2, 2)).sample(16).u.shape
    (16, 48, 3)

    Attributes:
        system: The crystal in the state of the model.
        config: All settings.
        trained: Flow and base.
    """

    system: System
    config: Config
    trained: Trained

    def sample(self, n: int | None = None, *, reporter: Reporter | None = None) -> Samples:
        """Independent samples with exact log-weights; the same ones every time, for they depend on the seed and their index alone.

        Args:
            n: Number of samples; None: `sample.n_samples`.
            reporter: Told how far it is; None: a bar on a terminal and in a notebook.
        """
        config = _changed(self.config, {"sample.n_samples": n or self.config.sample.n_samples})
        reporter = reporter or _default_reporter()
        problem = self.system.problem
        drawn = sampling.sample(problem, self.trained.generator, config, reporter, keep=config.sample.n_samples)
        return Samples(self.system, drawn.displacements, drawn.energies, self, drawn)

    def sample_exact(self, n: int = 512, *, reporter: Reporter | None = None) -> ExactFrames:
        """Independent configurations of the exact ensemble at any size, by chains in the white noise of the flow.

        The chains go on until beta F/N has the error `estimate.target_error`, too, or `exact.max_seconds` are over.

        Args:
            n: Number of configurations.
            reporter: Told how far it is; None: a bar on a terminal and in a notebook.
        """
        settings = {"exact.mode": "always", "exact.n_dump": n, "exact.n_independent": n}
        config, reporter = _changed(self.config, settings), reporter or _default_reporter()
        log_w = self.sample(reporter=reporter).log_w
        found = exact.sample_exact(self.system.problem, self.trained, log_w, config, reporter)
        if found is None:
            raise RuntimeError("chains that were asked for were not run")
        if len(found.frames) < n:
            log.warning(
                "the chains came to %d of %d independent configurations within exact.max_seconds or max_evaluations",
                len(found.frames),
                n,
            )
        frames = found.frames.reshape(len(found.frames), self.system.n_atoms, 3)  # there may be none
        return ExactFrames(self.system, frames, found.frame_energies, self, found)

    def at(
        self,
        *,
        replicate: Counts | None = None,
        T: float | None = None,  # noqa: N803
        variables: Mapping[str, Value] | None = None,
        strain: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> "Model":
        """The model on another supercell, or in another state of those that it was trained over.

        Args:
            replicate: Copies along each cell vector; None: as it is.
            T: Temperature in the script's unit; None: as it is.
            variables: Index variables of the script, such as parameters of the potential.
            strain: Cell variables relative to the script's cell.
            force: Use it also in a state that it was not trained for: weights are exact, but expect a lower ESS.

        Raises:
            StateError: The state is another one than that of the training.
        """
        system = self.system.at(replicate=replicate, T=T, variables=variables, strain=strain)
        known = self.trained.model.reference.crystal.unit.cell if self.trained.model else system.problem.crystal.unit.cell
        stored = StoredModel(self.trained.saved, known, Path("model"))
        choose_source(system.problem, self.config, SILENT)
        return Model(system, self.config, applied(stored, system.problem, self.config, force=force))

    def save(self, folder: str | Path) -> Path:
        """Keep the model with its script and potential files: a run folder, which `load` and the command line know.

        Args:
            folder: New or empty.
        """
        problem, request = self.system.problem, self.system.request
        variables = [word for name, values in request.variables.items() for word in ("-var", name, *values)]
        words = ["train", "-in", str(request.script), "-rep", *map(str, request.replicate), *variables]
        with Job(words):
            run = create_run(Planned(request, self.config, Path(folder), words), problem, kind="run", needed_bytes=0)
            save_model(run.file("model.pt"), self.trained.saved, problem.crystal)
            run.write_status("done", percent=100.0)
        return run.path

    def __repr__(self) -> str:
        config = self.config
        return f"{config.flow.kind} flow on a {config.base.kind} base, {config.train.steps} training steps, of {self.system}"


def train(
    system: System,
    *,
    steps: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    reporter: Reporter | None = None,
) -> Model:
    """Fit the base and train the flow.

    Args:
        system: The crystal.
        steps: Training steps; 0 keeps the base alone; None: `train.steps`.
        seed: Seed of every random number; None: 1.
        settings: Further keys of the configuration, such as {"flow.width": 32, "condition.volume": [-0.06, 0.06]}.
        reporter: Told how far it is; None: a bar on a terminal and in a notebook.

    Raises:
        ConfigError: A key or value is not usable.
        TrainingError: Diverging steps keep happening.
    """
    asked = {"train.steps": steps, "seed": seed}
    config = _changed(Config(), {**(settings or {}), **{key: value for key, value in asked.items() if value is not None}})
    reporter = reporter or _default_reporter()
    choose_source(system.problem, config, reporter)
    trained = training.train(system.problem, config, reporter)
    if trained.model is not None:
        trained = training.in_state_of(system.problem, trained.model, trained.saved)
    return Model(system, config, trained)


def load(folder: str | Path) -> Model:
    """The model of a run folder, of `Model.save` or of the command line.

    Args:
        folder: The folder.

    Raises:
        RunDirectoryError: There is no trained model in it.
    """
    run = with_model(Path(folder))
    config, request = load_config(run.file("config.toml")), stored_request(run)
    system = System(Problem.load(request, config.estimate.length_scale), request, config.estimate.length_scale)
    choose_source(system.problem, config, SILENT, before=chosen_before(run))
    return Model(system, config, load_trained(run, system.problem, config, SILENT))


@dataclass(frozen=True)
class Quantity:
    """A number with its standard error and unit.

    Attributes:
        value: The number.
        error: One standard error.
        unit: Its unit.
    """

    value: float
    error: float
    unit: str

    def __repr__(self) -> str:
        return with_error(self.value, self.error, self.unit)


@dataclass(frozen=True, repr=False)
class FreeEnergy:
    """The absolute Helmholtz free energy of a crystal, per atom in kT: beta F/N.

    >>> F.verdict.colour in ("green", "amber", "red"), abs(sum(F.terms.values()) - F.value) < 1e-9
    (True, True)

    Attributes:
        system: The crystal.
        estimates: All estimates with observables, by chains, draws and molecular dynamics.
    """

    system: System
    estimates: estimating.Estimates

    @property
    def best(self) -> EstimateResult | None:
        """The estimate to be trusted most; None where none may be used."""
        return self.estimates.best.shown if self.estimates.best else None

    @property
    def value(self) -> float:
        """Beta F/N; nan where no number may be used, as the verdict says."""
        return self.best.value if self.best else float("nan")

    @property
    def error(self) -> float:
        """One standard error of it."""
        return self.best.error if self.best else float("nan")

    @property
    def terms(self) -> Mapping[str, float]:
        """What it is made of, per atom in kT."""
        return self.best.terms if self.best else {}

    @property
    def verdict(self) -> Verdict:
        """What to think of it."""
        return self.estimates.verdict

    def to(self, unit: str | None = None) -> Quantity:
        """F/N in an energy unit.

        Args:
            unit: eV, meV, J, kJ/mol, kcal/mol, Hartree, Ry or erg; None: the script's own.

        Raises:
            ConfigError: The unit is unknown, or the script is in reduced units.
        """
        problem = self.system.problem
        own = problem.units.labels.energy
        unit = unit or own
        if unit != own and (own not in _ENERGIES or unit not in _ENERGIES):
            raise ConfigError(
                f"expected one of {', '.join(_ENERGIES)} for an energy in {own}, got '{unit}'; give one, or nothing"
            )
        factor = (1.0 if unit == own else _ENERGIES[own] / _ENERGIES[unit]) / problem.beta
        return Quantity(self.value * factor, self.error * factor, unit)

    @property
    def _number(self) -> str:
        shown = f"{with_error(self.value, self.error, 'kT')}, F/N = {self.to()}" if self.best else NOT_RELIABLE
        return f"beta F/N = {shown}"

    def _compared(self) -> list[tuple[str, str]]:
        """Each estimate beside molecular dynamics, by its name."""
        if not (compared := self.estimates.comparison):
            return []
        known = ((ESTIMATORS[name].name, self.estimates.values[name].shown, compared.shown_z(name)) for name in compared.results)
        rows = [(title, number, "" if z is None else f", z = {z:+.1f}") for title, number, z in known if number is not None]
        return [(title, f"{with_error(number.value, number.error, 'kT')}{z}") for title, number, z in rows]

    def __repr__(self) -> str:
        lines = [self._number, *(f"  {title}: {shown}" for title, shown in self._compared())]
        return "\n".join([*lines, f"verdict {self.verdict.colour}: {' '.join(self.verdict.reasons)} {self.verdict.next_step}"])

    def _repr_html_(self) -> str:
        rows = [(term_name(name), f"{value:.5f} kT") for name, value in self.terms.items()]
        shown = {key: entry.shown for key, entry in self.estimates.values.items() if entry.shown is not None}
        known = [
            Estimate.read(key, e.name, {"beta_F_per_atom": vars(shown[key])}) for key, e in ESTIMATORS.items() if key in shown
        ]
        data = side_by_side(known[0], known) if self.best else None
        draw = partial(draw_estimators, data) if data else None
        return card(self._number, f"of {self.system}", verdict=self.verdict, rows=[*rows, *self._compared()], draw=draw)


@dataclass(frozen=True, repr=False)
class GibbsEnergies(GibbsResult):
    """Gibbs free energies of a crystal, with its volumes: `rows` has one for each state and pressure, the rest is as in its base."""

    def _lines(self) -> list[tuple[str, str]]:
        """G and volume of each state and pressure, by the state."""
        volume = f"{self.model.reference.units.labels.length}^3"
        return [
            (
                row.where,
                f"beta G/N = {written(vars(row.beta_g), in_unit='kT')}, V/N = {written(vars(row.per_atom['volume']), in_unit=volume)}",
            )
            for row in self.rows
        ]

    def __repr__(self) -> str:
        doubt = "" if self.verdict.reliable else f"{NOT_RELIABLE}: "
        lines = [*(f"{where}: {doubt}{shown}" for where, shown in self._lines()), *self.refused]
        return "\n".join([*lines, f"verdict {self.verdict.colour}: {' '.join(self.verdict.reasons)} {self.verdict.next_step}"])

    def _repr_html_(self) -> str:
        number = "Gibbs free energies" if self.verdict.reliable else f"Gibbs free energies, {NOT_RELIABLE}"
        about, rows = (
            f"of {self.model.reference.crystal.n_sites} atoms",
            [*self._lines(), *(("refused", why) for why in self.refused)],
        )
        return card(number, about, verdict=self.verdict, rows=rows, draw=lambda: draw_gibbs(gibbs_job.curves_of(self)))


@dataclass(frozen=True, repr=False)
class PhaseDiagram(PhaseResult):
    """Crystals compared: `differences` has the crossings of each pair, `lines` their coexistence, the rest is as in its base."""

    def _lines(self) -> list[tuple[str, str]]:
        """What is known of the crossings of each pair, by the pair and its state."""
        found = ((" - ".join(reversed(entry.names)), written_state(entry.state), entry) for entry in self.differences)
        return [
            (f"{pair}{state and ' at '}{state}", f"along {self.axis}: {entry.crossings.sentence}") for pair, state, entry in found
        ]

    def __repr__(self) -> str:
        doubt = "" if self.verdict.reliable else f"{NOT_RELIABLE}: "
        lines = [f"{pair}, {doubt}{said}" for pair, said in self._lines()]
        return "\n".join([*lines, f"verdict {self.verdict.colour}: {' '.join(self.verdict.reasons)} {self.verdict.next_step}"])

    def _repr_html_(self) -> str:
        number = "Phase diagram" if self.verdict.reliable else f"Phase diagram, {NOT_RELIABLE}"
        about, data = f"of {', '.join(phase.name for phase in self.phases)}", phase_job.curves_of(self)
        return card(number, about, verdict=self.verdict, rows=self._lines(), draw=lambda: draw_phases(data))


def free_energy(samples: Samples, exact: ExactFrames | None = None) -> FreeEnergy:
    """The absolute free energy from draws of a flow, and from chains where there are some.

    >>> bg.free_energy(samples, exact).value == F.value
    True

    Args:
        samples: The draws.
        exact: Chains of the same model.
    """
    return _evaluated(samples, exact)


def compare(samples: Samples, frames: Dynamics | str | Path, exact: ExactFrames | None = None) -> FreeEnergy:
    """The free energy from draws and molecular dynamics together: perturbation from both sides, BAR, MBAR, and whether they agree.

    Args:
        samples: The draws.
        frames: Of `System.md`, or a dump file of one's own.
        exact: Chains of the same model.

    Raises:
        EstimateError: Too few independent frames.
        CrystalError: The frames are of another crystal.
    """
    if isinstance(frames, Dynamics):
        return _evaluated(samples, exact, MDFrames.of(frames.result))
    return _evaluated(samples, exact, MDFrames.of_dump(Path(frames), samples.system.problem))


def _evaluated(samples: Samples, exact: ExactFrames | None, md: MDFrames | None = None) -> FreeEnergy:
    """All estimates of samples."""
    problem, trained, config = samples.system.problem, samples.model.trained, samples.model.config
    if exact is not None and exact.model is not samples.model:
        raise ConfigError("expected samples and exact configurations of one model, got those of two; draw both from the same")
    marginal = estimating.marginal_weights(problem, trained, samples.drawn, config)
    chains = exact.chains if exact else None
    found = estimating.estimate(problem, trained, samples.drawn, config, marginal=marginal, md=md, exact=chains)
    return FreeEnergy(samples.system, found)


def gibbs(
    model: Model,
    *,
    P: Value | Sequence[Value],  # noqa: N803  (LAMMPS' own variable)
    T: float | Sequence[float] | None = None,  # noqa: N803
    cell: str | None = None,
    settings: Mapping[str, object] | None = None,
    reporter: Reporter | None = None,
) -> GibbsEnergies:
    """Gibbs free energies, volumes and compressibilities, from a model that was trained over cells.

    Args:
        model: Such as one trained with settings={"condition.volume": [-0.06, 0.06]}.
        P: Pressures in the script's unit, or words with a unit, such as "1 GPa".
        T: Temperatures in the script's unit, of a model trained over T; None: the model's.
        cell: Which cell variables are free, iso, xy, aniso or tri; None: all of the model.
        settings: Keys of the configuration, such as {"gibbs.n_samples": 1024}.
        reporter: Told how far it is; None: a bar on a terminal and in a notebook.

    Raises:
        ConfigError: The model was not trained over cells.
        StateError: No pressure is covered by the trained cells, or a state is outside the trained range.
    """
    conditional, problem = _over_cells(model), model.system.problem
    grid = {} if T is None else {"T": _several(T)}
    request = GibbsRequest(states_of(grid, problem, conditional), pressures_of(_words(P), problem), cell)
    found = minimised(conditional, request, _changed(model.config, settings or {}), reporter or _default_reporter())
    return GibbsEnergies(**vars(found))


def phase_diagram(
    models: Mapping[str, Model],
    *,
    axis: str = "P",
    limits: tuple[float, float] | None = None,
    P: Value | Sequence[Value] = (),  # noqa: N803
    T: float | Sequence[float] | None = None,  # noqa: N803
    settings: Mapping[str, object] | None = None,
    reporter: Reporter | None = None,
) -> PhaseDiagram:
    """Where crystals have the same Gibbs free energy, from models of the same potential that were trained over cells.

    Args:
        models: By name, two or more.
        axis: P, T, or a parameter of the potential.
        limits: Ends of the axis in its unit; None: all that the models cover.
        P: Pressures off the axis, in the script's unit or with a unit.
        T: Temperatures off the axis; None: the models' own.
        settings: Keys of the configuration, such as {"gibbs.n_samples": 1024}; seed and chains are those of the first model.
        reporter: Told how far it is; None: a bar on a terminal and in a notebook.

    Raises:
        LammpsBGError: The crystals do not compare, or a value is outside what the models were trained for.
    """
    common = _changed(next(iter(models.values())).config, settings or {})
    shared = {name: getattr(common, name) for name in ("estimate", "exact", "gibbs", "device", "seed")}
    phases = []
    for name, model in models.items():
        conditional = _over_cells(model)
        free = free_variables(conditional.conditions, None)
        phases.append(Phase(name, conditional, free, model.config.model_copy(update=shared)))
    own = {key: value for phase in reversed(phases) for key, value in phase.own().items() if key != axis}
    points = [own] if T is None else [{**own, "T": value} for value in _several(T)]
    if axis != PRESSURE:
        pressures = pressures_of(_words(P), phases[0].model.reference)
        points = [{**point, PRESSURE: value} for point in points for value in pressures]
    return PhaseDiagram(**vars(compared(phases, PhaseRequest(axis, points, limits), reporter or _default_reporter())))


def _over_cells(model: Model) -> ConditionalModel:
    """The conditional model of a model.

    Raises:
        ConfigError: It is of one state.
    """
    if model.trained.model is None:
        raise ConfigError(
            'expected a model that was trained over cells, got one of a single state; train with settings={"condition.volume": [-0.06, 0.06]}'
        )
    return model.trained.model


def _several(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, Sequence) else (values,)


def _words(values: Value | Sequence[Value]) -> list[str]:
    """Pressures as the command line has them: words, a unit among them."""
    several = [values] if isinstance(values, str | float | int) else list(values)
    return [word for value in several for word in str(value).split()]
