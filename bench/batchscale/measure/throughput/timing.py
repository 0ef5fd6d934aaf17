"""What timing cells takes: what is known of each cell, what runs its programs, and where its rows go."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any, Literal

import msgspec

from batchscale.config import plan
from batchscale.config.vocabulary import CellKey, Precision
from batchscale.measure.control.failures import HANGS, Failure, Streak
from batchscale.measure.control.progress import LOWERINGS_APART
from batchscale.measure.device import sensors
from batchscale.measure.device.compiled_programs import WALL, Clock, Work
from batchscale.measure.device.sensors import Sensors
from batchscale.measure.session import Session, StageRows
from batchscale.measure.throughput.cell_process import CellJob, Child, Job
from batchscale.measure.throughput.timed_loops import Built
from batchscale.records.row_types import AnyRow, Calibration, Compilation, Limit, MeasurementStatus, Round

Tried = tuple[int, Precision]
"""A batch size at which lowerings are tried, and the precision."""
Wanted = tuple[CellKey, str | None]
"""A cell and the lowering of its program."""
SAFE_SHARE_OF_MEMORY = 0.5
"""A program predicted to need a larger share of the memory may not fit."""


@dataclass
class Known:
    """What the rows of the stage show so far.

    Attributes:
        block: The block of rounds that is timed now.
        processes: The highest number of a process that timed rounds.
        timed: Every round, in order.
        failures: Cells whose last attempt failed, and how.
        hanging: Cells whose last attempt hung.
        retried: Cells that failed in an earlier run and are tried again in this one.
        peak_rates: The best of each peak rate that was measured, by quantity, precision and environment hash.
        limit: The last row about the largest batch size.
        seen: Every row, in order.
    """

    block: int = 0
    processes: int = 0
    timed: list[Round] = field(default_factory=list)
    failures: dict[CellKey, MeasurementStatus] = field(default_factory=dict)
    hanging: set[CellKey] = field(default_factory=set)
    retried: frozenset[CellKey] = frozenset()
    peak_rates: dict[tuple[str, Precision | None, str], float] = field(default_factory=dict)
    limit: Limit | None = None
    seen: list[AnyRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counts: defaultdict[int, Counter[CellKey]] = defaultdict(Counter)

    @property
    def rounds(self) -> Counter[CellKey]:
        """How many rounds each cell has in the block that is timed now."""
        return self._counts[self.block]

    def other_rounds(self, key: CellKey) -> int:
        """Return how many rounds a cell has in all other blocks."""
        return sum(counts[key] for block, counts in self._counts.items() if block != self.block)

    def has_rounds(self, key: CellKey, block: int, count: int) -> None:
        """Let a cell have rounds that another process timed."""
        self._counts[block][key] = count

    def see(self, row: AnyRow) -> None:
        """Take in a row, old or new."""
        self.seen.append(row)
        if isinstance(row, Round):
            self.processes = max(self.processes, row.process)
            self._counts[row.block][CellKey.of(row)] += 1
            self.timed.append(row)
        elif isinstance(row, Compilation):
            self._see_compilation(row, CellKey.of(row))
        elif isinstance(row, Calibration):
            key = (row.quantity, row.precision, row.environment)
            self.peak_rates[key] = max(row.value, self.peak_rates.get(key, 0.0))
        elif isinstance(row, Limit):
            self.limit = row

    def _see_compilation(self, row: Compilation, key: CellKey) -> None:
        self.failures.pop(key, None)
        self.hanging.discard(key)
        if row.status != "ok":
            self.failures[key] = row.status
        if row.status != "ok" and (row.message or "").startswith(HANGS):
            self.hanging.add(key)

    @property
    def hanging_graph(self) -> CellKey | None:
        """A cell whose CUDA graph hung, if there is one."""
        return next((key for key in sorted(self.hanging) if key.loop == "graph"), None)

    def retry_failures(self) -> None:
        """Let the cells that failed be tried again."""
        self.retried, self.failures, self.hanging = frozenset(self.failures), {}, set()

    def next(self, key: CellKey, rounds: int) -> CellKey | None:
        """Return the form of a cell to time next: whole or, where that is out of memory, in microbatches.

        None once the form has its rounds, and after any failure other than out of memory.
        """
        form: CellKey | None = key
        while form is not None and self.failures.get(form) == "out_of_memory":
            form = form.narrower()
        return None if form is None or form in self.failures or self.rounds[form] >= rounds else form


class Timing:
    """The cells of a session, as everything that times one of them sees them.

    Args:
        session: The experiment, its data, and the folder for rows.
        write: Receives every row in place of the session's folder. A child process uses it.

    Attributes:
        session: The experiment, its data, and the folder for rows.
        rows_file: The rows file of the folder; None if rows are written elsewhere.
        known: What the rows of the folder and of this run show.
        clock: Measures rounds.
        shared: Makes work that several hosts begin together of the work of one; the clock may be theirs.
        sensors: Returns the sensors of a number of devices.
        memory_bytes: Memory that a program may use; None where a program has to be run to find out.
        isolates: True if cells that may not fit are timed in a child process.
        confine: Called between compiling a cell and running it: a child process then limits its memory.
        compilations: Programs compiled so far.
        lowerings: The lowering of each batch size and precision that was tried.
        programs: Programs that were compiled, or tried, before their cells are prepared.
    """

    def __init__(self, session: Session, write: Callable[[AnyRow], None] | None = None) -> None:
        self.session, self.known, self._write = session, Known(), write
        self.rows_file = None if write else StageRows(session, "throughput", self.known.see)
        if session.retries_failed:
            self.known.retry_failures()
        self.clock: Clock = WALL
        self.shared: Callable[[Work], Work] = lambda work: work
        find = partial(sensors.find, session.host.machine.platform, own_processes=1 if write is None else 2)
        self.sensors: Callable[[int], Sensors] = cache(find)
        self.memory_bytes: int | None = None
        self.isolates = write is None and not session.host.policy.single_process
        self.confine: Callable[[], None] = lambda: None
        self.compilations = 0
        self.lowerings: dict[Tried, str | None] = {}
        self.programs: dict[Wanted, Future[Built]] = {}
        self._streak = Streak()

    @property
    def item(self) -> str:
        """The name of the block in the progress line."""
        return item_of(self.known.block)

    @property
    def rounds(self) -> int:
        """Rounds that every cell is to have in a block."""
        return self.session.experiment.throughput.rounds

    def lowering(self, key: CellKey) -> str | None:
        """Return the lowering that a cell is timed under.

        It is the one chosen at the largest trial batch size that does not exceed the examples which the cell computes
        at once. If no trial was made there, use the choice at the nearest batch size in the same precision. If that
        precision has no choice, use the first lowering.
        """
        size, precision = tried_at(self.session, key)
        sizes = [tried for tried, computed_in in self.lowerings if computed_in == precision]
        if not sizes:
            return self.session.lowerings[0]
        return self.lowerings[min(sizes, key=lambda tried: abs(tried - size)), precision]

    def watch(self, doing: str) -> None:
        """Show what is done while nothing is counted, and stop where that was asked for.

        Raises:
            Stopped: When a signal asked to stop.
        """
        self.session.stopper.check()
        self.session.progress.show(doing)

    def book(self, cells: float, seconds: float, doing: str) -> None:
        """Report progress: half of a cell is compiling it, half its rounds."""
        self.session.progress.advance(self.item, cells, seconds, doing)

    def append(self, row: AnyRow) -> None:
        """Write a row.

        Raises:
            InputError: When the disk reports an error.
        """
        if self.rows_file is not None:
            self.rows_file.append(row)
        elif self._write is not None:
            self._write(row)
            self.known.see(row)

    def origin_of(self, key: CellKey) -> dict[str, Any]:
        """Return the fields that every row of a cell shares."""
        return {**msgspec.structs.asdict(self.session.origin()), **msgspec.structs.asdict(key)}

    def record(self, row: Compilation | Round) -> None:
        """Write a row of a cell.

        Raises:
            DeviceError: At the third failure in a row.
        """
        self.append(row)
        if isinstance(row, Round) or row.status == "ok":
            self._streak.broken()
        else:
            self._streak.grown(str(CellKey.of(row)), Failure(row.status, row.message or ""))

    def record_failure(self, key: CellKey, lowering: str | None, failure: Failure) -> None:
        """Write the row of a cell that failed.

        Raises:
            DeviceError: At the third failure in a row.
        """
        shared = self.origin_of(key)
        self.record(Compilation(**shared, status=failure.status, message=failure.message, lowering=lowering))

    def child(self, task: Literal["time", "max_batch_size"], cells: Sequence[Wanted]) -> Child:
        """Return a child process that times cells, or searches for the largest batch size up to that of the one cell.

        It goes on from the rounds that the cells have.
        """
        known = self.known
        return Child(
            Job.of(
                self.session,
                task=task,
                cells=[
                    CellJob(
                        key=key, lowering=lowering, first_round=known.rounds[key], other_rounds=known.other_rounds(key)
                    )
                    for key, lowering in cells
                ],
                block=known.block,
                process=self.next_process(),
                memory_bytes=self.memory_bytes or 0,
            )
        )

    def next_process(self) -> int:
        """Return the number of one more process that times rounds; 0 where all processes are alike."""
        if not self.session.host.policy.process_per_block:
            return 0
        self.known.processes += 1
        return self.known.processes

    @cached_property
    def process(self) -> int:
        """The number of this process, as rounds name it."""
        return self.next_process()

    def is_isolated(self, key: CellKey, predicted_bytes: int | None = None) -> bool:
        """Return True if a cell is timed in a child process, as it may not fit or failed in an earlier run."""
        asked = self.session.experiment.throughput.isolate
        doubtful = key in self.known.retried or self.may_not_fit(predicted_bytes)
        return self.isolates and (asked == "always" or (asked == "auto" and doubtful))

    def may_not_fit(self, predicted_bytes: int | None) -> bool:
        """Return True if a program that needs `predicted_bytes` could end the process that runs it."""
        return (predicted_bytes or 0) > SAFE_SHARE_OF_MEMORY * (self.memory_bytes or math.inf)

    def refusal(self, predicted_bytes: int | None) -> Failure | None:
        """Return why a program is not run. It needs at least as much memory as the compiler predicts."""
        if self.memory_bytes is None or (predicted_bytes or 0) <= self.memory_bytes:
            return None
        words = f"the program needs {predicted_bytes} bytes, expected at most the {self.memory_bytes} available"
        return Failure("out_of_memory", f"out of memory before it was run: {words}")


def item_of(block: int) -> str:
    """Return the name of a block of rounds in the progress line."""
    return f"timing, block {block}" if block else "timing"


def tried_at(session: Session, key: CellKey) -> Tried:
    """Return at which batch size and precision lowerings are tried for a cell."""
    sizes = plan.spaced(session.batch_sizes, LOWERINGS_APART)
    reached = [size for size in sizes if size <= key.examples_at_once]
    return max(reached, default=sizes[0]), key.precision
