"""A laboratory whose clock, work and processes are pretended, so that what it should measure is known exactly."""

from __future__ import annotations

import jax
import msgspec
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopped
from batchscale.measure.throughput import rounds as throughput
from batchscale.measure.throughput.child_process import ChildError
from batchscale.measure.throughput.context import Laboratory
from batchscale.measure.throughput.history import Attempts
from batchscale.records.row_types import Compilation, Origin, Round
from sample_rows import ORIGIN
from tiny_workload import experiment, learner, train_split

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
