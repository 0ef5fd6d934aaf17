"""The throughput stage of one experiment: which cells are timed, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec

from batchscale.config import plan
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.progress import (
    MAX_BATCH_SIZE_SECONDS,
    SECONDS_PER_LOWERING,
    timing_seconds,
)
from batchscale.measure.session import Session
from batchscale.measure.throughput import calibration, lowering_choice, max_batch_size, rounds
from batchscale.measure.throughput.timing import Timing, item_of
from batchscale.records.row_types import AnyRow, Compilation, Round, Stage


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
        return item_of(self.block)


class Throughput:
    """The throughput stage of a session: peak rates of the device, timed cells and the largest batch size.

    Args:
        session: The experiment, its data, and the folder for rows.
        write: Receives every row in place of the session's folder. A child process uses it.

    Attributes:
        session: The experiment, its data, and the folder for rows.
        timing: What is known of the cells, and what times one.
    """

    def __init__(self, session: Session, write: Callable[[AnyRow], None] | None = None) -> None:
        self.session, self.timing = session, Timing(session, write)

    @cached_property
    def missing(self) -> list[CellKey]:
        """The cells that lacked rounds of the first block when the stage was planned."""
        session = self.session
        asked, host = session.experiment, session.host
        devices = plan.device_counts(asked, host.machine.device_count, host.processes)
        cells = plan.cells(asked, session.batch_sizes, devices, session.train_examples, graphs=host.graphs)
        return [key for key in cells if self.timing.known.next(key, self.timing.rounds)]

    @cached_property
    def _lacks_limit(self) -> bool:
        """True if the largest batch size is still to be found; one that was not confirmed counts as failed."""
        if self.session.experiment.throughput.max_batch_size == "skip":
            return False
        limit = self.timing.known.limit
        return limit is None or (self.session.retries_failed and not limit.confirmed)

    @property
    def _has_work(self) -> bool:
        return bool(self.missing) or self._lacks_limit or not (self.timing.rows_file and self.timing.rows_file.finished)

    @property
    def _first(self) -> TimingJob:
        """The first block, with all that is measured once."""
        return TimingJob(block=0, cells=self.missing, calibrates=True, limit=self._lacks_limit)

    def _to_lower(self, job: TimingJob) -> list[CellKey]:
        """Return the cells of a job whose lowering is needed."""
        return [*job.cells, *([self._largest] if job.limit and self.timing.isolates else [])]

    @property
    def _largest(self) -> CellKey:
        """The cell with the largest batch size that the search for it may find."""
        session = self.session
        ends = session.experiment.throughput.max_batch_size == "training_set"
        size = session.train_examples if ends else max_batch_size.LARGEST
        return CellKey(size, "dispatch", precision=session.experiment.workload.precision)

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
            calibration.plan(self.timing, again=bool(self.missing))

    def _seconds_per_cell(self, count: int) -> float:
        session = self.session
        loops = 1 if self.timing.known.block else len(session.experiment.throughput.loops) + session.host.graphs
        rounds = timing_seconds(session.experiment, 1, session.host.policy.energy_seconds, loops)
        return rounds + session.compiling.of_a_cell(count)

    def run(self) -> None:
        """Measure all that is missing.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        if self.timing.rows_file is None:
            raise RuntimeError("a stage that writes elsewhere has no run")
        with self.timing.rows_file.open(lambda: {"compilations": self.timing.compilations}):
            if self._has_work:
                self._do(self._first)
                calibration.note(self.timing)

    def time_block(self, block: int, keys: Sequence[CellKey]) -> None:
        """Time cells in one more block of rounds, in which the machine may have another speed.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        if self.timing.rows_file is None:
            raise RuntimeError("a stage that writes elsewhere has no blocks")
        self.timing.known.block = block
        lacking = [key for key in keys if self.timing.known.next(key, self.timing.rounds)]
        if not lacking:
            return
        self.session.progress.plan(self.timing.item, len(lacking), 1 / self._seconds_per_cell(len(lacking)))
        with self.timing.rows_file.open(lambda: {"compilations": self.timing.compilations}):
            # Under a runner every job has a new process already.
            here = self.timing.isolates and self.session.runner is None
            apart = here and self.session.host.policy.process_per_block
            self._do(TimingJob(block=block, cells=lacking, apart=apart))

    def _do(self, job: TimingJob) -> None:
        if self.session.runner is None:
            return self.measure(job)
        self.session.runner.run(self, [iter([job])])
        return self.session.progress.close(self.timing.item)

    def measure(self, job: TimingJob) -> None:
        """Do a job in this process.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        self.timing.known.block = job.block
        if job.calibrates:
            calibration.measure(self.timing, again=bool(self.missing))
        self._prepare(self._to_lower(job))
        if job.apart:
            rounds.measure_apart(self.timing, job.cells)
        rounds.measure(self.timing, job.cells)
        self.session.progress.close(self.timing.item)
        if job.limit:
            max_batch_size.measure(self.timing, self._largest)

    def _prepare(self, keys: Sequence[CellKey]) -> None:
        """Find out how much memory there is, and choose the lowerings of cells."""
        asked, host = self.session.experiment.throughput.memory_limit_bytes, self.session.host
        self.timing.memory_bytes = asked or host.program_memory_bytes()
        self.timing.lowerings = lowering_choice.choose(self.timing, keys)

    def rows_for(self, _job: TimingJob) -> list[AnyRow]:
        """Return every row so far: a process that does a job goes on from them, as a run does from its folder."""
        return self.timing.known.seen

    def take(self, _job: TimingJob, row: AnyRow, seconds: float) -> None:
        """Take in a row of a job that another process does.

        Raises:
            InputError: When the disk reports an error.
            DeviceError: At the third failure in a row.
        """
        if isinstance(row, Stage):
            self.timing.compilations += row.compilations
        elif isinstance(row, Compilation | Round):
            self.timing.record(row)
            share = 0.5 if isinstance(row, Compilation) else 0.5 / self.timing.rounds
            self.timing.book(share, seconds, str(CellKey.of(row)))
        else:
            self.timing.append(row)

    def lose(self, job: TimingJob, failure: Failure) -> None:
        """Write the cells of a job that lack rounds as failed.

        Raises:
            DeviceError: At the third failure in a row.
        """
        for key in job.cells:
            if form := self.timing.known.next(key, self.timing.rounds):
                self.timing.record_failure(form, None, failure)
