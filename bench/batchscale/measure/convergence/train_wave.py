"""A wave of lanes from first step to last row: train, evaluate, retire, compact, checkpoint."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int32

from batchscale.config.vocabulary import Point
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence.checkpoint import Checkpoint
from batchscale.measure.convergence.early_stopping import losers
from batchscale.measure.convergence.lanes import Programs, Scores
from batchscale.measure.convergence.wave import LaneRecord, Reading, Shape, Shard, Wave
from batchscale.measure.data import example_order
from batchscale.records.rate_choice import crossing
from batchscale.records.row_types import LARGEST_AMOUNT, Curve

CHECKPOINT_SECONDS = 30.0
STRETCH_SECONDS = 5.0
"""A wave trains about so long, or to its next evaluation, before it hears that a stop was asked for."""
FIRST_STRETCHES_PER_SEGMENT = 8
"""The first stretch is such a part of a segment: how many seconds a tick takes is not known before it."""
BUSY_SHARE = 0.95
"""Of the workers' time, at the least."""


@dataclass(frozen=True)
class Reporter:
    """Where a wave reports, and how it is run: `shapes` are those it may be compacted into.

    `rivals` holds, by batch size and point, the curves of earlier waves that its lanes race against.
    """

    finished: Callable[[LaneRecord], None]
    advanced: Callable[[int], None]
    check: Callable[[], None]
    checkpoint: Checkpoint
    shapes: Sequence[Shape]
    workers: int = 1
    tests_always: bool = False
    stretch_seconds: float = STRETCH_SECONDS
    rivals: Mapping[int, Mapping[Point, Sequence[Curve]]] = field(default_factory=dict)


class Readings(NamedTuple):
    """An evaluation of all lanes of a shard; None is what was not asked for."""

    accuracy: Scores
    loss: Scores
    test_accuracy: Scores | None
    ema_accuracy: Scores | None
    norms: Float[np.ndarray, "seed setting part"] | None

    def of(self, row: int, column: int) -> Reading:
        """What it read of one lane."""
        place = (row, column)
        return Reading(
            float(self.accuracy[place]),
            float(self.loss[place]),
            None if self.test_accuracy is None else float(self.test_accuracy[place]),
            None if self.ema_accuracy is None else float(self.ema_accuracy[place]),
            None if self.norms is None else self.norms[place],
        )


def run(wave: Wave, reporter: Reporter) -> None:
    """Train a wave until every lane has its verdict; each is reported as it falls.

    Shards share nothing, so `workers` threads advance them side by side: one XLA program of many small products
    keeps one core busy, and two programs keep two.
    """
    saved, stop = time.monotonic(), Event()
    ticks = math.ceil(wave.programs.longest_segment / FIRST_STRETCHES_PER_SEGMENT)
    with ThreadPoolExecutor(reporter.workers) as pool:
        crew = Crew(pool, reporter.workers, stop)
        try:
            while wave.evaluation < len(wave.duration.evaluations) and wave.alive():
                ticks = _stretch(wave, reporter, crew, ticks)
                if wave.tick == wave.tick_of(wave.evaluation):
                    _evaluate(wave, reporter, pool)
                saved = _save(wave, reporter, saved)
        finally:
            stop.set()
    reporter.checkpoint.discard()


def _stretch(wave: Wave, reporter: Reporter, crew: Crew, ticks: int) -> int:
    """Train so many ticks, or to the next evaluation; how many the next stretch should have, at the speed measured."""
    first, start = wave.tick, time.monotonic()
    last = min(first + ticks, wave.tick_of(wave.evaluation))
    if last == first:
        return ticks
    train(wave, wave.living(), last, crew)
    wave.tick = last
    reporter.advanced(wave.alive() * (last - first) * wave.programs.microbatch_size)
    return max(1, int((last - first) * reporter.stretch_seconds / (time.monotonic() - start)))


def _save(wave: Wave, reporter: Reporter, saved: float) -> float:
    """Checkpoint when it is time or when a stop was asked for; the time of the last one.

    A wave whose last lane has its verdict is over: nothing is left to save, and nothing to stop.
    """
    if not wave.alive():
        return saved
    try:
        reporter.check()
    except Stopped:
        reporter.checkpoint.save(wave)
        raise
    if time.monotonic() - saved < CHECKPOINT_SECONDS:
        return saved
    reporter.checkpoint.save(wave)
    return time.monotonic()


def _evaluate(wave: Wave, reporter: Reporter, pool: ThreadPoolExecutor) -> None:
    """Read every lane at the evaluation point it has come to, and let go of those that have their verdict."""
    point, living = wave.duration.evaluations[wave.evaluation], wave.living()
    tests = _is_tested(wave, point, reporter)
    readings = list(pool.map(lambda shard: _read(wave.programs, shard, tests=tests), living))
    for shard, one in zip(living, readings, strict=True):
        _record(wave, shard, point, one, always=reporter.tests_always)
    wave.evaluation += 1
    _retire(wave, point)
    _stop_losers(wave, point, reporter)
    _report(wave, reporter)
    for shard in wave.shards:
        shard.compact(wave.records, reporter.shapes)


def _is_tested(wave: Wave, point: int, reporter: Reporter) -> bool:
    claims = any(record.setting.phase != "search" for record in wave.records)
    return claims and (reporter.tests_always or point == wave.duration.budget_examples)


class Crew(NamedTuple):
    """Who trains: `workers` threads of a pool, until `stop` is set."""

    pool: ThreadPoolExecutor
    workers: int
    stop: Event


def train(wave: Wave, shards: Sequence[Shard], last: int, crew: Crew) -> None:
    """Train shards from the wave's tick to tick `last`, in pieces that workers take in turn.

    Shards are cut where whole ones would leave a worker waiting: of three, two workers take halves.

    Raises:
        InterruptedError: when the crew was stopped.
    """
    cuts = pieces_per_shard(len(shards), crew.workers)
    piece = max(1, min(math.ceil((last - wave.tick) / cuts), wave.programs.longest_segment))
    line = deque((shard, wave.tick) for shard in shards if wave.tick < last)

    def take_turns() -> None:
        while True:
            try:
                shard, first = line.popleft()
            except IndexError:
                return
            if crew.stop.is_set():
                raise InterruptedError
            ticks = min(last - first, piece)
            _train(wave, shard, first, ticks)
            if first + ticks < last:
                line.append((shard, first + ticks))

    for turn in [crew.pool.submit(take_turns) for _ in range(crew.workers)]:
        turn.result()


def pieces_per_shard(shards: int, workers: int) -> int:
    """The fewest equal pieces to cut each shard into, so that workers which take them in turn are kept busy."""
    for cuts in range(1, workers):
        pieces = cuts * shards
        if pieces >= BUSY_SHARE * workers * math.ceil(pieces / workers):
            return cuts
    return workers


def _train(wave: Wave, shard: Shard, first: int, ticks: int) -> None:
    order = _order(wave, shard, first, ticks)
    shard.lanes = jax.block_until_ready(wave.programs.train(shard.lanes, shard.values, order, first))


def _read(programs: Programs, shard: Shard, *, tests: bool) -> Readings:
    params, averages = shard.lanes.state.params, programs.averaging_examples is not None
    accuracy, loss = programs.evaluate(params, programs.validation_split)
    return Readings(
        accuracy,
        loss,
        test_accuracy=programs.evaluate(params, programs.test_split)[0] if tests else None,
        ema_accuracy=programs.evaluate(shard.lanes.average, programs.validation_split)[0] if averages else None,
        norms=shard.read_norms(),
    )


def _order(wave: Wave, shard: Shard, tick: int, ticks: int) -> Int32[np.ndarray, "seed tick microbatch"]:
    width, examples = wave.programs.microbatch_size, len(wave.programs.train_split.labels)
    rows = [example_order.indices(seed, tick * width, ticks * width, examples) for seed in shard.layout.seeds]
    return np.stack(rows).reshape(len(rows), ticks, width)


def _record(wave: Wave, shard: Shard, point: int, readings: Readings, *, always: bool) -> None:
    for row, column, record in shard.alive(wave.records):
        reading = readings.of(row, column)
        record.record(point, reading if always else reading._replace(test_accuracy=None))
        if point == wave.duration.budget_examples and record.steps:
            record.test_accuracy = reading.test_accuracy
        if not reading.loss <= LARGEST_AMOUNT:
            record.finish("diverged", f"the validation loss was {reading.loss} after {point} examples")


def _retire(wave: Wave, point: int) -> None:
    """Lanes that reached the target train to the epoch budget, the others to the longest one."""
    if point < wave.duration.budget_examples:
        return
    for record in wave.records:
        if point >= wave.duration.max_examples or crossing(record.curve, wave.race.goal):
            record.finish("ok")


def _stop_losers(wave: Wave, examples: int, reporter: Reporter) -> None:
    """Stop search lanes that cannot win; lanes of other phases are claims and run to their end."""
    searching = [record for record in wave.records if record.setting.phase == "search"]
    for batch_size in {record.setting.batch_size for record in searching}:
        group = [record for record in searching if record.setting.batch_size == batch_size]
        curves = {point: list(known) for point, known in reporter.rivals.get(batch_size, {}).items()}
        for record in group:
            curves.setdefault(record.setting.point, []).append(record.curve)
        stopped = losers(wave.race, curves, examples)
        for record in group:
            if record.setting.point in stopped:
                record.finish("stopped", stopped[record.setting.point])


def _report(wave: Wave, reporter: Reporter) -> None:
    for record in wave.records:
        if record.status is not None and not record.reported:
            record.reported = True
            reporter.finished(record)
