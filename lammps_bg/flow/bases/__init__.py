# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of base, one file each, which `base.kind` calls by the file's name; see `lammps_bg.flow.base` for what such a file holds."""
