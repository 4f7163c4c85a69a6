#!/usr/bin/env bash
# Install lammps_bg with everything it needs, MPI included, into a new Python environment.
# Both Dockerfiles, the Apptainer definition and `make containers` call this.
#
#   docker/install.sh SOURCE ENVIRONMENT [cpu|cuda]
#
# SOURCE is a folder with pyproject.toml, constraints.txt and the package. Pip's own variables choose the package index; a file of
# torch without the CUDA libraries, which are several GB, is taken where an index offers one (see constraints.txt).
set -euo pipefail

source=${1:?expected the folder of the source}
environment=${2:?expected the folder of the new environment}
torch=${3:-cpu}

python3 -m venv "$environment"
pip=("$environment/bin/python" -m pip install --disable-pip-version-check --quiet --constraint "$source/constraints.txt")
# The build back end first, so that the package is built with the version in constraints.txt too.
"${pip[@]}" setuptools
"${pip[@]}" --no-build-isolation "${source}[ovito,plot]"

# One MPI: the launcher must be that of the library which LAMMPS and mpi4py load.
"$environment/bin/python" -c 'import sys; from mpi4py import MPI; sys.exit("MPICH" not in MPI.Get_library_version())' ||
  { echo "install.sh: expected mpi4py on MPICH, got another MPI; remove it from the library path" >&2; exit 2; }
cuda=$("$environment/bin/python" -c 'import torch; print(torch.version.cuda or "none")')
if [[ $torch == cuda && $cuda == none ]]; then
  echo "install.sh: expected torch with CUDA, got one without; let pip's index be one that offers it" >&2
  exit 2
fi
if [[ $torch == cpu && $cuda != none ]]; then
  echo "install.sh: note: this torch has the CUDA libraries, several GB; an index of CPU files avoids them, see docker/README.md" >&2
fi
