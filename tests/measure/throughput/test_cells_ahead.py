"""Cells compiled next to each other: none is timed meanwhile, and what one program fails of is the row of its cell."""

import threading
import time
from dataclasses import replace

import jax
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control import deadline
from batchscale.measure.device import compile_ahead
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.throughput import cells_ahead, lowering_choice
from batchscale.records.row_types import Compilation, Round
from fake_throughput import KEYS, Pretended
from tiny_workload import MODEL_OPTIONS, host

PATIENCE = 20.0
GRAPHS = [CellKey(size, "graph") for size in (1, 8, 64)]


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch):
    """Wait for late programs before what they call is put back, or the next test would build them."""
    yield
    deadline = time.monotonic() + PATIENCE
    while compile_ahead.left_behind() and time.monotonic() < deadline:
        time.sleep(0.01)


class Threads(Pretended):
    """A stage whose programs are compiled by two threads; `builds` is called with each cell, in its thread."""

    def __init__(self, monkeypatch, builds=lambda key: None, seconds=None, together=True, **given):
        changed = replace(POLICIES["cpu"], compiles_together=together, compile_seconds=seconds)
        monkeypatch.setitem(POLICIES, "cpu", changed)
        monkeypatch.setattr(compile_ahead, "MOST_THREADS", 2)
        self.builds, self.compiling, self.most, self.given_up, self.lock = builds, 0, 0, 0, threading.Lock()
        super().__init__(monkeypatch, **given)
        self.stage.session.host = host(2)

    def build(self, learner, split, key):
        with self.lock:
            self.compiling += 1
            self.most = max(self.most, self.compiling)
        try:
            self.builds(key)
            work, *rest = super().build(learner, split, key)
        finally:
            with self.lock:
                self.compiling -= 1

        def watched(steps):
            assert self.compiling == self.given_up, "a cell runs while a program is compiled"
            work(steps)

        return watched, *rest


@pytest.mark.parametrize("together", [True, False])
def test_programs_are_compiled_at_the_same_time_where_the_platform_says_so_and_no_cell_runs_meanwhile(
    monkeypatch, together
):
    meeting = threading.Barrier(2 if together else 1)
    made = Threads(
        monkeypatch, lambda key: key.batch_size < KEYS[-1].batch_size and meeting.wait(PATIENCE), together=together
    )
    found = made.measure()
    assert made.most == (2 if together else 1)
    assert sorted(made.built) == sorted(KEYS)
    assert made.timing.compilations == len(KEYS)
    assert len(found) == 5 * len(KEYS)
    rows = [row for row in made.rows if isinstance(row, Compilation)]
    assert [CellKey.of(row) for row in rows] == KEYS, "rows keep the order of the cells"
    assert made.timing.programs == {}


@pytest.mark.parametrize(("message", "status"), [("INTERNAL: broken", "failed"), ("ValueError", None)])
def test_what_one_program_fails_of_is_the_row_of_its_cell(monkeypatch, message, status):
    def builds(key):
        if key == KEYS[2]:
            raise jax.errors.JaxRuntimeError(message) if status else ValueError(message)

    made = Threads(monkeypatch, builds)
    if status is None:
        with pytest.raises(ValueError, match=message):
            made.measure()
        return
    found = made.measure()
    failed = [row for row in made.rows if isinstance(row, Compilation) and row.status != "ok"]
    assert [(CellKey.of(row), row.status, row.message) for row in failed] == [(KEYS[2], status, message)]
    assert {CellKey.of(row) for row in found} == {*KEYS} - {KEYS[2]}


def test_what_lacked_memory_next_to_others_is_compiled_again_alone(monkeypatch):
    meeting, tries = threading.Barrier(2), []

    def builds(key):
        tries.append(key)
        if tries.count(key) == 1:
            meeting.wait(PATIENCE)
        if key == cells[1] and made.compiling > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Failed to load in-memory CUBIN")

    made, cells = Threads(monkeypatch, builds), [CellKey(1, "scan"), CellKey(8, "scan")]
    assert len(made.measure(cells)) == 5 * 2
    assert sorted(tries) == sorted([cells[0], cells[1], cells[1]])


def test_loops_of_one_batch_size_are_compiled_one_after_the_other(monkeypatch):
    compiling, lock = [], threading.Lock()

    def builds(key):
        with lock:
            assert key.batch_size not in compiling
            compiling.append(key.batch_size)
        time.sleep(0.01)
        with lock:
            compiling.remove(key.batch_size)

    made = Threads(monkeypatch, builds)
    assert len(made.measure()) == 5 * len(KEYS)
    assert made.most == 2


def test_a_program_that_is_not_compiled_in_time_is_a_row_and_rounds_say_that_it_still_compiles(monkeypatch):
    ready = threading.Event()
    made = Threads(monkeypatch, lambda key: key == KEYS[0] and ready.wait(PATIENCE), seconds=0.1)
    made.given_up = 1
    try:
        found = made.measure(KEYS[:3])
    finally:
        ready.set()
    failed = [row for row in made.rows if isinstance(row, Compilation) and row.status != "ok"]
    assert [(CellKey.of(row), row.message) for row in failed] == [(KEYS[0], "it was not compiled within 0.1 s")]
    assert {CellKey.of(row) for row in found} == {*KEYS[1:3]}
    assert all(row.compiling >= 1 for row in found)


def test_trials_of_lowerings_are_compiled_together_and_a_late_one_is_not_tried(monkeypatch, tmp_path):
    workload = {"model": "lenet", "model_options": MODEL_OPTIONS["lenet"]}
    late = threading.Event()
    build = cells_ahead._build

    def slow(timing, key, lowering):
        if lowering == "patches":
            late.wait(PATIENCE)
        return build(timing, key, lowering)

    made = Threads(monkeypatch, seconds=0.1, folder=tmp_path, workload=workload, batch_sizes={"values": [4, 16]})
    made.timing.session.progress.plan(lowering_choice.TRIALS, 4, 1.0)
    monkeypatch.setattr(cells_ahead, "_build", slow)
    try:
        found = lowering_choice.choose(made.timing, [CellKey(4, "scan")])
    finally:
        late.set()
    assert found == {(4, "float32"): "banded"}
    assert made.timing.session.tuning["throughput 4"].late == ("patches",)


def test_a_cuda_graph_that_hangs_is_a_row_that_ends_the_process_and_the_next_run_tries_no_other(monkeypatch):
    ended, hung = threading.Event(), []
    monkeypatch.setattr(deadline.os, "_exit", lambda status: (hung.append(status), ended.set()))
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], graph_seconds=0.1))
    made = Pretended(monkeypatch)
    pretended = made.build

    def build(learner, split, key):
        _, *rest = pretended(learner, split, key)
        return (lambda _: ended.wait(PATIENCE) and (_ for _ in ()).throw(MemoryError)), *rest

    monkeypatch.setattr(cells_ahead, "build", build)
    made.measure(GRAPHS[:1])
    assert hung == [2]
    first = made.rows[0]
    assert (first.status, first.message) == ("failed", "it did not end within 0.1 s")
    again = Pretended(monkeypatch).again([first])
    found = again.measure([*GRAPHS, KEYS[0]])
    assert again.built == [KEYS[0]]
    failed = [row for row in again.rows if isinstance(row, Compilation) and row.status != "ok"]
    assert [CellKey.of(row) for row in failed] == GRAPHS[1:]
    assert {row.message for row in failed} == {"not tried: the CUDA graph of B=1 graph hangs"}
    assert all(isinstance(row, Round) for row in found)
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], graph_seconds=None))
    retried = Pretended(monkeypatch).again([*made.rows[:1], *again.rows], retries_failed=True)
    retried.measure(GRAPHS)
    assert retried.built == GRAPHS
