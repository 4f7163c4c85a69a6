# SPDX-License-Identifier: GPL-2.0-or-later
"""Densities on displacements: Gaussian bases, bijections with log-determinant, conditioners, and the flows made of them."""
