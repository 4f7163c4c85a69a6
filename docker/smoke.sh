#!/usr/bin/env bash
# Does an installed lammps-bg work? Seconds, in a folder of its own that is removed again.
# The images run it while they are built; it runs as well in any environment with lammps-bg and mpirun on the PATH.
#
#   docker/smoke.sh INPUTS
#
# INPUTS is a folder with in.lj_fcc.
set -euo pipefail

inputs=$(cd "${1:?expected the folder with in.lj_fcc}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export TMPDIR=$work          # caches of torch go there too
export OMP_NUM_THREADS=1     # builders are often shared, and these steps are small

crystal=(-in "$inputs/in.lj_fcc" -rep 2 2 2)
tiny=(
  base.iterations=1 base.pilot_steps=0 base.n_samples=50 flow.width=8 flow.n_bins=2
  train.steps=4 train.batch_size=16 train.evaluate_samples=16 sample.n_samples=64 sample.n_dump=8 sample.picture=false exact.max_evaluations=2000
  estimate.n_bootstraps=50 estimate.report=false md.n_frames=50 md.damp=0.1 md.sample_every=20
  md.replicas=2 md.n_dump=20 estimate.rdf_samples=20
)
settings=()
for setting in "${tiny[@]}"; do settings+=(--set "$setting"); done

lammps-bg --version
lammps-bg check "${crystal[@]}"
lammps-bg run "${crystal[@]}" "${settings[@]}" --allow-red -out run
mpirun -n 2 lammps-bg md "${crystal[@]}" "${settings[@]}" --allow-red -out md
for file in run/results.json run/samples.dump.gz md/results.json; do
  [[ -s $file ]] || { echo "smoke.sh: expected $file, got none" >&2; exit 1; }
done
echo "smoke.sh: lammps-bg works here"
