# SPDX-License-Identifier: GPL-2.0-or-later
"""LAMMPS' own command-line flags, passed on as the user gave them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LammpsFlags:
    """Command-line flags of LAMMPS.

    Attributes:
        log: File of the LAMMPS log, or `none`.
        screen: File of the LAMMPS screen output, or `none`.
        suffix: Words after -suffix, for example `("omp",)`.
        package: One tuple of words for each -package.
        kokkos: Words after -kokkos.
        echo: Style of -echo, or empty.
        nocite: Whether LAMMPS' citation reminder is switched off.
    """

    log: str = "none"
    screen: str = "none"
    suffix: Sequence[str] = ()
    package: Sequence[Sequence[str]] = ()
    kokkos: Sequence[str] = ()
    echo: str = ""
    nocite: bool = False

    def cmdargs(self) -> list[str]:
        """The flags as a list of words for a LAMMPS instance."""
        args = ["-log", self.log, "-screen", self.screen]
        args += ["-nocite"] if self.nocite else []
        args += ["-echo", self.echo] if self.echo else []
        args += ["-kokkos", *self.kokkos] if self.kokkos else []
        args += ["-suffix", *self.suffix] if self.suffix else []
        for words in self.package:
            args += ["-package", *words]
        return args
