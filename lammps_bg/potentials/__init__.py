# SPDX-License-Identifier: GPL-2.0-or-later
"""Batched potentials in torch, equal to LAMMPS, for scripts whose pair style is one of them; LAMMPS stays the judge."""
