"""Programs are compiled next to each other; one that is late or fails holds up none of the others."""

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import pytest
from batchscale.measure.control.signals import Stopped
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.compile_ahead import compile_together, left_behind
from tiny_workload import learner, programs

PATIENCE = 20.0


def test_as_many_programs_as_threads_are_compiled_at_a_time():
    meeting, met = threading.Barrier(2), []
    works = {name: lambda name=name: met.append((meeting.wait(PATIENCE), name)) for name in "abcd"}
    assert compile_together(works, 2) == []
    assert {name for _, name in met} == set("abcd")


def test_programs_of_the_same_kernels_are_compiled_one_after_the_other():
    meeting, together = threading.Barrier(2), []

    def compile_one(name):
        # The kinds meet at each of their two programs, so that no kind waits for all programs of the other.
        meeting.wait(PATIENCE)
        together.append(name)

    works = {name: partial(compile_one, name) for name in ("a1", "a2", "b1", "b2")}
    assert compile_together(works, 4, kind=lambda name: name[0]) == []
    assert {frozenset(together[:2]), frozenset(together[2:])} == {frozenset(["a1", "b1"]), frozenset(["a2", "b2"])}


def test_a_late_program_holds_up_none_of_its_kind():
    ready, met = threading.Event(), []
    works = {"a1": lambda: ready.wait(PATIENCE), "a2": lambda: met.append("a2")}
    assert compile_together(works, 2, seconds=0.05, kind=lambda name: name[0]) == ["a1"]
    assert met == ["a2"]
    ready.set()


def test_a_program_that_fails_is_left_to_whoever_needs_it():
    met = []
    works = {"bad": lambda: 1 / 0, "good": lambda: met.append("good")}
    assert compile_together(works, 1) == []
    assert met == ["good"]


def test_a_late_program_is_named_and_the_others_are_compiled_all_the_same():
    ready, met, seen = threading.Event(), [], []
    works = {"slow": lambda: ready.wait(PATIENCE), "quick": lambda: met.append("quick")}
    assert compile_together(works, 1, seen.append, seconds=0.05) == ["slow"]
    assert met == ["quick"]
    assert "compiling slow (0 s)" in seen
    ready.set()


def test_a_late_program_is_waited_for_as_long_again_and_then_counts_as_compiled():
    ready, seen = threading.Event(), []

    def look(line):
        seen.append(line)
        if line.startswith("waiting for what is late to compile: late ("):
            ready.set()

    assert compile_together({"late": lambda: ready.wait(PATIENCE), "quick": lambda: None}, 2, look, seconds=0.5) == []
    assert ready.is_set()
    assert "late" not in left_behind()


def test_a_program_that_is_left_behind_is_named_until_it_ends():
    ready = threading.Event()
    assert compile_together({"left": lambda: ready.wait(PATIENCE)}, 1, seconds=0.05) == ["left"]
    assert "left" in left_behind()
    ready.set()
    deadline = time.monotonic() + PATIENCE
    while "left" in left_behind() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "left" not in left_behind()


def test_a_stop_is_obeyed_while_programs_compile_and_no_further_one_begins():
    ready, begun = threading.Event(), []

    def look(_):
        if begun:
            raise Stopped

    works = {name: lambda name=name: begun.append(name) or ready.wait(PATIENCE) for name in "ab"}
    with pytest.raises(Stopped):
        compile_together(works, 1, look)
    ready.set()
    time.sleep(0.05)
    assert begun == ["a"]


def test_two_shapes_compile_together_and_one_shape_once(monkeypatch):
    meeting, compiled = threading.Barrier(2), compiled_programs.compiled

    def met(*arguments, **options):
        meeting.wait(PATIENCE)
        return compiled(*arguments, **options)

    monkeypatch.setattr(compiled_programs, "compiled", met)
    of, found = replace(programs(learner("linear"), 5), compiled={}), {}
    works = {
        str(number): lambda number=number, shape=shape: found.setdefault(number, of.program(shape))
        for number, shape in enumerate([(1, 1), (1, 2), (1, 1), (1, 2)])
    }
    compile_together(works, 4)
    assert found[0] is found[2] is of.program((1, 1))
    assert found[1] is found[3] is of.program((1, 2))
    assert of.compilations == 2


def test_a_program_that_another_thread_never_finishes_is_given_up():
    hangs = {("train", (1, 1), False): Future()}
    of = replace(programs(learner("linear"), 5), compiled=hangs, patience=0.01)
    with pytest.raises(TimeoutError, match=r"it was not compiled within 0\.01 further seconds"):
        of.program((1, 1))
