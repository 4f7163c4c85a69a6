# SPDX-License-Identifier: GPL-2.0-or-later
"""Boltzmann generators for crystals, coupled to LAMMPS."""

from importlib.metadata import version

__version__ = version("lammps-bg")
