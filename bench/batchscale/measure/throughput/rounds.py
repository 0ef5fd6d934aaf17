"""Rounds: repeated timings of a training step at its true batch size, one cell at a time, interleaved over cells."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.decisions.looks import ABOUT_AS_FAST
from batchscale.measure.control.deadline import ends_within
from batchscale.measure.control.failures import FAILURES, HANGS, NOT_TRIED, Failure, failure_of
from batchscale.measure.control.progress import ENERGY_ROUNDS
from batchscale.measure.device.compile_ahead import left_behind
from batchscale.measure.device.compiled_programs import Work, predicted_bytes, steps_to_fill, timed
from batchscale.measure.device.kernels import moved_bytes
from batchscale.measure.throughput.cell_process import ChildError
from batchscale.measure.throughput.cells_ahead import built, compile_cells, keep
from batchscale.measure.throughput.timing import Timing, Wanted
from batchscale.measure.training import flop_count
from batchscale.printable import LONGEST_REASON, bare
from batchscale.records.row_types import Compilation, Round

BEFORE_ENERGY = 2
"""Short rounds that show which loop of a batch size is fast."""
ROUNDS_FOR_ENERGY = range(BEFORE_ENERGY, BEFORE_ENERGY + 2 * ENERGY_ROUNDS, 2)
"""Numbers of the rounds that may be long."""


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


def measure(timing: Timing, keys: Sequence[CellKey]) -> None:
    """Compile what still lacks rounds, then time rounds interleaved over cells in shuffled order.

    A cell that fails becomes a row and is left out; a cell that is out of memory is timed in microbatches instead.

    Raises:
        DeviceError: At the third failure in a row.
    """
    while cells := _compiled(timing, keys):
        time_rounds(timing, cells)


def _compiled(timing: Timing, keys: Sequence[CellKey]) -> list[TimedCell]:
    """Return the cells that lack rounds and are timed in this process, once all of them are compiled."""
    hangs = timing.known.hanging_graph is not None
    forms = [form for key in keys if (form := timing.known.next(key, timing.rounds)) is not None]
    here = [form for form in forms if not (timing.is_isolated(form) or (hangs and form.loop == "graph"))]
    compile_cells(timing, [(form, timing.lowering(form)) for form in here])
    return [cell for key in keys if (cell := _ready(timing, key)) is not None]


def _ready(timing: Timing, key: CellKey) -> TimedCell | None:
    """Compile a cell in the first form that fits; None if nothing is left to time in this process."""
    while (form := timing.known.next(key, timing.rounds)) is not None:
        if form.loop == "graph" and (other := timing.known.hanging_graph) is not None:
            failure = Failure("failed", f"{NOT_TRIED}: the CUDA graph of {other} hangs")
            timing.record_failure(form, timing.lowering(form), failure)
        elif (cell := prepare(timing, form, timing.lowering(form))) is not None:
            return cell
    return None


def prepare(timing: Timing, key: CellKey, lowering: str | None) -> TimedCell | None:
    """Compile a cell ahead of time and find the number of steps that fills a round.

    Returns:
        None if the cell failed or was timed in a child process; the rows show which.
    """
    timing.session.stopper.check()
    if timing.is_isolated(key):
        return _time_isolated(timing, key, lowering)
    start, peak_before = time.perf_counter(), _peak_bytes()
    try:
        work, row = _compile(timing, key, lowering)
    except FAILURES as error:
        return timing.record_failure(key, lowering, failure_of(error))
    if row.status != "ok":
        return timing.record(row)
    if timing.is_isolated(key, row.predicted_bytes):
        del work
        return _time_isolated(timing, key, lowering)
    try:
        timing.confine()
        with _bounded(timing, row):
            steps = steps_to_fill(timing.session.experiment.throughput.round_seconds, work, timing.clock)
    except FAILURES as error:
        return timing.record(msgspec.structs.replace(row, **failure_of(error)._asdict()))
    row = msgspec.structs.replace(row, peak_bytes=_raised(peak_before, _peak_bytes()))
    timing.record(row)
    timing.book(0.5, time.perf_counter() - start, f"compile {key}")
    return TimedCell(key, work, steps, row)


@contextmanager
def _bounded(timing: Timing, row: Compilation) -> Iterator[None]:
    """Write a cell as failed whose CUDA graph hangs, and end the process."""
    seconds = timing.session.host.policy.graph_seconds
    if row.loop != "graph" or seconds is None:
        yield
        return
    failure = Failure("failed", f"{HANGS} {seconds:g} s")._asdict()
    with ends_within(seconds, lambda: timing.record(msgspec.structs.replace(row, **failure))):
        yield


def _compile(timing: Timing, key: CellKey, lowering: str | None) -> tuple[Work, Compilation]:
    """Compile a cell; the status of the row is not ok if the program cannot fit into memory."""
    work, compiled, seconds = built(timing, key, lowering)
    needed = predicted_bytes(compiled)
    refused = timing.refusal(needed)
    return work, Compilation(
        **timing.origin_of(key),
        status=refused.status if refused else "ok",
        message=refused.message if refused else None,
        lowering=lowering,
        compile_seconds=seconds,
        predicted_bytes=needed,
        **_arithmetic(timing, key, compiled),
    )


def _arithmetic(timing: Timing, key: CellKey, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Return FLOPs per example, counted from the model and reported by the compiler, and bytes per example.

    Bytes are not known of a step in microbatches, whose loop is a part of it.
    """
    split = timing.session.splits[0]
    gathered = {math.prod(split.inputs.shape), math.prod(split.labels.shape)}
    moved = moved_bytes(compiled, gathered, looped=key.loop != "dispatch") if key.accumulation == 1 else None
    return {
        "flops_per_example": flop_count.flops_per_example(
            timing.session.learner(key.precision, None), key.batch_size, split
        ),
        "compiler_flops_per_example": flop_count.compiler_count(compiled, key.examples_at_once),
        "moved_bytes_per_example": moved / key.examples_at_once if moved else None,
    }


def _time_isolated(timing: Timing, key: CellKey, lowering: str | None) -> None:
    """Compile and time a cell in a child process, whose rows are written as they arrive."""
    start = time.perf_counter()
    try:
        for row in _rows_of_child(timing, [(key, lowering)]):
            timing.record(msgspec.structs.replace(row, isolated=True) if isinstance(row, Compilation) else row)
            timing.session.stopper.check()
        if timing.known.rounds[key] < timing.rounds:
            raise ChildError(Failure("failed", "its process ended before all rounds were timed"))
    except ChildError as error:
        if key not in timing.known.failures:
            timing.record_failure(key, lowering, error.failure)
    timing.book(1.0, time.perf_counter() - start, f"in a child process {key}")


def measure_apart(timing: Timing, keys: Sequence[CellKey]) -> None:
    """Time what lacks rounds in a new process, which chooses its kernels anew; what fails there lacks rounds after it.

    Raises:
        Stopped: When a signal asked to stop.
    """
    forms = [form for key in keys if (form := timing.known.next(key, timing.rounds)) is not None]
    if not forms:
        return
    before = time.perf_counter()
    try:
        for row in _rows_of_child(timing, [(form, timing.lowering(form)) for form in forms]):
            if isinstance(row, Round) or row.status == "ok":
                timing.record(row)
            now = time.perf_counter()
            share = 0.5 if isinstance(row, Compilation) else 0.5 / timing.rounds
            timing.book(share, now - before, f"in a new process {CellKey.of(row)}")
            before = now
            timing.session.stopper.check()
    except ChildError as error:
        reason = bare(error.failure.message, LONGEST_REASON)
        timing.session.progress.say(f"{timing.item}: a new process failed ({reason}), so this one goes on")


def _rows_of_child(timing: Timing, cells: Sequence[Wanted]) -> Iterator[Compilation | Round]:
    """Yield the rows of a child process that times cells.

    Raises:
        ChildError: When it fails, or writes something else.
    """
    keys = {key for key, _ in cells}
    with timing.child("time", cells) as opened:
        for row in opened.rows():
            if not isinstance(row, Compilation | Round) or CellKey.of(row) not in keys:
                raise ChildError(Failure("failed", "its process wrote a row of another cell"))
            yield row


def time_rounds(timing: Timing, cells: Sequence[TimedCell]) -> None:
    """Time the rounds that cells lack, on a warm device; a cell that fails is not timed again.

    `ENERGY_ROUNDS` rounds are long where a longer round is needed to know its energy. They alternate with short ones,
    since a long round is a little faster, which would look like a drift of the device.

    Raises:
        DeviceError: At the third failure in a row.
    """
    _warm_up(timing, cells)
    shuffle = random.Random(0)  # noqa: S311 - an order of rounds is no secret
    had = {cell.key: timing.known.rounds[cell.key] for cell in cells}
    longer: dict[CellKey, int] = {}
    for number in range(timing.rounds):
        if number == BEFORE_ENERGY:
            longer = _steps_for_energy(timing, cells)
        order = [cell for cell in cells if had[cell.key] <= number and cell.key not in timing.known.failures]
        shuffle.shuffle(order)
        for cell in order:
            try:
                steps = longer.get(cell.key, cell.steps) if number in ROUNDS_FOR_ENERGY else cell.steps
                _time_round(timing, cell, number, steps)
            except FAILURES as error:
                timing.record(msgspec.structs.replace(cell.compiled, **failure_of(error)._asdict()))


def _warm_up(timing: Timing, cells: Sequence[TimedCell]) -> None:
    """Run the cells in turn for as long as the platform needs to reach the clock that training runs at."""
    seconds, start, working = timing.session.host.policy.warm_up_seconds, timing.clock(), list(cells)
    while working and timing.clock() - start < seconds:
        timing.session.stopper.check()
        cell = working.pop(0)
        timing.session.progress.show("warming up")
        # A cell that fails is left to its rounds, where the failure becomes a row.
        with suppress(*FAILURES):
            with _bounded(timing, cell.compiled):
                cell.work(cell.steps)
            working.append(cell)


def _steps_for_energy(timing: Timing, cells: Sequence[TimedCell]) -> dict[CellKey, int]:
    """Return the steps of a round that is long enough to know its energy, for the fast loops of each batch size.

    The energy counters of many GPUs advance ten times a second, so that such a round takes a second. A loop that is
    about as fast as the fastest may turn out to be faster, so it has long rounds too.
    """
    asked, seconds = timing.session.experiment.throughput.round_seconds, {}
    loops: defaultdict[CellKey, list[TimedCell]] = defaultdict(list)
    for cell in (cell for cell in cells if cell.key not in timing.known.failures):
        timed = [row.seconds / row.steps for row in timing.known.timed if CellKey.of(row) == cell.key]
        seconds[cell.key] = median(timed) if timed else asked / cell.steps
        loops[msgspec.structs.replace(cell.key, loop="dispatch")].append(cell)
    found = {}
    for alike in loops.values():
        most = ABOUT_AS_FAST * min(seconds[cell.key] for cell in alike)
        for cell in (cell for cell in alike if seconds[cell.key] <= most):
            needed = timing.sensors(cell.key.devices).round_seconds
            found[cell.key] = max(cell.steps, math.ceil(needed / seconds[cell.key]))
    return found


def _time_round(timing: Timing, cell: TimedCell, number: int, steps: int) -> None:
    timing.session.stopper.check()
    sensors = timing.sensors(cell.key.devices)
    with _bounded(timing, cell.compiled):
        seconds, sensed = sensors.around(lambda: timed(cell.work, steps, timing.clock))
    timing.record(
        Round(
            **timing.origin_of(cell.key),
            round=timing.known.other_rounds(cell.key) + number,
            block=timing.known.block,
            process=timing.process,
            steps=steps,
            seconds=max(seconds, 1e-9),
            lowering=cell.compiled.lowering,
            compiling=len(left_behind()) if timing.session.host.policy.compiles_together else 0,
            **sensed._asdict(),
        )
    )
    timing.book(0.5 / timing.rounds, seconds, f"round {number + 1} {cell.key}")


def examples_per_second(timing: Timing, key: CellKey, lowering: str | None) -> float:
    """Measure the speed of a cell under a lowering, as the best of three short rounds; its program is kept.

    Raises:
        MemoryError: When the program may not fit, as running it could end this process.
    """
    program = built(timing, key, lowering)
    work, compiled, _ = program
    needed = predicted_bytes(compiled)
    if timing.may_not_fit(needed):
        raise MemoryError(f"a program that needs {needed} bytes may not fit")
    steps = steps_to_fill(timing.session.experiment.throughput.round_seconds / 2, work, timing.clock)
    seconds = min(timed(work, steps, timing.clock) for _ in range(3))
    keep(timing, (key, lowering), program)
    return key.batch_size * steps / seconds


def _raised(before: int | None, after: int | None) -> int | None:
    """Return the device's peak memory if this cell raised it, else None: the peak then belongs to an earlier cell."""
    return after if before is not None and after is not None and after > before else None


def _peak_bytes() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    return int(stats["peak_bytes_in_use"]) if stats and "peak_bytes_in_use" in stats else None
