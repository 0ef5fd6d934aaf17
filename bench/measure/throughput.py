"""How many examples per second the training step reaches at each true batch size, one run at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Array, Float, Int32

from bench.experiment import Experiment
from bench.measure import stream
from bench.measure.clock import WALL, Clock, Work, calibrate, timed
from bench.measure.lanes import Examples, predicted_bytes
from bench.measure.learner import Learner, TrainState
from bench.measure.progress import Progress
from bench.rows import AnyRow, Compilation, Loop, Origin, Precision, Round

LEARNING_RATE = 1e-3
"""Small, so that timed training stays finite; speed does not depend on it."""
BATCHES_AT_HAND = 64


class CellKey(msgspec.Struct, frozen=True, order=True):
    """What tells one timed cell from another."""

    batch_size: int
    loop: Loop
    input: str = "device"
    precision: Precision = "float32"


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
    compilations: int = 0

    def book(self, cells: float, seconds: float, doing: str) -> None:
        """Report progress: half of a cell is compiling it, half its rounds."""
        self.progress.advance("timing", cells, seconds, doing)

    def origin_of(self, key: CellKey) -> dict[str, Any]:
        """The fields that every row of a cell shares."""
        return {**msgspec.structs.asdict(self.origin()), **msgspec.structs.asdict(key)}


def cell_keys(experiment: Experiment, batch_sizes: Sequence[int]) -> list[CellKey]:
    """Every cell the experiment asks for."""
    table = experiment.throughput
    precisions = table.precisions or [experiment.workload.precision]
    return [
        CellKey(size, loop, source, precision)
        for precision in precisions
        for source in table.inputs
        for size in batch_sizes
        for loop in table.loops
        if source == "device" or loop == "dispatch"
    ]


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
        steps = calibrate(work, laboratory.experiment.throughput.round_seconds, laboratory.clock)
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
        )
    )
    laboratory.book(0.5, time.perf_counter() - start, f"compile B={key.batch_size} {key.loop}")
    return TimedCell(key, work, steps, lowering)


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
    seconds = timed(cell.work, cell.steps, laboratory.clock)
    shared = laboratory.origin_of(cell.key)
    row = Round(**shared, round=number, steps=cell.steps, seconds=max(seconds, 1e-9), lowering=cell.lowering)
    laboratory.append(row)
    share = 0.5 / laboratory.experiment.throughput.rounds
    laboratory.book(share, seconds, f"round {number + 1} B={cell.key.batch_size} {cell.key.loop}")


def build(learner: Learner, split: Examples, key: CellKey) -> tuple[Work, jax.stages.Compiled, float]:
    """The work of a cell, its compiled program and the seconds that compiling took."""
    state = learner.first_state(jax.device_put(learner.params(0)), LEARNING_RATE)
    make = _fed if key.input == "host" else _scan if key.loop == "scan" else _dispatch
    return make(learner, split, state, key.batch_size)


def _dispatch(
    learner: Learner, split: Examples, state: TrainState, batch_size: int
) -> tuple[Work, jax.stages.Compiled, float]:
    """One jitted step per call, as a plain Python loop would."""
    batches = [jnp.asarray(chosen) for chosen in _batches(batch_size, len(split.labels))]
    rate = jnp.float32(LEARNING_RATE)
    compiled, seconds = _compile(partial(_step, learner), state, split, batches[0], rate)

    def work(steps: int) -> None:
        nonlocal state
        for i in range(steps):
            state, _ = compiled(state, split, batches[i % len(batches)], rate)
        jax.block_until_ready(state)

    return work, compiled, seconds


def _fed(
    learner: Learner, split: Examples, state: TrainState, batch_size: int
) -> tuple[Work, jax.stages.Compiled, float]:
    """One jitted step per call on batches from host memory, the next one prefetched by a thread as a loader would."""
    inputs, labels = np.asarray(split.inputs), np.asarray(split.labels)
    batches = _batches(batch_size, len(labels))
    rate = jnp.float32(LEARNING_RATE)

    def fetch(i: int) -> Examples:
        chosen = batches[i % len(batches)]
        return Examples(jax.device_put(inputs[chosen]), jax.device_put(labels[chosen]))

    def step(state: TrainState, batch: Examples, rate: Array) -> tuple[TrainState, Float[Array, ""]]:
        return learner.train_step(state, batch.inputs, batch.labels, rate)

    compiled, seconds = _compile(step, state, fetch(0), rate)

    def work(steps: int) -> None:
        nonlocal state
        with ThreadPoolExecutor(1) as loader:
            coming = loader.submit(fetch, 0)
            for i in range(steps):
                batch, coming = coming.result(), loader.submit(fetch, i + 1)
                state, _ = compiled(state, batch, rate)
            jax.block_until_ready(state)

    return work, compiled, seconds


def _scan(
    learner: Learner, split: Examples, state: TrainState, batch_size: int
) -> tuple[Work, jax.stages.Compiled, float]:
    """Many steps per call, the loop inside the program."""
    examples = len(split.labels)
    order = jnp.asarray(stream.order(0, 0, examples))
    rate = jnp.float32(LEARNING_RATE)

    def steps_of(
        state: TrainState, split: Examples, order: Int32[Array, " example"], steps: Int32[Array, ""], rate: Array
    ) -> tuple[TrainState, Float[Array, ""]]:
        def step(i: Int32[Array, ""], carried: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            start = (i * batch_size) % (examples - batch_size + 1)
            return _step(learner, carried[0], split, jax.lax.dynamic_slice(order, (start,), (batch_size,)), rate)

        return jax.lax.fori_loop(0, steps, step, (state, jnp.float32(0)))

    compiled, seconds = _compile(steps_of, state, split, order, np.int32(1), rate)

    def work(steps: int) -> None:
        nonlocal state
        state, _ = compiled(state, split, order, np.int32(steps), rate)
        jax.block_until_ready(state)

    return work, compiled, seconds


def _step(
    learner: Learner, state: TrainState, split: Examples, chosen: Int32[Array, " batch"], rate: Array
) -> tuple[TrainState, Float[Array, ""]]:
    return learner.train_step(state, split.inputs[chosen], split.labels[chosen], rate)


def _compile(function: Callable, *arguments: object) -> tuple[jax.stages.Compiled, float]:
    lowered = jax.jit(function, donate_argnums=0).lower(*arguments)
    start = time.perf_counter()
    compiled = lowered.compile()
    return compiled, time.perf_counter() - start


def _batches(batch_size: int, examples: int) -> list[Int32[np.ndarray, " batch"]]:
    """Distinct batches to cycle through; a single one where a batch is the whole set."""
    count = max(1, min(BATCHES_AT_HAND, examples // batch_size))
    return [stream.indices(0, i * batch_size, batch_size, examples) for i in range(count)]


def _peak_bytes() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None
