# SPDX-License-Identifier: GPL-2.0-or-later
"""What conditions cost: ESS in one state of models trained over ranges, against that of a model of this state alone, at equal steps.

    python tests/benchmarks/bench_conditional.py                 # cubic ice, 64 molecules: about four minutes on two cores
    python tests/benchmarks/bench_conditional.py --steps 1000
    python tests/benchmarks/bench_conditional.py --script inputs/in.lj_fcc --rep 3 3 3

Ratios within one run, all from the same number of samples; the state is that of the script.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from lammps_bg.config import load_config
from lammps_bg.interrupt import StopFlag
from lammps_bg.progress import SILENT
from lammps_bg.study.energies import choose_source
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.study.training import Unrecorded, prepare
from lammps_bg.thermo.sampler import draw
from lammps_bg.thermo.weights import effective_sample_size
from lammps_bg.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
SAMPLES = 2048


def cases(temperature):
    """Name and settings of the models."""
    warm = f"condition.temperature=[{0.75 * temperature:g},{1.25 * temperature:g}]"
    return {
        "this state alone": (),
        "volume": ("condition.volume=[-0.06,0.06]",),
        "volume, T": ("condition.volume=[-0.06,0.06]", warm),
        "volume, c/a, b/a, T": (
            *("condition.volume=[-0.06,0.06]", "condition.c_over_a=[-0.03,0.03]", "condition.b_over_a=[-0.03,0.03]"),
            warm,
        ),
    }


def trained(problem, config):
    """The generator of the script's state, and the seconds of base and training."""
    start = time.perf_counter()
    prepared = prepare(problem, config, SILENT, StopFlag(), Unrecorded())
    fitted = time.perf_counter() - start
    Trainer(prepared.task, config.train, seed=config.seed).run(StopFlag(), report=lambda record: None, save=lambda state: None)
    seconds = time.perf_counter() - start - fitted
    model = prepared.model
    generator = model.at(model.own_values(problem))[1] if model else next(prepared.task.evaluated()).generator
    return generator, fitted, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, default=ROOT / "inputs" / "in.mw_cubic")
    parser.add_argument("--rep", nargs=3, type=int, default=(2, 2, 2))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    print(f"{options.script.name} {' x '.join(map(str, options.rep))}, {options.steps} steps, {SAMPLES} samples")
    print(f"{'conditions':24s} {'ESS':>7s} {'of alone':>9s} {'base s':>7s} {'train s':>8s}")
    alone = None
    with Problem.load(ScriptRequest(options.script, {}, tuple(options.rep))).engine as engine:
        temperature = engine.variable("T")
    for name, settings in cases(temperature).items():
        problem = Problem.load(ScriptRequest(options.script, {}, tuple(options.rep)))
        with problem.engine:
            config = load_config(None, (f"train.steps={options.steps}", "energy.source=lammps", *settings))
            choose_source(problem, config, SILENT)
            generator, fitted, seconds = trained(problem, config)
            log_w = np.concatenate([chunk.log_w for chunk in draw(generator, problem.exact_target(), SAMPLES, seed=5)])
        ess = effective_sample_size(log_w) / len(log_w)
        alone = alone or ess
        print(f"{name:24s} {ess:7.1%} {ess / alone:9.2f} {fitted:7.1f} {seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
