"""The stages of an experiment in order: only what is missing is measured, and all of it becomes rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

from batchscale.config import plan
from batchscale.config.vocabulary import StageName
from batchscale.measure.control import costs
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.known_trials import Study
from batchscale.measure.convergence.tier_search import TierStudy
from batchscale.measure.device import sensors
from batchscale.measure.run import jobs, lowerings
from batchscale.measure.run.session import Session
from batchscale.measure.throughput import peak_rates
from batchscale.measure.throughput import rounds as throughput
from batchscale.measure.throughput.context import Laboratory
from batchscale.measure.throughput.history import Attempts
from batchscale.measure.throughput.peak_rates import Part
from batchscale.measure.throughput.timed_loops import CellKey, cell_keys, parallel_keys
from batchscale.records import results_folder
from batchscale.records.row_files import Writer
from batchscale.records.row_types import AnyRow, Calibration, Stage, Trial


def run(session: Session, stages: Sequence[str]) -> None:
    """Measure what is missing of each stage.

    Raises:
        InputError: when the folder is not this experiment's, or cannot be written.
        Stopped: when a signal asked to stop.
        DeviceError: when the device keeps failing.
    """
    session.prepare_folder()
    for stage, measure in (("throughput", measure_throughput), ("convergence", measure_convergence)):
        if stage in stages:
            measure(session)


def measure_throughput(session: Session) -> None:
    """Time every cell that lacks rounds, and find the largest batch size.

    Raises:
        DeviceError: at the third failure in a row.
    """
    with Writer(session.folder / results_folder.THROUGHPUT) as writer:
        _tell_of_torn_line(session, writer)
        missing = _missing(session)
        if not missing and not jobs.lacks_max_batch_size(session) and _has_finished(session, "throughput"):
            return
        laboratory = _laboratory(session, writer.append)
        with _accounted(session, writer, "throughput", lambda: {"compilations": laboratory.compilations}):
            peak_rates.measure(laboratory, _uncalibrated(session), session.host.free_memory_bytes())
            lowering_of = lowerings.of_cells(session, laboratory, missing)
            throughput.measure(laboratory, missing, lowering_of)
            session.progress.close("timing")
            if jobs.lacks_max_batch_size(session):
                jobs.find_max_batch_size(session, laboratory, lowering_of)


@contextmanager
def _accounted(
    session: Session, writer: Writer, stage: StageName, work: Callable[[], dict[str, int]]
) -> Iterator[None]:
    """Write what a stage cost, however it ends; one with nothing left to measure has no further row."""
    start, finished = time.monotonic(), False
    try:
        yield
        finished = True
    finally:
        if writer.appended or not (finished and _has_finished(session, stage)):
            writer.append(session.stage_row(start, stage=stage, finished=finished, **work()))


def _has_finished(session: Session, stage: StageName) -> bool:
    """Whether the last run of a stage ended by itself."""
    rows = [row for row in session.rows(results_folder.ROWS_OF[stage]) if isinstance(row, Stage) and row.stage == stage]
    return bool(rows) and rows[-1].finished


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


def _tell_of_torn_line(session: Session, writer: Writer) -> None:
    if writer.torn_bytes:
        aside = writer.path.with_suffix(".torn").name
        session.progress.say(f"{writer.path}: its last line was torn and is now in {aside}; that row is measured again")


def _keys(session: Session) -> list[CellKey]:
    experiment, sizes = session.experiment, session.batch_sizes
    devices = plan.device_counts(experiment, session.host.machine.device_count)
    return cell_keys(experiment, sizes) + parallel_keys(experiment, sizes, devices, session.train_examples)


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


def announce(session: Session, stages: Sequence[str]) -> None:
    """Choose lowerings where that is still to do, and plan the progress line for all that is missing."""
    session.progress.begin(session.experiment.name)
    if "throughput" in stages:
        missing = _missing(session)
        lowerings.announce_of_cells(session, missing)
        session.progress.plan("timing", len(missing), 1 / costs.timing_seconds(session.experiment, 1))
        jobs.announce_max_batch_size(session)
        calibrating = len(_uncalibrated(session)) * costs.SECONDS_PER_CALIBRATION
        session.progress.plan("calibration", calibrating if missing else 0, 1.0)
    if "convergence" in stages:
        for tier_study in tier_studies(session, make_study(session, _refuse)):
            tier_study.announce()


def _refuse(_: Trial) -> None:
    raise RuntimeError("a study that is only announced writes no rows")


def measure_convergence(session: Session) -> None:
    """Train every trial that is missing."""
    with Writer(session.folder / results_folder.CONVERGENCE) as writer:
        _tell_of_torn_line(session, writer)
        study = make_study(session, writer.append)
        tiers = tier_studies(session, study)

        def work() -> dict[str, int]:
            compilations = sum(one.compilations for one in session.programs.values())
            return {"compilations": compilations, "trained_examples": study.trained_examples}

        with _accounted(session, writer, "convergence", work):
            for tier_study in tiers:
                tier_study.run()


def tier_studies(session: Session, study: Study) -> list[TierStudy]:
    """Every tier with its programs under the lowering that is fastest for it."""
    return [_tier_study(session, study, tier) for tier in session.tiers]


def _tier_study(session: Session, study: Study, tier: plan.Tier) -> TierStudy:
    tuned = lowerings.of_tier(session, tier)
    return TierStudy(study, tier, session.tier_programs(tier, tuned.lowering), tuned, session.shard_width(tier))


def make_study(session: Session, append: Callable[[Trial], None]) -> Study:
    """The convergence stage with the trials that exist, less those that failed where they are to be tried again."""
    known = session.trials()
    if session.retries_failed:
        known = {key: trial for key, trial in known.items() if trial.status != "failed"}
    return Study(
        experiment=session.experiment,
        folder=session.folder,
        origin=session.origin,
        append=append,
        progress=session.progress,
        check=session.stopper.check,
        duration=session.duration,
        race=Race(
            goal=session.experiment.goal,
            budget_examples=session.duration.budget_examples,
            validation_examples=len(session.dataset.validation_labels),
        ),
        memory_bytes=session.lanes_memory_bytes,
        workers=session.host.workers,
        trials=known,
    )
