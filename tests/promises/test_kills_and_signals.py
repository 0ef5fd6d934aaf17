"""Real runs: studies of seconds in processes of their own, which share compiled programs, lose nothing when killed."""

import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from batchscale.records import results_folder, row_files
from batchscale.records.row_files import Writer
from batchscale.records.row_types import Data, Trial
from subprocess_study import SWEEP, begin, environment, finish, only_folder, rounds
from tiny_workload import experiment, trials

pytestmark = pytest.mark.slow
KILLS = 6
"""The first half strikes while cells are timed, the second half while trials train."""
MOST_MORE_ROWS = {results_folder.THROUGHPUT: 10, results_folder.CONVERGENCE: 4}
"""A kill strikes once the file of its stage has up to so many more rows."""


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "sweep.toml").write_bytes(
        results_folder.to_toml(msgspec.structs.replace(experiment(**SWEEP), name="sweep"))
    )
    return folder


@pytest.fixture(scope="module")
def uninterrupted(workplace):
    code, _, errors = finish(begin(workplace, workplace / "whole"))
    assert code == 0, errors
    return only_folder(workplace / "whole")


def wait_for_rows(process, results, name, count):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        found = list(results.glob(f"sweep/*/{name}"))
        if found and found[0].read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "name", "count"),
    [(signal.SIGINT, results_folder.THROUGHPUT, 4), (signal.SIGTERM, results_folder.CONVERGENCE, 1)],
)
def test_a_signal_keeps_every_row_and_prints_the_command_that_continues(
    tmp_path, workplace, uninterrupted, number, name, count
):
    results = tmp_path / "with a space"
    process = begin(workplace, results, "-m", "batchscale", "run", "sweep.toml", "--results", str(results))
    wait_for_rows(process, results, name, count)
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == 130, errors
    folder = only_folder(results)
    data = (folder / name).read_bytes()
    assert data.endswith(b"\n")
    assert "To continue: " in errors.strip().splitlines()[-1], errors
    command = shlex.split(errors.strip().splitlines()[-1].split("To continue: ")[1])
    assert command[-4:] == ["run", "sweep.toml", "--results", str(results)]
    path = [f"PYTHONPATH={environment(workplace)['PYTHONPATH']}"]
    by_python = [sys.executable, "-m", "batchscale"]
    assert command[:-4] in (["batchscale"], by_python, ["env", *path, *by_python])
    code, _, errors = finish(begin(workplace, results))
    assert code == 0, errors
    assert (folder / name).read_bytes().startswith(data)
    assert trials(folder) == trials(uninterrupted)
    assert rounds(folder) == rounds(uninterrupted)


def test_a_second_run_measures_nothing_and_a_page_is_there(workplace, uninterrupted):
    before = {
        name: (uninterrupted / name).read_bytes() for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE)
    }
    command = ["-m", "batchscale", "run", "sweep.toml", "--results", str(workplace / "whole")]
    code, output, errors = finish(begin(workplace, None, *command))
    assert code == 0, errors
    assert before == {name: (uninterrupted / name).read_bytes() for name in before}
    page = Path(output.strip().splitlines()[-1].removeprefix("page: "))
    assert (workplace / page).read_text().startswith("<!doctype html>")


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(workplace, uninterrupted):
    with Writer(uninterrupted / results_folder.THROUGHPUT):
        command = ["-m", "batchscale", "run", "sweep.toml", "--results", str(workplace / "whole")]
        code, _, errors = finish(begin(workplace, None, *command))
    assert code == 2
    assert "another run is writing here" in errors.strip().splitlines()[-1]


def test_kills_at_random_moments_of_both_stages_lose_nothing(tmp_path, workplace, uninterrupted):
    """A folder is killed again and again until its study is done, then it must equal the uninterrupted one."""
    chance, kills, struck = np.random.default_rng(7), 0, set()
    while kills < KILLS:
        results, kept, code = tmp_path / str(kills), [], None
        while code != 0:
            process = begin(workplace, results)
            name = results_folder.THROUGHPUT if kills < KILLS // 2 else results_folder.CONVERGENCE
            if kills < KILLS:
                already = sum(path.read_bytes().count(b"\n") for path in results.glob(f"sweep/*/{name}"))
                wait_for_rows(process, results, name, already + chance.integers(MOST_MORE_ROWS[name] + 1))
                time.sleep(chance.uniform(0, 0.05))
                process.kill()
            code, _, errors = finish(process)
            if code != 0:
                assert code == -signal.SIGKILL, errors
                kills += 1
                struck.add(name)
                kept += [(path, path.read_bytes()) for path in results.glob("sweep/*/*.jsonl")]
        for path, before in kept:
            assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        assert trials(only_folder(results)) == trials(uninterrupted)
        assert rounds(only_folder(results)) == rounds(uninterrupted)
    assert struck == {results_folder.THROUGHPUT, results_folder.CONVERGENCE}


def test_a_torn_line_is_set_aside_and_measured_again(tmp_path, workplace, uninterrupted):
    shutil.copytree(workplace / "whole", tmp_path, dirs_exist_ok=True)
    path = only_folder(tmp_path) / results_folder.CONVERGENCE
    whole = path.read_bytes().splitlines(keepends=True)
    last = next(number for number in reversed(range(len(whole))) if b'"trial"' in whole[number])
    path.write_bytes(b"".join(whole[:last]) + whole[last][:-40])
    assert finish(begin(workplace, tmp_path))[0] == 0
    assert trials(path.parent) == trials(uninterrupted)
    assert path.with_suffix(".torn").read_bytes() == whole[last][:-40] + b"\n"
    with Writer(path) as writer:
        assert writer.torn_bytes == 0
    assert all(isinstance(row, Trial | Data) or row.compilations for row in row_files.read(path))
