"""The commands that read results: the files, the output and the exit code of each."""

from __future__ import annotations

import json
import shutil

import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.cli import command_line

pytestmark = pytest.mark.usefixtures("few_figures")

SIZES = (16, 64, 256, 1024)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two published folders of one workload, the second machine five times as slow."""
    home = tmp_path_factory.mktemp("published")
    for machine, slower in (("quick", 1), ("slow", 5)):
        truth = {"fixed_seconds": 1e-3 * slower, "seconds_per_example": 2e-5 * slower, "dispatch_seconds": 5e-4}
        simulated_folder.write(
            home / "simulated" / machine, batch_sizes=SIZES, confirm_seeds=2, seed=slower, machine=machine, **truth
        )
    return home


@pytest.fixture
def quick(machines):
    return machines / "simulated" / "quick"


@pytest.fixture
def slow(machines):
    return machines / "simulated" / "slow"


def printed(capsys, *line):
    """What a command line that succeeds prints."""
    assert command_line.run([str(part) for part in line]) == 0
    return capsys.readouterr().out


def test_a_report_is_for_people_and_for_scripts(quick, capsys):
    page = quick / "report.html"
    text = printed(capsys, "report", quick)
    assert f"page: {page}" in text
    answer = json.loads(printed(capsys, "report", quick, "--json"))
    assert answer == json.loads((quick / "summary.json").read_bytes())
    assert str(answer["time_optimal"]["batch_size"]) in text
    assert page.is_file()


def test_a_report_warns_of_a_row_that_it_left_out(quick, tmp_path, capsys):
    folder = shutil.copytree(quick, tmp_path / "torn")
    rows = folder / "throughput.jsonl"
    rows.write_bytes(rows.read_bytes()[:-9])
    assert command_line.run(["report", str(folder)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"batchscale: warning: {rows}: its last line is torn and was left out; ")


def test_figures_follow_the_options(quick, tmp_path, capsys):
    name = figures.PLOTS[0].name
    style = tmp_path / "plain.mplstyle"
    style.write_text("font.size: 8\n")
    line = ("figures", quick, "--only", name, "--format", "pdf", "--width", "3.3", "--style", style)
    drawn = printed(capsys, *line, "--out", tmp_path / "out").splitlines()
    assert drawn == [str(tmp_path / "out" / f"{name}.pdf")]
    assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for path in printed(capsys, "figures", quick).splitlines():
        assert path.startswith(str(quick / "figures" / name))


def test_a_comparison_names_its_page_and_fails_on_request(quick, slow, tmp_path, capsys):
    line = ["compare", quick, slow, "--out", tmp_path / "both"]
    assert f"page: {tmp_path / 'both'}" in printed(capsys, *line)
    for folders, outcome, slower in (((quick, slow), "slower", len(SIZES)), ((slow, quick), "faster", 0)):
        asked = ["compare", *map(str, folders), "--fail-if-slower", "5%", "--out", str(tmp_path / "both"), "--json"]
        assert command_line.run(asked) == (1 if slower else 0)
        answer, complaints = capsys.readouterr()
        assert {one["outcome"] for one in json.loads(answer)["against"][0]["ratios"]} >= {outcome}
        lines = complaints.splitlines()
        assert len([line for line in lines if line.startswith("batchscale: slow: ")]) == slower


def test_a_site_is_built_from_published_folders(machines, tmp_path, capsys):
    index = printed(capsys, "site", machines, "--out", tmp_path / "site").strip()
    assert index == str(tmp_path / "site" / "index.html")
    assert "quick" in (tmp_path / "site" / "index.html").read_text()


def test_a_folder_that_cannot_be_published_gets_reasons_and_code_1(quick, tmp_path, capsys):
    assert command_line.run(["submit", str(quick), "--published", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "not placed"
    assert not any(line.startswith("missing: ") for line in lines)
    assert command_line.run(["submit", str(quick), "--published", str(tmp_path), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == len(lines) - 1
    assert not any(tmp_path.iterdir())


CONVERGENCE = "batch_size,seed,epochs_to_target\n" + "".join(
    f"{size},{seed},{2 + size / 200 + seed / 50}\n" for size in SIZES for seed in range(3)
)
SPEEDS = "{name}batch_size,examples_per_second\n" + "".join(
    f"{{machine}}{size},{size / (1e-3 + 1e-5 * size) * factor:.6g}\n" for size in SIZES for factor in (0.99, 1, 1.01)
)


def tables(folder, *machines):
    (folder / "c.csv").write_text(CONVERGENCE)
    rows = SPEEDS.format(name="machine," if machines else "", machine=f"{machines[0]}," if machines else "")
    for machine in machines[1:]:
        rows += SPEEDS.format(name="", machine=f"{machine},").partition("\n")[2]
    (folder / "t.csv").write_text(rows)
    return folder / "c.csv", folder / "t.csv"


def test_a_folder_made_of_tables_is_not_published(tmp_path, capsys):
    needs, speeds = tables(tmp_path)
    out = tmp_path / "out"
    printed(capsys, "analyze", "--convergence", needs, "--throughput", speeds, "--train-examples", 99, "--out", out)
    assert command_line.run(["submit", str(out), "--published", str(tmp_path / "published")]) == 1
    problem, last = capsys.readouterr().out.splitlines()
    assert problem.startswith(f"{out}: made from tables, expected rows")
    assert last == "not placed"


def test_a_score_whose_name_says_which_way_is_better_needs_no_other_word(tmp_path, capsys):
    path = tmp_path / "finals.csv"
    path.write_text("batch_size,seed,val_loss,length\n16,0,2,5\n16,1,2.1,5\n32,0,1.9,5\n32,1,1.95,5\n")
    line = ["analyze", "--convergence", path, "--out", tmp_path / "out", "--metric"]
    assert "best validation loss" in printed(capsys, *line, "val_loss")
    assert command_line.run([*map(str, line), "length"]) == 2
    assert "'length', expected accuracy" in capsys.readouterr().err


@pytest.mark.parametrize("names", [(), ("laptop", "server")])
def test_tables_from_elsewhere_are_answered_for_each_machine(tmp_path, capsys, names):
    needs, speeds = tables(tmp_path, *names)
    line = ["analyze", "--convergence", needs, "--throughput", speeds, "--train-examples", 10_000, "--target", 0.9]
    assert printed(capsys, *line, "--out", tmp_path / "text").count("page: ") == max(len(names), 1)
    found = json.loads(printed(capsys, *line, "--out", tmp_path / "json", "--json"))
    assert json.loads((tmp_path / "json" / "summary.json").read_bytes()) == found


def test_hardware_without_training_gets_an_answer(quick, tmp_path, capsys):
    _, speeds = tables(tmp_path, "laptop")
    predicted = json.loads(printed(capsys, "predict", quick, "--seconds-per-step", speeds, "--json"))
    assert list(predicted) == ["laptop"]
    best = predicted["laptop"]["time_optimal"]["batch_size"]
    assert str(best) in printed(capsys, "predict", quick, "--seconds-per-step", speeds)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("figures DIR --width 0", "'0' is not a width in inches, expected a number above 0 and at most 20"),
        ("figures DIR --width wide", "'wide' is not a width in inches, expected a number above 0 and at most 20"),
        ("figures DIR --width 1000", "'1000' is not a width in inches, expected a number above 0 and at most 20"),
        ("figures DIR --only ,", "',' holds no name, expected names separated by commas"),
        ("run --budget 1e9", "'1e9' is not a number of minutes, expected a number above 0 and at most 100,000"),
        (
            "report DIR --price-per-hour 1e400",
            "'1e400' is not a price such as 2.5, expected a number above 0 and at most 1,000,000,000",
        ),
        (
            "compare A B --fail-if-slower -5",
            "'-5' is not a percentage such as 5%, expected a number above 0% and at most 100%",
        ),
        (
            "compare A B --fail-if-slower -5%",
            "'-5%' is not a percentage such as 5%, expected a number above 0% and at most 100%",
        ),
        (
            "compare A B --fail-if-slower 500%",
            "'500%' is not a percentage such as 5%, expected a number above 0% and at most 100%",
        ),
        (
            "analyze --convergence c --throughput t --out o --target 97",
            "--target: 97, expected an accuracy between 0 and 1, such as 0.99; for a loss add --metric loss",
        ),
        (
            "analyze --train-examples 1.5",
            "'1.5' is not allowed, expected a whole number from 1 to 1,000,000,000,000,000",
        ),
        (
            "analyze --tokens-per-example 0",
            "'0' is not allowed, expected a whole number from 1 to 1,000,000,000,000,000",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_line_with_the_accepted_range(capsys, line, message):
    assert command_line.run(line.split()) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert message in shown


def test_the_best_score_within_a_time_is_named(quick, slow, tmp_path, capsys):
    text = printed(capsys, "report", quick, "--within", "2s")
    assert "Within 2.00 s of training, batch size" in text
    found = json.loads(printed(capsys, "report", quick, "--within", ".5m", "--json"))
    assert found["within"]["seconds"] == 30
    assert found["within"]["batch_size"] in found["within"]["tied"]
    seen = json.loads(printed(capsys, "predict", quick, "--seconds-per-step", slow, "--within", "10s", "--json"))
    assert [one["within"]["seconds"] for one in seen.values()] == [10]
    text = printed(capsys, "compare", quick, slow, "--within", "10s", "--out", tmp_path)
    assert text.count("Within 10.0 s of training") == 2


@pytest.mark.parametrize("text", ["10", "0s", "-1h", "10 m", "nan", "1e9s", "9999999h"])
def test_a_time_without_a_unit_or_out_of_range_is_refused_in_one_line(quick, text, capsys):
    assert command_line.run(["report", str(quick), "--within", text]) == 2
    assert "expected such as 90s, 10m or 1.5h" in capsys.readouterr().err
