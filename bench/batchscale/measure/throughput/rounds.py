"""Rounds: repeated timings of a training step at its true batch size, one cell at a time, interleaved over cells."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import FAILURES, Failure, failure_of
from batchscale.measure.device.compiled_programs import Work, predicted_bytes, steps_to_fill, timed
from batchscale.measure.throughput.cell_process import ChildError
from batchscale.measure.throughput.timed_loops import Built, build
from batchscale.measure.training import flop_count
from batchscale.records.row_types import Compilation, Round

if TYPE_CHECKING:
    from batchscale.measure.throughput.stage import Throughput


@dataclass(frozen=True)
class TimedCell:
    """A compiled cell ready for rounds.

    Attributes:
        key: Which cell.
        work: Runs a number of training steps.
        steps: Steps of a round.
        compiled: The row of its compilation.
    """

    key: CellKey
    work: Work
    steps: int
    compiled: Compilation


def measure(stage: Throughput, keys: Sequence[CellKey]) -> None:
    """Compile what still lacks rounds, then time rounds interleaved over cells in shuffled order.

    A cell that fails becomes a row and is left out; a cell that is out of memory is timed in microbatches instead.

    Raises:
        DeviceError: At the third failure in a row.
    """
    while cells := [cell for key in keys if (cell := _ready(stage, key)) is not None]:
        time_rounds(stage, cells)


def _ready(stage: Throughput, key: CellKey) -> TimedCell | None:
    """Compile a cell in the first form that fits; None if nothing is left to time in this process."""
    while (form := stage.known.next(key, stage.rounds)) is not None:
        if (cell := prepare(stage, form, stage.lowering(form))) is not None:
            return cell
    return None


def prepare(stage: Throughput, key: CellKey, lowering: str | None) -> TimedCell | None:
    """Compile a cell ahead of time and find the number of steps that fills a round.

    Returns:
        None if the cell failed or was timed in a child process; the rows show which.
    """
    stage.session.stopper.check()
    if stage.is_isolated(key):
        return _time_isolated(stage, key, lowering)
    start, peak_before = time.perf_counter(), _peak_bytes()
    try:
        work, row = _compile(stage, key, lowering)
    except FAILURES as error:
        return stage.record_failure(key, lowering, failure_of(error))
    if row.status != "ok":
        return stage.record(row)
    if stage.is_isolated(key, row.predicted_bytes):
        del work
        return _time_isolated(stage, key, lowering)
    try:
        stage.confine()
        steps = steps_to_fill(stage.round_seconds(key), work, stage.clock)
    except FAILURES as error:
        return stage.record(msgspec.structs.replace(row, **failure_of(error)._asdict()))
    row = msgspec.structs.replace(row, peak_bytes=_raised(peak_before, _peak_bytes()))
    stage.record(row)
    stage.book(0.5, time.perf_counter() - start, f"compile {key}")
    return TimedCell(key, work, steps, row)


def _compile(stage: Throughput, key: CellKey, lowering: str | None) -> tuple[Work, Compilation]:
    """Compile a cell; the status of the row is not ok if the program cannot fit into memory."""
    work, compiled, seconds = stage.tried.pop((key, lowering), None) or _built(stage, key, lowering)
    needed = predicted_bytes(compiled)
    refused = stage.refusal(needed)
    return work, Compilation(
        **stage.origin_of(key),
        status=refused.status if refused else "ok",
        message=refused.message if refused else None,
        lowering=lowering,
        compile_seconds=seconds,
        predicted_bytes=needed,
        **_arithmetic(stage, key, compiled),
    )


def _built(stage: Throughput, key: CellKey, lowering: str | None) -> Built:
    work, compiled, seconds = build(stage.session.learner(key.precision, lowering), stage.session.splits[0], key)
    stage.compilations += 1
    return stage.shared(work), compiled, seconds


def _arithmetic(stage: Throughput, key: CellKey, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Return FLOPs per example: counted from the model (the same for every lowering), and reported by the compiler."""
    split = stage.session.splits[0]
    return {
        "flops_per_example": flop_count.flops_per_example(
            stage.session.learner(key.precision, None), key.batch_size, split
        ),
        "compiler_flops_per_example": flop_count.compiler_count(compiled, "flops", key.examples_at_once),
        "compiler_bytes_per_example": flop_count.compiler_count(compiled, "bytes accessed", key.examples_at_once),
    }


def _time_isolated(stage: Throughput, key: CellKey, lowering: str | None) -> None:
    """Compile and time a cell in a child process, whose rows are written as they arrive."""
    start = time.perf_counter()
    try:
        with stage.child("time", key, lowering, stage.known.rounds[key]) as opened:
            for row in opened.rows():
                if not isinstance(row, Compilation | Round) or CellKey.of(row) != key:
                    raise ChildError(Failure("failed", "its process wrote a row of another cell"))
                stage.record(msgspec.structs.replace(row, isolated=True) if isinstance(row, Compilation) else row)
                stage.session.stopper.check()
        if stage.known.rounds[key] < stage.rounds:
            raise ChildError(Failure("failed", "its process ended before all rounds were timed"))
    except ChildError as error:
        if key not in stage.known.failures:
            stage.record_failure(key, lowering, error.failure)
    stage.book(1.0, time.perf_counter() - start, f"in a child process {key}")


def time_rounds(stage: Throughput, cells: Sequence[TimedCell]) -> None:
    """Time the rounds that cells lack, on a warm device; a cell that fails is not timed again.

    Raises:
        DeviceError: At the third failure in a row.
    """
    _warm_up(stage, cells)
    shuffle = random.Random(0)  # noqa: S311 - an order of rounds is no secret
    had = {cell.key: stage.known.rounds[cell.key] for cell in cells}
    for number in range(stage.rounds):
        order = [cell for cell in cells if had[cell.key] <= number and cell.key not in stage.known.failures]
        shuffle.shuffle(order)
        for cell in order:
            try:
                _time_round(stage, cell, number)
            except FAILURES as error:
                stage.record(msgspec.structs.replace(cell.compiled, **failure_of(error)._asdict()))


def _warm_up(stage: Throughput, cells: Sequence[TimedCell]) -> None:
    """Run the cells in turn for as long as the platform needs to reach the clock that training runs at."""
    seconds, start, working = stage.session.host.policy.warm_up_seconds, stage.clock(), list(cells)
    while working and stage.clock() - start < seconds:
        stage.session.stopper.check()
        cell = working.pop(0)
        stage.session.progress.show("warming up")
        # A cell that fails is left to its rounds, where the failure becomes a row.
        with suppress(*FAILURES):
            cell.work(cell.steps)
            working.append(cell)


def _time_round(stage: Throughput, cell: TimedCell, number: int) -> None:
    stage.session.stopper.check()
    sensors = stage.sensors(cell.key.devices)
    seconds, sensed = sensors.around(lambda: timed(cell.work, cell.steps, stage.clock))
    stage.record(
        Round(
            **stage.origin_of(cell.key),
            round=stage.known.other_rounds(cell.key) + number,
            block=stage.known.block,
            steps=cell.steps,
            seconds=max(seconds, 1e-9),
            lowering=cell.compiled.lowering,
            **sensed._asdict(),
        )
    )
    stage.book(0.5 / stage.rounds, seconds, f"round {number + 1} {cell.key}")


def examples_per_second(stage: Throughput, key: CellKey, lowering: str | None) -> float:
    """Measure the speed of a cell under a lowering, as the best of three short rounds; its program is kept.

    Raises:
        MemoryError: When the program may not fit, as running it could end this process.
    """
    built = _built(stage, key, lowering)
    work, compiled, _ = built
    needed = predicted_bytes(compiled)
    if stage.may_not_fit(needed):
        raise MemoryError(f"a program that needs {needed} bytes may not fit")
    steps = steps_to_fill(stage.session.experiment.throughput.round_seconds / 2, work, stage.clock)
    seconds = min(timed(work, steps, stage.clock) for _ in range(3))
    stage.tried[key, lowering] = built
    return key.batch_size * steps / seconds


def _raised(before: int | None, after: int | None) -> int | None:
    """Return the device's peak memory if this cell raised it, else None: the peak then belongs to an earlier cell."""
    return after if before is not None and after is not None and after > before else None


def _peak_bytes() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None
