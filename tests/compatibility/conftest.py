# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries are measured once, for all tests."""

import functools

import pytest
from measuring import measure


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """Gives what was measured of an entry, at the first call of each."""

    @functools.cache
    def of(entry):
        return measure(entry, tmp_path_factory.mktemp("entry"))

    return of
