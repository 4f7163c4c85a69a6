# SPDX-License-Identifier: GPL-2.0-or-later
"""The package from Python: the numbers of the commands, from any folder, without one."""

import doctest
import json
import shutil

import numpy as np
import pytest
from command_line import TINY, TINY_MD, call, use
from lammps_scripts import INPUTS

import lammps_bg as bg
from lammps_bg import api
from lammps_bg.engine.dump import read_dump
from lammps_bg.errors import ConfigError, StateError

SETTINGS = {key: value for key, _, value in (word.partition("=") for word in TINY[1:-1:2])}
EXACT = {"exact.max_evaluations": "20000", "estimate.target_error": "0.01"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(INPUTS / "in.lj_fcc", folder / "in.lj")
    return folder


@pytest.fixture(scope="module")
def crystal(folder):
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder.parent)  # not the folder of the script
        yield bg.System.from_lammps(folder / "in.lj", replicate=(2, 2, 2))


@pytest.fixture(scope="module")
def model(crystal):
    return bg.train(crystal, seed=1, settings={**SETTINGS, **EXACT})


@pytest.fixture(scope="module")
def samples(model):
    return model.sample()


def test_numbers_of_the_command(capsys, tmp_path, monkeypatch, folder, samples):
    use(monkeypatch, tmp_path)
    assert call(capsys, tmp_path, "run", "-in", folder / "in.lj", "-rep", 2, 2, 2, "-out", "run", *TINY).code == 0
    table = np.loadtxt(tmp_path / "run" / "samples.csv", delimiter=",", skiprows=1)
    assert (table[:, 1:] == np.stack((samples.energies, samples.log_q, samples.log_w), 1)).all()
    loaded = bg.load(tmp_path / "run")
    assert (loaded.sample().log_w == samples.log_w).all()


def test_the_free_energy_of_draws(model, samples):
    found = bg.free_energy(samples)
    assert found.estimates.values["tfep"].result.n == len(samples) == 64
    assert samples.ess == found.estimates.weights.ess_fraction
    assert found.verdict.colour in repr(found)
    with pytest.raises(ConfigError, match="for an energy in epsilon, got 'eV'"):
        found.to("eV")


def test_notebook_representations(samples, exact, tmp_path):
    """Number, verdict and a figure; where two estimates have a number, they stand side by side."""
    found = bg.free_energy(samples, exact)
    for shown in (samples, exact, found):
        page = shown._repr_html_()
        assert f"&#9679; {shown.verdict.colour}</span>: " in page
        assert page.count("<img") == 1
        assert repr(shown).count("verdict ") == 1
    assert f"{len(exact)} exact configurations, potential energy " in exact._repr_html_()
    assert f"{samples.ess:.1%}" in samples._repr_html_()
    page = found._repr_html_()
    assert f"beta F/N = {api.with_error(found.value, found.error, 'kT')}, F/N = {found.to()}" in page
    assert "static lattice" in page


def test_a_model_on_another_supercell_and_back_from_its_folder(model, samples, tmp_path):
    larger = model.at(replicate=(3, 2, 2))
    assert larger.sample(16).u.shape == (16, 48, 3)
    folder = larger.save(tmp_path / "model")
    again = bg.load(folder)
    assert again.system.n_atoms == 48
    assert (again.sample(16).log_w == larger.sample(16).log_w).all()
    with pytest.raises(StateError, match="expected what the model was trained with, temperature"):
        model.at(T=1.5)


@pytest.fixture(scope="module")
def exact(model):
    return model.sample_exact(100)


def test_exact_configurations(model, exact):
    assert len(exact) == 100
    assert exact.u.shape == (100, 32, 3)
    assert np.abs(exact.u.mean(1)).max() < 1e-6
    assert exact.system.problem.surface.energies(exact.u) == pytest.approx(exact.energies)
    found = bg.free_energy(model.sample(), exact)
    assert found.estimates.best is found.estimates.values["exact"]
    assert found.error < 0.02
    assert found.value == pytest.approx(sum(found.terms.values()))


def test_chains_that_came_to_nothing(crystal):
    """No configuration, no number, a red verdict that says why; nothing breaks."""
    model = bg.train(crystal, settings={**SETTINGS, "exact.max_evaluations": "20"})
    none = model.sample_exact(5)
    assert none.u.shape == (0, 32, 3)
    assert none.to_ase() == []
    assert none.verdict.colour == "red"
    assert "0 exact configurations" in none._repr_html_()


def test_written_frames(samples, tmp_path):
    frames = list(read_dump(samples.write(tmp_path / "samples.dump.gz")))
    assert len(frames) == len(samples)
    atoms = samples.to_ase()
    assert np.allclose(atoms[3].positions, frames[3].positions[np.argsort(frames[3].ids)])
    log_w = np.array([entry.info["log_w"] for entry in atoms])
    assert log_w - log_w[0] == pytest.approx(samples.log_w - samples.log_w[0])
    assert np.isfinite(np.exp(log_w)).all()


def test_doctests(crystal, model, samples, exact):
    names = {"bg": bg, "crystal": crystal, "model": model, "samples": samples, "exact": exact}
    names["F"] = bg.free_energy(samples, exact)
    assert doctest.testmod(api, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_energy_units():
    number = api.Quantity(-1.23456, 0.0123, "eV")
    assert repr(number) == "-1.235 ± 0.012 eV"
    assert api._ENERGIES["kcal/mol"] / api._ENERGIES["kJ/mol"] == pytest.approx(4.184)


@pytest.mark.slow
def test_gibbs_of_the_command(capsys, tmp_path, monkeypatch, folder):
    """A model over volumes, trained and minimised without a folder: the command's G."""
    use(monkeypatch, tmp_path)
    over = {"condition.volume": "[-0.03,0.03]", "gibbs.n_samples": "64", "gibbs.n_volumes": "5", "gibbs.n_repeats": "3"}
    words = [word for key, value in over.items() for word in ("--set", f"{key}={value}")]
    assert call(capsys, tmp_path, "train", "-in", folder / "in.lj", "-rep", 2, 2, 2, "-out", "run", *TINY, *words).code == 0
    assert call(capsys, tmp_path, "gibbs", "-model", "run", "-P", 42, "-out", "gibbs", "--allow-red").code == 0
    model = bg.train(bg.System.from_lammps(folder / "in.lj", replicate=(2, 2, 2)), settings={**SETTINGS, **over})
    gibbs = bg.gibbs(model, P=42)
    (row,) = gibbs.rows
    for shown in (repr(gibbs), gibbs._repr_html_()):
        assert api.with_error(row.beta_g.value, row.beta_g.error, "kT") in shown
        assert "P = 42 epsilon/sigma^3" in shown
        assert gibbs.verdict.reasons[0] in shown
    assert "<img" in gibbs._repr_html_()
    stored = json.loads((tmp_path / "gibbs" / "results.json").read_text())["gibbs"]["states"][0]
    assert row.beta_g.value == pytest.approx(stored["beta_G_per_atom"]["value"], rel=1e-12)  # a stored model is rounded once more
    with pytest.raises(ConfigError, match="expected a model that was trained over cells"):
        bg.gibbs(bg.train(model.system, settings=SETTINGS), P=10)


def test_draws_beside_molecular_dynamics(crystal, model, samples, tmp_path):
    """The same estimates from frames in memory; a dump file of them is one of somebody else's."""
    settings = {key: value for key, _, value in (word.partition("=") for word in TINY_MD[1::2]) if key.startswith("md.")}
    frames = crystal.md(n_frames=200, settings=settings)
    assert frames.u.shape[1:] == (32, 3)
    assert len(frames) >= 50
    found = bg.compare(samples, frames)
    assert {"tfep", "tfep_reverse", "bar"} <= found.estimates.values.keys()
    assert "BAR (flow and MD): " in repr(found)
    again = bg.compare(samples, frames.write(tmp_path / "md.dump"))
    assert again.estimates.comparison.n_independent >= 50
