"""The command line: exit codes, one-line refusals, help by example, and runs that signals and kills cannot hurt."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from workbench import TINY, experiment, trials

from bench import cli, folders, store
from bench.errors import DeviceError
from bench.measure import doctor, isolation
from bench.rows import Round, Trial
from bench.store import Writer

ROOT = Path(__file__).parent.parent
KILLS = 30
VERBS = re.findall(r"^    (\w+) ", cli.parser().format_help(), re.MULTILINE)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")


def test_there_are_the_verbs_a_user_is_promised():
    assert {"run", "report", "compare", "list", "doctor"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_example(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run([verb, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  batchscale {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("run lenet_digit", "neither a file ending in .toml nor one of"),
        ("run absent.toml", "absent.toml: cannot be read"),
        ("run lenet_digits --results {file}/deeper", "cannot be written"),
        ("run --convergence-from {file}", "cannot be read"),
        ("report {folder}/absent", "absent"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_code_2(tmp_path, capsys, line, says):
    (tmp_path / "file").write_text("in the way")
    assert cli.run(line.format(file=tmp_path / "file", folder=tmp_path).split()) == 2
    *_, said = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("batchscale: ")
    assert says in said


@pytest.mark.parametrize(("field", "known"), [("dataset", "mnist"), ("model", "lenet"), ("optimizer", "sgd")])
def test_an_unknown_name_is_told_with_file_and_path_and_what_is_known(tmp_path, capsys, monkeypatch, field, known):
    monkeypatch.setattr("bench.measure.datasets.load", lambda _: pytest.fail("data was fetched"))
    wrong = experiment(workload={**TINY["workload"], field: "unheard"})
    (tmp_path / "odd.toml").write_bytes(folders.to_toml(msgspec.structs.replace(wrong, name="odd")))
    assert cli.run(["run", str(tmp_path / "odd.toml"), "--results", str(tmp_path)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"batchscale: odd.toml: workload.{field}: 'unheard' is not one of ")
    assert known in told


def test_convergence_that_cannot_be_read_is_told_before_data_is_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.measure.datasets.load", lambda _: pytest.fail("data was fetched"))
    assert cli.run(["run", "--results", str(tmp_path), "--convergence-from", str(tmp_path / "typo")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "experiment.toml: cannot be read" in told


@pytest.mark.parametrize(
    "line", ["", "walk", "run --budget soon", "run --budget 0", "run --budget nan", "run --stages training", "report"]
)
def test_a_misspelt_command_line_is_refused_with_code_2(capsys, line):
    with pytest.raises(SystemExit) as ended:
        cli.run(line.split())
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("package", ["msgspec", "jax"])
def test_a_python_without_a_package_is_told_how_to_get_it(package):
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['batchscale', 'list']; "
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}import bench.__main__; bench.__main__.main()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    python = shlex.quote(sys.executable)
    told = f"{python} lacks the package {package}; to install what is needed: {python} -m pip install -e ."
    assert (ended.returncode, ended.stderr) == (2, f"batchscale: {told}\n")


def test_lists_are_for_people_and_for_scripts(capsys):
    assert cli.run(["list"]) == 0
    text = capsys.readouterr().out
    assert cli.run(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"mlp", "lenet", "linear"} <= set(listed["models"])
    for names in listed.values():
        assert all(name in text for name in names)


def test_the_doctor_answers_without_a_network(capsys, tmp_path):
    assert cli.run(["doctor", "--results", str(tmp_path), "--json"]) == 0
    found = {one["item"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["results folder"]["ok"]
    assert found["dataset digits"]["ok"]
    assert not found["dataset mnist"]["ok"]


def test_the_doctor_s_columns_never_touch(monkeypatch, capsys):
    long = doctor.Finding("fashion_mnist: system package dataset-fashion-mnist", "is in the package lists", ok=True)
    monkeypatch.setattr(doctor, "diagnose", lambda _: [long, doctor.Finding("jax", "1.0", ok=False)])
    assert cli.run(["doctor"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ok  fashion_mnist: system package dataset-fashion-mnist  is in the package lists"
    assert second == f"--  {'jax':34}  1.0"


@pytest.mark.parametrize("verb", ["run", "doctor"])
def test_a_data_folder_that_is_not_there_is_told(monkeypatch, capsys, tmp_path, verb):
    monkeypatch.setenv("BATCHSCALE_DATA", str(tmp_path / "typo"))
    monkeypatch.setattr("bench.measure.suite.measure", lambda *_: [])
    assert cli.run([verb, "--results", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert f"BATCHSCALE_DATA: '{tmp_path / 'typo'}' is not a folder" in (told.err if verb == "run" else told.out)


def test_a_device_that_keeps_failing_ends_the_run_in_one_line_with_code_2(monkeypatch, capsys, tmp_path):
    def lost(*_):
        raise DeviceError("3 failures in a row, the last at B=8 scan; run again with --retry-failed")

    monkeypatch.setattr("bench.measure.suite.run", lost)
    monkeypatch.setattr("bench.measure.suite.announce", lambda *_: None)
    assert cli.run(["run", "lenet_digits", "--results", str(tmp_path), "--retry-failed"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("batchscale: 3 failures in a row")


def test_an_interrupt_anywhere_is_code_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.experiment.shipped", interrupted)
    assert cli.run(["list"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly():
    script = f"{shlex.quote(sys.executable)} -m bench list | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


# What follows runs the real thing: a study of seconds in processes of its own, which share compiled programs.

SWEEP = {
    **TINY,
    "batch_sizes": {"values": [10, 50]},
    "budget": {"epochs": 12, "max_epochs": 16},
    "evaluation": {"first_epoch": 4, "per_epoch": 4},
    "throughput": {"rounds": 8, "round_seconds": 0.02, "loops": ["scan"]},
}
MEASURE = """
import sys
from pathlib import Path
from bench.measure import convergence, suite
from bench.measure.host import Host
from bench.measure.interrupts import Stopper
convergence.CHECKPOINT_SECONDS = 0.05
suite.measure(suite.Request([sys.argv[1]], results=Path(sys.argv[2])), Host.describe(), Stopper())
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "sweep.toml").write_bytes(folders.to_toml(msgspec.structs.replace(experiment(**SWEEP), name="sweep")))
    return folder


def environment(workplace):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(workplace / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    apart = {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **isolation.VARIABLES, **cache, **apart}


def begin(workplace, results, *command):
    line = [sys.executable, *(command or ("-c", MEASURE, "sweep.toml", str(results)))]
    return subprocess.Popen(
        line, cwd=workplace, env=environment(workplace), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def only_folder(results):
    (folder,) = (results / "sweep").iterdir()
    return folder


def rounds(folder):
    found = [row for row in store.read(folder / folders.THROUGHPUT) if isinstance(row, Round)]
    return sorted((row.batch_size, row.loop, row.round) for row in found)


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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "count"), [(folders.THROUGHPUT, 4), (folders.CONVERGENCE, 1)])
def test_a_signal_keeps_every_row_and_prints_the_command_that_continues(
    tmp_path, workplace, uninterrupted, number, name, count
):
    results = tmp_path / "with a space"
    process = begin(workplace, results, "-m", "bench", "run", "sweep.toml", "--results", str(results))
    wait_for_rows(process, results, name, count)
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == 130, errors
    folder = only_folder(results)
    data = (folder / name).read_bytes()
    assert data.endswith(b"\n")
    assert "To continue: " in errors.strip().splitlines()[-1], errors
    command = shlex.split(errors.strip().splitlines()[-1].split("To continue: ")[1])
    assert command == ["batchscale", "run", "sweep.toml", "--results", str(results)]
    code, _, errors = finish(begin(workplace, results))
    assert code == 0, errors
    assert (folder / name).read_bytes().startswith(data)
    assert trials(folder) == trials(uninterrupted)
    assert rounds(folder) == rounds(uninterrupted)


@pytest.mark.slow
def test_a_second_run_measures_nothing_and_a_page_is_there(workplace, uninterrupted):
    before = {name: (uninterrupted / name).read_bytes() for name in (folders.THROUGHPUT, folders.CONVERGENCE)}
    command = ["-m", "bench", "run", "sweep.toml", "--results", str(workplace / "whole")]
    code, output, errors = finish(begin(workplace, None, *command))
    assert code == 0, errors
    assert before == {name: (uninterrupted / name).read_bytes() for name in before}
    page = Path(output.strip().splitlines()[-1].removeprefix("page: "))
    assert (workplace / page).read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_a_run_beside_another_is_refused_in_one_line(workplace, uninterrupted):
    with Writer(uninterrupted / folders.THROUGHPUT):
        command = ["-m", "bench", "run", "sweep.toml", "--results", str(workplace / "whole")]
        code, _, errors = finish(begin(workplace, None, *command))
    assert code == 2
    assert "another run is writing here" in errors.strip().splitlines()[-1]


@pytest.mark.slow
def test_thirty_kills_at_random_moments_of_both_stages_lose_nothing(tmp_path, workplace, uninterrupted):
    """A folder is killed again and again until its study is done, then it must equal the uninterrupted one."""
    chance, kills, struck = random.Random(7), 0, set()  # noqa: S311 - moments, not secrets
    for number in range(2 * KILLS):
        results = tmp_path / str(number)
        while True:
            process = begin(workplace, results)
            name, count = chance.choice(
                [(folders.THROUGHPUT, chance.randint(0, 16)), (folders.CONVERGENCE, chance.randint(0, 20))]
            )
            already = sum(path.read_bytes().count(b"\n") for path in results.glob(f"sweep/*/{name}"))
            wait_for_rows(process, results, name, already + count)
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            code, _, errors = finish(process)
            if code == 0:
                break
            assert code == -signal.SIGKILL, errors
            kills += 1
            struck.add(name)
            kept = {path: path.read_bytes() for path in results.glob("sweep/*/*.jsonl")}
            for path in kept:
                list(store.read(path))
        folder = only_folder(results)
        assert trials(folder) == trials(uninterrupted)
        assert rounds(folder) == rounds(uninterrupted)
        if kills >= KILLS:
            break
    assert kills >= KILLS
    assert struck == {folders.THROUGHPUT, folders.CONVERGENCE}


@pytest.mark.slow
def test_a_torn_line_is_set_aside_and_measured_again(tmp_path, workplace, uninterrupted):
    code, _, errors = finish(begin(workplace, tmp_path))
    assert code == 0, errors
    path = only_folder(tmp_path) / folders.CONVERGENCE
    whole = path.read_bytes().splitlines(keepends=True)
    last = next(number for number in reversed(range(len(whole))) if b'"trial"' in whole[number])
    path.write_bytes(b"".join(whole[:last]) + whole[last][:-40])
    assert finish(begin(workplace, tmp_path))[0] == 0
    assert trials(path.parent) == trials(uninterrupted)
    assert path.with_suffix(".torn").read_bytes() == whole[last][:-40] + b"\n"
    with Writer(path) as writer:
        assert writer.torn_bytes == 0
    assert all(isinstance(row, Trial) or row.compilations for row in store.read(path))
