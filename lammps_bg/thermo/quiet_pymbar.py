# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to pymbar: imported when first needed (it takes 0.3 s), without its banners and pages of log."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import numpy as np


@cache
def _load() -> ModuleType:
    os.environ.setdefault("PYMBAR_DISABLE_JAX", "1")
    # The callers check for themselves what pymbar only logs: non-finite input, missing overlap, no convergence
    logging.getLogger("pymbar").setLevel(logging.CRITICAL)
    import pymbar

    return pymbar


@contextmanager
def quiet_pymbar() -> Iterator[ModuleType]:
    """The module pymbar, with numpy's floating-point warnings off; pymbar changes these settings and leaves them changed."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield _load()
