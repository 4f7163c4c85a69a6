# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written and read back: run folders, locks, status, provenance, tables, results; no physics and no HTML."""
