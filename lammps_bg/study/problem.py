# SPDX-License-Identifier: GPL-2.0-or-later
"""From a LAMMPS input script to a crystal at a temperature with its energy surface; refuses what is no crystal."""

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lammps_bg import parallel
from lammps_bg.crystal.cell_variables import CELL_VARIABLES, deformation, require_no_flip
from lammps_bg.crystal.conditions import TEMPERATURE
from lammps_bg.crystal.connection import PIECES, connection
from lammps_bg.crystal.operations import kept_by_forces
from lammps_bg.crystal.structure import Array
from lammps_bg.crystal.symmetry import match_sites, nearest_distance, typical_distance
from lammps_bg.crystal.system import Counts, Crystal
from lammps_bg.crystal.units import Units
from lammps_bg.engine.lammps_engine import Engine, LammpsFlags
from lammps_bg.engine.relaxation import at_rest
from lammps_bg.errors import ConfigError, CrystalError, LammpsBGError, PotentialError
from lammps_bg.potentials.sources.lammps import LammpsSurface
from lammps_bg.potentials.surface import EnergySurface
from lammps_bg.study.pressure import script_pressure
from lammps_bg.study.script_state import WAVELENGTH, script_length_scale, script_temperature, thermal_wavelength
from lammps_bg.study.skipped_states import warn_of_skipped_states

if TYPE_CHECKING:  # torch takes longer to load than `check` to run
    from lammps_bg.training.target import ExactTarget, SoftenedTarget

log = logging.getLogger(__name__)
_OFF_SITE = 0.1  # largest move to the nearest energy minimum, in nearest-neighbour distances, of an atom on a crystal site
_TOUCHING = 0.05  # nearest distance, in the mean distance of atoms, of particles that are parts of one atom
# defects: sites of a cell that are looked at, vectors tried, and the share of the sites mapped onto sites that tells of one
_SMALLEST_DEFECTIVE, _TRANSLATIONS_TRIED, _MOSTLY = 12, 40, 0.75
_LAYERED, _SPARSE = (
    2.5,
    5.0,
)  # reach that joins the pieces of every crystal, in nearest distances: if they interact, and in any case
_BYTES_PER_SITE = 70_000  # peak of `lammps-bg sample` at 13,824 atoms, 1.4 GB with Python, torch and LAMMPS


@dataclass(frozen=True)
class ScriptRequest:
    """What the user asks to be loaded.

    Attributes:
        script: The LAMMPS input script.
        variables: Values by -var.
        replicate: Values by -rep.
        flags: LAMMPS' own flags.
        elements: Names for the atom types, in their order; empty: from the script.
        stored: The script is the copy in a run directory.
        strain: Cell variables by --strain, of the script's cell.
    """

    script: Path
    variables: Mapping[str, Sequence[str]]
    replicate: Counts = (1, 1, 1)
    flags: LammpsFlags = LammpsFlags()
    elements: tuple[str, ...] = ()
    stored: bool = False
    strain: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Problem:
    """A crystal at a temperature.

    Attributes:
        surface: Energies and forces of displacements, by LAMMPS.
        temperature: In the script's unit.
        length_scale: Lambda of the absolute free energy, length units.
        length_source: How that length is known.
        potential: What training and sampling evaluate: LAMMPS, or another source of the same energies.
        source: Name of that source.
    """

    surface: LammpsSurface
    temperature: float
    length_scale: float
    length_source: str
    potential: EnergySurface = field(init=False)
    source: str = field(default="lammps", init=False)

    def __post_init__(self) -> None:
        self.potential = self.surface
        self._elsewhere, self._cost = 0, dict[str, int]()  # evaluations of other ranks, and what the source counted on all

    @classmethod
    def load(cls, request: ScriptRequest, length_scale: float | None = None) -> "Problem":
        """Run the script, recognise the crystal, and check that it can be sampled.

        Args:
            request: Script and flags.
            length_scale: Lambda by the user, length units; None: from the script or potential.

        Raises:
            LammpsBGError: One sentence for whatever is wrong with script, potential, crystal or temperature.
        """
        if not all(count > 0 for count in request.replicate):
            raise CrystalError(f"expected -rep with three positive counts, got {' '.join(map(str, request.replicate))}")
        engine = Engine(
            request.script,
            variables=request.variables,
            replicate=request.replicate,
            flags=request.flags,
            stored=request.stored,
            most_atoms=_most_atoms(),
        )
        require_known_variables(engine, request)
        temperature = script_temperature(engine, request.script)
        script_pressure(engine)
        crystal = Crystal.from_structure(engine.script_structure).replicated(request.replicate, engine.structure)
        crystal = _named(crystal, request.elements).deformed(deformation(request.strain))
        require_no_flip(crystal.supercell)
        surface = LammpsSurface(engine, crystal)
        problem = cls(surface, temperature, *script_length_scale(engine, crystal, temperature, length_scale))
        problem._require_apart()
        problem._require_bulk()
        problem._require_crystal()
        problem._require_interaction()
        problem._require_free_centre()
        problem._keep_symmetry_of_energies()
        for line in engine.unlike_the_run:
            log.warning("%s", line)
        problem._warn_of_defects()
        problem._warn_of_size()
        if not request.stored:
            warn_of_skipped_states(engine, request.script, request.variables)
        return problem

    def use(self, source: str, surface: EnergySurface) -> str:
        """Let another source evaluate energies; returns its name."""
        self.source, self.potential = source, surface
        return source

    @property
    def engine(self) -> Engine:
        """The LAMMPS instance."""
        return self.surface.engine

    @property
    def crystal(self) -> Crystal:
        """The reference crystal."""
        return self.surface.crystal

    @property
    def units(self) -> Units:
        """The script's units."""
        return self.engine.units

    @property
    def beta(self) -> float:
        """1 / (k_B T), inverse energy."""
        return self.units.beta(self.temperature)

    @property
    def thermal_length(self) -> bool:
        """Whether Lambda is the thermal wavelength, which depends on T."""
        return self.length_source == WAVELENGTH

    @property
    def n_evaluations(self) -> int:
        """Configurations evaluated so far, by whatever."""
        own = 0 if self.potential is self.surface else self.potential.n_evaluations
        return self.surface.n_evaluations + own + self._elsewhere

    def count_other_ranks(self) -> None:
        """Add what the other MPI ranks have evaluated so far to this rank's number; all ranks call it together, once."""
        every = parallel.gathered((self.n_evaluations, self.cost_of_source()))
        self._elsewhere = sum(n for n, _ in every) - self.n_evaluations
        self._cost = {name: sum(cost[name] for _, cost in every) for name in every[0][1]}

    def cost_of_source(self) -> dict[str, int]:
        """What the energy source counted, for results.json; nothing where LAMMPS does it all."""
        return self._cost or self.potential.cost()

    def at(self, values: Mapping[str, float]) -> "Problem":
        """The same crystal under other conditions, on the same LAMMPS instance.

        Args:
            values: Cell variables relative to this problem's cell, `T`, and parameters of the potential, by name.

        Raises:
            LammpsBGError: The cell flips, or LAMMPS refuses a value.
        """
        cell = {name: values[name] for name in CELL_VARIABLES if values.get(name)}
        crystal = self.crystal.deformed(deformation(cell)) if cell else self.crystal
        require_no_flip(crystal.supercell)
        given = {name: value for name, value in values.items() if name not in (*CELL_VARIABLES, TEMPERATURE)}
        surface = self.surface.in_state(crystal, given)
        temperature = values.get(TEMPERATURE, self.temperature)
        scale = self.length_scale
        if self.thermal_length:
            scale = thermal_wavelength(self.units, crystal, temperature)
        problem = Problem(surface, temperature, scale, self.length_source)
        problem.use(self.source, self.potential.at(surface))
        return problem

    def _keep_symmetry_of_energies(self) -> None:
        """Drop those operations of the space group that energies do not have: a fix may add a field that breaks them."""
        if self.engine.reader.kept_fixes:  # what pair styles, bonds and charges give depends on distances and angles alone
            kept = kept_by_forces(self.surface, self.crystal)
            self.surface.crystal = replace(self.crystal, unit=self.crystal.unit.keeping(kept))

    def exact_target(self) -> "ExactTarget":
        """-beta U, for weights."""
        from lammps_bg.training.target import ExactTarget

        return ExactTarget(self.potential, self.beta)

    def softened_target(self, softening: float) -> "SoftenedTarget":
        """-beta U with high energies softened, for training.

        Args:
            softening: Excess energy per atom, in kT, above which the energy is softened.
        """
        from lammps_bg.training.target import SoftenedTarget

        return SoftenedTarget(self.potential, self.beta, self.crystal.n_sites, softening)

    def ideal_pressure(self, volume: Array | float) -> Array:
        """N kT / V, what a configurational pressure lacks to the whole, pressure units, shape as `volume`.

        Args:
            volume: Of the cell, length units cubed.
        """
        units = self.units
        return np.asarray(self.crystal.n_sites * units.boltzmann * self.temperature * units.nktv2p / volume)

    @property
    def largest_force(self) -> float:
        """Largest force component on the reference sites, energy per length."""
        return float(np.abs(self.surface.static_forces).max())

    def _require_free_centre(self) -> None:
        """Refuse potentials that hold the crystal in place: the centre of mass is taken to be free in the cell.

        Raises:
            CrystalError: A rigid shift changes the energy.
        """
        crystal = self.crystal
        shifts = crystal.nearest_distance * np.array([[0.1, 0.07, -0.05], [-0.31, 0.23, 0.37]])
        energies = self.surface.energies(np.broadcast_to(shifts[:, None], (2, crystal.n_sites, 3)))
        change = self.beta * float(np.abs(energies - self.surface.static_energy).max())
        # grids of long-range solvers break the symmetry a little
        if not change < (allowed := max(0.1, 1e-5 * abs(self.beta * self.surface.static_energy))):
            if (finer := self.engine.finer_solver()) is not None and self._with_solver(finer[1], shifts) < allowed:
                raise CrystalError(
                    f"expected an energy that a rigid shift of the whole crystal leaves alone, got a change of {change:.3g} kT by the grid of "
                    f"the long-range solver; use `{finer[0]}` in place of the present one, with which it is within {allowed:.2g} kT"
                )
            raise CrystalError(
                f"expected an energy that a rigid shift of the whole crystal leaves alone, got a change of {change:.3g} kT; "
                "remove walls, springs to fixed points, restraints and position-dependent fields from the script"
            )

    def _with_solver(self, commands: list[str], shifts: Array) -> float:
        """Change of the energy by rigid shifts [n, 3] with other kspace commands, kT; infinite where LAMMPS refuses them."""
        try:
            trial = self.engine.tried(commands)
        except LammpsBGError:
            return math.inf
        try:
            energies = trial.energies(trial.sites + np.concatenate([np.zeros((1, 3)), shifts])[:, None])
        finally:
            trial.close()
        return self.beta * float(np.abs(energies[1:] - energies[0]).max())

    def _require_bulk(self) -> None:
        """Refuse slabs, wires and molecules in vacuum, whatever the boundary conditions; name a sheet of one layer.

        Layers and molecules of a crystal are up to 2.5 nearest distances apart where they hardly feel each other (graphite), and
        up to 5 where the atoms within a molecule are very close (hydrogen).

        Raises:
            CrystalError: Nothing but vacuum holds the pieces together.
        """
        unit, cutoff = self.crystal.unit, self.engine.cutoff()
        near = typical_distance(unit.cell, unit.basis)
        furthest = _SPARSE * near if cutoff is None else min(max(_LAYERED * near, cutoff), _SPARSE * near)
        for reach in (1.5 * near, _LAYERED * near, furthest):  # the last is costly, and rarely needed
            found = connection(unit.cell, unit.basis, reach)
            if found.directions == 3:
                return
        gap = f"{furthest:.3g} {self.units.labels.length} ({furthest / near:.2g} nearest-neighbour distances)"
        if found.directions == 2 and found.thickness < 1.5 * near:
            log.warning(
                "the structure is a single layer with vacuum around it: within %s it hangs together in two directions only; F is that of the "
                "layer, and volume and pressure contain the vacuum", gap,
            )  # fmt: skip
            return
        raise CrystalError(
            f"expected a crystal that fills its cell, got {PIECES[found.directions]} in vacuum, which within {gap} hangs together in "
            f"{found.directions} of three directions and has no bulk free energy; "
            "shorten the box to a period of the crystal in every direction, without vacuum"
        )

    def _require_apart(self) -> None:
        """Refuse atoms that are no atoms: cores with their shells, or Drude particles.

        Raises:
            CrystalError: Two lie at nearly the same place.
        """
        crystal = self.crystal
        spacing = (crystal.volume / crystal.n_sites) ** (1 / 3)
        if crystal.nearest_distance < _TOUCHING * spacing and math.isfinite(self.surface.static_energy):
            unit = self.units.labels.length
            raise CrystalError(
                f"expected atoms that lie apart, got two at {crystal.nearest_distance:.3g} {unit}, where they have {spacing:.3g} {unit} on average, "
                "as of cores with shells or Drude particles, which are not sampled; give one particle for each atom"
            )

    def _require_crystal(self) -> None:
        """Refuse structures that are not at, or close to, a minimum with every atom on a site.

        Raises:
            CrystalError: The static energy is not finite, or an atom moves off its site in a minimisation.
        """
        crystal = self.crystal
        if not math.isfinite(self.surface.static_energy):
            raise CrystalError(
                "expected a finite energy of the script's structure, got an infinite one; check for overlapping atoms"
            )
        # forces that do less work than 0.01 kT over a tenth of the nearest distance cannot move an atom off its site
        small = 0.01 / (self.beta * 0.1 * crystal.nearest_distance)
        if self.largest_force < small:
            return
        rest = at_rest(self.engine, small)
        moved = rest.positions - self.engine.sites
        moved = moved - np.round(moved @ np.linalg.inv(crystal.supercell)) @ crystal.supercell
        furthest = float(np.linalg.norm(moved - moved.mean(0), axis=1).max())
        label = self.units.labels
        if furthest > _OFF_SITE * crystal.nearest_distance:
            raise CrystalError(
                f"expected every atom on a crystal site, got atoms that move up to {furthest:.3g} {label.length} to the nearest energy minimum "
                f"({furthest / crystal.nearest_distance:.2f} nearest-neighbour distances), as in a liquid, glass or hot snapshot; "
                "give the minimised lattice (liquids and defects are out of scope)"
            )
        if not rest.largest_force < small:
            log.warning(
                "the script's structure is not at rest, and no minimiser brings it there: the largest force is %.3g %s/%s at first, LAMMPS' own "
                "stopped with '%s', and steps along the forces stalled at %.3g %s/%s (wanted: %.3g), as where the energy jumps at a cutoff "
                "(`pair_modify shift yes`) or a long-range solver is coarse (`kspace_style`); the base is centred as well as it can be",
                self.largest_force, label.energy, label.length, rest.stopped, rest.largest_force, label.energy, label.length, small,
            )  # fmt: skip
            return
        log.warning(
            "the script's structure is not relaxed: the largest force is %.3g %s/%s and atoms relax by up to %.2g %s; "
            "the base is centred on the minimum, but symmetry is lost to such noise, so better give the minimised one (`lammps-bg relax`)",
            self.largest_force, label.energy, label.length, furthest, label.length,
        )  # fmt: skip

    def _require_interaction(self) -> None:
        """Refuse atoms that feel nothing of each other, and potentials that have forces only.

        Raises:
            CrystalError: Displaced atoms feel no force.
            PotentialError: Their energy does not change.
        """
        crystal = self.crystal
        displaced = np.random.default_rng(0).uniform(-0.05, 0.05, (1, crystal.n_sites, 3)) * crystal.nearest_distance
        energies, forces = self.surface(displaced)
        if not np.abs(forces).max() > 0:
            raise CrystalError(
                f"expected atoms that hold each other on their sites, got no force on displaced atoms with neighbours at "
                f"{crystal.nearest_distance:.4g} {self.units.labels.length}; check the lattice constant, the units and the cutoff"
            )
        if energies[0] == self.surface.static_energy:
            raise PotentialError(
                f"expected an energy that changes when atoms move, got forces without one from pair_style {self.engine.pair_style}; "
                "a free energy needs a potential that has an energy"
            )

    def _warn_of_defects(self) -> None:
        """Say so if a lattice vector maps most sites onto sites, but not all: a vacancy or an interstitial."""
        share = _nearly_periodic(self.crystal)
        if share is not None:
            log.warning(
                "the structure looks like a crystal with vacancies or interstitials (a lattice vector maps %.0f %% of the atoms "
                "onto atoms); every atom keeps its site here, so F is that of this one arrangement, without hops and without configurational entropy",
                100 * share,
            )  # fmt: skip

    def _warn_of_size(self) -> None:
        """Say so if an atom sees its own image within the cutoff."""
        cutoff, supercell = self.engine.cutoff(), self.crystal.supercell
        image = nearest_distance(supercell, np.zeros((1, 3)))
        if cutoff is not None and image < 2 * cutoff:
            unit = self.units.labels.length
            log.warning(
                "the nearest periodic image is %.4g %s away, %.2f times the cutoff of %.4g %s: the energies are right, "
                "but below 2 expect finite-size effects; a larger -rep lowers them",
                image, unit, image / cutoff, cutoff, unit,
            )  # fmt: skip


def _nearly_periodic(crystal: Crystal) -> float | None:
    """Share of sites that some short vector between sites maps onto sites, of any type, if it is high but not all of them."""
    if crystal.n_basis < _SMALLEST_DEFECTIVE:
        return None
    basis, cell = crystal.unit.basis, crystal.unit.cell
    delta = basis - basis[0]
    delta = delta - np.round(delta @ np.linalg.inv(cell)) @ cell
    nearest = np.argsort(np.linalg.norm(delta, axis=1))[1:_TRANSLATIONS_TRIED]
    tolerance = _OFF_SITE * crystal.nearest_distance
    best = max(float((match_sites(cell, basis, basis + delta[site], tolerance) >= 0).mean()) for site in nearest)
    return best if _MOSTLY <= best < 1 else None


def require_known_variables(engine: Engine, request: ScriptRequest) -> None:
    """Refuse -var with a name that neither the script nor this program uses.

    Raises:
        ConfigError: It would have no effect.
    """
    text = "\n".join(path.read_text(errors="replace") for path in engine.script_files)
    without_comments = re.sub(r"#.*", "", text)
    named = {"T", "P", "Lambda", *re.findall(r"\w+", without_comments)}
    for name in request.variables:
        if name not in named:
            defined = re.findall(r"^\s*variable\s+(\w+)", text, re.MULTILINE)
            listed = ", ".join(dict.fromkeys(["T", *defined]))
            raise ConfigError(
                f"expected -var with a variable of the script ({listed}), got {name}, which {request.script.name} never uses; check the name"
            )


def _most_atoms() -> int:
    """Atoms whose training fits into four fifths of this rank's share of the node's memory."""
    return int(0.8 / parallel.place_on_node()[1] * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _BYTES_PER_SITE)


def _named(crystal: Crystal, elements: tuple[str, ...]) -> Crystal:
    if not elements:
        return crystal
    if len(elements) != len(crystal.labels):
        raise CrystalError(f"expected --elements with {len(crystal.labels)} names, one for each atom type, got {len(elements)}")
    return replace(crystal, labels=elements)
