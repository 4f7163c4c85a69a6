# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad input through the command line: exit code 2, one sentence, no work done, nothing written or lost."""

import importlib
import json
import os
import pickle
import shutil

import pytest
import torch
from command_line import LJ, MW, TINY, call, contents, mw_crystal

from lammps_bg.cli import main
from lammps_bg.commands import run_steps

BIG = LJ.replace("block 0 1 0 1 0 1", "block 0 3 0 3 0 3")
RANDOM = """
variable T index 1
units lj
region cell block 0 5 0 5 0 5
create_box 1 cell
create_atoms 1 random 100 12345 NULL overlap 0.9 maxtry 500
mass 1 1
pair_style lj/cut 2.5
pair_coeff 1 1 1 1
"""


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LAMMPS_POTENTIALS", "")  # a stored run adds its own folder; this restores it


@pytest.fixture
def refused(tmp_path, capsys):
    """Calls the command and expects one sentence, exit code 2, and an untouched folder."""

    def call_and_expect(message, *words):
        spoken = call(capsys, tmp_path, *words)
        assert spoken.code == 2
        assert spoken.error.startswith("ERROR: ")
        assert spoken.error.count("\n") == 1
        assert message in spoken.error
        assert "Traceback" not in spoken.error
        assert spoken.changed == set()

    return call_and_expect


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of mW, with its script and potential beside it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(["run", "-in", str(mw_crystal(folder)), "-out", "run", *TINY]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run in the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


# ---- scripts, potentials, crystals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first missing command is `create_box` or `read_data`"),
        ("calculations:\n  - mode: fe\n", "expected a LAMMPS input script"),
        (b"\x7fELF\x00\x00", "is a binary file"),
        (bytes(range(1, 256)), "is a binary file"),
        (LJ + "clear\n", "never creates a box"),
        (LJ.split("pair_style")[0], "no interaction energy found (pair_style none)"),
        (LJ.split("pair_style")[0] + "pair_style zero 2.5\npair_coeff * *\n", "no interaction energy found (pair_style zero)"),
        (LJ.split("pair_coeff")[0], "All pair coeffs are not set"),
        (LJ.replace("pair_style lj/cut", "pair_style pace #"), "part of the ML-PACE package"),
        (LJ.replace("pair_style lj/cut", "pair_style deepmd #"), "'Unrecognized pair style 'deepmd''"),
        (MW.replace("mW.sw", "nowhere.sw"), "looked in: "),
        (MW.replace("potentials/mW.sw mW", "potentials/mW.sw Xx"), "Potential file is missing an entry for: Xx"),
        (MW.replace("mass 1", "# mass 1"), "Not all per-type masses are set"),
        (LJ.replace("units lj", "units kelvin"), "Unknown units style kelvin"),
        ("boundary p p f\n" + LJ.replace("boundary p p p", ""), "expected `boundary p p p`"),
        ("dimension 2\n" + LJ.replace("fcc 1.28", "sq 1").replace("0 1 0 1 0 1", "0 4 0 4 -0.1 0.1"), "`dimension 3`"),
        (LJ.replace("lattice fcc", "lattice sc"), "expected at least 2 atoms, got 1"),
        (BIG + "group g id 3\ndelete_atoms group g compress no\n", "add `reset_atoms id`"),
        (LJ + "create_atoms 1 box\n", "do atoms overlap?"),
        (LJ + "fix 1 all shake 0.1 10 0 b 1\n", "`fix shake` constrains"),
        (LJ + "fix 1 all rigid single\n", "`fix rigid` constrains"),
        (LJ + "fix 1 all addforce 1.0 0 0\n", "adds forces that are not the slope of the energy"),
        (RANDOM, "as in a liquid, glass or hot snapshot"),
        (BIG + "displace_atoms all random 0.25 0.25 0.25 123\n", "as in a liquid, glass or hot snapshot"),
        (BIG + "change_box all z final 0 20\n", "got a slab or sheet in vacuum"),
        (BIG + "create_atoms 1 single 0.5 0.5 0.25 units lattice\n", "expected every atom on a crystal site"),
        (LJ.replace("fcc 1.28", "fcc 0.01"), "no force on displaced atoms"),
        ("units lj\nread_data nowhere.data\n", "looked in: "),
        ("units lj\nread_data in.x\n", "LAMMPS says '"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_scripts_and_crystals(refused, tmp_path, command, text, message):
    if text[:1] and isinstance(text, str) and "potentials/" in text:
        mw_crystal(tmp_path)
    (tmp_path / "in.x").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(message, command, "-in", "in.x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected -in with a LAMMPS input script, got none"),
        (["-in", "nowhere"], "cannot be read (No such file or directory)"),
        (["-in", "."], "cannot be read (Is a directory)"),
    ],
)
def test_missing_script(refused, words, message):
    refused(message, "run", *words)


@pytest.mark.parametrize(
    ("lattice", "message"),
    [("sc 1.0", "expected a stable crystal"), ("fcc 0.2", "expected a stable crystal")],
)
def test_unstable_crystal_leaves_no_folder(refused, tmp_path, lattice, message):
    """It is known only after some work, and the same -out must still be free for the corrected script."""
    (tmp_path / "in.x").write_text(LJ.replace("fcc 1.28", lattice).replace("block 0 1 0 1 0 1", "block 0 2 0 2 0 2"))
    refused(message, "run", "-in", "in.x", "-rep", 2, 2, 2, "-out", "run", *TINY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BIG + "displace_atoms all random 0.002 0.002 0.002 123\n", "is not relaxed: the largest force is"),
        (BIG + "group g id 3\ndelete_atoms group g\n", "looks like a crystal with vacancies"),
        (LJ, "times the cutoff of 2.7 sigma"),
        (BIG.replace("lj/cut 2.7", "lj/cut 1.47") + "pair_modify shift no\n", "forces differ from finite differences"),
    ],
)
def test_doubtful_crystals_are_warned_of(capsys, caplog, tmp_path, text, message):
    (tmp_path / "in.x").write_text(text)
    assert call(capsys, tmp_path, "check", "-in", "in.x").code == 0
    assert message in caplog.text


def test_sound_crystals_are_not_warned_of(capsys, caplog, tmp_path):
    mw_crystal(tmp_path)
    assert call(capsys, tmp_path, "check", "-in", "in.mw", "-rep", 2, 2, 2).code == 0
    assert caplog.text == ""


def test_commands_that_act_are_listed_and_not_executed(capsys, tmp_path):
    acting = "shell touch a\nfix 1 all npt temp 2 2 1 iso 0 0 1\nrun 1000000000\npython f here 'x'\nquit 7\n"
    (tmp_path / "in.x").write_text(LJ + acting)
    spoken = call(capsys, tmp_path, "check", "-in", "in.x")
    assert (spoken.code, spoken.changed) == (0, set())
    for command in ("shell touch a", "run 1000000000", "python f here", "quit 7", "1 npt"):
        assert command in spoken.out


# ---- temperature and other variables


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (["T", "abc"], "expected a plain number in epsilon/kB in the variable T, got 'abc'"),
        (["T", "300 K"], "got '300 K'"),
        (["T", "nan"], "got 'nan'"),
        (["T", ""], "got ''"),
        (["T", "0"], "expected a temperature above 0 epsilon/kB, got T = 0"),
        (["T", "-5"], "expected a temperature above 0 epsilon/kB, got T = -5"),
        (["P", "1 GPa"], "expected a pressure as a plain number in epsilon/sigma^3, got '1 GPa'"),
        (["Lambda", "one"], "expected a plain number in sigma in the variable Lambda, got 'one'"),
        (["Lambda", "-1"], "expected a positive length in variable Lambda"),
        (["T"], "expected -var NAME VALUE, got -var T"),
        (["Temp", "2"], "expected -var with a variable of the script (T, Lambda), got Temp, which in.x never uses"),
    ],
)
def test_variables(refused, tmp_path, variables, message):
    (tmp_path / "in.x").write_text(LJ)
    refused(message, "run", "-in", "in.x", "-var", *variables)


@pytest.mark.parametrize(
    ("old", "new", "words", "message"),
    [
        ("variable T index", "variable T equal", ["-var", "T", "2"], "write `variable T index 2.0` in the script"),
        ("variable T index", "variable T string", [], "got '2.0'"),
        ("variable T index", "variable temperature index", [], "add the line 'variable T index 300'"),
    ],
)
def test_temperature_in_the_script(refused, tmp_path, old, new, words, message):
    text = LJ.replace(old, new)
    (tmp_path / "in.x").write_text(text.replace("string 2.0", "string warm") if "string" in new else text)
    refused(message.replace("2.0", "warm") if "string" in new else message, "check", "-in", "in.x", *words)


@pytest.mark.parametrize(("name", "value", "message"), [("lj", "300", "300 epsilon/kB"), ("mw", "25", "give -var T 298.15")])
def test_doubtful_temperatures_are_warned_of(capsys, caplog, tmp_path, name, value, message):
    mw_crystal(tmp_path)
    (tmp_path / "in.lj").write_text(LJ)
    assert call(capsys, tmp_path, "check", "-in", f"in.{name}", "-rep", 2, 2, 2, "-var", "T", value).code == 0
    assert message in caplog.text


# ---- arguments and configuration


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-rep", "0", "1", "1"], "expected -rep with three positive counts, got 0 1 1"),
        (["-rep", "-1", "1", "1"], "got -1 1 1"),
        (["-rep", "a", "1", "1"], "invalid int value: 'a'"),
        (["-rep", "2", "2"], "argument -rep: expected 3 arguments"),
        (["-rep", "1000", "1000", "1000"], "which fit into the memory of this machine, got 4000000000"),
        (["-partition", "2x1"], "start it with mpirun alone"),
        (["--resum"], "did you mean '--resume'?"),
        (["--foo"], "unrecognized arguments: --foo"),
        (["--elements", "A", "B"], "expected --elements with 1 names"),
        (["-sf", "gpu"], "Using suffix gpu without GPU package installed"),
        (["-log", "nowhere/log"], "Cannot open universe log file nowhere/log"),
        (["--set", "train.step=5"], "got 'train.step'; did you mean 'train.steps'?"),
        (["--set", "steps=5"], "got 'steps'; did you mean 'train.steps'?"),
        (["--set", "trian.steps=5"], "did you mean 'train.steps'?"),
        (["--set", "train.steps"], "expected --set key=value"),
        (["--set", "train=5"], "expected a key inside the block 'train', such as train.objective"),
        (["--set", "train.steps=-5"], "expected a valid value for 'train.steps', got -5"),
        (["--set", "train.steps=many"], "got 'many'"),
        (["--set", "train.learning_rate=inf"], "finite number"),
        (["--set", "base.kind=phonons"], "'einstein' or 'phonon'"),
        (["--seed", "-3"], "expected a valid value for 'seed', got -3"),
        (["--seed", "1" + 30 * "0"], "expected a valid value for 'seed'"),
        (["-config", "nowhere.toml"], "expected a readable TOML file, got nowhere.toml"),
        (["-config", "in.x"], "expected TOML in in.x"),
        (["-config", "bg.toml"], "got 'trane'; did you mean"),
    ],
)
def test_arguments(refused, tmp_path, words, message):
    (tmp_path / "in.x").write_text(LJ)
    (tmp_path / "bg.toml").write_text("[trane]\nsteps = 5\n")
    refused(message, "run", "-in", "in.x", *words)


def test_unknown_command(refused):
    refused("did you mean 'check'?", "chek", "-in", "in.x")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OMPI_COMM_WORLD_SIZE", "2", "this launcher belongs to another MPI"),
        ("PMI_SIZE", "4", "expected 4 MPI ranks (PMI_SIZE) but MPI sees 1"),
        ("OMP_NUM_THREADS", "many", "expected a positive whole number in OMP_NUM_THREADS, got 'many'"),
        ("OMP_NUM_THREADS", "-1", "got '-1'"),
    ],
)
def test_environment(refused, tmp_path, monkeypatch, name, value, message):
    (tmp_path / "in.x").write_text(LJ)
    monkeypatch.setenv(name, value)
    refused(message, "check", "-in", "in.x")


# ---- output folders


def test_output_folders(refused, tmp_path, monkeypatch):
    (tmp_path / "in.x").write_text(LJ)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    arguments = ["run", "-in", "in.x", *TINY]
    refused("already holds files", *arguments, "-out", "full")
    refused("already holds files", *arguments, "-out", "full", "--dry-run")
    refused("in.x is a file", *arguments, "-out", "in.x")
    refused("in.x is a file", *arguments, "-out", "in.x/below")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused("is read-only", *arguments, "-out", "new")


# ---- models and stored runs


class _Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def _edit_model(run, **changes):
    content = torch.load(run / "model.pt", weights_only=True)
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    torch.save(content, run / "model.pt")


def _append(path, text="# changed\n"):
    path.write_text(path.read_text() + text)


_DAMAGES = {
    "missing": (lambda run: (run / "model.pt").unlink(), "a run without model.pt"),
    "truncated": (lambda run: os.truncate(run / "model.pt", 5000), "a damaged or foreign file"),
    "empty": (lambda run: os.truncate(run / "model.pt", 0), "a damaged or foreign file"),
    "pickle": (lambda run: (run / "model.pt").write_bytes(pickle.dumps(_Malicious())), "nothing was executed"),
    "torch pickle": (lambda run: torch.save(_Malicious(), run / "model.pt"), "nothing was executed"),
    "other program": (lambda run: torch.save({"weights": torch.ones(2)}, run / "model.pt"), "got another kind of file"),
    "other version": (lambda run: _edit_model(run, version=99), "expected model format 2"),
    "incomplete": (lambda run: _edit_model(run, base=None), "lacks or garbles a part ('base')"),
    "other weights": (lambda run: _edit_model(run, flow={"w": torch.ones(2)}), "expected the weights of this flow"),
    "other state": (lambda run: _edit_model(run, state="{}"), "expected the units the model was trained with"),
    "other flow": (
        lambda run: (run / "config.toml").write_text((run / "config.toml").read_text().replace("width = 8", "width = 9")),
        "restore config.toml",
    ),
    "other potential": (lambda run: _append(run / "inputs" / "potentials" / "mW.sw"), "potentials/mW.sw has changed"),
    "other script": (lambda run: _append(run / "inputs" / "in.mw"), "in.mw has changed"),
    "other species": (
        lambda run: (run / "provenance.json").write_text(
            (run / "provenance.json").read_text().replace('"elements": []', '"elements": ["Xe"]')
        ),
        "expected the species that the model was trained on",
    ),
    "damaged provenance": (lambda run: (run / "provenance.json").write_text("{"), "it is damaged"),
    "damaged config": (lambda run: (run / "config.toml").write_text("a: b"), "expected TOML"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_models(refused, run, damage):
    apply, message = _DAMAGES[damage]
    apply(run)
    refused(message, "sample", "-model", "run", "-out", "new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected -model with the folder of a run with model.pt"),
        (["-model", "nowhere"], "there is no such folder"),
        (["-model", "potentials"], "it has no provenance.json"),
        (["-model", "run", "-var", "T", "250"], "expected what the model was trained with, temperature 200.0, got 250.0"),
        (["-model", "run", "-rep", "0", "1", "1"], "expected -rep with three positive counts"),
        (["-model", "run", "--set", "flow.width=16"], "leave out --set flow.*"),
        (["-model", "run", "--set", "train.steps=9"], "expected `lammps-bg sample` with the train of the run"),
        (["-model", "run", "--set", "base.iterations=3"], "leave out --set base.*"),
        (["-model", "run", "-rep", "2", "1", "1", "--set", "base.kind=einstein"], "leave out --set base.*"),
        (["-model", "run", "-out", "potentials"], "already holds files"),
    ],
)
def test_models_used_wrongly(refused, run, words, message):
    refused(message, "sample", *words)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "a run without samples"),
        ("a,b\n1,2\n", "expected the columns sample,pe,log_q,log_w"),
        ("sample,pe,log_q,log_w\n0,1,2,3\n1,1,2,3\n", "to come from its model.pt"),
    ],
)
def test_estimates_of_wrong_samples(refused, run, table, message):
    if table is None:
        (run / "samples.csv").unlink()
    else:
        (run / "samples.csv").write_text(table)
    refused(message, "estimate", "-model", "run", "-out", "new")
    refused(message, "estimate", "-model", "run")


@pytest.mark.parametrize(("words", "what"), [(["--seed", "5"], "seed"), (["--set", "sample.n_samples=99"], "sample")])
def test_estimate_changes_no_samples(refused, run, words, what):
    refused(f"expected `lammps-bg estimate` with the {what} of the run", "estimate", "-model", "run", *words)


def test_too_many_neighbours_are_refused_before_any_work(refused, run, monkeypatch):
    monkeypatch.setattr(run_steps, "_open_run", None)  # calling it would be an error
    words = ["-out", "new", *TINY, "--set", "flow.n_neighbours=60"]
    refused("expected a supercell in which no atom is among its own", "run", "-in", "in.mw", *words)


def test_estimate_takes_no_lammps_flags(refused, run):
    """The state is that of the samples, so -var T must not be swallowed."""
    refused("unrecognized arguments: -var T 300", "estimate", "-model", "run", "-var", "T", 300)


# ---- resume

_MORE = ["--set", "train.steps=8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-out", "nowhere"], "there is no such folder"),
        (["-out", "potentials"], "it has no provenance.json"),
        ([], "expected -out with the folder of the run to --resume"),
        (["-out", "run", "-var", "T", "250"], "expected --resume with the variables of the run"),
        (["-out", "run", "-rep", "2", "1", "1"], "expected --resume with the replicate of the run"),
        (["-out", "run", "--seed", "7"], "expected --resume of `lammps-bg run` with the seed of the run"),
        (["-out", "run", "--set", "flow.width=16"], "expected --resume of `lammps-bg run` with the flow of the run"),
    ],
)
def test_resume_as_another_run(refused, run, words, message):
    refused(message, "run", "--resume", *words)


def test_resume_by_another_command(refused, run):
    refused("expected --resume of `lammps-bg run` in run, got sample", "sample", "--resume", "-out", "run")


def test_resumed_samples_of_another_model(capsys, refused, run, tmp_path):
    assert call(capsys, tmp_path, "sample", "-model", "run", "-out", "new", "--allow-red").code == 0
    refused("expected --resume of `lammps-bg sample` in new, got train", "train", "--resume", "-out", "new")
    refused("with the train of the run", "run", "--resume", "-out", "new", "--set", "train.steps=9")
    _edit_model(run, replicate=[1, 1, 2])
    refused("expected --resume with the model of run", "sample", "--resume", "-model", "run", "-out", "new")


@pytest.mark.parametrize("changed", ["in.mw", "potentials/mW.sw"])
def test_resume_with_changed_inputs(refused, run, changed):
    _append(run.parent / changed)
    refused(f"{changed} has changed", "run", "--resume", "-in", "in.mw", "-out", "run", *_MORE)


def test_stored_potential_goes_before_that_of_the_current_folder(capsys, run, tmp_path):
    """Without -in, a run continues from its own copies even where a changed file of the same name lies at hand."""
    (tmp_path / "potentials" / "mW.sw").write_text("# not a potential\n")
    assert call(capsys, tmp_path, "run", "--resume", "-out", "run", "--allow-red", *_MORE).code == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: os.truncate(run / "checkpoint.pt", 500), "a damaged or foreign file"),
        (lambda run: torch.save(_Malicious(), run / "checkpoint.pt"), "nothing was executed"),
        (lambda run: shutil.copy(run / "model.pt", run / "checkpoint.pt"), "expected a checkpoint"),
    ],
)
def test_resume_from_a_damaged_checkpoint(refused, run, damage, message):
    damage(run)
    refused(message, "run", "--resume", "-out", "run", *_MORE)


def test_resume_without_a_checkpoint_starts_the_training_again(capsys, run, tmp_path):
    (run / "checkpoint.pt").unlink()
    spoken = call(capsys, tmp_path, "run", "--resume", "-out", "run", "--allow-red", *_MORE)
    assert spoken.code == 0
    assert "continues at step" not in spoken.out
    assert len((run / "train.csv").read_text().splitlines()) == 1 + 8


def test_resume_of_a_finished_run_says_so(capsys, run, tmp_path):
    spoken = call(capsys, tmp_path, "run", "--resume", "-in", "in.mw", "-out", "run", *TINY)
    assert (spoken.code, spoken.changed) == (0, set())
    assert "complete" in spoken.out
    spoken = call(capsys, tmp_path, "run", "--resume", "-out", "run", "--allow-red", "--set", "sample.n_samples=80")
    assert "continues at step 6" in spoken.out
    assert json.loads((run / "results.json").read_text())["sampling"]["n_samples"] == 80
    assert "n_samples = 80" in (run / "config.toml").read_text()


# ---- missing optional parts


def test_a_run_without_ovito_is_complete(capsys, tmp_path, monkeypatch):
    original = importlib.import_module

    def without_ovito(name, *rest):
        if name.startswith("ovito"):
            raise ImportError("No module named 'ovito'")
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_ovito)
    (tmp_path / "in.x").write_text(LJ)
    spoken = call(capsys, tmp_path, "run", "-in", "in.x", "-out", "run", *TINY, "--set", "sample.n_dump=4")
    assert spoken.code == 0
    assert "pip install 'lammps-bg[ovito]'" in spoken.out
    assert {"run/results.json", "run/samples.dump.gz"} <= contents(tmp_path).keys()
    assert not (tmp_path / "run" / "samples.png").exists()
