# SPDX-License-Identifier: GPL-2.0-or-later
"""What only looks at a script does not wait for what trains flows."""

import subprocess
import sys

import pytest
from command_line import LJ, mw_crystal

UNNEEDED = ("torch", "ovito", "pymbar", "matplotlib", "jinja2")


@pytest.mark.parametrize("potential", ["lj", "mw"])
def test_without_torch(tmp_path, potential):
    """It takes more than a second to load; pair styles that there are in torch, too, are read without it."""
    script = mw_crystal(tmp_path) if potential == "mw" else tmp_path / "in.lj"
    if potential == "lj":
        script.write_text(LJ)
    program = (
        "import sys\nfrom lammps_bg.cli import main\n"
        "codes = [main([*words, '-in', sys.argv[1]]) for words in (['check'], ['check', '--json'], ['relax'])]\n"
        f"print(codes, [name for name in {UNNEEDED} if name in sys.modules], file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", program, script]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60)
    assert done.stderr.splitlines()[-1] == "[0, 0, 0] []"
