# SPDX-License-Identifier: GPL-2.0-or-later
"""Boltzmann generators for crystals, coupled to LAMMPS.

    import lammps_bg as bg
    ice = bg.System.from_lammps("in.mw_cubic", replicate=(2, 2, 2), T=200)
    model = bg.train(ice, steps=1000, seed=1)
    samples = model.sample(4096)
    exact = model.at(replicate=(6, 6, 6)).sample_exact(500)
    print(bg.free_energy(samples))

What computes is loaded when it is first asked for, so that the import is fast.
"""

from importlib import import_module
from importlib.metadata import version

__version__ = version("lammps-bg")
_API = (
    "System", "Model", "Frames", "Samples", "ExactFrames", "Dynamics", "FreeEnergy", "GibbsEnergies", "PhaseDiagram",
    "train", "load", "free_energy", "compare", "gibbs", "phase_diagram",
)  # fmt: skip
__all__ = ["__version__", "testsystems", *_API]


def __getattr__(name: str) -> object:
    """A name of the public interface, from the module that defines it."""
    if name == "testsystems":
        return import_module("lammps_bg.testsystems")
    if name in _API:
        return getattr(import_module("lammps_bg.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
