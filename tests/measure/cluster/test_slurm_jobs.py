"""Slurm through submitit: options, what sbatch is asked for, and whole studies by submitit's local executor."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from batchscale.errors import InputError
from batchscale.measure.cluster.scheduler import Place
from batchscale.measure.cluster.slurm_jobs import SlurmJobs, options
from batchscale.records import row_files
from batchscale.records.row_types import Round
from cluster_study import EXPERIMENT, finished, only_folder, plain, with_choices_of
from subprocess_study import RUN, environment
from tiny_workload import trials

needs_submitit = pytest.mark.skipif(
    find_spec("submitit") is None, reason="needs the extra `slurm`, which is not installed"
)
PROCESSES = Path("/proc")


def test_options_are_names_with_values():
    assert options("partition=gpu,time=60") == {"partition": "gpu", "time": "60"}
    assert options(" gres = gpu:2 ") == {"gres": "gpu:2"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--slurm: '', expected options of account=, .* separated by commas"),
        ("partition", "--slurm: 'partition', expected options of"),
        ("colour=red", "--slurm: 'colour=red', expected options of"),
        ("time=1h", "--slurm: time: '1h', expected a whole number above 0"),
        ("cluster=debug", "--slurm: cluster: 'debug', expected slurm or local"),
        ("cpus=0", "--slurm: cpus: '0', expected a whole number above 0"),
    ],
)
def test_other_options_are_refused_in_one_line(text, says):
    with pytest.raises(InputError, match=says):
        options(text)


@needs_submitit
def test_without_slurm_there_is_a_way_to_try(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not found, expected Slurm here, or cluster=local to try without"):
        SlurmJobs({}, tmp_path)


@pytest.fixture
def _sbatch(tmp_path, monkeypatch):
    """Put an sbatch in the path that keeps the scripts it gets."""
    (tmp_path / "bin").mkdir()
    for name, prints in {"sbatch": "Submitted batch job 7", "srun": "", "sacct": "", "scancel": ""}.items():
        program = tmp_path / "bin" / name
        keep = f'cat "$1" >> {tmp_path}/scripts\n' if name == "sbatch" else ""
        program.write_text(f"#!/bin/sh\n{keep}echo '{prints}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


@needs_submitit
@pytest.mark.usefixtures("_sbatch")
@pytest.mark.parametrize(
    ("place", "works", "asks", "never"),
    [
        (Place(["slurm"], whole=True), 1, ["exclusive"], ["array", "gpus-per-node"]),
        (Place(["slurm"], whole=True, platform="gpu"), 1, ["exclusive"], ["gpus-per-node"]),
        (Place(["slurm"], whole=False, platform="gpu"), 3, ["gpus-per-node=1", "array=0-2"], ["exclusive"]),
        (Place(["slurm"], whole=False, platform="cpu"), 2, ["exclusive", "array=0-1"], ["gpus-per-node"]),
    ],
)
def test_cells_ask_for_a_node_of_their_own_and_trials_for_an_accelerator(tmp_path, place, works, asks, never):
    with SlurmJobs({"partition": "gpu", "time": "60"}, tmp_path / "shared") as jobs:
        tickets = jobs.start([b"{}"] * works, place)
        assert len(tickets) == works
    asked = re.findall(r"^#SBATCH --(\S+)", (tmp_path / "scripts").read_text(), re.MULTILINE)
    assert {"partition=gpu", "time=60"} <= set(asked)
    for word in asks:
        assert any(one.startswith(word) for one in asked), asked
    for word in never:
        assert not any(one.startswith(word) for one in asked), asked


@needs_submitit
@pytest.mark.usefixtures("_sbatch")
@pytest.mark.parametrize("works", [1, 2])
def test_jobs_that_slurm_refuses_are_one_line(tmp_path, works):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with (
        pytest.raises(InputError, match=r"^--slurm: the jobs were refused \(.*invalid partition"),
        SlurmJobs({"partition": "no"}, tmp_path / "shared") as jobs,
    ):
        jobs.start([b"{}"] * works, Place(["slurm"], whole=False, platform="gpu"))
    assert not list((tmp_path / "shared").iterdir())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    return folder, plain(folder)


@needs_submitit
@pytest.mark.slow
def test_jobs_end_with_the_rows_of_a_plain_run(workplace):
    folder, expected = workplace
    results = folder / "jobs"
    with_choices_of(expected, results)
    done = finished(folder, "-m", "batchscale", "run", "study.toml", "--slurm", "cluster=local", "--results", results)
    assert done.returncode == 0, done.stderr
    made = only_folder(results)
    assert trials(made) == trials(expected)
    timed = [(row.batch_size, row.round) for row in row_files.read(made / "throughput.jsonl") if isinstance(row, Round)]
    assert sorted(timed) == [(size, number) for size in (7, 10, 50) for number in range(5)]
    assert (made / "report.html").exists()
    assert [path.name for path in results.iterdir()] == ["study"], "files of jobs are removed"


def processes_in(folder):
    """Return the processes that work in a folder."""
    found = []
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append(process.name)
    return found


@needs_submitit
@pytest.mark.slow
@pytest.mark.skipif(not PROCESSES.is_dir(), reason="needs /proc")
def test_ctrl_c_ends_the_workers_without_a_traceback_and_keeps_rows(tmp_path):
    long = EXPERIMENT.replace("rounds = 5", "rounds = 1000").replace("round_seconds = 0.001", "round_seconds = 0.01")
    (tmp_path / "study.toml").write_text(long)
    asked = ["study.toml", "--slurm", "cluster=local", "--results", "results", "--stages", "throughput"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "run", *asked],
        cwd=tmp_path,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        start_new_session=True,  # a process group of its own, as a terminal has one
        text=True,
    )
    while not any(b'"round"' in path.read_bytes() for path in tmp_path.glob("results/*/*/throughput.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors, errors
    assert "batchscale: stopped; everything measured is in results. To continue: " in errors.splitlines()[-1]
    end = time.monotonic() + 20
    while processes_in(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_in(tmp_path)
    assert any(isinstance(row, Round) for row in row_files.read(only_folder(tmp_path / "results") / "throughput.jsonl"))


@needs_submitit
@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is not None, reason="may find a GPU")
def test_a_node_without_the_gpu_that_was_asked_for_is_one_line(tmp_path):
    done = finished(tmp_path, "-m", "batchscale", "run", "study.toml", "--slurm", "cluster=local,gres=gpu:1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("waiting for")]
    assert re.fullmatch(
        r"batchscale: local \(gres=gpu:1\): it was asked for a GPU, and has none that JAX can use \(.*\),"
        r" expected a GPU, its driver and JAX for it",
        line,
    )
