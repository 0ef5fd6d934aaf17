"""Throughput: exact on a pretended clock, interleaved, resumable, and failures are rows."""

import statistics
import time
from dataclasses import replace

import jax
import msgspec
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.errors import DeviceError
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.signals import Stopped
from batchscale.measure.device.machine import Host
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.device.sensors import NONE, Counter, Sensors
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.stage import Throughput, TimingJob
from batchscale.measure.throughput.timed_loops import build
from batchscale.records import row_files
from batchscale.records.row_types import Compilation, Round
from fake_throughput import KEYS, Pretended, Scripted, cell_rows
from tiny_workload import learner, session, train_split


def test_examples_per_second_are_exact_on_a_clock_whose_truth_is_known(monkeypatch):
    for row in Pretended(monkeypatch).measure():
        speed = row.batch_size * row.steps / row.seconds
        assert speed == pytest.approx(row.batch_size / Pretended.seconds_per_step(row))
        assert row.seconds == pytest.approx(0.1, rel=0.02)


def test_some_rounds_of_the_fastest_loop_last_as_long_as_its_energy_counter_needs(monkeypatch):
    made = Pretended(monkeypatch)
    assert all((row.joules, row.clock_mhz, row.celsius) == (None, None, None) for row in made.measure())
    made = Pretended(monkeypatch).asks(throughput={"rounds": 9})
    made.seconds_per_step = lambda key: (1e-3 + 1e-6 * key.batch_size) * (2 if key.loop == "dispatch" else 1)
    counter = Counter(lambda: 50 * made.now)
    made.timing.sensors = lambda devices: Sensors([counter], [lambda: 1980], [lambda: 40], period_seconds=0.05)
    found = made.measure()
    for row in found:
        long = row.loop == "scan" and row.round in (2, 4, 6)
        assert row.seconds == pytest.approx(0.5 if long else 0.1, rel=0.02)
        assert row.joules == (pytest.approx(50 * row.seconds) if long else None)
        assert (row.clock_mhz, row.celsius) == (1980, 40)
    assert {row.batch_size for row in found if row.joules is not None} == {key.batch_size for key in KEYS}
    assert len(found) == 9 * len(KEYS)


def test_energy_is_measured_of_the_loop_that_is_left_if_the_fastest_one_fails(monkeypatch):
    made = Pretended(monkeypatch)
    made.seconds_per_step = lambda key: 1e-3 * (2 if key.loop == "dispatch" else 1)
    # Three calls find the steps of a round; the second round is the fifth call or a later one.
    made.fails = {KEYS[1]: (9, "INTERNAL: broken")}
    counter = Counter(lambda: 50 * made.now)
    made.timing.sensors = lambda devices: Sensors([counter], period_seconds=0.05)
    found = made.measure(KEYS[:2])
    assert sum(row.joules is not None for row in found if row.loop == "dispatch") >= 2
    assert KEYS[1] in made.timing.known.failures


def test_a_loop_in_a_cuda_graph_is_timed_and_named_where_the_host_has_graphs(monkeypatch):
    assert {key.loop for key in Pretended(monkeypatch).stage.missing} == {"dispatch", "scan"}
    monkeypatch.setattr(Host, "graphs", True)
    made = Pretended(monkeypatch)
    graphs = [key for key in made.stage.missing if key.loop == "graph"]
    assert [key.batch_size for key in graphs] == made.timing.session.batch_sizes
    (row, *_) = made.measure(graphs[:1])
    read = row_files.decode(row_files.encode(row), "a row")
    assert read == row
    assert read.loop == "graph"


def test_rounds_begin_on_a_device_that_has_been_at_load_for_the_seconds_it_needs(monkeypatch):
    began = []
    for seconds in (0.0, 2.0):
        monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], warm_up_seconds=seconds))
        made = Pretended(monkeypatch)
        cells = [cell for key in KEYS if (cell := rounds.prepare(made.timing, key, None)) is not None]
        before, ends = made.now, []
        made.timing.sensors = lambda devices, made=made, ends=ends: ends.append(made.now) or NONE
        rounds.time_rounds(made.timing, cells)
        began.append(ends[0] - before)
    assert began[0] == 0
    assert 2.0 <= began[1] < 2.0 + 0.2


def test_a_cell_that_fails_while_the_device_warms_up_is_a_row(monkeypatch):
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], warm_up_seconds=2.0))
    made = Pretended(monkeypatch, fails=dict.fromkeys(KEYS[:2], (12, "INTERNAL: broken")))
    assert made.measure(KEYS[:2]) == []
    assert [row.status for row in made.rows if isinstance(row, Compilation)] == ["ok", "ok", "failed", "failed"]


def test_rounds_are_interleaved_over_cells_in_shuffled_order(monkeypatch):
    found = Pretended(monkeypatch).measure()
    assert len(found) == 5 * len(KEYS)
    sweeps = [found[first : first + len(KEYS)] for first in range(0, len(found), len(KEYS))]
    for number, sweep in enumerate(sweeps):
        assert {CellKey.of(row) for row in sweep} == set(KEYS)
        assert {row.round for row in sweep} == {number}
    assert len({tuple(CellKey.of(row) for row in sweep) for sweep in sweeps}) > 1


def test_every_cell_is_compiled_once_and_its_compile_time_is_a_row_of_its_own(monkeypatch):
    made = Pretended(monkeypatch)
    made.measure()
    compiled = [row for row in made.rows if isinstance(row, Compilation)]
    assert [CellKey.of(row) for row in compiled] == made.built == KEYS
    assert {(row.status, row.compile_seconds, row.isolated) for row in compiled} == {("ok", 0.25, False)}
    assert all(row.predicted_bytes == made.predicted_bytes(row) for row in compiled)


def test_a_peak_is_a_cell_s_own_only_where_it_raised_the_high_water_mark(monkeypatch):
    peaks = iter([100, 500, 500, 500, 500, 900])
    monkeypatch.setattr(rounds, "_peak_bytes", lambda: next(peaks))
    made = Pretended(monkeypatch)
    rounds.measure(made.timing, KEYS[:3])
    assert [row.peak_bytes for row in made.rows if isinstance(row, Compilation)] == [500, None, 900]


def test_only_what_is_missing_is_measured(monkeypatch):
    made = Pretended(monkeypatch)
    made.timing.known.rounds.update({**dict.fromkeys(KEYS, 5), KEYS[0]: 0, KEYS[3]: 2})
    found = made.measure()
    assert made.built == [KEYS[0], KEYS[3]]
    assert sorted(row.round for row in found if CellKey.of(row) == KEYS[0]) == [0, 1, 2, 3, 4]
    assert sorted(row.round for row in found if CellKey.of(row) == KEYS[3]) == [2, 3, 4]


@pytest.mark.parametrize(
    ("message", "status"),
    [("RESOURCE_EXHAUSTED: out of memory", "out_of_memory"), ("INTERNAL: the device is lost", "failed")],
)
@pytest.mark.parametrize("calls", [-1, 0, 9], ids=["compile", "calibrate", "round"])
def test_a_cell_that_fails_is_a_row_and_the_sweep_goes_on(monkeypatch, message, status, calls):
    bad = KEYS[2]
    made = Pretended(monkeypatch, fails={bad: (calls, message)})
    found = made.measure()
    (row,) = [row for row in made.rows if isinstance(row, Compilation) and row.status != "ok"]
    assert (CellKey.of(row), row.status, row.message) == (bad, status, message)
    for key in KEYS:
        assert key == bad or sum(CellKey.of(one) == key for one in found) == 5
    assert sum(CellKey.of(one) == bad for one in found) < 5


def test_a_stop_keeps_whole_rounds(monkeypatch):
    made = Pretended(monkeypatch)
    made.stop_at = len(KEYS) + 8
    with pytest.raises(Stopped):
        made.measure()
    assert sum(isinstance(row, Round) for row in made.rows) == 7
    assert len(Pretended(monkeypatch).again(made.rows).measure()) == 5 * len(KEYS) - 7


def test_what_failed_is_done_until_it_is_to_be_tried_again(monkeypatch):
    bad = KEYS[3]
    made = Pretended(monkeypatch, fails={bad: (0, "INTERNAL: not now")})
    made.measure()
    again = Pretended(monkeypatch).again(made.rows)
    assert again.measure() == again.built == []
    retried = Pretended(monkeypatch).again(made.rows, retries_failed=True)
    assert [CellKey.of(row) for row in retried.measure()] == [bad] * 5
    assert Pretended(monkeypatch).again([*made.rows, *retried.rows]).measure() == []


def test_three_failures_in_a_row_stop_the_run_with_advice_and_keep_their_rows(monkeypatch):
    made = Pretended(monkeypatch, fails=dict.fromkeys(KEYS[1:], (0, "INTERNAL: the device is lost")))
    with pytest.raises(DeviceError, match=r"3 failures in a row, the last at B=8 scan.*device is lost.*--retry-failed"):
        made.measure()
    assert [row.status for row in made.rows] == ["ok", "failed", "failed", "failed"]
    assert made.built == KEYS[:4]


def test_failures_apart_or_for_want_of_memory_stop_nothing(monkeypatch):
    apart = dict.fromkeys([*KEYS[0:2], *KEYS[3:5]], (0, "INTERNAL: flaky"))
    assert len(Pretended(monkeypatch, fails=apart).measure()) == 5 * 2
    full = dict.fromkeys(KEYS, (0, "RESOURCE_EXHAUSTED"))
    assert len(Pretended(monkeypatch, fails=full).measure()) == 5 * 4


def test_ways_to_run_a_step_have_different_names():
    ways = [{}, {"precision": "bfloat16"}, {"input": "host"}, {"devices": 2}, {"accumulation": 2}]
    names = {str(CellKey(8, "dispatch", **{**one, **other})) for one in ways for other in ways}
    assert len(names) == 1 + 4 + 6


@pytest.mark.usefixtures("brief")
def test_a_real_stage_fills_its_folder_once(tmp_path):
    made = session(tmp_path, throughput={"rounds": 5, "round_seconds": 0.001, "loops": ["scan"]})
    made.prepare_folder()

    def filled():
        stage = Throughput(made)
        stage.plan()
        stage.run()
        return (tmp_path / "throughput.jsonl").read_bytes()

    before = filled()
    rows = list(row_files.read(tmp_path / "throughput.jsonl"))
    assert sum(isinstance(row, Round) for row in rows) == 10
    assert all(row.predicted_bytes > 0 for row in rows if isinstance(row, Compilation))
    assert filled() == before


@pytest.mark.parametrize("loop", ["dispatch", "scan"])
def test_reported_seconds_agree_with_a_stopwatch_from_outside_that_waits_for_every_array(loop):
    """Both clock the very same calls, so whatever else the machine does strikes both alike."""
    work, _, _ = build(learner("mlp", "momentum"), train_split(1000), CellKey(500, loop))
    work(1)
    shares = []
    for _ in range(20):
        start = time.monotonic()
        reported = rounds.timed(work, 100)
        jax.block_until_ready(jax.live_arrays())
        shares.append(reported / (time.monotonic() - start))
    assert statistics.median(shares) == pytest.approx(1, abs=0.05)


def test_a_further_block_times_every_cell_again_and_numbers_its_rounds_after_the_others(monkeypatch):
    made = Pretended(monkeypatch)
    made.measure(KEYS[:2])
    made.timing.known.block = 1
    made.timing.session.progress.plan(made.timing.item, 1, 1.0)
    made.measure(KEYS[:1])
    found = [row for row in made.rows if isinstance(row, Round) and CellKey.of(row) == KEYS[0]]
    assert [(row.block, row.round) for row in found] == [(0, n) for n in range(5)] + [(1, n) for n in range(5, 10)]
    made.measure(KEYS[:1])
    assert sum(isinstance(row, Round) for row in made.rows) == 15, "the block is complete"


def in_block(key, process, rounds=5):
    """What a process of the second block writes of a cell that has rounds in the first."""
    compiled, *timed = cell_rows(key, rounds=rounds)
    later = {"block": 1, "process": process}
    return [compiled, *(msgspec.structs.replace(row, round=row.round + 5, **later) for row in timed)]


def test_a_further_block_has_a_new_process_where_speed_differs_between_processes(monkeypatch):
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], process_per_block=True))
    made, asked = Pretended(monkeypatch), []
    failed = msgspec.structs.replace(cell_rows(KEYS[1])[0], status="out_of_memory", message="two processes share it")

    def opened(task, cells):
        process = made.timing.next_process()
        asked.append((task, cells, process))
        return Scripted(
            [*in_block(KEYS[0], process), failed, *in_block(KEYS[2], process, 2)], Failure("failed", "died")
        )

    made.timing.isolates, made.timing.child = True, opened
    made.stage.measure(TimingJob(block=0, cells=KEYS[:3]))
    made.stage.measure(TimingJob(block=1, cells=KEYS[:3], apart=True))
    assert asked == [("time", [(key, None) for key in KEYS[:3]], 2)]
    found = {key: [] for key in KEYS[:3]}
    for row in made.rows:
        if isinstance(row, Round):
            found[CellKey.of(row)].append((row.block, row.process))
    first = [(0, 1)] * 5
    assert found == {
        KEYS[0]: first + [(1, 2)] * 5,
        KEYS[1]: first + [(1, 1)] * 5,
        KEYS[2]: first + [(1, 2)] * 2 + [(1, 1)] * 3,
    }, "what the new process leaves undone is timed in this one"
    assert made.timing.known.failures == {}
    assert made.built == KEYS[:3] + KEYS[1:3]
    again = Pretended(monkeypatch).again(made.rows)
    assert again.timing.process == 3


def test_elsewhere_blocks_stay_in_one_process_that_has_no_number(tmp_path, monkeypatch):
    made = session(tmp_path, throughput={"rounds": 5, "round_seconds": 0.001, "loops": ["scan"]})
    jobs, stage = [], Throughput(made)
    monkeypatch.setattr(stage, "measure", jobs.append)
    for here in (False, True):
        monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], process_per_block=here))
        stage.time_block(1, KEYS[:1])
    assert [job.apart for job in jobs] == [False, True]
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], process_per_block=False))
    assert {row.process for row in Pretended(monkeypatch).measure()} == {0}
