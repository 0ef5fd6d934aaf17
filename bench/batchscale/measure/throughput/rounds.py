"""How many examples per second the training step reaches at each true batch size, one run at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import FAILURES, Failure, failure_of
from batchscale.measure.device.timing import Work, steps_to_fill, timed
from batchscale.measure.device.xla_options import predicted_bytes
from batchscale.measure.throughput.child_process import ChildError
from batchscale.measure.throughput.context import Laboratory, Open
from batchscale.measure.throughput.timed_loops import Built, build
from batchscale.measure.training import flop_count
from batchscale.records.row_types import Compilation, Round


@dataclass(frozen=True)
class TimedCell:
    """A compiled cell ready for rounds."""

    key: CellKey
    work: Work
    steps: int
    compiled: Compilation


def measure(laboratory: Laboratory, keys: Sequence[CellKey], lowering_of: Callable[[CellKey], str | None]) -> None:
    """Compile what still lacks rounds, then time rounds interleaved over cells in shuffled order.

    Cells that fail become rows and are left out; one that is out of memory goes on in microbatches.

    Raises:
        DeviceError: at the third failure in a row.
    """
    while cells := [cell for key in keys if (cell := _ready(laboratory, key, lowering_of)) is not None]:
        time_rounds(laboratory, cells)


def _ready(laboratory: Laboratory, key: CellKey, lowering_of: Callable[[CellKey], str | None]) -> TimedCell | None:
    """A cell in the first form that fits; None where nothing is left to time here."""
    while (form := laboratory.attempts.next(key, laboratory.rounds)) is not None:
        if (cell := prepare(laboratory, form, lowering_of(form))) is not None:
            return cell
    return None


def prepare(laboratory: Laboratory, key: CellKey, lowering: str | None) -> TimedCell | None:
    """Compile a cell ahead of time and find its steps per round.

    None where it failed, or may not fit and was timed in a process of its own; its rows tell which.
    """
    laboratory.check()
    if child := laboratory.isolation(key):
        return _time_isolated(laboratory, child, key, lowering)
    start, peak_before = time.perf_counter(), _peak_bytes()
    try:
        work, row = _compile(laboratory, key, lowering)
    except FAILURES as error:
        return laboratory.record_failure(key, lowering, failure_of(error))
    if row.status != "ok":
        return laboratory.record(row)
    if child := laboratory.isolation(key, row.predicted_bytes):
        del work
        return _time_isolated(laboratory, child, key, lowering)
    try:
        laboratory.confine()
        steps = steps_to_fill(laboratory.round_seconds(key), work, laboratory.clock)
    except FAILURES as error:
        return laboratory.record(msgspec.structs.replace(row, **failure_of(error)._asdict()))
    row = msgspec.structs.replace(row, peak_bytes=_raised(peak_before, _peak_bytes()))
    laboratory.record(row)
    laboratory.book(0.5, time.perf_counter() - start, f"compile {key}")
    return TimedCell(key, work, steps, row)


def _compile(laboratory: Laboratory, key: CellKey, lowering: str | None) -> tuple[Work, Compilation]:
    """The work of a cell and the row of its compilation, which is not ok where it cannot fit."""
    work, compiled, seconds = laboratory.tried.pop((key, lowering), None) or _built(laboratory, key, lowering)
    needed = predicted_bytes(compiled)
    refused = laboratory.refusal(needed)
    return work, Compilation(
        **laboratory.origin_of(key),
        status=refused.status if refused else "ok",
        message=refused.message if refused else None,
        lowering=lowering,
        compile_seconds=seconds,
        predicted_bytes=needed,
        **_arithmetic(laboratory, key, compiled),
    )


def _built(laboratory: Laboratory, key: CellKey, lowering: str | None) -> Built:
    built = build(laboratory.learner(key.precision, lowering), laboratory.split, key)
    laboratory.compilations += 1
    return built


def _arithmetic(laboratory: Laboratory, key: CellKey, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What an example costs: as the model asks, whatever its lowering adds, and as the compiler counts its program."""
    inputs = laboratory.split.inputs
    example = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    return {
        "flops_per_example": flop_count.flops_per_example(
            laboratory.learner(key.precision, None), key.batch_size, example
        ),
        "compiler_flops_per_example": flop_count.compiler_count(compiled, "flops", key.examples_at_once),
        "compiler_bytes_per_example": flop_count.compiler_count(compiled, "bytes accessed", key.examples_at_once),
    }


def _time_isolated(laboratory: Laboratory, child: Open, key: CellKey, lowering: str | None) -> None:
    """Compile and time a cell in a process of its own, whose rows are written as they come."""
    start = time.perf_counter()
    try:
        with child(key, lowering, laboratory.attempts.rounds[key]) as opened:
            for row in opened.rows():
                if not isinstance(row, Compilation | Round) or CellKey.of(row) != key:
                    raise ChildError(Failure("failed", "its process gave rows of something else"))
                laboratory.record(msgspec.structs.replace(row, isolated=True) if isinstance(row, Compilation) else row)
                laboratory.check()
        if laboratory.attempts.rounds[key] < laboratory.rounds:
            raise ChildError(Failure("failed", "its process ended before its rounds did"))
    except ChildError as error:
        if key not in laboratory.attempts.failures:
            laboratory.record_failure(key, lowering, error.failure)
    laboratory.book(1.0, time.perf_counter() - start, f"in a process of its own {key}")


def time_rounds(laboratory: Laboratory, cells: Sequence[TimedCell]) -> None:
    """Time the rounds that cells lack; one that fails has no more.

    Raises:
        DeviceError: at the third failure in a row.
    """
    shuffle = random.Random(0)  # noqa: S311 - an order of rounds is no secret
    had = {cell.key: laboratory.attempts.rounds[cell.key] for cell in cells}
    for number in range(laboratory.rounds):
        order = [cell for cell in cells if had[cell.key] <= number and cell.key not in laboratory.attempts.failures]
        shuffle.shuffle(order)
        for cell in order:
            try:
                _time_round(laboratory, cell, number)
            except FAILURES as error:
                laboratory.record(msgspec.structs.replace(cell.compiled, **failure_of(error)._asdict()))


def _time_round(laboratory: Laboratory, cell: TimedCell, number: int) -> None:
    laboratory.check()
    sensors = laboratory.sensors(cell.key.devices)
    seconds, sensed = sensors.around(lambda: timed(cell.work, cell.steps, laboratory.clock))
    laboratory.record(
        Round(
            **laboratory.origin_of(cell.key),
            round=number,
            steps=cell.steps,
            seconds=max(seconds, 1e-9),
            lowering=cell.compiled.lowering,
            **sensed._asdict(),
        )
    )
    laboratory.book(0.5 / laboratory.rounds, seconds, f"round {number + 1} {cell.key}")


def examples_per_second(laboratory: Laboratory, key: CellKey, lowering: str | None) -> float:
    """A quick trial of one lowering in one cell, which is kept for its rounds; the best of three short ones.

    Raises:
        MemoryError: when it may not fit, since nothing is tried here that could end this process.
    """
    built = _built(laboratory, key, lowering)
    work, compiled, _ = built
    needed = predicted_bytes(compiled)
    if laboratory.may_not_fit(needed):
        raise MemoryError(f"a program that needs {needed} bytes may not fit")
    steps = steps_to_fill(laboratory.experiment.throughput.round_seconds / 2, work, laboratory.clock)
    seconds = min(timed(work, steps, laboratory.clock) for _ in range(3))
    laboratory.tried[key, lowering] = built
    return key.batch_size * steps / seconds


def _raised(before: int | None, after: int | None) -> int | None:
    """A device's high-water mark where this cell moved it; one that an earlier cell left says nothing of this one."""
    return after if before is not None and after is not None and after > before else None


def _peak_bytes() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None
