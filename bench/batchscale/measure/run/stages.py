"""The stages of an experiment in order: only what is missing is measured, and all of it becomes rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

from batchscale.config import plan
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.progress import SECONDS_PER_CALIBRATION, timing_seconds
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.device import sensors
from batchscale.measure.run import jobs, lowerings
from batchscale.measure.session import Session, StageRows
from batchscale.measure.throughput import peak_rates
from batchscale.measure.throughput import rounds as throughput
from batchscale.measure.throughput.context import Laboratory
from batchscale.measure.throughput.history import Attempts
from batchscale.measure.throughput.peak_rates import Part
from batchscale.records import results_folder
from batchscale.records.row_types import AnyRow, Calibration


def planned(session: Session, stages: Sequence[str]) -> list[Throughput | Convergence]:
    """Return the named stages in order, with the progress line planned for what is missing of each.

    Lowerings of tiers are chosen here, where that is still to do.

    Raises:
        InputError: When rows in the folder are not valid, or not this experiment's.
        Stopped: When a signal asked to stop.
    """
    session.progress.begin(session.experiment.name)
    made = [kind(session) for name, kind in STAGES.items() if name in stages]
    for one in made:
        one.plan()
    return made


class Throughput:
    """The throughput stage of a session: the cells that lack rounds, and the largest batch size."""

    def __init__(self, session: Session) -> None:
        self.session, self.rows = session, StageRows(session, "throughput", lambda _: None)
        self._compilations = 0

    def plan(self) -> None:
        """Plan the progress line for all that is missing."""
        session, missing = self.session, _missing(self.session)
        lowerings.announce_of_cells(session, missing)
        session.progress.plan("timing", len(missing), 1 / timing_seconds(session.experiment, 1))
        jobs.announce_max_batch_size(session)
        calibrating = len(_uncalibrated(session)) * SECONDS_PER_CALIBRATION
        session.progress.plan("calibration", calibrating if missing else 0, 1.0)

    def run(self) -> None:
        """Time every cell that lacks rounds, and find the largest batch size.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: At the third failure in a row.
        """
        session = self.session
        with self.rows.open(lambda: {"compilations": self._compilations}):
            missing = _missing(session)
            if not missing and not jobs.lacks_max_batch_size(session) and self.rows.finished:
                return
            laboratory = _laboratory(session, self.rows.append)
            try:
                peak_rates.measure(laboratory, _uncalibrated(session), session.host.free_memory_bytes())
                lowering_of = lowerings.of_cells(session, laboratory, missing)
                throughput.measure(laboratory, missing, lowering_of)
                session.progress.close("timing")
                if jobs.lacks_max_batch_size(session):
                    jobs.find_max_batch_size(session, laboratory, lowering_of)
            finally:
                self._compilations = laboratory.compilations


def _laboratory(session: Session, append: Callable[[AnyRow], None]) -> Laboratory:
    memory_bytes = session.experiment.throughput.memory_limit_bytes or session.host.program_memory_bytes()
    return Laboratory(
        experiment=session.experiment,
        learner=session.learner,
        split=session.splits[0],
        origin=session.origin,
        append=append,
        progress=session.progress,
        check=session.stopper.check,
        sensors=cache(partial(sensors.find, session.host.machine.platform)),
        memory_bytes=memory_bytes,
        isolated=jobs.isolated(session, memory_bytes),
        attempts=_attempts(session),
    )


def _keys(session: Session) -> list[CellKey]:
    experiment, sizes = session.experiment, session.batch_sizes
    devices = plan.device_counts(experiment, session.host.machine.device_count)
    return plan.cells(experiment, sizes, devices, session.train_examples)


def _attempts(session: Session) -> Attempts:
    """What was tried of each cell."""
    return Attempts.of(session.rows(results_folder.THROUGHPUT), retries_failed=session.retries_failed)


def _missing(session: Session) -> list[CellKey]:
    """The cells that are still to be timed, in whichever form."""
    attempts, rounds = _attempts(session), session.experiment.throughput.rounds
    return [key for key in _keys(session) if attempts.next(key, rounds)]


def _uncalibrated(session: Session) -> list[Part]:
    """What was not calibrated in this environment yet."""
    rows = [row for row in session.rows(results_folder.THROUGHPUT) if isinstance(row, Calibration)]
    here = session.host.environment_hash
    return peak_rates.missing({(row.quantity, row.precision) for row in rows if row.environment == here})


STAGES = {"throughput": Throughput, "convergence": Convergence}
