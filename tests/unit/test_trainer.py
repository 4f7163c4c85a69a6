# SPDX-License-Identifier: GPL-2.0-or-later
"""The training loop on solvable crystals: it learns, resumes to the bit, undoes what diverges, keeps its budget."""

import contextlib
import math
import pickle

import numpy as np
import pytest
import torch
from lattices import SolvableSurface, crystal, springs

from lammps_bg.config import FlowConfig, TrainConfig
from lammps_bg.errors import FullDiskError, RunDirectoryError, TrainingError
from lammps_bg.flow.bases.phonon import PhononBase
from lammps_bg.flow.force_constants import finite_differences
from lammps_bg.flow.model import build_generator
from lammps_bg.interrupt import StopFlag
from lammps_bg.thermo.solvable import AnharmonicCrystal
from lammps_bg.training import checkpoint
from lammps_bg.training.optimisers import largest_rate
from lammps_bg.training.target import ExactTarget, SoftenedTarget
from lammps_bg.training.task import SingleState
from lammps_bg.training.trainer import Trainer

BETA = 20.0
LATTICE = crystal("fcc", (1, 1, 1))
HARMONIC = springs(LATTICE, beta=BETA, static_energy=-3.0)
ANHARMONIC = AnharmonicCrystal(HARMONIC, strength=1.5, width=0.3)


def trainer_of(solvable=ANHARMONIC, *, fails=None, **options):
    base = PhononBase(finite_differences(ANHARMONIC.energies_forces, LATTICE, np.zeros((4, 3)), 1e-4), BETA)
    generator = build_generator(FlowConfig(width=16, n_bins=4, n_sweeps=1), LATTICE, base, seed=3)
    surface = SolvableSurface(solvable, fails=fails)
    config = TrainConfig(**{"steps": 20, "batch_size": 32, "evaluate_every": 1000, "warmup_steps": 5, **options})
    targets = SoftenedTarget(surface, BETA, 4, 6.0), ExactTarget(SolvableSurface(solvable), BETA)
    return Trainer(SingleState(generator, *targets), config, seed=11)


def run(trainer, stop=None):
    records, saved = [], []
    trainer.run(stop if stop is not None else StopFlag(), report=records.append, save=saved.append)
    return records, saved


class StopAfter(StopFlag):
    """True from the given step of the trainer on."""

    def __init__(self, trainer, step):
        super().__init__()
        self.trainer, self.last = trainer, step

    def __bool__(self):
        return self.trainer.step >= self.last


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.mark.parametrize("objective", ["path", pytest.param("reparametrised", marks=pytest.mark.slow)])
def test_training_lowers_the_bound(objective):
    """The exact bound of 4000 fresh samples falls by more than 10 standard errors, and stays above the exact value (z > -5)."""
    trainer = trainer_of(objective=objective, steps=80, learning_rate=5e-3, evaluate_samples=4000, evaluate_every=80)
    before = trainer_of(steps=1, learning_rate=1e-12, evaluate_samples=4000)
    first, last = run(before)[0][-1], run(trainer)[0][-1]
    error = 2 * last.std_log_w / 4 / math.sqrt(4000)
    exact = -(ANHARMONIC.log_partition + BETA * HARMONIC.static_energy) / 4
    assert first.exact_bound - last.exact_bound > 10 * error
    assert last.exact_bound > exact - 5 * error
    assert last.free_energy == pytest.approx(exact, abs=5 * error)
    assert last.ess > first.ess


@pytest.mark.parametrize("objective", ["path", "reparametrised"])
def test_resuming_is_the_same_to_the_bit(objective, tmp_path):
    whole = trainer_of(objective=objective, steps=40, evaluate_every=10)
    records, _ = run(whole)
    half = trainer_of(objective=objective, steps=40, evaluate_every=10)
    first, saved = run(half, StopAfter(half, 17))
    assert half.step == 17
    checkpoint.save(tmp_path / "checkpoint.pt", saved[-1])
    rest = trainer_of(objective=objective, steps=40, evaluate_every=10)
    rest.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    second, _ = run(rest)
    state, resumed = whole.state_dict(), rest.state_dict()
    for timing in ("elapsed",):
        state.pop(timing), resumed.pop(timing)
    assert same(state, resumed)
    for a, b in zip(records, [*first, *second], strict=True):
        assert (a.step, a.bound, a.grad_norm, a.learning_rate, a.ess) == (b.step, b.bound, b.grad_norm, b.learning_rate, b.ess)


def test_the_saved_state_is_a_copy():
    trainer = trainer_of()
    state = trainer.state_dict()
    before = {key: value.clone() for key, value in state["flow"].items()}
    run(trainer)
    assert same(state["flow"], before)
    assert not same(trainer.state_dict()["flow"], before)


def test_diverging_steps_are_undone_and_counted():
    """Three batches of infinite energies at different times: training goes on from a snapshot with half the rate each time."""
    trainer = trainer_of(steps=60, fails=lambda call, u: np.full(len(u), call in (15, 16, 37)))
    records, _ = run(trainer)
    assert trainer.undone == records[-1].n_undone == 3
    assert trainer.damping == 0.125
    assert [r.step for r in records if r.n_bad] == [15, 16, 37]
    assert all(r.grad_norm == math.inf for r in records if r.n_bad)
    assert all(torch.isfinite(p).all() for p in trainer.task.flow.parameters())
    assert [r.step for r in records] == list(range(1, 61))


def test_an_undone_step_restores_the_weights():
    trainer = trainer_of(steps=10, fails=lambda call, u: np.full(len(u), call == 10))
    start = {key: value.clone() for key, value in trainer.task.flow.state_dict().items()}
    run(trainer)
    assert same(trainer.task.flow.state_dict(), start)


def test_a_few_infinite_energies_do_not_stop_a_step():
    trainer = trainer_of(fails=lambda call, u: np.arange(len(u)) < 4)
    records, _ = run(trainer)
    assert trainer.undone == 0
    assert all(r.n_bad == 4 and math.isfinite(r.grad_norm) for r in records)


@pytest.mark.parametrize("objective", ["path", "reparametrised"])
def test_finite_energies_with_infinite_forces_do_not_reach_the_weights(objective):
    class Forceless(SolvableSurface):
        def __call__(self, displacements):
            energies, forces = super().__call__(displacements)
            forces[0] = np.nan
            return energies, forces

    trainer = trainer_of(objective=objective, steps=5)
    trainer.task.first.softened.surface = Forceless(ANHARMONIC)
    run(trainer)
    assert all(torch.isfinite(p).all() for p in trainer.task.flow.parameters())


def test_a_bad_step_at_a_snapshot_does_not_spoil_the_snapshot():
    """Weights ruined by the very step after which a snapshot is due: training must fall back behind it, not onto it."""
    trainer = trainer_of(steps=60)
    step = trainer.optimiser.step

    def ruin():
        step()
        if trainer.step == 19:
            with torch.no_grad():
                for parameter in trainer.task.flow.parameters():
                    parameter.add_(1e6)

    trainer.optimiser.step = ruin
    records, _ = run(trainer)
    assert 1 <= trainer.undone <= 3
    assert records[-1].bound < records[0].bound + 0.5


def test_training_that_keeps_diverging_is_an_error():
    trainer = trainer_of(steps=500, fails=lambda call, u: np.full(len(u), call > 30))
    with pytest.raises(TrainingError, match="diverging steps.*32 of 32 samples without finite energy"):
        run(trainer)


def test_schedule():
    """Linear warm-up, then down a cosine to a thousandth."""
    trainer = trainer_of(steps=40, warmup_steps=10, learning_rate=2e-3)
    records, _ = run(trainer)
    rates = [r.learning_rate for r in records]
    expected = [2e-3 * min(1, (s + 1) / 10) * (0.5 * (1 + math.cos(math.pi * s / 40)) + 1e-3) for s in range(40)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert np.argmax(rates) == 9


def test_the_time_budget_ends_training():
    trainer = trainer_of(steps=100_000, max_seconds=0.5)
    records, saved = run(trainer)
    assert 0.5 <= trainer.elapsed < 5
    assert 1 <= len(records) < 100_000
    assert records[-1].ess is not None
    assert records[-1].learning_rate < 0.5 * largest_rate(trainer.config)
    assert len(saved) == 1


def test_no_steps_save_the_identity():
    records, saved = run(trainer_of(steps=0))
    assert records == []
    assert saved[0]["step"] == 0


def test_evaluations_are_exact_and_of_their_own_samples():
    """Every `evaluate_every` steps and at the end; they do not change what is trained."""
    often, never = trainer_of(steps=15, evaluate_every=5), trainer_of(steps=15)
    records, _ = run(often)
    assert [r.step for r in records if r.ess is not None] == [5, 10, 15]
    assert all(0 < r.ess <= 1 for r in records if r.ess is not None)
    run(never)
    assert same(often.state_dict()["flow"], never.state_dict()["flow"])


def test_evaluation_of_a_harmonic_crystal_is_exact():
    base = PhononBase(finite_differences(HARMONIC.energies_forces, LATTICE, np.zeros((4, 3)), 1e-3), BETA)
    trainer = trainer_of(HARMONIC, steps=1, learning_rate=1e-12)
    trainer.task.first.generator.prior.base = base
    (record,), _ = run(trainer)
    exact = -(HARMONIC.log_partition + BETA * HARMONIC.static_energy) / 4
    assert record.exact_bound == pytest.approx(exact, abs=1e-4)
    assert record.free_energy == pytest.approx(exact, abs=1e-4)
    assert record.ess == pytest.approx(1, abs=1e-4)


class _Dangerous:
    """Unpickling this would call a function."""

    def __reduce__(self):
        return (_Dangerous.fire, ())

    fired = False

    @classmethod
    def fire(cls):
        cls.fired = True


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    for name, write in (("a.pt", torch.save), ("b.pt", pickle.dump)):
        with (tmp_path / name).open("wb") as file:
            write({"format": "lammps-bg", "version": 2, "x": _Dangerous()}, file)
        with pytest.raises(RunDirectoryError, match="damaged or foreign"):
            checkpoint.load(tmp_path / name)
    assert not _Dangerous.fired


def test_damaged_checkpoints_are_refused(tmp_path):
    """Truncated at many places, with bytes changed, empty, text, a folder: one sentence each, whatever torch makes of it."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": torch.arange(50.0), "name": "text", "list": [1, 2.5, None]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt"]
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    assert checkpoint.load(path)["list"] == [1, 2.5, None]
    contents = [whole[:n] for n in range(0, len(whole), 61)] + [b"", b"text\n", b"\x80\x02.", bytes(range(256)) * 4]
    contents += [rng.bytes(n) for n in (1, 10, 1000)] + [b"PK\x03\x04" + rng.bytes(100)]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(RunDirectoryError, match="^expected"):
            checkpoint.load(path)
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.integers(len(changed))] = rng.integers(256)
        path.write_bytes(bytes(changed))
        with contextlib.suppress(RunDirectoryError):
            checkpoint.load(path)
    with pytest.raises(RunDirectoryError, match="damaged or foreign"):
        checkpoint.load(tmp_path)
    with pytest.raises(RunDirectoryError, match="got none"):
        checkpoint.load(tmp_path / "absent.pt")


def test_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    for content, message in (
        (torch.ones(3), "another kind of file"),
        ({"model": 1}, "another kind of file"),
        ({"format": "lammps-bg", "version": 999}, "model format 2"),
        ({"format": "lammps-bg"}, "got None"),
    ):
        torch.save(content, path)
        with pytest.raises(RunDirectoryError, match=message):
            checkpoint.load(path)


def test_a_failed_save_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"x": 1})
    (tmp_path / "checkpoint.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(FullDiskError, match="the disk is full .* what was complete is untouched"):
        checkpoint.save(path, {"x": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.load(path)["x"] == 1


def test_pieces_of_a_batch_give_the_gradient_of_the_whole():
    """32 samples at once or five at a time: the same samples, weights that agree to rounding after ten steps."""
    whole, pieces = trainer_of(steps=10, optimiser="adam"), trainer_of(steps=10, optimiser="adam", sites_at_once=20)
    for trainer in (whole, pieces):
        trainer.task.flow.double()
    records = [run(trainer)[0] for trainer in (whole, pieces)]
    assert pieces._pieces.size == 5
    for one, two in zip(*records, strict=True):
        assert two.n_bad == 0
        assert one.bound == pytest.approx(two.bound, rel=1e-6)


def test_a_step_that_runs_out_of_memory_goes_on_in_pieces(caplog):
    trainer = trainer_of(steps=4)
    objective = trainer.objective

    def limited(generator, target, start):
        if len(start) > 10:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return objective(generator, target, start)

    trainer.objective = limited
    records, _ = run(trainer)
    assert [r.n_bad for r in records] == [0] * 4
    assert caplog.text.count("memory ran out with 32 samples of a training step") == 1
