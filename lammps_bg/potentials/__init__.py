# SPDX-License-Identifier: GPL-2.0-or-later
"""What evaluates energies, behind one protocol (`surface.EnergySurface`).

A new energy source is one file in `sources`, a new pair style in torch one file in `pair_styles`; both are found by their file names. LAMMPS
remains the reference that the others are compared with, and `conformance` holds the test that every surface must pass.
"""
