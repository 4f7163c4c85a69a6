# SPDX-License-Identifier: GPL-2.0-or-later
"""MPI ranks that the tests start give their core away while they wait: several on few cores spin for minutes otherwise."""

import os

os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
