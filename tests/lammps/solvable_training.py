# SPDX-License-Identifier: GPL-2.0-or-later
"""Run under mpirun: trains on a solvable crystal in float64 and writes the course and the weights of every rank."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from test_trainer import run, trainer_of  # noqa: E402

from lammps_bg import parallel  # noqa: E402
from lammps_bg.training.ranks import MpiRanks, TorchRanks  # noqa: E402


def main(out: Path, how: str, batch_size: int) -> None:
    torch.set_num_threads(1)
    trainer = trainer_of(steps=25, batch_size=batch_size, evaluate_every=10, evaluate_samples=50, warmup_steps=2)
    trainer.task.flow.double()
    trainer.ranks = MpiRanks() if how == "mpi" else TorchRanks(torch.device("cpu"), "gloo")
    records, saved = run(trainer)
    course = [(r.step, r.bound, r.std_log_w, r.grad_norm, r.n_bad, r.ess, r.exact_bound, r.free_energy) for r in records]
    weights = torch.cat([p.detach().flatten() for p in trainer.task.flow.parameters()])
    torch.save({"course": course, "weights": weights, "n_saved": len(saved)}, out / f"{parallel.size()}-{parallel.rank()}.pt")
    if isinstance(trainer.ranks, TorchRanks):
        trainer.ranks.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
