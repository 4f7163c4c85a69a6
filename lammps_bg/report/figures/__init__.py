# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of the report: for each one a function from the run to plain data, and one that draws these data and nothing else."""
