# SPDX-License-Identifier: GPL-2.0-or-later
"""The test that every energy surface must pass: what targets, fits and chains rely on, and would not notice when it is wrong."""

from collections.abc import Callable, Iterator

import numpy as np

from lammps_bg.crystal.structure import Array
from lammps_bg.potentials.surface import EnergySurface


def faults(
    surface: EnergySurface, *, pressure_unit: float, step: float = 1e-5, tolerance: float = 1e-5, seed: int = 1
) -> list[str]:
    """What is wrong with a surface, a sentence each; none where it can be used. The surface is closed afterwards.

    Args:
        surface: The surface.
        pressure_unit: Pressure of one unit of energy for each unit of volume, as LAMMPS' nktv2p.
        step: Of the finite differences, in nearest-neighbour distances; larger for energies in single precision.
        tolerance: Relative error of derivatives that is allowed; a hundredth of it is for what should be equal to rounding.
        seed: Seed of the displacements.
    """
    trial = _Trial(surface, pressure_unit, step, tolerance, seed)
    checks: list[Callable[[], Iterator[str]]] = [
        trial.shapes, trial.forces, trial.batches, trial.translations, trial.broken, trial.cells, trial.pressures, trial.end,
    ]  # fmt: skip
    return [sentence for check in checks for sentence in check()]


class _Trial:
    """A surface with the configurations that it is tried on."""

    def __init__(self, surface: EnergySurface, pressure_unit: float, step: float, tolerance: float, seed: int) -> None:
        self.surface, self.pressure_unit, self.tolerance = surface, pressure_unit, tolerance
        self.rng, crystal = np.random.default_rng(seed), surface.crystal
        self.length = crystal.nearest_distance
        self.step = step * self.length
        self.u = 0.03 * self.length * self.rng.standard_normal((5, crystal.n_sites, 3))
        self.energies, self.force_array = surface(self.u)
        # what energies differ by, against which rounding counts: their scatter, and a little of their size
        self.scale = float(np.ptp(self.energies)) + 1e-6 * float(np.abs(self.energies).max())

    def _same(self, found: Array, expected: Array, scale: float) -> bool:
        return bool(np.allclose(found, expected, rtol=0, atol=0.01 * self.tolerance * scale, equal_nan=True))

    def shapes(self) -> Iterator[str]:
        """Arrays of float64, also for no configuration; both ways to the energy agree."""
        n, n_sites = len(self.u), self.surface.crystal.n_sites
        arrays = {"energies": (self.energies, (n,)), "forces": (self.force_array, (n, n_sites, 3))}
        arrays |= {
            "pressures": (self.surface.virial_pressures(self.u), (n,)),
            "energies of none": (self.surface.energies(self.u[:0]), (0,)),
        }
        for name, (array, shape) in arrays.items():
            if array.shape != shape or array.dtype != np.float64:
                yield f"expected {name} as float64 of shape {shape}, got {array.dtype} of shape {array.shape}"
        if not self._same(self.surface.energies(self.u), self.energies, self.scale):
            yield "expected the same energies with forces and without, got other ones"
        static = self.surface.energies(np.zeros_like(self.u[:1]))
        if not self._same(static, np.array([self.surface.static_energy]), self.scale):
            yield f"expected static_energy to be that of no displacement, {static[0]}, got {self.surface.static_energy}"

    def forces(self) -> Iterator[str]:
        """Forces are the slope of the energy, along a random direction of all atoms and along single coordinates.

        A pair that crosses a cutoff within the step may spoil one of the configurations, not most of them.
        """
        directions = [self.rng.standard_normal(self.u.shape[1:])] + [np.zeros(self.u.shape[1:]) for _ in range(4)]
        for direction in directions[1:]:
            direction[self.rng.integers(len(direction)), self.rng.integers(3)] = 1.0
        for direction in directions:
            moved = self.surface.energies(np.concatenate([self.u + self.step * direction, self.u - self.step * direction]))
            slopes = (moved[: len(self.u)] - moved[len(self.u) :]) / (2 * self.step)
            expected = -(self.force_array * direction).sum((1, 2))
            if not np.median(np.abs(slopes - expected)) <= self.tolerance * np.abs(self.force_array).max() * np.linalg.norm(
                direction
            ):
                yield f"expected forces that are the slope of the energy, {slopes.tolist()}, got {expected.tolist()}"
                return

    def batches(self) -> Iterator[str]:
        """A configuration has the same energy and forces alone, in another order, and after wild ones."""
        largest = float(np.abs(self.force_array).max())
        alone = [self.surface(one[None]) for one in self.u]
        self.surface(5 * self.u)
        turned, turned_forces = self.surface(self.u[::-1])
        tried = {
            "alone": (np.concatenate([e for e, _ in alone]), np.concatenate([f for _, f in alone])),
            "in another order, after wild ones,": (turned[::-1], turned_forces[::-1]),
        }
        for how, (energies, forces) in tried.items():
            if not (self._same(energies, self.energies, self.scale) and self._same(forces, self.force_array, largest)):
                yield f"expected the same energies and forces of configurations {how}, got other ones: it depends on what it saw before"

    def translations(self) -> Iterator[str]:
        """The crystal as a whole is free in its cell."""
        shift = self.length * self.rng.uniform(-0.5, 0.5, 3)
        change = np.abs(self.surface.energies(self.u + shift) - self.energies).max()
        if not change <= self.tolerance * self.scale:
            yield f"expected the energy of a shifted crystal to be the same, got a change of {change:.3g}"

    def broken(self) -> Iterator[str]:
        """Displacements that are no numbers have energy +inf and forces nan, and leave the others of the batch alone."""
        u = self.u.copy()
        u[1, 0, 0], u[3, -1, 2] = np.nan, np.inf
        energies, forces = self.surface(u)
        bad, good = [1, 3], [0, 2, 4]
        for name, values in (("with", energies), ("without", self.surface.energies(u))):
            if not np.isposinf(values[bad]).all():
                yield f"expected +inf as energy {name} forces of displacements that are no numbers, got {values[bad].tolist()}"
        if not np.isnan(forces[bad]).all():
            yield "expected nan as forces where there is no finite energy, got numbers"
        if not self._same(energies[good], self.energies[good], self.scale):
            yield "expected displacements that are no numbers to leave the others of their batch alone, got other energies"
        if np.isfinite(self.surface.virial_pressures(u)[bad]).any():
            yield "expected nan as pressure where there is no finite energy, got a number"

    def cells(self) -> Iterator[str]:
        """In the surface's own cell, configurations with a cell each are what they are without."""
        energies, forces = self.surface.in_cells(self.u, np.tile(np.eye(3), (len(self.u), 1, 1)))
        if not (
            self._same(energies, self.energies, self.scale) and self._same(forces, self.force_array, float(np.abs(forces).max()))
        ):
            yield "expected in_cells to give the same energies and forces in the surface's own cell, got other ones"

    def pressures(self) -> Iterator[str]:
        """The pressure is minus the derivative of the energy by the volume, all positions scaled."""
        relative, volume = self.step / self.length, self.surface.crystal.volume
        cells = [(1 + sign * relative) * np.tile(np.eye(3), (len(self.u), 1, 1)) for sign in (1, -1)]
        up, down = (self.surface.in_cells(self.u @ cell, cell)[0] for cell in cells)
        expected = -(up - down) / (6 * relative * volume) * self.pressure_unit
        found = self.surface.virial_pressures(self.u)
        if not np.median(np.abs(found - expected)) <= 10 * self.tolerance * np.abs(expected).max():
            yield f"expected pressures that are the slope of the energy by the volume, {expected.tolist()}, got {found.tolist()}"

    def end(self) -> Iterator[str]:
        """It can be closed, also twice."""
        if self.surface.n_evaluations < len(self.u):
            yield f"expected n_evaluations to count what was evaluated, got {self.surface.n_evaluations}"
        for _ in range(2):
            try:
                self.surface.close()
            except Exception as error:  # whatever an implementation may raise
                yield f"expected close to do nothing the second time, got {type(error).__name__}: {error}"
