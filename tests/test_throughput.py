"""Throughput: exact on a pretended clock, interleaved, resumable, and failures are rows."""

import time
from statistics import median

import jax
import pytest
from test_store import ORIGIN
from workbench import experiment, learner, session, train_split

from bench import store
from bench.measure import runner, throughput
from bench.measure.interrupts import Stopped
from bench.measure.loops import CellKey
from bench.measure.progress import Progress
from bench.measure.sensors import Counter, Sensors
from bench.measure.throughput import Laboratory
from bench.rows import Compilation, Origin, Round

KEYS = [CellKey(size, loop) for size in (1, 8, 64) for loop in ("dispatch", "scan")]
LOWERINGS = {"dispatch": None, "scan": None}


class Pretended:
    """A laboratory whose clock and work are pretended: a step of B examples lasts 1 ms + B microseconds."""

    def __init__(self, monkeypatch, fails=None):
        self.now, self.rows, self.built, self.fails, self.checks = 0.0, [], [], fails or {}, 0
        self.stop_at = None
        monkeypatch.setattr(throughput, "build", self.build)
        monkeypatch.setattr(throughput, "predicted_bytes", lambda _: 1000)
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

    def measure(self, done=None):
        throughput.measure(self.laboratory, KEYS, done or {}, LOWERINGS)
        return [row for row in self.rows if isinstance(row, Round)]


def key_of(row):
    return CellKey(row.batch_size, row.loop, row.input, row.precision)


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
    assert {(row.status, row.compile_seconds, row.predicted_bytes) for row in compiled} == {("ok", 0.25, 1000)}


def test_only_what_is_missing_is_measured(monkeypatch):
    made = Pretended(monkeypatch)
    found = made.measure(done={**dict.fromkeys(KEYS, 5), KEYS[0]: 0, KEYS[3]: 2})
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
    again = Pretended(monkeypatch)
    done = {key: sum(key_of(row) == key for row in made.rows if isinstance(row, Round)) for key in KEYS}
    assert len(again.measure(done)) == 5 * len(KEYS) - 7


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


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["dispatch", "scan"])
def test_reported_speed_agrees_with_a_stopwatch_from_outside(loop):
    """Within 5% in the median over tries; a machine that others use is given several."""
    work, _, _ = throughput.build(learner("mlp", "momentum"), train_split(), CellKey(20, loop))
    steps = throughput.calibrate(work, 0.2)
    ratios = []
    for _ in range(9):
        inside = throughput.timed(work, steps)
        start = time.monotonic()
        work(steps)
        ratios.append(inside / (time.monotonic() - start))
    assert median(ratios) == pytest.approx(1, abs=0.05)
