# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx: `make docs` builds the pages of docs/ and examples/ into build/docs, warnings as errors.

The source is the root of the repository, so that a link from page to page is the same here and in a file browser.
"""

import importlib.metadata

project = "lammps_bg"
author = "the lammps_bg authors"
release = version = importlib.metadata.version("lammps-bg")
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "examples/**/*.md", "docker/README.md", "tests/benchmarks/scaling/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"lammps_bg {release}"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
