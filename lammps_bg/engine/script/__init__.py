# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a user's LAMMPS script. A module imports from those before it alone.

text (lines and words), rules (what commands do), trace (what was executed), files (where they are found), left_out (what was not), variables
(what they hold), interpreter (control flow), reader (what defines the crystal is sent, what acts is skipped), parameters (sent again).
"""
