# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of a run, one file each: problem -> training -> sampling -> estimates; and the check of a script."""
