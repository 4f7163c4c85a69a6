# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples and weights, free energies, their errors and verdicts; solvable test crystals."""
