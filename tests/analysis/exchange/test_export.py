"""Export: another tool's own code reads our file, and its statistics of our rounds are the ones we write."""

import json
import statistics
import subprocess
import sys

import msgspec
import pytest
import simulated_folder
from batchscale.analysis.exchange.export import FORMATS, sample_statistics
from batchscale.cli import command_line
from batchscale.cli.reading import EXPORTS
from batchscale.records import row_files
from batchscale.records.row_types import Round
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats


@pytest.fixture
def folder(tmp_path):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64), confirm_seeds=2, watts=30.0)
    return tmp_path


def exported(folder, *options):
    assert command_line.run(["export", str(folder), *options]) == 0
    return json.loads((folder / "pytest-benchmark.json").read_text())


def rounds(folder):
    return [row for row in row_files.read(folder / "throughput.jsonl") if isinstance(row, Round)]


def test_the_command_line_offers_every_format():
    assert list(FORMATS) == list(EXPORTS)


def test_pytest_benchmark_compares_two_exports(folder, tmp_path):
    """Its own command, on our files: each cell of both is a line, the same cell of both side by side."""
    exported(folder)
    other = tmp_path / "other.json"
    exported(folder, "--out", str(other))
    compare = "import sys; from pytest_benchmark.cli import main; sys.argv[0] = 'compare'; main()"
    done = subprocess.run(
        [sys.executable, "-c", compare, "compare", "--group-by", "fullname", "pytest-benchmark.json", "other.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Failed to load" not in done.stdout + done.stderr
    for size in (16, 64):
        for loop in ("scan", "dispatch"):
            cell = f"train_step[{size}-{loop}-device-float32-1-1]"
            assert sum(line.startswith(cell) for line in done.stdout.splitlines()) == 2


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_statistics_are_those_that_pytest_benchmark_computes(samples):
    theirs = Stats()
    for sample in samples:
        theirs.update(sample)
    ours = sample_statistics(samples)
    assert ours.pop("data") == samples
    assert set(ours) == set(Stats.fields)
    for name, value in theirs.as_dict().items():
        # A sample that lies on a fence to the last digit may fall to either side of it.
        if "outliers" not in name and "15iqr" not in name:
            assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_outliers_are_counted():
    ours = sample_statistics([1.0, 1.1, 1.2, 1.3, 9.0])
    assert (ours["outliers"], ours["ld15iqr"], ours["hd15iqr"]) == ("1;1", 1.0, 1.3)


def test_samples_are_seconds_per_step_of_every_round(folder):
    made = exported(folder)
    told = {one["param"]: one for one in made["benchmarks"]}
    assert len(told) == 4
    for param, one in told.items():
        own = [row for row in rounds(folder) if param.startswith(f"{row.batch_size}-{row.loop}-")]
        assert one["stats"]["data"] == [row.seconds / row.steps for row in own]
        assert one["stats"]["iterations"] == own[0].steps
        assert one["extra_info"]["joules"] == [row.joules for row in own]
        assert one["params"]["batch_size"] == own[0].batch_size
        assert one["fullname"] == f"simulated::train_step[{param}]"
        speed = one["extra_info"]["examples_per_second"]
        assert speed == pytest.approx(statistics.median(row.batch_size * row.steps / row.seconds for row in own))


def test_machine_and_commit_are_named(folder):
    made = exported(folder)
    assert made["machine_info"]["node"] == "simulated-cpu"
    assert made["machine_info"]["python_version"] == "3.11"
    assert (made["commit_info"]["id"], made["commit_info"]["dirty"]) == ("simulated", False)
    assert made["datetime"] == "2026-01-01T00:00:00Z"


def test_a_round_measured_twice_counts_once_and_the_later_one(folder):
    last = rounds(folder)[-1]
    again = msgspec.structs.replace(last, seconds=123.0, dirty=True)
    with (folder / "throughput.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(again) + b"\n")
    made = exported(folder)
    (of_cell,) = [one for one in made["benchmarks"] if one["param"].startswith(f"{last.batch_size}-{last.loop}-")]
    assert of_cell["stats"]["rounds"] == 7
    assert of_cell["stats"]["data"][-1] == 123.0 / last.steps
    assert made["commit_info"]["dirty"]


def test_a_folder_without_rounds_is_one_line(folder, capsys):
    (folder / "throughput.jsonl").unlink()
    assert command_line.run(["export", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "throughput.jsonl: holds no timed rounds" in line
