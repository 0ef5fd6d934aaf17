"""The largest batch size that fits: right for whatever memory does, found in few compilations, and really run."""

from dataclasses import replace

import jax
import msgspec
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import Failure
from batchscale.measure.device import peak_rates
from batchscale.measure.throughput import max_batch_size, stage, timing
from batchscale.measure.throughput.max_batch_size import MOST_COMPILATIONS, RESOLUTION, find, largest_that_fits
from batchscale.records import row_files
from batchscale.records.row_types import Limit
from fake_throughput import Pretended, Scripted
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import ORIGIN
from tiny_workload import session

LARGEST = 60_000
TOO_MUCH = Failure("out_of_memory", "RESOURCE_EXHAUSTED")


def looked_for(bytes_of, memory_bytes, start=LARGEST, largest=LARGEST):
    asked = []

    def counted(size):
        asked.append(size)
        return bytes_of(size)

    found = largest_that_fits(counted, start, largest, memory_bytes)
    assert len(asked) == len(set(asked)) <= MOST_COMPILATIONS + 1
    return found, asked


@given(st.integers(0, 10**7), st.integers(1, 10**6), st.integers(0, 10**11), st.sampled_from([1, 2, 8, 128]))
def test_where_bytes_are_affine_but_for_padding_few_compilations_find_it(fixed, each, memory_bytes, padding):
    def bytes_of(size):
        return fixed + each * (-(-size // padding) * padding)

    found, asked = looked_for(bytes_of, memory_bytes)
    if found is None:
        assert bytes_of(1) > memory_bytes
        return
    size, needed = found
    assert needed == bytes_of(size) <= memory_bytes
    assert size == LARGEST or bytes_of(min(LARGEST, size * RESOLUTION // (RESOLUTION - 1) + 1)) > memory_bytes
    assert len(asked) <= (8 if padding == 1 else MOST_COMPILATIONS - 1)


@given(st.lists(st.integers(1, 1000), min_size=40, max_size=40), st.integers(1, 40_000))
def test_whatever_grows_is_searched_to_an_end_and_the_answer_fits(steps, memory_bytes):
    def bytes_of(size):
        return sum(steps[: size * 40 // LARGEST + 1])

    found, _ = looked_for(bytes_of, memory_bytes)
    assert (found is None) == (bytes_of(1) > memory_bytes)
    assert found is None or found[1] == bytes_of(found[0]) <= memory_bytes


def test_a_training_set_that_fits_takes_one_compilation_and_memory_beyond_it_is_searched_when_asked():
    assert looked_for(lambda size: size, LARGEST) == ((LARGEST, LARGEST), [LARGEST])
    found, _ = looked_for(lambda size: size, 1_000_000, largest=1 << 24)
    assert 1_000_000 * (1 - 1 / RESOLUTION) <= found[0] <= 1_000_000


def limit(batch_size, *, confirmed):
    return Limit(**ORIGIN, memory_bytes=1000, batch_size=batch_size, bound="memory", confirmed=confirmed)


def tries(*scripts):
    """Children in order; which sizes they were asked for, and what was found."""
    asked, left = [], list(scripts)

    def child(largest):
        asked.append(largest)
        return left.pop(0)

    return find(child, 1000), asked


def test_what_was_confirmed_is_the_answer():
    found, asked = tries(Scripted([limit(1000, confirmed=False), limit(1000, confirmed=True)]))
    assert (found, asked) == (limit(1000, confirmed=True), [1000])


def test_a_step_that_does_not_fit_after_all_is_tried_smaller_and_so_is_a_compilation():
    found, asked = tries(
        Scripted([], TOO_MUCH),
        Scripted([limit(250, confirmed=False)], TOO_MUCH),
        Scripted([limit(180, confirmed=False), limit(180, confirmed=True)]),
    )
    assert (found.batch_size, found.confirmed, asked) == (180, True, [1000, 250, 187])


def test_a_device_that_fails_is_not_asked_again():
    crash = Failure("failed", "ended by SIGSEGV")
    found, asked = tries(Scripted([limit(700, confirmed=False)], crash))
    assert (found.confirmed, found.message, asked) == (False, "ended by SIGSEGV", [1000])
    assert tries(Scripted([], crash)) == (crash, [1000])


def test_tries_come_to_an_end():
    found, asked = tries(*[Scripted([], TOO_MUCH)] * 8)
    assert (found, asked) == (TOO_MUCH, [1000, 250, 62, 15])


def searched(monkeypatch, largest, memory_bytes, fails=None, **table):
    made = Pretended(monkeypatch, fails)
    made.asks(throughput={"max_batch_size": "training_set", **table})
    monkeypatch.setattr(max_batch_size, "build", made.build)
    monkeypatch.setattr(max_batch_size, "predicted_bytes", lambda _: made.predicted_bytes(made.built[-1]))
    max_batch_size.search(made.timing, CellKey(largest, "dispatch"), None, memory_bytes)
    return made


def test_a_search_tells_its_candidate_before_a_real_step_and_confirms_it_after(monkeypatch):
    made = searched(monkeypatch, 100, 10**9)
    assert [(row.batch_size, row.bound, row.confirmed) for row in made.rows] == [
        (100, "training_set", False),
        (100, "training_set", True),
    ]
    assert made.now == pytest.approx(made.seconds_per_step(made.built[0]))
    (candidate, _) = searched(monkeypatch, 100, 50_500).rows
    assert (candidate.batch_size, candidate.bound, candidate.predicted_bytes) == (50, "memory", 50_000)
    (none,) = searched(monkeypatch, 100, 999).rows
    assert (none.batch_size, none.message) == (None, "not even one example fits")


def test_a_step_that_dies_leaves_its_candidate_unconfirmed(monkeypatch):
    made = []
    fails = {CellKey(100, "dispatch"): (0, "RESOURCE_EXHAUSTED")}
    monkeypatch.setattr(Pretended, "build", lambda self, *given: made.append(self) or BUILD(self, *given))
    with pytest.raises(jax.errors.JaxRuntimeError):
        searched(monkeypatch, 100, 10**9, fails)
    assert [row.confirmed for row in made[0].rows] == [False]


BUILD = Pretended.build


def only_the_search(monkeypatch, session):
    """Run a stage that has no cells to time and no peak rates to measure."""
    monkeypatch.setattr(stage.Throughput, "missing", [])
    monkeypatch.setattr(peak_rates, "PARTS", ())
    made = stage.Throughput(session)
    made.plan()
    made.run()


def test_a_tpu_which_serves_one_process_is_not_asked_by_another(tmp_path, monkeypatch):
    one = session(tmp_path, throughput={"max_batch_size": "training_set", "isolate": "always"})
    machine = msgspec.structs.replace(one.host.machine, platform="tpu")
    one.host = replace(one.host, machine=machine)
    monkeypatch.setattr(timing, "Child", lambda *_: pytest.fail("a process was opened"))
    only_the_search(monkeypatch, one)
    (found,) = (row for row in row_files.read(tmp_path / "throughput.jsonl") if isinstance(row, Limit))
    assert (found.batch_size, found.confirmed) == (None, False)
    assert "one process at a time" in found.message
    assert not stage.Throughput(one).timing.isolates


def test_a_stage_finds_it_once_and_tries_again_when_it_was_not_confirmed(tmp_path, monkeypatch):
    def made(*, retries_failed=False):
        one = session(tmp_path, throughput={"max_batch_size": "training_set"})
        one.retries_failed = retries_failed
        return one

    def limits():
        return [row.confirmed for row in row_files.read(tmp_path / "throughput.jsonl") if isinstance(row, Limit)]

    found = msgspec.structs.replace(limit(100, confirmed=False), fingerprint=made().experiment.fingerprint)
    children = [
        Scripted([found], Failure("failed", "crash")),
        Scripted([msgspec.structs.replace(found, confirmed=True)]),
    ]
    given = []
    monkeypatch.setattr(timing, "Child", lambda job: given.append(job) or children.pop(0))
    for retries_failed, known in [(False, [False]), (False, [False]), (True, [False, True]), (True, [False, True])]:
        only_the_search(monkeypatch, made(retries_failed=retries_failed))
        assert limits() == known
    assert [(job.task, job.cells[0].key.batch_size) for job in given] == [("max_batch_size", 100)] * 2
    assert msgspec.json.decode(msgspec.json.encode(given[0]), type=type(given[0])) == given[0]
