# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad input of `md`, `estimate -md` and `report`: one sentence, an exit code, no traceback, nothing overwritten."""

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import LJ, MW, TINY, TINY_MD, call, use

from lammps_bg import cli
from lammps_bg.commands import md_job, run_report
from lammps_bg.engine.dump import DumpWriter, read_dump
from lammps_bg.errors import CrystalError
from lammps_bg.report import html
from lammps_bg.report.picture import PictureError
from lammps_bg.store.trajectory import TrajectoryFiles
from lammps_bg.study.md import judge_temperature, require_stable
from lammps_bg.study.problem import Problem, ScriptRequest
from lammps_bg.thermo.free_energy import EstimateResult

MD = ["md", "-in", "in.lj", *TINY_MD]
MORE_SAMPLES = ["--set", "sample.n_samples=256", "--set", "sample.n_dump=60"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A flow and MD runs of four Lennard-Jones atoms at T = 2, and the script."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.lj").write_text(LJ)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        quiet = ["--set", "sample.picture=false", "--allow-red"]
        assert cli.main(["run", "-in", "in.lj", "-out", "flow", *TINY, *MORE_SAMPLES, *quiet]) == 0
        assert cli.main([*MD, "-out", "nvt", *quiet]) == 0
        assert cli.main([*MD, "-out", "npt", "--mode", "npt", "-var", "P", "43", *quiet]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A copy of them in the current folder."""
    use(monkeypatch, tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def refused(tmp_path, capsys):
    """Calls the command and expects one sentence, an exit code, and an untouched folder."""

    def call_and_expect(message, *words, code=2):
        spoken = call(capsys, tmp_path, *words)
        assert spoken.code == code, spoken.out + spoken.error
        errors = [line for line in spoken.error.splitlines() if not line.startswith("WARNING")]
        assert len(errors) == 1, spoken.error
        assert errors[0].startswith("ERROR: ")
        assert message in errors[0], errors[0]
        assert spoken.changed == set()

    return call_and_expect


def edit(path, change):
    """Change a JSON file."""
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


# ---- arguments of md


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["md"], "expected -in with a LAMMPS input script, got none"),
        (["md", "-in", "nowhere"], "cannot be read"),
        (["md", "-in", "in.lj", "-model", "flow"], "expected either -in"),
        (["md", "-model", "flow", "--elements", "Ar"], "expected either -in"),
        (["md", "-model", "nowhere"], "there is no such folder"),
        (["md", "-model", "."], "it has no provenance.json"),
        ([*MD, "-out", "flow"], "already holds files"),
        ([*MD, "-out", "in.lj"], "is a file"),
        ([*MD, "--mode", "nve"], "invalid choice: 'nve'"),
        ([*MD, "--mode", "npt"], "expected a pressure for --mode npt, got no variable P in the script; add -var P 0"),
        (
            [*MD, "--mode", "npt", "-var", "P", "1 GPa"],
            "expected a pressure as a plain number in epsilon/sigma^3, got '1 GPa'; units lj has no",
        ),
        (
            [*MD, "--mode", "npt", "-var", "P", "1", "GPa"],
            "expected a pressure as a plain number in epsilon/sigma^3, got '1 GPa'",
        ),
        ([*MD, "-var", "T", "300", "K"], "expected one number without its unit in -var T, got '300 K'"),
        ([*MD, "--mode", "npt", "-var", "P", "high"], "expected a pressure as a plain number in epsilon/sigma^3, got 'high'"),
        ([*MD, "-var", "T", "0"], "expected a temperature above 0"),
        ([*MD, "--set", "md.timestep=0"], "expected a valid value for 'md.timestep'"),
        ([*MD, "--set", "md.timestep=-1"], "expected a valid value for 'md.timestep'"),
        ([*MD, "--set", "md.n_frames=10"], "expected a valid value for 'md.n_frames'"),
        ([*MD, "--set", "md.steps=10"], "expected a known configuration key, got 'md.steps'"),
        ([*MD, "--set", "md.cell=x"], "expected a valid value for 'md.cell'"),
        ([*MD, "--set", "md.replicas=0"], "expected a valid value for 'md.replicas'"),
        ([*MD, "--set", "md.max_steps=100"], "expected md.max_steps of at least 200, which is 10 frames, got 100"),
        ([*MD, "--set", "md.timestep=0.5"], "time step"),
        ([*MD, "--set", "md.timestep=0.09"], "time step"),
        ([*MD, "--set", "md.damp=1e-9"], "expected md.damp of at least one time step, 0.005 tau, got 1e-09"),
        ([*MD, "--mode", "mbar", "--set", "md.timestep=0.2"], "time step"),
        ([*MD, "--resume"], "expected -out with the folder of the simulation to --resume"),
        ([*MD, "--resume", "-out", "nvt", "-rep", "2", "1", "1"], "expected --resume with the replicate of the run"),
        (["md", "--resume", "-out", "nowhere"], "there is no such folder"),
        (["md", "--resume", "-out", "flow"], "expected a run of `lammps-bg md` in flow, got one of another command"),
        (["md", "--resume", "-out", "nvt", "--mode", "npt"], "expected --resume of `md --mode nvt`"),
        (["md", "--resume", "-out", "nvt", "--seed", "5"], "expected --resume of `md --mode nvt`"),
        (["md", "--resume", "-out", "nvt", "--set", "md.timestep=0.001"], "expected --resume of `md --mode nvt`"),
        (["run", "--resume", "-out", "nvt"], "use `lammps-bg md --resume`"),
        (["sample", "--resume", "-out", "nvt"], "use `lammps-bg md --resume`"),
        (["sample", "-model", "nvt"], "a trained flow"),
        (["estimate", "-model", "nvt"], "a trained flow"),
    ],
)
def test_words(refused, words, message):
    given = [*words, "-out", "new"] if words[0] == "md" and "-out" not in words and "--resume" not in words else words
    refused(message, *given)


# ---- crystals that do not stay


def test_melt(refused):
    """LJ fcc far above melting; the same -out serves the corrected temperature."""
    refused("melt", *MD, "-rep", 2, 2, 2, "-var", "T", 18, "-out", "new", "--set", "md.timestep=0.002")


def test_wrong_temperature_is_red():
    """Beyond a few per cent and beyond noise; the two limits are on purpose far from what a sound run gives."""

    def mean(value, error):
        return EstimateResult(value, error, (value - 2 * error, value + 2 * error), 50)

    (verdict,) = judge_temperature(mean(43.35, 0.13), 2.0)
    assert (verdict.colour, verdict.reliable) == ("red", False)
    assert "43.35" in verdict.reasons[0]
    assert judge_temperature(mean(2.09, 0.001), 2.0) == []
    assert judge_temperature(mean(2.4, 0.1), 2.0) == []


def test_melt_and_corrected(capsys, tmp_path):
    words = [*MD, "-rep", "2", "2", "2", "-out", "new", "--set", "md.timestep=0.002"]
    assert call(capsys, tmp_path, *words, "-var", "T", 18).code == 2
    assert call(capsys, tmp_path, *words, "-var", "T", 1).code == 0


def test_transformed_crystal(capsys, tmp_path):
    """At T = 2 and constant pressure, 32 atoms in a cell that may shear go from fcc to bcc; the frames stay, to be looked at."""
    words = (
        "--mode",
        "npt",
        "-var",
        "P",
        43,
        "--set",
        "md.cell=tri",
        "--set",
        "md.pressure_damp=0.5",
        "--set",
        "md.n_frames=100",
    )
    spoken = call(capsys, tmp_path, *MD, "-rep", 2, 2, 2, "-out", "new", *words)
    assert spoken.code == 2
    assert "the crystal transforms" in spoken.error
    assert not (tmp_path / "new" / "results.json").exists()
    assert (tmp_path / "new" / "trajectories").is_dir()
    assert json.loads((tmp_path / "new" / "status.json").read_text())["stage"] == "failed"


def test_atoms_that_hop(tmp_path):
    """Two atoms that changed places keep the structure and the free energy of neither site."""
    problem = Problem.load(ScriptRequest(Path("in.lj"), {}, (2, 2, 2)))
    frames = TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00").load()[slice(0, 20)]
    still = 0.01 * np.random.default_rng(1).standard_normal((20, 32, 3))
    sites = problem.crystal.sites
    pair = [0, int(np.linalg.norm(sites[1:] - sites[0], axis=1).argmin()) + 1]
    still[:, pair] += sites[pair[::-1]] - sites[pair]
    frames.displacements = still - still.mean(1, keepdims=True)
    frames.cells = np.broadcast_to(problem.crystal.supercell, (20, 3, 3))
    with pytest.raises(CrystalError, match="expected every atom on its site, but in the MD atom"):
        require_stable(problem, frames)


# ---- MD that is not of this flow


def test_md_of_another_kind(refused):
    refused("got --mode npt in", "estimate", "-model", "flow", "-md", "npt")
    refused(
        "expected a finished run of `lammps-bg md`, or one with exact samples, for -md, got another one",
        "estimate",
        "-model",
        "flow",
        "-md",
        "flow",
    )
    refused("but there is no nowhere", "estimate", "-model", "flow", "-md", "nowhere")
    refused("it has no provenance.json", "estimate", "-model", "flow", "-md", "nvt/inputs")


def test_unfinished_md(refused):
    Path("nvt/results.json").unlink()
    refused("expected results.json in", "estimate", "-model", "flow", "-md", "nvt")


def test_md_without_its_trajectories(refused):
    shutil.rmtree("nvt/trajectories")
    refused("run `lammps-bg md` again", "estimate", "-model", "flow", "-md", "nvt")


def test_damaged_trajectory(refused, capsys, tmp_path):
    path = next(Path("nvt/trajectories").iterdir())
    path.write_bytes(path.read_bytes()[:2000])
    refused("is damaged", "estimate", "-model", "flow", "-md", "nvt")
    spoken = call(capsys, tmp_path, "md", "--resume", "-out", "nvt", "--set", "md.n_frames=60")
    assert (spoken.code, spoken.changed) == (2, {"nvt/config.toml", "nvt/status.json"})
    assert "is damaged" in spoken.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-var", "T", "1.5"], "expected MD with the temperature of the flow, 2.0, got 1.5"),
        (["-rep", "2", "1", "1"], "expected MD with the number of atoms of the flow, 4, got 8"),
        (["-var", "a", "1.2"], "expected MD in the cell of the flow"),
        (["-var", "e", "0.9"], "expected MD in the cell of the flow"),
    ],
)
def test_md_of_another_state(refused, capsys, tmp_path, words, message):
    """Other variables of one script are another crystal: a density, an energy parameter."""
    text = "variable a index 1.28\nvariable e index 1.0\n" + LJ.replace("fcc 1.28", "fcc $a").replace("1 1 1.0 1.0", "1 1 $e 1.0")
    (tmp_path / "in.v").write_text(text)
    assert call(capsys, tmp_path, "run", "-in", "in.v", "-out", "variables", *TINY).code == 0
    assert call(capsys, tmp_path, "md", "-in", "in.v", *words, "-out", "other", *TINY_MD).code == 0
    refused(message, "estimate", "-model", "variables", "-md", "other")


def test_md_of_another_script(refused, capsys, tmp_path):
    (tmp_path / "in.lj").write_text(LJ.replace("2.7", "2.6"))
    assert call(capsys, tmp_path, *MD, "-out", "other").code == 0
    refused("other", "estimate", "-model", "flow", "-md", "other")


@pytest.mark.parametrize("n_frames", [5, 30])
def test_short_md(refused, capsys, tmp_path, n_frames):
    """Too few frames for a correlation time, and too few independent ones."""
    files = TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00")
    frames, state = files.load(), files.state()
    shutil.rmtree(tmp_path / "nvt" / "trajectories")
    files.append(frames[slice(0, n_frames)], state)
    refused("run longer", "estimate", "-model", "flow", "-md", "nvt", code=1)


def test_constant_md(refused, tmp_path):
    files = TrajectoryFiles(tmp_path / "nvt" / "trajectories", "nvt-00")
    frames, state = files.load(), files.state()
    shutil.rmtree(tmp_path / "nvt" / "trajectories")
    files.append(frames[np.zeros(100, dtype=np.int64)], state)
    refused("check that the atoms move", "estimate", "-model", "flow", "-md", "nvt", code=1)


def test_out_exists(refused):
    refused("already holds files", "estimate", "-model", "flow", "-md", "nvt", "-out", "npt")


# ---- dump files


def rewritten(change, name="bad.dump", source="flow/samples.dump.gz"):
    """The samples of the flow as a text dump, changed."""
    Path(name).write_text(change(gzip.decompress(Path(source).read_bytes()).decode()))
    return name


def atoms(text, change):
    """The text with every atom line (a list of words) changed."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith("ITEM:"):
            inside = line.startswith("ITEM: ATOMS")
        elif inside:
            line = " ".join(change(line.split()))
        lines.append(line)
    return "\n".join(lines) + "\n"


def moved(words, atom, columns, shift):
    """An atom line, with `shift` on some columns where it is of that atom."""
    if words[0] == str(atom):
        for column in columns:
            words[column] = repr(float(words[column]) + shift)
    return words


BAD_DUMPS = {
    "columns": (lambda text: text.replace(" x y z ix iy iz", " a b c ix iy iz"), "expected the columns id type"),
    "no ids": (lambda text: text.replace("ATOMS id ", "ATOMS number "), "expected the columns id type"),
    "box": (lambda text: text.replace("0.0 1.46", "0.0 1.56"), "expected frames in the cell of the flow"),
    "types": (lambda text: atoms(text, lambda words: [words[0], "2", *words[2:]]), "expected an atom of the right type"),
    "short": (lambda text: text[: len(text) // 2], "expected"),
    "few": (lambda text: text[: text.index("ITEM: TIMESTEP\n20\n")], "expected at least 50 frames for -md, got 20"),
    "word": (lambda text: text.replace(" X ", " X X ", 1), "values on each atom line"),
    "nothing": (lambda text: "", "an empty file"),
    "log": (lambda text: "LAMMPS (29 Aug 2024)\nunits lj\n", "expected 'ITEM: TIMESTEP'"),
    "script": (lambda text: LJ, "expected 'ITEM: TIMESTEP'"),
}


@pytest.mark.parametrize("name", BAD_DUMPS)
def test_bad_dumps(refused, name):
    change, message = BAD_DUMPS[name]
    refused(message, "estimate", "-model", "flow", "-md", rewritten(change))


def with_last_frame(change):
    def changed(text):
        start = text.rindex("ITEM: TIMESTEP")
        return text[:start] + atoms(text[start:], change)

    return changed


def test_nan_in_a_dump(refused):
    for value in ("nan", "inf"):
        bad = rewritten(with_last_frame(lambda words, value=value: [*words[:3], value, *words[4:]]))
        refused("expected finite positions in", "estimate", "-model", "flow", "-md", bad)


def test_energies_of_another_potential(refused):
    """The column c_pe of md.dump.gz must be what this potential gives."""
    assert "ATOMS id type element x y z ix iy iz c_pe" in gzip.decompress(Path("nvt/md.dump.gz").read_bytes()).decode()
    # three times the 20 frames of TINY_MD are enough
    bad = rewritten(lambda text: 3 * atoms(text, lambda words: [*words[:9], "-1.0", *words[10:]]), source="nvt/md.dump.gz")
    refused("expected the energies in column c_pe", "estimate", "-model", "flow", "-md", bad)


def test_ids_that_change(refused):
    bad = rewritten(with_last_frame(lambda words: ["7" if words[0] == "4" else words[0], *words[1:]]))
    refused("expected the same atom ids and types in every frame", "estimate", "-model", "flow", "-md", bad)


def test_atom_off_its_site(refused):
    """Half the nearest distance and more away: another crystal in the same cell."""
    bad = rewritten(lambda text: atoms(text, lambda words: moved(words, 3, (3, 4), 0.45)))
    refused("expected an atom of the right type on each of the 4 sites", "estimate", "-model", "flow", "-md", bad)


def test_dump_of_more_atoms(refused, capsys, tmp_path):
    assert call(capsys, tmp_path, *MD, "-rep", 2, 1, 1, "-out", "large").code == 0
    refused("expected 4 atoms as in the flow's crystal, got 8", "estimate", "-model", "flow", "-md", "large/md.dump.gz")


def test_truncated_gz(refused):
    whole = Path("flow/samples.dump.gz").read_bytes()
    Path("bad.dump.gz").write_bytes(whole[: len(whole) // 2])
    refused("is cut short or damaged", "estimate", "-model", "flow", "-md", "bad.dump.gz")
    Path("bad.dump.gz").write_bytes(b"ITEM: TIMESTEP\n")
    refused("expected a LAMMPS text dump", "estimate", "-model", "flow", "-md", "bad.dump.gz")
    Path("bad.dump").write_bytes(whole)
    refused("expected a LAMMPS text dump", "estimate", "-model", "flow", "-md", "bad.dump")


def test_the_same_frame_again_and_again(refused):
    problem = Problem.load(ScriptRequest(Path("in.lj"), {}))
    first = next(read_dump(Path("flow/samples.dump.gz")))
    with DumpWriter(Path("bad.dump"), problem.crystal, units="lj") as dump:
        for index in range(60):
            dump.write(index, first.positions[np.argsort(first.ids)][problem.crystal.atom_ids - 1], 0.0)
    refused("check that the atoms move", "estimate", "-model", "flow", "-md", "bad.dump", code=1)


def test_dump_in_the_place_of_a_model(refused):
    refused("expected a run directory", "estimate", "-model", "flow/samples.dump.gz", "-md", "nvt")


# ---- what is missing on a machine


def without(monkeypatch, *names):
    """Imports of these packages fail."""
    for name in [loaded for loaded in sys.modules if loaded.split(".")[0] in names]:
        monkeypatch.delitem(sys.modules, name)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_without_ovito(capsys, tmp_path, monkeypatch):
    """The run is complete; a line says what there is none of."""
    without(monkeypatch, "ovito")
    words = ("--set", "sample.picture=true", "--set", "md.n_frames=150")
    spoken = call(capsys, tmp_path, *MD, "-out", "new", *words)
    assert spoken.code == 0, spoken.error
    for line in ("picture    none: ", "session    none: "):
        assert line in spoken.out
    assert "pip install 'lammps-bg[ovito]'" in spoken.out
    assert "Traceback" not in spoken.error
    results = json.loads(Path("new/results.json").read_text())
    assert results["md"]["stability"]["structure"] is None
    assert "structure" not in results["observables"]
    assert call(capsys, tmp_path, "estimate", "-model", "flow", "-md", "new", "--allow-red").code == 0


def test_without_vulkan(capsys, tmp_path, monkeypatch):
    def no_driver(*_, **__):
        raise PictureError("expected a Vulkan driver for pictures but there is none; install mesa-vulkan-drivers")

    monkeypatch.setattr(run_report, "render_samples", no_driver)
    spoken = call(capsys, tmp_path, *MD, "-out", "new", "--set", "sample.picture=true")
    assert spoken.code == 0
    assert "picture    none: expected a Vulkan driver" in spoken.out
    assert "new/md.ovito" in spoken.changed


@pytest.mark.parametrize("package", ["matplotlib"])
def test_without_the_packages_of_the_report(refused, capsys, tmp_path, monkeypatch, package):
    without(monkeypatch, package)
    refused("pip install 'lammps-bg[plot]'", "report", "nvt")
    spoken = call(capsys, tmp_path, *MD, "-out", "new", "--set", "estimate.report=true")
    assert spoken.code == 0
    assert "report     none: " in spoken.out
    assert f"package {package}" in spoken.out


def test_report_without_results(refused):
    refused("there is no such folder", "report", "nowhere")
    refused("it has no provenance.json", "report", "nvt/inputs")
    Path("nvt/results.json").unlink()
    refused("results.json", "report", "nvt")
    Path("flow/results.json").write_text("{")
    refused("is damaged", "report", "flow")
    Path("flow/results.json").write_text("{}")
    refused("expected lammps-bg-results", "report", "flow")


def test_report_with_a_damaged_table(refused):
    Path("flow/observables.json").write_text("[")
    refused("observables.json", "report", "flow")


def test_folder_that_cannot_be_written(refused, monkeypatch):
    """As a folder that this user may not write to."""
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
    refused("is read-only", *MD, "-out", "new")
    refused("is read-only", "estimate", "-model", "flow", "-md", "nvt", "-out", "new")
    refused("is read-only", "report", "nvt")
    refused("is read-only", "md", "--resume", "-out", "nvt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(capsys, tmp_path, monkeypatch):
    """The frames of earlier blocks stay, and --resume goes on."""
    Path("nvt/trajectories/nvt-00-0009.npz.tmp").unlink(missing_ok=True)
    blocks = len(list(Path("nvt/trajectories").iterdir()))
    Path(f"nvt/trajectories/nvt-00-{blocks:04d}.npz.tmp").symlink_to("/dev/full")
    spoken = call(capsys, tmp_path, "md", "--resume", "-out", "nvt", "--set", "md.n_frames=400")
    assert spoken.code == 1
    assert "No space left" in spoken.error
    assert "--resume" in spoken.error
    assert len(list(Path("nvt/trajectories").iterdir())) == blocks
    assert call(capsys, tmp_path, "md", "--resume", "-out", "nvt").code == 0


def test_mw_script_of_real_units_names_its_pressure_unit(refused, tmp_path):
    (tmp_path / "potentials").mkdir()
    shutil.copy(Path(__file__).parents[2] / "inputs" / "potentials" / "mW.sw", tmp_path / "potentials")
    (tmp_path / "in.mw").write_text(MW)
    refused("add -var P 0 (in atm)", "md", "-in", "in.mw", "--mode", "npt", "-out", "new")
    refused(
        "expected a pressure as a plain number in atm or a number with one of Pa,",
        "md",
        "-in",
        "in.mw",
        "--mode",
        "npt",
        "-var",
        "P",
        "1psi",
        "-out",
        "new",
    )


def test_modules_used_here():
    """What the tests above replace is what the commands use."""
    assert run_report.render_samples.__module__.startswith("lammps_bg.report")
    assert md_job.finish is run_report.finish
    assert callable(html.write_report)
