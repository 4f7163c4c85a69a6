# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets, objectives, the one training loop and its checkpoints."""
