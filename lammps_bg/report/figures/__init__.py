# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of the report. Each module of this folder lists its own in `FIGURES`; a page asks for them by name, in its order."""

import importlib
import pkgutil

from lammps_bg.report.figures.style import FigureKind


def figure_kinds() -> dict[str, FigureKind]:
    """All figures by name."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {kind.name: kind for module in modules for kind in getattr(module, "FIGURES", ())}
