"""A wave of lanes from first step to last row: train, evaluate, retire, compact, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import jax
import numpy as np
from jaxtyping import Int32

from bench.measure import stream
from bench.measure.checkpoint import Checkpoint
from bench.measure.interrupts import Stopped
from bench.measure.lanes import Scores
from bench.measure.racing import losers
from bench.measure.wave import LaneRecord, Shape, Shard, Wave
from bench.rows import LARGEST_AMOUNT, Curve

CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class Reporter:
    """Where a wave reports, and how it is run: `shapes` are those it may be compacted into.

    `rivals` holds, by batch size and learning rate, the curves of earlier waves that its lanes race against.
    """

    finished: Callable[[LaneRecord], None]
    advanced: Callable[[int], None]
    check: Callable[[], None]
    checkpoint: Checkpoint
    shapes: Sequence[Shape]
    workers: int = 1
    tests_always: bool = False
    rivals: Mapping[int, Mapping[float, Sequence[Curve]]] = field(default_factory=dict)


def run(wave: Wave, reporter: Reporter) -> None:
    """Train a wave until every lane has its verdict; each is reported as it falls.

    Shards share nothing, so `workers` threads advance them side by side: one XLA program of many small products
    keeps one core busy, and two programs keep two.
    """
    saved, stop = time.monotonic(), Event()
    with ThreadPoolExecutor(reporter.workers) as pool:
        try:
            while wave.evaluation < len(wave.duration.evaluations) and wave.alive():
                _advance(wave, reporter, pool, stop)
                saved = _save(wave, reporter, saved)
        finally:
            stop.set()
    reporter.checkpoint.discard()


def _save(wave: Wave, reporter: Reporter, saved: float) -> float:
    """Checkpoint when it is time or when a stop was asked for; the time of the last one."""
    try:
        reporter.check()
    except Stopped:
        reporter.checkpoint.save(wave)
        raise
    if time.monotonic() - saved < CHECKPOINT_SECONDS or not wave.alive():
        return saved
    reporter.checkpoint.save(wave)
    return time.monotonic()


def _advance(wave: Wave, reporter: Reporter, pool: ThreadPoolExecutor, stop: Event) -> None:
    """To the next evaluation point and past it."""
    point = wave.duration.evaluations[wave.evaluation]
    living = [shard for shard in wave.shards if shard.alive(wave.records)]
    tests = _is_tested(wave, point, reporter)
    scores = list(pool.map(lambda shard: _train_and_score(wave, shard, point, tests, stop), living))
    reporter.advanced(
        wave.alive() * (point - (wave.duration.evaluations[wave.evaluation - 1] if wave.evaluation else 0))
    )
    for shard, (validation, test) in zip(living, scores, strict=True):
        _record(wave, shard, point, validation, test, always=reporter.tests_always)
    wave.tick = point // wave.programs.microbatch_size
    wave.evaluation += 1
    _retire(wave, point)
    _stop_losers(wave, point, reporter)
    _report(wave, reporter)
    for shard in wave.shards:
        shard.compact(wave.records, reporter.shapes)


def _is_tested(wave: Wave, point: int, reporter: Reporter) -> bool:
    claims = any(record.setting.phase != "search" for record in wave.records)
    return claims and (reporter.tests_always or point == wave.duration.budget_examples)


def _train_and_score(
    wave: Wave, shard: Shard, point: int, tests: bool, stop: Event
) -> tuple[tuple[Scores, Scores], tuple[Scores, Scores] | None]:
    """Train one shard to `point`; its validation scores, and its test scores where they are asked for."""
    programs, settings = wave.programs, shard.device_settings()
    last = point // programs.microbatch_size
    for first in range(wave.tick, last, programs.longest_segment):
        if stop.is_set():
            raise InterruptedError
        order = _order(wave, shard, first, min(last - first, programs.longest_segment))
        shard.lanes = jax.block_until_ready(programs.train(shard.lanes, settings, order, first))
    validation = programs.evaluate(shard.lanes, programs.validation_split)
    return validation, programs.evaluate(shard.lanes, programs.test_split) if tests else None


def _order(wave: Wave, shard: Shard, tick: int, ticks: int) -> Int32[np.ndarray, "seed tick microbatch"]:
    width, examples = wave.programs.microbatch_size, len(wave.programs.train_split.labels)
    rows = [stream.indices(seed, tick * width, ticks * width, examples) for seed in shard.layout.seeds]
    return np.stack(rows).reshape(len(rows), ticks, width)


def _record(
    wave: Wave,
    shard: Shard,
    point: int,
    validation: tuple[Scores, Scores],
    test: tuple[Scores, Scores] | None,
    *,
    always: bool,
) -> None:
    (accuracy, loss), norms = validation, shard.read_norms()
    for row, column, record in shard.alive(wave.records):
        tested = None if test is None else float(test[0][row, column])
        record.record(
            point,
            float(accuracy[row, column]),
            float(loss[row, column]),
            tested if always else None,
            None if norms is None else norms[row, column],
        )
        if point == wave.duration.budget_examples:
            record.test_accuracy = tested
        if not loss[row, column] <= LARGEST_AMOUNT:
            record.finish("diverged", f"the validation loss was {loss[row, column]} after {point} examples")


def _retire(wave: Wave, point: int) -> None:
    """Lanes that reached the target train to the epoch budget, the others to the longest one."""
    for record in wave.records:
        reached = max(record.curve.accuracy, default=0.0) >= wave.race.target
        if point >= wave.duration.max_examples or (point >= wave.duration.budget_examples and reached):
            record.finish("ok")


def _stop_losers(wave: Wave, point: int, reporter: Reporter) -> None:
    """Stop search lanes that cannot win; lanes of other phases are claims and run to their end."""
    searching = [record for record in wave.records if record.setting.phase == "search"]
    for batch_size in {record.setting.batch_size for record in searching}:
        group = [record for record in searching if record.setting.batch_size == batch_size]
        curves = {rate: list(known) for rate, known in reporter.rivals.get(batch_size, {}).items()}
        for record in group:
            curves.setdefault(record.setting.learning_rate, []).append(record.curve)
        for rate, reason in losers(wave.race, curves, point).items():
            for record in group:
                if record.setting.learning_rate == rate:
                    record.finish("stopped", reason)


def _report(wave: Wave, reporter: Reporter) -> None:
    for record in wave.records:
        if record.status is not None and not record.reported:
            record.reported = True
            reporter.finished(record)
