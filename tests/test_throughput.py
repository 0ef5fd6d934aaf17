"""Throughput: exact on a pretended clock, interleaved, resumable, and failures are rows."""

import time

import jax
import msgspec
import pytest
from test_store import ORIGIN
from workbench import experiment, learner, session, train_split

from bench import store
from bench.errors import DeviceError
from bench.measure import runner, throughput
from bench.measure.attempts import Attempts
from bench.measure.failures import Failure
from bench.measure.interrupts import Stopped
from bench.measure.isolation import ChildError
from bench.measure.laboratory import SAFE_SHARE_OF_MEMORY, Laboratory, named
from bench.measure.loops import CellKey, key_of
from bench.measure.progress import Progress
from bench.measure.sensors import Counter, Sensors
from bench.rows import Compilation, Origin, Round

KEYS = [CellKey(size, loop) for size in (1, 8, 64) for loop in ("dispatch", "scan")]


class Pretended:
    """A laboratory whose clock and work are pretended: a step of B examples lasts 1 ms + B microseconds."""

    def __init__(self, monkeypatch, fails=None):
        self.now, self.rows, self.built, self.fails, self.checks = 0.0, [], [], fails or {}, 0
        self.stop_at = None
        monkeypatch.setattr(throughput, "build", self.build)
        monkeypatch.setattr(throughput, "predicted_bytes", lambda _: self.predicted_bytes(self.built[-1]))
        progress = Progress(quiet=True)
        progress.plan("timing", len(KEYS), 1.0)
        self.laboratory = Laboratory(
            experiment=experiment(throughput={"rounds": 5, "round_seconds": 0.1}),
            learner=lambda precision, lowering: learner(),
            split=train_split(),
            origin=lambda: Origin(**ORIGIN),
            append=self.rows.append,
            progress=progress,
            check=self.check,
            clock=lambda: self.now,
        )

    def check(self):
        self.checks += 1
        if self.checks == self.stop_at:
            raise Stopped

    def build(self, _learner, _split, key):
        calls = [0]

        def work(steps):
            calls[0] += 1
            if key in self.fails and calls[0] > self.fails[key][0]:
                raise jax.errors.JaxRuntimeError(self.fails[key][1])
            self.now += steps * self.seconds_per_step(key)

        self.built.append(key)
        if self.fails.get(key, (1, ""))[0] < 0:
            raise jax.errors.JaxRuntimeError(self.fails[key][1])
        return work, jax.jit(lambda: 0).lower().compile(), 0.25

    @staticmethod
    def seconds_per_step(key):
        return 1e-3 + 1e-6 * key.batch_size

    @staticmethod
    def predicted_bytes(key):
        """What a step of so many examples at once needs."""
        return 1000 * key.batch_size // key.accumulation

    def measure(self, keys=KEYS):
        throughput.measure(self.laboratory, keys, lambda _: None)
        return [row for row in self.rows if isinstance(row, Round)]

    def again(self, rows, *, retries_failed=False):
        """The next run, on the rows of an earlier one."""
        self.laboratory.attempts = Attempts.of(rows, retries_failed=retries_failed)
        return self


class Scripted:
    """A process of its own that gives some rows and then dies, if it is to."""

    def __init__(self, rows, dies_of=None):
        self.given, self.dies_of, self.ended = rows, dies_of, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True

    def rows(self):
        yield from self.given
        if self.dies_of:
            raise ChildError(self.dies_of)


def cell_rows(key, first_round=0, rounds=5):
    shared = {**ORIGIN, **msgspec.structs.asdict(key)}
    return [
        Compilation(**shared, status="ok"),
        *(Round(**shared, round=number, steps=1, seconds=0.1) for number in range(first_round, rounds)),
    ]


def test_examples_per_second_are_exact_on_a_clock_whose_truth_is_known(monkeypatch):
    for row in Pretended(monkeypatch).measure():
        speed = row.batch_size * row.steps / row.seconds
        assert speed == pytest.approx(row.batch_size / Pretended.seconds_per_step(row))
        assert row.seconds == pytest.approx(0.1, rel=0.02)


def test_rounds_last_as_long_as_the_energy_counter_needs_and_carry_what_was_sensed(monkeypatch):
    made = Pretended(monkeypatch)
    assert all((row.joules, row.clock_mhz, row.celsius) == (None, None, None) for row in made.measure())
    made = Pretended(monkeypatch)
    counter = Counter(lambda: 50 * made.now)
    made.laboratory.sensors = lambda devices: Sensors([counter], [lambda: 1980], [lambda: 40], period_seconds=0.05)
    for row in made.measure():
        assert row.seconds == pytest.approx(0.5, rel=0.02)
        assert row.joules == pytest.approx(50 * row.seconds)
        assert (row.clock_mhz, row.celsius) == (1980, 40)


def test_rounds_are_interleaved_over_cells_in_shuffled_order(monkeypatch):
    found = Pretended(monkeypatch).measure()
    assert len(found) == 5 * len(KEYS)
    sweeps = [found[first : first + len(KEYS)] for first in range(0, len(found), len(KEYS))]
    for number, sweep in enumerate(sweeps):
        assert {key_of(row) for row in sweep} == set(KEYS)
        assert {row.round for row in sweep} == {number}
    assert len({tuple(key_of(row) for row in sweep) for sweep in sweeps}) > 1


def test_every_cell_is_compiled_once_and_its_compile_time_is_a_row_of_its_own(monkeypatch):
    made = Pretended(monkeypatch)
    made.measure()
    compiled = [row for row in made.rows if isinstance(row, Compilation)]
    assert [key_of(row) for row in compiled] == made.built == KEYS
    assert {(row.status, row.compile_seconds, row.isolated) for row in compiled} == {("ok", 0.25, False)}
    assert all(row.predicted_bytes == made.predicted_bytes(row) for row in compiled)


def test_only_what_is_missing_is_measured(monkeypatch):
    made = Pretended(monkeypatch)
    made.laboratory.attempts.rounds.update({**dict.fromkeys(KEYS, 5), KEYS[0]: 0, KEYS[3]: 2})
    found = made.measure()
    assert made.built == [KEYS[0], KEYS[3]]
    assert sorted(row.round for row in found if key_of(row) == KEYS[0]) == [0, 1, 2, 3, 4]
    assert sorted(row.round for row in found if key_of(row) == KEYS[3]) == [2, 3, 4]


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
    assert (key_of(row), row.status, row.message) == (bad, status, message)
    for key in KEYS:
        assert key == bad or sum(key_of(one) == key for one in found) == 5
    assert sum(key_of(one) == bad for one in found) < 5


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
    assert [key_of(row) for row in retried.measure()] == [bad] * 5
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


@pytest.mark.parametrize("calls", [0, 3, 12])
def test_what_does_not_fit_although_the_compiler_said_so_keeps_what_it_said(monkeypatch, calls):
    said_again = "Error dispatching computation: " * 40
    made = Pretended(monkeypatch, fails={KEYS[0]: (calls, f"INTERNAL: {said_again}Out of memory allocating 9 bytes")})
    made.measure(KEYS[:1])
    (row,) = [row for row in made.rows if isinstance(row, Compilation) and row.status == "out_of_memory"]
    assert (row.predicted_bytes, row.compile_seconds) == (made.predicted_bytes(KEYS[0]), 0.25)
    assert row.message == "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes"


def test_ways_to_run_a_step_have_different_names():
    ways = [{}, {"precision": "bfloat16"}, {"input": "host"}, {"devices": 2}, {"accumulation": 2}]
    names = {named(CellKey(8, "dispatch", **{**one, **other})) for one in ways for other in ways}
    assert len(names) == 1 + 4 + 6


def test_beyond_memory_the_sweep_goes_on_in_the_fewest_doublings_of_microbatches(monkeypatch):
    made = Pretended(monkeypatch)
    made.laboratory.memory_bytes = 10_000
    forms = {(row.batch_size, row.accumulation) for row in made.measure()}
    assert forms == {(1, 1), (8, 1), (64, 8)}
    refused = [row for row in made.rows if isinstance(row, Compilation) and row.status == "out_of_memory"]
    assert {(row.batch_size, row.accumulation) for row in refused} == {(64, 1), (64, 2), (64, 4)}
    assert all("64000 bytes, and 10000" in row.message for row in refused if row.accumulation == 1)
    assert Pretended(monkeypatch).again(made.rows).measure() == []


def test_what_not_even_fits_by_single_examples_ends(monkeypatch):
    made = Pretended(monkeypatch)
    made.laboratory.memory_bytes = 999
    assert made.measure() == []
    assert {row.status for row in made.rows} == {"out_of_memory"}
    assert max(row.accumulation for row in made.rows) == 64


@pytest.mark.parametrize(
    ("isolate", "isolated"),
    [("never", []), ("auto", [KEYS[4], KEYS[5]]), ("always", KEYS)],
    ids=["never", "auto", "always"],
)
def test_cells_that_may_not_fit_run_in_a_process_of_their_own(monkeypatch, isolate, isolated):
    made, asked = Pretended(monkeypatch), []
    made.laboratory.experiment = experiment(throughput={"rounds": 5, "round_seconds": 0.1, "isolate": isolate})
    made.laboratory.memory_bytes = int(64_000 / SAFE_SHARE_OF_MEMORY) - 1
    made.laboratory.attempts.rounds[KEYS[4]] = 2

    def opened(key, lowering, first_round):
        asked.append((key, first_round))
        return Scripted(cell_rows(key, first_round))

    made.laboratory.isolated = opened
    assert len(made.measure()) == 5 * len(KEYS) - 2
    assert asked == [(key, 2 if key == KEYS[4] else 0) for key in KEYS if key in isolated]
    assert {key_of(row) for row in made.rows if isinstance(row, Compilation) and row.isolated} == set(isolated)
    assert isolate != "always" or made.built == []


@pytest.mark.parametrize(
    ("given", "dies_of", "status", "says"),
    [
        ([], Failure("failed", "ended by SIGSEGV"), "failed", "SIGSEGV"),
        (cell_rows(KEYS[0], rounds=2), Failure("out_of_memory", "killed"), "out_of_memory", "killed"),
        (cell_rows(KEYS[0], rounds=4), None, "failed", "before its rounds did"),
        (cell_rows(KEYS[1]), None, "failed", "something else"),
    ],
    ids=["crash", "killed in mid-rounds", "early end", "other rows"],
)
def test_a_process_that_fails_is_a_row_and_its_rounds_are_kept(monkeypatch, given, dies_of, status, says):
    made, child = Pretended(monkeypatch), Scripted(given, dies_of)
    made.laboratory.isolated = lambda *_: child
    made.laboratory.experiment = experiment(throughput={"rounds": 5, "isolate": "always"})
    made.measure(keys=KEYS[:1])
    assert child.ended
    assert (made.rows[-1].status, key_of(made.rows[-1])) == (status, KEYS[0])
    assert says in made.rows[-1].message
    assert sum(isinstance(row, Round) for row in made.rows) == sum(
        isinstance(row, Round) and key_of(row) == KEYS[0] for row in given
    )


def test_a_process_that_tells_its_failure_and_then_dies_failed_once(monkeypatch):
    told = Compilation(**ORIGIN, **msgspec.structs.asdict(KEYS[0]), status="failed", message="INTERNAL")
    for dies_of in (None, Failure("failed", "ended by SIGABRT")):
        made = Pretended(monkeypatch)
        made.laboratory.isolated = lambda *_, dies_of=dies_of: Scripted([told], dies_of)
        made.laboratory.experiment = experiment(throughput={"rounds": 5, "isolate": "always"})
        made.measure(keys=KEYS[:1])
        assert [row.message for row in made.rows] == ["INTERNAL"]


def test_a_retried_cell_is_isolated_and_a_stop_ends_its_process_after_a_whole_row(monkeypatch):
    first = Pretended(monkeypatch, fails={KEYS[3]: (0, "INTERNAL")})
    first.measure()
    made, child = Pretended(monkeypatch).again(first.rows, retries_failed=True), Scripted(cell_rows(KEYS[3]))
    made.laboratory.isolated = lambda *_: child
    made.stop_at = 3
    with pytest.raises(Stopped):
        made.measure()
    assert child.ended
    assert [type(row) for row in made.rows] == [Compilation, Round]


def test_a_real_stage_fills_its_folder_once(tmp_path):
    made = session(tmp_path, throughput={"rounds": 5, "round_seconds": 0.001, "loops": ["scan"]})
    made.prepare_folder()
    made.progress.begin("tiny")
    made.progress.plan("timing", 2, 1.0)
    runner.measure_throughput(made)
    rows = list(store.read(tmp_path / "throughput.jsonl"))
    assert sum(isinstance(row, Round) for row in rows) == 10
    assert all(row.predicted_bytes > 0 for row in rows if isinstance(row, Compilation))
    before = (tmp_path / "throughput.jsonl").read_bytes()
    runner.measure_throughput(made)
    assert (tmp_path / "throughput.jsonl").read_bytes() == before


def test_every_size_is_timed_under_the_lowering_that_won_near_it(tmp_path, monkeypatch):
    faster = {4: "patches", 16: "banded", 64: "banded"}
    tried = []

    def speed(_, key, lowering):
        tried.append((key.batch_size, key.loop, lowering))
        return 2.0 if (faster[key.batch_size] == lowering) == (key.precision == "float32") else 1.0

    monkeypatch.setattr(throughput, "examples_per_second", speed)
    made = session(tmp_path, workload={"model": "lenet"}, batch_sizes={"values": [4, 8, 16, 32, 64]})
    lowering_of = runner._lowering_of(made, Pretended(monkeypatch).laboratory)
    chosen = {size: lowering_of(CellKey(size, "dispatch")) for size in (64, 8, 4, 16, 32, 64)}
    assert chosen == {4: "patches", 8: "patches", 16: "banded", 32: "banded", 64: "banded"}
    assert lowering_of(CellKey(64, "dispatch", devices=2, accumulation=4)) == "patches", "a device's part at once"
    assert sorted(tried) == [(size, "scan", lowering) for size in (4, 16, 64) for lowering in ("banded", "patches")]
    assert lowering_of(CellKey(16, "dispatch", precision="bfloat16")) == "patches", "each precision has its own"


def test_nothing_that_may_not_fit_is_tried(monkeypatch):
    made = Pretended(monkeypatch)
    made.laboratory.memory_bytes = 100_000
    with pytest.raises(MemoryError, match="64000 bytes may not fit"):
        throughput.examples_per_second(made.laboratory, CellKey(64, "scan"), None)
    per_second = throughput.examples_per_second(made.laboratory, CellKey(8, "scan"), None)
    assert per_second == pytest.approx(8 / made.seconds_per_step(CellKey(8, "scan")))


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["dispatch", "scan"])
def test_reported_speed_agrees_with_a_stopwatch_from_outside(loop):
    """The quickest of many short tries of each, in turn, and of more where a busy machine still disturbs them."""
    work, _, _ = throughput.build(learner("mlp", "momentum"), train_split(), CellKey(20, loop))
    steps = throughput.calibrate(work, 0.05)
    inside, outside = [], []
    agree = pytest.approx(1, abs=0.05)
    while len(inside) < 40 or (len(inside) < 400 and min(inside) / min(outside) != agree):
        inside.append(throughput.timed(work, steps))
        start = time.monotonic()
        work(steps)
        outside.append(time.monotonic() - start)
    assert min(inside) / min(outside) == agree
