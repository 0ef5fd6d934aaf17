"""A throughput stage with a fake clock, fake work and fake processes, so that the expected measurements are known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import msgspec
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.signals import Stopped
from batchscale.measure.device.sensors import NONE
from batchscale.measure.throughput import cells_ahead
from batchscale.measure.throughput import rounds as throughput
from batchscale.measure.throughput.cell_process import ChildError
from batchscale.measure.throughput.stage import Throughput
from batchscale.measure.training import flop_count
from batchscale.records.row_types import Compilation, Round
from sample_rows import ORIGIN
from tiny_workload import tiny_dataset, untuned_session

COUNT = flop_count.flops_per_example
KEYS = [CellKey(size, loop) for size in (1, 8, 64) for loop in ("dispatch", "scan")]


@cache
def _count(learner, batch_size):
    return COUNT(learner, batch_size, tiny_dataset().train)


def _counted_once(learner, batch_size, _split):
    """Count the FLOPs of a learner on the tiny dataset, once in all tests."""
    return _count(learner, batch_size)


class Pretended:
    """A throughput stage with a fake clock and fake work: a step of B examples lasts 1 ms + B microseconds."""

    def __init__(self, monkeypatch, fails=None, folder=Path("nowhere"), **tables):
        self.now, self.rows, self.built, self.fails, self.checks = 0.0, [], [], fails or {}, 0
        self.stop_at, self.folder = None, folder
        monkeypatch.setattr(cells_ahead, "build", self.build)
        monkeypatch.setattr(throughput.flop_count, "flops_per_example", _counted_once)
        monkeypatch.setattr(throughput, "predicted_bytes", lambda _: self.predicted_bytes(self.built[-1]))
        self.asks(**tables)

    def asks(self, **tables):
        """Give these tables to the experiment of the stage."""
        asked = {"rounds": 5, "round_seconds": 0.1, **tables.pop("throughput", {})}
        of = untuned_session(self.folder, throughput=asked, **tables)
        of.stopper.check = self.check
        of.progress.plan("timing", len(KEYS), 1.0)
        self.stage = Throughput(of, self.rows.append)
        self.timing = self.stage.timing
        self.timing.clock, self.timing.sensors = (lambda: self.now), lambda devices: NONE
        return self

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
        """Return the bytes that a step of this cell needs."""
        return 1000 * key.batch_size // key.accumulation

    def measure(self, keys=KEYS):
        throughput.measure(self.timing, keys)
        return [row for row in self.rows if isinstance(row, Round)]

    def again(self, rows, *, retries_failed=False):
        """Start the next run on the rows of an earlier one."""
        for row in rows:
            self.timing.known.see(row)
        if retries_failed:
            self.timing.known.retry_failures()
        return self


class Scripted:
    """A fake child process. It yields the given rows and then fails with `dies_of`, if this is given."""

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


class PretendedClock:
    """A clock that its `work` moves: by `start` seconds for each call, and by `per_step` for each step."""

    def __init__(self, per_step, start=0.0):
        self.now, self.per_step, self.start, self.calls = 0.0, per_step, start, []

    def __call__(self):
        return self.now

    def work(self, steps):
        self.calls.append(steps)
        self.now += self.start + steps * self.per_step
