# SPDX-License-Identifier: GPL-2.0-or-later
"""The optional package OVITO: one door to it, one sentence where it is missing, and the colours of everything drawn with it."""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lammps_bg.errors import LammpsBGError

GRADIENT = [(0.09, 0.10, 0.36), (0.11, 0.33, 0.62), (0.16, 0.60, 0.68), (0.95, 0.72, 0.30), (0.91, 0.42, 0.22)]
"""Red, green, blue from a small to a large displacement."""
_SPECIES = [(0.13, 0.38, 0.68), (0.88, 0.40, 0.18), (0.20, 0.60, 0.42), (0.52, 0.35, 0.66), (0.80, 0.62, 0.15)]


class OvitoError(LammpsBGError):
    """OVITO is missing or cannot do what was asked; a run is complete without it."""


def ovito_module(part: str) -> Any:  # noqa: ANN401  (used untyped: its classes take far more arguments than its type stubs know)
    """A module of OVITO.

    Args:
        part: Its name below `ovito`; empty for the package itself.

    Raises:
        OvitoError: OVITO cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about other installations of Qt and about conda
            return importlib.import_module(f"ovito.{part}" if part else "ovito")
    except ImportError as error:
        raise OvitoError(
            f"expected the package ovito for pictures and structure identification but it cannot be imported ({error}); "
            "run: pip install 'lammps-bg[ovito]'"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the terminal what OVITO and graphics drivers write past Python: whoever catches their errors says it in one sentence."""
    with ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                kept = os.dup(number)
            except OSError:  # closed: nothing is written there
                continue
            if stream is not None:
                stream.flush()
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(nowhere, number)
        yield


def species_colour(number: int) -> tuple[float, float, float]:
    """Red, green and blue of a LAMMPS type, 1-based."""
    return _SPECIES[(number - 1) % len(_SPECIES)]


def configuration(positions: ArrayLike, cell: NDArray[np.float64], origin: ArrayLike = (0.0, 0.0, 0.0)) -> Any:  # noqa: ANN401
    """Atoms in a periodic cell as an OVITO DataCollection.

    Args:
        positions: Shape [N, 3], length units.
        cell: Cell vectors as rows, shape [3, 3], length units.
        origin: Lower corner of the cell, shape [3], length units.
    """
    ovito, points = ovito_module("data"), np.asarray(positions, dtype=np.float64)
    box, particles = ovito.SimulationCell(pbc=(True, True, True)), ovito.Particles(count=len(points))
    box[...] = np.column_stack([cell.T, origin])
    particles.create_property("Position", data=points)
    data = ovito.DataCollection()
    data.objects.extend([box, particles])
    return data
