# SPDX-License-Identifier: GPL-2.0-or-later
"""Energy sources, one file each, which `energy.source` calls by the file's name.

A source is a function `surface` that gives the surface of a script, or None where it has none: any object that passes
`lammps_bg.potentials.conformance`.
"""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from lammps_bg.potentials.sources.lammps import LammpsSurface
from lammps_bg.potentials.surface import EnergySurface

if TYPE_CHECKING:
    import torch


class Source(Protocol):
    """What a file of this folder has.

    Attributes:
        NEEDS: What a script must have for it, in words.
    """

    NEEDS: str

    def surface(self, reference: LammpsSurface, device: "torch.device | str") -> EnergySurface | None:
        """The surface of a script, None where this source does not have its potential.

        Args:
            reference: LAMMPS, with the script.
            device: Where to compute: cpu or cuda.
        """
        ...


def names() -> list[str]:
    """The sources, LAMMPS first."""
    return sorted((module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != "lammps", name))


def load(name: str) -> Source:
    """A source."""
    return cast(Source, import_module(f"{__name__}.{name}"))
