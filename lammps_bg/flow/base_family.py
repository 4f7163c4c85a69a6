# SPDX-License-Identifier: GPL-2.0-or-later
"""Bases that follow their conditions: fitted at some points of the box of conditions, and smooth in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from lammps_bg.crystal.conditions import Conditions
from lammps_bg.crystal.structure import Array
from lammps_bg.errors import StateError
from lammps_bg.flow.base import Base, EinsteinBase
from lammps_bg.flow.force_constants import ForceConstants
from lammps_bg.flow.monomials import monomials
from lammps_bg.flow.phonon import PhononBase

Context = tuple[float, ...]


class BaseFamily(Protocol):
    """A base for every context.

    Attributes:
        nodes: Contexts at which bases were fitted, shape [g, C].
    """

    nodes: Array

    def at(self, context: Context, beta: float) -> Base:
        """The base of a context.

        Args:
            context: Coordinates in [-1, 1].
            beta: 1 / (k_B T) there, inverse energy.
        """
        ...


class PolynomialFit:
    """Least-squares expansion of numbers in the monomials of the context.

    Args:
        nodes: Contexts at which they are known, shape [g, C].
        values: Real or complex, shape [g, ...].

    Attributes:
        constant: Its value at the origin, shape [...].
        terms: Coefficients of `monomials`, shape [n_terms, ...].

    Raises:
        StateError: There are fewer nodes than coefficients.
    """

    def __init__(self, nodes: Array, values: np.ndarray) -> None:
        design = _design(nodes)
        if len(nodes) < design.shape[1]:
            raise StateError(
                f"expected a base at {design.shape[1]} points or more of the conditions, got {len(nodes)}; fit it at all points of the design"
            )
        found, *_ = np.linalg.lstsq(design.astype(values.dtype), values.reshape(len(nodes), -1), rcond=None)
        self.constant, self.terms = found[0].reshape(values.shape[1:]), found[1:].reshape(-1, *values.shape[1:])

    def at(self, context: Context) -> np.ndarray:
        """The values at a context, shape [...]."""
        row = _design(np.array([context]))[0, 1:]
        return np.asarray(self.constant + np.tensordot(row, self.terms, 1))


def _design(nodes: Array) -> Array:
    """One and the monomials of each context, shape [g, 1 + n_terms]."""
    columns = monomials(torch.from_numpy(np.ascontiguousarray(nodes.T))).numpy()
    return np.concatenate([np.ones((1, len(nodes))), columns]).T


class PhononFamily:
    """Phonon crystals whose log K(k), a matrix at every wave vector, is a polynomial of the context: stable everywhere.

    Args:
        nodes: Contexts at which force constants were fitted, shape [g, C].
        constants: The stable force constants of each, all at one replicate.
    """

    def __init__(self, nodes: Array, constants: Sequence[ForceConstants]) -> None:
        self.nodes, self.constants = nodes, tuple(constants)
        self._logarithm = PolynomialFit(nodes, np.stack([_mapped(entry, np.log) for entry in constants]))
        self._offset = PolynomialFit(nodes, np.stack([entry.offset for entry in constants]))

    def constants_at(self, context: Context) -> ForceConstants:
        """The force constants of a context.

        Args:
            context: Coordinates in [-1, 1].
        """
        logarithm = ForceConstants(self._logarithm.at(context), self._offset.at(context))
        values, vectors = np.linalg.eigh(logarithm.stiffness)
        stiffness = (vectors * np.exp(values)[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2))
        stiffness[0, 0, 0] -= _acoustic(len(stiffness[0, 0, 0]))
        return ForceConstants(stiffness, logarithm.offset).symmetrised()

    def at(self, context: Context, beta: float) -> PhononBase:
        """The base of a context; see `BaseFamily.at`."""
        return PhononBase(self.constants_at(context), beta)


class EinsteinFamily:
    """Einstein crystals the logarithms of whose widths are polynomials of the context.

    Args:
        nodes: Contexts at which widths were fitted, shape [g, C].
        widths: Standard deviation of each site per component, length units, shape [g, N].
    """

    def __init__(self, nodes: Array, widths: Array) -> None:
        self.nodes, self.widths = nodes, widths
        self._logarithm = PolynomialFit(nodes, np.log(widths))

    def at(self, context: Context, beta: float) -> EinsteinBase:
        """The base of a context; its widths were fitted at the temperature of each node, so that `beta` is in them."""
        return EinsteinBase(torch.from_numpy(np.exp(self._logarithm.at(context))))


@dataclass(frozen=True)
class FittedFamily:
    """A family of bases with what it was made from.

    Attributes:
        conditions: The axes of the contexts.
        bases: The bases.
        iterated: Whether its force constants are self-consistent ones, rather than those at the energy minimum.
    """

    conditions: Conditions
    bases: PhononFamily | EinsteinFamily
    iterated: bool


def _mapped(constants: ForceConstants, function: np.ufunc) -> np.ndarray:
    """A function of K(k) at every wave vector, with the acoustic modes at k = 0 at one."""
    stiffness = constants.stiffness.copy()
    stiffness[0, 0, 0] += _acoustic(stiffness.shape[-1])
    values, vectors = np.linalg.eigh(stiffness)
    return np.asarray((vectors * function(values)[..., None, :]) @ np.conj(np.swapaxes(vectors, -1, -2)))


def _acoustic(m: int) -> Array:
    """Projection on the rigid translations of the sites of a cell, shape [m, m]."""
    return np.tile(np.eye(3), (m // 3, m // 3)) * 3 / m
