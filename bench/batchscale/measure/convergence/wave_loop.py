"""The loop on the host that drives a wave: advance shards, evaluate, close lanes, compact shards, save a checkpoint.

The mapped program that updates the parameters of lanes is in `lanes`.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import jax
import msgspec
import numpy as np
from jaxtyping import Int32

from batchscale.decisions.evaluations import first_at_target
from batchscale.errors import InputError
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence.early_stopping import losers
from batchscale.measure.convergence.lane_devices import OF_LANES
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.wave import LaneRecord, Layout, Reading, Shard, Wave, cut_anew, finite, means_of
from batchscale.measure.data import example_order
from batchscale.records import row_files
from batchscale.records.row_types import TrialKey
from batchscale.untrusted_input import read_small

CHECKPOINT_SECONDS = 30.0
CHECK_SECONDS = 5.0
"""A wave trains for about this long, or to its next evaluation, before it looks for a request to stop."""
FIRST_CHECKS_PER_CALL = 8
"""Before the speed of a tick is known, a wave trains for this part of a program call."""
BUSY_SHARE = 0.95
"""Share of the workers' time in which they must have a shard to train."""


@dataclass(frozen=True)
class Reporter:
    """Callbacks and settings of a training wave that change no curve.

    Attributes:
        finished: Called once for every lane that has its verdict.
        advanced: Called with the lane-examples trained since the last call.
        check: Raises Stopped if a stop was asked for.
        checkpoint: Where the state is saved.
        workers: Threads that train shards.
        check_seconds: See CHECK_SECONDS.
    """

    finished: Callable[[LaneRecord], None]
    advanced: Callable[[int], None]
    check: Callable[[], None]
    checkpoint: Checkpoint
    workers: int = 1
    check_seconds: float = CHECK_SECONDS


@dataclass(frozen=True)
class Workers:
    """Threads that train and evaluate the shards of a wave.

    Shards share nothing. One XLA program of many small products keeps one core busy, so as many programs as cores run
    next to each other.

    Attributes:
        pool: The threads.
        count: How many there are.
        stop: Set to end training after the calls in progress.
    """

    pool: ThreadPoolExecutor
    count: int
    stop: Event = field(default_factory=Event)

    @classmethod
    @contextmanager
    def started(cls, count: int) -> Iterator[Workers]:
        """Start threads, which end with the context, however it is left."""
        with ThreadPoolExecutor(count) as pool:
            workers = cls(pool, count)
            try:
                yield workers
            finally:
                workers.stop.set()

    def train(self, wave: Wave, shards: Sequence[Shard], last: int) -> None:
        """Train shards from the wave's tick to tick `last`.

        Workers take turns with the shards in a queue. If whole shards would leave a worker waiting, a turn is a part of
        the ticks: of three shards, two workers take halves.

        Raises:
            InterruptedError: when the workers were stopped.
        """
        turns = turns_per_shard(len(shards), self.count)
        ticks_per_turn = max(1, min(math.ceil((last - wave.tick) / turns), wave.programs.ticks_per_call))
        queue = deque((shard, wave.tick) for shard in shards if wave.tick < last)

        def take_turns() -> None:
            while True:
                # Not `while queue`: another worker may take the last shard in between.
                try:
                    shard, first = queue.popleft()
                except IndexError:
                    return
                if self.stop.is_set():
                    raise InterruptedError
                ticks = min(last - first, ticks_per_turn)
                _advance_shard(wave, shard, first, ticks)
                # Back into the queue only when its turn is over: a shard is never with two workers.
                if first + ticks < last:
                    queue.append((shard, first + ticks))

        for worker in [self.pool.submit(take_turns) for _ in range(self.count)]:
            worker.result()


def turns_per_shard(shards: int, workers: int) -> int:
    """Return the smallest number of equal turns per shard that keeps the workers busy for BUSY_SHARE of their time."""
    for turns in range(1, workers):
        if turns * shards >= BUSY_SHARE * workers * math.ceil(turns * shards / workers):
            return turns
    return workers


def run(wave: Wave, reporter: Reporter) -> None:
    """Train a wave until every lane has its verdict; each verdict is reported when it falls.

    Raises:
        Stopped: when a stop was asked for; the checkpoint then holds the wave.
    """
    saved = time.monotonic()
    ticks = math.ceil(wave.programs.ticks_per_call / FIRST_CHECKS_PER_CALL)
    with Workers.started(reporter.workers) as workers:
        while wave.evaluation < len(wave.duration.evaluations) and wave.alive():
            ticks = _advance(wave, reporter, workers, ticks)
            if wave.tick == wave.tick_of(wave.evaluation):
                _evaluate(wave, reporter, workers)
            saved = _save(wave, reporter, saved)
    reporter.checkpoint.discard()


def _advance(wave: Wave, reporter: Reporter, workers: Workers, ticks: int) -> int:
    """Train for `ticks`, or to the next evaluation; return the ticks until the next check, at the measured speed."""
    first, start = wave.tick, time.monotonic()
    last = min(first + ticks, wave.tick_of(wave.evaluation))
    if last == first:
        return ticks
    workers.train(wave, wave.living(), last)
    wave.tick = last
    reporter.advanced(wave.alive() * (last - first) * wave.programs.microbatch_size)
    return max(1, int((last - first) * reporter.check_seconds / (time.monotonic() - start)))


def _save(wave: Wave, reporter: Reporter, saved: float) -> float:
    """Save a checkpoint if it is time or if a stop was asked for; return the time of the last one.

    A wave whose last lane has its verdict is over: nothing is left to save or to stop.
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


def _evaluate(wave: Wave, reporter: Reporter, workers: Workers) -> None:
    """Evaluate every lane, report those that have their verdict, and compact the shards."""
    examples, living = wave.duration.evaluations[wave.evaluation], wave.living()
    tests = _is_tested(wave, examples)
    readings = list(workers.pool.map(lambda shard: _read(wave.programs, shard, tests=tests), living))
    for shard, one in zip(living, readings, strict=True):
        _record(wave, shard, examples, one)
    wave.evaluation += 1
    _retire(wave, examples)
    _stop_losers(wave, examples)
    _report(wave, reporter)
    for shard in wave.shards:
        shard.compact(wave.records, wave.shapes)


def _is_tested(wave: Wave, examples: int) -> bool:
    """Return True if the test split is evaluated at this point.

    It is never evaluated for a wave of search trials, which only choose rates.
    """
    claims = any(record.setting.phase != "search" for record in wave.records)
    return claims and (wave.tests_always or examples == wave.duration.budget_examples)


def _advance_shard(wave: Wave, shard: Shard, first: int, ticks: int) -> None:
    order = _order(wave, shard, first, ticks)
    # Wait for the device here, so that a worker's turn ends when its work ends. The time per tick and the order in the
    # queue depend on this.
    shard.lanes = jax.block_until_ready(wave.programs.advance(shard.lanes, shard.values, order, first))


def _order(wave: Wave, shard: Shard, tick: int, ticks: int) -> Int32[np.ndarray, "seed tick microbatch"]:
    width, examples = wave.programs.microbatch_size, len(wave.programs.train_split.labels)
    rows = [example_order.indices(seed, tick * width, ticks * width, examples) for seed in shard.layout.seeds]
    return np.stack(rows).reshape(len(rows), ticks, width)


def _read(programs: Programs, shard: Shard, *, tests: bool) -> Reading:
    params, averages = shard.lanes.state.params, programs.averaging_examples is not None
    return Reading(
        programs.evaluate(params, programs.validation_split),
        test_scores=programs.evaluate(params, programs.test_split) if tests else {},
        averaged_scores=programs.evaluate(shard.lanes.average, programs.validation_split) if averages else {},
        norms=shard.read_norms(),
    )


def _record(wave: Wave, shard: Shard, examples: int, readings: Reading) -> None:
    for row, column, record in shard.alive(wave.records):
        reading = readings.lane(row, column)
        record.record(examples, reading if wave.tests_always else reading._replace(test_scores={}))
        if examples == wave.duration.budget_examples and record.steps:
            record.test_scores = {name: finite(mean) for name, mean in means_of(reading.test_scores).items()}
        if finite(loss := reading.scores["loss"].mean) is None:
            record.finish("diverged", f"the validation loss was {float(loss)} after {examples} examples")


def _retire(wave: Wave, examples: int) -> None:
    """Close the lanes that have come to their end."""
    for record in wave.records:
        if record.status is None:
            first = first_at_target(record.curve, wave.race.goal)
            at = first.examples if first else None
            if ended := wave.duration.ended(record.setting.phase, record.seed, examples, at):
                record.finish("ok", ended=ended)


def _stop_losers(wave: Wave, examples: int) -> None:
    """Stop search lanes that cannot win. Lanes of other phases support claims and train to their end."""
    searching = [record for record in wave.records if record.setting.phase == "search"]
    for batch_size in {record.setting.batch_size for record in searching}:
        group = [record for record in searching if record.setting.batch_size == batch_size]
        curves = {point: list(known) for point, known in wave.rivals.get(batch_size, {}).items()}
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


LARGEST_CURVES_BYTES = 1 << 30
"""Bytes for the curves of a wave, at most. Its lanes come on top; their size is known."""
MALFORMED = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, msgspec.DecodeError, RecursionError)
SEAL_BYTES = hashlib.sha256().digest_size


class Saved(msgspec.Struct, kw_only=True):
    """Everything in a wave but its arrays.

    Attributes:
        tick: Ticks trained so far.
        evaluation: Evaluations made so far.
        layouts: Of every shard.
        records: Of every trial.
    """

    tick: int
    evaluation: int
    layouts: list[Layout]
    records: list[LaneRecord]


@dataclass(frozen=True)
class Checkpoint:
    """One file for the wave in progress.

    The file begins with a SHA-256 of the identity and the content. A file that is torn or belongs to another wave has
    another hash and is never parsed.

    Attributes:
        path: The file.
        identity: Names everything that must be the same when lanes are continued.
    """

    path: Path
    identity: str

    def save(self, wave: Wave) -> None:
        """Replace the file by the present state of the wave, in one move."""
        saved = Saved(
            tick=wave.tick,
            evaluation=wave.evaluation,
            layouts=[shard.layout for shard in wave.shards],
            records=wave.records,
        )
        leaves = jax.tree.leaves([shard.lanes for shard in wave.shards])
        arrays = {f"leaf{number}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, meta=np.frombuffer(msgspec.json.encode(saved), np.uint8), **arrays)
        content = buffer.getvalue()
        row_files.write_whole(self.path, self._seal(content) + content)

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self.identity.encode() + content).digest()

    def restore(self, wave: Wave, needed: Set[TrialKey]) -> bool:
        """Put a saved state into this freshly started wave; return False if no saved state fits.

        A saved wave of some of the trials fits as well, if all `needed` ones are among them. Rows of needed trials were
        lost after the checkpoint, so these trials are reported again. Lanes that were saved in shards of other shapes,
        as another number of devices or other free memory gives, are cut anew.
        """
        found = self._read(wave)
        if found is None or not _fits(wave, needed, *found):
            return False
        saved, leaves = found
        one = jax.tree.structure(wave.shards[0].lanes)
        width = one.num_leaves
        parts = [
            (layout, jax.tree.unflatten(one, leaves[number * width : (number + 1) * width]))
            for number, layout in enumerate(saved.layouts)
        ]
        wave.records, wave.tick, wave.evaluation = saved.records, saved.tick, saved.evaluation
        if not {layout.shape for layout in saved.layouts} <= set(wave.shapes):
            parts = cut_anew(wave, parts)
        wave.shards = [
            Shard(layout, wave.programs.devices.put(lanes, layout.shape, OF_LANES)) for layout, lanes in parts
        ]
        for record in wave.records:
            record.reported = record.trial not in needed
        return True

    def _read(self, wave: Wave) -> tuple[Saved, list[np.ndarray]] | None:
        """Return the content of the file; None if there is no file, or its seal or its format is wrong."""
        lanes_bytes = sum(leaf.nbytes for shard in wave.shards for leaf in jax.tree.leaves(shard.lanes))
        with suppress(InputError, *MALFORMED):
            data = read_small(self.path, lanes_bytes + LARGEST_CURVES_BYTES)
            seal, content = data[:SEAL_BYTES], data[SEAL_BYTES:]
            if seal != self._seal(content):
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                saved = msgspec.json.decode(file["meta"].tobytes(), type=Saved)
                return saved, [file[f"leaf{number}"] for number in range(len(file.files) - 1)]
        return None

    def discard(self) -> None:
        """Remove the file, once every lane of the wave is a row."""
        self.path.unlink(missing_ok=True)


def _fits(wave: Wave, needed: Set[TrialKey], saved: Saved, leaves: Sequence[np.ndarray]) -> bool:
    """Return True if saved trials are of this wave and include the needed ones, with arrays as this code makes them.

    The arrays are compared because the identity does not include the version of the code, and another version may have
    other arrays.
    """
    trials = {record.trial for record in saved.records}
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    return needed <= trials <= set(wave.trials) and shapes == [*_leaf_shapes(wave, saved.layouts)]


def _leaf_shapes(wave: Wave, layouts: Sequence[Layout]) -> Iterator[tuple[tuple[int, ...], np.dtype]]:
    """Yield shape and type of every array in lanes of these layouts."""
    for layout in layouts:
        for leaf in jax.tree.leaves(wave.shards[0].lanes):
            yield (len(layout.seeds), len(layout.settings), *leaf.shape[2:]), leaf.dtype
