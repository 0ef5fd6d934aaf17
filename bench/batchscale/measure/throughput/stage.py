"""The throughput stage of one experiment: which cells are timed, what is known of each, and where rows go."""

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
from batchscale.measure.control.progress import (
    MAX_BATCH_SIZE_SECONDS,
    SECONDS_PER_LOWERING,
    timing_seconds,
)
from batchscale.measure.device import sensors
from batchscale.measure.device.compiled_programs import WALL, Clock, Work
from batchscale.measure.device.sensors import Sensors
from batchscale.measure.session import Session, StageRows
from batchscale.measure.throughput import calibration, lowering_choice, max_batch_size, rounds
from batchscale.measure.throughput.cell_process import CellJob, Child, Job
from batchscale.measure.throughput.cells_ahead import Wanted
from batchscale.measure.throughput.timed_loops import Built
from batchscale.records.row_types import AnyRow, Calibration, Compilation, Limit, MeasurementStatus, Round, Stage

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


class TimingJob(msgspec.Struct, frozen=True, kw_only=True, tag="timing", forbid_unknown_fields=True):
    """Cells to time in one go, on a device that nothing else uses.

    Attributes:
        block: The block of their rounds.
        cells: The cells; those that have their rounds are not timed.
        apart: True if they are timed in a new process.
        calibrates: True if peak rates that were not measured in this environment come first.
        limit: True if the search for the largest batch size comes last.
    """

    block: int
    cells: list[CellKey]
    apart: bool = False
    calibrates: bool = False
    limit: bool = False

    @property
    def item(self) -> str:
        """The name of the block in the progress line."""
        return f"timing, block {self.block}" if self.block else "timing"


class Throughput:
    """The throughput stage of a session: peak rates of the device, timed cells and the largest batch size.

    Args:
        session: The experiment, its data, and the folder for rows.
        write: Receives every row in place of the session's folder. A child process uses it.

    Attributes:
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
        self._rows = None if write else StageRows(session, "throughput", self.known.see)
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
        self.lowerings: dict[lowering_choice.Tried, str | None] = {}
        self.programs: dict[Wanted, Future[Built]] = {}
        self._streak = Streak()

    @cached_property
    def missing(self) -> list[CellKey]:
        """The cells that lacked rounds of the first block when the stage was planned."""
        session = self.session
        asked, host = session.experiment, session.host
        devices = plan.device_counts(asked, host.machine.device_count, host.processes)
        cells = plan.cells(asked, session.batch_sizes, devices, session.train_examples, graphs=host.graphs)
        return [key for key in cells if self.known.next(key, self.rounds)]

    @cached_property
    def _lacks_limit(self) -> bool:
        """True if the largest batch size is still to be found; one that was not confirmed counts as failed."""
        if self.session.experiment.throughput.max_batch_size == "skip":
            return False
        limit = self.known.limit
        return limit is None or (self.session.retries_failed and not limit.confirmed)

    @property
    def _has_work(self) -> bool:
        return bool(self.missing) or self._lacks_limit or not (self._rows and self._rows.finished)

    @property
    def _first(self) -> TimingJob:
        """The first block, with all that is measured once."""
        return TimingJob(block=0, cells=self.missing, calibrates=True, limit=self._lacks_limit)

    def _to_lower(self, job: TimingJob) -> list[CellKey]:
        """Return the cells of a job whose lowering is needed."""
        return [*job.cells, *([self.largest] if job.limit and self.isolates else [])]

    def plan(self) -> None:
        """Plan the progress line for all that is missing."""
        progress = self.session.progress
        trials = lowering_choice.count_trials(self.session, self._to_lower(self._first))
        compiling = self.session.compiling
        progress.plan(lowering_choice.TRIALS, trials, 1 / (SECONDS_PER_LOWERING + compiling.of_a_cell(trials)))
        progress.plan("timing", len(self.missing), 1 / self._seconds_per_cell(len(self.missing)))
        if self._lacks_limit:
            progress.plan(max_batch_size.ITEM, 1, 1 / MAX_BATCH_SIZE_SECONDS)
        if self._has_work:
            calibration.plan(self)

    def _seconds_per_cell(self, count: int) -> float:
        session = self.session
        loops = 1 if self.known.block else len(session.experiment.throughput.loops) + session.host.graphs
        rounds = timing_seconds(session.experiment, 1, session.host.policy.energy_seconds, loops)
        return rounds + session.compiling.of_a_cell(count)

    def run(self) -> None:
        """Measure all that is missing.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        if self._rows is None:
            raise RuntimeError("a stage that writes elsewhere has no run")
        with self._rows.open(lambda: {"compilations": self.compilations}):
            if self._has_work:
                self._do(self._first)
                calibration.note(self)

    def time_block(self, block: int, keys: Sequence[CellKey]) -> None:
        """Time cells in one more block of rounds, in which the machine may have another speed.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        if self._rows is None:
            raise RuntimeError("a stage that writes elsewhere has no blocks")
        self.known.block = block
        lacking = [key for key in keys if self.known.next(key, self.rounds)]
        if not lacking:
            return
        self.session.progress.plan(self.item, len(lacking), 1 / self._seconds_per_cell(len(lacking)))
        with self._rows.open(lambda: {"compilations": self.compilations}):
            # Under a runner every job has a new process already.
            here = self.isolates and self.session.runner is None
            apart = here and self.session.host.policy.process_per_block
            self._do(TimingJob(block=block, cells=lacking, apart=apart))

    def _do(self, job: TimingJob) -> None:
        if self.session.runner is None:
            return self.measure(job)
        self.session.runner.run(self, [iter([job])])
        return self.session.progress.close(self.item)

    def measure(self, job: TimingJob) -> None:
        """Do a job in this process.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        self.known.block = job.block
        if job.calibrates:
            calibration.measure(self)
        self._prepare(self._to_lower(job))
        if job.apart:
            rounds.measure_apart(self, job.cells)
        rounds.measure(self, job.cells)
        self.session.progress.close(self.item)
        if job.limit:
            max_batch_size.measure(self)

    def _prepare(self, keys: Sequence[CellKey]) -> None:
        """Find out how much memory there is, and choose the lowerings of cells."""
        asked, host = self.session.experiment.throughput.memory_limit_bytes, self.session.host
        self.memory_bytes = asked or host.program_memory_bytes()
        self.lowerings = lowering_choice.choose(self, keys)

    def rows_for(self, _job: TimingJob) -> list[AnyRow]:
        """Return every row so far: a process that does a job goes on from them, as a run does from its folder."""
        return self.known.seen

    def take(self, _job: TimingJob, row: AnyRow, seconds: float) -> None:
        """Take in a row of a job that another process does.

        Raises:
            InputError: When the disk reports an error.
            DeviceError: At the third failure in a row.
        """
        if isinstance(row, Stage):
            self.compilations += row.compilations
        elif isinstance(row, Compilation | Round):
            self.record(row)
            share = 0.5 if isinstance(row, Compilation) else 0.5 / self.rounds
            self.book(share, seconds, str(CellKey.of(row)))
        else:
            self.append(row)

    def lose(self, job: TimingJob, failure: Failure) -> None:
        """Write the cells of a job that lack rounds as failed.

        Raises:
            DeviceError: At the third failure in a row.
        """
        for key in job.cells:
            if form := self.known.next(key, self.rounds):
                self.record_failure(form, None, failure)

    @property
    def item(self) -> str:
        """The name of the block in the progress line."""
        return TimingJob(block=self.known.block, cells=[]).item

    @property
    def largest(self) -> CellKey:
        """The cell with the largest batch size that a search for it may find."""
        session = self.session
        ends = session.experiment.throughput.max_batch_size == "training_set"
        size = session.train_examples if ends else max_batch_size.LARGEST
        return CellKey(size, "dispatch", precision=session.experiment.workload.precision)

    @property
    def rounds(self) -> int:
        """Rounds that every cell is to have in a block."""
        return self.session.experiment.throughput.rounds

    def lowering(self, key: CellKey) -> str | None:
        """Return the lowering that a cell is timed under."""
        return lowering_choice.chosen(self.session, self.lowerings, key)

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
        if self._rows is not None:
            self._rows.append(row)
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
