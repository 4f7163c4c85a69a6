# SPDX-License-Identifier: GPL-2.0-or-later
"""One file a command: its arguments and its wiring."""
