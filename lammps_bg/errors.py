# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors a user can cause. Each message is one sentence: what was expected, what was given, what to do."""


class LammpsBGError(Exception):
    """Base class of every error with a sentence for the user; the command ends with `exit_code`."""

    exit_code = 2


class ConfigError(LammpsBGError):
    """A configuration key, value or command-line argument is not usable."""


class ScriptError(LammpsBGError):
    """The LAMMPS input script cannot be used."""


class PotentialError(LammpsBGError):
    """The script's potential is missing, incomplete or not in this LAMMPS."""


class CrystalError(LammpsBGError):
    """The structure is not a crystal this program can treat."""


class UnstableCrystalError(CrystalError):
    """The crystal has modes of negative stiffness that survive the self-consistent iteration."""


class StateError(LammpsBGError):
    """The thermodynamic state (temperature, pressure) is missing or out of range."""


class RunDirectoryError(LammpsBGError):
    """A run directory exists, is missing, or holds something this version cannot read."""


class FullDiskError(RunDirectoryError):
    """There is no space for a file; what was complete is untouched.

    Not the code that asks a queue to start the job again, for it would meet the same full disk.
    """

    exit_code = 1


class TrainingError(LammpsBGError):
    """Training cannot go on."""

    exit_code = 1


class MemoryLimitError(LammpsBGError):
    """The smallest piece of the work does not fit into memory."""

    exit_code = 1


class Interrupted(LammpsBGError):
    """The run was stopped by a signal; what it had made was saved.

    Args:
        message: The sentence for the user.
        exit_code: 130 after Ctrl-C; 75 after SIGTERM or SIGUSR1, by which a queue says that time is up: start me again with --resume.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
