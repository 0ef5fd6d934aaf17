"""A process of its own: rows come out whole, and however it dies there is one clear failure and nothing left of it."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import jax
import msgspec
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.data.made_up import example_spec
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.throughput import cell_main, cell_process
from batchscale.measure.throughput.cell_process import COMMAND, CellJob, Child, ChildError, Job
from batchscale.records.row_files import encode
from batchscale.records.row_types import Compilation, Round
from repository import ROOT
from sample_rows import ORIGIN
from tiny_workload import experiment, host, tiny_dataset

ROW = encode(Compilation(**ORIGIN, batch_size=8, loop="scan", status="ok")).decode()


def job(*batch_sizes, memory_bytes=1 << 30, first_round=0, **changes):
    keys = [CellKey(size, "scan") for size in batch_sizes or [50]]
    return Job(
        task="time",
        cells=[CellJob(key=key, lowering=None, first_round=first_round) for key in keys],
        experiment=experiment(throughput={"rounds": 5, "round_seconds": 0.001}),
        host=host(),
        sources="",
        platform="cpu",
        examples=example_spec(tiny_dataset()),
        train_examples=100,
        memory_bytes=memory_bytes,
        **changes,
    )


def scripted(script):
    """A child that runs a few lines of Python instead."""
    return Child(job(), (sys.executable, "-c", f"import os, signal, sys\njob = sys.stdin.readline()\n{script}"))


def fate(child):
    """The rows of a child and the failure it ended with."""
    rows = []
    try:
        with child as opened:
            rows += opened.rows()
    except ChildError as error:
        return rows, error.failure
    return rows, None


def test_rows_come_out_whole_and_in_order():
    rows, failure = fate(scripted(f"sys.stdout.write({ROW!r} * 3)"))
    assert failure is None
    assert [encode(row).decode() for row in rows] == [ROW] * 3


def test_the_job_goes_in_as_json_and_is_validated():
    said = "import json; assert json.loads(job)['cells'][0]['key']['batch_size'] == 50, job"
    assert fate(scripted(said)) == ([], None)
    with pytest.raises(msgspec.ValidationError, match="unknown field `shell`"):
        msgspec.json.decode(msgspec.json.encode({**msgspec.to_builtins(job()), "shell": "rm"}), type=Job)


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "out_of_memory", "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed", "ended by SIGSEGV: it wrote no message"),
        ("sys.stderr.write('what(): std::bad_alloc\\n'); sys.stderr.flush(); os.abort()", "out_of_memory", "SIGABRT"),
        ("sys.exit('allocate of <4> failed. INTERNAL: error')", "out_of_memory", "allocate of"),
        ("sys.exit('RESOURCE_EXHAUSTED: no more')", "out_of_memory", "exit status 1: RESOURCE_EXHAUSTED"),
        ("sys.exit('\\x1b[31mred in /home/someone/x')", "failed", r"exit status 1: \\x1b\[31mred in <path>"),
        ("sys.stdout.write('{}\\n')", "failed", "its process: not a valid row"),
        ("sys.stdout.write('words\\n' * 9)", "failed", "its process: not a valid row"),
        ("import time; sys.stdout.close(); os.close(1); sys.exit(3)", "failed", "exit status 3"),
    ],
)
def test_every_death_is_one_failure(script, status, says):
    rows, failure = fate(scripted(f"sys.stdout.write({ROW!r}); sys.stdout.flush()\n{script}"))
    assert len(rows) == 1
    assert failure.status == status
    assert re.search(says, failure.message)
    assert failure.message.isprintable()


def test_what_a_failed_row_does_not_tell_stands_in_its_last_words():
    failed = Compilation(**ORIGIN, batch_size=8, loop="scan", status="failed", message="INTERNAL: error")
    for said, status in (("allocate of 4096 failed.", "out_of_memory"), ("what a pity", "failed")):
        write = f"sys.stderr.write({said!r}); sys.stderr.flush()\nsys.stdout.write({encode(failed).decode()!r})"
        (row,), _ = fate(scripted(write))
        assert (row.status, row.message) == (status, f"INTERNAL: error ({said})")


def test_nothing_is_left_of_it_when_it_is_not_waited_for():
    with scripted(f"sys.stdout.write({ROW!r}); sys.stdout.flush(); os.fork(); signal.pause()") as child:
        next(child.rows())
        group = child._process.pid
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("its own children outlived it")


def test_a_process_that_hangs_is_ended_and_its_rows_are_kept(monkeypatch):
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], silent_seconds=1.0))
    rows, failure = fate(scripted(f"sys.stdout.write({ROW!r}); sys.stdout.flush(); signal.pause()"))
    assert len(rows) == 1
    assert failure == ("failed", "it did not end within 1 s, and its process was ended")


def test_a_program_that_cannot_read_its_job_is_a_failure():
    _, failure = fate(Child(job(), (sys.executable, "-c", "raise SystemExit(9)")))
    assert "exit status 9" in failure.message


def test_a_real_cell_is_timed_in_a_process_of_its_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows, failure = fate(Child(job(first_round=2)))
    assert failure is None
    (compiled, *rounds) = rows
    assert (compiled.status, compiled.predicted_bytes > 0) == ("ok", True)
    assert [row.round for row in rounds] == [2, 3, 4]
    assert all(isinstance(row, Round) and row.fingerprint == job().experiment.fingerprint for row in rounds)


@pytest.mark.slow
def test_cells_of_a_block_are_timed_together_in_a_process_that_rounds_name(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows, failure = fate(Child(job(10, 50, block=2, process=7)))
    assert failure is None
    assert [type(row) for row in rows] == [Compilation] * 2 + [Round] * 10
    assert {(row.block, row.process) for row in rows[2:]} == {(2, 7)}
    for number in range(5):
        assert {row.batch_size for row in rows[2:] if row.round == number} == {10, 50}
    order = [row.round for row in rows[2:]]
    assert order == sorted(order), "rounds are interleaved"


@pytest.mark.slow
def test_a_users_own_modules_in_the_current_folder_do_not_disturb_a_cell(tmp_path, monkeypatch):
    for name in ("models", "bench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("print('mine')\nraise RuntimeError('the package of a user')\n")
    for name in ("models", "bench", "jax", "numpy"):
        (tmp_path / f"{name}.py").write_text("print('mine')\nraise RuntimeError('the module of a user')\n")
    monkeypatch.chdir(tmp_path)
    rows, failure = fate(Child(job(first_round=4)))
    assert failure is None
    assert [type(row) for row in rows] == [Compilation, Round]
    assert rows[0].status == "ok"


@pytest.mark.slow
def test_a_real_cell_under_a_limit_on_memory_is_a_row_and_not_a_crash(monkeypatch):
    monkeypatch.chdir(ROOT)
    wide = experiment(workload={"model": "mlp", "model_options": {"hidden": [1 << 16]}})
    rows, failure = fate(Child(msgspec.structs.replace(job(100, memory_bytes=16 << 20), experiment=wide)))
    assert failure is None
    assert [row.status for row in rows] == ["out_of_memory"]
    assert "RESOURCE_EXHAUSTED" in rows[0].message


@pytest.mark.slow
def test_a_child_ends_with_its_parent(monkeypatch):
    monkeypatch.chdir(ROOT)
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    endless = experiment(throughput={"rounds": 1000, "round_seconds": 0.5})
    process.stdin.write(msgspec.json.encode(msgspec.structs.replace(job(), experiment=endless)) + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(10) == 1
    process.stdout.close()


def test_a_limit_leaves_just_so_much():
    script = """
from batchscale.measure.throughput.cell_main import limit_memory
limit_memory(64 << 20)
kept = bytearray(40 << 20)
try:
    more = bytearray(40 << 20)
except MemoryError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_made_up_examples_have_the_shape_and_classes_of_the_dataset():
    made = cell_main.made_up(job())
    assert made.train.inputs.shape == (100, *made.input_shape) == (100, 8, 8, 1)
    assert set(made.train.labels.tolist()) <= set(range(made.classes))
    assert cell_process.VARIABLES["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_a_cell_of_its_own_takes_the_step_whose_options_are_searched():
    plain, searching = job(), msgspec.structs.replace(job(), experiment=experiment(search={"weight_decay": [0.0, 0.1]}))
    states = [
        one.first_state(one.params(0), 0.1)
        for one in (cell_main.furnish(asked, print).session.learner("float32", None) for asked in (plain, searching))
    ]
    assert len(jax.tree.leaves(states[0])) == len(jax.tree.leaves(states[1]))
    assert jax.tree.structure(states[0]) != jax.tree.structure(states[1]), "the decay is a part of the step"
