# SPDX-License-Identifier: GPL-2.0-or-later
"""What is sampled: units, structures, the reference crystal, its neighbour graph and symmetry."""
