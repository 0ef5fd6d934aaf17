"""Two processes of one program over loopback time data-parallel cells; one is killed, stopped, or has other code."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.records import row_files
from batchscale.records.row_types import Compilation, Round
from cluster_study import EXPERIMENT, QUIET, finished, without_commit
from subprocess_study import RUN, environment

pytestmark = pytest.mark.slow
STUDY = EXPERIMENT.replace("[7, 10, 50]", "[7, 10]")
KEYS = {CellKey(size, "scan") for size in (7, 10)} | {CellKey(size, "scan", devices=2) for size in (10, 14, 20)}
"""Every batch size on one device; what two devices can share: the same batches, and batches twice as large."""

LONG = (
    re.sub("model_options = .*", "", STUDY)
    .replace('"lenet"', '"linear"')
    .replace("[7, 10]", "[10]")
    .replace("rounds = 5", "rounds = 1000")
)
"""It compiles in a moment and takes minutes."""
IMPATIENT = f"""
from batchscale.measure.cluster import multihost
multihost.JOIN_SECONDS, multihost.SILENT_SECONDS = 3, 0.5
{RUN}"""
"""The command line, which waits for other processes for 3 seconds only."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def started(folder, *more, text=STUDY, variables=({}, {}), experiments=("study.toml",) * 2, processes=("2", "2")):
    """Start both processes in one folder."""
    (folder / "study.toml").write_text(text)
    line = [sys.executable, "-c", RUN, "run", "--results", "results", "--multihost"]
    where = ["--coordinator", f"127.0.0.1:{free_port()}"]
    return [
        subprocess.Popen(
            [*line, experiments[number], *where, *more, "--processes", processes[number], "--process", str(number)],
            cwd=folder,
            env={**environment(folder), **QUIET, **variables[number]},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def ended(processes):
    return [(process.communicate(timeout=200), process.returncode) for process in processes]


def rows_of(folder):
    paths = list(folder.glob("results/study/*/throughput.jsonl"))
    return [row for path in paths for row in row_files.read(path)]


def test_two_hosts_time_cells_that_share_a_batch_and_one_writes(tmp_path):
    first, second = ended(started(tmp_path))
    assert (first[1], second[1]) == (0, 0), first[0][1] + second[0][1]
    timed = [row for row in rows_of(tmp_path) if isinstance(row, Round)]
    assert sorted((CellKey.of(row), row.round) for row in timed) == sorted(
        (key, number) for key in KEYS for number in range(5)
    )
    assert len({row.machine for row in timed}) == 1
    assert timed[0].machine.endswith("-x2")
    assert second[0][0] == ""
    again = ended(started(tmp_path))
    assert [status for _, status in again] == [0, 0]
    assert len([row for row in rows_of(tmp_path) if isinstance(row, Round)]) == len(timed), "nothing was missing"


@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_ends_the_program_and_rows_are_kept(tmp_path, killed):
    processes = started(tmp_path, text=LONG)
    while sum(isinstance(row, Round) and row.devices == 2 for row in rows_of(tmp_path)) < 5:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.2)
    os.kill(processes[killed].pid, signal.SIGKILL)
    end = ended(processes)
    (_, errors), status = end[1 - killed]
    kept = rows_of(tmp_path)
    assert not [row for row in kept if isinstance(row, Compilation) and row.status != "ok"]
    line = errors.strip().splitlines()[-1]
    assert line.endswith("all rows are kept. Start the command on every host again to measure the rest")
    assert "Traceback" not in errors
    # JAX ends a process whose first host is gone, unless our own line came first.
    assert status == 2 or (killed == 0 and line.startswith("batchscale: this process was ended at once")), errors
    assert status != 2 or line.startswith("batchscale: a host of this program was lost ("), errors


def test_a_port_that_another_program_has_is_refused_in_one_line(tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        place = ["--coordinator", f"127.0.0.1:{other.getsockname()[1]}", "--processes", "2", "--process", "0"]
        done = finished(tmp_path, "-m", "batchscale", "run", "lenet_digits", "--multihost", *place)
    assert done.returncode == 2
    assert re.fullmatch(r"batchscale: --coordinator: port \d+ cannot be used here \(.*in use.*\)\n", done.stderr)


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_do_not_come_end_the_wait_in_one_line(tmp_path, process):
    place = f"127.0.0.1:{free_port()}"
    given = ["--multihost", "--coordinator", place, "--processes", "2", "--process", str(process)]
    done = finished(tmp_path, "-c", IMPATIENT, "run", "lenet_digits", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"waiting for 2 processes at {place}, at most 3 s\n"
        f"batchscale: --coordinator: 2 processes did not meet at {place} within 3 s, expected this command on every"
        " host, with the same --coordinator and --processes, and another --process on each\n"
    )


def test_ctrl_c_ends_the_wait_at_once(tmp_path):
    process, other = started(tmp_path, processes=("3", "3"))
    with process, other:
        for one in (process, other):
            assert one.stderr.readline().startswith("waiting for 3 processes at 127.0.0.1:")
            one.send_signal(signal.SIGINT)
            assert one.wait(timeout=20) == -signal.SIGINT
            assert one.stderr.read() == ""


def test_a_host_that_nobody_knows_is_refused_at_once(tmp_path):
    given = ["--multihost", "--coordinator", "nowhere.invalid:8476", "--processes", "2", "--process", "1"]
    done = finished(tmp_path, "-m", "batchscale", "run", "lenet_digits", *given)
    assert done.returncode == 2
    assert re.fullmatch(r"batchscale: --coordinator: the host 'nowhere\.invalid' is not found \(.*\)\n", done.stderr)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (["--coordinator", "127.0.0.1:8476"], "--processes N and --process I"),
        (["--coordinator", "127.0.0.1:8476", "--processes", "2"], "--process I"),
        ([], "--coordinator HOST:PORT and --processes N and --process I"),
    ],
)
def test_what_jax_does_not_find_is_named_by_its_option(tmp_path, given, missing):
    done = finished(tmp_path, "-m", "batchscale", "run", "lenet_digits", "--multihost", *given)
    assert done.returncode == 2
    assert done.stderr == f"batchscale: --multihost: JAX finds no program here, expected {missing} too\n"


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        (
            {"experiments": ("study.toml", "lenet_digits")},
            "experiment lenet_digits, protocol [0-9a-f]{16}, expected experiment study, protocol [0-9a-f]{16}"
            " as in process 0",
        ),
        ({"processes": ("2", "3")}, "--processes: 3, expected 2 as in process 0"),
        ({"experiments": ("study.toml", "unknown")}, "experiment 'unknown': expected a file .*"),
    ],
)
def test_a_process_that_is_asked_for_something_else_ends_all_in_one_line(tmp_path, differs, says):
    for (_, errors), status in ended(started(tmp_path, **differs)):
        assert status == 2, errors
        assert re.fullmatch(f"batchscale: process 1: {says}", errors.strip().splitlines()[-1]), errors
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_any_process_stops_all(tmp_path, asked):
    processes = started(tmp_path, text=LONG)
    while sum(isinstance(row, Round) and row.devices == 2 for row in rows_of(tmp_path)) < 5:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.2)
    os.kill(processes[asked].pid, signal.SIGINT)
    for (_, errors), status in ended(processes):
        assert status == 130, errors
        assert "batchscale: stopped; everything measured is in results. To continue: " in errors.splitlines()[-1]


def test_a_process_of_another_version_ends_all_in_one_line(tmp_path):
    old = {"PYTHONPATH": str(without_commit(tmp_path))}
    for (_, errors), status in ended(started(tmp_path, variables=({}, old))):
        assert status == 2, errors
        line = errors.strip().splitlines()[-1]
        assert re.fullmatch(
            r"batchscale: process 1: batchscale [\d.]+ there, [0-9a-f]{40} here, expected the same versions", line
        )
    assert not [row for row in rows_of(tmp_path) if isinstance(row, Round)]
