# SPDX-License-Identifier: GPL-2.0-or-later
"""A trained model on other supercells, states and potentials; LAMMPS as the judge; memory that runs out; auxiliary draws over their number."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
from command_line import LJ, TINY, call, mw_crystal, use

from lammps_bg.cli import main
from lammps_bg.flow.generator import Generator

FEW = ["--set", "exact.mode=never", "--set", "sample.n_samples=64", "--set", "estimate.n_bootstraps=50", "--allow-red"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A flow of mW, and flows of both other architectures of Lennard-Jones."""
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        assert main(["run", "-in", str(mw_crystal(folder)), "-out", "mw", *TINY]) == 0
        (folder / "in.lj").write_text(LJ)
        for kind in ("augmented", "global"):
            settings = ["--set", f"flow.kind={kind}", "--set", "flow.n_layers=1", "--set", "estimate.marginal_draws=12"]
            assert main(["run", "-in", "in.lj", "-rep", "2", "2", "2", "-out", kind, *TINY, *settings]) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of it all as the current folder."""
    target = tmp_path / "copy"
    shutil.copytree(made, target)
    use(monkeypatch, target)
    return target


def results(folder, name):
    return json.loads((folder / name / "results.json").read_text())


def column(folder, name, key):
    with (folder / name / "samples.csv").open(newline="") as stream:
        return np.array([float(row[key]) for row in csv.DictReader(stream)])


def test_another_supercell(folder, capsys):
    """Twice as long: the same weights on a base of that size; energies per atom agree within the noise of 64 samples."""
    spoken = call(capsys, folder, "sample", "-model", "mw", "-rep", "2", "2", "1", "-out", "large", *FEW)
    assert spoken.code == 0, spoken.error
    assert "trained on 1 x 1 x 1 cells" in spoken.out
    assert spoken.out.index("model  ") < spoken.out.index("base  ")  # the base is refined through the flow
    small, large = results(folder, "mw"), results(folder, "large")
    assert (small["system"]["n_atoms"], large["system"]["n_atoms"]) == (8, 32)
    ratio = column(folder, "large", "pe").mean() / column(folder, "mw", "pe").mean()
    assert ratio == pytest.approx(4, rel=1e-2)
    assert np.isfinite(column(folder, "large", "log_w")).all()


def test_the_interpolated_base_stays_where_no_iterations_are_wanted(folder, capsys):
    words = ["sample", "-model", "mw", "-rep", "2", "1", "1", "-out", "plain", *FEW, "--set", "base.iterations=0"]
    spoken = call(capsys, folder, *words)
    assert spoken.code == 0, spoken.error
    assert results(folder, "plain")["base"]["history"] == []
    assert "adapted to this supercell and state: beta F/N <=" in spoken.out


def test_another_temperature_needs_force_and_keeps_exact_weights(folder, capsys, caplog):
    refused = call(capsys, folder, "sample", "-model", "mw", "-var", "T", "220", "-out", "warm", *FEW)
    assert refused.code == 2
    assert "temperature 200.0, got 220.0" in refused.error
    assert "--force" in refused.error
    assert refused.changed == set()
    spoken = call(capsys, folder, "sample", "-model", "mw", "-var", "T", "220", "-out", "warm", "--force", *FEW)
    assert spoken.code == 0, spoken.error
    assert "another state (temperature 200.0, got 220.0)" in caplog.text
    found = results(folder, "warm")["system"]
    log_w, log_q, pe = (column(folder, "warm", key) for key in ("log_w", "log_q", "pe"))
    np.testing.assert_allclose(log_w, -found["beta"] * pe - log_q, atol=1e-6)
    assert found["temperature"] == 220


def test_another_potential_needs_force(folder, capsys, caplog):
    text = (folder / "potentials" / "mW.sw").read_text()
    (folder / "potentials" / "mW.sw").write_text(text.replace("23.15", "22.5"))
    words = ["sample", "-model", "mw", "-in", "in.mw", "-out", "bent", *FEW]
    refused = call(capsys, folder, *words)
    assert refused.code == 2
    assert "mW.sw has changed" in refused.error
    spoken = call(capsys, folder, *words, "--force")
    assert spoken.code == 0, spoken.error
    assert "mW.sw has changed" in caplog.text
    assert results(folder, "bent")["system"]["static_energy_per_atom"] == pytest.approx(
        -12.378, abs=1e-3
    )  # ideal angles cost nothing


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lattice diamond 6.2", "lattice diamond 6.1", "expected the unit cell that the model was trained on"),
        ("lattice diamond 6.2", "lattice fcc 6.2", "expected the species that the model was trained on"),
        ("pair_coeff * * potentials/mW.sw mW", "pair_coeff * * Si.sw Si", "expected the species that the model was trained on"),
    ],
)
def test_another_crystal_is_refused_even_by_force(folder, capsys, old, new, message):
    script = (folder / "in.mw").read_text()
    assert old in script
    (folder / "in.other").write_text(script.replace(old, new))
    spoken = call(capsys, folder, "sample", "-model", "mw", "-in", "in.other", "-out", "no", "--force", *FEW)
    assert spoken.code == 2
    assert "expected" in spoken.error
    assert message in spoken.error or "every atom on a crystal site" in spoken.error
    assert spoken.changed == set()


def test_attention_over_all_atoms_belongs_to_its_supercell(folder, capsys):
    spoken = call(capsys, folder, "sample", "-model", "global", "-rep", "3", "2", "2", "-out", "no", *FEW)
    assert spoken.code == 2
    assert "expected -rep 2 2 2, on which this flow with attention over all atoms was trained, got 3 2 2" in spoken.error
    assert spoken.changed == set()


def test_lammps_judges_samples_of_the_potential_in_torch(folder, capsys):
    """The same samples by torch, by torch with LAMMPS as the judge, and by LAMMPS: one set of weights."""
    found = {}
    for name, words in {
        "torch": ["--set", "energy.source=torch"],
        "judged": ["--set", "energy.source=torch", "--judge", "lammps"],
        "lammps": ["--set", "energy.source=lammps"],
    }.items():
        spoken = call(capsys, folder, "sample", "-model", "mw", "-out", name, *FEW, *words)
        assert spoken.code == 0, spoken.error
        assert ("LAMMPS gave the weights of 64 samples; the largest difference" in spoken.out) == (name == "judged")
        found[name] = column(folder, name, "log_w")
    entry = results(folder, "judged")["sampling"]["judge"]
    assert entry["n_samples"] == 64
    assert 0 <= entry["largest_difference_kT"] < 1e-8
    assert "judge" not in results(folder, "torch")["sampling"]
    np.testing.assert_allclose(found["judged"], found["lammps"], atol=1e-9)
    np.testing.assert_allclose(found["torch"], found["lammps"], atol=1e-7)
    assert call(capsys, folder, "estimate", "-model", "judged", "--allow-red").code == 0
    assert results(folder, "judged")["sampling"]["judge"] == entry


def test_memory_that_runs_out_is_told_once_and_changes_nothing(folder, capsys, caplog, monkeypatch):
    assert call(capsys, folder, "sample", "-model", "mw", "-out", "plenty", *FEW).code == 0
    push, calls = Generator.push, []

    def limited(generator, start):
        calls.append(len(start))
        if len(start) > 10:
            raise MemoryError
        return push(generator, start)

    monkeypatch.setattr(Generator, "push", limited)
    spoken = call(capsys, folder, "sample", "-model", "mw", "-out", "scarce", *FEW)
    assert spoken.code == 0, spoken.error
    assert caplog.text.count("memory ran out") == 1
    assert calls == [64, 32, 16, *[8] * 8]
    np.testing.assert_allclose(column(folder, "scarce", "log_w"), column(folder, "plenty", "log_w"), atol=1e-3)

    def nothing(generator, start):
        raise MemoryError

    monkeypatch.setattr(Generator, "push", nothing)
    spoken = call(capsys, folder, "sample", "-model", "mw", "-out", "none", *FEW)
    assert spoken.code == 1
    assert "expected memory for one of the samples, got too little" in spoken.error
    assert "Traceback" not in spoken.error


def test_auxiliary_draws_over_their_number(folder):
    """From 1 to 12 draws: the first row is the joint density, the last one that of the estimate; without fresh ones for one draw."""
    found = results(folder, "augmented")["sampling"]
    rows = found["marginal_over_draws"]
    assert [row["draws"] for row in rows] == [1, 2, 5, 10, 12]
    assert all(0 < row["ess"] <= 1 and math.isfinite(row["beta_F_per_atom"]) for row in rows)
    assert [("beta_F_per_atom_fresh" in row) for row in rows] == [True] * 4 + [False]  # of 12 draws 11 are fresh
    assert rows[-1]["ess"] == pytest.approx(found["ess_marginal"]) or found["ess_marginal"] is None
    assert rows[0]["ess"] == pytest.approx(found["ess"], rel=1e-6)


def test_the_judge_of_what_lammps_evaluated_has_nothing_to_compare(folder, capsys):
    spoken = call(
        capsys, folder, "sample", "-model", "mw", "-out", "own", *FEW, "--set", "energy.source=lammps", "--judge", "lammps"
    )
    assert spoken.code == 0, spoken.error
    assert "LAMMPS evaluated the samples in the first place" in spoken.out
    assert results(folder, "own")["sampling"]["judge"]["largest_difference_kT"] == 0
    refused = call(capsys, folder, "estimate", "-model", "own", "--set", "energy.judge=none")
    assert refused.code == 2
    assert "expected `lammps-bg estimate` with the energy of the run" in refused.error


def test_a_base_of_an_augmented_flow_is_measured_where_it_is_used(folder, capsys):
    """Not refined through the flow, but its bound is that of this temperature: above the free energy there."""
    spoken = call(capsys, folder, "sample", "-model", "augmented", "-var", "T", "1.0", "-out", "cold", "--force", *FEW)
    assert spoken.code == 0, spoken.error
    cold, warm = (results(folder, name)["base"]["beta_F_per_atom_bound"] for name in ("cold", "augmented"))
    assert cold["bound"] < warm["bound"] - 1  # beta E dominates at low temperature
    bound = results(folder, "cold")["estimates"]["bound"]["beta_F_per_atom"]
    assert cold["bound"] == pytest.approx(bound["value"], abs=0.3)


def test_another_optimiser_cannot_continue(folder, capsys):
    spoken = call(capsys, folder, "run", "-out", "mw", "--resume", "--set", "train.optimiser=adam")
    assert spoken.code == 2
    assert "with the train.optimiser of the run, got another value" in spoken.error


def test_heads_of_attention_need_a_width(folder, capsys):
    spoken = call(capsys, folder, "run", "-in", "in.lj", "-out", "no", "--set", "flow.kind=global", "--set", "flow.width=30")
    assert spoken.code == 2
    assert "a multiple of its 4 heads" in spoken.error
    assert spoken.changed == set()


def test_a_refined_base_is_stored_with_the_samples(folder, capsys):
    """Estimates from samples at another size do not fit the base again, and it is the one the samples were drawn with."""
    assert call(capsys, folder, "sample", "-model", "mw", "-rep", "2", "1", "1", "-out", "large", *FEW).code == 0
    before = results(folder, "large")["base"]
    spoken = call(capsys, folder, "estimate", "-model", "large", "--allow-red")
    assert spoken.code == 0, spoken.error
    assert "trained on 1 x 1 x 1 cells" in spoken.out
    assert "base  " not in spoken.out.split("Helmholtz")[0]
    assert results(folder, "large")["base"] == before
    again = call(capsys, folder, "sample", "-model", "large", "-out", "again", *FEW)
    assert again.code == 0, again.error
    np.testing.assert_allclose(column(folder, "again", "log_w"), column(folder, "large", "log_w"), atol=1e-6)
