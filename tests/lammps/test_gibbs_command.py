# SPDX-License-Identifier: GPL-2.0-or-later
"""`lammps-bg gibbs` through the command line: its files and their numbers, MD beside them, its report, and bad input."""

import json
import math
import re
import shutil

import pytest
from command_line import call, contents, use
from conditional_runs import FEW, results, rows, settings
from launching import finished

from lammps_bg.cli import main
from lammps_bg.commands.stored_run import load_conditional, stored_request, with_model
from lammps_bg.config import load_config
from lammps_bg.progress import SILENT
from lammps_bg.report.figures import style
from lammps_bg.study.gibbs import GibbsRequest, gibbs, states_of
from lammps_bg.study.problem import Problem

NKTV2P = 68568.415  # atm per kcal/mol/Angstrom^3, units real
GPA = 1e9 / 101325.0  # atm
FILES = {
    "config.toml", "curves.json", "gibbs.csv", "gibbs.png", "helmholtz.csv", "inputs", "model.pt", "provenance.json", "rerun.sh",
    "results.json", "status.json",
}  # fmt: skip
MORE = settings(
    "exact.mode=never", "gibbs.n_samples=32", "gibbs.n_repeats=4", "gibbs.n_volumes=5", "estimate.report=true"
)  # with the report
FALSE_ALARM = 4.5  # standard errors, by four to eight repeats


@pytest.fixture(scope="module")
def evaluated(crystals, tmp_path_factory):
    """Two states at two pressures each, beside an NPT run in one of them; and beta-tin with its shape free and not."""
    folder = tmp_path_factory.mktemp("gibbs") / "runs"
    shutil.copytree(crystals, folder)
    few = settings("md.n_frames=50", "md.n_dump=0", "sample.picture=false", "estimate.report=false", "estimate.n_bootstraps=50")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        npt = ["md", "-in", "in.gsw_diamond", "--mode", "npt", "-rep", "2", "1", "1", "-var", "T", "65", "-var", "lambda", "18.2"]
        assert main([*npt, "-out", "npt", *few, "--allow-red"]) == 0
        states = ["-P", "0", "0.1", "GPa", "-T", "65", "-var", "lambda", "18.2", "18.6"]
        words = ["gibbs", "-model", "gsw", "-rep", "2", "1", "1", *states, "-md", "npt", *MORE, "-out", "many", "--allow-red"]
        assert main(words) == 0
        for cell, name in (([], "shape"), (["--cell", "iso"], "iso")):
            assert (
                main(
                    [
                        "gibbs",
                        "-model",
                        "tin",
                        "-P",
                        "0",
                        *cell,
                        *FEW,
                        *settings("gibbs.n_samples=16"),
                        "-out",
                        name,
                        "--allow-red",
                    ]
                )
                == 0
            )
    return folder


def test_files(evaluated):
    assert {path.name for path in (evaluated / "many").iterdir()} == FILES | {"figures", "report.html"}
    assert {path.name for path in (evaluated / "iso").iterdir()} == FILES
    assert json.loads((evaluated / "many" / "status.json").read_text())["stage"] == "done"


def test_columns_and_states(evaluated):
    """Every lambda at every pressure, in the script's unit of pressure."""
    found = rows(evaluated, "many", "gibbs.csv")
    assert list(found[0]) == [
        "T", "lambda", "P", "G_per_atom", "G_error", "F_per_atom", "F_error", "volume_per_atom", "volume_error",
        "mean_volume_per_atom", "mean_volume_error", "potential_energy_per_atom", "potential_energy_error", "PV_per_atom",
        "compressibility", "compressibility_error", "volume", "lowest_ess", "z_free_energy", "z_virial_pressure",
    ]  # fmt: skip
    expected = [(65, x, p) for x in (18.2, 18.6) for p in (0.0, 0.1 * GPA)]
    for row, state in zip(found, expected, strict=True):
        assert tuple(float(row[name]) for name in ("T", "lambda", "P")) == pytest.approx(state)
    cells = rows(evaluated, "many", "helmholtz.csv")
    assert len(cells) == 2 * 5
    assert list(cells[0]) == [
        "T", "lambda", "volume", "volume_per_atom", "F_per_atom", "F_error", "pe_per_atom", "pe_error", "ess",
    ]  # fmt: skip
    assert len({(row["T"], row["lambda"], row["volume"]) for row in cells}) == 10


def test_free_energies_belong_together(evaluated):
    """G = F + P V to 1e-10; V is that of ln V / V0; beta G is G in kT."""
    boltzmann, reference = 0.0019872067, 6.2018745**3 / 8
    for row, entry in zip(rows(evaluated, "many", "gibbs.csv"), results(evaluated, "many")["gibbs"]["states"], strict=True):
        g, f, pv, volume, x = (
            float(row[name]) for name in ("G_per_atom", "F_per_atom", "PV_per_atom", "volume_per_atom", "volume")
        )
        assert g == pytest.approx(f + pv, abs=1e-10)
        assert pv == pytest.approx(float(row["P"]) * volume / NKTV2P, rel=1e-7)
        assert volume == pytest.approx(reference * math.exp(x), rel=1e-9)
        assert entry["G_per_atom"]["value"] == g
        assert entry["beta_G_per_atom"]["value"] == pytest.approx(g / (boltzmann * float(row["T"])), rel=1e-7)
        assert float(row["G_error"]) > 0


def test_thermodynamics_is_consistent(evaluated):
    """Fresh samples at each cell give the polynomial's F and, by the virial, the pressure; dG/dP is V within a part in a hundred."""
    found = rows(evaluated, "many", "gibbs.csv")
    for row in found:
        assert abs(float(row["z_free_energy"])) < FALSE_ALARM
        assert abs(float(row["z_virial_pressure"])) < FALSE_ALARM
    for low, high in zip(found[::2], found[1::2], strict=True):
        slope = (float(high["G_per_atom"]) - float(low["G_per_atom"])) / (0.1 * GPA) * NKTV2P
        middle = 0.5 * (float(low["volume_per_atom"]) + float(high["volume_per_atom"]))
        assert slope == pytest.approx(middle, rel=1e-3)
        response = -math.log(float(high["volume_per_atom"]) / float(low["volume_per_atom"])) / (0.1 * GPA)
        assert response == pytest.approx(0.5 * (float(low["compressibility"]) + float(high["compressibility"])), rel=1e-2)


def test_dynamics_is_compared_in_its_own_state_alone(evaluated):
    """The NPT run was at T = 65 and lambda = 18.2: the other parameter, of almost the same volume, is another state."""
    comparison = results(evaluated, "many")["gibbs"]["comparison"]
    assert [(row["quantity"], row["state"], row["md_run"]) for row in comparison] == [
        ("volume per atom", {"T": 65.0, "lambda": 18.2}, "npt")
    ]
    row = comparison[0]
    z = (row["flow"]["value"] - row["md"]["value"]) / math.hypot(row["flow"]["error"], row["md"]["error"])
    assert row["z"] == pytest.approx(z)
    assert row["md"]["value"] == pytest.approx(results(evaluated, "npt")["npt"]["volume"]["value"] / 16)


def test_a_free_shape_lowers_the_free_energy(evaluated):
    """Beta-tin with c/a free has at most the G of the fixed shape; `--cell iso` leaves c/a where it is."""
    (free,), (fixed,) = (results(evaluated, name)["gibbs"]["states"] for name in ("shape", "iso"))
    assert list(free["cell"]) == ["volume", "c/a"]
    assert list(fixed["cell"]) == ["volume"]
    error = math.hypot(free["G_per_atom"]["error"], fixed["G_per_atom"]["error"])
    assert free["G_per_atom"]["value"] < fixed["G_per_atom"]["value"] + FALSE_ALARM * error
    (a, _, _), (_, b, _), (_, _, c) = fixed["box"]
    assert a == pytest.approx(b)
    assert c / a == pytest.approx(0.5534635, rel=1e-6)
    (a, _, _), _, (_, _, c) = free["box"]
    assert math.log(c / a / 0.5534635) == pytest.approx(free["cell"]["c/a"]["value"], abs=1e-6)
    assert len(rows(evaluated, "shape", "helmholtz.csv")) == 15


def test_verdict_names_the_worst_state(evaluated):
    verdict = results(evaluated, "many")["verdict"]
    assert sum("lowest ESS" in reason for reason in verdict["reasons"]) <= 1
    states = results(evaluated, "many")["gibbs"]["states"]
    assert min(state["ess"]["lowest"] for state in states) == min(
        float(row["ess"]) for row in rows(evaluated, "many", "helmholtz.csv")
    )


def test_report(evaluated, tmp_path, monkeypatch, capsys):
    """`lammps-bg report` makes the page again, with every state, MD, and the numbers behind the figure."""
    target = tmp_path / "copy"
    shutil.copytree(evaluated / "many", target / "many")
    use(monkeypatch, target)
    page = (target / "many" / "report.html").read_text()
    (target / "many" / "report.html").unlink()
    shutil.rmtree(target / "many" / "figures")
    spoken = call(capsys, target, "report", "many")
    assert spoken.code == 0, spoken.error
    assert {name for name in contents(target) if name.startswith("many/figures/")} == {
        "many/figures/gibbs.json", "many/figures/gibbs.png",
    }  # fmt: skip
    again = (target / "many" / "report.html").read_text()
    for title in ("Gibbs free energies", "Cells", "Comparison with molecular dynamics", "Checks", "Provenance"):
        assert f"<h2>{title}</h2>" in again
    assert again.count("<td") == page.count("<td")
    assert "4 states and pressures" in again
    assert re.search(r"<td[^>]*>npt</td>", again)
    assert again.count("data:image/svg+xml") == 1
    shown = json.loads((target / "many" / "figures" / "gibbs.json").read_text())
    assert [len(shown[name]) for name in ("wells", "isotherms", "md")] == [4, 2, 1]


def test_report_of_one_state(models, capsys):
    spoken = call(capsys, models, "gibbs", "-model", "vol", "-P", "500", *MORE, "-out", "g", "--allow-red")
    assert spoken.code == 0, spoken.error
    page = (models / "g" / "report.html").read_text()
    assert "No MD beside these numbers yet" in page
    assert "βG/N, kT per atom, at T = 75, P = 500 atm" in page
    assert f"report     {models / 'g' / 'report.html'}" in spoken.out


def test_no_matplotlib_is_no_obstacle(models, capsys, monkeypatch):
    def missing(name):
        raise style.ReportError(f"expected the package {name}")

    monkeypatch.setattr(style, "require_package", missing)
    spoken = call(capsys, models, "gibbs", "-model", "vol", "-P", "0", *FEW, "-out", "g", "--allow-red")
    assert spoken.code == 0, spoken.error
    assert "figure     none: expected the package" in spoken.out
    assert (models / "g" / "results.json").exists()


# ---- from Python, without a folder for the results


def in_memory(folder, name, out):
    """The model of a run, and the configuration of an evaluation of it."""
    source, config = with_model(folder / name), load_config(folder / out / "config.toml")
    problem = Problem.load(stored_request(source))
    return problem, load_conditional(source, problem, config, SILENT), config


def test_in_memory_it_gives_the_numbers_of_the_command(by_chains, monkeypatch):
    """Every entry, to the last bit; nothing is written."""
    use(monkeypatch, by_chains)
    before = contents(by_chains)
    problem, model, config = in_memory(by_chains, "vol", "never")
    with problem.engine:
        found = gibbs(model, GibbsRequest(states_of({}, problem, model), [0.0]), config)
    assert contents(by_chains) == before
    stored = results(by_chains, "never")
    assert json.loads(json.dumps(found.to_dict()["gibbs"])) == stored["gibbs"]
    assert found.verdict.to_dict() == stored["verdict"]


def test_each_cell_is_evaluated_once(models):
    """One energy surface for each cell of the table, and one for the check of each row: the box of a row needs none."""
    source = with_model(models / "vol")
    config = load_config(source.file("config.toml"), tuple(word for word in FEW if word != "--set"))
    problem = Problem.load(stored_request(source))
    with problem.engine, pytest.MonkeyPatch.context() as patch:
        model = load_conditional(source, problem, config, SILENT)
        request, made, at = GibbsRequest(states_of({}, problem, model), [0.0, 500.0]), [], Problem.at
        patch.setattr(Problem, "at", lambda problem, values: made.append(values) or at(problem, values))
        found = gibbs(model, request, config)
        assert len(made) == 5 + 2
        n = problem.n_evaluations
        found.to_dict()
        assert len(made) == 5 + 2
        assert problem.n_evaluations == n


# ---- chains

CHAINS = settings(
    "gibbs.n_samples=32",
    "gibbs.n_repeats=4",
    "gibbs.n_volumes=5",
    "estimate.report=false",
    "estimate.target_error=0.01",
    "exact.mode=auto",
)


@pytest.fixture(scope="module")
def by_chains(crystals, tmp_path_factory):
    """Diamond by chains and by draws, which are good there; and by chains where 16 draws a repeat are doubtful."""
    folder = tmp_path_factory.mktemp("chains") / "runs"
    shutil.copytree(crystals, folder)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder)
        words = ["gibbs", "-model", "vol", "-P", "0", *CHAINS, "--allow-red"]
        assert main([*words, "--exact", "always", "-out", "always"]) == 0
        assert main([*words, "--exact", "never", "-out", "never", *settings("gibbs.n_samples=128")]) == 0
        assert main([*words, "-out", "auto", *settings("gibbs.n_samples=128")]) == 0
    return folder


def test_chains_agree_with_draws(by_chains):
    """G, F, V and energy by chains and by good draws, each with errors from four repeats: false alarm about 1 % in all."""
    (one,), (two,) = (results(by_chains, name)["gibbs"]["states"] for name in ("always", "never"))
    for name in ("G_per_atom", "F_per_atom", "volume_per_atom", "potential_energy_per_atom"):
        gap, error = one[name]["value"] - two[name]["value"], math.hypot(one[name]["error"], two[name]["error"])
        assert abs(gap) < FALSE_ALARM * error, name
    assert abs(one["check"]["z_virial_pressure"]) < FALSE_ALARM
    assert abs(one["check"]["z_free_energy"]) < FALSE_ALARM


def test_what_is_told_of_chains(by_chains):
    """One set for the table and one for the check; the error asked for is reached at every cell, from as few cells as it takes."""
    exact = results(by_chains, "always")["exact"]
    table, check = exact["chains"]
    assert (table["of"], check["of"], table["reason"]) == ("table", "check", "asked for")
    assert exact["evaluations"] == table["evaluations"] + check["evaluations"] > 0
    assert len(table["cells"]) == 5
    assert len(check["cells"]) == 1
    assert max(cell["error"] for cell in table["cells"]) < 0.012
    sampled = {window["state"]["volume"] for window in table["windows"] if window["coupling"] == 1.0}
    assert len(sampled) == 1
    assert abs(sampled.pop()) < 1e-9
    assert min(cell["overlap"] for cell in table["cells"]) > 0.3
    assert table["r_hat"] < 1.3
    assert 0.4 < table["acceptance"] <= 1.0
    assert not any("lowest ESS" in reason for reason in results(by_chains, "always")["verdict"]["reasons"])


def test_good_draws_need_no_chains(by_chains):
    """By default they are as good as never asked for, to the last bit."""
    assert "exact" not in results(by_chains, "auto")
    for name in ("helmholtz.csv", "gibbs.csv"):
        assert (by_chains / "auto" / name).read_bytes() == (by_chains / "never" / name).read_bytes()


def test_doubtful_draws_are_replaced_by_chains(models, capsys):
    """Sixteen draws in each of three repeats are too few to be beyond doubt; one line says so, and no ESS makes the verdict red."""
    few = settings("gibbs.n_samples=16", "gibbs.n_repeats=3", "estimate.target_error=0.02")
    spoken = call(capsys, models, "gibbs", "-model", "vol", "-P", "0", *CHAINS, *few, "-out", "g")
    assert spoken.code == 0, spoken.error
    assert "chains     the weights of the draws are not beyond doubt at 5 of 5 cells" in spoken.out
    found = results(models, "g")
    assert found["verdict"]["colour"] != "red"
    assert [entry["of"] for entry in found["exact"]["chains"]] == ["table", "check"]


def test_chains_that_do_not_come_there_in_time(models, capsys):
    """Red, with what is missing and what to do; the numbers of the draws are kept."""
    short = settings("exact.max_evaluations=40")
    spoken = call(capsys, models, "gibbs", "-model", "vol", "-P", "0", *CHAINS, *short, "--exact", "always", "-out", "g")
    assert spoken.code == 3
    assert "Expected chains of the crystal itself (lambda = 1), got to lambda = 0" in spoken.out
    assert results(models, "g")["exact"]["chains"][0]["note"]
    assert "Traceback" not in spoken.error


@pytest.mark.slow
def test_chains_on_two_ranks_give_the_bytes_of_one(models):
    """The white noise belongs to draws and chains, not to ranks; what follows is decided by the numbers of all of them."""
    words = [
        "gibbs",
        "-model",
        "vol",
        "-P",
        "0",
        *CHAINS,
        *settings("exact.max_evaluations=3000"),
        "--exact",
        "always",
        "--allow-red",
    ]
    for ranks, out in ((1, "by_one"), (2, "by_two")):
        said, _ = finished([*words, "-out", out], ranks)
        assert said.count("chains     asked for") == 2  # the table, and the check
    for name in ("gibbs.csv", "helmholtz.csv"):
        assert (models / "by_two" / name).read_bytes() == (models / "by_one" / name).read_bytes()
    one, two = (results(models, name)["exact"] for name in ("by_one", "by_two"))
    assert one["evaluations"] == two["evaluations"] > 0


# ---- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-P", "1", "parsec"], "got '1 parsec'; check the unit"),
        (["-P", "1", "mbar"], "write Mbar with a capital M"),
        (["-P", "GPa"], "got 'GPa'"),
        (["-P", "nan"], "got 'nan'"),
        (
            ["-P", "5", "GPa"],
            "inside the trained range volume in [-0.03, 0.03], got its edge; train a wider range or use a pressure",
        ),
        (["-P", "0", "-T", "100"], "expected T in the trained range [60, 90] K, got 100"),
        (["-P", "0", "-T", "nan"], "expected T in the trained range"),
        (["-P", "0", "-var", "lambda", "20"], "expected lambda in the trained range [18, 19], got 20"),
        (["-P", "0", "-var", "lambda", "18", "20"], "expected lambda in the trained range [18, 19], got 20"),
        (["-P", "0", "-var", "lambda", "a", "b"], "expected numbers as values of a condition, got 'a b'"),
        (["-P", "0", "-var", "rc", "1", "2"], "expected conditions of the model (volume, T, lambda), got values of rc"),
        (["-P", "0", "-var", "rc", "1"], "which in.gsw_diamond never uses"),
        (["-P", "0", "--cell", "xy"], "expected a model that was trained over volume, c/a, got one without c/a"),
        (["-P", "0", "-md", "gsw"], "expected results.json in"),
        (["-P", "0", "--set", "condition.volume=[0,1]"], "expected `lammps-bg gibbs` with the condition of the run"),
    ],
)
def test_bad_input(refused_by_models, words, message):
    refused_by_models(message, "gibbs", "-model", "gsw", *FEW, *words, "-out", "no")


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("one", [], "expected a model that depends on the cell or other conditions, got one of a single state"),
        ("vol", ["-T", "75", "80"], "got values of T; train a model with a range of it"),
        ("nothing", [], "there is no such folder"),
    ],
)
def test_models_of_another_kind(refused_by_models, model, words, message):
    refused_by_models(message, "gibbs", "-model", model, "-P", "0", *FEW, *words, "-out", "no")


def test_two_ranks_find_the_same(evaluated, tmp_path, monkeypatch):
    """Gibbs free energies and their errors to rounding; one rank speaks and writes."""
    shutil.copytree(evaluated, tmp_path / "runs")
    use(monkeypatch, tmp_path / "runs")
    words = json.loads((evaluated / "many" / "provenance.json").read_text())["command"]
    out, _ = finished([*words[1 : words.index("-out")], "--allow-red", "-out", "two"], 2)
    assert out.count("verdict") == 1
    for name in ("gibbs.csv", "helmholtz.csv"):
        one, two = (rows(tmp_path / "runs", where, name) for where in ("many", "two"))
        assert len(one) == len(two) > 0
        for mine, theirs in zip(one, two, strict=True):
            for key, value in mine.items():
                assert same_number(value, theirs[key]), (key, value, theirs[key])


def same_number(one, two):
    try:
        return float(one) == pytest.approx(float(two), rel=1e-6, abs=1e-9)
    except ValueError:
        return one == two
