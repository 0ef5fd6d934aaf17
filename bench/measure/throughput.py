"""How many examples per second the training step reaches at each true batch size, one run at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import msgspec

from bench.experiment import Experiment
from bench.measure import flops
from bench.measure.clock import WALL, Clock, Work, calibrate, timed
from bench.measure.lanes import Examples, predicted_bytes
from bench.measure.learner import Learner
from bench.measure.loops import CellKey, build
from bench.measure.progress import Progress
from bench.measure.sensors import NONE, Sensors
from bench.rows import AnyRow, Compilation, Loop, Origin, Precision, Round


@dataclass(frozen=True)
class TimedCell:
    """A compiled cell ready for rounds."""

    key: CellKey
    work: Work
    steps: int
    lowering: str | None


@dataclass
class Laboratory:
    """What the throughput stage measures with."""

    experiment: Experiment
    learner: Callable[[Precision, str | None], Learner]
    split: Examples
    origin: Callable[[], Origin]
    append: Callable[[AnyRow], None]
    progress: Progress
    check: Callable[[], None]
    clock: Clock = WALL
    sensors: Callable[[int], Sensors] = lambda devices: NONE
    compilations: int = 0

    def round_seconds(self, key: CellKey) -> float:
        """As long as the experiment asks for, or as the energy counter of the cell's devices needs."""
        return max(self.experiment.throughput.round_seconds, self.sensors(key.devices).round_seconds)

    def book(self, cells: float, seconds: float, doing: str) -> None:
        """Report progress: half of a cell is compiling it, half its rounds."""
        self.progress.advance("timing", cells, seconds, doing)

    def origin_of(self, key: CellKey) -> dict[str, Any]:
        """The fields that every row of a cell shares."""
        return {**msgspec.structs.asdict(self.origin()), **msgspec.structs.asdict(key)}


def measure(
    laboratory: Laboratory, keys: Sequence[CellKey], done: dict[CellKey, int], lowerings: Mapping[Loop, str | None]
) -> None:
    """Compile what still lacks rounds, then time rounds interleaved over cells in shuffled order.

    `done` counts the rounds that exist already; cells that fail, then or now, become rows and are left out.
    """
    rounds = laboratory.experiment.throughput.rounds
    wanted = [key for key in keys if done.get(key, 0) < rounds]
    cells = [cell for key in wanted if (cell := prepare(laboratory, key, lowerings[key.loop])) is not None]
    shuffle = random.Random(0)  # noqa: S311 - an order of rounds is no secret
    failed: set[CellKey] = set()
    for number in range(rounds):
        order = [cell for cell in cells if done.get(cell.key, 0) <= number and cell.key not in failed]
        shuffle.shuffle(order)
        for cell in order:
            try:
                _time_round(laboratory, cell, number)
            except jax.errors.JaxRuntimeError as error:
                _record_failure(laboratory, cell.key, cell.lowering, error)
                failed.add(cell.key)


def prepare(laboratory: Laboratory, key: CellKey, lowering: str | None) -> TimedCell | None:
    """Compile a cell ahead of time and find its steps per round; a failure becomes a row and None."""
    laboratory.check()
    start = time.perf_counter()
    try:
        learner = laboratory.learner(key.precision, lowering)
        work, compiled, seconds = build(learner, laboratory.split, key)
        laboratory.compilations += 1
        steps = calibrate(work, laboratory.round_seconds(key), laboratory.clock)
    except jax.errors.JaxRuntimeError as error:
        _record_failure(laboratory, key, lowering, error)
        return None
    laboratory.append(
        Compilation(
            **laboratory.origin_of(key),
            status="ok",
            lowering=lowering,
            compile_seconds=seconds,
            predicted_bytes=predicted_bytes(compiled),
            peak_bytes=_peak_bytes(),
            **_arithmetic(laboratory, key, compiled),
        )
    )
    laboratory.book(0.5, time.perf_counter() - start, f"compile B={key.batch_size} {key.loop}")
    return TimedCell(key, work, steps, lowering)


def _arithmetic(laboratory: Laboratory, key: CellKey, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What an example costs: as the model asks, whatever its lowering adds, and as the compiler counts its program."""
    inputs = laboratory.split.inputs
    example = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    return {
        "flops_per_example": flops.flops_per_example(laboratory.learner(key.precision, None), key.batch_size, example),
        "compiler_flops_per_example": flops.compiler_count(compiled, "flops", key.batch_size),
        "compiler_bytes_per_example": flops.compiler_count(compiled, "bytes accessed", key.batch_size),
    }


def _record_failure(laboratory: Laboratory, key: CellKey, lowering: str | None, error: Exception) -> None:
    status = "out_of_memory" if "RESOURCE_EXHAUSTED" in str(error) else "failed"
    shared = laboratory.origin_of(key)
    laboratory.append(Compilation(**shared, status=status, message=str(error)[:1000], lowering=lowering))


def examples_per_second(laboratory: Laboratory, key: CellKey, lowering: str | None) -> float:
    """A quick trial of one lowering in one cell; the best of three short rounds."""
    work, _, _ = build(laboratory.learner(key.precision, lowering), laboratory.split, key)
    laboratory.compilations += 1
    steps = calibrate(work, laboratory.experiment.throughput.round_seconds / 2, laboratory.clock)
    return key.batch_size * steps / min(timed(work, steps, laboratory.clock) for _ in range(3))


def _time_round(laboratory: Laboratory, cell: TimedCell, number: int) -> None:
    laboratory.check()
    sensors = laboratory.sensors(cell.key.devices)
    seconds, sensed = sensors.around(lambda: timed(cell.work, cell.steps, laboratory.clock))
    laboratory.append(
        Round(
            **laboratory.origin_of(cell.key),
            round=number,
            steps=cell.steps,
            seconds=max(seconds, 1e-9),
            lowering=cell.lowering,
            **sensed._asdict(),
        )
    )
    share = 0.5 / laboratory.experiment.throughput.rounds
    laboratory.book(share, seconds, f"round {number + 1} B={cell.key.batch_size} {cell.key.loop}")


def _peak_bytes() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None
