# SPDX-License-Identifier: GPL-2.0-or-later
"""The option that writes the golden command streams anew."""


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/*.txt anew; read the difference before you commit it"
    )
